//! The broker as a process reaches it: partitions whose messages arrive in portions while they are read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::process::Process;
use super::random::Random;
use super::script::{Partition, Place};
use crate::source::{
    Connector, Extent, PartitionId, PartitionInfo, PartitionReader, RawMessage, SourceError, StartAt, Waker,
};

pub const TOPIC: &str = "events";
const KEY: &[u8] = b"key";

pub struct Broker {
    process: Arc<Process>,
    asked: AtomicUsize,
}

impl Broker {
    pub fn new(process: &Arc<Process>) -> Self {
        let all = process.life.until_end && process.life.horizon_percent == 100;
        for (number, p) in process.world.script.partitions.iter().enumerate().filter(|_| all) {
            process.world.produce(number, p.messages.len(), p.messages.len());
        }
        Self { process: Arc::clone(process), asked: AtomicUsize::new(0) }
    }

    fn number(id: &PartitionId) -> usize {
        usize::try_from(id.partition).unwrap()
    }
}

impl Connector for Broker {
    fn discover(&self) -> Result<Vec<PartitionInfo>, SourceError> {
        let life = &self.process.life;
        let first = self.asked.fetch_add(1, Ordering::SeqCst) == 0;
        let there = |p: &Partition| match life.number.cmp(&p.appears_in_life) {
            std::cmp::Ordering::Less => life.horizon_percent == 100,
            std::cmp::Ordering::Equal => !(first && p.appears_while_running),
            std::cmp::Ordering::Greater => true,
        };
        let info = |partition| PartitionInfo {
            id: PartitionId { topic: TOPIC.into(), partition },
            topic_id: Some("1".to_owned()),
        };
        let partitions = &self.process.world.script.partitions;
        Ok((0..).zip(partitions).filter(|(_, p)| there(p)).map(|(number, _)| info(number)).collect())
    }

    fn extent(&self, id: &PartitionId) -> Result<Extent, SourceError> {
        let number = Self::number(id);
        let world = &self.process.world;
        Ok(Extent { begin: world.script.partitions[number].begin, end: world.end(number) })
    }

    fn open(
        &self,
        id: &PartitionId,
        start: StartAt,
        waker: &Arc<Waker>,
    ) -> Result<Box<dyn PartitionReader>, SourceError> {
        let number = Self::number(id);
        let world = &self.process.world;
        let p = &world.script.partitions[number];
        let position = match start {
            StartAt::Earliest => p.begin,
            StartAt::Offset(offset) if (p.begin..=world.end(number)).contains(&offset) => offset,
            other => return Err(SourceError::Fatal(format!("partition {number} is to be read from {other:?}"))),
        };
        self.process.wakes(waker);
        let next = p.messages.partition_point(|m| m.offset < position);
        let limit = (p.messages.len() * self.process.life.horizon_percent).div_ceil(100);
        let stream = 1_000_000 + 1_000 * self.process.life.number as u64 + number as u64;
        Ok(Box::new(Reader {
            random: Random::new(world.script.seed, stream),
            process: Arc::clone(&self.process),
            waker: Arc::clone(waker),
            number,
            limit,
            held: next..next,
            position: if next == p.messages.len() { p.end } else { position },
        }))
    }

    fn publish_positions(&self, _: &[(PartitionId, i64)]) {}
}

struct Reader {
    process: Arc<Process>,
    random: Random,
    waker: Arc<Waker>,
    number: usize,
    /// messages that can arrive while this process lives
    limit: usize,
    held: Range<usize>,
    position: i64,
}

impl Reader {
    fn partition(&self) -> &Partition {
        &self.process.world.script.partitions[self.number]
    }
}

impl PartitionReader for Reader {
    fn fetch(&mut self, max_messages: usize) -> Result<usize, SourceError> {
        let chunk = 1 + self.random.below(self.process.life.chunk_max);
        let nothing_yet = self.random.percent(20);
        let from = self.held.end;
        self.held = from..from;
        let produce = || self.process.world.produce(self.number, chunk, self.limit);
        let arrived = match self.process.risky_step(Place::Fetch, produce) {
            Ok(arrived) => arrived,
            Err(trouble) => {
                self.waker.wake();
                return Err(trouble.into());
            }
        };
        if !nothing_yet {
            self.held = from..(from + chunk.min(max_messages)).min(arrived).max(from);
        }
        if self.held.is_empty() {
            if from < arrived.max(self.limit) {
                self.waker.wake();
            }
            return Ok(0);
        }
        let skips_the_hole = self.random.percent(50);
        let messages = &self.partition().messages;
        self.position = match messages.get(self.held.end) {
            None => self.partition().end,
            Some(next) if skips_the_hole => next.offset,
            Some(_) => messages[self.held.end - 1].offset + 1,
        };
        Ok(self.held.len())
    }

    fn messages<'a>(&'a self, into: &mut Vec<RawMessage<'a>>) {
        into.extend(self.partition().messages[self.held.clone()].iter().map(|m| RawMessage {
            offset: m.offset,
            payload: m.payload.as_deref(),
            key: Some(KEY),
            timestamp_ms: Some(m.offset),
        }));
    }

    fn position(&self) -> i64 {
        self.position
    }
}
