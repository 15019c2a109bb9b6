//! Rows out, in three named steps.
//!
//! ```text
//!   write     each task writes rows to its own open files          (sink task's thread)
//!   prepare   at a barrier: files are closed, and named in the     (sink task's thread)
//!             checkpoint as committables
//!   commit    once the checkpoint is durable: idempotent, fenced   (committer)
//! ```
//!
//! A sink without files (console, Kafka at-least-once, dead-letter files) is flushed by `prepare` and has nothing to
//! commit.

use arrow_array::RecordBatch;
use async_trait::async_trait;
use millrace_core::batch::RowSet;
use millrace_core::checkpoint::{Committable, SinkState, StateFile, WriterState};
use millrace_core::commit::Fence;

pub mod console;
pub mod file;
pub mod iceberg;
pub mod json;
pub mod kafka;
pub mod revised;
mod rows;

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Time can heal it.
    #[error("{0}")]
    Transient(String),
    #[error("{0}")]
    Fatal(String),
}

pub type Result<T> = std::result::Result<T, SinkError>;

/// What one task has prepared: each value is a file in a form that only the sink reads.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    pub files: Vec<serde_json::Value>,
    pub rows: u64,
    pub windows_ms: Option<(i64, i64)>,
    /// what the writer must know again after a restart, if it has to
    pub writer: Option<WriterState>,
}

/// One per sink task, on its thread.
pub trait SinkWriter: Send {
    /// Before the first row: what the restored checkpoint says, less what has turned out to be committed (empty on a
    /// fresh start).
    fn restore(&mut self, _state: &SinkState) -> Result<()> {
        Ok(())
    }

    /// The watermark has come to here, between the rows before and those after it.
    fn watermark(&mut self, _time_ms: i64) {}

    fn write(&mut self, rows: &RowSet) -> Result<()>;

    /// Makes everything written so far durable, and gives it up for commit.
    fn prepare(&mut self, checkpoint: u64) -> Result<Prepared>;
}

/// Keeps what a writer must know again after a restart: each file as long as a checkpoint names it.
pub trait WriterStore: Send + Sync {
    /// Durable, when it returns.
    fn write(&self, sink: &str, checkpoint: u64, rows: RecordBatch) -> Result<StateFile>;

    fn read(&self, file: &StateFile) -> Result<Vec<RecordBatch>>;
}

/// One per sink.
#[async_trait]
pub trait SinkCommitter: Send + Sync {
    /// Before anything else. `state` is what the restored checkpoint says (empty on a fresh start). Returns the last
    /// checkpoint whose commit is in the table.
    async fn claim(&self, fence: &Fence, state: &SinkState) -> Result<u64>;

    /// Makes of the files that have waited those of the commit, before its checkpoint names them: durable, when it
    /// returns. Files it did not need to touch stay as they are.
    async fn join(&self, _checkpoint: u64, files: Vec<serde_json::Value>) -> Result<Vec<serde_json::Value>> {
        Ok(files)
    }

    /// Commits one committable; an answer `Ok` means it was seen in the table.
    async fn commit(&self, fence: &Fence, committable: &Committable) -> Result<()>;
}
