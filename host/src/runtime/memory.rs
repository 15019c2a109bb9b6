//! How much of `memory_limit` the state takes, task by task, and what follows.
//!
//! ```text
//!   0 ────────────────── 80 % ─────────────── 95 % ── share of a task
//!     all are read          │ partitions ahead of   │ memory: a checkpoint, then the run stops
//!                           │ the slowest wait      │ disk: never reached, the coldest windows go out at half of it
//! ```
//!
//! Each plugin task has an equal share: what one does not need, another cannot have. Counted are the instance's memory and
//! the host's tables of groups. A guest's memory grows by doubling, so the hard limit of an instance is twice its share:
//! beyond the share there is time for a checkpoint.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_core::limits::{MEMORY_FULL_PERCENT, MEMORY_TIGHT_PERCENT};
use tracing::{info, warn};

use super::message::TaskId;
use crate::source::Waker;

/// The tasks of a run.
#[derive(Debug, Default)]
pub struct Memory {
    tight: AtomicBool,
    tasks: Mutex<Vec<Arc<TaskMemory>>>,
    /// of the sources that may wait
    wakers: Mutex<Vec<Arc<Waker>>>,
}

/// One task's part.
#[derive(Debug)]
pub struct TaskMemory {
    pub task: TaskId,
    pub share_bytes: u64,
    /// of all tasks together
    pub limit_bytes: u64,
    used_bytes: AtomicU64,
    groups: AtomicU64,
}

impl TaskMemory {
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }

    pub fn groups(&self) -> u64 {
        self.groups.load(Relaxed)
    }

    /// With so much, partitions ahead of the slowest would have to wait.
    pub fn is_tight_with(&self, used_bytes: u64) -> bool {
        used_bytes.saturating_mul(100) >= self.share_bytes.saturating_mul(MEMORY_TIGHT_PERCENT)
    }

    fn is_beyond(&self, percent: u64) -> bool {
        self.used_bytes().saturating_mul(100) >= self.share_bytes.saturating_mul(percent)
    }
}

impl Memory {
    pub fn task(&self, task: TaskId, share_bytes: u64, limit_bytes: u64) -> Arc<TaskMemory> {
        let (used_bytes, groups) = (AtomicU64::new(0), AtomicU64::new(0));
        let memory = Arc::new(TaskMemory { task, share_bytes, limit_bytes, used_bytes, groups });
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&memory));
        memory
    }

    /// Who is woken when there is room again.
    pub fn wakes(&self, wakers: &[Arc<Waker>]) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(wakers);
    }

    /// A task takes so much now.
    pub fn publish(&self, task: &TaskMemory, used_bytes: u64, groups: u64) {
        task.used_bytes.store(used_bytes, Relaxed);
        task.groups.store(groups, Relaxed);
        if task.is_beyond(MEMORY_TIGHT_PERCENT) {
            if !self.tight.swap(true, Relaxed) {
                warn!(
                    task = %task.task,
                    used_bytes,
                    share_bytes = task.share_bytes,
                    groups,
                    "state has reached {MEMORY_TIGHT_PERCENT} % of its share of memory_limit: partitions ahead of the \
                     slowest wait"
                );
            }
        } else if self.is_tight() && !self.tasks().iter().any(|task| task.is_beyond(MEMORY_TIGHT_PERCENT)) {
            self.tight.store(false, Relaxed);
            info!("there is room again below memory_limit: all partitions are read on");
            for waker in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                waker.wake();
            }
        }
    }

    /// Partitions ahead of the slowest are not to be read.
    pub fn is_tight(&self) -> bool {
        self.tight.load(Relaxed)
    }

    pub fn tasks(&self) -> Vec<Arc<TaskMemory>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the run must stop; none: it need not.
    pub fn full(&self) -> Option<String> {
        if !self.is_tight() {
            return None;
        }
        let tasks = self.tasks();
        let full = tasks.iter().find(|task| task.is_beyond(MEMORY_FULL_PERCENT))?;
        let (used, share) = (full.used_bytes() >> 20, full.share_bytes >> 20);
        let each: Vec<String> = tasks
            .iter()
            .map(|t| format!("  {}: {} MiB of {} MiB, {} groups", t.task, t.used_bytes() >> 20, share, t.groups()))
            .collect();
        Some(format!(
            "the state of {} takes {used} MiB of its share of {share} MiB of `memory_limit` ({} MiB in all): a checkpoint was \
             taken, nothing is lost\n{}\nhint: in `[state]`, a larger `memory_limit`, or `backend = \"disk\"`: tumbling and \
             sliding windows that do not fit go to local files; then the same command goes on from the checkpoint",
            full.task,
            full.limit_bytes >> 20,
            each.join("\n")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_beyond_its_share_is_enough_and_room_lets_all_go_on() {
        let memory = Memory::default();
        let of = |task| memory.task(TaskId { node: "metrics".into(), task }, 1_000 << 20, 2_000 << 20);
        let (a, b) = (of(0), of(1));
        memory.publish(&a, 799 << 20, 10);
        memory.publish(&b, 1 << 20, 1);
        assert!(!memory.is_tight());
        memory.publish(&a, 800 << 20, 10);
        assert!(memory.is_tight() && memory.full().is_none());
        memory.publish(&b, 960 << 20, 77);
        memory.publish(&a, 1 << 20, 1);
        assert!(memory.is_tight(), "the other still is");
        let words = memory.full().expect("it is full");
        assert!(words.contains("metrics[1] takes 960 MiB of its share of 1000 MiB"), "{words}");
        assert!(words.contains("77 groups") && words.contains("backend = \"disk\""), "{words}");
        memory.publish(&b, 1 << 20, 1);
        assert!(!memory.is_tight() && memory.full().is_none());
    }
}
