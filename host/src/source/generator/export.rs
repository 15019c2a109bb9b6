//! The generator's events into a file or a Kafka topic: what `millrace generate` does.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::events::AdEvents;
use crate::clock::{Clock, SystemClock};
use crate::source::SourceError;
use crate::source::kafka::Cluster;
use crate::spec::model::GeneratorSpec;

/// How often progress is told, in events.
const PROGRESS_EVENTS: u64 = 10_000;

/// Longest wait for room in the producer's queue before its events are served again.
const QUEUE_FULL_WAIT_MS: u64 = 20;

/// Longest wait for the broker to take what is left.
const FLUSH_TIMEOUT_MS: u64 = 120_000;

/// Longest wait for the topic to be made.
const CREATE_TOPIC_TIMEOUT_MS: u64 = 15_000;

/// Longest wait for the first answer of a broker, and how often the client is asked meanwhile what is wrong.
const FIRST_ANSWER_TIMEOUT_MS: u64 = 10_000;
const FIRST_ANSWER_STEP_MS: u64 = 500;

/// With a rate: how long is waited when everything that is due has been sent.
const PACE_MS: u64 = 10;

/// Writes all events, in the order of their arrival, one JSON object per line. Needs a `count`.
/// Returns how many there are.
pub fn write_jsonl(path: &Path, spec: &GeneratorSpec, start_ms: i64) -> Result<u64, String> {
    let Some(count) = spec.count else {
        return Err("a file cannot take events without end: say how many (`count`)".to_owned());
    };
    let events = AdEvents::new(spec, start_ms)?;
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
        let mut line = Vec::with_capacity(512);
        for (partition, offset) in in_order(&events).take(usize::try_from(count).unwrap_or(usize::MAX)) {
            line.clear();
            events.json(partition, offset, &mut line);
            line.push(b'\n');
            file.write_all(&line)?;
        }
        file.into_inner().map_err(|error| error.into_error())?.sync_all()
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(count)
}

/// Sends the events to a topic, partition by partition as they are numbered, until `count` is reached (without one: for
/// ever). The topic is made if it is missing. `progress` gets the number sent so far and says whether to go on.
/// Returns how many the broker has taken.
pub fn produce_to_kafka(
    brokers: &str,
    topic: &str,
    spec: &GeneratorSpec,
    start_ms: i64,
    properties: &BTreeMap<String, String>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<u64, SourceError> {
    let events = AdEvents::new(spec, start_ms).map_err(SourceError::Fatal)?;
    let cluster = Cluster { brokers: brokers.to_owned(), properties: "with --property NAME=VALUE".to_owned() };
    let fail = |doing: &str, error: &KafkaError| cluster.explain(doing, error);
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "millrace-generate")
        .set("compression.type", "lz4")
        .set("linger.ms", "50")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "131072")
        .set("enable.idempotence", "true");
    for (name, value) in properties {
        config.set(name, value);
    }
    let producer: BaseProducer<Deliveries> =
        config.create_with_context(Deliveries::default()).map_err(|error| fail("starting the producer", &error))?;
    let there = partitions_of(&producer, &cluster, topic)?;
    if there == 0 {
        create_topic(&config, topic, spec.partitions).map_err(|e| fail(&format!("making topic `{topic}`"), &e))?;
    } else if there < usize::try_from(spec.partitions).unwrap_or(usize::MAX) {
        return Err(SourceError::Fatal(format!(
            "topic `{topic}` is there with {there} partitions, not {}; hint: --partitions {there}, or another --topic",
            spec.partitions
        )));
    }
    let doing = format!("sending to `{topic}`");
    let mut sent = 0u64;
    let mut line = Vec::with_capacity(512);
    let mut due = u64::MAX;
    for (partition, offset) in in_order(&events) {
        if spec.count.is_some_and(|count| sent >= count) || (sent.is_multiple_of(PROGRESS_EVENTS) && !progress(sent)) {
            break;
        }
        while let Some(rate) = spec.rate {
            if sent < due && due != u64::MAX {
                break;
            }
            let elapsed_ms = u64::try_from(SystemClock.now_ms().saturating_sub(start_ms)).unwrap_or(0);
            due = elapsed_ms.saturating_mul(rate) / 1_000 + 1;
            if sent >= due {
                producer.poll(Duration::from_millis(PACE_MS));
            }
        }
        line.clear();
        events.json(partition, offset, &mut line);
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        loop {
            match producer.send(BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(&line)) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(Code::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(QUEUE_FULL_WAIT_MS));
                    producer.context().failure().map_or(Ok(()), |error| Err(fail(&doing, &error)))?;
                }
                Err((error, _)) => return Err(fail(&doing, &error)),
            }
        }
        sent += 1;
        if sent.is_multiple_of(PROGRESS_EVENTS) {
            producer.poll(Duration::ZERO);
            producer.context().failure().map_or(Ok(()), |error| Err(fail(&doing, &error)))?;
        }
    }
    producer.flush(Duration::from_millis(FLUSH_TIMEOUT_MS)).map_err(|error| fail(&doing, &error))?;
    producer.context().failure().map_or(Ok(()), |error| Err(fail(&doing, &error)))?;
    let taken = producer.context().taken.load(Ordering::Acquire);
    if taken != sent {
        return Err(SourceError::Fatal(format!("{doing}: of {sent} events the broker has confirmed {taken}")));
    }
    progress(sent);
    Ok(taken)
}

