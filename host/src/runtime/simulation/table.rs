//! A sink with files and transactions, kept in memory: what the Iceberg sink is to the runtime.

use std::sync::Arc;

use async_trait::async_trait;
use millrace_core::batch::{RowSet, Rows};
use millrace_core::checkpoint::{Committable, SinkState};
use millrace_core::commit::Fence;
use serde_json::Value;

use super::process::{Process, Trouble};
use super::script::Place;
use crate::sink::json::row_to_json;
use crate::sink::{Prepared, Result, SinkCommitter, SinkError, SinkWriter};

/// Tries before a commit is left to the next process.
const TRIES_MAX: u32 = 5;

pub struct Writer {
    pub process: Arc<Process>,
    pub rows: Vec<Value>,
}

impl SinkWriter for Writer {
    fn write(&mut self, rows: &RowSet) -> Result<()> {
        self.process.dawdle();
        self.process.step(Place::Write, || ())?;
        let mut take = |row| -> Result<()> {
            let json = row_to_json(&rows.batch.rows, row)?;
            self.rows.push(serde_json::from_str(&json).map_err(|e| SinkError::Fatal(e.to_string()))?);
            Ok(())
        };
        match &rows.rows {
            Rows::All => (0..rows.batch.num_rows()).try_for_each(&mut take),
            Rows::Some(numbers) => numbers.iter().try_for_each(|&row| take(row as usize)),
        }
    }

    fn prepare(&mut self, _checkpoint: u64) -> Result<Prepared> {
        self.process.dawdle();
        let rows = std::mem::take(&mut self.rows);
        let mut prepared = Prepared { rows: rows.len() as u64, ..Prepared::default() };
        let file_rows = 1 + self.process.draw(|random| random.below(rows.len().max(1)));
        for file in rows.chunks(file_rows) {
            let id = self.process.step(Place::Prepare, || self.process.world.put_file(file.to_vec()))?;
            prepared.files.push(id.into());
        }
        Ok(prepared)
    }
}

pub struct Committer {
    pub process: Arc<Process>,
    pub table: String,
}

impl Committer {
    /// Looks again after a lost answer, like every committer must: the decision knows what is there already.
    async fn try_again<T>(&self, mut attempt: impl FnMut() -> std::result::Result<T, Trouble>) -> Result<T> {
        let mut tries = 1;
        loop {
            self.process.dawdle_async().await;
            match attempt() {
                Ok(done) => return Ok(done),
                Err(Trouble::Transient) if tries < TRIES_MAX => tries += 1,
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }
}

#[async_trait]
impl SinkCommitter for Committer {
    async fn claim(&self, fence: &Fence, state: &SinkState) -> Result<u64> {
        let world = &self.process.world;
        let claim = || world.claim_table(&self.table, fence, state);
        self.try_again(|| self.process.risky_step(Place::TableClaim, claim)).await?.map_err(SinkError::Fatal)
    }

    async fn join(&self, _checkpoint: u64, files: Vec<Value>) -> Result<Vec<Value>> {
        let world = &self.process.world;
        let keep = self.process.draw(|random| random.below(files.len() + 1));
        let (kept, joined) = files.split_at(keep);
        let id = self.process.step(Place::Join, || world.put_file(world.read_files(joined)))?;
        Ok(kept.iter().cloned().chain([id.into()]).collect())
    }

    async fn commit(&self, fence: &Fence, committable: &Committable) -> Result<()> {
        let world = &self.process.world;
        let commit = || world.commit(&self.table, fence, committable);
        self.try_again(|| self.process.risky_step(Place::Commit, commit)).await?.map_err(SinkError::Fatal)
    }
}
