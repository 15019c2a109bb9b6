//! One task of a deduplication: the first event of each of its keys passes, those that repeat it are dropped and counted.
//!
//! It owns [`Seen`], which says what a repetition is. Barriers and event time travel as through an aggregation; a
//! checkpoint writes the keys that are new since the last one, with the time of the event that passed, as state files of
//! buckets of event time. The end of a bounded run forgets nothing: the next run may bring repetitions.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow_array::{Array as _, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use crossbeam_channel::Sender;
use millrace_core::barrier::{Barrier, Then};
use millrace_core::batch::{Audience, Rows};
use millrace_core::checkpoint::{BucketId, Holds, OperatorState, state_file_schema};
use millrace_core::key::{self, KeyGroup};
use millrace_core::schema::{DataType, Field, Schema};
use millrace_core::seen::{Piece, Seen};
use millrace_core::watermark::{InputWatermarks, Watermark};
use tracing::info;

use super::aggregate_task::{Batches, Export, ExportedWindow, RestoredWindow, StateUploader, constant_time};
use super::edge::{Hangup, Inbox, Output, Received};
use super::message::{END_OF_TIME, Event, Message, Packet, RunError, TaskId};
use super::stats::NodeStats;
use super::status::OperatorStatus;
use super::transform_task::take_rows;
use crate::spec::model::DeduplicateSpec;
use crate::spec::transforms::FIRST_SEEN;

/// Rows of one batch of a state file.
const STATE_BATCH_ROWS: usize = 65_536;

pub struct DeduplicateTask {
    pub id: TaskId,
    pub inbox: Inbox,
    pub outputs: Vec<Output>,
    /// edges that carry no rows of this task, but event time and barriers
    pub silent_outputs: Vec<Output>,
    pub events: Sender<Event>,
    pub key: Vec<Field>,
    pub within_ms: i64,
    pub key_groups: (KeyGroup, KeyGroup),
    pub uploader: Arc<dyn StateUploader>,
    pub stats: Arc<NodeStats>,
    pub status: Arc<OperatorStatus>,
}

struct State {
    watermarks: InputWatermarks,
    /// the last watermark that came from events, not from the end of a bounded run
    true_watermark_ms: Option<i64>,
    seen: Seen,
    dropped: u64,
    reported_keys: i64,
    reported_bytes: i64,
}

/// What a checkpoint says of the operator beside its files.
pub fn operator_state(spec: &DeduplicateSpec, key: Vec<Field>) -> OperatorState {
    let window =
        format!("deduplicated within {} ms, in buckets of {} ms", spec.within_ms, Seen::bucket_ms(spec.within_ms));
    OperatorState { key, window, state: state_columns(), ..OperatorState::default() }
}

fn state_columns() -> Schema {
    Schema::new(vec![Field::new(FIRST_SEEN, DataType::Timestamptz, false)])
}

impl DeduplicateTask {
    /// Runs until a barrier says stop or an input hangs up.
    pub fn run(mut self, restored_watermark_ms: Option<i64>, restored: Vec<RestoredWindow>) -> Result<(), RunError> {
        let mut state = State {
            watermarks: InputWatermarks::new(self.inbox.inputs(), restored_watermark_ms),
            true_watermark_ms: restored_watermark_ms,
            seen: Seen::new(self.within_ms, restored_watermark_ms),
            dropped: 0,
            reported_keys: 0,
            reported_bytes: 0,
        };
        self.restore(&mut state.seen, restored)?;
        self.report(&mut state);
        let result = self.work(&mut state);
        if state.dropped > 0 {
            info!(task = %self.id, repeated = state.dropped, "repeated events were dropped in this run");
        }
        result
    }

    fn work(&mut self, state: &mut State) -> Result<(), RunError> {
        loop {
            let step = match self.inbox.receive(None)? {
                Received::Rows(packet) if packet.rows.is_for(Audience::Sinks) => Ok(()),
                Received::Rows(packet) => self.rows(state, packet)?,
                Received::Watermark { input, watermark } => self.advance(state, input, watermark),
                Received::Barrier(barrier) => {
                    let step = self.barrier(state, barrier)?;
                    if barrier.then == Then::Stop {
                        return Ok(());
                    }
                    step
                }
                Received::Nothing => Ok(()),
                Received::Hangup => return Ok(()),
            };
            if let Err(Hangup) = step {
                return Ok(());
            }
        }
    }

    fn rows(&mut self, state: &mut State, packet: Packet) -> Result<Result<(), Hangup>, RunError> {
        let Packet { rows, keys } = packet;
        let keys = keys.ok_or_else(|| RunError::Internal("rows came to a deduplication without keys".into()))?;
        let batch = rows.batch;
        let total = batch.num_rows();
        let numbers: Arc<[u32]> = match rows.rows {
            Rows::Some(numbers) => numbers,
            Rows::All => (0_u32..).take(total).collect(),
        };
        self.stats.rows_in_total.fetch_add(numbers.len() as u64, Relaxed);
        let mut first = |row: u32| {
            let at = row as usize;
            let time_ms = batch.event_time_ms.get(at).copied().unwrap_or_default();
            state.seen.passes(keys.hash(at), keys.bytes(at), time_ms)
        };
        let passed: Vec<u32> = numbers.iter().copied().filter(|row| first(*row)).collect();
        let dropped = (numbers.len() - passed.len()) as u64;
        state.dropped += dropped;
        self.stats.duplicates_total.fetch_add(dropped, Relaxed);
        self.stats.rows_out_total.fetch_add(passed.len() as u64, Relaxed);
        if passed.is_empty() {
            return Ok(Ok(()));
        }
        let batch = if passed.len() == total { batch } else { take_rows(&batch, &passed)? };
        for output in &self.outputs {
            if let Err(hangup) = output.rows(&batch)? {
                return Ok(Err(hangup));
            }
        }
        Ok(Ok(()))
    }

