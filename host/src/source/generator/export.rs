//! The generator's events into a file or a Kafka topic: what `millrace generate` does.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::events::AdEvents;
use crate::clock::{Clock, SystemClock};
use crate::source::SourceError;
use crate::source::kafka::explain;
use crate::spec::model::GeneratorSpec;

/// How often progress is told, in events.
const PROGRESS_EVENTS: u64 = 10_000;

/// Longest wait for room in the producer's queue before its events are served again.
const QUEUE_FULL_WAIT_MS: u64 = 20;

/// Longest wait for the broker to take what is left.
const FLUSH_TIMEOUT_MS: u64 = 120_000;

/// Longest wait for the topic to be made.
const CREATE_TOPIC_TIMEOUT_MS: u64 = 15_000;

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
    let fail = |doing: &str, error: &KafkaError| explain("generate", brokers, doing, error);
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
    create_topic(&config, topic, spec.partitions).map_err(|error| fail(&format!("making topic `{topic}`"), &error))?;

    let producer: BaseProducer<Deliveries> =
        config.create_with_context(Deliveries::default()).map_err(|error| fail("starting the producer", &error))?;
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

/// Makes the topic unless it is there; one that is there must have as many partitions.
fn create_topic(config: &ClientConfig, topic: &str, partitions: u32) -> Result<(), KafkaError> {
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let timeout = Duration::from_millis(CREATE_TOPIC_TIMEOUT_MS);
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    // all topics: asking for this one might make it, with the broker's default number of partitions
    let metadata = admin.inner().fetch_metadata(None, timeout)?;
    if let Some(there) = metadata.topics().iter().find(|t| t.name() == topic).map(|t| t.partitions().len()) {
        return if i32::try_from(there).is_ok_and(|there| there >= partitions) {
            Ok(())
        } else {
            Err(KafkaError::ClientCreation(format!("it is there with {there} partitions, not {partitions}")))
        };
    }
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
}

impl Deliveries {
    fn failure(&self) -> Option<KafkaError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("producer: {error}: {reason}");
        if matches!(error.rdkafka_error_code(), Some(Code::Authentication | Code::SSL | Code::Fatal)) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
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
