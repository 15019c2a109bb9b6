//! The versions of one task's plugin: the active one, whose results count, and at most one beside it.
//!
//! ```text
//!                 ┌─▶ active ───────▶ results
//!   what is told ─┤
//!                 └─▶ companion ····▶ withheld, or compared          (a thread of its own, behind a queue)
//! ```
//!
//! Both are told the same about the same slots, in the same order, so at any point of that order either can be the
//! active one: two versions change places by exchanging roles, and nothing is replayed or rewound.
//!
//! - A **candidate** gets a copy of the state (through its `migrate` where it must), and what comes after it. It is never
//!   waited for beyond its share of time; if it fails, it is gone, and that is all.
//! - A **fallback** is the version that ran before. While there is one, the active version's first failure is its last:
//!   the fallback takes over in the middle of the call that failed, which is made again on it.
//!
//! A version that has followed another one may leave it the windows that began before ([`draining`]): the former one ends
//! them, on the task's thread, too.
//!
//! Rows that the active version refuses are not told to the companion: each event is either counted or in the dead
//! letters. Rows that only the companion refuses are kept, and go to the dead letters if it takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arrow_array::ArrayRef;
use crossbeam_channel::Sender;
use millrace_core::checkpoint::{Holds, PluginRef};
use millrace_core::cut::{Cut, Side};
use millrace_core::due::Assembly;
use millrace_core::schema::Schema;
use millrace_core::swap;
use millrace_core::window::Window;
use tracing::{info, warn};

use super::accumulator::{Accumulator, OpenInstance};
use super::aggregate_task::{InputColumn, Pending};
use super::failures::FailedRow;
use super::message::{Event, RunError, TaskId};
use super::migration::explain_columns;
use super::recorder::{PlaceOf, Recorder};
use super::status::{PluginGauges, PluginSlot, Since};
use crate::plugin::{OutputRows, PluginError, Rejected, Signature, StateChunk, StateOrigin, WindowUs};

pub mod companion;
pub mod draining;
pub mod instances;
pub mod shadow;
pub mod withheld;

use companion::{Asked, AskedGroup, Command, Companion, Gone, Role, Yielded};
use draining::Draining;
pub use instances::OpenShared;
use shadow::Comparison;
use withheld::Withheld;

/// 0: what ran when the run began; others: the id of the swap that brought it.
pub type VersionId = u64;

/// A version that is to run beside the active one, as all tasks of the operator get it.
pub struct Candidate {
    pub id: VersionId,
    pub plugin: PluginRef,
    pub state: Schema,
    pub open: OpenShared,
    pub recorder: Box<dyn Fn() -> Option<Recorder> + Send + Sync>,
    pub input: Vec<InputColumn>,
    /// what its state is made from; none: it is taken over as it is
    pub origin: Option<StateOrigin>,
    /// it gets no state: the version before ends the windows that began before
    pub drains: bool,
    /// its results are compared
    pub comparison: Option<Comparison>,
    /// tasks let go of it, or of the version that it took over from
    pub is_over: Arc<AtomicBool>,
}

/// What of a task's plugin can change places with another.
pub struct Version {
    pub id: VersionId,
    pub accumulator: Accumulator,
    pub input: Vec<InputColumn>,
}

/// The fallback has taken over.
pub struct Fallen {
    /// the version that failed
    pub from: VersionId,
    pub reason: String,
    pub taken: Taken,
}

/// What a companion had kept when it took over.
#[derive(Default)]
pub struct Taken {
    pub withheld: Withheld,
    pub refused: Vec<FailedRow>,
}

pub struct Versions {
    task: TaskId,
    events: Sender<Event>,
    active: Version,
    companion: Option<Companion>,
    draining: Option<Draining>,
    /// exported by the active version, and to be by its companion
    exporting: Vec<(i64, Vec<u32>)>,
    fallen: Option<Fallen>,
    /// of versions that were active before
    exchanges_before: u64,
    slot: Arc<PluginSlot>,
}

impl Versions {
    /// `slot`: where what the versions take is published.
    pub fn new(
        task: TaskId,
        events: Sender<Event>,
        accumulator: Accumulator,
        input: Vec<InputColumn>,
        slot: Arc<PluginSlot>,
    ) -> Self {
        slot.set(accumulator.gauges(), None);
        Self {
            task,
            events,
            active: Version { id: 0, accumulator, input },
            companion: None,
            draining: None,
            exporting: Vec::new(),
            fallen: None,
            exchanges_before: 0,
            slot,
        }
    }

