//! One task of a source: its partitions, in the order of their event times, become batches, watermarks and barriers.
//!
//! It owns the partition readers and the decoder, on a thread of its own. Between two batches it looks for commands;
//! a barrier is placed exactly there, with the positions and watermarks as they are. It never commits and never looks
//! at a key; the exchange does.
//!
//! The partition that is furthest behind in event time is read first, and one that is more than `max_drift` ahead of
//! the slowest is left unread: its messages wait in its queue, nothing is fetched twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::SchemaRef;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use millrace_core::barrier::{Barrier, Then};
use millrace_core::batch::{Batch, Origin};
use millrace_core::checkpoint::PartitionState;
use millrace_core::limits::BATCH_ROWS_MAX;
use millrace_core::schema::DataType;
use millrace_core::watermark::{PartitionTime, Watermark, combine};
use tracing::{info, warn};

use super::edge::{Hangup, Output};
use super::failures::{FailedRow, Failures};
use super::message::{END_OF_TIME, Event, Message, Part, RunError, TaskId};
use super::stats::{NodeStats, UNKNOWN};
use crate::clock::Clock;
use crate::decode::Decoder;
use crate::source::{Connector, PartitionId, PartitionInfo, PartitionReader, RawMessage, SourceError, StartAt, Waker};
use crate::spec::model::{MetadataSpec, WatermarkSpec, WhenIdle};

/// How long a task waits for messages before it looks at its clock again.
const WAIT_MAX: Duration = Duration::from_millis(200);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// From the coordinator and the monitor to one source task.
#[derive(Debug)]
pub enum Command {
    Barrier(Barrier),
    /// event time ends here: all windows close, then the barrier
    Drain(Barrier),
    /// a partition that came up while the pipeline runs
    Add(PartitionInfo, Arc<PartitionProgress>),
}

/// What a task, the monitor and the progress line share of one partition.
#[derive(Debug)]
pub struct PartitionProgress {
    pub position: AtomicI64,
    /// the end offset last heard of
    pub end: AtomicI64,
    /// when the answer came, in ms of the run's own steady clock
    pub end_answered_ms: AtomicI64,
}

impl Default for PartitionProgress {
    fn default() -> Self {
        Self {
            position: AtomicI64::new(UNKNOWN),
            end: AtomicI64::new(UNKNOWN),
            end_answered_ms: AtomicI64::new(UNKNOWN),
        }
    }
}

/// A partition that a task starts with.
pub struct Assigned {
    pub info: PartitionInfo,
    pub start: StartAt,
    pub time: PartitionTime,
    /// bounded runs: done when the position reaches it
    pub until: Option<i64>,
    pub progress: Arc<PartitionProgress>,
}

struct Partition {
    info: PartitionInfo,
    reader: Box<dyn PartitionReader>,
    time: PartitionTime,
    last_message: Instant,
    until: Option<i64>,
    done: bool,
    progress: Arc<PartitionProgress>,
}

/// Watermarks of all tasks of the sources that meet in an operator, for `max_drift`.
#[derive(Debug, Default)]
pub struct Drift {
    tasks: Vec<AtomicI64>,
}

impl Drift {
    pub fn new(tasks: usize) -> Self {
        Self { tasks: (0..tasks).map(|_| AtomicI64::new(i64::MAX)).collect() }
    }

    fn publish(&self, task: usize, slowest_ms: i64) {
        if let Some(slot) = self.tasks.get(task) {
            slot.store(slowest_ms, Relaxed);
        }
    }

    fn slowest_ms(&self) -> i64 {
        self.tasks.iter().map(|t| t.load(Relaxed)).min().unwrap_or(i64::MAX)
    }
}

