//! Messages in.
//!
//! A *connector* knows a source's partitions and their end offsets and opens *partition readers*. A source task owns
//! the readers of its partitions on one thread: it asks each for a batch of messages, without blocking, in the order
//! that keeps the partitions' event times together, and waits on one [`Waker`] when none has any.
//!
//! A reader never decodes, never looks at event time, and never commits: positions belong to checkpoints.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

pub mod generator;
pub mod kafka;

/// A partition of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId {
    pub topic: Arc<str>,
    pub partition: i32,
}

/// A partition as the connector found it.
#[derive(Clone, Debug)]
pub struct PartitionInfo {
    pub id: PartitionId,
    /// changes when a topic was deleted and made anew; none where the connector cannot tell
    pub topic_id: Option<String>,
}

/// Where reading starts in a partition that no checkpoint knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    Earliest,
    Latest,
    /// the first message with a record timestamp at or after it
    TimestampMs(i64),
    /// the offset of the next message to read
    Offset(i64),
}

/// What a connector can say about one partition's extent. `end` is the offset after the last readable record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub begin: i64,
    pub end: i64,
}

/// One message as it came.
#[derive(Clone, Copy, Debug)]
pub struct RawMessage<'a> {
    pub offset: i64,
    /// none for a tombstone
    pub payload: Option<&'a [u8]>,
    pub key: Option<&'a [u8]>,
    /// the record's own timestamp
    pub timestamp_ms: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Time can heal it: the caller tries again with backoff, nothing is lost.
    #[error("{0}")]
    Transient(String),
    /// It cannot: the run stops with this line.
    #[error("{0}")]
    Fatal(String),
    /// The position asked for is no longer (or not yet) in the partition.
    #[error(
        "source `{source_name}`: offset {position} of {topic}/{partition} is out of range: the broker has [{begin}, {end})"
    )]
    OutOfRange { source_name: String, topic: String, partition: i32, position: i64, begin: i64, end: i64 },
}

/// Knows the partitions of one source. Shared by its tasks.
pub trait Connector: Send + Sync {
    /// All partitions, ordered. Called at the start and then every few seconds: new ones are read from their beginning.
    fn discover(&self) -> Result<Vec<PartitionInfo>, SourceError>;

    /// Asks the broker (an answer, not a cached value).
    fn extent(&self, id: &PartitionId) -> Result<Extent, SourceError>;

    /// `waker` is woken when messages have arrived in an empty reader.
    fn open(
        &self,
        id: &PartitionId,
        start: StartAt,
        waker: &Arc<Waker>,
    ) -> Result<Box<dyn PartitionReader>, SourceError>;

    /// For people and tools that look at the consumer group: information only, never read back.
    fn publish_positions(&self, positions: &[(PartitionId, i64)]);

    /// Errors that came up outside any call (authentication refused, all brokers down): logged, or fatal.
    fn check(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// Reads one partition, on one thread.
pub trait PartitionReader: Send {
    /// Fetches up to `max_messages` that have arrived, without blocking. What the former call gave is released.
    /// Returns how many messages there are now.
    fn fetch(&mut self, max_messages: usize) -> Result<usize, SourceError>;

    /// Appends the messages of the last [`PartitionReader::fetch`], in offset order, to `into`.
    fn messages<'a>(&'a self, into: &mut Vec<RawMessage<'a>>);

    /// The offset of the next message to read, past holes (control records, compaction) already seen.
    fn position(&self) -> i64;
}

/// Wakes a task that waits for messages or for a command.
#[derive(Debug, Default)]
pub struct Waker {
    woken: Mutex<bool>,
    signal: Condvar,
}

impl Waker {
    pub fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.signal.notify_one();
    }

    /// Returns at once if woken since the last call, else waits.
    pub fn wait(&self, timeout: Duration) {
        let guard = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut guard, _) =
            self.signal.wait_timeout_while(guard, timeout, |woken| !*woken).unwrap_or_else(PoisonError::into_inner);
        *guard = false;
    }
}
