//! Which window an event belongs to, and what phase a window is in.
//!
//! ```text
//!            open                    closed                 expired
//!   ├────────────────────────┤├──────────────────────┤├──────────────────▶  watermark
//!   start                 end − 1            end − 1 + lateness
//! ```
//!
//! Windows are `[start, end)` in milliseconds, aligned to the epoch plus an offset. (Flink: `TimeWindow`,
//! `TumblingEventTimeWindows`; a window's largest timestamp is `end − 1`.)

use serde::{Deserialize, Serialize};

/// `[start, end)`, milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    pub start_ms: i64,
    pub end_ms: i64,
}

/// What a window still takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// collects events; no result yet
    Open,
    /// has given its result; an event still corrects it
    Closed,
    /// takes nothing any more
    Expired,
}

impl Window {
    /// The largest event time that belongs to this window.
    pub fn max_time_ms(&self) -> i64 {
        self.end_ms - 1
    }

    /// The phase of this window under a watermark (none: no event has been seen).
    pub fn phase(&self, watermark_ms: Option<i64>, allowed_lateness_ms: i64) -> Phase {
        match watermark_ms {
            Some(w) if w >= self.max_time_ms().saturating_add(allowed_lateness_ms) => Phase::Expired,
            Some(w) if w >= self.max_time_ms() => Phase::Closed,
            _ => Phase::Open,
        }
    }
}

/// Assigns events to non-overlapping windows of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tumbling {
    pub size_ms: i64,
    pub offset_ms: i64,
}

impl Tumbling {
    /// `size_ms` must be positive; the pipeline file is checked for that.
    pub fn new(size_ms: i64, offset_ms: i64) -> Self {
        debug_assert!(size_ms > 0);
        Self { size_ms: size_ms.max(1), offset_ms }
    }

    /// The window of an event. Times near the ends of `i64` saturate.
    #[inline]
    pub fn assign(&self, time_ms: i64) -> Window {
        let start_ms = time_ms.saturating_sub(time_ms.wrapping_sub(self.offset_ms).rem_euclid(self.size_ms));
        self.starting_at(start_ms)
    }

    #[inline]
    pub fn starting_at(&self, start_ms: i64) -> Window {
        Window { start_ms, end_ms: start_ms.saturating_add(self.size_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn boundaries_belong_to_the_window_that_starts_there() {
        let w = Tumbling::new(300_000, 0);
        assert_eq!(w.assign(299_999), Window { start_ms: 0, end_ms: 300_000 });
        assert_eq!(w.assign(300_000), Window { start_ms: 300_000, end_ms: 600_000 });
        assert_eq!(w.assign(-1), Window { start_ms: -300_000, end_ms: 0 });
    }

    #[test]
    fn phases_change_exactly_at_the_contract_s_instants() {
        let w = Window { start_ms: 0, end_ms: 1000 };
        assert_eq!(w.phase(None, 0), Phase::Open);
        assert_eq!(w.phase(Some(998), 0), Phase::Open);
        assert_eq!(w.phase(Some(999), 0), Phase::Expired);
        assert_eq!(w.phase(Some(999), 10), Phase::Closed);
        assert_eq!(w.phase(Some(1008), 10), Phase::Closed);
        assert_eq!(w.phase(Some(1009), 10), Phase::Expired);
    }

    proptest! {
        #[test]
        fn an_event_is_in_its_window_and_windows_tile(
            t in -1_000_000_000_000_i64..4_000_000_000_000,
            size in 1_i64..100_000_000,
            offset in -100_000_000_i64..100_000_000,
        ) {
            let a = Tumbling::new(size, offset);
            let w = a.assign(t);
            prop_assert!(w.start_ms <= t && t < w.end_ms);
            prop_assert_eq!((w.start_ms - offset).rem_euclid(size), 0);
            prop_assert_eq!(a.assign(w.end_ms).start_ms, w.end_ms);
        }
    }
}
