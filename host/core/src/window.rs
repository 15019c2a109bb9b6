//! Which window an event belongs to, and what phase a window is in.
//!
//! ```text
//!            open                    closed                 expired
//!   ├────────────────────────┤├──────────────────────┤├──────────────────▶  watermark
//!   start                 end − 1            end − 1 + lateness
//! ```
//!
//! Windows are `[start, end)` in milliseconds, aligned to the epoch plus an offset. (Flink: `TimeWindow`,
//! `TumblingEventTimeWindows`, `SlidingEventTimeWindows`; a window's largest timestamp is `end − 1`.)
//!
//! Windows that overlap are cut into *panes*, whose edges are the windows' starts and ends (Li et al., "No Pane, No
//! Gain", SIGMOD Record 2005): an event goes into one pane, a window is put together from its panes.
//!
//! ```text
//!   size 5, slide 2      ├─────────┤
//!                            ├─────────┤
//!                                ├─────────┤
//!   panes                ├─┤┤├─┤┤├─┤┤├─┤┤├─┤      two a slide; one where the slide divides the size
//! ```

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

/// Windows of one size, every so often: tumbling where `slide_ms` is `size_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slicing {
    size_ms: i64,
    slide_ms: i64,
    offset_ms: i64,
}

impl Slicing {
    /// `0 < slide_ms ≤ size_ms`; the pipeline file is checked for that.
    pub fn new(size_ms: i64, slide_ms: i64, offset_ms: i64) -> Self {
        debug_assert!(0 < slide_ms && slide_ms <= size_ms);
        let size_ms = size_ms.max(1);
        Self { size_ms, slide_ms: slide_ms.clamp(1, size_ms), offset_ms }
    }

    pub fn tumbling(size_ms: i64, offset_ms: i64) -> Self {
        Self::new(size_ms, size_ms, offset_ms)
    }

    /// Whether each pane is a window.
    pub fn is_tumbling(&self) -> bool {
        self.size_ms == self.slide_ms
    }

    fn slide_start(&self, time_ms: i64) -> i64 {
        Tumbling::new(self.slide_ms, self.offset_ms).assign(time_ms).start_ms
    }

    /// The pane of an event.
    #[inline]
    pub fn pane(&self, time_ms: i64) -> Window {
        let start_ms = self.slide_start(time_ms);
        let rest_ms = self.size_ms % self.slide_ms;
        if rest_ms == 0 {
            return Window { start_ms, end_ms: start_ms.saturating_add(self.slide_ms) };
        }
        // in the first part of a slide an older window ends
        let middle_ms = start_ms.saturating_add(rest_ms);
        if time_ms < middle_ms {
            Window { start_ms, end_ms: middle_ms }
        } else {
            Window { start_ms: middle_ms, end_ms: start_ms.saturating_add(self.slide_ms) }
        }
    }

    pub fn window(&self, start_ms: i64) -> Window {
        Window { start_ms, end_ms: start_ms.saturating_add(self.size_ms) }
    }

    /// The window that ends last among those with this pane.
    #[inline]
    pub fn last_window(&self, pane: Window) -> Window {
        self.window(self.slide_start(pane.start_ms))
    }

    /// The window that ends first among those with this pane.
    #[inline]
    pub fn first_window(&self, pane: Window) -> Window {
        let last = self.last_window(pane);
        let before = last.end_ms.saturating_sub(pane.end_ms) / self.slide_ms;
        self.window(last.start_ms.saturating_sub(before.saturating_mul(self.slide_ms)))
    }

    /// The start of the first window that begins after an event.
    pub fn next_window_ms(&self, time_ms: i64) -> i64 {
        self.slide_start(time_ms).saturating_add(self.slide_ms)
    }

    /// All windows with this pane, the last one first.
    pub fn windows(&self, pane: Window) -> impl Iterator<Item = Window> + use<> {
        let (last, this) = (self.last_window(pane), *self);
        (0_i64..)
            .map(move |back| this.window(last.start_ms.saturating_sub(this.slide_ms.saturating_mul(back))))
            .take_while(move |window| window.start_ms <= pane.start_ms && window.end_ms >= pane.end_ms)
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

    /// By the definition: all windows whose `[start, end)` holds the event, found by trying.
    fn windows_with(size: i64, slide: i64, offset: i64, t: i64) -> Vec<i64> {
        (t - size - slide..=t).filter(|s| (s - offset).rem_euclid(slide) == 0 && *s <= t && t < s + size).collect()
    }

    proptest! {
        #[test]
        fn a_pane_is_in_the_windows_of_each_of_its_instants(
            t in -500_i64..500, size in 1_i64..60, slide in 1_i64..60, offset in 0_i64..60,
        ) {
            prop_assume!(slide <= size);
            let slicing = Slicing::new(size, slide, offset);
            let pane = slicing.pane(t);
            prop_assert!(pane.start_ms <= t && t < pane.end_ms);
            let mut windows: Vec<i64> = slicing.windows(pane).map(|w| w.start_ms).collect();
            prop_assert_eq!(windows.first().copied(), Some(slicing.last_window(pane).start_ms));
            windows.reverse();
            for instant in pane.start_ms..pane.end_ms {
                prop_assert_eq!(&windows, &windows_with(size, slide, offset, instant));
                prop_assert_eq!(slicing.pane(instant), pane);
            }
            // at most two panes a slide
            let edges = (0..slide).filter(|d| slicing.pane(t + d).start_ms == t + d).count();
            let most = if size % slide == 0 { 1 } else { 2 };
            prop_assert!(edges <= most, "{} panes a slide", edges);
        }

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
