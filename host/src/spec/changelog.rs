//! Results are a changelog: who may read one, and how.
//!
//! ```text
//!   aggregation with corrections ─▶ filter, set, select ─▶ upsert, or append with `revision = true`
//!                                └▶ aggregation: each group once, when its window has expired
//! ```
//!
//! Works on the nodes that could be read; a sink behind a node that could not is not judged.

use super::columns::{WINDOW_START, is_side_stream};
use super::diagnostic::Diagnostic;
use super::document::Document;
use super::model::{AggregationSpec, EmitSpec, IcebergSinkSpec, SinkKind, SinkMode, TransformSpec, WindowSpec};
use super::parse::Draft;

pub fn check(doc: &Document<'_>, draft: &Draft) {
    for (name, sink) in &draft.sinks {
        let mut above = Above::default();
        for input in &sink.inputs {
            above.climb(draft, input);
        }
        match &sink.kind {
            SinkKind::Iceberg(spec) => match &spec.mode {
                SinkMode::Upsert { key } => upsert(doc, name, key, &above),
                SinkMode::Append { revision } => append(doc, name, *revision, &above),
            },
            SinkKind::Kafka(spec) => append(doc, name, spec.revision, &above),
            SinkKind::File(spec) => append(doc, name, spec.revision, &above),
            SinkKind::Console => {}
        }
        through_plugins(doc, &above);
    }
    for (name, spec) in &draft.aggregations {
        below_global(doc, draft, "aggregations", name, &spec.inputs);
    }
    for (name, spec) in draft.transforms.iter().filter(|(_, spec)| spec.deduplicate.is_some()) {
        below_global(doc, draft, "transforms", name, &spec.inputs);
    }
}

/// What feeds a sink: aggregations, the row-wise steps between, and whether there is anything else.
#[derive(Default)]
struct Above<'a> {
    aggregations: Vec<(&'a str, &'a AggregationSpec)>,
    transforms: Vec<(&'a str, &'a TransformSpec)>,
    /// an input that is no result
    other: Option<&'a str>,
    /// a node that could not be read
    unknown: bool,
}

impl<'a> Above<'a> {
    fn climb(&mut self, draft: &'a Draft, input: &'a str) {
        if is_side_stream(input) || draft.sources.iter().any(|(name, _)| name == input) {
            self.other.get_or_insert(input);
            return;
        }
        if let Some((name, spec)) = draft.aggregations.iter().find(|(name, _)| name == input) {
            self.aggregations.push((name, spec));
            return;
        }
        let Some((name, spec)) = draft.transforms.iter().find(|(name, _)| name == input) else {
            self.unknown = true;
            return;
        };
        // a cycle has been reported
        if self.transforms.iter().any(|(known, _)| known == name) {
            return;
        }
        self.transforms.push((name, spec));
        for input in &spec.inputs {
            self.climb(draft, input);
        }
    }

    fn correcting(&self) -> Option<(&'a str, &'a AggregationSpec)> {
        self.aggregations.iter().copied().find(|(_, spec)| spec.corrects())
    }
}

fn append(doc: &Document<'_>, sink: &str, revision: bool, above: &Above<'_>) {
    let at = |key: &str| {
        let path = ["sinks", sink, key];
        if doc.spans.has(&path) { doc.spans.key(&path) } else { doc.spans.key(&["sinks", sink]) }
    };
    if let (Some((name, spec)), false) = (above.correcting(), revision) {
        let (key, why) = match spec.emit {
            EmitSpec::Every { .. } => ("emit", "gives early results, which are replaced later"),
            EmitSpec::OnClose => ("allowed_lateness", "corrects its results when events are late"),
        };
        doc.report(
            Diagnostic::error(at("mode"), format!("sink `{sink}` appends, but `{name}` {why}"))
                .context(doc.spans.key(&["aggregations", name, key]), "here")
                .hint(
                    "an Iceberg sink can replace rows: `mode = \"upsert\"` and `key = […]`; or keep every version: `revision = \
                     true` adds the columns `revision` and `change`",
                ),
        );
    }
    if revision && !above.unknown && (above.aggregations.is_empty() || above.other.is_some()) {
        let what = above.other.unwrap_or(sink);
        doc.report(
            Diagnostic::error(at("revision"), "only results of aggregations have a revision")
                .hint(format!("take `revision` out, or give `{what}` a sink of its own")),
        );
    }
}

