//! Rows into a Kafka topic, as JSON. **At-least-once**: `prepare` returns once the brokers have acknowledged every row
//! written so far; what a crash leaves unacknowledged is read and sent again.
//!
//! ```text
//!   write ──▶ librdkafka's queue (bounded: a full queue makes `write` wait) ──▶ brokers
//!               ▲                                                                │ acknowledged, or failed
//!               └── rows that failed for a passing reason wait here for the next `prepare` ◀──┘
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_core::batch::RowSet;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::json::{Column, JsonRows};
use super::rows::{append_only, for_each_row};
use super::{Prepared, Result, SinkError, SinkWriter};
use crate::spec::model::KafkaSinkSpec;

/// The queue's bounds: `write` waits when either is reached. `properties` may set others.
const QUEUE_MESSAGES_MAX: &str = "100000";
const QUEUE_KIBIBYTES_MAX: &str = "65536";
const LINGER_MS: &str = "5";
/// How long librdkafka tries to deliver a row before it reports it as failed. `properties` may set another.
const DELIVERY_TIMEOUT_MS: u64 = 120_000;
/// What waiting adds to that: librdkafka looks at timeouts once a second.
const DELIVERY_GRACE_MS: u64 = 5_000;
/// How often a wait looks at the producer's own state.
const WAIT_STEP_MS: u64 = 500;

/// One task's producer.
pub struct KafkaSink {
    node: String,
    topic: String,
    key: Option<String>,
    brokers: String,
    producer: ThreadedProducer<Deliveries>,
    wait: Duration,
    /// rows since the last `prepare`
    rows: u64,
    buffer: Vec<u8>,
    key_buffer: Vec<u8>,
}

/// What became of the rows handed to librdkafka; shared with its callback.
#[derive(Clone, Default)]
struct Deliveries(Arc<(Mutex<Outcome>, Condvar)>);

#[derive(Default)]
struct Outcome {
    /// handed over, no answer yet
    in_flight: u64,
    /// key and payload of rows that were given back for a reason that may pass; no more than the queue holds
    failed: Vec<Row>,
    passing: Option<String>,
    lasting: Option<String>,
    /// the client's last error outside any delivery: says why nothing is acknowledged
    client: Option<String>,
}

struct Row {
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next answer, no longer than a step.
    fn wait<'a>(&self, outcome: MutexGuard<'a, Outcome>) -> MutexGuard<'a, Outcome> {
        let step = Duration::from_millis(WAIT_STEP_MS);
        self.0.1.wait_timeout(outcome, step).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "millrace::sink::kafka", %error, reason, "producer");
        let mut outcome = self.lock();
        let line = format!("{error} ({reason})");
        if error.rdkafka_error_code().is_some_and(is_lasting) {
            outcome.lasting = Some(line);
        } else {
            outcome.client = Some(line);
        }
        self.0.1.notify_all();
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut outcome = self.lock();
        outcome.in_flight = outcome.in_flight.saturating_sub(1);
        if let Err((error, message)) = result {
            if error.rdkafka_error_code().is_some_and(is_lasting) {
                outcome.lasting = Some(error.to_string());
            } else {
                outcome.passing = Some(error.to_string());
                outcome.failed.push(Row {
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
                });
            }
        }
        self.0.1.notify_all();
    }
}

/// Errors that another try meets again.
fn is_lasting(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Fatal
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidTopic
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::InvalidRecord
            | Code::InvalidRequiredAcks
            | Code::UnsupportedFeature
            | Code::PolicyViolation
            | Code::SSL
    )
}

fn hint(line: &str) -> &'static str {
    let line = line.to_ascii_lowercase();
    if line.contains("too large") || line.contains("toolarge") || line.contains("message size") {
        ". hint: raise the topic's `max.message.bytes` and the sink's `message.max.bytes` property"
    } else if line.contains("authenti") || line.contains("sasl") {
        ". hint: check the sink's `security.protocol` and `sasl.*` properties"
    } else if line.contains("authoriz") {
        ". hint: the user needs the right to write to the topic (and IdempotentWrite)"
    } else if line.contains("topic") || line.contains("partition") {
        ". hint: create the topic, or let the brokers create it (auto.create.topics.enable)"
    } else {
        ""
    }
}

