//! One task of a source: its partitions, in the order of their event times, become batches, watermarks and barriers.
//!
//! It owns the partition readers and the decoder, on a thread of its own. Between two batches it looks for commands;
//! a barrier is placed exactly there, with the positions and watermarks as they are. It never commits and never looks
//! at a key; the exchange does.
//!
//! The partition that is furthest behind in event time is read first, and one that is more than `max_drift` ahead of
//! the slowest is left unread ([`drift`]): its messages wait in its queue, nothing is fetched twice.
//!
//! With `time = "processing"` the time of an event is that of its reading, and the watermark follows the clock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow_schema::SchemaRef;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use millrace_core::barrier::{Barrier, Then};
use millrace_core::batch::{Batch, Origin};
use millrace_core::idleness::Together;
use millrace_core::limits::BATCH_ROWS_MAX;
use millrace_core::watermark::{PartitionTime, Watermark, combine};
use tracing::{info, warn};

use super::edge::{Hangup, Output};
use super::failures::{FailedRow, Failures};
use super::memory::Memory;
use super::message::{END_OF_TIME, Event, Message, Part, RunError, TaskId};
use super::retry::{retry, source_error};
use super::stats::NodeStats;
use super::status::{DriftWait, elapsed_ms};
use crate::clock::Clock;
use crate::decode::Decoder;
use crate::source::{Connector, PartitionInfo, SourceError, StartAt, Waker};
use crate::spec::model::{MetadataSpec, WatermarkSpec};

pub mod drift;
mod partition;
mod rows;
#[cfg(test)]
mod tests;

use drift::DriftSlot;
use partition::Partition;
pub use partition::{Assigned, PartitionProgress};
use rows::{DecodedRows, failed_message};

/// How long a task waits for messages before it looks at its clock again.
const WAIT_MAX: Duration = Duration::from_millis(200);
/// The same where the watermark follows the clock.
const TICK: Duration = Duration::from_millis(20);

/// From the coordinator and the monitor to one source task.
#[derive(Debug)]
pub enum Command {
    Barrier(Barrier),
    /// event time ends here: all windows close, then the barrier
    Drain(Barrier),
    /// a partition that came up while the pipeline runs
    Add(PartitionInfo, Arc<PartitionProgress>),
}

impl Command {
    fn is_stop(&self) -> bool {
        matches!(self, Self::Barrier(b) | Self::Drain(b) if b.then == Then::Stop)
    }
}

pub struct SourceTask {
    pub id: TaskId,
    pub connector: Arc<dyn Connector>,
    pub decoder: Box<dyn Decoder>,
    pub watermark: WatermarkSpec,
    /// how far behind its largest event time a partition's watermark is, less 1 ms
    pub bound_ms: i64,
    pub metadata: MetadataSpec,
    /// schema columns, then metadata columns
    pub output_schema: SchemaRef,
    pub outputs: Vec<Output>,
    pub failures: Failures,
    pub commands: Receiver<Command>,
    pub events: Sender<Event>,
    pub waker: Arc<Waker>,
    pub clock: Arc<dyn Clock>,
    /// `time = "processing"`: what gives events their time, and the watermark
    pub processing: Option<Arc<dyn Clock>>,
    /// the run's steady clock
    pub started: Instant,
    pub stats: Arc<NodeStats>,
    /// none: event time follows the clock
    pub drift: Option<DriftSlot>,
    pub memory: Arc<Memory>,
    /// all tasks of the source, with `when_idle = "advance"`
    pub together: Option<Arc<Mutex<Together>>>,
    /// the coordinator holds the intake back
    pub paused: Arc<AtomicBool>,
    pub bounded: bool,
    /// commands that came while a partition was being opened
    pub waiting: VecDeque<Command>,
}

/// What a step came to.
enum Step {
    Progress,
    Nothing,
    Ended,
}

