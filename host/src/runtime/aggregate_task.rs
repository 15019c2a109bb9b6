//! One task of an aggregation: rows of its key groups go into groups, groups into the plugin, results out.
//!
//! ```text
//!   packet ─▶ window of each row ─▶ slot of (key, window) ─▶ pending ─┬─▶ plugin.update(columns, slots)
//!                  │ expired                                          │   when enough rows are pending, when nothing
//!                  ▼                                                  │   else waits, before a window closes, and
//!               .late                                                 │   before a barrier
//!   watermark ─▶ windows that end ≤ W: evaluate, send, reset ◀────────┘
//!   barrier   ─▶ export changed windows ─▶ StateUploader (off this thread) ─▶ acknowledged when durable
//! ```
//!
//! It owns the plugin's accumulator and the group table; [`state`] is how both leave for a checkpoint and come back. It
//! never looks at a clock, and never at a column except through the plugin's signature. Rows are gathered once, when they
//! are handed to the plugin.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow_schema::SchemaRef;
use crossbeam_channel::Sender;
use millrace_core::barrier::Then;
use millrace_core::batch::{Audience, Batch, Change, Changes, Rows};
use millrace_core::groups::GroupTable;
use millrace_core::key::{self, KeyGroup};
use millrace_core::limits::{FIRST_OCCURRENCES_LOGGED, PLUGIN_CALL_ROWS_TARGET, PLUGIN_GROUPS_PER_CALL_MAX};
use millrace_core::schema::{DataType, Field};
use millrace_core::watermark::{InputWatermarks, Watermark};
use millrace_core::window::{Phase, Tumbling, Window};
use tracing::warn;

use super::accumulator::Accumulator;
use super::edge::{Hangup, Inbox, Output, Received};
use super::failures::{FailedRow, Failures, dead_letters};
use super::message::{END_OF_TIME, Event, Message, Packet, RunError, TaskId};
use super::stats::{NodeStats, UNKNOWN};
use super::status::{OperatorStatus, WindowReport};
use crate::capture::Place;
use crate::plugin::WindowUs;

mod state;

pub use state::{Export, ExportedWindow, RestoredWindow, StateUploader};

/// Rows wait this long at the most for others to share a plugin call with.
const LINGER: Duration = Duration::from_millis(5);

/// Where a column of the plugin's input comes from.
#[derive(Clone, Debug)]
pub struct InputColumn {
    /// none: an optional column that the input lacks
    pub index: Option<usize>,
    pub field: Field,
}

/// Sees every batch of results as it leaves (the demo's live view).
pub type ResultObserver = Arc<dyn Fn(&Batch) + Send + Sync>;

pub struct AggregateTask {
    pub id: TaskId,
    pub inbox: Inbox,
    pub outputs: Vec<Output>,
    pub late_outputs: Vec<Output>,
    pub failures: Failures,
    pub events: Sender<Event>,
    pub plugin: Accumulator,
    pub window: Tumbling,
    pub allowed_lateness_ms: i64,
    pub key: Vec<Field>,
    pub input: Vec<InputColumn>,
    /// key columns, window_start, window_end, the plugin's columns
    pub output_schema: SchemaRef,
    pub key_groups: (KeyGroup, KeyGroup),
    pub uploader: Arc<dyn StateUploader>,
    pub stats: Arc<NodeStats>,
    pub status: Arc<OperatorStatus>,
    pub observer: Option<ResultObserver>,
}

/// Rows that have their slot and wait for the plugin.
struct Pending {
    batch: Arc<Batch>,
    /// none: all rows, in order
    rows: Option<Vec<u32>>,
    slots: Vec<u32>,
}

struct State {
    watermarks: InputWatermarks,
    /// the last watermark that came from events, not from the end of a bounded run
    true_watermark_ms: Option<i64>,
    groups: GroupTable,
    /// by slot: a row has gone in (a group of nothing but refused rows has no result)
    live: Vec<bool>,
    pending: Vec<Pending>,
    pending_rows: usize,
    late_dropped: u64,
    late_logged: u64,
    /// what was added to the shared gauges
    reported_groups: i64,
    reported_bytes: i64,
}

