//! What the parts of a checkpoint come to: files of several tasks or tries, spans of windows, positions that a commit covers.

use std::collections::BTreeMap;

use millrace_core::checkpoint::{PositionRange, SourceState};

use crate::sink::Prepared;

pub fn merge_prepared(into: &mut Prepared, part: Prepared) {
    into.files.extend(part.files);
    into.rows += part.rows;
    into.windows_ms = span(into.windows_ms, part.windows_ms);
    // who has one has one task
    into.writer = into.writer.take().or(part.writer);
}

/// The same task's part of the next try: what its writer knows is in the last one.
pub fn merge_later(into: &mut Prepared, part: Prepared) {
    let writer = part.writer.clone().or_else(|| into.writer.take());
    merge_prepared(into, part);
    into.writer = writer;
}

pub fn span(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (a, b) {
        (Some((s, e)), Some((t, f))) => Some((s.min(t), e.max(f))),
        (a, b) => a.or(b),
    }
}

/// Extends the ranges to the new positions. A partition not seen before starts where its first checkpoint found it.
pub fn cover(
    ranges: &mut Vec<PositionRange>,
    before: &BTreeMap<String, SourceState>,
    after: &BTreeMap<String, SourceState>,
) {
    for (source, state) in after {
        for p in &state.partitions {
            let known =
                ranges.iter_mut().find(|r| r.source == *source && r.topic == p.topic && r.partition == p.partition);
            match known {
                Some(range) => range.to = p.position,
                None => {
                    let from = before
                        .get(source)
                        .and_then(|s| s.partitions.iter().find(|b| b.topic == p.topic && b.partition == p.partition))
                        .map_or(0, |b| b.position);
                    ranges.push(PositionRange {
                        source: source.clone(),
                        topic: p.topic.clone(),
                        partition: p.partition,
                        from,
                        to: p.position,
                    });
                }
            }
        }
    }
}
