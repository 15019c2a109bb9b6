//! Cases of transforms: rows in, rows out, in the order in which they came. A transform keeps nothing, so all rows of a
//! step in one call and one row a call must give the same.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use millrace_core::schema::{Field, Schema};

use super::case::{Case, Step};
use super::operator::{StepOutcome, silently};
use super::run::{Outcome, located, refused, spec_of};
use crate::plugin::{Signature, TransformSignature, TransformerFactory};
use crate::spec::columns;
use crate::spec::diagnostic::Diagnostics;

/// A transform as a case uses it.
pub struct TransformSubject {
    factory: Arc<dyn TransformerFactory>,
    config: String,
    offered: Schema,
    pub signature: TransformSignature,
    /// the plugin's columns, then those of the input that it does not give
    pub output: Schema,
    /// of the input: what comes after the plugin's columns
    kept: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    AllAtOnce,
    RowByRow,
}

impl Way {
    pub const ALL: [Self; 2] = [Self::AllAtOnce, Self::RowByRow];
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AllAtOnce => "in one batch",
            Self::RowByRow => "row by row",
        })
    }
}

impl TransformSubject {
    pub fn open(factory: &Arc<dyn TransformerFactory>, case: &Case) -> Result<Self, Diagnostics> {
        let input = &case.schema.schema;
        let offered = columns::offered_schema(input, &case.columns);
        let instance = factory.open(&case.config, &offered).map_err(|error| refused(case, &error))?;
        let signature = instance.signature().clone();
        let wrong = misfits(case, &factory.info().name, &signature);
        if !wrong.is_empty() {
            return Err(located(case, wrong));
        }
        let kept: Vec<usize> = (0..)
            .zip(&input.fields)
            .filter(|(_, field)| signature.output.field(&field.name).is_none())
            .map(|(index, _)| index)
            .collect();
        let rest = kept.iter().filter_map(|index| input.fields.get(*index).cloned());
        let output = Schema::new(signature.output.fields.iter().cloned().chain(rest).collect());
        let config = case.config.clone();
        Ok(Self { factory: Arc::clone(factory), config, offered, signature, output, kept })
    }

    pub fn run(&self, case: &Case, way: Way) -> Result<Outcome, String> {
        let run = || case.steps.iter().map(|step| self.step(case, step, way)).collect();
        if way == Way::AllAtOnce { run() } else { silently(run) }
    }

    fn step(&self, case: &Case, step: &Step, way: Way) -> Result<StepOutcome, String> {
        let mut instance = self.factory.open(&self.config, &self.offered).map_err(|e| e.to_string())?;
        let rows = step.events.num_rows();
        let size = if way == Way::RowByRow { 1 } else { rows.max(1) };
        let mut outcome = StepOutcome::default();
        for from in (0..rows).step_by(size) {
            let batch = step.events.rows.slice(from, size.min(rows - from));
            // a batch of its own memory, as the others are
            let batch = arrow_select::concat::concat_batches(&batch.schema(), [&batch]).map_err(|e| e.to_string())?;
            let columns: Vec<Option<ArrayRef>> = self
                .signature
                .input
                .iter()
                .map(|wanted| column(case, &batch, &wanted.field))
                .collect::<Result<_, _>>()
                .map_err(|e| e.to_string())?;
            let count = u32::try_from(batch.num_rows()).map_err(|e| e.to_string())?;
            let made = instance.process(&columns, count).map_err(|e| e.to_string())?;
            outcome.rejected.extend(made.rejected.into_iter().map(|rejected| rejected.reason));
            let origins = UInt32Array::from(made.origins);
            let rest = self.kept.iter().filter_map(|index| batch.columns().get(*index));
            let rest: Vec<ArrayRef> = rest
                .map(|column| arrow_select::take::take(column, &origins, None))
                .collect::<Result<_, _>>()
                .map_err(|e| e.to_string())?;
            let columns = made.columns.into_iter().chain(rest).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(origins.len()));
            let out = RecordBatch::try_new_with_options(self.output.to_arrow(), columns, &options);
            outcome.rows.push(out.map_err(|e| e.to_string())?);
        }
        Ok(outcome)
    }
}

/// A wanted column of a batch, in the wanted type; none: an optional one that the case lacks.
fn column(case: &Case, batch: &RecordBatch, wanted: &Field) -> Result<Option<ArrayRef>, arrow_schema::ArrowError> {
    let offered = columns::offered(&case.schema.schema, &case.columns);
    let field = offered.iter().find(|(name, _)| *name == wanted.name).map(|(_, field)| &field.name);
    let Some(array) = field.and_then(|name| batch.column_by_name(name)) else { return Ok(None) };
    arrow_cast::cast(array, &wanted.data_type.to_arrow()).map(Some)
}

/// What it wants against what the case has: the same rules as an aggregation's.
fn misfits(case: &Case, plugin: &str, signature: &TransformSignature) -> Vec<columns::Misfit> {
    let spec = spec_of(case, plugin);
    let wanted = Signature {
        input: signature.input.clone(),
        state: Schema::default(),
        output: Schema::default(),
        ordered: false,
    };
    columns::check_signature(&spec, &case.schema.schema, &wanted).1
}
