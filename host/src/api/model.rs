//! The answers of the API, as they are in JSON. Fields are added, never renamed or removed, within `/api/v1`.
//!
//! Names end in their unit. `…_at_ms` is an instant of the wall clock, `watermark_ms`, `start_ms` and the like are event
//! time, all in milliseconds since the epoch; `…_for_ms` is how long something has lasted. What is not known is null.

use millrace_core::swap::SwapRecord;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`
    pub status: String,
}

/// Every answer that is no 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipelines {
    pub pipelines: Vec<String>,
}

/// `/api/v1/pipelines/{name}/swaps`: the last ones, oldest first
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swaps {
    pub swaps: Vec<SwapRecord>,
}

/// What a savepoint is asked for with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavepointRequest {
    /// absolute, on the machine that the pipeline runs on
    pub folder: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Savepoint {
    pub checkpoint: u64,
    pub folder: String,
}

/// The run ends: a checkpoint, the commits, the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    pub pipeline: String,
}

/// The plugin of an operator that runs. Counters are of this process, since the plugin took over; over all tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginStatus {
    pub name: String,
    pub version: String,
    /// lower-case hex of its file's bytes
    pub sha256: String,
    /// JSON
    pub config: String,
    pub cpu_ns_total: u64,
    pub calls_total: u64,
    pub rows_total: u64,
    pub memory_bytes: u64,
    /// the version that runs beside it and whose results are withheld
    pub companion: Option<Box<PluginStatus>>,
}

/// `/api/v1/pipelines/{name}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineStatus {
    pub name: String,
    /// of Millrace
    pub version: String,
    pub incarnation: String,
    pub generation: u64,
    /// `event` or `processing`
    pub time: String,
    pub started_at_ms: i64,
    pub now_at_ms: i64,
    /// too many commits wait for the catalog
    pub intake_paused: bool,
    /// the lowest of all operators
    pub watermark_ms: Option<i64>,
    /// messages that are there and not read
    pub backlog: Option<i64>,
    pub checkpoint: Option<CheckpointStatus>,
    pub commit: Option<CommitStatus>,
    pub nodes: Vec<NodeStatus>,
}

/// The last one that is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointStatus {
    pub number: u64,
    pub at_ms: i64,
    pub took_ms: u64,
}

/// The last one that a catalog has confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitStatus {
    pub checkpoint: u64,
    pub at_ms: i64,
    pub rows_total: u64,
    pub files_total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    Source,
    Transform,
    Aggregation,
    Sink,
}

impl NodeKind {
    pub fn is_operator(self) -> bool {
        matches!(self, Self::Transform | Self::Aggregation)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Transform => "transform",
            Self::Aggregation => "aggregation",
            Self::Sink => "sink",
        }
    }
}

/// Counters are of this process, since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    pub kind: NodeKind,
    pub inputs: Vec<String>,
    /// of sources and operators that keep event time
    pub watermark_ms: Option<i64>,
    pub backlog: Option<i64>,
    pub rows_in_total: u64,
    pub rows_out_total: u64,
    pub bytes_in_total: u64,
    pub failed_total: u64,
    pub late_total: u64,
    pub duplicates_total: u64,
    pub plugin_failures_total: u64,
    pub groups: i64,
    pub state_bytes: i64,
    /// of operators that have one; null, too: it has said nothing yet
    #[serde(default)]
    pub plugin: Option<PluginStatus>,
}

/// `/api/v1/pipelines/{name}/operators/{operator}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorStatus {
    pub node: NodeStatus,
    /// null: it keeps no event time of its own
    pub explanation: Option<OperatorExplanation>,
}

