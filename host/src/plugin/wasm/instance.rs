//! What the kinds of plugins share: a compiled component that makes instances, an instance with the rule that nothing is
//! called after a failure, and every failure in the words of the person who has to do something about it.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Instance as ComponentInstance, InstancePre, Linker, ResourceTableError};
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::plugin::artifact::{Artifact, Kind};
use crate::plugin::bindings::{aggregation, host, join, transform, types};
use crate::plugin::engine::{PluginEngine, deadline_ticks};
use crate::plugin::limits::{PluginLimits, TEXT_BYTES_MAX, WASI_HANDLES_MAX, cut};
use crate::plugin::store::{HostState, LimitReached};
use crate::plugin::{Info, PluginError, Result, wasi};

/// One kind's exports in a component: found once, loaded for each instance.
pub(super) trait Exports: Sized + Send + Sync + 'static {
    const KIND: Kind;
    /// the exported functions of one instance
    type Guest: Send;

    fn find(pre: &InstancePre<HostState>) -> wasmtime::Result<Self>;
    fn load(&self, store: &mut Store<HostState>, instance: &ComponentInstance) -> wasmtime::Result<Self::Guest>;
    fn info(guest: &Self::Guest, store: &mut Store<HostState>) -> wasmtime::Result<types::PluginInfo>;
}

/// The generated bindings have the same shape for each kind, and no trait that says so.
macro_rules! exports {
    ($($module:ident: $kind:expr,)*) => {$(
        impl Exports for $module::GuestIndices {
            const KIND: Kind = $kind;
            type Guest = $module::Guest;

            fn find(pre: &InstancePre<HostState>) -> wasmtime::Result<Self> {
                Self::new(pre)
            }

            fn load(&self, store: &mut Store<HostState>, instance: &ComponentInstance) -> wasmtime::Result<Self::Guest> {
                Self::load(self, store, instance)
            }

            fn info(guest: &Self::Guest, store: &mut Store<HostState>) -> wasmtime::Result<types::PluginInfo> {
                guest.call_info(store)
            }
        }
    )*};
}

exports! {
    aggregation: Kind::Aggregation,
    transform: Kind::Transform,
    join: Kind::Join,
}

/// A compiled plugin under one set of limits: makes instances.
pub(super) struct Prepared<E> {
    name: String,
    digest: String,
    info: Info,
    /// kept for its ticker: without it no deadline would ever end
    engine: Arc<PluginEngine>,
    pre: InstancePre<HostState>,
    exports: E,
    limits: PluginLimits,
}

impl<E: Exports> Prepared<E> {
    /// Compiles (or takes from the cache), links, and asks the plugin for its name and version. `name` is the plugin's
    /// name in the pipeline file; errors carry it.
    pub(super) fn new(
        engine: &Arc<PluginEngine>,
        name: &str,
        artifact: &Artifact,
        limits: PluginLimits,
    ) -> Result<Self> {
        let load = |message: String| PluginError::Load { plugin: format!("`{name}`"), message };
        if artifact.kind() != E::KIND {
            let (is, wanted) = (artifact.kind().with_article(), E::KIND.with_article());
            return Err(load(format!("is {is} plugin, {wanted} plugin is needed here")));
        }
        let component = engine.compile(artifact)?;
        let link = || -> wasmtime::Result<_> {
            let mut linker = Linker::new(engine.engine());
            host::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)?;
            wasi::add_to_linker(&mut linker, limits.capabilities)?;
            wasi::trap_on_the_rest(&mut linker, &component)?;
            let pre = linker.instantiate_pre(&component)?;
            let exports = E::find(&pre)?;
            Ok((pre, exports))
        };
        let (pre, exports) = link().map_err(|e| load(format!("does not fit this host's interface: {e:#}")))?;
        let mut prepared = Self {
            name: name.to_owned(),
            digest: artifact.digest().to_owned(),
            info: Info { name: String::new(), version: String::new(), config_schema: String::new() },
            engine: Arc::clone(engine),
            pre,
            exports,
            limits,
        };
        let info = prepared.instantiate()?.call_at_startup("info", E::info)?;
        if info.name.is_empty() || info.version.is_empty() {
            return Err(load("does not say its name and version in `info`".to_owned()));
        }
        prepared.info = Info {
            name: cut(info.name, TEXT_BYTES_MAX),
            version: cut(info.version, TEXT_BYTES_MAX),
            config_schema: info.config_schema,
        };
        Ok(prepared)
    }

    pub(super) fn info(&self) -> &Info {
        &self.info
    }

    pub(super) fn limits(&self) -> PluginLimits {
        self.limits.clone()
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn instantiate(&self) -> Result<Instance<E::Guest>> {
        let mut store = Store::new(self.engine.engine(), HostState::new(&self.name, &self.limits));
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(self.limits.result_bytes_max);
        store.set_max_component_handles(WASI_HANDLES_MAX);
        store.set_epoch_deadline(deadline_ticks(self.limits.startup_deadline));
        let instantiated = self.pre.instantiate(&mut store);
        match instantiated.and_then(|instance| self.exports.load(&mut store, &instance)) {
            Ok(guest) => Ok(Instance {
                name: self.name.clone(),
                limits: self.limits.clone(),
                store,
                guest,
                failed_in: None,
                _engine: Arc::clone(&self.engine),
            }),
            Err(e) => Err(trap(&self.name, "instantiate", &e, &store, &self.limits, self.limits.startup_deadline)),
        }
    }
}

/// One store with one running component.
pub(super) struct Instance<G> {
    name: String,
    limits: PluginLimits,
    store: Store<HostState>,
    guest: G,
    failed_in: Option<&'static str>,
    /// an engine without its ticker would let a loop run for ever
    _engine: Arc<PluginEngine>,
}

