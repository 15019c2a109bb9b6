//! What is known of a swap: where it stands, what it cost, what it changed. The same words in the checkpoint, the API and
//! the history that people read.
//!
//! ```text
//!   preparing ─▶ attaching ─▶ warming ─▶ [shadowing] ─▶ exchanging ─▶ probation ─▶ [draining] ─▶ done
//!       │            └───────────┴──────────┴──────────────┴─▶ failed │    └─▶ rolled_back
//!       └─▶ refused                         └─▶ discarded ◀───────────┘
//! ```

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::limits::SWAPS_REMEMBERED_MAX;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// read, checked, compiled; nothing of the run has changed
    #[default]
    Preparing,
    /// waits for the barrier at which the state is copied
    Attaching,
    /// takes in the copy, and what has come since
    Warming,
    /// runs beside the old version, its results are compared and withheld
    Shadowing,
    /// waits for the barrier at which the two change places
    Exchanging,
    /// it runs; the old version goes on as a shadow, ready to take over again
    Probation,
    /// it runs for good, and the old version still ends the windows that began before
    Draining,
    /// it runs for good
    Done,
    /// it did not pass the checks; nothing has changed
    Refused,
    /// it failed before it gave any result; nothing has changed
    Failed,
    /// a shadow that was not to be promoted; nothing has changed
    Discarded,
    /// it ran, and the old version has taken over again
    RolledBack,
}

impl Phase {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Refused | Self::Failed | Self::Discarded | Self::RolledBack)
    }

    /// The new version gives the results.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Probation | Self::Draining | Self::Done)
    }
}

/// A plugin as the history names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub name: String,
    pub version: String,
    /// lower-case hex of the component's bytes as they were given
    pub sha256: String,
    /// canonical JSON, with markers in place of secrets
    pub config: String,
}

/// One swap, from the request to its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SwapRecord {
    /// unique in the pipeline's life, ascending
    pub id: u64,
    pub operator: String,
    pub phase: Phase,
    pub requested_at_ms: i64,
    /// who asked, as the API knows it
    pub by: String,
    /// a rollback is a swap, too
    #[serde(default)]
    pub is_rollback: bool,
    pub from: Version,
    pub to: Version,
    /// how the state came over: `taken over`, `migrated`, `drained`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// why it was refused, has failed, was discarded or rolled back
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// the first checkpoint that says the new version
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// how long the slowest task read nothing while the two changed places
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanged_at_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation_until_ms: Option<i64>,
    /// windows that start before end with the old version
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drains_before_ms: Option<i64>,
    /// shadow: when the comparison ends
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow_until_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Corrections>,
}

/// What became of the results that a version gave which was rolled back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corrections {
    /// results of windows that had expired, given again from the version that runs now
    pub given_again: u64,
    /// results that stand as they were given: the sinks take no corrections, or too much was to be kept
    pub left_as_given: u64,
    /// the windows of both
    pub windows: Vec<CorrectedWindow>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectedWindow {
    pub start_ms: i64,
    pub end_ms: i64,
    pub given_again: u64,
    pub left_as_given: u64,
}

/// What the new version gave beside the old one, over the same events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowReport {
    /// results of both versions that were compared
    pub compared: u64,
    pub windows: u64,
    /// differences within this are none
    pub tolerance: f64,
    /// results that differ in windows that began after the shadow did: the two versions count differently
    pub different: u64,
    /// results that differ in windows that were open when the shadow began: they hold what the old version had counted
    pub different_in_warm_up: u64,
    /// results that only one of the two gave
    pub only_old: u64,
    pub only_new: u64,
    pub columns: Vec<ColumnDifference>,
    /// columns that only one of the two has
    pub only_in_old: Vec<String>,
    pub only_in_new: Vec<String>,
    /// the largest, by column and size, at most [`SHADOW_DIFFERENCES_MAX`](crate::limits::SHADOW_DIFFERENCES_MAX)
    pub largest: Vec<Difference>,
    /// nanoseconds per row, of this and the former version; none: nothing was measured
    pub new_ns_per_row: Option<f64>,
    pub old_ns_per_row: Option<f64>,
}

impl ShadowReport {
    /// Whether it gave what the old version gave. Windows that were open before count only if they are equal.
    pub fn is_equal(&self) -> bool {
        self.different + self.only_old + self.only_new == 0
            && self.compared > self.different_in_warm_up
            && self.only_in_old.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnDifference {
    pub column: String,
    pub different: u64,
    pub different_in_warm_up: u64,
    /// |new − old| / max(|old|, |new|); of columns that are no numbers: 1
    pub largest_relative: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    pub column: String,
    pub window_start_ms: i64,
    pub window_end_ms: i64,
    /// key column and value, in the key's order
    pub key: Vec<(String, String)>,
    pub old: String,
    pub new: String,
    pub relative: f64,
    pub is_warm_up: bool,
}

/// The last swaps, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(VecDeque<SwapRecord>);

impl History {
    pub fn next_id(&self) -> u64 {
        self.0.back().map_or(1, |last| last.id + 1)
    }

    pub fn push(&mut self, record: SwapRecord) {
        if self.0.len() >= SWAPS_REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(record);
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut SwapRecord> {
        self.0.iter_mut().rev().find(|record| record.id == id)
    }

    pub fn get(&self, id: u64) -> Option<&SwapRecord> {
        self.0.iter().rev().find(|record| record.id == id)
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &SwapRecord> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_bounded_and_ids_are_never_used_again() {
        let mut history = History::default();
        for _ in 0..SWAPS_REMEMBERED_MAX + 3 {
            let id = history.next_id();
            history.push(SwapRecord { id, ..SwapRecord::default() });
        }
        assert_eq!(history.iter().count(), SWAPS_REMEMBERED_MAX);
        assert_eq!(history.next_id(), SWAPS_REMEMBERED_MAX as u64 + 4);
        assert_eq!(history.get(3), None);
        assert_eq!(history.get_mut(4).map(|record| record.id), Some(4));
    }

    #[test]
    fn a_shadow_that_compared_nothing_is_not_equal() {
        let report = ShadowReport { compared: 10, ..ShadowReport::default() };
        assert!(report.is_equal());
        assert!(!ShadowReport::default().is_equal());
        assert!(!ShadowReport { different_in_warm_up: 10, ..report.clone() }.is_equal());
        assert!(ShadowReport { different_in_warm_up: 3, ..report.clone() }.is_equal());
        assert!(!ShadowReport { different: 1, ..report.clone() }.is_equal());
        assert!(!ShadowReport { only_new: 1, ..report.clone() }.is_equal());
        assert!(!ShadowReport { only_in_old: vec!["ctr".into()], ..report }.is_equal());
    }
}
