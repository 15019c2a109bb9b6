//! Seeded ad events without a broker: partitioned, and the same at the same offset whenever they are asked for.
//!
//! An event is a pure function of (spec, start, partition, offset): see [`AdEvents`]. A reader therefore needs no
//! state to go back to an offset, and a killed pipeline finds after its restart exactly what it had read before. With
//! a rate, event number i of all partitions becomes readable at the incarnation's start + i / rate by the wall clock.

mod events;
mod export;
#[cfg(test)]
mod tests;
mod zipf;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Connector, Extent, PartitionId, PartitionInfo, PartitionReader, RawMessage, SourceError, StartAt, Waker};
use crate::clock::{Clock, SystemClock};
use crate::spec::model::GeneratorSpec;

pub use events::AdEvents;
pub use export::{produce_to_kafka, write_jsonl};

/// The topic that the generator's partitions seem to belong to.
pub const TOPIC: &str = "generator";

/// With a rate: how often readers that have read all there was are woken.
const TICK_MS: u64 = 20;

/// The most events that one fetch makes, whatever is asked for.
const FETCH_EVENTS_MAX: usize = 1 << 16;

/// Where a generator without an end "ends".
const NO_END: i64 = i64::MAX;

pub struct GeneratorConnector {
    source: String,
    shared: Arc<Shared>,
    ticker: Option<Ticker>,
}

struct Shared {
    events: AdEvents,
    clock: Arc<dyn Clock>,
}

impl Shared {
    /// The offset after the last event of a partition that is readable now.
    fn end(&self, partition: u32) -> i64 {
        self.events.end_at(partition, self.clock.now_ms())
    }
}

impl GeneratorConnector {
    /// `incarnation_start_ms`: when the pipeline's incarnation began; kept with it, so that a restart goes on from there.
    pub fn new(source_name: &str, spec: &GeneratorSpec, incarnation_start_ms: i64) -> Result<Self, SourceError> {
        Self::with_clock(source_name, spec, incarnation_start_ms, Arc::new(SystemClock))
    }

    pub fn with_clock(
        source_name: &str,
        spec: &GeneratorSpec,
        incarnation_start_ms: i64,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SourceError> {
        let events = AdEvents::new(spec, incarnation_start_ms)
            .map_err(|reason| SourceError::Fatal(format!("source `{source_name}`: {reason}")))?;
        let ticker = spec.rate.map(|_| Ticker::start()).transpose()?;
        Ok(Self { source: source_name.to_owned(), shared: Arc::new(Shared { events, clock }), ticker })
    }

    fn partition(&self, id: &PartitionId) -> Result<u32, SourceError> {
        let known = u32::try_from(id.partition).ok().filter(|p| *p < self.shared.events.partitions());
        known.filter(|_| &*id.topic == TOPIC).ok_or_else(|| {
            SourceError::Fatal(format!(
                "source `{}`: the generator has no partition {}/{}: it has {} of topic `{TOPIC}`; hint: `partitions` must \
                 not shrink while a checkpoint knows more",
                self.source,
                id.topic,
                id.partition,
                self.shared.events.partitions()
            ))
        })
    }
}

impl Connector for GeneratorConnector {
    fn discover(&self) -> Result<Vec<PartitionInfo>, SourceError> {
        let topic: Arc<str> = TOPIC.into();
        let partitions = 0..i32::try_from(self.shared.events.partitions()).unwrap_or(i32::MAX);
        let info = |partition| PartitionInfo { id: PartitionId { topic: topic.clone(), partition }, topic_id: None };
        Ok(partitions.map(info).collect())
    }

    fn extent(&self, id: &PartitionId) -> Result<Extent, SourceError> {
        Ok(Extent { begin: 0, end: self.shared.end(self.partition(id)?) })
    }

