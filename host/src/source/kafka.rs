//! Messages from Kafka.
//!
//! ```text
//!   KafkaConnector ── one librdkafka consumer for the source, shared by its tasks
//!     ├─ main queue ──▶ event thread: errors, logs, answers to commits ──▶ check()
//!     └─ one queue per partition ──▶ KafkaReader (on its task's thread), woken through its Waker
//! ```
//!
//! Partitions are assigned by hand, each at an explicit offset: never a group subscription, never an offset of the
//! consumer group, never an automatic reset. What the group is told ([`Connector::publish_positions`]) is for people.
//! Messages leave in batches (`rd_kafka_consume_batch_queue`), which costs half of what single ones do.

mod client;
mod config;
mod reader;
#[cfg(test)]
mod tests;
mod topics;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::{Connector, Extent, PartitionId, PartitionInfo, PartitionReader, SourceError, StartAt, Waker};
use crate::spec::model::KafkaSpec;
use client::{Context, EventThread};
use topics::Topics;

pub(crate) use client::explain;

/// Longest wait for a broker's answer in any one call.
const ANSWER_TIMEOUT_MS: u64 = if cfg!(test) { 2_000 } else { 10_000 };

/// How long a topic may be missing before the run stops: brokers and topics are often started together.
const MISSING_TOPIC_GRACE_MS: u64 = 15_000;

/// A consumer that all parts of a connector share; the last one closes it.
type SharedConsumer = Arc<BaseConsumer<Context>>;

pub struct KafkaConnector {
    source: Arc<str>,
    brokers: String,
    topics: Topics,
    /// stops first: its consumer must not be polled while it closes
    _events: EventThread,
    consumer: SharedConsumer,
    topic_missing_since: Mutex<Option<Instant>>,
    topic_ids_supported: AtomicBool,
}

impl KafkaConnector {
    /// Makes the client and starts its threads. Brokers are not waited for: [`Connector::discover`] asks them first.
    pub fn new(source_name: &str, spec: &KafkaSpec) -> Result<Self, SourceError> {
        let source: Arc<str> = source_name.into();
        let topics = Topics::new(&source, &spec.topics)?;
        let client_config = config::client_config(&source, spec)?;
        let context = Context::new(source.clone(), spec.brokers.clone());
        let consumer: SharedConsumer = Arc::new(client_config.create_with_context(context).map_err(|error| {
            SourceError::Fatal(format!(
                "source `{source}`: the Kafka client refuses its settings: {}; hint: see [sources.{source}.properties]",
                config::describe(&error)
            ))
        })?);
        Ok(Self {
            _events: EventThread::start(consumer.clone())?,
            source,
            brokers: spec.brokers.clone(),
            topics,
            consumer,
            topic_missing_since: Mutex::new(None),
            topic_ids_supported: AtomicBool::new(true),
        })
    }

    fn timeout() -> Duration {
        Duration::from_millis(ANSWER_TIMEOUT_MS)
    }

    /// What went wrong in a call: a refusal that the event thread has heard of explains more than a timeout.
    fn explain_call(&self, doing: &str, error: &KafkaError) -> SourceError {
        if let Err(fatal @ SourceError::Fatal(_)) = self.consumer.context().check() {
            return fatal;
        }
        explain(&self.source, &self.brokers, doing, error)
    }

    /// A missing topic is forgiven for a while.
    fn missing(&self, what: &str) -> SourceError {
        let mut since = self.topic_missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *since.get_or_insert_with(Instant::now);
        let line = format!(
            "source `{}`: {what} on {}; hint: create it, or correct `topic` in [sources.{}]",
            self.source, self.brokers, self.source
        );
        if since.elapsed() < Duration::from_millis(MISSING_TOPIC_GRACE_MS) {
            SourceError::Transient(line)
        } else {
            SourceError::Fatal(line)
        }
    }

