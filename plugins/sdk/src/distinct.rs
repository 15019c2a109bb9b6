//! Distinct counts: exact, or estimated by HyperLogLog.
//!
//! A state field of type [`DistinctCount`] spans the columns `NAME.values` (exact) and `NAME.sketch` (HyperLogLog), one
//! of which is null. Within an accumulator, string sets live in the memory of [`scope`]; outside of one (an author's
//! unit test) each has a scope of its own.

pub mod hash;
pub mod hll;
pub mod idset;
pub mod intern;
mod order;
pub mod scope;

use crate::column::{Bytes, Column, ColumnData, ColumnRef, DataRef, DataType, Error, Field, offset};
use crate::input::{self, Strings};
use crate::migrate::Stop;
use crate::state::{Part, StateField};
use hashbrown::HashSet;
use hll::Hll;
use scope::{Scope, SetId};

/// How distinct values are counted: `exact`, or `hll` (HyperLogLog: 4 KiB a group, standard error 1.6 %).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distinct {
    #[default]
    Exact,
    Hll,
}

/// Counts the distinct values put in: `DistinctCount<str>` or `DistinctCount<i64>`.
///
/// ```
/// use millrace_plugin::prelude::*;
/// let mut users = DistinctCount::<str>::new(Distinct::Exact);
/// users.insert("ada");
/// users.insert("ada");
/// assert_eq!(users.count(), 1);
/// ```
#[derive(Debug)]
pub struct DistinctCount<T: Countable + ?Sized> {
    form: Form<T::Set>,
}

#[derive(Debug)]
enum Form<S> {
    Exact(S),
    Hll(Sketch),
}

