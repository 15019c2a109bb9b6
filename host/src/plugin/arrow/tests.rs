//! There and back over every type, with nulls, slices and empties: in the host alone, and through a real guest that
//! keeps what it is given.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, StringBuilder,
};
use arrow_array::types::{Int32Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array,
    StringArray, TimestampMicrosecondArray, cast::AsArray as _,
};
use arrow_buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow_schema::Field as ArrowField;
use millrace_core::schema::{DataType, Field, Schema, UTC};
use proptest::prelude::*;

use super::lift::lift_all;
use super::lower::{Lowered, lower};
use crate::plugin::bindings::types::{
    ColumnDataParam as P, ColumnDataResult as R, ColumnResult, DictionaryResult, Encoding, ListFloat64DataResult,
    ListInt64DataResult, ListUtf8DataResult, VarBytesParam, VarBytesResult,
};

const TYPES: [DataType; 14] = [
    DataType::Boolean,
    DataType::Int,
    DataType::Long,
    DataType::Float,
    DataType::Double,
    DataType::Decimal { precision: 20, scale: 4 },
    DataType::Date,
    DataType::Timestamp,
    DataType::Timestamptz,
    DataType::String,
    DataType::Binary,
    DataType::ListLong,
    DataType::ListDouble,
    DataType::ListString,
];

