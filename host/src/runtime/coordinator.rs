//! Checkpoints and commits: triggers barriers, collects what the tasks acknowledge, publishes, commits, retains.
//!
//! ```text
//!   trigger n ─▶ all tasks acknowledge n ─▶ join small files where a commit is due ─▶ publish record n   (durable)
//!                                                                                         │
//!        record n+1 lists what is not confirmed yet ◀── confirmed ◀── committer ◀── commit ─┘
//! ```
//!
//! One checkpoint is under way at a time; commits go on beside it, in order, per sink. More than
//! [`COMMITS_WAITING_MAX`] unconfirmed ones hold the intake back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crossbeam_channel::{Receiver, Sender};
use millrace_core::barrier::{Barrier, Then};
use millrace_core::checkpoint::{Checkpoint, Committable, OperatorState, PluginRef, PositionRange, Reason};
use millrace_core::commit::Fence;
use millrace_core::limits::COMMITS_WAITING_MAX;
use millrace_core::swap::SwapRecord;
use tracing::{info, warn};

use super::message::{Event, OperatorPart, Part, RunError, TaskId};
use super::source_task::Command;
use super::stats::RunStats;
use super::swaps::{Answer, Changed, SwapOrder, Swaps, Verdict};
use super::transforms::transform_of;
use crate::clock::Clock;
use crate::failpoint;
use crate::sink::{Prepared, SinkCommitter};
use crate::source::Waker;

mod assemble;

use assemble::{cover, merge_later, merge_prepared, span};

/// Where checkpoints are published.
#[async_trait]
pub trait CheckpointLog: Send + Sync {
    /// Durable and atomic; an error that says so if a newer process has taken the pipeline over.
    async fn publish(&self, number: u64, checkpoint: &Checkpoint) -> Result<(), RunError>;

    /// Removes what nothing refers to any more. Failing to is logged, never fatal.
    /// `confirmed`: by sink, the last checkpoint known to be committed.
    async fn retain(&self, confirmed: BTreeMap<String, u64>);
}

/// A sink as the coordinator sees it.
pub struct CommittingSink {
    pub committer: Arc<dyn SinkCommitter>,
    /// checkpoints per commit
    pub every: u32,
    /// operator → digest of the plugin that had a hand in its rows
    pub plugins: BTreeMap<String, String>,
}

/// What a run wants of its coordinator.
pub enum Order {
    /// checkpoint, commit, end; `drain`: event time ends first, and all windows with it
    Stop { drain: bool },
    /// put a version of a plugin beside the running one, and then in its place
    Swap(SwapOrder),
    /// exchange them again
    RollBack { operator: String, why: String },
    /// a checkpoint whose files are all committed; `work` is done on it before the next one is taken
    Savepoint { work: SavepointWork, reply: Sender<Result<u64, String>> },
}

/// Gets the checkpoint and its number.
pub type SavepointWork = Box<dyn FnOnce(u64, &Checkpoint) -> Result<(), String> + Send>;

pub struct Coordinator {
    pub log: Arc<dyn CheckpointLog>,
    pub runtime: tokio::runtime::Handle,
    pub fence: Fence,
    pub next_number: u64,
    pub interval: Duration,
    pub timeout: Duration,
    pub min_pause: Duration,
    pub tasks: BTreeSet<TaskId>,
    pub sources: Vec<(TaskId, Sender<Command>, Arc<Waker>)>,
    pub events: Receiver<Event>,
    pub orders: Receiver<Order>,
    pub sinks: BTreeMap<String, CommittingSink>,
    /// as restored, brought up to date here
    pub checkpoint: Checkpoint,
    /// key, window, plugin, state columns of each operator
    pub operators: BTreeMap<String, OperatorState>,
    /// the plugin of each transform that has one
    pub transforms: BTreeMap<String, PluginRef>,
    /// operator task → window start → files
    pub files: BTreeMap<TaskId, super::read_state::Windows>,
    pub paused: Arc<AtomicBool>,
    pub stats: Arc<RunStats>,
    pub clock: Arc<dyn Clock>,
    /// bounded: when all sources have reached their end, event time ends (or not) and the run with it
    pub keep_open: bool,
    /// state that does not fit into memory has nowhere to go
    pub stops_when_full: bool,
    pub on_positions: Box<dyn Fn(&Checkpoint) + Send>,
    pub swaps: Swaps,
    /// handed in for a checkpoint that was not taken, because tasks ran different versions
    pub carried: BTreeMap<String, Prepared>,
}

