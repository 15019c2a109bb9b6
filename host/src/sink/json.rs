//! Rows as JSON objects, one line each: what the file and Kafka sinks write, and the cells that the console shows.
//!
//! | type | JSON |
//! |---|---|
//! | int, long, float, double, boolean | number, boolean; NaN and infinities as the strings `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | decimal | string, so that no reader rounds it |
//! | timestamptz, timestamp, date | RFC 3339 string: `2024-05-01T12:00:00.25Z`, the same without `Z`, `2024-05-01` |
//! | binary | base64 string |
//! | list | array |
//! | null | `null`; the key is always there |

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{
    Array, BinaryArray, BooleanArray, Decimal128Array, ListArray, PrimitiveArray, RecordBatch, StringArray,
};
use arrow_schema::{DataType, TimeUnit};

use super::{Result, SinkError};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A batch, ready to be written row by row.
pub struct JsonRows<'a> {
    columns: Vec<(Vec<u8>, Column<'a>)>,
}

/// One row as a JSON object.
pub fn row_to_json(batch: &RecordBatch, row: usize) -> Result<String> {
    let mut text = Vec::new();
    JsonRows::new(batch)?.write_row(&mut text, row);
    String::from_utf8(text).map_err(|e| SinkError::Fatal(format!("a row's JSON is not UTF-8: {e}")))
}

