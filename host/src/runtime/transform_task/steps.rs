//! The steps of a transform over the columns of one batch.
//!
//! A batch that no step changes is handed on as it is; a filter that lets all rows pass copies nothing, and a column that
//! an expression does not touch is shared.

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::concat::concat;
use arrow_select::filter::{filter_record_batch, prep_null_mask_filter};
use millrace_core::batch::{Change, Changes};
use millrace_core::schema::{Field, Schema};

use super::halves::{Made, by_halves};
use super::versions::TransformVersions;
use crate::expr::{Expression, Filter, Wrong};
use crate::runtime::message::{Exchanged, RunError};
use crate::runtime::recorder::PlaceOf;
use crate::runtime::versions::VersionId;
use crate::spec::model::TransformSpec;

pub struct Steps {
    filter: Option<Filter>,
    /// `set`, then `select`
    projections: Vec<Projection>,
    plugin: Option<TransformVersions>,
}

/// What became of a batch.
pub struct Done {
    /// none: the batch as it was
    pub rows: Option<RecordBatch>,
    /// the row that each row came from, ascending; none: row for row
    pub from: Option<Vec<u32>>,
    /// ascending
    pub failed: Vec<(u32, String)>,
    /// new versions of rows that the filter holds back: what it let pass before is to go, ascending
    pub withdrawn: Vec<u32>,
}

/// New columns from old ones.
struct Projection {
    schema: SchemaRef,
    columns: Vec<Column>,
}

enum Column {
    Same(usize),
    Computed(Expression),
}

impl Steps {
    /// `plugin` makes the step of the transform's plugin, given the columns that it sees.
    pub fn new(
        spec: &TransformSpec,
        input: &Schema,
        plugin: impl FnOnce(&Schema) -> Result<Option<TransformVersions>, RunError>,
    ) -> Result<Self, RunError> {
        let checked = |wrong: Wrong| RunError::Internal(format!("a checked expression: {}", wrong.message));
        let filter = spec.filter.as_ref().map(|sql| Filter::new(sql, input)).transpose().map_err(checked)?;
        let mut projections = Vec::new();
        let mut columns = input.clone();
        if !spec.set.is_empty() {
            let set = set(&spec.set, &columns).map_err(checked)?;
            columns = set.1;
            projections.push(set.0);
        }
        if let Some(select) = &spec.select {
            let each = select.iter().map(|s| (s.name.as_str(), s.expression.as_deref()));
            let select = projection(each, &columns).map_err(checked)?;
            columns = select.1;
            projections.push(select.0);
        }
        Ok(Self { filter, projections, plugin: plugin(&columns)? })
    }

    /// At a barrier. The version of the plugin that runs from here on, and whether it has taken over.
    pub fn obey(&mut self, checkpoint: u64) -> (VersionId, Option<Exchanged>) {
        self.plugin.as_mut().map_or((0, None), |plugin| plugin.obey(checkpoint))
    }

    /// `changes`: what each row does, if the rows are results. `place` says where a row of the batch came from.
    pub fn apply(
        &mut self,
        batch: &RecordBatch,
        changes: Option<&Changes>,
        place: PlaceOf<'_>,
    ) -> Result<Done, RunError> {
        let mut done = Done { rows: None, from: None, failed: Vec::new(), withdrawn: Vec::new() };
        if let Some(filter) = &self.filter {
            let (made, mut failed) = by_halves(batch, &|part| filter.evaluate(part));
            let mut mask = mask(batch.num_rows(), made);
            if let Some(changes) = changes {
                failed.retain(|(row, _)| changes.kinds.get(*row as usize) != Some(&Change::Delete));
                (mask, done.withdrawn) = with_withdrawals(&mask, changes, &failed);
            }
            if mask.true_count() < batch.num_rows() {
                done.rows = Some(filter_record_batch(batch, &mask)?);
                done.from = Some(set_indices(&mask));
            }
            done.failed = failed;
        }
        for projection in &self.projections {
            let rows = done.rows.as_ref().unwrap_or(batch);
            let (rows, kept, failed) = projection.apply(rows)?;
            done.then(rows, kept, failed);
        }
        if let Some(plugin) = &mut self.plugin {
            let rows = done.rows.as_ref().unwrap_or(batch);
            let origin = |row: u32| done.from.as_ref().map_or(Some(row), |from| from.get(row as usize).copied());
            let (rows, from, failed) = plugin.apply(rows, &|row| origin(row).map(place).unwrap_or_default())?;
            done.then(rows, from, failed);
        }
        done.failed.sort_by_key(|(row, _)| *row);
        Ok(done)
    }
}

impl Done {
    /// A step has been made on what the ones before it left: row numbers are those of the step's input.
    fn then(&mut self, rows: RecordBatch, from: Option<Vec<u32>>, failed: Vec<(u32, String)>) {
        let before = self.from.take();
        let origin = |row: u32| match &before {
            None => Some(row),
            Some(before) => before.get(row as usize).copied(),
        };
        self.failed.extend(failed.into_iter().filter_map(|(row, reason)| Some((origin(row)?, reason))));
        self.from = match from {
            None => before,
            Some(from) => Some(from.into_iter().filter_map(origin).collect()),
        };
        self.rows = Some(rows);
    }
}

