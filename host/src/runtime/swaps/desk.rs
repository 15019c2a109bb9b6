//! Where the coordinator leaves its orders for the tasks of an operator, each for one barrier, and where they leave what
//! they have done without any.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_core::swap::Corrections;

use crate::runtime::versions::{Candidate, VersionId};

/// What a task is to do at a barrier.
#[derive(Clone)]
pub enum TaskOrder {
    /// put this version beside the active one
    Attach(Arc<Candidate>),
    /// make this version the active one, unless it is
    Exchange {
        to: VersionId,
        /// the former one stays as fallback, until this says that it is over
        keep: Option<Arc<AtomicBool>>,
        /// what has not changed since it was copied is as it was exported
        same_state: bool,
        /// the former one ends the windows that begin before
        drains_before_ms: Option<i64>,
    },
    /// do not fall back by yourself any more
    Seal,
}

/// Where the tasks of one operator find their orders, and leave what they have done without any.
#[derive(Default)]
pub struct Desk {
    orders: Mutex<BTreeMap<u64, TaskOrder>>,
    corrections: Mutex<Vec<Corrections>>,
}

impl Desk {
    pub fn at(&self, checkpoint: u64) -> Option<TaskOrder> {
        lock(&self.orders).get(&checkpoint).cloned()
    }

    pub(super) fn put(&self, checkpoint: u64, order: TaskOrder) {
        let mut orders = lock(&self.orders);
        // every task has passed the former ones
        orders.retain(|number, _| *number >= checkpoint);
        orders.insert(checkpoint, order);
    }

    /// A task has fallen back by itself.
    pub fn corrected(&self, _task: usize, _from: VersionId, corrections: Corrections) {
        lock(&self.corrections).push(corrections);
    }

    pub(super) fn take_corrections(&self) -> Vec<Corrections> {
        std::mem::take(&mut lock(&self.corrections))
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
