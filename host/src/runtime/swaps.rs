//! How versions of an operator's plugin change places in all of its tasks at once: what the coordinator asks of the tasks
//! at which barrier, and what it makes of their answers.
//!
//! ```text
//!   request ─▶ barrier: attach ─▶ all caught up ─▶ [shadow ends, equal] ─▶ barrier: exchange ─▶ checkpoint says the new one
//!                                                                              │
//!              rolled back ◀─ checkpoint ◀─ barrier: exchange back ◀─ failed, or asked ─┤ probation
//!                                                                              ▼
//!                                                        barrier: seal ─▶ done, the former one goes
//! ```
//!
//! A version that gets no state takes over the windows that begin after the cut, which is behind all windows that any
//! task had when the version was put beside the active one. The former one ends the others, and the swap is over with the
//! last of them.
//!
//! A task may fall back by itself, so at a barrier tasks may have different versions. A checkpoint of that would be of no
//! use: what the tasks have handed in is kept, all are told to exchange back, and the same checkpoint is taken once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use millrace_core::checkpoint::{Draining, InFile, OperatorState, PluginRef};
use millrace_core::swap::{CorrectedWindow, Corrections, Phase, SwapRecord};
use tracing::{info, warn};

use super::message::{Exchanged, RunError, TaskId};
use super::versions::{Candidate, VersionId};

mod desk;
mod history;
#[cfg(test)]
mod tests;

pub use desk::{Desk, TaskOrder};
pub use history::{SharedHistory, restored};

/// Checkpoints at which the tasks may disagree, one after the other, before the run is ended.
const DISAGREEMENTS_MAX: u32 = 3;

const ENDED_TOO_EARLY: &str = "the run ended before it could take over";

/// A swap that has passed the checks.
pub struct SwapOrder {
    /// its id is that of the record in the history
    pub candidate: Arc<Candidate>,
    pub operator: String,
    pub shadow: Option<super::control::Shadow>,
}

/// A run's swaps: one at a time.
pub struct Swaps {
    desks: BTreeMap<String, Arc<Desk>>,
    tasks: BTreeMap<String, BTreeSet<usize>>,
    pub history: SharedHistory,
    under_way: Option<UnderWay>,
    next: Option<SwapOrder>,
    probation: Duration,
    disagreements: u32,
    /// by operator, the version that all of its tasks run
    versions: BTreeMap<String, VersionId>,
    /// operators in which a former version still ends its windows, and the swap that followed it
    draining: BTreeMap<String, u64>,
}

struct UnderWay {
    order: SwapOrder,
    stage: Stage,
    caught_up: BTreeSet<usize>,
    /// what ran before, as checkpoints name it
    former: OperatorState,
    former_version: VersionId,
    former_is_over: Arc<AtomicBool>,
    /// of a version that gets no state: where the windows begin of which it has seen all, in every task
    next_window_ms: Option<i64>,
    /// in some task the new version has failed, and the former one runs
    is_falling: bool,
    /// in some task the former version runs no more
    is_former_lost: bool,
    /// the first reason that a task gave
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Requested,
    Attaching {
        number: u64,
    },
    Warming,
    Shadowing {
        until: Instant,
    },
    Ready,
    Exchanging {
        number: u64,
    },
    Probation {
        until: Instant,
    },
    /// fallen back in a task, or asked for
    ToRollBack,
    RollingBack {
        number: u64,
    },
    Sealing {
        number: u64,
    },
}

/// What a checkpoint at which a version has taken over changes in what the next ones say.
pub struct Changed {
    pub operator: String,
    /// none: the former version has ended its last window
    pub state: Option<OperatorState>,
}

/// What a task's part of a checkpoint says of its versions.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub operator: String,
    pub version: VersionId,
    pub exchanged: Option<Exchanged>,
    pub next_window_ms: Option<i64>,
    pub is_draining: bool,
}

/// What becomes of a checkpoint that all tasks have acknowledged.
pub enum Verdict {
    /// it stands; the records are to be in it, and shown once it is durable
    Stands { changed: Vec<Changed>, records: Vec<SwapRecord> },
    /// the tasks of an operator do not run the same version
    Again,
}