impl AggregateTask {
    /// Runs until a barrier says stop or an input hangs up.
    pub fn run(
        mut self,
        restored_watermark_ms: Option<i64>,
        late_dropped: u64,
        restored: Vec<RestoredWindow>,
    ) -> Result<(), RunError> {
        let mut state = State {
            watermarks: InputWatermarks::new(self.inbox.inputs(), restored_watermark_ms),
            true_watermark_ms: restored_watermark_ms,
            groups: GroupTable::default(),
            live: Vec::new(),
            pending: Vec::new(),
            pending_rows: 0,
            late_dropped,
            late_logged: 0,
            reported_groups: 0,
            reported_bytes: 0,
        };
        self.restore(&mut state, restored)?;
        self.report(&mut state, true)?;
        self.work(&mut state)
    }

    fn work(&mut self, state: &mut State) -> Result<(), RunError> {
        loop {
            let patience = if state.pending.is_empty() { None } else { Some(LINGER) };
            let step = match self.inbox.receive(patience)? {
                Received::Rows(packet) => self.take(state, packet)?,
                Received::Watermark { input, watermark } => self.advance(state, input, watermark)?,
                Received::Barrier(barrier) => {
                    let step = self.barrier(state, barrier)?;
                    if barrier.then == Then::Stop {
                        return Ok(());
                    }
                    step
                }
                Received::Nothing => self.flush(state)?,
                Received::Hangup => return Ok(()),
            };
            if let Err(Hangup) = step {
                return Ok(());
            }
        }
    }

    /// Gives each row its window and slot. A whole packet is judged by the watermark in force.
    fn take(&mut self, state: &mut State, packet: Packet) -> Result<Result<(), Hangup>, RunError> {
        let Packet { rows, keys } = packet;
        let keys = keys.ok_or_else(|| RunError::Internal("rows came to an aggregation without keys".into()))?;
        let batch = rows.batch;
        let watermark_ms = state.watermarks.current_ms();
        let all = matches!(rows.rows, Rows::All);
        let numbers: Arc<[u32]> = match rows.rows {
            Rows::Some(numbers) => numbers,
            Rows::All => (0_u32..).take(batch.num_rows()).collect(),
        };
        self.stats.rows_in_total.fetch_add(numbers.len() as u64, Relaxed);
        let times = &batch.event_time_ms;
        let time_of = |row: u32| times.get(row as usize).copied().unwrap_or_default();
        let mut slots = Vec::with_capacity(numbers.len());
        let mut kept: Vec<u32> = Vec::new();
        let mut late: Vec<u32> = Vec::new();
        let mut from = 0;
        // Runs of rows in one window: the window is looked up once a run, the key once a row.
        while let Some(&first) = numbers.get(from) {
            let window = self.window.assign(time_of(first));
            let length = numbers
                .get(from..)
                .unwrap_or_default()
                .iter()
                .take_while(|&&row| (window.start_ms..window.end_ms).contains(&time_of(row)))
                .count()
                .max(1);
            let run = numbers.get(from..from + length).unwrap_or_default();
            from += length;
            if window.phase(watermark_ms, self.allowed_lateness_ms) == Phase::Expired {
                if late.is_empty() && kept.is_empty() {
                    kept.extend(numbers.get(..from - length).unwrap_or_default());
                }
                late.extend_from_slice(run);
                continue;
            }
            if !late.is_empty() {
                kept.extend_from_slice(run);
            }
            state
                .groups
                .slots(
                    window.start_ms,
                    run.iter().map(|&r| (keys.hash(r as usize), keys.bytes(r as usize))),
                    &mut slots,
                )
                .map_err(|e| RunError::External(e.to_string()))?;
        }
        if !late.is_empty()
            && let Err(hangup) = self.late(state, &batch, &late, watermark_ms)?
        {
            return Ok(Err(hangup));
        }
        if !slots.is_empty() {
            let rows = match (late.is_empty(), all) {
                (true, true) => None,
                (true, false) => Some(numbers.to_vec()),
                (false, _) => Some(kept),
            };
            state.pending_rows += slots.len();
            state.pending.push(Pending { batch, rows, slots });
        }
        if state.pending_rows >= PLUGIN_CALL_ROWS_TARGET {
            return self.flush(state);
        }
        Ok(Ok(()))
    }

