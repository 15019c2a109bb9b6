//! Where the table has rows of some identities: the slow way, for those whose places are not known (any more).
//!
//! ```text
//!   live data files ─ bounds ─▶ those that may have such rows ─ read the identity columns ─▶ (file, position)
//!                                                              └ less what is deleted already
//! ```
//!
//! Equality deletes of others are not applied: a row that is deleted twice is gone all the same.

use std::collections::{HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType as ArrowType, TimeUnit};
use futures::TryStreamExt;
use iceberg::arrow::ArrowFileReader;
use iceberg::io::FileIO;
use iceberg::spec::{DataContentType, DataFile, DataFileFormat, Datum, ManifestContentType, PrimitiveLiteral};
use iceberg::table::Table;
use millrace_core::key;
use millrace_core::limits::LOOK_UP_VALUES_MAX;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use parquet::arrow::{PARQUET_FIELD_ID_META_KEY, ParquetRecordBatchStreamBuilder, ProjectionMask};

use super::classify;
use super::deletes::{DELETED_FILE, DELETED_POSITION};
use super::identity::{Id, Identity};
use super::live::{self, Home, LiveFile, Target};
use super::positions::Unknown;
use crate::sink::{Result, SinkError};

/// Rows read at a time.
const BATCH_ROWS: usize = 8_192;

/// What the table may have of identities that nobody remembers: asked once, when a run starts without positions.
pub async fn what_is_there(table: &Table, identity: &Identity) -> Result<Unknown> {
    let failed = |e: iceberg::Error| classify(&format!("reading the manifests of table {}", table.identifier()), &e);
    let files = live::files(table, ManifestContentType::Data).await.map_err(failed)?;
    let files: Vec<&LiveFile> = files.iter().filter(|file| file.entry.record_count() > 0).collect();
    if files.is_empty() {
        return Ok(Unknown::Nothing);
    }
    let start = identity.window_start().and_then(|index| identity.columns().get(index));
    let newest = start.and_then(|column| {
        let bound = |file: &&LiveFile| match file.entry.data_file().upper_bounds().get(&column.field_id)?.literal() {
            PrimitiveLiteral::Long(micros) => Some(*micros),
            _ => None,
        };
        files.iter().map(bound).collect::<Option<Vec<i64>>>()?.into_iter().max()
    });
    Ok(newest.map_or(Unknown::Everything, Unknown::UpTo))
}

/// All rows of these identities in the table, by file.
pub async fn look_up(table: &Table, identity: &Identity, wanted: &HashSet<Id>) -> Result<Vec<Target>> {
    let failed = |e: iceberg::Error| classify(&format!("looking rows up in table {}", table.identifier()), &e);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let live = live::files(table, ManifestContentType::Data).await.map_err(failed)?;
    let files = live.iter().map(|file| (file.home(), file.entry.data_file()));
    let mut targets = look_into(table.file_io(), identity, files, wanted).await?;
    let deleted = deleted(table, &targets).await?;
    for target in &mut targets {
        if let Some(gone) = deleted.get(&target.file) {
            target.positions.retain(|position| !gone.contains(position));
        }
    }
    targets.retain(|target| !target.positions.is_empty());
    Ok(targets)
}

/// All rows of these identities in some data files.
pub async fn look_into<'a>(
    io: &FileIO,
    identity: &Identity,
    files: impl Iterator<Item = (Home, &'a DataFile)>,
    wanted: &HashSet<Id>,
) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    if wanted.is_empty() {
        return Ok(targets);
    }
    let values = Values::of(identity, wanted)?;
    for (home, file) in files.filter(|(_, file)| values.may_be_in(file)) {
        let positions = rows_in(io, identity, file, wanted).await?;
        if !positions.is_empty() {
            targets.push(Target { file: file.file_path().to_owned(), home, positions });
        }
    }
    Ok(targets)
}