impl KafkaSink {
    /// Does not wait for the brokers; what is wrong with them is said by `write` or `prepare`.
    pub fn new(spec: &KafkaSinkSpec, node: &str, task: usize) -> Result<Self> {
        let properties = producer_properties(spec, node, task);
        let timeout_ms = ["message.timeout.ms", "delivery.timeout.ms"]
            .iter()
            .find_map(|name| properties.get(*name)?.parse::<u64>().ok())
            .filter(|ms| *ms > 0)
            .unwrap_or(DELIVERY_TIMEOUT_MS);
        let mut config = ClientConfig::new();
        for (name, value) in &properties {
            config.set(name, value);
        }
        let producer = config
            .create_with_context(Deliveries::default())
            .map_err(|e| SinkError::Fatal(format!("sink `{node}`: {e}. hint: see [sinks.{node}.properties]")))?;
        Ok(Self {
            node: node.to_owned(),
            topic: spec.topic.clone(),
            key: spec.key.clone(),
            brokers: spec.brokers.clone(),
            producer,
            wait: Duration::from_millis(timeout_ms.saturating_add(DELIVERY_GRACE_MS)),
            rows: 0,
            buffer: Vec::new(),
            key_buffer: Vec::new(),
        })
    }

    fn fatal(&self, line: &str) -> SinkError {
        let Self { node, topic, brokers, .. } = self;
        SinkError::Fatal(format!("sink `{node}`: topic {topic} at {brokers}: {line}{}", hint(line)))
    }

    fn transient(&self, line: &str) -> SinkError {
        let Self { node, topic, brokers, .. } = self;
        SinkError::Transient(format!("sink `{node}`: topic {topic} at {brokers}: {line}"))
    }

    /// Errors that came up since the last call and that another try would meet again.
    fn check(&self, outcome: &Outcome) -> Result<()> {
        if let Some((_, reason)) = self.producer.client().fatal_error() {
            return Err(self.fatal(&reason));
        }
        match &outcome.lasting {
            Some(line) => Err(self.fatal(line)),
            None => Ok(()),
        }
    }

    /// Hands one row over; waits while the queue is full. librdkafka gives a row up after its delivery timeout, so
    /// the queue does move, or the wait ends with an error.
    fn send(&self, key: Option<&[u8]>, payload: &[u8]) -> Result<()> {
        let deliveries = self.producer.context();
        let deadline = Instant::now().checked_add(self.wait);
        loop {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).payload(payload);
            if let Some(key) = key {
                record = record.key(key);
            }
            // counted first: the answer may come before `send` returns
            deliveries.lock().in_flight += 1;
            let Err((error, _)) = self.producer.send(record) else { return Ok(()) };
            let mut outcome = deliveries.lock();
            outcome.in_flight = outcome.in_flight.saturating_sub(1);
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(self.fatal(&error.to_string()));
            }
            self.check(&outcome)?;
            if !outcome.failed.is_empty() || deadline.is_some_and(|d| Instant::now() >= d) {
                // nothing gets through: no room is made by giving rows up
                let why = outcome.passing.as_ref().or(outcome.client.as_ref());
                let why = why.map_or("the brokers do not answer", String::as_str);
                return Err(self.fatal(&format!("the queue is full and rows cannot be delivered: {why}")));
            }
            drop(deliveries.wait(outcome));
        }
    }
}

