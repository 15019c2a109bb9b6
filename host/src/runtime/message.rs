//! What travels on an edge between two tasks, and between the tasks and the coordinator.

use std::sync::Arc;
use std::time::Duration;

use millrace_core::barrier::Barrier;
use millrace_core::batch::RowSet;
use millrace_core::checkpoint::{BucketId, PartitionState, StateFile};
use millrace_core::key::Keys;
use millrace_core::panes::Reached;
use millrace_core::swap::Corrections;
use millrace_core::watermark::{END_OF_TIME_MS, Watermark};

use super::versions::VersionId;
use crate::sink::Prepared;

/// In-band: rows, progress of event time, checkpoint marks.
#[derive(Clone, Debug)]
pub enum Message {
    Rows(Packet),
    /// `time_ms == i64::MAX`: event time has come to its end, close every window
    Watermark(Watermark),
    Barrier(Barrier),
}

/// Rows for one task, with the keys of the whole batch where the receiver groups by key.
#[derive(Clone, Debug)]
pub struct Packet {
    pub rows: RowSet,
    pub keys: Option<Arc<Keys>>,
}

/// Event time has come to its end.
pub const END_OF_TIME: Watermark = Watermark { time_ms: Some(END_OF_TIME_MS), idle: false };

/// A task's name and number within its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    pub node: Arc<str>,
    pub task: usize,
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.node, self.task)
    }
}

/// A task's part of a checkpoint.
#[derive(Debug)]
pub enum Part {
    Source {
        partitions: Vec<PartitionState>,
    },
    Operator(OperatorPart),
    /// an operator that keeps nothing; see [`OperatorPart`]
    Stateless {
        version: VersionId,
        exchanged: Option<Exchanged>,
    },
    Sink(Prepared),
}

#[derive(Debug)]
pub struct OperatorPart {
    pub watermark_ms: Option<i64>,
    /// how far the task's results have been given
    pub reached: Option<Reached>,
    /// what stands as it was exported before
    pub unchanged: Vec<BucketId>,
    pub written: Vec<StateFile>,
    pub late_dropped: u64,
    /// the version whose state this is: see [`super::versions::VersionId`]
    pub version: VersionId,
    /// at this barrier it has taken over
    pub exchanged: Option<Exchanged>,
    /// at this barrier a version was put beside the active one that gets no state: the start of the first window that it will
    /// have seen all of
    pub next_window_ms: Option<i64>,
    /// the version before ends its windows
    pub is_draining: bool,
}

/// Two versions have changed places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// how long the task read nothing for it
    pub pause: Duration,
    /// a rollback: what became of the results of the version that was active
    pub corrections: Corrections,
}

/// From a task to the coordinator.
#[derive(Debug)]
pub enum Event {
    Acknowledged {
        task: TaskId,
        checkpoint: u64,
        part: Part,
    },
    /// a bounded source task has read all that was there at the start
    ReachedEnd {
        task: TaskId,
    },
    Ended {
        task: TaskId,
    },
    Failed {
        task: TaskId,
        error: RunError,
    },
    /// a version that runs beside the active one has taken in the state, and all that has come since
    CaughtUp {
        task: TaskId,
        version: VersionId,
    },
    /// it runs no more
    GaveUp {
        task: TaskId,
        version: VersionId,
        reason: String,
    },
    /// the active version failed in its probation, and the former one has taken over in this task
    FellBack {
        task: TaskId,
        version: VersionId,
        reason: String,
    },
}

/// Why a run ends before its time, by whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// the pipeline file, its state or its tables do not fit together; the user decides
    #[error("{0}")]
    Spec(String),
    /// the input; the message says which row
    #[error("{0}")]
    Data(String),
    #[error("{0}")]
    Plugin(String),
    /// a plugin's version that another one can take over from
    #[error("{0}")]
    Version(String),
    /// the world outside: broker, catalog, disk
    #[error("{0}")]
    External(String),
    /// a newer process has taken the pipeline over
    #[error("{0}")]
    Fenced(String),
    /// a defect of Millrace
    #[error("internal error (please report it): {0}")]
    Internal(String),
}

impl From<crate::plugin::PluginError> for RunError {
    fn from(error: crate::plugin::PluginError) -> Self {
        Self::Plugin(error.to_string())
    }
}

impl From<crate::sink::SinkError> for RunError {
    fn from(error: crate::sink::SinkError) -> Self {
        Self::External(error.to_string())
    }
}

impl From<arrow_schema::ArrowError> for RunError {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self::Internal(error.to_string())
    }
}