    /// Counts late rows, shows the first, sends them to `.late` if something is connected.
    fn late(
        &self,
        state: &mut State,
        batch: &Batch,
        rows: &[u32],
        watermark_ms: Option<i64>,
    ) -> Result<Result<(), Hangup>, RunError> {
        self.stats.late_total.fetch_add(rows.len() as u64, Relaxed);
        if let Some(origin) = &batch.origin {
            self.status.late(origin, rows.len() as u64);
        }
        let connected = !self.late_outputs.is_empty();
        if !connected {
            state.late_dropped += rows.len() as u64;
        }
        let mut letters = Vec::new();
        for &row in rows {
            let time_ms = batch.event_time_ms.get(row as usize).copied().unwrap_or_default();
            let window = self.window.assign(time_ms);
            let reason = format!(
                "late: its window [{}, {}) expired under watermark {}, {} ms behind it",
                window.start_ms,
                window.end_ms,
                watermark_ms.unwrap_or(UNKNOWN),
                watermark_ms.unwrap_or(time_ms).saturating_sub(time_ms),
            );
            if state.late_logged < FIRST_OCCURRENCES_LOGGED {
                state.late_logged += 1;
                let origin = batch.origin.as_ref();
                warn!(
                    node = %self.id.node,
                    topic = origin.map_or("", |o| &*o.topic),
                    partition = origin.map_or(-1, |o| o.partition),
                    offset = origin.and_then(|o| o.offsets.get(row as usize)).copied().unwrap_or(-1),
                    "{reason}; {}",
                    if connected { "sent to .late" } else { "dropped (nothing is connected to .late)" }
                );
            }
            if connected {
                letters.push(FailedRow::of(batch, row, reason));
            } else if state.late_logged >= FIRST_OCCURRENCES_LOGGED {
                break;
            }
        }
        if letters.is_empty() {
            return Ok(Ok(()));
        }
        let letters = Arc::new(dead_letters(&self.id.node, &letters)?);
        for output in &self.late_outputs {
            if let Err(hangup) = output.rows(&letters)? {
                return Ok(Err(hangup));
            }
        }
        Ok(Ok(()))
    }

    /// Hands all pending rows to the plugin in one call.
    fn flush(&mut self, state: &mut State) -> Result<Result<(), Hangup>, RunError> {
        if state.pending.is_empty() {
            return Ok(Ok(()));
        }
        let pending = std::mem::take(&mut state.pending);
        let rows = std::mem::take(&mut state.pending_rows);
        let columns = self.gather(&pending)?;
        let slots: Vec<u32> = match pending.as_slice() {
            [only] => only.slots.clone(),
            many => many.iter().flat_map(|p| p.slots.iter().copied()).collect(),
        };
        let total = state.groups.total_slots();
        state.live.resize(total as usize, false);
        let place = |row: u32| locate(&pending, row as usize).map(|(batch, row)| place(batch, row)).unwrap_or_default();
        let rejected = self.plugin.update(columns, &slots, total, &place)?;
        let mut refused = rejected.iter().map(|r| r.row as usize).peekable();
        for (row, &slot) in slots.iter().enumerate() {
            if refused.next_if_eq(&row).is_none()
                && let Some(live) = state.live.get_mut(slot as usize)
            {
                *live = true;
            }
        }
        let failed = rejected
            .into_iter()
            .filter_map(|r| {
                let at = r.row as usize;
                let (batch, row) = locate(&pending, at)?;
                Some((at, FailedRow::of(batch, row, r.reason)))
            })
            .collect();
        let handled = self.failures.handle(rows, failed)?;
        if self.plugin.is_full() {
            self.export_changed(state)?;
        }
        Ok(handled)
    }

