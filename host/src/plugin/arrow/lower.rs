//! Arrow → WIT. Borrows where the layouts agree; what a slice or an odd null needs otherwise is rebuilt here, so that the
//! guest may rely on: offsets from 0, bitmaps from bit 0 with zero bits past the end, no bytes under a null, dictionary
//! keys in range and only values that occur.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, UInt32Type,
};
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::DataType as ArrowType;
use millrace_core::schema::DataType;

use crate::plugin::bindings::types::{
    ColumnDataParam, ColumnParam, DictionaryParam, Encoding, ListFloat64DataParam, ListInt64DataParam,
    ListUtf8DataParam, VarBytesParam,
};

/// A column ready to cross. Owns what had to be rebuilt, borrows the rest of the array.
pub(in crate::plugin) struct Lowered<'a> {
    data: Data<'a>,
    validity: Option<Cow<'a, [u8]>>,
}

enum Data<'a> {
    Missing,
    Boolean(Cow<'a, [u8]>),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Decimal(Cow<'a, [u64]>),
    Date(&'a [i32]),
    Timestamp(&'a [i64]),
    Timestamptz(&'a [i64]),
    Utf8(Bytes<'a>),
    Dictionary(Cow<'a, [u32]>, Bytes<'a>),
    Binary(Bytes<'a>),
    ListInt64(Cow<'a, [u32]>, Cow<'a, [i64]>),
    ListFloat64(Cow<'a, [u32]>, Cow<'a, [f64]>),
    ListUtf8(Cow<'a, [u32]>, Bytes<'a>),
}

/// Offsets from 0, and the bytes that they cover.
struct Bytes<'a> {
    offsets: Cow<'a, [u32]>,
    data: Cow<'a, [u8]>,
}

impl Bytes<'_> {
    fn param(&self) -> VarBytesParam<'_> {
        VarBytesParam { offsets: &self.offsets, data: &self.data }
    }
}

impl Lowered<'_> {
    pub(in crate::plugin) const MISSING: Lowered<'static> = Lowered { data: Data::Missing, validity: None };

    pub(in crate::plugin) fn param(&self) -> ColumnParam<'_> {
        use ColumnDataParam as P;
        let data = match &self.data {
            Data::Missing => P::Missing,
            Data::Boolean(bits) => P::Boolean(bits),
            Data::Int32(v) => P::Int32(v),
            Data::Int64(v) => P::Int64(v),
            Data::Float32(v) => P::Float32(v),
            Data::Float64(v) => P::Float64(v),
            Data::Decimal(words) => P::Decimal(words),
            Data::Date(v) => P::Date(v),
            Data::Timestamp(v) => P::Timestamp(v),
            Data::Timestamptz(v) => P::Timestamptz(v),
            Data::Utf8(bytes) => P::Utf8(bytes.param()),
            Data::Dictionary(keys, values) => P::Utf8Dictionary(DictionaryParam { keys, values: values.param() }),
            Data::Binary(bytes) => P::Binary(bytes.param()),
            Data::ListInt64(offsets, values) => P::ListInt64(ListInt64DataParam { offsets, values }),
            Data::ListFloat64(offsets, values) => P::ListFloat64(ListFloat64DataParam { offsets, values }),
            Data::ListUtf8(offsets, values) => P::ListUtf8(ListUtf8DataParam { offsets, values: values.param() }),
        };
        ColumnParam { data, validity: self.validity.as_deref() }
    }
}

