//! Groups that are due become rows: put together from their panes, evaluated, labelled with what they do to the table.
//!
//! ```text
//!   Due ─▶ deletions of windows that are no more ─┐
//!      └─▶ groups ─▶ combine, evaluate ─┬─ rows ──┼─▶ one batch: deletions first
//!                                       └─ none, where there was a row: a deletion
//! ```

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, new_null_array};
use millrace_core::batch::{Audience, Batch, Change, Changes};
use millrace_core::due::{Assembly, Due, DueGroup, Load, When};
use millrace_core::key;
use millrace_core::limits::PLUGIN_GROUPS_PER_CALL_MAX;
use millrace_core::partials::Folds;
use millrace_core::schema::DataType;
use millrace_core::sessions::FOREVER;
use millrace_core::window::Window;

use super::{AggregateTask, Spill, State, Step};
use crate::plugin::{OutputRows, WindowUs};
use crate::runtime::message::RunError;
use crate::runtime::versions::companion::{Asked, AskedGroup};

/// One row of a batch of results.
pub(super) struct Row<'a> {
    pub key: &'a [u8],
    pub window: Window,
    pub change: Change,
    pub revision: u32,
    /// in the plugin's output; none: a deletion
    pub of_plugin: Option<u32>,
}

/// Who gets a batch of results.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    pub audience: Audience,
    pub is_final: bool,
}

/// The plugin's columns, and what the rows are.
type Evaluated<'a> = (Vec<ArrayRef>, Vec<Row<'a>>);

impl AggregateTask {
    /// Sends all that is due.
    pub(super) fn give(&mut self, state: &mut State, when: When) -> Step {
        if let Err(hangup) = self.flush(state)? {
            return Ok(Err(hangup));
        }
        let watermark_ms = state.watermarks.current_ms();
        self.judge_sharing(state)?;
        loop {
            self.forget_partials(state, None)?;
            let due = match &mut self.spill {
                None => state.windower.due(when, watermark_ms, &mut ()),
                Some(spill) => state.windower.due(when, watermark_ms, spill),
            };
            let Some(due) = due.map_err(|e| RunError::External(e.to_string()))? else { break };
            if let Some(failure) = self.spill.as_mut().and_then(Spill::take_failure) {
                return Err(failure);
            }
            if let Err(hangup) = self.give_one(state, due)? {
                return Ok(Err(hangup));
            }
            self.report(state, false)?;
        }
        state.windower.next_round();
        if let Some(spill) = &mut self.spill {
            spill.retain(&state.windower.spilled());
        }
        Ok(Ok(()))
    }

    fn give_one(&mut self, state: &mut State, mut due: Due) -> Step {
        self.fold(state, &mut due)?;
        let total = due.groups.len();
        let mut has_rows = Vec::with_capacity(total);
        // what is read from disk is a small part of the keys, and in the plugin for one call only
        let at_once = if due.loads.is_empty() { PLUGIN_GROUPS_PER_CALL_MAX } else { usize::MAX };
        loop {
            let from = has_rows.len();
            let groups = from..total.min(from.saturating_add(at_once));
            let to = groups.end;
            let Some((output, rows)) = self.evaluate(state, &due, groups, &mut has_rows)? else {
                // a fresh instance has taken over: once more, from the panes themselves
                has_rows.truncate(from);
                self.forget_partials(state, Some(&mut due))?;
                continue;
            };
            let of = Sent { audience: due.audience, is_final: due.is_final };
            if let Err(hangup) = self.send(state, of, &rows, output)? {
                return Ok(Err(hangup));
            }
            if to >= total {
                break;
            }
        }
        for load in &due.loads {
            state.windower.slots().release(load.slots.iter().copied());
        }
        let emptied = state.windower.settle(&due, &has_rows);
        self.empty(state, emptied)
    }

    /// Resets slots, and lets others have them.
    fn empty(&mut self, state: &mut State, slots: Vec<u32>) -> Step {
        for slots in slots.chunks(PLUGIN_GROUPS_PER_CALL_MAX) {
            self.plugin.reset(slots)?;
        }
        state.windower.slots().release(slots);
        Ok(Ok(()))
    }

    /// Brings what consecutive windows share up to the window that is due.
    fn fold(&mut self, state: &mut State, due: &mut Due) -> Result<(), RunError> {
        if due.folds.is_empty() {
            return Ok(());
        }
        let Folds { emptied, sources, targets } = std::mem::take(&mut due.folds);
        let _ = self.empty(state, emptied)?;
        self.plugin.grow(state.windower.slots().total());
        self.plugin.combine(&sources, &targets)?;
        self.forget_partials(state, Some(due))
    }

