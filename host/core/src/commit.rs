//! Claims and fences on tables: may this run write here, may this commit go ahead?
//!
//! A table carries, per pipeline and sink, one property with the [`Claim`] of the run that owns it. The property moves
//! in the same atomic commit as the data, so it survives snapshot expiry and it cannot disagree with the data.
//!
//! ```text
//!             run starts                commit of checkpoint c (predecessor p)
//!   none ───────────────▶ {i, g, 0} ─────────────────────────────▶ {i, g, c}
//!                            │ a newer process: {i, g+1, 0}
//!                            ▼
//!                       the older one's next commit finds g+1: Fenced
//! ```
//!
//! The decisions are pure: the sink gathers the facts, asks here, and does what the answer says.

use serde::{Deserialize, Serialize};

/// The value of the table property [`property_key`], as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub incarnation: String,
    pub generation: u64,
    /// the last checkpoint committed to this table; 0 = none yet
    pub checkpoint: u64,
}

/// The table property that carries the claim of one sink.
pub fn property_key(pipeline: &str, sink: &str) -> String {
    format!("millrace.{pipeline}.{sink}")
}

/// What the run that wants to write knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub incarnation: String,
    pub generation: u64,
}

/// Whether a starting run may take a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimDecision {
    /// Write the claim with this checkpoint; commits up to and including it are in the table.
    Take { committed: u64 },
    /// The claim belongs to another incarnation: the state folder was emptied, or a stranger has the same name.
    OtherIncarnation { found: Claim },
    /// The table is ahead of the restored checkpoint: an old savepoint, a rewind.
    Ahead { found: Claim, newest_known: u64 },
    /// The table is behind what the checkpoint has confirmed: it was rolled back or replaced.
    Behind { found: Option<Claim>, confirmed: u64 },
    /// A newer process has it.
    Fenced { found: Claim },
}

/// `confirmed`: last checkpoint known to be committed to this table according to the restored checkpoint (0 = none);
/// `pending`: the checkpoints listed there as not yet confirmed, oldest first.
pub fn decide_claim(found: Option<&Claim>, ours: &Fence, confirmed: u64, pending: &[u64]) -> ClaimDecision {
    let Some(found) = found else {
        return if confirmed == 0 {
            ClaimDecision::Take { committed: 0 }
        } else {
            ClaimDecision::Behind { found: None, confirmed }
        };
    };
    let found_owned = || found.clone();
    if found.incarnation != ours.incarnation {
        return ClaimDecision::OtherIncarnation { found: found_owned() };
    }
    if found.generation > ours.generation {
        return ClaimDecision::Fenced { found: found_owned() };
    }
    if found.checkpoint == confirmed || pending.contains(&found.checkpoint) {
        return ClaimDecision::Take { committed: found.checkpoint };
    }
    if found.checkpoint < confirmed {
        return ClaimDecision::Behind { found: Some(found_owned()), confirmed };
    }
    ClaimDecision::Ahead { found: found_owned(), newest_known: pending.last().copied().unwrap_or(confirmed) }
}

/// Whether a commit may go ahead, judged on the table's metadata that the commit is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitDecision {
    Go,
    /// This very checkpoint is in the table.
    AlreadyCommitted,
    /// A newer process owns the table.
    Fenced {
        found: Claim,
    },
    /// The claim is gone, belongs to somebody else, or names a checkpoint that we do not expect.
    Unexpected {
        found: Option<Claim>,
        expected: u64,
    },
}

pub fn decide_commit(found: Option<&Claim>, ours: &Fence, predecessor: u64, checkpoint: u64) -> CommitDecision {
    let unexpected = || CommitDecision::Unexpected { found: found.cloned(), expected: predecessor };
    let Some(claim) = found else { return unexpected() };
    if claim.incarnation != ours.incarnation {
        return unexpected();
    }
    if claim.generation > ours.generation {
        return CommitDecision::Fenced { found: claim.clone() };
    }
    if claim.checkpoint == checkpoint {
        return CommitDecision::AlreadyCommitted;
    }
    if claim.generation != ours.generation || claim.checkpoint != predecessor {
        return unexpected();
    }
    CommitDecision::Go
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(generation: u64) -> Fence {
        Fence { incarnation: "a".into(), generation }
    }

    fn claim(incarnation: &str, generation: u64, checkpoint: u64) -> Claim {
        Claim { incarnation: incarnation.into(), generation, checkpoint }
    }

    #[test]
    fn a_fresh_table_is_taken_only_by_a_run_that_has_committed_nothing() {
        assert_eq!(decide_claim(None, &fence(1), 0, &[]), ClaimDecision::Take { committed: 0 });
        assert_eq!(decide_claim(None, &fence(1), 0, &[4]), ClaimDecision::Take { committed: 0 });
        assert!(matches!(decide_claim(None, &fence(2), 4, &[]), ClaimDecision::Behind { .. }));
    }

    #[test]
    fn a_restart_takes_over_at_any_pending_checkpoint_and_nowhere_else() {
        for committed in [3, 5, 7] {
            assert_eq!(
                decide_claim(Some(&claim("a", 1, committed)), &fence(2), 3, &[5, 7]),
                ClaimDecision::Take { committed }
            );
        }
        assert!(matches!(
            decide_claim(Some(&claim("a", 1, 8)), &fence(2), 3, &[5, 7]),
            ClaimDecision::Ahead { newest_known: 7, .. }
        ));
        assert!(matches!(decide_claim(Some(&claim("a", 1, 2)), &fence(2), 3, &[5, 7]), ClaimDecision::Behind { .. }));
        assert!(matches!(
            decide_claim(Some(&claim("b", 1, 3)), &fence(2), 3, &[]),
            ClaimDecision::OtherIncarnation { .. }
        ));
        assert!(matches!(decide_claim(Some(&claim("a", 3, 3)), &fence(2), 3, &[]), ClaimDecision::Fenced { .. }));
    }

    #[test]
    fn already_committed_is_said_of_this_very_checkpoint_only() {
        assert_eq!(decide_commit(Some(&claim("a", 2, 5)), &fence(2), 3, 5), CommitDecision::AlreadyCommitted);
        assert_eq!(decide_commit(Some(&claim("a", 2, 3)), &fence(2), 3, 5), CommitDecision::Go);
        assert!(matches!(decide_commit(Some(&claim("a", 2, 6)), &fence(2), 3, 5), CommitDecision::Unexpected { .. }));
        assert!(matches!(decide_commit(Some(&claim("a", 3, 3)), &fence(2), 3, 5), CommitDecision::Fenced { .. }));
        assert!(matches!(decide_commit(Some(&claim("b", 2, 3)), &fence(2), 3, 5), CommitDecision::Unexpected { .. }));
        assert!(matches!(decide_commit(None, &fence(2), 3, 5), CommitDecision::Unexpected { .. }));
        // the claim was not renewed by this run
        assert!(matches!(decide_commit(Some(&claim("a", 1, 3)), &fence(2), 3, 5), CommitDecision::Unexpected { .. }));
    }
}
