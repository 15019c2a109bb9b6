//! The canonical bytes of a key, its hash, and its key group.
//!
//! All three are **frozen**: checkpoints written today must find their groups with tomorrow's release, so a test pins
//! them. The bytes of a key are the bytes of its columns in order:
//!
//! | column | bytes |
//! |---|---|
//! | null | `00` |
//! | boolean | `01`, one byte 0/1 |
//! | int, date | `01`, 4 bytes little-endian |
//! | long, timestamp, timestamptz | `01`, 8 bytes little-endian |
//! | decimal | `01`, 16 bytes little-endian two's complement |
//! | string, binary | `01`, length as 4 bytes little-endian, the bytes |
//!
//! The hash is XXH3-64 (seed 0) of those bytes; the key group is its seven highest bits, so that the low bits are free
//! for hash tables. Floats are no keys: NaN and the two zeros have no one answer.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};
use xxhash_rust::xxh3::xxh3_64;

use crate::limits::KEY_GROUPS;
use crate::schema::Field;

/// Part of the key space; `0..KEY_GROUPS`.
pub type KeyGroup = u16;

const KEY_GROUP_BITS: u32 = KEY_GROUPS.trailing_zeros();

#[inline]
pub fn key_group(hash: u64) -> KeyGroup {
    // seven bits always fit
    u16::try_from(hash >> (u64::BITS - KEY_GROUP_BITS)).unwrap_or(0)
}

/// The key groups of task `task` out of `tasks`: first and one past the last. Every group has exactly one task.
pub fn key_group_range(task: usize, tasks: usize) -> (KeyGroup, KeyGroup) {
    let groups = usize::from(KEY_GROUPS);
    let bound = |i: usize| u16::try_from((i * groups).div_ceil(tasks.max(1)).min(groups)).unwrap_or(KEY_GROUPS);
    (bound(task), bound(task + 1))
}

/// The task that owns a key group.
pub fn task_of_key_group(group: KeyGroup, tasks: usize) -> usize {
    usize::from(group) * tasks / usize::from(KEY_GROUPS)
}

/// The keys of a batch's rows, encoded once and shared by all tasks that receive rows of it.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
    /// one more than there are rows
    offsets: Vec<u32>,
    hashes: Vec<u64>,
}

impl Keys {
    #[inline]
    pub fn hash(&self, row: usize) -> u64 {
        self.hashes.get(row).copied().unwrap_or_default()
    }

    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    #[inline]
    pub fn bytes(&self, row: usize) -> &[u8] {
        let at = |i: usize| self.offsets.get(i).map_or(0, |&o| o as usize);
        self.bytes.get(at(row)..at(row + 1)).unwrap_or_default()
    }
}

/// Keys one after the other: of many groups there is one allocation, not one each.
#[derive(Clone, Debug, Default)]
pub struct KeyList {
    bytes: Vec<u8>,
    /// where each key ends
    ends: Vec<usize>,
}

impl KeyList {
    pub fn with_capacity(keys: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(keys) }
    }

    pub fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a column of type {0} cannot be part of a key")]
pub struct NotAKey(pub DataType);

/// Encodes the key columns of all rows.
pub fn encode(columns: &[ArrayRef], rows: usize) -> Result<Keys, NotAKey> {
    let mut keys = Keys {
        bytes: Vec::with_capacity(rows * 24),
        offsets: Vec::with_capacity(rows + 1),
        hashes: Vec::with_capacity(rows),
    };
    keys.offsets.push(0);
    // One string column without nulls is what nearly every pipeline has.
    if let [only] = columns
        && only.data_type() == &DataType::Utf8
        && only.null_count() == 0
    {
        let strings = only.as_string::<i32>();
        for row in 0..rows {
            push_bytes(&mut keys.bytes, strings.value(row).as_bytes());
            seal(&mut keys);
        }
        return Ok(keys);
    }
    let writers = columns.iter().map(Writer::new).collect::<Result<Vec<_>, _>>()?;
    for row in 0..rows {
        for writer in &writers {
            writer.write(row, &mut keys.bytes);
        }
        seal(&mut keys);
    }
    Ok(keys)
}

#[inline]
fn seal(keys: &mut Keys) {
    let from = keys.offsets.last().map_or(0, |&o| o as usize);
    keys.hashes.push(xxh3_64(keys.bytes.get(from..).unwrap_or_default()));
    // a batch's payload is bounded far below 4 GiB (limits::BATCH_BYTES_MAX, and 2 GiB by Arrow's own offsets)
    keys.offsets.push(u32::try_from(keys.bytes.len()).unwrap_or(u32::MAX));
}

#[inline]
fn push_bytes(into: &mut Vec<u8>, value: &[u8]) {
    into.push(1);
    into.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend_from_slice(value);
}

/// Writes one column's part of a key.
enum Writer {
    Boolean(ArrayRef),
    Four(Arc<dyn Array>, fn(&ArrayRef, usize) -> [u8; 4]),
    Eight(ArrayRef, fn(&ArrayRef, usize) -> [u8; 8]),
    Sixteen(ArrayRef),
    Text(ArrayRef),
    Bytes(ArrayRef),
}

