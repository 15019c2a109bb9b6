//! The plugin instance of one aggregation task, and what is needed to bring it back when it fails.
//!
//! ```text
//!   update ─▶ plugin ──ok──▶ columns and slots are kept
//!               │ trap, deadline, contract broken: the instance is dead
//!               ▼
//!   a fresh one ◀─ merge ─ last export of each window ◀─ barrier, or too much is kept
//!               ◀─ update ─ what was kept since
//!               ▼
//!   the failed call again; an update first in halves, in a scratch instance, until the guilty rows are alone
//! ```
//!
//! An export counts once all that had changed has been exported ([`Accumulator::exported`]); until then the former one
//! and everything told since do. So a failure at any point, in the middle of a barrier too, counts nothing twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow_array::{Array, ArrayRef, new_empty_array};
use millrace_core::due::Assembly;
use millrace_core::limits::{PLUGIN_COMBINES_PER_CALL_MAX, REBUILD_BYTES_MIN, STATE_CHUNK_BYTES};
use tracing::{info, warn};

use super::bisect::{guilty_rows, pick, plugin_at_fault, take, take_input};
use super::message::RunError;
use super::recorder::{Failed, PlaceOf, Recorder, with_command};
use super::stats::NodeStats;
use super::status::PluginGauges;
use crate::capture::Place;
use crate::clock::thread_cpu_ns;
use crate::plugin::{Aggregator, OutputRows, PluginError, Rejected, Signature, StateChunk, StateOrigin, WindowUs};

pub mod log;
#[cfg(test)]
mod tests;

use log::{Log, Told, Whereabouts};

/// What sizes may differ by for other reasons.
const STATE_GROWTH_SLACK_BYTES: u64 = 1_024;

/// Makes a fresh instance of the operator's plugin.
pub type OpenInstance = Arc<dyn Fn() -> Result<Box<dyn Aggregator>, PluginError> + Send + Sync>;

pub struct Accumulator {
    node: Arc<str>,
    open: OpenInstance,
    plugin: Box<dyn Aggregator>,
    stats: Arc<NodeStats>,
    recorder: Option<Arc<Recorder>>,
    consecutive_limit: u64,
    /// failures since the last `update` that went well at once
    failures: u64,
    total_slots: u32,
    /// by start of the bucket; what the instance was told since is in the log
    exported: BTreeMap<i64, Vec<Exported>>,
    /// exported since, while not all that has changed is
    staged: BTreeMap<i64, Vec<Exported>>,
    exported_bytes: usize,
    log: Log,
    kept_bytes_max: usize,
    /// linear memory right after the instance was rebuilt last
    rebuilt_bytes: u64,
    /// so many times the instance was exchanged for a fresh one
    exchanges: u64,
    /// another version is there to take over: the first failure is the last
    strict: bool,
    gauges: Arc<PluginGauges>,
}

/// State as it left the plugin, or came from a checkpoint.
#[derive(Clone)]
pub struct Exported {
    pub columns: Vec<ArrayRef>,
    pub slots: Vec<u32>,
}

impl Exported {
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(log::bytes).sum::<usize>() + size_of_val(self.slots.as_slice())
    }
}

impl Accumulator {
    /// `plugin` is the first instance, empty. At most about `kept_bytes_max` of input is kept.
    pub fn new(
        node: Arc<str>,
        plugin: Box<dyn Aggregator>,
        open: OpenInstance,
        kept_bytes_max: usize,
        stats: Arc<NodeStats>,
        recorder: Option<Recorder>,
        consecutive_limit: u64,
    ) -> Self {
        Self {
            node,
            open,
            plugin,
            stats,
            recorder: recorder.map(Arc::new),
            consecutive_limit,
            failures: 0,
            total_slots: 0,
            exported: BTreeMap::new(),
            staged: BTreeMap::new(),
            exported_bytes: 0,
            log: Log::default(),
            kept_bytes_max,
            rebuilt_bytes: 0,
            exchanges: 0,
            strict: false,
            gauges: Arc::default(),
        }
    }

