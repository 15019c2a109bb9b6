//! What a checkpoint says.
//!
//! A checkpoint is published as one JSON record under the next number of a log that is written only by
//! create-if-absent. The record is small: it names immutable state files, it does not hold them. Numbers are never
//! reused, so the number *is* the checkpoint's id.
//!
//! ```text
//!   log/…0007  Claim       generation 2, a process took the pipeline over
//!   log/…0008  Checkpoint  sources + operators + sinks, refers to state files of 5, 6 and 8
//!   log/…0009  Checkpoint
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::panes::Reached;
use crate::schema::{DataType, Field, Schema};
use crate::swap::History;

mod choose;
mod retention;
mod versions;

pub use choose::{Choice, Condition, Refusal, Survey, Surveyed, choose};
pub use retention::{Keep, Retention, decide_retention, is_orphan};

/// The format of [`LogRecord`]; raised when a reader of the former format could misunderstand a record.
pub const FORMAT_VERSION: u32 = 1;

/// The number of the first record of an incarnation: 0 stands for "none yet" wherever a checkpoint is named.
pub const FIRST_NUMBER: u64 = 1;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    pub format: u32,
    /// this record's number in the log; a checkpoint's id
    pub number: u64,
    pub pipeline: String,
    /// a random id made when the pipeline started on an empty checkpoint location
    pub incarnation: String,
    /// raised by every process that takes the pipeline over; the older one is fenced
    pub generation: u64,
    /// unique to this attempt to write, so that a writer recognises its own bytes after a lost answer
    pub nonce: String,
    pub written_at_ms: i64,
    pub entry: Entry,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Entry {
    /// A process takes the pipeline over.
    Claim,
    Checkpoint(Checkpoint),
}

/// A consistent cut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub reason: Reason,
    /// when this incarnation began: what a generator's event time counts from
    #[serde(default)]
    pub incarnation_started_ms: i64,
    pub sources: BTreeMap<String, SourceState>,
    pub operators: BTreeMap<String, OperatorState>,
    pub sinks: BTreeMap<String, SinkState>,
    /// by transform, the plugin that makes its rows: it keeps no state
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub transforms: BTreeMap<String, PluginRef>,
    /// the last swaps of plugins
    #[serde(default, skip_serializing_if = "History::is_empty")]
    pub swaps: History,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    #[default]
    Periodic,
    /// taken by a clean stop
    Stop,
    /// a bounded run came to its end and closed all windows
    Drained,
    /// a person asked
    Savepoint,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceState {
    /// ordered by topic, then partition
    pub partitions: Vec<PartitionState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    pub topic: String,
    /// where the connector knows one: a topic deleted and made anew has another
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    pub partition: i32,
    /// the offset of the next message to read
    pub position: i64,
    /// the partition's watermark; none before its first event
    pub watermark_ms: Option<i64>,
    pub idle: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperatorState {
    pub key: Vec<Field>,
    /// the window as the pipeline file has it, canonical JSON
    pub window: String,
    /// the operator's watermark at the cut
    pub watermark_ms: Option<i64>,
    pub plugin: Option<PluginRef>,
    /// the plugin's own state columns
    pub state: Schema,
    pub files: Vec<StateFile>,
    /// the version of the plugin before, with the windows that it ends
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
    pub late_dropped: u64,
    /// by key groups, how far results had been given: tasks may differ
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reached: Vec<Reached>,
}

/// A version of a plugin that another one has followed: it ends the windows that began before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draining {
    pub plugin: PluginRef,
    /// its state columns: those of files that hold [`Holds::Draining`]
    pub state: Schema,
    /// windows that start before are its own
    pub before_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRef {
    pub name: String,
    pub version: String,
    /// lower-case hex of the component's bytes as they were given
    pub sha256: String,
    /// the configuration handed to it, canonical JSON, with markers in place of secrets
    pub config: String,
    /// what the pipeline file gave when this was taken, where something else runs since a swap: while the file gives the
    /// same, a restart goes on with what ran
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_file: Option<InFile>,
}

/// A plugin and its configuration as a pipeline file gave them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFile {
    /// lower-case hex of the file's bytes
    pub sha256: String,
    /// canonical JSON, with markers in place of secrets
    pub config: String,
}

/// What the rows of a state file are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// groups: the plugin's state columns
    #[default]
    State,
    /// groups of the version that ends its windows: its own state columns
    Draining,
    /// what has been given of each group whose result can still change: `revision`, `present`, `changed`, `last_event`
    Ledger,
}

