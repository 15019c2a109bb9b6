//! The tasks of a transform, made from its node.
//!
//! ```text
//!   inputs ─ task i to task i ─▶ NAME/steps ─ by key ─▶ NAME         filter, set, select, plugin, then deduplicate
//!   inputs ─ task i to task i ─▶ NAME                                without deduplicate
//!   inputs ─ by key ───────────▶ NAME                                deduplicate alone
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;
use millrace_core::checkpoint::{InFile, OperatorState, PluginRef};
use millrace_core::key;
use millrace_core::schema::{Field, Schema};
use millrace_core::swap::Version;

use super::deduplicate_task::{DeduplicateTask, operator_state};
use super::edge::{Exchange, Inbox, Output};
use super::failures::Failures;
use super::graph::Graph;
use super::message::{Event, RunError, TaskId};
use super::recorder::{Recorded, Recorder};
use super::run::Parts;
use super::status::PluginGauges;
use super::swaps::Desk;
use super::transform_task::{OpenTransformer, PluginNode, Steps, TransformPlugin, TransformTask, TransformVersions};
use crate::capture::{Captures, Kind};
use crate::plugin::{Info, TransformerFactory};
use crate::spec::columns;
use crate::spec::model::TransformSpec;
use crate::spec::secrets::Secrets;
use crate::spec::transforms::{check_signature, steps};

const STEPS: &str = "/steps";

/// A transform, ready to be run.
pub struct TransformNode {
    pub name: Arc<str>,
    pub spec: TransformSpec,
    /// of its plugin
    pub factory: Option<Arc<dyn TransformerFactory>>,
    /// what the pipeline file gives, where another plugin runs since a swap
    pub in_file: Option<InFile>,
    pub input: Schema,
    pub output: Schema,
}

impl TransformNode {
    /// The node that makes the steps before rows are deduplicated, if it is one of its own. No name has a `/`.
    pub fn steps_name(&self) -> Option<String> {
        (self.spec.deduplicate.is_some() && self.spec.has_steps()).then(|| format!("{}{STEPS}", self.name))
    }

    /// The node whose tasks run its plugin.
    pub fn plugin_node(&self) -> Arc<str> {
        self.steps_name().map_or_else(|| Arc::clone(&self.name), Arc::from)
    }

    /// How rows find the task that deduplicates them.
    pub fn by_key(&self) -> Option<Exchange> {
        let deduplicate = self.spec.deduplicate.as_ref()?;
        Some(Exchange::Key { columns: deduplicate.key.iter().filter_map(|k| self.output.index_of(k)).collect() })
    }

    fn key(&self) -> Vec<Field> {
        let key = self.spec.deduplicate.iter().flat_map(|d| &d.key);
        key.filter_map(|name| self.output.field(name).cloned()).collect()
    }
}

/// What a checkpoint has of each transform that keeps state.
pub fn operator_states(nodes: &[TransformNode]) -> BTreeMap<String, OperatorState> {
    let keeps = |node: &TransformNode| {
        let spec = node.spec.deduplicate.as_ref()?;
        Some((node.name.to_string(), operator_state(spec, node.key())))
    };
    nodes.iter().filter_map(keeps).collect()
}

/// The transform that a node of the graph belongs to.
pub fn transform_of(node: &str) -> &str {
    node.strip_suffix(STEPS).unwrap_or(node)
}

/// What a checkpoint has of each transform that has a plugin.
pub fn plugins(nodes: &[TransformNode], secrets: &Secrets) -> BTreeMap<String, PluginRef> {
    let plugin = |node: &TransformNode| {
        let (spec, factory) = (node.spec.plugin.as_ref()?, node.factory.as_ref()?);
        let Version { name, version, sha256, config } = version(&**factory, &spec.config, secrets);
        let in_file = node.in_file.clone();
        Some((node.name.to_string(), PluginRef { name, version, sha256, config, in_file }))
    };
    nodes.iter().filter_map(plugin).collect()
}

pub fn version(factory: &dyn TransformerFactory, config: &str, secrets: &Secrets) -> Version {
    let Info { name, version, .. } = factory.info().clone();
    Version { name, version, sha256: factory.digest().to_owned(), config: secrets.seal(config) }
}

/// A plugin in a transform's place.
pub struct Fits {
    /// what its steps before give, under the names that it uses
    pub offered: Schema,
    /// of the transform
    pub output: Schema,
}

