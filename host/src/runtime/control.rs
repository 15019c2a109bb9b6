//! What people can ask of a running pipeline. The API asks; the run answers.
//!
//! A request returns as soon as it is accepted or refused; how it goes on is in the history
//! ([`millrace_core::swap::SwapRecord`]), which a client reads until the record is over.

use std::time::Duration;

use millrace_core::swap::SwapRecord;

/// A plugin for an operator that runs.
#[derive(Clone, Debug, Default)]
pub struct SwapRequest {
    pub operator: String,
    /// the component, or core module, as it is in its file; none: the same plugin with another configuration
    pub bytes: Option<Vec<u8>>,
    /// what the bytes must be (lower-case hex)
    pub sha256: Option<String>,
    /// `key=value`: on top of the configuration that runs
    pub config: Vec<(String, String)>,
    /// a plugin of another name is meant
    pub replace: bool,
    /// none: it takes over as soon as it has the state
    pub shadow: Option<Shadow>,
    /// it gets no state: the version that runs ends the windows that began before
    pub drain: bool,
    /// who asks, for the log and the history
    pub by: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shadow {
    pub duration: Duration,
    pub promote_if_equal: bool,
    /// relative
    pub tolerance: f64,
}

/// Why a request is not followed; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// the run has no such operator, swap, …
    Unknown(String),
    /// not now: another change is under way, the run is ending
    Conflict(String),
    /// not like this: the message says what is wrong and what to do
    Invalid(String),
}

impl Refused {
    pub fn message(&self) -> &str {
        match self {
            Self::Unknown(message) | Self::Conflict(message) | Self::Invalid(message) => message,
        }
    }
}

/// A run that can be changed. All calls return within seconds (a plugin is compiled meanwhile).
pub trait Control: Send + Sync {
    /// Checks the plugin against the pipeline, and begins.
    fn swap(&self, request: SwapRequest) -> Result<SwapRecord, Refused>;

    /// Goes back to the version that ran before: in probation the roles are exchanged at the next barrier; after it, it is
    /// a swap back.
    /// `drain`: see [`SwapRequest`]; in probation it makes no difference.
    fn rollback(&self, operator: &str, drain: bool, by: &str) -> Result<SwapRecord, Refused>;

    /// The last swaps, oldest first.
    fn swaps(&self) -> Vec<SwapRecord>;

    /// Checkpoint, commit, end. `drain`: all windows give their results first, as at the end of a bounded run.
    fn stop(&self, drain: bool, by: &str) -> Result<(), Refused>;

    /// Takes a checkpoint now and copies it, with all that it needs, into this folder, where it is kept until it is deleted.
    /// Returns when it is complete: the number of the checkpoint.
    fn savepoint(&self, folder: &str, by: &str) -> Result<u64, Refused>;
}
