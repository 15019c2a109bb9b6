//! How an aggregation's state leaves for a checkpoint, and comes back from one: what groups hold, and what has been given
//! of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, TimestampMicrosecondType};
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, Int32Array, RecordBatch, TimestampMicrosecondArray, UInt32Array,
};
use crossbeam_channel::Sender;
use millrace_core::barrier::Barrier;
use millrace_core::checkpoint::{BucketId, Holds, state_file_schema};
use millrace_core::due::When;
use millrace_core::key::{self, KeyGroup};
use millrace_core::ledger::Entry;
use millrace_core::panes::Reached;
use millrace_core::schema::{DataType, Field, Schema};
use millrace_core::sessions::FOREVER;
use millrace_core::window::Window;
use millrace_core::windower::{Bucket, Windows};

use super::{AggregateTask, State, Step};
use crate::plugin::{StateChunk, StateOrigin};
use crate::runtime::message::{Event, Exchanged, Message, RunError, TaskId};
use crate::runtime::versions::VersionId;

/// State of one window, read from a checkpoint, already reduced to this task's key groups.
pub struct RestoredWindow {
    pub holds: Holds,
    pub start_ms: i64,
    /// key columns, window_start, window_end, state columns
    pub batches: Vec<RecordBatch>,
    /// the files hold this task's groups and no others: later checkpoints can refer to them
    pub clean: bool,
    /// how many files
    pub files: usize,
}

/// What has changed, on its way to durable files. The acknowledgement is sent once they are there.
pub struct Export {
    pub task: TaskId,
    pub checkpoint: u64,
    pub key_groups: (KeyGroup, KeyGroup),
    pub windows: Vec<ExportedWindow>,
    pub watermark_ms: Option<i64>,
    pub reached: Option<Reached>,
    pub unchanged: Vec<BucketId>,
    pub late_dropped: u64,
    pub version: VersionId,
    pub exchanged: Option<Exchanged>,
    /// see [`OperatorPart`](crate::runtime::message::OperatorPart)
    pub next_window_ms: Option<i64>,
    pub is_draining: bool,
}

pub struct ExportedWindow {
    pub holds: Holds,
    /// see [`BucketId`]
    pub part: u32,
    pub window: Window,
    pub groups: u64,
    pub batches: Batches,
}

/// The rows of a state file.
pub enum Batches {
    Made(Vec<RecordBatch>),
    /// off the task's thread: events wait while a task exports
    ToMake(Box<dyn FnOnce() -> Result<Vec<RecordBatch>, RunError> + Send>),
}

impl Batches {
    pub fn make(self) -> Result<Vec<RecordBatch>, RunError> {
        match self {
            Self::Made(batches) => Ok(batches),
            Self::ToMake(make) => make(),
        }
    }
}

/// Encodes and uploads off the task's thread, then acknowledges.
pub trait StateUploader: Send + Sync {
    fn submit(&self, export: Export, events: Sender<Event>);
}

