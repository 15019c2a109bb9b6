//! The most frequent values of a stream, in bounded memory.
//!
//! Counters as of J. Misra and D. Gries, "Finding repeated elements", 1982; merged as in P. Agarwal et al., "Mergeable
//! summaries", 2012. When there are more than twice the capacity, the count of the first one beyond the capacity is
//! taken off all of them, and those that reach zero go: whatever the order of rows and merges, a count loses at most the
//! (capacity + 1)th part of what all counts have lost together.

use hashbrown::HashTable;

use crate::column::{Column, ColumnRef, DataType, Error, Field};
use crate::distinct::Countable;
use crate::migrate::Stop;
use crate::output::Value;
use crate::state::{Part, StateField};

/// Counters of a `TopK` made by `Default`.
pub const CAPACITY_DEFAULT: u32 = 100;

/// Counts the most frequent values put in: `TopK<str>` or `TopK<i64>`.
///
/// Exact while there are at most twice `capacity` different values. Beyond, a count is never too high, and too low by at
/// most [`TopK::error`], which is at most `total / (capacity + 1)`; every value that is more frequent than that is there.
/// For a list of ten, a hundred counters are a good start. The state has the columns `NAME.items` and `NAME.counts` (the
/// most frequent first), `NAME.total` and `NAME.capacity`.
///
/// ```
/// use millrace_plugin::prelude::*;
/// let mut pages = TopK::<str>::new(100);
/// for page in ["/", "/buy", "/", "/help", "/", "/buy"] {
///     pages.insert(page);
/// }
/// assert_eq!(pages.top(2), [("/".to_string(), 3), ("/buy".to_string(), 2)]);
/// assert_eq!((pages.total(), pages.error()), (6, 0));
/// // two columns of a result
/// let (items, counts): (Vec<String>, Vec<i64>) = pages.top(2).into_iter().unzip();
/// ```
#[derive(Debug)]
pub struct TopK<T: Countable + ?Sized> {
    capacity: u32,
    total: i64,
    counters: HashTable<(T::Owned, i64)>,
    /// memory of the values themselves
    value_bytes: usize,
}

impl<T: Countable + ?Sized> Clone for TopK<T> {
    fn clone(&self) -> Self {
        let Self { capacity, total, ref counters, value_bytes } = *self;
        Self { capacity, total, counters: counters.clone(), value_bytes }
    }
}

impl<T: Countable + ?Sized> Default for TopK<T> {
    fn default() -> Self {
        Self::new(CAPACITY_DEFAULT)
    }
}

impl<T: Countable + ?Sized> TopK<T> {
    /// `capacity`: how many values are counted at least; 1 if 0 is given.
    pub fn new(capacity: u32) -> Self {
        Self { capacity: capacity.max(1), total: 0, counters: HashTable::new(), value_bytes: 0 }
    }

    #[inline]
    pub fn insert(&mut self, value: T::Value<'_>) {
        self.add(value, 1);
    }

    /// Counts a value several times, or by a weight. A weight of 0 or less is not counted.
    #[inline]
    pub fn add(&mut self, value: T::Value<'_>, times: i64) {
        if times > 0 {
            self.total = self.total.saturating_add(times);
            self.raise(value, times);
            self.prune();
        }
    }

    /// Folds another one in. The smaller capacity wins.
    pub fn merge(&mut self, other: &Self) {
        self.capacity = self.capacity.min(other.capacity);
        self.total = self.total.saturating_add(other.total);
        for (value, count) in &other.counters {
            self.raise(T::borrow(value), *count);
        }
        self.prune();
    }

    /// The `n` most frequent values with their counts, in order; equally frequent ones by value.
    pub fn top(&self, n: usize) -> Vec<(T::Owned, i64)> {
        let mut sorted = self.sorted();
        sorted.truncate(n);
        sorted.into_iter().cloned().collect()
    }

    /// The count of a value; 0 if it is not among those that are counted.
    pub fn count(&self, value: T::Value<'_>) -> i64 {
        self.counters.find(T::hash(value), |(v, _)| T::is(v, value)).map_or(0, |(_, count)| *count)
    }

    /// How much was counted in all, exactly.
    pub fn total(&self) -> i64 {
        self.total
    }

    /// No count is too low by more than this.
    pub fn error(&self) -> i64 {
        let counted: i64 = self.counters.iter().map(|(_, count)| *count).fold(0, i64::saturating_add);
        self.total.saturating_sub(counted) / (i64::from(self.capacity) + 1)
    }

