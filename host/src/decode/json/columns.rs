//! Rows under construction, column by column, in the layout that Arrow takes over without a copy.
//!
//! A row is written value by value at number `rows` and counts only once [`Table::end_row`] was called; until then
//! [`Table::rollback`] undoes it. Fixed-width columns are made at full length (zeroed pages cost nothing), so that a
//! value is one store and a missing one none at all.

use std::sync::Arc;

use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, PrimitiveArray, StringArray};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::ArrowError;

use super::plan::{ColumnPlan, Kind};

/// Variable-width values: Arrow's offsets and bytes.
#[derive(Debug)]
pub(super) struct Bytes {
    pub(super) data: Vec<u8>,
    offsets: Vec<i32>,
}

#[derive(Debug)]
pub(super) enum Values {
    Boolean(Vec<bool>),
    Int(Vec<i32>),
    Long(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Decimal(Vec<i128>),
    Bytes(Bytes),
}

/// A value on its way into a column of its own kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Boolean(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Decimal(i128),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Values>,
    pub(super) rows: usize,
    /// which columns of a row have a value: `words_per_row` words for each row
    valid: Vec<u64>,
    words_per_row: usize,
}

impl Table {
    /// `data_bytes` are the sizes that the variable-width columns had last time.
    pub(super) fn new(plan: &[ColumnPlan], rows_max: usize, data_bytes: &[usize]) -> Self {
        let columns = plan.iter().enumerate().map(|(index, column)| match column.kind {
            Kind::Boolean => Values::Boolean(vec![false; rows_max]),
            Kind::Int | Kind::Date => Values::Int(vec![0; rows_max]),
            Kind::Long | Kind::Timestamp { .. } => Values::Long(vec![0; rows_max]),
            Kind::Float => Values::Float(vec![0.0; rows_max]),
            Kind::Double => Values::Double(vec![0.0; rows_max]),
            Kind::Decimal { .. } => Values::Decimal(vec![0; rows_max]),
            Kind::String | Kind::TimeText | Kind::Binary => {
                let mut offsets = Vec::with_capacity(rows_max + 1);
                offsets.push(0);
                Values::Bytes(Bytes { data: Vec::with_capacity(data_bytes.get(index).copied().unwrap_or(0)), offsets })
            }
        });
        let words_per_row = plan.len().div_ceil(64).max(1);
        Self { columns: columns.collect(), rows: 0, valid: Vec::with_capacity(rows_max * words_per_row), words_per_row }
    }

    /// Writes a value into the row under construction; false if the column is of another kind.
    pub(super) fn put(&mut self, column: usize, value: Value) -> bool {
        let row = self.rows;
        let Some(values) = self.columns.get_mut(column) else { return false };
        match (values, value) {
            (Values::Boolean(v), Value::Boolean(x)) => set(v, row, x),
            (Values::Int(v), Value::Int(x)) => set(v, row, x),
            (Values::Long(v), Value::Long(x)) => set(v, row, x),
            (Values::Float(v), Value::Float(x)) => set(v, row, x),
            (Values::Double(v), Value::Double(x)) => set(v, row, x),
            (Values::Decimal(v), Value::Decimal(x)) => set(v, row, x),
            (Values::Bytes(v), Value::Bytes(x)) => {
                v.data.extend_from_slice(&x);
                true
            }
            _ => false,
        }
    }

    /// The row under construction counts from now on. The caller sees to it that a column's bytes stay below 2 GiB.
    #[inline]
    pub(super) fn end_row(&mut self, valid: &[u64]) {
        for column in &mut self.columns {
            if let Values::Bytes(bytes) = column {
                bytes.offsets.push(i32::try_from(bytes.data.len()).unwrap_or(i32::MAX));
            }
        }
        for word in 0..self.words_per_row {
            self.valid.push(valid.get(word).copied().unwrap_or(0));
        }
        self.rows += 1;
    }

    /// Forgets the row under construction.
    pub(super) fn rollback(&mut self) {
        let row = self.rows;
        for column in &mut self.columns {
            match column {
                Values::Boolean(v) => set(v, row, false),
                Values::Int(v) => set(v, row, 0),
                Values::Long(v) => set(v, row, 0),
                Values::Float(v) => set(v, row, 0.0),
                Values::Double(v) => set(v, row, 0.0),
                Values::Decimal(v) => set(v, row, 0),
                Values::Bytes(v) => {
                    let kept = v.offsets.last().copied().and_then(|end| usize::try_from(end).ok()).unwrap_or(0);
                    v.data.truncate(kept);
                    true
                }
            };
        }
    }

    pub(super) fn data_bytes(&self) -> Vec<usize> {
        self.columns.iter().map(|c| if let Values::Bytes(b) = c { b.data.len() } else { 0 }).collect()
    }

