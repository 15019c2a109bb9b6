//! The stages below the pipeline: librdkafka's batch call, alone and with decoding.

use std::path::Path;
use std::ptr::null_mut;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_message_destroy, rd_kafka_message_t, rd_kafka_queue_destroy,
    rd_kafka_queue_get_consumer,
};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const BATCH_MESSAGES: usize = 8_192;
const TIMEOUT_MS: i32 = 200;
/// So many answers with nothing in them, one after the other, and the broker is taken for dead.
const EMPTY_BATCHES_MAX: u32 = 300;

/// What a stage does with a batch of payloads, `(offset, payload)`.
type Take = Box<dyn FnMut(&[(i64, &[u8])]) -> Result<()>>;

pub fn run(stage: &str, brokers: &str, topic: &str, pipeline: &Path) -> Result<()> {
    let mut take: Take = match stage {
        "raw" => {
            let mut bytes = 0usize;
            Box::new(move |batch| {
                bytes += batch.iter().map(|(_, payload)| payload.len()).sum::<usize>();
                std::hint::black_box(bytes);
                Ok(())
            })
        }
        "decode" => decoding(pipeline)?,
        other => bail!("no stage `{other}`"),
    };
    consume(brokers, topic, &mut take)
}

#[cfg(feature = "bench")]
fn decoding(pipeline: &Path) -> Result<Take> {
    use millrace::decode::Decoder;
    use millrace::decode::json::JsonDecoder;
    use millrace::source::RawMessage;

    let loaded = millrace::spec::load(pipeline, &|name| std::env::var(name).ok())
        .map_err(|wrong| anyhow::anyhow!("{}: {wrong:?}", pipeline.display()))?;
    let (_, source) = loaded.pipeline.sources.first().context("a pipeline without a source")?;
    let mut decoder = JsonDecoder::new(&source.schema, &source.event_time).map_err(anyhow::Error::msg)?;
    Ok(Box::new(move |batch| {
        let messages: Vec<RawMessage<'_>> = batch
            .iter()
            .map(|&(offset, payload)| RawMessage { offset, payload: Some(payload), key: None, timestamp_ms: None })
            .collect();
        let decoded = decoder.decode(&messages);
        ensure!(decoded.failed.is_empty(), "{} events did not decode", decoded.failed.len());
        std::hint::black_box(&decoded.rows);
        Ok(())
    }))
}

#[cfg(not(feature = "bench"))]
fn decoding(_: &Path) -> Result<Take> {
    bail!("built without the host's decoder: `cargo xtask bench` builds with it")
}

fn consume(brokers: &str, topic: &str, take: &mut Take) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30))?;
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics().first().context("no such topic")?.partitions() {
        let (begin, end) = consumer.fetch_watermarks(topic, partition.id(), Duration::from_secs(30))?;
        left += end - begin;
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;

    // SAFETY: the client outlives the queue, which is given back below.
    let queue = unsafe { rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
    ensure!(!queue.is_null(), "the client has no consumer queue");
    let mut slots: Vec<*mut rd_kafka_message_t> = vec![null_mut(); BATCH_MESSAGES];
    let mut empty = 0;
    while left > 0 {
        // SAFETY: `slots` has room for as many pointers as said.
        let got = unsafe { rd_kafka_consume_batch_queue(queue, TIMEOUT_MS, slots.as_mut_ptr(), slots.len()) };
        let got = usize::try_from(got).context("rd_kafka_consume_batch_queue failed")?;
        empty = if got == 0 { empty + 1 } else { 0 };
        ensure!(empty < EMPTY_BATCHES_MAX, "{left} events have not come");
        let mut batch = Vec::with_capacity(got);
        for &slot in &slots[..got] {
            // SAFETY: the call above has filled `got` slots with messages that are ours until destroyed.
            let message = unsafe { &*slot };
            ensure!(message.err as i32 == 0, "an error in place of a message: {:?}", message.err);
            if !message.payload.is_null() {
                // SAFETY: librdkafka says where the payload is and how long.
                let payload = unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len) };
                batch.push((message.offset, payload));
            }
        }
        take(&batch)?;
        left -= i64::try_from(got)?;
        for &slot in &slots[..got] {
            // SAFETY: each once; nothing borrows from it any more.
            unsafe { rd_kafka_message_destroy(slot) };
        }
    }
    // SAFETY: ours, and not used again.
    unsafe { rd_kafka_queue_destroy(queue) };
    Ok(())
}
