//! One partition's messages, from its own queue of the shared client, in batches that are not copied.

use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr as Resp;
use rdkafka::{Offset, TopicPartitionList};

use super::{ANSWER_TIMEOUT_MS, SharedConsumer, ask_extent, out_of_range};
use crate::source::{PartitionId, PartitionReader, RawMessage, SourceError, Waker};

/// The most messages that one fetch hands out, whatever is asked for.
const FETCH_MESSAGES_MAX: usize = 1 << 16;

pub(super) struct KafkaReader {
    source: Arc<str>,
    id: PartitionId,
    /// the messages of the last fetch, owned: each is destroyed once, by `release`
    held: Vec<*mut rd::rd_kafka_message_t>,
    position: i64,
    /// came in a batch behind messages, which go first
    pending: Option<SourceError>,
    queue: Queue,
    /// dropped after everything that points into it
    consumer: SharedConsumer,
}

// SAFETY: the messages and the queue are used by one thread at a time, and librdkafka does not care which.
unsafe impl Send for KafkaReader {}

impl KafkaReader {
    /// Takes the partition from `position` on.
    pub(super) fn open(
        source: Arc<str>,
        consumer: SharedConsumer,
        id: PartitionId,
        position: i64,
        waker: Arc<Waker>,
    ) -> Result<Self, SourceError> {
        let trouble = |error: &KafkaError| {
            let doing = format!("assigning {}/{} at {position}", id.topic, id.partition);
            consumer.context().cluster().explain(&doing, error)
        };
        let queue = Queue::open(&consumer, &id, waker).ok_or_else(|| {
            SourceError::Fatal(format!("the Kafka client has no queue for partition {}/{}", id.topic, id.partition))
        })?;
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&id.topic, id.partition, Offset::Offset(position))
            .and_then(|()| consumer.incremental_assign(&assignment))
            .map_err(|error| trouble(&error))?;
        Ok(Self { source, id, held: Vec::new(), position, pending: None, queue, consumer })
    }

    fn release(&mut self) {
        for message in self.held.drain(..) {
            // SAFETY: the reader owns it, and `drain` takes it out for good.
            unsafe { rd::rd_kafka_message_destroy(message) };
        }
    }

    /// Takes what is in the queue, up to `max` entries, and keeps the messages of it. Gives the number of entries.
    fn take_batch(&mut self, max: usize) -> Result<usize, SourceError> {
        self.held.reserve(max);
        // SAFETY: the queue is alive, and `held` (empty) has room for `max` pointers.
        let count = unsafe { rd::rd_kafka_consume_batch_queue(self.queue.pointer, 0, self.held.as_mut_ptr(), max) };
        let Ok(count) = usize::try_from(count) else {
            // SAFETY: reads the calling thread's last error.
            let code = unsafe { rd::rd_kafka_last_error() };
            let error = KafkaError::MessageConsumption(code.into());
            let doing = format!("reading {}/{}", self.id.topic, self.id.partition);
            return Err(self.explain(&doing, &error));
        };
        // SAFETY: the call has filled in `count` ≤ `max` pointers to messages, ours from now on.
        unsafe { self.held.set_len(count.min(max)) };

        let mut kept = 0;
        for index in 0..self.held.len() {
            let Some(message) = self.held.get(index).copied() else { break };
            // SAFETY: a live message of `held`.
            let (code, offset) = unsafe { ((*message).err, (*message).offset) };
            if code == Resp::RD_KAFKA_RESP_ERR_NO_ERROR {
                // one behind the position would be counted twice: after a truncated log the client may go back
                if offset >= self.position {
                    self.position = offset + 1;
                    self.held.swap(kept, index);
                    kept += 1;
                }
            } else if let Some(error) = self.event(code, offset) {
                self.pending.get_or_insert(error);
            }
        }
        for message in self.held.drain(kept..) {
            // SAFETY: as in `release`.
            unsafe { rd::rd_kafka_message_destroy(message) };
        }
        Ok(count)
    }

    fn explain(&self, doing: &str, error: &KafkaError) -> SourceError {
        self.consumer.context().cluster().explain(doing, error)
    }

    /// An entry of a batch that is not a message: the end of the partition, or an error.
    fn event(&mut self, code: Resp, offset: i64) -> Option<SourceError> {
        match code {
            Resp::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                // behind control records and compacted messages that were never handed out
                self.position = self.position.max(offset);
                None
            }
            Resp::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET | Resp::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE => {
                let timeout = Duration::from_millis(ANSWER_TIMEOUT_MS);
                let extent = ask_extent(&self.consumer, &self.id, timeout);
                Some(match extent {
                    Ok(extent) => out_of_range(&self.source, &self.id, self.position, extent),
                    Err(error) => self.explain("asking for the extent of a partition", &error),
                })
            }
            code => {
                let doing = format!("reading {}/{} at {}", self.id.topic, self.id.partition, self.position);
                let error = KafkaError::MessageConsumption(code.into());
                Some(self.explain(&doing, &error))
            }
        }
    }
}

