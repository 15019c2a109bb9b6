//! Column → the value of a row: typed readers, opened once per batch.
//!
//! A reader checks the whole column once (length, type, nulls, offsets, UTF-8); reading a row then costs a load. Strings
//! are borrowed from the batch, plain or dictionary-encoded, and never copied.

use std::ops::Range;

use crate::column::{BytesRef, ColumnRef, DataRef, DataType, Error, Wanted, bit};
use crate::value::{Date, Decimal, Timestamp, Timestamptz, decimal_value};

/// A row of the input: derive it with `#[derive(Input)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no input row",
    note = "put `#[derive(Input)]` above the struct: its fields are the columns that the plugin wants"
)]
pub trait InputRow<'a>: Sized {
    type Reader;
    fn wanted() -> Vec<Wanted>;
    fn open(columns: &[ColumnRef<'a>], rows: usize) -> Result<Self::Reader, Error>;
    fn get(reader: &Self::Reader, row: usize) -> Self;
}

/// A value that a field of an input row can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a column",
    label = "not an input type",
    note = "input fields are &str, &[u8], i64, i32, f64, f32, bool, Timestamp, Timestamptz, Date, Decimal<P, S>, &[i64], &[f64], Strings, or an Option of these"
)]
pub trait InputField<'a>: Sized {
    const TYPE: DataType;
    const NULLABLE: bool;
    type Reader;
    fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String>;
    fn get(reader: &Self::Reader, row: usize) -> Self;
}

/// A value that is not null by itself.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a column",
    label = "not an input type",
    note = "input fields are &str, &[u8], i64, i32, f64, f32, bool, Timestamp, Timestamptz, Date, Decimal<P, S>, &[i64], &[f64], Strings, or an Option of these"
)]
pub trait Required<'a>: InputField<'a> {}

fn other(wanted: DataType, found: &DataRef<'_>) -> String {
    format!("is {}, not {wanted}", found.kind())
}

/// A column of `rows` values without a null.
fn full<'a, T>(values: &'a [T], width: usize, column: &ColumnRef<'_>, rows: usize) -> Result<&'a [T], String> {
    if values.len() != rows * width {
        return Err(format!("has {} values for {rows} rows", values.len() / width));
    }
    no_nulls(column, rows)?;
    Ok(values)
}

fn no_nulls(column: &ColumnRef<'_>, rows: usize) -> Result<(), String> {
    match column.validity {
        Some(bits) if !all_set(bits, rows) => Err("holds a null, and the plugin takes none".into()),
        _ => Ok(()),
    }
}

/// Whether the first `rows` bits are all 1.
fn all_set(bits: &[u8], rows: usize) -> bool {
    let (whole, rest) = (rows / 8, rows % 8);
    bits.get(..whole).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0xFF))
        && (0..rest).all(|i| bit(bits, whole * 8 + i))
}

macro_rules! numbers {
    ($($rust:ty, $data:ident, $type:expr, $wrap:expr;)+) => { $(
        impl Required<'_> for $rust {}
        impl<'a> InputField<'a> for $rust {
            const TYPE: DataType = $type;
            const NULLABLE: bool = false;
            type Reader = &'a [<$rust as Raw>::Raw];
            fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String> {
                match column.data {
                    DataRef::$data(values) => full(values, 1, &column, rows),
                    other_data => Err(other($type, &other_data)),
                }
            }
            #[inline]
            fn get(reader: &Self::Reader, row: usize) -> Self {
                $wrap(reader.get(row).copied().unwrap_or_default())
            }
        }
    )+ };
}

/// What a number is at the boundary.
#[doc(hidden)]
pub trait Raw {
    type Raw;
}
macro_rules! raw { ($($rust:ty = $raw:ty),+) => { $(impl Raw for $rust { type Raw = $raw; })+ } }
raw!(i32 = i32, i64 = i64, f32 = f32, f64 = f64, Date = i32, Timestamp = i64, Timestamptz = i64);

numbers! {
    i32, Int32, DataType::Int32, std::convert::identity;
    i64, Int64, DataType::Int64, std::convert::identity;
    f32, Float32, DataType::Float32, std::convert::identity;
    f64, Float64, DataType::Float64, std::convert::identity;
    Date, Date, DataType::Date, Date;
    Timestamp, Timestamp, DataType::Timestamp, Timestamp;
    Timestamptz, Timestamptz, DataType::Timestamptz, Timestamptz;
}