/// A column by what its values look like.
pub enum Column<'a> {
    Boolean(&'a BooleanArray),
    Int(&'a PrimitiveArray<Int32Type>),
    Long(&'a PrimitiveArray<Int64Type>),
    Float(&'a PrimitiveArray<Float32Type>),
    Double(&'a PrimitiveArray<Float64Type>),
    Decimal(&'a Decimal128Array),
    Date(&'a PrimitiveArray<Date32Type>),
    Timestamp { values: &'a PrimitiveArray<TimestampMicrosecondType>, utc: bool },
    String(&'a StringArray),
    Binary(&'a BinaryArray),
    List(&'a ListArray, Box<Column<'a>>),
}

impl<'a> JsonRows<'a> {
    pub fn new(batch: &'a RecordBatch) -> Result<Self> {
        let columns = batch
            .schema_ref()
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, array)| {
                let column = Column::new(array.as_ref()).ok_or_else(|| {
                    SinkError::Fatal(format!(
                        "column `{}` of type {} cannot be written as JSON",
                        field.name(),
                        field.data_type()
                    ))
                })?;
                let mut key = Vec::new();
                write_string(&mut key, field.name());
                key.push(b':');
                Ok((key, column))
            })
            .collect::<Result<_>>()?;
        Ok(Self { columns })
    }

    /// Appends one row, without a newline.
    pub fn write_row(&self, into: &mut Vec<u8>, row: usize) {
        into.push(b'{');
        for (i, (key, column)) in self.columns.iter().enumerate() {
            if i > 0 {
                into.push(b',');
            }
            into.extend_from_slice(key);
            column.write_json(into, row);
        }
        into.push(b'}');
    }
}

impl<'a> Column<'a> {
    /// `None` for an Arrow type that no column of a pipeline has.
    pub fn new(array: &'a dyn Array) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Boolean => Self::Boolean(array.as_boolean()),
            DataType::Int32 => Self::Int(array.as_primitive()),
            DataType::Int64 => Self::Long(array.as_primitive()),
            DataType::Float32 => Self::Float(array.as_primitive()),
            DataType::Float64 => Self::Double(array.as_primitive()),
            DataType::Decimal128(..) => Self::Decimal(array.as_primitive::<Decimal128Type>()),
            DataType::Date32 => Self::Date(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                Self::Timestamp { values: array.as_primitive(), utc: zone.is_some() }
            }
            DataType::Utf8 => Self::String(array.as_string()),
            DataType::Binary => Self::Binary(array.as_binary()),
            DataType::List(_) => {
                let list: &ListArray = array.as_list();
                Self::List(list, Box::new(Self::new(list.values().as_ref())?))
            }
            _ => return None,
        })
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Boolean(a) => a,
            Self::Int(a) => a,
            Self::Long(a) => a,
            Self::Float(a) => a,
            Self::Double(a) => a,
            Self::Decimal(a) => a,
            Self::Date(a) => a,
            Self::Timestamp { values, .. } => values,
            Self::String(a) => a,
            Self::Binary(a) => a,
            Self::List(a, _) => a,
        }
    }

    pub fn is_null(&self, row: usize) -> bool {
        self.array().is_null(row)
    }

    /// Numbers line up on their right.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Long(_) | Self::Float(_) | Self::Double(_) | Self::Decimal(_))
    }

    /// Appends the value as JSON.
    pub fn write_json(&self, into: &mut Vec<u8>, row: usize) {
        if self.is_null(row) {
            into.extend_from_slice(b"null");
            return;
        }
        match self {
            Self::String(a) => write_string(into, a.value(row)),
            Self::Float(a) if a.value(row).is_finite() => write_float(into, a.value(row)),
            Self::Double(a) if a.value(row).is_finite() => write_float(into, a.value(row)),
            Self::Boolean(_) | Self::Int(_) | Self::Long(_) => self.write_text(into, row),
            Self::List(list, values) => {
                let offsets = list.value_offsets();
                let at = |i: usize| offsets.get(i).and_then(|o| usize::try_from(*o).ok()).unwrap_or(0);
                into.push(b'[');
                for (i, element) in (at(row)..at(row.saturating_add(1))).enumerate() {
                    if i > 0 {
                        into.push(b',');
                    }
                    values.write_json(into, element);
                }
                into.push(b']');
            }
            Self::Float(_)
            | Self::Double(_)
            | Self::Decimal(_)
            | Self::Date(_)
            | Self::Timestamp { .. }
            | Self::Binary(_) => {
                into.push(b'"');
                self.write_text(into, row);
                into.push(b'"');
            }
        }
    }

    /// Appends the value as bare text: a record's key, a cell of a table. Nothing for null.
    pub fn write_text(&self, into: &mut Vec<u8>, row: usize) {
        if self.is_null(row) {
            return;
        }
        // writing into a Vec cannot fail
        let _ = match self {
            Self::Boolean(a) => write!(into, "{}", a.value(row)),
            Self::Int(a) => write!(into, "{}", a.value(row)),
            Self::Long(a) => write!(into, "{}", a.value(row)),
            Self::Float(a) => write_bare_float(into, f64::from(a.value(row)), |into| write_float(into, a.value(row))),
            Self::Double(a) => write_bare_float(into, a.value(row), |into| write_float(into, a.value(row))),
            Self::Decimal(a) => into.write_all(a.value_as_string(row).as_bytes()),
            Self::Date(a) => write_date(into, i64::from(a.value(row))),
            Self::Timestamp { values, utc } => write_timestamp(into, values.value(row), *utc),
            Self::String(a) => into.write_all(a.value(row).as_bytes()),
            Self::Binary(a) => {
                write_base64(into, a.value(row));
                Ok(())
            }
            Self::List(..) => {
                self.write_json(into, row);
                Ok(())
            }
        };
    }
}

fn write_string(into: &mut Vec<u8>, text: &str) {
    // a str always serialises, and a Vec always takes it
    let _ = serde_json::to_writer(into, text);
}

fn write_float(into: &mut Vec<u8>, value: impl serde::Serialize) {
    let _ = serde_json::to_writer(into, &value);
}

fn write_bare_float(into: &mut Vec<u8>, value: f64, finite: impl FnOnce(&mut Vec<u8>)) -> std::io::Result<()> {
    let name: &[u8] = if value.is_nan() {
        b"NaN"
    } else if value == f64::INFINITY {
        b"Infinity"
    } else if value == f64::NEG_INFINITY {
        b"-Infinity"
    } else {
        finite(into);
        return Ok(());
    };
    into.write_all(name)
}

/// Proleptic Gregorian (year, month, day) of a day since the epoch. Algorithm: `civil_from_days` of Howard Hinnant,
/// <https://howardhinnant.github.io/date_algorithms.html>.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let z = days.saturating_add(719_468);
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn write_date(into: &mut Vec<u8>, days: i64) -> std::io::Result<()> {
    let (year, month, day) = civil(days);
    write!(into, "{year:04}-{month:02}-{day:02}")
}

fn write_timestamp(into: &mut Vec<u8>, micros: i64, utc: bool) -> std::io::Result<()> {
    let (seconds, fraction) = (micros.div_euclid(MICROS_PER_SECOND), micros.rem_euclid(MICROS_PER_SECOND));
    let (days, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    write_date(into, days)?;
    write!(into, "T{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)?;
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        write!(into, ".{}", digits.trim_end_matches('0'))?;
    }
    if utc { into.write_all(b"Z") } else { Ok(()) }
}

/// RFC 4648, with padding.
fn write_base64(into: &mut Vec<u8>, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| ALPHABET.get((bits & 63) as usize).copied().unwrap_or(b'=');
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        into.push(digit(bits >> 18));
        into.push(digit(bits >> 12));
        into.push(if chunk.len() > 1 { digit(bits >> 6) } else { b'=' });
        into.push(if chunk.len() > 2 { digit(bits) } else { b'=' });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{Int64Builder, ListBuilder, StringBuilder};
    use arrow_array::{
        ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int32Array, Int64Array,
        TimestampMicrosecondArray,
    };
    use arrow_schema::{Field, Schema};
    use millrace_core::schema::{DataType as Type, UTC};
    use proptest::prelude::*;

    use super::*;

    /// Two rows, one of values and one of nulls, in every type a column has.
    pub(in crate::sink) fn every_type() -> RecordBatch {
        let item = |t| Field::new("item", t, false);
        let mut longs = ListBuilder::new(Int64Builder::new()).with_field(item(DataType::Int64));
        longs.append_value([Some(1), Some(2)]);
        longs.append_null();
        let mut strings = ListBuilder::new(StringBuilder::new()).with_field(item(DataType::Utf8));
        strings.append_value([Some("a\"b"), Some("")]);
        strings.append_null();
        let columns: Vec<(&str, Type, ArrayRef)> = vec![
            ("b", Type::Boolean, Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("i", Type::Int, Arc::new(Int32Array::from(vec![Some(-5), None]))),
            ("l", Type::Long, Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
            ("f", Type::Float, Arc::new(Float32Array::from(vec![Some(0.1), None]))),
            ("d", Type::Double, Arc::new(Float64Array::from(vec![Some(f64::NAN), None]))),
            (
                "m",
                Type::Decimal { precision: 18, scale: 4 },
                Arc::new(
                    Decimal128Array::from(vec![Some(-12_345), None]).with_precision_and_scale(18, 4).expect("fits"),
                ),
            ),
            ("day", Type::Date, Arc::new(Date32Array::from(vec![Some(19_844), None]))),
            ("ts", Type::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None]))),
            (
                "tz",
                Type::Timestamptz,
                Arc::new(TimestampMicrosecondArray::from(vec![Some(1_714_564_800_250_000), None]).with_timezone(UTC)),
            ),
            ("s", Type::String, Arc::new(StringArray::from(vec![Some("é\n\u{1}"), None]))),
            ("bin", Type::Binary, Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None]))),
            ("ll", Type::ListLong, Arc::new(longs.finish())),
            ("ls", Type::ListString, Arc::new(strings.finish())),
        ];
        let fields: Vec<Field> = columns.iter().map(|(n, t, _)| Field::new(*n, t.to_arrow(), true)).collect();
        let arrays = columns.into_iter().map(|c| c.2).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("a batch")
    }

    #[test]
    fn every_type_has_its_form() {
        let batch = every_type();
        let rows = JsonRows::new(&batch).expect("all types");
        let mut line = Vec::new();
        rows.write_row(&mut line, 0);
        assert_eq!(
            String::from_utf8(line).expect("UTF-8"),
            concat!(
                r#"{"b":true,"i":-5,"l":9223372036854775807,"f":0.1,"d":"NaN","m":"-1.2345","day":"2024-05-01","#,
                r#""ts":"1969-12-31T23:59:59.999999","tz":"2024-05-01T12:00:00.25Z","s":"é\n\u0001","bin":"AP8=","#,
                r#""ll":[1,2],"ls":["a\"b",""]}"#
            )
        );
        let mut line = Vec::new();
        rows.write_row(&mut line, 1);
        let json: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(json.as_object().expect("an object").len(), batch.num_columns());
        assert!(json.as_object().expect("an object").values().all(serde_json::Value::is_null));
    }

    proptest! {
        #[test]
        fn timestamps_agree_with_arrow(micros in -60_000_000_000_000_000i64..250_000_000_000_000_000) {
            let array = TimestampMicrosecondArray::from(vec![micros]);
            let expected = array.value_as_datetime(0).expect("in range").format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
            let mut ours = Vec::new();
            write_timestamp(&mut ours, micros, false).expect("a Vec");
            let ours = String::from_utf8(ours).expect("UTF-8");
            let trimmed = expected.trim_end_matches('0').trim_end_matches('.');
            prop_assert_eq!(ours.as_str(), if micros % 1_000_000 == 0 { &expected[..19] } else { trimmed });
        }
    }

    #[test]
    fn base64_of_every_length() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            let mut out = Vec::new();
            write_base64(&mut out, bytes.as_bytes());
            assert_eq!(out, text.as_bytes());
        }
    }
}
