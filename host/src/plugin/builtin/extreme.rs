//! `min(c)` and `max(c)`. NaN is larger than every other number; strings and binary are ordered by their bytes.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, BinaryArray, PrimitiveArray, StringArray};
use arrow_schema::DataType as ArrowType;
use millrace_core::schema::DataType;

use super::state::{Entry, Rows, State, state_column};
use super::{Fallible, Function, typed};

/// An empty `min` or `max` of values of type `of`.
pub(super) fn extreme(function: Function, of: DataType) -> Option<Box<dyn State>> {
    let keep = if function == Function::Min { Ordering::Less } else { Ordering::Greater };
    let arrow = of.to_arrow();
    Some(match of {
        DataType::Boolean | DataType::Int => Box::new(Extreme::<Int32Type>::new(arrow, keep, Ord::cmp)),
        DataType::Long => Box::new(Extreme::<Int64Type>::new(arrow, keep, Ord::cmp)),
        DataType::Float => Box::new(Extreme::<Float32Type>::new(arrow, keep, |a, b| {
            a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        })),
        DataType::Double => Box::new(Extreme::<Float64Type>::new(arrow, keep, |a, b| {
            a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        })),
        DataType::Decimal { .. } => Box::new(Extreme::<Decimal128Type>::new(arrow, keep, Ord::cmp)),
        DataType::Date => Box::new(Extreme::<Date32Type>::new(arrow, keep, Ord::cmp)),
        DataType::Timestamp | DataType::Timestamptz => {
            Box::new(Extreme::<TimestampMicrosecondType>::new(arrow, keep, Ord::cmp))
        }
        DataType::String | DataType::Binary => {
            Box::new(ExtremeBytes { values: Vec::new(), arrow, keep, held_bytes: 0 })
        }
        DataType::ListLong | DataType::ListDouble | DataType::ListString => return None,
    })
}

/// Of numbers and what is kept as one; booleans are worked on as 0 and 1.
struct Extreme<T: ArrowPrimitiveType> {
    values: Vec<Option<T::Native>>,
    arrow: ArrowType,
    keep: Ordering,
    order: fn(&T::Native, &T::Native) -> Ordering,
}

impl<T: ArrowPrimitiveType> Extreme<T> {
    fn new(arrow: ArrowType, keep: Ordering, order: fn(&T::Native, &T::Native) -> Ordering) -> Self {
        Self { values: Vec::new(), arrow, keep, order }
    }

    fn put(&mut self, slot: usize, value: T::Native) {
        if let Some(held) = self.values.get_mut(slot)
            && held.as_ref().is_none_or(|held| (self.order)(&value, held) == self.keep)
        {
            *held = Some(value);
        }
    }

    fn of(&self, slot: usize) -> Option<T::Native> {
        self.values.get(slot).copied().flatten()
    }

    fn array(&self, slots: impl Iterator<Item = Option<usize>>) -> Fallible<ArrayRef> {
        let array: PrimitiveArray<T> = slots.map(|slot| self.of(slot?)).collect();
        if self.arrow == ArrowType::Boolean {
            return arrow_cast::cast(&array, &ArrowType::Boolean).map_err(|e| e.to_string());
        }
        Ok(typed(array, &self.arrow))
    }

    fn numbers(&self, array: &ArrayRef) -> Fallible<PrimitiveArray<T>> {
        let cast;
        let array = if self.arrow == ArrowType::Boolean {
            cast = arrow_cast::cast(array, &T::DATA_TYPE).map_err(|e| e.to_string())?;
            &cast
        } else {
            array
        };
        Ok(array.as_primitive_opt::<T>().ok_or("a column is of another type")?.clone())
    }
}

