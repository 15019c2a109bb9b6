//! One run from start to end: what was restored becomes tasks on threads, the coordinator runs until it is over.
//!
//! The order of a start is the order of trust: what can refuse it is asked before anything changes
//! ([`super::beforehand`]); then the checkpoint log is claimed (a newer process fences an older one), then every table
//! (so that nobody else commits), then state is read, and only then is a message fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use millrace_core::checkpoint::{Checkpoint, Holds, InFile, OperatorState, PluginRef, SinkState};
use millrace_core::commit::Fence;
use millrace_core::due::Policy;
use millrace_core::key;
use millrace_core::schema::Schema;
use millrace_core::window::Slicing;
use millrace_core::windower::Windows;
use tracing::{info, warn};

use super::aggregate_task::{InputColumn, Restored, ResultObserver, Spill, StateUploader};
use super::assign::publish_positions;
use super::coordinator::{CheckpointLog, CommittingSink, Coordinator, Finished, Order};
use super::edge::{Inbox, PartitionHash};
use super::graph::wire;
use super::message::{Event, RunError, TaskId};
use super::migration;
use super::monitor::Partitions;
use super::read_state::{self, StateReader, read_state};
use super::restore::{self, Wanted};
use super::sink_task::SinkTask;
use super::sources::{self, Shared};
use super::stats::{RunStats, UNKNOWN};
use super::swaps::{self, Desk, SharedHistory, Swaps};
use super::transforms::{self, TransformNode};
use crate::capture::Captures;
use crate::clock::Clock;
use crate::decode::Decoder;
use crate::failpoint;
use crate::plugin::{Aggregator, AggregatorFactory, StateOrigin};
use crate::sink::{SinkCommitter, SinkWriter};
use crate::source::{Connector, Waker};
use crate::spec::columns;
use crate::spec::model::{AggregationSpec, Backend, Below, EmitSpec, Pipeline, SourceSpec, Start, WindowSpec};
use crate::spec::secrets::Secrets;

/// A source, ready to be read.
pub struct SourceNode {
    pub name: Arc<str>,
    pub spec: SourceSpec,
    pub connector: Arc<dyn Connector>,
    /// one decoder a task
    pub decoder: Box<dyn Fn() -> Result<Box<dyn Decoder>, RunError>>,
}

pub struct AggregationNode {
    pub name: Arc<str>,
    pub spec: AggregationSpec,
    pub factory: Arc<dyn AggregatorFactory>,
    /// what the pipeline file gives, where something else runs since a swap
    pub in_file: Option<InFile>,
    /// the version before, where it still ends windows
    pub drains: Option<Drains>,
    pub input: Schema,
    pub output: Schema,
}

/// A version that ends the windows that began before another one followed it.
#[derive(Clone)]
pub struct Drains {
    pub factory: Arc<dyn AggregatorFactory>,
    /// with its secrets
    pub config: String,
    pub before_ms: i64,
}

/// Opens the writer of a task.
pub type OpenWriter = Box<dyn Fn(usize) -> Result<Box<dyn SinkWriter>, RunError>>;

/// A sink, its table claimed when it has one.
pub struct SinkNode {
    pub name: Arc<str>,
    pub inputs: Vec<String>,
    pub tasks: usize,
    pub writer: OpenWriter,
    pub committer: Option<Arc<dyn SinkCommitter>>,
    pub partition: Option<PartitionHash>,
    /// checkpoints per commit
    pub every: u32,
}

/// Everything a run is made of, handed in.
pub struct Parts {
    pub pipeline: Pipeline,
    pub sources: Vec<SourceNode>,
    pub transforms: Vec<TransformNode>,
    pub aggregations: Vec<AggregationNode>,
    pub sinks: Vec<SinkNode>,
    pub fence: Fence,
    pub next_number: u64,
    /// none: a fresh start
    pub restored: Option<Checkpoint>,
    pub log: Arc<dyn CheckpointLog>,
    pub uploader: Arc<dyn StateUploader>,
    pub reader: Arc<dyn StateReader>,
    pub clock: Arc<dyn Clock>,
    pub runtime: tokio::runtime::Handle,
    pub stats: Arc<RunStats>,
    /// filled from the checkpoint when the run begins
    pub history: SharedHistory,
}

#[derive(Default)]
pub struct RunOptions {
    pub until_end: bool,
    pub keep_open: bool,
    pub drop_state: BTreeSet<String>,
    /// source → where to read from instead of what the checkpoint says
    pub reset_offsets: BTreeMap<String, Start>,
    pub observer: Option<ResultObserver>,
}

