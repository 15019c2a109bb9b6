//! Arrow's columns as the SDK's, and back. On the way in nothing is copied but a validity bitmap that does not begin at a
//! byte; on the way out buffers are moved.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, PrimitiveArray, StringArray, types};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType as ArrowType, Field as ArrowField, TimeUnit};
use millrace_core::schema::{DataType, Field, Schema};
use millrace_plugin::column::{
    Bytes, BytesRef, Column, ColumnData, ColumnRef, DataRef, DataType as SdkType, Field as SdkField, List,
    Wanted as SdkWanted,
};

use crate::plugin::Wanted;

/// Runs `f` on the columns, borrowed.
pub(super) fn borrowed<'a, R>(
    columns: impl Iterator<Item = Option<&'a ArrayRef>> + Clone,
    f: impl FnOnce(&[ColumnRef<'_>]) -> R,
) -> Result<R, &'static str> {
    let bits: Vec<Bits> = columns.clone().map(|c| c.map(Bits::of).unwrap_or_default()).collect();
    let columns: Option<Vec<ColumnRef<'_>>> =
        columns.zip(&bits).map(|(c, bits)| c.map_or(Some(ColumnRef::MISSING), |c| column_in(c, bits))).collect();
    columns.map(|columns| f(&columns)).ok_or("a column is of a type that does not cross")
}

/// Bitmaps that begin at a byte, with zeros past their end.
#[derive(Default)]
struct Bits {
    validity: Option<Buffer>,
    /// the values, if they are booleans
    values: Option<Buffer>,
}

impl Bits {
    fn of(array: &ArrayRef) -> Self {
        Self {
            validity: array.nulls().map(|n| n.inner().sliced()),
            values: array.as_boolean_opt().map(|values| values.values().sliced()),
        }
    }
}