pub struct SourceTask {
    pub id: TaskId,
    pub connector: Arc<dyn Connector>,
    pub decoder: Box<dyn Decoder>,
    pub watermark: WatermarkSpec,
    pub metadata: MetadataSpec,
    /// schema columns, then metadata columns
    pub output_schema: SchemaRef,
    pub outputs: Vec<Output>,
    pub failures: Failures,
    pub commands: Receiver<Command>,
    pub events: Sender<Event>,
    pub waker: Arc<Waker>,
    pub clock: Arc<dyn Clock>,
    /// the run's steady clock
    pub started: Instant,
    pub stats: Arc<NodeStats>,
    pub drift: Arc<Drift>,
    /// this task's place in `drift`
    pub drift_slot: usize,
    /// the coordinator holds the intake back
    pub paused: Arc<AtomicBool>,
    pub bounded: bool,
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
        if self.tell_watermark(&partitions, &mut sent).is_err() {
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
            if progress && idle_checked.elapsed() < WAIT_MAX {
                continue;
            }
            idle_checked = Instant::now();
            self.find_idle(&mut partitions);
            if self.tell_watermark(&partitions, &mut sent).is_err() {
                return Ok(());
            }
            if self.bounded && !reached_end && partitions.iter().all(|p| p.done) {
                reached_end = true;
                if self.events.send(Event::ReachedEnd { task: self.id.clone() }).is_err() {
                    return Ok(());
                }
            }
            if !progress {
                self.waker.wait(WAIT_MAX);
            }
        }
    }

    fn open(&self, a: Assigned) -> Result<Partition, RunError> {
        let reader = retry(&self.id, || self.connector.open(&a.info.id, a.start, &self.waker))?;
        a.progress.position.store(reader.position(), Relaxed);
        let done = a.until.is_some_and(|end| reader.position() >= end);
        Ok(Partition {
            info: a.info,
            reader,
            time: a.time,
            last_message: Instant::now(),
            until: a.until,
            done,
            progress: a.progress,
        })
    }

    /// Carries out what has been asked for since the last batch.
    fn commands(&mut self, partitions: &mut Vec<Partition>) -> Result<Step, RunError> {
        loop {
            let command = match self.commands.try_recv() {
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
                    let time = PartitionTime::discovered(self.bound_ms());
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
        let mut progress = false;
        for index in 0..partitions.len() {
            let slowest_ms = self.publish_drift(partitions);
            let Some(partition) = partitions.get_mut(index) else { break };
            if partition.done || self.too_far_ahead(partition, slowest_ms) {
                continue;
            }
            match self.read_batch(partition)? {
                Step::Progress => progress = true,
                Step::Nothing => {}
                Step::Ended => return Ok(Step::Ended),
            }
            if self.tell_watermark(partitions, sent).is_err() {
                return Ok(Step::Ended);
            }
            if !self.commands.is_empty() {
                return Ok(Step::Progress);
            }
        }
        Ok(if progress { Step::Progress } else { Step::Nothing })
    }

    fn too_far_ahead(&self, partition: &Partition, slowest_ms: i64) -> bool {
        match (self.watermark.max_drift_ms, partition.time.watermark_ms()) {
            (Some(drift), Some(at)) => at.saturating_sub_unsigned(drift) > slowest_ms,
            _ => false,
        }
    }

    /// Partitions that hold the watermark count; one without events yet does not hold others back by drift.
    fn publish_drift(&self, partitions: &[Partition]) -> i64 {
        let slowest = partitions
            .iter()
            .filter(|p| !p.done && !p.time.is_idle())
            .filter_map(|p| p.time.watermark_ms())
            .min()
            .unwrap_or(i64::MAX);
        self.drift.publish(self.drift_slot, slowest);
        self.drift.slowest_ms()
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
        partition.last_message = Instant::now();
        let mut messages = Vec::with_capacity(fetched);
        partition.reader.messages(&mut messages);
        if let Some(end) = partition.until {
            // messages that came after the start of a bounded run belong to the next one
            messages.truncate(messages.partition_point(|m| m.offset < end));
        }
        let bytes: usize = messages.iter().filter_map(|m| m.payload.map(<[u8]>::len)).sum();
        self.stats.rows_in_total.fetch_add(messages.len() as u64, Relaxed);
        self.stats.bytes_in_total.fetch_add(bytes as u64, Relaxed);
        let decoded = self.decoder.decode(&messages);
        let id = partition.info.id.clone();
        let mut failed: Vec<(usize, FailedRow)> = decoded
            .failed
            .into_iter()
            .map(|f| (f.index, failed_message(&id, messages.get(f.index), f.reason, None)))
            .collect();
        let limit_ms = self.future_limit_ms();
        let mut max_ms = None;
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
        if let Err(Hangup) = self.failures.handle(messages.len(), failed)? {
            return Ok(Step::Ended);
        }
        if batch.rows.num_rows() > 0 {
            let rows = self.with_metadata(batch.rows, &id, &batch.offsets, &messages)?;
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
        }
        Ok(Step::Progress)
    }

    fn future_limit_ms(&self) -> i64 {
        match self.watermark.max_future_ms {
            Some(max) => self.clock.now_ms().saturating_add_unsigned(max),
            None => i64::MAX,
        }
    }

    fn bound_ms(&self) -> i64 {
        i64::try_from(self.watermark.out_of_orderness_ms).unwrap_or(i64::MAX)
    }

    /// Appends the metadata columns asked for, in the fixed order of [`MetadataSpec`].
    fn with_metadata(
        &self,
        rows: RecordBatch,
        id: &PartitionId,
        offsets: &[i64],
        messages: &[RawMessage<'_>],
    ) -> Result<RecordBatch, RunError> {
        let m = &self.metadata;
        let n = rows.num_rows();
        if rows.num_columns() == self.output_schema.fields().len() {
            return Ok(RecordBatch::try_new(Arc::clone(&self.output_schema), rows.columns().to_vec())?);
        }
        let of_row = |row: usize| {
            let offset = offsets.get(row).copied().unwrap_or_default();
            messages.get(messages.partition_point(|m| m.offset < offset))
        };
        let mut columns = rows.columns().to_vec();
        let mut push = |wanted: &Option<String>, column: &dyn Fn() -> ArrayRef| {
            if wanted.is_some() {
                columns.push(column());
            }
        };
        push(&m.topic, &|| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&*id.topic, n))));
        push(&m.partition, &|| Arc::new(Int32Array::from_value(id.partition, n)));
        push(&m.offset, &|| Arc::new(Int64Array::from(offsets.to_vec())));
        push(&m.timestamp, &|| {
            let micros = (0..n).map(|r| of_row(r).and_then(|m| m.timestamp_ms).map(|ms| ms.saturating_mul(1_000)));
            Arc::new(TimestampMicrosecondArray::from_iter(micros).with_data_type(DataType::Timestamptz.to_arrow()))
        });
        push(&m.key, &|| Arc::new(BinaryArray::from_iter((0..n).map(|r| of_row(r).and_then(|m| m.key)))));
        Ok(RecordBatch::try_new(Arc::clone(&self.output_schema), columns)?)
    }

    /// A partition is idle when caught up with an end that a broker has just named, and silent for the timeout.
    /// Backlog never makes it so: then the position is behind the end.
    fn find_idle(&self, partitions: &mut [Partition]) {
        let Some(timeout_ms) = self.watermark.idle_timeout_ms else { return };
        if self.paused.load(Relaxed) {
            return;
        }
        let now_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        let advance = self.watermark.when_idle == WhenIdle::Advance;
        for p in partitions.iter_mut().filter(|p| !p.time.is_idle()) {
            let answered = p.progress.end_answered_ms.load(Relaxed);
            let fresh = answered != UNKNOWN && now_ms.saturating_sub_unsigned(timeout_ms) <= answered;
            let caught_up = p.reader.position() >= p.progress.end.load(Relaxed);
            let silent = u64::try_from(p.last_message.elapsed().as_millis()).unwrap_or(u64::MAX) >= timeout_ms;
            if fresh && caught_up && silent {
                info!(topic = %p.info.id.topic, partition = p.info.id.partition, advance, "partition is idle");
                p.time.set_idle(true);
            }
        }
    }

    /// Sends the task's watermark on if it has changed.
    fn tell_watermark(&self, partitions: &[Partition], sent: &mut Option<Watermark>) -> Result<(), Hangup> {
        let combined = combine(partitions.iter().filter(|p| !p.done).map(|p| p.time.state()));
        if *sent != Some(combined) {
            *sent = Some(combined);
            self.broadcast(&Message::Watermark(combined))?;
        }
        Ok(())
    }

    fn broadcast(&self, message: &Message) -> Result<(), Hangup> {
        for output in self.outputs.iter().chain(self.failures.outputs()) {
            output.broadcast(message)?;
        }
        Ok(())
    }
}

