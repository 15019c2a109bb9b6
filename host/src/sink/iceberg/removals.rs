//! What has to go from the table with a commit: rows of former versions, by place where it is known.
//!
//! ```text
//!   identity   file       pos
//!   a, 12:00   …1.parquet   7     this row
//!   b, 12:00   null      null     whatever rows the table has of it
//! ```
//!
//! A file beside the data files, named in the checkpoint, because it may be long. Readers of the table never see it: its
//! folder begins with `_`. Position-delete files are made of it by the commit, which alone knows where the rows are then.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, Int64Builder, StringDictionaryBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use iceberg::writer::file_writer::location_generator::LocationGenerator;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::data::{Belongs, Closed, file_name};
use super::identity::Id;
use super::table::Layout;
use super::{classify, join};
use crate::sink::{Result, SinkError};

/// In a checkpoint's list of files.
const REMOVALS: &str = "removals";

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    /// its number in the file, from 0
    pub position: i64,
}

/// Rows of one identity that have to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub id: Id,
    /// none: where they are, and whether there are any, is to be found out
    pub place: Option<Place>,
}

/// Where a checkpoint names a list of removals; none: it names something else.
pub fn path_of(file: &Value) -> Option<&str> {
    file.get(REMOVALS).and_then(Value::as_str)
}

pub async fn write(layout: &Layout, task: usize, belongs: Belongs, removals: &[Removal]) -> Result<Closed> {
    let path = layout.locations.generate_location(None, &format!("_removals/{}", file_name(belongs, task, "parquet")));
    let encoding = |e: &dyn std::fmt::Display| SinkError::Fatal(format!("writing {path}: {e}"));
    let rows = places_batch(removals.iter().map(|r| (&*r.id, r.place.as_ref(), None))).map_err(|e| encoding(&e))?;
    let bytes = parquet(&rows).map_err(|e| encoding(&e))?;
    let failed = |e: iceberg::Error| classify(&format!("writing {path}"), &e);
    let mut out = layout.output(&path)?.writer().await.map_err(failed)?;
    out.write(bytes).await.map_err(failed)?;
    out.close().await.map_err(failed)?;
    // once the commit is in, nothing needs it
    Ok(Closed(serde_json::json!({ REMOVALS: path, join::REPLACES: [path] })))
}

pub async fn read(layout: &Layout, path: &str) -> Result<Vec<Removal>> {
    let failed = |e: iceberg::Error| classify(&format!("reading {path}"), &e);
    let corrupt = |e: &dyn std::fmt::Display| SinkError::Fatal(format!("reading {path}: {e}"));
    let bytes = layout.file_io.new_input(path).map_err(failed)?.read().await.map_err(failed)?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|b| b.build()).map_err(|e| corrupt(&e))?;
    let mut removals = Vec::new();
    for rows in reader {
        let rows = rows.map_err(|e| corrupt(&e))?;
        let read = read_places(&rows).ok_or_else(|| corrupt(&"its columns are not those of removals"))?;
        removals.extend(read.into_iter().map(|row| Removal { id: row.id, place: row.place }));
    }
    Ok(removals)
}

fn parquet(rows: &RecordBatch) -> std::result::Result<Bytes, parquet::errors::ParquetError> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
    writer.write(rows)?;
    Ok(writer.into_inner()?.into())
}

/// Rows of a file of places: an identity, where a row of it is, when its window ends.
pub fn places_batch<'a>(
    rows: impl Iterator<Item = (&'a [u8], Option<&'a Place>, Option<i64>)>,
) -> std::result::Result<RecordBatch, ArrowError> {
    let (mut ids, mut positions, mut ends) = (BinaryBuilder::new(), Int64Builder::new(), Int64Builder::new());
    let mut files = StringDictionaryBuilder::<Int32Type>::new();
    for (id, place, end_ms) in rows {
        ids.append_value(id);
        files.append_option(place.map(|place| &*place.file));
        positions.append_option(place.map(|place| place.position));
        ends.append_option(end_ms);
    }
    // plain text in the file, whatever reads it
    let files = arrow_cast::cast(&files.finish(), &DataType::Utf8)?;
    let columns: Vec<ArrayRef> =
        vec![Arc::new(ids.finish()), files, Arc::new(positions.finish()), Arc::new(ends.finish())];
    let schema = Schema::new(vec![
        Field::new("identity", DataType::Binary, false),
        Field::new("file", DataType::Utf8, true),
        Field::new("pos", DataType::Int64, true),
        Field::new("window_end_ms", DataType::Int64, true),
    ]);
    RecordBatch::try_new(Arc::new(schema), columns)
}

pub struct PlaceRow {
    pub id: Id,
    pub place: Option<Place>,
    pub end_ms: Option<i64>,
}

/// What [`places_batch`] made; none: it is something else.
pub fn read_places(rows: &RecordBatch) -> Option<Vec<PlaceRow>> {
    let ids = rows.column_by_name("identity")?.as_binary_opt::<i32>()?;
    let files = rows.column_by_name("file")?.as_string_opt::<i32>()?;
    let positions = rows.column_by_name("pos")?.as_primitive_opt::<Int64Type>()?;
    let ends = rows.column_by_name("window_end_ms")?.as_primitive_opt::<Int64Type>()?;
    // neighbours are often in one file
    let mut last: Option<Arc<str>> = None;
    let place = |row: usize, last: &mut Option<Arc<str>>| {
        if files.is_null(row) || positions.is_null(row) {
            return None;
        }
        let file = match last {
            Some(file) if **file == *files.value(row) => file.clone(),
            other => other.insert(files.value(row).into()).clone(),
        };
        Some(Place { file, position: positions.value(row) })
    };
    let rows = (0..rows.num_rows()).map(|row| PlaceRow {
        id: ids.value(row).into(),
        place: place(row, &mut last),
        end_ms: ends.is_valid(row).then(|| ends.value(row)),
    });
    Some(rows.collect())
}
