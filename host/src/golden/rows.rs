//! Rows of a case, as JSON values, to Arrow and back. The decoder is the pipelines' own, so that a value means here what
//! it means there. JSON has no NaN and no infinity: they are the strings that the sinks write for them.

use std::path::Path;

use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array as _, ArrayRef, ArrowPrimitiveType, PrimitiveArray, RecordBatch, cast::AsArray as _};
use millrace_core::schema::{DataType, Field};
use serde_json::{Map, Value};
use toml::de::DeValue;

use crate::decode::Decoder as _;
use crate::decode::json::JsonDecoder;
use crate::sink::json::Column;
use crate::source::RawMessage;
use crate::spec::model::{EventTimeSpec, SourceSchema};

/// One row: column → value; a column that it lacks is null.
pub type Row = Map<String, Value>;

/// A row that does not fit its schema: its number, and why.
pub type Misfit = (usize, String);

/// All rows, with the event time of each. Without an event-time column it is 0.
pub fn decode(
    schema: &SourceSchema,
    event_time: &EventTimeSpec,
    rows: &[Row],
) -> Result<(RecordBatch, Vec<i64>), Vec<Misfit>> {
    let all = |message: String| (0..rows.len().max(1)).map(|row| (row, message.clone())).collect::<Vec<_>>();
    let mut finite = rows.to_vec();
    let mut special: Vec<(usize, usize, f64)> = Vec::new();
    for (column, (field, path)) in schema.schema.fields.iter().zip(&schema.paths).enumerate() {
        if !matches!(field.data_type, DataType::Float | DataType::Double) {
            continue;
        }
        for (row, values) in finite.iter_mut().enumerate() {
            if let Some(value) = at_path(values, path)
                && let Some(number) = value.as_str().and_then(not_finite)
            {
                *value = Value::from(0.0);
                special.push((column, row, number));
            }
        }
    }
    let payloads: Vec<Vec<u8>> = finite.iter().map(|row| serde_json::to_vec(row).unwrap_or_default()).collect();
    let messages: Vec<RawMessage<'_>> = (0..)
        .zip(&payloads)
        .map(|(offset, payload)| RawMessage { offset, payload: Some(payload), key: None, timestamp_ms: Some(0) })
        .collect();
    let mut decoder = JsonDecoder::new(schema, event_time).map_err(all)?;
    let decoded = decoder.decode(&messages);
    if !decoded.failed.is_empty() {
        return Err(decoded.failed.into_iter().map(|f| (f.index, f.reason)).collect());
    }
    let rows = put_in(decoded.rows, &special).map_err(|e| all(e.to_string()))?;
    Ok((rows, decoded.event_time_ms))
}

fn at_path<'r>(row: &'r mut Row, path: &[String]) -> Option<&'r mut Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(row.get_mut(first)?, |value, step| value.get_mut(step))
}