/// The window of an operator as a checkpoint names it. Frozen: a change reads as "the window has changed".
pub fn window_name(spec: &AggregationSpec) -> String {
    match spec.window {
        WindowSpec::Tumbling { size_ms, offset_ms } => {
            format!("tumbling size {size_ms} ms offset {offset_ms} ms lateness {} ms", spec.allowed_lateness_ms)
        }
        WindowSpec::Sliding { size_ms, slide_ms, offset_ms } => format!(
            "sliding size {size_ms} ms slide {slide_ms} ms offset {offset_ms} ms lateness {} ms",
            spec.allowed_lateness_ms
        ),
        WindowSpec::Session { gap_ms } => format!("session gap {gap_ms} ms lateness {} ms", spec.allowed_lateness_ms),
        WindowSpec::Global => "global".to_owned(),
    }
}

mod aggregations;

use aggregations::aggregate_task;

pub type Thread = JoinHandle<()>;

/// Runs the pipeline until it is stopped, comes to its end, or fails.
pub fn run(mut parts: Parts, options: RunOptions, orders: Receiver<Order>) -> Result<Finished, RunError> {
    let tasks = parts.pipeline.parallelism.max(1);
    let mut checkpoint = parts.restored.take().unwrap_or_default();
    if checkpoint.incarnation_started_ms == 0 {
        checkpoint.incarnation_started_ms = parts.clock.now_ms();
    }
    let plugins = open_plugins(&parts, tasks)?;
    let mut operators = operator_states(&parts, &plugins);
    operators.extend(transforms::operator_states(&parts.transforms));
    let wanted = Wanted {
        sources: parts.sources.iter().map(|s| &*s.name).collect(),
        operators: operators.iter().map(|(n, o)| (n.as_str(), o)).collect(),
        sinks: parts.sinks.iter().map(|s| &*s.name).collect(),
    };
    let restore::Reconciled { notes, mut migrations } =
        restore::reconcile(&mut checkpoint, &wanted, &options.drop_state)?;
    for origin in migrations.values_mut() {
        origin.config = parts.pipeline.secrets.unseal_known(&origin.config);
    }
    for note in notes {
        info!("{note}");
    }
    for (operator, origin) in &migrations {
        info!(operator, from = origin.version, "state is migrated by its new plugin");
    }
    for (name, operator) in &mut operators {
        operator.draining = checkpoint.operators.get(name).and_then(|operator| operator.draining.clone());
    }
    let draining = operators.iter().filter(|(_, operator)| operator.draining.is_some());
    let draining: BTreeSet<String> = draining.map(|(name, _)| name.clone()).collect();
    claim_tables(&parts, &mut checkpoint)?;
    failpoint::hit(failpoint::CLAIM_AFTER);

    let (events, event_receiver) = unbounded();
    let stop = Arc::new(AtomicBool::new(false));
    let paused = Arc::clone(&parts.stats.status.paused);
    let mut graph = wire(&parts, tasks)?;
    let mut threads: Vec<Thread> = Vec::new();
    let mut all_tasks = BTreeSet::new();

    for sink in &parts.sinks {
        for task in 0..sink.tasks {
            let id = TaskId { node: Arc::clone(&sink.name), task };
            let inbox = Inbox::new(graph.inputs(&sink.name, task));
            if inbox.inputs() == 0 {
                continue;
            }
            all_tasks.insert(id.clone());
            let mut writer = (sink.writer)(task)?;
            writer.restore(checkpoint.sinks.get(&*sink.name).unwrap_or(&SinkState::default()))?;
            let sink_task =
                SinkTask { id: id.clone(), inbox, writer, events: events.clone(), stats: parts.stats.node(&sink.name) };
            threads.push(spawn(id, &events, move || sink_task.run())?);
        }
    }

    let with_plugins = parts.transforms.iter().filter(|node| node.factory.is_some()).map(TransformNode::plugin_node);
    let desks: BTreeMap<String, Arc<Desk>> = parts
        .aggregations
        .iter()
        .map(|node| Arc::clone(&node.name))
        .chain(with_plugins)
        .map(|node| (node.to_string(), Arc::default()))
        .collect();
    *parts.history.lock() = swaps::restored(std::mem::take(&mut checkpoint.swaps), &checkpoint.operators);
    let captures = Arc::new(Captures::new(parts.pipeline.errors.captures.clone()));
    let mut files: BTreeMap<TaskId, read_state::Windows> = BTreeMap::new();
    for (node, instances) in parts.aggregations.iter().zip(plugins) {
        let state = checkpoint.operators.get(&*node.name).cloned().unwrap_or_default();
        let by_task = restore::files_by_task(&state.files, tasks);
        for (task, (plugin, wanted)) in instances.into_iter().zip(by_task).enumerate() {
            let id = TaskId { node: Arc::clone(&node.name), task };
            all_tasks.insert(id.clone());
            let range = key::key_group_range(task, tasks);
            let (mut restored, mut known) = read_state(&*parts.reader, node.spec.key.len(), range, wanted)?;
            let origin = migrations.get(&*node.name);
            if origin.is_some() {
                // what it becomes is in no file yet
                known.retain(|bucket, _| bucket.holds != Holds::State);
                restored.iter_mut().filter(|w| w.holds == Holds::State).for_each(|w| w.clean = false);
            }
            files.insert(id.clone(), known);
            let mut aggregate = aggregate_task(
                &parts,
                node,
                &id,
                tasks,
                plugin,
                desks.get(&*node.name).cloned().unwrap_or_default(),
                &mut graph,
                &events,
                &captures,
                options.observer.clone(),
                state.watermark_ms,
            )?;
            if let Backend::Disk { path } = &parts.pipeline.state.backend {
                let name = format!("{}-{}", node.name, task);
                let folder = path.join(&parts.pipeline.name);
                aggregate.spill = Some(Spill::open(&folder, &name, &aggregate.plugin.signature().state)?);
            }
            let restored = Restored {
                watermark_ms: state.watermark_ms,
                reached: state.reached.clone(),
                late_dropped: if task == 0 { state.late_dropped } else { 0 },
                windows: restored,
                origin: origin.cloned(),
            };
            threads.push(spawn(id, &events, move || aggregate.run(restored))?);
        }
    }

    for node in &parts.transforms {
        let desk = desks.get(&*node.plugin_node()).cloned().unwrap_or_default();
        for task in transforms::step_tasks(&parts, node, tasks, &mut graph, &events, &captures, &desk)? {
            all_tasks.insert(task.id.clone());
            threads.push(spawn(task.id.clone(), &events, move || task.run())?);
        }
        let state = checkpoint.operators.get(&*node.name).cloned().unwrap_or_default();
        let by_task = restore::files_by_task(&state.files, tasks);
        let deduplicating = transforms::deduplicate_tasks(&parts, node, tasks, &mut graph, &events, state.watermark_ms);
        for (task, wanted) in deduplicating.into_iter().zip(by_task) {
            let (restored, known) = read_state(&*parts.reader, task.key.len(), task.key_groups, wanted)?;
            files.insert(task.id.clone(), known);
            all_tasks.insert(task.id.clone());
            let watermark_ms = state.watermark_ms;
            threads.push(spawn(task.id.clone(), &events, move || task.run(watermark_ms, restored))?);
        }
    }

    let shared = Shared { events: &events, orders: &orders, paused: &paused, stop: &stop };
    let sources = sources::start(&parts, &options, &checkpoint, &mut graph, &shared)?;
    all_tasks.extend(sources.handles.iter().map(|(id, _, _)| id.clone()));
    threads.extend(sources.threads);
    drop(graph);
    let gauge_stop = Arc::clone(&stop);
    let gauge_waker = Arc::<Waker>::default();
    let gauge_thread = watch_gauges(&parts.stats, sources.partitions, gauge_stop, &gauge_waker)?;
    drop(events);

    let mut plugin_digests: BTreeMap<String, String> =
        operators.iter().filter_map(|(n, o)| o.plugin.as_ref().map(|p| (n.clone(), p.sha256.clone()))).collect();
    let of_transforms =
        parts.transforms.iter().filter_map(|t| Some((t.name.to_string(), t.factory.as_ref()?.digest())));
    plugin_digests.extend(of_transforms.map(|(node, digest)| (node, digest.to_owned())));
    let sinks = parts
        .sinks
        .iter()
        .filter_map(|s| {
            let committer = s.committer.clone()?;
            let plugins = plugin_digests
                .iter()
                .filter(|(operator, _)| {
                    s.inputs.iter().any(|i| parts.pipeline.upstream(i).contains(&operator.as_str()))
                })
                .map(|(a, b)| (a.clone(), b.clone()))
                .collect();
            Some((s.name.to_string(), CommittingSink { committer, every: s.every, plugins }))
        })
        .collect();
    let connectors: Vec<(Arc<str>, Arc<dyn Connector>)> =
        parts.sources.iter().map(|s| (Arc::clone(&s.name), Arc::clone(&s.connector))).collect();
    let spec = &parts.pipeline.checkpoint;
    let probation = Duration::from_millis(parts.pipeline.swap.probation_ms);
    let swaps = Swaps::new(desks, &all_tasks, parts.history.clone(), probation, draining);
    let coordinator = Coordinator {
        log: Arc::clone(&parts.log),
        runtime: parts.runtime.clone(),
        fence: parts.fence.clone(),
        next_number: parts.next_number,
        interval: Duration::from_millis(spec.interval_ms),
        timeout: Duration::from_millis(spec.timeout_ms),
        min_pause: Duration::from_millis(spec.min_pause_ms),
        tasks: all_tasks,
        sources: sources.handles,
        events: event_receiver,
        orders,
        sinks,
        checkpoint,
        operators,
        transforms: transforms::plugins(&parts.transforms, &parts.pipeline.secrets),
        files,
        paused,
        stats: Arc::clone(&parts.stats),
        clock: Arc::clone(&parts.clock),
        keep_open: options.keep_open,
        stops_when_full: stays_in_memory(&parts.pipeline),
        on_positions: Box::new(move |checkpoint| publish_positions(&connectors, checkpoint)),
        swaps,
        carried: BTreeMap::new(),
    };
    let result = coordinator.run();
    stop.store(true, Relaxed);
    for (thread, waker) in sources.monitors {
        waker.wake();
        join(thread);
    }
    gauge_waker.wake();
    join(gauge_thread);
    // The coordinator's ends of the queues are gone: tasks that have not stopped at the last barrier hang up.
    for thread in threads {
        join(thread);
    }
    result
}