/// Prepares `array`, which must have the Arrow form of `data_type`, for a plugin that wants strings in `encoding`.
pub(in crate::plugin) fn lower(
    array: &ArrayRef,
    data_type: DataType,
    encoding: Encoding,
) -> Result<Lowered<'_>, String> {
    let mismatch = || {
        let arrow = array.data_type();
        format!("the host has a column of Arrow type {arrow} where the plugin was promised {data_type}")
    };
    if let ArrowType::Dictionary(key, value) = array.data_type() {
        if data_type != DataType::String || **value != ArrowType::Utf8 {
            return Err(mismatch());
        }
        let (keys, values) = match **key {
            ArrowType::Int32 => {
                let dictionary = array.as_dictionary::<Int32Type>();
                (reinterpret_i32(dictionary.keys().values()), dictionary.values())
            }
            ArrowType::UInt32 => {
                let dictionary = array.as_dictionary::<UInt32Type>();
                (&**dictionary.keys().values(), dictionary.values())
            }
            _ => return Err(mismatch()),
        };
        let nulls = array.logical_nulls().filter(|n| n.null_count() > 0);
        return lower_dictionary(keys, values.as_string(), nulls.as_ref(), encoding);
    }
    if DataType::from_arrow(array.data_type()) != Some(data_type) {
        return Err(mismatch());
    }
    let nulls = array.nulls().filter(|n| n.null_count() > 0);
    let data = match data_type {
        DataType::Boolean => Data::Boolean(bitmap(array.as_boolean().values())),
        DataType::Int => Data::Int32(array.as_primitive::<Int32Type>().values()),
        DataType::Long => Data::Int64(array.as_primitive::<Int64Type>().values()),
        DataType::Float => Data::Float32(array.as_primitive::<Float32Type>().values()),
        DataType::Double => Data::Float64(array.as_primitive::<Float64Type>().values()),
        DataType::Decimal { .. } => Data::Decimal(decimal_words(array.as_primitive::<Decimal128Type>().values())),
        DataType::Date => Data::Date(array.as_primitive::<Date32Type>().values()),
        DataType::Timestamp => Data::Timestamp(array.as_primitive::<TimestampMicrosecondType>().values()),
        DataType::Timestamptz => Data::Timestamptz(array.as_primitive::<TimestampMicrosecondType>().values()),
        DataType::String if encoding == Encoding::Dictionary => {
            let (keys, values) = encode(array.as_string(), nulls)?;
            Data::Dictionary(Cow::Owned(keys), values)
        }
        DataType::String => {
            let strings = array.as_string::<i32>();
            Data::Utf8(var_bytes(strings.value_offsets(), strings.value_data(), nulls)?)
        }
        DataType::Binary => {
            let blobs = array.as_binary::<i32>();
            Data::Binary(var_bytes(blobs.value_offsets(), blobs.value_data(), nulls)?)
        }
        DataType::ListLong | DataType::ListDouble | DataType::ListString => {
            let list = array.as_list::<i32>();
            if list.values().null_count() > 0 {
                return Err("the host has a list with null elements; a plugin's lists have none".to_owned());
            }
            let (offsets, span) = rebase(list.value_offsets(), nulls)?;
            match data_type {
                DataType::ListLong => {
                    Data::ListInt64(offsets, span.of(list.values().as_primitive::<Int64Type>().values())?)
                }
                DataType::ListDouble => {
                    Data::ListFloat64(offsets, span.of(list.values().as_primitive::<Float64Type>().values())?)
                }
                _ => Data::ListUtf8(offsets, span.of_strings(list.values().as_string())?),
            }
        }
    };
    Ok(Lowered { data, validity: nulls.map(|n| bitmap(n.inner())) })
}

/// From bit 0, with zero bits past the end.
fn bitmap(bits: &BooleanBuffer) -> Cow<'_, [u8]> {
    let bytes = bits.len().div_ceil(8);
    let tail = bits.len() % 8;
    if bits.offset().is_multiple_of(8)
        && let Some(whole) = bits.values().get(bits.offset() / 8..bits.offset() / 8 + bytes)
        && (tail == 0 || whole.last().is_none_or(|last| last >> tail == 0))
    {
        return Cow::Borrowed(whole);
    }
    let mut packed = bits.sliced().as_slice().to_vec();
    packed.truncate(bytes);
    if tail != 0
        && let Some(last) = packed.last_mut()
    {
        *last &= (1_u8 << tail) - 1;
    }
    Cow::Owned(packed)
}

