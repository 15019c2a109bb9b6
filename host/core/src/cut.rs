//! Where one version of a plugin ends and the next begins: windows that start before the cut are the former one's, the
//! others the next one's.
//!
//! ```text
//!                 cut
//!   ├─────────┤    ╎             former
//!       ├──────────╎──┤          former: it takes events behind the cut, too
//!                  ├─────────┤   next
//!   panes: former  ╎ both │ next
//! ```

use crate::window::{Phase, Slicing};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    slicing: Slicing,
    before_ms: i64,
}

/// Whose windows a pane is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Former,
    Both,
    Next,
}

impl Side {
    pub fn is_formers(self) -> bool {
        self != Self::Next
    }

    pub fn is_nexts(self) -> bool {
        self != Self::Former
    }
}

impl Cut {
    /// Windows that start before `before_ms` are the former version's.
    pub fn new(slicing: Slicing, before_ms: i64) -> Self {
        Self { slicing, before_ms }
    }

    pub fn before_ms(&self) -> i64 {
        self.before_ms
    }

    /// Whether the window that starts here is the former version's.
    pub fn is_formers(&self, window_start_ms: i64) -> bool {
        window_start_ms < self.before_ms
    }

    /// Of the pane that an event belongs to; of a pane: of its start.
    pub fn side(&self, time_ms: i64) -> Side {
        let pane = self.slicing.pane(time_ms);
        let (first, last) = (self.slicing.first_window(pane), self.slicing.last_window(pane));
        match (self.is_formers(first.start_ms), self.is_formers(last.start_ms)) {
            (true, true) => Side::Former,
            (true, false) => Side::Both,
            (false, _) => Side::Next,
        }
    }

    /// Whether all of the former version's windows have expired.
    pub fn is_over(&self, watermark_ms: Option<i64>, allowed_lateness_ms: i64) -> bool {
        let last = self.slicing.last_window(self.slicing.pane(self.before_ms.saturating_sub(1)));
        last.phase(watermark_ms, allowed_lateness_ms) == Phase::Expired
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against all windows around: each event's side by the windows that hold it, the end by the windows before the cut.
        #[test]
        fn sides_are_those_of_the_windows(
            (size, slide) in (1_i64..40).prop_flat_map(|size| (Just(size), 1..=size)),
            offset in 0_i64..40,
            before in -50_i64..50,
            time in -100_i64..100,
            watermark in -150_i64..150,
            lateness in 0_i64..20,
        ) {
            let cut = Cut::new(Slicing::new(size, slide, offset), before);
            let starts = (-400..400).map(|n| offset + n * slide);
            let holding: Vec<i64> = starts.clone().filter(|s| (*s..s + size).contains(&time)).collect();
            let expected = match (holding.iter().any(|s| *s < before), holding.iter().any(|s| *s >= before)) {
                (true, false) => Side::Former,
                (true, true) => Side::Both,
                _ => Side::Next,
            };
            prop_assert_eq!(cut.side(time), expected);
            let all_over = starts.clone().filter(|s| *s < before).all(|s| watermark >= s + size - 1 + lateness);
            prop_assert_eq!(cut.is_over(Some(watermark), lateness), all_over);
            prop_assert!(!cut.is_over(None, lateness));
            let next = starts.filter(|s| *s > time).min();
            prop_assert_eq!(Some(Slicing::new(size, slide, offset).next_window_ms(time)), next);
        }
    }
}
