//! Position-delete files: which rows of which data files are gone.
//!
//! One file for each partition that loses rows, written under the spec and partition of the data files it names, rows in
//! order of (file, position), as the Iceberg spec wants it. Bounds on the file path are exact: readers find by them the
//! deletes that are of interest to a data file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, StringDictionaryBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, PartitionKey};
use iceberg::table::Table;
use iceberg::writer::file_writer::location_generator::LocationGenerator;
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::classify;
use super::data::{Belongs, file_name};
use super::live::{Home, Target};
use super::table::Layout;
use crate::sink::{Result, SinkError};

/// Reserved field ids.
pub const DELETED_FILE: i32 = 2_147_483_546;
pub const DELETED_POSITION: i32 = 2_147_483_545;
/// Task number in the names of delete files.
const TASK: usize = 998;

/// A delete file, and the spec of its partition.
#[derive(Clone, Debug)]
pub struct Deletes {
    pub spec_id: i32,
    pub file: DataFile,
}

/// Writes the deletes of all targets; they are durable, when it returns.
pub async fn write(layout: &Layout, base: &Table, checkpoint: u64, targets: &[Target]) -> Result<Vec<Deletes>> {
    let mut by_home: HashMap<&Home, BTreeMap<&str, &[i64]>> = HashMap::new();
    for target in targets {
        by_home.entry(&target.home).or_default().insert(&target.file, &target.positions);
    }
    let mut written = Vec::with_capacity(by_home.len());
    for (home, files) in by_home {
        written.push(write_one(layout, base, checkpoint, home, &files).await?);
    }
    layout.sync()?;
    Ok(written)
}

async fn write_one(
    layout: &Layout,
    base: &Table,
    checkpoint: u64,
    home: &Home,
    files: &BTreeMap<&str, &[i64]>,
) -> Result<Deletes> {
    let invalid =
        |e: &dyn std::fmt::Display| SinkError::Fatal(format!("table {}: position deletes: {e}", layout.table));
    let metadata = base.metadata();
    let spec = metadata
        .partition_spec_by_id(home.spec_id)
        .ok_or_else(|| invalid(&format!("no partition spec {} in the table", home.spec_id)))?;
    let key = (!spec.is_unpartitioned())
        .then(|| PartitionKey::new(spec.as_ref().clone(), metadata.current_schema().clone(), home.partition.clone()));
    let name = file_name(Belongs::To(checkpoint), TASK, "parquet").replace(".parquet", "-deletes.parquet");
    let path = layout.locations.generate_location(key.as_ref(), &name);
    let rows = rows(files).map_err(|e| invalid(&e))?;
    let bytes = parquet(&rows).map_err(|e| invalid(&e))?;
    let size = bytes.len() as u64;
    let failed = |e: iceberg::Error| classify(&format!("writing {path}"), &e);
    let mut out = layout.output(&path)?.writer().await.map_err(failed)?;
    out.write(bytes).await.map_err(failed)?;
    out.close().await.map_err(failed)?;

    let span = |min: Option<Datum>, max: Option<Datum>, id: i32| {
        (min.map(|min| (id, min)).into_iter(), max.map(|max| (id, max)).into_iter())
    };
    let text = |path: Option<&&str>| path.map(|path| Datum::string(*path));
    let (low, high) = span(text(files.keys().next()), text(files.keys().next_back()), DELETED_FILE);
    let positions = || files.values().flat_map(|positions| positions.iter().copied());
    let (first, last) = span(positions().min().map(Datum::long), positions().max().map(Datum::long), DELETED_POSITION);
    let count = rows.num_rows() as u64;
    let only = if files.len() == 1 { files.keys().next().map(|path| (*path).to_owned()) } else { None };
    let mut about = DataFileBuilder::default();
    about
        .content(DataContentType::PositionDeletes)
        .file_format(DataFileFormat::Parquet)
        .file_path(path.clone())
        .file_size_in_bytes(size)
        .record_count(count)
        .partition(home.partition.clone())
        .partition_spec_id(home.spec_id)
        .value_counts(HashMap::from([(DELETED_FILE, count), (DELETED_POSITION, count)]))
        .null_value_counts(HashMap::from([(DELETED_FILE, 0), (DELETED_POSITION, 0)]))
        .lower_bounds(low.chain(first).collect())
        .upper_bounds(high.chain(last).collect())
        .referenced_data_file(only);
    let file = about.build().map_err(|e| SinkError::Fatal(format!("describing {path}: {e}")))?;
    Ok(Deletes { spec_id: home.spec_id, file })
}

fn schema() -> SchemaRef {
    let id = |id: i32| HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
    Arc::new(Schema::new(vec![
        Field::new("file_path", DataType::Utf8, false).with_metadata(id(DELETED_FILE)),
        Field::new("pos", DataType::Int64, false).with_metadata(id(DELETED_POSITION)),
    ]))
}

fn rows(files: &BTreeMap<&str, &[i64]>) -> std::result::Result<RecordBatch, ArrowError> {
    let mut paths = StringDictionaryBuilder::<Int32Type>::new();
    let mut numbers = Int64Builder::new();
    for (path, positions) in files {
        for position in *positions {
            paths.append(path)?;
            numbers.append_value(*position);
        }
    }
    let paths = arrow_cast::cast(&paths.finish(), &DataType::Utf8)?;
    let columns: Vec<ArrayRef> = vec![paths, Arc::new(numbers.finish())];
    RecordBatch::try_new(schema(), columns)
}

fn parquet(rows: &RecordBatch) -> std::result::Result<Bytes, ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_truncate_length(None)
        .set_column_index_truncate_length(None)
        .set_created_by("millrace".to_owned())
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
    writer.write(rows)?;
    Ok(writer.into_inner()?.into())
}