    /// The plugin's columns of all pending rows, each value copied at most once.
    fn gather(&self, pending: &[Pending]) -> Result<Vec<Option<ArrayRef>>, RunError> {
        let cast = |array: ArrayRef, field: &Field| -> Result<ArrayRef, RunError> {
            let wanted = field.data_type.to_arrow();
            if array.data_type() == &wanted { Ok(array) } else { Ok(arrow_cast::cast(&array, &wanted)?) }
        };
        if let [only] = pending {
            let indices = only.rows.as_ref().map(|rows| UInt32Array::from(rows.clone()));
            return self
                .input
                .iter()
                .map(|column| {
                    let Some(array) = column.index.and_then(|i| only.batch.rows.columns().get(i)) else {
                        return Ok(None);
                    };
                    let array = match &indices {
                        None => Arc::clone(array),
                        Some(indices) => arrow_select::take::take(array, indices, None)?,
                    };
                    cast(array, &column.field).map(Some)
                })
                .collect();
        }
        let mut places = Vec::with_capacity(pending.iter().map(|p| p.slots.len()).sum());
        for (which, p) in pending.iter().enumerate() {
            match &p.rows {
                None => places.extend((0..p.batch.num_rows()).map(|row| (which, row))),
                Some(rows) => places.extend(rows.iter().map(|&row| (which, row as usize))),
            }
        }
        self.input
            .iter()
            .map(|column| {
                let Some(index) = column.index else { return Ok(None) };
                let arrays: Vec<&dyn arrow_array::Array> =
                    pending.iter().filter_map(|p| p.batch.rows.columns().get(index).map(|a| &**a)).collect();
                let array = arrow_select::interleave::interleave(&arrays, &places)?;
                cast(array, &column.field).map(Some)
            })
            .collect()
    }

    fn advance(
        &mut self,
        state: &mut State,
        input: usize,
        watermark: Watermark,
    ) -> Result<Result<(), Hangup>, RunError> {
        if !state.watermarks.update(input, watermark) {
            return Ok(Ok(()));
        }
        let now = state.watermarks.state();
        if now.time_ms != END_OF_TIME.time_ms {
            state.true_watermark_ms = now.time_ms;
            self.status.watermark(&state.watermarks);
        }
        if let Err(hangup) = self.close_windows(state)? {
            return Ok(Err(hangup));
        }
        self.report(state, false)?;
        Ok(self.broadcast(&Message::Watermark(now)))
    }

    /// Results of all windows that the watermark has passed, oldest first.
    fn close_windows(&mut self, state: &mut State) -> Result<Result<(), Hangup>, RunError> {
        while let Some(start_ms) = state.groups.first_window() {
            let window = self.window.starting_at(start_ms);
            if window.phase(state.watermarks.current_ms(), self.allowed_lateness_ms) != Phase::Expired {
                break;
            }
            if let Err(hangup) = self.flush(state)? {
                return Ok(Err(hangup));
            }
            let Some(groups) = state.groups.take_window(start_ms) else { break };
            let slots = groups.slots();
            let keys: Vec<&[u8]> = groups.keys().collect();
            for (slots, keys) in slots.chunks(PLUGIN_GROUPS_PER_CALL_MAX).zip(keys.chunks(PLUGIN_GROUPS_PER_CALL_MAX)) {
                if let Err(hangup) = self.emit(state, window, slots, keys)? {
                    return Ok(Err(hangup));
                }
                self.plugin.reset(slots)?;
                for &slot in slots {
                    if let Some(live) = state.live.get_mut(slot as usize) {
                        *live = false;
                    }
                }
            }
            self.plugin.forget_window(start_ms);
            state.groups.release(slots);
            self.report(state, false)?;
        }
        Ok(Ok(()))
    }

