//! Event-time progress: watermark W says that no event with time ≤ W is expected any more.
//!
//! ```text
//!   partition  W = largest event time − out-of-orderness − 1 ms        PartitionTime
//!   source     W = min over its partitions that count                  combine
//!   operator   W = min over its inputs that count                      InputWatermarks
//! ```
//!
//! An idle partition or input does not count; if all are idle, the watermark holds, unless a source says that its own
//! goes on all the same (`when_idle = "advance"`, [`crate::idleness`]): then it is an idle input whose time still rises.
//! It never goes back. Idleness travels in-band with the watermark. (Flink: `BoundedOutOfOrdernessWatermarks`,
//! `StatusWatermarkValve`.)
//!
//! This module never looks at a clock: whoever decides that a partition is idle hands the fact in.

/// Event time has come to its end, as it does in a bounded run. An operator is there once *all* its inputs are, idle or
/// not.
pub const END_OF_TIME_MS: i64 = i64::MAX;

/// What travels between tasks. `time_ms` is none as long as nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Watermark {
    pub time_ms: Option<i64>,
    /// the sender does not count in its receivers' minimum until it says otherwise
    pub idle: bool,
}

/// The watermark of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionTime {
    out_of_orderness_ms: i64,
    watermark_ms: Option<i64>,
    idle: bool,
    /// found while running and still without an event: it does not hold the others back
    waits_for_first_event: bool,
}

impl PartitionTime {
    /// A partition known since the start: until its first event (or until it is found idle) it holds the watermark.
    pub fn new(out_of_orderness_ms: i64) -> Self {
        Self { out_of_orderness_ms, watermark_ms: None, idle: false, waits_for_first_event: false }
    }

    /// A partition that came up while the pipeline ran.
    pub fn discovered(out_of_orderness_ms: i64) -> Self {
        Self { waits_for_first_event: true, ..Self::new(out_of_orderness_ms) }
    }

    /// As a checkpoint has it.
    pub fn restored(out_of_orderness_ms: i64, watermark_ms: Option<i64>, idle: bool) -> Self {
        Self { out_of_orderness_ms, watermark_ms, idle, waits_for_first_event: false }
    }

    /// Takes the largest event time of a batch into account. The partition is awake from here on.
    pub fn observe(&mut self, max_event_time_ms: i64) {
        let candidate = max_event_time_ms.saturating_sub(self.out_of_orderness_ms).saturating_sub(1);
        self.watermark_ms = Some(self.watermark_ms.map_or(candidate, |w| w.max(candidate)));
        self.idle = false;
        self.waits_for_first_event = false;
    }

    /// The caller has found the partition caught up and silent for the idle timeout (or awake again).
    pub fn set_idle(&mut self, idle: bool) {
        self.idle = idle;
    }

    /// Event time has gone on without events. Idle or not stays as it is.
    pub fn advance_to(&mut self, watermark_ms: i64) {
        self.watermark_ms = self.watermark_ms.max(Some(watermark_ms));
    }

    pub fn watermark_ms(&self) -> Option<i64> {
        self.watermark_ms
    }

    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// What this partition tells the minimum.
    pub fn state(&self) -> Watermark {
        Watermark { time_ms: self.watermark_ms, idle: self.idle || self.waits_for_first_event }
    }
}

/// The minimum over those that count. With none that counts: idle, and the largest of what the idle ones had reached is
/// *not* taken: the receiver holds what it has.
pub fn combine(parts: impl IntoIterator<Item = Watermark>) -> Watermark {
    let mut any = false;
    let mut minimum: Option<i64> = Some(i64::MAX);
    for part in parts {
        if !part.idle {
            any = true;
            minimum = match (minimum, part.time_ms) {
                (Some(a), Some(b)) => Some(a.min(b)),
                _ => None,
            };
        }
    }
    if any { Watermark { time_ms: minimum, idle: false } } else { Watermark { time_ms: None, idle: true } }
}