impl Swaps {
    /// `draining`: operators in which a former version still ends its windows.
    pub fn new(
        desks: BTreeMap<String, Arc<Desk>>,
        tasks: &BTreeSet<TaskId>,
        history: SharedHistory,
        probation: Duration,
        draining: BTreeSet<String>,
    ) -> Self {
        let mut of: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for task in tasks.iter().filter(|task| desks.contains_key(&*task.node)) {
            of.entry(task.node.to_string()).or_default().insert(task.task);
        }
        let versions = desks.keys().map(|operator| (operator.clone(), 0)).collect();
        let draining = draining.into_iter().map(|operator| {
            let of = |record: &&SwapRecord| record.operator == operator && record.phase == Phase::Draining;
            let record = history.lock().iter().rev().find(of).map_or(0, |record| record.id);
            (operator, record)
        });
        let draining = draining.collect();
        Self { desks, tasks: of, history, under_way: None, next: None, probation, disagreements: 0, versions, draining }
    }

    pub fn request(&mut self, order: SwapOrder) {
        if self.draining.contains_key(&order.operator) {
            self.history.update(order.candidate.id, |record| {
                record.phase = Phase::Failed;
                record.reason = Some("the version before still ends its windows: one at a time".to_owned());
            });
            return;
        }
        if let Some(under_way) = &mut self.under_way {
            // whoever swaps again is content with the last one
            if let Stage::Probation { until } = &mut under_way.stage {
                *until = Instant::now();
            }
            self.next = Some(order);
            return;
        }
        self.begin(order);
    }

    fn begin(&mut self, order: SwapOrder) {
        let former_version = self.versions.get(&order.operator).copied().unwrap_or_default();
        info!(
            operator = order.operator,
            id = order.candidate.id,
            "swap: the new version is put beside the running one"
        );
        self.history.update(order.candidate.id, |record| record.phase = Phase::Attaching);
        self.under_way = Some(UnderWay {
            order,
            stage: Stage::Requested,
            caught_up: BTreeSet::new(),
            former: OperatorState::default(),
            former_version,
            former_is_over: Arc::default(),
            next_window_ms: None,
            is_falling: false,
            is_former_lost: false,
            reason: None,
        });
    }

    /// In probation: the roles are exchanged again at the next barrier.
    pub fn roll_back(&mut self, operator: &str, why: String) {
        if let Some(under_way) = &mut self.under_way
            && under_way.order.operator == operator
            && matches!(under_way.stage, Stage::Probation { .. })
        {
            if under_way.is_former_lost {
                // some tasks could go back, others not: the probation ends at the next barrier, and the record says why
                warn!(operator, "there is no way back by itself: the former version failed");
                return;
            }
            under_way.reason = Some(why);
            under_way.stage = Stage::ToRollBack;
        }
    }

    pub fn caught_up(&mut self, task: &TaskId, version: VersionId, now_ms: i64) {
        let Some(under_way) = self.under_way.as_mut().filter(|u| u.order.candidate.id == version) else { return };
        under_way.caught_up.insert(task.task);
        let all = self.tasks.get(&under_way.order.operator).is_none_or(|all| *all == under_way.caught_up);
        if !all || under_way.stage != Stage::Warming {
            return;
        }
        self.all_caught_up(now_ms);
    }

    fn all_caught_up(&mut self, now_ms: i64) {
        let Some(under_way) = &mut self.under_way else { return };
        match under_way.order.shadow {
            None => {
                under_way.stage = Stage::Ready;
                self.history.update(under_way.order.candidate.id, |record| record.phase = Phase::Exchanging);
            }
            Some(shadow) => {
                under_way.stage = Stage::Shadowing { until: Instant::now() + shadow.duration };
                let until_ms = now_ms.saturating_add(i64::try_from(shadow.duration.as_millis()).unwrap_or(i64::MAX));
                self.history.update(under_way.order.candidate.id, |record| {
                    record.phase = Phase::Shadowing;
                    record.shadow_until_ms = Some(until_ms);
                });
            }
        }
    }