    /// Another instance of the same plugin, empty.
    pub fn twin(&self) -> Result<Self, RunError> {
        let mut twin = Self::new(
            Arc::clone(&self.node),
            (self.open)()?,
            Arc::clone(&self.open),
            self.kept_bytes_max,
            Arc::clone(&self.stats),
            None,
            self.consecutive_limit,
        );
        twin.recorder.clone_from(&self.recorder);
        twin.set_gauges(PluginGauges::of(self.gauges.of.clone()));
        twin.grow(self.total_slots);
        Ok(twin)
    }

    /// Where it writes what it takes.
    pub fn set_gauges(&mut self, gauges: Arc<PluginGauges>) {
        self.gauges = gauges;
    }

    pub fn gauges(&self) -> &Arc<PluginGauges> {
        &self.gauges
    }

    /// A call is over that began when the thread had used so much.
    fn count(&self, began_ns: u64, rows: usize) {
        self.gauges.count(began_ns, rows, self.plugin.memory_bytes());
    }

    /// Whether a dead instance is an error ([`RunError::Version`]) and not brought back: another version takes over.
    pub fn set_strict(&mut self, strict: bool) {
        self.strict = strict;
    }

    /// All of the state, by bucket. Only right while all that has changed is exported ([`Accumulator::exported`]) and nothing
    /// was told since.
    pub fn copy(&self) -> Vec<(i64, Exported)> {
        self.exported.iter().flat_map(|(start, parts)| parts.iter().map(|part| (*start, part.clone()))).collect()
    }