impl Writer {
    fn new(column: &ArrayRef) -> Result<Self, NotAKey> {
        let c = Arc::clone(column);
        Ok(match column.data_type() {
            DataType::Boolean => Self::Boolean(c),
            DataType::Int32 => Self::Four(c, |a, i| a.as_primitive::<Int32Type>().value(i).to_le_bytes()),
            DataType::Date32 => Self::Four(c, |a, i| a.as_primitive::<Date32Type>().value(i).to_le_bytes()),
            DataType::Int64 => Self::Eight(c, |a, i| a.as_primitive::<Int64Type>().value(i).to_le_bytes()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Eight(c, |a, i| a.as_primitive::<TimestampMicrosecondType>().value(i).to_le_bytes())
            }
            DataType::Decimal128(..) => Self::Sixteen(c),
            DataType::Utf8 => Self::Text(c),
            DataType::Binary => Self::Bytes(c),
            other => return Err(NotAKey(other.clone())),
        })
    }

    fn write(&self, row: usize, into: &mut Vec<u8>) {
        let array = match self {
            Self::Boolean(a) | Self::Sixteen(a) | Self::Text(a) | Self::Bytes(a) => a,
            Self::Four(a, _) => a,
            Self::Eight(a, _) => a,
        };
        if array.is_null(row) {
            into.push(0);
            return;
        }
        match self {
            Self::Boolean(a) => into.extend_from_slice(&[1, u8::from(a.as_boolean().value(row))]),
            Self::Four(a, get) => {
                into.push(1);
                into.extend_from_slice(&get(a, row));
            }
            Self::Eight(a, get) => {
                into.push(1);
                into.extend_from_slice(&get(a, row));
            }
            Self::Sixteen(a) => {
                into.push(1);
                into.extend_from_slice(&a.as_primitive::<Decimal128Type>().value(row).to_le_bytes());
            }
            Self::Text(a) => push_bytes(into, a.as_string::<i32>().value(row).as_bytes()),
            Self::Bytes(a) => push_bytes(into, a.as_binary::<i32>().value(row)),
        }
    }
}

/// The bytes are not those of a key of these columns: damaged state, or another pipeline's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a key of these columns")]
pub struct BadKey;

/// The inverse of [`encode`]: one array per key column, one row per key.
pub fn decode<'a>(fields: &[Field], keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, BadKey> {
    let mut builders = fields.iter().map(|f| Reader::new(f.data_type)).collect::<Result<Vec<_>, _>>()?;
    for key in keys {
        let mut rest = key;
        for builder in &mut builders {
            builder.read(&mut rest)?;
        }
        if !rest.is_empty() {
            return Err(BadKey);
        }
    }
    builders.into_iter().map(Reader::finish).collect()
}

/// Reads one column's part of each key.
enum Reader {
    Boolean(BooleanBuilder),
    Int(Int32Builder),
    Date(Date32Builder),
    Long(Int64Builder),
    Timestamp(TimestampMicrosecondBuilder, crate::schema::DataType),
    Decimal(Decimal128Builder, crate::schema::DataType),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
}

impl Reader {
    fn new(data_type: crate::schema::DataType) -> Result<Self, BadKey> {
        use crate::schema::DataType as T;
        Ok(match data_type {
            T::Boolean => Self::Boolean(BooleanBuilder::new()),
            T::Int => Self::Int(Int32Builder::new()),
            T::Date => Self::Date(Date32Builder::new()),
            T::Long => Self::Long(Int64Builder::new()),
            T::Timestamp | T::Timestamptz => Self::Timestamp(TimestampMicrosecondBuilder::new(), data_type),
            T::Decimal { .. } => Self::Decimal(Decimal128Builder::new(), data_type),
            T::String => Self::Text(StringBuilder::new()),
            T::Binary => Self::Bytes(BinaryBuilder::new()),
            T::Float | T::Double | T::ListLong | T::ListDouble | T::ListString => return Err(BadKey),
        })
    }

    fn read(&mut self, rest: &mut &[u8]) -> Result<(), BadKey> {
        let valid = match take::<1>(rest)? {
            [0] => false,
            [1] => true,
            _ => return Err(BadKey),
        };
        match self {
            Self::Boolean(b) => b.append_option(if valid { Some(take::<1>(rest)? == [1]) } else { None }),
            Self::Int(b) => b.append_option(if valid { Some(i32::from_le_bytes(take(rest)?)) } else { None }),
            Self::Date(b) => b.append_option(if valid { Some(i32::from_le_bytes(take(rest)?)) } else { None }),
            Self::Long(b) => b.append_option(if valid { Some(i64::from_le_bytes(take(rest)?)) } else { None }),
            Self::Timestamp(b, _) => b.append_option(if valid { Some(i64::from_le_bytes(take(rest)?)) } else { None }),
            Self::Decimal(b, _) => b.append_option(if valid { Some(i128::from_le_bytes(take(rest)?)) } else { None }),
            Self::Text(b) if valid => b.append_value(std::str::from_utf8(take_bytes(rest)?).map_err(|_| BadKey)?),
            Self::Text(b) => b.append_null(),
            Self::Bytes(b) if valid => b.append_value(take_bytes(rest)?),
            Self::Bytes(b) => b.append_null(),
        }
        Ok(())
    }

