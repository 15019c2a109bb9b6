//! Columns, fields and errors: generated types ↔ [`crate::column`]. Moves buffers, copies none.

use super::types;
use crate::column::{self, Bytes, BytesRef, ColumnRef, DataRef, List};
use crate::plugin::{Info, Rejected};

pub(super) fn info(info: Info) -> types::PluginInfo {
    types::PluginInfo { name: info.name, version: info.version, config_schema: info.config_schema, hints: Vec::new() }
}

/// Strings come as the host has them: the readers take both forms.
pub(super) fn wanted(w: column::Wanted) -> types::Wanted {
    types::Wanted {
        encoding: match w.field.data_type {
            column::DataType::Utf8 => types::Encoding::Either,
            _ => types::Encoding::Plain,
        },
        field: field_out(w.field),
        optional: w.optional,
    }
}

pub(super) fn fields_in(fields: Vec<types::Field>) -> Vec<column::Field> {
    fields.into_iter().map(field_in).collect()
}

pub(super) fn fields_out(fields: Vec<column::Field>) -> Vec<types::Field> {
    fields.into_iter().map(field_out).collect()
}

pub(super) fn columns_out(columns: Vec<column::Column>) -> Vec<types::Column> {
    columns.into_iter().map(column_out).collect()
}

pub(super) fn rejected(rejected: Vec<Rejected>) -> Vec<types::Rejected> {
    rejected.into_iter().map(|r| types::Rejected { row: r.row, reason: r.reason }).collect()
}

pub(super) fn error(e: column::Error) -> types::Error {
    match e {
        column::Error::Config(m) => types::Error::Config(m),
        column::Error::Input(m) => types::Error::Input(m),
        column::Error::Internal(m) => types::Error::Internal(m),
    }
}

pub(super) fn borrow(columns: &[types::Column]) -> Vec<ColumnRef<'_>> {
    columns.iter().map(column_in).collect()
}

fn bytes_in(bytes: &types::VarBytes) -> BytesRef<'_> {
    BytesRef { offsets: &bytes.offsets, data: &bytes.data }
}

fn bytes_out(bytes: Bytes) -> types::VarBytes {
    types::VarBytes { offsets: bytes.offsets, data: bytes.data }
}

fn column_in(column: &types::Column) -> ColumnRef<'_> {
    use types::ColumnData as C;
    let data = match &column.data {
        C::Missing => DataRef::Missing,
        C::Boolean(v) => DataRef::Boolean(v),
        C::Int32(v) => DataRef::Int32(v),
        C::Int64(v) => DataRef::Int64(v),
        C::Float32(v) => DataRef::Float32(v),
        C::Float64(v) => DataRef::Float64(v),
        C::Decimal(v) => DataRef::Decimal(v),
        C::Date(v) => DataRef::Date(v),
        C::Timestamp(v) => DataRef::Timestamp(v),
        C::Timestamptz(v) => DataRef::Timestamptz(v),
        C::Utf8(v) => DataRef::Utf8(bytes_in(v)),
        C::Utf8Dictionary(d) => DataRef::Dictionary { keys: &d.keys, values: bytes_in(&d.values) },
        C::Binary(v) => DataRef::Binary(bytes_in(v)),
        C::ListInt64(l) => DataRef::ListInt64 { offsets: &l.offsets, values: &l.values },
        C::ListFloat64(l) => DataRef::ListFloat64 { offsets: &l.offsets, values: &l.values },
        C::ListUtf8(l) => DataRef::ListUtf8 { offsets: &l.offsets, values: bytes_in(&l.values) },
    };
    ColumnRef { data, validity: column.validity.as_deref() }
}

fn column_out(column: column::Column) -> types::Column {
    use column::ColumnData as D;
    use types::ColumnData as C;
    let data = match column.data {
        D::Boolean(v) => C::Boolean(v),
        D::Int32(v) => C::Int32(v),
        D::Int64(v) => C::Int64(v),
        D::Float32(v) => C::Float32(v),
        D::Float64(v) => C::Float64(v),
        D::Decimal(v) => C::Decimal(v),
        D::Date(v) => C::Date(v),
        D::Timestamp(v) => C::Timestamp(v),
        D::Timestamptz(v) => C::Timestamptz(v),
        D::Utf8(v) => C::Utf8(bytes_out(v)),
        D::Binary(v) => C::Binary(bytes_out(v)),
        D::ListInt64(List { offsets, values }) => C::ListInt64(types::ListInt64Data { offsets, values }),
        D::ListFloat64(List { offsets, values }) => C::ListFloat64(types::ListFloat64Data { offsets, values }),
        D::ListUtf8(List { offsets, values }) => {
            C::ListUtf8(types::ListUtf8Data { offsets, values: bytes_out(values) })
        }
    };
    types::Column { data, validity: column.validity }
}

fn field_in(field: types::Field) -> column::Field {
    use column::DataType as D;
    use types::DataType as T;
    let data_type = match field.data_type {
        T::Boolean => D::Boolean,
        T::Int32 => D::Int32,
        T::Int64 => D::Int64,
        T::Float32 => D::Float32,
        T::Float64 => D::Float64,
        T::Decimal(d) => D::Decimal { precision: d.precision, scale: d.scale },
        T::Date => D::Date,
        T::Timestamp => D::Timestamp,
        T::Timestamptz => D::Timestamptz,
        T::Utf8 => D::Utf8,
        T::Binary => D::Binary,
        T::ListInt64 => D::ListInt64,
        T::ListFloat64 => D::ListFloat64,
        T::ListUtf8 => D::ListUtf8,
    };
    column::Field { name: field.name, data_type, nullable: field.nullable }
}

fn field_out(field: column::Field) -> types::Field {
    use column::DataType as D;
    use types::DataType as T;
    let data_type = match field.data_type {
        D::Boolean => T::Boolean,
        D::Int32 => T::Int32,
        D::Int64 => T::Int64,
        D::Float32 => T::Float32,
        D::Float64 => T::Float64,
        D::Decimal { precision, scale } => T::Decimal(types::DecimalType { precision, scale }),
        D::Date => T::Date,
        D::Timestamp => T::Timestamp,
        D::Timestamptz => T::Timestamptz,
        D::Utf8 => T::Utf8,
        D::Binary => T::Binary,
        D::ListInt64 => T::ListInt64,
        D::ListFloat64 => T::ListFloat64,
        D::ListUtf8 => T::ListUtf8,
    };
    types::Field { name: field.name, data_type, nullable: field.nullable }
}