impl<T: ArrowPrimitiveType> State for Extreme<T> {
    fn grow(&mut self, slots: usize) {
        self.values.resize(slots, None);
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()> {
        let values = self.numbers(rows.values()?)?;
        rows.each(|row, slot| {
            if let Some(value) = values.values().get(row) {
                self.put(slot, *value);
            }
            Ok(())
        })
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()> {
        let values = self.numbers(state_column(state, 0)?)?;
        for (value, &slot) in values.iter().zip(groups) {
            if let Some(value) = value {
                self.put(slot as usize, value);
            }
        }
        Ok(())
    }

    fn combine(&mut self, source: usize, target: usize) -> Fallible<()> {
        if let Some(value) = self.of(source) {
            self.put(target, value);
        }
        Ok(())
    }

    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>> {
        Ok(vec![self.array(entries.iter().map(|e| (e.part == 0).then_some(e.slot)))?])
    }

    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef> {
        self.array(groups.iter().map(|&g| Some(g as usize)))
    }

    fn reset(&mut self, slot: usize) {
        if let Some(value) = self.values.get_mut(slot) {
            *value = None;
        }
    }

    fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<Option<T::Native>>()
    }
}

/// Of strings and binary.
struct ExtremeBytes {
    values: Vec<Option<Box<[u8]>>>,
    arrow: ArrowType,
    keep: Ordering,
    held_bytes: usize,
}

impl ExtremeBytes {
    fn put(&mut self, slot: usize, value: &[u8]) {
        if let Some(held) = self.values.get_mut(slot)
            && held.as_ref().is_none_or(|held| value.cmp(held) == self.keep)
        {
            self.held_bytes += value.len();
            self.held_bytes -= held.as_ref().map_or(0, |old| old.len());
            *held = Some(value.into());
        }
    }

    fn of(&self, slot: usize) -> Option<&[u8]> {
        self.values.get(slot)?.as_deref()
    }

    fn array(&self, slots: impl Iterator<Item = Option<usize>>) -> Fallible<ArrayRef> {
        let bytes: BinaryArray = slots.map(|slot| self.of(slot?)).collect();
        if self.arrow == ArrowType::Utf8 {
            // what went in as text comes out as text
            return Ok(Arc::new(StringArray::try_from_binary(bytes).map_err(|e| e.to_string())?));
        }
        Ok(Arc::new(bytes))
    }
}

/// The bytes of a row of a string or binary column.
fn bytes_at(array: &ArrayRef, row: usize) -> Fallible<&[u8]> {
    match array.data_type() {
        ArrowType::Utf8 if row < array.len() => Ok(array.as_string::<i32>().value(row).as_bytes()),
        ArrowType::Binary if row < array.len() => Ok(array.as_binary::<i32>().value(row)),
        _ => Err("a column is of another type".to_owned()),
    }
}

impl State for ExtremeBytes {
    fn grow(&mut self, slots: usize) {
        self.values.resize(slots, None);
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()> {
        let values = rows.values()?;
        rows.each(|row, slot| {
            self.put(slot, bytes_at(values, row)?);
            Ok(())
        })
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()> {
        let values = state_column(state, 0)?;
        for (row, &slot) in groups.iter().enumerate() {
            if values.is_valid(row) {
                self.put(slot as usize, bytes_at(values, row)?);
            }
        }
        Ok(())
    }

    fn combine(&mut self, source: usize, target: usize) -> Fallible<()> {
        if let Some(value) = self.of(source).map(<[u8]>::to_vec) {
            self.put(target, &value);
        }
        Ok(())
    }

    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>> {
        Ok(vec![self.array(entries.iter().map(|e| (e.part == 0).then_some(e.slot)))?])
    }

    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef> {
        self.array(groups.iter().map(|&g| Some(g as usize)))
    }

    fn reset(&mut self, slot: usize) {
        if let Some(value) = self.values.get_mut(slot).and_then(Option::take) {
            self.held_bytes -= value.len();
        }
    }

    fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<Option<Box<[u8]>>>() + self.held_bytes
    }

    fn entry_bytes(&mut self, entry: Entry) -> usize {
        8 + if entry.part == 0 { self.of(entry.slot).map_or(0, <[u8]>::len) } else { 0 }
    }
}
