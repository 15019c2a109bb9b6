//! Decoded rows on their way to a batch.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::SchemaRef;
use millrace_core::schema::DataType;

use crate::runtime::failures::FailedRow;
use crate::runtime::message::RunError;
use crate::source::{PartitionId, RawMessage};
use crate::spec::model::MetadataSpec;

pub struct DecodedRows {
    pub rows: RecordBatch,
    pub event_time_ms: Vec<i64>,
    pub offsets: Vec<i64>,
}

impl DecodedRows {
    pub fn at(&self, row: usize) -> (i64, i64) {
        (self.offsets.get(row).copied().unwrap_or_default(), self.event_time_ms.get(row).copied().unwrap_or_default())
    }

    /// Without these rows (ascending).
    pub fn without(self, rows: &[usize]) -> Result<Self, RunError> {
        let keep: arrow_array::BooleanArray =
            (0..self.rows.num_rows()).map(|r| Some(rows.binary_search(&r).is_err())).collect();
        let kept = |values: Vec<i64>| {
            values.into_iter().zip(keep.values().iter()).filter(|(_, keep)| *keep).map(|(v, _)| v).collect()
        };
        Ok(Self {
            rows: arrow_select::filter::filter_record_batch(&self.rows, &keep)?,
            event_time_ms: kept(self.event_time_ms),
            offsets: kept(self.offsets),
        })
    }

    /// The rows with the metadata columns asked for, in the fixed order of [`MetadataSpec`].
    pub fn with_metadata(
        &self,
        metadata: &MetadataSpec,
        schema: &SchemaRef,
        id: &PartitionId,
        messages: &[RawMessage<'_>],
    ) -> Result<RecordBatch, RunError> {
        let n = self.rows.num_rows();
        let mut columns = self.rows.columns().to_vec();
        if columns.len() == schema.fields().len() {
            return Ok(RecordBatch::try_new(Arc::clone(schema), columns)?);
        }
        let of_row = |row: usize| {
            let (offset, _) = self.at(row);
            messages.get(messages.partition_point(|m| m.offset < offset))
        };
        let mut push = |wanted: &Option<String>, column: &dyn Fn() -> ArrayRef| {
            if wanted.is_some() {
                columns.push(column());
            }
        };
        push(&metadata.topic, &|| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&*id.topic, n))));
        push(&metadata.partition, &|| Arc::new(Int32Array::from_value(id.partition, n)));
        push(&metadata.offset, &|| Arc::new(Int64Array::from(self.offsets.clone())));
        push(&metadata.timestamp, &|| {
            let micros = (0..n).map(|r| of_row(r).and_then(|m| m.timestamp_ms).map(|ms| ms.saturating_mul(1_000)));
            Arc::new(TimestampMicrosecondArray::from_iter(micros).with_data_type(DataType::Timestamptz.to_arrow()))
        });
        push(&metadata.key, &|| Arc::new(BinaryArray::from_iter((0..n).map(|r| of_row(r).and_then(|m| m.key)))));
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

pub fn failed_message(
    id: &PartitionId,
    message: Option<&RawMessage<'_>>,
    reason: String,
    event_time_ms: Option<i64>,
) -> FailedRow {
    FailedRow {
        reason,
        topic: Some(Arc::clone(&id.topic)),
        partition: Some(id.partition),
        offset: message.map(|m| m.offset),
        event_time_ms,
        payload: message.and_then(|m| m.payload.map(<[u8]>::to_vec)),
        row: None,
    }
}
