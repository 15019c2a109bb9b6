//! One sink task's rows on their way to files.
//!
//! ```text
//!   unpartitioned   rows ─▶ the task's open file ───────────────── at a barrier: closed, named in the checkpoint
//!
//!   partitioned     rows ─▶ buffer, with the partition number of each row
//!                              │ full                 │ at a barrier
//!                              ▼                      ▼
//!                             run             commit at every barrier: a file per partition, from buffer and runs
//!                                             else: a run, named in the checkpoint; [`super::join`] merges them
//! ```
//!
//! So the number of partitions costs files, not memory, and files only once per commit.

use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use millrace_core::batch::{RowSet, Rows};
use serde_json::Value;
use tokio::runtime::Handle;

use super::buffer::Buffer;
use super::data::{Belongs, Closed, DataFileWriter};
use super::partition::Partitions;
use super::removals::Place;
use super::table::Layout;
use super::{join, run};
use crate::sink::{Prepared, Result, SinkError, SinkWriter};

/// Rows waiting in one task of a partitioned sink.
const BUFFER_BYTES_MAX: usize = 64 << 20;

pub struct IcebergWriter {
    task: usize,
    layout: Arc<Layout>,
    runtime: Handle,
    /// not every checkpoint is committed: rows wait for those of others
    waits: bool,
    buffer_bytes_max: usize,
    /// the last barrier's
    checkpoint: u64,
    files: Files,
    partitions: Partitions,
    buffer: Buffer,
    runs: Vec<Closed>,
    rows: u64,
    windows_ms: Option<(i64, i64)>,
}

impl IcebergWriter {
    pub fn new(task: usize, layout: Arc<Layout>, runtime: Handle, waits: bool) -> Self {
        Self {
            task,
            files: Files::new(task, layout.clone()),
            layout,
            runtime,
            waits,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            checkpoint: 0,
            partitions: Partitions::default(),
            buffer: Buffer::default(),
            runs: Vec::new(),
            rows: 0,
            windows_ms: None,
        }
    }

    #[cfg(test)]
    pub fn with_buffer(self, buffer_bytes_max: usize) -> Self {
        Self { buffer_bytes_max, ..self }
    }

    /// Moves the buffered rows to a run.
    async fn spill(&mut self, belongs: Belongs) -> Result<()> {
        if !self.buffer.is_empty() {
            let rows = self.buffer.take(&self.partitions);
            self.runs.push(run::write(&self.layout, self.task, belongs, &self.partitions, rows).await?);
        }
        Ok(())
    }

    /// All rows since the last barrier, in files that are durable.
    async fn finish(&mut self, checkpoint: u64) -> Result<Vec<Value>> {
        let belongs = Belongs::To(checkpoint);
        if self.waits || !self.runs.is_empty() {
            self.spill(belongs).await?;
        } else {
            for piece in self.buffer.take(&self.partitions) {
                let (id, rows) = piece?;
                self.files.write(belongs, &self.partitions, id, &rows).await?;
            }
        }
        let mut closed = self.files.finish().await?;
        let runs = std::mem::take(&mut self.runs);
        if self.waits {
            closed.extend(runs);
        } else if !runs.is_empty() {
            let paths: Vec<String> = runs.iter().filter_map(|run| run::path_of(&run.0)).map(str::to_owned).collect();
            closed.extend(join::merge(&self.layout, self.task, belongs, &paths, |_| true).await?);
            self.layout.remove(paths.iter().map(String::as_str)).await;
        }
        self.partitions.clear();
        self.checkpoint = checkpoint;
        self.layout.durable(closed)
    }
}

impl SinkWriter for IcebergWriter {
    fn write(&mut self, rows: &RowSet) -> Result<()> {
        let batch = match &rows.rows {
            Rows::All => rows.batch.rows.clone(),
            Rows::Some(numbers) => {
                let numbers = UInt32Array::from(numbers.to_vec());
                arrow_select::take::take_record_batch(&rows.batch.rows, &numbers)
                    .map_err(|e| SinkError::Fatal(format!("gathering rows: {e}")))?
            }
        };
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        if rows.batch.changes.is_some() {
            self.windows_ms = widen(self.windows_ms, &batch);
        }
        let batch = self.layout.project(&batch)?;
        let belongs = Belongs::After(self.checkpoint);
        let runtime = self.runtime.clone();
        if self.layout.spec.is_unpartitioned() {
            return runtime.block_on(self.files.write(belongs, &self.partitions, 0, &batch)).map(drop);
        }
        let ids = self.partitions.assign(&self.layout, &batch)?;
        self.buffer.push(batch, ids);
        if self.buffer.bytes() > self.buffer_bytes_max {
            runtime.block_on(self.spill(belongs))?;
        }
        Ok(())
    }

    fn prepare(&mut self, checkpoint: u64) -> Result<Prepared> {
        let runtime = self.runtime.clone();
        Ok(Prepared {
            files: runtime.block_on(self.finish(checkpoint))?,
            rows: std::mem::take(&mut self.rows),
            windows_ms: self.windows_ms.take(),
            writer: None,
        })
    }
}

/// Data files, one open at a time: rows of one partition should come together.
pub struct Files {
    task: usize,
    layout: Arc<Layout>,
    /// with its partition's number
    open: Option<(u32, DataFileWriter)>,
    closed: Vec<Closed>,
}

impl Files {
    pub fn new(task: usize, layout: Arc<Layout>) -> Self {
        Self { task, layout, open: None, closed: Vec::new() }
    }

    /// Returns where the first of the rows is: the others follow it.
    pub async fn write(
        &mut self,
        belongs: Belongs,
        partitions: &Partitions,
        id: u32,
        rows: &RecordBatch,
    ) -> Result<Place> {
        let target = self.layout.options.target_file_bytes;
        if self.open.as_ref().is_some_and(|(open, file)| *open != id || file.bytes() >= target) {
            self.close().await?;
        }
        let (_, file) = match &mut self.open {
            Some(open) => open,
            none => none.insert((id, DataFileWriter::new(&self.layout, self.task, belongs, partitions.value(id))?)),
        };
        file.write(rows).await
    }

    async fn close(&mut self) -> Result<()> {
        if let Some((_, file)) = self.open.take() {
            self.closed.push(file.close(&self.layout).await?);
        }
        Ok(())
    }

    pub async fn finish(&mut self) -> Result<Vec<Closed>> {
        self.close().await?;
        Ok(std::mem::take(&mut self.closed))
    }
}

/// Widens the span of windows by those of a batch of results.
pub fn widen(span: Option<(i64, i64)>, rows: &RecordBatch) -> Option<(i64, i64)> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    let bound = |name: &str, max: bool| {
        let column = rows.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        let values = column.iter().flatten();
        if max { values.max() } else { values.min() }
    };
    let (start, end) = (bound("window_start", false)?.div_euclid(1_000), bound("window_end", true)?.div_euclid(1_000));
    Some(span.map_or((start, end), |(s, e)| (s.min(start), e.max(end))))
}
