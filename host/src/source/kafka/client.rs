//! What the client says on its own: errors and logs, on the main queue, read by one small thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{ClientContext, TopicPartitionList};

use super::{SharedConsumer, config};
use crate::source::SourceError;

/// How long the event thread waits in one poll, hence the longest that closing waits for it.
const POLL_MS: u64 = 100;

/// What the client calls the id of a topic that it knows none of.
const NO_TOPIC_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Keeps the worst that the client has said.
pub(super) struct Context {
    source: Arc<str>,
    cluster: Cluster,
    /// a topic that has got another id: whatever is in the queues from now on may be the new one's
    recreated: OnceLock<String>,
    /// stays: no time heals it
    fatal: Mutex<Option<String>>,
    /// taken by the next [`Context::check`]
    transient: Mutex<Option<String>>,
    /// a connection broke or did not come about, and nobody has answered since
    unreachable: AtomicBool,
    commit_failed: AtomicBool,
}

impl Context {
    pub(super) fn new(source: Arc<str>, cluster: Cluster) -> Self {
        Self {
            source,
            cluster,
            recreated: OnceLock::new(),
            fatal: Mutex::new(None),
            transient: Mutex::new(None),
            unreachable: AtomicBool::new(false),
            commit_failed: AtomicBool::new(false),
        }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable.load(Ordering::Relaxed)
    }

    /// A broker has answered.
    pub(super) fn answered(&self) {
        self.unreachable.store(false, Ordering::Relaxed);
    }

    /// Refuses what was fetched once a topic has been deleted and made anew.
    pub(super) fn check_topics(&self) -> Result<(), SourceError> {
        let Some(topic) = self.recreated.get() else { return Ok(()) };
        let source = &self.source;
        Err(SourceError::Fatal(format!(
            "topic `{topic}` was deleted and made anew while it was being read: the offsets of the old one mean nothing in \
             it, and none of its messages was taken; hint: the choices are\n  - `--reset-offsets {source}=earliest`: go on \
             with the new topic, from its beginning\n  - another `topic` in [sources.{source}], with the old messages in it\n  \
             - begin anew, with an empty checkpoint.location and new tables"
        )))
    }

    pub(super) fn check(&self) -> Result<(), SourceError> {
        self.check_topics()?;
        if let Some(line) = &*self.fatal.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(SourceError::Fatal(line.clone()));
        }
        match self.transient.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(line) => Err(SourceError::Transient(line)),
            None => Ok(()),
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(topic) = changed_id(message) {
            self.recreated.get_or_init(|| topic.to_owned());
        }
        // whatever matters comes as an error, too; the log is for those who look into the client
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(source = &*self.source, "librdkafka {facility}: {message}");
            }
            _ => tracing::debug!(source = &*self.source, "librdkafka {facility}: {message}"),
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(
            error.rdkafka_error_code(),
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve)
        ) {
            self.unreachable.store(true, Ordering::Relaxed);
        }
        let explained = self.cluster.explain_reason("the Kafka client", &error, reason);
        let (slot, line) = match explained {
            SourceError::Fatal(line) => (&self.fatal, line),
            SourceError::Transient(line) => (&self.transient, line),
            SourceError::OutOfRange { .. } => return,
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        // "all brokers are down" follows on what says why
        if slot.is_none() || error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            *slot = Some(line);
        }
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Ok(()) => self.commit_failed.store(false, Ordering::Relaxed),
            // the group's positions are information only: nothing is lost, and once is enough to say so
            Err(error) if !self.commit_failed.swap(true, Ordering::Relaxed) => {
                tracing::warn!(source = &*self.source, "the consumer group does not take our positions: {error}");
            }
            Err(error) => {
                tracing::debug!(source = &*self.source, "the consumer group does not take our positions: {error}")
            }
        }
    }
}