/// `/api/v1/pipelines/{name}/explain`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub pipeline: String,
    pub now_at_ms: i64,
    /// why the oldest open window is open
    pub answer: String,
    /// those that keep event time: aggregations and deduplications
    pub operators: Vec<OperatorExplanation>,
    pub sources: Vec<SourceExplanation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorExplanation {
    pub name: String,
    pub kind: NodeKind,
    /// the same for people
    pub answer: String,
    pub watermark_ms: Option<i64>,
    /// all of its inputs are idle: the watermark holds
    pub idle: bool,
    pub stands_for_ms: i64,
    /// null: nothing does, all inputs are idle or at their end
    pub held_by: Option<HeldBy>,
    pub inputs: Vec<InputExplanation>,
    pub windows: Windows,
    pub late_total: u64,
    pub late: Vec<LateFrom>,
}

/// What an operator has heard of an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputExplanation {
    pub node: String,
    pub watermark_ms: Option<i64>,
    pub idle: bool,
}

/// What holds a watermark where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// a source, or an operator above
    pub node: String,
    /// of a source
    pub partition: Option<PartitionName>,
    pub watermark_ms: Option<i64>,
    pub since_at_ms: i64,
    pub stands_for_ms: i64,
    pub reason: Reason,
    /// the reason in words
    pub because: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionName {
    pub topic: String,
    pub partition: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// there is more to read
    Backlog,
    /// caught up; the next event moves it
    CaughtUp,
    /// caught up and silent, but not yet for `idle_timeout`
    Silent,
    /// silent, and no broker has answered within `idle_timeout`
    NoAnswer,
    /// no event yet
    NoEvent,
    /// messages come, but all of them are dated beyond `max_future`
    FutureGuard,
    /// too far ahead of the slowest
    Drift,
    /// commits wait for the catalog, nothing is read
    IntakePaused,
    /// an operator above
    Operator,
    /// rows are between the source and the operator
    OnTheWay,
}

/// Windows of one operator, over its tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    pub open: u64,
    /// ended, and still corrected by late events
    pub closed: u64,
    pub oldest_open: Option<OldestWindow>,
    pub groups: u64,
    pub state_bytes: u64,
    /// closed windows, or sessions, whose correction waits for the next tick or checkpoint
    pub corrections_waiting: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldestWindow {
    pub start_ms: i64,
    pub end_ms: i64,
    /// it closes when the watermark is here
    pub closes_at_watermark_ms: i64,
    /// how far the watermark is from there
    pub missing_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateFrom {
    pub source: String,
    pub topic: String,
    pub partition: i32,
    pub events: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceExplanation {
    pub name: String,
    /// of its partitions that count
    pub watermark_ms: Option<i64>,
    pub idle: bool,
    pub out_of_orderness_ms: u64,
    pub idle_timeout_ms: Option<u64>,
    pub max_drift_ms: Option<u64>,
    pub max_future_ms: Option<u64>,
    pub partitions: Vec<PartitionExplanation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionState {
    /// being read, or caught up
    Reading,
    /// caught up and silent: it does not hold the watermark
    Idle,
    /// found while running, no event yet: it does not hold the watermark
    WaitsForFirstEvent,
    /// too far ahead of the slowest: not read on
    HeldByDrift,
    /// bounded runs: all that was there at the start has been read
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionExplanation {
    pub topic: String,
    pub partition: i32,
    pub state: PartitionState,
    pub watermark_ms: Option<i64>,
    pub stands_for_ms: i64,
    /// the largest event time in this run
    pub newest_event_ms: Option<i64>,
    pub silent_for_ms: Option<i64>,
    /// the next message to read
    pub position: Option<i64>,
    /// the offset after the last message, as the broker last said
    pub end: Option<i64>,
    pub backlog: Option<i64>,
    pub end_answered_for_ms: Option<i64>,
    pub drift: Option<DriftExplanation>,
    pub messages_total: u64,
    pub failed_total: u64,
    /// of the failed: dated beyond `max_future`
    pub future_total: u64,
    pub because: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftExplanation {
    pub held_for_ms: i64,
    /// the watermark of the slowest partition that it is compared with
    pub slowest_ms: Option<i64>,
    pub ahead_ms: Option<i64>,
}
