//! The aggregation operator's own tasks, with their queues, fed by hand: a step at a time, each ended by a barrier, so
//! that all that belongs to the step has come out when the next begins.
//!
//! ```text
//!   step ─▶ exchange by key ─▶ task 0 ─┬─▶ results ─┐
//!                          └─▶ task 1 ─┼─▶ .late   ─┼─▶ collectors, until the barrier has come through all three
//!                                      └─▶ .errors ─┘
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arrow_array::{RecordBatch, StringArray, cast::AsArray as _};
use crossbeam_channel::{Receiver, Sender, unbounded};
use millrace_core::barrier::{Barrier, Then};
use millrace_core::batch::Batch;
use millrace_core::checkpoint::BucketId;
use millrace_core::due::Policy;
use millrace_core::key;
use millrace_core::watermark::Watermark;

use crate::plugin::AggregatorFactory;
use crate::runtime::accumulator::{Accumulator, OpenInstance};
use crate::runtime::aggregate_task::{AggregateTask, Export, Restored, RestoredWindow, StateUploader};
use crate::runtime::edge::{Exchange, Inbox, Output, Received, connect};
use crate::runtime::failures::Failures;
use crate::runtime::memory::Memory;
use crate::runtime::message::{END_OF_TIME, Event, Message, RunError, TaskId};
use crate::runtime::read_state::own_groups;
use crate::runtime::run::{AggregationNode, input_columns, offered_to_plugin, windows};
use crate::runtime::stats::NodeStats;
use crate::runtime::versions::Versions;
use crate::spec::model::{OnError, WindowSpec};

/// Inputs kept to bring a failed instance back: more than any case has.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// What came out during one step.
#[derive(Clone, Debug, Default)]
pub struct StepOutcome {
    pub rows: Vec<RecordBatch>,
    /// reasons
    pub rejected: Vec<String>,
    /// reasons
    pub late: Vec<String>,
}

/// What a stopped operator left behind, for another one to go on from.
#[derive(Default)]
pub struct Cut {
    windows: BTreeMap<BucketId, Vec<RecordBatch>>,
    watermark_ms: Option<i64>,
}

/// Running tasks of one aggregation.
pub struct Operator {
    input: Output,
    tasks: Vec<JoinHandle<Result<(), RunError>>>,
    arrivals: Receiver<Arrival>,
    exports: Arc<Exports>,
    barriers: u64,
    /// the tasks report their exports here; nobody coordinates
    _events: Receiver<Event>,
}

enum Arrival {
    Rows(Stream, RecordBatch),
    Barrier,
}

#[derive(Clone, Copy)]
enum Stream {
    Results,
    Late,
    Errors,
}