/// An array of any type out of numbers; `None` is null.
fn array(data_type: DataType, values: &[Option<i64>]) -> ArrayRef {
    let texts = values.iter().map(|v| v.map(text));
    let item = |t: DataType| Arc::new(ArrowField::new("item", t.to_arrow(), false));
    let elements = |v: i64| (0..v.rem_euclid(4)).map(move |i| v.wrapping_add(i));
    match data_type {
        DataType::Boolean => {
            let mut b = BooleanBuilder::new();
            values.iter().for_each(|v| b.append_option(v.map(|v| v % 2 == 0)));
            Arc::new(b.finish())
        }
        DataType::Int => Arc::new(values.iter().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        DataType::Long => Arc::new(values.iter().copied().collect::<Int64Array>()),
        DataType::Float => Arc::new(values.iter().map(|v| v.map(|v| v as f32)).collect::<Float32Array>()),
        DataType::Double => Arc::new(values.iter().map(|v| v.map(|v| v as f64)).collect::<Float64Array>()),
        DataType::Decimal { .. } => {
            let decimals: Decimal128Array = values.iter().map(|v| v.map(|v| i128::from(v) * 10)).collect();
            Arc::new(decimals.with_data_type(data_type.to_arrow()))
        }
        DataType::Date => Arc::new(values.iter().map(|v| v.map(|v| v as i32)).collect::<Date32Array>()),
        DataType::Timestamp => Arc::new(values.iter().copied().collect::<TimestampMicrosecondArray>()),
        DataType::Timestamptz => {
            Arc::new(values.iter().copied().collect::<TimestampMicrosecondArray>().with_timezone(UTC))
        }
        DataType::String => Arc::new(texts.collect::<StringArray>()),
        DataType::Binary => {
            let mut b = BinaryBuilder::new();
            texts.for_each(|v| b.append_option(v));
            Arc::new(b.finish())
        }
        DataType::ListLong => {
            let mut b = ListBuilder::new(Int64Builder::new()).with_field(item(DataType::Long));
            values.iter().for_each(|v| b.append_option(v.map(|v| elements(v).map(Some))));
            Arc::new(b.finish())
        }
        DataType::ListDouble => {
            let mut b = ListBuilder::new(Float64Builder::new()).with_field(item(DataType::Double));
            values.iter().for_each(|v| b.append_option(v.map(|v| elements(v).map(|e| Some(e as f64)))));
            Arc::new(b.finish())
        }
        DataType::ListString => {
            let mut b = ListBuilder::new(StringBuilder::new()).with_field(item(DataType::String));
            values.iter().for_each(|v| b.append_option(v.map(|v| elements(v).map(|e| Some(text(e))))));
            Arc::new(b.finish())
        }
    }
}

fn text(v: i64) -> String {
    "aé🦀z".chars().cycle().take(v.rem_euclid(7) as usize).chain(v.to_string().chars()).collect()
}

fn bytes(param: &VarBytesParam<'_>) -> VarBytesResult {
    VarBytesResult { offsets: param.offsets.to_vec(), data: param.data.to_vec() }
}

/// What a guest does that hands back what it was given. Checks what guests may rely on.
fn reflect(lowered: &Lowered<'_>, rows: usize) -> ColumnResult {
    let param = lowered.param();
    let validity = param.validity.map(<[u8]>::to_vec);
    let is_null = |row: usize| validity.as_ref().is_some_and(|v| v[row / 8] >> (row % 8) & 1 == 0);
    if let Some(v) = &validity {
        assert_eq!(v.len(), rows.div_ceil(8));
        assert!((rows..v.len() * 8).all(|bit| v[bit / 8] >> (bit % 8) & 1 == 0), "bits past the end");
        assert!((0..rows).any(is_null), "validity without a null");
    }
    let offsets = |offsets: &[u32], values: usize| {
        assert_eq!((offsets[0], offsets.len()), (0, rows + 1));
        assert_eq!(offsets[rows] as usize, values, "values that no row has");
        assert!((0..rows).all(|r| !is_null(r) || offsets[r] == offsets[r + 1]), "values under a null");
    };
    let data = match &param.data {
        P::Missing => R::Missing,
        P::Boolean(v) => {
            assert!((rows..v.len() * 8).all(|bit| v[bit / 8] >> (bit % 8) & 1 == 0), "bits past the end");
            R::Boolean(v.to_vec())
        }
        P::Int32(v) => R::Int32(v.to_vec()),
        P::Int64(v) => R::Int64(v.to_vec()),
        P::Float32(v) => R::Float32(v.to_vec()),
        P::Float64(v) => R::Float64(v.to_vec()),
        P::Decimal(v) => R::Decimal(v.to_vec()),
        P::Date(v) => R::Date(v.to_vec()),
        P::Timestamp(v) => R::Timestamp(v.to_vec()),
        P::Timestamptz(v) => R::Timestamptz(v.to_vec()),
        P::Utf8(v) => {
            offsets(v.offsets, v.data.len());
            R::Utf8(bytes(v))
        }
        P::Binary(v) => {
            offsets(v.offsets, v.data.len());
            R::Binary(bytes(v))
        }
        P::Utf8Dictionary(d) => {
            let count = d.values.offsets.len() - 1;
            let used: std::collections::HashSet<_> = d.keys.iter().collect();
            assert!(used.iter().all(|k| (**k as usize) < count), "key out of range");
            assert!(used.len() >= count, "values that do not occur");
            R::Utf8Dictionary(DictionaryResult { keys: d.keys.to_vec(), values: bytes(&d.values) })
        }
        P::ListInt64(v) => {
            offsets(v.offsets, v.values.len());
            R::ListInt64(ListInt64DataResult { offsets: v.offsets.to_vec(), values: v.values.to_vec() })
        }
        P::ListFloat64(v) => {
            offsets(v.offsets, v.values.len());
            R::ListFloat64(ListFloat64DataResult { offsets: v.offsets.to_vec(), values: v.values.to_vec() })
        }
        P::ListUtf8(v) => {
            offsets(v.offsets, v.values.offsets.len() - 1);
            R::ListUtf8(ListUtf8DataResult { offsets: v.offsets.to_vec(), values: bytes(&v.values) })
        }
    };
    ColumnResult { data, validity }
}

fn there_and_back(array: &ArrayRef, data_type: DataType, encoding: Encoding) -> ArrayRef {
    let lowered = lower(array, data_type, encoding).unwrap();
    let field = Field::new("c", data_type, true);
    let column = reflect(&lowered, array.len());
    lift_all(vec![column], &[field], array.len()).unwrap().remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_type_goes_there_and_back(
        values in prop::collection::vec(prop::option::weighted(0.8, any::<i64>()), 0..70),
        start in 0_usize..70,
        length in 0_usize..70,
    ) {
        let start = start.min(values.len());
        let length = length.min(values.len() - start);
        for data_type in TYPES {
            let slice = array(data_type, &values).slice(start, length);
            let back = there_and_back(&slice, data_type, Encoding::Plain);
            prop_assert_eq!(back.data_type(), &data_type.to_arrow());
            prop_assert_eq!(&back, &slice, "{}", data_type);
        }
        let strings = array(DataType::String, &values);
        let dictionary: DictionaryArray<Int32Type> = strings.as_string::<i32>().iter().collect();
        let unsigned: DictionaryArray<UInt32Type> = strings.as_string::<i32>().iter().collect();
        let strings = strings.slice(start, length);
        let forms = [strings.clone(), Arc::new(dictionary.slice(start, length)), Arc::new(unsigned.slice(start, length))];
        for form in forms {
            for encoding in [Encoding::Plain, Encoding::Dictionary, Encoding::Either] {
                prop_assert_eq!(&there_and_back(&form, DataType::String, encoding), &strings, "{:?}", encoding);
            }
        }
    }
}

/// Kernels may leave bytes under a null; a guest never sees them.
#[test]
fn bytes_under_a_null_do_not_cross() {
    let nulls = || Some(NullBuffer::from(vec![true, false, true]));
    let all = StringArray::from(vec!["one", "hidden", "three"]);
    let strings: ArrayRef = Arc::new(StringArray::new(all.offsets().clone(), all.values().clone(), nulls()));
    assert_eq!(&there_and_back(&strings, DataType::String, Encoding::Plain), &strings);

    let item = |t: DataType| Arc::new(ArrowField::new("item", t.to_arrow(), false));
    let lists: [(DataType, DataType, ArrayRef); 3] = [
        (DataType::ListLong, DataType::Long, Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]))),
        (DataType::ListDouble, DataType::Double, Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0, 5.0]))),
        (DataType::ListString, DataType::String, Arc::new(StringArray::from(vec!["a", "b", "", "dd", "e"]))),
    ];
    for (list, element, values) in lists {
        let offsets = OffsetBuffer::from_lengths([2, 2, 1]);
        let array: ArrayRef = Arc::new(arrow_array::ListArray::new(item(element), offsets, values, nulls()));
        assert_eq!(&there_and_back(&array, list, Encoding::Plain), &array);
        assert_eq!(&there_and_back(&array.slice(1, 2), list, Encoding::Plain), &array.slice(1, 2));
    }
}