impl SourceTask {
    /// Runs until a barrier says stop or the receivers are gone.
    pub fn run(mut self, assigned: Vec<Assigned>) -> Result<(), RunError> {
        let mut partitions = Vec::with_capacity(assigned.len());
        for a in assigned {
            partitions.push(self.open(a)?);
        }
        let mut sent = None;
        let mut reached_end = false;
        let mut idle_checked = Instant::now();
        let patience = if self.processing.is_some() { TICK } else { WAIT_MAX };
        if self.tell_watermark(&mut partitions, &mut sent).is_err() {
            return Ok(());
        }
        loop {
            match self.commands(&mut partitions)? {
                Step::Ended => return Ok(()),
                Step::Progress | Step::Nothing => {}
            }
            let progress = match self.read_round(&mut partitions, &mut sent)? {
                Step::Ended => return Ok(()),
                Step::Progress => true,
                Step::Nothing => false,
            };
            // a partition may be silent while others have much to say
            if progress && idle_checked.elapsed() < patience {
                continue;
            }
            idle_checked = Instant::now();
            self.find_idle(&mut partitions);
            if self.tell_watermark(&mut partitions, &mut sent).is_err() {
                return Ok(());
            }
            self.publish(&mut partitions);
            if self.bounded && !reached_end && partitions.iter().all(|p| p.done) {
                reached_end = true;
                if self.events.send(Event::ReachedEnd { task: self.id.clone() }).is_err() {
                    return Ok(());
                }
            }
            if !progress {
                self.waker.wait(patience);
            }
        }
    }

    /// A broker that cannot be reached yet is asked again, unless the run is to stop.
    fn open(&mut self, assigned: Assigned) -> Result<Partition, RunError> {
        let Self { id, connector, waker, commands, waiting, .. } = self;
        let mut pause = |pause: Duration| {
            let until = Instant::now() + pause;
            loop {
                match commands.try_recv() {
                    Ok(command) => waiting.push_back(command),
                    Err(TryRecvError::Disconnected) => return true,
                    Err(TryRecvError::Empty) if waiting.iter().any(Command::is_stop) => return true,
                    Err(TryRecvError::Empty) => match until.saturating_duration_since(Instant::now()) {
                        Duration::ZERO => return false,
                        left => waker.wait(left.min(WAIT_MAX)),
                    },
                }
            }
        };
        let reader = retry(id, || connector.open(&assigned.info.id, assigned.start, waker), &mut pause)?;
        Ok(Partition::new(assigned, reader, self.now_ms()))
    }

    /// The run's steady clock.
    fn now_ms(&self) -> i64 {
        elapsed_ms(self.started)
    }

    /// Carries out what has been asked for since the last batch.
    fn commands(&mut self, partitions: &mut Vec<Partition>) -> Result<Step, RunError> {
        loop {
            let next = self.waiting.pop_front().map_or_else(|| self.commands.try_recv(), Ok);
            let command = match next {
                Ok(command) => command,
                Err(TryRecvError::Empty) => break,
                // the run is over, for a reason that somebody else reports
                Err(TryRecvError::Disconnected) => return Ok(Step::Ended),
            };
            let (barrier, drain) = match command {
                Command::Barrier(barrier) => (barrier, false),
                Command::Drain(barrier) => (barrier, true),
                Command::Add(info, progress) => {
                    info!(task = %self.id, topic = %info.id.topic, partition = info.id.partition, "new partition");
                    let time = PartitionTime::discovered(self.bound_ms);
                    partitions.push(self.open(Assigned {
                        info,
                        start: StartAt::Earliest,
                        time,
                        until: None,
                        progress,
                    })?);
                    continue;
                }
            };
            let part = Part::Source { partitions: partitions.iter().map(Partition::state).collect() };
            let acknowledged = Event::Acknowledged { task: self.id.clone(), checkpoint: barrier.checkpoint, part };
            if self.events.send(acknowledged).is_err()
                || (drain && self.broadcast(&Message::Watermark(END_OF_TIME)).is_err())
                || self.broadcast(&Message::Barrier(barrier)).is_err()
                || barrier.then == Then::Stop
            {
                return Ok(Step::Ended);
            }
        }
        Ok(Step::Progress)
    }

    /// One batch from each partition that may be read and has messages, the slowest first.
    fn read_round(&mut self, partitions: &mut [Partition], sent: &mut Option<Watermark>) -> Result<Step, RunError> {
        if self.paused.load(Relaxed) {
            return Ok(Step::Nothing);
        }
        partitions.sort_by_key(|p| p.time.watermark_ms());
        self.publish_drift(partitions);
        let mut progress = false;
        for index in 0..partitions.len() {
            let Some(partition) = partitions.get_mut(index) else { break };
            if partition.done || self.too_far_ahead(partition) {
                continue;
            }
            match self.read_batch(partition)? {
                Step::Progress => progress = true,
                Step::Nothing => continue,
                Step::Ended => return Ok(Step::Ended),
            }
            partition.publish(elapsed_ms(self.started));
            self.publish_drift(partitions);
            if self.tell_watermark(partitions, sent).is_err() {
                return Ok(Step::Ended);
            }
            if !self.commands.is_empty() {
                return Ok(Step::Progress);
            }
        }
        Ok(if progress { Step::Progress } else { Step::Nothing })
    }