    /// Whether partial results are worth their memory, as soon as that can be told.
    fn judge_sharing(&mut self, state: &mut State) -> Result<(), RunError> {
        // two versions hold the parts of a window
        let pairs = if self.plugin.is_draining() { Vec::new() } else { state.windower.sample() };
        if pairs.is_empty() {
            return Ok(());
        }
        let slots = state.windower.slots();
        let borrowed: Result<Vec<u32>, _> = pairs.iter().map(|_| slots.take()).collect();
        let borrowed = borrowed.map_err(|e| RunError::External(e.to_string()))?;
        self.plugin.grow(slots.total());
        let shares = self.plugin.is_of_constant_size(&pairs, &borrowed)?;
        state.windower.slots().release(borrowed);
        state.windower.set_shares(shares);
        Ok(())
    }

    /// If the plugin instance has been exchanged since: it has nothing of what windows share.
    fn forget_partials(&mut self, state: &mut State, due: Option<&mut Due>) -> Result<(), RunError> {
        if std::mem::replace(&mut state.exchanges, self.plugin.exchanges()) == state.exchanges {
            return Ok(());
        }
        self.drop_partials(state, due)
    }

    pub(super) fn drop_partials(&mut self, state: &mut State, due: Option<&mut Due>) -> Result<(), RunError> {
        let over = state.windower.without_partials(due);
        let _ = self.empty(state, over)?;
        Ok(())
    }

    /// The rows of some groups, the first ones behind those of deletions; says of each group whether it has any. None: what
    /// windows share is gone.
    fn evaluate<'d>(
        &mut self,
        state: &mut State,
        due: &'d Due,
        groups: Range<usize>,
        has_rows: &mut Vec<bool>,
    ) -> Result<Option<Evaluated<'d>>, RunError> {
        let from = groups.start;
        let groups = due.groups.get(groups).unwrap_or_default();
        has_rows.resize(from + groups.len(), false);
        let mut rows: Vec<Row<'d>> = Vec::new();
        if from == 0 {
            rows.extend(due.deletions.iter().map(|deletion| Row {
                key: due.deleted_key(deletion),
                window: deletion.window,
                change: Change::Delete,
                revision: deletion.revision,
                of_plugin: None,
            }));
            if !due.deletions.is_empty() {
                self.plugin.deleted(|| due.deletions.iter().map(|d| (due.deleted_key(d).to_vec(), d.window)).collect());
            }
        }
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
            let loads: Vec<(Vec<ArrayRef>, Vec<u32>)> = match &mut self.spill {
                None => Vec::new(),
                Some(spill) => {
                    let mut columns = |load: &Load| spill.take_loaded((load.pane_start_ms, load.part));
                    due.loads.iter().map(|load| (columns(load), load.slots.clone())).collect()
                }
            };
            let output = self.plugin.evaluate(&assembly, &loads, &windows, due.is_final, due.is_shared)?;
            let Some(output) = output else {
                state.windower.slots().release(assembly.borrowed);
                return Ok(None);
            };
            picks = self.owners(&output, &assembly.slots)?;
            state.windower.slots().release(assembly.borrowed.iter().copied());
            columns = output.columns;
            for pick in &picks {
                if let Some(has) = places.get(*pick as usize).and_then(|place| has_rows.get_mut(*place)) {
                    *has = true;
                }
            }
            // what the version before gives, whoever takes over again gives by itself
            let is_formers = live.first().is_some_and(|group| self.plugin.is_formers(group.window.start_ms));
            if self.plugin.has_companion() && !is_formers {
                let has = places.iter().map(|place| has_rows.get(*place).copied().unwrap_or_default());
                let total = state.windower.slots().total();
                self.beside(due, &live, &has.collect::<Vec<bool>>(), (assembly, windows, total), (&columns, &picks));
            }
        }
        if due.audience != Audience::Operators && self.plugin.has_fallen() {
            self.plugin.given_anew(groups.iter().map(|group| (due.key(group), group.window)));
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
        Ok(Some((columns, rows)))
    }

    /// Has the version beside the active one evaluate the same.
    fn beside(
        &mut self,
        due: &Due,
        live: &[DueGroup],
        has_rows: &[bool],
        (assembly, windows, total): (Assembly, Vec<WindowUs>, u32),
        (columns, picks): (&[ArrayRef], &[u32]),
    ) {
        let is_compared = self.plugin.has_candidate();
        self.plugin.beside(|| {
            let of = |(group, has): (&DueGroup, &bool)| {
                let given = group.given.then(*has, 0);
                let key = due.key(group).to_vec();
                AskedGroup { key, window: group.window, revision: given.revision, present: given.present }
            };
            let asked = Asked {
                assembly,
                windows,
                is_final: due.is_final,
                total,
                of_sinks: due.audience != Audience::Operators,
                results: is_compared.then(|| (columns.to_vec(), picks.to_vec())),
            };
            (asked, live.iter().zip(has_rows).map(of).collect())
        });
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

    pub(super) fn send(&mut self, state: &State, of: Sent, rows: &[Row<'_>], of_plugin: Vec<ArrayRef>) -> Step {
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
                is_final: of.is_final,
                audience: of.audience,
            }),
        });
        self.stats.rows_out_total.fetch_add(rows.len() as u64, Relaxed);
        if let (Some(observer), true) = (&self.observer, of.audience != Audience::Operators) {
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
