//! Counters and gauges of a run, by node. Written per batch by the tasks, read by the progress line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::status::Status;

/// `i64::MIN` in a gauge: not known yet.
pub const UNKNOWN: i64 = i64::MIN;

#[derive(Debug)]
pub struct NodeStats {
    /// messages read (sources), rows taken in (operators and sinks)
    pub rows_in_total: AtomicU64,
    pub bytes_in_total: AtomicU64,
    /// rows that could not be used: failed to decode, refused by a plugin, too far in the future
    pub failed_total: AtomicU64,
    pub late_total: AtomicU64,
    /// rows that a deduplication dropped
    pub duplicates_total: AtomicU64,
    pub rows_out_total: AtomicU64,
    /// groups open now, summed over tasks
    pub groups: AtomicI64,
    pub state_bytes: AtomicI64,
    /// plugin instances that died and were brought back
    pub plugin_failures_total: AtomicU64,
}

impl Default for NodeStats {
    fn default() -> Self {
        Self {
            rows_in_total: AtomicU64::new(0),
            bytes_in_total: AtomicU64::new(0),
            failed_total: AtomicU64::new(0),
            late_total: AtomicU64::new(0),
            duplicates_total: AtomicU64::new(0),
            rows_out_total: AtomicU64::new(0),
            groups: AtomicI64::new(0),
            state_bytes: AtomicI64::new(0),
            plugin_failures_total: AtomicU64::new(0),
        }
    }
}

#[derive(Debug)]
pub struct RunStats {
    /// what each task says of itself
    pub status: Status,
    pub nodes: BTreeMap<Arc<str>, Arc<NodeStats>>,
    /// lowest watermark over the aggregation tasks
    pub watermark_ms: AtomicI64,
    /// messages between the positions and the ends last heard of
    pub lag: AtomicI64,
    pub checkpoint: AtomicU64,
    pub checkpoint_took_ms: AtomicU64,
    pub checkpoint_at_ms: AtomicI64,
    pub committed: AtomicU64,
    pub committed_at_ms: AtomicI64,
    pub committed_rows_total: AtomicU64,
    pub committed_files_total: AtomicU64,
}

impl RunStats {
    pub fn new(nodes: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self {
            status: Status::default(),
            nodes: nodes.into_iter().map(|n| (n, Arc::default())).collect(),
            watermark_ms: AtomicI64::new(UNKNOWN),
            lag: AtomicI64::new(UNKNOWN),
            checkpoint: AtomicU64::new(0),
            checkpoint_took_ms: AtomicU64::new(0),
            checkpoint_at_ms: AtomicI64::new(UNKNOWN),
            committed: AtomicU64::new(0),
            committed_at_ms: AtomicI64::new(UNKNOWN),
            committed_rows_total: AtomicU64::new(0),
            committed_files_total: AtomicU64::new(0),
        }
    }

    pub fn node(&self, name: &str) -> Arc<NodeStats> {
        self.nodes.get(name).cloned().unwrap_or_default()
    }

    pub fn sum(&self, nodes: &[Arc<str>], counter: impl Fn(&NodeStats) -> &AtomicU64) -> u64 {
        nodes.iter().filter_map(|n| self.nodes.get(n)).map(|n| counter(n).load(Relaxed)).sum()
    }
}