fn join(thread: Thread) {
    if thread.join().is_err() {
        warn!("a thread ended by a panic; its message is above");
    }
}

/// Starts a task's thread; how it ended goes to the coordinator.
pub fn spawn(
    id: TaskId,
    events: &Sender<Event>,
    work: impl FnOnce() -> Result<(), RunError> + Send + 'static,
) -> Result<Thread, RunError> {
    let events = events.clone();
    std::thread::Builder::new()
        .name(id.to_string())
        .spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let event = match result {
                Ok(Ok(())) => Event::Ended { task: id },
                Ok(Err(error)) => Event::Failed { task: id, error },
                Err(panic) => {
                    let said = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied())
                        .unwrap_or("a panic without a message");
                    let error = RunError::Internal(format!("task {id} panicked: {said}"));
                    Event::Failed { task: id, error }
                }
            };
            // a run that is over has no receiver left
            let _ = events.send(event);
        })
        .map_err(|e| RunError::External(format!("cannot start a thread: {e}")))
}

fn open_plugins(parts: &Parts, tasks: usize) -> Result<Vec<Vec<Box<dyn Aggregator>>>, RunError> {
    parts
        .aggregations
        .iter()
        .map(|node| {
            let offered = offered_to_plugin(node);
            (0..tasks).map(|_| node.factory.open(&node.spec.config, &offered).map_err(RunError::from)).collect()
        })
        .collect()
}

