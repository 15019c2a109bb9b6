//! An instance of the plugin under test: rows in by their key, everything that can be seen of it out.

use std::collections::{BTreeMap, HashMap};

use arrow_array::{ArrayRef, RecordBatch, UInt32Array, new_empty_array};
use millrace_core::key;
use millrace_core::schema::Schema;
use millrace_core::window::Tumbling;

use super::TOLERANCE;
use super::data::Trial;
use crate::golden::case::Case;
use crate::golden::rows;
use crate::golden::run::Subject;
use crate::golden::table::{Cell, Table, equal};
use crate::plugin::{Aggregator, PluginError, Signature, StateChunk, WindowUs};
use crate::runtime::aggregate_task::InputColumn;
use crate::runtime::run::{AggregationNode, input_columns, offered_to_plugin};
use crate::spec::model::{EventTimeSpec, SourceSchema, WindowSpec};

/// Large enough for all state in one chunk, of any trial.
const ALL_BYTES: u64 = 32 << 20;

/// The plugin with the configuration and columns of one case.
pub struct LawSubject {
    pub node: AggregationNode,
    pub signature: Signature,
    /// without paths into nested JSON: rows are flat here
    pub schema: SourceSchema,
    pub event_time: EventTimeSpec,
    input: Vec<InputColumn>,
    window: WindowUs,
}

/// The rows of a trial in Arrow, with the group of each.
pub struct Prepared {
    pub columns: Vec<Option<ArrayRef>>,
    pub groups: Vec<u32>,
    pub total: u32,
    /// row numbers by part
    pub parts: Vec<Vec<u32>>,
    keys: Vec<Vec<u8>>,
}

impl LawSubject {
    pub fn new(subject: Subject, case: &Case) -> Result<Self, PluginError> {
        let Subject { node, signature } = subject;
        let instance = node.factory.open(&node.spec.config, &offered_to_plugin(&node))?;
        let input = input_columns(&node, &*instance);
        let paths = case.schema.schema.fields.iter().map(|f| vec![f.name.clone()]).collect();
        let (size_ms, offset_ms) = match node.spec.window {
            WindowSpec::Tumbling { size_ms, offset_ms } | WindowSpec::Sliding { size_ms, offset_ms, .. } => {
                (size_ms, offset_ms)
            }
            WindowSpec::Session { gap_ms } => (gap_ms, 0),
            WindowSpec::Global => (i64::MAX, 0),
        };
        let first = case.steps.iter().find_map(|step| step.events.event_time_ms.first().copied());
        let window = Tumbling::new(size_ms, offset_ms).assign(first.unwrap_or(0));
        let window =
            WindowUs { start: window.start_ms.saturating_mul(1_000), end: window.end_ms.saturating_mul(1_000) };
        let schema = SourceSchema { schema: case.schema.schema.clone(), paths };
        Ok(Self { node, signature, schema, event_time: case.event_time.clone(), input, window })
    }

    /// None: some row is no row of this schema (shrinking tries such).
    pub fn prepare(&self, trial: &Trial) -> Option<Prepared> {
        let only: Vec<rows::Row> = trial.rows.iter().map(|(_, row)| row.clone()).collect();
        let (batch, _) = rows::decode(&self.schema, &self.event_time, &only).ok()?;
        let key_columns: Vec<ArrayRef> =
            self.node.spec.key.iter().filter_map(|k| batch.column_by_name(k).cloned()).collect();
        let keys = key::encode(&key_columns, batch.num_rows()).ok()?;
        let mut known: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut names = Vec::new();
        let mut groups = Vec::new();
        for row in 0..batch.num_rows() {
            let next = u32::try_from(known.len()).ok()?;
            let group = *known.entry(keys.bytes(row).to_vec()).or_insert_with(|| {
                names.push(keys.bytes(row).to_vec());
                next
            });
            groups.push(group);
        }
        let columns = self.input.iter().map(|column| column_of(&batch, column)).collect::<Option<_>>()?;
        let parts = (0..trial.parts)
            .map(|part| (0_u32..).zip(&trial.rows).filter(|(_, (of, _))| *of == part).map(|(row, _)| row).collect())
            .collect();
        let total = u32::try_from(known.len()).ok()?;
        Some(Prepared { columns, groups, total, parts, keys: names })
    }

