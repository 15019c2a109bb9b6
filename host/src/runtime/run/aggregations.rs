//! One task of an aggregation, made of its node: the instances of its plugin, what it reads and writes, its bounds.

use std::sync::Arc;

use crossbeam_channel::Sender;
use millrace_core::cut::Cut;
use millrace_core::key;
use millrace_core::limits::KEPT_INPUTS_SHARE;
use millrace_core::swap::Version;
use millrace_core::windower::Windows;

use super::{AggregationNode, Parts, every, input_columns, offered_to_plugin, policy, windows};
use crate::capture::{Captures, Kind};
use crate::plugin::{Aggregator, AggregatorFactory};
use crate::runtime::accumulator::{Accumulator, OpenInstance};
use crate::runtime::aggregate_task::{AggregateTask, ResultObserver};
use crate::runtime::edge::Inbox;
use crate::runtime::failures::Failures;
use crate::runtime::graph::Graph;
use crate::runtime::message::{Event, RunError, TaskId};
use crate::runtime::recorder::{Recorded, Recorder};
use crate::runtime::stats::NodeStats;
use crate::runtime::status::PluginGauges;
use crate::runtime::swaps::Desk;
use crate::runtime::versions::Versions;
use crate::runtime::versions::draining::Draining;

#[allow(clippy::too_many_arguments, reason = "each is a part of the task that only `run` has")]
pub(super) fn aggregate_task(
    parts: &Parts,
    node: &AggregationNode,
    id: &TaskId,
    tasks: usize,
    plugin: Box<dyn Aggregator>,
    desk: Arc<Desk>,
    graph: &mut Graph,
    events: &Sender<Event>,
    captures: &Arc<Captures>,
    observer: Option<ResultObserver>,
    restored_ms: Option<i64>,
) -> Result<AggregateTask, RunError> {
    let stats = parts.stats.node(&node.name);
    let status = parts.stats.status.operator(&node.name, graph.senders(&node.name, id.task), restored_ms);
    let input = input_columns(node, &*plugin);
    let kept_bytes_max = kept_inputs_bytes(parts.pipeline.state.memory_limit_bytes, parts.aggregations.len() * tasks);
    let build = Build { parts, node, captures, kept_bytes_max, stats: &stats };
    let draining = node.drains.as_ref().and_then(|drains| match windows(&node.spec) {
        Windows::Sliced(slicing) => Some((drains, Cut::new(slicing, drains.before_ms))),
        Windows::Session { .. } | Windows::Global { .. } => None,
    });
    let draining = draining.map(|(drains, cut)| {
        let plugin = drains.factory.open(&drains.config, &offered_to_plugin(node))?;
        let input = input_columns(node, &*plugin);
        Ok::<_, RunError>(Draining::new(cut, build.accumulator(&drains.factory, &drains.config, plugin), input))
    });
    let draining = draining.transpose()?;
    let accumulator = build.accumulator(&node.factory, &node.spec.config, plugin);
    let slot = parts.stats.status.plugin(&node.name);
    let versions = Versions::new(id.clone(), events.clone(), accumulator, input, slot).with_draining(draining);
    Ok(AggregateTask {
        id: id.clone(),
        inbox: Inbox::new(graph.inputs(&node.name, id.task)),
        outputs: graph.outputs(&node.name, id.task),
        late_outputs: graph.outputs(&format!("{}.late", node.name), id.task),
        failures: Failures::new(
            Arc::clone(&node.name),
            "aggregation",
            node.spec.on_error,
            node.spec.consecutive_limit,
            graph.outputs(&format!("{}.errors", node.name), id.task),
            Arc::clone(&stats),
        )
        .hiding(parts.pipeline.secrets.clone()),
        events: events.clone(),
        plugin: versions,
        desk,
        kept_bytes_max,
        consecutive_limit: node.spec.consecutive_limit,
        is_correctable: parts.pipeline.below(&node.name).corrects,
        windows: windows(&node.spec),
        policy: policy(&node.spec, parts.pipeline.below(&node.name)),
        every: every(&node.spec),
        key: node.spec.key.iter().filter_map(|k| node.input.field(k).cloned()).collect(),
        output_schema: node.output.to_arrow(),
        key_groups: key::key_group_range(id.task, tasks),
        uploader: Arc::clone(&parts.uploader),
        stats,
        status,
        memory: Arc::clone(&parts.stats.status.memory),
        memory_share: parts.stats.status.memory.task(
            id.clone(),
            parts.pipeline.memory_share_bytes(),
            parts.pipeline.state.memory_limit_bytes,
        ),
        spill: None,
        observer,
    })
}

/// What the accumulators of one task have in common.
struct Build<'a> {
    parts: &'a Parts,
    node: &'a AggregationNode,
    captures: &'a Arc<Captures>,
    kept_bytes_max: usize,
    stats: &'a Arc<NodeStats>,
}

impl Build<'_> {
    fn accumulator(
        &self,
        factory: &Arc<dyn AggregatorFactory>,
        config: &str,
        plugin: Box<dyn Aggregator>,
    ) -> Accumulator {
        let (parts, node) = (self.parts, self.node);
        let offered = offered_to_plugin(node);
        let recorded = Recorded {
            kind: Kind::Aggregation,
            node: &node.name,
            plugin: &node.spec.plugin,
            info: factory.info(),
            digest: factory.digest(),
            limits: factory.limits(),
            config,
            offered: &offered,
        };
        let recorder = Recorder::new(self.captures, &parts.pipeline, &recorded);
        let open: OpenInstance = {
            let (factory, config) = (Arc::clone(factory), config.to_owned());
            Arc::new(move || factory.open(&config, &offered))
        };
        let (stats, limit) = (Arc::clone(self.stats), node.spec.consecutive_limit);
        let mut accumulator =
            Accumulator::new(Arc::clone(&node.name), plugin, open, self.kept_bytes_max, stats, recorder, limit);
        if node.spec.aggregates.is_empty() {
            accumulator.set_gauges(PluginGauges::of(Version {
                name: factory.info().name.clone(),
                version: factory.info().version.clone(),
                sha256: factory.digest().to_owned(),
                config: parts.pipeline.secrets.seal(config),
            }));
        }
        accumulator
    }
}

fn kept_inputs_bytes(memory_limit: u64, tasks: usize) -> usize {
    let tasks = u64::try_from(tasks.max(1)).unwrap_or(u64::MAX);
    usize::try_from(memory_limit / KEPT_INPUTS_SHARE / tasks).unwrap_or(usize::MAX)
}
