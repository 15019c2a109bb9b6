//! How an aggregation's state leaves for a checkpoint, and comes back from one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use crossbeam_channel::Sender;
use millrace_core::barrier::Barrier;
use millrace_core::groups::WindowGroups;
use millrace_core::key::{self, KeyGroup};
use millrace_core::schema::{DataType, Field, Schema};
use millrace_core::window::Window;

use super::{AggregateTask, State, constant_time};
use crate::runtime::edge::Hangup;
use crate::runtime::message::{Event, Message, RunError, TaskId};

/// State of one window, read from a checkpoint, already reduced to this task's key groups.
pub struct RestoredWindow {
    pub start_ms: i64,
    /// key columns, window_start, window_end, state columns
    pub batches: Vec<RecordBatch>,
    /// the files hold this task's groups and no others: later checkpoints can refer to them
    pub clean: bool,
    /// how many files
    pub files: usize,
}

/// Changed windows on their way to durable files. The acknowledgement is sent once they are there.
pub struct Export {
    pub task: TaskId,
    pub checkpoint: u64,
    pub key_groups: (KeyGroup, KeyGroup),
    pub windows: Vec<ExportedWindow>,
    pub watermark_ms: Option<i64>,
    pub unchanged: Vec<i64>,
    pub late_dropped: u64,
}

pub struct ExportedWindow {
    pub window: Window,
    pub groups: u64,
    pub batches: Vec<RecordBatch>,
}

/// Encodes and uploads off the task's thread, then acknowledges.
pub trait StateUploader: Send + Sync {
    fn submit(&self, export: Export, events: Sender<Event>);
}

impl AggregateTask {
    /// This task's part of a checkpoint: changed windows leave the plugin as columns, the rest is done elsewhere.
    pub(super) fn barrier(&mut self, state: &mut State, barrier: Barrier) -> Result<Result<(), Hangup>, RunError> {
        if let Err(hangup) = self.flush(state)? {
            return Ok(Err(hangup));
        }
        let windows = self.export_changed(state)?;
        let changed = state.groups.take_changed();
        let unchanged =
            state.groups.windows().map(|(start, _)| start).filter(|s| changed.binary_search(s).is_err()).collect();
        self.plugin.give_memory_back()?;
        self.report(state, true)?;
        let export = Export {
            task: self.id.clone(),
            checkpoint: barrier.checkpoint,
            key_groups: self.key_groups,
            windows,
            watermark_ms: state.true_watermark_ms,
            unchanged,
            late_dropped: state.late_dropped,
        };
        self.uploader.submit(export, self.events.clone());
        Ok(self.broadcast(&Message::Barrier(barrier)))
    }

    /// The state of all windows that are not as the last checkpoint has them. A failed plugin instance starts from it, so
    /// it is also done between checkpoints, when the inputs kept since become too many.
    pub(super) fn export_changed(&mut self, state: &State) -> Result<Vec<ExportedWindow>, RunError> {
        let mut windows = Vec::new();
        for start_ms in state.groups.changed() {
            if let Some(groups) = state.groups.window(start_ms) {
                windows.push(self.export(self.window.starting_at(start_ms), groups)?);
            }
        }
        self.plugin.forget_inputs();
        Ok(windows)
    }

    fn export(&mut self, window: Window, groups: &WindowGroups) -> Result<ExportedWindow, RunError> {
        let slots = groups.slots();
        let key_columns = key::decode(&self.key, groups.keys()).map_err(|e| RunError::Internal(e.to_string()))?;
        let place: HashMap<u32, u32> = slots.iter().copied().zip(0_u32..).collect();
        let schema = state_schema(&self.key, &self.plugin.signature().state).to_arrow();
        let mut batches = Vec::new();
        for chunk in self.plugin.export(window.start_ms, &slots)? {
            let picks: UInt32Array = chunk.groups.iter().filter_map(|slot| place.get(slot).copied()).collect();
            let rows = picks.len();
            let mut columns =
                key_columns.iter().map(|c| arrow_select::take::take(c, &picks, None)).collect::<Result<Vec<_>, _>>()?;
            columns.push(constant_time(window.start_ms.saturating_mul(1_000), rows));
            columns.push(constant_time(window.end_ms.saturating_mul(1_000), rows));
            columns.extend(chunk.columns);
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
        }
        Ok(ExportedWindow { window, groups: groups.len() as u64, batches })
    }

    pub(super) fn restore(&mut self, state: &mut State, restored: Vec<RestoredWindow>) -> Result<(), RunError> {
        let key_count = self.key.len();
        for RestoredWindow { start_ms, batches, clean, .. } in restored {
            for batch in &batches {
                let columns = batch.columns();
                let (keys, rest) = columns
                    .split_at_checked(key_count)
                    .ok_or_else(|| RunError::Internal("a state file lacks key columns".into()))?;
                let keys = key::encode(keys, batch.num_rows()).map_err(|e| RunError::Internal(e.to_string()))?;
                let mut slots = Vec::with_capacity(batch.num_rows());
                state
                    .groups
                    .slots(start_ms, (0..batch.num_rows()).map(|r| (keys.hash(r), keys.bytes(r))), &mut slots)
                    .map_err(|e| RunError::External(e.to_string()))?;
                let total = state.groups.total_slots();
                state.live.resize(total as usize, false);
                for &slot in &slots {
                    if let Some(live) = state.live.get_mut(slot as usize) {
                        *live = true;
                    }
                }
                self.plugin.restore(start_ms, rest.get(2..).unwrap_or_default().to_vec(), slots, total)?;
            }
            if clean {
                state.groups.mark_unchanged(start_ms);
            }
        }
        Ok(())
    }
}

/// The columns of a state file.
fn state_schema(key: &[Field], state: &Schema) -> Schema {
    let mut fields = key.to_vec();
    fields.push(Field::new("window_start", DataType::Timestamptz, false));
    fields.push(Field::new("window_end", DataType::Timestamptz, false));
    fields.extend(state.fields.iter().cloned());
    Schema::new(fields)
}
