//! One task of a sink: rows go to a writer; at a barrier the writer gives up what it has, for the checkpoint.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::Sender;
use millrace_core::barrier::Then;
use millrace_core::batch::Audience;
use millrace_core::watermark::InputWatermarks;

use super::edge::{Inbox, Received};
use super::message::{Event, Part, RunError, TaskId};
use super::stats::NodeStats;
use crate::sink::SinkWriter;

pub struct SinkTask {
    pub id: TaskId,
    pub inbox: Inbox,
    pub writer: Box<dyn SinkWriter>,
    pub events: Sender<Event>,
    pub stats: Arc<NodeStats>,
}

impl SinkTask {
    /// Runs until a barrier says stop or an input hangs up.
    pub fn run(mut self) -> Result<(), RunError> {
        let mut watermarks = InputWatermarks::new(self.inbox.inputs(), None);
        loop {
            match self.inbox.receive(None)? {
                // its rows came with the changelog
                Received::Rows(packet) if packet.rows.is_for(Audience::Operators) => {}
                Received::Rows(packet) => {
                    self.stats.rows_in_total.fetch_add(packet.rows.len() as u64, Relaxed);
                    self.writer.write(&packet.rows)?;
                }
                Received::Barrier(barrier) => {
                    let prepared = self.writer.prepare(barrier.checkpoint)?;
                    let acknowledged = Event::Acknowledged {
                        task: self.id.clone(),
                        checkpoint: barrier.checkpoint,
                        part: Part::Sink(prepared),
                    };
                    if self.events.send(acknowledged).is_err() || barrier.then == Then::Stop {
                        return Ok(());
                    }
                }
                Received::Watermark { input, watermark } => {
                    if let (true, Some(time_ms)) = (watermarks.update(input, watermark), watermarks.current_ms()) {
                        self.writer.watermark(time_ms);
                    }
                }
                Received::Nothing => {}
                Received::Hangup => return Ok(()),
            }
        }
    }
}
