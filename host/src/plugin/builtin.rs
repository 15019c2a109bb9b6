//! Aggregates without a plugin: `aggregate = { events = "count(*)", revenue = "sum(revenue)" }`, on the native side of the
//! same trait, so that checkpoints, windows and the search for bad rows need not know the difference.
//!
//! | aggregate | takes | gives | state |
//! |---|---|---|---|
//! | `count(*)`, `count(c)` | anything | long | `NAME: long` |
//! | `count(distinct c)` | anything but floats | long | `NAME.values: list<long>` or `list<string>` (decimals as text, binary as hex) |
//! | `approx_distinct(c)` | anything but floats | long, standard error 1.6 % | `NAME.sketch: binary` |
//! | `sum(c)` | int, long; float, double; decimal(p,s) | long?; double?; decimal(p+10,s)? | `NAME`, of that type |
//! | `avg(c)` | the same | double?; double?; decimal(p+4,s+4)? | `NAME.sum`, `NAME.count` |
//! | `min(c)`, `max(c)` | anything | its type, nullable | `NAME`, of that type |
//!
//! As in SQL nulls are left out, and what has seen no value is null (counts are 0). A row that would take a sum out of
//! its type's range is refused and changes nothing; no number ever wraps around.
//!
//! State is ordered by the aggregates' names and exported in rows: a large set takes several, in whose continuations
//! the other aggregates are empty.

use std::fmt;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_buffer::{BooleanBufferBuilder, NullBuffer};
use millrace_core::schema::Schema;

use super::{
    Aggregator, AggregatorFactory, Info, OutputRows, PluginError, Rejected, Result, Signature, StateChunk, StateOrigin,
    WindowUs,
};

mod bind;
mod count;
mod distinct;
mod extreme;
mod filter;
mod parse;
mod state;
mod sum;
#[cfg(test)]
mod tests;

pub use bind::{Wrong, signature};
pub use parse::{SyntaxError, parse};

use bind::Bound;
use filter::Filter;
use state::{Entry, Rows, State};

/// What a checkpoint calls the plugin of a node with aggregates.
pub const NAME: &str = "aggregate";
/// Raised when the state of an aggregate comes to mean something else.
const VERSION: &str = "1.0.0";

/// One column of the result: `NAME = "FUNCTION(ARGUMENT) filter (where FILTER)"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    pub name: String,
    pub function: Function,
    /// none: `count(*)`
    pub argument: Option<String>,
    /// SQL
    pub filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Count,
    CountDistinct,
    ApproxDistinct,
    Sum,
    Avg,
    Min,
    Max,
}

impl Function {
    pub fn name(self) -> &'static str {
        match self {
            Self::Count | Self::CountDistinct => "count",
            Self::ApproxDistinct => "approx_distinct",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

impl fmt::Display for Aggregate {
    /// The canonical text, which checkpoints record.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let distinct = if self.function == Function::CountDistinct { "distinct " } else { "" };
        write!(f, "{} = {}({distinct}", self.name, self.function.name())?;
        match &self.argument {
            None => f.write_str("*")?,
            Some(column) if is_plain(column) => f.write_str(column)?,
            Some(column) => write!(f, "\"{}\"", column.replace('"', "\"\""))?,
        }
        f.write_str(")")?;
        self.filter.iter().try_for_each(|filter| write!(f, " filter (where {filter})"))
    }
}

fn is_plain(column: &str) -> bool {
    !column.starts_with(|c: char| c.is_ascii_digit()) && column.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
}

/// All of them as one text: the same for the same aggregates, whatever their order in the file.
pub fn canonical(aggregates: &[Aggregate]) -> String {
    let mut all: Vec<String> = aggregates.iter().map(ToString::to_string).collect();
    all.sort();
    all.join(", ")
}

/// Makes instances of one node's aggregates.
pub struct BuiltinFactory {
    plugin: String,
    aggregates: Vec<Aggregate>,
    info: Info,
    digest: String,
    memory_bytes_max: u64,
}

impl BuiltinFactory {
    /// `plugin` names them in errors. An instance fails when it holds more than `memory_bytes_max`.
    pub fn new(plugin: &str, aggregates: &[Aggregate], memory_bytes_max: u64) -> Self {
        Self {
            plugin: plugin.to_owned(),
            aggregates: aggregates.to_vec(),
            info: Info { name: NAME.to_owned(), version: VERSION.to_owned(), config_schema: "{}".to_owned() },
            digest: format!("builtin {VERSION}: {}", canonical(aggregates)),
            memory_bytes_max,
        }
    }
}

impl AggregatorFactory for BuiltinFactory {
    fn info(&self) -> &Info {
        &self.info
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn open(&self, _: &str, offered: &Schema) -> Result<Box<dyn Aggregator>> {
        let bound = bind::bind(&self.aggregates, offered).map_err(|wrong| PluginError::Refused {
            plugin: self.plugin.clone(),
            what: "its input",
            message: wrong.into_iter().map(|w| w.message).collect::<Vec<_>>().join("; "),
        })?;
        let signature = bind::signature_of(&bound, &self.aggregates);
        let place = |name: &str| bound.iter().position(|b| b.name == name);
        let output = self.aggregates.iter().filter_map(|a| place(&a.name)).collect();
        let columns = bound.into_iter().map(|bound| Column::new(bound, &signature)).collect();
        Ok(Box::new(Builtin {
            plugin: self.plugin.clone(),
            signature,
            columns,
            output,
            slots: 0,
            memory_bytes_max: self.memory_bytes_max,
        }))
    }
}

struct Column {
    state: Box<dyn State>,
    /// of the signature's input
    argument: Option<usize>,
    filter: Option<Filter>,
    state_columns: usize,
}

impl Column {
    fn new(bound: Bound, signature: &Signature) -> Self {
        let index = |name: &str| signature.input.iter().position(|w| w.field.name == name);
        Self {
            argument: bound.argument.as_ref().and_then(|field| index(&field.name)),
            filter: bound.filter,
            state_columns: bound.state_fields.len(),
            state: bound.state,
        }
    }

