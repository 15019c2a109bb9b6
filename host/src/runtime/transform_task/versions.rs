//! The versions of one task's plugin: the active one, whose rows go on, and at most one other.
//!
//! ```text
//!   attach:     active ─▶ rows        new version on trial ····▶ thrown away
//!   exchange:   new version ─▶ rows   former one waits: told nothing, it keeps nothing
//!   rollback:   former one ─▶ rows    the new one goes
//! ```
//!
//! While there is a former one, the first failure of the active version is its last: the call is made again on the former
//! one, so that each row is processed once. Rows that were given stand as they are: whoever is downstream has counted them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use arrow_array::RecordBatch;
use crossbeam_channel::Sender;
use millrace_core::checkpoint::PluginRef;
use millrace_core::swap::{Corrections, Version};
use tracing::warn;

use super::plugin::{Applied, PluginNode, TransformPlugin};
use super::trial::Trial;
use crate::failpoint;
use crate::runtime::message::{Event, Exchanged, RunError, TaskId};
use crate::runtime::recorder::PlaceOf;
use crate::runtime::status::{PluginGauges, PluginSlot};
use crate::runtime::swaps::{Desk, TaskOrder};
use crate::runtime::versions::{Candidate, VersionId};

#[cfg(test)]
mod tests;

pub struct TransformVersions {
    task: TaskId,
    events: Sender<Event>,
    desk: Arc<Desk>,
    node: PluginNode,
    slot: Arc<PluginSlot>,
    active: TransformPlugin,
    trial: Option<Trial>,
    former: Option<Former>,
    /// rows that the active version has given since it took over
    given: u64,
}

/// The version that ran before, ready to take over again.
struct Former {
    plugin: TransformPlugin,
    /// the run says so: its probation has ended
    is_over: Arc<AtomicBool>,
}

impl TransformVersions {
    /// `slot`: where what the versions take is published.
    pub fn new(
        task: TaskId,
        events: Sender<Event>,
        desk: Arc<Desk>,
        node: PluginNode,
        slot: Arc<PluginSlot>,
        active: TransformPlugin,
    ) -> Self {
        slot.set(active.gauges(), None);
        Self { task, events, desk, node, slot, active, trial: None, former: None, given: 0 }
    }

    /// See [`TransformPlugin::apply`].
    pub fn apply(&mut self, batch: &RecordBatch, place: PlaceOf<'_>) -> Result<Applied, RunError> {
        self.let_go();
        if let Some(trial) = &self.trial {
            trial.show(batch);
        }
        let made = match self.active.apply(batch, place) {
            Err(RunError::Version(reason)) => {
                self.fall_back(reason);
                self.active.apply(batch, place)?
            }
            other => other?,
        };
        self.given += made.0.num_rows() as u64;
        Ok(made)
    }

    /// At a barrier. The version that runs from here on, and whether it has taken over.
    pub fn obey(&mut self, checkpoint: u64) -> (VersionId, Option<Exchanged>) {
        self.let_go();
        let began = Instant::now();
        let mut exchanged = None;
        match self.desk.at(checkpoint) {
            Some(TaskOrder::Attach(candidate)) => {
                self.attach(&candidate);
                failpoint::hit(failpoint::SWAP_ATTACHED);
            }
            Some(TaskOrder::Exchange { to, keep, .. }) => {
                let corrections = self.exchange(to, keep);
                exchanged = corrections.map(|corrections| Exchanged { pause: began.elapsed(), corrections });
                if exchanged.is_some() {
                    failpoint::hit(failpoint::SWAP_EXCHANGED);
                }
            }
            Some(TaskOrder::Seal) => self.active.set_strict(false),
            None => {}
        }
        (self.active.id, exchanged)
    }

    /// Puts a version on trial.
    fn attach(&mut self, candidate: &Arc<Candidate>) {
        self.trial = None;
        self.dismiss();
        let PluginRef { name, version, sha256, config, .. } = candidate.plugin.clone();
        let gauges = PluginGauges::of(Version { name, version, sha256, config });
        self.slot.set(self.active.gauges(), Some(&gauges));
        let output = Arc::clone(self.active.output());
        match Trial::start(&self.task, &self.events, candidate, self.node.clone(), output, gauges) {
            Ok(trial) => self.trial = Some(trial),
            Err(reason) => {
                // whoever asked for it hears why; nothing has changed
                let (task, version) = (self.task.clone(), candidate.id);
                let _ = self.events.send(Event::GaveUp { task, version, reason });
            }
        }
    }

    /// Makes a version the active one. None: it is active already, or cannot be. `keep`: the one that it takes over from
    /// stays, until this says that it is over.
    fn exchange(&mut self, to: VersionId, keep: Option<Arc<AtomicBool>>) -> Option<Corrections> {
        if self.active.id == to {
            return None;
        }
        if let Some(former) = self.former.take_if(|former| former.plugin.id == to) {
            let (_, corrections) = self.go_back(former);
            return Some(corrections);
        }
        let version = self.trial.take_if(|trial| trial.id == to)?.take_over()?;
        let former = std::mem::replace(&mut self.active, version);
        self.given = 0;
        self.active.set_strict(keep.is_some());
        self.slot.set(self.active.gauges(), keep.is_some().then_some(former.gauges()));
        self.former = keep.map(|is_over| Former { plugin: former, is_over });
        Some(Corrections::default())
    }

    /// The active version has failed: the former one takes over in the middle of the call.
    fn fall_back(&mut self, reason: String) {
        let Some(former) = self.former.take() else {
            warn!(task = %self.task, "there is no former version that could take over");
            self.active.set_strict(false);
            return;
        };
        let (version, corrections) = self.go_back(former);
        warn!(task = %self.task, from = version, to = self.active.id, "{reason}; the former version takes over");
        self.desk.corrected(self.task.task, version, corrections);
        // a run that is over has no receiver left
        let _ = self.events.send(Event::FellBack { task: self.task.clone(), version, reason });
    }

    /// The version that goes, and what it leaves behind.
    fn go_back(&mut self, former: Former) -> (VersionId, Corrections) {
        let gone = std::mem::replace(&mut self.active, former.plugin);
        self.active.set_strict(false);
        self.slot.set(self.active.gauges(), None);
        let left_as_given = std::mem::take(&mut self.given);
        (gone.id, Corrections { left_as_given, ..Corrections::default() })
    }

    /// What the run has said to be over.
    fn let_go(&mut self) {
        if self.former.as_ref().is_some_and(|former| former.is_over.load(Relaxed)) {
            self.dismiss();
        }
        if self.trial.take_if(|trial| trial.is_over()).is_some() {
            self.slot.set(self.active.gauges(), None);
        }
    }

    /// There is no way back.
    fn dismiss(&mut self) {
        self.former = None;
        self.active.set_strict(false);
        self.slot.set(self.active.gauges(), None);
    }
}
