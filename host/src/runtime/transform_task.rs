//! One task of a transform: rows through its steps, event time and barriers in their order beside them.
//!
//! ```text
//!   batch ─▶ filter ─▶ set ─▶ select ─▶ plugin ─▶ the same batch, or a new one whose rows know where they came from
//!               └────────┴───────┴─────────┴────▶ rows that fail: on_error
//! ```
//!
//! It holds no state: a barrier goes straight on, once the versions of its plugin have changed places if they are to. What
//! has no column, event time, origin and changes, is taken over from the row that each row came from.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow_array::UInt32Array;
use arrow_select::take::take_record_batch;
use crossbeam_channel::Sender;
use millrace_core::barrier::Then;
use millrace_core::batch::{Batch, Change, Changes, Origin, RowSet, Rows};
use millrace_core::watermark::InputWatermarks;

use super::aggregate_task::place;
use super::edge::{Hangup, Inbox, Output, Received};
use super::failures::{FailedRow, Failures};
use super::message::{Event, Message, Part, RunError, TaskId};
use super::stats::NodeStats;

mod halves;
mod plugin;
mod steps;
#[cfg(test)]
mod tests;
mod trial;
mod versions;

pub use plugin::{OpenTransformer, PluginNode, TransformPlugin};
pub use steps::{Done, Steps};
pub use versions::TransformVersions;

pub struct TransformTask {
    pub id: TaskId,
    pub inbox: Inbox,
    pub outputs: Vec<Output>,
    pub failures: Failures,
    pub events: Sender<Event>,
    pub steps: Steps,
    pub stats: Arc<NodeStats>,
}

impl TransformTask {
    /// Runs until a barrier says stop or an input hangs up.
    pub fn run(mut self) -> Result<(), RunError> {
        let mut watermarks = InputWatermarks::new(self.inbox.inputs(), None);
        loop {
            let step = match self.inbox.receive(None)? {
                Received::Rows(packet) => self.rows(packet.rows)?,
                Received::Watermark { input, watermark } if watermarks.update(input, watermark) => {
                    self.broadcast(&Message::Watermark(watermarks.state()))
                }
                Received::Watermark { .. } | Received::Nothing => Ok(()),
                Received::Barrier(barrier) => {
                    let (version, exchanged) = self.steps.obey(barrier.checkpoint);
                    let step = self.broadcast(&Message::Barrier(barrier));
                    let acknowledged = Event::Acknowledged {
                        task: self.id.clone(),
                        checkpoint: barrier.checkpoint,
                        part: Part::Stateless { version, exchanged },
                    };
                    if self.events.send(acknowledged).is_err() || barrier.then == Then::Stop {
                        return Ok(());
                    }
                    step
                }
                Received::Hangup => return Ok(()),
            };
            if let Err(Hangup) = step {
                return Ok(());
            }
        }
    }

    fn rows(&mut self, rows: RowSet) -> Result<Result<(), Hangup>, RunError> {
        let batch = whole(rows)?;
        self.stats.rows_in_total.fetch_add(batch.num_rows() as u64, Relaxed);
        let mut done = self.steps.apply(&batch.rows, batch.changes.as_ref(), &|row| place(&batch, row))?;
        let failed = std::mem::take(&mut done.failed)
            .into_iter()
            .map(|(row, reason)| (row as usize, FailedRow::of(&batch, row, reason)))
            .collect();
        if let Err(hangup) = self.failures.handle(batch.num_rows(), failed)? {
            return Ok(Err(hangup));
        }
        let batch = changed(batch, done);
        self.stats.rows_out_total.fetch_add(batch.num_rows() as u64, Relaxed);
        for output in &self.outputs {
            if let Err(hangup) = output.rows(&batch)? {
                return Ok(Err(hangup));
            }
        }
        Ok(Ok(()))
    }

    fn broadcast(&self, message: &Message) -> Result<(), Hangup> {
        for output in self.outputs.iter().chain(self.failures.outputs()) {
            output.broadcast(message)?;
        }
        Ok(())
    }
}

/// What the steps have made of a batch.
fn changed(batch: Arc<Batch>, done: Done) -> Arc<Batch> {
    let mut batch = match (done.rows, &done.from) {
        (None, _) => batch,
        (Some(rows), None) => Arc::new(Batch { rows, ..(*batch).clone() }),
        (Some(rows), Some(from)) => Arc::new(Batch { rows, ..beside(&batch, from) }),
    };
    if let (false, Some(changes)) = (done.withdrawn.is_empty(), &batch.changes) {
        let withdrawn = |row: u32| done.withdrawn.binary_search(&row).is_ok();
        let origin = |row: u32| done.from.as_ref().map_or(Some(row), |from| from.get(row as usize).copied());
        let kinds = (0_u32..).zip(changes.kinds.iter());
        let kinds = kinds.map(|(row, kind)| if origin(row).is_some_and(withdrawn) { Change::Delete } else { *kind });
        let changes = Changes { kinds: kinds.collect(), ..changes.clone() };
        batch = Arc::new(Batch { changes: Some(changes), ..(*batch).clone() });
    }
    batch
}

/// The rows meant for one task as a batch of their own.
pub fn whole(rows: RowSet) -> Result<Arc<Batch>, RunError> {
    match rows.rows {
        Rows::All => Ok(rows.batch),
        Rows::Some(numbers) => take_rows(&rows.batch, &numbers),
    }
}

/// Some rows of a batch, with what travels beside them.
pub fn take_rows(batch: &Batch, numbers: &[u32]) -> Result<Arc<Batch>, RunError> {
    let rows = take_record_batch(&batch.rows, &UInt32Array::from(numbers.to_vec()))?;
    Ok(Arc::new(Batch { rows, ..beside(batch, numbers) }))
}

/// What travels beside the columns, of these rows. The columns are the batch's own still.
fn beside(batch: &Batch, numbers: &[u32]) -> Batch {
    fn pick<T: Copy>(values: &[T], numbers: &[u32]) -> Arc<[T]> {
        numbers.iter().filter_map(|&row| values.get(row as usize).copied()).collect()
    }
    Batch {
        rows: batch.rows.clone(),
        event_time_ms: pick(&batch.event_time_ms, numbers),
        origin: batch
            .origin
            .as_ref()
            .map(|origin| Origin { offsets: pick(&origin.offsets, numbers), ..origin.clone() }),
        changes: batch.changes.as_ref().map(|changes| Changes {
            kinds: pick(&changes.kinds, numbers),
            revisions: pick(&changes.revisions, numbers),
            is_final: changes.is_final,
            audience: changes.audience,
        }),
    }
}