    fn raise(&mut self, value: T::Value<'_>, times: i64) {
        let hash = T::hash(value);
        match self.counters.find_mut(hash, |(v, _)| T::is(v, value)) {
            Some((_, count)) => *count = count.saturating_add(times),
            None => {
                let owned = T::own(value);
                self.value_bytes += T::heap_bytes(&owned);
                self.counters.insert_unique(hash, (owned, times), |(v, _)| T::hash(T::borrow(v)));
            }
        }
    }

    fn prune(&mut self) {
        let capacity = self.capacity as usize;
        if self.counters.len() <= 2 * capacity {
            return;
        }
        let mut counts: Vec<i64> = self.counters.iter().map(|(_, count)| *count).collect();
        let (_, first_beyond, _) = counts.select_nth_unstable_by(capacity, |a, b| b.cmp(a));
        let cut = *first_beyond;
        let value_bytes = &mut self.value_bytes;
        self.counters.retain(|(value, count)| {
            *count -= cut;
            let stays = *count > 0;
            if !stays {
                *value_bytes -= T::heap_bytes(value);
            }
            stays
        });
    }

    fn sorted(&self) -> Vec<&(T::Owned, i64)> {
        let mut sorted: Vec<_> = self.counters.iter().collect();
        sorted.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
        sorted
    }
}

impl<T: Countable + ?Sized> StateField for TopK<T>
where
    Vec<T::Owned>: Value,
{
    const SPLITS: bool = true;
    const HEAP: bool = true;

    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(format!("{name}.items"), <Vec<T::Owned> as Value>::TYPE, false));
        out.push(Field::new(format!("{name}.counts"), DataType::ListInt64, false));
        out.push(Field::new(format!("{name}.total"), DataType::Int64, false));
        out.push(Field::new(format!("{name}.capacity"), DataType::Int64, false));
    }

    fn export(&self, part: &mut Part, columns: &mut std::slice::IterMut<'_, Column>) {
        // in a continuation the total has been said already
        let total = if part.is_first() { self.total } else { 0 };
        let (mut items, mut counts) = (Vec::new(), Vec::new());
        if let Some(from) = part.enter(self.counters.len()) {
            for (value, count) in self.sorted().into_iter().skip(from) {
                if !part.take(12 + T::heap_bytes(value)) {
                    break;
                }
                items.push(value.clone());
                counts.push(*count);
            }
        }
        part.add_bytes(16);
        let mut next = |value: &dyn Fn(&mut Column)| {
            if let Some(column) = columns.next() {
                value(column);
                column.end_row(true);
            }
        };
        next(&|column| items.put(column));
        next(&|column| counts.put(column));
        next(&|column| total.put(column));
        next(&|column| i64::from(self.capacity).put(column));
    }

    fn import(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize) -> Result<Self, Error> {
        let broken = || Error::Input("a top-k is stored as items, counts, total and capacity".into());
        let items: Vec<T::Owned> = columns.next().and_then(|c| Value::read(c, row)).ok_or_else(broken)?;
        let counts: Vec<i64> = columns.next().and_then(|c| Value::read(c, row)).ok_or_else(broken)?;
        let total: i64 = columns.next().and_then(|c| Value::read(c, row)).ok_or_else(broken)?;
        let capacity: i64 = columns.next().and_then(|c| Value::read(c, row)).ok_or_else(broken)?;
        if items.len() != counts.len() {
            return Err(Error::Input(format!("a top-k has {} items and {} counts", items.len(), counts.len())));
        }
        let mut new = Self::new(u32::try_from(capacity).map_err(|_| broken())?);
        new.total = total;
        for (value, count) in items.iter().zip(counts) {
            new.raise(T::borrow(value), count);
        }
        Ok(new)
    }

    /// A smaller capacity cuts; a larger one has lost what it would have counted.
    fn adopt(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize, empty: &Self) -> Result<Self, Stop> {
        let mut old = Self::import(columns, row)?;
        if old.capacity < empty.capacity {
            let (had, wanted) = (old.capacity, empty.capacity);
            return Err(Stop::Refused(format!("the most frequent values were kept with {had} counters, not {wanted}")));
        }
        old.merge(empty);
        Ok(old)
    }

    fn heap_bytes(&self) -> usize {
        self.counters.allocation_size() + self.value_bytes
    }
}