impl AggregateTask {
    /// This task's part of a checkpoint: what has changed leaves the plugin as columns, the rest is done elsewhere.
    pub(super) fn barrier(&mut self, state: &mut State, barrier: Barrier) -> Step {
        let step = if self.policy.corrects() { self.give(state, When::Barrier)? } else { self.flush(state)? };
        if let Err(hangup) = step {
            return Ok(Err(hangup));
        }
        self.end_draining(state)?;
        let order = self.desk.at(barrier.checkpoint);
        let exchanged = match self.obey_before(state, order.as_ref())? {
            Ok(exchanged) => exchanged,
            Err(hangup) => return Ok(Err(hangup)),
        };
        let began = Instant::now();
        let mut windows = loop {
            let windows = self.export_changed(state)?;
            if !self.plugin.has_fallen() {
                break windows;
            }
            // what was exported before belongs to the version that failed
            if let Err(hangup) = self.after_fall(state)? {
                return Ok(Err(hangup));
            }
        };
        let exchanged = exchanged.map(|e| Exchanged { pause: e.pause + began.elapsed(), ..e });
        let next_window_ms = self.obey_after(state, order.as_ref())?;
        let (changed, others) = state.windower.take_changed();
        if self.plugin.has_candidate() {
            state.changed_beside.extend(changed);
        }
        let all = |start_ms: i64| self.plugin.holds(start_ms).iter().map(move |holds| (*holds, start_ms));
        let of = |(holds, start_ms)| BucketId { holds, ..BucketId::state(start_ms) };
        let mut unchanged: Vec<BucketId> = others.into_iter().flat_map(all).map(of).collect();
        let (changed, others) = state.windower.take_ledgers();
        unchanged.extend(others.into_iter().map(BucketId::ledger));
        for (start_ms, lines) in changed {
            windows.push(self.ledger(start_ms, &lines)?);
        }
        windows.extend(self.export_spilled(state, &mut unchanged)?);
        self.plugin.give_memory_back()?;
        self.report(state, true)?;
        let export = Export {
            task: self.id.clone(),
            checkpoint: barrier.checkpoint,
            key_groups: self.key_groups,
            windows,
            watermark_ms: state.true_watermark_ms,
            reached: Some(Reached {
                first_key_group: self.key_groups.0,
                last_key_group: self.key_groups.1.saturating_sub(1),
                watermark_ms: state.true_watermark_ms,
            }),
            unchanged,
            late_dropped: state.late_dropped,
            version: self.plugin.id(),
            exchanged,
            next_window_ms,
            is_draining: self.plugin.is_draining(),
        };
        self.uploader.submit(export, self.events.clone());
        Ok(self.broadcast(&Message::Barrier(barrier)))
    }

    /// The state of all that is not as the last checkpoint has it. A failed plugin instance starts from it, so it is also
    /// done between checkpoints, when the inputs kept since become too many.
    pub(super) fn export_changed(&mut self, state: &mut State) -> Result<Vec<ExportedWindow>, RunError> {
        let buckets = state.windower.buckets(&state.windower.changed());
        let mut windows = Vec::with_capacity(buckets.len());
        for bucket in buckets {
            let bucket = Arc::new(bucket);
            for holds in self.plugin.holds(bucket.window.start_ms) {
                windows.push(self.export(*holds, Arc::clone(&bucket))?);
            }
        }
        if self.plugin.has_fallen() {
            // some of it is of the version that failed, and its fallback has exported but a part
            self.plugin.export_anew();
        } else {
            self.plugin.exported(&state.windower.bucket_starts());
        }
        Ok(windows)
    }

    fn export(&mut self, holds: Holds, bucket: Arc<Bucket>) -> Result<ExportedWindow, RunError> {
        let chunks = self.plugin.export(holds, bucket.window.start_ms, &bucket.slots)?;
        let (window, groups) = (bucket.window, bucket.slots.len() as u64);
        let (key, is_global) = (self.key.clone(), self.is_global());
        let schema = self.schema(self.plugin.state_columns(holds));
        let batches = Batches::ToMake(Box::new(move || rows_of(&key, is_global, &schema, &bucket, chunks)));
        Ok(ExportedWindow { holds, part: 0, window, groups, batches })
    }

    fn is_global(&self) -> bool {
        matches!(self.windows, Windows::Global { .. })
    }

    /// What was moved to disk since the last checkpoint; what was before stays as it is.
    fn export_spilled(
        &mut self,
        state: &State,
        unchanged: &mut Vec<BucketId>,
    ) -> Result<Vec<ExportedWindow>, RunError> {
        let Some(spill) = &mut self.spill else { return Ok(Vec::new()) };
        let new = spill.take_new();
        let known = state.windower.spilled().into_iter().filter(|id| !new.contains(id));
        unchanged.extend(known.map(|(start_ms, part)| BucketId { part, ..BucketId::state(start_ms) }));
        let schema = self.schema(&self.plugin.signature().state);
        let Some(spill) = &self.spill else { return Ok(Vec::new()) };
        let mut windows = Vec::with_capacity(new.len());
        for (start_ms, part) in new {
            let window = Window { start_ms, ..state.windower.bucket_window(start_ms) };
            let mut batches = Vec::new();
            let mut groups = 0;
            for (keys, columns) in spill.read((start_ms, part))? {
                let keys = keys.iter().map(Vec::as_slice);
                let mut all = key::decode(&self.key, keys).map_err(|e| RunError::Internal(e.to_string()))?;
                let rows = all.first().map_or(0, |column| column.len());
                groups += rows as u64;
                all.extend(edges(self.is_global(), rows, |_| window));
                all.extend(columns);
                batches.push(RecordBatch::try_new(Arc::clone(&schema), all)?);
            }
            windows.push(ExportedWindow { holds: Holds::State, part, window, groups, batches: Batches::Made(batches) });
        }
        Ok(windows)
    }