    fn emit(
        &mut self,
        state: &State,
        window: Window,
        slots: &[u32],
        keys: &[&[u8]],
    ) -> Result<Result<(), Hangup>, RunError> {
        let is_live = |slot: u32| state.live.get(slot as usize).copied().unwrap_or(false);
        let (slots, keys): (Vec<u32>, Vec<&[u8]>) =
            slots.iter().zip(keys).filter(|(slot, _)| is_live(**slot)).map(|(slot, key)| (*slot, *key)).unzip();
        if slots.is_empty() {
            return Ok(Ok(()));
        }
        let us = WindowUs { start: window.start_ms.saturating_mul(1_000), end: window.end_ms.saturating_mul(1_000) };
        let output = self.plugin.evaluate(&slots, &vec![us; slots.len()], true)?;
        let key_columns =
            key::decode(&self.key, keys.iter().copied()).map_err(|e| RunError::Internal(e.to_string()))?;
        let (key_columns, rows) = match output.groups {
            None => (key_columns, slots.len()),
            Some(of_rows) => {
                // The plugin gives none, one or several rows a group: each names its slot.
                let place: HashMap<u32, u32> = slots.iter().copied().zip(0_u32..).collect();
                let picks: Vec<u32> = of_rows.iter().filter_map(|slot| place.get(slot).copied()).collect();
                if picks.len() != of_rows.len() {
                    return Err(RunError::Plugin(format!(
                        "plugin of `{}` returned a row for a group that was not asked for",
                        self.id.node
                    )));
                }
                let rows = picks.len();
                let picks = UInt32Array::from(picks);
                let columns = key_columns
                    .iter()
                    .map(|c| arrow_select::take::take(c, &picks, None))
                    .collect::<Result<Vec<_>, _>>()?;
                (columns, rows)
            }
        };
        if rows == 0 {
            return Ok(Ok(()));
        }
        let mut columns = key_columns;
        columns.push(constant_time(us.start, rows));
        columns.push(constant_time(us.end, rows));
        columns.extend(output.columns);
        let batch = Arc::new(Batch {
            rows: RecordBatch::try_new(Arc::clone(&self.output_schema), columns)?,
            event_time_ms: vec![window.max_time_ms(); rows].into(),
            origin: None,
            changes: Some(Changes {
                kinds: vec![Change::Insert; rows].into(),
                revisions: vec![1; rows].into(),
                is_final: true,
                audience: Audience::All,
            }),
        });
        self.stats.rows_out_total.fetch_add(rows as u64, Relaxed);
        if let Some(observer) = &self.observer {
            observer(&batch);
        }
        for output in &self.outputs {
            if let Err(hangup) = output.rows(&batch)? {
                return Ok(Err(hangup));
            }
        }
        Ok(Ok(()))
    }

    /// Brings the shared gauges up to date. The plugin is asked for its size at checkpoints only.
    fn report(&mut self, state: &mut State, with_size: bool) -> Result<(), RunError> {
        let groups = i64::try_from(state.groups.len()).unwrap_or(i64::MAX);
        self.stats.groups.fetch_add(groups - state.reported_groups, Relaxed);
        state.reported_groups = groups;
        if with_size {
            let bytes = i64::try_from(self.plugin.size()?).unwrap_or(i64::MAX);
            self.stats.state_bytes.fetch_add(bytes - state.reported_bytes, Relaxed);
            state.reported_bytes = bytes;
        }
        let now = state.watermarks.current_ms();
        let windows = state.groups.windows().map(|(start_ms, _)| self.window.starting_at(start_ms));
        let (open, closed): (Vec<Window>, Vec<Window>) = windows.partition(|w| w.phase(now, 0) == Phase::Open);
        self.status.windows(WindowReport {
            open: open.len() as u64,
            closed: closed.len() as u64,
            oldest_open: open.first().map(|w| (w.start_ms, w.end_ms)),
            groups: groups.unsigned_abs(),
            state_bytes: state.reported_bytes.unsigned_abs(),
            corrections_waiting: 0,
        });
        Ok(())
    }

    fn broadcast(&self, message: &Message) -> Result<(), Hangup> {
        for output in self.outputs.iter().chain(&self.late_outputs).chain(self.failures.outputs()) {
            output.broadcast(message)?;
        }
        Ok(())
    }
}

pub(super) fn constant_time(micros: i64, rows: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_value(micros, rows).with_data_type(DataType::Timestamptz.to_arrow()))
}

pub(super) fn place(batch: &Batch, row: u32) -> Place {
    let Some(origin) = &batch.origin else { return Place::default() };
    Place {
        topic: Some(origin.topic.to_string()),
        partition: Some(origin.partition),
        offset: origin.offsets.get(row as usize).copied(),
    }
}

/// The batch and row behind the `at`-th pending row.
fn locate(pending: &[Pending], mut at: usize) -> Option<(&Batch, u32)> {
    for p in pending {
        if at < p.slots.len() {
            let row = match &p.rows {
                None => u32::try_from(at).ok()?,
                Some(rows) => rows.get(at).copied()?,
            };
            return Some((&p.batch, row));
        }
        at -= p.slots.len();
    }
    None
}
