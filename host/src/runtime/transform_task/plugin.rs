//! The plugin of a transform task: columns in, columns out, and what happens when it fails.
//!
//! It keeps nothing between calls, so a dead instance is replaced by a fresh one and the batch is tried again: first in
//! halves, until the rows that kill it are alone; then all the others in one call. What blames a row and what does not is
//! the same as for aggregations (`bisect`), and so is the capture of the failed call (`recorder`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use millrace_core::schema::Schema;
use tracing::warn;

use crate::clock::thread_cpu_ns;
use crate::plugin::{PluginError, Rejected, Transformed, Transformer};
use crate::runtime::aggregate_task::InputColumn;
use crate::runtime::bisect::{guilty_rows, plugin_at_fault, take, take_input};
use crate::runtime::message::RunError;
use crate::runtime::recorder::{Failed, PlaceOf, Recorder, with_command};
use crate::runtime::stats::NodeStats;
use crate::runtime::status::PluginGauges;
use crate::runtime::versions::VersionId;
use crate::spec::columns;
use crate::spec::transforms::plugin_output;

/// Makes a fresh instance of the transform's plugin.
pub type OpenTransformer = Box<dyn Fn() -> Result<Box<dyn Transformer>, PluginError> + Send>;

/// The new rows, the row that each came from (none: row for row), and the rows that failed.
pub type Applied = (RecordBatch, Option<Vec<u32>>, Vec<(u32, String)>);

/// What a plugin has to know of the node that it is in.
#[derive(Clone)]
pub struct PluginNode {
    pub name: Arc<str>,
    /// what the plugin calls X is column Y here, on both sides
    pub columns: BTreeMap<String, String>,
    /// the columns that the steps before it give
    pub input: Schema,
    pub stats: Arc<NodeStats>,
    pub consecutive_limit: u64,
}

pub struct TransformPlugin {
    pub id: VersionId,
    node: Arc<str>,
    open: OpenTransformer,
    plugin: Box<dyn Transformer>,
    input: Vec<InputColumn>,
    /// the plugin's columns, then those of the input that it does not output
    output: SchemaRef,
    /// columns of the input that are appended
    appended: Vec<usize>,
    stats: Arc<NodeStats>,
    recorder: Option<Recorder>,
    consecutive_limit: u64,
    /// since the last call that went well at once
    failures: u64,
    strict: bool,
    gauges: Arc<PluginGauges>,
}

impl TransformPlugin {
    /// The version that runs when the run begins.
    pub fn new(node: &PluginNode, open: OpenTransformer, recorder: Option<Recorder>) -> Result<Self, RunError> {
        let plugin = open()?;
        let signature = plugin.signature();
        let PluginNode { name, columns: renamed, input, stats, consecutive_limit } = node;
        let output = plugin_output(renamed, input, &signature.output);
        let own = signature.output.fields.len();
        let appended = output.fields.iter().skip(own).filter_map(|field| input.index_of(&field.name)).collect();
        let columns = columns::wanted_columns(input, renamed, &signature.input);
        let input = columns.map(|(index, field)| InputColumn { index, field: field.clone() }).collect();
        let output = output.to_arrow();
        Ok(Self {
            id: 0,
            node: Arc::clone(name),
            open,
            plugin,
            input,
            output,
            appended,
            stats: Arc::clone(stats),
            recorder,
            consecutive_limit: *consecutive_limit,
            failures: 0,
            strict: false,
            gauges: Arc::default(),
        })
    }

    /// Where it writes what it takes.
    pub fn set_gauges(&mut self, gauges: Arc<PluginGauges>) {
        self.gauges = gauges;
    }

    pub fn gauges(&self) -> &Arc<PluginGauges> {
        &self.gauges
    }

    /// Whether a dead instance is an error ([`RunError::Version`]) and not replaced: another version takes over.
    pub fn set_strict(&mut self, strict: bool) {
        self.strict = strict;
    }

