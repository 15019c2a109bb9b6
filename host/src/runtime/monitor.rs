//! Asks the source's connector what the tasks must not wait for: end offsets (for lag and idleness) and new partitions.
//!
//! One thread per source. What it learns goes into [`PartitionProgress`] and, for new partitions, to a source task.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use millrace_core::limits::DISCOVERY_INTERVAL_MS;
use tracing::warn;

use super::message::{Event, RunError, TaskId};
use super::retry::source_error;
use super::source_task::{Command, PartitionProgress};
use crate::source::{Connector, PartitionId, SourceError, Waker};

/// How often the ends are asked for: twice in an `idle_timeout`, within these.
const ENDS_INTERVAL_MS: (u64, u64) = (200, 2_000);

/// All partitions of a source that are being read.
pub type Partitions = Arc<Mutex<BTreeMap<PartitionId, Known>>>;

#[derive(Clone, Debug)]
pub struct Known {
    pub topic_id: Option<String>,
    pub progress: Arc<PartitionProgress>,
}

pub struct Monitor {
    pub source: Arc<str>,
    pub connector: Arc<dyn Connector>,
    pub partitions: Partitions,
    /// one per source task
    pub tasks: Vec<(Sender<Command>, Arc<Waker>)>,
    pub events: Sender<Event>,
    pub started: Instant,
    pub stop: Arc<AtomicBool>,
    /// woken when the run ends
    pub waker: Arc<Waker>,
    /// bounded runs read what was there at the start
    pub discover: bool,
    pub idle_timeout_ms: Option<u64>,
}

impl Monitor {
    pub fn run(self) {
        let (shortest, longest) = ENDS_INTERVAL_MS;
        let interval = self.idle_timeout_ms.map_or(longest, |ms| (ms / 2).clamp(shortest, longest));
        let mut discovered = Instant::now();
        let id = TaskId { node: Arc::clone(&self.source), task: 0 };
        while !self.stop.load(Relaxed) {
            if let Err(error) = self.connector.check().and_then(|()| self.ask_ends()) {
                match error {
                    SourceError::Transient(message) => warn!(source = %self.source, "{message}"),
                    fatal => {
                        return self.fail(id, source_error(&TaskId { node: Arc::clone(&self.source), task: 0 }, fatal));
                    }
                }
            }
            if self.discover && discovered.elapsed() >= Duration::from_millis(DISCOVERY_INTERVAL_MS) {
                discovered = Instant::now();
                match self.look_for_partitions() {
                    Ok(()) => {}
                    Err(Found::Error(SourceError::Transient(message))) => warn!(source = %self.source, "{message}"),
                    Err(Found::Error(error)) => {
                        let error = source_error(&id, error);
                        return self.fail(id, error);
                    }
                    Err(Found::Recreated(topic)) => {
                        let error = RunError::Spec(format!(
                            "source `{}`: topic `{topic}` was deleted and made anew: its offsets have nothing to do with \
                             those of the checkpoint\nhint: `--reset-offsets {}=earliest` reads the new one from its \
                             beginning",
                            self.source, self.source
                        ));
                        return self.fail(id, error);
                    }
                }
            }
            self.waker.wait(Duration::from_millis(interval));
        }
    }

    fn fail(&self, task: TaskId, error: RunError) {
        // a run that is ending anyway has no receiver left
        let _ = self.events.send(Event::Failed { task, error });
    }

    fn ask_ends(&self) -> Result<(), SourceError> {
        let known: Vec<_> = {
            let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
            partitions.iter().map(|(id, k)| (id.clone(), Arc::clone(&k.progress))).collect()
        };
        for (id, progress) in known {
            if self.stop.load(Relaxed) {
                break;
            }
            let extent = self.connector.extent(&id)?;
            progress.end.store(extent.end, Relaxed);
            let now_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
            progress.end_answered_ms.store(now_ms, Relaxed);
        }
        Ok(())
    }

    fn look_for_partitions(&self) -> Result<(), Found> {
        for info in self.connector.discover().map_err(Found::Error)? {
            let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
            match partitions.get(&info.id) {
                Some(known) => {
                    if known.topic_id.is_some() && info.topic_id.is_some() && known.topic_id != info.topic_id {
                        return Err(Found::Recreated(info.id.topic.to_string()));
                    }
                }
                None => {
                    let progress = Arc::<PartitionProgress>::default();
                    let task = partitions.len() % self.tasks.len().max(1);
                    let known = Known { topic_id: info.topic_id.clone(), progress: Arc::clone(&progress) };
                    partitions.insert(info.id.clone(), known);
                    if let Some((commands, waker)) = self.tasks.get(task)
                        && commands.send(Command::Add(info, progress)).is_ok()
                    {
                        waker.wake();
                    }
                }
            }
        }
        Ok(())
    }
}

enum Found {
    Error(SourceError),
    Recreated(String),
}