/// Which elements of a values buffer belong to the rows.
enum Span {
    Whole(Range<usize>),
    /// row by row, since there are values under nulls
    Parts(Vec<Range<usize>>),
}

impl Span {
    fn of<T: Copy>(self, values: &[T]) -> Result<Cow<'_, [T]>, String> {
        let part = |range: Range<usize>| values.get(range).ok_or_else(|| "offsets beyond the values".to_owned());
        match self {
            Self::Whole(range) => Ok(Cow::Borrowed(part(range)?)),
            Self::Parts(ranges) => {
                let mut gathered = Vec::new();
                for range in ranges {
                    gathered.extend_from_slice(part(range)?);
                }
                Ok(Cow::Owned(gathered))
            }
        }
    }

    fn of_strings(self, strings: &StringArray) -> Result<Bytes<'_>, String> {
        match self {
            Self::Whole(range) => {
                let offsets = strings.value_offsets().get(range.start..=range.end);
                var_bytes(offsets.ok_or("offsets beyond the values")?, strings.value_data(), None)
            }
            Self::Parts(ranges) => {
                let mut gathered = Gathered::new();
                for row in ranges.into_iter().flatten() {
                    gathered.push(strings.value(row).as_bytes())?;
                }
                Ok(gathered.finish())
            }
        }
    }
}

fn var_bytes<'a>(offsets: &'a [i32], data: &'a [u8], nulls: Option<&NullBuffer>) -> Result<Bytes<'a>, String> {
    let (offsets, span) = rebase(offsets, nulls)?;
    Ok(Bytes { offsets, data: span.of(data)? })
}

/// Offsets from 0 in which null rows have length 0.
fn rebase<'a>(offsets: &'a [i32], nulls: Option<&NullBuffer>) -> Result<(Cow<'a, [u32]>, Span), String> {
    let offsets = reinterpret_i32(offsets);
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
        // Arrow lets an empty array have no offsets at all.
        return Ok((Cow::Borrowed(&[0]), Span::Whole(0..0)));
    };
    let row = |i: usize| match offsets.get(i..i + 2) {
        Some(&[start, end]) => start as usize..end as usize,
        _ => 0..0,
    };
    let bytes_under_nulls = nulls.is_some_and(|n| (0..n.len()).filter(|&i| n.is_null(i)).any(|i| !row(i).is_empty()));
    if bytes_under_nulls && let Some(nulls) = nulls {
        let parts: Vec<_> = (0..nulls.len()).map(|i| if nulls.is_null(i) { 0..0 } else { row(i) }).collect();
        let mut rebased = Vec::with_capacity(offsets.len());
        let mut end = 0_u32;
        rebased.push(end);
        for part in &parts {
            end = u32::try_from(part.len()).ok().and_then(|n| end.checked_add(n)).ok_or_else(too_large)?;
            rebased.push(end);
        }
        return Ok((Cow::Owned(rebased), Span::Parts(parts)));
    }
    let span = Span::Whole(first as usize..last as usize);
    if first == 0 {
        return Ok((Cow::Borrowed(offsets), span));
    }
    Ok((Cow::Owned(offsets.iter().map(|o| o - first).collect()), span))
}

fn too_large() -> String {
    "the host has more than 4 GiB of strings in one column of a batch".to_owned()
}

/// Strings collected one by one.
struct Gathered {
    offsets: Vec<u32>,
    data: Vec<u8>,
}

impl Gathered {
    fn new() -> Self {
        Self { offsets: vec![0], data: Vec::new() }
    }

    fn push(&mut self, value: &[u8]) -> Result<(), String> {
        self.data.extend_from_slice(value);
        self.offsets.push(u32::try_from(self.data.len()).map_err(|_| too_large())?);
        Ok(())
    }

    fn finish(self) -> Bytes<'static> {
        Bytes { offsets: Cow::Owned(self.offsets), data: Cow::Owned(self.data) }
    }
}

