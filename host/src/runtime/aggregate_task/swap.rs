//! What a task does when versions of its plugin change places: at a barrier, because the run wants it, or in the middle of
//! a call that the active version did not survive.
//!
//! After an exchange the state is another version's, so what had been exported is not what there is; after a rollback the
//! results are, too: those of windows that live on are given once more when they are due, those of windows that have
//! expired are given again from what the fallback had withheld.

use std::sync::Arc;
use std::time::Instant;

use arrow_array::ArrayRef;
use millrace_core::batch::{Audience, Change};
use millrace_core::cut::Cut;
use millrace_core::swap::{CorrectedWindow, Corrections};
use millrace_core::window::{Phase, Window};
use millrace_core::windower::Windows;
use tracing::warn;

use super::emit::{Row, Sent};
use super::{AggregateTask, State, Step};
use crate::failpoint;
use crate::runtime::edge::Hangup;
use crate::runtime::failures::FailedRow;
use crate::runtime::message::{Exchanged, RunError};
use crate::runtime::swaps::TaskOrder;
use crate::runtime::versions::withheld::{Kept, Withheld};
use crate::runtime::versions::{NodeParts, Taken};

impl AggregateTask {
    /// Before the state leaves for a checkpoint: the checkpoint has that of the version which is active then.
    pub(super) fn obey_before(
        &mut self,
        state: &mut State,
        order: Option<&TaskOrder>,
    ) -> Result<Result<Option<Exchanged>, Hangup>, RunError> {
        match order {
            Some(TaskOrder::Exchange { to, keep, same_state, drains_before_ms }) => {
                let began = Instant::now();
                let cut = match (self.windows, *drains_before_ms) {
                    (Windows::Sliced(slicing), Some(before_ms)) => Some(Cut::new(slicing, before_ms)),
                    _ => None,
                };
                if cut.is_some() {
                    // what it is a copy of; the checkpoint gets it below, from whoever has it then
                    self.drop_partials(state, None)?;
                    self.export_changed(state)?;
                    state.windower.forget_shares();
                }
                let Some(taken) = self.plugin.exchange(*to, keep.as_ref(), cut)? else { return Ok(Ok(None)) };
                failpoint::hit(failpoint::SWAP_EXCHANGED);
                let is_rollback = keep.is_none();
                let changed = std::mem::take(&mut state.changed_beside);
                if *same_state {
                    state.windower.mark_changed(changed);
                } else {
                    state.windower.mark_changed(state.windower.bucket_starts());
                }
                let pause = began.elapsed();
                let corrections = match self.settle(state, taken, is_rollback)? {
                    Ok(corrections) => corrections,
                    Err(hangup) => return Ok(Err(hangup)),
                };
                Ok(Ok(Some(Exchanged { pause, corrections })))
            }
            Some(TaskOrder::Seal) => {
                self.plugin.seal();
                Ok(Ok(None))
            }
            Some(TaskOrder::Attach(_)) => {
                // what windows share is in no export: the copy would lack it
                self.drop_partials(state, None)?;
                Ok(Ok(None))
            }
            None => Ok(Ok(None)),
        }
    }

    /// Once everything has been exported. Of a version that gets no state: the start of the first window that it will have seen
    /// all of.
    pub(super) fn obey_after(&mut self, state: &mut State, order: Option<&TaskOrder>) -> Result<Option<i64>, RunError> {
        let Some(TaskOrder::Attach(candidate)) = order else { return Ok(None) };
        state.changed_beside.clear();
        let starts = state.windower.bucket_starts();
        let next = match (self.windows, starts.iter().max()) {
            (Windows::Sliced(slicing), Some(last)) if candidate.drains => Some(slicing.next_window_ms(*last)),
            _ => None,
        };
        let warm_until_ms = starts.iter().map(|start| state.windower.bucket_window(*start)).map(|window| {
            // a bucket of sessions says when they start
            window.end_ms.max(window.start_ms.saturating_add(1))
        });
        let warm_until_ms = warm_until_ms.max();
        let parts = NodeParts {
            node: &self.id.node,
            kept_bytes_max: self.kept_bytes_max,
            stats: &self.stats,
            consecutive_limit: self.consecutive_limit,
        };
        self.plugin.attach(candidate, &parts, (warm_until_ms, next));
        failpoint::hit(failpoint::SWAP_ATTACHED);
        Ok(next)
    }

    /// A version that ends its windows goes once it has ended them all.
    pub(super) fn end_draining(&mut self, state: &mut State) -> Result<(), RunError> {
        if self.plugin.end_draining(state.watermarks.current_ms(), self.policy.allowed_lateness_ms)? {
            state.windower.forget_shares();
        }
        Ok(())
    }

    /// The active version has failed and its fallback goes on: in this task now, in the others at the next barrier.
    pub(super) fn after_fall(&mut self, state: &mut State) -> Step {
        let Some(fallen) = self.plugin.take_fallen() else { return Ok(Ok(())) };
        state.windower.mark_changed(state.windower.bucket_starts());
        state.changed_beside.clear();
        match self.settle(state, fallen.taken, true)? {
            Ok(corrections) => {
                self.desk.corrected(self.id.task, fallen.from, corrections);
                Ok(Ok(()))
            }
            Err(hangup) => Ok(Err(hangup)),
        }
    }

