//! What the client says on its own: errors and logs, on the main queue, read by one small thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{ClientContext, TopicPartitionList};

use super::SharedConsumer;
use crate::source::SourceError;

/// How long the event thread waits in one poll, hence the longest that closing waits for it.
const POLL_MS: u64 = 100;

/// Keeps the worst that the client has said.
pub(super) struct Context {
    source: Arc<str>,
    brokers: String,
    /// stays: no time heals it
    fatal: Mutex<Option<String>>,
    /// taken by the next [`Context::check`]
    transient: Mutex<Option<String>>,
    commit_failed: AtomicBool,
}

impl Context {
    pub(super) fn new(source: Arc<str>, brokers: String) -> Self {
        Self {
            source,
            brokers,
            fatal: Mutex::new(None),
            transient: Mutex::new(None),
            commit_failed: AtomicBool::new(false),
        }
    }

    pub(super) fn check(&self) -> Result<(), SourceError> {
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
        let explained = explain_reason(&self.source, &self.brokers, "the Kafka client", &error, reason);
        let (slot, line) = match explained {
            SourceError::Fatal(line) => (&self.fatal, line),
            SourceError::Transient(line) => (&self.transient, line),
            SourceError::OutOfRange { .. } => return,
        };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
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
        let line = format!("source `{}`: a message came on the wrong queue of the Kafka client", context.source);
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

/// An error of the client in words, with what to do, and whether time can heal it.
pub(crate) fn explain(source: &str, brokers: &str, doing: &str, error: &KafkaError) -> SourceError {
    explain_reason(source, brokers, doing, error, "")
}

fn explain_reason(source: &str, brokers: &str, doing: &str, error: &KafkaError, reason: &str) -> SourceError {
    let code = error.rdkafka_error_code();
    let what = if !reason.is_empty() {
        reason.to_owned()
    } else {
        code.map_or_else(|| error.to_string(), |code| code.to_string())
    };
    let properties = format!("[sources.{source}.properties]");
    let line = |hint: String| format!("source `{source}`: {doing}: {what}; hint: {hint}");
    let down = || format!("is Kafka reachable at {brokers}? For TLS or SASL set \"security.protocol\" in {properties}");
    match code {
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => SourceError::Fatal(line(format!(
            "the broker refuses these credentials: \"sasl.mechanism\", \"sasl.username\", \"sasl.password\" in {properties}"
        ))),
        Some(Code::SSL) => SourceError::Fatal(line(format!(
            "TLS does not come about: \"ssl.ca.location\" and the certificates in {properties}, and the port in `brokers`"
        ))),
        Some(Code::TopicAuthorizationFailed) => {
            SourceError::Fatal(line("this user may not read the topic: grant READ and DESCRIBE on it".to_owned()))
        }
        Some(Code::ClusterAuthorizationFailed | Code::GroupAuthorizationFailed) => {
            SourceError::Fatal(line("this user may not do that: grant it, or use another user".to_owned()))
        }
        Some(Code::UnsupportedSASLMechanism | Code::IllegalSASLState) => {
            SourceError::Fatal(line(format!("\"sasl.mechanism\" in {properties}")))
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
        _ => SourceError::Transient(line(down())),
    }
}