/// The watermark of an operator: per input, combined, monotone.
#[derive(Clone, Debug)]
pub struct InputWatermarks {
    inputs: Vec<Watermark>,
    /// by input: idle, and its time has risen since it became so
    goes_on: Vec<bool>,
    current_ms: Option<i64>,
    idle: bool,
}

impl InputWatermarks {
    /// `restored_ms`: what the operator had reached at the checkpoint; it never goes back behind it.
    pub fn new(inputs: usize, restored_ms: Option<i64>) -> Self {
        Self {
            inputs: vec![Watermark::default(); inputs],
            goes_on: vec![false; inputs],
            current_ms: restored_ms,
            idle: false,
        }
    }

    /// Takes one input's watermark in. Returns true if the operator's own watermark or idleness changed.
    pub fn update(&mut self, input: usize, watermark: Watermark) -> bool {
        if let (Some(slot), Some(goes_on)) = (self.inputs.get_mut(input), self.goes_on.get_mut(input)) {
            let rises_while_idle = slot.idle && watermark.time_ms > slot.time_ms;
            *goes_on = watermark.idle && (*goes_on || rises_while_idle);
            *slot = Watermark { time_ms: slot.time_ms.max(watermark.time_ms), idle: watermark.idle };
        }
        let ended = |w: &&Watermark| w.time_ms == Some(END_OF_TIME_MS);
        let combined = if self.inputs.iter().all(|w| ended(&w)) {
            combine(self.inputs.iter().copied())
        } else {
            // an idle input may have rows on their way that are older than its end, and they are not late
            combine(self.inputs.iter().filter(|w| !ended(w)).copied())
        };
        let before = (self.current_ms, self.idle);
        self.idle = combined.idle;
        // None < Some(_): an input that has said nothing yet holds, but never takes anything back
        self.current_ms = self.current_ms.max(if combined.idle {
            self.inputs.iter().zip(&self.goes_on).filter(|(_, goes_on)| **goes_on).filter_map(|(w, _)| w.time_ms).min()
        } else {
            combined.time_ms
        });
        before != (self.current_ms, self.idle)
    }

    pub fn current_ms(&self) -> Option<i64> {
        self.current_ms
    }

    /// What each input has said.
    pub fn inputs(&self) -> &[Watermark] {
        &self.inputs
    }