/// The input's columns under the names that the plugin uses.
pub(crate) fn offered_to_plugin(node: &AggregationNode) -> Schema {
    columns::offered_schema(&node.input, &node.spec.columns)
}

pub(crate) fn input_columns(node: &AggregationNode, plugin: &dyn Aggregator) -> Vec<InputColumn> {
    let wanted = columns::wanted_columns(&node.input, &node.spec.columns, &plugin.signature().input);
    wanted.map(|(index, field)| InputColumn { index, field: field.clone() }).collect()
}

/// The windows of an aggregation, as the core knows them.
pub(crate) fn windows(spec: &AggregationSpec) -> Windows {
    match spec.window {
        WindowSpec::Tumbling { size_ms, offset_ms } => Windows::Sliced(Slicing::tumbling(size_ms, offset_ms)),
        WindowSpec::Sliding { size_ms, slide_ms, offset_ms } => {
            Windows::Sliced(Slicing::new(size_ms, slide_ms, offset_ms))
        }
        WindowSpec::Session { gap_ms } => Windows::Session { gap_ms },
        WindowSpec::Global => {
            let ttl_ms = spec.state_ttl_ms.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(i64::MAX);
            Windows::Global { ttl_ms }
        }
    }
}

/// What is given of its results, by who reads them.
pub(crate) fn policy(spec: &AggregationSpec, below: Below) -> Policy {
    Policy {
        allowed_lateness_ms: i64::try_from(spec.allowed_lateness_ms).unwrap_or(i64::MAX),
        early: spec.emit != EmitSpec::OnClose,
        sinks: below.sinks,
        operators: below.operators,
    }
}

