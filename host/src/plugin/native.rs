//! Plugins of the Rust SDK run natively: the same logic without the sandbox.
//!
//! Aggregations are here, transforms in [`transform`], joins in [`join`]. Serves tests and benchmarks, which run on this and on
//! [`super::wasm`] alike; a pipeline never uses it.

use std::marker::PhantomData;

use arrow_array::ArrayRef;
use millrace_core::schema::Schema;
use millrace_plugin::aggregation::{Accumulator, Origin, Plugin, Window};
use millrace_plugin::column::{ColumnRef, Error, Field as SdkField};
use millrace_plugin::migrate::Own;
use millrace_plugin::plugin::{Info as SdkInfo, Rejected as SdkRejected};
use millrace_plugin::prelude::Timestamptz;

use super::{
    Aggregator, AggregatorFactory, Info, OutputRows, PluginError, Rejected, Result, Signature, StateChunk, StateOrigin,
    WindowUs,
};

mod columns;
mod join;
#[cfg(test)]
mod tests;
mod transform;

use columns::{borrowed, columns_out, field_in, schema_out, wanted_out};
pub use join::NativeJoinFactory;
pub use transform::NativeTransformFactory;

fn info_out(info: SdkInfo) -> Info {
    Info { name: info.name, version: info.version, config_schema: info.config_schema }
}

fn rejected_out(rejected: Vec<SdkRejected>) -> Vec<Rejected> {
    rejected.into_iter().map(|r| Rejected { row: r.row, reason: r.reason }).collect()
}

fn fields_in(schema: &Schema) -> Vec<SdkField> {
    schema.fields.iter().map(field_in).collect()
}

fn refused(plugin: &str, error: &Error) -> PluginError {
    PluginError::Refused {
        plugin: plugin.to_owned(),
        what: if matches!(error, Error::Config(_)) { "its configuration" } else { "its input" },
        message: error.to_string(),
    }
}

fn broke(plugin: &str, call: &'static str, message: impl ToString) -> PluginError {
    PluginError::Contract { plugin: plugin.to_owned(), call, message: message.to_string() }
}

/// Makes native instances of the plugin `P`.
pub struct NativeFactory<P> {
    info: Info,
    digest: String,
    plugin: PhantomData<fn() -> P>,
}

impl<P: Plugin> NativeFactory<P> {
    /// `name` tells it apart from components, in place of a digest.
    pub fn new(name: &str) -> Self {
        Self { info: info_out(P::Accumulator::info()), digest: format!("native:{name}"), plugin: PhantomData }
    }
}

impl<P: Plugin> AggregatorFactory for NativeFactory<P> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Aggregator>> {
        let plugin = self.info.name.clone();
        let accumulator = P::Accumulator::open(config, &fields_in(offered)).map_err(|e| refused(&plugin, &e))?;
        let signature = accumulator.signature();
        let own = Own::new(P::Accumulator::info(), config, signature.state.clone());
        let signature = Signature {
            input: wanted_out(signature.input),
            state: schema_out(signature.state),
            output: schema_out(signature.output),
            ordered: signature.ordered,
        };
        Ok(Box::new(Native { plugin, accumulator, signature, own }))
    }
}

struct Native<A> {
    plugin: String,
    accumulator: A,
    signature: Signature,
    own: Own,
}

impl<A> Native<A> {
    fn broke(&self, call: &'static str, message: impl ToString) -> PluginError {
        broke(&self.plugin, call, message)
    }
}

impl<A: Accumulator> Aggregator for Native<A> {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total_groups: u32) -> Result<Vec<Rejected>> {
        let update = |columns: &[ColumnRef<'_>]| self.accumulator.update(columns, groups, total_groups);
        let rejected =
            borrowed(columns.iter().map(Option::as_ref), update).map_err(|e| broke(&self.plugin, "update", e))?;
        rejected.map(rejected_out).map_err(|e| self.broke("update", e))
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()> {
        self.accumulator.combine(sources, targets).map_err(|e| self.broke("combine", e))
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total_groups: u32) -> Result<()> {
        let merge = |columns: &[ColumnRef<'_>]| self.accumulator.merge(columns, groups, total_groups);
        let merged = borrowed(state.iter().map(Some), merge).map_err(|e| broke(&self.plugin, "merge", e))?;
        merged.map_err(|e| self.broke("merge", e))
    }

    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk> {
        let chunk = self.accumulator.state(groups, cursor, max_bytes).map_err(|e| self.broke("state", e))?;
        let columns = columns_out(chunk.columns, &self.signature.state).map_err(|e| self.broke("state", e))?;
        Ok(StateChunk { columns, groups: chunk.groups, next: chunk.next })
    }

    fn evaluate(&mut self, groups: &[u32], windows: &[WindowUs], is_final: bool) -> Result<OutputRows> {
        let windows: Vec<Window> =
            windows.iter().map(|w| Window { start: Timestamptz(w.start), end: Timestamptz(w.end), is_final }).collect();
        let rows = self.accumulator.evaluate(groups, &windows).map_err(|e| self.broke("evaluate", e))?;
        let columns = columns_out(rows.columns, &self.signature.output).map_err(|e| self.broke("evaluate", e))?;
        Ok(OutputRows { columns, groups: rows.groups })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<()> {
        self.accumulator.reset(groups).map_err(|e| self.broke("reset", e))
    }

    fn size(&mut self) -> Result<u64> {
        Ok(self.accumulator.size())
    }

    fn migrate(&mut self, origin: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>> {
        let origin = Origin {
            name: origin.name.clone(),
            version: origin.version.clone(),
            config: origin.config.clone(),
            state: fields_in(&origin.state),
        };
        if self.own.is(&origin) {
            return Ok(Some(state.to_vec()));
        }
        let migrate = |columns: &[ColumnRef<'_>]| self.accumulator.migrate(&origin, columns);
        let migrated = borrowed(state.iter().map(Some), migrate).map_err(|e| broke(&self.plugin, "migrate", e))?;
        match migrated.map_err(|e| self.broke("migrate", e))? {
            Some(columns) => {
                columns_out(columns, &self.signature.state).map(Some).map_err(|e| self.broke("migrate", e))
            }
            None => Ok(None),
        }
    }
}