    fn advance(&mut self, state: &mut State, input: usize, watermark: Watermark) -> Result<(), Hangup> {
        if !state.watermarks.update(input, watermark) {
            return Ok(());
        }
        let now = state.watermarks.state();
        if now.time_ms != END_OF_TIME.time_ms {
            state.true_watermark_ms = now.time_ms;
            self.status.watermark(&state.watermarks);
            state.seen.advance(now.time_ms);
        }
        self.broadcast(&Message::Watermark(now))
    }

    fn barrier(&mut self, state: &mut State, barrier: Barrier) -> Result<Result<(), Hangup>, RunError> {
        let pieces = state.seen.take_changed();
        let is_rewritten = |bucket: &i64| pieces.iter().any(|p| p.whole && p.bucket.start_ms == *bucket);
        let unchanged = state.seen.buckets().filter(|bucket| !is_rewritten(bucket));
        let unchanged = unchanged.map(BucketId::state).collect();
        let windows = pieces.iter().map(|piece| self.export(&state.seen, piece)).collect::<Result<_, _>>()?;
        self.report(state);
        let export = Export {
            task: self.id.clone(),
            checkpoint: barrier.checkpoint,
            key_groups: self.key_groups,
            windows,
            watermark_ms: state.true_watermark_ms,
            reached: None,
            unchanged,
            late_dropped: 0,
            version: 0,
            exchanged: None,
            next_window_ms: None,
            is_draining: false,
        };
        self.uploader.submit(export, self.events.clone());
        Ok(self.broadcast(&Message::Barrier(barrier)))
    }

    /// The rows of a state file: key columns, the bucket's edges, the time of the event that passed.
    fn export(&self, seen: &Seen, piece: &Piece) -> Result<ExportedWindow, RunError> {
        let schema = state_file_schema(&self.key, &state_columns()).to_arrow();
        let bucket = piece.bucket;
        let mut batches = Vec::new();
        for from in piece.entries.clone().step_by(STATE_BATCH_ROWS) {
            let part = from..piece.entries.end.min(from + STATE_BATCH_ROWS);
            let rows = part.len();
            let keys = seen.entries(bucket.start_ms, part.clone()).map(|(key, _)| key);
            let mut columns = key::decode(&self.key, keys).map_err(|e| RunError::Internal(e.to_string()))?;
            columns.push(constant_time(bucket.start_ms.saturating_mul(1_000), rows));
            columns.push(constant_time(bucket.end_ms.saturating_mul(1_000), rows));
            let times = seen.entries(bucket.start_ms, part).map(|(_, time_ms)| time_ms.saturating_mul(1_000));
            let times = TimestampMicrosecondArray::from_iter_values(times);
            columns.push(Arc::new(times.with_data_type(DataType::Timestamptz.to_arrow())));
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
        }
        let (groups, batches) = (piece.entries.len() as u64, Batches::Made(batches));
        Ok(ExportedWindow { holds: Holds::State, part: 0, window: bucket, groups, batches })
    }

    fn restore(&self, seen: &mut Seen, restored: Vec<RestoredWindow>) -> Result<(), RunError> {
        for bucket in restored {
            for batch in &bucket.batches {
                let lacks = || RunError::Internal("a state file lacks columns".into());
                let (keys, rest) = batch.columns().split_at_checked(self.key.len()).ok_or_else(lacks)?;
                let keys = key::encode(keys, batch.num_rows()).map_err(|e| RunError::Internal(e.to_string()))?;
                let times: &ArrayRef = rest.get(2).ok_or_else(lacks)?;
                let times = times.as_any().downcast_ref::<TimestampMicrosecondArray>().ok_or_else(lacks)?;
                for (row, micros) in times.values().iter().enumerate() {
                    seen.remember(keys.hash(row), keys.bytes(row), micros.div_euclid(1_000));
                }
            }
            if bucket.clean {
                seen.mark_written(bucket.start_ms, bucket.files);
            }
        }
        Ok(())
    }

    fn report(&self, state: &mut State) {
        let keys = i64::try_from(state.seen.len()).unwrap_or(i64::MAX);
        self.stats.groups.fetch_add(keys - state.reported_keys, Relaxed);
        state.reported_keys = keys;
        let bytes = i64::try_from(state.seen.size_bytes()).unwrap_or(i64::MAX);
        self.stats.state_bytes.fetch_add(bytes - state.reported_bytes, Relaxed);
        state.reported_bytes = bytes;
    }

    fn broadcast(&self, message: &Message) -> Result<(), Hangup> {
        for output in self.outputs.iter().chain(&self.silent_outputs) {
            output.broadcast(message)?;
        }
        Ok(())
    }
}
