//! Plugins of the Rust SDK run natively: the same logic without the sandbox.
//!
//! Aggregations are here, transforms in [`transform`]. Serves tests and benchmarks, which run on this and on
//! [`super::wasm`] alike; a pipeline never uses it.

use std::marker::PhantomData;

use arrow_array::ArrayRef;
use millrace_core::schema::Schema;
use millrace_plugin::aggregation::{Accumulator, Origin, Plugin, Window};
use millrace_plugin::column::{ColumnRef, Error, Field as SdkField};
use millrace_plugin::plugin::{Info as SdkInfo, Rejected as SdkRejected};
use millrace_plugin::prelude::Timestamptz;

use super::{
    Aggregator, AggregatorFactory, Info, OutputRows, PluginError, Rejected, Result, Signature, StateChunk, StateOrigin,
    WindowUs,
};

mod columns;
mod transform;

use columns::{borrowed, columns_out, field_in, schema_out, wanted_out};
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
        let signature = Signature {
            input: wanted_out(signature.input),
            state: schema_out(signature.state),
            output: schema_out(signature.output),
            ordered: signature.ordered,
        };
        Ok(Box::new(Native { plugin, accumulator, signature }))
    }
}

struct Native<A> {
    plugin: String,
    accumulator: A,
    signature: Signature,
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
        Ok(self.accumulator.takes(&origin).then(|| state.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::{Float64Array, Int64Array, StringArray, types};
    use campaign_metrics::Campaign;
    use millrace_core::schema::{DataType, Field};

    fn open() -> Box<dyn Aggregator> {
        let factory = NativeFactory::<Campaign>::new("campaign-metrics");
        let offered = Schema::new(vec![
            Field::new("user_id", DataType::String, false),
            Field::new("event_type", DataType::String, false),
            Field::new("revenue", DataType::Double, true),
        ]);
        factory.open("{}", &offered).unwrap()
    }

    fn event_columns() -> Vec<Option<ArrayRef>> {
        let kinds = StringArray::from(vec!["click", "impression", "view", "impression", "conversion"]);
        let users = StringArray::from(vec!["x", "ada", "ada", "bob", "ada"]);
        let revenue = Float64Array::from(vec![None, None, Some(100.0), None, Some(2.5)]);
        vec![Some(Arc::new(kinds)), Some(Arc::new(users)), Some(Arc::new(revenue))]
    }

    #[test]
    fn arrow_goes_in_and_comes_out_sliced_and_in_chunks() {
        let mut plugin = open();
        let names: Vec<String> = plugin.signature().state.fields.iter().map(Field::to_string).collect();
        assert_eq!(names[3..], ["revenue: double", "users.values: list<string>?", "users.sketch: binary?"]);
        // sliced: the offsets and the bitmap no longer begin at the beginning
        let columns: Vec<_> = event_columns().into_iter().map(|c| c.map(|c| c.slice(1, 4))).collect();
        let rejected = plugin.update(&columns, &[0, 0, 0, 0], 2).unwrap();
        assert_eq!(rejected, [Rejected { row: 1, reason: "unknown event_type \"view\"".into() }]);
        let mut fresh = open();
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let chunk = plugin.state(&[0, 1], at, 1).unwrap();
            for (column, field) in chunk.columns.iter().zip(&plugin.signature().state.fields) {
                assert_eq!(column.data_type(), &field.data_type.to_arrow());
            }
            fresh.merge(&chunk.columns, &chunk.groups, 2).unwrap();
            cursor = chunk.next;
        }
        let window = WindowUs { start: 0, end: 1 };
        for plugin in [&mut plugin, &mut fresh] {
            let out = plugin.evaluate(&[0, 1], &[window, window], true).unwrap();
            let longs = |i: usize| out.columns[i].as_primitive::<types::Int64Type>().clone();
            assert_eq!(longs(0), Int64Array::from(vec![2, 0]));
            assert_eq!(longs(4), Int64Array::from(vec![2, 0]));
            assert_eq!(out.columns[3].as_primitive::<types::Float64Type>(), &Float64Array::from(vec![2.5, 0.0]));
            assert_eq!(out.columns[5].as_primitive::<types::Float64Type>(), &Float64Array::from(vec![Some(0.0), None]));
        }
    }

    #[test]
    fn a_refusal_says_what_was_refused() {
        let factory = NativeFactory::<Campaign>::new("campaign-metrics");
        let error = factory.open(r#"{"unique_users": 1}"#, &Schema::default()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "plugin `campaign-metrics` refused its configuration: option `unique_users`: \"exact\" or \"hll\" is wanted, found 1"
        );
        let error = factory.open("", &Schema::default()).err().unwrap();
        assert!(error.to_string().contains("column `event_type` (string) is missing"), "{error}");
    }
}
