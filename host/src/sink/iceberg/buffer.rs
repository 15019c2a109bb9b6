//! Rows waiting in one task, and how they come out again: by partition.
//!
//! A counting sort over row numbers, then one gather per some thousand rows: the rows are copied once, and never held
//! twice.

use std::collections::VecDeque;

use arrow_array::RecordBatch;

use super::partition::Partitions;
use crate::sink::{Result, SinkError};

/// Rows gathered at a time; a partition with more comes in several pieces.
const GATHERED_ROWS_MAX: usize = 32_768;

#[derive(Default)]
pub struct Buffer {
    batches: Vec<RecordBatch>,
    /// partition numbers of each batch's rows
    ids: Vec<Vec<u32>>,
    bytes: usize,
}

impl Buffer {
    pub fn push(&mut self, rows: RecordBatch, ids: Vec<u32>) {
        self.bytes += rows.get_array_memory_size();
        self.batches.push(rows);
        self.ids.push(ids);
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// All rows, partition by partition, ascending by the partition's hash. Rows of a partition keep their order.
    pub fn take(&mut self, partitions: &Partitions) -> ByPartition {
        let Self { batches, ids, .. } = std::mem::take(self);
        let count = ids.iter().flatten().max().map_or(0, |max| *max as usize + 1);
        let mut rows_of = vec![0_usize; count];
        for id in ids.iter().flatten() {
            if let Some(rows) = rows_of.get_mut(*id as usize) {
                *rows += 1;
            }
        }
        let mut by_hash: Vec<u32> = (0_u32..).take(count).collect();
        by_hash.sort_unstable_by_key(|id| (partitions.hash(*id), *id));
        let mut pieces = VecDeque::new();
        let mut next = vec![0_usize; count];
        let mut place = 0;
        for id in by_hash {
            let Some(start) = next.get_mut(id as usize) else { continue };
            *start = place;
            let end = place + rows_of.get(id as usize).copied().unwrap_or(0);
            while place < end {
                let rows = (end - place).min(GATHERED_ROWS_MAX);
                pieces.push_back((id, rows));
                place += rows;
            }
        }
        let mut order = vec![(0_u32, 0_u32); place];
        for (batch, ids) in (0_u32..).zip(&ids) {
            for (row, id) in (0_u32..).zip(ids) {
                let Some(place) = next.get_mut(*id as usize) else { continue };
                if let Some(slot) = order.get_mut(*place) {
                    *slot = (batch, row);
                }
                *place += 1;
            }
        }
        ByPartition { batches, order, taken: 0, pieces, gathered: VecDeque::new() }
    }
}

/// Pieces of at most [`GATHERED_ROWS_MAX`] rows with their partition's number.
pub struct ByPartition {
    batches: Vec<RecordBatch>,
    /// (batch, row) in the order in which the rows come out
    order: Vec<(u32, u32)>,
    /// of `order`, gathered already
    taken: usize,
    /// (partition number, rows), not gathered yet
    pieces: VecDeque<(u32, usize)>,
    gathered: VecDeque<(u32, RecordBatch)>,
}

impl ByPartition {
    fn gather(&mut self) -> std::result::Result<(), arrow_schema::ArrowError> {
        let mut ids = Vec::new();
        let mut rows = 0;
        while let Some((id, more)) =
            self.pieces.pop_front_if(|(_, more)| rows == 0 || rows + *more <= GATHERED_ROWS_MAX)
        {
            ids.push((id, rows, more));
            rows += more;
        }
        let order = self.order.get(self.taken..self.taken + rows).unwrap_or_default();
        let order: Vec<(usize, usize)> = order.iter().map(|&(batch, row)| (batch as usize, row as usize)).collect();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let all = arrow_select::interleave::interleave_record_batch(&batches, &order)?;
        self.taken += rows;
        self.gathered.extend(ids.into_iter().map(|(id, from, rows)| (id, all.slice(from, rows))));
        Ok(())
    }
}

impl Iterator for ByPartition {
    type Item = Result<(u32, RecordBatch)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.gathered.is_empty()
            && !self.pieces.is_empty()
            && let Err(e) = self.gather()
        {
            self.pieces.clear();
            return Some(Err(SinkError::Fatal(format!("sorting rows by partition: {e}"))));
        }
        self.gathered.pop_front().map(Ok)
    }
}
