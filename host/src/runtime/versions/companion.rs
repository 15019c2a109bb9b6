//! The version beside the active one: a thread that is told what the active one is told, behind a queue whose bytes are
//! bounded. It gives nothing; what it would have given is withheld, or compared.
//!
//! ```text
//!   candidate:  load, load, … (the copy) ─▶ caught up ─▶ update, combine, …  ─▶ take over
//!   fallback:                                            update, combine, …  ─▶ take over
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::ArrayRef;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use millrace_core::due::Assembly;
use millrace_core::limits::{COMPANION_QUEUE_BYTES_MAX, COMPANION_REFUSED_ROWS_MAX};
use millrace_core::window::Window;
use tracing::debug;

use super::super::accumulator::{Accumulator, Exported};
use super::super::aggregate_task::{InputColumn, Pending};
use super::super::bisect::take_input;
use super::super::failures::FailedRow;
use super::super::message::{Event, RunError, TaskId};
use super::super::status::Since;
use super::shadow::{Comparison, Results};
use super::withheld::Withheld;
use super::{Candidate, Taken, Version, VersionId, is_over};
use crate::capture::Place;
use crate::plugin::{PluginError, WindowUs};

/// A candidate may make its task wait for so much of the time: this part, once it has waited [`WAIT_MIN`].
const WAIT_SHARE: u32 = 4;
const WAIT_MIN: Duration = Duration::from_secs(1);
/// With so few commands in its queue it is where the active version is.
const CAUGHT_UP_COMMANDS: usize = 4;
/// … or never will be nearer than after so long.
const CAUGHT_UP_PATIENCE: Duration = Duration::from_secs(10);
/// How often a thread that waits looks whether it is over.
const GLANCE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Candidate,
    Fallback,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Candidate => "the new version",
            Self::Fallback => "the former version",
        }
    }
}

/// What the active version was told.
pub enum Command {
    Load {
        start_ms: i64,
        state: Exported,
        total: u32,
    },
    /// there are slots that none of the state is in
    Learn {
        total: u32,
    },
    /// the copy is complete: from here on both are told the same
    Loaded(Since),
    Update {
        pending: Arc<Vec<Pending>>,
        slots: Vec<u32>,
        refused: Vec<u32>,
        total: u32,
    },
    Fold {
        sources: Vec<u32>,
        targets: Vec<u32>,
    },
    Combine {
        sources: Vec<u32>,
        targets: Vec<u32>,
        total: u32,
    },
    Reset {
        slots: Vec<u32>,
    },
    Export {
        buckets: Vec<(i64, Vec<u32>)>,
        all: Vec<i64>,
    },
    Evaluate(Box<Asked>, Vec<AskedGroup>),
    Delete(Vec<(Vec<u8>, Window)>),
    TakeOver(Sender<Yielded>),
}

/// An evaluation that the active version has done.
pub struct Asked {
    pub assembly: Assembly,
    pub windows: Vec<WindowUs>,
    pub is_final: bool,
    pub total: u32,
    /// sinks have got it
    pub of_sinks: bool,
    /// what the active version gave: columns, and of each row which of the groups it belongs to
    pub results: Option<(Vec<ArrayRef>, Vec<u32>)>,
}

/// One per slot of the assembly.
pub struct AskedGroup {
    pub key: Vec<u8>,
    pub window: Window,
    /// after what the active version gave
    pub revision: u32,
    pub present: bool,
}

pub struct Yielded {
    pub version: Version,
    pub taken: Taken,
}

/// Bytes that wait in the queue.
#[derive(Default)]
struct Queue {
    bytes: Mutex<usize>,
    freed: Condvar,
}

/// The task's end of it.
pub struct Companion {
    pub id: VersionId,
    pub role: Role,
    commands: Sender<Command>,
    queue: Arc<Queue>,
    memory_bytes: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    since: Instant,
    waited: Duration,
}

/// Why a version is told nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// the run has let go of it, or its thread has ended and said why
    Over,
    /// its task has waited for it for more than its share of the time: nobody has said so yet
    TooSlow,
}