    /// What is sent on.
    pub fn state(&self) -> Watermark {
        Watermark { time_ms: self.current_ms, idle: self.idle }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(time_ms: i64) -> Watermark {
        Watermark { time_ms: Some(time_ms), idle: false }
    }

    const IDLE: Watermark = Watermark { time_ms: None, idle: true };

    #[test]
    fn a_partition_is_behind_its_largest_event_by_the_bound_and_one() {
        let mut p = PartitionTime::new(5_000);
        assert_eq!(p.state(), Watermark::default());
        p.observe(10_000);
        p.observe(8_000);
        assert_eq!(p.watermark_ms(), Some(4_999));
    }

    #[test]
    fn a_partition_without_events_holds_unless_it_was_found_later() {
        let mut known = PartitionTime::new(0);
        known.observe(100);
        let silent = PartitionTime::new(0);
        let found_later = PartitionTime::discovered(0);
        assert_eq!(combine([known.state(), silent.state()]).time_ms, None);
        assert_eq!(combine([known.state(), found_later.state()]), at(99));
        let restored = PartitionTime::restored(0, found_later.watermark_ms(), found_later.state().idle);
        assert_eq!(combine([known.state(), restored.state()]), at(99));
    }

    #[test]
    fn when_all_are_idle_the_watermark_holds() {
        let mut w = InputWatermarks::new(2, None);
        w.update(0, at(50));
        assert_eq!(w.current_ms(), None);
        w.update(1, at(70));
        assert_eq!(w.current_ms(), Some(50));
        w.update(0, IDLE);
        assert_eq!(w.current_ms(), Some(70));
        w.update(1, IDLE);
        assert_eq!(w.state(), Watermark { time_ms: Some(70), idle: true });
    }

    #[test]
    fn when_all_are_idle_and_one_goes_on_so_does_the_operator() {
        let mut w = InputWatermarks::new(2, None);
        let idle_at = |ms| Watermark { time_ms: Some(ms), idle: true };
        w.update(0, at(50));
        w.update(1, at(70));
        w.update(0, IDLE);
        w.update(1, IDLE);
        assert_eq!(w.current_ms(), Some(70));
        assert!(!w.update(1, idle_at(60)), "it has been there");
        assert!(w.update(1, idle_at(75)));
        assert_eq!(w.state(), idle_at(75));
        // one that is awake alone decides
        w.update(0, at(72));
        w.update(1, idle_at(90));
        assert_eq!(w.current_ms(), Some(75));
        w.update(0, at(80));
        assert_eq!(w.current_ms(), Some(80));
        w.update(0, IDLE);
        assert_eq!(w.current_ms(), Some(90));
        // an operator behind it cannot tell it from a source
        let mut next = InputWatermarks::new(1, None);
        next.update(0, at(75));
        next.update(0, idle_at(75));
        next.update(0, idle_at(80));
        assert_eq!(next.state(), idle_at(80));
    }

    #[test]
    fn an_input_that_wakes_behind_does_not_take_the_watermark_back() {
        let mut w = InputWatermarks::new(2, None);
        w.update(0, IDLE);
        w.update(1, at(100));
        assert!(w.update(0, at(10)) || w.current_ms() == Some(100));
        assert_eq!(w.current_ms(), Some(100));
    }

    #[test]
    fn time_ends_when_it_has_ended_on_every_input_idle_or_not() {
        let mut w = InputWatermarks::new(2, None);
        w.update(0, at(50));
        w.update(1, IDLE);
        assert_eq!(w.current_ms(), Some(50));
        w.update(0, at(END_OF_TIME_MS));
        assert_eq!(w.current_ms(), Some(50));
        // it wakes: what it had sent before its own end is not late
        w.update(1, at(60));
        assert_eq!(w.current_ms(), Some(60));
        w.update(1, at(END_OF_TIME_MS));
        assert_eq!(w.current_ms(), Some(END_OF_TIME_MS));
    }

    #[test]
    fn a_restored_operator_starts_where_it_was() {
        let mut w = InputWatermarks::new(1, Some(500));
        w.update(0, at(300));
        assert_eq!(w.current_ms(), Some(500));
    }

    fn any_watermark() -> impl Strategy<Value = Watermark> {
        (prop::option::of(-100_i64..100), any::<bool>()).prop_map(|(time_ms, idle)| Watermark { time_ms, idle })
    }

    proptest! {
        #[test]
        fn never_goes_back(updates in prop::collection::vec((0_usize..4, any_watermark()), 1..200), restored in prop::option::of(-100_i64..100)) {
            let mut w = InputWatermarks::new(4, restored);
            let mut last = w.current_ms();
            for (input, watermark) in updates {
                w.update(input, watermark);
                prop_assert!(w.current_ms() >= last);
                last = w.current_ms();
            }
        }

        /// Brute force over the definition: without idleness the operator is at the minimum of what each input has said.
        #[test]
        fn is_the_minimum_of_the_inputs(updates in prop::collection::vec((0_usize..3, -100_i64..100), 1..100)) {
            let mut w = InputWatermarks::new(3, None);
            let mut said: [Option<i64>; 3] = [None; 3];
            for (input, time) in updates {
                w.update(input, at(time));
                said[input] = said[input].max(Some(time));
                let expected = said.iter().copied().min().flatten();
                prop_assert_eq!(w.current_ms(), expected);
            }
        }
    }
}