    pub fn id(&self) -> VersionId {
        self.active.id
    }

    pub fn signature(&self) -> &Signature {
        self.active.accumulator.signature()
    }

    /// Whether a copy of what there is runs beside it, and may take over.
    pub fn has_candidate(&self) -> bool {
        self.companion.as_ref().is_some_and(|companion| companion.role == Role::Candidate)
    }

    /// See [`Accumulator::exchanges`].
    pub fn exchanges(&self) -> u64 {
        let draining = self.draining.as_ref().map_or(0, |draining| draining.version.accumulator.exchanges());
        self.exchanges_before + draining + self.active.accumulator.exchanges()
    }

    /// The active version has failed, and the fallback has taken over, since the last call.
    pub fn take_fallen(&mut self) -> Option<Fallen> {
        self.fallen.take()
    }

    pub fn has_fallen(&self) -> bool {
        self.fallen.is_some()
    }

    /// Puts a version beside the active one. To be called right after everything was exported. `warm_until_ms`: windows that
    /// begin before hold what it has not counted; `from_ms`: windows that begin before will never be its own.
    pub fn attach(
        &mut self,
        candidate: &Arc<Candidate>,
        node: &NodeParts<'_>,
        (warm_until_ms, from_ms): (Option<i64>, Option<i64>),
    ) {
        self.part();
        let state = if candidate.drains { Vec::new() } else { self.active.accumulator.copy() };
        let total = self.active.accumulator.total_slots();
        let candidate = Arc::clone(candidate);
        let PluginRef { name, version, sha256, config, .. } = candidate.plugin.clone();
        let gauges = PluginGauges::of(swap::Version { name, version, sha256, config });
        self.slot.set(self.active.accumulator.gauges(), Some(&gauges));
        let accumulator = node.accumulator(&candidate, gauges);
        let active = Since::now(self.active.accumulator.gauges());
        let windows = (warm_until_ms, from_ms);
        let companion =
            Companion::candidate(&self.task, &self.events, candidate, accumulator, state, total, windows, active);
        match companion {
            Ok(companion) => self.companion = Some(companion),
            Err((version, reason)) => {
                // whoever asked for it hears why; nothing has changed
                let _ = self.events.send(Event::GaveUp { task: self.task.clone(), version, reason });
            }
        }
    }

    /// Makes a version the active one. What it had kept; none: it is active already, or cannot be. `keep`: the former one
    /// stays as fallback. `cut`: it ends the windows before; everything must have been exported.
    pub fn exchange(
        &mut self,
        to: VersionId,
        keep: Option<&Arc<AtomicBool>>,
        cut: Option<Cut>,
    ) -> Result<Option<Taken>, RunError> {
        if self.active.id == to {
            return Ok(None);
        }
        let draining = match cut.map(|cut| Draining::of(&self.active, cut)).transpose() {
            Ok(draining) => draining,
            Err(error) => {
                self.give_up(&format!("the former version could not be opened once more to end its windows: {error}"));
                return Ok(None);
            }
        };
        let Some(companion) = self.companion.take_if(|companion| companion.id == to) else { return Ok(None) };
        let Some(Yielded { version, mut taken }) = companion.take_over() else { return Ok(None) };
        if let Some(cut) = cut {
            // the former version has counted them, and gives their windows
            taken.refused.retain(|row| row.event_time_ms.is_none_or(|ms| cut.side(ms).is_nexts()));
        }
        self.exchanges_before = self.exchanges() + 1;
        // who takes over again has all windows
        self.draining = draining;
        let mut former = std::mem::replace(&mut self.active, version);
        self.active.accumulator.grow(former.accumulator.total_slots());
        self.active.accumulator.set_strict(false);
        if let Some(is_over) = keep {
            former.accumulator.set_strict(true);
            let beside = Arc::clone(former.accumulator.gauges());
            match Companion::fallback(&self.task, &self.events, former, Arc::clone(is_over)) {
                Ok(companion) => {
                    self.active.accumulator.set_strict(true);
                    self.companion = Some(companion);
                    self.slot.set(self.active.accumulator.gauges(), Some(&beside));
                    return Ok(Some(taken));
                }
                Err(reason) => warn!(task = %self.task, "there will be no way back by itself: {reason}"),
            }
        }
        self.publish();
        Ok(Some(taken))
    }

    /// The active version's failures are dealt with as usual from now on; its fallback stays until it is told.
    pub fn seal(&mut self) {
        self.active.accumulator.set_strict(false);
    }

