//! Topics made, filled and dumped, through librdkafka and nothing of the host.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::process::wait_for;

const TIMEOUT_S: u64 = 60;
/// Larger than the largest message any test sends.
const MESSAGE_BYTES_MAX: &str = "33554432";

/// A name that no other test uses.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().context("admin client")
}

/// Deletes a topic and makes one of the same name.
pub fn recreate(brokers: &str, topic: &str, partitions: i32) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for result in runtime.block_on(admin(brokers)?.delete_topics(&[topic], &AdminOptions::new()))? {
        result.map_err(|(name, code)| anyhow!("deleting topic {name}: {code}"))?;
    }
    // the broker answers before its deletion is through
    let mut refused = None;
    let made = wait_for("the topic to be made anew", Duration::from_secs(TIMEOUT_S), || {
        refused = create(brokers, topic, partitions).err();
        Ok(refused.is_none())
    });
    made.with_context(|| format!("the last answer was {refused:?}"))
}

pub fn create(brokers: &str, topic: &str, partitions: i32) -> Result<()> {
    let admin = admin(brokers)?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
        .set("max.message.bytes", MESSAGE_BYTES_MAX)
        // tests make up their records' timestamps
        .set("retention.ms", "-1");
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(TIMEOUT_S)));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for result in runtime.block_on(admin.create_topics([&new], &options))? {
        result.map_err(|(name, code)| anyhow!("creating topic {name}: {code}"))?;
    }
    Ok(())
}

/// Counts what the broker has not taken.
#[derive(Debug, Default)]
struct Deliveries {
    failed: AtomicU64,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            eprintln!("not delivered: {error}");
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Idempotent, `acks=all`: what [`Producer::flush`] lets pass is in the topic, once.
pub struct Producer {
    inner: BaseProducer<Deliveries>,
    topic: String,
    sent: u64,
}

impl Producer {
    pub fn new(brokers: &str, topic: &str) -> Result<Self> {
        let inner = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("message.max.bytes", MESSAGE_BYTES_MAX)
            .set("queue.buffering.max.messages", "200000")
            .create_with_context(Deliveries::default())
            .context("producer")?;
        Ok(Self { inner, topic: topic.to_owned(), sent: 0 })
    }

    /// `None` is a tombstone.
    pub fn send(&mut self, partition: i32, payload: Option<&[u8]>) -> Result<()> {
        self.send_at(partition, payload, None)
    }

    /// With the record's own timestamp.
    pub fn send_at(&mut self, partition: i32, payload: Option<&[u8]>, timestamp_ms: Option<i64>) -> Result<()> {
        self.sent += 1;
        if self.sent.is_multiple_of(1024) {
            self.inner.poll(Duration::ZERO);
        }
        let key = if payload.is_none() { Some(&b"tombstone"[..]) } else { None };
        loop {
            let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(partition);
            record.payload = payload;
            record.key = key;
            record.timestamp = timestamp_ms;
            match self.inner.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.inner.poll(Duration::from_millis(20));
                }
                Err((error, _)) => bail!("producing to {}: {error}", self.topic),
            }
        }
    }

    pub fn flush(&self) -> Result<()> {
        self.inner.flush(Duration::from_secs(TIMEOUT_S)).context("flushing the producer")?;
        let failed = self.inner.context().failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} messages were not delivered to {}", self.topic);
        Ok(())
    }
}

/// Calls `take(partition, offset, payload)` for every message that is in the topic now, in offset order per partition.
pub fn read(brokers: &str, topic: &str, mut take: impl FnMut(i32, i64, Option<&[u8]>) -> Result<()>) -> Result<u64> {
    let timeout = Duration::from_secs(TIMEOUT_S);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()
        .context("consumer")?;
    let metadata = consumer.fetch_metadata(Some(topic), timeout)?;
    let partitions: Vec<i32> =
        metadata.topics().iter().flat_map(|topic| topic.partitions().iter().map(|p| p.id())).collect();
    ensure!(!partitions.is_empty(), "topic {topic} is not there");
    let mut assignment = TopicPartitionList::new();
    // (partition, end): done when the next offset reaches the end
    let mut open = Vec::new();
    for &partition in &partitions {
        let (begin, end) = consumer.fetch_watermarks(topic, partition, timeout)?;
        if begin < end {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
            open.push((partition, end));
        }
    }
    if open.is_empty() {
        return Ok(0);
    }
    consumer.assign(&assignment)?;
    let mut count = 0;
    let mut last_seen = Instant::now();
    while !open.is_empty() {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            ensure!(
                last_seen.elapsed() < timeout,
                "dumping {topic}: nothing for {TIMEOUT_S} s, still waiting for {open:?}"
            );
            continue;
        };
        let message = message.with_context(|| format!("dumping {topic}"))?;
        last_seen = Instant::now();
        let (partition, offset) = (message.partition(), message.offset());
        let Some(at) = open.iter().position(|&(p, end)| p == partition && offset < end) else { continue };
        take(partition, offset, message.payload())?;
        count += 1;
        if open[at].1 == offset + 1 {
            open.swap_remove(at);
        }
    }
    Ok(count)
}

/// Writes the topic as JSON lines, `kafka_partition` and `kafka_offset` put in front of each message's own fields.
/// `bad` are the messages known not to be events. Returns how many lines were written.
pub fn dump(brokers: &str, topic: &str, into: &Path, bad: &BTreeSet<(i32, i64)>) -> Result<u64> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(into)?);
    let mut lines = 0;
    read(brokers, topic, |partition, offset, payload| {
        if bad.contains(&(partition, offset)) {
            return Ok(());
        }
        let payload = payload.with_context(|| format!("{topic}/{partition}/{offset}: an unexpected tombstone"))?;
        let fields = payload.strip_prefix(b"{").with_context(|| format!("{topic}/{partition}/{offset}: no object"))?;
        write!(file, "{{\"kafka_partition\":{partition},\"kafka_offset\":{offset},")?;
        file.write_all(fields)?;
        file.write_all(b"\n")?;
        lines += 1;
        Ok(())
    })?;
    file.flush()?;
    Ok(lines)
}