    fn finish(self) -> Result<ArrayRef, BadKey> {
        Ok(match self {
            Self::Boolean(mut b) => Arc::new(b.finish()),
            Self::Int(mut b) => Arc::new(b.finish()),
            Self::Date(mut b) => Arc::new(b.finish()),
            Self::Long(mut b) => Arc::new(b.finish()),
            Self::Timestamp(mut b, t) => Arc::new(b.finish().with_data_type(t.to_arrow())),
            Self::Decimal(mut b, t) => Arc::new(b.finish().with_data_type(t.to_arrow())),
            Self::Text(mut b) => Arc::new(b.finish()),
            Self::Bytes(mut b) => Arc::new(b.finish()),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadKey> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(BadKey)?;
    *rest = tail;
    Ok(*head)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadKey> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(length).ok_or(BadKey)?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use arrow_array::{BooleanArray, Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    fn strings(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    /// If this test fails, every checkpoint in the world has lost its groups. Do not change the expectation.
    #[test]
    fn canonical_bytes_hash_and_group_are_frozen() {
        let keys = encode(&[strings(&[Some("campaign-000042")])], 1).unwrap();
        assert_eq!(keys.bytes(0), b"\x01\x0f\0\0\0campaign-000042");
        assert_eq!(keys.hash(0), xxh3_64(b"\x01\x0f\0\0\0campaign-000042"));
        assert_eq!(keys.hash(0), FROZEN_HASH);
        assert_eq!(key_group(keys.hash(0)), FROZEN_GROUP);

        let composite: Vec<ArrayRef> = vec![
            strings(&[Some("a"), None]),
            Arc::new(Int64Array::from(vec![Some(-2), Some(7)])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
        ];
        let keys = encode(&composite, 2).unwrap();
        assert_eq!(keys.bytes(0), b"\x01\x01\0\0\0a\x01\xfe\xff\xff\xff\xff\xff\xff\xff\x01\x01");
        assert_eq!(keys.bytes(1), b"\0\x01\x07\0\0\0\0\0\0\0\0");
    }
    // computed with another implementation of XXH3-64 (the Python package xxhash)
    const FROZEN_HASH: u64 = 2_620_910_908_643_171_727;
    const FROZEN_GROUP: u16 = 18;

    #[test]
    fn the_fast_path_agrees_with_the_general_one() {
        let fast = encode(&[strings(&[Some("x"), Some(""), Some("zebra")])], 3).unwrap();
        let general = encode(&[strings(&[Some("x"), Some(""), Some("zebra"), None])], 4).unwrap();
        for row in 0..3 {
            assert_eq!(fast.bytes(row), general.bytes(row));
            assert_eq!(fast.hash(row), general.hash(row));
        }
    }

    #[test]
    fn decoding_gives_the_columns_back() {
        use crate::schema::DataType as T;
        let columns: Vec<ArrayRef> = vec![
            strings(&[Some("a"), None, Some("")]),
            Arc::new(Int64Array::from(vec![Some(-2), Some(7), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        ];
        let fields =
            [Field::new("s", T::String, true), Field::new("l", T::Long, true), Field::new("b", T::Boolean, true)];
        let keys = encode(&columns, 3).unwrap();
        let back = decode(&fields, (0..3).map(|i| keys.bytes(i))).unwrap();
        for (a, b) in columns.iter().zip(&back) {
            assert_eq!(a, b);
        }
        assert_eq!(decode(&fields[..1], (0..3).map(|i| keys.bytes(i))).unwrap_err(), BadKey);
    }

    #[test]
    fn a_list_gives_its_keys_back() {
        let keys: [&[u8]; 5] = [b"a", b"", b"bcd", b"", b"e"];
        let mut list = KeyList::with_capacity(2, 1);
        assert_eq!(list.iter().count(), 0);
        keys.iter().for_each(|key| list.push(key));
        assert_eq!(list.iter().collect::<Vec<_>>(), keys);
    }

    #[test]
    fn a_float_is_no_key() {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        assert!(encode(&[column], 1).is_err());
    }

    proptest! {
        #[test]
        fn every_group_has_exactly_the_task_whose_range_holds_it(tasks in 1_usize..=128, group in 0_u16..128) {
            let task = task_of_key_group(group, tasks);
            let (first, end) = key_group_range(task, tasks);
            prop_assert!(first <= group && group < end);
            let owners = (0..tasks).filter(|&t| { let (a, b) = key_group_range(t, tasks); a <= group && group < b }).count();
            prop_assert_eq!(owners, 1);
        }
    }
}
