//! Starts the sources of a run: a task per source and unit of parallelism, a monitor per source, and what they share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, unbounded};
use millrace_core::checkpoint::Checkpoint;
use millrace_core::idleness::Together;

use super::assign::assign;
use super::coordinator::Order;
use super::failures::Failures;
use super::graph::Graph;
use super::message::{Event, RunError, TaskId};
use super::monitor::{Monitor, Partitions};
use super::run::{Parts, RunOptions, Thread, spawn};
use super::source_task::drift::{Drift, DriftSlot, meeting};
use super::source_task::{Command, SourceTask};
use super::status::SourceStatus;
use crate::clock::{Clock, NeverBack};
use crate::source::Waker;
use crate::spec::model::{Pipeline, TimeSpec, WhenIdle};

/// How a task is told something.
pub type SourceHandle = (TaskId, Sender<Command>, Arc<Waker>);

/// What runs once the sources are started.
#[derive(Default)]
pub struct Sources {
    pub handles: Vec<SourceHandle>,
    pub threads: Vec<Thread>,
    pub monitors: Vec<(Thread, Arc<Waker>)>,
    pub partitions: Vec<Partitions>,
}

/// What the sources share with the rest of the run.
pub struct Shared<'a> {
    pub events: &'a Sender<Event>,
    pub orders: &'a Receiver<Order>,
    pub paused: &'a Arc<AtomicBool>,
    pub stop: &'a Arc<AtomicBool>,
}

/// An order to stop that comes before all is opened ends the run: nothing has been read yet.
pub fn start(
    parts: &Parts,
    options: &RunOptions,
    checkpoint: &Checkpoint,
    graph: &mut Graph,
    shared: &Shared<'_>,
) -> Result<Sources, RunError> {
    let tasks = parts.pipeline.parallelism.max(1);
    let started = parts.stats.status.started;
    let processing = processing_clock(&parts.pipeline, &parts.clock, checkpoint);
    let wakers: Vec<Arc<Waker>> = (0..tasks * parts.sources.len()).map(|_| Arc::default()).collect();
    let drift = drift_slots(parts, tasks, &wakers);
    parts.stats.status.memory.wakes(&wakers);
    let mut sources = Sources::default();
    let mut pause = |pause| match shared.orders.recv_timeout(pause) {
        Ok(Order::Stop { .. }) => true,
        // nobody can ask for anything else yet: see [`SharedHistory::open`](super::swaps::SharedHistory::open)
        Ok(_) => false,
        Err(error) => {
            if error.is_disconnected() {
                std::thread::sleep(pause);
            }
            false
        }
    };
    for (number, node) in parts.sources.iter().enumerate() {
        let bound_ms = if processing.is_some() { 0 } else { node.spec.watermark.out_of_orderness_ms };
        let bound_ms = i64::try_from(bound_ms).unwrap_or(i64::MAX);
        let (assigned, partitions) = assign(node, checkpoint, options, tasks, bound_ms, &mut pause)?;
        let source = SourceStatus { watermark: node.spec.watermark, partitions: Arc::clone(&partitions) };
        parts.stats.status.source(&node.name, source);
        let advances = node.spec.watermark.when_idle == WhenIdle::Advance && !options.until_end;
        let together = (advances && processing.is_none()).then(|| Arc::new(Mutex::new(Together::new(tasks))));
        let mut handles = Vec::new();
        for (task, assigned) in assigned.into_iter().enumerate() {
            let id = TaskId { node: Arc::clone(&node.name), task };
            let slot = number * tasks + task;
            let (commands, command_receiver) = unbounded();
            let waker = wakers.get(slot).cloned().unwrap_or_default();
            handles.push((commands.clone(), Arc::clone(&waker)));
            sources.handles.push((id.clone(), commands, Arc::clone(&waker)));
            let stats = parts.stats.node(&node.name);
            let source = SourceTask {
                id: id.clone(),
                connector: Arc::clone(&node.connector),
                decoder: (node.decoder)()?,
                watermark: node.spec.watermark,
                bound_ms,
                metadata: node.spec.metadata.clone(),
                output_schema: node.spec.output.to_arrow(),
                outputs: graph.outputs(&node.name, task),
                failures: Failures::new(
                    Arc::clone(&node.name),
                    "source",
                    node.spec.on_error,
                    node.spec.consecutive_limit,
                    graph.outputs(&format!("{}.errors", node.name), task),
                    Arc::clone(&stats),
                ),
                commands: command_receiver,
                events: shared.events.clone(),
                waker,
                clock: Arc::clone(&parts.clock),
                processing: processing.clone(),
                started,
                stats,
                memory: Arc::clone(&parts.stats.status.memory),
                drift: drift.as_ref().and_then(|slots| slots.get(slot).cloned()),
                together: together.clone(),
                paused: Arc::clone(shared.paused),
                bounded: options.until_end,
                waiting: Default::default(),
            };
            sources.threads.push(spawn(id, shared.events, move || source.run(assigned))?);
        }
        let waker = Arc::<Waker>::default();
        let monitor = Monitor {
            source: Arc::clone(&node.name),
            connector: Arc::clone(&node.connector),
            partitions: Arc::clone(&partitions),
            tasks: handles,
            events: shared.events.clone(),
            started,
            stop: Arc::clone(shared.stop),
            waker: Arc::clone(&waker),
            discover: !options.until_end,
            idle_timeout_ms: node.spec.watermark.idle_timeout_ms,
        };
        sources.partitions.push(partitions);
        let name = format!("monitor-{}", node.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || monitor.run());
        let thread = thread.map_err(|e| RunError::External(format!("cannot start a thread: {e}")))?;
        sources.monitors.push((thread, waker));
    }
    Ok(sources)
}