impl Partition {
    fn state(&self) -> PartitionState {
        PartitionState {
            topic: self.info.id.topic.to_string(),
            topic_id: self.info.topic_id.clone(),
            partition: self.info.id.partition,
            position: self.until.map_or(self.reader.position(), |end| self.reader.position().min(end)),
            watermark_ms: self.time.watermark_ms(),
            // one that still waits for its first event holds nobody back after a restart either
            idle: self.time.state().idle,
        }
    }
}

/// Decoded rows on their way to a batch.
struct DecodedRows {
    rows: RecordBatch,
    event_time_ms: Vec<i64>,
    offsets: Vec<i64>,
}

impl DecodedRows {
    fn at(&self, row: usize) -> (i64, i64) {
        (self.offsets.get(row).copied().unwrap_or_default(), self.event_time_ms.get(row).copied().unwrap_or_default())
    }

    /// Without these rows (ascending).
    fn without(self, rows: &[usize]) -> Result<Self, RunError> {
        let keep: arrow_array::BooleanArray =
            (0..self.rows.num_rows()).map(|r| Some(rows.binary_search(&r).is_err())).collect();
        let kept = |values: Vec<i64>| {
            values.into_iter().zip(keep.values().iter()).filter(|(_, keep)| *keep).map(|(v, _)| v).collect()
        };
        Ok(Self {
            rows: arrow_select::filter::filter_record_batch(&self.rows, &keep)?,
            event_time_ms: kept(self.event_time_ms),
            offsets: kept(self.offsets),
        })
    }
}