impl<G> Instance<G> {
    /// A call whose answer cannot be an error of the guest's own.
    pub(super) fn call<T>(
        &mut self,
        call: &'static str,
        run: impl FnOnce(&G, &mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T> {
        self.call_within(self.limits.deadline, call, run)
    }

    pub(super) fn call_at_startup<T>(
        &mut self,
        call: &'static str,
        run: impl FnOnce(&G, &mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T> {
        self.call_within(self.limits.startup_deadline, call, run)
    }

    /// A call that the guest may refuse.
    pub(super) fn ask<T>(
        &mut self,
        call: &'static str,
        run: impl FnOnce(&G, &mut Store<HostState>) -> wasmtime::Result<std::result::Result<T, types::Error>>,
    ) -> Result<T> {
        self.call(call, run)?.map_err(|e| self.refusal(call, e))
    }

    pub(super) fn ask_at_startup<T>(
        &mut self,
        call: &'static str,
        run: impl FnOnce(&G, &mut Store<HostState>) -> wasmtime::Result<std::result::Result<T, types::Error>>,
    ) -> Result<T> {
        self.call_at_startup(call, run)?.map_err(|e| self.refusal(call, e))
    }

    fn call_within<T>(
        &mut self,
        deadline: Duration,
        call: &'static str,
        run: impl FnOnce(&G, &mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T> {
        if let Some(failed_in) = self.failed_in {
            return Err(PluginError::Trap {
                plugin: self.name.clone(),
                call,
                message: format!("this instance failed before, in `{failed_in}`; it must be replaced by a new one"),
                guest_log: self.store.data().guest_log().last(),
                out_of_memory: false,
            });
        }
        self.store.set_epoch_deadline(deadline_ticks(deadline));
        run(&self.guest, &mut self.store).map_err(|e| {
            self.failed_in = Some(call);
            trap(&self.name, call, &e, &self.store, &self.limits, deadline)
        })
    }

    /// The guest answered with an error of its own. Configuration and input are settled once it is open.
    fn refusal(&mut self, call: &'static str, error: types::Error) -> PluginError {
        self.failed_in = Some(call);
        let plugin = self.name.clone();
        let refused =
            |what, text| PluginError::Refused { plugin: self.name.clone(), what, message: cut(text, TEXT_BYTES_MAX) };
        match error {
            types::Error::Config(text) if call == "open" => refused("its configuration", text),
            types::Error::Input(text) if call == "open" => refused("its input", text),
            types::Error::Config(text) | types::Error::Input(text) | types::Error::Internal(text) => {
                PluginError::Trap {
                    plugin,
                    call,
                    message: cut(text, TEXT_BYTES_MAX),
                    guest_log: self.store.data().guest_log().last(),
                    out_of_memory: false,
                }
            }
        }
    }

    /// The contract between host and guest is broken: by what the guest returned, or by what the host wanted to send.
    pub(super) fn kept<T>(&mut self, call: &'static str, checked: std::result::Result<T, String>) -> Result<T> {
        checked.map_err(|message| {
            self.failed_in = Some(call);
            PluginError::Contract { plugin: self.name.clone(), call, message: cut(message, TEXT_BYTES_MAX) }
        })
    }

    pub(super) fn take_counters(&mut self) -> Vec<(String, u64)> {
        self.store.data_mut().counters.take()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.store.data().meter.memory_bytes()
    }
}

fn trap(
    plugin: &str,
    call: &'static str,
    error: &wasmtime::Error,
    store: &Store<HostState>,
    limits: &PluginLimits,
    deadline: Duration,
) -> PluginError {
    let mut log = store.data().guest_log();
    log.end_lines();
    tracing::debug!(plugin, call, "plugin failed: {error:?}");
    let mut message = explained(error, limits, deadline);
    if let Some(last) = log.last_error() {
        message = format!("{message}; its last words: {last}");
    }
    let out_of_memory = matches!(error.downcast_ref(), Some(LimitReached::Memory { .. }));
    PluginError::Trap { plugin: plugin.to_owned(), call, message, guest_log: log.last(), out_of_memory }
}

/// What the guest did and, where there is a limit to raise, which.
fn explained(error: &wasmtime::Error, limits: &PluginLimits, deadline: Duration) -> String {
    if let Some(limit) = error.downcast_ref::<LimitReached>() {
        return limit.to_string();
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("it ended its program (exit code {code}) instead of returning");
    }
    // The types of these errors are private to wasmtime.
    let root = error.root_cause().to_string();
    if root.contains("fuel allocated for hostcalls") {
        let limit = limits.result_bytes_max;
        return format!("it returned more than the {limit} bytes that one call may return (`result_size` raises it)");
    }
    let table_full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
    if table_full || root.contains("store handle limit exceeded") {
        return format!("it holds {WASI_HANDLES_MAX} WASI handles and wants more: it does not drop those it has used");
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => {
            let key = if deadline == limits.deadline { "deadline" } else { "startup_deadline" };
            format!("it ran past its deadline of {deadline:?} (`{key}` raises it)")
        }
        Some(Trap::StackOverflow) => "its call stack is exhausted (endless recursion?)".to_owned(),
        // Compiled languages keep arrays on a stack of their own, at the bottom of linear memory.
        Some(Trap::MemoryOutOfBounds) => {
            format!("{} (a call stack that overflows looks like this, too)", Trap::MemoryOutOfBounds)
        }
        Some(trap) => trap.to_string(),
        // Without the stack of the guest, which `tracing::debug` has.
        None => root,
    }
}