/// With `time = "processing"`: one clock for all sources, never behind where the checkpoint had come to.
fn processing_clock(pipeline: &Pipeline, clock: &Arc<dyn Clock>, checkpoint: &Checkpoint) -> Option<Arc<dyn Clock>> {
    if pipeline.time != TimeSpec::Processing {
        return None;
    }
    let partitions = checkpoint.sources.values().flat_map(|s| &s.partitions).map(|p| p.watermark_ms);
    let reached = partitions.chain(checkpoint.operators.values().map(|o| o.watermark_ms)).flatten().max();
    // an event at the watermark itself would be late
    let from_ms = reached.map_or(i64::MIN, |ms| ms.saturating_add(1));
    Some(Arc::new(NeverBack::new(Arc::clone(clock), from_ms)))
}

/// By task of all sources; none if event time follows the clock.
fn drift_slots(parts: &Parts, tasks: usize, wakers: &[Arc<Waker>]) -> Option<Vec<DriftSlot>> {
    let pipeline = &parts.pipeline;
    if pipeline.time == TimeSpec::Processing {
        return None;
    }
    let transforms = pipeline.transforms.iter().map(|(name, _)| name);
    let operators: Vec<Vec<usize>> = transforms
        .chain(pipeline.aggregations.iter().map(|(name, _)| name))
        .map(|operator| {
            let upstream = pipeline.upstream(operator);
            (0..).zip(&parts.sources).filter(|(_, s)| upstream.contains(&&*s.name)).map(|(number, _)| number).collect()
        })
        .collect();
    let meets = meeting(parts.sources.len(), &operators);
    let drift = Drift::new(wakers.to_vec());
    let slots = meets.iter().enumerate().flat_map(|(number, sources)| {
        let all: Arc<[usize]> = sources.iter().flat_map(|s| s * tasks..(s + 1) * tasks).collect();
        let drift = &drift;
        (0..tasks).map(move |task| drift.slot(number * tasks + task, Arc::clone(&all)))
    });
    Some(slots.collect())
}