impl Operator {
    /// Starts `tasks` tasks, from where a cut left off. With `quiet`, what the plugin logs is not shown.
    pub fn start(node: &AggregationNode, tasks: usize, cut: &Cut, quiet: bool) -> Result<Self, RunError> {
        if node.spec.window == WindowSpec::Global {
            return Err(RunError::Spec("a golden case takes windows that end".to_owned()));
        }
        let columns: Vec<usize> = node.spec.key.iter().filter_map(|k| node.input.index_of(k)).collect();
        let (inputs, mut inboxes) = connect(&Exchange::Key { columns: columns.into() }, None, 1, tasks);
        let side = || connect(&Exchange::Forward, None, tasks, 1);
        let ((results, from_results), (late, from_late), (errors, from_errors)) = (side(), side(), side());
        let mut outputs = results.into_iter().zip(late).zip(errors);
        let (events, event_receiver) = unbounded();
        let exports = Arc::<Exports>::default();
        let stats = Arc::<NodeStats>::default();
        let memory = Arc::<Memory>::default();
        let mut threads = Vec::new();
        for (task, inbox) in inboxes.drain(..).enumerate() {
            let Some(((results, late), errors)) = outputs.next() else { break };
            let plugin = node.factory.open(&node.spec.config, &offered_to_plugin(node))?;
            let input = input_columns(node, &*plugin);
            let key_groups = key::key_group_range(task, tasks);
            let mut restored = Vec::new();
            for (&BucketId { holds, start_ms, .. }, batches) in &cut.windows {
                let batches = own_groups(batches, node.spec.key.len(), key_groups)?;
                restored.push(RestoredWindow { holds, start_ms, batches, clean: false, files: 0 });
            }
            let aggregate = AggregateTask {
                id: TaskId { node: Arc::clone(&node.name), task },
                inbox: Inbox::new(inbox),
                outputs: vec![results],
                late_outputs: vec![late],
                failures: Failures::new(
                    Arc::clone(&node.name),
                    "aggregation",
                    OnError::DeadLetter,
                    u64::MAX,
                    vec![errors],
                    Arc::clone(&stats),
                ),
                events: events.clone(),
                plugin: Versions::new(
                    TaskId { node: Arc::clone(&node.name), task },
                    events.clone(),
                    Accumulator::new(
                        Arc::clone(&node.name),
                        plugin,
                        reopen(node),
                        KEPT_BYTES_MAX,
                        Arc::clone(&stats),
                        None,
                        u64::MAX,
                    ),
                    input,
                    Arc::default(),
                ),
                desk: Arc::default(),
                kept_bytes_max: KEPT_BYTES_MAX,
                consecutive_limit: u64::MAX,
                is_correctable: false,
                windows: windows(&node.spec),
                // each result once, when it is final
                policy: Policy { sinks: true, ..Policy::default() },
                every: None,
                key: node.spec.key.iter().filter_map(|k| node.input.field(k).cloned()).collect(),
                output_schema: node.output.to_arrow(),
                key_groups,
                uploader: Arc::clone(&exports) as Arc<dyn StateUploader>,
                stats: Arc::clone(&stats),
                status: Arc::default(),
                memory: Arc::clone(&memory),
                memory_share: memory.task(TaskId { node: Arc::clone(&node.name), task }, u64::MAX, u64::MAX),
                spill: None,
                observer: None,
            };
            let restored = Restored { watermark_ms: cut.watermark_ms, windows: restored, ..Restored::default() };
            threads.push(spawn(quiet, move || aggregate.run(restored))?);
        }
        let (arrived, arrivals) = unbounded();
        for (stream, mut inputs) in
            [(Stream::Results, from_results), (Stream::Late, from_late), (Stream::Errors, from_errors)]
        {
            let inbox = Inbox::new(inputs.pop().unwrap_or_default());
            let arrived = arrived.clone();
            spawn(true, move || collect(stream, inbox, &arrived))?;
        }
        let input = inputs.into_iter().next().ok_or_else(|| RunError::Internal("no queue was made".into()))?;
        Ok(Self { input, tasks: threads, arrivals, exports, barriers: 0, _events: event_receiver })
    }

    /// Events, then the watermark, then (in the last step) the end of time; and all that comes of it.
    pub fn step(
        &mut self,
        events: &Arc<Batch>,
        watermark_ms: Option<i64>,
        to_the_end: bool,
    ) -> Result<StepOutcome, RunError> {
        // a hangup shows at the barrier, with its reason
        let _ = self.input.rows(events)?;
        if watermark_ms.is_some() {
            let _ = self.input.broadcast(&Message::Watermark(Watermark { time_ms: watermark_ms, idle: false }));
        }
        if to_the_end {
            let _ = self.input.broadcast(&Message::Watermark(END_OF_TIME));
        }
        self.barrier(Then::Continue)
    }

    /// Takes a checkpoint and stops all tasks.
    pub fn stop(mut self) -> Result<Cut, RunError> {
        self.barrier(Then::Stop)?;
        self.join()?;
        self.exports.cut()
    }

