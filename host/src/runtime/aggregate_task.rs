//! One task of an aggregation: rows of its key groups go into groups, groups into the plugin, results out.
//!
//! ```text
//!   packet ─▶ slot of each row (Windower) ─▶ pending ─┬─▶ plugin.update(columns, slots)
//!                  │ expired                          │   when enough rows are pending, when nothing else waits, before
//!                  ▼                                  │   anything is given, and before a barrier
//!               .late                                 │
//!   watermark ─▶ windows that have closed or expired ─┤
//!   tick      ─▶ groups that have changed            ─┼─▶ evaluate, send                       [`emit`]
//!   barrier   ─▶ closed windows that have changed    ─┘
//!             └▶ export what has changed ─▶ StateUploader (off this thread) ─▶ acknowledged when durable   [`state`]
//! ```
//!
//! It owns the plugin's accumulator and the windower. Event time comes with the watermarks; a steady clock says only when
//! the next early results are due. It never looks at a column except through the plugin's signature. Rows are gathered once,
//! when they are handed to the plugin.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, TimestampMicrosecondArray};
use arrow_schema::SchemaRef;
use crossbeam_channel::Sender;
use millrace_core::barrier::Then;
use millrace_core::batch::{Audience, Batch, Rows};
use millrace_core::due::{Policy, When};
use millrace_core::key::KeyGroup;
use millrace_core::limits::{PLUGIN_CALL_ROWS_TARGET, SIZE_EVERY_ROWS};
use millrace_core::panes::Reached;
use millrace_core::schema::{DataType, Field};
use millrace_core::watermark::{InputWatermarks, Watermark};
use millrace_core::windower::{Windower, Windows};

use super::edge::{Hangup, Inbox, Output, Received};
use super::failures::{FailedRow, Failures};
use super::memory::{Memory, TaskMemory};
use super::message::{END_OF_TIME, Event, Message, Packet, RunError, TaskId};
use super::stats::NodeStats;
use super::status::{OperatorStatus, WindowReport};
use super::swaps::Desk;
use super::versions::Versions;
use crate::capture::Place;
use crate::plugin::StateOrigin;

mod emit;
mod late;
mod pending;
mod spill;
mod state;
mod swap;

pub use pending::Pending;
pub use spill::Spill;
pub use state::{Batches, Export, ExportedWindow, RestoredWindow, StateUploader};

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
    pub plugin: Versions,
    pub desk: Arc<Desk>,
    pub windows: Windows,
    pub policy: Policy,
    /// early results come so often
    pub every: Option<Duration>,
    pub key: Vec<Field>,
    /// of each plugin instance
    pub kept_bytes_max: usize,
    pub consecutive_limit: u64,
    /// what reads its results takes corrections, also of windows that have expired
    pub is_correctable: bool,
    /// key columns, window_start, window_end, the plugin's columns
    pub output_schema: SchemaRef,
    pub key_groups: (KeyGroup, KeyGroup),
    pub uploader: Arc<dyn StateUploader>,
    pub stats: Arc<NodeStats>,
    pub status: Arc<OperatorStatus>,
    pub memory: Arc<Memory>,
    pub memory_share: Arc<TaskMemory>,
    /// none: groups stay in memory
    pub spill: Option<Spill>,
    pub observer: Option<ResultObserver>,
}

/// Where a task goes on from.
#[derive(Default)]
pub struct Restored {
    pub watermark_ms: Option<i64>,
    pub reached: Vec<Reached>,
    pub late_dropped: u64,
    /// state before ledgers
    pub windows: Vec<RestoredWindow>,
    /// of another version: its plugin makes its own of it
    pub origin: Option<StateOrigin>,
}

struct State {
    watermarks: InputWatermarks,
    /// the last watermark that came from events, not from the end of a bounded run
    true_watermark_ms: Option<i64>,
    windower: Windower,
    pending: Vec<Pending>,
    pending_rows: usize,
    next_tick: Option<Instant>,
    /// of the plugin instance, as of the last emission
    exchanges: u64,
    late_dropped: u64,
    late_logged: u64,
    /// buckets that have changed since a version was put beside the active one
    changed_beside: BTreeSet<i64>,
    /// as the plugin said last, and the rows since
    state_bytes: u64,
    rows_since_size: usize,
    /// what was added to the shared gauges
    reported_groups: i64,
    reported_bytes: i64,
}