impl Holds {
    fn is_state(&self) -> bool {
        *self == Self::State
    }
}

/// What a task writes anew or leaves as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId {
    pub holds: Holds,
    /// of the window, or pane; of sessions: of those that start in a span of time
    pub start_ms: i64,
    /// 0: what is in memory; others: groups that were moved to disk together
    pub part: u32,
}

impl BucketId {
    /// What is in memory.
    pub fn state(start_ms: i64) -> Self {
        Self { holds: Holds::State, start_ms, part: 0 }
    }

    /// Of the version that ends its windows.
    pub fn draining(start_ms: i64) -> Self {
        Self { holds: Holds::Draining, start_ms, part: 0 }
    }

    pub fn ledger(start_ms: i64) -> Self {
        Self { holds: Holds::Ledger, start_ms, part: 0 }
    }
}

/// An immutable Parquet file: the key columns, `window_start`, `window_end`, then the plugin's state columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    #[serde(default, skip_serializing_if = "Holds::is_state")]
    pub holds: Holds,
    /// see [`BucketId`]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub part: u32,
    /// relative to the checkpoint location
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
    /// inclusive
    pub first_key_group: u16,
    /// inclusive
    pub last_key_group: u16,
    pub window_start_ms: i64,
    pub window_end_ms: i64,
    pub groups: u64,
    /// the checkpoint that wrote it
    pub written_by: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkState {
    /// the last checkpoint whose commit is known to be in the table; 0 = none yet
    pub confirmed: u64,
    /// not yet known to be committed, oldest first
    pub pending: Vec<Committable>,
    /// what has been written since the last committable was made: files between two commit intervals, and the
    /// positions that the next committable will say it covers
    pub open: OpenCommit,
    /// what the sink's writer must know again after a restart
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<WriterState>,
}

/// A writer's memory of what it has written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WriterState {
    /// oldest first: what a later one says holds
    pub files: Vec<StateFile>,
    /// what else there is to say; only the sink reads it
    pub notes: serde_json::Value,
}

/// A committable in the making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenCommit {
    pub files: Vec<serde_json::Value>,
    pub rows: u64,
    pub positions: Vec<PositionRange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows_ms: Option<(i64, i64)>,
    /// checkpoints since the last committable was made
    pub checkpoints: u32,
}

/// Files waiting to be committed to one table as one snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Committable {
    /// together with pipeline, sink and incarnation: the commit's identity
    pub checkpoint: u64,
    /// the checkpoint that the table's claim must name when this one is committed
    pub predecessor: u64,
    /// what the sink made of its files; only the sink reads it
    pub files: Vec<serde_json::Value>,
    pub rows: u64,
    /// half-open position ranges since the former commit
    pub positions: Vec<PositionRange>,
    /// smallest window start and largest window end among the rows, if they are results
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows_ms: Option<(i64, i64)>,
    /// digest of each plugin that had a hand in the rows: operator → sha256
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plugins: BTreeMap<String, String>,
}

/// `[from, to)` in one partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PositionRange {
    pub source: String,
    pub topic: String,
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(part: &u32) -> bool {
    *part == 0
}

impl StateFile {
    pub fn bucket(&self) -> BucketId {
        BucketId { holds: self.holds, start_ms: self.window_start_ms, part: self.part }
    }
}

impl Checkpoint {
    /// Every plugin that runs.
    pub fn plugins(&self) -> impl Iterator<Item = &PluginRef> {
        let of_operators = self.operators.values().flat_map(|operator| {
            operator.plugin.iter().chain(operator.draining.as_ref().map(|draining| &draining.plugin))
        });
        of_operators.chain(self.transforms.values())
    }

    /// Every state file that this checkpoint refers to.
    pub fn state_files(&self) -> impl Iterator<Item = &StateFile> {
        let of_operators = self.operators.values().flat_map(|o| o.files.iter());
        of_operators.chain(self.sinks.values().filter_map(|s| s.writer.as_ref()).flat_map(|w| w.files.iter()))
    }
}

impl LogRecord {
    /// The cut, if this record is one.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.entry {
            Entry::Claim => None,
            Entry::Checkpoint(checkpoint) => Some(checkpoint),
        }
    }
}

/// The columns of an operator's state files: its key, the window's edges, the plugin's own state.
pub fn state_file_schema(key: &[Field], state: &Schema) -> Schema {
    let edges = ["window_start", "window_end"].map(|name| Field::new(name, DataType::Timestamptz, false));
    Schema::new(key.iter().cloned().chain(edges).chain(state.fields.iter().cloned()).collect())
}
