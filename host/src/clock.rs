//! The wall clock, handed in so that a test can own it. Event time never looks at it, only `max_future` does (idleness is
//! on a steady clock); in `time = "processing"` it is the time of all events ([`NeverBack`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync + std::fmt::Debug {
    /// milliseconds since the epoch
    fn now_ms(&self) -> i64;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still while the one below it is behind where it has been.
#[derive(Debug)]
pub struct NeverBack {
    clock: Arc<dyn Clock>,
    last_ms: AtomicI64,
}

impl NeverBack {
    /// `from_ms`: where it has been before.
    pub fn new(clock: Arc<dyn Clock>, from_ms: i64) -> Self {
        Self { clock, last_ms: AtomicI64::new(from_ms) }
    }
}

impl Clock for NeverBack {
    fn now_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        self.last_ms.fetch_max(now_ms, SeqCst).max(now_ms)
    }
}

/// Processor time that this thread has used, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` of ours, which is all that the call writes to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if failed != 0 {
        return 0;
    }
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Scripted(AtomicI64);

    impl Clock for Scripted {
        fn now_ms(&self) -> i64 {
            self.0.load(SeqCst)
        }
    }

    #[test]
    fn it_stands_still_until_the_machine_has_caught_up() {
        let machine = Arc::new(Scripted(AtomicI64::new(900)));
        let clock = NeverBack::new(Arc::clone(&machine) as Arc<dyn Clock>, 1_000);
        let at = |ms| {
            machine.0.store(ms, SeqCst);
            clock.now_ms()
        };
        assert_eq!([at(900), at(1_100), at(500), at(1_100), at(1_101)], [1_000, 1_100, 1_100, 1_100, 1_101]);
    }
}