#[test]
fn what_lies_in_arrow_as_the_guest_wants_it_is_not_copied() {
    let strings: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b")]));
    let lowered = lower(&strings, DataType::String, Encoding::Either).unwrap();
    let P::Utf8(bytes) = lowered.param().data else { panic!() };
    assert_eq!(bytes.offsets.as_ptr().cast(), strings.as_string::<i32>().value_offsets().as_ptr());
    assert_eq!(bytes.data.as_ptr(), strings.as_string::<i32>().value_data().as_ptr());
    assert_eq!(lowered.param().validity.unwrap().as_ptr(), strings.nulls().unwrap().validity().as_ptr());

    let bits = BooleanBuffer::new_set(64);
    let tail: ArrayRef = Arc::new(arrow_array::BooleanArray::new(bits.slice(16, 48), None));
    let lowered = lower(&tail, DataType::Boolean, Encoding::Plain).unwrap();
    let P::Boolean(sent) = lowered.param().data else { panic!() };
    assert_eq!(sent.as_ptr(), bits.values()[2..].as_ptr());
}

#[test]
fn what_a_guest_returns_is_not_trusted() {
    let refused = |data_type: DataType, rows: usize, data: R, expected: &str| {
        let column = ColumnResult { data, validity: None };
        let error = lift_all(vec![column], &[Field::new("c", data_type, true)], rows).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    let utf8 = |offsets: &[u32], data: &[u8]| VarBytesResult { offsets: offsets.to_vec(), data: data.to_vec() };
    refused(DataType::String, 2, R::Utf8(utf8(&[0, 1, 2], "é".as_bytes())), "UTF-8");
    refused(DataType::String, 1, R::Utf8(utf8(&[0, 3], b"ab")), "offsets end at 3, there are 2 values");
    refused(DataType::String, 1, R::Utf8(utf8(&[], b"")), "has 0 offsets, 1 rows need 2");
    refused(DataType::Binary, 2, R::Binary(utf8(&[0, 2, 1], b"ab")), "offsets decrease");
    refused(DataType::Boolean, 9, R::Boolean(vec![1]), "bitmap has 1 bytes, 9 rows need 2");
    refused(DataType::Timestamptz, 1, R::Timestamp(vec![1]), "values of kind timestamp");
    let decimal = DataType::Decimal { precision: 3, scale: 1 };
    refused(decimal, 1, R::Decimal(vec![1000, 0]), "1000 has more than 3 digits");
    refused(decimal, 1, R::Decimal(vec![u64::MAX - 999, u64::MAX]), "-1000 has more than 3 digits");
    refused(decimal, 1, R::Decimal(vec![1]), "has 1 words");
    let dictionary = |keys: &[u32]| {
        R::Utf8Dictionary(DictionaryResult { keys: keys.to_vec(), values: utf8(&[0, 1], b"a") })
    };
    refused(DataType::String, 2, dictionary(&[0, 1]), "row 1 has dictionary key 1, there are 1 values");
    refused(DataType::String, 3, dictionary(&[0, 0]), "has 2 values, 3 are expected");
    let bomb = DictionaryResult { keys: vec![0; 1_000], values: utf8(&[0, 1 << 20], &vec![b'x'; 1 << 20]) };
    refused(DataType::String, 1_000, R::Utf8Dictionary(bomb), "at most 268435456 are possible");
    let list = ListUtf8DataResult { offsets: vec![0, 2], values: utf8(&[0, 1], b"a") };
    refused(DataType::ListString, 1, R::ListUtf8(list), "offsets end at 2, there are 1 values");
}

#[test]
fn another_arrow_type_is_refused() {
    let decimal: ArrayRef = array(DataType::Decimal { precision: 20, scale: 4 }, &[Some(1)]);
    let other = DataType::Decimal { precision: 20, scale: 2 };
    assert!(lower(&decimal, other, Encoding::Plain).err().unwrap().contains("promised decimal(20,2)"));
    let strings: ArrayRef = Arc::new(arrow_array::LargeStringArray::from(vec!["a"]));
    assert!(lower(&strings, DataType::String, Encoding::Plain).is_err());
    let dictionary: ArrayRef = Arc::new(vec!["a"].into_iter().collect::<DictionaryArray<arrow_array::types::Int8Type>>());
    assert!(lower(&dictionary, DataType::String, Encoding::Either).is_err());
}

/// The same through linear memory: a guest that keeps what `merge` gives and returns it from `state`.
#[test]
fn every_type_goes_through_a_guest_and_back() {
    use crate::plugin::wasm::tests::factory;
    use crate::plugin::{AggregatorFactory as _, StateChunk};
    let values: Vec<Option<i64>> = (0..1_000).map(|i| (i % 3 != 1).then_some(i * 7_919 - 300_000)).collect();
    let fields = TYPES.iter().enumerate().map(|(i, t)| Field::new(format!("c{i}"), *t, true)).collect();
    let schema = Schema::new(fields);
    for (start, length) in [(0, 1_000), (0, 0), (13, 500), (999, 1)] {
        let columns: Vec<_> = TYPES.iter().map(|t| array(*t, &values).slice(start, length)).collect();
        let mut echo = factory().open(r#"{"mode":"echo"}"#, &schema).unwrap();
        assert_eq!(echo.signature().state, schema);
        let groups = vec![0; length];
        echo.merge(&columns, &groups, 1).unwrap();
        let StateChunk { columns: back, .. } = echo.state(&[0], 0, 1 << 20).unwrap();
        assert_eq!(back, columns);
    }
}