/// The names that the sinks write.
fn not_finite(name: &str) -> Option<f64> {
    match name {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Replaces single values (column, row, value) of float and double columns.
fn put_in(batch: RecordBatch, special: &[(usize, usize, f64)]) -> Result<RecordBatch, arrow_schema::ArrowError> {
    if special.is_empty() {
        return Ok(batch);
    }
    let columns = batch.columns().iter().enumerate().map(|(index, column)| {
        let here: Vec<(usize, f64)> =
            special.iter().filter(|(at, _, _)| *at == index).map(|(_, row, value)| (*row, *value)).collect();
        if here.is_empty() {
            return column.clone();
        }
        match column.data_type() {
            #[allow(clippy::cast_possible_truncation, reason = "NaN and infinities are the same in 32 bits")]
            arrow_schema::DataType::Float32 => replaced::<Float32Type>(column, &here, |value| value as f32),
            _ => replaced::<Float64Type>(column, &here, |value| value),
        }
    });
    RecordBatch::try_new(batch.schema(), columns.collect())
}

fn replaced<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    special: &[(usize, f64)],
    convert: impl Fn(f64) -> T::Native,
) -> ArrayRef {
    let array = column.as_primitive::<T>();
    let mut values = array.values().to_vec();
    for (row, value) in special {
        if let Some(place) = values.get_mut(*row) {
            *place = convert(*value);
        }
    }
    std::sync::Arc::new(PrimitiveArray::<T>::new(values.into(), array.nulls().cloned()))
}

/// The rows of a batch; null columns are left out.
pub fn encode(batch: &RecordBatch) -> Vec<Row> {
    let schema = batch.schema();
    let columns: Vec<(&String, Option<Column<'_>>)> =
        schema.fields().iter().zip(batch.columns()).map(|(f, c)| (f.name(), Column::new(c))).collect();
    (0..batch.num_rows())
        .map(|row| {
            let cells = columns.iter().filter_map(|(name, column)| {
                let column = column.as_ref().filter(|column| !column.is_null(row))?;
                let mut text = Vec::new();
                column.write_json(&mut text, row);
                Some(((*name).clone(), serde_json::from_slice(&text).ok()?))
            });
            cells.collect()
        })
        .collect()
}

/// A TOML value as a row's JSON. No `${…}` is filled in here: test data is taken as it stands.
pub fn from_toml(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::from)
            .map_err(|_| "an integer of more than 64 bits".to_owned())?,
        DeValue::Float(number) => {
            let number: f64 = number.as_str().parse().map_err(|_| format!("`{}` is no number", number.as_str()))?;
            match serde_json::Number::from_f64(number) {
                Some(number) => Value::Number(number),
                None if number.is_nan() => Value::from("NaN"),
                None => Value::from(if number > 0.0 { "Infinity" } else { "-Infinity" }),
            }
        }
        DeValue::Datetime(at) => Value::String(at.to_string()),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| from_toml(item.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, item)| Ok((key.get_ref().to_string(), from_toml(item.get_ref())?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

/// The rows of a `.jsonl` or `.csv` file; an error names the line.
pub fn from_file(path: &Path, schema: &SourceSchema) -> Result<Vec<Row>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl" | "ndjson") => text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(index, line)| {
                serde_json::from_str(line).map_err(|e| format!("line {}: not a JSON object: {e}", index + 1))
            })
            .collect(),
        Some("csv") => from_csv(&text, schema),
        _ => Err("events are read from .jsonl (one JSON object a line) and .csv (with a header) files".to_owned()),
    }
}

fn from_csv(text: &str, schema: &SourceSchema) -> Result<Vec<Row>, String> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| e.to_string())?.clone();
    if let Some(unknown) = header.iter().find(|name| schema.schema.field(name).is_none()) {
        let near = crate::spec::suggest::did_you_mean(unknown, schema.schema.fields.iter().map(|f| f.name.as_str()));
        return Err(format!("line 1: the schema has no column `{unknown}`; {}", near.unwrap_or_default()));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| e.to_string())?;
        let cells = header.iter().zip(&record).filter_map(|(name, text)| {
            let field = schema.schema.field(name)?;
            Some((name.to_owned(), csv_cell(field, text)))
        });
        rows.push(cells.collect());
    }
    Ok(rows)
}

/// What does not look like the column's type stays a string, and the decoder says what is wrong with it.
fn csv_cell(field: &Field, text: &str) -> Value {
    if text.is_empty() && (field.nullable || !matches!(field.data_type, DataType::String | DataType::Binary)) {
        return Value::Null;
    }
    let parsed = match field.data_type {
        DataType::Boolean => text.parse().ok().map(Value::Bool),
        DataType::Int | DataType::Long | DataType::Date | DataType::Timestamp | DataType::Timestamptz => {
            text.parse::<i64>().ok().map(Value::from)
        }
        DataType::Float | DataType::Double => {
            text.parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number)
        }
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::from(text))
}