    /// Lets go of the companion.
    fn part(&mut self) {
        self.companion = None;
        self.active.accumulator.set_strict(false);
        self.publish();
    }

    /// What each takes, where there is no companion.
    fn publish(&self) {
        self.slot.set(self.active.accumulator.gauges(), self.draining().map(Accumulator::gauges));
    }

    /// Lets go of it to have its memory.
    pub fn give_up(&mut self, reason: &str) {
        if let Some(companion) = self.companion.take() {
            let (task, version) = (self.task.clone(), companion.id);
            warn!(%task, "{reason}");
            let _ = self.events.send(Event::GaveUp { task, version, reason: reason.to_owned() });
        }
        self.part();
    }

    /// A call on the active version, or, if it dies of it, on its fallback.
    fn call<T>(&mut self, call: impl Fn(&mut Version) -> Result<T, RunError>) -> Result<T, RunError> {
        match call(&mut self.active) {
            Err(RunError::Version(reason)) => {
                self.fall_back(reason)?;
                call(&mut self.active)
            }
            other => other,
        }
    }

    /// The fallback takes over; if it cannot, the failed version is treated as any other.
    fn fall_back(&mut self, reason: String) -> Result<(), RunError> {
        self.active.accumulator.set_strict(false);
        let companion = self.companion.take().filter(|companion| companion.role == Role::Fallback);
        let Some(Yielded { version, taken }) = companion.and_then(Companion::take_over) else {
            warn!(task = %self.task, "the former version cannot take over: it runs no more");
            return self.active.accumulator.revive(&reason);
        };
        warn!(task = %self.task, from = self.active.id, to = version.id, "{reason}; the former version takes over");
        self.exchanges_before = self.exchanges() + 1;
        // it has all windows
        self.draining = None;
        let failed = std::mem::replace(&mut self.active, version);
        // it may not have heard of the slots of the call that failed
        self.active.accumulator.grow(failed.accumulator.total_slots());
        self.active.accumulator.set_strict(false);
        self.slot.set(self.active.accumulator.gauges(), None);
        // a run that is over has no receiver left
        let _ =
            self.events.send(Event::FellBack { task: self.task.clone(), version: failed.id, reason: reason.clone() });
        self.fallen = Some(Fallen { from: failed.id, reason, taken });
        Ok(())
    }

    fn tell(&mut self, command: impl FnOnce() -> Command) {
        let Some(companion) = &mut self.companion else { return };
        match companion.tell(command()) {
            Ok(()) => {}
            Err(Gone::Over) => {
                let (role, id) = (companion.role, companion.id);
                info!(task = %self.task, version = id, "{} runs no more", role.name());
                self.part();
            }
            Err(Gone::TooSlow) => {
                self.give_up("the new version falls behind: the running one would have to wait for it")
            }
        }
    }

    /// Rows that were refused, by their place among the pending ones, ascending.
    pub fn update(
        &mut self,
        pending: &Arc<Vec<Pending>>,
        slots: &[u32],
        total: u32,
        place: PlaceOf<'_>,
    ) -> Result<Vec<Rejected>, RunError> {
        let rejected = match self.draining.as_ref().map(|draining| draining.split(pending)) {
            None => self.call(|version| version.update(pending, slots, total, place))?,
            Some(split) => self.update_split(pending, slots, &split, total, place)?,
        };
        if self.companion.is_some() {
            let (pending, slots) = (Arc::clone(pending), slots.to_vec());
            let refused: Vec<u32> = rejected.iter().map(|r| r.row).collect();
            self.tell(|| Command::Update { pending, slots, refused, total });
        }
        Ok(rejected)
    }

    pub fn fold(&mut self, sources: Vec<u32>, targets: Vec<u32>) -> Result<(), RunError> {
        self.call(|version| version.accumulator.fold(sources.clone(), targets.clone()))?;
        self.tell(|| Command::Fold { sources, targets });
        Ok(())
    }

    pub fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<(), RunError> {
        self.call(|version| version.accumulator.combine(sources, targets))?;
        let total = self.total_slots();
        self.tell(|| Command::Combine { sources: sources.to_vec(), targets: targets.to_vec(), total });
        Ok(())
    }