    /// Another version's state, in this one's columns; none: it cannot be taken over.
    pub fn migrate(&mut self, origin: &StateOrigin, columns: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>, RunError> {
        self.call(Asked::default(), |plugin, _| plugin.migrate(origin, columns))
    }

    /// Grows whenever a fresh instance has taken over: it has what was exported and what was told since, and nothing else.
    pub fn exchanges(&self) -> u64 {
        self.exchanges
    }

    pub fn signature(&self) -> &Signature {
        self.plugin.signature()
    }

    /// Rows that the plugin refused, and rows that it cannot survive, ascending. All others are in. `place` is asked for
    /// the rows of a failure.
    pub fn update(
        &mut self,
        columns: Vec<Option<ArrayRef>>,
        slots: &[u32],
        total_slots: u32,
        place: PlaceOf<'_>,
    ) -> Result<Vec<Rejected>, RunError> {
        self.grow(total_slots);
        let began_ns = thread_cpu_ns();
        let result = self.plugin.update(&columns, slots, self.total_slots);
        self.count(began_ns, slots.len());
        match result {
            Ok(mut rejected) => {
                self.failures = 0;
                self.log.push(Told::Update { columns, slots: slots.to_vec() });
                rejected.sort_by_key(|r| r.row);
                Ok(rejected)
            }
            Err(error) if error.is_dead_instance() && self.strict => Err(RunError::Version(error.to_string())),
            Err(error) if error.is_dead_instance() => self.update_without_the_guilty(&error, &columns, slots, place),
            Err(error) => Err(error.into()),
        }
    }

    /// Too much is kept: the caller exports what has changed and says [`Accumulator::exported`].
    pub fn is_full(&self) -> bool {
        self.log.bytes() > self.kept_bytes_max
    }

    /// State of a bucket as a checkpoint had it, before anything else.
    pub fn restore(
        &mut self,
        bucket_start_ms: i64,
        columns: Vec<ArrayRef>,
        slots: Vec<u32>,
        total_slots: u32,
    ) -> Result<(), RunError> {
        self.grow(total_slots);
        let merged = Asked { merged: Some((&columns, &slots)), ..Asked::default() };
        self.call(merged, |plugin, total| plugin.merge(&columns, &slots, total))?;
        let exported = Exported { columns, slots };
        self.exported_bytes += exported.bytes();
        self.exported.entry(bucket_start_ms).or_default().push(exported);
        Ok(())
    }

    /// Folds slots into others, in this order; the sources are not needed any more: they are emptied.
    pub fn fold(&mut self, sources: Vec<u32>, targets: Vec<u32>) -> Result<(), RunError> {
        for (sources, targets) in in_calls(&sources, &targets) {
            self.call(Asked::of(sources), |plugin, _| plugin.combine(sources, targets))?;
            self.log.push(Told::Combine { sources: sources.to_vec(), targets: targets.to_vec() });
        }
        self.reset(&sources)
    }

    /// Folds slots into others, in this order; the sources stay as they are. Slots that are in no bucket hold what they got
    /// until the instance is exchanged, or (at the latest) until the next export.
    pub fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<(), RunError> {
        let none = no_state(&*self.plugin);
        for (sources, targets) in in_calls(sources, targets) {
            self.call(Asked::of(sources), |plugin, total| {
                // it learns of slots that no row has gone into
                plugin.merge(&none, &[], total)?;
                plugin.combine(sources, targets)
            })?;
            self.log.push(Told::Combine { sources: sources.to_vec(), targets: targets.to_vec() });
        }
        Ok(())
    }

    /// Whether a group takes about as much when another is folded into it. `borrowed`: an empty slot for each pair, and
    /// empty again afterwards.
    pub fn is_of_constant_size(&mut self, pairs: &[(u32, u32)], borrowed: &[u32]) -> Result<bool, RunError> {
        let (first, second): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
        let none = no_state(&*self.plugin);
        self.call(Asked::of(&first), |plugin, total| {
            plugin.merge(&none, &[], total)?;
            let before = plugin.size()?;
            plugin.combine(&first, borrowed)?;
            let copied = plugin.size()?;
            plugin.combine(&second, borrowed)?;
            let folded = plugin.size()?;
            plugin.reset(borrowed)?;
            let (copies, growth) = (copied.saturating_sub(before), folded.saturating_sub(copied));
            Ok(growth <= copies / 4 + STATE_GROWTH_SLACK_BYTES)
        })
    }

    /// The state of a bucket's groups. An instance that is brought back starts from it, once all has been exported.
    pub fn export(&mut self, bucket_start_ms: i64, slots: &[u32]) -> Result<Vec<StateChunk>, RunError> {
        let node = Arc::clone(&self.node);
        let chunks = self.call(Asked::of(slots), |plugin, _| all_state(&node, plugin, slots, STATE_CHUNK_BYTES))?;
        let exported =
            chunks.iter().map(|chunk| Exported { columns: chunk.columns.clone(), slots: chunk.groups.clone() });
        self.staged.insert(bucket_start_ms, exported.collect());
        Ok(chunks)
    }

    /// The state of groups that leave for good.
    pub fn state(&mut self, slots: &[u32], chunk_bytes: u64) -> Result<Vec<StateChunk>, RunError> {
        let node = Arc::clone(&self.node);
        self.call(Asked::of(slots), |plugin, _| all_state(&node, plugin, slots, chunk_bytes))
    }

    /// A fresh instance with what was exported: linear memory never shrinks. To be called when everything is.
    pub fn renew(&mut self) -> Result<(), RunError> {
        self.plugin = self.fresh()?;
        self.exchanges += 1;
        self.rebuilt_bytes = self.plugin.memory_bytes();
        Ok(())
    }

    /// Bytes that are kept to bring an instance back.
    pub fn kept_bytes(&self) -> usize {
        self.log.bytes() + self.exported_bytes
    }

    /// All that has changed has been exported: what the instance was told before is not needed any more. `buckets`: those
    /// that there still are.
    pub fn exported(&mut self, buckets: impl Iterator<Item = i64>) {
        let mut former = std::mem::take(&mut self.exported);
        let mut staged = std::mem::take(&mut self.staged);
        let newest = |start| Some((start, staged.remove(&start).or_else(|| former.remove(&start))?));
        self.exported = buckets.filter_map(newest).collect();
        self.exported_bytes = self.exported.values().flatten().map(Exported::bytes).sum();
        self.log.clear();
    }

    pub fn evaluate(&mut self, slots: &[u32], windows: &[WindowUs], is_final: bool) -> Result<OutputRows, RunError> {
        self.call(Asked { windows, ..Asked::of(slots) }, |plugin, _| plugin.evaluate(slots, windows, is_final))
    }

    /// As [`Accumulator::evaluate_assembled`], of slots that a fresh instance would not have: none, if one has taken over.
    pub fn evaluate_shared(
        &mut self,
        assembly: &Assembly,
        windows: &[WindowUs],
        is_final: bool,
    ) -> Result<Option<OutputRows>, RunError> {
        let Assembly { slots, sources, targets, borrowed } = assembly;
        let none = no_state(&*self.plugin);
        let evaluate = |plugin: &mut dyn Aggregator, total| -> Result<OutputRows, PluginError> {
            plugin.merge(&none, &[], total)?;
            for (sources, targets) in in_calls(sources, targets) {
                plugin.combine(sources, targets)?;
            }
            let output = plugin.evaluate(slots, windows, is_final)?;
            plugin.reset(borrowed)?;
            Ok(output)
        };
        let began_ns = thread_cpu_ns();
        let result = evaluate(&mut *self.plugin, self.total_slots);
        self.count(began_ns, 0);
        match result {
            Err(error) if error.is_dead_instance() && self.strict => Err(RunError::Version(error.to_string())),
            Err(error) if error.is_dead_instance() => {
                self.bring_back(&error.to_string())?;
                Ok(None)
            }
            other => Ok(Some(other?)),
        }
    }

    /// Groups that are put together for this: `borrowed` and the slots of `loads`, into which state is merged, are empty
    /// slots, and empty again afterwards.
    pub fn evaluate_assembled(
        &mut self,
        assembly: &Assembly,
        loads: &[(Vec<ArrayRef>, Vec<u32>)],
        windows: &[WindowUs],
        is_final: bool,
    ) -> Result<OutputRows, RunError> {
        let Assembly { slots, sources, targets, borrowed } = assembly;
        if borrowed.is_empty() && loads.is_empty() {
            return self.evaluate(slots, windows, is_final);
        }
        self.call(Asked { windows, ..Asked::of(sources) }, |plugin, total| {
            // it learns of slots that no row has gone into
            let none: Vec<ArrayRef> = no_state(plugin);
            plugin.merge(&none, &[], total)?;
            for (columns, slots) in loads {
                plugin.merge(columns, slots, total)?;
            }
            for (sources, targets) in in_calls(sources, targets) {
                plugin.combine(sources, targets)?;
            }
            let output = plugin.evaluate(slots, windows, is_final)?;
            plugin.reset(borrowed)?;
            for (_, slots) in loads {
                plugin.reset(slots)?;
            }
            Ok(output)
        })
    }

    /// It learns of slots that no row of its own has gone into.
    pub fn learn(&mut self) -> Result<(), RunError> {
        let none = no_state(&*self.plugin);
        self.call(Asked::of(&[]), |plugin, total| plugin.merge(&none, &[], total))
    }

    pub fn reset(&mut self, slots: &[u32]) -> Result<(), RunError> {
        self.call(Asked::of(slots), |plugin, _| plugin.reset(slots))?;
        self.log.push(Told::Reset { slots: slots.to_vec() });
        Ok(())
    }

    /// Bytes of memory that the instance occupies, used or not; 0 where it is the host's own.
    pub fn memory_bytes(&self) -> u64 {
        self.plugin.memory_bytes()
    }

    /// One more than the largest slot that there is.
    pub fn grow(&mut self, total_slots: u32) {
        self.total_slots = self.total_slots.max(total_slots);
    }

    pub fn total_slots(&self) -> u32 {
        self.total_slots
    }

    pub fn size(&mut self) -> Result<u64, RunError> {
        self.call(Asked::default(), |plugin, _| plugin.size())
    }

    /// Linear memory never shrinks: an instance that holds more than twice what it needs is exchanged for a fresh one.
    /// To be called when everything is exported.
    pub fn give_memory_back(&mut self) -> Result<(), RunError> {
        if !self.holds_too_much()? {
            return Ok(());
        }
        let bytes = self.plugin.memory_bytes();
        self.plugin = self.fresh()?;
        self.exchanges += 1;
        self.rebuilt_bytes = self.plugin.memory_bytes();
        info!(node = %self.node, before = bytes, after = self.rebuilt_bytes, "plugin instance rebuilt to give memory back");
        Ok(())
    }

    /// Whether a fresh instance would take much less.
    pub fn holds_too_much(&mut self) -> Result<bool, RunError> {
        let bytes = self.plugin.memory_bytes();
        Ok(bytes >= REBUILD_BYTES_MIN && bytes / 3 * 2 >= self.rebuilt_bytes && bytes / 2 >= self.size()?)
    }

    /// A call that can be repeated; once, on an instance brought back, if it kills this one.
    fn call<T>(
        &mut self,
        asked: Asked<'_>,
        call: impl Fn(&mut dyn Aggregator, u32) -> Result<T, PluginError>,
    ) -> Result<T, RunError> {
        let began_ns = thread_cpu_ns();
        let result = call(&mut *self.plugin, self.total_slots);
        self.count(began_ns, 0);
        match result {
            Err(error) if error.is_dead_instance() && self.strict => Err(RunError::Version(error.to_string())),
            Err(error) if error.is_dead_instance() => {
                let captured = self.record_call(&error, asked);
                self.bring_back(&error.to_string())?;
                call(&mut *self.plugin, self.total_slots)
                    .map_err(|again| with_command(plugin_at_fault(&again), captured.as_deref()))
            }
            other => Ok(other?),
        }
    }

    /// After a failure in strict mode: no other version takes over.
    pub fn revive(&mut self, why: &str) -> Result<(), RunError> {
        self.set_strict(false);
        self.bring_back(why)
    }

    fn bring_back(&mut self, why: &str) -> Result<(), RunError> {
        self.stats.plugin_failures_total.fetch_add(1, Relaxed);
        self.failures += 1;
        if self.failures >= self.consecutive_limit {
            return Err(RunError::Plugin(format!(
                "{why}; {} calls in a row have failed (consecutive_limit)\nhint: nothing is lost: the next start goes on from \
                 the last checkpoint, with a corrected plugin or the former one",
                self.failures
            )));
        }
        warn!(
            node = %self.node,
            windows = self.exported.len(),
            calls = self.log.len(),
            "{why}; a new instance takes over, from the last export and the inputs since"
        );
        self.plugin = self.fresh()?;
        self.exchanges += 1;
        Ok(())
    }

    /// An instance with the state that this one has, or had.
    fn fresh(&self) -> Result<Box<dyn Aggregator>, RunError> {
        let mut plugin = (self.open)()?;
        let failed = |error: PluginError| {
            RunError::Plugin(format!("{error}; this was while its state was restored into a new instance"))
        };
        // it learns of all slots at once, those without a row in them too
        let none = no_state(&*plugin);
        plugin.merge(&none, &[], self.total_slots).map_err(failed)?;
        for exported in self.exported.values().flatten() {
            plugin.merge(&exported.columns, &exported.slots, self.total_slots).map_err(failed)?;
        }
        self.log.tell(&mut *plugin, self.total_slots).map_err(failed)?;
        Ok(plugin)
    }

    fn update_without_the_guilty(
        &mut self,
        error: &PluginError,
        columns: &[Option<ArrayRef>],
        slots: &[u32],
        place: PlaceOf<'_>,
    ) -> Result<Vec<Rejected>, RunError> {
        self.bring_back(&error.to_string())?;
        let mut groups = slots.to_vec();
        groups.sort_unstable();
        groups.dedup();
        let node = Arc::clone(&self.node);
        let state = self.call(Asked::of(&groups), |plugin, _| all_state(&node, plugin, &groups, STATE_CHUNK_BYTES))?;
        let found = if error.may_be_a_row() { self.find_guilty(&state, columns, slots) } else { Ok(Vec::new()) };
        let captured = self.recorder.as_ref().and_then(|recorder| {
            let signature = self.plugin.signature();
            let (wanted, state_fields, state) = (&signature.input, &signature.state, &state);
            let failed = Failed { error, wanted, columns, slots, state_fields, state, asked: &[], windows: &[] };
            recorder.record(&failed, found.as_deref().unwrap_or_default(), place)
        });
        let captured = captured.as_deref();
        let mut guilty = found.map_err(|error| with_command(error, captured))?;
        for row in &mut guilty {
            row.reason.extend(captured.map(|command| format!("; again: {command}")));
        }
        let at_fault = |again: PluginError| with_command(plugin_at_fault(&again), captured);
        if guilty.is_empty() {
            // the same call once more: a failure that has passed is forgiven
            let mut rejected = self.plugin.update(columns, slots, self.total_slots).map_err(at_fault)?;
            self.log.push(Told::Update { columns: columns.to_vec(), slots: slots.to_vec() });
            rejected.sort_by_key(|r| r.row);
            return Ok(rejected);
        }
        // from here on the rows are counted, not the instance
        self.failures = 0;
        let good: Vec<u32> =
            (0_u32..).take(slots.len()).filter(|row| guilty.binary_search_by_key(row, |r| r.row).is_err()).collect();
        let columns = take_input(columns, &good)?;
        let slots = pick(slots, &good);
        let rejected = self.plugin.update(&columns, &slots, self.total_slots).map_err(at_fault)?;
        self.log.push(Told::Update { columns, slots });
        guilty.extend(rejected.into_iter().filter_map(|r| Some(Rejected { row: *good.get(r.row as usize)?, ..r })));
        guilty.sort_by_key(|r| r.row);
        Ok(guilty)
    }

    /// The rows that kill an instance by themselves, ascending, found by halving the call in scratch instances that hold
    /// its groups only.
    fn find_guilty(
        &self,
        state: &[StateChunk],
        columns: &[Option<ArrayRef>],
        slots: &[u32],
    ) -> Result<Vec<Rejected>, RunError> {
        let scratch = || -> Result<Box<dyn Aggregator>, RunError> {
            let mut plugin = (self.open)()?;
            for chunk in state {
                plugin.merge(&chunk.columns, &chunk.groups, self.total_slots)?;
            }
            Ok(plugin)
        };
        let mut plugin = None;
        guilty_rows(slots.len(), |rows| {
            let instance = match &mut plugin {
                Some(instance) => instance,
                None => plugin.insert(scratch()?),
            };
            let result = instance.update(&take_input(columns, rows)?, &pick(slots, rows), self.total_slots);
            if result.is_err() {
                plugin = None;
            }
            Ok(result.map(|_| ()))
        })
    }

    /// Writes down a failed call that is not about rows, with what the instance had been given.
    fn record_call(&self, error: &PluginError, asked: Asked<'_>) -> Option<String> {
        let recorder = self.recorder.as_ref()?;
        let signature = self.plugin.signature();
        let (mut state, mut columns, mut slots) = (Vec::new(), vec![Vec::new(); signature.input.len()], Vec::new());
        if asked.merged.is_none() {
            let mut wanted = asked.slots.map(<[u32]>::to_vec);
            wanted.iter_mut().for_each(|slots| slots.sort_unstable());
            // the rows that are still there, and the slots where they are now
            let held = |now: &Whereabouts, of: &[u32]| -> (Vec<u32>, Vec<u32>) {
                let there = (0_u32..).zip(of).filter_map(|(row, slot)| Some((row, now.of(*slot)?)));
                let is_asked = |slot: &u32| wanted.as_ref().is_none_or(|w| w.binary_search(slot).is_ok());
                there.filter(|(_, slot)| is_asked(slot)).unzip()
            };
            let mut calls = Vec::new();
            let before = self.log.backwards(|told, now| match told {
                Told::Update { columns, slots } => {
                    let (rows, slots) = held(now, slots);
                    calls.push((take_input(columns, &rows), slots));
                }
                Told::Combine { .. } | Told::Reset { .. } => {}
            });
            for exported in self.exported.values().flatten() {
                let (rows, slots) = held(&before, &exported.slots);
                state.push((&exported.columns, rows, slots));
            }
            for (taken, of) in calls.into_iter().rev() {
                for (all, column) in columns.iter_mut().zip(taken.ok()?) {
                    all.extend(column);
                }
                slots.extend(of);
            }
        }
        let chunk = |(columns, rows, groups): (&Vec<ArrayRef>, Vec<u32>, Vec<u32>)| {
            let columns = columns.iter().map(|c| take(c, &rows)).collect::<Result<_, _>>().ok()?;
            Some(StateChunk { columns, groups, next: None })
        };
        let mut state = state.into_iter().map(chunk).collect::<Option<Vec<StateChunk>>>()?;
        if let Some((columns, groups)) = asked.merged {
            state.push(StateChunk { columns: columns.to_vec(), groups: groups.to_vec(), next: None });
        }
        let columns: Vec<Option<ArrayRef>> = columns.iter().map(|parts| whole(parts)).collect();
        let failed = Failed {
            error,
            wanted: &signature.input,
            columns: &columns,
            slots: &slots,
            state_fields: &signature.state,
            state: &state,
            asked: asked.slots.unwrap_or_default(),
            windows: asked.windows,
        };
        recorder.record(&failed, &[], &|_| Place::default())
    }
}

/// What a call that is not about rows was made for.
#[derive(Clone, Copy, Default)]
struct Asked<'a> {
    /// none: all
    slots: Option<&'a [u32]>,
    windows: &'a [WindowUs],
    /// state that is handed in
    merged: Option<(&'a [ArrayRef], &'a [u32])>,
}

