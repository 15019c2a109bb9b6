//! A native plugin whose instances die: of a poisoned row always, and now and then of something that no row is to blame for.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use millrace_core::limits::REBUILD_BYTES_MIN;
use millrace_core::schema::Schema;

use super::process::{INJECTED, Process};
use crate::plugin::{
    Aggregator, AggregatorFactory, Info, OutputRows, PluginError, Rejected, Result, Signature, StateChunk, StateOrigin,
    WindowUs,
};

pub const POISON: &str = "poison";

pub struct FragileFactory<F> {
    pub inner: F,
    pub process: Arc<Process>,
    /// none: as the process has it
    pub falls_percent: Option<usize>,
}

struct Fragile {
    inner: Box<dyn Aggregator>,
    process: Arc<Process>,
    falls_percent: usize,
    dead: bool,
    calls: u64,
}

impl<F: AggregatorFactory> AggregatorFactory for FragileFactory<F> {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn digest(&self) -> &str {
        self.inner.digest()
    }

    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Aggregator>> {
        let inner = self.inner.open(config, offered)?;
        let falls_percent = self.falls_percent.unwrap_or(self.process.life.plugin_falls_percent);
        Ok(Box::new(Fragile { inner, process: Arc::clone(&self.process), falls_percent, dead: false, calls: 0 }))
    }
}

impl Fragile {
    /// Whoever dies may have done its work, or a part of it.
    fn call<T>(
        &mut self,
        call: &'static str,
        poisoned: bool,
        work: impl FnOnce(&mut dyn Aggregator) -> Result<T>,
    ) -> Result<T> {
        assert!(!self.dead, "a dead instance was called: {call}");
        self.calls += 1;
        let (falls, works_first) = self.process.draw(|random| (random.percent(self.falls_percent), random.percent(50)));
        if !falls && !poisoned {
            return work(&mut *self.inner);
        }
        self.dead = true;
        if works_first {
            work(&mut *self.inner)?;
        }
        let message = format!("{INJECTED}: {}", if poisoned { POISON } else { "out of memory" });
        Err(PluginError::Trap {
            plugin: "ledger".into(),
            call,
            message,
            guest_log: Vec::new(),
            out_of_memory: !poisoned,
        })
    }
}

impl Aggregator for Fragile {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total_groups: u32) -> Result<Vec<Rejected>> {
        let kind = self.signature().input.iter().position(|w| w.field.name == "kind");
        let kinds = kind.and_then(|i| columns[i].as_ref()).map(|c| c.as_string::<i32>());
        let poisoned = kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == Some(POISON)));
        self.call("update", poisoned, |inner| inner.update(columns, groups, total_groups))
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()> {
        self.call("combine", false, |inner| inner.combine(sources, targets))
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total_groups: u32) -> Result<()> {
        self.call("merge", false, |inner| inner.merge(state, groups, total_groups))
    }

    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk> {
        self.call("state", false, |inner| inner.state(groups, cursor, max_bytes))
    }

    fn evaluate(&mut self, groups: &[u32], windows: &[WindowUs], is_final: bool) -> Result<OutputRows> {
        self.call("evaluate", false, |inner| inner.evaluate(groups, windows, is_final))
    }

    fn reset(&mut self, groups: &[u32]) -> Result<()> {
        self.call("reset", false, |inner| inner.reset(groups))
    }

    fn size(&mut self) -> Result<u64> {
        self.call("size", false, |inner| inner.size())
    }

    fn migrate(&mut self, origin: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>> {
        self.call("migrate", false, |inner| inner.migrate(origin, state))
    }

    /// Grows with every call, so that instances are rebuilt at checkpoints.
    fn memory_bytes(&self) -> u64 {
        if self.process.life.plugin_leaks { self.calls * REBUILD_BYTES_MIN } else { 0 }
    }
}
