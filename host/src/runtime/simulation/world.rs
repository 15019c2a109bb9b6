//! What outlives a process: the brokers' partitions, the checkpoint location, the sinks' files and tables.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use millrace_core::checkpoint::{Committable, LogRecord, PositionRange, SinkState};
use millrace_core::commit::{Claim, ClaimDecision, CommitDecision, Fence, decide_claim, decide_commit};
use object_store::memory::InMemory;
use serde_json::Value;

use super::script::{Script, Turn};

pub struct World {
    pub script: Script,
    pub store: InMemory,
    /// every checkpoint ever published, in order
    pub published: Mutex<Vec<LogRecord>>,
    /// what processes were struck by, and where
    pub struck: Mutex<Vec<Turn>>,
    /// by partition, how many of its messages have been produced
    arrived: Mutex<Vec<usize>>,
    files: Mutex<BTreeMap<u64, Vec<Value>>>,
    tables: Mutex<BTreeMap<String, Table>>,
    ids: AtomicU64,
}

#[derive(Clone, Default)]
pub struct Table {
    claim: Option<Claim>,
    pub commits: Vec<Commit>,
}

#[derive(Clone)]
pub struct Commit {
    pub checkpoint: u64,
    pub rows: Vec<Value>,
    pub positions: Vec<PositionRange>,
}

/// A panic somewhere is reported where it was, not at the next lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl World {
    pub fn new(script: Script) -> Self {
        Self {
            arrived: Mutex::new(vec![0; script.partitions.len()]),
            script,
            store: InMemory::new(),
            published: Mutex::default(),
            struck: Mutex::default(),
            files: Mutex::default(),
            tables: Mutex::default(),
            ids: AtomicU64::new(0),
        }
    }

    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::SeqCst)
    }

    /// Produces up to `more` messages into a partition, not beyond `limit`; returns how many are there now.
    pub fn produce(&self, partition: usize, more: usize, limit: usize) -> usize {
        let mut arrived = lock(&self.arrived);
        arrived[partition] = arrived[partition].max((arrived[partition] + more).min(limit));
        arrived[partition]
    }

    /// The offset after the last readable record.
    pub fn end(&self, partition: usize) -> i64 {
        let arrived = lock(&self.arrived)[partition];
        let p = &self.script.partitions[partition];
        p.messages.get(arrived).map_or(p.end, |next| next.offset)
    }

    pub fn put_file(&self, rows: Vec<Value>) -> u64 {
        let id = self.next_id();
        lock(&self.files).insert(id, rows);
        id
    }

    pub fn read_files(&self, files: &[Value]) -> Vec<Value> {
        let all = lock(&self.files);
        files.iter().flat_map(|id| all[&id.as_u64().unwrap()].iter().cloned()).collect()
    }

    pub fn table(&self, name: &str) -> Table {
        lock(&self.tables).get(name).cloned().unwrap_or_default()
    }

    pub fn claims(&self) -> Vec<(String, Claim)> {
        lock(&self.tables).iter().filter_map(|(name, t)| Some((name.clone(), t.claim.clone()?))).collect()
    }

    /// As a catalog does it: what the decision looks at and what it leads to are one transaction.
    pub fn claim_table(&self, name: &str, fence: &Fence, state: &SinkState) -> Result<u64, String> {
        let mut tables = lock(&self.tables);
        let table = tables.entry(name.to_owned()).or_default();
        let pending: Vec<u64> = state.pending.iter().map(|c| c.checkpoint).collect();
        match decide_claim(table.claim.as_ref(), fence, state.confirmed, &pending) {
            ClaimDecision::Take { committed } => {
                table.claim = Some(claim(fence, committed));
                Ok(committed)
            }
            ClaimDecision::Fenced { .. } => Err(format!("fenced: table {name} has another owner")),
            refusal => Err(format!("table {name} refuses the claim: {refusal:?}")),
        }
    }

    pub fn commit(&self, name: &str, fence: &Fence, committable: &Committable) -> Result<(), String> {
        let rows = self.read_files(&committable.files);
        let mut tables = lock(&self.tables);
        let table = tables.entry(name.to_owned()).or_default();
        match decide_commit(table.claim.as_ref(), fence, committable.predecessor, committable.checkpoint) {
            CommitDecision::Go => {
                if rows.len() as u64 != committable.rows {
                    return Err(format!(
                        "table {name}: {} rows, the committable says {}",
                        rows.len(),
                        committable.rows
                    ));
                }
                table.claim = Some(claim(fence, committable.checkpoint));
                let positions = committable.positions.clone();
                table.commits.push(Commit { checkpoint: committable.checkpoint, rows, positions });
                Ok(())
            }
            CommitDecision::AlreadyCommitted => Ok(()),
            CommitDecision::Fenced { .. } => Err(format!("fenced: table {name} has another owner")),
            unexpected @ CommitDecision::Unexpected { .. } => Err(format!("table {name}: {unexpected:?}")),
        }
    }
}

fn claim(fence: &Fence, checkpoint: u64) -> Claim {
    Claim { incarnation: fence.incarnation.clone(), generation: fence.generation, checkpoint }
}