impl<'a> Asked<'a> {
    fn of(slots: &'a [u32]) -> Self {
        Self { slots: Some(slots), ..Self::default() }
    }
}

/// So many at a time that a call stays far from its deadline.
fn in_calls<'a>(sources: &'a [u32], targets: &'a [u32]) -> impl Iterator<Item = (&'a [u32], &'a [u32])> {
    sources.chunks(PLUGIN_COMBINES_PER_CALL_MAX).zip(targets.chunks(PLUGIN_COMBINES_PER_CALL_MAX))
}

/// No rows of the plugin's state.
fn no_state(plugin: &dyn Aggregator) -> Vec<ArrayRef> {
    plugin.signature().state.fields.iter().map(|f| new_empty_array(&f.data_type.to_arrow())).collect()
}

/// An optional column that the input lacks has no parts.
fn whole(parts: &[ArrayRef]) -> Option<ArrayRef> {
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    arrow_select::concat::concat(&parts).ok()
}

fn all_state(
    node: &str,
    plugin: &mut dyn Aggregator,
    slots: &[u32],
    chunk_bytes: u64,
) -> Result<Vec<StateChunk>, PluginError> {
    let mut chunks = Vec::new();
    let mut cursor = 0;
    loop {
        let chunk = plugin.state(slots, cursor, chunk_bytes)?;
        let next = chunk.next;
        if !chunk.groups.is_empty() {
            chunks.push(chunk);
        }
        match next {
            None => return Ok(chunks),
            Some(next) if next > cursor => cursor = next,
            Some(_) => {
                return Err(PluginError::Contract {
                    plugin: node.to_owned(),
                    call: "state",
                    message: "the cursor does not move on".to_owned(),
                });
            }
        }
    }
}