type Step = Result<Result<(), Hangup>, RunError>;

impl AggregateTask {
    /// Runs until a barrier says stop or an input hangs up.
    pub fn run(mut self, restored: Restored) -> Result<(), RunError> {
        let mut state = State {
            watermarks: InputWatermarks::new(self.inbox.inputs(), restored.watermark_ms),
            true_watermark_ms: restored.watermark_ms,
            windower: Windower::new(self.windows, self.policy),
            pending: Vec::new(),
            pending_rows: 0,
            next_tick: self.every.map(|every| Instant::now() + every),
            exchanges: 0,
            late_dropped: restored.late_dropped,
            late_logged: 0,
            changed_beside: BTreeSet::new(),
            state_bytes: 0,
            rows_since_size: 0,
            reported_groups: 0,
            reported_bytes: 0,
        };
        state.windower.set_reached(restored.reached);
        self.restore(&mut state, restored.windows, restored.origin.as_ref())?;
        self.report(&mut state, true)?;
        // Another task may have been further when the checkpoint was taken: its watermark is this one's now, and what a
        // checkpoint says has been given up to there must have been.
        match self.give(&mut state, When::Watermark)? {
            Ok(()) => {
                // and the other one may have let go of a version that had ended its windows
                self.end_draining(&mut state)?;
                self.work(&mut state)
            }
            Err(Hangup) => Ok(()),
        }
    }

    fn work(&mut self, state: &mut State) -> Result<(), RunError> {
        loop {
            let linger = if state.pending.is_empty() { None } else { Some(LINGER) };
            let until_tick = state.next_tick.map(|tick| tick.saturating_duration_since(Instant::now()));
            let patience = linger.into_iter().chain(until_tick).min();
            let step = if until_tick == Some(Duration::ZERO) {
                self.tick(state)?
            } else {
                match self.inbox.receive(patience)? {
                    // whoever groups results takes each once: the changelog is not for it
                    Received::Rows(packet) if packet.rows.is_for(Audience::Sinks) => Ok(()),
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
                }
            };
            let step = match step {
                Ok(()) if self.plugin.has_fallen() => self.after_fall(state)?,
                other => other,
            };
            if let Err(Hangup) = step {
                return Ok(());
            }
        }
    }

    /// Gives each row its slot. A whole packet is judged by the watermark in force.
    fn take(&mut self, state: &mut State, packet: Packet) -> Step {
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
        let mut placed = state
            .windower
            .place(&numbers, &batch.event_time_ms, &keys, watermark_ms)
            .map_err(|e| RunError::External(e.to_string()))?;
        let late = std::mem::take(&mut placed.late);
        if !late.is_empty()
            && let Err(hangup) = self.late(state, &batch, &late, watermark_ms)?
        {
            return Ok(Err(hangup));
        }
        if !placed.slots.is_empty() {
            let rows = placed.take_kept().or_else(|| (!all).then(|| numbers.to_vec()));
            state.pending_rows += placed.slots.len();
            state.pending.push(Pending { batch, rows, slots: placed.slots });
        }
        if state.pending_rows >= PLUGIN_CALL_ROWS_TARGET {
            return self.flush(state);
        }
        Ok(Ok(()))
    }

    /// Hands all pending rows to the plugin in one call.
    fn flush(&mut self, state: &mut State) -> Step {
        if state.pending.is_empty() {
            return Ok(Ok(()));
        }
        let pending = std::mem::take(&mut state.pending);
        let rows = std::mem::take(&mut state.pending_rows);
        let slots: Vec<u32> = match pending.as_slice() {
            [only] => only.slots.clone(),
            many => many.iter().flat_map(|p| p.slots.iter().copied()).collect(),
        };
        let pending = Arc::new(pending);
        let total = state.windower.slots().total();
        let place = |row: u32| {
            Pending::locate(&pending, row as usize).map(|(batch, row)| place(batch, row)).unwrap_or_default()
        };
        let rejected = self.plugin.update(&pending, &slots, total, &place)?;
        state.windower.touch(&slots, rejected.iter().map(|r| r.row as usize));
        if let Some(merges) = state.windower.merges() {
            let emptied = merges.sources.clone();
            self.plugin.fold(merges.sources, merges.targets)?;
            state.windower.slots().release(emptied);
        }
        let failed = rejected
            .into_iter()
            .filter_map(|r| {
                let at = r.row as usize;
                let (batch, row) = Pending::locate(&pending, at)?;
                Some((at, FailedRow::of(batch, row, r.reason)))
            })
            .collect();
        let handled = self.failures.handle(rows, failed)?;
        if self.plugin.is_full() {
            self.export_changed(state)?;
        }
        state.rows_since_size += rows;
        if state.rows_since_size >= SIZE_EVERY_ROWS.max(state.windower.len()) {
            self.report(state, true)?;
        }
        self.spill_if_full(state)?;
        self.publish_memory(state)?;
        Ok(handled)
    }