/// An Arrow dictionary: as it is if every value occurs, else without the values that do not; unpacked for a plugin that
/// takes no dictionaries.
fn lower_dictionary<'a>(
    keys: &'a [u32],
    values: &'a StringArray,
    nulls: Option<&NullBuffer>,
    encoding: Encoding,
) -> Result<Lowered<'a>, String> {
    let validity = nulls.map(|n| Cow::Owned(bitmap(n.inner()).into_owned()));
    let is_null = |row: usize| nulls.is_some_and(|n| n.is_null(row));
    let value = |key: u32| match key as usize {
        key if key < values.len() => Ok(values.value(key).as_bytes()),
        key => Err(format!("the host has dictionary key {key} of {} values", values.len())),
    };
    if encoding == Encoding::Plain {
        let mut gathered = Gathered::new();
        for (row, &key) in keys.iter().enumerate() {
            gathered.push(if is_null(row) { b"" } else { value(key)? })?;
        }
        return Ok(Lowered { data: Data::Utf8(gathered.finish()), validity });
    }
    let mut used = vec![false; values.len()];
    for (row, &key) in keys.iter().enumerate() {
        if !is_null(row)
            && let Some(used) = used.get_mut(key as usize)
        {
            *used = true;
        }
    }
    if nulls.is_none() && !used.contains(&false) && values.null_count() == 0 {
        let values = var_bytes(values.value_offsets(), values.value_data(), None)?;
        return Ok(Lowered { data: Data::Dictionary(Cow::Borrowed(keys), values), validity });
    }
    let mut renamed = vec![0_u32; values.len()];
    let mut gathered = Gathered::new();
    let mut next = 0_u32;
    for (key, name) in renamed.iter_mut().enumerate().filter(|(key, _)| used.get(*key) == Some(&true)) {
        *name = next;
        next += 1;
        gathered.push(values.value(key).as_bytes())?;
    }
    if next == 0 && !keys.is_empty() {
        // All rows are null: their keys have to point at something.
        gathered.push(b"")?;
    }
    let rename = |(row, &key): (usize, &u32)| {
        if is_null(row) { 0 } else { renamed.get(key as usize).copied().unwrap_or_default() }
    };
    let keys = keys.iter().enumerate().map(rename).collect();
    Ok(Lowered { data: Data::Dictionary(Cow::Owned(keys), gathered.finish()), validity })
}

/// Plain strings as a dictionary, for a plugin that takes nothing else.
fn encode(strings: &StringArray, nulls: Option<&NullBuffer>) -> Result<(Vec<u32>, Bytes<'static>), String> {
    let mut known = HashMap::new();
    let mut gathered = Gathered::new();
    let mut keys = Vec::with_capacity(strings.len());
    for row in 0..strings.len() {
        if nulls.is_some_and(|n| n.is_null(row)) {
            keys.push(0);
            continue;
        }
        let value = strings.value(row);
        let next = u32::try_from(known.len()).map_err(|_| too_large())?;
        let key = *known.entry(value).or_insert(next);
        if key == next {
            gathered.push(value.as_bytes())?;
        }
        keys.push(key);
    }
    if known.is_empty() && !keys.is_empty() {
        gathered.push(b"")?;
    }
    Ok((keys, gathered.finish()))
}

/// Arrow's offsets and keys are never negative where they mean something.
fn reinterpret_i32(values: &[i32]) -> &[u32] {
    // SAFETY: i32 and u32 have the same size and alignment, and every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// Two words a value, the low one first.
fn decimal_words(values: &[i128]) -> Cow<'_, [u64]> {
    if cfg!(target_endian = "little") {
        // SAFETY: an i128 has the size of two u64 and at least their alignment; every bit pattern is valid for both; on
        // a little-endian machine the low word comes first in memory.
        Cow::Borrowed(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len() * 2) })
    } else {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "this takes a two's complement number apart into its words"
        )]
        Cow::Owned(values.iter().flat_map(|v| [*v as u64, (*v >> 64) as u64]).collect())
    }
}
