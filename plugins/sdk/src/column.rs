//! Columns in Arrow's memory layout: borrowed views on the way in, owned columns on the way out.
//!
//! Owns the types only. Never looks at what the values mean. Data comes from the component boundary (or, natively, from
//! Arrow buffers without a copy) and goes to the typed readers of [`crate::input`] and [`crate::state`].

use std::fmt;

/// The type of a column. No other crosses the boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    Boolean,
    Int32,
    Int64,
    Float32,
    Float64,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// days since 1970-01-01
    Date,
    /// microseconds since 1970-01-01T00:00:00
    Timestamp,
    /// microseconds since 1970-01-01T00:00:00Z
    Timestamptz,
    Utf8,
    Binary,
    ListInt64,
    ListFloat64,
    ListUtf8,
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Int32 => "int",
            Self::Int64 => "long",
            Self::Float32 => "float",
            Self::Float64 => "double",
            Self::Decimal { precision, scale } => return write!(f, "decimal({precision},{scale})"),
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
            Self::Utf8 => "string",
            Self::Binary => "binary",
            Self::ListInt64 => "list<long>",
            Self::ListFloat64 => "list<double>",
            Self::ListUtf8 => "list<string>",
        })
    }
}

/// A named, typed column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub data_type: DataType,
    pub nullable: bool,
}

impl Field {
    pub fn new(name: impl Into<String>, data_type: DataType, nullable: bool) -> Self {
        Self { name: name.into(), data_type, nullable }
    }
}

/// A column that a plugin wants of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub field: Field,
    /// the input may lack it; every value is then `None`
    pub optional: bool,
}

/// What went wrong; the host discards the instance afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    Config(String),
    Input(String),
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(m) | Self::Input(m) | Self::Internal(m) => f.write_str(m),
        }
    }
}

impl std::error::Error for Error {}

/// Strings or bytes: value `i` is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct BytesRef<'a> {
    pub offsets: &'a [u32],
    pub data: &'a [u8],
}

/// The values of a borrowed column.
#[derive(Clone, Copy, Debug)]
pub enum DataRef<'a> {
    Missing,
    Boolean(&'a [u8]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    /// two words a value, low word first
    Decimal(&'a [u64]),
    Date(&'a [i32]),
    Timestamp(&'a [i64]),
    Timestamptz(&'a [i64]),
    Utf8(BytesRef<'a>),
    Dictionary {
        keys: &'a [u32],
        values: BytesRef<'a>,
    },
    Binary(BytesRef<'a>),
    ListInt64 {
        offsets: &'a [u32],
        values: &'a [i64],
    },
    ListFloat64 {
        offsets: &'a [u32],
        values: &'a [f64],
    },
    ListUtf8 {
        offsets: &'a [u32],
        values: BytesRef<'a>,
    },
}

impl DataRef<'_> {
    /// What stands here, for an error message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Boolean(_) => "boolean",
            Self::Int32(_) => "int",
            Self::Int64(_) => "long",
            Self::Float32(_) => "float",
            Self::Float64(_) => "double",
            Self::Decimal(_) => "decimal",
            Self::Date(_) => "date",
            Self::Timestamp(_) => "timestamp",
            Self::Timestamptz(_) => "timestamptz",
            Self::Utf8(_) | Self::Dictionary { .. } => "string",
            Self::Binary(_) => "binary",
            Self::ListInt64 { .. } => "list<long>",
            Self::ListFloat64 { .. } => "list<double>",
            Self::ListUtf8 { .. } => "list<string>",
        }
    }
}

/// A column as it comes in: nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct ColumnRef<'a> {
    pub data: DataRef<'a>,
    /// LSB-first, 1 = valid; none = no nulls
    pub validity: Option<&'a [u8]>,
}

impl<'a> ColumnRef<'a> {
    pub const MISSING: Self = Self { data: DataRef::Missing, validity: None };

    /// Whether row `i` holds a value.
    #[inline]
    pub fn is_valid(&self, i: usize) -> bool {
        self.validity.is_none_or(|bits| bit(bits, i))
    }
}

/// Bit `i` of an LSB-first bitmap; past its end 0.
#[inline]
pub fn bit(bits: &[u8], i: usize) -> bool {
    bits.get(i >> 3).is_some_and(|byte| (byte >> (i & 7)) & 1 == 1)
}

/// Strings or bytes that a plugin gives out.
#[derive(Clone, Debug, PartialEq)]
pub struct Bytes {
    pub offsets: Vec<u32>,
    pub data: Vec<u8>,
}

impl Default for Bytes {
    fn default() -> Self {
        Self { offsets: vec![0], data: Vec::new() }
    }
}

impl Bytes {
    pub fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.offsets.push(offset(self.data.len()));
    }

    /// how many values there are
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub fn as_ref(&self) -> BytesRef<'_> {
        BytesRef { offsets: &self.offsets, data: &self.data }
    }
}

/// Lists end where the next begins.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T> {
    pub offsets: Vec<u32>,
    pub values: T,
}