impl PartitionReader for KafkaReader {
    fn fetch(&mut self, max_messages: usize) -> Result<usize, SourceError> {
        self.release();
        if let Some(error) = self.pending.take() {
            return Err(error);
        }
        let max = max_messages.min(FETCH_MESSAGES_MAX);
        // a batch may hold no message but the partition's end: nobody would be woken for what is behind it
        while self.take_batch(max)? == max && self.held.is_empty() && self.pending.is_none() && max > 0 {}
        // after the batch was taken: a message of a topic made anew cannot be older than the sign of it
        if let Err(error) = self.consumer.context().check_topics() {
            self.release();
            return Err(error);
        }
        match self.pending.take() {
            Some(error) if self.held.is_empty() => Err(error),
            pending => {
                self.pending = pending;
                Ok(self.held.len())
            }
        }
    }

    fn messages<'a>(&'a self, into: &mut Vec<RawMessage<'a>>) {
        into.reserve(self.held.len());
        for message in &self.held {
            // SAFETY: a live message, released no sooner than the next call that borrows `self` mutably. Payload and
            // key are null, or point to as many bytes as is said and live as long as the message.
            unsafe {
                let fields = &**message;
                let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                let timestamp_ms = rd::rd_kafka_message_timestamp(*message, &mut kind);
                into.push(RawMessage {
                    offset: fields.offset,
                    payload: bytes(fields.payload, fields.len),
                    key: bytes(fields.key, fields.key_len),
                    timestamp_ms: (timestamp_ms >= 0).then_some(timestamp_ms),
                });
            }
        }
    }

    fn position(&self) -> i64 {
        self.position
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.release();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition(&self.id.topic, self.id.partition);
        if let Err(error) = self.consumer.incremental_unassign(&assignment) {
            tracing::debug!(
                source = &*self.source,
                "{}/{} was not unassigned: {error}",
                self.id.topic,
                self.id.partition
            );
        }
    }
}

/// # Safety
/// `pointer` is null, or `length` bytes can be read from it for `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer.cast(), length) })
}

/// A partition's own queue, no longer forwarded to the consumer's, with a waker on it.
struct Queue {
    pointer: *mut rd::rd_kafka_queue_t,
    /// from [`Arc::into_raw`]: the client's threads hold on to it while the call-back is set
    waker: *const Waker,
}

impl Queue {
    fn open(consumer: &SharedConsumer, id: &PartitionId, waker: Arc<Waker>) -> Option<Self> {
        let topic = CString::new(&*id.topic).ok()?;
        let waker = Arc::into_raw(waker);
        // SAFETY: the client lives as long as `consumer`, which outlives the queue in the reader; `topic` is a
        // NUL-terminated string. The call-back's argument stays valid until it is switched off in `drop`.
        unsafe {
            let pointer =
                rd::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), id.partition);
            if pointer.is_null() {
                drop(Arc::from_raw(waker));
                return None;
            }
            // before the partition is assigned: what is not forwarded by then never will be
            rd::rd_kafka_queue_forward(pointer, std::ptr::null_mut());
            rd::rd_kafka_queue_cb_event_enable(pointer, Some(on_arrival), waker.cast_mut().cast());
            Some(Self { pointer, waker })
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the call-back runs under the queue's lock, which switching it off takes: afterwards nobody has the
        // waker. Both were made in `open` and are given back once.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.pointer, None, std::ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.pointer);
            drop(Arc::from_raw(self.waker));
        }
    }
}

/// Called by the client's threads when something arrives in an empty queue.
unsafe extern "C" fn on_arrival(_client: *mut rd::rd_kafka_t, waker: *mut c_void) {
    // SAFETY: the waker of a `Queue` that is alive.
    unsafe { &*waker.cast::<Waker>() }.wake();
}
