//! State field ↔ typed columns: what makes checkpoints readable and swaps possible.
//!
//! A group is exported as one row, or as several when a set in it is large. In the rows after the first (continuations)
//! every plain field holds what an empty state holds, so that `merge` puts the rows together again without counting
//! anything twice.

use crate::column::{Column, ColumnRef, Error, Field};
use crate::migrate::{Rules, Stop};
use crate::output::Value;

/// A group's state: derive it with `#[derive(State)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no state",
    note = "put `#[derive(State)]` above the struct: its fields are kept as columns"
)]
pub trait State: Sized + Send {
    /// it holds memory that the accumulator does not count by itself
    const HEAP: bool;
    fn fields() -> Vec<Field>;
    fn export(&self, empty: &Self, part: &mut Part, columns: &mut std::slice::IterMut<'_, Column>);
    fn import(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize) -> Result<Self, Error>;
    fn heap_bytes(&self) -> usize;
    /// What the attributes say of older states.
    fn rules() -> Rules;
    /// Reads a row of an older state. `lacks[i]`: the columns of field `i` are not there; it then has its default, which
    /// is what `empty` has unless the attribute says more.
    fn adopt(
        columns: &mut std::slice::Iter<'_, ColumnRef<'_>>,
        row: usize,
        lacks: &[bool],
        empty: Self,
    ) -> Result<Self, Stop>;
}

/// A field of a state.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be kept as a column of the state",
    note = "state fields are i64, i32, f64, f32, bool, String, Vec<u8>, Timestamp, Timestamptz, Date, Decimal<P, S>, Vec<i64>, Vec<f64>, Vec<String>, an Option of these, DistinctCount<str> or <i64>, TopK<str> or <i64>, Earliest<…> and Latest<…>"
)]
pub trait StateField: Sized {
    /// it may take several rows
    const SPLITS: bool = false;
    const HEAP: bool = false;
    fn fields(name: &str, out: &mut Vec<Field>);
    fn export(&self, part: &mut Part, columns: &mut std::slice::IterMut<'_, Column>);
    fn import(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize) -> Result<Self, Error>;
    fn heap_bytes(&self) -> usize {
        0
    }
    /// Reads what another configuration may have written, into the form that `empty` has.
    fn adopt(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize, _empty: &Self) -> Result<Self, Stop> {
        Ok(Self::import(columns, row)?)
    }
}

/// Which elements of a group's sets go into the row being exported: the sets are taken as one sequence, of which this
/// is the part that begins at `position` and ends where the chunk is full.
#[derive(Debug)]
pub struct Part {
    position: usize,
    skip: usize,
    taken: usize,
    bytes: usize,
    bytes_max: usize,
    more: bool,
}

impl Part {
    pub fn new(position: usize, bytes: usize, bytes_max: usize) -> Self {
        Self { position, skip: position, taken: 0, bytes, bytes_max, more: false }
    }

    /// This row is the group's first one.
    pub fn is_first(&self) -> bool {
        self.position == 0
    }

    /// Where to begin in a set of `length` elements; none: nothing of it belongs into this row.
    pub fn enter(&mut self, length: usize) -> Option<usize> {
        if self.more {
            return None;
        }
        if self.skip >= length {
            self.skip -= length;
            return None;
        }
        Some(std::mem::take(&mut self.skip))
    }

    /// Whether one more element fits. The first of a row always does: every row makes progress.
    pub fn take(&mut self, bytes: usize) -> bool {
        if self.taken > 0 && self.bytes + bytes > self.bytes_max {
            self.more = true;
            return false;
        }
        self.taken += 1;
        self.bytes += bytes;
        true
    }

    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the next row of the same group begins, if there is one.
    pub fn next(&self) -> Option<usize> {
        self.more.then_some(self.position + self.taken)
    }
}

fn next<'c, 'd>(columns: &mut std::slice::Iter<'c, ColumnRef<'d>>) -> Result<&'c ColumnRef<'d>, Error> {
    columns.next().ok_or_else(|| Error::Input("the state has too few columns".into()))
}

#[diagnostic::do_not_recommend]
impl<V: Value> StateField for V {
    const HEAP: bool = V::HEAP;
    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(name, V::TYPE, false));
    }
    fn export(&self, part: &mut Part, columns: &mut std::slice::IterMut<'_, Column>) {
        if let Some(column) = columns.next() {
            self.put(column);
            column.end_row(true);
            part.add_bytes(8 + Value::heap_bytes(self));
        }
    }
    fn import(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize) -> Result<Self, Error> {
        let column = next(columns)?;
        V::read(column, row).filter(|_| column.is_valid(row)).ok_or_else(|| {
            Error::Input(format!("row {row} of a state column ({}) is no {}", column.data.kind(), V::TYPE))
        })
    }
    fn heap_bytes(&self) -> usize {
        Value::heap_bytes(self)
    }
}

impl<V: Value> StateField for Option<V> {
    const HEAP: bool = <V as StateField>::HEAP;
    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(name, V::TYPE, true));
    }
    fn export(&self, part: &mut Part, columns: &mut std::slice::IterMut<'_, Column>) {
        if let Some(column) = columns.next() {
            crate::output::OutputField::push(self, column);
            part.add_bytes(8 + self.as_ref().map_or(0, Value::heap_bytes));
        }
    }
    fn import(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize) -> Result<Self, Error> {
        let column = next(columns)?;
        let value = V::read(column, row).ok_or_else(|| {
            Error::Input(format!("row {row} of a state column ({}) is no {}", column.data.kind(), V::TYPE))
        })?;
        Ok(column.is_valid(row).then_some(value))
    }
    fn heap_bytes(&self) -> usize {
        self.as_ref().map_or(0, Value::heap_bytes)
    }
}