/// One mask from its parts; a row without a part does not pass.
fn mask(rows: usize, mut made: Vec<Made<BooleanArray>>) -> BooleanArray {
    let plain = |mask: BooleanArray| if mask.null_count() == 0 { mask } else { prep_null_mask_filter(&mask) };
    if let [Made { rows: all, .. }] = made.as_slice()
        && *all == rows
        && let Some(only) = made.pop()
    {
        return plain(only.what);
    }
    let mut passes = vec![false; rows];
    for part in made {
        for (pass, value) in passes.iter_mut().skip(part.from).zip(&plain(part.what)) {
            *pass = value == Some(true);
        }
    }
    BooleanArray::from(passes)
}

/// A changelog through a filter. An earlier version may have passed, so a later one that does not takes it back; a deletion
/// always passes: what it holds besides the key says nothing.
fn with_withdrawals(mask: &BooleanArray, changes: &Changes, failed: &[(u32, String)]) -> (BooleanArray, Vec<u32>) {
    let mut withdrawn = Vec::new();
    let passes = (0_u32..).zip(mask.values().iter()).zip(changes.kinds.iter()).map(|((row, passes), kind)| {
        let taken_back =
            !passes && *kind == Change::Replace && failed.binary_search_by_key(&row, |(bad, _)| *bad).is_err();
        if taken_back {
            withdrawn.push(row);
        }
        passes || taken_back || *kind == Change::Delete
    });
    let mask = passes.collect::<Vec<bool>>().into();
    (mask, withdrawn)
}

fn set_indices(mask: &BooleanArray) -> Vec<u32> {
    mask.values().set_indices_u32().collect()
}

impl Projection {
    /// The new rows, which of the old ones they are if not all, and those that failed.
    #[allow(clippy::type_complexity, reason = "named in its documentation")]
    fn apply(&self, batch: &RecordBatch) -> Result<(RecordBatch, Option<Vec<u32>>, Vec<(u32, String)>), RunError> {
        let compute = |part: &RecordBatch| -> Result<Vec<ArrayRef>, String> {
            let computed = self.columns.iter().filter_map(|column| match column {
                Column::Same(_) => None,
                Column::Computed(expression) => Some(expression.evaluate(part)),
            });
            computed.collect()
        };
        let (made, failed) = by_halves(batch, &compute);
        if let ([only], true) = (made.as_slice(), failed.is_empty()) {
            return Ok((self.assemble(batch, &only.what)?, None, failed));
        }
        let kept: Vec<u32> = (0_u32..)
            .take(batch.num_rows())
            .filter(|row| failed.binary_search_by_key(row, |(bad, _)| *bad).is_err())
            .collect();
        let rows = arrow_select::take::take_record_batch(batch, &UInt32Array::from(kept.clone()))?;
        let count = self.columns.iter().filter(|column| matches!(column, Column::Computed(_))).count();
        let computed = (0..count)
            .map(|index| {
                let parts: Vec<&dyn Array> = made.iter().filter_map(|m| m.what.get(index).map(|a| &**a)).collect();
                if parts.is_empty() { self.nothing(index) } else { Ok(concat(&parts)?) }
            })
            .collect::<Result<Vec<_>, RunError>>()?;
        Ok((self.assemble(&rows, &computed)?, Some(kept), failed))
    }

    /// The `index`-th computed column, empty.
    fn nothing(&self, index: usize) -> Result<ArrayRef, RunError> {
        let mut computed = self.columns.iter().zip(self.schema.fields());
        let field = computed.by_ref().filter(|(column, _)| matches!(column, Column::Computed(_))).nth(index);
        let (_, field) = field.ok_or_else(|| RunError::Internal("a computed column is not there".into()))?;
        Ok(arrow_array::new_empty_array(field.data_type()))
    }

    fn assemble(&self, batch: &RecordBatch, computed: &[ArrayRef]) -> Result<RecordBatch, RunError> {
        let mut computed = computed.iter();
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .filter_map(|column| match column {
                Column::Same(index) => batch.columns().get(*index).cloned(),
                Column::Computed(_) => computed.next().cloned(),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

fn set(set: &[(String, String)], input: &Schema) -> Result<(Projection, Schema), Wrong> {
    let expression = |name: &str| set.iter().find(|(set, _)| set == name).map(|(_, sql)| sql.as_str());
    let same = input.fields.iter().map(|field| (field.name.as_str(), expression(&field.name)));
    let new = set.iter().filter(|(name, _)| input.field(name).is_none());
    projection(same.chain(new.map(|(name, sql)| (name.as_str(), Some(sql.as_str())))), input)
}

/// Columns by name, each with its expression; without one it is the input's.
fn projection<'a>(
    columns: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    input: &Schema,
) -> Result<(Projection, Schema), Wrong> {
    let mut fields = Vec::new();
    let mut from = Vec::new();
    for (name, sql) in columns {
        match (sql, input.index_of(name)) {
            (Some(sql), _) => {
                let expression = Expression::new(sql, input)?;
                fields.push(Field::new(name, expression.data_type, expression.nullable));
                from.push(Column::Computed(expression));
            }
            (None, Some(index)) => {
                fields.extend(input.fields.get(index).cloned());
                from.push(Column::Same(index));
            }
            (None, None) => return Err(Wrong::new(format!("the input has no column `{name}`"), None)),
        }
    }
    let schema = Schema::new(fields);
    Ok((Projection { schema: schema.to_arrow(), columns: from }, schema))
}
