//! One partition of a source task: its reader, its event time, and what it tells of itself.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_core::checkpoint::PartitionState;
use millrace_core::idleness::Known;
use millrace_core::watermark::PartitionTime;

use crate::runtime::stats::UNKNOWN;
use crate::runtime::status::PartitionReport;
use crate::source::{PartitionInfo, PartitionReader, StartAt};

/// What a task, the monitor and whoever asks share of one partition.
#[derive(Debug)]
pub struct PartitionProgress {
    pub position: AtomicI64,
    /// the end offset last heard of
    pub end: AtomicI64,
    /// when the answer came, in ms of the run's own steady clock
    pub end_answered_ms: AtomicI64,
    report: Mutex<PartitionReport>,
}

impl Default for PartitionProgress {
    fn default() -> Self {
        Self {
            position: AtomicI64::new(UNKNOWN),
            end: AtomicI64::new(UNKNOWN),
            end_answered_ms: AtomicI64::new(UNKNOWN),
            report: Mutex::default(),
        }
    }
}

impl PartitionProgress {
    pub fn report(&self) -> PartitionReport {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn publish(&self, report: PartitionReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

/// A partition that a task starts with.
pub struct Assigned {
    pub info: PartitionInfo,
    pub start: StartAt,
    pub time: PartitionTime,
    /// bounded runs: done when the position reaches it
    pub until: Option<i64>,
    pub progress: Arc<PartitionProgress>,
}

pub struct Partition {
    pub info: PartitionInfo,
    pub reader: Box<dyn PartitionReader>,
    pub time: PartitionTime,
    pub until: Option<i64>,
    pub done: bool,
    /// the last message, or the start: of the run's steady clock
    pub last_message_at_ms: i64,
    pub progress: Arc<PartitionProgress>,
    pub report: PartitionReport,
}

impl Partition {
    pub fn new(assigned: Assigned, reader: Box<dyn PartitionReader>, now_ms: i64) -> Self {
        let Assigned { info, time, until, progress, .. } = assigned;
        let position = reader.position();
        progress.position.store(position, Relaxed);
        let report = PartitionReport { stands_since_at_ms: now_ms, ..PartitionReport::default() };
        let done = until.is_some_and(|end| position >= end);
        let mut partition = Self { info, reader, time, until, done, last_message_at_ms: now_ms, progress, report };
        partition.publish(now_ms);
        partition
    }

    pub fn known(&self) -> Known {
        let told = |value: &AtomicI64| Some(value.load(Relaxed)).filter(|v| *v != UNKNOWN);
        Known {
            position: self.reader.position(),
            end: told(&self.progress.end),
            end_answered_at_ms: told(&self.progress.end_answered_ms),
            last_message_at_ms: self.last_message_at_ms,
        }
    }

    /// As a checkpoint keeps it.
    pub fn state(&self) -> PartitionState {
        PartitionState {
            topic: self.info.id.topic.to_string(),
            topic_id: self.info.topic_id.clone(),
            partition: self.info.id.partition,
            position: self.until.map_or(self.reader.position(), |end| self.reader.position().min(end)),
            watermark_ms: self.time.watermark_ms(),
            // one that still waits for its first event holds nobody back after a restart either
            idle: self.time.state().idle,
        }
    }

    /// Shows whoever asks where the partition is.
    pub fn publish(&mut self, now_ms: i64) {
        let report = &mut self.report;
        let watermark_ms = self.time.watermark_ms();
        if report.watermark_ms != watermark_ms {
            report.watermark_ms = watermark_ms;
            report.stands_since_at_ms = now_ms;
        }
        report.idle = self.time.is_idle();
        report.waits_for_first_event = self.time.state().idle && !report.idle;
        report.done = self.done;
        self.progress.publish(*report);
    }
}