impl<const P: u8, const S: u8> Required<'_> for Decimal<P, S> {}
impl<'a, const P: u8, const S: u8> InputField<'a> for Decimal<P, S> {
    const TYPE: DataType = DataType::Decimal { precision: P, scale: S };
    const NULLABLE: bool = false;
    type Reader = &'a [[u64; 2]];
    fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String> {
        match column.data {
            DataRef::Decimal(words) => Ok(full(words, 2, &column, rows)?.as_chunks::<2>().0),
            data => Err(other(Self::TYPE, &data)),
        }
    }
    #[inline]
    fn get(reader: &Self::Reader, row: usize) -> Self {
        reader.get(row).map_or(Self(0), |[low, high]| Self(decimal_value(*low, *high)))
    }
}

impl Required<'_> for bool {}
impl<'a> InputField<'a> for bool {
    const TYPE: DataType = DataType::Boolean;
    const NULLABLE: bool = false;
    type Reader = &'a [u8];
    fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String> {
        match column.data {
            DataRef::Boolean(bits) if bits.len() == rows.div_ceil(8) => no_nulls(&column, rows).map(|()| bits),
            DataRef::Boolean(bits) => Err(format!("has {} bytes of bits for {rows} rows", bits.len())),
            data => Err(other(Self::TYPE, &data)),
        }
    }
    #[inline]
    fn get(reader: &Self::Reader, row: usize) -> Self {
        bit(reader, row)
    }
}

/// Strings that are known to be UTF-8, each: a whole column, or the list of a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strings<'a> {
    offsets: &'a [u32],
    data: &'a [u8],
}

impl<'a> Strings<'a> {
    /// Checks once, for all rows: offsets never decrease and stay within the data; the data is UTF-8; no string begins
    /// within a character.
    pub fn within(bytes: BytesRef<'a>) -> Result<Self, Error> {
        let BytesRef { offsets, data } = bytes;
        let broken = |what: &str| Err(Error::Input(format!("a string column's {what}")));
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return broken("offsets are missing") };
        if !offsets.is_sorted() {
            return broken("offsets decrease");
        }
        let Some(used) = data.get(*first as usize..*last as usize) else { return broken("offsets leave its data") };
        if !used.is_ascii() {
            let Ok(text) = str::from_utf8(used) else { return broken("data is not UTF-8") };
            if offsets.iter().any(|o| !text.is_char_boundary((o - first) as usize)) {
                return broken("offsets cut a character");
            }
        }
        Ok(Self { offsets, data })
    }

    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let strings = *self;
        (0..strings.len()).map(move |i| strings.at(i))
    }

    /// The string at a place; past the last one, the empty string.
    #[inline]
    pub fn at(&self, row: usize) -> &'a str {
        let (Some(start), Some(end)) = (self.offsets.get(row), self.offsets.get(row + 1)) else { return "" };
        // SAFETY: `within` has checked that all offsets are in order and within the data, that the data between the first
        // and the last is UTF-8, and that each offset is at the edge of a character.
        unsafe { str::from_utf8_unchecked(self.data.get_unchecked(*start as usize..*end as usize)) }
    }
}

/// Strings, plain or behind dictionary keys.
#[derive(Debug)]
pub enum StringReader<'a> {
    Plain(Strings<'a>),
    Dictionary { keys: &'a [u32], values: Strings<'a> },
}

impl<'a> Required<'a> for &'a str {}
impl<'a> InputField<'a> for &'a str {
    const TYPE: DataType = DataType::Utf8;
    const NULLABLE: bool = false;
    type Reader = StringReader<'a>;
    fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String> {
        no_nulls(&column, rows)?;
        let check = |bytes| Strings::within(bytes).map_err(|e| format!("is damaged: {e}"));
        let (found, reader) = match column.data {
            DataRef::Utf8(bytes) => {
                let strings = check(bytes)?;
                (strings.len(), StringReader::Plain(strings))
            }
            DataRef::Dictionary { keys, values } => {
                let values = check(values)?;
                if keys.iter().any(|k| *k as usize >= values.len()) {
                    return Err("has a dictionary key out of range".into());
                }
                (keys.len(), StringReader::Dictionary { keys, values })
            }
            data => return Err(other(Self::TYPE, &data)),
        };
        if found != rows {
            return Err(format!("has {found} values for {rows} rows"));
        }
        Ok(reader)
    }
    #[inline]
    fn get(reader: &Self::Reader, row: usize) -> Self {
        match reader {
            StringReader::Plain(strings) => strings.at(row),
            StringReader::Dictionary { keys, values } => keys.get(row).map_or("", |k| values.at(*k as usize)),
        }
    }
}

