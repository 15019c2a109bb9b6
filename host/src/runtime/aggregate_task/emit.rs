//! Groups that are due become rows: put together from their panes, evaluated, labelled with what they do to the table.
//!
//! ```text
//!   Due ─▶ deletions of windows that are no more ─┐
//!      └─▶ groups ─▶ combine, evaluate ─┬─ rows ──┼─▶ one batch: deletions first
//!                                       └─ none, where there was a row: a deletion
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, new_null_array};
use millrace_core::batch::{Audience, Batch, Change, Changes};
use millrace_core::due::{Assembly, Due, DueGroup, When};
use millrace_core::key;
use millrace_core::limits::PLUGIN_GROUPS_PER_CALL_MAX;
use millrace_core::schema::DataType;
use millrace_core::sessions::FOREVER;
use millrace_core::window::Window;

use super::{AggregateTask, State, Step};
use crate::plugin::{OutputRows, WindowUs};
use crate::runtime::message::RunError;

/// One row of a batch of results.
struct Row<'a> {
    key: &'a [u8],
    window: Window,
    change: Change,
    revision: u32,
    /// in the plugin's output; none: a deletion
    of_plugin: Option<u32>,
}

impl AggregateTask {
    /// Sends all that is due.
    pub(super) fn give(&mut self, state: &mut State, when: When) -> Step {
        if let Err(hangup) = self.flush(state)? {
            return Ok(Err(hangup));
        }
        let watermark_ms = state.watermarks.current_ms();
        while let Some(due) = state.windower.due(when, watermark_ms) {
            if let Err(hangup) = self.give_one(state, &due)? {
                return Ok(Err(hangup));
            }
            self.report(state, false)?;
        }
        state.windower.next_round();
        Ok(Ok(()))
    }

    fn give_one(&mut self, state: &mut State, due: &Due) -> Step {
        let mut has_rows = Vec::with_capacity(due.groups.len());
        let mut chunks = due.groups.chunks(PLUGIN_GROUPS_PER_CALL_MAX);
        let mut first = true;
        loop {
            let chunk = chunks.next();
            if chunk.is_none() && !first {
                break;
            }
            let deletions = if first { due.deletions.as_slice() } else { &[] };
            first = false;
            let gone = deletions.iter().map(|deletion| Row {
                key: due.deleted_key(deletion),
                window: deletion.window,
                change: Change::Delete,
                revision: deletion.revision,
                of_plugin: None,
            });
            let chunk = chunk.unwrap_or_default();
            let (output, rows) = self.evaluate(state, due, chunk, gone.collect(), &mut has_rows)?;
            if let Err(hangup) = self.send(state, due, &rows, output)? {
                return Ok(Err(hangup));
            }
        }
        let emptied = state.windower.settle(due, &has_rows);
        for slots in emptied.chunks(PLUGIN_GROUPS_PER_CALL_MAX) {
            self.plugin.reset(slots)?;
        }
        state.windower.slots().release(emptied);
        Ok(Ok(()))
    }

