//! Which Iceberg partition a row belongs to.
//!
//! The crate's splitter builds a mask per partition and batch; here each row gets a small number by interning the
//! transformed values column by column: (number so far, value) → number. One hash look-up per row and partition column.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{DataType, TimeUnit};
use hashbrown::HashMap;
use iceberg::arrow::arrow_primitive_to_literal;
use iceberg::spec::{Literal, Struct};
use iceberg::transform::create_transform_function;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::super::{Result, SinkError};
use super::table::Layout;

/// A transformed column, read as plain numbers or bytes.
enum Column {
    Numbers(Vec<i128>),
    Text(ArrayRef),
    Bytes(ArrayRef),
}

/// The transformed partition columns of a batch.
fn transformed(layout: &Layout, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let failed = |e: &dyn std::fmt::Display| SinkError::Fatal(format!("table {}: partition value: {e}", layout.table));
    layout
        .spec
        .fields()
        .iter()
        .map(|field| {
            let index = layout.schema.as_struct().fields().iter().position(|f| f.id == field.source_id);
            let column = index
                .and_then(|i| rows.columns().get(i))
                .ok_or_else(|| failed(&format!("no column with field id {}", field.source_id)))?;
            // the crate's transforms know LargeBinary only
            let column = if column.data_type() == &DataType::Binary {
                arrow_cast::cast(column, &DataType::LargeBinary).map_err(|e| failed(&e))?
            } else {
                column.clone()
            };
            let function = create_transform_function(&field.transform).map_err(|e| failed(&e))?;
            function.transform(column).map_err(|e| failed(&e))
        })
        .collect()
}

fn column(array: &ArrayRef) -> Result<Column> {
    let numbers = match array.data_type() {
        DataType::Int32 => array.as_primitive::<Int32Type>().values().iter().map(|v| i128::from(*v)).collect(),
        DataType::Date32 => array.as_primitive::<Date32Type>().values().iter().map(|v| i128::from(*v)).collect(),
        DataType::Int64 => array.as_primitive::<Int64Type>().values().iter().map(|v| i128::from(*v)).collect(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().values().iter().map(|v| i128::from(*v)).collect()
        }
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().values().to_vec(),
        DataType::Float32 => {
            array.as_primitive::<Float32Type>().values().iter().map(|v| i128::from(v.to_bits())).collect()
        }
        DataType::Float64 => {
            array.as_primitive::<Float64Type>().values().iter().map(|v| i128::from(v.to_bits())).collect()
        }
        DataType::Boolean => array.as_boolean().values().iter().map(i128::from).collect(),
        DataType::Utf8 => return Ok(Column::Text(array.clone())),
        DataType::LargeBinary => return Ok(Column::Bytes(array.clone())),
        other => return Err(SinkError::Fatal(format!("partitioning by a column of type {other} is not supported"))),
    };
    Ok(Column::Numbers(numbers))
}

/// One hash per row, the same in every task and run of the program.
pub fn hashes(layout: &Layout, rows: &RecordBatch) -> Result<Vec<u64>> {
    let mut hashes = vec![0_u64; rows.num_rows()];
    for array in transformed(layout, rows)? {
        let column = column(&array)?;
        for (row, hash) in hashes.iter_mut().enumerate() {
            *hash = if array.is_null(row) {
                xxh3_64(&hash.to_le_bytes())
            } else {
                match &column {
                    Column::Numbers(values) => {
                        xxh3_64_with_seed(&values.get(row).copied().unwrap_or_default().to_le_bytes(), *hash)
                    }
                    Column::Text(array) => xxh3_64_with_seed(array.as_string::<i32>().value(row).as_bytes(), *hash),
                    Column::Bytes(array) => xxh3_64_with_seed(array.as_binary::<i64>().value(row), *hash),
                }
            };
        }
    }
    Ok(hashes)
}