    pub(super) fn finish(self, plan: &[ColumnPlan]) -> Result<Vec<ArrayRef>, ArrowError> {
        let Self { columns, rows, valid, words_per_row } = self;
        let mut arrays = Vec::with_capacity(columns.len());
        for (index, (values, column)) in columns.into_iter().zip(plan).enumerate() {
            let nulls = if column.required { None } else { nulls(&valid, words_per_row, rows, index) };
            arrays.push(match values {
                Values::Boolean(v) => {
                    let bits = BooleanBuffer::collect_bool(rows, |row| v.get(row).copied().unwrap_or(false));
                    Arc::new(BooleanArray::new(bits, nulls)) as ArrayRef
                }
                Values::Int(v) if column.kind == Kind::Date => Arc::new(fixed::<Date32Type>(v, rows, nulls)?),
                Values::Int(v) => Arc::new(fixed::<Int32Type>(v, rows, nulls)?),
                Values::Long(v) => match column.kind {
                    Kind::Timestamp { zoned, .. } => {
                        let zone = zoned.then_some(millrace_core::schema::UTC);
                        Arc::new(fixed::<TimestampMicrosecondType>(v, rows, nulls)?.with_timezone_opt(zone))
                    }
                    _ => Arc::new(fixed::<Int64Type>(v, rows, nulls)?) as ArrayRef,
                },
                Values::Float(v) => Arc::new(fixed::<Float32Type>(v, rows, nulls)?),
                Values::Double(v) => Arc::new(fixed::<Float64Type>(v, rows, nulls)?),
                Values::Decimal(v) => {
                    let (precision, scale) = match column.kind {
                        Kind::Decimal { precision, scale } => (precision, i8::try_from(scale).unwrap_or(i8::MAX)),
                        _ => (38, 0),
                    };
                    let array = fixed::<Decimal128Type>(v, rows, nulls)?;
                    Arc::new(array.with_precision_and_scale(precision, scale)?)
                }
                Values::Bytes(Bytes { data, offsets }) => {
                    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                    let data = Buffer::from_vec(data);
                    if column.kind == Kind::Binary {
                        Arc::new(BinaryArray::try_new(offsets, data, nulls)?) as ArrayRef
                    } else {
                        // SAFETY: every message is checked to be UTF-8 as a whole before it is read; the fast path
                        // copies what stands between two ASCII quotes of it, which is UTF-8 again, and the slow path
                        // appends the bytes of a `String`. The offsets lie between such values.
                        Arc::new(unsafe { StringArray::new_unchecked(offsets, data, nulls) })
                    }
                }
            });
        }
        Ok(arrays)
    }

    /// Integers of the rows so far, for the event time.
    pub(super) fn longs(&self, column: usize) -> &[i64] {
        match self.columns.get(column) {
            Some(Values::Long(v)) => v.get(..self.rows).unwrap_or(&[]),
            _ => &[],
        }
    }

    pub(super) fn texts(&self, column: usize) -> impl Iterator<Item = &str> {
        let (data, offsets): (&[u8], &[i32]) = match self.columns.get(column) {
            Some(Values::Bytes(bytes)) => (&bytes.data, &bytes.offsets),
            _ => (&[], &[]),
        };
        let at = |offset: &i32| usize::try_from(*offset).unwrap_or_default();
        let edges = offsets.iter().zip(offsets.iter().skip(1));
        let texts = edges.map(move |(from, to)| data.get(at(from)..at(to)).map(std::str::from_utf8));
        texts.map(|text| text.and_then(Result::ok).unwrap_or_default())
    }

    pub(super) fn ints(&self, column: usize) -> &[i32] {
        match self.columns.get(column) {
            Some(Values::Int(v)) => v.get(..self.rows).unwrap_or(&[]),
            _ => &[],
        }
    }
}

#[inline]
pub(super) fn set<T>(values: &mut [T], row: usize, value: T) -> bool {
    match values.get_mut(row) {
        Some(slot) => {
            *slot = value;
            true
        }
        None => false,
    }
}

fn fixed<T: ArrowPrimitiveType>(
    mut values: Vec<T::Native>,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<PrimitiveArray<T>, ArrowError> {
    values.truncate(rows);
    PrimitiveArray::try_new(ScalarBuffer::from(values), nulls)
}

/// No buffer where no value is missing: what reads the column is quicker then.
fn nulls(valid: &[u64], words_per_row: usize, rows: usize, column: usize) -> Option<NullBuffer> {
    let (word, bit) = (column / 64, column % 64);
    let words = || valid.iter().skip(word).step_by(words_per_row);
    if words().all(|w| w >> bit & 1 == 1) {
        return None;
    }
    let mut words = words();
    let bits = BooleanBuffer::collect_bool(rows, |_| words.next().is_some_and(|w| w >> bit & 1 == 1));
    Some(NullBuffer::new(bits))
}