    fn barrier(&mut self, then: Then) -> Result<StepOutcome, RunError> {
        self.barriers += 1;
        let _ = self.input.broadcast(&Message::Barrier(Barrier { checkpoint: self.barriers, then }));
        let mut outcome = StepOutcome::default();
        let mut open = 3;
        while open > 0 {
            match self.arrivals.recv() {
                Ok(Arrival::Rows(Stream::Results, rows)) => outcome.rows.push(rows),
                Ok(Arrival::Rows(Stream::Late, rows)) => outcome.late.extend(reasons(&rows)),
                Ok(Arrival::Rows(Stream::Errors, rows)) => outcome.rejected.extend(reasons(&rows)),
                Ok(Arrival::Barrier) => open -= 1,
                // the collectors end when a task does: one has failed
                Err(_) => {
                    self.join()?;
                    return Err(RunError::Internal("a task ended before its input did".into()));
                }
            }
        }
        Ok(outcome)
    }

    /// Waits for the tasks, whose inputs end here; the first failure counts.
    fn join(&mut self) -> Result<(), RunError> {
        let (gone, _) = connect(&Exchange::Forward, None, 1, 0);
        self.input = gone.into_iter().next().ok_or_else(|| RunError::Internal("no queue was made".into()))?;
        for task in self.tasks.drain(..) {
            task.join().map_err(|_| RunError::Internal("a task panicked; its message is above".into()))??;
        }
        Ok(())
    }
}

fn reopen(node: &AggregationNode) -> OpenInstance {
    let (factory, config): (Arc<dyn AggregatorFactory>, _) = (Arc::clone(&node.factory), node.spec.config.clone());
    let offered = offered_to_plugin(node);
    Arc::new(move || factory.open(&config, &offered))
}

fn spawn<T: Send + 'static>(quiet: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, RunError> {
    let work = move || if quiet { silently(work) } else { work() };
    std::thread::Builder::new().spawn(work).map_err(|e| RunError::External(format!("cannot start a thread: {e}")))
}

/// Without log records of this thread: what a plugin says is worth reading once.
pub fn silently<T>(work: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), work)
}

fn collect(stream: Stream, mut inbox: Inbox, arrived: &Sender<Arrival>) {
    loop {
        let arrival = match inbox.receive(None) {
            Ok(Received::Rows(packet)) => Arrival::Rows(stream, packet.rows.batch.rows.clone()),
            Ok(Received::Barrier(_)) => Arrival::Barrier,
            Ok(Received::Watermark { .. } | Received::Nothing) => continue,
            Ok(Received::Hangup) | Err(_) => return,
        };
        // nobody waits any more: the operator is gone
        if arrived.send(arrival).is_err() {
            return;
        }
    }
}

/// The column `reason` of a side stream.
fn reasons(rows: &RecordBatch) -> Vec<String> {
    let column: Option<&StringArray> = rows.column_by_name("reason").and_then(|c| c.as_string_opt());
    column.map(|c| c.iter().map(|reason| reason.unwrap_or_default().to_owned()).collect()).unwrap_or_default()
}

/// Checkpoints of all tasks, in memory: by task and window, the last one counts.
#[derive(Default)]
struct Exports {
    state: Mutex<ExportsState>,
}

#[derive(Default)]
struct ExportsState {
    windows: BTreeMap<(usize, BucketId), Vec<RecordBatch>>,
    watermark_ms: Option<i64>,
    failed: Option<RunError>,
}

impl StateUploader for Exports {
    fn submit(&self, export: Export, _: Sender<Event>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let task = export.task.task;
        state.windows.retain(|(of, bucket), _| *of != task || export.unchanged.contains(bucket));
        for exported in export.windows {
            let bucket = BucketId { holds: exported.holds, start_ms: exported.window.start_ms, part: exported.part };
            match exported.batches.make() {
                Ok(batches) => drop(state.windows.insert((task, bucket), batches)),
                Err(error) => state.failed = Some(error),
            }
        }
        // all tasks have the same inputs, and so the same watermark
        state.watermark_ms = export.watermark_ms;
    }
}

impl Exports {
    fn cut(&self) -> Result<Cut, RunError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let mut windows: BTreeMap<BucketId, Vec<RecordBatch>> = BTreeMap::new();
        for ((_, bucket), batches) in &state.windows {
            windows.entry(*bucket).or_default().extend(batches.iter().cloned());
        }
        Ok(Cut { windows, watermark_ms: state.watermark_ms })
    }
}
