//! One sink task's open files.
//!
//! ```text
//!   rows ─▶ table's columns ─▶ buffered, with the partition number of each row
//!                                   │ at a barrier, or when the buffer is full
//!                                   ▼
//!             one stable sort by partition, one gather of all columns, one slice per partition
//!                                   ▼
//!             Parquet file per partition, named in the checkpoint
//! ```
//!
//! Only large partitions keep a file open between two barriers (when the buffer overflows); all others are written
//! in one go, so the number of partitions costs files, not memory.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use iceberg::spec::{
    DataFile, DataFileFormat, FormatVersion, PartitionKey, Struct, deserialize_data_file_from_json, serialize_data_file_to_json,
};
use iceberg::writer::file_writer::location_generator::LocationGenerator;
use iceberg::writer::file_writer::{FileWriter, FileWriterBuilder, ParquetWriter, ParquetWriterBuilder};
use iceberg::writer::CurrentFileStatus;
use millrace_core::batch::{RowSet, Rows};
use tokio::runtime::Handle;

use super::classify;
use super::partition::Partitions;
use super::table::Layout;
use crate::sink::{Prepared, Result, SinkError, SinkWriter};

/// Rows waiting for their partitions' files, in one task.
const BUFFER_BYTES_MAX: usize = 96 << 20;
/// When the buffer overflows, partitions with at least one in this many of its rows get a file that stays open.
const LARGE_PARTITION_SHARE: usize = 64;

pub struct IcebergWriter {
    files: Files,
    runtime: Handle,
    partitions: Partitions,
    /// rows waiting, with their partition numbers
    buffer: Vec<(RecordBatch, Vec<u32>)>,
    buffer_bytes: usize,
    rows: u64,
    windows_ms: Option<(i64, i64)>,
}

/// Makes and finishes data files.
struct Files {
    task: usize,
    layout: Arc<Layout>,
    /// by partition number
    open: HashMap<u32, ParquetWriter>,
    done: Vec<serde_json::Value>,
    written: u64,
}

impl IcebergWriter {
    pub fn new(task: usize, layout: Arc<Layout>, runtime: Handle) -> Self {
        let files = Files { task, layout, open: HashMap::new(), done: Vec::new(), written: 0 };
        Self {
            files,
            runtime,
            partitions: Partitions::default(),
            buffer: Vec::new(),
            buffer_bytes: 0,
            rows: 0,
            windows_ms: None,
        }
    }

    /// All buffered rows, sorted by partition: (partition, rows) in ascending order of partition.
    fn take_sorted(&mut self) -> Result<Vec<(u32, RecordBatch)>> {
        self.buffer_bytes = 0;
        let buffer = std::mem::take(&mut self.buffer);
        let Some((first, _)) = buffer.first() else { return Ok(Vec::new()) };
        let arrow = |e: arrow_schema::ArrowError| SinkError::Fatal(format!("sorting rows by partition: {e}"));
        let ids: Vec<u32> = buffer.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        let all = arrow_select::concat::concat_batches(&first.schema(), buffer.iter().map(|(batch, _)| batch))
            .map_err(arrow)?;
        drop(buffer);
        // counting sort: stable, so rows of a partition keep their order
        let partitions = ids.iter().max().map_or(0, |max| *max as usize + 1);
        let mut next = vec![0_usize; partitions + 1];
        for &id in &ids {
            if let Some(count) = next.get_mut(id as usize + 1) {
                *count += 1;
            }
        }
        for i in 1..next.len() {
            let before = next.get(i - 1).copied().unwrap_or(0);
            if let Some(count) = next.get_mut(i) {
                *count += before;
            }
        }
        let starts = next.clone();
        let mut order = vec![0_u32; ids.len()];
        for (row, &id) in (0_u32..).zip(&ids) {
            if let Some(place) = next.get_mut(id as usize) {
                if let Some(slot) = order.get_mut(*place) {
                    *slot = row;
                }
                *place += 1;
            }
        }
        let sorted = if partitions <= 1 {
            all
        } else {
            arrow_select::take::take_record_batch(&all, &UInt32Array::from(order)).map_err(arrow)?
        };
        Ok(starts
            .windows(2)
            .zip(0_u32..)
            .filter_map(|(bounds, id)| match bounds {
                [from, to] if to > from => Some((id, sorted.slice(*from, to - from))),
                _ => None,
            })
            .collect())
    }

    /// The buffer is full: large partitions go to files that stay open, small ones stay.
    fn overflow(&mut self) -> Result<()> {
        let sorted = self.take_sorted()?;
        let total: usize = sorted.iter().map(|(_, rows)| rows.num_rows()).sum();
        let mut kept = 0;
        let mut stay = Vec::new();
        for (id, rows) in sorted {
            if rows.num_rows() >= total / LARGE_PARTITION_SHARE || self.files.open.contains_key(&id) {
                self.runtime.block_on(self.files.write(id, &rows, &self.partitions, None))?;
            } else {
                kept += rows.num_rows();
                stay.push((id, rows));
            }
        }
        // Mostly small ones: they would overflow again at once, so they are finished now.
        let finish = kept > total / 2;
        for (id, rows) in stay {
            if finish {
                self.runtime.block_on(self.files.write(id, &rows, &self.partitions, None))?;
                self.runtime.block_on(self.files.finish(id, &self.partitions))?;
            } else {
                let ids = vec![id; rows.num_rows()];
                // a slice shares the sorted buffers: counted by its share of the rows
                self.buffer_bytes += rows.get_array_memory_size() / rows.num_columns().max(1).max(total / rows.num_rows().max(1));
                self.buffer.push((rows, ids));
            }
        }
        Ok(())
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
        let batch = self.files.layout.project(&batch)?;
        if self.files.layout.spec.is_unpartitioned() {
            return self.runtime.block_on(self.files.write(0, &batch, &self.partitions, None));
        }
        let ids = self.partitions.assign(&self.files.layout, &batch)?;
        self.buffer_bytes += batch.get_array_memory_size();
        self.buffer.push((batch, ids));
        if self.buffer_bytes > BUFFER_BYTES_MAX {
            self.overflow()?;
        }
        Ok(())
    }

