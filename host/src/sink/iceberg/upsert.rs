//! Rows into a table that holds the last version of each result only.
//!
//! ```text
//!   changelog ─▶ last change of each identity ─ at a barrier ─▶ its rows ─▶ data files ─▶ places remembered
//!                (an epoch's; earlier if it is much)        └─▶ its former places ─▶ removals
//! ```
//!
//! One task does it for the whole sink: what an identity's rows are, one mind has to know. Rows are written once an epoch
//! and identity. It never deletes anything itself: the commit makes position deletes of the removals, when it knows where
//! the rows are ([`super::row_delta`]).

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;
use millrace_core::batch::{Change, RowSet, Rows};
use millrace_core::checkpoint::SinkState;
use millrace_core::limits::ENDLESS_POSITIONS_MAX;

use super::data::Belongs;
use super::identity::{Id, Identity, micros};
use super::partition::Partitions;
use super::positions::{Positions, Unknown};
use super::removals::{self, Place, Removal};
use super::row_delta::Upsert;
use super::writer::{Files, widen};
use super::{IcebergSink, lookup};
use crate::sink::{Prepared, Result, SinkError, SinkWriter, WriterStore};
use crate::spec::columns::{WINDOW_END, WINDOW_START};

/// Rows waiting for the barrier; with more, what is there is written early.
const BUFFER_BYTES_MAX: usize = 64 << 20;
/// Rows handed to a data file at a time.
const WRITTEN_ROWS_MAX: usize = 32_768;
const TASK: usize = 0;

pub struct UpsertWriter {
    sink: Arc<IcebergSink>,
    identity: Arc<Identity>,
    window_ms: Option<i64>,
    store: Arc<dyn WriterStore>,
    buffer_bytes_max: usize,
    endless_max: usize,
    /// the last barrier's
    checkpoint: u64,
    watermark_ms: Option<i64>,
    waiting: Waiting,
    files: Files,
    partitions: Partitions,
    positions: Positions,
    removals: Vec<Removal>,
    rows: u64,
    windows_ms: Option<(i64, i64)>,
}

/// Changes that are not written yet.
#[derive(Default)]
struct Waiting {
    batches: Vec<RecordBatch>,
    bytes: usize,
    last: HashMap<Id, Last>,
}

/// The last change of an identity.
struct Last {
    /// the order in which identities came
    number: usize,
    /// (batch, row) of its rows; none: it is deleted
    rows: Vec<(usize, usize)>,
    /// the table has no rows of it, if none are known: the first change here was an insertion
    is_new: bool,
    /// nothing about it will change again
    is_final: bool,
    start_us: Option<i64>,
    end_ms: Option<i64>,
}

impl UpsertWriter {
    pub fn new(sink: Arc<IcebergSink>, upsert: &Upsert, store: Arc<dyn WriterStore>) -> Self {
        Self {
            files: Files::new(TASK, sink.layout.clone()),
            sink,
            identity: Arc::clone(&upsert.identity),
            window_ms: upsert.window_ms,
            store,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            endless_max: ENDLESS_POSITIONS_MAX,
            checkpoint: 0,
            watermark_ms: None,
            waiting: Waiting::default(),
            partitions: Partitions::default(),
            positions: Positions::default(),
            removals: Vec::new(),
            rows: 0,
            windows_ms: None,
        }
    }

    #[cfg(test)]
    pub fn with_buffer(self, buffer_bytes_max: usize) -> Self {
        Self { buffer_bytes_max, ..self }
    }

    #[cfg(test)]
    pub fn with_endless_max(self, endless_max: usize) -> Self {
        Self { endless_max, ..self }
    }

