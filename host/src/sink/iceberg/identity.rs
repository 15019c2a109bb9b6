//! Which rows of the table are versions of one result: those with equal identity columns.
//!
//! The identity is the feeding aggregation's key and the window's start. Its canonical bytes ([`millrace_core::key`]) are
//! made of the values as the *table* has them: what a file holds and what a batch brings are the same identity even where
//! the table's column is wider than the input's.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::DataType;
use millrace_core::key::{self, Keys};
use millrace_core::schema::Field;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::table::Layout;
use crate::sink::{Result, SinkError};
use crate::spec::columns::WINDOW_START;

/// The canonical bytes of one identity.
pub type Id = Box<[u8]>;

pub struct Identity {
    table: String,
    columns: Vec<Column>,
}

pub struct Column {
    pub name: String,
    pub field_id: i32,
    /// among the input's columns
    input: usize,
    /// of the table's column, as [`millrace_core::key`] takes it
    data_type: DataType,
}

impl Identity {
    pub fn new(layout: &Layout, names: &[String]) -> Result<Self> {
        let columns = names.iter().map(|name| {
            let lacks =
                |what: &str| SinkError::Fatal(format!("table {}: {what} lacks key column `{name}`", layout.table));
            let index = layout.arrow.index_of(name).map_err(|_| lacks("it"))?;
            let field = layout.arrow.fields().get(index).ok_or_else(|| lacks("it"))?;
            let id = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse().ok());
            Ok(Column {
                name: name.clone(),
                field_id: id.ok_or_else(|| lacks("the schema"))?,
                input: layout.input_of(index).ok_or_else(|| lacks("the input"))?,
                data_type: as_key(field.data_type()),
            })
        });
        Ok(Self { table: layout.table.clone(), columns: columns.collect::<Result<_>>()? })
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|column| column.name.as_str()).collect()
    }

    /// The columns as [`millrace_core::key::decode`] takes them.
    pub fn fields(&self) -> Vec<Field> {
        let fields = self.columns.iter().filter_map(|column| {
            Some(Field::new(&column.name, millrace_core::schema::DataType::from_arrow(&column.data_type)?, true))
        });
        fields.collect()
    }

    /// Where the window's start is among the columns, if it is one of them.
    pub fn window_start(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.name == WINDOW_START)
    }

    /// The identity columns of a batch of the input, as the table has them.
    pub fn of_input(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.cast(self.columns.iter().map(|column| rows.columns().get(column.input)), rows.num_rows())
    }

    /// The identity columns of rows read from a data file, which may be older than some of the columns.
    pub fn of_file(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let (fields, columns) = (rows.schema_ref().fields(), rows.columns());
        let found = self.columns.iter().map(|column| {
            let id = |field: &arrow_schema::Field| -> Option<i32> {
                field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
            };
            // files that others have imported may have no ids
            let by_id = fields.iter().position(|field| id(field) == Some(column.field_id));
            let by_name = || fields.iter().position(|field| id(field).is_none() && *field.name() == column.name);
            by_id.or_else(by_name).and_then(|index| columns.get(index))
        });
        self.cast(found, rows.num_rows())
    }

    fn cast<'a>(&self, found: impl Iterator<Item = Option<&'a ArrayRef>>, rows: usize) -> Result<Vec<ArrayRef>> {
        let cast = |(column, found): (&Column, Option<&ArrayRef>)| match found {
            None => Ok(new_null_array(&column.data_type, rows)),
            Some(found) if *found.data_type() == column.data_type => Ok(found.clone()),
            Some(found) => arrow_cast::cast(found, &column.data_type)
                .map_err(|e| SinkError::Fatal(format!("table {}: key column `{}`: {e}", self.table, column.name))),
        };
        self.columns.iter().zip(found).map(cast).collect()
    }

    pub fn keys(&self, columns: &[ArrayRef], rows: usize) -> Result<Keys> {
        key::encode(columns, rows).map_err(|e| SinkError::Fatal(format!("table {}: {e}", self.table)))
    }
}

fn as_key(data_type: &DataType) -> DataType {
    match data_type {
        DataType::LargeBinary => DataType::Binary,
        other => other.clone(),
    }
}

/// Microseconds of a column of time stamps; none where it is null or no such column.
pub fn micros(column: Option<&ArrayRef>, row: usize) -> Option<i64> {
    let column = column?.as_primitive_opt::<TimestampMicrosecondType>()?;
    column.is_valid(row).then(|| column.value(row))
}