/// How a run that did not fail came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    Stopped,
    ReachedEnd,
}

struct InFlight {
    number: u64,
    reason: Reason,
    since: Instant,
    waiting: BTreeSet<TaskId>,
    parts: Vec<(TaskId, Part)>,
}

/// A sink's answer on one committable.
struct Confirmed {
    sink: String,
    checkpoint: u64,
    rows: u64,
    files: usize,
    result: Result<(), RunError>,
}

impl Coordinator {
    /// Runs until the pipeline has stopped, come to its end, or failed.
    pub fn run(mut self) -> Result<Finished, RunError> {
        let (confirm, confirmations) = crossbeam_channel::unbounded();
        let queues = self.start_committers(&confirm);
        // What the restored checkpoint lists and the tables lack is committed first.
        for (sink, state) in &self.checkpoint.sinks {
            for committable in &state.pending {
                send_to(&queues, sink, committable);
            }
        }
        self.swaps.history.open(true);
        let result = self.coordinate(&queues, &confirmations);
        self.swaps.close();
        drop(queues);
        result
    }

    fn start_committers(
        &self,
        confirm: &Sender<Confirmed>,
    ) -> BTreeMap<String, tokio::sync::mpsc::UnboundedSender<Committable>> {
        self.sinks
            .iter()
            .map(|(name, sink)| {
                // bounded by COMMITS_WAITING_MAX: the intake pauses before more can be sent
                let (queue, mut committables) = tokio::sync::mpsc::unbounded_channel::<Committable>();
                let (name, committer) = (name.clone(), Arc::clone(&sink.committer));
                let (fence, confirm) = (self.fence.clone(), confirm.clone());
                let key = name.clone();
                self.runtime.spawn(async move {
                    while let Some(committable) = committables.recv().await {
                        let result = committer.commit(&fence, &committable).await.map_err(RunError::from);
                        let failed = result.is_err();
                        let confirmed = Confirmed {
                            sink: name.clone(),
                            checkpoint: committable.checkpoint,
                            rows: committable.rows,
                            files: committable.files.len(),
                            result,
                        };
                        if confirm.send(confirmed).is_err() || failed {
                            return;
                        }
                    }
                });
                (key, queue)
            })
            .collect()
    }