/// Positions in one file, ascending.
async fn rows_in(io: &FileIO, identity: &Identity, file: &DataFile, wanted: &HashSet<Id>) -> Result<Vec<i64>> {
    let ids: Vec<(i32, &str)> =
        identity.columns().iter().map(|column| (column.field_id, column.name.as_str())).collect();
    let mut positions = Vec::new();
    let mut row = 0_i64;
    let mut batches = Batches::open(io, file, &ids).await?;
    while let Some(batch) = batches.next().await? {
        let columns = identity.of_file(&batch)?;
        let keys = identity.keys(&columns, batch.num_rows())?;
        for i in 0..batch.num_rows() {
            if wanted.contains(keys.bytes(i)) {
                positions.push(row);
            }
            row += 1;
        }
    }
    Ok(positions)
}

/// Some columns of a Parquet file, all rows in order, some thousand at a time.
struct Batches {
    path: String,
    stream: ParquetRecordBatchStream<ArrowFileReader>,
}

impl Batches {
    async fn open(io: &FileIO, file: &DataFile, wanted: &[(i32, &str)]) -> Result<Self> {
        let path = file.file_path();
        let failed = |e: iceberg::Error| classify(&format!("reading {path}"), &e);
        let corrupt = |e: &dyn std::fmt::Display| SinkError::Transient(format!("reading {path}: {e}"));
        if file.file_format() != DataFileFormat::Parquet {
            return Err(SinkError::Fatal(format!(
                "reading {path}: rows to be replaced may be in it, and it is no Parquet file\nhint: rewrite the table's files as Parquet"
            )));
        }
        let input = io.new_input(path).map_err(failed)?;
        let reader =
            ArrowFileReader::new(input.metadata().await.map_err(failed)?, input.reader().await.map_err(failed)?);
        // types are Parquet's, whatever the program that wrote the file called them
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder =
            ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await.map_err(|e| corrupt(&e))?;
        let roots = builder.schema().fields().iter().enumerate().filter(|(_, field)| {
            let id: Option<i32> = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse().ok());
            wanted.iter().any(|(wanted, name)| id.map_or(field.name() == name, |id| id == *wanted))
        });
        let roots: Vec<usize> = roots.map(|(index, _)| index).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let stream = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|e| corrupt(&e))?;
        Ok(Self { path: path.to_owned(), stream })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let next = self.stream.try_next().await;
        next.map_err(|e| SinkError::Transient(format!("reading {}: {e}", self.path)))
    }
}

/// What position deletes say of these files.
async fn deleted(table: &Table, targets: &[Target]) -> Result<HashMap<String, HashSet<i64>>> {
    let failed = |e: iceberg::Error| classify(&format!("reading the deletes of table {}", table.identifier()), &e);
    let corrupt =
        |path: &str| SinkError::Fatal(format!("reading {path}: its columns are not those of position deletes"));
    let mut deleted: HashMap<String, HashSet<i64>> = HashMap::new();
    let homes: HashSet<&Home> = targets.iter().map(|target| &target.home).collect();
    let found: HashSet<&str> = targets.iter().map(|target| target.file.as_str()).collect();
    if homes.is_empty() {
        return Ok(deleted);
    }
    for file in live::files(table, ManifestContentType::Deletes).await.map_err(failed)? {
        let about = file.entry.data_file();
        // deletion vectors are no Parquet files: what they say is found deleted twice, nothing worse
        let readable = about.content_type() == DataContentType::PositionDeletes
            && about.file_format() == DataFileFormat::Parquet
            && homes.contains(&file.home());
        if !readable || !found.iter().any(|path| may_be(about, DELETED_FILE, &Value::Text((*path).to_owned()))) {
            continue;
        }
        let columns = [(DELETED_FILE, "file_path"), (DELETED_POSITION, "pos")];
        let mut batches = Batches::open(table.file_io(), about, &columns).await?;
        while let Some(batch) = batches.next().await? {
            let files = batch.column_by_name("file_path").and_then(|c| c.as_string_opt::<i32>());
            let positions = batch.column_by_name("pos").and_then(|c| c.as_primitive_opt::<Int64Type>());
            let (Some(files), Some(positions)) = (files, positions) else { return Err(corrupt(about.file_path())) };
            for (file, position) in files.iter().zip(positions) {
                let (Some(file), Some(position)) = (file, position) else { continue };
                if found.contains(file) {
                    deleted.entry(file.to_owned()).or_default().insert(position);
                }
            }
        }
    }
    Ok(deleted)
}