    /// Takes changes in, group by group: adjacent rows of one identity and revision are one version of it.
    fn take_in(&mut self, rows: &RowSet) -> Result<()> {
        let batch = &rows.batch.rows;
        let Some(changes) = &rows.batch.changes else {
            return Err(SinkError::Fatal(format!(
                "sink `{}` replaces rows, and got some that are no results: nothing says what they replace",
                self.sink.name
            )));
        };
        let columns = self.identity.of_input(batch)?;
        let keys = self.identity.keys(&columns, batch.num_rows())?;
        let (starts, ends) = (batch.column_by_name(WINDOW_START), batch.column_by_name(WINDOW_END));
        let in_batches = self.waiting.batches.len();
        let numbers: Box<dyn Iterator<Item = usize>> = match &rows.rows {
            Rows::All => Box::new(0..batch.num_rows()),
            Rows::Some(numbers) => Box::new(numbers.iter().map(|row| *row as usize)),
        };
        let mut numbers = numbers.peekable();
        while let Some(first) = numbers.next() {
            let revision = changes.revisions.get(first);
            let kind = |row: usize| changes.kinds.get(row).copied().unwrap_or(Change::Insert);
            let mut is_insert = kind(first) == Change::Insert;
            let mut new_rows: Vec<(usize, usize)> = Vec::new();
            new_rows.extend((kind(first) != Change::Delete).then_some((in_batches, first)));
            let same = |row: &usize| keys.bytes(*row) == keys.bytes(first) && changes.revisions.get(*row) == revision;
            while let Some(row) = numbers.next_if(same) {
                is_insert &= kind(row) == Change::Insert;
                new_rows.extend((kind(row) != Change::Delete).then_some((in_batches, row)));
            }
            let start_us = micros(starts, first);
            self.positions.saw_window(start_us);
            let number = self.waiting.last.len();
            let change = Last {
                number,
                rows: new_rows,
                is_new: is_insert,
                is_final: changes.is_final,
                start_us,
                end_ms: self.end_ms(start_us, micros(ends, first)),
            };
            match self.waiting.last.get_mut(keys.bytes(first)) {
                // what the table had before this epoch is what the first change said
                Some(last) => *last = Last { number: last.number, is_new: last.is_new, ..change },
                None => {
                    self.waiting.last.insert(keys.bytes(first).into(), change);
                }
            }
        }
        self.waiting.bytes += batch.get_array_memory_size();
        self.waiting.batches.push(batch.clone());
        Ok(())
    }

    /// None: the window has no end, or nobody knows it.
    fn end_ms(&self, start_us: Option<i64>, end_us: Option<i64>) -> Option<i64> {
        let end_ms = end_us.map(|end| end.div_euclid(1_000));
        end_ms.or_else(|| start_us?.div_euclid(1_000).checked_add(self.window_ms?))
    }

    /// Writes what waits: rows to data files, former places to the removals.
    async fn flush(&mut self, belongs: Belongs) -> Result<()> {
        let Waiting { batches, last, .. } = std::mem::take(&mut self.waiting);
        let mut changes: Vec<(Id, Last)> = last.into_iter().collect();
        changes.sort_unstable_by_key(|(_, last)| last.number);
        for (id, last) in &changes {
            match self.positions.take(id) {
                Some(known) => {
                    let places = known.places.into_iter();
                    self.removals.extend(places.map(|place| Removal { id: id.clone(), place: Some(place) }));
                }
                None if last.is_new && !self.positions.unknown().may_have(last.start_us) => {}
                None => self.removals.push(Removal { id: id.clone(), place: None }),
            }
        }
        let places = self.write_rows(belongs, &batches, &changes).await?;
        for ((id, last), places) in changes.into_iter().zip(places) {
            self.rows += places.len() as u64;
            if !places.is_empty() && !last.is_final {
                self.positions.remember(id, places, last.end_ms);
            }
        }
        Ok(())
    }

