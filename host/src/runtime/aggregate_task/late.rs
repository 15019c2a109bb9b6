//! Events all of whose windows have expired: counted, the first ones shown, sent to `.late` if something is connected.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use millrace_core::batch::Batch;
use millrace_core::limits::FIRST_OCCURRENCES_LOGGED;
use tracing::warn;

use super::{AggregateTask, State, Step};
use crate::runtime::failures::{FailedRow, dead_letters};
use crate::runtime::stats::UNKNOWN;

impl AggregateTask {
    pub(super) fn late(&self, state: &mut State, batch: &Batch, rows: &[u32], watermark_ms: Option<i64>) -> Step {
        self.stats.late_total.fetch_add(rows.len() as u64, Relaxed);
        if let Some(origin) = &batch.origin {
            self.status.late(origin, rows.len() as u64);
        }
        let connected = !self.late_outputs.is_empty();
        if !connected {
            state.late_dropped += rows.len() as u64;
        }
        let mut letters = Vec::new();
        for &row in rows {
            let time_ms = batch.event_time_ms.get(row as usize).copied().unwrap_or_default();
            let window = state.windower.last_window(time_ms);
            let reason = format!(
                "late: its window [{}, {}) expired under watermark {}, {} ms behind it",
                window.start_ms,
                window.end_ms,
                watermark_ms.unwrap_or(UNKNOWN),
                watermark_ms.unwrap_or(time_ms).saturating_sub(time_ms),
            );
            if state.late_logged < FIRST_OCCURRENCES_LOGGED {
                state.late_logged += 1;
                let origin = batch.origin.as_ref();
                warn!(
                    node = %self.id.node,
                    topic = origin.map_or("", |o| &*o.topic),
                    partition = origin.map_or(-1, |o| o.partition),
                    offset = origin.and_then(|o| o.offsets.get(row as usize)).copied().unwrap_or(-1),
                    "{reason}; {}",
                    if connected { "sent to .late" } else { "dropped (nothing is connected to .late)" }
                );
            }
            if connected {
                letters.push(FailedRow::of(batch, row, reason));
            } else if state.late_logged >= FIRST_OCCURRENCES_LOGGED {
                break;
            }
        }
        if letters.is_empty() {
            return Ok(Ok(()));
        }
        let letters = Arc::new(dead_letters(&self.id.node, &letters)?);
        for output in &self.late_outputs {
            if let Err(hangup) = output.rows(&letters)? {
                return Ok(Err(hangup));
            }
        }
        Ok(Ok(()))
    }
}