    fn coordinate(
        &mut self,
        queues: &BTreeMap<String, tokio::sync::mpsc::UnboundedSender<Committable>>,
        confirmations: &Receiver<Confirmed>,
    ) -> Result<Finished, RunError> {
        let mut due = Instant::now() + self.interval;
        let mut in_flight: Option<InFlight> = None;
        let mut last: Option<(Reason, Finished)> = None;
        let mut at_end: BTreeSet<TaskId> = BTreeSet::new();
        let mut ended: BTreeSet<TaskId> = BTreeSet::new();
        let mut stopping = false;
        let mut draining = false;
        // too much state
        let mut full: Option<String> = None;
        let mut savepoint: Option<(SavepointWork, Sender<Result<u64, String>>)> = None;
        // the number of its checkpoint
        let mut savepoint_at: Option<u64> = None;
        loop {
            let waiting = self.checkpoint.sinks.values().map(|s| s.pending.len()).max().unwrap_or(0);
            self.hold_back(waiting);
            if in_flight.is_none() && last.is_none() {
                if full.is_none() && self.stops_when_full {
                    full = self.stats.status.memory.full();
                }
                let ends = stopping || full.is_some();
                let all_read = !self.sources.is_empty() && at_end.len() == self.sources.len();
                let one_more = (ends || all_read) && !self.swaps.wind_down();
                if one_more {
                    // tasks that end cannot be asked twice: they must be of one mind before
                } else if ends {
                    // what does not fit into memory is not given early for it
                    let reason = if draining && full.is_none() { Reason::Drained } else { Reason::Stop };
                    last = Some((reason, Finished::Stopped));
                } else if all_read {
                    let reason = if self.keep_open { Reason::Stop } else { Reason::Drained };
                    last = Some((reason, Finished::ReachedEnd));
                }
                let swap = self.swaps.wants_barrier(self.clock.now_ms());
                if one_more {
                    in_flight = Some(self.trigger(Reason::Periodic)?);
                } else if let Some((reason, _)) = last {
                    in_flight = Some(self.trigger(reason)?);
                } else if let Some(number) = savepoint_at {
                    // nothing else is written until it is complete
                    let committed = self.checkpoint.sinks.values().all(|s| s.pending.is_empty());
                    if committed && let Some((work, reply)) = savepoint.take() {
                        savepoint_at = None;
                        let done = work(number, &self.checkpoint).map(|()| number);
                        // whoever asked may have gone
                        let _ = reply.send(done);
                        continue;
                    }
                } else if savepoint.is_some() && waiting < COMMITS_WAITING_MAX {
                    let f = self.trigger(Reason::Savepoint)?;
                    savepoint_at = Some(f.number);
                    in_flight = Some(f);
                } else if (swap || Instant::now() >= due) && waiting < COMMITS_WAITING_MAX {
                    in_flight = Some(self.trigger(Reason::Periodic)?);
                }
            }
            if let (None, Some((_, finished))) = (&in_flight, &last) {
                // the final checkpoint is durable; the run ends when its commits are confirmed
                if self.checkpoint.sinks.values().all(|s| s.pending.is_empty()) {
                    return full.map_or(Ok(*finished), |why| Err(RunError::External(why)));
                }
            }
            let now = Instant::now();
            let wake = match &in_flight {
                Some(f) => f.since + self.timeout,
                None => self.swaps.wake_at().map_or(due, |at| at.min(due)),
            };
            let patience = wake.saturating_duration_since(now).clamp(Duration::from_millis(1), Duration::from_secs(1));
            crossbeam_channel::select! {
                recv(self.events) -> event => match event {
                    Ok(Event::Acknowledged { task, checkpoint, part }) => {
                        let complete = in_flight.as_mut().is_some_and(|f| {
                            if f.number == checkpoint && f.waiting.remove(&task) {
                                f.parts.push((task, part));
                            }
                            f.waiting.is_empty()
                        });
                        if complete && let Some(f) = in_flight.take() {
                            let took = f.since.elapsed();
                            in_flight = self.complete(f, queues)?;
                            due = (now + self.interval.saturating_sub(took)).max(Instant::now() + self.min_pause);
                        }
                    }
                    Ok(Event::ReachedEnd { task }) => { at_end.insert(task); }
                    Ok(Event::Ended { task }) => {
                        ended.insert(task.clone());
                        if last.is_none() {
                            // a task only ends by itself when another has failed; that one's event is on its way
                            let failure = self.first_failure();
                            return Err(failure.unwrap_or_else(|| RunError::Internal(format!("task {task} ended by itself"))));
                        }
                    }
                    Ok(Event::Failed { error, .. }) => return Err(error),
                    Ok(Event::CaughtUp { task, version }) => {
                        self.swaps.caught_up(&task, version, self.clock.now_ms());
                    }
                    Ok(Event::GaveUp { task, version, reason }) => self.swaps.gave_up(&task, version, &reason),
                    Ok(Event::FellBack { task, version, reason }) => self.swaps.fell_back(&task, version, reason),
                    Err(_) => return Err(RunError::Internal("all tasks are gone".into())),
                },
                recv(confirmations) -> confirmed => if let Ok(confirmed) = confirmed {
                    self.confirmed(confirmed)?;
                },
                recv(self.orders) -> order => match order {
                    Ok(Order::Stop { drain }) => {
                        let what = if drain { "ending all windows and " } else { "" };
                        info!("stopping: {what}taking a last checkpoint");
                        stopping = true;
                        draining |= drain;
                    }
                    Ok(Order::Swap(order)) => self.swaps.request(order),
                    Ok(Order::RollBack { operator, why }) => self.swaps.roll_back(&operator, why),
                    Ok(Order::Savepoint { work, reply }) => match &savepoint {
                        None => savepoint = Some((work, reply)),
                        Some(_) => {
                            let _ = reply.send(Err("another savepoint is being taken".to_owned()));
                        }
                    },
                    // nobody is left who could ask for anything
                    Err(_) => self.orders = crossbeam_channel::never(),
                },
                default(patience) => {}
            }
            if let Some(f) = &in_flight
                && f.since.elapsed() > self.timeout
            {
                let missing: Vec<String> = f.waiting.iter().map(ToString::to_string).collect();
                return Err(RunError::External(format!(
                    "checkpoint {} was not complete within {:?} (checkpoint.timeout): no answer from {}",
                    f.number,
                    self.timeout,
                    missing.join(", ")
                )));
            }
        }
    }

