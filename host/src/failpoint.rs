//! Named places where a test can have the process killed, as `kill -9` would, at exactly that instant.
//!
//! `MILLRACE_FAILPOINT="commit.before@3"` kills the process at the third hit of `commit.before`. Without the variable a
//! failpoint is one load of a static.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Everything the checkpoint has is uploaded, its record is not published yet.
pub const CHECKPOINT_BEFORE_DURABLE: &str = "checkpoint.before-durable";
/// The record is published, nothing is committed yet.
pub const CHECKPOINT_AFTER_DURABLE: &str = "checkpoint.after-durable";
/// A sink is about to commit.
pub const COMMIT_BEFORE: &str = "commit.before";
/// The catalog has applied the commit, the run has not seen the answer.
pub const COMMIT_APPLIED_ANSWER_LOST: &str = "commit.applied-answer-lost";
/// The commit is verified, no checkpoint says so yet.
pub const COMMIT_AFTER: &str = "commit.after";
/// The tables are claimed, no checkpoint of this run exists yet.
pub const CLAIM_AFTER: &str = "claim.after";
/// A version was put beside a task's active one, which has just been exported.
pub const SWAP_ATTACHED: &str = "swap.attached";
/// A task's versions have changed places, no checkpoint says so yet.
pub const SWAP_EXCHANGED: &str = "swap.exchanged";

/// All of them that every run comes to, for the tests that walk through every one.
pub const ALL: [&str; 6] = [
    CLAIM_AFTER,
    CHECKPOINT_BEFORE_DURABLE,
    CHECKPOINT_AFTER_DURABLE,
    COMMIT_BEFORE,
    COMMIT_APPLIED_ANSWER_LOST,
    COMMIT_AFTER,
];

struct Armed {
    name: String,
    at: u64,
    hits: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Kills the process if this failpoint is armed and has now been hit often enough.
pub fn hit(name: &str) {
    let armed = ARMED.get_or_init(|| {
        let value = std::env::var("MILLRACE_FAILPOINT").ok()?;
        let (name, at) = value.split_once('@').unwrap_or((&value, "1"));
        Some(Armed { name: name.to_owned(), at: at.parse().unwrap_or(1), hits: AtomicU64::new(0) })
    });
    if let Some(armed) = armed
        && armed.name == name
        && armed.hits.fetch_add(1, Ordering::SeqCst) + 1 == armed.at
    {
        // SAFETY: `kill` and `getpid` take and return plain numbers.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
    }
}