impl<T: Default> Default for List<T> {
    fn default() -> Self {
        Self { offsets: vec![0], values: T::default() }
    }
}

/// The values of an owned column.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnData {
    Boolean(Vec<u8>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<u64>),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    Timestamptz(Vec<i64>),
    Utf8(Bytes),
    Binary(Bytes),
    ListInt64(List<Vec<i64>>),
    ListFloat64(List<Vec<f64>>),
    ListUtf8(List<Bytes>),
}

/// A column as it goes out: rows are pushed one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub data: ColumnData,
    pub validity: Option<Vec<u8>>,
    pub rows: usize,
}

impl Column {
    pub fn empty(data_type: DataType) -> Self {
        let data = match data_type {
            DataType::Boolean => ColumnData::Boolean(Vec::new()),
            DataType::Int32 => ColumnData::Int32(Vec::new()),
            DataType::Int64 => ColumnData::Int64(Vec::new()),
            DataType::Float32 => ColumnData::Float32(Vec::new()),
            DataType::Float64 => ColumnData::Float64(Vec::new()),
            DataType::Decimal { .. } => ColumnData::Decimal(Vec::new()),
            DataType::Date => ColumnData::Date(Vec::new()),
            DataType::Timestamp => ColumnData::Timestamp(Vec::new()),
            DataType::Timestamptz => ColumnData::Timestamptz(Vec::new()),
            DataType::Utf8 => ColumnData::Utf8(Bytes::default()),
            DataType::Binary => ColumnData::Binary(Bytes::default()),
            DataType::ListInt64 => ColumnData::ListInt64(List::default()),
            DataType::ListFloat64 => ColumnData::ListFloat64(List::default()),
            DataType::ListUtf8 => ColumnData::ListUtf8(List::default()),
        };
        Self { data, validity: None, rows: 0 }
    }

    /// Ends a row whose value has been pushed to `data`; returns nothing that could be forgotten.
    pub fn end_row(&mut self, valid: bool) {
        let row = self.rows;
        self.rows += 1;
        if !valid && self.validity.is_none() {
            // every row before this one was valid
            let mut bits = vec![0xFF; row >> 3];
            if row & 7 != 0 {
                bits.push((1u8 << (row & 7)) - 1);
            }
            self.validity = Some(bits);
        }
        if let Some(bits) = &mut self.validity {
            if bits.len() <= row >> 3 {
                bits.push(0);
            }
            if valid && let Some(byte) = bits.get_mut(row >> 3) {
                *byte |= 1 << (row & 7);
            }
        }
    }

    /// A null row: the value under it is the type's zero, of length 0.
    pub fn push_null(&mut self) {
        match &mut self.data {
            ColumnData::Boolean(bits) => {
                if bits.len() <= self.rows >> 3 {
                    bits.push(0);
                }
            }
            ColumnData::Int32(v) | ColumnData::Date(v) => v.push(0),
            ColumnData::Int64(v) | ColumnData::Timestamp(v) | ColumnData::Timestamptz(v) => v.push(0),
            ColumnData::Float32(v) => v.push(0.0),
            ColumnData::Float64(v) => v.push(0.0),
            ColumnData::Decimal(v) => v.extend([0, 0]),
            ColumnData::Utf8(v) | ColumnData::Binary(v) => v.push(&[]),
            ColumnData::ListInt64(List { offsets, values }) => offsets.push(offset(values.len())),
            ColumnData::ListFloat64(List { offsets, values }) => offsets.push(offset(values.len())),
            ColumnData::ListUtf8(List { offsets, values }) => offsets.push(offset(values.len())),
        }
        self.end_row(false);
    }

    /// The same column, borrowed.
    pub fn as_ref(&self) -> ColumnRef<'_> {
        let data = match &self.data {
            ColumnData::Boolean(v) => DataRef::Boolean(v),
            ColumnData::Int32(v) => DataRef::Int32(v),
            ColumnData::Int64(v) => DataRef::Int64(v),
            ColumnData::Float32(v) => DataRef::Float32(v),
            ColumnData::Float64(v) => DataRef::Float64(v),
            ColumnData::Decimal(v) => DataRef::Decimal(v),
            ColumnData::Date(v) => DataRef::Date(v),
            ColumnData::Timestamp(v) => DataRef::Timestamp(v),
            ColumnData::Timestamptz(v) => DataRef::Timestamptz(v),
            ColumnData::Utf8(v) => DataRef::Utf8(v.as_ref()),
            ColumnData::Binary(v) => DataRef::Binary(v.as_ref()),
            ColumnData::ListInt64(l) => DataRef::ListInt64 { offsets: &l.offsets, values: &l.values },
            ColumnData::ListFloat64(l) => DataRef::ListFloat64 { offsets: &l.offsets, values: &l.values },
            ColumnData::ListUtf8(l) => DataRef::ListUtf8 { offsets: &l.offsets, values: l.values.as_ref() },
        };
        ColumnRef { data, validity: self.validity.as_deref() }
    }
}

/// Offsets are 32 bits wide in Arrow and at the boundary; what a plugin gives out in one call is bounded far below.
pub(crate) fn offset(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