fn upsert(doc: &Document<'_>, sink: &str, key: &[String], above: &Above<'_>) {
    if let Some(other) = above.other {
        doc.report(
            Diagnostic::error(doc.spans.value(&["sinks", sink, "mode"]), format!("`{other}` cannot be upserted")).hint(
                "an upsert sink is fed by aggregations, with row-wise steps between at the most: append the others",
            ),
        );
        return;
    }
    for (name, spec) in &above.aggregations {
        let window = (spec.window != WindowSpec::Global).then_some(WINDOW_START);
        let lacks: Vec<String> = spec
            .key
            .iter()
            .map(String::as_str)
            .chain(window)
            .filter(|column| !key.iter().any(|k| k == column))
            .map(|column| format!("`{column}`"))
            .collect();
        if !lacks.is_empty() {
            doc.report(
                Diagnostic::error(
                    doc.spans.value(&["sinks", sink, "key"]),
                    format!("the key lacks {}, by which `{name}` tells its rows apart", lacks.join(" and ")),
                )
                .context(doc.spans.key(&["aggregations", name, "key"]), "its key; its window counts, too")
                .hint("rows of two groups would replace each other: name all key columns, and `window_start`"),
            );
        }
        if spec.window == WindowSpec::Global && key.iter().any(|k| k == WINDOW_START) {
            doc.report(
                Diagnostic::error(
                    doc.spans.value(&["sinks", sink, "key"]),
                    format!("`{name}` has a global window: its `window_start` is null and tells nothing apart"),
                )
                .hint("take `window_start` out of the key"),
            );
        }
    }
}

/// A plugin makes new rows of each version of a row: which of the former ones they replace, nobody knows.
fn through_plugins(doc: &Document<'_>, above: &Above<'_>) {
    let Some((name, _)) = above.correcting() else { return };
    for (transform, _) in above.transforms.iter().filter(|(_, spec)| spec.plugin.is_some()) {
        doc.report(
            Diagnostic::error(
                doc.spans.key(&["transforms", transform, "plugin"]),
                format!("the plugin of `{transform}` would see every version of a row of `{name}`"),
            )
            .hint(format!(
                "between an aggregation that corrects its results and a sink there may be `filter`, `set` and `select`; \
                 put the plugin before `{name}`, or take `allowed_lateness` and `emit` out"
            )),
        );
    }
}

/// A global window never expires: who groups its rows would wait for ever.
fn below_global(doc: &Document<'_>, draft: &Draft, section: &str, node: &str, inputs: &[String]) {
    for (index, input) in inputs.iter().enumerate() {
        let mut above = Above::default();
        above.climb(draft, input);
        if let Some((name, _)) = above.aggregations.iter().find(|(_, spec)| spec.window == WindowSpec::Global) {
            doc.report(
                Diagnostic::error(
                    doc.spans.value(&[section, node, "inputs", &index.to_string()]),
                    format!("`{node}` would wait for ever: it takes each group when its window has expired, and `{name}` is global"),
                )
                .hint("give it a window that ends, or write its rows to a sink"),
            );
        }
    }
}

/// What stands in the table of an append sink that keeps every version, besides the rows.
pub const REVISION: &str = "revision";
pub const CHANGE: &str = "change";

impl IcebergSinkSpec {
    pub fn is_upsert(&self) -> bool {
        matches!(self.mode, SinkMode::Upsert { .. })
    }
}