/// Ours, then what the file says.
fn producer_properties(spec: &KafkaSinkSpec, node: &str, task: usize) -> BTreeMap<String, String> {
    let mut properties: BTreeMap<String, String> = [
        ("enable.idempotence", "true"),
        ("linger.ms", LINGER_MS),
        ("compression.type", "lz4"),
        ("queue.buffering.max.messages", QUEUE_MESSAGES_MAX),
        ("queue.buffering.max.kbytes", QUEUE_KIBIBYTES_MAX),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    properties.insert("client.id".to_owned(), format!("millrace-{node}-{task}"));
    if !spec.properties.contains_key("delivery.timeout.ms") {
        properties.insert("message.timeout.ms".to_owned(), DELIVERY_TIMEOUT_MS.to_string());
    }
    properties.extend(spec.properties.iter().map(|(name, value)| (name.clone(), value.clone())));
    properties.insert("bootstrap.servers".to_owned(), spec.brokers.clone());
    properties
}

impl SinkWriter for KafkaSink {
    fn write(&mut self, rows: &RowSet) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        append_only(&self.node, rows)?;
        self.check(&self.producer.context().lock())?;
        let batch = &rows.batch.rows;
        let json = JsonRows::new(batch)?;
        let key = match &self.key {
            None => None,
            Some(name) => {
                let column = batch.column_by_name(name).and_then(|c| Column::new(c.as_ref()));
                Some(column.ok_or_else(|| {
                    let names: Vec<&str> = batch.schema_ref().fields().iter().map(|f| f.name().as_str()).collect();
                    SinkError::Fatal(format!(
                        "sink `{}`: key column `{name}` is not in its input, which has {}",
                        self.node,
                        names.join(", ")
                    ))
                })?)
            }
        };
        let (mut payload, mut key_bytes) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.key_buffer));
        let sent = for_each_row(rows, |row| {
            payload.clear();
            json.write_row(&mut payload, row);
            let key = key.as_ref().filter(|k| !k.is_null(row)).map(|k| {
                key_bytes.clear();
                k.write_text(&mut key_bytes, row);
                key_bytes.as_slice()
            });
            self.send(key, &payload)
        });
        self.buffer = payload;
        self.key_buffer = key_bytes;
        sent?;
        self.rows = self.rows.saturating_add(rows.len() as u64);
        Ok(())
    }

    /// After a transient error it can be called again: rows that were not acknowledged are sent again then.
    fn prepare(&mut self, _checkpoint: u64) -> Result<Prepared> {
        let failed = {
            let mut outcome = self.producer.context().lock();
            outcome.passing = None;
            std::mem::take(&mut outcome.failed)
        };
        let mut failed = failed.into_iter();
        while let Some(row) = failed.next() {
            if let Err(e) = self.send(row.key.as_deref(), &row.payload) {
                self.producer.context().lock().failed.extend(std::iter::once(row).chain(failed));
                return Err(e);
            }
        }
        // does away with the linger time; whether all is well is judged by the answers alone
        let flushed = self.producer.flush(self.wait);
        let deliveries = self.producer.context();
        let deadline = Instant::now().checked_add(Duration::from_millis(DELIVERY_GRACE_MS));
        let mut outcome = deliveries.lock();
        loop {
            self.check(&outcome)?;
            if outcome.in_flight == 0 {
                break;
            }
            if flushed.is_err() || deadline.is_some_and(|d| Instant::now() >= d) {
                let why = outcome.client.as_deref().unwrap_or("no answer");
                return Err(self.transient(&format!("{} rows are not acknowledged: {why}", outcome.in_flight)));
            }
            outcome = deliveries.wait(outcome);
        }
        if !outcome.failed.is_empty() {
            let why = outcome.passing.as_deref().unwrap_or("unknown");
            return Err(self.transient(&format!("{} rows were not delivered: {why}", outcome.failed.len())));
        }
        outcome.client = None;
        drop(outcome);
        Ok(Prepared { rows: std::mem::take(&mut self.rows), ..Prepared::default() })
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::batch::Batch;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;

    use super::*;
    use crate::sink::json::tests::every_type;

    fn spec(cluster: &MockCluster<'_, DefaultProducerContext>, properties: &[(&str, &str)]) -> KafkaSinkSpec {
        KafkaSinkSpec {
            brokers: cluster.bootstrap_servers(),
            topic: "dead".to_owned(),
            key: Some("s".to_owned()),
            revision: false,
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("dead", 1, 1).expect("a topic");
        cluster
    }

    fn rows() -> RowSet {
        RowSet::all(Batch { rows: every_type(), event_time_ms: vec![0, 0].into(), origin: None, changes: None })
    }

    fn consumed(brokers: &str, count: usize) -> Vec<(Option<String>, serde_json::Value)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "g")
            .set("auto.offset.reset", "earliest")
            .create()
            .expect("a consumer");
        consumer.subscribe(&["dead"]).expect("subscribes");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut found = Vec::new();
        while found.len() < count && Instant::now() < deadline {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let key = message.key().map(|k| String::from_utf8(k.to_vec()).expect("UTF-8"));
                found.push((key, serde_json::from_slice(message.payload().expect("a payload")).expect("JSON")));
            }
        }
        found
    }

    #[test]
    fn rows_are_acknowledged_when_prepare_returns() {
        let cluster = cluster();
        let mut sink = KafkaSink::new(&spec(&cluster, &[]), "bad", 0).expect("a producer");
        sink.write(&rows()).expect("writes");
        assert_eq!(sink.prepare(1).expect("prepares").rows, 2);
        assert_eq!(sink.prepare(2).expect("prepares").rows, 0);
        let found = consumed(&cluster.bootstrap_servers(), 2);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0.as_deref(), Some("é\n\u{1}"));
        assert_eq!(found[0].1["l"], i64::MAX);
        assert_eq!(found[1].0, None, "a null key is no key");
        assert!(found[1].1["l"].is_null());
    }

    #[test]
    fn rows_that_time_out_are_sent_again_by_the_next_prepare() {
        let cluster = cluster();
        let quick = [("message.timeout.ms", "1500"), ("retry.backoff.ms", "50"), ("reconnect.backoff.max.ms", "100")];
        let mut sink = KafkaSink::new(&spec(&cluster, &quick), "bad", 0).expect("a producer");
        cluster.broker_down(1).expect("down");
        sink.write(&rows()).expect("queues");
        let failed = sink.prepare(1);
        assert!(matches!(&failed, Err(SinkError::Transient(m)) if m.contains("rows")), "{failed:?}");
        cluster.broker_up(1).expect("up");
        let mut last = sink.prepare(1);
        for _ in 0..10 {
            if !matches!(last, Err(SinkError::Transient(_))) {
                break;
            }
            last = sink.prepare(1);
        }
        assert_eq!(last.expect("prepares").rows, 2);
        assert!(consumed(&cluster.bootstrap_servers(), 2).len() == 2);
    }

    #[test]
    fn a_refused_topic_is_fatal_and_says_so() {
        let cluster = cluster();
        cluster
            .topic_error("dead", rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
            .expect("set");
        let mut sink =
            KafkaSink::new(&spec(&cluster, &[("message.timeout.ms", "3000")]), "bad", 0).expect("a producer");
        sink.write(&rows()).expect("queues");
        let failed = sink.prepare(1);
        assert!(matches!(&failed, Err(SinkError::Fatal(m)) if m.contains("hint:")), "{failed:?}");
    }

    #[test]
    fn a_full_queue_makes_write_wait() {
        let cluster = cluster();
        let tiny = [("queue.buffering.max.messages", "3"), ("linger.ms", "0")];
        let mut sink = KafkaSink::new(&spec(&cluster, &tiny), "bad", 0).expect("a producer");
        for _ in 0..50 {
            sink.write(&rows()).expect("waits, then goes on");
        }
        assert_eq!(sink.prepare(1).expect("prepares").rows, 100);
    }

    #[test]
    fn a_missing_key_column_and_a_wrong_property_are_named() {
        let cluster = cluster();
        let wrong = KafkaSinkSpec { key: Some("nope".to_owned()), ..spec(&cluster, &[]) };
        let mut sink = KafkaSink::new(&wrong, "bad", 0).expect("a producer");
        assert!(matches!(sink.write(&rows()), Err(SinkError::Fatal(m)) if m.contains("`nope`")));
        let made = KafkaSink::new(&spec(&cluster, &[("no.such.thing", "1")]), "bad", 0);
        assert!(matches!(made.err(), Some(SinkError::Fatal(m)) if m.contains("no.such.thing")));
    }
}
