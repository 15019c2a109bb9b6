//! WIT → Arrow. The vectors that came out of the guest become Arrow buffers without another copy where the layouts
//! agree. Each column is checked first: kind, length, offsets, UTF-8, dictionary keys, nulls, digits of decimals.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow_array::{Array as _, ArrayRef, BinaryArray, BooleanArray, ListArray, PrimitiveArray, StringArray};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::Field as ArrowField;
use millrace_core::schema::{DataType, Field, UTC};

use crate::plugin::bindings::types::{
    ColumnDataResult, ColumnResult, DictionaryResult, ListFloat64DataResult, ListInt64DataResult, ListUtf8DataResult,
    VarBytesResult,
};
use crate::plugin::limits::UNPACKED_BYTES_MAX;

/// Checks `columns` against `fields` and makes arrays of `rows` values of them. The error names the column.
pub(in crate::plugin) fn lift_all(
    columns: Vec<ColumnResult>,
    fields: &[Field],
    rows: usize,
) -> Result<Vec<ArrayRef>, String> {
    if columns.len() != fields.len() {
        return Err(format!("returned {} columns, its signature has {}", columns.len(), fields.len()));
    }
    let lift_one = |(column, field): (ColumnResult, &Field)| {
        lift(column, field, rows).map_err(|message| format!("column `{}` ({}): {message}", field.name, field.data_type))
    };
    columns.into_iter().zip(fields).map(lift_one).collect()
}

fn lift(column: ColumnResult, field: &Field, rows: usize) -> Result<ArrayRef, String> {
    use ColumnDataResult as C;
    let nulls = column.validity.map(|bits| validity(bits, rows)).transpose()?.filter(|n| n.null_count() > 0);
    if let Some(nulls) = &nulls
        && !field.nullable
    {
        return Err(format!("{} of {rows} values are null, but the column is declared as never null", nulls.null_count()));
    }
    Ok(match (field.data_type, column.data) {
        (DataType::Boolean, C::Boolean(bits)) => {
            check_bytes("bitmap", bits.len(), rows)?;
            Arc::new(BooleanArray::new(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows), nulls))
        }
        (DataType::Int, C::Int32(v)) => Arc::new(primitive::<Int32Type>(v, nulls, rows)?),
        (DataType::Long, C::Int64(v)) => Arc::new(primitive::<Int64Type>(v, nulls, rows)?),
        (DataType::Float, C::Float32(v)) => Arc::new(primitive::<Float32Type>(v, nulls, rows)?),
        (DataType::Double, C::Float64(v)) => Arc::new(primitive::<Float64Type>(v, nulls, rows)?),
        (DataType::Decimal { precision, .. }, C::Decimal(words)) => {
            Arc::new(decimals(&words, nulls, rows, precision)?.with_data_type(field.data_type.to_arrow()))
        }
        (DataType::Date, C::Date(v)) => Arc::new(primitive::<Date32Type>(v, nulls, rows)?),
        (DataType::Timestamp, C::Timestamp(v)) => Arc::new(primitive::<TimestampMicrosecondType>(v, nulls, rows)?),
        (DataType::Timestamptz, C::Timestamptz(v)) => {
            Arc::new(primitive::<TimestampMicrosecondType>(v, nulls, rows)?.with_timezone(UTC))
        }
        (DataType::String, C::Utf8(bytes)) => Arc::new(strings(bytes, nulls, rows)?),
        (DataType::String, C::Utf8Dictionary(dictionary)) => Arc::new(unpack(dictionary, nulls, rows)?),
        (DataType::Binary, C::Binary(VarBytesResult { offsets, data })) => {
            let offsets = offset_buffer(offsets, rows, data.len())?;
            Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(data), nulls).map_err(|e| e.to_string())?)
        }
        (DataType::ListLong, C::ListInt64(ListInt64DataResult { offsets, values })) => {
            let count = values.len();
            let values = Arc::new(primitive::<Int64Type>(values, None, count)?);
            list(field.data_type, offset_buffer(offsets, rows, count)?, values, nulls)?
        }
        (DataType::ListDouble, C::ListFloat64(ListFloat64DataResult { offsets, values })) => {
            let count = values.len();
            let values = Arc::new(primitive::<Float64Type>(values, None, count)?);
            list(field.data_type, offset_buffer(offsets, rows, count)?, values, nulls)?
        }
        (DataType::ListString, C::ListUtf8(ListUtf8DataResult { offsets, values })) => {
            let count = values.offsets.len().saturating_sub(1);
            let values = Arc::new(strings(values, None, count)?);
            list(field.data_type, offset_buffer(offsets, rows, count)?, values, nulls)?
        }
        (_, C::Missing) => return Err("is missing; only the host may leave out an optional input".to_owned()),
        (_, data) => return Err(format!("has values of kind {}", kind(&data))),
    })
}

/// The WIT's name of a column's kind.
fn kind(data: &ColumnDataResult) -> &'static str {
    use ColumnDataResult as C;
    match data {
        C::Missing => "missing",
        C::Boolean(_) => "boolean",
        C::Int32(_) => "int32",
        C::Int64(_) => "int64",
        C::Float32(_) => "float32",
        C::Float64(_) => "float64",
        C::Decimal(_) => "decimal",
        C::Date(_) => "date",
        C::Timestamp(_) => "timestamp",
        C::Timestamptz(_) => "timestamptz",
        C::Utf8(_) => "utf8",
        C::Utf8Dictionary(_) => "utf8-dictionary",
        C::Binary(_) => "binary",
        C::ListInt64(_) => "list-int64",
        C::ListFloat64(_) => "list-float64",
        C::ListUtf8(_) => "list-utf8",
    }
}

