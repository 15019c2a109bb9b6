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
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::{Connector, Extent, PartitionId, PartitionInfo, PartitionReader, SourceError, StartAt, Waker};
use crate::spec::model::KafkaSpec;
use client::{Context, EventThread};
use topics::{TopicIds, Topics};

pub(crate) use client::Cluster;

/// Longest wait for a broker's answer in any one call (a run that is to stop waits for the call under way).
const ANSWER_TIMEOUT_MS: u64 = if cfg!(test) { 2_000 } else { 5_000 };

/// The same while no broker can be reached at all.
const UNREACHABLE_TIMEOUT_MS: u64 = 2_000;

/// How long a topic may be missing before the run stops: brokers and topics are often started together.
const MISSING_TOPIC_GRACE_MS: u64 = 15_000;

/// A consumer that all parts of a connector share; the last one closes it.
type SharedConsumer = Arc<BaseConsumer<Context>>;

pub struct KafkaConnector {
    source: Arc<str>,
    topics: Topics,
    /// stops first: its consumer must not be polled while it closes
    _events: EventThread,
    consumer: SharedConsumer,
    topic_missing_since: Mutex<Option<Instant>>,
    topic_ids_supported: AtomicBool,
}

impl Drop for KafkaConnector {
    /// A client whose brokers are gone can take minutes to close: it is left to the end of the process.
    fn drop(&mut self) {
        if self.consumer.context().is_unreachable() {
            std::mem::forget(Arc::clone(&self.consumer));
        }
    }
}

impl KafkaConnector {
    /// Makes the client and starts its threads. Brokers are not waited for: [`Connector::discover`] asks them first.
    pub fn new(source_name: &str, spec: &KafkaSpec) -> Result<Self, SourceError> {
        let source: Arc<str> = source_name.into();
        let topics = Topics::new(&spec.topics)?;
        let client_config = config::client_config(&source, spec)?;
        let properties = format!("in [sources.{source}.properties]");
        let cluster = Cluster { brokers: spec.brokers.clone(), properties };
        let context = Context::new(source.clone(), cluster.clone());
        let consumer: SharedConsumer = Arc::new(
            client_config
                .create_with_context(context)
                .map_err(|error| cluster.explain("starting the Kafka client", &error))?,
        );
        Ok(Self {
            _events: EventThread::start(consumer.clone())?,
            source,
            topics,
            consumer,
            topic_missing_since: Mutex::new(None),
            topic_ids_supported: AtomicBool::new(true),
        })
    }

    fn timeout(&self) -> Duration {
        let unreachable = self.consumer.context().is_unreachable();
        Duration::from_millis(if unreachable { UNREACHABLE_TIMEOUT_MS } else { ANSWER_TIMEOUT_MS })
    }

    /// The answer to a call, or what went wrong with it.
    fn answer<T>(&self, doing: &str, answer: Result<T, KafkaError>) -> Result<T, SourceError> {
        if answer.is_ok() {
            self.consumer.context().answered();
        }
        answer.map_err(|error| self.explain_call(doing, &error))
    }

    /// What went wrong in a call: what the event thread has heard meanwhile explains more than "no answer in time".
    fn explain_call(&self, doing: &str, error: &KafkaError) -> SourceError {
        let no_answer = matches!(
            error.rdkafka_error_code(),
            Some(Code::OperationTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve)
        );
        match self.consumer.context().check() {
            Err(fatal @ SourceError::Fatal(_)) => fatal,
            Err(heard) if no_answer => heard,
            _ => self.consumer.context().cluster().explain(doing, error),
        }
    }

    /// By topic; empty where the broker has none.
    fn topic_ids(&self, partitions: &[PartitionId]) -> Result<TopicIds, SourceError> {
        if !self.topic_ids_supported.load(Ordering::Relaxed) {
            return Ok(TopicIds::new());
        }
        let ids = topics::topic_ids(&self.consumer, partitions, self.timeout());
        match self.answer("asking for the topics' ids", ids)? {
            Some(ids) => Ok(ids),
            None => {
                tracing::warn!(
                    source = &*self.source,
                    "the broker tells no topic ids: a topic that is deleted and made anew is found out by its offsets only"
                );
                self.topic_ids_supported.store(false, Ordering::Relaxed);
                Ok(TopicIds::new())
            }
        }
    }

    /// A missing topic is forgiven for a while.
    fn missing(&self, what: &str) -> SourceError {
        let mut since = self.topic_missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *since.get_or_insert_with(Instant::now);
        let line = format!(
            "{what} on {}; hint: create it, or correct `topic` in [sources.{}]",
            self.consumer.context().cluster().brokers,
            self.source
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
                    .and_then(|()| self.consumer.offsets_for_times(asked, self.timeout()));
                let found = self.answer(&doing, found)?;
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
fn ask_extent(consumer: &BaseConsumer<Context>, id: &PartitionId, timeout: Duration) -> Result<Extent, KafkaError> {
    let (begin, end) = consumer.fetch_watermarks(&id.topic, id.partition, timeout)?;
    Ok(Extent { begin, end })
}

impl Connector for KafkaConnector {
    fn discover(&self) -> Result<Vec<PartitionInfo>, SourceError> {
        let metadata = self.consumer.fetch_metadata(self.topics.only_name(), self.timeout());
        let metadata = self.answer("asking for the topics", metadata)?;
        let found = self.topics.partitions(&metadata);
        let found = found.map_err(|trouble| match trouble {
            topics::Trouble::Missing(what) => self.missing(&what),
            topics::Trouble::Broker(doing, error) => self.explain_call(&doing, &error),
        })?;
        *self.topic_missing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;

        let ids = self.topic_ids(&found)?;
        let with_id = |id: PartitionId| PartitionInfo { topic_id: ids.get(&*id.topic).cloned(), id };
        Ok(found.into_iter().map(with_id).collect())
    }

    fn extent(&self, id: &PartitionId) -> Result<Extent, SourceError> {
        let doing = format!("asking for the extent of {}/{}", id.topic, id.partition);
        self.answer(&doing, ask_extent(&self.consumer, id, self.timeout()))
    }

    fn open(
        &self,
        id: &PartitionId,
        start: StartAt,
        waker: &Arc<Waker>,
    ) -> Result<Box<dyn PartitionReader>, SourceError> {
        let position = self.resolve(id, start)?;
        let reader =
            reader::KafkaReader::open(self.source.clone(), self.consumer.clone(), id.clone(), position, waker.clone());
        Ok(Box::new(reader?))
    }

    fn publish_positions(&self, positions: &[(PartitionId, i64)]) {
        // they would only pile up, and closing waits for them
        if self.consumer.context().is_unreachable() {
            return;
        }
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
