//! Results → columns, and the values that results and states are made of.

use crate::column::{Column, ColumnData, ColumnRef, DataRef, DataType, Field, List, offset};
use crate::input;
use crate::value::{Date, Decimal, Timestamp, Timestamptz, decimal_value, decimal_words};

/// A row of the result: derive it with `#[derive(Output)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no result row",
    note = "put `#[derive(Output)]` above the struct: its fields become columns"
)]
pub trait OutputRow: Sized {
    fn fields() -> Vec<Field>;
    fn push(&self, columns: &mut std::slice::IterMut<'_, Column>);
}

/// No columns.
impl OutputRow for () {
    fn fields() -> Vec<Field> {
        Vec::new()
    }
    fn push(&self, _: &mut std::slice::IterMut<'_, Column>) {}
}

/// The columns of a result without a row.
pub(crate) fn columns<O: OutputRow>() -> Vec<Column> {
    O::fields().iter().map(|f| Column::empty(f.data_type)).collect()
}

/// A value that a field of a result can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a column of the result",
    note = "result fields are i64, i32, f64, f32, bool, String, Vec<u8>, Timestamp, Timestamptz, Date, Decimal<P, S>, Vec<i64>, Vec<f64>, Vec<String>, or an Option of these"
)]
pub trait OutputField {
    const TYPE: DataType;
    const NULLABLE: bool;
    fn push(&self, column: &mut Column);
}

