//! One data file: rows in, Parquet out, and what the checkpoint says of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use bytes::Bytes;
use futures::future::BoxFuture;
use iceberg::io::{FileWrite, OutputFile};
use iceberg::spec::{
    DataFile, DataFileFormat, FormatVersion, PartitionKey, Struct, deserialize_data_file_from_json,
    serialize_data_file_to_json,
};
use iceberg::writer::file_writer::location_generator::LocationGenerator;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::ParquetError;
use serde_json::Value;

use super::removals::Place;
use super::table::Layout;
use super::{classify, metrics};
use crate::sink::{Result, SinkError};

/// Which checkpoint a file's rows belong to, for its name: whoever sweeps orphans can tell whether they still may be
/// listed.
#[derive(Clone, Copy)]
pub enum Belongs {
    To(u64),
    /// begun after this one; which will list it is not known yet
    After(u64),
}

/// A name that no other file has.
pub fn file_name(belongs: Belongs, task: usize, extension: &str) -> String {
    let checkpoint = match belongs {
        Belongs::To(checkpoint) => format!("{checkpoint:08}"),
        Belongs::After(checkpoint) => format!("after-{checkpoint:08}"),
    };
    format!("{checkpoint}-{task:03}-{}.{extension}", uuid::Uuid::now_v7())
}

/// A file that is whole but maybe not durable. [`Layout::durable`] makes of it what a checkpoint may list.
#[must_use]
pub struct Closed(pub(super) Value);

pub struct DataFileWriter {
    parquet: AsyncArrowWriter<Output>,
    path: Arc<str>,
    /// rows written so far
    rows: i64,
    partition: Struct,
    /// field id → NaNs among its values
    nans: BTreeMap<i32, u64>,
}

impl DataFileWriter {
    /// Nothing is on disk before the first row group is complete.
    pub fn new(layout: &Layout, task: usize, belongs: Belongs, partition: Struct) -> Result<Self> {
        let name = file_name(belongs, task, DataFileFormat::Parquet.to_string().as_str());
        let key = (!layout.spec.is_unpartitioned())
            .then(|| PartitionKey::new(layout.spec.as_ref().clone(), layout.schema.clone(), partition.clone()));
        let path: Arc<str> = layout.locations.generate_location(key.as_ref(), &name).into();
        let output = Output { file: layout.output(&path)?, open: None };
        let parquet = AsyncArrowWriter::try_new_with_options(output, layout.arrow.clone(), layout.parquet.clone())
            .map_err(|e| failed("creating", &path, e))?;
        Ok(Self { parquet, path, rows: 0, partition, nans: BTreeMap::new() })
    }

    /// Returns where the first of the rows is: the others follow it.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<Place> {
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            let nans = match column.data_type() {
                DataType::Float32 => {
                    column.as_primitive::<Float32Type>().iter().flatten().filter(|v| v.is_nan()).count()
                }
                DataType::Float64 => {
                    column.as_primitive::<Float64Type>().iter().flatten().filter(|v| v.is_nan()).count()
                }
                _ => continue,
            };
            let id = field.metadata().get(parquet::arrow::PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse().ok());
            if let Some(id) = id {
                *self.nans.entry(id).or_default() += nans as u64;
            }
        }
        self.parquet.write(rows).await.map_err(|e| failed("writing", &self.path, e))?;
        let first = Place { file: self.path.clone(), position: self.rows };
        self.rows = self.rows.saturating_add(i64::try_from(rows.num_rows()).unwrap_or(i64::MAX));
        Ok(first)
    }

    /// Its size if it were closed now, roughly.
    pub fn bytes(&self) -> usize {
        self.parquet.bytes_written() + self.parquet.in_progress_size()
    }

    pub async fn close(mut self, layout: &Layout) -> Result<Closed> {
        let metadata = self.parquet.finish().await.map_err(|e| failed("finishing", &self.path, e))?;
        let file = metrics::describe(&layout.schema, &metadata, &self.nans)
            .file_path(self.path.to_string())
            .file_size_in_bytes(self.parquet.bytes_written() as u64)
            .partition(self.partition.clone())
            .partition_spec_id(layout.spec.spec_id())
            .build()
            .map_err(|e| SinkError::Fatal(format!("describing {}: {e}", self.path)))?;
        let json = serialize_data_file_to_json(file, &layout.partition_type, FormatVersion::V2)
            .map_err(|e| classify(&format!("describing {}", self.path), &e))?;
        // kept as text: the crate reads a partition's values by their order, and a JSON value may reorder them
        Ok(Closed(serde_json::json!({ "partition": format!("{:?}", self.partition), "data_file": json })))
    }
}

/// What a checkpoint says of a data file, read back.
pub fn data_file(layout: &Layout, value: &Value) -> Result<DataFile> {
    let text = value.get("data_file").and_then(Value::as_str).unwrap_or_default();
    deserialize_data_file_from_json(text, layout.spec.spec_id(), &layout.partition_type, &layout.schema).map_err(|e| {
        SinkError::Fatal(format!("what a checkpoint says of a file of table {} cannot be read: {e}", layout.table))
    })
}

/// Created when there is something to write.
struct Output {
    file: OutputFile,
    open: Option<Box<dyn FileWrite>>,
}

impl AsyncFileWriter for Output {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        Box::pin(async move {
            let open = match &mut self.open {
                Some(open) => open,
                none => none.insert(self.file.writer().await.map_err(outside)?),
            };
            open.write(bytes).await.map_err(outside)
        })
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        Box::pin(async move {
            match &mut self.open {
                Some(open) => open.close().await.map_err(outside),
                None => Ok(()),
            }
        })
    }
}

fn outside(error: iceberg::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

fn failed(doing: &str, path: &str, error: ParquetError) -> SinkError {
    let what = format!("{doing} {path}");
    match error {
        ParquetError::External(e) if e.is::<iceberg::Error>() => e
            .downcast::<iceberg::Error>()
            .map_or_else(|e| SinkError::Fatal(format!("{what}: {e}")), |e| classify(&what, &e)),
        other => SinkError::Fatal(format!("{what}: {other}")),
    }
}