    /// What the companion had kept for the case that it takes over.
    fn settle(
        &mut self,
        state: &mut State,
        taken: Taken,
        is_rollback: bool,
    ) -> Result<Result<Corrections, Hangup>, RunError> {
        let Taken { withheld, refused } = taken;
        let mut corrections = Corrections::default();
        if is_rollback {
            corrections = match self.give_again(state, withheld)? {
                Ok(corrections) => corrections,
                Err(hangup) => return Ok(Err(hangup)),
            };
            if self.policy.corrects() {
                state.windower.touch_all(state.watermarks.current_ms());
            }
        }
        if let Err(hangup) = self.refuse(state, refused)? {
            return Ok(Err(hangup));
        }
        Ok(Ok(corrections))
    }

    /// Rows that this version refuses and the other took: of windows that have expired, the other's results stand.
    fn refuse(&mut self, state: &State, refused: Vec<FailedRow>) -> Step {
        let watermark_ms = state.watermarks.current_ms();
        let is_over = |row: &FailedRow| {
            let window = row.event_time_ms.map(|ms| state.windower.last_window(ms));
            window.is_some_and(|w| w.phase(watermark_ms, self.policy.allowed_lateness_ms) == Phase::Expired)
        };
        let rows: Vec<(usize, FailedRow)> = refused.into_iter().filter(|row| !is_over(row)).enumerate().collect();
        // between rows that were taken: they are not in a row
        let failed = rows.into_iter().map(|(at, row)| (at * 2 + 1, row)).collect::<Vec<_>>();
        let total = failed.len() * 2 + 1;
        self.failures.handle(total, failed)
    }

    /// Results of windows that have expired since the other version took over, from the one that takes over again.
    fn give_again(&mut self, state: &mut State, withheld: Withheld) -> Result<Result<Corrections, Hangup>, RunError> {
        let (groups, left) = withheld.into_groups();
        let watermark_ms = state.watermarks.current_ms();
        let lateness_ms = self.policy.allowed_lateness_ms;
        let expired: Vec<(Vec<u8>, Window, Kept)> =
            groups.into_iter().filter(|(_, w, _)| w.phase(watermark_ms, lateness_ms) == Phase::Expired).collect();
        let mut corrections = Corrections::default();
        for ((start_ms, end_ms), results) in left {
            note(&mut corrections, Window { start_ms, end_ms }, 0, results);
        }
        if !self.is_correctable {
            expired.iter().for_each(|(_, window, _)| note(&mut corrections, *window, 0, 1));
            if corrections.left_as_given > 0 {
                warn!(
                    task = %self.id,
                    results = corrections.left_as_given,
                    "results of the version that was rolled back stand as they were given: not all of the sinks take corrections"
                );
            }
            return Ok(Ok(corrections));
        }
        let mut rows = Vec::new();
        let mut sources: Vec<Arc<Vec<ArrayRef>>> = Vec::new();
        let mut places = Vec::new();
        for (key, window, kept) in &expired {
            let revision = kept.revision.saturating_add(1);
            let change = match (kept.present, kept.rows.is_empty()) {
                (true, false) => Change::Replace,
                (false, false) => Change::Insert,
                (true, true) => Change::Delete,
                (false, true) => continue,
            };
            note(&mut corrections, *window, 1, 0);
            let row = |of_plugin| Row { key, window: *window, change, revision, of_plugin };
            if kept.rows.is_empty() {
                rows.push(row(None));
                continue;
            }
            // groups that were evaluated together follow each other
            if !sources.last().is_some_and(|last| Arc::ptr_eq(last, &kept.columns)) {
                sources.push(Arc::clone(&kept.columns));
            }
            for at in &kept.rows {
                rows.push(row(Some(u32::try_from(places.len()).unwrap_or(u32::MAX))));
                places.push((sources.len() - 1, *at as usize));
            }
        }
        // deletions stand first
        rows.sort_by_key(|row| row.of_plugin.is_some());
        let mut columns = Vec::new();
        for at in 0..sources.first().map_or(0, |first| first.len()) {
            let arrays: Vec<&dyn arrow_array::Array> = sources.iter().filter_map(|s| s.get(at).map(|a| &**a)).collect();
            columns.push(arrow_select::interleave::interleave(&arrays, &places)?);
        }
        let sent = Sent { audience: Audience::Sinks, is_final: true };
        if let Err(hangup) = self.send(state, sent, &rows, columns)? {
            return Ok(Err(hangup));
        }
        Ok(Ok(corrections))
    }
}

fn note(corrections: &mut Corrections, window: Window, given_again: u64, left_as_given: u64) {
    corrections.given_again += given_again;
    corrections.left_as_given += left_as_given;
    let (start_ms, end_ms) = (window.start_ms, window.end_ms);
    match corrections.windows.iter_mut().find(|w| (w.start_ms, w.end_ms) == (start_ms, end_ms)) {
        Some(known) => {
            known.given_again += given_again;
            known.left_as_given += left_as_given;
        }
        None => corrections.windows.push(CorrectedWindow { start_ms, end_ms, given_again, left_as_given }),
    }
}