    fn prepare(&mut self, checkpoint: u64) -> Result<Prepared> {
        for (id, rows) in self.take_sorted()? {
            self.runtime.block_on(self.files.write(id, &rows, &self.partitions, Some(checkpoint)))?;
            self.runtime.block_on(self.files.finish(id, &self.partitions))?;
        }
        let mut open: Vec<u32> = self.files.open.keys().copied().collect();
        open.sort_unstable();
        for id in open {
            self.runtime.block_on(self.files.finish(id, &self.partitions))?;
        }
        self.partitions.clear();
        Ok(Prepared {
            files: std::mem::take(&mut self.files.done),
            rows: std::mem::take(&mut self.rows),
            windows_ms: self.windows_ms.take(),
        })
    }
}

impl Files {
    async fn write(
        &mut self,
        id: u32,
        rows: &RecordBatch,
        partitions: &Partitions,
        checkpoint: Option<u64>,
    ) -> Result<()> {
        if !self.open.contains_key(&id) {
            let partition = partition_of(&self.layout, partitions, id);
            self.open.insert(id, open(&self.layout, self.task, checkpoint, partition).await?);
        }
        let Some(writer) = self.open.get_mut(&id) else { return Ok(()) };
        writer.write(rows).await.map_err(|e| classify(&format!("writing a file of table {}", self.layout.table), &e))?;
        self.written += rows.num_rows() as u64;
        if writer.current_written_size() >= self.layout.options.target_file_bytes {
            self.finish(id, partitions).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, id: u32, partitions: &Partitions) -> Result<()> {
        let Some(writer) = self.open.remove(&id) else { return Ok(()) };
        self.done.extend(close(&self.layout, writer, partition_of(&self.layout, partitions, id)).await?);
        Ok(())
    }
}

fn partition_of(layout: &Layout, partitions: &Partitions, id: u32) -> Struct {
    if layout.spec.is_unpartitioned() { Struct::empty() } else { partitions.value(id) }
}

/// Starts a data file under a name of its own.
pub(super) async fn open(
    layout: &Layout,
    task: usize,
    checkpoint: Option<u64>,
    partition: Struct,
) -> Result<ParquetWriter> {
    let from = checkpoint.map_or_else(|| "open".to_owned(), |c| format!("{c:08}"));
    let name = format!("{from}-{task:03}-{}.{}", uuid::Uuid::now_v7(), DataFileFormat::Parquet);
    let key = (!layout.spec.is_unpartitioned())
        .then(|| PartitionKey::new(layout.spec.as_ref().clone(), layout.schema.clone(), partition));
    let path = layout.locations.generate_location(key.as_ref(), &name);
    let failed = |e: iceberg::Error| classify(&format!("creating {path}"), &e);
    let output = layout.file_io.new_output(&path).map_err(failed)?;
    ParquetWriterBuilder::new(layout.options.parquet.clone(), layout.schema.clone()).build(output).await.map_err(failed)
}

/// Finishes a data file; what the checkpoint will say of it.
pub(super) async fn close(layout: &Layout, writer: ParquetWriter, partition: Struct) -> Result<Vec<serde_json::Value>> {
    let failed = |e: iceberg::Error| classify(&format!("finishing a file of table {}", layout.table), &e);
    let builders = writer.close().await.map_err(failed)?;
    builders
        .into_iter()
        .map(|mut builder| {
            let file = builder
                .partition(partition.clone())
                .partition_spec_id(layout.spec.spec_id())
                .build()
                .map_err(|e| SinkError::Fatal(format!("describing a file of table {}: {e}", layout.table)))?;
            let path = file.file_path().to_owned();
            let json = serialize_data_file_to_json(file, &layout.partition_type, FormatVersion::V2).map_err(failed)?;
            // kept as text: the crate reads a partition's values by their order, and a JSON value may reorder them
            Ok(serde_json::json!({ "path": path, "partition": format!("{partition:?}"), "data_file": json }))
        })
        .collect()
}

/// What a checkpoint says of a file, read back.
pub(super) fn data_file(layout: &Layout, value: &serde_json::Value) -> Result<DataFile> {
    let text = value.get("data_file").and_then(serde_json::Value::as_str).unwrap_or_default();
    deserialize_data_file_from_json(text, layout.spec.spec_id(), &layout.partition_type, &layout.schema)
        .map_err(|e| SinkError::Fatal(format!("what a checkpoint says of a file of table {} cannot be read: {e}", layout.table)))
}

/// Widens the span of windows by those of a batch of results.
fn widen(span: Option<(i64, i64)>, rows: &RecordBatch) -> Option<(i64, i64)> {
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