fn column_in<'a>(array: &'a ArrayRef, bits: &'a Bits) -> Option<ColumnRef<'a>> {
    let bytes = |offsets: &'a OffsetBuffer<i32>, data: &'a Buffer| BytesRef { offsets: unsigned(offsets), data };
    let strings = |array: &'a StringArray| bytes(array.offsets(), array.values());
    let data = match array.data_type() {
        ArrowType::Boolean => DataRef::Boolean(bits.values.as_ref()?.get(..array.len().div_ceil(8))?),
        ArrowType::Dictionary(..) => {
            let dictionary = array.as_dictionary_opt::<types::Int32Type>()?;
            let keys = dictionary.keys().values().inner().typed_data::<u32>();
            DataRef::Dictionary { keys, values: strings(dictionary.values().as_string_opt()?) }
        }
        ArrowType::Int32 => DataRef::Int32(array.as_primitive::<types::Int32Type>().values()),
        ArrowType::Int64 => DataRef::Int64(array.as_primitive::<types::Int64Type>().values()),
        ArrowType::Float32 => DataRef::Float32(array.as_primitive::<types::Float32Type>().values()),
        ArrowType::Float64 => DataRef::Float64(array.as_primitive::<types::Float64Type>().values()),
        ArrowType::Decimal128(..) => {
            DataRef::Decimal(array.as_primitive::<Decimal128Type>().values().inner().typed_data::<u64>())
        }
        ArrowType::Date32 => DataRef::Date(array.as_primitive::<Date32Type>().values()),
        ArrowType::Timestamp(TimeUnit::Microsecond, zone) => {
            let values = array.as_primitive::<TimestampMicrosecondType>().values();
            if zone.is_some() { DataRef::Timestamptz(values) } else { DataRef::Timestamp(values) }
        }
        ArrowType::Utf8 => DataRef::Utf8(strings(array.as_string())),
        ArrowType::Binary => {
            DataRef::Binary(bytes(array.as_binary::<i32>().offsets(), array.as_binary::<i32>().values()))
        }
        ArrowType::List(_) => {
            let list = array.as_list::<i32>();
            let (offsets, items) = (unsigned(list.offsets()), list.values());
            match items.data_type() {
                ArrowType::Int64 => {
                    DataRef::ListInt64 { offsets, values: items.as_primitive::<types::Int64Type>().values() }
                }
                ArrowType::Float64 => {
                    DataRef::ListFloat64 { offsets, values: items.as_primitive::<types::Float64Type>().values() }
                }
                ArrowType::Utf8 => DataRef::ListUtf8 { offsets, values: strings(items.as_string()) },
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(ColumnRef { data, validity: bits.validity.as_ref().map(Buffer::as_slice) })
}

/// Arrow's offsets are never negative: the same bits, unsigned.
fn unsigned(offsets: &OffsetBuffer<i32>) -> &[u32] {
    offsets.inner().inner().typed_data::<u32>()
}

pub(super) fn columns_out(columns: Vec<Column>, schema: &Schema) -> Result<Vec<ArrayRef>, String> {
    if columns.len() != schema.fields.len() {
        return Err(format!("it gave {} columns, not {}", columns.len(), schema.fields.len()));
    }
    columns.into_iter().zip(&schema.fields).map(|(column, field)| column_out(column, field)).collect()
}

fn column_out(column: Column, field: &Field) -> Result<ArrayRef, String> {
    let arrow = field.data_type.to_arrow();
    let rows = column.rows;
    let nulls = column.validity.map(|bits| BooleanBuffer::new(bits.into(), 0, rows)).map(NullBuffer::new);
    let data = match column.data {
        ColumnData::Boolean(bits) => {
            return Ok(Arc::new(BooleanArray::new(BooleanBuffer::new(bits.into(), 0, rows), nulls)));
        }
        ColumnData::Int32(v) => return Ok(Arc::new(PrimitiveArray::<types::Int32Type>::new(v.into(), nulls))),
        ColumnData::Int64(v) => return Ok(Arc::new(PrimitiveArray::<types::Int64Type>::new(v.into(), nulls))),
        ColumnData::Float32(v) => return Ok(Arc::new(PrimitiveArray::<types::Float32Type>::new(v.into(), nulls))),
        ColumnData::Float64(v) => return Ok(Arc::new(PrimitiveArray::<types::Float64Type>::new(v.into(), nulls))),
        ColumnData::Date(v) => return Ok(Arc::new(PrimitiveArray::<Date32Type>::new(v.into(), nulls))),
        ColumnData::Timestamp(v) | ColumnData::Timestamptz(v) => {
            let array = PrimitiveArray::<TimestampMicrosecondType>::new(v.into(), nulls);
            return Ok(Arc::new(array.with_data_type(arrow)));
        }
        ColumnData::Decimal(words) => {
            let values: ScalarBuffer<i128> = words
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[low, high]| ((u128::from(*high) << 64) | u128::from(*low)).cast_signed())
                .collect();
            return Ok(Arc::new(PrimitiveArray::<Decimal128Type>::new(values, nulls).with_data_type(arrow)));
        }
        ColumnData::Utf8(bytes) | ColumnData::Binary(bytes) => return bytes_out(bytes, &arrow, nulls),
        ColumnData::ListInt64(List { offsets, values }) => {
            (offsets, Arc::new(PrimitiveArray::<types::Int64Type>::new(values.into(), None)) as ArrayRef)
        }
        ColumnData::ListFloat64(List { offsets, values }) => {
            (offsets, Arc::new(PrimitiveArray::<types::Float64Type>::new(values.into(), None)) as ArrayRef)
        }
        ColumnData::ListUtf8(List { offsets, values }) => (offsets, bytes_out(values, &ArrowType::Utf8, None)?),
    };
    let (offsets, items) = data;
    let item = Arc::new(ArrowField::new("item", items.data_type().clone(), false));
    let offsets = OffsetBuffer::new(ScalarBuffer::from(Buffer::from_vec(offsets)));
    let list = arrow_array::ListArray::try_new(item, offsets, items, nulls).map_err(|e| e.to_string())?;
    Ok(Arc::new(list))
}

/// Strings are checked to be UTF-8 here, as those of a component are.
fn bytes_out(bytes: Bytes, arrow: &ArrowType, nulls: Option<NullBuffer>) -> Result<ArrayRef, String> {
    let offsets = OffsetBuffer::new(ScalarBuffer::from(Buffer::from_vec(bytes.offsets)));
    let data = Buffer::from_vec(bytes.data);
    let array = match arrow {
        ArrowType::Binary => BinaryArray::try_new(offsets, data, nulls).map(|a| Arc::new(a) as ArrayRef),
        _ => StringArray::try_new(offsets, data, nulls).map(|a| Arc::new(a) as ArrayRef),
    };
    array.map_err(|e| e.to_string())
}

pub(super) fn field_in(field: &Field) -> SdkField {
    let data_type = match field.data_type {
        DataType::Boolean => SdkType::Boolean,
        DataType::Int => SdkType::Int32,
        DataType::Long => SdkType::Int64,
        DataType::Float => SdkType::Float32,
        DataType::Double => SdkType::Float64,
        DataType::Decimal { precision, scale } => SdkType::Decimal { precision, scale },
        DataType::Date => SdkType::Date,
        DataType::Timestamp => SdkType::Timestamp,
        DataType::Timestamptz => SdkType::Timestamptz,
        DataType::String => SdkType::Utf8,
        DataType::Binary => SdkType::Binary,
        DataType::ListLong => SdkType::ListInt64,
        DataType::ListDouble => SdkType::ListFloat64,
        DataType::ListString => SdkType::ListUtf8,
    };
    SdkField::new(field.name.clone(), data_type, field.nullable)
}

fn field_out(field: SdkField) -> Field {
    let data_type = match field.data_type {
        SdkType::Boolean => DataType::Boolean,
        SdkType::Int32 => DataType::Int,
        SdkType::Int64 => DataType::Long,
        SdkType::Float32 => DataType::Float,
        SdkType::Float64 => DataType::Double,
        SdkType::Decimal { precision, scale } => DataType::Decimal { precision, scale },
        SdkType::Date => DataType::Date,
        SdkType::Timestamp => DataType::Timestamp,
        SdkType::Timestamptz => DataType::Timestamptz,
        SdkType::Utf8 => DataType::String,
        SdkType::Binary => DataType::Binary,
        SdkType::ListInt64 => DataType::ListLong,
        SdkType::ListFloat64 => DataType::ListDouble,
        SdkType::ListUtf8 => DataType::ListString,
    };
    Field::new(field.name, data_type, field.nullable)
}

pub(super) fn schema_out(fields: Vec<SdkField>) -> Schema {
    Schema::new(fields.into_iter().map(field_out).collect())
}

pub(super) fn wanted_out(wanted: Vec<SdkWanted>) -> Vec<Wanted> {
    let one = |w: SdkWanted| Wanted {
        dictionary: w.field.data_type == SdkType::Utf8,
        optional: w.optional,
        field: field_out(w.field),
    };
    wanted.into_iter().map(one).collect()
}
