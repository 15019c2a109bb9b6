//! `count(*)`, `count(c)`.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array};

use super::Fallible;
use super::state::{Entry, Rows, State, state_column};

#[derive(Default)]
pub(super) struct Count {
    counts: Vec<i64>,
}

impl Count {
    pub(super) fn of(&self, slot: usize) -> i64 {
        self.counts.get(slot).copied().unwrap_or_default()
    }

    /// No count comes near the range of a long.
    fn add(&mut self, slot: usize, by: i64) {
        if let Some(count) = self.counts.get_mut(slot) {
            *count = count.saturating_add(by);
        }
    }
}

impl State for Count {
    fn grow(&mut self, slots: usize) {
        self.counts.resize(slots, 0);
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()> {
        rows.each(|_, slot| {
            self.add(slot, 1);
            Ok(())
        })
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()> {
        let counts = state_column(state, 0)?.as_primitive_opt::<Int64Type>().ok_or("a count is no long")?;
        for (&count, &slot) in counts.values().iter().zip(groups) {
            self.add(slot as usize, count);
        }
        Ok(())
    }

    fn combine(&mut self, source: usize, target: usize) -> Fallible<()> {
        self.add(target, self.of(source));
        Ok(())
    }

    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>> {
        let count = |e: &Entry| if e.part == 0 { self.of(e.slot) } else { 0 };
        Ok(vec![Arc::new(entries.iter().map(count).collect::<Int64Array>())])
    }

    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef> {
        Ok(Arc::new(groups.iter().map(|&g| self.of(g as usize)).collect::<Int64Array>()))
    }

    fn reset(&mut self, slot: usize) {
        if let Some(count) = self.counts.get_mut(slot) {
            *count = 0;
        }
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * size_of::<i64>()
    }
}
