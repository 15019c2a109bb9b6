//! A version of a transform's plugin that has not run yet, tried beside the running one: on a thread of its own, on some of
//! the batches that come. What it gives is thrown away; that it lives is what counts.
//!
//! ```text
//!   task ── a batch, if there is room ──▶ open ─▶ process, process, … ─▶ caught up: its instance waits for the task
//!                                           └────────┴─────────────────▶ gave up
//! ```
//!
//! The running version never waits for it: a batch that finds no room is not tried. A transform keeps nothing, so there is
//! nothing that it would miss.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use millrace_core::limits::TRIAL_BATCHES_WAITING_MAX;
use tracing::debug;

use super::plugin::{OpenTransformer, PluginNode, TransformPlugin};
use crate::capture::Place;
use crate::runtime::message::{Event, TaskId};
use crate::runtime::status::PluginGauges;
use crate::runtime::versions::{Candidate, VersionId};

/// Batches that it has to survive …
const TRIED_BATCHES: usize = 8;
/// … or those that come until there is none for so long.
const QUIET: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 500 });

/// The task's end of it.
pub struct Trial {
    pub id: VersionId,
    candidate: Arc<Candidate>,
    batches: Sender<RecordBatch>,
    /// once it has survived
    tried: Receiver<TransformPlugin>,
}

impl Trial {
    /// `output`: the columns that the running version gives.
    pub fn start(
        task: &TaskId,
        events: &Sender<Event>,
        candidate: &Arc<Candidate>,
        node: PluginNode,
        output: SchemaRef,
        gauges: Arc<PluginGauges>,
    ) -> Result<Self, String> {
        let (batches, waiting) = bounded(TRIAL_BATCHES_WAITING_MAX);
        let (survived, tried) = bounded(1);
        let version = candidate.id;
        let trial = Self { id: version, candidate: Arc::clone(candidate), batches, tried };
        let (task, events, candidate) = (task.clone(), events.clone(), Arc::clone(candidate));
        let work = move || {
            let tried = AssertUnwindSafe(|| survive(&candidate, &node, &output, gauges, &waiting));
            // nobody would hear of it otherwise
            let panicked = |_| Err("its thread panicked; the message is in the log".to_owned());
            let event = match catch_unwind(tried).unwrap_or_else(panicked) {
                // it is let go of
                Ok(None) => return,
                Ok(Some(plugin)) => {
                    debug!(%task, version, "tried");
                    // before anybody may ask for it
                    let _ = survived.send(plugin);
                    Event::CaughtUp { task, version }
                }
                Err(reason) => Event::GaveUp { task, version, reason },
            };
            // a run that is over has no receiver left
            let _ = events.send(event);
        };
        std::thread::Builder::new()
            .name(format!("beside-{version}"))
            .spawn(work)
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(trial)
    }

    /// Tries it on this batch, unless it is busy or done.
    pub fn show(&self, batch: &RecordBatch) {
        if batch.num_rows() > 0 {
            let _ = self.batches.try_send(batch.clone());
        }
    }

    pub fn is_over(&self) -> bool {
        self.candidate.is_over.load(Relaxed)
    }

    /// The version, if it has survived.
    pub fn take_over(self) -> Option<TransformPlugin> {
        self.tried.try_recv().ok()
    }
}

/// None: nobody waits for it any more.
fn survive(
    candidate: &Arc<Candidate>,
    node: &PluginNode,
    output: &SchemaRef,
    gauges: Arc<PluginGauges>,
    batches: &Receiver<RecordBatch>,
) -> Result<Option<TransformPlugin>, String> {
    let shared = candidate.open.clone();
    let open: OpenTransformer = Box::new(move || shared.transformer());
    let mut plugin = TransformPlugin::new(node, open, (candidate.recorder)()).map_err(|e| e.to_string())?;
    if plugin.output() != output {
        return Err("it gives other columns than the running version".to_owned());
    }
    plugin.id = candidate.id;
    plugin.set_gauges(gauges);
    plugin.set_strict(true);
    for _ in 0..TRIED_BATCHES {
        let batch = batches.recv_timeout(QUIET);
        if candidate.is_over.load(Relaxed) {
            return Ok(None);
        }
        match batch {
            Ok(batch) => plugin.apply(&batch, &|_| Place::default()).map_err(|e| e.to_string())?,
            Err(RecvTimeoutError::Timeout) => break,
            // the task has ended
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        };
    }
    Ok(Some(plugin))
}