/// One value of one column: what results and states have in common.
pub trait Value: Sized {
    const TYPE: DataType;
    /// it holds memory of its own
    const HEAP: bool = !matches!(
        Self::TYPE,
        DataType::Boolean
            | DataType::Int32
            | DataType::Int64
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal { .. }
            | DataType::Date
            | DataType::Timestamp
            | DataType::Timestamptz
    );
    /// Appends to the column's data; the caller ends the row.
    fn put(&self, column: &mut Column);
    /// None: the column is of another type, or has no such row.
    fn read(column: &ColumnRef<'_>, row: usize) -> Option<Self>;
    fn heap_bytes(&self) -> usize {
        0
    }
}

#[diagnostic::do_not_recommend]
impl<V: Value> OutputField for V {
    const TYPE: DataType = V::TYPE;
    const NULLABLE: bool = false;
    fn push(&self, column: &mut Column) {
        self.put(column);
        column.end_row(true);
    }
}

impl<V: Value> OutputField for Option<V> {
    const TYPE: DataType = V::TYPE;
    const NULLABLE: bool = true;
    fn push(&self, column: &mut Column) {
        match self {
            Some(value) => OutputField::push(value, column),
            None => column.push_null(),
        }
    }
}

macro_rules! values {
    ($($rust:ty, $data:ident, |$v:ident| $raw:expr, $wrap:expr;)+) => { $(
        impl Value for $rust {
            const TYPE: DataType = DataType::$data;
            fn put(&self, column: &mut Column) {
                let $v = self;
                if let ColumnData::$data(values) = &mut column.data {
                    values.push($raw);
                }
            }
            fn read(column: &ColumnRef<'_>, row: usize) -> Option<Self> {
                match column.data {
                    DataRef::$data(values) => values.get(row).copied().map($wrap),
                    _ => None,
                }
            }
        }
    )+ };
}

values! {
    i32, Int32, |v| *v, std::convert::identity;
    i64, Int64, |v| *v, std::convert::identity;
    f32, Float32, |v| *v, std::convert::identity;
    f64, Float64, |v| *v, std::convert::identity;
    Date, Date, |v| v.0, Date;
    Timestamp, Timestamp, |v| v.0, Timestamp;
    Timestamptz, Timestamptz, |v| v.0, Timestamptz;
}

impl<const P: u8, const S: u8> Value for Decimal<P, S> {
    const TYPE: DataType = DataType::Decimal { precision: P, scale: S };
    fn put(&self, column: &mut Column) {
        if let ColumnData::Decimal(words) = &mut column.data {
            words.extend(decimal_words(self.0));
        }
    }
    fn read(column: &ColumnRef<'_>, row: usize) -> Option<Self> {
        let DataRef::Decimal(words) = column.data else { return None };
        words.as_chunks::<2>().0.get(row).map(|[low, high]| Self(decimal_value(*low, *high)))
    }
}

impl Value for bool {
    const TYPE: DataType = DataType::Boolean;
    fn put(&self, column: &mut Column) {
        let row = column.rows;
        if let ColumnData::Boolean(bits) = &mut column.data {
            if bits.len() <= row >> 3 {
                bits.push(0);
            }
            if let Some(byte) = bits.get_mut(row >> 3) {
                *byte |= u8::from(*self) << (row & 7);
            }
        }
    }
    fn read(column: &ColumnRef<'_>, row: usize) -> Option<Self> {
        let DataRef::Boolean(bits) = column.data else { return None };
        bits.get(row >> 3).map(|byte| (byte >> (row & 7)) & 1 == 1)
    }
}

impl Value for String {
    const TYPE: DataType = DataType::Utf8;
    fn put(&self, column: &mut Column) {
        if let ColumnData::Utf8(bytes) = &mut column.data {
            bytes.push(self.as_bytes());
        }
    }
    fn read(column: &ColumnRef<'_>, row: usize) -> Option<Self> {
        let DataRef::Utf8(bytes) = column.data else { return None };
        str::from_utf8(input::bytes_at(bytes, row)?).ok().map(Into::into)
    }
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

impl Value for Vec<u8> {
    const TYPE: DataType = DataType::Binary;
    fn put(&self, column: &mut Column) {
        if let ColumnData::Binary(bytes) = &mut column.data {
            bytes.push(self);
        }
    }
    fn read(column: &ColumnRef<'_>, row: usize) -> Option<Self> {
        let DataRef::Binary(bytes) = column.data else { return None };
        input::bytes_at(bytes, row).map(Into::into)
    }
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

/// The elements of a row's list.
fn list_at<'a, T>(offsets: &[u32], values: &'a [T], row: usize) -> Option<&'a [T]> {
    values.get(input::range_at(offsets, row)?)
}

macro_rules! lists {
    ($($rust:ty, $data:ident;)+) => { $(
        impl Value for Vec<$rust> {
            const TYPE: DataType = DataType::$data;
            fn put(&self, column: &mut Column) {
                if let ColumnData::$data(List { offsets, values }) = &mut column.data {
                    values.extend_from_slice(self);
                    offsets.push(offset(values.len()));
                }
            }
            fn read(column: &ColumnRef<'_>, row: usize) -> Option<Self> {
                let DataRef::$data { offsets, values } = column.data else { return None };
                list_at(offsets, values, row).map(Into::into)
            }
            fn heap_bytes(&self) -> usize {
                self.capacity() * 8
            }
        }
    )+ };
}

lists! {
    i64, ListInt64;
    f64, ListFloat64;
}

impl Value for Vec<String> {
    const TYPE: DataType = DataType::ListUtf8;
    fn put(&self, column: &mut Column) {
        if let ColumnData::ListUtf8(List { offsets, values }) = &mut column.data {
            self.iter().for_each(|text| values.push(text.as_bytes()));
            offsets.push(offset(values.len()));
        }
    }
    fn read(column: &ColumnRef<'_>, row: usize) -> Option<Self> {
        let DataRef::ListUtf8 { offsets, values } = column.data else { return None };
        let text = |i| str::from_utf8(input::bytes_at(values, i)?).ok().map(Into::into);
        input::range_at(offsets, row)?.map(text).collect()
    }
    fn heap_bytes(&self) -> usize {
        self.capacity() * size_of::<String>() + self.iter().map(String::capacity).sum::<usize>()
    }
}
