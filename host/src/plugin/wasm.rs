//! Aggregation plugins as WebAssembly components.
//!
//! Owns the running instances: one `Store` each, with its own memory, limits and deadline, thrown away after the first
//! failure (a trap poisons the whole store). Compiling is [`super::engine`]'s part, translating columns
//! [`super::arrow`]'s, and what a guest may call is in [`super::store`]. Nothing a guest returns leaves here unchecked.
//!
//! ```text
//! Artifact ──compile──▶ WasmFactory (InstancePre, Info) ──open──▶ WasmAggregator (Store, instance, Signature)
//!                          ▲                                          │ trap, deadline, contract broken
//!                          └────────── a fresh instance ◀─────────────┘ the store is dropped
//! ```

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Array as _, ArrayRef};
use millrace_core::schema::{Field, Schema};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Store, Trap};

use super::arrow::lift::lift_all;
use super::arrow::lower::{Lowered, lower};
use super::artifact::{Artifact, Kind, is_wasi_0_2};
use super::bindings::types::Encoding;
use super::bindings::{self, AggregationPlugin, AggregationPluginPre, aggregation, types};
use super::engine::{PluginEngine, deadline_ticks};
use super::limits::{PluginLimits, TEXT_BYTES_MAX, cut};
use super::store::{HostState, LimitReached};
use super::{
    Aggregator, AggregatorFactory, Info, OutputRows, PluginError, Rejected, Result, Signature, StateChunk, StateOrigin,
    Wanted, WindowUs,
};

#[cfg(test)]
pub(crate) mod tests;

/// A compiled aggregation plugin under one set of limits.
pub struct WasmFactory {
    name: String,
    digest: String,
    info: Info,
    /// kept for its ticker: without it no deadline would ever end
    engine: Arc<PluginEngine>,
    pre: AggregationPluginPre<HostState>,
    limits: PluginLimits,
}

impl WasmFactory {
    /// Compiles (or takes from the cache), links, and asks the plugin for its name and version. `name` is the plugin's
    /// name in the pipeline file; errors carry it.
    pub fn new(engine: &Arc<PluginEngine>, name: &str, artifact: &Artifact, limits: PluginLimits) -> Result<Self> {
        let load = |message: String| PluginError::Load { plugin: format!("`{name}`"), message };
        if artifact.kind() != Kind::Aggregation {
            let kind = artifact.kind().name();
            return Err(load(format!("is a {kind} plugin, an aggregation needs an aggregation plugin")));
        }
        let component = engine.compile(artifact)?;
        let link = || -> wasmtime::Result<_> {
            let mut linker = Linker::new(engine.engine());
            AggregationPlugin::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)?;
            // Only `wasi:` 0.2 imports are left: the artifact was refused otherwise. Calling one traps.
            linker.define_unknown_imports_as_traps(&component)?;
            AggregationPluginPre::new(linker.instantiate_pre(&component)?)
        };
        let pre = link().map_err(|e| load(format!("does not fit this host's interface: {e:#}")))?;
        let mut factory = Self {
            name: name.to_owned(),
            digest: artifact.digest().to_owned(),
            info: Info { name: String::new(), version: String::new(), config_schema: String::new() },
            engine: Arc::clone(engine),
            pre,
            limits,
        };
        let info = factory
            .instantiate()?
            .call_within(factory.limits.startup_deadline, "info", |guest, store| guest.call_info(store))?;
        if info.name.is_empty() || info.version.is_empty() {
            return Err(load("does not say its name and version in `info`".to_owned()));
        }
        factory.info = Info { name: info.name, version: info.version, config_schema: info.config_schema };
        Ok(factory)
    }

    fn instantiate(&self) -> Result<Instance> {
        let mut store = Store::new(self.engine.engine(), HostState::new(&self.name, self.limits.memory_bytes));
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(self.limits.result_bytes_max);
        store.set_epoch_deadline(deadline_ticks(self.limits.startup_deadline));
        match self.pre.instantiate(&mut store) {
            Ok(plugin) => Ok(Instance {
                name: self.name.clone(),
                limits: self.limits.clone(),
                store,
                plugin,
                failed_in: None,
                _engine: Arc::clone(&self.engine),
            }),
            Err(e) => Err(trap(&self.name, "instantiate", &e, &store, &self.limits, self.limits.startup_deadline)),
        }
    }
}