/// Reads the main queue until it is dropped.
pub(super) struct EventThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EventThread {
    pub(super) fn start(consumer: SharedConsumer) -> Result<Self, SourceError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                poll(&consumer);
            }
        };
        let thread = std::thread::Builder::new()
            .name("kafka-events".to_owned())
            .spawn(run)
            .map_err(|error| SourceError::Fatal(format!("the thread for Kafka's events cannot be started: {error}")))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// Errors went through [`ClientContext::error`] already. A message never comes this way: every partition that is
/// assigned has its own queue.
fn poll(consumer: &BaseConsumer<Context>) {
    if let Some(Ok(_)) = consumer.poll(Duration::from_millis(POLL_MS)) {
        let context = consumer.context();
        let line = "a message came on the wrong queue of the Kafka client".to_owned();
        *context.fatal.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }
}

impl Drop for EventThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The topic that a line of the client's log says has another id now. The client goes on reading at the old offset,
/// and this line, which it writes before it asks the broker for anything of the new topic, is the only sign of it.
/// (`rd_kafka_topic_metadata_update`: "Topic t changed id from A to B", where A is zero for a topic not seen before.)
fn changed_id(message: &str) -> Option<&str> {
    let (before, ids) = message.split_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once("Topic ")?;
    (!ids.starts_with(NO_TOPIC_ID)).then_some(topic)
}

/// Which brokers are meant, and how their client is set up: for the hints.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub brokers: String,
    /// where the user writes the client's properties, with its preposition
    pub properties: String,
}

impl Cluster {
    /// An error of the client in words, with what to do, and whether time can heal it.
    pub(crate) fn explain(&self, doing: &str, error: &KafkaError) -> SourceError {
        self.explain_reason(doing, error, "")
    }

    /// `reason`: what the client said of it on its own, if it did.
    pub(crate) fn explain_reason(&self, doing: &str, error: &KafkaError, reason: &str) -> SourceError {
        let Self { brokers, properties } = self;
        let code = match error {
            KafkaError::AdminOp(code) => Some(*code),
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => {
                let what = config::describe(error);
                return SourceError::Fatal(format!(
                    "the Kafka client refuses its settings: {what}; hint: correct it {properties}"
                ));
            }
            other => other.rdkafka_error_code(),
        };
        let what = if reason.is_empty() {
            code.map_or_else(|| error.to_string(), |code| code.to_string())
        } else {
            reason.to_owned()
        };
        let line = |hint: String| format!("{doing}: {what}; hint: {hint}");
        match code {
            Some(Code::Authentication | Code::SaslAuthenticationFailed) => SourceError::Fatal(line(format!(
                "the broker refuses these credentials: \"sasl.mechanism\", \"sasl.username\", \"sasl.password\" {properties}"
            ))),
            Some(Code::SSL) => SourceError::Fatal(line(format!(
                "TLS does not come about: \"ssl.ca.location\" and the certificates {properties}, and the port of {brokers}"
            ))),
            Some(Code::TopicAuthorizationFailed) => SourceError::Fatal(line(
                "this user may not use the topic: grant it, READ and DESCRIBE for reading".to_owned(),
            )),
            Some(Code::ClusterAuthorizationFailed | Code::GroupAuthorizationFailed) => {
                SourceError::Fatal(line("this user may not do that: grant it, or use another user".to_owned()))
            }
            Some(Code::UnsupportedSASLMechanism | Code::IllegalSASLState) => {
                SourceError::Fatal(line(format!("\"sasl.mechanism\" {properties}")))
            }
            Some(Code::BadMessage | Code::BadCompression | Code::NotImplemented | Code::UnsupportedCompressionType) => {
                SourceError::Fatal(line(
                    "a record batch is damaged or compressed in a way that this build cannot read".to_owned(),
                ))
            }
            Some(Code::Fatal | Code::InvalidArgument | Code::Conflict | Code::State | Code::UnsupportedVersion) => {
                SourceError::Fatal(line("this is not expected: please report it".to_owned()))
            }
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
                SourceError::Transient(line("was the topic deleted?".to_owned()))
            }
            _ => SourceError::Transient(line(format!(
                "is Kafka reachable at {brokers}? For TLS or SASL set \"security.protocol\" {properties}"
            ))),
        }
    }
}