impl Companion {
    /// Starts from a copy of the active version's state. An error says of which version it is.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the copy, or of the task that it is made from")]
    pub fn candidate(
        task: &TaskId,
        events: &Sender<Event>,
        candidate: Arc<Candidate>,
        accumulator: impl FnOnce() -> Result<Accumulator, PluginError> + Send + 'static,
        state: Vec<(i64, Exported)>,
        total: u32,
        (warm_until_ms, from_ms): (Option<i64>, Option<i64>),
        active: Since,
    ) -> Result<Self, (VersionId, String)> {
        let id = candidate.id;
        let input = candidate.input.clone();
        let over = Arc::clone(&candidate.is_over);
        let open = move || {
            let accumulator = accumulator().map_err(|e| e.to_string())?;
            Ok(Version { id, accumulator, input })
        };
        let start = Start { candidate: Some(candidate), warm_until_ms, from_ms, withheld: None };
        let companion = Self::start(task, events, id, Role::Candidate, over, start, open).map_err(|e| (id, e))?;
        for (start_ms, state) in state {
            let _ = companion.commands.send(Command::Load { start_ms, state, total });
        }
        let _ = companion.commands.send(Command::Learn { total });
        let _ = companion.commands.send(Command::Loaded(active));
        Ok(companion)
    }

    /// Goes on from where the active version was.
    pub fn fallback(
        task: &TaskId,
        events: &Sender<Event>,
        version: Version,
        is_over: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        let start = Start { candidate: None, warm_until_ms: None, from_ms: None, withheld: Some(Withheld::default()) };
        Self::start(task, events, version.id, Role::Fallback, is_over, start, move || Ok(version))
    }

    fn start(
        task: &TaskId,
        events: &Sender<Event>,
        id: VersionId,
        role: Role,
        is_over: Arc<AtomicBool>,
        start: Start,
        open: impl FnOnce() -> Result<Version, String> + Send + 'static,
    ) -> Result<Self, String> {
        let (commands, receiver) = unbounded();
        let queue = Arc::<Queue>::default();
        let memory_bytes = Arc::<AtomicU64>::default();
        let companion = Self {
            id,
            role,
            commands,
            queue: Arc::clone(&queue),
            memory_bytes: Arc::clone(&memory_bytes),
            is_over: Arc::clone(&is_over),
            since: Instant::now(),
            waited: Duration::ZERO,
        };
        let (task, events) = (task.clone(), events.clone());
        let work = move || {
            let failed = match open() {
                Ok(version) => {
                    let worker =
                        Worker { version, start, refused: Vec::new(), task: task.clone(), events: events.clone() };
                    let work = AssertUnwindSafe(|| worker.work(&receiver, &queue, &memory_bytes, &is_over));
                    // nobody would hear of it otherwise
                    catch_unwind(work)
                        .unwrap_or_else(|_| Err("its thread panicked; the message is in the log".to_owned()))
                }
                Err(reason) => Err(reason),
            };
            // nobody waits for room any more
            drop(receiver);
            queue.freed.notify_all();
            if let Err(reason) = failed {
                let _ = events.send(Event::GaveUp { task, version: id, reason });
            }
        };
        std::thread::Builder::new()
            .name(format!("beside-{id}"))
            .spawn(work)
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(companion)
    }

    /// Waits while too much is in the queue: for a candidate no longer than its share of the time.
    pub fn tell(&mut self, command: Command) -> Result<(), Gone> {
        if is_over(&self.is_over) {
            return Err(Gone::Over);
        }
        let bytes = command.bytes();
        let mut waiting = self.queue.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        while *waiting > COMPANION_QUEUE_BYTES_MAX {
            let waited = self.waited + began.elapsed();
            let too_long = waited > WAIT_MIN && waited > self.since.elapsed() / WAIT_SHARE;
            if is_over(&self.is_over) {
                return Err(Gone::Over);
            }
            if self.role == Role::Candidate && too_long {
                return Err(Gone::TooSlow);
            }
            let (guard, timeout) =
                self.queue.freed.wait_timeout(waiting, GLANCE).unwrap_or_else(PoisonError::into_inner);
            waiting = guard;
            if timeout.timed_out() && Arc::strong_count(&self.queue) == 1 {
                // its thread has ended
                return Err(Gone::Over);
            }
        }
        *waiting += bytes;
        drop(waiting);
        self.waited += began.elapsed();
        self.commands.send(command).map_err(|_| Gone::Over)
    }

    /// All that it was told is done, then it is here; none: it has failed.
    pub fn take_over(self) -> Option<Yielded> {
        let (sender, receiver) = bounded(1);
        self.commands.send(Command::TakeOver(sender)).ok()?;
        receiver.recv().ok()
    }

    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Relaxed)
    }
}