    /// A failed task's own words, if they are there or come within a moment.
    fn first_failure(&self) -> Option<RunError> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while let Ok(event) = self.events.recv_deadline(deadline) {
            if let Event::Failed { error, .. } = event {
                return Some(error);
            }
        }
        None
    }

    fn hold_back(&self, waiting: usize) {
        let hold = waiting >= COMMITS_WAITING_MAX;
        if self.paused.swap(hold, Relaxed) != hold {
            if hold {
                warn!(waiting, "intake paused: commits wait for confirmation by the catalog");
            } else {
                info!("intake goes on");
                for (_, _, waker) in &self.sources {
                    waker.wake();
                }
            }
        }
    }

    fn trigger(&mut self, reason: Reason) -> Result<InFlight, RunError> {
        let number = self.next_number;
        let then = match reason {
            Reason::Periodic | Reason::Savepoint => Then::Continue,
            Reason::Stop | Reason::Drained => Then::Stop,
        };
        if then == Then::Continue {
            self.swaps.at_barrier(number, &self.running());
        }
        let barrier = Barrier { checkpoint: number, then };
        for (task, commands, waker) in &self.sources {
            let command = if reason == Reason::Drained { Command::Drain(barrier) } else { Command::Barrier(barrier) };
            if commands.send(command).is_err() {
                return Err(self.first_failure().unwrap_or_else(|| RunError::Internal(format!("task {task} is gone"))));
            }
            waker.wake();
        }
        Ok(InFlight { number, reason, since: Instant::now(), waiting: self.tasks.clone(), parts: Vec::new() })
    }

    /// All tasks have acknowledged: assemble, publish, hand the commits out. Returns the same checkpoint once more if the
    /// tasks of an operator did not agree on the version of its plugin.
    fn complete(
        &mut self,
        f: InFlight,
        queues: &BTreeMap<String, tokio::sync::mpsc::UnboundedSender<Committable>>,
    ) -> Result<Option<InFlight>, RunError> {
        let answer = |(task, part): &(TaskId, Part)| match part {
            Part::Operator(part) => Some(Answer {
                operator: task.node.to_string(),
                version: part.version,
                exchanged: part.exchanged.clone(),
                next_window_ms: part.next_window_ms,
                is_draining: part.is_draining,
            }),
            Part::Stateless { version, exchanged } => Some(Answer {
                operator: task.node.to_string(),
                version: *version,
                exchanged: exchanged.clone(),
                ..Answer::default()
            }),
            _ => None,
        };
        let answers: Vec<Answer> = f.parts.iter().filter_map(answer).collect();
        let (changed, records) = match self.swaps.judge(f.number, &answers, self.clock.now_ms())? {
            Verdict::Stands { changed, records } => (changed, records),
            Verdict::Again => return self.again(f).map(Some),
        };
        for changed in changed {
            self.change(changed);
        }
        let mut next = Checkpoint {
            reason: f.reason,
            incarnation_started_ms: self.checkpoint.incarnation_started_ms,
            sinks: self.checkpoint.sinks.clone(),
            transforms: self.transforms.clone(),
            swaps: self.swaps.history.snapshot(),
            ..Checkpoint::default()
        };
        for record in &records {
            if let Some(place) = next.swaps.get_mut(record.id) {
                *place = SwapRecord::clone(record);
            }
        }
        let mut prepared: BTreeMap<String, Prepared> = std::mem::take(&mut self.carried);
        let has_carried = !prepared.is_empty();
        for (name, operator) in &self.operators {
            next.operators
                .insert(name.clone(), OperatorState { late_dropped: 0, reached: Vec::new(), ..operator.clone() });
        }
        for (task, part) in f.parts {
            match part {
                Part::Source { partitions } => {
                    next.sources.entry(task.node.to_string()).or_default().partitions.extend(partitions);
                }
                Part::Operator(part) => self.operator_part(&mut next, task, part),
                Part::Stateless { .. } => {}
                Part::Sink(part) if has_carried => {
                    merge_later(prepared.entry(task.node.to_string()).or_default(), part)
                }
                Part::Sink(part) => merge_prepared(prepared.entry(task.node.to_string()).or_default(), part),
            }
        }
        for source in next.sources.values_mut() {
            source.partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        }
        for (task, windows) in &self.files {
            if let Some(operator) = next.operators.get_mut(&*task.node) {
                operator.files.extend(windows.values().flatten().cloned());
            }
        }
        for operator in next.operators.values_mut() {
            operator.files.sort_by(|a, b| a.path.cmp(&b.path));
            operator.files.dedup_by(|a, b| a.path == b.path);
        }
        // a savepoint lists nothing that is not committed
        let final_checkpoint = f.reason != Reason::Periodic;
        let before = std::mem::take(&mut self.checkpoint.sources);
        for (name, sink) in &self.sinks {
            let state = next.sinks.entry(name.clone()).or_default();
            cover(&mut state.open.positions, &before, &next.sources);
            let part = prepared.remove(name).unwrap_or_default();
            state.open.rows += part.rows;
            let waited = !state.open.files.is_empty() || has_carried;
            state.open.files.extend(part.files);
            state.open.windows_ms = span(state.open.windows_ms, part.windows_ms);
            state.writer = part.writer;
            state.open.checkpoints += 1;
            if !final_checkpoint && state.open.checkpoints < sink.every {
                continue;
            }
            state.open.checkpoints = 0;
            if state.open.files.is_empty() {
                continue;
            }
            let mut files = std::mem::take(&mut state.open.files);
            // also if only an earlier run's interval let them wait
            if sink.every > 1 || waited {
                files = self.runtime.block_on(sink.committer.join(f.number, files))?;
            }
            let positions = std::mem::take(&mut state.open.positions);
            state.open.positions = positions.iter().map(|r| PositionRange { from: r.to, ..r.clone() }).collect();
            let predecessor = state.pending.last().map_or(state.confirmed, |c| c.checkpoint);
            state.pending.push(Committable {
                checkpoint: f.number,
                predecessor,
                files,
                rows: std::mem::take(&mut state.open.rows),
                positions,
                windows_ms: state.open.windows_ms.take(),
                plugins: sink.plugins.clone(),
            });
        }
        failpoint::hit(failpoint::CHECKPOINT_BEFORE_DURABLE);
        self.runtime.block_on(self.log.publish(f.number, &next))?;
        failpoint::hit(failpoint::CHECKPOINT_AFTER_DURABLE);
        self.next_number = f.number + 1;
        for record in records {
            self.swaps.show(record);
        }
        for (sink, state) in &next.sinks {
            for committable in state.pending.iter().filter(|c| c.checkpoint == f.number) {
                send_to(queues, sink, committable);
            }
        }
        self.stats.checkpoint.store(f.number, Relaxed);
        self.stats.checkpoint_at_ms.store(self.clock.now_ms(), Relaxed);
        let took = u64::try_from(f.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.stats.checkpoint_took_ms.store(took, Relaxed);
        (self.on_positions)(&next);
        self.checkpoint = next;
        let confirmed = self.checkpoint.sinks.iter().map(|(n, s)| (n.clone(), s.confirmed)).collect();
        self.runtime.block_on(self.log.retain(confirmed));
        Ok(None)
    }

    /// What the tasks have handed in for a checkpoint that is not taken belongs to the next try, which has its number.
    fn again(&mut self, f: InFlight) -> Result<InFlight, RunError> {
        let mut carried = std::mem::take(&mut self.carried);
        for (task, part) in f.parts {
            match part {
                Part::Operator(part) => self.files_of(&task, &part),
                Part::Sink(part) => merge_later(carried.entry(task.node.to_string()).or_default(), part),
                // read or said anew
                Part::Source { .. } | Part::Stateless { .. } => {}
            }
        }
        self.carried = carried;
        if !matches!(f.reason, Reason::Periodic | Reason::Savepoint) {
            return Err(RunError::Plugin(
                "a new version of a plugin failed while the run was ending\nhint: nothing is lost: the next start goes on from \
                 the last checkpoint"
                    .to_owned(),
            ));
        }
        info!(checkpoint = f.number, "tasks ran different versions of a plugin: the checkpoint is taken once more");
        self.trigger(f.reason)
    }

    /// What nodes run, as checkpoints name it: of the node that makes a transform's steps, its plugin alone.
    fn running(&self) -> BTreeMap<String, OperatorState> {
        let mut running = self.operators.clone();
        for node in self.tasks.iter().map(|task| &*task.node) {
            if let Some(plugin) = self.transforms.get(transform_of(node))
                && (node != transform_of(node) || !self.operators.contains_key(node))
            {
                let state = OperatorState { plugin: Some(plugin.clone()), ..OperatorState::default() };
                running.insert(node.to_owned(), state);
            }
        }
        running
    }

    /// Another version of a plugin runs from this checkpoint on.
    fn change(&mut self, changed: Changed) {
        let Changed { operator, state } = changed;
        let operator = transform_of(&operator);
        let Some(state) = state else {
            info!(operator, "the former version of the plugin has ended its last window");
            if let Some(state) = self.operators.get_mut(operator) {
                state.draining = None;
            }
            return;
        };
        let of_transform = self.transforms.get_mut(operator);
        let before = match &of_transform {
            Some(plugin) => Some(plugin.sha256.clone()),
            None => self.operators.get(operator).and_then(|state| Some(state.plugin.as_ref()?.sha256.clone())),
        };
        if let Some(after) = state.plugin.as_ref().map(|plugin| plugin.sha256.clone()) {
            info!(operator, before = before.unwrap_or_default(), after, "another version of the plugin runs");
            for of in self.sinks.values_mut().filter_map(|sink| sink.plugins.get_mut(operator)) {
                of.clone_from(&after);
            }
        }
        match (of_transform, state.plugin) {
            (Some(place), Some(plugin)) => *place = plugin,
            (_, plugin) => {
                self.operators.insert(operator.to_owned(), OperatorState { plugin, ..state });
            }
        }
    }

    fn operator_part(&mut self, next: &mut Checkpoint, task: TaskId, part: OperatorPart) {
        if let Some(operator) = next.operators.get_mut(&*task.node) {
            // Tasks may differ: when an input turns idle, or wakes, between others depends on the order in which it is seen.
            // The one that is furthest has given results that nobody may give again.
            operator.watermark_ms = operator.watermark_ms.max(part.watermark_ms);
            operator.late_dropped += part.late_dropped;
            operator.reached.extend(part.reached);
        }
        self.files_of(&task, &part);
    }

    fn files_of(&mut self, task: &TaskId, part: &OperatorPart) {
        let windows = self.files.entry(task.clone()).or_default();
        windows.retain(|bucket, _| part.unchanged.contains(bucket));
        for file in &part.written {
            windows.entry(file.bucket()).or_default().push(file.clone());
        }
    }

    fn confirmed(&mut self, c: Confirmed) -> Result<(), RunError> {
        c.result?;
        if let Some(state) = self.checkpoint.sinks.get_mut(&c.sink) {
            state.confirmed = c.checkpoint;
            state.pending.retain(|p| p.checkpoint > c.checkpoint);
        }
        self.stats.committed.store(c.checkpoint, Relaxed);
        self.stats.committed_at_ms.store(self.clock.now_ms(), Relaxed);
        self.stats.committed_rows_total.fetch_add(c.rows, Relaxed);
        self.stats.committed_files_total.fetch_add(c.files as u64, Relaxed);
        Ok(())
    }
}

fn send_to(
    queues: &BTreeMap<String, tokio::sync::mpsc::UnboundedSender<Committable>>,
    sink: &str,
    committable: &Committable,
) {
    if let Some(queue) = queues.get(sink) {
        // a committer that is gone has said why: its error is among the confirmations
        let _ = queue.send(committable.clone());
    }
}