    fn open(
        &self,
        id: &PartitionId,
        start: StartAt,
        waker: &Arc<Waker>,
    ) -> Result<Box<dyn PartitionReader>, SourceError> {
        let partition = self.partition(id)?;
        let count = self.shared.events.count(partition).unwrap_or(NO_END);
        let position = match start {
            StartAt::Earliest => 0,
            // there is no latest of what never ends and is all there at once: it starts at the beginning
            StartAt::Latest => Some(self.shared.end(partition)).filter(|end| *end != NO_END).unwrap_or(0),
            StartAt::TimestampMs(timestamp_ms) => self.shared.events.offset_at(partition, timestamp_ms).min(count),
            StartAt::Offset(offset) if (0..=count).contains(&offset) => offset,
            StartAt::Offset(position) => {
                return Err(SourceError::OutOfRange {
                    source_name: self.source.clone(),
                    topic: TOPIC.to_owned(),
                    partition: id.partition,
                    position,
                    begin: 0,
                    end: count,
                });
            }
        };
        if let Some(ticker) = &self.ticker {
            ticker.add(waker);
        }
        Ok(Box::new(GeneratorReader {
            shared: self.shared.clone(),
            partition,
            position,
            first: position,
            text: Vec::new(),
            ends: Vec::new(),
        }))
    }

    /// Nobody else looks at a generator.
    fn publish_positions(&self, _positions: &[(PartitionId, i64)]) {}
}

struct GeneratorReader {
    shared: Arc<Shared>,
    partition: u32,
    position: i64,
    /// offset of the first event held
    first: i64,
    /// the events held, one after the other
    text: Vec<u8>,
    /// where each ends
    ends: Vec<usize>,
}

impl PartitionReader for GeneratorReader {
    fn fetch(&mut self, max_messages: usize) -> Result<usize, SourceError> {
        self.text.clear();
        self.ends.clear();
        self.first = self.position;
        let ready = usize::try_from(self.shared.end(self.partition).saturating_sub(self.position)).unwrap_or(0);
        for _ in 0..ready.min(max_messages).min(FETCH_EVENTS_MAX) {
            self.shared.events.json(self.partition, self.position, &mut self.text);
            self.ends.push(self.text.len());
            self.position += 1;
        }
        Ok(self.ends.len())
    }

    fn messages<'a>(&'a self, into: &mut Vec<RawMessage<'a>>) {
        let mut from = 0;
        for (offset, end) in (self.first..).zip(&self.ends) {
            into.push(RawMessage {
                offset,
                payload: self.text.get(from..*end),
                key: None,
                timestamp_ms: Some(self.shared.events.arrival_ms(self.partition, offset)),
            });
            from = *end;
        }
    }

    fn position(&self) -> i64 {
        self.position
    }
}

/// Wakes the readers' tasks as time makes events readable.
struct Ticker {
    /// a task may have many readers with one waker; it goes when the task has gone
    wakers: Arc<Mutex<Vec<Weak<Waker>>>>,
    stop: Arc<(Mutex<bool>, std::sync::Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start() -> Result<Self, SourceError> {
        let wakers: Arc<Mutex<Vec<Weak<Waker>>>> = Arc::default();
        let stop: Arc<(Mutex<bool>, std::sync::Condvar)> = Arc::default();
        let (to_wake, stopped) = (wakers.clone(), stop.clone());
        let run = move || {
            let (flag, signal) = &*stopped;
            let mut guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
            while !*guard {
                to_wake.lock().unwrap_or_else(PoisonError::into_inner).retain(|waker| match waker.upgrade() {
                    Some(waker) => {
                        waker.wake();
                        true
                    }
                    None => false,
                });
                let waited = signal.wait_timeout(guard, Duration::from_millis(TICK_MS));
                guard = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        let thread = std::thread::Builder::new()
            .name("generator-ticks".to_owned())
            .spawn(run)
            .map_err(|error| SourceError::Fatal(format!("the generator's clock thread cannot be started: {error}")))?;
        Ok(Self { wakers, stop, thread: Some(thread) })
    }

    fn add(&self, waker: &Arc<Waker>) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(waker))) {
            wakers.push(Arc::downgrade(waker));
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
