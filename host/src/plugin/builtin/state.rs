//! What every aggregate does with its slots.

use arrow_array::ArrayRef;
use arrow_buffer::NullBuffer;

use super::Fallible;

/// Values of a set that one exported row holds; a larger set takes several rows.
pub(super) const PART_VALUES_MAX: usize = 32_768;

/// Rows of one call.
pub(super) struct Rows<'a> {
    /// none: `count(*)`
    pub values: Option<&'a ArrayRef>,
    /// each row's slot
    pub groups: &'a [u32],
    /// rows that are not null and pass the filter; none: all
    pub counted: Option<NullBuffer>,
}

impl Rows<'_> {
    /// Calls `fold` with row and slot of each row that counts.
    #[inline]
    pub(super) fn each(&self, mut fold: impl FnMut(usize, usize) -> Fallible<()>) -> Fallible<()> {
        match &self.counted {
            None => self.groups.iter().enumerate().try_for_each(|(row, &slot)| fold(row, slot as usize)),
            Some(counted) => counted.valid_indices().try_for_each(|row| match self.groups.get(row) {
                Some(&slot) => fold(row, slot as usize),
                None => Ok(()),
            }),
        }
    }

    pub(super) fn values(&self) -> Fallible<&ArrayRef> {
        self.values.ok_or_else(|| "an argument is missing".to_owned())
    }
}

/// A row of exported state: one group, or a part of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub slot: usize,
    pub part: usize,
}

/// Sums that have a range, before a call that may take one out of it.
pub(super) struct Risk {
    /// by slot
    pub sums: Vec<i128>,
    /// by row; none: it does not count
    pub values: Vec<Option<i128>>,
    /// the sums stay between minus this and this
    pub most: i128,
    /// said of a row that is refused
    pub reason: String,
}

impl Risk {
    /// The slot's sum with this row in it; none: out of range.
    pub(super) fn with(&self, row: usize, slot: usize) -> Option<i128> {
        let sum = self.sums.get(slot).copied().unwrap_or_default();
        let sum = sum.checked_add(self.values.get(row).copied().flatten().unwrap_or_default())?;
        (-self.most..=self.most).contains(&sum).then_some(sum)
    }
}

/// One aggregate's state in all slots. After an error it is not used again.
pub(super) trait State: Send {
    fn grow(&mut self, slots: usize);
    /// none: these rows cannot take a sum out of its range
    fn risk(&mut self, _rows: &Rows<'_>) -> Fallible<Option<Risk>> {
        Ok(None)
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()>;
    /// row `i` into slot `groups[i]`
    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()>;
    fn combine(&mut self, source: usize, target: usize) -> Fallible<()>;
    /// One row per entry. Parts that this aggregate does not have are empty.
    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>>;
    /// one row per group
    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef>;
    fn reset(&mut self, slot: usize);
    fn after_reset(&mut self) {}
    /// bytes held in all
    fn bytes(&self) -> usize;

    /// rows that a slot's export takes, at least 1
    fn parts(&mut self, _slot: usize) -> usize {
        1
    }

    /// about how many bytes this row of an export has
    fn entry_bytes(&mut self, _entry: Entry) -> usize {
        16
    }
}

/// A column of a state, as the type that it must have.
pub(super) fn state_column(state: &[ArrayRef], index: usize) -> Fallible<&ArrayRef> {
    state.get(index).ok_or_else(|| "a state column is missing".to_owned())
}