impl AggregatorFactory for WasmFactory {
    fn info(&self) -> &Info {
        &self.info
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Aggregator>> {
        let mut instance = self.instantiate()?;
        let offered = bindings::fields_to_wit(offered);
        let deadline = self.limits.startup_deadline;
        let answer = instance.call_within(deadline, "open", |guest, store| guest.call_open(store, config, &offered))?;
        let wit = answer.map_err(|e| instance.refusal("open", e))?;
        let encodings = wit.input.iter().map(|w| w.encoding).collect();
        let signature = signature(wit).map_err(|message| instance.broken("open", message))?;
        Ok(Box::new(WasmAggregator { instance, signature, encodings }))
    }

    fn limits(&self) -> PluginLimits {
        self.limits.clone()
    }
}

/// What `plugin inspect` shows.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub info: Info,
    pub kind: Kind,
    pub digest: String,
    pub size_bytes: usize,
    pub was_core_module: bool,
    pub imports: Vec<String>,
    /// those of the imports that are linked but do nothing
    pub inert: Vec<String>,
    pub exports: Vec<String>,
    /// the interface release that it was built against
    pub wit_version: &'static str,
}

/// Loads the plugin far enough to hear its name and version.
pub fn inspect(engine: &Arc<PluginEngine>, artifact: &Artifact) -> Result<Inspection> {
    let factory = WasmFactory::new(engine, artifact.name(), artifact, PluginLimits::default())?;
    Ok(Inspection {
        info: factory.info,
        kind: artifact.kind(),
        digest: artifact.digest().to_owned(),
        size_bytes: artifact.size_bytes(),
        was_core_module: artifact.was_core_module(),
        imports: artifact.imports().to_vec(),
        inert: artifact.imports().iter().filter(|i| is_wasi_0_2(i)).cloned().collect(),
        exports: artifact.exports().to_vec(),
        wit_version: artifact.kind().wit_version(),
    })
}

/// One store with one running component, and the rule that nothing is called after a failure.
struct Instance {
    name: String,
    limits: PluginLimits,
    store: Store<HostState>,
    plugin: AggregationPlugin,
    failed_in: Option<&'static str>,
    /// an engine without its ticker would let a loop run for ever
    _engine: Arc<PluginEngine>,
}

impl Instance {
    fn call<T>(
        &mut self,
        call: &'static str,
        run: impl FnOnce(&aggregation::Guest, &mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T> {
        self.call_within(self.limits.deadline, call, run)
    }

    fn call_within<T>(
        &mut self,
        deadline: Duration,
        call: &'static str,
        run: impl FnOnce(&aggregation::Guest, &mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T> {
        if let Some(failed_in) = self.failed_in {
            return Err(PluginError::Trap {
                plugin: self.name.clone(),
                call,
                message: format!("this instance failed before, in `{failed_in}`; it must be replaced by a new one"),
                guest_log: self.store.data().log.last(),
                out_of_memory: false,
            });
        }
        self.store.set_epoch_deadline(deadline_ticks(deadline));
        run(self.plugin.millrace_aggregation_aggregation(), &mut self.store).map_err(|e| {
            self.failed_in = Some(call);
            trap(&self.name, call, &e, &self.store, &self.limits, deadline)
        })
    }

    /// The guest answered with an error of its own.
    fn refusal(&mut self, call: &'static str, error: types::Error) -> PluginError {
        self.failed_in = Some(call);
        let plugin = self.name.clone();
        let refused =
            |what, text| PluginError::Refused { plugin: self.name.clone(), what, message: cut(text, TEXT_BYTES_MAX) };
        match error {
            types::Error::Config(text) => refused("its configuration", text),
            types::Error::Input(text) => refused("its input", text),
            types::Error::Internal(text) => PluginError::Trap {
                plugin,
                call,
                message: cut(text, TEXT_BYTES_MAX),
                guest_log: self.store.data().log.last(),
                out_of_memory: false,
            },
        }
    }

    fn broken(&mut self, call: &'static str, message: String) -> PluginError {
        self.failed_in = Some(call);
        PluginError::Contract { plugin: self.name.clone(), call, message: cut(message, TEXT_BYTES_MAX) }
    }
}

/// A failure in the words of the person who has to do something about it.
fn trap(
    plugin: &str,
    call: &'static str,
    error: &wasmtime::Error,
    store: &Store<HostState>,
    limits: &PluginLimits,
    deadline: Duration,
) -> PluginError {
    let log = &store.data().log;
    tracing::debug!(plugin, call, "plugin failed: {error:?}");
    let limit = error.downcast_ref::<LimitReached>();
    let mut message = if let Some(limit) = limit {
        limit.to_string()
    } else {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => format!("it ran past its deadline of {deadline:?}"),
            Some(Trap::StackOverflow) => "its call stack is exhausted (endless recursion?)".to_owned(),
            // Compiled languages keep arrays on a stack of their own, at the bottom of linear memory.
            Some(Trap::MemoryOutOfBounds) => {
                format!("{} (a call stack that overflows looks like this, too)", Trap::MemoryOutOfBounds)
            }
            Some(trap) => trap.to_string(),
            // The type of this error is private to wasmtime.
            None if error.root_cause().to_string().contains("fuel allocated for hostcalls") => {
                format!("it returned more than the {} bytes that one call may return", limits.result_bytes_max)
            }
            None => format!("{:#}", error),
        }
    };
    if let Some(last) = log.last_error() {
        message = format!("{message}; its last words: {last}");
    }
    let out_of_memory = matches!(limit, Some(LimitReached::Memory { .. }));
    PluginError::Trap { plugin: plugin.to_owned(), call, message, guest_log: log.last(), out_of_memory }
}

fn signature(wit: aggregation::Signature) -> std::result::Result<Signature, String> {
    let fields =
        |fields: Vec<types::FieldResult>| Schema::new(fields.into_iter().map(bindings::field_from_wit).collect());
    let wanted = |w: types::Wanted| Wanted {
        field: bindings::field_from_wit(w.field),
        dictionary: w.encoding != Encoding::Plain,
        optional: w.optional,
    };
    let input: Vec<_> = wit.input.into_iter().map(wanted).collect();
    let signature = Signature { input, state: fields(wit.state), output: fields(wit.output), ordered: wit.ordered };
    bindings::check_fields("input", signature.input.iter().map(|w| &w.field))?;
    bindings::check_fields("state", signature.state.fields.iter())?;
    bindings::check_fields("output", signature.output.fields.iter())?;
    Ok(signature)
}

/// One running instance.
pub struct WasmAggregator {
    instance: Instance,
    signature: Signature,
    encodings: Vec<Encoding>,
}

impl WasmAggregator {
    /// State columns, borrowed for a call.
    fn lower_state<'a>(
        instance: &mut Instance,
        call: &'static str,
        columns: &'a [ArrayRef],
        fields: &[Field],
        rows: usize,
    ) -> Result<Vec<Lowered<'a>>> {
        let lowered = lower_fields(columns, fields, rows);
        lowered.map_err(|message| instance.broken(call, message))
    }
}

fn lower_fields<'a>(
    columns: &'a [ArrayRef],
    fields: &[Field],
    rows: usize,
) -> std::result::Result<Vec<Lowered<'a>>, String> {
    if columns.len() != fields.len() {
        return Err(format!("the host has {} state columns, the plugin {}", columns.len(), fields.len()));
    }
    columns.iter().zip(fields).map(|(column, field)| lower_one(column, field, rows, Encoding::Plain)).collect()
}