    pub fn reset(&mut self, slots: &[u32]) -> Result<(), RunError> {
        if slots.is_empty() {
            return Ok(());
        }
        let total = self.total_slots();
        if let Some(draining) = &mut self.draining {
            draining.version.accumulator.grow(total);
            draining.version.accumulator.learn()?;
            draining.version.accumulator.reset(slots)?;
        }
        let is_draining = self.draining.is_some();
        self.call(|version| {
            if is_draining {
                version.accumulator.learn()?;
            }
            version.accumulator.reset(slots)
        })?;
        self.tell(|| Command::Reset { slots: slots.to_vec() });
        Ok(())
    }

    /// `holds`: one of [`Versions::holds`].
    pub fn export(&mut self, holds: Holds, bucket_start_ms: i64, slots: &[u32]) -> Result<Vec<StateChunk>, RunError> {
        let chunks = match &mut self.draining {
            Some(draining) if holds == Holds::Draining => {
                draining.version.accumulator.export(bucket_start_ms, slots)?
            }
            _ => self.call(|version| version.accumulator.export(bucket_start_ms, slots))?,
        };
        if self.companion.is_some() && self.exporting.last().is_none_or(|(last, _)| *last != bucket_start_ms) {
            self.exporting.push((bucket_start_ms, slots.to_vec()));
        }
        Ok(chunks)
    }

    /// What was exported so far is not of the version that is active now.
    pub fn export_anew(&mut self) {
        self.exporting.clear();
    }

    /// See [`Accumulator::exported`].
    pub fn exported(&mut self, buckets: &[i64]) {
        let draining = self.draining.as_ref().map(|draining| draining.cut);
        let side = |start: &i64| draining.map_or(Side::Next, |cut| cut.side(*start));
        self.active.accumulator.exported(buckets.iter().copied().filter(|start| side(start).is_nexts()));
        if let Some(draining) = &mut self.draining {
            draining.version.accumulator.exported(buckets.iter().copied().filter(|start| side(start).is_formers()));
        }
        let exporting = std::mem::take(&mut self.exporting);
        self.tell(|| Command::Export { buckets: exporting, all: buckets.to_vec() });
    }

    /// `loads`: see [`Accumulator::evaluate_assembled`]. `shared`: the slots hold what windows share; none: that is gone.
    pub fn evaluate(
        &mut self,
        assembly: &Assembly,
        loads: &[(Vec<ArrayRef>, Vec<u32>)],
        windows: &[WindowUs],
        is_final: bool,
        is_shared: bool,
    ) -> Result<Option<OutputRows>, RunError> {
        let of_former = windows.first().map(|window| window.start.div_euclid(1_000));
        if let (Some(draining), Some(start_ms)) = (&mut self.draining, of_former)
            && draining.cut.is_formers(start_ms)
        {
            return draining.version.accumulator.evaluate_assembled(assembly, loads, windows, is_final).map(Some);
        }
        if !is_shared {
            let accumulate = |version: &mut Version| {
                version.accumulator.evaluate_assembled(assembly, loads, windows, is_final).map(Some)
            };
            return self.call(accumulate);
        }
        match self.active.accumulator.evaluate_shared(assembly, windows, is_final) {
            Err(RunError::Version(reason)) => {
                // whoever takes over may have given memory back, and what windows share with it
                self.fall_back(reason)?;
                Ok(None)
            }
            other => other,
        }
    }

    /// Has the companion say the same: what it would have given is withheld, or compared.
    pub fn beside(&mut self, ask: impl FnOnce() -> (Asked, Vec<AskedGroup>)) {
        self.tell(|| {
            let (asked, groups) = ask();
            Command::Evaluate(Box::new(asked), groups)
        });
    }

    pub fn has_companion(&self) -> bool {
        self.companion.is_some()
    }

    /// Rows of windows that are no more have been deleted.
    pub fn deleted(&mut self, windows: impl FnOnce() -> Vec<(Vec<u8>, Window)>) {
        if let Some(fallen) = &mut self.fallen {
            windows().iter().for_each(|(key, window)| fallen.taken.withheld.remove(key, *window));
            return;
        }
        self.tell(|| Command::Delete(windows()));
    }