/// (partition, offset) of all events, by number.
fn in_order(events: &AdEvents) -> impl Iterator<Item = (u32, i64)> {
    let partitions = events.partitions();
    (0i64..).flat_map(move |offset| (0..partitions).map(move |partition| (partition, offset)))
}

/// How many partitions the topic has; 0 if there is none. The first question to the brokers: what is wrong with the
/// connection comes up here.
fn partitions_of(producer: &BaseProducer<Deliveries>, cluster: &Cluster, topic: &str) -> Result<usize, SourceError> {
    let step = Duration::from_millis(FIRST_ANSWER_STEP_MS);
    let started = Instant::now();
    loop {
        // all topics: asking for this one might make it, with the broker's default number of partitions
        let error = match producer.client().fetch_metadata(None, step) {
            Ok(metadata) => {
                return Ok(metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len()));
            }
            Err(error) => error,
        };
        producer.poll(Duration::ZERO);
        let said = producer.context().said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let doing = "asking for the topics";
        let error = said.map_or_else(
            || cluster.explain(doing, &error),
            |(error, reason)| cluster.explain_reason(doing, &error, &reason),
        );
        if matches!(error, SourceError::Fatal(_)) || started.elapsed() > Duration::from_millis(FIRST_ANSWER_TIMEOUT_MS)
        {
            return Err(error);
        }
    }
}

fn create_topic(config: &ClientConfig, topic: &str, partitions: u32) -> Result<(), KafkaError> {
    let admin: AdminClient<Deliveries> = config.create_with_context(Deliveries::default())?;
    let timeout = Duration::from_millis(CREATE_TOPIC_TIMEOUT_MS);
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().operation_timeout(Some(timeout)).request_timeout(Some(timeout));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| KafkaError::ClientCreation(format!("no runtime for the request: {error}")))?;
    let results = runtime.block_on(admin.create_topics([&new], &options))?;
    match results.into_iter().next() {
        Some(Err((_, error))) => Err(KafkaError::AdminOp(error)),
        Some(Ok(_)) | None => Ok(()),
    }
}

/// Counts what the broker has taken, and keeps the first refusal.
#[derive(Default)]
struct Deliveries {
    taken: AtomicU64,
    failure: Mutex<Option<KafkaError>>,
    /// the client's last words outside any call, and why
    said: Mutex<Option<(KafkaError, String)>>,
}

impl Deliveries {
    fn failure(&self) -> Option<KafkaError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("producer: {error}: {reason}");
        let code = error.rdkafka_error_code();
        if matches!(code, Some(Code::Authentication | Code::SSL | Code::Fatal)) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.clone());
        }
        // "all brokers are down" follows on what says why
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none() || code != Some(Code::AllBrokersDown) {
            *said = Some((error, reason.to_owned()));
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        match result {
            Ok(_) => {
                self.taken.fetch_add(1, Ordering::AcqRel);
            }
            Err((error, _)) => {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.clone());
            }
        }
    }
}