fn lower_one<'a>(
    column: &'a ArrayRef,
    field: &Field,
    rows: usize,
    encoding: Encoding,
) -> std::result::Result<Lowered<'a>, String> {
    if column.len() != rows {
        return Err(format!("column `{}` has {} rows, the call has {rows}", field.name, column.len()));
    }
    if !field.nullable && column.logical_null_count() > 0 {
        return Err(format!("column `{}` has nulls, the plugin was promised none", field.name));
    }
    lower(column, field.data_type, encoding).map_err(|e| format!("column `{}`: {e}", field.name))
}

fn lower_wanted<'a>(
    column: &'a Option<ArrayRef>,
    wanted: &Wanted,
    encoding: Encoding,
    rows: usize,
) -> std::result::Result<Lowered<'a>, String> {
    match column {
        Some(column) => lower_one(column, &wanted.field, rows, encoding),
        None if wanted.optional => Ok(Lowered::MISSING),
        None => Err(format!("column `{}` is missing, but not optional", wanted.field.name)),
    }
}

/// Every row belongs to a slot that exists.
fn check_slots(groups: &[u32], total_groups: u32) -> std::result::Result<(), String> {
    match groups.iter().find(|g| **g >= total_groups) {
        Some(group) => Err(format!("the host has a row for group {group} of {total_groups}")),
        None => Ok(()),
    }
}

/// The plugin may answer for the groups that it was asked for, no other.
fn check_answered(answered: &[u32], asked: &[u32]) -> std::result::Result<(), String> {
    // The common answer repeats the question.
    if answered == asked {
        return Ok(());
    }
    let known: std::collections::HashSet<_> = asked.iter().collect();
    match answered.iter().find(|g| !known.contains(g)) {
        Some(group) => Err(format!("returned a row for group {group}, which it was not asked for")),
        None => Ok(()),
    }
}

fn check_rejected(rejected: Vec<types::Rejected>, rows: usize) -> std::result::Result<Vec<Rejected>, String> {
    let mut seen = std::collections::HashSet::new();
    let mut checked = Vec::with_capacity(rejected.len().min(rows));
    for types::Rejected { row, reason } in rejected {
        if row as usize >= rows {
            return Err(format!("rejected row {row}, there are {rows}"));
        }
        if !seen.insert(row) {
            return Err(format!("rejected row {row} twice"));
        }
        checked.push(Rejected { row, reason: cut(reason, TEXT_BYTES_MAX) });
    }
    Ok(checked)
}

