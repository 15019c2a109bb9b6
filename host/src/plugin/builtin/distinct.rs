//! `count(distinct c)`, exact, and `approx_distinct(c)`, a HyperLogLog sketch.
//!
//! Values that are a number underneath are kept as longs, all others as text, interned once for all groups by the SDK's
//! [`Scope`]: about 7 bytes per group and value, and each text once.

use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array, ListArray, StringArray};
use arrow_schema::{DataType as ArrowType, Field as ArrowField};
use hashbrown::HashSet as HashSetWith;
use millrace_core::schema::DataType;
use millrace_plugin::distinct::hll::Hll;
use millrace_plugin::distinct::scope::{Scope, SetId};
use millrace_plugin::distinct::{NumberHasher, hash};

use super::Fallible;
use super::state::{Entry, PART_VALUES_MAX, Rows, State, state_column};

type HashSet = HashSetWith<i64, std::hash::BuildHasherDefault<NumberHasher>>;

/// How the values of a type are kept; none: they cannot be told apart for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Long,
    Text,
}

fn kept(of: DataType) -> Option<Kept> {
    match of {
        DataType::Boolean
        | DataType::Int
        | DataType::Long
        | DataType::Date
        | DataType::Timestamp
        | DataType::Timestamptz => Some(Kept::Long),
        DataType::String | DataType::Binary | DataType::Decimal { .. } => Some(Kept::Text),
        _ => None,
    }
}

/// The type of the state of an exact count.
pub(super) fn values_type(of: DataType) -> Option<DataType> {
    Some(match kept(of)? {
        Kept::Long => DataType::ListLong,
        Kept::Text => DataType::ListString,
    })
}

pub(super) fn exact(of: DataType) -> Option<Box<dyn State>> {
    Some(match kept(of)? {
        Kept::Long => Box::<Longs>::default(),
        Kept::Text => Box::<Texts>::default(),
    })
}

pub(super) fn approximate(of: DataType) -> Option<Box<dyn State>> {
    kept(of).map(|kept| Box::new(Sketches { kept, slots: Vec::new(), filled: 0 }) as Box<dyn State>)
}

fn longs(array: &ArrayRef) -> Fallible<Int64Array> {
    let cast = arrow_cast::cast(array, &ArrowType::Int64).map_err(|e| e.to_string())?;
    Ok(cast.as_primitive_opt::<Int64Type>().ok_or("values are no longs")?.clone())
}

fn texts(array: &ArrayRef) -> Fallible<StringArray> {
    if let Some(binary) = array.as_binary_opt::<i32>() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        return Ok(binary.iter().map(|bytes| bytes.map(hex)).collect());
    }
    let cast = arrow_cast::cast(array, &ArrowType::Utf8).map_err(|e| e.to_string())?;
    Ok(cast.as_string_opt::<i32>().ok_or("values are no text")?.clone())
}

fn length(count: usize) -> Option<i64> {
    i64::try_from(count).ok()
}

/// Calls `put` with slot and element of every list.
fn each_element(lists: &ListArray, groups: &[u32], mut put: impl FnMut(usize, usize)) {
    for (ends, &slot) in lists.value_offsets().windows(2).zip(groups) {
        if let [from, to] = ends {
            // offsets of an array are never negative
            let at = |offset: &i32| usize::try_from(*offset).unwrap_or_default();
            (at(from)..at(to)).for_each(|element| put(slot as usize, element));
        }
    }
}

fn lists(state: &[ArrayRef]) -> Fallible<&ListArray> {
    Ok(state_column(state, 0)?.as_list_opt::<i32>().ok_or("a set is no list")?)
}

fn item(of: ArrowType) -> Arc<ArrowField> {
    Arc::new(ArrowField::new("item", of, false))
}

/// The values of a part of a set.
fn part<T>(values: &[T], part: usize) -> &[T] {
    values.chunks(PART_VALUES_MAX).nth(part).unwrap_or_default()
}

#[derive(Default)]
struct Longs {
    slots: Vec<HashSet>,
    set_bytes: usize,
    /// the set that is being exported, in order
    sorted: Option<(usize, Vec<i64>)>,
}

impl Longs {
    #[inline]
    fn put(&mut self, slot: usize, value: i64) {
        if let Some(set) = self.slots.get_mut(slot) {
            let before = set.allocation_size();
            set.insert(value);
            self.set_bytes = self.set_bytes + set.allocation_size() - before;
        }
    }