    /// Where reading starts, as an offset: a checkpoint needs one even before the first message.
    fn resolve(&self, id: &PartitionId, start: StartAt) -> Result<i64, SourceError> {
        let extent = self.extent(id)?;
        match start {
            StartAt::Earliest => Ok(extent.begin),
            StartAt::Latest => Ok(extent.end),
            StartAt::Offset(position) if position < extent.begin || position > extent.end => {
                Err(out_of_range(&self.source, id, position, extent))
            }
            StartAt::Offset(position) => Ok(position),
            StartAt::TimestampMs(timestamp_ms) => {
                let mut asked = TopicPartitionList::new();
                let doing = format!("asking for the offset at time {timestamp_ms} of {}/{}", id.topic, id.partition);
                let found = asked
                    .add_partition_offset(&id.topic, id.partition, Offset::Offset(timestamp_ms))
                    .and_then(|()| self.consumer.offsets_for_times(asked, Self::timeout()))
                    .map_err(|error| self.explain_call(&doing, &error))?;
                let element = found.find_partition(&id.topic, id.partition);
                if let Some(Err(error)) = element.as_ref().map(|e| e.error()) {
                    return Err(self.explain_call(&doing, &error));
                }
                match element.map(|e| e.offset()) {
                    Some(Offset::Offset(offset)) => Ok(offset),
                    // no message that late: what comes from now on
                    _ => Ok(extent.end),
                }
            }
        }
    }
}

fn out_of_range(source: &str, id: &PartitionId, position: i64, extent: Extent) -> SourceError {
    SourceError::OutOfRange {
        source_name: source.to_owned(),
        topic: id.topic.to_string(),
        partition: id.partition,
        position,
        begin: extent.begin,
        end: extent.end,
    }
}

/// The broker's own answer. With `isolation.level=read_committed` the end is that of the last finished transaction.
fn ask_extent(consumer: &BaseConsumer<Context>, id: &PartitionId) -> Result<Extent, KafkaError> {
    let (begin, end) = consumer.fetch_watermarks(&id.topic, id.partition, Duration::from_millis(ANSWER_TIMEOUT_MS))?;
    Ok(Extent { begin, end })
}

impl Connector for KafkaConnector {
    fn discover(&self) -> Result<Vec<PartitionInfo>, SourceError> {
        let metadata = self
            .consumer
            .fetch_metadata(self.topics.only_name(), Self::timeout())
            .map_err(|error| self.explain_call("asking for the topics", &error))?;
        let found = self.topics.partitions(&metadata);
        let found = found.map_err(|trouble| match trouble {
            topics::Trouble::Missing(what) => self.missing(&what),
            topics::Trouble::Broker(doing, error) => self.explain_call(&doing, &error),
        })?;
        *self.topic_missing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;

        let ids = if self.topic_ids_supported.load(Ordering::Relaxed) {
            topics::topic_ids(&self.consumer, &found, Self::timeout()).unwrap_or_else(|reason| {
                tracing::warn!(
                    source = &*self.source,
                    "the broker tells no topic ids ({reason}): a topic that is deleted and made anew is found out by \
                     its offsets only"
                );
                self.topic_ids_supported.store(false, Ordering::Relaxed);
                topics::TopicIds::new()
            })
        } else {
            topics::TopicIds::new()
        };
        let with_id = |id: PartitionId| PartitionInfo { topic_id: ids.get(&*id.topic).cloned(), id };
        Ok(found.into_iter().map(with_id).collect())
    }

    fn extent(&self, id: &PartitionId) -> Result<Extent, SourceError> {
        let doing = || format!("asking for the extent of {}/{}", id.topic, id.partition);
        ask_extent(&self.consumer, id).map_err(|error| self.explain_call(&doing(), &error))
    }

    fn open(
        &self,
        id: &PartitionId,
        start: StartAt,
        waker: &Arc<Waker>,
    ) -> Result<Box<dyn PartitionReader>, SourceError> {
        let position = self.resolve(id, start)?;
        let reader = reader::KafkaReader::open(
            self.source.clone(),
            self.brokers.clone(),
            self.consumer.clone(),
            id.clone(),
            position,
            waker.clone(),
        );
        Ok(Box::new(reader?))
    }

    fn publish_positions(&self, positions: &[(PartitionId, i64)]) {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (id, position) in positions {
            if let Err(error) = list.add_partition_offset(&id.topic, id.partition, Offset::Offset(*position)) {
                tracing::debug!(source = &*self.source, "position {position} cannot be published: {error}");
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(source = &*self.source, "positions were not published to the consumer group: {error}");
        }
    }

    fn check(&self) -> Result<(), SourceError> {
        self.consumer.context().check()
    }
}