    pub fn open(&self) -> Result<Instance<'_>, PluginError> {
        let plugin = self.node.factory.open(&self.node.spec.config, &offered_to_plugin(&self.node))?;
        Ok(Instance { subject: self, plugin })
    }
}

fn column_of(batch: &RecordBatch, column: &InputColumn) -> Option<Option<ArrayRef>> {
    let Some(index) = column.index else { return Some(None) };
    let array = batch.columns().get(index)?;
    arrow_cast::cast(array, &column.field.data_type.to_arrow()).ok().map(Some)
}

impl Prepared {
    /// A group's key, for a person.
    pub fn name(&self, node: &AggregationNode, group: u32) -> String {
        let fields: Vec<_> = node.spec.key.iter().filter_map(|k| node.input.field(k).cloned()).collect();
        let Some(bytes) = self.keys.get(group as usize) else { return format!("group {group}") };
        let columns = key::decode(&fields, std::iter::once(bytes.as_slice())).unwrap_or_default();
        let schema = Schema::new(fields);
        let Ok(batch) = RecordBatch::try_new(schema.to_arrow(), columns) else { return format!("group {group}") };
        let order: Vec<usize> = (0..schema.fields.len()).collect();
        let table = Table::of(&schema, &order, &[batch]);
        table.rows.first().map(|row| table.show(row, &order)).unwrap_or_default()
    }

    /// All rows, in order.
    pub fn all(&self) -> Vec<u32> {
        (0_u32..).take(self.groups.len()).collect()
    }
}

pub struct Instance<'s> {
    subject: &'s LawSubject,
    pub plugin: Box<dyn Aggregator>,
}

/// Everything that can be seen of an instance: by group, its results and its state.
pub type View = BTreeMap<u32, [Table; 2]>;

impl Instance<'_> {
    /// Takes these rows in one call; the numbers (into `rows`) of those that were rejected.
    pub fn update(&mut self, trial: &Prepared, rows: &[u32]) -> Result<Vec<usize>, PluginError> {
        self.update_at(trial, rows, 0, trial.total)
    }

    /// The same, with groups moved up by `shift` slots.
    pub fn update_at(
        &mut self,
        trial: &Prepared,
        rows: &[u32],
        shift: u32,
        total: u32,
    ) -> Result<Vec<usize>, PluginError> {
        let indices = UInt32Array::from(rows.to_vec());
        let columns: Option<Vec<Option<ArrayRef>>> = trial
            .columns
            .iter()
            .map(|column| match column {
                None => Some(None),
                Some(column) => arrow_select::take::take(column, &indices, None).ok().map(Some),
            })
            .collect();
        let groups: Vec<u32> =
            rows.iter().filter_map(|row| trial.groups.get(*row as usize)).map(|group| group + shift).collect();
        let rejected = self.plugin.update(&columns.unwrap_or_default(), &groups, total)?;
        let mut rejected: Vec<usize> = rejected.into_iter().map(|r| r.row as usize).collect();
        rejected.sort_unstable();
        Ok(rejected)
    }

    /// Exported state of these groups, in chunks of about so many bytes.
    pub fn export(&mut self, groups: &[u32], chunk_bytes: u64) -> Result<Vec<StateChunk>, PluginError> {
        let mut chunks = Vec::new();
        let mut cursor = 0;
        loop {
            let chunk = self.plugin.state(groups, cursor, chunk_bytes)?;
            let next = chunk.next;
            chunks.push(chunk);
            match next {
                None => return Ok(chunks),
                Some(next) if next > cursor => cursor = next,
                Some(next) => {
                    return Err(PluginError::Contract {
                        plugin: self.subject.node.name.to_string(),
                        call: "state",
                        message: format!("the next cursor is {next}, after {cursor}: it must grow"),
                    });
                }
            }
        }
    }

    pub fn export_all(&mut self, groups: &[u32]) -> Result<Vec<StateChunk>, PluginError> {
        self.export(groups, ALL_BYTES)
    }

    pub fn merge(&mut self, chunks: &[StateChunk], total: u32) -> Result<(), PluginError> {
        // it learns of all groups, also of those without a row in the chunks
        let fields = &self.subject.signature.state.fields;
        let none: Vec<ArrayRef> = fields.iter().map(|f| new_empty_array(&f.data_type.to_arrow())).collect();
        self.plugin.merge(&none, &[], total)?;
        chunks.iter().try_for_each(|chunk| self.plugin.merge(&chunk.columns, &chunk.groups, total))
    }

    pub fn view(&mut self, total: u32) -> Result<View, PluginError> {
        let groups: Vec<u32> = (0..total).collect();
        let mut view = View::new();
        if total == 0 {
            return Ok(view);
        }
        let windows = vec![self.subject.window; groups.len()];
        let output = self.plugin.evaluate(&groups, &windows, true)?;
        let signature = &self.subject.signature;
        let of_rows = output.groups.unwrap_or_else(|| groups.clone());
        let results = by_group(&signature.output, output.columns, &of_rows);
        let mut states = BTreeMap::new();
        for chunk in self.export_all(&groups)? {
            for (group, table) in by_group(&signature.state, chunk.columns, &chunk.groups) {
                let known: &mut Table =
                    states.entry(group).or_insert_with(|| Table { rows: Vec::new(), ..table.clone() });
                known.rows.extend(table.rows);
            }
        }
        let empty = |schema: &Schema| Table::of_rows(schema, &[]);
        for group in groups {
            let result = results.get(&group).cloned().unwrap_or_else(|| empty(&signature.output));
            let state = states.remove(&group).unwrap_or_else(|| empty(&signature.state));
            view.insert(group, [result, state]);
        }
        Ok(view)
    }
}