    /// A version beside the active one runs no more in a task.
    pub fn gave_up(&mut self, task: &TaskId, version: VersionId, reason: &str) {
        let reason = &*self.history.redacted(reason);
        let Some(under_way) = &mut self.under_way else { return };
        if under_way.order.operator != *task.node {
            return;
        }
        if under_way.order.candidate.id == version {
            match under_way.stage {
                Stage::Requested
                | Stage::Attaching { .. }
                | Stage::Warming
                | Stage::Shadowing { .. }
                | Stage::Ready => {
                    self.end(Phase::Failed, Some(reason.to_owned()));
                }
                // whether it has taken over is in the tasks' answers
                Stage::Exchanging { .. } => under_way.reason = under_way.reason.take().or(Some(reason.to_owned())),
                Stage::Probation { .. } | Stage::ToRollBack | Stage::RollingBack { .. } | Stage::Sealing { .. } => {}
            }
        } else if under_way.former_version == version {
            warn!(%task, "the former version runs no more: there is no way back by itself: {reason}");
            under_way.is_former_lost = true;
            let is_asked = under_way.stage == Stage::ToRollBack && !under_way.is_falling;
            if is_asked || matches!(under_way.stage, Stage::Probation { .. }) {
                // another task may have fallen back already: at the next barrier it shows whether they are of one mind
                under_way.stage = Stage::Probation { until: Instant::now() };
                under_way.reason =
                    Some(format!("its probation ended early, the former version failed beside it: {reason}"));
                return;
            }
            let before = under_way.reason.take().map(|before| format!("{before}; ")).unwrap_or_default();
            under_way.reason = Some(format!("{before}the former version failed, too: {reason}"));
        }
    }

    /// The active version has failed in a task.
    pub fn fell_back(&mut self, task: &TaskId, version: VersionId, reason: String) {
        let reason = self.history.redacted(&reason);
        let Some(under_way) = self.under_way.as_mut().filter(|u| u.order.candidate.id == version) else { return };
        warn!(%task, "the new version failed, it is rolled back: {reason}");
        under_way.is_falling = true;
        under_way.reason = under_way.reason.take().or(Some(reason));
        match under_way.stage {
            Stage::Exchanging { .. } | Stage::RollingBack { .. } | Stage::Sealing { .. } => {}
            _ => under_way.stage = Stage::ToRollBack,
        }
    }

    /// Looks at the time. Whether a barrier is wanted now.
    pub fn wants_barrier(&mut self, now_ms: i64) -> bool {
        let Some(under_way) = &mut self.under_way else { return false };
        let id = under_way.order.candidate.id;
        let report = under_way.order.candidate.comparison.as_ref().map(|comparison| comparison.report());
        match under_way.stage {
            Stage::Shadowing { until } => {
                let over = Instant::now() >= until;
                let equal = report.as_ref().is_some_and(millrace_core::swap::ShadowReport::is_equal);
                self.history.update(id, |record| record.shadow = report);
                if !over {
                    return false;
                }
                let promote = under_way.order.shadow.is_some_and(|shadow| shadow.promote_if_equal);
                if promote && equal {
                    under_way.stage = Stage::Ready;
                    self.history.update(id, |record| record.phase = Phase::Exchanging);
                    return true;
                }
                let why = match promote {
                    true => "its results are not equal: see the report",
                    false => "the shadow has ended; it was not to be promoted",
                };
                self.end(Phase::Discarded, Some(why.to_owned()));
                false
            }
            Stage::Probation { until } => Instant::now() >= until,
            Stage::Requested | Stage::Ready | Stage::ToRollBack => true,
            Stage::Warming => {
                // it may have been ready before the checkpoint of its barrier was
                let operator = &under_way.order.operator;
                if self.tasks.get(operator).is_some_and(|all| *all == under_way.caught_up) {
                    self.all_caught_up(now_ms);
                }
                false
            }
            Stage::Attaching { .. } | Stage::Exchanging { .. } | Stage::RollingBack { .. } | Stage::Sealing { .. } => {
                false
            }
        }
    }

