//! When a partition is idle, and what a source does when all of its partitions are.
//!
//! Idle means: caught up with an end that a broker has named within the timeout, and silent for as long. No answer is
//! not idleness, and neither are backlog, backpressure or a wait for a slower partition: they leave the position behind
//! the end. All times in here are of a steady clock.

use crate::watermark::{InputWatermarks, Watermark};

/// What is known of a partition, besides its event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// the next message to read
    pub position: i64,
    /// the end offset last heard of
    pub end: Option<i64>,
    pub end_answered_at_ms: Option<i64>,
    /// the last message, or the start of the run
    pub last_message_at_ms: i64,
}

impl Known {
    /// There is more to read, by the last answer.
    pub fn has_backlog(&self) -> bool {
        self.end.is_some_and(|end| self.position < end)
    }

    pub fn is_idle(&self, timeout_ms: u64, now_ms: i64) -> bool {
        let since_ms = now_ms.saturating_sub_unsigned(timeout_ms);
        self.end.is_some_and(|end| end <= self.position)
            && self.end_answered_at_ms.is_some_and(|answered| since_ms <= answered)
            && self.last_message_at_ms <= since_ms
    }
}

/// The tasks of a source with `when_idle = "advance"`: when all partitions of all of them are idle, event time goes on
/// by the time that passes.
#[derive(Clone, Debug)]
pub struct Together {
    tasks: InputWatermarks,
    /// the largest watermark of any partition
    furthest_ms: Option<i64>,
    /// where event time stood when the last partition became idle, and when that was
    from: Option<(i64, i64)>,
}

impl Together {
    pub fn new(tasks: usize) -> Self {
        Self { tasks: InputWatermarks::new(tasks, None), furthest_ms: None, from: None }
    }

    /// Takes in what a task's partitions come to, and the watermark of the furthest. Returns where event time stands
    /// if all partitions of all tasks are idle.
    pub fn update(&mut self, task: usize, partitions: Watermark, furthest_ms: Option<i64>, now_ms: i64) -> Option<i64> {
        self.tasks.update(task, partitions);
        self.furthest_ms = self.furthest_ms.max(furthest_ms);
        if !self.tasks.state().idle {
            self.from = None;
            return None;
        }
        if self.from.is_none() {
            // after a restart none has counted yet: they stand where they were left together
            let stood_ms = self.tasks.current_ms().or(self.furthest_ms)?;
            self.from = Some((stood_ms, now_ms));
        }
        self.from.map(|(stood_ms, since_ms)| stood_ms.saturating_add(now_ms.saturating_sub(since_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUGHT_UP: Known =
        Known { position: 10, end: Some(10), end_answered_at_ms: Some(1_000), last_message_at_ms: 0 };

    #[test]
    fn idle_is_caught_up_and_silent_by_a_fresh_answer() {
        assert!(CAUGHT_UP.is_idle(500, 1_000));
        assert!(CAUGHT_UP.is_idle(500, 1_500));
        assert!(!CAUGHT_UP.is_idle(500, 1_501), "the answer is too old");
        assert!(!Known { end_answered_at_ms: None, ..CAUGHT_UP }.is_idle(500, 1_000));
        assert!(!Known { end: None, ..CAUGHT_UP }.is_idle(500, 1_000));
        assert!(!Known { end: Some(11), ..CAUGHT_UP }.is_idle(500, 1_000), "backlog");
        assert!(!Known { last_message_at_ms: 501, ..CAUGHT_UP }.is_idle(500, 1_000), "not silent for long enough");
        assert!(Known { last_message_at_ms: 500, ..CAUGHT_UP }.is_idle(500, 1_000));
        // what was read since the answer is beyond the end that it named
        assert!(Known { position: 12, ..CAUGHT_UP }.is_idle(500, 1_000));
    }

    fn at(ms: i64) -> Watermark {
        Watermark { time_ms: Some(ms), idle: false }
    }

    const IDLE: Watermark = Watermark { time_ms: None, idle: true };

    #[test]
    fn event_time_goes_on_from_where_it_stood_when_the_last_became_idle() {
        let mut t = Together::new(2);
        assert_eq!(t.update(0, at(100), Some(100), 0), None);
        assert_eq!(t.update(1, at(70), Some(300), 0), None);
        assert_eq!(t.update(0, IDLE, Some(100), 1_000), None);
        assert_eq!(t.update(1, IDLE, Some(300), 1_500), Some(70));
        assert_eq!(t.update(0, IDLE, Some(70), 1_700), Some(270));
        assert_eq!(t.update(1, IDLE, Some(270), 1_800), Some(370), "what it was raised to does not count twice");
        // one wakes, where it had been brought to
        assert_eq!(t.update(0, at(400), Some(400), 2_000), None);
        assert_eq!(t.update(1, IDLE, Some(370), 2_000), None);
        assert_eq!(t.update(0, IDLE, Some(400), 2_500), Some(400));
        assert_eq!(t.update(1, IDLE, Some(370), 2_600), Some(500));
    }

    #[test]
    fn after_a_restart_it_goes_on_from_where_the_partitions_were_left() {
        let mut t = Together::new(2);
        assert_eq!(t.update(0, IDLE, Some(400), 10), None, "the other task has not spoken");
        assert_eq!(t.update(1, IDLE, None, 20), Some(400));
        assert_eq!(t.update(0, IDLE, Some(400), 50), Some(430));
    }

    #[test]
    fn without_any_event_there_is_nothing_to_go_on_from() {
        let mut t = Together::new(1);
        assert_eq!(t.update(0, IDLE, None, 10), None);
        assert_eq!(t.update(0, IDLE, None, 1_000), None);
    }
}
