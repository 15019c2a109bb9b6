//! Durable checkpoints on any object store: the log, the state files, the plugins' bytes.
//!
//! Owns everything below the checkpoint location. It never decides which checkpoint is right (that is
//! [`millrace_core::checkpoint`]), never looks at a table, and never overwrites a log record. Data comes from the
//! coordinator (records) and from exporting operators (state), and goes back to them when a run starts.
//!
//! ```text
//!   <location>/log/00000000000000000008.json      {"sha256": "…", "record": {…}}    create-if-absent, never overwritten
//!             /state/<operator>/<number>-<uuid>.parquet                             immutable
//!             /plugins/<sha256>.wasm                                                immutable
//!
//!   survey ─▶ choose (core) ─▶ claim      a process takes the pipeline over: next number, higher generation
//!   upload state … ─▶ publish_checkpoint  durable once the record is there; number taken = fenced
//!   retain, sweep_orphans                 what no kept checkpoint needs is deleted
//! ```
//!
//! A process that is overtaken finds its next number taken, or a newer number behind its own, and stops.

use std::fmt;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;

use crate::spec::model::Location;

mod address;
mod claim;
mod durable;
mod error;
mod location;
mod log;
mod plugins;
mod retain;
mod retry;
pub mod savepoint;
mod state;
#[cfg(test)]
mod tests;

pub use claim::{Claimed, Owner};
pub use error::{CheckpointError, Result};
pub use log::{Published, Read, decode_record, encode_record};
pub use retain::Retained;
pub use retry::Backoff;
pub use state::{EncodedState, StatePart, encode_state};

use retry::Retrying;

/// Makes the random ids (incarnations, nonces, file names); a simulation hands in its own.
pub type NewId = Arc<dyn Fn() -> String + Send + Sync>;

/// One pipeline's checkpoint location. Cheap to clone; all clones share the store.
#[derive(Clone)]
pub struct CheckpointStore {
    store: Arc<dyn ObjectStore>,
    root: Path,
    pipeline: Arc<str>,
    retrying: Retrying,
    new_id: NewId,
}

impl fmt::Debug for CheckpointStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckpointStore({}, pipeline {})", self.retrying.location, self.pipeline)
    }
}

impl CheckpointStore {
    /// Makes a local folder if it is not there; asks an object store nothing yet.
    pub fn open(location: &Location, pipeline: &str) -> Result<Self> {
        let location::Opened { store, root, shown } = location::open(location)?;
        Ok(Self::new(store, root, shown, pipeline))
    }

    /// To be looked at only: none if there is no such folder, and none is made.
    pub fn open_existing(location: &Location, pipeline: &str) -> Result<Option<Self>> {
        match location {
            Location::Local(folder) if !folder.exists() => Ok(None),
            _ => Self::open(location, pipeline).map(Some),
        }
    }

    /// Over a store that the caller brings, below `prefix` (which may be empty).
    pub fn with_store(store: Arc<dyn ObjectStore>, prefix: &str, pipeline: &str) -> Self {
        let shown = format!("{store}/{prefix}");
        Self::new(store, Path::from(prefix), shown, pipeline)
    }

    fn new(store: Arc<dyn ObjectStore>, root: Path, shown: String, pipeline: &str) -> Self {
        let retrying = Retrying { backoff: Backoff::default(), location: shown };
        Self { store, root, pipeline: pipeline.into(), retrying, new_id: Arc::new(|| uuid::Uuid::new_v4().to_string()) }
    }

    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.retrying.backoff = backoff;
        self
    }

    #[must_use]
    pub fn with_ids(mut self, new_id: NewId) -> Self {
        self.new_id = new_id;
        self
    }

    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// How the location is named in messages.
    pub fn location(&self) -> &str {
        &self.retrying.location
    }

    /// A path below the location, from its parts.
    fn path(&self, parts: &[&str]) -> Path {
        parts.iter().fold(self.root.clone(), |path, part| path.join(*part))
    }

    /// A path below the location, from what [`CheckpointStore::relative`] made.
    fn absolute(&self, relative: &str) -> std::result::Result<Path, object_store::path::Error> {
        let relative = Path::parse(relative)?;
        Ok(self.root.parts().chain(relative.parts()).collect())
    }

    fn relative(&self, path: &Path) -> Option<String> {
        let parts: Path = path.prefix_match(&self.root)?.collect();
        Some(parts.to_string())
    }
}