impl Command {
    /// About what it holds that nobody else does.
    fn bytes(&self) -> usize {
        let slots = |slots: &Vec<u32>| size_of_val(slots.as_slice());
        match self {
            // the input is shared with the active version's own log, which is bounded, but it is work that waits
            Self::Update { pending, slots: of, .. } => {
                let batches = pending.iter().map(|p| p.batch.rows.get_array_memory_size()).sum::<usize>();
                slots(of) + batches
            }
            Self::Fold { sources, targets } | Self::Combine { sources, targets, .. } => slots(sources) + slots(targets),
            Self::Reset { slots: of } => slots(of),
            Self::Export { buckets, .. } => buckets.iter().map(|(_, of)| slots(of)).sum(),
            Self::Evaluate(asked, groups) => {
                let keys = groups.iter().map(|group| group.key.len() + size_of::<AskedGroup>()).sum::<usize>();
                keys + slots(&asked.assembly.sources) * 2 + slots(&asked.assembly.slots)
            }
            Self::Load { .. } | Self::Learn { .. } | Self::Loaded(_) | Self::Delete(_) | Self::TakeOver(_) => 0,
        }
    }
}

/// What its role brings with it.
struct Start {
    candidate: Option<Arc<Candidate>>,
    warm_until_ms: Option<i64>,
    /// windows that begin before are none of its business
    from_ms: Option<i64>,
    withheld: Option<Withheld>,
}

struct Worker {
    version: Version,
    start: Start,
    refused: Vec<FailedRow>,
    task: TaskId,
    events: Sender<Event>,
}

