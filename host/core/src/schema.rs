//! The types of a pipeline's columns and their one Arrow form.
//!
//! Every component (decoder, plugin boundary, state files, Iceberg tables) speaks these types; Arrow's many other
//! encodings of the same value never cross a module boundary.

use std::fmt;
use std::sync::Arc;

use arrow_schema::{DataType as ArrowType, Field as ArrowField, Schema as ArrowSchema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

/// A column's type, named as in the pipeline file (and as in Iceberg).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    Boolean,
    /// 32 bits, signed
    Int,
    /// 64 bits, signed
    Long,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// days since 1970-01-01
    Date,
    /// microseconds since 1970-01-01T00:00:00, no zone
    Timestamp,
    /// microseconds since 1970-01-01T00:00:00Z
    Timestamptz,
    String,
    Binary,
    /// lists exist in plugin state only; their elements are never null
    ListLong,
    ListDouble,
    ListString,
}

/// The zone that every `timestamptz` column carries in Arrow.
pub const UTC: &str = "+00:00";

impl DataType {
    /// The Arrow type that a column of this type always has.
    pub fn to_arrow(self) -> ArrowType {
        let list = |item: ArrowType| ArrowType::List(Arc::new(ArrowField::new("item", item, false)));
        match self {
            Self::Boolean => ArrowType::Boolean,
            Self::Int => ArrowType::Int32,
            Self::Long => ArrowType::Int64,
            Self::Float => ArrowType::Float32,
            Self::Double => ArrowType::Float64,
            Self::Decimal { precision, scale } => {
                ArrowType::Decimal128(precision, i8::try_from(scale).unwrap_or(i8::MAX))
            }
            Self::Date => ArrowType::Date32,
            Self::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamptz => ArrowType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Self::String => ArrowType::Utf8,
            Self::Binary => ArrowType::Binary,
            Self::ListLong => list(ArrowType::Int64),
            Self::ListDouble => list(ArrowType::Float64),
            Self::ListString => list(ArrowType::Utf8),
        }
    }

    /// The inverse of [`DataType::to_arrow`]; `None` for an Arrow type that no column has.
    pub fn from_arrow(arrow: &ArrowType) -> Option<Self> {
        Some(match arrow {
            ArrowType::Boolean => Self::Boolean,
            ArrowType::Int32 => Self::Int,
            ArrowType::Int64 => Self::Long,
            ArrowType::Float32 => Self::Float,
            ArrowType::Float64 => Self::Double,
            ArrowType::Decimal128(precision, scale) => {
                Self::Decimal { precision: *precision, scale: u8::try_from(*scale).ok()? }
            }
            ArrowType::Date32 => Self::Date,
            ArrowType::Timestamp(TimeUnit::Microsecond, None) => Self::Timestamp,
            ArrowType::Timestamp(TimeUnit::Microsecond, Some(_)) => Self::Timestamptz,
            ArrowType::Utf8 => Self::String,
            ArrowType::Binary => Self::Binary,
            ArrowType::List(item) => match item.data_type() {
                ArrowType::Int64 => Self::ListLong,
                ArrowType::Float64 => Self::ListDouble,
                ArrowType::Utf8 => Self::ListString,
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Whether a value of this type may stand where `wanted` is asked for without losing anything
    /// (int → long, float → double). Everything else needs a cast that a person has written.
    pub fn widens_to(self, wanted: Self) -> bool {
        self == wanted || matches!((self, wanted), (Self::Int, Self::Long) | (Self::Float, Self::Double))
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal { precision, scale } => return write!(f, "decimal({precision},{scale})"),
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
            Self::String => "string",
            Self::Binary => "binary",
            Self::ListLong => "list<long>",
            Self::ListDouble => "list<double>",
            Self::ListString => "list<string>",
        })
    }
}

/// A named, typed column.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: DataType,
    pub nullable: bool,
}

impl Field {
    pub fn new(name: impl Into<String>, data_type: DataType, nullable: bool) -> Self {
        Self { name: name.into(), data_type, nullable }
    }

    pub fn to_arrow(&self) -> ArrowField {
        ArrowField::new(&self.name, self.data_type.to_arrow(), self.nullable)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}", self.name, self.data_type, if self.nullable { "?" } else { "" })
    }
}

/// Columns in order. Names are unique; the pipeline file is checked for that before a `Schema` is made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schema {
    pub fields: Vec<Field>,
}

impl Schema {
    pub fn new(fields: Vec<Field>) -> Self {
        Self { fields }
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.name == name)
    }

    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == name)
    }

    pub fn to_arrow(&self) -> SchemaRef {
        Arc::new(ArrowSchema::new(self.fields.iter().map(Field::to_arrow).collect::<Vec<_>>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrow_form_round_trips_for_every_type() {
        let all = [
            DataType::Boolean,
            DataType::Int,
            DataType::Long,
            DataType::Float,
            DataType::Double,
            DataType::Decimal { precision: 18, scale: 4 },
            DataType::Date,
            DataType::Timestamp,
            DataType::Timestamptz,
            DataType::String,
            DataType::Binary,
            DataType::ListLong,
            DataType::ListDouble,
            DataType::ListString,
        ];
        for t in all {
            assert_eq!(DataType::from_arrow(&t.to_arrow()), Some(t), "{t}");
        }
    }

    #[test]
    fn only_lossless_widening() {
        assert!(DataType::Int.widens_to(DataType::Long));
        assert!(DataType::Float.widens_to(DataType::Double));
        assert!(!DataType::Long.widens_to(DataType::Double));
        assert!(!DataType::Long.widens_to(DataType::Int));
    }
}
