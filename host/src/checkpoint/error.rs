//! What can go wrong between the host and the checkpoint location, and whether time can heal it.

use std::error::Error as StdError;
use std::io::ErrorKind;

use millrace_core::checkpoint::Refusal;

pub type Result<T> = std::result::Result<T, CheckpointError>;

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(
        "checkpoint location {location}: {doing} failed {tries} times, last with: {last}. hint: is the store reachable?"
    )]
    Unreachable { location: String, doing: String, tries: u32, last: String },
    #[error(
        "checkpoint location {location}: {doing} was refused: {why}. hint: the process needs to list, read, write and \
         delete there; check the folder's owner, or the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
         `s3.access-key-id`, …) and the bucket's policy"
    )]
    Denied { location: String, doing: String, why: String },
    #[error(
        "checkpoint location {location}: {doing} failed: {why}. hint: free some space (or raise the quota or limit), or \
         lower `checkpoint.retain`; nothing is lost, the next start goes on from the last checkpoint"
    )]
    NoSpace { location: String, doing: String, why: String },
    #[error("checkpoint location {location}: {doing} failed: {why}")]
    Unusable { location: String, doing: String, why: String },
    #[error("checkpoint location `{given}`: {why}")]
    BadLocation { given: String, why: String },
    #[error(
        "another process has taken this pipeline over (generation {by}, ours is {ours}) and this one must stop: what it \
         has not committed, the other one does. hint: run a pipeline's name once only"
    )]
    Fenced { by: u64, ours: u64 },
    #[error(
        "checkpoint {number} is already in the log, written by an earlier attempt of this very run whose outcome was \
         not known. hint: start again, it goes on from that checkpoint"
    )]
    AlreadyPublished { number: u64 },
    #[error(
        "log record {number} has format {found}, this program knows formats up to {known}. hint: run the version that \
         wrote it, or a newer one"
    )]
    NewerFormat { number: u64, found: u32, known: u32 },
    #[error(
        "checkpoint location {location} belongs to pipeline `{found}`, not to `{ours}` (log record {number}). hint: give \
         each pipeline a `checkpoint.location` of its own"
    )]
    OtherPipeline { location: String, found: String, ours: String, number: u64 },
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error(
        "{0} others wanted this pipeline at the same moment and were faster. hint: run a pipeline's name once only"
    )]
    Crowded(u32),
    #[error("state file {path} is damaged: {why}")]
    StateDamaged { path: String, why: String },
    #[error("the state of operator `{operator}` cannot be encoded: {why}")]
    Encoding { operator: String, why: String },
    #[error("plugin {sha256} at the checkpoint location is damaged or missing: {why}")]
    PluginDamaged { sha256: String, why: String },
}

impl CheckpointError {
    /// Time can heal it: the run may skip this checkpoint (within `tolerated_failures`) and take the next one.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoSpace { .. })
    }
}

/// What an error of the store means for the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Missing,
    Exists,
    Denied,
    NoSpace,
    /// a wrong request or configuration: asking again gives the same answer
    Hopeless,
    Transient,
}

pub(super) fn classify(error: &object_store::Error) -> Class {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => Class::Missing,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => Class::Exists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Class::Denied,
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => Class::Hopeless,
        other => io_kind(other).map_or_else(|| class_of_status(other), class_of_io),
    }
}

/// Where the store does not tell by the kind of its error (listing, deleting), the server's status is in its words.
fn class_of_status(error: &object_store::Error) -> Class {
    let words = one_line(error);
    match words.split_once("status code: ").and_then(|(_, status)| status.get(..3)) {
        Some("401" | "403") => Class::Denied,
        Some("404") => Class::Missing,
        _ => Class::Transient,
    }
}

pub(super) fn class_of_io(kind: ErrorKind) -> Class {
    match kind {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Class::Denied,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Class::NoSpace,
        ErrorKind::NotFound => Class::Missing,
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidFilename => Class::Hopeless,
        _ => Class::Transient,
    }
}

/// The operating system's error, however deep the store has wrapped it.
fn io_kind(error: &object_store::Error) -> Option<ErrorKind> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = e.source();
    }
    None
}

/// An error and its causes on one line, without saying the same thing twice.
pub(super) fn one_line(error: &(dyn StdError + 'static)) -> String {
    const SHOWN_CHARS_MAX: usize = 400;
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let cause = e.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = e.source();
    }
    let text = text.replace(['\n', '\r'], " ");
    if text.chars().count() > SHOWN_CHARS_MAX {
        let mut cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
        cut.push('…');
        return cut;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(kind: ErrorKind) -> object_store::Error {
        object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(std::io::Error::from(kind)) }
    }

    #[test]
    fn the_operating_systems_error_is_found_inside_the_stores() {
        assert_eq!(classify(&generic(ErrorKind::StorageFull)), Class::NoSpace);
        assert_eq!(classify(&generic(ErrorKind::PermissionDenied)), Class::Denied);
        assert_eq!(classify(&generic(ErrorKind::ConnectionReset)), Class::Transient);
        let other = object_store::Error::Generic { store: "S3", source: "500 Internal Server Error".into() };
        assert_eq!(classify(&other), Class::Transient);
        let denied = "Server returned non-2xx status code: 403 Forbidden: <Error>";
        assert_eq!(classify(&object_store::Error::Generic { store: "S3", source: denied.into() }), Class::Denied);
    }
}