    /// The rows of some groups, behind those of deletions; says of each group whether it has any.
    fn evaluate<'d>(
        &mut self,
        state: &mut State,
        due: &'d Due,
        groups: &'d [DueGroup],
        deletions: Vec<Row<'d>>,
        has_rows: &mut Vec<bool>,
    ) -> Result<(Vec<ArrayRef>, Vec<Row<'d>>), RunError> {
        let from = has_rows.len();
        has_rows.resize(from + groups.len(), false);
        let mut rows = deletions;
        // a group of nothing but refused rows has no result
        let live: Vec<DueGroup> = groups.iter().filter(|group| !due.parts(group).is_empty()).cloned().collect();
        let places: Vec<usize> =
            (from..).zip(groups).filter(|(_, g)| !due.parts(g).is_empty()).map(|(at, _)| at).collect();
        let mut columns = Vec::new();
        let mut picks: Vec<u32> = Vec::new();
        if !live.is_empty() {
            let slots = state.windower.slots();
            let assembly = Assembly::of(due, &live, slots).map_err(|e| RunError::External(e.to_string()))?;
            self.plugin.grow(slots.total());
            let windows: Vec<WindowUs> = live.iter().map(|group| micros(group.window)).collect();
            let output = self.plugin.evaluate_assembled(&assembly, &windows, due.is_final)?;
            picks = self.owners(&output, &assembly.slots)?;
            state.windower.slots().release(assembly.borrowed);
            columns = output.columns;
            for pick in &picks {
                if let Some(has) = places.get(*pick as usize).and_then(|place| has_rows.get_mut(*place)) {
                    *has = true;
                }
            }
        }
        let of_sinks = due.audience != Audience::Operators;
        let without = groups.iter().zip(has_rows.get(from..).unwrap_or_default()).filter(|(_, has)| of_sinks && !**has);
        for (group, _) in without {
            if let Some((change, revision)) = group.given.change(false) {
                rows.push(Row { key: due.key(group), window: group.window, change, revision, of_plugin: None });
            }
        }
        for (row, pick) in (0_u32..).zip(picks) {
            let Some(place) = places.get(pick as usize) else { continue };
            let Some(group) = groups.get(place - from) else { continue };
            let (change, revision) = match of_sinks {
                true => group.given.change(true).unwrap_or((Change::Insert, 1)),
                false => (Change::Insert, 1),
            };
            rows.push(Row { key: due.key(group), window: group.window, change, revision, of_plugin: Some(row) });
        }
        Ok((columns, rows))
    }

    /// By row of the plugin's output: which of the slots asked for it belongs to.
    fn owners(&self, output: &OutputRows, slots: &[u32]) -> Result<Vec<u32>, RunError> {
        let Some(of_rows) = &output.groups else {
            return Ok((0_u32..).take(slots.len()).collect());
        };
        // none, one or several rows a group: each names its slot
        let place: HashMap<u32, u32> = slots.iter().copied().zip(0_u32..).collect();
        let picks: Vec<u32> = of_rows.iter().filter_map(|slot| place.get(slot).copied()).collect();
        if picks.len() != of_rows.len() {
            return Err(RunError::Plugin(format!(
                "plugin of `{}` returned a row for a group that was not asked for",
                self.id.node
            )));
        }
        Ok(picks)
    }

    fn send(&mut self, state: &State, due: &Due, rows: &[Row<'_>], of_plugin: Vec<ArrayRef>) -> Step {
        if rows.is_empty() {
            return Ok(Ok(()));
        }
        let keys = rows.iter().map(|row| row.key);
        let mut columns = key::decode(&self.key, keys).map_err(|e| RunError::Internal(e.to_string()))?;
        let edge = |of: fn(&Window) -> i64| -> ArrayRef {
            let micros = rows.iter().map(|row| (row.window != FOREVER).then(|| of(&row.window).saturating_mul(1_000)));
            Arc::new(micros.collect::<TimestampMicrosecondArray>().with_data_type(DataType::Timestamptz.to_arrow()))
        };
        columns.push(edge(|window| window.start_ms));
        columns.push(edge(|window| window.end_ms));
        columns.extend(self.plugin_columns(rows, columns.len(), of_plugin)?);
        // a result of the global window is of now
        let now_ms = state.true_watermark_ms.unwrap_or_default();
        let time_ms = |row: &Row<'_>| if row.window == FOREVER { now_ms } else { row.window.max_time_ms() };
        let batch = Arc::new(Batch {
            rows: RecordBatch::try_new(Arc::clone(&self.output_schema), columns)?,
            event_time_ms: rows.iter().map(time_ms).collect(),
            origin: None,
            changes: Some(Changes {
                kinds: rows.iter().map(|row| row.change).collect(),
                revisions: rows.iter().map(|row| row.revision).collect(),
                is_final: due.is_final,
                audience: due.audience,
            }),
        });
        self.stats.rows_out_total.fetch_add(rows.len() as u64, Relaxed);
        if let (Some(observer), true) = (&self.observer, due.audience != Audience::Operators) {
            observer(&batch);
        }
        for output in &self.outputs {
            if let Err(hangup) = output.rows(&batch)? {
                return Ok(Err(hangup));
            }
        }
        Ok(Ok(()))
    }

    /// The plugin's columns; of deletions, which stand first, they say nothing.
    fn plugin_columns(
        &self,
        rows: &[Row<'_>],
        others: usize,
        of_plugin: Vec<ArrayRef>,
    ) -> Result<Vec<ArrayRef>, RunError> {
        let deletions = rows.iter().take_while(|row| row.of_plugin.is_none()).count();
        if deletions == 0 {
            return Ok(of_plugin);
        }
        let fields = self.output_schema.fields().iter().skip(others);
        fields
            .enumerate()
            .map(|(index, field)| {
                let mut column = new_null_array(field.data_type(), deletions);
                if !field.is_nullable() {
                    column = without_nulls(&column)?;
                }
                match of_plugin.get(index) {
                    None => Ok(column),
                    Some(rest) => Ok(arrow_select::concat::concat(&[&column, rest])?),
                }
            })
            .collect()
    }
}

/// The zeros, empty strings and so on that stand under nulls.
fn without_nulls(column: &ArrayRef) -> Result<ArrayRef, RunError> {
    let data = column.to_data().into_builder().nulls(None).build()?;
    Ok(arrow_array::make_array(data))
}

fn micros(window: Window) -> WindowUs {
    WindowUs { start: window.start_ms.saturating_mul(1_000), end: window.end_ms.saturating_mul(1_000) }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array as _;
    use millrace_core::schema::DataType;

    use super::*;

    #[test]
    fn deletions_have_a_value_where_nulls_are_not_allowed() {
        let types = [
            DataType::Boolean,
            DataType::Long,
            DataType::Double,
            DataType::Decimal { precision: 10, scale: 2 },
            DataType::Date,
            DataType::Timestamptz,
            DataType::String,
            DataType::Binary,
            DataType::ListString,
        ];
        for of in types {
            let column = without_nulls(&new_null_array(&of.to_arrow(), 3)).unwrap();
            assert_eq!((column.len(), column.null_count()), (3, 0), "{of:?}");
        }
    }
}