/// A type whose values can be counted: `str` or `i64`.
#[diagnostic::on_unimplemented(
    message = "values of `{Self}` cannot be counted",
    label = "`str` or `i64` is possible here",
    note = "turn other values into one of these: a number of cents into an `i64`, an id into a `str`"
)]
pub trait Countable: sealed::Sealed {
    type Value<'a>: Copy;
    type Owned: Clone + Ord + Send + std::fmt::Debug;
    type Set: ExactSet<Self>;
    fn hash(value: Self::Value<'_>) -> u64;
    fn own(value: Self::Value<'_>) -> Self::Owned;
    fn borrow(owned: &Self::Owned) -> Self::Value<'_>;
    fn is(owned: &Self::Owned, value: Self::Value<'_>) -> bool;
    fn heap_bytes(_: &Self::Owned) -> usize {
        0
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for str {}
    impl Sealed for i64 {}
}

/// What [`DistinctCount`] needs of a set; not for use by hand.
#[doc(hidden)]
pub trait ExactSet<T: Countable + ?Sized>: Sized + Send {
    const TYPE: DataType;
    fn empty() -> Self;
    fn insert(&mut self, value: T::Value<'_>);
    fn len(&self) -> usize;
    fn merge(&mut self, other: &Self);
    fn hash_into(&self, sketch: &mut Hll);
    fn export(&self, part: &mut Part, column: &mut Column);
    fn import(column: &ColumnRef<'_>, row: usize) -> Result<Self, Error>;
}

impl<T: Countable + ?Sized> DistinctCount<T> {
    pub fn new(mode: Distinct) -> Self {
        let form = match mode {
            Distinct::Exact => Form::Exact(T::Set::empty()),
            Distinct::Hll => Form::Hll(Sketch::new(Hll::default())),
        };
        Self { form }
    }

    #[inline]
    pub fn insert(&mut self, value: T::Value<'_>) {
        match &mut self.form {
            Form::Exact(set) => set.insert(value),
            Form::Hll(sketch) => sketch.hll.insert(T::hash(value)),
        }
    }

    /// How many there are; an estimate in `hll` mode.
    pub fn count(&self) -> i64 {
        match &self.form {
            Form::Exact(set) => i64::try_from(set.len()).unwrap_or(i64::MAX),
            Form::Hll(sketch) => sketch.hll.estimate(),
        }
    }

    /// Folds another count in. If either is a sketch, the result is one.
    pub fn merge(&mut self, other: &Self) {
        match (&mut self.form, &other.form) {
            (Form::Exact(mine), Form::Exact(theirs)) => mine.merge(theirs),
            (Form::Hll(mine), Form::Hll(theirs)) => mine.hll.merge(&theirs.hll),
            (Form::Hll(mine), Form::Exact(theirs)) => theirs.hash_into(&mut mine.hll),
            (Form::Exact(mine), Form::Hll(theirs)) => {
                let mut sketch = theirs.hll.clone();
                mine.hash_into(&mut sketch);
                self.form = Form::Hll(Sketch::new(sketch));
            }
        }
    }
}

impl<T: Countable + ?Sized> Default for DistinctCount<T> {
    fn default() -> Self {
        Self::new(Distinct::Exact)
    }
}

impl<T: Countable + ?Sized> StateField for DistinctCount<T> {
    const SPLITS: bool = true;

    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(format!("{name}.values"), T::Set::TYPE, true));
        out.push(Field::new(format!("{name}.sketch"), DataType::Binary, true));
    }

    fn export(&self, part: &mut Part, columns: &mut std::slice::IterMut<'_, Column>) {
        let (Some(values), Some(sketch)) = (columns.next(), columns.next()) else { return };
        match &self.form {
            Form::Exact(set) => {
                set.export(part, values);
                values.end_row(true);
                sketch.push_null();
            }
            Form::Hll(mine) => {
                values.push_null();
                // in a continuation it has been said already; an empty one merges to nothing
                let bytes = if part.is_first() { mine.hll.to_bytes() } else { Hll::default().to_bytes() };
                part.add_bytes(bytes.len());
                if let ColumnData::Binary(column) = &mut sketch.data {
                    column.push(&bytes);
                }
                sketch.end_row(true);
            }
        }
    }

    fn import(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize) -> Result<Self, Error> {
        let (Some(values), Some(sketch)) = (columns.next(), columns.next()) else {
            return Err(Error::Input("a distinct count is stored in two columns".into()));
        };
        let form = if sketch.is_valid(row) {
            let DataRef::Binary(bytes) = sketch.data else {
                return Err(Error::Input(format!("a sketch is binary, not {}", sketch.data.kind())));
            };
            let bytes = input::bytes_at(bytes, row)
                .ok_or_else(|| Error::Input("offsets of a sketch column do not fit its data".into()))?;
            let hll = Hll::from_bytes(bytes)
                .ok_or_else(|| Error::Input("a sketch is not one that this SDK has written".into()))?;
            Form::Hll(Sketch::new(hll))
        } else {
            if !values.is_valid(row) {
                return Err(Error::Input("a distinct count has neither values nor a sketch".into()));
            }
            Form::Exact(T::Set::import(values, row)?)
        };
        Ok(Self { form })
    }

    /// Values go into a sketch where one is wanted; they do not come out of it again.
    fn adopt(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize, empty: &Self) -> Result<Self, Stop> {
        let mut old = Self::import(columns, row)?;
        match (&old.form, &empty.form) {
            (Form::Exact(values), Form::Hll(_)) => {
                let mut sketch = Hll::default();
                values.hash_into(&mut sketch);
                old.form = Form::Hll(Sketch::new(sketch));
            }
            (Form::Hll(_), Form::Exact(_)) => {
                return Err(Stop::Refused(
                    "its values were counted by `hll`, and cannot be counted exactly any more".into(),
                ));
            }
            (Form::Exact(_), Form::Exact(_)) | (Form::Hll(_), Form::Hll(_)) => {}
        }
        Ok(old)
    }
}

/// A sketch whose size the accumulator knows of.
#[derive(Debug)]
struct Sketch {
    hll: Hll,
}

impl Sketch {
    fn new(hll: Hll) -> Self {
        scope::with(|s| s.other_bytes += Hll::BYTES);
        Self { hll }
    }
}

impl Drop for Sketch {
    fn drop(&mut self) {
        scope::with(|s| s.other_bytes = s.other_bytes.saturating_sub(Hll::BYTES));
    }
}

/// Strings, interned.
#[derive(Debug)]
#[doc(hidden)]
pub enum StringSet {
    /// in the scope of the accumulator that is being called
    Shared(SetId),
    /// outside of any accumulator
    Own(Box<std::cell::RefCell<Scope>>),
}

const OWN: SetId = 0;

impl StringSet {
    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut Scope, SetId) -> R) -> R {
        match self {
            Self::Shared(set) => match scope::with(|s| f(s, *set)) {
                Some(r) => r,
                #[allow(clippy::panic, reason = "the author kept a state beyond its accumulator's call")]
                None => panic!("a distinct count was used outside of the accumulator that it belongs to"),
            },
            Self::Own(own) => f(&mut own.borrow_mut(), OWN),
        }
    }
}

impl Drop for StringSet {
    fn drop(&mut self) {
        if let Self::Shared(set) = self {
            scope::with(|s| s.free(*set));
        }
    }
}

impl Countable for str {
    type Value<'a> = &'a str;
    type Owned = String;
    type Set = StringSet;

    #[inline]
    fn hash(value: &str) -> u64 {
        hash::text(value)
    }

    fn own(value: &str) -> String {
        value.into()
    }

    fn borrow(owned: &String) -> &str {
        owned
    }

    fn is(owned: &String, value: &str) -> bool {
        owned == value
    }

    fn heap_bytes(owned: &String) -> usize {
        owned.capacity()
    }
}

impl ExactSet<str> for StringSet {
    const TYPE: DataType = DataType::ListUtf8;

    fn empty() -> Self {
        scope::with(|s| Self::Shared(s.new_set())).unwrap_or_else(|| {
            let mut own = Scope::default();
            own.new_set();
            Self::Own(Box::new(std::cell::RefCell::new(own)))
        })
    }

    #[inline]
    fn insert(&mut self, value: &str) {
        self.with(|scope, set| scope.insert(set, value));
    }

    fn len(&self) -> usize {
        self.with(Scope::len)
    }

    fn merge(&mut self, other: &Self) {
        if let (Self::Shared(mine), Self::Shared(theirs)) = (&*self, other) {
            scope::with(|s| s.merge(*mine, *theirs));
            return;
        }
        let mut values = Bytes::default();
        other.with(|scope, set| {
            scope.sorted(set, 0, |words| {
                push(words, &mut values);
                true
            });
        });
        for row in 0..values.len() {
            if let Some(Ok(value)) = input::bytes_at(values.as_ref(), row).map(str::from_utf8) {
                self.insert(value);
            }
        }
    }

    fn hash_into(&self, sketch: &mut Hll) {
        let mut value = Vec::new();
        self.with(|scope, set| {
            scope.sorted(set, 0, |words| {
                value.clear();
                hash::push_bytes(words, &mut value);
                // what went in as a string comes out as one
                sketch.insert(str::from_utf8(&value).map(<str as Countable>::hash).unwrap_or_default());
                true
            });
        });
    }

    fn export(&self, part: &mut Part, column: &mut Column) {
        let ColumnData::ListUtf8(list) = &mut column.data else { return };
        self.with(|scope, set| {
            let length = scope.len(set);
            if let Some(from) = part.enter(length) {
                scope.sorted(set, from, |words| {
                    let length = push(words, &mut list.values);
                    let fits = part.take(length + 4);
                    if !fits {
                        pop(&mut list.values);
                    }
                    fits
                });
            }
        });
        list.offsets.push(offset(list.values.len()));
    }

    fn import(column: &ColumnRef<'_>, row: usize) -> Result<Self, Error> {
        let DataRef::ListUtf8 { offsets, values } = column.data else {
            return Err(Error::Input(format!("distinct strings are list<string>, not {}", column.data.kind())));
        };
        let range = input::range_at(offsets, row)
            .filter(|r| r.end < values.offsets.len())
            .ok_or_else(|| Error::Input("offsets of a list column do not fit its values".into()))?;
        let part = crate::column::BytesRef {
            offsets: values.offsets.get(range.start..=range.end).unwrap_or_default(),
            data: values.data,
        };
        let mut set = Self::empty();
        let strings = Strings::within(part)?;
        strings.iter().for_each(|value| set.insert(value));
        Ok(set)
    }
}

/// Appends the string that begins here. Returns its bytes.
#[inline]
fn push(words: &[u64], values: &mut Bytes) -> usize {
    let start = values.data.len();
    hash::push_bytes(words, &mut values.data);
    values.offsets.push(offset(values.data.len()));
    values.data.len() - start
}

/// Takes the last string away.
fn pop(values: &mut Bytes) {
    values.offsets.pop();
    values.data.truncate(values.offsets.last().map_or(0, |end| *end as usize));
}

/// Numbers.
#[derive(Debug)]
#[doc(hidden)]
pub struct NumberSet {
    values: HashSet<i64, BuildNumberHasher>,
    counted_bytes: usize,
}

type BuildNumberHasher = std::hash::BuildHasherDefault<NumberHasher>;

#[derive(Default)]
#[doc(hidden)]
pub struct NumberHasher(u64);

impl std::hash::Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |h, b| hash::words(&[h ^ u64::from(*b)]));
    }
    fn write_i64(&mut self, value: i64) {
        self.0 = hash::words(&[value.cast_unsigned()]);
    }
}