#[derive(Default)]
struct Level {
    nulls: HashMap<u32, u32>,
    numbers: HashMap<(u32, i128), u32>,
    bytes: HashMap<Box<[u8]>, u32>,
    pairs: HashMap<(u32, u32), u32>,
    /// one per number given out: the number of the level before, and the value
    values: Vec<(u32, Option<Literal>)>,
}

/// Partitions seen since the last [`Partitions::clear`].
#[derive(Default)]
pub struct Partitions {
    levels: Vec<Level>,
    /// one per partition number: as [`hashes`] has it
    hashes: Vec<u64>,
}

impl Partitions {
    pub fn clear(&mut self) {
        self.levels.clear();
        self.hashes.clear();
    }

    /// The partition's hash: the same in every task and run of the program.
    pub fn hash(&self, id: u32) -> u64 {
        usize::try_from(id).ok().and_then(|id| self.hashes.get(id)).copied().unwrap_or_default()
    }

    /// One partition number per row.
    pub fn assign(&mut self, layout: &Layout, rows: &RecordBatch) -> Result<Vec<u32>> {
        let mut ids = vec![0_u32; rows.num_rows()];
        let types = layout.partition_type.fields();
        let mut first_seen: Vec<u32> = Vec::new();
        for (index, array) in transformed(layout, rows)?.into_iter().enumerate() {
            if self.levels.len() <= index {
                self.levels.push(Level::default());
            }
            let (Some(level), Some(field)) = (self.levels.get_mut(index), types.get(index)) else { continue };
            let column = column(&array)?;
            for (row, id) in ids.iter_mut().enumerate() {
                let next = u32::try_from(level.values.len())
                    .map_err(|_| SinkError::Fatal(format!("table {}: too many partitions", layout.table)))?;
                let found = if array.is_null(row) {
                    *level.nulls.entry(*id).or_insert(next)
                } else {
                    match &column {
                        Column::Numbers(values) => {
                            let value = values.get(row).copied().unwrap_or_default();
                            *level.numbers.entry((*id, value)).or_insert(next)
                        }
                        Column::Text(array) => level.text(*id, array.as_string::<i32>().value(row).as_bytes(), next)?,
                        Column::Bytes(array) => level.text(*id, array.as_binary::<i64>().value(row), next)?,
                    }
                };
                if found == next {
                    let literal = arrow_primitive_to_literal(&array.slice(row, 1), &field.field_type)
                        .map_err(|e| SinkError::Fatal(format!("table {}: partition value: {e}", layout.table)))?;
                    level.values.push((*id, literal.into_iter().next().flatten()));
                    if index + 1 == types.len() {
                        first_seen.extend(u32::try_from(row).ok());
                    }
                }
                *id = found;
            }
        }
        if !first_seen.is_empty() {
            let rows = arrow_select::take::take_record_batch(rows, &UInt32Array::from(first_seen))
                .map_err(|e| SinkError::Fatal(format!("table {}: gathering rows: {e}", layout.table)))?;
            self.hashes.extend(hashes(layout, &rows)?);
        }
        Ok(ids)
    }

    /// The partition's values.
    pub fn value(&self, mut id: u32) -> Struct {
        let mut values = Vec::with_capacity(self.levels.len());
        for level in self.levels.iter().rev() {
            let Some((before, literal)) = usize::try_from(id).ok().and_then(|i| level.values.get(i)) else { continue };
            values.push(literal.clone());
            id = *before;
        }
        Struct::from_iter(values.into_iter().rev())
    }
}

impl Level {
    fn text(&mut self, before: u32, value: &[u8], next: u32) -> Result<u32> {
        let code = match self.bytes.get(value) {
            Some(code) => *code,
            None => {
                let code = u32::try_from(self.bytes.len())
                    .map_err(|_| SinkError::Fatal("too many partition values".to_owned()))?;
                self.bytes.insert(value.into(), code);
                code
            }
        };
        Ok(*self.pairs.entry((before, code)).or_insert(next))
    }
}