    /// Says so to whoever asks, and sees to it that the task is woken when the slowest moves.
    fn too_far_ahead(&self, partition: &mut Partition) -> bool {
        // with little memory left, whoever is ahead only adds windows that cannot close yet
        let max = if self.memory.is_tight() { Some(0) } else { self.watermark.max_drift_ms };
        let (Some(drift), Some(max), Some(at)) = (&self.drift, max, partition.time.watermark_ms()) else {
            return false;
        };
        let ahead = |slowest_ms: i64| at.saturating_sub_unsigned(max) > slowest_ms;
        let mut slowest_ms = drift.slowest_ms();
        if ahead(slowest_ms) {
            drift.hold_back();
            slowest_ms = drift.slowest_ms();
        }
        let waits = ahead(slowest_ms);
        if waits {
            let now_ms = self.now_ms();
            let since_at_ms = partition.report.drift.map_or(now_ms, |d| d.since_at_ms);
            let slowest_ms = Some(slowest_ms).filter(|ms| *ms != drift::UNKNOWN);
            partition.report.drift = Some(DriftWait { since_at_ms, slowest_ms });
        } else if partition.report.drift.take().is_some() {
            partition.publish(self.now_ms());
        }
        waits
    }

    /// Partitions that hold the watermark count. One without an event yet counts as long as there may be one to read.
    fn publish_drift(&self, partitions: &[Partition]) {
        let Some(drift) = &self.drift else { return };
        let stands = |p: &Partition| match p.time.watermark_ms() {
            Some(ms) => Some(ms),
            None => {
                let known = p.known();
                (known.end.is_none() || known.has_backlog()).then_some(drift::UNKNOWN)
            }
        };
        let counts = partitions.iter().filter(|p| !p.done && !p.time.state().idle);
        drift.publish(counts.filter_map(stands).min().unwrap_or(drift::NONE));
    }

    fn read_batch(&mut self, partition: &mut Partition) -> Result<Step, RunError> {
        let fetched = match partition.reader.fetch(BATCH_ROWS_MAX) {
            Ok(n) => n,
            Err(SourceError::Transient(message)) => {
                warn!(task = %self.id, "{message}");
                0
            }
            Err(error) => return Err(source_error(&self.id, error)),
        };
        let position = partition.reader.position();
        partition.progress.position.store(position, Relaxed);
        partition.done = partition.until.is_some_and(|end| position >= end);
        if fetched == 0 {
            return Ok(Step::Nothing);
        }
        let now_ms = self.now_ms();
        partition.last_message_at_ms = now_ms;
        partition.report.last_message_at_ms = Some(now_ms);
        let mut messages = Vec::with_capacity(fetched);
        partition.reader.messages(&mut messages);
        if let Some(end) = partition.until {
            // messages that came after the start of a bounded run belong to the next one
            messages.truncate(messages.partition_point(|m| m.offset < end));
        }
        let bytes: usize = messages.iter().filter_map(|m| m.payload.map(<[u8]>::len)).sum();
        self.stats.rows_in_total.fetch_add(messages.len() as u64, Relaxed);
        self.stats.bytes_in_total.fetch_add(bytes as u64, Relaxed);
        partition.report.messages_total += messages.len() as u64;
        if let Some(clock) = &self.processing {
            // where there is no other, the record's timestamp is that of its reading, too
            let read_ms = Some(clock.now_ms());
            messages.iter_mut().for_each(|m| m.timestamp_ms = m.timestamp_ms.or(read_ms));
        }
        let mut decoded = self.decoder.decode(&messages);
        if let Some(clock) = &self.processing {
            decoded.event_time_ms.fill(clock.now_ms());
        }
        let id = partition.info.id.clone();
        let mut failed: Vec<(usize, FailedRow)> = decoded
            .failed
            .into_iter()
            .map(|f| (f.index, failed_message(&id, messages.get(f.index), f.reason, None)))
            .collect();
        let limit_ms = self.future_limit_ms();
        let mut max_ms: Option<i64> = None;
        let mut too_new = Vec::new();
        for (row, &time) in decoded.event_time_ms.iter().enumerate() {
            if time > limit_ms {
                too_new.push(row);
            } else {
                max_ms = max_ms.max(Some(time));
            }
        }
        let mut batch =
            DecodedRows { rows: decoded.rows, event_time_ms: decoded.event_time_ms, offsets: decoded.offsets };
        if !too_new.is_empty() {
            for &row in &too_new {
                let (offset, time) = batch.at(row);
                let index = messages.partition_point(|m| m.offset < offset);
                let reason = format!(
                    "event time is {} ms ahead of the wall clock, more than max_future allows",
                    time.saturating_sub(self.clock.now_ms())
                );
                failed.push((index, failed_message(&id, messages.get(index), reason, Some(time))));
            }
            failed.sort_by_key(|(index, _)| *index);
            batch = batch.without(&too_new)?;
        }
        partition.report.failed_total += failed.len() as u64;
        partition.report.future_total += too_new.len() as u64;
        if let Err(Hangup) = self.failures.handle(messages.len(), failed)? {
            return Ok(Step::Ended);
        }
        if batch.rows.num_rows() > 0 {
            let rows = batch.with_metadata(&self.metadata, &self.output_schema, &id, &messages)?;
            let batch = Arc::new(Batch {
                rows,
                event_time_ms: batch.event_time_ms.into(),
                origin: Some(Origin {
                    source: Arc::clone(&self.id.node),
                    topic: Arc::clone(&id.topic),
                    partition: id.partition,
                    offsets: batch.offsets.into(),
                }),
                changes: None,
            });
            self.stats.rows_out_total.fetch_add(batch.num_rows() as u64, Relaxed);
            for output in &self.outputs {
                if let Err(Hangup) = output.rows(&batch)? {
                    return Ok(Step::Ended);
                }
            }
        }
        if let Some(max_ms) = max_ms {
            partition.time.observe(max_ms);
            partition.report.newest_event_ms = partition.report.newest_event_ms.max(Some(max_ms));
        }
        Ok(Step::Progress)
    }