    /// The columns of its rows.
    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    pub fn apply(&mut self, batch: &RecordBatch, place: PlaceOf<'_>) -> Result<Applied, RunError> {
        if batch.num_rows() == 0 {
            return Ok((RecordBatch::new_empty(Arc::clone(&self.output)), None, Vec::new()));
        }
        let columns = self.gather(batch)?;
        let Transformed { columns, origins, rejected } = self.process(&columns, batch.num_rows(), place)?;
        let row_for_row = origins.len() == batch.num_rows() && origins.iter().copied().eq(0_u32..origins_end(&origins));
        let mut all = columns;
        for index in &self.appended {
            if let Some(column) = batch.columns().get(*index) {
                all.push(if row_for_row { Arc::clone(column) } else { take(column, &origins)? });
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(origins.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.output), all, &options).map_err(|e| {
            let why = format!("the plugin of `{}` gave columns that do not fit: {e}", self.node);
            if self.strict { RunError::Version(why) } else { RunError::Plugin(why) }
        })?;
        let failed = rejected.into_iter().map(|r| (r.row, r.reason)).collect();
        Ok((rows, (!row_for_row).then_some(origins), failed))
    }

    fn gather(&self, batch: &RecordBatch) -> Result<Vec<Option<ArrayRef>>, RunError> {
        let columns = self.input.iter().map(|wanted| {
            let Some(column) = wanted.index.and_then(|index| batch.columns().get(index)) else { return Ok(None) };
            let data_type = wanted.field.data_type.to_arrow();
            if column.data_type() == &data_type {
                return Ok(Some(Arc::clone(column)));
            }
            arrow_cast::cast(column, &data_type).map(Some)
        });
        Ok(columns.collect::<Result<_, arrow_schema::ArrowError>>()?)
    }

    /// All rows but those that were refused or that the plugin cannot survive.
    fn process(
        &mut self,
        columns: &[Option<ArrayRef>],
        rows: usize,
        place: PlaceOf<'_>,
    ) -> Result<Transformed, RunError> {
        let began_ns = thread_cpu_ns();
        let result = call(&mut *self.plugin, columns, rows);
        self.gauges.count(began_ns, rows, self.plugin.memory_bytes());
        match result {
            Err(error) if error.is_dead_instance() && self.strict => Err(RunError::Version(error.to_string())),
            Err(error) if error.is_dead_instance() => self.without_the_guilty(&error, columns, rows, place),
            other => {
                self.failures = 0;
                Ok(other?)
            }
        }
    }

    fn without_the_guilty(
        &mut self,
        error: &PluginError,
        columns: &[Option<ArrayRef>],
        rows: usize,
        place: PlaceOf<'_>,
    ) -> Result<Transformed, RunError> {
        self.stats.plugin_failures_total.fetch_add(1, Relaxed);
        self.failures += 1;
        if self.failures >= self.consecutive_limit {
            return Err(RunError::Plugin(format!(
                "{error}; {} calls in a row have failed (consecutive_limit)\nhint: nothing is lost: the next start goes on \
                 from the last checkpoint, with a corrected plugin or the former one",
                self.failures
            )));
        }
        warn!(node = %self.node, rows, "{error}; a new instance takes over");
        self.plugin = (self.open)()?;
        let found = if error.may_be_a_row() { self.find_guilty(columns, rows) } else { Ok(Vec::new()) };
        let captured = self.recorder.as_ref().and_then(|recorder| {
            let (wanted, slots) = (&self.plugin.signature().input, &vec![0; rows]);
            let (state_fields, state) = (&Schema::default(), &[]);
            let failed = Failed { error, wanted, columns, slots, state_fields, state, asked: &[], windows: &[] };
            recorder.record(&failed, found.as_deref().unwrap_or_default(), place)
        });
        let captured = captured.as_deref();
        let at_fault = |again: PluginError| with_command(plugin_at_fault(&again), captured);
        let mut guilty = found.map_err(|error| with_command(error, captured))?;
        for row in &mut guilty {
            row.reason.extend(captured.map(|command| format!("; again: {command}")));
        }
        if guilty.is_empty() {
            // the same call once more: a failure that has passed is forgiven
            return call(&mut *self.plugin, columns, rows).map_err(at_fault);
        }
        // from here on the rows are counted, not the instance
        self.failures = 0;
        let good: Vec<u32> =
            (0_u32..).take(rows).filter(|row| guilty.binary_search_by_key(row, |r| r.row).is_err()).collect();
        let done = call(&mut *self.plugin, &take_input(columns, &good)?, good.len());
        let mut done = done.map_err(at_fault)?;
        let whole = |row: u32| good.get(row as usize).copied();
        done.origins = done.origins.into_iter().filter_map(whole).collect();
        let rejected = done.rejected.into_iter().filter_map(|r| Some(Rejected { row: whole(r.row)?, ..r }));
        done.rejected = guilty.into_iter().chain(rejected).collect();
        Ok(done)
    }

    fn find_guilty(&mut self, columns: &[Option<ArrayRef>], rows: usize) -> Result<Vec<Rejected>, RunError> {
        let mut scratch = None;
        guilty_rows(rows, |rows| {
            let plugin = match &mut scratch {
                Some(plugin) => plugin,
                None => scratch.insert((self.open)()?),
            };
            let result = call(&mut **plugin, &take_input(columns, rows)?, rows.len());
            if result.is_err() {
                scratch = None;
            }
            Ok(result.map(|_| ()))
        })
    }
}

fn origins_end(origins: &[u32]) -> u32 {
    u32::try_from(origins.len()).unwrap_or(u32::MAX)
}

fn call(plugin: &mut dyn Transformer, columns: &[Option<ArrayRef>], rows: usize) -> Result<Transformed, PluginError> {
    // a batch has at most `limits::BATCH_ROWS_MAX` rows at its source
    plugin.process(columns, u32::try_from(rows).unwrap_or(u32::MAX))
}