    /// The rows of a call that this aggregate sees.
    fn rows<'a>(
        &self,
        signature: &Signature,
        columns: &'a [Option<ArrayRef>],
        groups: &'a [u32],
    ) -> Fallible<Rows<'a>> {
        let filter = self.filter.as_ref().map(|f| f.passing(signature, columns, groups.len())).transpose()?;
        let values = match self.argument {
            None => None,
            Some(index) => Some(columns.get(index).and_then(Option::as_ref).ok_or("a column is missing")?),
        };
        let valid = NullBuffer::union(filter.as_ref(), values.and_then(|v| v.logical_nulls()).as_ref());
        Ok(Rows { values, groups, counted: valid.filter(|n| n.null_count() > 0) })
    }
}

/// What went wrong, in words.
type Fallible<T> = std::result::Result<T, String>;

/// One instance. Its columns are in the order of their names.
struct Builtin {
    plugin: String,
    signature: Signature,
    columns: Vec<Column>,
    /// columns in the order of the result
    output: Vec<usize>,
    slots: usize,
    memory_bytes_max: u64,
}

impl Builtin {
    fn failed(&self, call: &'static str, message: String) -> PluginError {
        PluginError::Trap { plugin: self.plugin.clone(), call, message, guest_log: Vec::new(), out_of_memory: false }
    }

    fn grow(&mut self, slots: u32) {
        let slots = slots as usize;
        if slots > self.slots {
            self.slots = slots;
            self.columns.iter_mut().for_each(|c| c.state.grow(slots));
        }
    }

    fn bytes(&self) -> u64 {
        self.columns.iter().map(|c| c.state.bytes() as u64).sum()
    }