    /// Of results that are given by the version which took over in the middle of giving them.
    pub fn given_anew<'a>(&mut self, groups: impl Iterator<Item = (&'a [u8], Window)>) {
        if let Some(fallen) = &mut self.fallen {
            groups.for_each(|(key, window)| fallen.taken.withheld.remove(key, window));
        }
    }

    /// Another version's state, in the active one's columns.
    pub fn migrate(&mut self, origin: &StateOrigin, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>, RunError> {
        let migrated = self.active.accumulator.migrate(origin, columns)?;
        migrated.ok_or_else(|| RunError::Spec(refused(origin, &self.signature().state)))
    }

    pub fn restore(
        &mut self,
        holds: Holds,
        bucket_start_ms: i64,
        columns: Vec<ArrayRef>,
        slots: Vec<u32>,
        total: u32,
    ) -> Result<(), RunError> {
        self.grow(total);
        match &mut self.draining {
            Some(draining) if holds == Holds::Draining => {
                draining.version.accumulator.restore(bucket_start_ms, columns, slots, total)
            }
            _ => self.active.accumulator.restore(bucket_start_ms, columns, slots, total),
        }
    }

    pub fn is_of_constant_size(&mut self, pairs: &[(u32, u32)], borrowed: &[u32]) -> Result<bool, RunError> {
        self.call(|version| version.accumulator.is_of_constant_size(pairs, borrowed))
    }

    /// See [`Accumulator::state`]: only where there is never a companion (state on disk).
    pub fn state(&mut self, slots: &[u32], chunk_bytes: u64) -> Result<Vec<StateChunk>, RunError> {
        self.call(|version| version.accumulator.state(slots, chunk_bytes))
    }

    pub fn is_full(&self) -> bool {
        self.active.accumulator.is_full() || self.draining().is_some_and(Accumulator::is_full)
    }

    pub fn renew(&mut self) -> Result<(), RunError> {
        self.active.accumulator.renew()
    }

    pub fn kept_bytes(&self) -> usize {
        self.active.accumulator.kept_bytes() + self.draining().map_or(0, Accumulator::kept_bytes)
    }

    pub fn memory_bytes(&self) -> u64 {
        self.active.accumulator.memory_bytes() + self.draining().map_or(0, Accumulator::memory_bytes)
    }

    pub fn companion_memory_bytes(&self) -> u64 {
        self.companion.as_ref().map_or(0, Companion::memory_bytes)
    }

    pub fn grow(&mut self, total: u32) {
        self.active.accumulator.grow(total);
        if let Some(draining) = &mut self.draining {
            draining.version.accumulator.grow(total);
        }
        // the companion learns of it with each call
    }

    pub fn total_slots(&self) -> u32 {
        self.active.accumulator.total_slots()
    }

    pub fn size(&mut self) -> Result<u64, RunError> {
        let draining = match &mut self.draining {
            Some(draining) => draining.version.accumulator.size()?,
            None => 0,
        };
        Ok(draining + self.call(|version| version.accumulator.size())?)
    }

    pub fn give_memory_back(&mut self) -> Result<(), RunError> {
        if let Some(draining) = &mut self.draining {
            draining.version.accumulator.give_memory_back()?;
        }
        self.call(|version| version.accumulator.give_memory_back())
    }

    pub fn holds_too_much(&mut self) -> Result<bool, RunError> {
        self.call(|version| version.accumulator.holds_too_much())
    }
}

/// What an accumulator needs of the task, besides the plugin.
pub struct NodeParts<'a> {
    pub node: &'a Arc<str>,
    pub kept_bytes_max: usize,
    pub stats: &'a Arc<super::stats::NodeStats>,
    pub consecutive_limit: u64,
}

impl NodeParts<'_> {
    fn accumulator(
        &self,
        candidate: &Arc<Candidate>,
        gauges: Arc<PluginGauges>,
    ) -> impl FnOnce() -> Result<Accumulator, PluginError> + Send + use<> {
        let (node, stats) = (Arc::clone(self.node), Arc::clone(self.stats));
        let (kept_bytes_max, consecutive_limit) = (self.kept_bytes_max, self.consecutive_limit);
        let candidate = Arc::clone(candidate);
        move || {
            let plugin = candidate.open.aggregator()?;
            let shared = candidate.open.clone();
            let open: OpenInstance = Arc::new(move || shared.aggregator());
            let recorder = (candidate.recorder)();
            let mut accumulator =
                Accumulator::new(node, plugin, open, kept_bytes_max, stats, recorder, consecutive_limit);
            accumulator.set_strict(true);
            accumulator.set_gauges(gauges);
            Ok(accumulator)
        }
    }
}

/// Whether the run has said that it is over.
fn is_over(flag: &AtomicBool) -> bool {
    flag.load(Relaxed)
}

/// Why another version's state is not taken over.
pub fn refused(origin: &StateOrigin, now: &Schema) -> String {
    let columns = explain_columns(&origin.state, now);
    format!("its `migrate` does not take the state of {} {}{columns}", origin.name, origin.version)
}
