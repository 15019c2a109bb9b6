//! Cases of transforms: rows in, rows out, in the order in which they came, through the step that a transform operator
//! makes of its plugin. A transform keeps nothing, so all rows of a step in one batch and one row a batch must give the
//! same.

use std::sync::Arc;

use millrace_core::schema::Schema;

use super::case::{Case, Step};
use super::operator::{StepOutcome, silently};
use super::run::{Outcome, located, refused};
use crate::capture::Place;
use crate::plugin::TransformerFactory;
use crate::runtime::message::RunError;
use crate::runtime::transform_task::{OpenTransformer, PluginNode, TransformPlugin};
use crate::spec::columns;
use crate::spec::diagnostic::Diagnostics;
use crate::spec::model::TransformPluginSpec;
use crate::spec::transforms::check_signature;

/// A transform as a case uses it.
pub struct TransformSubject {
    factory: Arc<dyn TransformerFactory>,
    spec: TransformPluginSpec,
    input: Schema,
    /// the plugin's columns, then those of the input that it does not give
    pub output: Schema,
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
        let input = case.schema.schema.clone();
        let spec = TransformPluginSpec {
            plugin: factory.info().name.clone(),
            config: case.config.clone(),
            columns: case.columns.clone(),
        };
        let offered = columns::offered_schema(&input, &case.columns);
        let instance = factory.open(&spec.config, &offered).map_err(|error| refused(case, &error))?;
        match check_signature(&spec, &input, instance.signature()) {
            (Some(output), wrong) if wrong.is_empty() => Ok(Self { factory: Arc::clone(factory), spec, input, output }),
            (_, wrong) => Err(located(case, wrong)),
        }
    }

    pub fn run(&self, case: &Case, way: Way) -> Result<Outcome, String> {
        let run = || case.steps.iter().map(|step| self.step(step, way)).collect::<Result<_, RunError>>();
        let outcome = if way == Way::AllAtOnce { run() } else { silently(run) };
        outcome.map_err(|error| error.to_string())
    }

    fn step(&self, step: &Step, way: Way) -> Result<StepOutcome, RunError> {
        let (factory, config) = (Arc::clone(&self.factory), self.spec.config.clone());
        let offered = columns::offered_schema(&self.input, &self.spec.columns);
        let open: OpenTransformer = Box::new(move || factory.open(&config, &offered));
        let node = PluginNode {
            name: "case".into(),
            columns: self.spec.columns.clone(),
            input: self.input.clone(),
            stats: Arc::default(),
            consecutive_limit: u64::MAX,
        };
        let mut plugin = TransformPlugin::new(&node, open, None)?;
        let rows = step.events.num_rows();
        let size = if way == Way::RowByRow { 1 } else { rows.max(1) };
        let mut outcome = StepOutcome::default();
        for from in (0..rows).step_by(size) {
            let batch = step.events.rows.slice(from, size.min(rows - from));
            // a batch of its own memory, as the others are
            let batch = arrow_select::concat::concat_batches(&batch.schema(), [&batch])?;
            let (rows, _, failed) = plugin.apply(&batch, &|_| Place::default())?;
            outcome.rejected.extend(failed.into_iter().map(|(_, reason)| reason));
            outcome.rows.push(rows);
        }
        Ok(outcome)
    }
}