impl Aggregator for WasmAggregator {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total_groups: u32) -> Result<Vec<Rejected>> {
        let wanted = &self.signature.input;
        let prepare = || -> std::result::Result<Vec<_>, String> {
            if columns.len() != wanted.len() {
                return Err(format!("the host has {} columns, the plugin wants {}", columns.len(), wanted.len()));
            }
            check_slots(groups, total_groups)?;
            let columns = columns.iter().zip(wanted).zip(&self.encodings);
            columns.map(|((column, wanted), encoding)| lower_wanted(column, wanted, *encoding, groups.len())).collect()
        };
        let lowered = prepare().map_err(|message| self.instance.broken("update", message))?;
        let params: Vec<_> = lowered.iter().map(Lowered::param).collect();
        let rejected = self
            .instance
            .call("update", |guest, store| guest.call_update(store, &params, groups, total_groups))?
            .map_err(|e| self.instance.refusal("update", e))?;
        check_rejected(rejected, groups.len()).map_err(|message| self.instance.broken("update", message))
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()> {
        if sources.len() != targets.len() {
            let message = format!("the host has {} sources for {} targets", sources.len(), targets.len());
            return Err(self.instance.broken("combine", message));
        }
        self.instance
            .call("combine", |guest, store| guest.call_combine(store, sources, targets))?
            .map_err(|e| self.instance.refusal("combine", e))
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total_groups: u32) -> Result<()> {
        check_slots(groups, total_groups).map_err(|message| self.instance.broken("merge", message))?;
        let fields = &self.signature.state.fields;
        let lowered = Self::lower_state(&mut self.instance, "merge", state, fields, groups.len())?;
        let params: Vec<_> = lowered.iter().map(Lowered::param).collect();
        self.instance
            .call("merge", |guest, store| guest.call_merge(store, &params, groups, total_groups))?
            .map_err(|e| self.instance.refusal("merge", e))
    }

    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk> {
        let chunk = self
            .instance
            .call("state", |guest, store| guest.call_state(store, groups, cursor, max_bytes))?
            .map_err(|e| self.instance.refusal("state", e))?;
        let check = || {
            check_answered(&chunk.groups, groups)?;
            // A cursor that stands still would make the host ask for ever.
            if let Some(next) = chunk.next.filter(|next| *next <= cursor) {
                return Err(format!("the next cursor is {next}, after {cursor}: it must grow"));
            }
            lift_all(chunk.columns, &self.signature.state.fields, chunk.groups.len())
        };
        let columns = check().map_err(|message| self.instance.broken("state", message))?;
        Ok(StateChunk { columns, groups: chunk.groups, next: chunk.next })
    }

    fn evaluate(&mut self, groups: &[u32], windows: &[WindowUs], is_final: bool) -> Result<OutputRows> {
        if groups.len() != windows.len() {
            let message = format!("the host has {} windows for {} groups", windows.len(), groups.len());
            return Err(self.instance.broken("evaluate", message));
        }
        let windows: Vec<_> = windows.iter().map(|w| aggregation::Window { start: w.start, end: w.end }).collect();
        let output = self
            .instance
            .call("evaluate", |guest, store| guest.call_evaluate(store, groups, &windows, is_final))?
            .map_err(|e| self.instance.refusal("evaluate", e))?;
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
        let columns = check().map_err(|message| self.instance.broken("evaluate", message))?;
        Ok(OutputRows { columns, groups: output.groups })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<()> {
        self.instance
            .call("reset", |guest, store| guest.call_reset(store, groups))?
            .map_err(|e| self.instance.refusal("reset", e))
    }

    fn size(&mut self) -> Result<u64> {
        self.instance.call("size", |guest, store| guest.call_size(store))
    }

    fn migrate(&mut self, origin: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>> {
        let rows = state.first().map_or(0, |column| column.len());
        let lowered = Self::lower_state(&mut self.instance, "migrate", state, &origin.state.fields, rows)?;
        let params: Vec<_> = lowered.iter().map(Lowered::param).collect();
        let fields = bindings::fields_to_wit(&origin.state);
        let wit = aggregation::Origin {
            name: &origin.name,
            version: &origin.version,
            config: &origin.config,
            state: &fields,
        };
        let migrated = self
            .instance
            .call("migrate", |guest, store| guest.call_migrate(store, wit, &params))?
            .map_err(|e| self.instance.refusal("migrate", e))?;
        migrated
            .map(|columns| lift_all(columns, &self.signature.state.fields, rows))
            .transpose()
            .map_err(|message| self.instance.broken("migrate", message))
    }

    fn take_counters(&mut self) -> Vec<(String, u64)> {
        self.instance.store.data_mut().counters.take()
    }

    fn memory_bytes(&self) -> u64 {
        self.instance.store.data().meter.memory_bytes()
    }
}
