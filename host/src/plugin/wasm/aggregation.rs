//! Aggregation plugins: accumulators over many groups.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef};
use millrace_core::schema::Schema;

use super::columns::{check_answered, check_rejected, check_slots, lower_fields, lower_wanted, wanted};
use super::instance::{Instance, Prepared};
use crate::plugin::arrow::lift::lift_all;
use crate::plugin::arrow::lower::Lowered;
use crate::plugin::artifact::Artifact;
use crate::plugin::bindings::types::Encoding;
use crate::plugin::bindings::{self, aggregation};
use crate::plugin::engine::PluginEngine;
use crate::plugin::limits::{MIGRATE_ROWS_MAX, PluginLimits};
use crate::plugin::{
    Aggregator, AggregatorFactory, Info, OutputRows, Rejected, Result, Signature, StateChunk, StateOrigin, WindowUs,
};

/// A compiled aggregation plugin under one set of limits.
pub struct WasmFactory {
    prepared: Prepared<aggregation::GuestIndices>,
}

impl WasmFactory {
    /// Compiles (or takes from the cache), links, and asks the plugin for its name and version. `name` is the plugin's
    /// name in the pipeline file; errors carry it.
    pub fn new(engine: &Arc<PluginEngine>, name: &str, artifact: &Artifact, limits: PluginLimits) -> Result<Self> {
        Ok(Self { prepared: Prepared::new(engine, name, artifact, limits)? })
    }
}

impl AggregatorFactory for WasmFactory {
    fn info(&self) -> &Info {
        self.prepared.info()
    }

    fn digest(&self) -> &str {
        self.prepared.digest()
    }

    fn limits(&self) -> PluginLimits {
        self.prepared.limits()
    }

    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Aggregator>> {
        let mut instance = self.prepared.instantiate()?;
        let offered = bindings::fields_to_wit(offered);
        let wit = instance.ask_at_startup("open", |guest, store| guest.call_open(store, config, &offered))?;
        let (signature, encodings) = instance.kept("open", signature(wit))?;
        Ok(Box::new(WasmAggregator { instance, signature, encodings }))
    }
}

fn signature(wit: aggregation::Signature) -> std::result::Result<(Signature, Vec<Encoding>), String> {
    let (input, encodings) = wanted("input", wit.input)?;
    let (state, output) = (bindings::schema_from_wit(wit.state), bindings::schema_from_wit(wit.output));
    bindings::check_fields("state", state.fields.iter())?;
    bindings::check_fields("output", output.fields.iter())?;
    Ok((Signature { input, state, output, ordered: wit.ordered }, encodings))
}

/// One running instance.
struct WasmAggregator {
    instance: Instance<aggregation::Guest>,
    signature: Signature,
    encodings: Vec<Encoding>,
}

impl WasmAggregator {
    fn migrate_part(&mut self, origin: &StateOrigin, state: &[ArrayRef], rows: usize) -> Result<Option<Vec<ArrayRef>>> {
        let lowered = self.instance.kept("migrate", lower_fields(state, &origin.state.fields, rows))?;
        let params: Vec<_> = lowered.iter().map(Lowered::param).collect();
        let fields = bindings::fields_to_wit(&origin.state);
        let wit = aggregation::Origin {
            name: &origin.name,
            version: &origin.version,
            config: &origin.config,
            state: &fields,
        };
        let migrated = self.instance.ask("migrate", |guest, store| guest.call_migrate(store, wit, &params))?;
        let lifted = migrated.map(|columns| lift_all(columns, &self.signature.state.fields, rows)).transpose();
        self.instance.kept("migrate", lifted)
    }
}

/// Parts of the same columns, one after the other.
fn joined(mut parts: Vec<Vec<ArrayRef>>) -> std::result::Result<Vec<ArrayRef>, String> {
    if parts.len() == 1 {
        return Ok(parts.pop().unwrap_or_default());
    }
    let columns = parts.first().map_or(0, Vec::len);
    let column = |i: usize| {
        let pieces: Vec<&dyn Array> = parts.iter().filter_map(|part| part.get(i)).map(AsRef::as_ref).collect();
        arrow_select::concat::concat(&pieces).map_err(|e| e.to_string())
    };
    (0..columns).map(column).collect()
}

