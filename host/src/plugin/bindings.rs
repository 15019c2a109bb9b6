//! The WIT of `wit/` as Rust types (generated), and their translation to the types that the rest of the host speaks.
//! Columns are translated in [`super::arrow`]. Nothing outside `plugin` sees a generated type.

use millrace_core::schema::{DataType, Field, Schema};

use super::Wanted;
use super::limits::SIGNATURE_COLUMNS_MAX;

/// The releases of the interface that this host serves; plugins must be built against them.
pub const TYPES_VERSION: &str = "0.1.0";
pub const AGGREGATION_VERSION: &str = "0.1.0";
pub const TRANSFORM_VERSION: &str = "0.1.0";
/// a draft: no operator of the host uses it yet
pub const JOIN_VERSION: &str = "0.1.0-dev.3";

#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod generated {
    wasmtime::component::bindgen!({
        path: ["../wit/types", "../wit/aggregation", "../wit/transform", "../wit/join"],
        // One world of all kinds, so that their types are generated once. No plugin is of this world: each kind's
        // exports are looked up by themselves.
        inline: "
            package millrace:host-side;
            world every-kind {
                import millrace:types/host@0.1.0;
                export millrace:aggregation/aggregation@0.1.0;
                export millrace:transform/transform@0.1.0;
                export millrace:join/join@0.1.0-dev.3;
            }
        ",
        world: "millrace:host-side/every-kind",
        // Parameters borrow, so that a batch goes from Arrow's buffers into the guest with one memcpy per buffer.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(super) use generated::exports::millrace::aggregation::aggregation;
pub(super) use generated::exports::millrace::join::join;
pub(super) use generated::exports::millrace::transform::transform;
pub(super) use generated::millrace::types::{host, types};

/// A column's type as the plugin names it.
pub(super) fn type_from_wit(wit: types::DataType) -> DataType {
    use types::DataType as W;
    match wit {
        W::Boolean => DataType::Boolean,
        W::Int32 => DataType::Int,
        W::Int64 => DataType::Long,
        W::Float32 => DataType::Float,
        W::Float64 => DataType::Double,
        W::Decimal(d) => DataType::Decimal { precision: d.precision, scale: d.scale },
        W::Date => DataType::Date,
        W::Timestamp => DataType::Timestamp,
        W::Timestamptz => DataType::Timestamptz,
        W::Utf8 => DataType::String,
        W::Binary => DataType::Binary,
        W::ListInt64 => DataType::ListLong,
        W::ListFloat64 => DataType::ListDouble,
        W::ListUtf8 => DataType::ListString,
    }
}

pub(super) fn type_to_wit(data_type: DataType) -> types::DataType {
    use types::DataType as W;
    match data_type {
        DataType::Boolean => W::Boolean,
        DataType::Int => W::Int32,
        DataType::Long => W::Int64,
        DataType::Float => W::Float32,
        DataType::Double => W::Float64,
        DataType::Decimal { precision, scale } => W::Decimal(types::DecimalType { precision, scale }),
        DataType::Date => W::Date,
        DataType::Timestamp => W::Timestamp,
        DataType::Timestamptz => W::Timestamptz,
        DataType::String => W::Utf8,
        DataType::Binary => W::Binary,
        DataType::ListLong => W::ListInt64,
        DataType::ListDouble => W::ListFloat64,
        DataType::ListString => W::ListUtf8,
    }
}

pub(super) fn fields_to_wit(schema: &Schema) -> Vec<types::FieldParam<'_>> {
    let field = |f: &'_ Field| (f.data_type, f.nullable);
    schema
        .fields
        .iter()
        .map(|f| {
            let (data_type, nullable) = field(f);
            types::FieldParam { name: &f.name, data_type: type_to_wit(data_type), nullable }
        })
        .collect()
}

pub(super) fn schema_from_wit(fields: Vec<types::FieldResult>) -> Schema {
    Schema::new(fields.into_iter().map(field_from_wit).collect())
}

fn field_from_wit(wit: types::FieldResult) -> Field {
    Field::new(wit.name, type_from_wit(wit.data_type), wit.nullable)
}

pub(super) fn wanted_from_wit(wit: types::Wanted) -> (Wanted, types::Encoding) {
    let dictionary = wit.encoding != types::Encoding::Plain;
    (Wanted { field: field_from_wit(wit.field), dictionary, optional: wit.optional }, wit.encoding)
}

/// Names in a signature are unique and not empty, decimals are possible, and there are not absurdly many columns.
pub(super) fn check_fields<'a>(what: &str, fields: impl ExactSizeIterator<Item = &'a Field>) -> Result<(), String> {
    if fields.len() > SIGNATURE_COLUMNS_MAX {
        return Err(format!("declares {} {what} columns; at most {SIGNATURE_COLUMNS_MAX} are possible", fields.len()));
    }
    let mut seen = std::collections::HashSet::new();
    for field in fields {
        if field.name.is_empty() {
            return Err(format!("declares {what} column {} without a name", seen.len()));
        }
        if !seen.insert(field.name.as_str()) {
            return Err(format!("declares {what} column `{}` twice", field.name));
        }
        if let DataType::Decimal { precision, scale } = field.data_type
            && (precision == 0 || precision > 38 || scale > precision)
        {
            return Err(format!(
                "declares {what} column `{}` as {}: a decimal has 1 to 38 digits and no more decimal places than digits",
                field.name, field.data_type
            ));
        }
    }
    Ok(())
}
