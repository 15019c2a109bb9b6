//! What Iceberg wants to know of a Parquet file: sizes, counts and bounds by field id, read from the file's own metadata.
//!
//! Wrong bounds hide rows from every reader, so a column has bounds only if every row group knows its own exactly.
//! Long strings are cut as Iceberg's `truncate(16)` does: the lower bound to a prefix, the upper one to the smallest
//! text of that length above all that begin with it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Datum, PrimitiveLiteral, PrimitiveType, Schema};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// Characters of a string, bytes of a binary value.
const BOUND_LENGTH_MAX: usize = 16;

#[derive(Default)]
struct Column {
    bytes: u64,
    values: u64,
    nulls: u64,
    bounds: Option<(Datum, Datum)>,
    /// some row group's bounds are not known
    unbounded: bool,
}

/// A description without path, partition and size.
pub fn describe(schema: &Schema, file: &ParquetMetaData, nans: &BTreeMap<i32, u64>) -> DataFileBuilder {
    let mut columns: BTreeMap<i32, Column> = BTreeMap::new();
    for chunk in file.row_groups().iter().flat_map(|group| group.columns()) {
        let info = chunk.column_descr().self_type().get_basic_info();
        if info.has_id() {
            let kind = schema.field_by_id(info.id()).and_then(|field| field.field_type.as_primitive_type());
            columns.entry(info.id()).or_default().add(chunk, kind);
        }
    }
    let counts = |count: fn(&Column) -> u64| columns.iter().map(|(id, column)| (*id, count(column))).collect();
    let (bytes, values, nulls): (HashMap<_, _>, HashMap<_, _>, HashMap<_, _>) =
        (counts(|c| c.bytes), counts(|c| c.values), counts(|c| c.nulls));
    let (mut lower, mut upper) = (HashMap::new(), HashMap::new());
    for (id, column) in columns {
        if let (Some((min, max)), false) = (column.bounds, column.unbounded) {
            lower.insert(id, shortened_below(min));
            upper.extend(shortened_above(max).map(|max| (id, max)));
        }
    }
    let mut description = DataFileBuilder::default();
    description
        .content(DataContentType::Data)
        .file_format(DataFileFormat::Parquet)
        .record_count(u64::try_from(file.file_metadata().num_rows()).unwrap_or(0))
        .column_sizes(bytes)
        .value_counts(values)
        .null_value_counts(nulls)
        .nan_value_counts(nans.iter().map(|(id, count)| (*id, *count)).collect())
        .lower_bounds(lower)
        .upper_bounds(upper)
        .split_offsets(Some(file.row_groups().iter().filter_map(|group| group.file_offset()).collect()));
    description
}

impl Column {
    fn add(&mut self, chunk: &ColumnChunkMetaData, kind: Option<&PrimitiveType>) {
        let values = u64::try_from(chunk.num_values()).unwrap_or(0);
        let nulls = chunk.statistics().and_then(|s| s.null_count_opt()).unwrap_or(0);
        self.bytes += u64::try_from(chunk.compressed_size()).unwrap_or(0);
        self.values += values;
        self.nulls += nulls;
        if values == nulls {
            return;
        }
        match (kind.and_then(|kind| bounds(chunk, kind)), self.bounds.take()) {
            (None, _) => self.unbounded = true,
            (Some(bounds), None) => self.bounds = Some(bounds),
            (Some((min, max)), Some((known_min, known_max))) => {
                let min = if min.partial_cmp(&known_min) == Some(Ordering::Less) { min } else { known_min };
                let max = if max.partial_cmp(&known_max) == Some(Ordering::Greater) { max } else { known_max };
                self.bounds = Some((min, max));
            }
        }
    }
}

fn bounds(chunk: &ColumnChunkMetaData, kind: &PrimitiveType) -> Option<(Datum, Datum)> {
    let statistics = chunk.statistics().filter(|s| s.min_is_exact() && s.max_is_exact())?;
    let datum = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let numeric = matches!(chunk.column_type(), PhysicalType::INT32 | PhysicalType::INT64);
        if numeric && matches!(kind, PrimitiveType::Decimal { .. }) {
            // Iceberg's decimals are big-endian whatever Parquet keeps them in
            bytes.reverse();
        }
        Datum::try_from_bytes(&bytes, kind.clone()).ok()
    };
    Some((datum(statistics.min_bytes_opt()?)?, datum(statistics.max_bytes_opt()?)?))
}

fn shortened_below(min: Datum) -> Datum {
    match min.literal() {
        PrimitiveLiteral::String(text) => Datum::string(text.chars().take(BOUND_LENGTH_MAX).collect::<String>()),
        PrimitiveLiteral::Binary(bytes) if *min.data_type() == PrimitiveType::Binary => {
            Datum::binary(bytes.iter().copied().take(BOUND_LENGTH_MAX))
        }
        _ => min,
    }
}

/// None: no shorter value is above it.
fn shortened_above(max: Datum) -> Option<Datum> {
    match max.literal() {
        PrimitiveLiteral::String(text) if text.chars().count() > BOUND_LENGTH_MAX => {
            let mut short: Vec<char> = text.chars().take(BOUND_LENGTH_MAX).collect();
            while let Some(last) = short.pop() {
                if let Some(next) = (last..=char::MAX).nth(1) {
                    short.push(next);
                    return Some(Datum::string(short.into_iter().collect::<String>()));
                }
            }
            None
        }
        PrimitiveLiteral::Binary(bytes)
            if *max.data_type() == PrimitiveType::Binary && bytes.len() > BOUND_LENGTH_MAX =>
        {
            let mut short: Vec<u8> = bytes.iter().copied().take(BOUND_LENGTH_MAX).collect();
            while let Some(last) = short.pop() {
                if let Some(next) = last.checked_add(1) {
                    short.push(next);
                    return Some(Datum::binary(short));
                }
            }
            None
        }
        _ => Some(max),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cut_bounds_still_bound(text in ".{0,40}", bytes in proptest::collection::vec(250_u8.., 0..40)) {
            for whole in [Datum::string(&text), Datum::binary(bytes)] {
                prop_assert!(shortened_below(whole.clone()) <= whole);
                if let Some(above) = shortened_above(whole.clone()) {
                    prop_assert!(above >= whole);
                }
            }
        }
    }

    #[test]
    fn bounds_are_cut_to_sixteen_and_left_out_where_nothing_is_above() {
        let cut = |text: &str| shortened_above(Datum::string(text));
        assert_eq!(cut("0123456789abcdef"), Some(Datum::string("0123456789abcdef")));
        assert_eq!(cut("0123456789abcdefg"), Some(Datum::string("0123456789abcdeg")));
        // the code point after U+D7FF is U+E000
        assert_eq!(cut("0123456789abcde\u{d7ff}x"), Some(Datum::string("0123456789abcde\u{e000}")));
        assert_eq!(cut(&format!("0123456789abcde{}x", char::MAX)), Some(Datum::string("0123456789abcdf")));
        assert_eq!(cut(&char::MAX.to_string().repeat(17)), None);
        assert_eq!(shortened_above(Datum::binary([255; 17])), None);
        assert_eq!(shortened_below(Datum::string("0123456789abcdefg")), Datum::string("0123456789abcdef"));
    }
}