impl Aggregator for WasmAggregator {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total_groups: u32) -> Result<Vec<Rejected>> {
        let lowered = check_slots(groups, total_groups)
            .and_then(|()| lower_wanted(columns, &self.signature.input, &self.encodings, groups.len()));
        let lowered = self.instance.kept("update", lowered)?;
        let params: Vec<_> = lowered.iter().map(Lowered::param).collect();
        let rejected =
            self.instance.ask("update", |guest, store| guest.call_update(store, &params, groups, total_groups))?;
        self.instance.kept("update", check_rejected(rejected, groups.len()))
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()> {
        if sources.len() != targets.len() {
            let message = format!("the host has {} sources for {} targets", sources.len(), targets.len());
            return self.instance.kept("combine", Err(message));
        }
        self.instance.ask("combine", |guest, store| guest.call_combine(store, sources, targets))
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total_groups: u32) -> Result<()> {
        let lowered = check_slots(groups, total_groups)
            .and_then(|()| lower_fields(state, &self.signature.state.fields, groups.len()));
        let lowered = self.instance.kept("merge", lowered)?;
        let params: Vec<_> = lowered.iter().map(Lowered::param).collect();
        self.instance.ask("merge", |guest, store| guest.call_merge(store, &params, groups, total_groups))
    }

    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk> {
        let chunk = self.instance.ask("state", |guest, store| guest.call_state(store, groups, cursor, max_bytes))?;
        let check = || {
            check_answered(&chunk.groups, groups)?;
            // A cursor that stands still would make the host ask for ever.
            if let Some(next) = chunk.next.filter(|next| *next <= cursor) {
                return Err(format!("the next cursor is {next}, after {cursor}: it must grow"));
            }
            lift_all(chunk.columns, &self.signature.state.fields, chunk.groups.len())
        };
        let columns = check();
        let columns = self.instance.kept("state", columns)?;
        Ok(StateChunk { columns, groups: chunk.groups, next: chunk.next })
    }

    fn evaluate(&mut self, groups: &[u32], windows: &[WindowUs], is_final: bool) -> Result<OutputRows> {
        if groups.len() != windows.len() {
            let message = format!("the host has {} windows for {} groups", windows.len(), groups.len());
            return self.instance.kept("evaluate", Err(message));
        }
        let windows: Vec<_> = windows.iter().map(|w| aggregation::Window { start: w.start, end: w.end }).collect();
        let output =
            self.instance.ask("evaluate", |guest, store| guest.call_evaluate(store, groups, &windows, is_final))?;
        let check = || {
            let rows = match &output.groups {
                Some(answered) => {
                    check_answered(answered, groups)?;
                    answered.len()
                }
                None => groups.len(),
            };
            lift_all(output.columns, &self.signature.output.fields, rows)
        };
        let columns = check();
        let columns = self.instance.kept("evaluate", columns)?;
        Ok(OutputRows { columns, groups: output.groups })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<()> {
        self.instance.ask("reset", |guest, store| guest.call_reset(store, groups))
    }

    fn size(&mut self) -> Result<u64> {
        self.instance.call("size", |guest, store| guest.call_size(store))
    }

    fn migrate(&mut self, origin: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>> {
        let rows = state.first().map_or(0, |column| column.len());
        if let Some(column) = state.iter().find(|column| column.len() != rows) {
            let message = format!("the host has a state column of {} rows beside one of {rows}", column.len());
            return self.instance.kept("migrate", Err(message));
        }
        let mut parts = Vec::new();
        let mut at = 0;
        loop {
            let length = MIGRATE_ROWS_MAX.min(rows - at);
            let part: Vec<ArrayRef> = state.iter().map(|column| column.slice(at, length)).collect();
            let Some(migrated) = self.migrate_part(origin, &part, length)? else { return Ok(None) };
            parts.push(migrated);
            at += length;
            if at == rows {
                break;
            }
        }
        self.instance.kept("migrate", joined(parts)).map(Some)
    }

    fn take_counters(&mut self) -> Vec<(String, u64)> {
        self.instance.take_counters()
    }

    fn memory_bytes(&self) -> u64 {
        self.instance.memory_bytes()
    }
}
