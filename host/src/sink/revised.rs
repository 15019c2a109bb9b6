//! A changelog kept as it is: each version of a row is a row, with its revision and its kind of change in two columns.
//!
//! ```text
//!   campaign_id  window_start  clicks  revision  change
//!   a            12:00              7         1  insert
//!   a            12:00              9         2  replace
//!   a            12:00           null         3  delete     only the key and the window say something
//! ```

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, Int32Array, RecordBatch, StringArray};
use arrow_schema::SchemaRef;
use millrace_core::batch::{Batch, Change, Changes, RowSet};
use millrace_core::checkpoint::SinkState;
use millrace_core::schema::{DataType, Field, Schema};

use super::{Prepared, Result, SinkError, SinkWriter};
use crate::spec::changelog::{CHANGE, REVISION};

/// The columns of the rows that are written. A deletion has only those in `kept`: the others may be null.
pub fn schema(input: &Schema, kept: &[String]) -> Schema {
    let optional = |field: &Field| Field { nullable: field.nullable || !kept.contains(&field.name), ..field.clone() };
    let own = [Field::new(REVISION, DataType::Int, false), Field::new(CHANGE, DataType::String, false)];
    Schema::new(input.fields.iter().map(optional).chain(own).collect())
}

pub struct Revised {
    inner: Box<dyn SinkWriter>,
    schema: SchemaRef,
    /// by column: a deletion has it
    kept: Vec<bool>,
}

impl Revised {
    pub fn new(inner: Box<dyn SinkWriter>, input: &Schema, kept: &[String]) -> Self {
        Self {
            inner,
            schema: schema(input, kept).to_arrow(),
            kept: input.fields.iter().map(|field| kept.contains(&field.name)).collect(),
        }
    }

    fn with_revision(&self, batch: &Batch) -> Result<RecordBatch> {
        let failed = |e: arrow_schema::ArrowError| SinkError::Fatal(format!("rows with their revision: {e}"));
        let Some(changes) = &batch.changes else {
            return Err(SinkError::Fatal("rows without a revision reached a sink that writes it".to_owned()));
        };
        let deleted: BooleanArray = changes.kinds.iter().map(|kind| Some(*kind == Change::Delete)).collect();
        let columns = batch.rows.columns().iter().zip(&self.kept);
        let mut columns: Vec<ArrayRef> = columns
            .map(|(column, kept)| match *kept || deleted.true_count() == 0 {
                true => Ok(Arc::clone(column)),
                false => nulled(column, &deleted),
            })
            .collect::<std::result::Result<_, _>>()
            .map_err(failed)?;
        let revisions = changes.revisions.iter().map(|revision| i32::try_from(*revision).unwrap_or(i32::MAX));
        columns.push(Arc::new(revisions.collect::<Int32Array>()));
        let kinds = changes.kinds.iter().map(|kind| match kind {
            Change::Insert => "insert",
            Change::Replace => "replace",
            Change::Delete => "delete",
        });
        columns.push(Arc::new(kinds.map(Some).collect::<StringArray>()));
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(failed)
    }
}

/// Null where the mask says so.
fn nulled(column: &ArrayRef, mask: &BooleanArray) -> std::result::Result<ArrayRef, arrow_schema::ArrowError> {
    let nulls = arrow_array::new_null_array(column.data_type(), 1);
    let places: Vec<(usize, usize)> =
        mask.values().iter().enumerate().map(|(row, null)| if null { (1, 0) } else { (0, row) }).collect();
    arrow_select::interleave::interleave(&[column.as_ref(), nulls.as_ref()], &places)
}

impl SinkWriter for Revised {
    fn restore(&mut self, state: &SinkState) -> Result<()> {
        self.inner.restore(state)
    }

    fn watermark(&mut self, time_ms: i64) {
        self.inner.watermark(time_ms);
    }

    fn write(&mut self, rows: &RowSet) -> Result<()> {
        let written = self.with_revision(&rows.batch)?;
        // each of them is one more row
        let changes = rows
            .batch
            .changes
            .clone()
            .map(|changes| Changes { kinds: vec![Change::Insert; written.num_rows()].into(), ..changes });
        let batch = Batch { rows: written, changes, ..(*rows.batch).clone() };
        self.inner.write(&RowSet { batch: Arc::new(batch), rows: rows.rows.clone() })
    }

    fn prepare(&mut self, checkpoint: u64) -> Result<Prepared> {
        self.inner.prepare(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow_array::Int64Array;
    use millrace_core::batch::{Audience, Rows};

    use super::*;

    struct Kept(Arc<Mutex<Vec<String>>>);

    impl SinkWriter for Kept {
        fn write(&mut self, rows: &RowSet) -> Result<()> {
            let Rows::Some(numbers) = &rows.rows else { return Err(SinkError::Fatal("all rows".into())) };
            assert!(rows.batch.changes.as_ref().unwrap().kinds.iter().all(|kind| *kind == Change::Insert));
            for &row in numbers.iter() {
                let json = crate::sink::json::row_to_json(&rows.batch.rows, row as usize)?;
                self.0.lock().unwrap().push(json);
            }
            Ok(())
        }

        fn prepare(&mut self, _: u64) -> Result<Prepared> {
            Ok(Prepared::default())
        }
    }

    #[test]
    fn each_version_is_a_row_and_a_deletion_has_its_key_only() {
        let input = Schema::new(vec![Field::new("k", DataType::String, false), Field::new("n", DataType::Long, false)]);
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(vec!["a", "b", "c", "d"])), Arc::new(Int64Array::from(vec![1, 2, 0, 4]))];
        let changes = Changes {
            kinds: [Change::Insert, Change::Replace, Change::Delete, Change::Insert].into(),
            revisions: [1, 7, 3, 1].into(),
            is_final: false,
            audience: Audience::Sinks,
        };
        let batch = Batch {
            rows: RecordBatch::try_new(input.to_arrow(), columns).unwrap(),
            event_time_ms: [0; 4].into(),
            origin: None,
            changes: Some(changes),
        };
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let mut sink = Revised::new(Box::new(Kept(Arc::clone(&seen))), &input, &["k".to_owned()]);
        sink.write(&RowSet { batch: Arc::new(batch), rows: Rows::Some([0, 1, 2].into()) }).unwrap();
        assert_eq!(
            *seen.lock().unwrap(),
            [
                r#"{"k":"a","n":1,"revision":1,"change":"insert"}"#,
                r#"{"k":"b","n":2,"revision":7,"change":"replace"}"#,
                r#"{"k":"c","n":null,"revision":3,"change":"delete"}"#,
            ]
        );
    }
}
