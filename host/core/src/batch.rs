//! What travels between operators: batches of rows, never single events.
//!
//! ```text
//!   Batch ── rows            the user's columns, an Arrow RecordBatch
//!         ├─ event_time_ms   hidden: one per row
//!         ├─ origin          hidden: (source, topic, partition, offset) where a dead letter could need it
//!         └─ changes         hidden: insert / replace / delete and a revision, when the rows are results
//!
//!   RowSet = a shared Batch + the numbers of the rows meant for one task + their key hashes.
//!            An exchange splits a batch into RowSets without copying a value.
//! ```

use std::sync::Arc;

use arrow_array::RecordBatch;

/// Rows with their hidden columns.
#[derive(Clone, Debug)]
pub struct Batch {
    pub rows: RecordBatch,
    /// milliseconds since the epoch, one per row
    pub event_time_ms: Arc<[i64]>,
    pub origin: Option<Origin>,
    pub changes: Option<Changes>,
}

impl Batch {
    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }
}

/// Where the rows of a batch came from. A batch holds rows of one partition.
#[derive(Clone, Debug)]
pub struct Origin {
    /// the source's name in the pipeline file
    pub source: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
    /// one per row
    pub offsets: Arc<[i64]>,
}

/// How a result row changes the table keyed by its key columns and window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Insert,
    Replace,
    Delete,
}

/// Results are a changelog.
#[derive(Clone, Debug)]
pub struct Changes {
    /// one per row
    pub kinds: Arc<[Change]>,
    /// one per row, from 1
    pub revisions: Arc<[u32]>,
    /// no row of this batch will change again: its windows have expired
    pub is_final: bool,
    pub audience: Audience,
}

/// Who takes the rows of a batch of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// each group is here once, and its window has expired: results and changelog are the same
    All,
    /// the changelog: whoever groups rows leaves it unread
    Sinks,
    /// each group once, when its window has expired; sinks have its rows from the changelog
    Operators,
}

/// The rows of a shared batch that go to one task.
#[derive(Clone, Debug)]
pub struct RowSet {
    pub batch: Arc<Batch>,
    pub rows: Rows,
}

/// Which rows of a batch.
#[derive(Clone, Debug)]
pub enum Rows {
    All,
    /// row numbers, ascending
    Some(Arc<[u32]>),
}

impl RowSet {
    pub fn all(batch: Batch) -> Self {
        Self { batch: Arc::new(batch), rows: Rows::All }
    }

    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::All => self.batch.num_rows(),
            Rows::Some(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the rows are results for these readers only.
    pub fn is_for(&self, audience: Audience) -> bool {
        self.batch.changes.as_ref().is_some_and(|changes| changes.audience == audience)
    }
}