    fn len(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, HashSet::len)
    }
}

impl State for Longs {
    fn grow(&mut self, slots: usize) {
        self.slots.resize_with(slots, HashSet::default);
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()> {
        self.sorted = None;
        let values = longs(rows.values()?)?;
        rows.each(|row, slot| {
            if let Some(value) = values.values().get(row) {
                self.put(slot, *value);
            }
            Ok(())
        })
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()> {
        self.sorted = None;
        let lists = lists(state)?;
        let values = lists.values().as_primitive_opt::<Int64Type>().ok_or("a set holds no longs")?.values();
        each_element(lists, groups, |slot, element| {
            if let Some(value) = values.get(element) {
                self.put(slot, *value);
            }
        });
        Ok(())
    }

    fn combine(&mut self, source: usize, target: usize) -> Fallible<()> {
        self.sorted = None;
        let values: Vec<i64> = self.slots.get(source).into_iter().flatten().copied().collect();
        values.into_iter().for_each(|value| self.put(target, value));
        Ok(())
    }

    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>> {
        let mut builder = ListBuilder::new(Int64Builder::new()).with_field(item(ArrowType::Int64));
        for entry in entries {
            if self.sorted.as_ref().is_none_or(|(slot, _)| *slot != entry.slot) {
                let mut values: Vec<i64> = self.slots.get(entry.slot).into_iter().flatten().copied().collect();
                values.sort_unstable();
                self.sorted = Some((entry.slot, values));
            }
            let values = self.sorted.as_ref().map_or(&[][..], |(_, values)| part(values, entry.part));
            builder.values().append_slice(values);
            builder.append(true);
        }
        Ok(vec![Arc::new(builder.finish())])
    }

    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef> {
        Ok(Arc::new(groups.iter().map(|&g| length(self.len(g as usize))).collect::<Int64Array>()))
    }

    fn reset(&mut self, slot: usize) {
        self.sorted = None;
        if let Some(set) = self.slots.get_mut(slot) {
            self.set_bytes -= set.allocation_size();
            *set = HashSet::default();
        }
    }

    fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<HashSet>() + self.set_bytes
    }

    fn parts(&mut self, slot: usize) -> usize {
        self.len(slot).div_ceil(PART_VALUES_MAX).max(1)
    }

    fn entry_bytes(&mut self, entry: Entry) -> usize {
        8 * self.len(entry.slot).saturating_sub(entry.part * PART_VALUES_MAX).min(PART_VALUES_MAX)
    }
}

#[derive(Default)]
struct Texts {
    scope: Scope,
    slots: Vec<Option<SetId>>,
    /// bytes of the longest text ever put in: what an export may need for each
    longest: usize,
}

impl Texts {
    #[inline]
    fn put(&mut self, slot: usize, text: &str) {
        if let Some(set) = self.slots.get_mut(slot) {
            let set = *set.get_or_insert_with(|| self.scope.new_set());
            self.scope.insert(set, text);
            self.longest = self.longest.max(text.len());
        }
    }

    fn set(&self, slot: usize) -> Option<SetId> {
        self.slots.get(slot).copied().flatten()
    }

