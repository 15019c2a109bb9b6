//! Rows that have their slot and wait for the plugin; their columns, gathered once.

use std::sync::Arc;

use arrow_array::{ArrayRef, UInt32Array};
use millrace_core::batch::Batch;
use millrace_core::schema::Field;

use super::InputColumn;
use crate::runtime::message::RunError;

pub struct Pending {
    pub batch: Arc<Batch>,
    /// none: all rows, in order
    pub rows: Option<Vec<u32>>,
    pub slots: Vec<u32>,
}

impl Pending {
    /// A plugin's columns of all pending rows, each value copied at most once.
    pub fn gather(pending: &[Pending], input: &[InputColumn]) -> Result<Vec<Option<ArrayRef>>, RunError> {
        let cast = |array: ArrayRef, field: &Field| -> Result<ArrayRef, RunError> {
            let wanted = field.data_type.to_arrow();
            if array.data_type() == &wanted { Ok(array) } else { Ok(arrow_cast::cast(&array, &wanted)?) }
        };
        if let [only] = pending {
            let indices = only.rows.as_ref().map(|rows| UInt32Array::from(rows.clone()));
            return input
                .iter()
                .map(|column| {
                    let Some(array) = column.index.and_then(|i| only.batch.rows.columns().get(i)) else {
                        return Ok(None);
                    };
                    let array = match &indices {
                        None => Arc::clone(array),
                        Some(indices) => arrow_select::take::take(array, indices, None)?,
                    };
                    cast(array, &column.field).map(Some)
                })
                .collect();
        }
        let mut places = Vec::with_capacity(pending.iter().map(|p| p.slots.len()).sum());
        for (which, p) in pending.iter().enumerate() {
            match &p.rows {
                None => places.extend((0..p.batch.num_rows()).map(|row| (which, row))),
                Some(rows) => places.extend(rows.iter().map(|&row| (which, row as usize))),
            }
        }
        input
            .iter()
            .map(|column| {
                let Some(index) = column.index else { return Ok(None) };
                let arrays: Vec<&dyn arrow_array::Array> =
                    pending.iter().filter_map(|p| p.batch.rows.columns().get(index).map(|a| &**a)).collect();
                let array = arrow_select::interleave::interleave(&arrays, &places)?;
                cast(array, &column.field).map(Some)
            })
            .collect()
    }

    /// The batch and row behind the `at`-th pending row.
    pub fn locate(pending: &[Pending], mut at: usize) -> Option<(&Batch, u32)> {
        for p in pending {
            if at < p.slots.len() {
                let row = match &p.rows {
                    None => u32::try_from(at).ok()?,
                    Some(rows) => rows.get(at).copied()?,
                };
                return Some((&p.batch, row));
            }
            at -= p.slots.len();
        }
        None
    }
}