    fn ledger(&self, start_ms: i64, lines: &[Entry]) -> Result<ExportedWindow, RunError> {
        let keys = lines.iter().map(|line| line.key.as_slice());
        let mut columns = key::decode(&self.key, keys).map_err(|e| RunError::Internal(e.to_string()))?;
        let window = |row| lines.get(row).map_or(FOREVER, |line: &Entry| line.window);
        columns.extend(edges(self.is_global(), lines.len(), window));
        let revisions = lines.iter().map(|line| i32::try_from(line.revision).unwrap_or(i32::MAX));
        columns.push(Arc::new(Int32Array::from_iter_values(revisions)));
        columns.push(Arc::new(lines.iter().map(|line| Some(line.present)).collect::<BooleanArray>()));
        columns.push(Arc::new(lines.iter().map(|line| Some(line.changed)).collect::<BooleanArray>()));
        let last = lines.iter().map(|line| line.last_event_ms.map(|ms| ms.saturating_mul(1_000)));
        let last: TimestampMicrosecondArray = last.collect();
        columns.push(Arc::new(last.with_data_type(DataType::Timestamptz.to_arrow())));
        let batch = RecordBatch::try_new(self.schema(&ledger_columns()), columns)?;
        let window = Window { start_ms, end_ms: start_ms };
        let batches = Batches::Made(vec![batch]);
        Ok(ExportedWindow { holds: Holds::Ledger, part: 0, window, groups: lines.len() as u64, batches })
    }

    fn schema(&self, columns: &Schema) -> arrow_schema::SchemaRef {
        let mut schema = state_file_schema(&self.key, columns);
        if self.is_global() {
            schema.fields.iter_mut().skip(self.key.len()).take(2).for_each(|edge| edge.nullable = true);
        }
        schema.to_arrow()
    }

    pub(super) fn restore(
        &mut self,
        state: &mut State,
        restored: Vec<RestoredWindow>,
        origin: Option<&StateOrigin>,
    ) -> Result<(), RunError> {
        // of another version's: a bucket stands as it was exported if all of it does
        let unclean: BTreeSet<i64> = restored
            .iter()
            .filter(|bucket| bucket.holds != Holds::Ledger && !bucket.clean)
            .map(|bucket| bucket.start_ms)
            .collect();
        for bucket in restored {
            for batch in &bucket.batches {
                let lacks = || RunError::Internal("a state file lacks columns".into());
                let (keys, rest) = batch.columns().split_at_checked(self.key.len()).ok_or_else(lacks)?;
                let (edges, rest) = rest.split_at_checked(2).ok_or_else(lacks)?;
                let keys = key::encode(keys, batch.num_rows()).map_err(|e| RunError::Internal(e.to_string()))?;
                let windows = windows_of(edges).ok_or_else(lacks)?;
                match bucket.holds {
                    Holds::State | Holds::Draining => {
                        let slots = state
                            .windower
                            .restore(bucket.start_ms, &keys, &windows)
                            .map_err(|e| RunError::External(e.to_string()))?;
                        let total = state.windower.slots().total();
                        let columns = match origin {
                            Some(origin) if bucket.holds == Holds::State => self.plugin.migrate(origin, rest)?,
                            _ => rest.to_vec(),
                        };
                        self.plugin.restore(bucket.holds, bucket.start_ms, columns, slots, total)?;
                        // what two versions share must be there as a whole before any of it moves
                        if !self.plugin.is_draining() {
                            self.spill_if_full(state)?;
                        }
                    }
                    Holds::Ledger => {
                        for (row, entry) in entries(&keys, &windows, rest).ok_or_else(lacks)?.iter().enumerate() {
                            state.windower.restore_entry(keys.hash(row), entry);
                        }
                    }
                }
            }
            match bucket.holds {
                _ if !bucket.clean => {}
                // with a disk, parts of it may have gone there
                Holds::State if self.spill.is_some() => {}
                Holds::State | Holds::Draining if unclean.contains(&bucket.start_ms) => {}
                Holds::State | Holds::Draining => state.windower.mark_unchanged(bucket.start_ms),
                Holds::Ledger => state.windower.mark_ledger_unchanged(bucket.start_ms),
            }
        }
        self.spill_if_full(state)
    }
}