fn failed_message(
    id: &PartitionId,
    message: Option<&RawMessage<'_>>,
    reason: String,
    event_time_ms: Option<i64>,
) -> FailedRow {
    FailedRow {
        reason,
        topic: Some(Arc::clone(&id.topic)),
        partition: Some(id.partition),
        offset: message.map(|m| m.offset),
        event_time_ms,
        payload: message.and_then(|m| m.payload.map(<[u8]>::to_vec)),
        row: None,
    }
}

pub fn source_error(task: &TaskId, error: SourceError) -> RunError {
    match error {
        SourceError::OutOfRange { .. } => RunError::Spec(format!(
            "{error}\nhint: messages that the checkpoint still needs have expired; `--reset-offsets {}=earliest` goes on \
             with what is left and says how many are missing",
            task.node
        )),
        SourceError::Transient(m) | SourceError::Fatal(m) => RunError::External(format!("source `{}`: {m}", task.node)),
    }
}

/// How often something that time can heal is tried before the run gives up.
const ATTEMPTS_MAX: u32 = 8;

/// Tries again with growing pauses where time can heal it.
pub fn retry<T>(task: &TaskId, mut attempt: impl FnMut() -> Result<T, SourceError>) -> Result<T, RunError> {
    let mut pause = BACKOFF_FIRST;
    let mut attempts = 1;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(SourceError::Transient(message)) if attempts < ATTEMPTS_MAX => {
                warn!(task = %task, attempts, "{message}; trying again in {pause:?}");
                std::thread::sleep(pause);
                pause = (pause * 2).min(BACKOFF_MAX);
                attempts += 1;
            }
            Err(error) => return Err(source_error(task, error)),
        }
    }
}