    /// The rows of all changes, partition by partition; returns where those of each are.
    async fn write_rows(
        &mut self,
        belongs: Belongs,
        batches: &[RecordBatch],
        changes: &[(Id, Last)],
    ) -> Result<Vec<Vec<Place>>> {
        let mut places: Vec<Vec<Place>> = vec![Vec::new(); changes.len()];
        let rows: Vec<(usize, usize)> = changes.iter().flat_map(|(_, last)| last.rows.iter().copied()).collect();
        if rows.is_empty() {
            return Ok(places);
        }
        let failed = |e: arrow_schema::ArrowError| SinkError::Fatal(format!("gathering rows: {e}"));
        let owners: Vec<usize> =
            changes.iter().enumerate().flat_map(|(owner, (_, last))| last.rows.iter().map(move |_| owner)).collect();
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        let rows = interleave_record_batch(&batches, &rows).map_err(failed)?;
        self.windows_ms = widen(self.windows_ms, &rows);
        let layout = self.sink.layout.clone();
        let rows = layout.project(&rows)?;
        let ids = match layout.spec.is_unpartitioned() {
            true => vec![0; rows.num_rows()],
            false => self.partitions.assign(&layout, &rows)?,
        };
        let mut order: Vec<(u64, u32, u32)> =
            ids.iter().zip(0_u32..).map(|(id, row)| (self.partitions.hash(*id), *id, row)).collect();
        order.sort_unstable();
        for piece in order.chunk_by(|a, b| a.1 == b.1).flat_map(|part| part.chunks(WRITTEN_ROWS_MAX)) {
            let Some((_, id, _)) = piece.first() else { continue };
            let numbers = UInt32Array::from_iter_values(piece.iter().map(|(_, _, row)| *row));
            let part = take_record_batch(&rows, &numbers).map_err(failed)?;
            let first = self.files.write(belongs, &self.partitions, *id, &part).await?;
            for ((_, _, row), position) in piece.iter().zip(first.position..) {
                let owner = owners.get(*row as usize).and_then(|owner| places.get_mut(*owner));
                owner.into_iter().for_each(|owner| owner.push(Place { file: first.file.clone(), position }));
            }
        }
        Ok(places)
    }

    async fn finish(&mut self, checkpoint: u64) -> Result<Prepared> {
        let belongs = Belongs::To(checkpoint);
        self.flush(belongs).await?;
        let mut closed = self.files.finish().await?;
        if !self.removals.is_empty() {
            let removals = std::mem::take(&mut self.removals);
            // before the epoch's rows: what is looked up is older than they are
            closed.insert(0, removals::write(&self.sink.layout, TASK, belongs, &removals).await?);
        }
        self.partitions.clear();
        self.checkpoint = checkpoint;
        Ok(Prepared {
            files: self.sink.layout.durable(closed)?,
            rows: std::mem::take(&mut self.rows),
            windows_ms: self.windows_ms.take(),
            writer: None,
        })
    }
}

impl UpsertWriter {
    /// What is remembered, or what has to be found out.
    fn positions_of(&self, state: &SinkState) -> Result<Positions> {
        let identity: Vec<String> = self.identity.names().into_iter().map(str::to_owned).collect();
        if let Some(writer) = &state.writer
            && let Some(positions) = Positions::restored(identity.clone(), writer, &*self.store)?
        {
            return Ok(positions);
        }
        // What is in the table, and what waits to be, was written by somebody who left no positions.
        let unknown = if state.pending.is_empty() && state.open.files.is_empty() {
            self.sink.runtime.block_on(lookup::what_is_there(&self.sink.base(), &self.identity))?
        } else {
            Unknown::Everything
        };
        Ok(Positions::new(identity, unknown))
    }
}

impl SinkWriter for UpsertWriter {
    fn restore(&mut self, state: &SinkState) -> Result<()> {
        self.positions = self.positions_of(state)?.with_endless_max(self.endless_max);
        Ok(())
    }

    fn watermark(&mut self, time_ms: i64) {
        self.watermark_ms = Some(time_ms);
    }

    fn write(&mut self, rows: &RowSet) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.take_in(rows)?;
        if self.waiting.bytes > self.buffer_bytes_max {
            let runtime = self.sink.runtime.clone();
            runtime.block_on(self.flush(Belongs::After(self.checkpoint)))?;
        }
        Ok(())
    }

    fn prepare(&mut self, checkpoint: u64) -> Result<Prepared> {
        let runtime = self.sink.runtime.clone();
        let mut prepared = runtime.block_on(self.finish(checkpoint))?;
        if let Some(watermark_ms) = self.watermark_ms {
            self.positions.forget(watermark_ms);
        }
        prepared.writer = Some(self.positions.save(&self.sink.name, checkpoint, &*self.store)?);
        Ok(prepared)
    }
}