impl Fits {
    /// An error says why it cannot be there.
    pub fn new(
        spec: &TransformSpec,
        input: &Schema,
        factory: &dyn TransformerFactory,
        config: &str,
    ) -> Result<Self, String> {
        let (Some(steps), Some(plugin)) = (steps(spec, input).0, &spec.plugin) else {
            return Err("the transform has no place for a plugin".to_owned());
        };
        let offered = columns::offered_schema(&steps, &plugin.columns);
        let instance = factory.open(config, &offered).map_err(|e| e.to_string())?;
        let (output, wrong) = check_signature(plugin, &steps, instance.signature());
        if let Some(wrong) = wrong.first() {
            let hints: Vec<String> = wrong.hints.iter().map(|hint| format!("\nhint: {hint}")).collect();
            return Err(format!("{}{}", wrong.message, hints.concat()));
        }
        Ok(Self { offered, output: output.unwrap_or_default() })
    }
}

/// The tasks that make the steps; none if it only deduplicates.
pub fn step_tasks(
    parts: &Parts,
    node: &TransformNode,
    tasks: usize,
    graph: &mut Graph,
    events: &Sender<Event>,
    captures: &Arc<Captures>,
    desk: &Arc<Desk>,
) -> Result<Vec<TransformTask>, RunError> {
    if !node.spec.has_steps() {
        return Ok(Vec::new());
    }
    let name = node.plugin_node();
    let stats = parts.stats.node(&name);
    let each = (0..tasks).map(|task| {
        let plugin = |before: &Schema| match (&node.spec.plugin, &node.factory) {
            (Some(spec), Some(factory)) => {
                let (factory, config) = (Arc::clone(factory), spec.config.clone());
                let offered = columns::offered_schema(before, &spec.columns);
                let recorded = Recorded {
                    kind: Kind::Transform,
                    node: &node.name,
                    plugin: &spec.plugin,
                    info: factory.info(),
                    digest: factory.digest(),
                    limits: factory.limits(),
                    config: &config,
                    offered: &offered,
                };
                let recorder = Recorder::new(captures, &parts.pipeline, &recorded);
                let gauges = PluginGauges::of(version(&*factory, &config, &parts.pipeline.secrets));
                let open: OpenTransformer = Box::new(move || factory.open(&config, &offered));
                let of_node = PluginNode {
                    name: Arc::clone(&node.name),
                    columns: spec.columns.clone(),
                    input: before.clone(),
                    stats: Arc::clone(&stats),
                    consecutive_limit: node.spec.consecutive_limit,
                };
                let mut plugin = TransformPlugin::new(&of_node, open, recorder)?;
                plugin.set_gauges(gauges);
                let id = TaskId { node: Arc::clone(&name), task };
                let slot = parts.stats.status.plugin(&node.name);
                let versions = TransformVersions::new(id, events.clone(), Arc::clone(desk), of_node, slot, plugin);
                Ok(Some(versions))
            }
            _ => Ok(None),
        };
        Ok(TransformTask {
            id: TaskId { node: Arc::clone(&name), task },
            inbox: Inbox::new(graph.inputs(&name, task)),
            outputs: graph.outputs(&name, task),
            failures: Failures::new(
                Arc::clone(&node.name),
                "transform",
                node.spec.on_error,
                node.spec.consecutive_limit,
                errors(node, task, graph),
                Arc::clone(&stats),
            )
            .hiding(parts.pipeline.secrets.clone()),
            events: events.clone(),
            steps: Steps::new(&node.spec, &node.input, plugin)?,
            stats: Arc::clone(&stats),
        })
    });
    each.collect()
}

/// The tasks that deduplicate, if any.
pub fn deduplicate_tasks(
    parts: &Parts,
    node: &TransformNode,
    tasks: usize,
    graph: &mut Graph,
    events: &Sender<Event>,
    restored_ms: Option<i64>,
) -> Vec<DeduplicateTask> {
    let Some(spec) = &node.spec.deduplicate else { return Vec::new() };
    let each = (0..tasks).map(|task| DeduplicateTask {
        id: TaskId { node: Arc::clone(&node.name), task },
        inbox: Inbox::new(graph.inputs(&node.name, task)),
        outputs: graph.outputs(&node.name, task),
        // the steps have them, if there are any
        silent_outputs: errors(node, task, graph),
        events: events.clone(),
        key: node.key(),
        within_ms: spec.within_ms,
        key_groups: key::key_group_range(task, tasks),
        uploader: Arc::clone(&parts.uploader),
        stats: parts.stats.node(&node.name),
        status: parts.stats.status.operator(&node.name, graph.senders(&node.name, task), restored_ms),
    });
    each.collect()
}

fn errors(node: &TransformNode, task: usize, graph: &mut Graph) -> Vec<Output> {
    graph.outputs(&format!("{}.errors", node.name), task)
}
