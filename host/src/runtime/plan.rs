//! What a run of the pipeline file would do with the last checkpoint: the same verdicts as a start's, one node at a time.
//!
//! It reads state where a migration has to be tried, and the tables' columns; nothing is claimed, created or written.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_core::checkpoint::{Checkpoint, OperatorState, PluginRef};
use serde::Serialize;
use tokio::runtime::Handle;

use super::beforehand::Files;
use super::message::RunError;
use super::restore::{self, Reconciled, Wanted};
use super::run::try_migration;
use super::transforms::plugins;
use super::{beforehand, nodes};
use crate::api::words;
use crate::checkpoint::CheckpointStore;
use crate::cli::open::Opened;
use crate::plugin::{Artifact, StateOrigin};
use crate::spec::model::Pipeline;

pub(super) mod tables;
#[cfg(test)]
mod tests;
mod transforms;

pub use tables::Table;

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// the checkpoint does not know it
    New,
    /// goes on as it was
    Kept,
    /// its state is taken over as it is by another build of its plugin
    Swapped,
    /// another version of its plugin makes its own state of what there is
    Migrated,
    /// what the checkpoint has of it is lost
    Dropped,
    /// a run would not start
    Refused,
}

impl Fate {
    /// Nothing is lost, and a run would start.
    pub fn is_harmless(self) -> bool {
        !matches!(self, Self::Dropped | Self::Refused)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    pub name: String,
    pub fate: Fate,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Change>,
    /// of a sink
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
}

/// The plugin of an operator: before, and as the file has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Plugin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Plugin>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plugin {
    pub name: String,
    pub version: String,
    pub sha256: String,
    pub config: String,
    /// what the file lets it do; unknown of what ran before
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// interfaces that the component asks for, besides Millrace's own; none: its bytes are not at hand
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imports: Option<Vec<String>>,
}