    fn len(&mut self, slot: usize) -> usize {
        self.set(slot).map_or(0, |set| self.scope.len(set))
    }
}

impl State for Texts {
    fn grow(&mut self, slots: usize) {
        self.slots.resize(slots, None);
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()> {
        let values = texts(rows.values()?)?;
        rows.each(|row, slot| {
            if row < values.len() {
                self.put(slot, values.value(row));
            }
            Ok(())
        })
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()> {
        let lists = lists(state)?;
        let values = lists.values().as_string_opt::<i32>().ok_or("a set holds no text")?;
        each_element(lists, groups, |slot, element| {
            if element < values.len() {
                self.put(slot, values.value(element));
            }
        });
        Ok(())
    }

    fn combine(&mut self, source: usize, target: usize) -> Fallible<()> {
        if let (Some(from), Some(into)) = (self.set(source), self.slots.get_mut(target)) {
            let into = *into.get_or_insert_with(|| self.scope.new_set());
            self.scope.merge(into, from);
        }
        Ok(())
    }

    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>> {
        let mut builder = ListBuilder::new(StringBuilder::new()).with_field(item(ArrowType::Utf8));
        let mut value = Vec::new();
        for entry in entries {
            if let Some(set) = self.set(entry.slot) {
                let mut left = PART_VALUES_MAX;
                self.scope.sorted(set, entry.part * PART_VALUES_MAX, |words| {
                    value.clear();
                    hash::push_bytes(words, &mut value);
                    // what went in as text comes out as text
                    builder.values().append_value(std::str::from_utf8(&value).unwrap_or_default());
                    left -= 1;
                    left > 0
                });
            }
            builder.append(true);
        }
        Ok(vec![Arc::new(builder.finish())])
    }

    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef> {
        Ok(Arc::new(groups.iter().map(|&g| length(self.len(g as usize))).collect::<Int64Array>()))
    }

    fn reset(&mut self, slot: usize) {
        if let Some(set) = self.slots.get_mut(slot).and_then(Option::take) {
            self.scope.free(set);
        }
    }

    fn after_reset(&mut self) {
        self.scope.collect();
    }

    fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<SetId>>() + self.scope.bytes()
    }

    fn parts(&mut self, slot: usize) -> usize {
        self.len(slot).div_ceil(PART_VALUES_MAX).max(1)
    }

    fn entry_bytes(&mut self, entry: Entry) -> usize {
        let values = self.len(entry.slot).saturating_sub(entry.part * PART_VALUES_MAX).min(PART_VALUES_MAX);
        values * (self.longest + 4)
    }
}

struct Sketches {
    kept: Kept,
    slots: Vec<Option<Hll>>,
    filled: usize,
}

impl Sketches {
    fn sketch(&mut self, slot: usize) -> Option<&mut Hll> {
        let sketch = self.slots.get_mut(slot)?;
        self.filled += usize::from(sketch.is_none());
        Some(sketch.get_or_insert_default())
    }

    fn of(&self, slot: usize) -> Option<&Hll> {
        self.slots.get(slot)?.as_ref()
    }
}

impl State for Sketches {
    fn grow(&mut self, slots: usize) {
        self.slots.resize_with(slots, || None);
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()> {
        if self.kept == Kept::Long {
            let values = longs(rows.values()?)?;
            return rows.each(|row, slot| {
                if let (Some(value), Some(sketch)) = (values.values().get(row), self.sketch(slot)) {
                    sketch.insert(hash::words(&[value.cast_unsigned()]));
                }
                Ok(())
            });
        }
        let values = texts(rows.values()?)?;
        rows.each(|row, slot| {
            if row < values.len()
                && let Some(sketch) = self.sketch(slot)
            {
                sketch.insert(hash::text(values.value(row)));
            }
            Ok(())
        })
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()> {
        let sketches = state_column(state, 0)?.as_binary_opt::<i32>().ok_or("a sketch is no binary")?;
        for (bytes, &slot) in sketches.iter().zip(groups) {
            let Some(bytes) = bytes else { continue };
            let theirs = Hll::from_bytes(bytes).ok_or("a sketch is not one that this release has written")?;
            if let Some(sketch) = self.sketch(slot as usize) {
                sketch.merge(&theirs);
            }
        }
        Ok(())
    }

    fn combine(&mut self, source: usize, target: usize) -> Fallible<()> {
        if let Some(theirs) = self.of(source).cloned()
            && let Some(sketch) = self.sketch(target)
        {
            sketch.merge(&theirs);
        }
        Ok(())
    }

    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>> {
        let bytes = |e: &Entry| if e.part == 0 { self.of(e.slot).map(Hll::to_bytes) } else { None };
        Ok(vec![Arc::new(entries.iter().map(bytes).collect::<BinaryArray>())])
    }

    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef> {
        let estimate = |&g: &u32| Some(self.of(g as usize).map_or(0, Hll::estimate));
        Ok(Arc::new(groups.iter().map(estimate).collect::<Int64Array>()))
    }

    fn reset(&mut self, slot: usize) {
        if self.slots.get_mut(slot).and_then(Option::take).is_some() {
            self.filled -= 1;
        }
    }

    fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Hll>>() + self.filled * Hll::BYTES
    }

    fn entry_bytes(&mut self, _: Entry) -> usize {
        Hll::BYTES
    }
}