    fn future_limit_ms(&self) -> i64 {
        match self.watermark.max_future_ms {
            Some(max) if self.processing.is_none() => self.clock.now_ms().saturating_add_unsigned(max),
            _ => i64::MAX,
        }
    }

    /// Idle is what has caught up and been silent; what has a backlog is not, even if nothing of it could be read yet.
    fn find_idle(&self, partitions: &mut [Partition]) {
        let Some(timeout_ms) = self.watermark.idle_timeout_ms else { return };
        if self.processing.is_some() || self.paused.load(Relaxed) {
            return;
        }
        let now_ms = self.now_ms();
        for p in partitions {
            let known = p.known();
            let idle = if p.time.is_idle() { !known.has_backlog() } else { known.is_idle(timeout_ms, now_ms) };
            if idle != p.time.is_idle() {
                info!(topic = %p.info.id.topic, partition = p.info.id.partition, "partition is {}", if idle { "idle" } else { "awake" });
                p.time.set_idle(idle);
            }
        }
    }

    /// Sends the task's watermark on if it has changed.
    fn tell_watermark(&self, partitions: &mut [Partition], sent: &mut Option<Watermark>) -> Result<(), Hangup> {
        if let Some(clock) = &self.processing {
            let now_ms = clock.now_ms();
            partitions.iter_mut().for_each(|p| p.time.observe(now_ms));
        }
        let mut combined = combine(partitions.iter().filter(|p| !p.done).map(|p| p.time.state()));
        if let Some(together) = &self.together {
            let furthest_ms = partitions.iter().filter_map(|p| p.time.watermark_ms()).max();
            let mut together = together.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(time_ms) = together.update(self.id.task, combined, furthest_ms, self.now_ms()) {
                partitions.iter_mut().for_each(|p| p.time.advance_to(time_ms));
                combined = Watermark { time_ms: Some(time_ms), idle: true };
            }
        }
        if *sent != Some(combined) {
            *sent = Some(combined);
            self.broadcast(&Message::Watermark(combined))?;
        }
        Ok(())
    }

    fn publish(&self, partitions: &mut [Partition]) {
        self.publish_drift(partitions);
        let now_ms = self.now_ms();
        partitions.iter_mut().for_each(|p| p.publish(now_ms));
    }

    fn broadcast(&self, message: &Message) -> Result<(), Hangup> {
        for output in self.outputs.iter().chain(self.failures.outputs()) {
            output.broadcast(message)?;
        }
        Ok(())
    }
}