fn by_group(schema: &Schema, columns: Vec<ArrayRef>, groups: &[u32]) -> BTreeMap<u32, Table> {
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(groups.len()));
    let Ok(batch) = RecordBatch::try_new_with_options(schema.to_arrow(), columns, &options) else {
        return BTreeMap::new();
    };
    let all = Table::of_rows(schema, &[batch]);
    let mut tables: BTreeMap<u32, Table> = BTreeMap::new();
    for (row, group) in all.rows.iter().zip(groups) {
        let table = tables.entry(*group).or_insert_with(|| Table { columns: all.columns.clone(), rows: Vec::new() });
        table.rows.push(row.clone());
    }
    tables
}

/// The first thing in which two instances differ, in words.
pub fn difference(subject: &LawSubject, trial: &Prepared, a: &View, b: &View, names: [&str; 2]) -> Option<String> {
    for (group, tables) in a {
        let Some(others) = b.get(group) else { continue };
        for (what, (one, other)) in ["result", "state"].iter().zip(tables.iter().zip(others)) {
            let wide = |table: &Table| table.rows.len();
            let key = || trial.name(&subject.node, *group);
            if wide(one) != wide(other) {
                return Some(format!(
                    "the {what} of {} has {} rows {}, and {} {}",
                    key(),
                    wide(one),
                    names[0],
                    wide(other),
                    names[1]
                ));
            }
            for (left, right) in one.rows.iter().zip(&other.rows) {
                let differs = one
                    .columns
                    .iter()
                    .zip(left.iter().zip(right))
                    .find(|(head, (l, r))| !equal(head.data_type, l, r, Some(TOLERANCE)));
                if let Some((head, (l, r))) = differs {
                    let show = |cell: &Cell| cell.clone().unwrap_or_else(|| "null".to_owned());
                    return Some(format!(
                        "`{}` in the {what} of {} is {} {}, and {} {}",
                        head.name,
                        key(),
                        show(l),
                        names[0],
                        show(r),
                        names[1]
                    ));
                }
            }
        }
    }
    None
}
