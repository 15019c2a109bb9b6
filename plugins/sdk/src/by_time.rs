//! The value at the earliest or at the latest time.

use crate::column::{Column, ColumnRef, DataType, Error, Field};
use crate::output::{OutputField, Value};
use crate::state::{Part, StateField};
use crate::value::Timestamptz;

/// Keeps the value with the latest time; of values at the same time, the largest.
///
/// ```
/// use millrace_plugin::prelude::*;
/// let mut status = Latest::<String>::default();
/// status.set(Timestamptz(20), "paused".into());
/// status.set(Timestamptz(10), "running".into());
/// assert_eq!(status.get().map(String::as_str), Some("paused"));
/// ```
pub type Latest<V> = ByTime<V, true>;

/// Keeps the value with the earliest time; of values at the same time, the largest.
pub type Earliest<V> = ByTime<V, false>;

/// [`Latest`] or [`Earliest`]. The state has the columns `NAME.value` and `NAME.time`, both null before the first value.
#[derive(Clone, Debug, PartialEq)]
pub struct ByTime<V, const LATEST: bool> {
    kept: Option<(Timestamptz, V)>,
}

impl<V, const LATEST: bool> Default for ByTime<V, LATEST> {
    fn default() -> Self {
        Self { kept: None }
    }
}

impl<V: PartialOrd, const LATEST: bool> ByTime<V, LATEST> {
    pub fn set(&mut self, time: Timestamptz, value: V) {
        let wins = match &self.kept {
            None => true,
            Some((kept, _)) if time != *kept => (time > *kept) == LATEST,
            Some((_, kept)) => value > *kept,
        };
        if wins {
            self.kept = Some((time, value));
        }
    }

    pub fn get(&self) -> Option<&V> {
        self.kept.as_ref().map(|(_, value)| value)
    }

    pub fn time(&self) -> Option<Timestamptz> {
        self.kept.as_ref().map(|(time, _)| *time)
    }

    pub fn merge(&mut self, other: &Self)
    where
        V: Clone,
    {
        if let Some((time, value)) = &other.kept {
            self.set(*time, value.clone());
        }
    }
}

impl<V: Value, const LATEST: bool> StateField for ByTime<V, LATEST> {
    const HEAP: bool = V::HEAP;

    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(format!("{name}.value"), V::TYPE, true));
        out.push(Field::new(format!("{name}.time"), DataType::Timestamptz, true));
    }

    fn export(&self, part: &mut Part, columns: &mut std::slice::IterMut<'_, Column>) {
        let (Some(values), Some(times)) = (columns.next(), columns.next()) else { return };
        match &self.kept {
            Some((time, value)) => {
                OutputField::push(value, values);
                OutputField::push(time, times);
            }
            None => {
                values.push_null();
                times.push_null();
            }
        }
        part.add_bytes(16 + StateField::heap_bytes(self));
    }

    fn import(columns: &mut std::slice::Iter<'_, ColumnRef<'_>>, row: usize) -> Result<Self, Error> {
        let value = <Option<V> as StateField>::import(columns, row)?;
        let time = <Option<Timestamptz> as StateField>::import(columns, row)?;
        Ok(Self { kept: time.zip(value) })
    }

    fn heap_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |(_, value)| value.heap_bytes())
    }
}
