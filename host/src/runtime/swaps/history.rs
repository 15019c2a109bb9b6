//! The history of a run's swaps, shared: the coordinator writes it, the API reads it. What plugins say is redacted on its way
//! in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_core::checkpoint::OperatorState;
use millrace_core::swap::{History, Phase, SwapRecord};

use super::ENDED_TOO_EARLY;
use crate::spec::secrets::Secrets;

/// The history as the run writes it and the API reads it.
#[derive(Clone, Debug, Default)]
pub struct SharedHistory {
    history: Arc<Mutex<History>>,
    /// the coordinator is there, and takes orders
    is_open: Arc<AtomicBool>,
    /// that reasons may hold: plugins say what they like
    secrets: Secrets,
}

impl SharedHistory {
    pub fn new(secrets: Secrets) -> Self {
        Self { secrets, ..Self::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, or no more, orders are taken.
    pub fn open(&self, is_open: bool) {
        self.is_open.store(is_open, Relaxed);
    }

    pub fn is_open(&self) -> bool {
        self.is_open.load(Relaxed)
    }

    pub fn snapshot(&self) -> History {
        self.lock().clone()
    }

    /// A reason that checkpoints and logs may keep.
    pub(super) fn redacted(&self, reason: &str) -> String {
        self.secrets.redact(reason)
    }

    pub(super) fn update(&self, id: u64, change: impl FnOnce(&mut SwapRecord)) {
        if let Some(record) = self.lock().get_mut(id) {
            change(record);
            record.reason = record.reason.take().map(|reason| self.redacted(&reason));
        }
    }
}

/// The history as a checkpoint has it: what was under way when the run ended is over, but for windows that a former version
/// still ends.
pub fn restored(mut history: History, operators: &BTreeMap<String, OperatorState>) -> History {
    let open: Vec<u64> = history.iter().filter(|record| !record.phase.is_over()).map(|record| record.id).collect();
    for id in open {
        let Some(record) = history.get_mut(id) else { continue };
        let is_draining = operators.get(&record.operator).is_some_and(|operator| operator.draining.is_some());
        let (phase, reason) = match (record.phase, is_draining) {
            (Phase::Draining, true) => continue,
            (Phase::Draining, false) => (Phase::Done, None),
            (Phase::Probation, true) => (Phase::Draining, Some("the run ended in its probation")),
            (Phase::Probation, false) => (Phase::Done, Some("the run ended in its probation")),
            _ => (Phase::Failed, Some(ENDED_TOO_EARLY)),
        };
        record.phase = phase;
        record.reason = reason.map(str::to_owned).or_else(|| record.reason.take());
    }
    history
}