/// A value that bounds can be compared with.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Value {
    Number(i64),
    Text(String),
    /// null, or of a type whose bounds are not looked at
    Any,
}

/// Wanted values of the identity columns: of each identity, or from and to if they are many.
struct Values {
    field_ids: Vec<i32>,
    tuples: Vec<Vec<Value>>,
    spans: Vec<Option<(Value, Value)>>,
}

impl Values {
    fn of(identity: &Identity, wanted: &HashSet<Id>) -> Result<Self> {
        let columns = key::decode(&identity.fields(), wanted.iter().map(|id| &**id))
            .map_err(|e| SinkError::Fatal(format!("looking rows up: {e}")))?;
        let field_ids = identity.columns().iter().map(|column| column.field_id).collect();
        let rows = wanted.len();
        if rows <= LOOK_UP_VALUES_MAX {
            let tuples = (0..rows).map(|row| columns.iter().map(|column| value(column, row)).collect()).collect();
            return Ok(Self { field_ids, tuples, spans: Vec::new() });
        }
        let span = |column: &ArrayRef| {
            let mut span: Option<(Value, Value)> = None;
            for row in 0..rows {
                let value = value(column, row);
                if value == Value::Any {
                    return None;
                }
                span = Some(match span {
                    None => (value.clone(), value),
                    Some((min, max)) if value < min => (value, max),
                    Some((min, max)) if value > max => (min, value),
                    Some(span) => span,
                });
            }
            span
        };
        Ok(Self { field_ids, tuples: Vec::new(), spans: columns.iter().map(span).collect() })
    }

    fn may_be_in(&self, file: &DataFile) -> bool {
        if self.tuples.is_empty() {
            return self.field_ids.iter().zip(&self.spans).all(|(id, span)| match span {
                None => true,
                Some((min, max)) => !is_below(file, *id, min) && !is_above(file, *id, max),
            });
        }
        self.tuples.iter().any(|tuple| self.field_ids.iter().zip(tuple).all(|(id, value)| may_be(file, *id, value)))
    }
}

fn may_be(file: &DataFile, field_id: i32, value: &Value) -> bool {
    !is_below(file, field_id, value) && !is_above(file, field_id, value)
}

/// All values of the column are smaller.
fn is_below(file: &DataFile, field_id: i32, value: &Value) -> bool {
    let upper = file.upper_bounds().get(&field_id).and_then(of_bound);
    upper.is_some_and(|upper| upper.partial_cmp(value) == Some(std::cmp::Ordering::Less) && comparable(&upper, value))
}

/// All values of the column are larger.
fn is_above(file: &DataFile, field_id: i32, value: &Value) -> bool {
    let lower = file.lower_bounds().get(&field_id).and_then(of_bound);
    lower
        .is_some_and(|lower| lower.partial_cmp(value) == Some(std::cmp::Ordering::Greater) && comparable(&lower, value))
}

fn comparable(a: &Value, b: &Value) -> bool {
    matches!((a, b), (Value::Number(_), Value::Number(_)) | (Value::Text(_), Value::Text(_)))
}

fn of_bound(bound: &Datum) -> Option<Value> {
    match bound.literal() {
        PrimitiveLiteral::Int(number) => Some(Value::Number(i64::from(*number))),
        PrimitiveLiteral::Long(number) => Some(Value::Number(*number)),
        PrimitiveLiteral::String(text) => Some(Value::Text(text.clone())),
        _ => None,
    }
}

fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Any;
    }
    match column.data_type() {
        ArrowType::Int32 => Value::Number(i64::from(column.as_primitive::<Int32Type>().value(row))),
        ArrowType::Date32 => Value::Number(i64::from(column.as_primitive::<Date32Type>().value(row))),
        ArrowType::Int64 => Value::Number(column.as_primitive::<Int64Type>().value(row)),
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
            Value::Number(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        ArrowType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        _ => Value::Any,
    }
}
