//! The laws of aggregation: what must hold of every plugin, whatever it computes, since the host splits batches, merges
//! states, takes checkpoints and uses slots again as it likes.
//!
//! ```text
//!   cases' own rows ─┬─▶ Trial (rows in parts) ─▶ check each law ─▶ holds
//!   seeded rows ─────┘                                 │ broken
//!                                                      ▼
//!                                     shrink: fewer rows, simpler values, still broken ─▶ tests/law-NAME.toml
//! ```
//!
//! Two instances are equal if `evaluate` and the exported state give the same rows for every group; floats within
//! [`TOLERANCE`], since sums of doubles differ in their last bits by the order of adding.
//!
//! | module | owns |
//! |---|---|
//! | [`check`] | one law on one trial |
//! | [`subject`] | an instance of the plugin under test, driven by rows |
//! | [`data`] | trials: given and generated |
//! | [`shrink`] | the smallest trial that still breaks a law |
//! | [`save`] | a trial as a case's file |

pub mod check;
pub mod data;
pub mod save;
pub mod shrink;
pub mod subject;

pub use check::{Broken, check};
pub use data::Trial;
pub use subject::LawSubject;

#[cfg(test)]
mod tests;

/// Relative, absolute below 1.
pub const TOLERANCE: f64 = 1e-9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    Determinism,
    SplitInvariance,
    RowOrder,
    MergeCommutative,
    MergeAssociative,
    MergeIsUpdate,
    CombineIsMerge,
    SaveLoad,
    Reset,
    RejectedRows,
    Migrate,
}

impl Law {
    pub const ALL: [Self; 11] = [
        Self::Determinism,
        Self::SplitInvariance,
        Self::RowOrder,
        Self::MergeCommutative,
        Self::MergeAssociative,
        Self::MergeIsUpdate,
        Self::CombineIsMerge,
        Self::SaveLoad,
        Self::Reset,
        Self::RejectedRows,
        Self::Migrate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Determinism => "determinism",
            Self::SplitInvariance => "split-invariance",
            Self::RowOrder => "row-order",
            Self::MergeCommutative => "merge-commutative",
            Self::MergeAssociative => "merge-associative",
            Self::MergeIsUpdate => "merge-is-update",
            Self::CombineIsMerge => "combine-is-merge",
            Self::SaveLoad => "save-load",
            Self::Reset => "reset",
            Self::RejectedRows => "rejected-rows",
            Self::Migrate => "migrate",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|law| law.name() == name)
    }

    /// What it says, for whoever breaks it.
    pub fn says(self) -> &'static str {
        match self {
            Self::Determinism => "two instances that see the same rows give the same",
            Self::SplitInvariance => "one batch, or the same rows in several batches, give the same",
            Self::RowOrder => "the order of rows does not matter",
            Self::MergeCommutative => "merging B into A gives the same as merging A into B",
            Self::MergeAssociative => "(A + B) + C gives the same as A + (B + C)",
            Self::MergeIsUpdate => "merging the states of parts gives the same as all rows in one instance",
            Self::CombineIsMerge => {
                "`combine` of two slots gives the same as merging exported state, and keeps its source"
            }
            Self::SaveLoad => "state exported in small chunks and merged into a fresh instance is the same state",
            Self::Reset => "a slot that was reset is as good as a fresh one, and its neighbours stay as they are",
            Self::RejectedRows => "a rejected row leaves no trace",
            Self::Migrate => "its own state, same version and schema, migrates to itself",
        }
    }

    /// Need not hold of a plugin that says that it is ordered.
    pub fn is_about_order(self) -> bool {
        matches!(self, Self::RowOrder | Self::MergeCommutative)
    }
}
