//! A case through the real operator, in every way that must give the same: one task, two tasks, and stopped at a
//! checkpoint in the middle and gone on from it with another number of tasks.

use std::sync::Arc;

use millrace_core::schema::Schema;

use super::case::Case;
use super::operator::{Cut, Operator, StepOutcome};
use crate::plugin::{AggregatorFactory, PluginError, Signature};
use crate::runtime::run::AggregationNode;
use crate::spec::columns::{self, Misfit};
use crate::spec::diagnostic::{Diagnostic, Diagnostics};
use crate::spec::model::{AggregationSpec, EmitSpec, OnError, WindowSpec};

/// A plugin as a case uses it: opened and checked against the case's columns.
pub struct Subject {
    pub node: AggregationNode,
    pub signature: Signature,
}

/// What came out, by step.
pub type Outcome = Vec<StepOutcome>;

/// A way to run a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Tasks(usize),
    /// so many tasks until the middle, then another process with so many
    Restored(usize, usize),
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Tasks(1), Self::Tasks(2), Self::Restored(2, 1)];
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tasks(1) => write!(f, "with one task"),
            Self::Tasks(tasks) => write!(f, "with parallelism {tasks}"),
            Self::Restored(..) => write!(f, "stopped in the middle and restored from its checkpoint"),
        }
    }
}

impl Subject {
    /// Opens the plugin with the case's configuration and columns; what does not fit is shown in the case's file.
    pub fn open(factory: &Arc<dyn AggregatorFactory>, case: &Case) -> Result<Self, Diagnostics> {
        let input = case.schema.schema.clone();
        let spec = spec_of(case, &factory.info().name);
        let wrong = columns::check_aggregation(&spec, &input);
        if !wrong.is_empty() {
            return Err(located(case, wrong));
        }
        let offered = columns::offered_schema(&input, &spec.columns);
        let instance = factory.open(&spec.config, &offered).map_err(|error| refused(case, &error))?;
        let signature = instance.signature().clone();
        let (output, wrong) = columns::check_signature(&spec, &input, &signature);
        match output {
            Some(output) if wrong.is_empty() => {
                let node = AggregationNode {
                    name: factory.info().name.as_str().into(),
                    spec,
                    factory: Arc::clone(factory),
                    input,
                    output,
                    in_file: None,
                    drains: None,
                };
                Ok(Self { node, signature })
            }
            _ => Err(located(case, wrong)),
        }
    }

    /// Key columns, `window_start`, `window_end`, the plugin's columns.
    pub fn output(&self) -> &Schema {
        &self.node.output
    }

    /// Runs a case; the first run of a case is the one whose log is shown.
    pub fn run(&self, case: &Case, way: Way) -> Result<Outcome, String> {
        let quiet = way != Way::Tasks(1);
        let (tasks, then) = match way {
            Way::Tasks(tasks) => (tasks, None),
            Way::Restored(tasks, then) => (tasks, Some(then)),
        };
        let middle = case.steps.len().div_ceil(2);
        let run = || {
            let mut operator = Operator::start(&self.node, tasks, &Cut::default(), quiet)?;
            let mut outcome = Outcome::new();
            for (index, step) in case.steps.iter().enumerate() {
                let events = Arc::new(step.events.clone());
                let last = index + 1 == case.steps.len();
                let Some(then) = then.filter(|_| index + 1 == middle) else {
                    outcome.push(operator.step(&events, step.watermark_ms, last)?);
                    continue;
                };
                // half way: the step's events and watermark before the cut, the end of time after it
                let mut came = operator.step(&events, step.watermark_ms, false)?;
                let cut = operator.stop()?;
                operator = Operator::start(&self.node, then, &cut, quiet)?;
                if last {
                    let none = super::case::batch(step.events.rows.slice(0, 0), Vec::new());
                    let rest = operator.step(&Arc::new(none), None, true)?;
                    came.rows.extend(rest.rows);
                }
                outcome.push(came);
            }
            operator.stop()?;
            Ok(outcome)
        };
        run().map_err(|error: crate::runtime::message::RunError| error.to_string())
    }
}

/// The case as an aggregation of a pipeline; a transform has no key, and its window says nothing.
fn spec_of(case: &Case, plugin: &str) -> AggregationSpec {
    AggregationSpec {
        inputs: Vec::new(),
        key: case.key.clone(),
        window: case.window.unwrap_or(WindowSpec::Tumbling { size_ms: 1, offset_ms: 0 }),
        allowed_lateness_ms: 0,
        emit: EmitSpec::OnClose,
        state_ttl_ms: None,
        plugin: plugin.to_owned(),
        aggregates: Vec::new(),
        config: case.config.clone(),
        columns: case.columns.clone(),
        on_error: OnError::DeadLetter,
        consecutive_limit: u64::MAX,
    }
}

/// What does not fit, where the case's file says it.
pub fn located(case: &Case, wrong: Vec<Misfit>) -> Diagnostics {
    let found = wrong.into_iter().map(|misfit| {
        let keys: Vec<&str> = misfit.keys.iter().map(String::as_str).collect();
        let mut found = Diagnostic::error(case.spans.value(&keys), misfit.message);
        found.hints = misfit.hints;
        found
    });
    case.wrong(found.collect())
}

/// The plugin does not open with what the case offers.
pub fn refused(case: &Case, error: &PluginError) -> Diagnostics {
    let place = if case.spans.has(&["config"]) { "config" } else { "schema" };
    case.wrong(vec![
        Diagnostic::error(case.spans.key(&[place]), error.to_string())
            .hint("`millrace plugin inspect` shows which options and columns it takes"),
    ])
}
