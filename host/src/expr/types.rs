//! Between DataFusion's types and those of columns.

use arrow_schema::{DataType as ArrowType, TimeUnit};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};
use millrace_core::schema::DataType;

/// The words that SQL lacks (`long`), or that mean something else in DataFusion: its timestamps count nanoseconds.
#[derive(Debug)]
pub struct SpecTypes;

impl TypePlanner for SpecTypes {
    fn plan_type(&self, sql_type: &SqlType) -> Result<Option<ArrowType>, DataFusionError> {
        let known = match sql_type {
            SqlType::Custom(name, _) if name.to_string().eq_ignore_ascii_case("long") => Some(DataType::Long),
            SqlType::Timestamp(_, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => Some(DataType::Timestamptz),
            SqlType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => Some(DataType::Timestamp),
            SqlType::Binary(None) => Some(DataType::Binary),
            _ => None,
        };
        Ok(known.map(DataType::to_arrow))
    }
}

/// The column type that holds every value of an expression's type; else the hint: what to write instead.
pub fn column_type(arrow: &ArrowType) -> Result<DataType, String> {
    let cast_to = |name: &str| Err(format!("cast it: `cast(… AS {name})`"));
    Ok(match arrow {
        ArrowType::Boolean => DataType::Boolean,
        ArrowType::Int8 | ArrowType::Int16 | ArrowType::Int32 | ArrowType::UInt8 | ArrowType::UInt16 => DataType::Int,
        ArrowType::Int64 | ArrowType::UInt32 => DataType::Long,
        ArrowType::Float16 | ArrowType::Float32 => DataType::Float,
        ArrowType::Float64 => DataType::Double,
        ArrowType::Decimal32(precision, scale)
        | ArrowType::Decimal64(precision, scale)
        | ArrowType::Decimal128(precision, scale) => match u8::try_from(*scale) {
            Ok(scale) => DataType::Decimal { precision: *precision, scale },
            Err(_) => return cast_to("decimal(38, 0)"),
        },
        ArrowType::Date32 => DataType::Date,
        // what is finer than a microsecond is cut off
        ArrowType::Timestamp(
            TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond | TimeUnit::Nanosecond,
            zone,
        ) => {
            if zone.is_some() {
                DataType::Timestamptz
            } else {
                DataType::Timestamp
            }
        }
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => DataType::String,
        ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView | ArrowType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        ArrowType::Dictionary(_, values) => return column_type(values),
        ArrowType::UInt64 => return cast_to("long"),
        ArrowType::Decimal256(..) => return cast_to("decimal(38, 6)"),
        ArrowType::Date64 => return cast_to("date"),
        ArrowType::Null => return Err("say of which type it is: `cast(NULL AS string)`".to_owned()),
        _ => return cast_to("string"),
    })
}