fn check_rows(found: usize, rows: usize) -> Result<(), String> {
    if found == rows { Ok(()) } else { Err(format!("has {found} values, {rows} are expected")) }
}

fn check_bytes(what: &str, found: usize, rows: usize) -> Result<(), String> {
    let expected = rows.div_ceil(8);
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} has {found} bytes, {rows} rows need {expected}"))
}

fn validity(bits: Vec<u8>, rows: usize) -> Result<NullBuffer, String> {
    check_bytes("validity", bits.len(), rows)?;
    let tail = rows % 8;
    if tail != 0 && bits.last().is_some_and(|last| last >> tail != 0) {
        return Err(format!("validity has bits set past row {rows}"));
    }
    Ok(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows)))
}

fn primitive<T: ArrowPrimitiveType>(
    values: Vec<T::Native>,
    nulls: Option<NullBuffer>,
    rows: usize,
) -> Result<PrimitiveArray<T>, String> {
    check_rows(values.len(), rows)?;
    PrimitiveArray::try_new(ScalarBuffer::from(values), nulls).map_err(|e| e.to_string())
}

fn decimals(
    words: &[u64],
    nulls: Option<NullBuffer>,
    rows: usize,
    precision: u8,
) -> Result<PrimitiveArray<Decimal128Type>, String> {
    if words.len() != rows.saturating_mul(2) {
        return Err(format!("has {} words, {rows} rows need two each", words.len()));
    }
    let (pairs, _) = words.as_chunks::<2>();
    let value = |&[low, high]: &[u64; 2]| (i128::from(high.cast_signed()) << 64) | i128::from(low);
    let array = PrimitiveArray::<Decimal128Type>::try_new(pairs.iter().map(value).collect(), nulls)
        .map_err(|e| e.to_string())?;
    let limit = 10_u128.checked_pow(u32::from(precision)).unwrap_or(u128::MAX);
    if let Some(bad) = array.iter().flatten().find(|v| v.unsigned_abs() >= limit) {
        return Err(format!("unscaled value {bad} has more than {precision} digits"));
    }
    Ok(array)
}

/// Checks that offsets start at 0, never decrease and stay within `values`, and takes them over as they are.
fn offset_buffer(offsets: Vec<u32>, rows: usize, values: usize) -> Result<OffsetBuffer<i32>, String> {
    if offsets.len() != rows + 1 {
        return Err(format!("has {} offsets, {rows} rows need {}", offsets.len(), rows + 1));
    }
    let last = offsets.last().copied().unwrap_or_default();
    if offsets.first() != Some(&0) {
        return Err("offsets do not start at 0".to_owned());
    }
    if !offsets.is_sorted() {
        return Err("offsets decrease".to_owned());
    }
    if last as usize > values || i32::try_from(last).is_err() {
        return Err(format!("offsets end at {last}, there are {values} values"));
    }
    let count = offsets.len();
    // The same bits: none of them is above i32::MAX.
    Ok(OffsetBuffer::new(ScalarBuffer::<i32>::new(Buffer::from_vec(offsets), 0, count)))
}

fn strings(bytes: VarBytesResult, nulls: Option<NullBuffer>, rows: usize) -> Result<StringArray, String> {
    let offsets = offset_buffer(bytes.offsets, rows, bytes.data.len())?;
    StringArray::try_new(offsets, Buffer::from_vec(bytes.data), nulls).map_err(|e| format!("is not valid UTF-8: {e}"))
}

/// The rest of the host speaks plain strings.
fn unpack(dictionary: DictionaryResult, nulls: Option<NullBuffer>, rows: usize) -> Result<StringArray, String> {
    check_rows(dictionary.keys.len(), rows)?;
    let count = dictionary.values.offsets.len().saturating_sub(1);
    let values = strings(dictionary.values, None, count)?;
    let value = |(row, key): (usize, &u32)| {
        if nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            return Ok(None);
        }
        match *key as usize {
            key if key < values.len() => Ok(Some(values.value(key))),
            key => Err(format!("row {row} has dictionary key {key}, there are {count} values")),
        }
    };
    let unpacked: Vec<Option<&str>> = dictionary.keys.iter().enumerate().map(value).collect::<Result<_, _>>()?;
    // A few bytes from the guest could stand for terabytes here.
    let bytes: u64 = unpacked.iter().flatten().map(|v| v.len() as u64).sum();
    if bytes > UNPACKED_BYTES_MAX {
        return Err(format!("its dictionary stands for {bytes} bytes, at most {UNPACKED_BYTES_MAX} are possible"));
    }
    Ok(StringArray::from(unpacked))
}

fn list(
    data_type: DataType,
    offsets: OffsetBuffer<i32>,
    values: ArrayRef,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, String> {
    let item = match data_type.to_arrow() {
        arrow_schema::DataType::List(item) => item,
        other => Arc::new(ArrowField::new("item", other, false)),
    };
    Ok(Arc::new(ListArray::try_new(item, offsets, values, nulls).map_err(|e| e.to_string())?))
}