impl<'a> Required<'a> for &'a [u8] {}
impl<'a> InputField<'a> for &'a [u8] {
    const TYPE: DataType = DataType::Binary;
    const NULLABLE: bool = false;
    type Reader = BytesRef<'a>;
    fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String> {
        no_nulls(&column, rows)?;
        match column.data {
            DataRef::Binary(bytes) => check_offsets(bytes.offsets, bytes.data.len(), rows).map(|()| bytes),
            data => Err(other(Self::TYPE, &data)),
        }
    }
    #[inline]
    fn get(reader: &Self::Reader, row: usize) -> Self {
        bytes_at(*reader, row).unwrap_or_default()
    }
}

/// Offsets of `rows` values never decrease and stay within what they cut.
fn check_offsets(offsets: &[u32], length: usize, rows: usize) -> Result<(), String> {
    let fits =
        offsets.len() == rows + 1 && offsets.is_sorted() && offsets.last().is_some_and(|last| *last as usize <= length);
    if fits { Ok(()) } else { Err("has offsets that do not fit".into()) }
}

macro_rules! lists {
    ($($rust:ty, $data:ident;)+) => { $(
        impl<'a> Required<'a> for &'a [$rust] {}
        impl<'a> InputField<'a> for &'a [$rust] {
            const TYPE: DataType = DataType::$data;
            const NULLABLE: bool = false;
            type Reader = (&'a [u32], &'a [$rust]);
            fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String> {
                no_nulls(&column, rows)?;
                match column.data {
                    DataRef::$data { offsets, values } => {
                        check_offsets(offsets, values.len(), rows).map(|()| (offsets, values))
                    }
                    data => Err(other(Self::TYPE, &data)),
                }
            }
            #[inline]
            fn get((offsets, values): &Self::Reader, row: usize) -> Self {
                range_at(offsets, row).and_then(|r| values.get(r)).unwrap_or_default()
            }
        }
    )+ };
}

lists! {
    i64, ListInt64;
    f64, ListFloat64;
}

impl<'a> Required<'a> for Strings<'a> {}
impl<'a> InputField<'a> for Strings<'a> {
    const TYPE: DataType = DataType::ListUtf8;
    const NULLABLE: bool = false;
    type Reader = (&'a [u32], Strings<'a>);
    fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String> {
        no_nulls(&column, rows)?;
        match column.data {
            DataRef::ListUtf8 { offsets, values } => {
                let values = Strings::within(values).map_err(|e| format!("is damaged: {e}"))?;
                check_offsets(offsets, values.len(), rows).map(|()| (offsets, values))
            }
            data => Err(other(Self::TYPE, &data)),
        }
    }
    #[inline]
    fn get((offsets, values): &Self::Reader, row: usize) -> Self {
        let strings = range_at(offsets, row).and_then(|r| values.offsets.get(r.start..=r.end));
        Strings { offsets: strings.unwrap_or_default(), data: values.data }
    }
}

impl<'a, T: Required<'a>> InputField<'a> for Option<T> {
    const TYPE: DataType = T::TYPE;
    const NULLABLE: bool = true;
    /// none: the column is missing
    type Reader = Option<(T::Reader, Option<&'a [u8]>)>;
    fn open(column: ColumnRef<'a>, rows: usize) -> Result<Self::Reader, String> {
        if matches!(column.data, DataRef::Missing) {
            return Ok(None);
        }
        if let Some(bits) = column.validity
            && bits.len() < rows.div_ceil(8)
        {
            return Err(format!("has a validity bitmap of {} bytes for {rows} rows", bits.len()));
        }
        let values = T::open(ColumnRef { data: column.data, validity: None }, rows)?;
        Ok(Some((values, column.validity)))
    }
    #[inline]
    fn get(reader: &Self::Reader, row: usize) -> Self {
        match reader {
            Some((values, None)) => Some(T::get(values, row)),
            Some((values, Some(bits))) if bit(bits, row) => Some(T::get(values, row)),
            _ => None,
        }
    }
}

/// The bytes of a row; none if the offsets do not fit the data.
pub fn bytes_at(bytes: BytesRef<'_>, row: usize) -> Option<&[u8]> {
    bytes.data.get(range_at(bytes.offsets, row)?)
}

/// The range between two neighbouring offsets.
pub fn range_at(offsets: &[u32], row: usize) -> Option<Range<usize>> {
    let (start, end) = (*offsets.get(row)? as usize, *offsets.get(row + 1)? as usize);
    (start <= end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_bits_are_looked_at_and_no_other(holes in proptest::collection::vec(0..40usize, 0..2), rows in 0..40usize) {
            let mut bits = [0xFF_u8; 5];
            holes.iter().for_each(|hole| bits[hole / 8] &= !(1 << (hole % 8)));
            prop_assert_eq!(all_set(&bits, rows), holes.iter().all(|hole| *hole >= rows));
            prop_assert!(!all_set(&bits, 41));
        }
    }
}