    /// When [`Swaps::wants_barrier`] has to be asked again at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.under_way.as_ref()?.stage {
            Stage::Shadowing { until } | Stage::Probation { until } => Some(until),
            _ => None,
        }
    }

    /// A barrier is about to go out, and the run goes on after it. `operators`: as checkpoints name them now.
    pub fn at_barrier(&mut self, number: u64, operators: &BTreeMap<String, OperatorState>) {
        let Some(under_way) = &mut self.under_way else { return };
        let Some(desk) = self.desks.get(&under_way.order.operator) else { return };
        let back =
            TaskOrder::Exchange { to: under_way.former_version, keep: None, same_state: false, drains_before_ms: None };
        match under_way.stage {
            Stage::Requested => {
                under_way.former = operators.get(&under_way.order.operator).cloned().unwrap_or_default();
                desk.put(number, TaskOrder::Attach(Arc::clone(&under_way.order.candidate)));
                under_way.stage = Stage::Attaching { number };
            }
            Stage::Ready => {
                let order = TaskOrder::Exchange {
                    to: under_way.order.candidate.id,
                    keep: Some(Arc::clone(&under_way.former_is_over)),
                    same_state: under_way.order.candidate.origin.is_none() && !under_way.order.candidate.drains,
                    drains_before_ms: under_way.next_window_ms,
                };
                desk.put(number, order);
                under_way.stage = Stage::Exchanging { number };
            }
            Stage::ToRollBack => {
                desk.put(number, back);
                under_way.stage = Stage::RollingBack { number };
            }
            Stage::Probation { until } if Instant::now() >= until => {
                desk.put(number, TaskOrder::Seal);
                under_way.stage = Stage::Sealing { number };
            }
            Stage::RollingBack { number: before } if before == number => desk.put(number, back),
            _ => {}
        }
    }

    /// All tasks have acknowledged; their answers.
    pub fn judge(&mut self, number: u64, answers: &[Answer], now_ms: i64) -> Result<Verdict, RunError> {
        let mut verdict = self.judge_swap(number, answers, now_ms)?;
        if let Verdict::Stands { changed, records } = &mut verdict {
            self.end_draining(answers, changed, records);
        }
        Ok(verdict)
    }

    /// Of former versions that have ended their last window in every task.
    fn end_draining(&mut self, answers: &[Answer], changed: &mut Vec<Changed>, records: &mut Vec<SwapRecord>) {
        let is_over = |operator: &String| !answers.iter().any(|a| a.operator == *operator && a.is_draining);
        let over: Vec<String> = self.draining.keys().filter(|operator| is_over(operator)).cloned().collect();
        for operator in over {
            let record = self.draining.remove(&operator).and_then(|id| self.history.lock().get(id).cloned());
            // in probation it may be rolled back still
            let record = record.filter(|record| record.phase == Phase::Draining);
            records.extend(record.map(|record| SwapRecord { phase: Phase::Done, ..record }));
            changed.push(Changed { operator, state: None });
        }
    }

    fn judge_swap(&mut self, number: u64, answers: &[Answer], now_ms: i64) -> Result<Verdict, RunError> {
        let stands = Verdict::Stands { changed: Vec::new(), records: Vec::new() };
        let Some(under_way) = &mut self.under_way else { return Ok(stands) };
        let operator = under_way.order.operator.clone();
        let of: Vec<&Answer> = answers.iter().filter(|answer| answer.operator == operator).collect();
        let versions: BTreeSet<VersionId> = of.iter().map(|answer| answer.version).collect();
        let [version] = versions.into_iter().collect::<Vec<_>>()[..] else {
            if of.is_empty() {
                return Ok(stands);
            }
            self.disagreements += 1;
            if self.disagreements > DISAGREEMENTS_MAX {
                return Err(RunError::Plugin(format!(
                    "the tasks of `{operator}` do not agree on the version of its plugin{}\nhint: nothing is lost: the next \
                     start goes on from the last checkpoint",
                    under_way.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
                )));
            }
            under_way.stage = Stage::RollingBack { number };
            return Ok(Verdict::Again);
        };
        self.disagreements = 0;
        let id = under_way.order.candidate.id;
        let record = self.history.lock().get(id).cloned().unwrap_or_default();
        let exchanged: Vec<Exchanged> = of.iter().filter_map(|answer| answer.exchanged.clone()).collect();
        let is_draining = of.iter().any(|answer| answer.is_draining);
        match under_way.stage {
            Stage::Attaching { number: at } if at == number => {
                under_way.stage = Stage::Warming;
                under_way.next_window_ms = of.iter().filter_map(|answer| answer.next_window_ms).max();
                self.history.update(id, |record| {
                    if !record.phase.is_over() {
                        record.phase = Phase::Warming;
                    }
                });
                Ok(stands)
            }
            Stage::Exchanging { number: at } if at == number && version == id => {
                let pause = exchanged.iter().map(|e| e.pause).max().unwrap_or_default();
                under_way.stage = Stage::Probation { until: Instant::now() + self.probation };
                self.versions.insert(operator.clone(), version);
                let candidate = &under_way.order.candidate;
                let drains_before_ms = under_way.next_window_ms.filter(|_| is_draining);
                let former = under_way.former.plugin.clone().zip(drains_before_ms);
                let draining = former.map(|(plugin, before_ms)| Draining {
                    plugin: PluginRef { in_file: None, ..plugin },
                    state: under_way.former.state.clone(),
                    before_ms,
                });
                if draining.is_some() {
                    self.draining.insert(operator.clone(), id);
                }
                let state = OperatorState {
                    plugin: Some(in_place_of(&under_way.former, &candidate.plugin)),
                    state: candidate.state.clone(),
                    draining,
                    ..under_way.former.clone()
                };
                let probation_ms = i64::try_from(self.probation.as_millis()).unwrap_or(i64::MAX);
                let record = SwapRecord {
                    phase: Phase::Probation,
                    checkpoint: Some(number),
                    pause_us: Some(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)),
                    exchanged_at_ms: Some(now_ms),
                    probation_until_ms: Some(now_ms.saturating_add(probation_ms)),
                    drains_before_ms,
                    ..record
                };
                Ok(Verdict::Stands { changed: vec![Changed { operator, state: Some(state) }], records: vec![record] })
            }
            // it was gone before it could take over, in every task
            Stage::Exchanging { number: at } if at == number => {
                let reason = under_way.reason.clone().unwrap_or_else(|| "it failed before it could take over".into());
                self.end(Phase::Failed, Some(reason));
                Ok(stands)
            }
            Stage::Sealing { number: at } if at == number && version == id => {
                let reason = under_way.reason.clone();
                self.end(Phase::Done, reason);
                Ok(stands)
            }
            // the former version was gone before it could take over again, in every task
            Stage::RollingBack { number: at } if at == number && version == id => {
                let asked = under_way.reason.clone().unwrap_or_default();
                let reason = format!("there was no way back ({asked}): the former version runs no more");
                self.end(Phase::Done, Some(reason));
                Ok(stands)
            }
            // at a barrier for it, or because every task has fallen back by itself
            _ if version == under_way.former_version
                && !matches!(
                    under_way.stage,
                    Stage::Requested
                        | Stage::Attaching { .. }
                        | Stage::Warming
                        | Stage::Shadowing { .. }
                        | Stage::Ready
                ) =>
            {
                let mut corrections = Corrections::default();
                let by_themselves = self.desks.get(&operator).map(|desk| desk.take_corrections()).unwrap_or_default();
                for one in exchanged.into_iter().map(|e| e.corrections).chain(by_themselves) {
                    add(&mut corrections, one);
                }
                let record = SwapRecord {
                    phase: Phase::RolledBack,
                    reason: under_way.reason.clone(),
                    rollback: Some(corrections),
                    checkpoint: Some(number),
                    ..record
                };
                let state = under_way.former.clone();
                self.versions.insert(operator.clone(), version);
                // it has all windows again
                self.draining.remove(&operator);
                self.finish();
                Ok(Verdict::Stands { changed: vec![Changed { operator, state: Some(state) }], records: vec![record] })
            }
            _ => Ok(stands),
        }
    }

    /// The checkpoint that says it is durable.
    pub fn show(&mut self, record: SwapRecord) {
        self.history.update(record.id, |place| *place = record);
    }

    /// The run is about to end: tasks that end cannot be asked twice, so they must be of one mind before. Whether they are;
    /// if not, a barrier is wanted.
    pub fn wind_down(&mut self) -> bool {
        if let Some(next) = self.next.take() {
            self.history.update(next.candidate.id, |record| {
                record.phase = Phase::Failed;
                record.reason = Some(ENDED_TOO_EARLY.to_owned());
            });
        }
        match self.under_way.as_mut().map(|under_way| &mut under_way.stage) {
            None => true,
            Some(Stage::Probation { until }) => {
                *until = Instant::now();
                false
            }
            Some(Stage::ToRollBack | Stage::Exchanging { .. } | Stage::RollingBack { .. } | Stage::Sealing { .. }) => {
                false
            }
            Some(_) => {
                self.end(Phase::Failed, Some(ENDED_TOO_EARLY.to_owned()));
                true
            }
        }
    }

    /// The run is over: nobody will hear of what is under way.
    pub fn close(&mut self) {
        self.history.open(false);
        if let Some(under_way) = &self.under_way {
            match under_way.stage {
                Stage::Probation { .. } | Stage::Sealing { .. } => {
                    self.end(Phase::Done, Some("the run ended in its probation".to_owned()));
                }
                Stage::ToRollBack | Stage::RollingBack { .. } => self.end(Phase::RolledBack, None),
                _ => self.end(Phase::Failed, Some(ENDED_TOO_EARLY.to_owned())),
            }
        }
    }

    fn end(&mut self, phase: Phase, reason: Option<String>) {
        let Some(under_way) = &self.under_way else { return };
        let report = under_way.order.candidate.comparison.as_ref().map(|comparison| comparison.report());
        let phase = match phase {
            Phase::Done if self.draining.contains_key(&under_way.order.operator) => Phase::Draining,
            other => other,
        };
        self.history.update(under_way.order.candidate.id, |record| {
            record.phase = phase;
            record.reason = reason.or_else(|| record.reason.take());
            record.shadow = report.or_else(|| record.shadow.take());
        });
        let (operator, id) = (&under_way.order.operator, under_way.order.candidate.id);
        info!(operator, id, ?phase, "swap: it is over");
        self.finish();
    }

    fn finish(&mut self) {
        let Some(under_way) = self.under_way.take() else { return };
        // whichever of the two is beside the active one
        under_way.order.candidate.is_over.store(true, Relaxed);
        under_way.former_is_over.store(true, Relaxed);
        if let Some(next) = self.next.take() {
            self.begin(next);
        }
    }
}

/// The plugin that runs from now on, and what the pipeline file gave.
fn in_place_of(former: &OperatorState, plugin: &PluginRef) -> PluginRef {
    let given = former
        .plugin
        .as_ref()
        .map(|p| p.in_file.clone().unwrap_or_else(|| InFile { sha256: p.sha256.clone(), config: p.config.clone() }));
    let is_other = |file: &InFile| file.sha256 != plugin.sha256 || file.config != plugin.config;
    PluginRef { in_file: given.filter(is_other), ..plugin.clone() }
}

fn add(to: &mut Corrections, one: Corrections) {
    to.given_again += one.given_again;
    to.left_as_given += one.left_as_given;
    for window in one.windows {
        let CorrectedWindow { start_ms, end_ms, given_again, left_as_given } = window;
        match to.windows.iter_mut().find(|w| (w.start_ms, w.end_ms) == (start_ms, end_ms)) {
            Some(known) => {
                known.given_again += given_again;
                known.left_as_given += left_as_given;
            }
            None => to.windows.push(window),
        }
    }
    to.windows.sort_by_key(|w| (w.start_ms, w.end_ms));
}
