//! JSON objects, one per message, into Arrow.
//!
//! ```text
//!   message ── UTF-8? ── fast path ──────────────── row
//!                 │          │ anything unusual       ▲
//!                 │          ▼ (row rolled back)      │
//!                 └────▶ slow path (serde_json) ──────┤
//!                                                     └─▶ Failed: which column, what was found
//! ```
//!
//! Rules that are not obvious, the same on both paths:
//!
//! - Names and strings are compared and kept as they are after unescaping. Members that no column names are ignored,
//!   but the whole message must be valid JSON and UTF-8. Of several members with one name the last counts.
//! - Missing and null are the same. A path that leads through something that is no object is missing.
//! - `int` and `long` take whole numbers however written (`5`, `5.0`, `5e0`); strings are never read as numbers, except
//!   for `decimal`, which is exact or fails. A double or float beyond its range fails; it is rounded to the nearest.
//! - `timestamp` and `timestamptz` take numbers in epoch milliseconds (the event-time column: in its own unit, fractions
//!   allowed, floored to microseconds) or RFC 3339; `timestamptz` insists on a zone, `timestamp` turns one into UTC.
//! - `date` takes `"2026-01-31"` or days; `binary` takes base64.

mod columns;
mod fast;
mod number;
mod plan;
mod slow;
#[cfg(test)]
mod tests;
mod time;
mod value;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::{Decoded, Decoder, Failed};
use crate::source::RawMessage;
use crate::spec::model::{EventTimeSpec, SourceSchema, TimeUnit};
use columns::Table;
use plan::{EventTime, Plan};
use time::parse_timestamp;

/// What a batch's messages may come to: Arrow's offsets have 31 bits. Readers hand out far less at a time.
const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// The most that one column's buffer is made ready for before the first row.
const RESERVED_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub struct JsonDecoder {
    plan: Plan,
    schema: SchemaRef,
    /// what the variable-width columns took last time
    data_bytes: Vec<usize>,
}

impl JsonDecoder {
    /// Fails if the event time names no column, or one that is no time.
    pub fn new(schema: &SourceSchema, event_time: &EventTimeSpec) -> Result<Self, String> {
        let plan = Plan::new(schema, event_time)?;
        Ok(Self { plan, schema: schema.schema.to_arrow(), data_bytes: Vec::new() })
    }

    /// Decodes one message into the row under construction and ends it.
    fn row(&mut self, table: &mut Table, message: &RawMessage<'_>) -> Result<(), String> {
        let Some(payload) = message.payload else {
            return Err("no payload (a tombstone): expected a JSON object".to_owned());
        };
        if self.plan.event_time == EventTime::RecordTimestamp && message.timestamp_ms.is_none() {
            return Err("the record has no timestamp, and it is the event time".to_owned());
        }
        if self.plan.fast && is_utf8(payload) {
            if fast::scan(&mut self.plan, table, payload) {
                return Ok(());
            }
            table.rollback();
        }
        let decoded = slow::decode(&self.plan, table, payload);
        if decoded.is_err() {
            table.rollback();
        }
        decoded
    }
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, messages: &[RawMessage<'_>]) -> Decoded {
        let mut table = Table::new(&self.plan.columns, messages.len(), &self.data_bytes);
        let mut offsets = Vec::with_capacity(messages.len());
        let mut record_times = Vec::new();
        let mut failed = Vec::new();
        let mut bytes_left = BATCH_BYTES_MAX;
        for (index, message) in messages.iter().enumerate() {
            let taken = message.payload.map_or(0, <[u8]>::len);
            let row = match bytes_left.checked_sub(taken) {
                Some(left) => self.row(&mut table, message).map(|()| bytes_left = left),
                None => Err(format!("the messages of one batch come to more than {BATCH_BYTES_MAX} bytes")),
            };
            match row {
                Ok(()) => {
                    offsets.push(message.offset);
                    if self.plan.event_time == EventTime::RecordTimestamp {
                        record_times.push(message.timestamp_ms.unwrap_or_default());
                    }
                }
                Err(reason) => failed.push(Failed { index, reason }),
            }
        }
        self.data_bytes = table.data_bytes();
        for bytes in &mut self.data_bytes {
            *bytes = (*bytes + *bytes / 16 + 64).min(RESERVED_BYTES_MAX);
        }
        let event_time_ms = event_times(self.plan.event_time, &table, record_times);
        match table.finish(&self.plan.columns).and_then(|columns| build(&self.schema, columns, offsets.len())) {
            Ok(rows) => Decoded { rows, event_time_ms, offsets, failed },
            // cannot happen: the columns are made from the schema, all of one length
            Err(error) => Decoded {
                rows: RecordBatch::new_empty(self.schema.clone()),
                event_time_ms: Vec::new(),
                offsets: Vec::new(),
                failed: (0..messages.len())
                    .map(|index| Failed { index, reason: format!("internal error in the decoder: {error}") })
                    .collect(),
            },
        }
    }
}

fn build(
    schema: &SchemaRef,
    columns: Vec<arrow_array::ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

/// Plain ASCII is quicker to find out.
fn is_utf8(payload: &[u8]) -> bool {
    payload.is_ascii() || std::str::from_utf8(payload).is_ok()
}

fn event_times(event_time: EventTime, table: &Table, record_times: Vec<i64>) -> Vec<i64> {
    match event_time {
        EventTime::RecordTimestamp => record_times,
        EventTime::Micros(column) => table.longs(column).iter().map(|us| us.div_euclid(1_000)).collect(),
        EventTime::Text(column) => {
            let micros = table.texts(column).map(|text| parse_timestamp(text).map_or(0, |(micros, _)| micros));
            micros.map(|us| us.div_euclid(1_000)).collect()
        }
        EventTime::Days(column) => table.ints(column).iter().map(|days| i64::from(*days) * 86_400_000).collect(),
        EventTime::Number(column, unit) => {
            let to_ms = |number: i64| match unit {
                TimeUnit::Seconds => number.saturating_mul(1_000),
                TimeUnit::Millis => number,
                TimeUnit::Micros => number.div_euclid(1_000),
                TimeUnit::Nanos => number.div_euclid(1_000_000),
            };
            let longs = table.longs(column).iter().copied();
            longs.chain(table.ints(column).iter().map(|v| i64::from(*v))).map(to_ms).collect()
        }
    }
}
