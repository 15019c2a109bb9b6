//! The version before the active one, where it ends the windows that began before a cut. It is told the rows of those
//! windows and no others, and gives their results; when the last of them has expired, it goes.
//!
//! It runs on the task's thread, as the active version does: what it gives counts. A failure of it is treated as any
//! other. Where windows overlap, a row may be both versions'; if either refuses it, it is in the dead letters.

use std::sync::Arc;

use millrace_core::checkpoint::Holds;
use millrace_core::cut::{Cut, Side};
use millrace_core::schema::Schema;
use tracing::info;

use super::super::accumulator::Accumulator;
use super::super::aggregate_task::{InputColumn, Pending};
use super::super::bisect::{pick, take_input};
use super::super::message::RunError;
use super::super::recorder::PlaceOf;
use super::{Version, VersionId, Versions};
use crate::plugin::Rejected;

pub struct Draining {
    pub cut: Cut,
    pub version: Version,
}

/// The rows of a call, by whose windows they are in.
pub struct Split {
    pub former: Vec<u32>,
    pub next: Vec<u32>,
}

impl Draining {
    /// What a checkpoint has of it is restored later.
    pub fn new(cut: Cut, accumulator: Accumulator, input: Vec<InputColumn>) -> Self {
        Self { cut, version: Version { id: VersionId::default(), accumulator, input } }
    }

    /// A second instance of a version, with the state of the windows before the cut. To be called right after everything was
    /// exported.
    pub fn of(version: &Version, cut: Cut) -> Result<Self, RunError> {
        let mut accumulator = version.accumulator.twin()?;
        let total = version.accumulator.total_slots();
        for (start_ms, state) in version.accumulator.copy() {
            if cut.side(start_ms).is_formers() {
                accumulator.restore(start_ms, state.columns, state.slots, total)?;
            }
        }
        Ok(Self { cut, version: Version { id: version.id, accumulator, input: version.input.clone() } })
    }

    pub fn split(&self, pending: &[Pending]) -> Split {
        let (mut former, mut next) = (Vec::new(), Vec::new());
        let times = pending.iter().flat_map(|pending| {
            let time = |row: usize| pending.batch.event_time_ms.get(row).copied().unwrap_or_default();
            let row = |at: usize| pending.rows.as_ref().map_or(Some(at), |rows| rows.get(at).map(|row| *row as usize));
            (0..pending.slots.len()).map(move |at| row(at).map(time).unwrap_or_default())
        });
        for (row, time_ms) in (0_u32..).zip(times) {
            match self.cut.side(time_ms) {
                Side::Former => former.push(row),
                Side::Next => next.push(row),
                Side::Both => {
                    former.push(row);
                    next.push(row);
                }
            }
        }
        Split { former, next }
    }
}

impl Version {
    /// All pending rows.
    pub fn update(
        &mut self,
        pending: &[Pending],
        slots: &[u32],
        total: u32,
        place: PlaceOf<'_>,
    ) -> Result<Vec<Rejected>, RunError> {
        let columns = Pending::gather(pending, &self.input)?;
        self.accumulator.update(columns, slots, total, place)
    }

    /// Some of the pending rows; those that are refused by their place among all.
    pub fn update_some(
        &mut self,
        (pending, slots): (&[Pending], &[u32]),
        rows: &[u32],
        total: u32,
        place: PlaceOf<'_>,
    ) -> Result<Vec<Rejected>, RunError> {
        if rows.len() == slots.len() {
            return self.update(pending, slots, total, place);
        }
        self.accumulator.grow(total);
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let columns = take_input(&Pending::gather(pending, &self.input)?, rows)?;
        let whole = |row: u32| rows.get(row as usize).copied();
        let place = |row: u32| whole(row).map(place).unwrap_or_default();
        let rejected = self.accumulator.update(columns, &pick(slots, rows), total, &place)?;
        Ok(rejected.into_iter().filter_map(|r| Some(Rejected { row: whole(r.row)?, ..r })).collect())
    }
}

impl Versions {
    /// The version before the active one ends its windows.
    pub fn with_draining(mut self, draining: Option<Draining>) -> Self {
        self.draining = draining;
        self.publish();
        self
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Whether the version before gives the results of the window that starts here.
    pub fn is_formers(&self, window_start_ms: i64) -> bool {
        self.draining.as_ref().is_some_and(|draining| draining.cut.is_formers(window_start_ms))
    }

    /// If the version before has ended its last window, it goes. Whether it did.
    pub fn end_draining(&mut self, watermark_ms: Option<i64>, allowed_lateness_ms: i64) -> Result<bool, RunError> {
        let ended = self.draining.take_if(|draining| draining.cut.is_over(watermark_ms, allowed_lateness_ms));
        if ended.is_none() {
            return Ok(false);
        }
        if self.companion.is_none() {
            self.publish();
        }
        // slots that were the other's are its own from now on
        self.call(|version| version.accumulator.learn())?;
        info!(task = %self.task, "the former version has ended its last window");
        Ok(true)
    }

    /// What there is of a bucket.
    pub fn holds(&self, bucket_start_ms: i64) -> &'static [Holds] {
        match self.draining.as_ref().map_or(Side::Next, |draining| draining.cut.side(bucket_start_ms)) {
            Side::Next => &[Holds::State],
            Side::Former => &[Holds::Draining],
            Side::Both => &[Holds::Draining, Holds::State],
        }
    }

    /// The state columns of what there is.
    pub fn state_columns(&self, holds: Holds) -> &Schema {
        match &self.draining {
            Some(draining) if holds == Holds::Draining => &draining.version.accumulator.signature().state,
            _ => &self.signature().state,
        }
    }

    pub(super) fn update_split(
        &mut self,
        pending: &Arc<Vec<Pending>>,
        slots: &[u32],
        split: &Split,
        total: u32,
        place: PlaceOf<'_>,
    ) -> Result<Vec<Rejected>, RunError> {
        let all: (&[Pending], &[u32]) = (pending, slots);
        let mut rejected = match &mut self.draining {
            Some(draining) => draining.version.update_some(all, &split.former, total, place)?,
            None => Vec::new(),
        };
        let mut next = split.next.clone();
        next.retain(|row| rejected.binary_search_by_key(row, |r| r.row).is_err());
        match self.active.update_some(all, &next, total, place) {
            Err(RunError::Version(reason)) => {
                self.fall_back(reason)?;
                if self.draining.is_none() {
                    return self.active.update(pending, slots, total, place);
                }
                rejected.extend(self.active.update_some(all, &next, total, place)?);
            }
            other => rejected.extend(other?),
        }
        rejected.sort_by_key(|r| r.row);
        Ok(rejected)
    }

    pub(super) fn draining(&self) -> Option<&Accumulator> {
        self.draining.as_ref().map(|draining| &draining.version.accumulator)
    }
}
