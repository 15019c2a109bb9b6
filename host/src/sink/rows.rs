//! Small things that several sinks do with a [`RowSet`].

use arrow_array::{RecordBatch, UInt32Array};
use millrace_core::batch::{Change, RowSet, Rows};

use super::{Result, SinkError};

/// Calls `each` with every selected row number, in order.
pub(super) fn for_each_row(rows: &RowSet, mut each: impl FnMut(usize) -> Result<()>) -> Result<()> {
    match &rows.rows {
        Rows::All => (0..rows.batch.num_rows()).try_for_each(each),
        Rows::Some(numbers) => numbers.iter().try_for_each(|row| each(*row as usize)),
    }
}

/// The selected rows as a batch of their own; no copy if they are all.
pub(super) fn selected(rows: &RowSet) -> Result<RecordBatch> {
    match &rows.rows {
        Rows::All => Ok(rows.batch.rows.clone()),
        Rows::Some(numbers) => {
            let numbers = UInt32Array::from(numbers.to_vec());
            arrow_select::take::take_record_batch(&rows.batch.rows, &numbers)
                .map_err(|e| SinkError::Fatal(format!("selecting rows: {e}")))
        }
    }
}

/// Refuses corrections: a sink that only appends would turn them into results of their own.
pub(super) fn append_only(node: &str, rows: &RowSet) -> Result<()> {
    let Some(changes) = &rows.batch.changes else { return Ok(()) };
    for_each_row(rows, |row| match changes.kinds.get(row) {
        Some(Change::Insert) => Ok(()),
        Some(Change::Replace | Change::Delete) | None => Err(SinkError::Fatal(format!(
            "sink `{node}` only appends, and got a correction of a result that it has already written. hint: \
             `allowed_lateness = \"0s\"` and no `every` upstream, or an upserting Iceberg sink"
        ))),
    })
}