    fn try_update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32]) -> Fallible<Vec<Rejected>> {
        let rows = self.columns.iter().map(|column| column.rows(&self.signature, columns, groups));
        let mut rows = rows.collect::<Fallible<Vec<_>>>()?;
        let rejected = self.out_of_range(&rows, groups)?;
        if !rejected.is_empty() {
            let mut kept = BooleanBufferBuilder::new(groups.len());
            kept.append_n(groups.len(), true);
            rejected.iter().for_each(|r| kept.set_bit(r.row as usize, false));
            let kept = NullBuffer::new(kept.finish());
            rows.iter_mut().for_each(|rows| rows.counted = NullBuffer::union(rows.counted.as_ref(), Some(&kept)));
        }
        self.columns.iter_mut().zip(&rows).try_for_each(|(column, rows)| column.state.update(rows))?;
        Ok(rejected)
    }

    /// The rows that would take a sum out of its type's range, one after the other. Nothing is changed yet.
    fn out_of_range(&mut self, rows: &[Rows<'_>], groups: &[u32]) -> Fallible<Vec<Rejected>> {
        let mut risks = Vec::new();
        for (column, rows) in self.columns.iter_mut().zip(rows) {
            risks.extend(column.state.risk(rows)?);
        }
        let mut rejected = Vec::new();
        if risks.is_empty() {
            return Ok(rejected);
        }
        for (row, &slot) in groups.iter().enumerate() {
            let sums: Vec<Option<i128>> = risks.iter().map(|risk| risk.with(row, slot as usize)).collect();
            if let Some((_, risk)) = sums.iter().zip(&risks).find(|(sum, _)| sum.is_none()) {
                let row = u32::try_from(row).map_err(|e| e.to_string())?;
                rejected.push(Rejected { row, reason: risk.reason.clone() });
                continue;
            }
            for (risk, sum) in risks.iter_mut().zip(sums) {
                if let (Some(slot), Some(sum)) = (risk.sums.get_mut(slot as usize), sum) {
                    *slot = sum;
                }
            }
        }
        Ok(rejected)
    }

    fn check_memory(&self, call: &'static str) -> Result<()> {
        let (held, most) = (self.bytes(), self.memory_bytes_max);
        if held <= most {
            return Ok(());
        }
        Err(PluginError::Trap {
            plugin: self.plugin.clone(),
            call,
            message: format!("out of memory: it holds {} MiB, its limit is {} MiB", held >> 20, most >> 20),
            guest_log: Vec::new(),
            out_of_memory: true,
        })
    }

    /// The next rows of an export: about `max_bytes` of them, and at least one.
    fn entries(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> (Vec<Entry>, Option<u64>) {
        // the cursor: how many groups are done, and parts of the next one
        let half = |bits: u64| usize::try_from(bits & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let (mut at, mut part) = (half(cursor >> 32), half(cursor));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(&slot) = groups.get(at) {
            if bytes >= max_bytes && !entries.is_empty() {
                return (entries, Some((at as u64) << 32 | part as u64));
            }
            let entry = Entry { slot: slot as usize, part };
            bytes += self.columns.iter_mut().map(|c| c.state.entry_bytes(entry) as u64).sum::<u64>();
            entries.push(entry);
            let parts = self.columns.iter_mut().map(|c| c.state.parts(entry.slot)).max().unwrap_or(1);
            (at, part) = if part + 1 < parts { (at, part + 1) } else { (at + 1, 0) };
        }
        (entries, None)
    }
}

impl Aggregator for Builtin {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total_groups: u32) -> Result<Vec<Rejected>> {
        self.grow(total_groups);
        let rejected = self.try_update(columns, groups).map_err(|message| self.failed("update", message))?;
        self.check_memory("update")?;
        Ok(rejected)
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()> {
        for column in &mut self.columns {
            for (&source, &target) in sources.iter().zip(targets) {
                if let Err(message) = column.state.combine(source as usize, target as usize) {
                    return Err(self.failed("combine", message));
                }
            }
        }
        Ok(())
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total_groups: u32) -> Result<()> {
        self.grow(total_groups);
        let mut rest = state;
        for column in &mut self.columns {
            let merged = match rest.split_at_checked(column.state_columns) {
                Some((mine, others)) => {
                    rest = others;
                    column.state.merge(mine, groups)
                }
                None => Err("state columns are missing".to_owned()),
            };
            if let Err(message) = merged {
                return Err(self.failed("merge", message));
            }
        }
        self.check_memory("merge")
    }

    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk> {
        let (entries, next) = self.entries(groups, cursor, max_bytes);
        let mut columns = Vec::with_capacity(self.signature.state.fields.len());
        for column in &mut self.columns {
            match column.state.export(&entries) {
                Ok(exported) => columns.extend(exported),
                Err(message) => return Err(self.failed("state", message)),
            }
        }
        // slots are numbers of groups that came in as such
        let groups = entries.iter().filter_map(|e| u32::try_from(e.slot).ok()).collect();
        Ok(StateChunk { columns, groups, next })
    }

    fn evaluate(&mut self, groups: &[u32], _: &[WindowUs], _: bool) -> Result<OutputRows> {
        let mut columns = Vec::with_capacity(self.output.len());
        for index in &self.output {
            if let Some(column) = self.columns.get_mut(*index) {
                columns.push(column.state.evaluate(groups).map_err(|message| PluginError::Trap {
                    plugin: self.plugin.clone(),
                    call: "evaluate",
                    message,
                    guest_log: Vec::new(),
                    out_of_memory: false,
                })?);
            }
        }
        Ok(OutputRows { columns, groups: None })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<()> {
        for column in &mut self.columns {
            groups.iter().for_each(|&group| column.state.reset(group as usize));
            column.state.after_reset();
        }
        Ok(())
    }

    fn size(&mut self) -> Result<u64> {
        Ok(self.bytes())
    }

    fn migrate(&mut self, origin: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>> {
        let same = origin.name == NAME && origin.version == VERSION && origin.state == self.signature.state;
        Ok(same.then(|| state.to_vec()))
    }
}

/// An array of `data_type` from one of the same layout (timestamps with and without a zone, decimals).
fn typed<T: arrow_array::ArrowPrimitiveType>(
    array: arrow_array::PrimitiveArray<T>,
    data_type: &arrow_schema::DataType,
) -> ArrayRef {
    Arc::new(array.with_data_type(data_type.clone()))
}