/// Whether some state has nowhere to go when it does not fit.
fn stays_in_memory(pipeline: &Pipeline) -> bool {
    // an event may join any session of its key
    let in_memory = |window| matches!(window, WindowSpec::Session { .. } | WindowSpec::Global);
    pipeline.state.backend == Backend::Memory || pipeline.aggregations.iter().any(|(_, spec)| in_memory(spec.window))
}

pub(crate) fn every(spec: &AggregationSpec) -> Option<Duration> {
    match spec.emit {
        EmitSpec::OnClose => None,
        EmitSpec::Every { every_ms } => Some(Duration::from_millis(every_ms)),
    }
}

/// Before anything is claimed or written: whether the new version takes all of the state.
pub(super) fn try_migration(
    node: &AggregationNode,
    reader: &dyn StateReader,
    state: &OperatorState,
    origin: &StateOrigin,
) -> Result<(), RunError> {
    let mut plugin = node.factory.open(&node.spec.config, &offered_to_plugin(node))?;
    migration::try_on_a_copy(&node.name, &mut *plugin, origin, state, reader)?;
    Ok(())
}

fn operator_states(parts: &Parts, plugins: &[Vec<Box<dyn Aggregator>>]) -> BTreeMap<String, OperatorState> {
    let nodes = parts.aggregations.iter().zip(plugins);
    nodes
        .map(|(node, instances)| {
            let state = instances.first().map(|p| p.signature().state.clone()).unwrap_or_default();
            (node.name.to_string(), operator_state(node, state, &parts.pipeline.secrets))
        })
        .collect()
}

/// The operator as a checkpoint would have it; `state`: its plugin's columns.
pub(super) fn operator_state(node: &AggregationNode, state: Schema, secrets: &Secrets) -> OperatorState {
    let info = node.factory.info();
    OperatorState {
        key: node.spec.key.iter().filter_map(|k| node.input.field(k).cloned()).collect(),
        window: window_name(&node.spec),
        plugin: Some(PluginRef {
            name: info.name.clone(),
            version: info.version.clone(),
            sha256: node.factory.digest().to_owned(),
            config: secrets.seal(&node.spec.config),
            in_file: node.in_file.clone(),
        }),
        state,
        ..OperatorState::default()
    }
}

/// Claims every table, and takes out of the checkpoint's lists what turns out to be committed already.
fn claim_tables(parts: &Parts, checkpoint: &mut Checkpoint) -> Result<(), RunError> {
    for sink in &parts.sinks {
        let Some(committer) = &sink.committer else { continue };
        let state: &mut SinkState = checkpoint.sinks.entry(sink.name.to_string()).or_default();
        let committed = parts.runtime.block_on(committer.claim(&parts.fence, state))?;
        let waiting = state.pending.len();
        state.pending.retain(|c| c.checkpoint > committed);
        state.confirmed = state.confirmed.max(committed);
        if waiting > 0 {
            info!(
                sink = %sink.name,
                found_committed = waiting - state.pending.len(),
                to_commit = state.pending.len(),
                "commits that the last run had not confirmed"
            );
        }
    }
    Ok(())
}

/// Sums the tasks' gauges up for whoever looks at the run.
fn watch_gauges(
    stats: &Arc<RunStats>,
    partitions: Vec<Partitions>,
    stop: Arc<AtomicBool>,
    waker: &Arc<Waker>,
) -> Result<Thread, RunError> {
    let (stats, waker) = (Arc::clone(stats), Arc::clone(waker));
    std::thread::Builder::new()
        .name("gauges".into())
        .spawn(move || {
            loop {
                // once more when the run is over, for whoever looks last
                let last = stop.load(Relaxed);
                let operators = stats.status.operators();
                let lowest = operators.values().flatten().map(|(_, report)| report.watermark.time_ms).min().flatten();
                stats.watermark_ms.store(lowest.unwrap_or(UNKNOWN), Relaxed);
                let mut lag = 0_i64;
                let mut known = false;
                for source in &partitions {
                    for partition in source.lock().unwrap_or_else(std::sync::PoisonError::into_inner).values() {
                        let (position, end) =
                            (partition.progress.position.load(Relaxed), partition.progress.end.load(Relaxed));
                        if position != UNKNOWN && end != UNKNOWN {
                            known = true;
                            lag = lag.saturating_add(end.saturating_sub(position).max(0));
                        }
                    }
                }
                stats.lag.store(if known { lag } else { UNKNOWN }, Relaxed);
                if last {
                    return;
                }
                waker.wait(Duration::from_millis(200));
            }
        })
        .map_err(|e| RunError::External(format!("cannot start a thread: {e}")))
}