impl Worker {
    fn work(
        mut self,
        commands: &Receiver<Command>,
        queue: &Queue,
        memory_bytes: &AtomicU64,
        over: &AtomicBool,
    ) -> Result<(), String> {
        let mut loaded: Option<Instant> = None;
        loop {
            if is_over(over) {
                return Ok(());
            }
            let command = match commands.recv_timeout(GLANCE) {
                Ok(command) => command,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => continue,
                // the task has ended
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let bytes = command.bytes();
            match command {
                Command::TakeOver(to) => {
                    let taken = Taken { withheld: self.start.withheld.unwrap_or_default(), refused: self.refused };
                    // a task that has ended does not wait for it
                    let _ = to.send(Yielded { version: self.version, taken });
                    return Ok(());
                }
                Command::Loaded(active) => {
                    loaded = Some(Instant::now());
                    if let Some(comparison) = self.comparison() {
                        comparison.measure(active, Since::now(self.version.accumulator.gauges()));
                    }
                }
                command => self.follow(command)?,
            }
            memory_bytes.store(self.version.accumulator.memory_bytes(), Relaxed);
            let mut waiting = queue.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            *waiting = waiting.saturating_sub(bytes);
            drop(waiting);
            queue.freed.notify_all();
            if let Some(since) = loaded
                && (commands.len() <= CAUGHT_UP_COMMANDS || since.elapsed() > CAUGHT_UP_PATIENCE)
            {
                loaded = None;
                debug!(task = %self.task, version = self.version.id, "caught up");
                let (task, version) = (self.task.clone(), self.version.id);
                let _ = self.events.send(Event::CaughtUp { task, version });
            }
        }
    }

    fn comparison(&self) -> Option<&Comparison> {
        self.start.candidate.as_ref()?.comparison.as_ref()
    }

    fn follow(&mut self, command: Command) -> Result<(), String> {
        let accumulator = &mut self.version.accumulator;
        let done = match command {
            Command::Load { start_ms, state, total } => return self.load(start_ms, state, total),
            Command::Update { pending, slots, refused, total } => {
                return self.update(&pending, slots, &refused, total);
            }
            Command::Evaluate(asked, groups) => return self.evaluate(&asked, &groups),
            Command::Learn { total } => {
                accumulator.grow(total);
                accumulator.learn()
            }
            Command::Fold { sources, targets } => accumulator.fold(sources, targets),
            Command::Combine { sources, targets, total } => {
                // some of them no row has gone into
                accumulator.grow(total);
                accumulator.combine(&sources, &targets)
            }
            Command::Reset { slots } => accumulator.reset(&slots),
            Command::Export { buckets, all } => {
                let mut exported = buckets.iter().map(|(start_ms, slots)| accumulator.export(*start_ms, slots));
                exported.find(Result::is_err).map_or(Ok(()), |failed| failed.map(|_| ())).and_then(|()| {
                    accumulator.exported(all.into_iter());
                    accumulator.give_memory_back()
                })
            }
            Command::Delete(windows) => {
                if let Some(withheld) = &mut self.start.withheld {
                    windows.iter().for_each(|(key, window)| withheld.remove(key, *window));
                }
                Ok(())
            }
            Command::Loaded(_) | Command::TakeOver(_) => Ok(()),
        };
        done.map_err(|e| e.to_string())
    }

    fn load(&mut self, start_ms: i64, state: Exported, total: u32) -> Result<(), String> {
        let Exported { mut columns, slots } = state;
        let accumulator = &mut self.version.accumulator;
        if let Some(origin) = self.start.candidate.as_ref().and_then(|candidate| candidate.origin.as_ref()) {
            let migrated = accumulator.migrate(origin, &columns).map_err(|e| e.to_string())?;
            let now = &accumulator.signature().state;
            columns = migrated.ok_or_else(|| super::refused(origin, now))?;
        }
        accumulator.restore(start_ms, columns, slots, total).map_err(|e| e.to_string())
    }

    fn update(
        &mut self,
        pending: &Arc<Vec<Pending>>,
        mut slots: Vec<u32>,
        refused: &[u32],
        total: u32,
    ) -> Result<(), String> {
        let mut columns = gather(pending, &self.version.input)?;
        let mut rows: Option<Vec<u32>> = None;
        if !refused.is_empty() {
            let accepted: Vec<u32> =
                (0_u32..).take(slots.len()).filter(|row| refused.binary_search(row).is_err()).collect();
            columns = take_input(&columns, &accepted).map_err(|e| e.to_string())?;
            slots = accepted.iter().filter_map(|row| slots.get(*row as usize).copied()).collect();
            rows = Some(accepted);
        }
        let rejected = self.version.accumulator.update(columns, &slots, total, &|_| Place::default());
        for row in rejected.map_err(|e| e.to_string())? {
            let at = rows.as_ref().map_or(Some(row.row), |rows| rows.get(row.row as usize).copied());
            let Some((batch, number)) = at.and_then(|at| Pending::locate(pending, at as usize)) else { continue };
            let time_ms = batch.event_time_ms.get(number as usize).copied();
            if self.start.from_ms.is_some_and(|from_ms| time_ms.is_some_and(|time_ms| time_ms < from_ms)) {
                continue;
            }
            if self.refused.len() >= COMPANION_REFUSED_ROWS_MAX {
                return Err(format!(
                    "it refuses more than {COMPANION_REFUSED_ROWS_MAX} rows that the active version takes; the last one: {}",
                    row.reason
                ));
            }
            self.refused.push(FailedRow::of(batch, number, row.reason));
        }
        Ok(())
    }

    fn evaluate(&mut self, asked: &Asked, groups: &[AskedGroup]) -> Result<(), String> {
        // the groups of a window are asked for together
        let is_before = |from_ms: i64| groups.first().is_some_and(|group| group.window.start_ms < from_ms);
        if self.start.from_ms.is_some_and(is_before) {
            return Ok(());
        }
        let accumulator = &mut self.version.accumulator;
        accumulator.grow(asked.total);
        let output = accumulator.evaluate_assembled(&asked.assembly, &[], &asked.windows, asked.is_final);
        let output = output.map_err(|e| e.to_string())?;
        let results = Results::of(output, &asked.assembly.slots)?;
        if let (Some(withheld), true) = (&mut self.start.withheld, asked.of_sinks) {
            withheld.keep(groups, results);
            return Ok(());
        }
        if let Some(comparison) = self.comparison()
            && let (Some((columns, picks)), true) = (&asked.results, asked.of_sinks)
        {
            let active = Results { columns: columns.clone(), picks: picks.clone() };
            comparison.compare(groups, &active, &results, self.start.warm_until_ms).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

fn gather(pending: &[Pending], input: &[InputColumn]) -> Result<Vec<Option<ArrayRef>>, String> {
    Pending::gather(pending, input).map_err(|e: RunError| e.to_string())
}

#[cfg(test)]
mod tests;