impl From<&PluginRef> for Plugin {
    fn from(plugin: &PluginRef) -> Self {
        let PluginRef { name, version, sha256, config, in_file: _ } = plugin.clone();
        Self { name, version, sha256, config, capabilities: Vec::new(), imports: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    pub sources: Vec<Step>,
    pub operators: Vec<Step>,
    pub sinks: Vec<Step>,
}

impl Plan {
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.sources.iter().chain(&self.operators).chain(&self.sinks)
    }
}

/// Whether an operator's new plugin takes its state; `Err`: why not.
pub type TryMigration<'a> = &'a dyn Fn(&str, &OperatorState, &StateOrigin) -> Result<(), RunError>;

pub fn compare(
    checkpoint: &Checkpoint,
    wanted: &Wanted<'_>,
    drop_state: &BTreeSet<String>,
    migrate: TryMigration<'_>,
) -> Plan {
    let mut plan = Plan::default();
    let new = |name: &str| Step { name: name.to_owned(), fate: Fate::New, why: None, plugin: None, table: None };
    for (name, state) in &checkpoint.sources {
        let mut one = Checkpoint::default();
        one.sources.insert(name.clone(), state.clone());
        plan.sources.push(judge(name, one, wanted, drop_state, migrate));
    }
    for (name, state) in &checkpoint.sinks {
        let mut one = Checkpoint::default();
        one.sinks.insert(name.clone(), state.clone());
        plan.sinks.push(judge(name, one, wanted, drop_state, migrate));
    }
    for (name, state) in &checkpoint.operators {
        let mut one = Checkpoint::default();
        one.operators.insert(name.clone(), state.clone());
        let now = wanted.operators.iter().find(|(n, _)| n == name).and_then(|(_, now)| now.plugin.as_ref());
        let plugin = change(state.plugin.as_ref(), now);
        plan.operators.push(Step { plugin, ..judge(name, one, wanted, drop_state, migrate) });
    }
    let unknown = |known: bool, name: &str| (!known).then(|| new(name));
    plan.sources.extend(wanted.sources.iter().filter_map(|n| unknown(checkpoint.sources.contains_key(*n), n)));
    plan.sinks.extend(wanted.sinks.iter().filter_map(|n| unknown(checkpoint.sinks.contains_key(*n), n)));
    for (name, now) in &wanted.operators {
        let plugin = change(None, now.plugin.as_ref());
        let step = unknown(checkpoint.operators.contains_key(*name), name);
        plan.operators.extend(step.map(|step| Step { plugin, ..step }));
    }
    plan
}

/// `one`: what the checkpoint has of this node alone.
fn judge(
    name: &str,
    mut one: Checkpoint,
    wanted: &Wanted<'_>,
    drop_state: &BTreeSet<String>,
    migrate: TryMigration<'_>,
) -> Step {
    let step = |fate, why| Step { name: name.to_owned(), fate, why, plugin: None, table: None };
    if drop_state.contains(name) {
        return step(Fate::Dropped, Some(format!("--drop-state {name}")));
    }
    let Reconciled { notes, migrations } = match restore::reconcile(&mut one, wanted, &BTreeSet::new()) {
        Ok(reconciled) => reconciled,
        Err(error) => return step(Fate::Refused, Some(reason(&error))),
    };
    for (operator, origin) in &migrations {
        let Some(state) = one.operators.get(operator) else { continue };
        if let Err(error) = migrate(operator, state, origin) {
            return step(Fate::Refused, Some(reason(&error)));
        }
    }
    let fate = match (migrations.is_empty(), notes.is_empty()) {
        (false, _) => Fate::Migrated,
        (true, false) => Fate::Swapped,
        (true, true) => Fate::Kept,
    };
    let draining = one.operators.get(name).and_then(|operator| operator.draining.as_ref());
    let why = draining.map(|draining| {
        let before_ms = draining.before_ms;
        format!(
            "its windows that began before {} UTC still end with {} {}",
            words::time(before_ms, before_ms),
            draining.plugin.name,
            draining.plugin.version
        )
    });
    step(fate, why)
}

/// A start's refusal without its first line, which is about all nodes.
fn reason(error: &RunError) -> String {
    let text = match error {
        RunError::Spec(text) => text.clone(),
        other => other.to_string(),
    };
    text.strip_prefix(restore::DOES_NOT_FIT).map_or_else(|| text.clone(), |rest| rest.trim_start().to_owned())
}

fn change(before: Option<&PluginRef>, after: Option<&PluginRef>) -> Option<Change> {
    if before.is_none() && after.is_none() {
        return None;
    }
    Some(Change { before: before.map(Plugin::from), after: after.map(Plugin::from) })
}

/// The whole of it. `found`: the last checkpoint, and where it is. `incarnation`: of the log there.
pub fn make(
    pipeline: &Pipeline,
    opened: &Opened,
    found: Option<(&Checkpoint, &CheckpointStore)>,
    incarnation: Option<&str>,
    drop_state: &BTreeSet<String>,
    runtime: &Handle,
) -> Result<Plan, RunError> {
    let found = found.map(|(checkpoint, store)| {
        (checkpoint, nodes::Reader { store: Arc::new(store.clone()), runtime: runtime.clone() })
    });
    let files = found.as_ref().map(|(checkpoint, reader)| (*checkpoint, reader as &dyn Files));
    let nodes = nodes::open_operators(pipeline, opened, files)?;
    let operators = beforehand::states(pipeline, &nodes)?;
    let wanted = beforehand::wanted(pipeline, &operators);
    let migrate = |operator: &str, state: &OperatorState, origin: &StateOrigin| {
        let node = nodes.aggregations.iter().find(|node| &*node.name == operator);
        let (Some(node), Some((_, reader))) = (node, &found) else { return Ok(()) };
        let config = pipeline.secrets.unseal_known(&origin.config);
        try_migration(node, reader, state, &StateOrigin { config, ..origin.clone() })
    };
    let nothing = Checkpoint::default();
    let checkpoint = found.as_ref().map_or(&nothing, |(checkpoint, _)| checkpoint);
    let mut plan = compare(checkpoint, &wanted, drop_state, &migrate);
    transforms::compare(&mut plan, checkpoint, &plugins(&nodes.transforms, &pipeline.secrets));
    for step in &mut plan.operators {
        let of = pipeline.plugin_nodes().find(|(name, _)| *name == step.name);
        let plugin = of.and_then(|(_, plugin)| pipeline.plugins.get(plugin));
        if let (Some(after), Some(plugin)) = (step.plugin.as_mut().and_then(|c| c.after.as_mut()), plugin) {
            after.capabilities.clone_from(&plugin.capabilities);
        }
        let change = step.plugin.iter_mut().flat_map(|change| change.before.iter_mut().chain(&mut change.after));
        for plugin in change {
            plugin.imports = component(opened, found.as_ref().map(|(_, reader)| reader), &plugin.sha256);
        }
    }
    let rows = |sink: &str| opened.resolved.input.get(sink).cloned().unwrap_or_default();
    for (name, spec) in &pipeline.sinks {
        let Some(step) = plan.sinks.iter_mut().find(|step| step.name == *name) else { continue };
        let columns = nodes::sink_columns(pipeline, spec, &rows(name));
        match runtime.block_on(tables::look_at(pipeline, name, spec, &columns)) {
            Ok(Some(table)) => {
                // every run claims its tables
                let had = checkpoint.sinks.contains_key(name);
                let claim = table.claim.as_ref();
                if let Some(of_another) = claim.filter(|of| Some(of.claim.incarnation.as_str()) != incarnation) {
                    step.fate = Fate::Refused;
                    step.why = Some(of_another.other.clone());
                } else if claim.is_none() && had {
                    step.why = Some(format!(
                        "table {} is not the one of before: what has been committed to that one is not in it, and is not \
                         written again",
                        table.name
                    ));
                }
                step.table = Some(table);
            }
            Ok(None) => {}
            Err(why) => {
                step.fate = Fate::Refused;
                step.why = Some(why);
            }
        }
    }
    Ok(plan)
}

/// What a component asks for, if its bytes are with the file or with the checkpoints.
fn component(opened: &Opened, kept: Option<&nodes::Reader>, sha256: &str) -> Option<Vec<String>> {
    let bytes = match opened.plugin_bytes.get(sha256) {
        Some(bytes) => bytes.clone(),
        None => kept.and_then(|reader| reader.runtime.block_on(reader.store.get_plugin(sha256)).ok())?.into(),
    };
    let artifact = Artifact::from_bytes("plugin", bytes, None).ok()?;
    Some(artifact.imports().iter().filter(|import| !import.starts_with("millrace:")).cloned().collect())
}