impl NumberSet {
    fn account(&mut self) {
        let now = self.values.allocation_size();
        if now != self.counted_bytes {
            scope::with(|s| s.other_bytes = (s.other_bytes + now).saturating_sub(self.counted_bytes));
            self.counted_bytes = now;
        }
    }
}

impl Drop for NumberSet {
    fn drop(&mut self) {
        scope::with(|s| s.other_bytes = s.other_bytes.saturating_sub(self.counted_bytes));
    }
}

impl Countable for i64 {
    type Value<'a> = i64;
    type Owned = i64;
    type Set = NumberSet;

    fn hash(value: i64) -> u64 {
        hash::words(&[value.cast_unsigned()])
    }

    fn own(value: i64) -> i64 {
        value
    }

    fn borrow(owned: &i64) -> i64 {
        *owned
    }

    fn is(owned: &i64, value: i64) -> bool {
        *owned == value
    }
}

impl ExactSet<i64> for NumberSet {
    const TYPE: DataType = DataType::ListInt64;

    fn empty() -> Self {
        Self { values: HashSet::default(), counted_bytes: 0 }
    }

    #[inline]
    fn insert(&mut self, value: i64) {
        if self.values.insert(value) {
            self.account();
        }
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn merge(&mut self, other: &Self) {
        self.values.extend(&other.values);
        self.account();
    }

    fn hash_into(&self, sketch: &mut Hll) {
        for value in &self.values {
            sketch.insert(<i64 as Countable>::hash(*value));
        }
    }

    fn export(&self, part: &mut Part, column: &mut Column) {
        let ColumnData::ListInt64(list) = &mut column.data else { return };
        if let Some(from) = part.enter(self.values.len()) {
            let mut sorted: Vec<i64> = self.values.iter().copied().collect();
            sorted.sort_unstable();
            list.values.extend(sorted.into_iter().skip(from).take_while(|_| part.take(8)));
        }
        list.offsets.push(offset(list.values.len()));
    }

    fn import(column: &ColumnRef<'_>, row: usize) -> Result<Self, Error> {
        let DataRef::ListInt64 { offsets, values } = column.data else {
            return Err(Error::Input(format!("distinct numbers are list<long>, not {}", column.data.kind())));
        };
        let values = input::range_at(offsets, row)
            .and_then(|r| values.get(r))
            .ok_or_else(|| Error::Input("offsets of a list column do not fit its values".into()))?;
        let mut set = Self::empty();
        set.values.extend(values);
        set.account();
        Ok(set)
    }
}