/// Of a bucket as it left the plugin: its keys, its windows, its state.
fn rows_of(
    key: &[Field],
    is_global: bool,
    schema: &arrow_schema::SchemaRef,
    bucket: &Bucket,
    chunks: Vec<StateChunk>,
) -> Result<Vec<RecordBatch>, RunError> {
    let mut fixed = key::decode(key, bucket.keys.iter()).map_err(|e| RunError::Internal(e.to_string()))?;
    fixed.extend(edges(is_global, bucket.slots.len(), |row| match &bucket.windows {
        Some(windows) => windows.get(row).copied().unwrap_or(bucket.window),
        None => bucket.window,
    }));
    let place: HashMap<u32, u32> = bucket.slots.iter().copied().zip(0_u32..).collect();
    let mut batches = Vec::new();
    for chunk in chunks {
        let picks: UInt32Array = chunk.groups.iter().filter_map(|slot| place.get(slot).copied()).collect();
        let mut columns =
            fixed.iter().map(|c| arrow_select::take::take(c, &picks, None)).collect::<Result<Vec<_>, _>>()?;
        columns.extend(chunk.columns);
        batches.push(RecordBatch::try_new(Arc::clone(schema), columns)?);
    }
    Ok(batches)
}

/// `window_start` and `window_end`; of the global window they are null.
fn edges(is_global: bool, rows: usize, window: impl Fn(usize) -> Window) -> [ArrayRef; 2] {
    [false, true].map(|end| {
        let edge = |row| {
            let window = window(row);
            let ms = if end { window.end_ms } else { window.start_ms };
            (!is_global).then(|| ms.saturating_mul(1_000))
        };
        let edges: TimestampMicrosecondArray = (0..rows).map(edge).collect();
        Arc::new(edges.with_data_type(DataType::Timestamptz.to_arrow())) as ArrayRef
    })
}

/// The plugin's columns stand here in a file of state.
fn ledger_columns() -> Schema {
    Schema::new(vec![
        Field::new("revision", DataType::Int, false),
        Field::new("present", DataType::Boolean, false),
        Field::new("changed", DataType::Boolean, false),
        Field::new("last_event", DataType::Timestamptz, true),
    ])
}

/// None: not such columns.
fn windows_of(edges: &[ArrayRef]) -> Option<Vec<Window>> {
    let column = |at: usize| edges.get(at)?.as_primitive_opt::<TimestampMicrosecondType>();
    let (starts, ends) = (column(0)?, column(1)?);
    let edge = |us: Option<i64>, global: i64| us.map_or(global, |us| us.div_euclid(1_000));
    let window = |(start, end)| Window { start_ms: edge(start, FOREVER.start_ms), end_ms: edge(end, FOREVER.end_ms) };
    Some(starts.iter().zip(ends.iter()).map(window).collect())
}

fn entries(keys: &key::Keys, windows: &[Window], rest: &[ArrayRef]) -> Option<Vec<Entry>> {
    let revisions = rest.first()?.as_primitive_opt::<Int32Type>()?;
    let (present, changed) = (rest.get(1)?.as_boolean_opt()?, rest.get(2)?.as_boolean_opt()?);
    let last = rest.get(3)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    let entry = |(row, window): (usize, &Window)| Entry {
        key: keys.bytes(row).to_vec(),
        window: *window,
        revision: u32::try_from(revisions.value(row)).unwrap_or(0),
        present: present.value(row),
        changed: changed.value(row),
        last_event_ms: last.is_valid(row).then(|| last.value(row).div_euclid(1_000)),
    };
    Some(windows.iter().enumerate().map(entry).collect())
}