    fn advance(&mut self, state: &mut State, input: usize, watermark: Watermark) -> Step {
        if !state.watermarks.update(input, watermark) {
            return Ok(Ok(()));
        }
        let now = state.watermarks.state();
        if now.time_ms != END_OF_TIME.time_ms {
            state.true_watermark_ms = now.time_ms;
            self.status.watermark(&state.watermarks);
        }
        if state.windower.may_be_due(now.time_ms)
            && let Err(hangup) = self.give(state, When::Watermark)?
        {
            return Ok(Err(hangup));
        }
        self.report(state, false)?;
        // a result is as old as its window; operators below get it when it cannot change any more
        let held_back = now.time_ms.map(|ms| match now.time_ms == END_OF_TIME.time_ms {
            true => ms,
            false => ms.saturating_sub(self.policy.allowed_lateness_ms),
        });
        Ok(self.broadcast(&Message::Watermark(Watermark { time_ms: held_back, ..now })))
    }

    /// Early results.
    fn tick(&mut self, state: &mut State) -> Step {
        let step = self.give(state, When::Tick)?;
        state.next_tick = self.every.map(|every| Instant::now() + every);
        Ok(step)
    }

    /// Memory that an instance does not need any more is given back before anybody has to wait for it.
    fn publish_memory(&mut self, state: &mut State) -> Result<(), RunError> {
        if self.memory_share.is_tight_with(self.used_bytes(state)) && self.plugin.holds_too_much()? {
            self.export_changed(state)?;
            self.plugin.give_memory_back()?;
        }
        let beside = self.plugin.companion_memory_bytes();
        if beside > 0 && self.memory_share.is_tight_with(self.used_bytes(state).saturating_add(beside)) {
            self.plugin.give_up("the version beside the active one needs memory that the state needs");
        }
        self.memory.publish(&self.memory_share, self.used_bytes(state), state.windower.len() as u64);
        Ok(())
    }

    /// What counts against the task's share of `memory_limit`.
    fn used_bytes(&self, state: &State) -> u64 {
        let tables = state.windower.size_bytes();
        // what can go to disk makes room for what is kept beside it, too
        let kept = if self.spill.is_some() { self.plugin.kept_bytes() } else { 0 };
        self.plugin.memory_bytes().max(state.state_bytes).saturating_add((tables + kept) as u64)
    }

    /// Brings the shared gauges up to date. The plugin is asked for its size now and then only: it may have to look at all
    /// groups.
    fn report(&mut self, state: &mut State, with_size: bool) -> Result<(), RunError> {
        let groups = state.windower.len() + state.windower.spilled_groups();
        let groups = i64::try_from(groups).unwrap_or(i64::MAX);
        self.stats.groups.fetch_add(groups - state.reported_groups, Relaxed);
        state.reported_groups = groups;
        if with_size {
            state.state_bytes = self.plugin.size()?;
            state.rows_since_size = 0;
            let bytes = i64::try_from(state.state_bytes).unwrap_or(i64::MAX);
            self.stats.state_bytes.fetch_add(bytes - state.reported_bytes, Relaxed);
            state.reported_bytes = bytes;
        }
        let census = state.windower.census(state.watermarks.current_ms());
        self.status.windows(WindowReport {
            open: census.open,
            closed: census.closed,
            oldest_open: census.oldest_open.map(|w| (w.start_ms, w.end_ms)),
            groups: groups.unsigned_abs(),
            state_bytes: state.reported_bytes.unsigned_abs(),
            corrections_waiting: state.windower.corrections_waiting() as u64,
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
