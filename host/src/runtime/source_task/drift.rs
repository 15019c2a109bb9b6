//! How far partitions may be apart in event time: `max_drift`, over the sources that meet in an operator.
//!
//! Each source task has a slot with the watermark of its slowest partition that counts. A task that holds a partition
//! back says so before it looks at the slots for the last time, and is woken as soon as one of them changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};

use crate::source::Waker;

/// No partition of a task counts.
pub const NONE: i64 = i64::MAX;
/// A partition with a backlog has had no event yet: nothing is known of how far behind it is.
pub const UNKNOWN: i64 = i64::MIN;

#[derive(Debug)]
pub struct Drift {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    slowest_ms: AtomicI64,
    holds_back: AtomicBool,
    waker: Arc<Waker>,
}

/// One task's place.
#[derive(Clone, Debug)]
pub struct DriftSlot {
    drift: Arc<Drift>,
    own: usize,
    /// the slots of all tasks of all sources that meet this one in an operator, and of its own source
    meets: Arc<[usize]>,
}

impl Drift {
    /// Until a task has published, its slowest is unknown.
    pub fn new(wakers: Vec<Arc<Waker>>) -> Arc<Self> {
        let slot = |waker| Slot { slowest_ms: AtomicI64::new(UNKNOWN), holds_back: AtomicBool::new(false), waker };
        Arc::new(Self { slots: wakers.into_iter().map(slot).collect() })
    }

    pub fn slot(self: &Arc<Self>, own: usize, meets: Arc<[usize]>) -> DriftSlot {
        DriftSlot { drift: Arc::clone(self), own, meets }
    }
}

impl DriftSlot {
    pub fn publish(&self, slowest_ms: i64) {
        let slots = &self.drift.slots;
        let Some(own) = slots.get(self.own) else { return };
        if own.slowest_ms.swap(slowest_ms, SeqCst) == slowest_ms {
            return;
        }
        for (number, slot) in slots.iter().enumerate() {
            if number != self.own && slot.holds_back.swap(false, SeqCst) {
                slot.waker.wake();
            }
        }
    }

    /// The slowest of those that meet here.
    pub fn slowest_ms(&self) -> i64 {
        let slots = &self.drift.slots;
        self.meets.iter().filter_map(|&slot| slots.get(slot)).map(|s| s.slowest_ms.load(SeqCst)).min().unwrap_or(NONE)
    }

    /// From here on a change of any slot wakes this task.
    pub fn hold_back(&self) {
        if let Some(own) = self.drift.slots.get(self.own) {
            own.holds_back.store(true, SeqCst);
        }
    }
}

/// By source, the sources whose partitions are compared with its own. `operators`: the sources above each operator.
pub fn meeting(sources: usize, operators: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let meets = |a: usize, b: usize| a == b || operators.iter().any(|o| o.contains(&a) && o.contains(&b));
    (0..sources).map(|a| (0..sources).filter(|b| meets(a, *b)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_sources_that_meet_in_an_operator_are_compared() {
        // 0 and 1 meet in one operator, 1 and 2 in another, 3 is alone
        let meets = meeting(4, &[vec![0, 1], vec![1, 2], vec![3]]);
        assert_eq!(meets, [vec![0, 1], vec![0, 1, 2], vec![1, 2], vec![3]]);
    }

    #[test]
    fn who_holds_back_is_woken_by_any_change_of_the_others() {
        let wakers: Vec<Arc<Waker>> = (0..2).map(|_| Arc::default()).collect();
        let drift = Drift::new(wakers.clone());
        let (slow, fast) = (drift.slot(0, [0, 1].into()), drift.slot(1, [0, 1].into()));
        assert_eq!(fast.slowest_ms(), UNKNOWN);
        slow.publish(100);
        fast.publish(900);
        assert_eq!(fast.slowest_ms(), 100);
        fast.hold_back();
        let started = Instant::now();
        let waiting = Arc::clone(&wakers[1]);
        let waits = std::thread::spawn(move || waiting.wait(Duration::from_secs(20)));
        slow.publish(100);
        slow.publish(200);
        waits.join().expect("the thread ends");
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(fast.slowest_ms(), 200);
    }
}
