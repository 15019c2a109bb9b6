//! An expression that fails on a batch, tried on ever smaller parts, until the rows that it fails on are alone.

use arrow_array::RecordBatch;

/// A part of a batch, and what was made of it.
pub struct Made<T> {
    pub from: usize,
    pub rows: usize,
    pub what: T,
}

/// What `make` gives for the batch: as a whole if it can, else in parts, ascending; and the rows that fail by themselves
/// with the reason, ascending. A batch may fail although no row of it does (a condition that guards a division may be
/// evaluated together with it): then all of it is in the parts.
pub fn by_halves<T>(
    batch: &RecordBatch,
    make: &dyn Fn(&RecordBatch) -> Result<T, String>,
) -> (Vec<Made<T>>, Vec<(u32, String)>) {
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    let mut waiting = vec![(0, batch.num_rows())];
    while let Some((from, rows)) = waiting.pop() {
        let part = if rows == batch.num_rows() { batch.clone() } else { batch.slice(from, rows) };
        match make(&part) {
            Ok(what) => made.push(Made { from, rows, what }),
            Err(reason) if rows <= 1 => failed.extend(u32::try_from(from).ok().map(|row| (row, reason))),
            Err(_) => {
                let left = rows / 2;
                waiting.extend([(from + left, rows - left), (from, left)]);
            }
        }
    }
    (made, failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int64Array};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Brute force: each row alone.
        #[test]
        fn every_row_is_made_or_failed_once_in_order(bad in prop::collection::vec(any::<bool>(), 1..100)) {
            let values: ArrayRef = Arc::new(Int64Array::from_iter_values((0_i64..).take(bad.len())));
            let batch = RecordBatch::try_from_iter([("n", values)]).unwrap();
            let make = |part: &RecordBatch| {
                let numbers = part.column(0).as_primitive::<Int64Type>().values().to_vec();
                match numbers.iter().find(|n| bad[**n as usize]) {
                    Some(n) => Err(format!("{n}")),
                    None => Ok(numbers),
                }
            };
            let (made, failed) = by_halves(&batch, &make);
            let good: Vec<i64> = made.iter().flat_map(|m| m.what.clone()).collect();
            prop_assert!(made.iter().all(|m| m.what.len() == m.rows && m.what.first() == Some(&(m.from as i64))));
            let expected: Vec<i64> = (0..).zip(&bad).filter(|(_, bad)| !**bad).map(|(n, _)| n).collect();
            prop_assert_eq!(good, expected);
            let expected: Vec<(u32, String)> =
                (0_u32..).zip(&bad).filter(|(_, bad)| **bad).map(|(n, _)| (n, n.to_string())).collect();
            prop_assert_eq!(failed, expected);
        }
    }
}
