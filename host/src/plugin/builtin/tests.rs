//! Aggregates against a brute-force model that keeps every row; and the rules that single examples show best.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    StringArray, TimestampMicrosecondArray,
};
use millrace_core::schema::{DataType, Field, UTC};
use proptest::prelude::*;

use super::*;

const SLOTS: usize = 4;

fn offered() -> Schema {
    let decimal = DataType::Decimal { precision: 10, scale: 2 };
    let columns = [
        ("l", DataType::Long),
        ("i", DataType::Int),
        ("d", DataType::Double),
        ("f", DataType::Float),
        ("m", decimal),
        ("s", DataType::String),
        ("b", DataType::Boolean),
        ("t", DataType::Timestamptz),
        ("day", DataType::Date),
        ("x", DataType::Binary),
    ];
    Schema::new(columns.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect())
}

/// Everything that there is: each function on each type that it takes.
fn everything() -> Vec<Aggregate> {
    let mut texts = vec!["count(*)".to_owned(), "count(*) filter (where i > 0)".to_owned()];
    for field in offered().fields {
        let column = &field.name;
        texts.extend(["count", "min", "max"].map(|f| format!("{f}({column})")));
        if !matches!(field.data_type, DataType::Float | DataType::Double) {
            texts.extend([format!("count(distinct {column})"), format!("approx_distinct({column})")]);
        }
        if ["l", "i", "d", "f", "m"].contains(&column.as_str()) {
            texts.extend(["sum", "avg"].map(|f| format!("{f}({column})")));
        }
    }
    texts.push("sum(l) filter (where s <> 'v3' and b)".to_owned());
    texts.iter().enumerate().map(|(n, text)| parse(&format!("a{n}"), text).unwrap()).collect()
}

fn open(aggregates: &[Aggregate]) -> Box<dyn Aggregator> {
    BuiltinFactory::new("test", aggregates, u64::MAX).open("", &offered()).unwrap()
}

/// All values of a row come from `value`, unless `nulls` has the column's bit.
#[derive(Clone, Copy, Debug)]
struct Row {
    slot: usize,
    value: i32,
    nulls: u16,
}

impl Row {
    /// The number behind a column's value.
    fn number(self, column: &str) -> Option<i64> {
        let index = offered().index_of(column).unwrap();
        (self.nulls >> index & 1 == 0).then(|| i64::from(self.value))
    }
}

fn column(name: &str, values: &[Option<i64>]) -> ArrayRef {
    let each = values.iter().copied();
    match name {
        "l" => Arc::new(each.collect::<Int64Array>()),
        "i" => Arc::new(each.map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        "d" => Arc::new(each.map(|v| v.map(|v| v as f64 / 4.0)).collect::<Float64Array>()),
        "f" => Arc::new(each.map(|v| v.map(|v| v as f32 / 4.0)).collect::<Float32Array>()),
        "m" => {
            let unscaled: Decimal128Array = each.map(|v| v.map(|v| i128::from(v) * 25)).collect();
            Arc::new(unscaled.with_precision_and_scale(10, 2).unwrap())
        }
        "s" => Arc::new(each.map(|v| v.map(|v| format!("v{v}"))).collect::<StringArray>()),
        "b" => Arc::new(each.map(|v| v.map(|v| v % 2 == 0)).collect::<BooleanArray>()),
        "t" => {
            Arc::new(each.map(|v| v.map(|v| v * 1_000_000)).collect::<TimestampMicrosecondArray>().with_timezone(UTC))
        }
        "day" => Arc::new(each.map(|v| v.map(|v| v as i32)).collect::<Date32Array>()),
        "x" => Arc::new(each.map(|v| v.map(|v| v.to_be_bytes().to_vec())).collect::<BinaryArray>()),
        other => panic!("{other}"),
    }
}

fn input(plugin: &dyn Aggregator, rows: &[Row]) -> (Vec<Option<ArrayRef>>, Vec<u32>) {
    let of = |name: &str| column(name, &rows.iter().map(|row| row.number(name)).collect::<Vec<_>>());
    let columns = plugin.signature().input.iter().map(|w| Some(of(&w.field.name))).collect();
    (columns, rows.iter().map(|row| row.slot as u32).collect())
}

/// Where a number's value stands among the values of its column.
fn rank(column: &str, number: i64) -> Vec<u8> {
    match column {
        "s" => format!("v{number}").into_bytes(),
        "x" => number.to_be_bytes().to_vec(),
        "b" => vec![u8::from(number % 2 == 0)],
        _ => (number.wrapping_sub(i64::MIN) as u64).to_be_bytes().to_vec(),
    }
}

/// The answer for one group from all of its rows, in another way than the aggregates': over the numbers behind the values.
fn expected(aggregate: &Aggregate, rows: &[Row]) -> String {
    let passes = |row: &&Row| match aggregate.filter.as_deref() {
        None => true,
        Some("i > 0") => row.number("i").is_some_and(|i| i > 0),
        Some(_) => row.number("s").is_some_and(|s| s != 3) && row.number("b").is_some_and(|b| b % 2 == 0),
    };
    let rows: Vec<&Row> = rows.iter().filter(passes).collect();
    let Some(of) = aggregate.argument.as_deref() else { return rows.len().to_string() };
    let numbers: Vec<i64> = rows.iter().filter_map(|row| row.number(of)).collect();
    let show = |number: Option<i64>| arrow_cast::display::array_value_to_string(&column(of, &[number]), 0).unwrap();
    let sum: i64 = numbers.iter().sum();
    let count = numbers.len() as i64;
    let places = |value: i64, places: usize| {
        let (sign, digits) = (if value < 0 { "-" } else { "" }, format!("{:0width$}", value.abs(), width = places + 1));
        let (whole, rest) = digits.split_at(digits.len() - places);
        format!("{sign}{whole}.{rest}")
    };
    match aggregate.function {
        Function::Count => count.to_string(),
        Function::CountDistinct | Function::ApproxDistinct => {
            numbers.iter().map(|n| rank(of, *n)).collect::<BTreeSet<_>>().len().to_string()
        }
        Function::Min => show(numbers.into_iter().min_by_key(|n| rank(of, *n))),
        Function::Max => show(numbers.into_iter().max_by_key(|n| rank(of, *n))),
        _ if numbers.is_empty() => String::new(),
        Function::Sum => match of {
            "l" | "i" => sum.to_string(),
            "m" => places(sum * 25, 2),
            _ => format!("{:?}", sum as f64 / 4.0),
        },
        Function::Avg => match of {
            "l" | "i" => format!("{:?}", sum as f64 / count as f64),
            "m" => {
                // 25 hundredths each, in millionths, half away from zero
                let (doubled, of) = (sum.abs() * 25 * 10_000 * 2 + count, count * 2);
                places(doubled / of * sum.signum(), 6)
            }
            _ => format!("{:?}", sum as f64 / 4.0 / count as f64),
        },
    }
}

fn answers(plugin: &mut dyn Aggregator) -> Vec<Vec<String>> {
    let groups: Vec<u32> = (0..SLOTS as u32).collect();
    let output = plugin.evaluate(&groups, &[WindowUs { start: 0, end: 1 }; SLOTS], true).unwrap();
    for (column, field) in output.columns.iter().zip(&plugin.signature().output.fields) {
        assert_eq!(column.data_type(), &field.data_type.to_arrow(), "{field}");
        assert!(field.nullable || column.null_count() == 0, "{field}");
    }
    let show = |slot| move |c: &ArrayRef| arrow_cast::display::array_value_to_string(c, slot).unwrap();
    (0..SLOTS).map(|slot| output.columns.iter().map(show(slot)).collect()).collect()
}

fn export(plugin: &mut dyn Aggregator, max_bytes: u64) -> Vec<StateChunk> {
    let groups: Vec<u32> = (0..SLOTS as u32).collect();
    let (mut chunks, mut cursor) = (Vec::new(), Some(0));
    while let Some(at) = cursor {
        let chunk = plugin.state(&groups, at, max_bytes).unwrap();
        for (column, field) in chunk.columns.iter().zip(&plugin.signature().state.fields) {
            assert_eq!(column.data_type(), &field.data_type.to_arrow(), "{field}");
            assert_eq!(column.len(), chunk.groups.len());
            assert!(field.nullable || column.null_count() == 0, "{field}");
        }
        cursor = chunk.next;
        chunks.push(chunk);
    }
    chunks
}

#[derive(Clone, Debug)]
enum Step {
    Update(Vec<Row>),
    /// out into chunks of this many bytes, and into a fresh instance
    Restore(u64),
    Combine(usize, usize),
    Reset(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0..SLOTS, -12..12_i32, any::<u16>()).prop_map(|(slot, value, bits)| Row {
        slot,
        value,
        nulls: bits & bits >> 5,
    });
    let step = prop_oneof![
        4 => prop::collection::vec(row, 0..40).prop_map(Step::Update),
        1 => prop_oneof![Just(1_u64), Just(300), Just(1 << 20)].prop_map(Step::Restore),
        1 => (0..SLOTS, 0..SLOTS).prop_map(|(from, to)| Step::Combine(from, to)),
        1 => (0..SLOTS).prop_map(Step::Reset),
    ];
    prop::collection::vec(step, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn agree_with_a_model_that_keeps_every_row(steps in steps()) {
        let aggregates = everything();
        let mut plugin = open(&aggregates);
        let mut model: Vec<Vec<Row>> = vec![Vec::new(); SLOTS];
        plugin.update(&input(&*plugin, &[]).0, &[], SLOTS as u32).unwrap();
        for step in steps {
            match step {
                Step::Update(rows) => {
                    let (columns, groups) = input(&*plugin, &rows);
                    prop_assert!(plugin.update(&columns, &groups, SLOTS as u32).unwrap().is_empty());
                    rows.iter().for_each(|row| model[row.slot].push(*row));
                }
                Step::Restore(max_bytes) => {
                    let chunks = export(&mut *plugin, max_bytes);
                    plugin = open(&aggregates);
                    for chunk in chunks {
                        plugin.merge(&chunk.columns, &chunk.groups, SLOTS as u32).unwrap();
                    }
                }
                Step::Combine(from, to) if from == to => {}
                Step::Combine(from, to) => {
                    plugin.combine(&[from as u32], &[to as u32]).unwrap();
                    let more = model[from].clone();
                    model[to].extend(more);
                }
                Step::Reset(slot) => {
                    plugin.reset(&[slot as u32]).unwrap();
                    model[slot].clear();
                }
            }
        }
        for (answer, rows) in answers(&mut *plugin).iter().zip(&model) {
            for (aggregate, found) in aggregates.iter().zip(answer) {
                let expected = expected(aggregate, rows);
                if aggregate.function == Function::ApproxDistinct {
                    // two of at most 24 values may share a register of the sketch
                    let (found, expected): (i64, i64) = (found.parse().unwrap(), expected.parse().unwrap());
                    prop_assert!((expected - 2..=expected).contains(&found), "{aggregate}: {found} of {expected}");
                } else {
                    prop_assert_eq!(found, &expected, "{}", aggregate);
                }
            }
        }
        plugin.reset(&[0, 1, 2, 3]).unwrap();
        prop_assert_eq!(answers(&mut *plugin), answers(&mut *open_with_slots(&aggregates)));
    }
}

fn open_with_slots(aggregates: &[Aggregate]) -> Box<dyn Aggregator> {
    let mut plugin = open(aggregates);
    plugin.update(&input(&*plugin, &[]).0, &[], SLOTS as u32).unwrap();
    plugin
}

fn longs(values: &[i64]) -> Vec<Option<ArrayRef>> {
    vec![Some(Arc::new(Int64Array::from(values.to_vec())))]
}

/// A row that does not fit is refused as a whole, whatever comes before and after it in the call.
#[test]
fn no_sum_wraps_around() {
    let aggregates =
        [parse("total", "sum(l)").unwrap(), parse("n", "count(*)").unwrap(), parse("top", "max(l)").unwrap()];
    let mut plugin = open(&aggregates);
    let refused =
        plugin.update(&longs(&[i64::MAX - 1, 1, 1, i64::MAX, -5, 4]), &[0, 0, 0, 1, 0, 0], SLOTS as u32).unwrap();
    assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), [2]);
    assert!(refused[0].reason.contains("leave the range of long"), "{}", refused[0].reason);
    assert_eq!(
        answers(&mut *plugin)[..2],
        [
            [(i64::MAX - 1).to_string(), "4".into(), (i64::MAX - 1).to_string()],
            [i64::MAX.to_string(), "1".into(), i64::MAX.to_string()]
        ]
    );
    // state that does not fit together is an error
    let chunk = export(&mut *plugin, 1 << 20).remove(0);
    let error = plugin.merge(&chunk.columns, &chunk.groups, SLOTS as u32).unwrap_err();
    assert!(error.to_string().contains("leave the range of long"), "{error}");

    let mut plugin = open(&[parse("total", "sum(m)").unwrap()]);
    let wide = Schema::new(vec![Field::new("m", DataType::Decimal { precision: 38, scale: 2 }, true)]);
    let mut widest =
        BuiltinFactory::new("test", &[parse("total", "sum(m)").unwrap()], u64::MAX).open("", &wide).unwrap();
    let most = 10_i128.pow(38) - 1;
    let decimals = |values: Vec<i128>, precision| -> Vec<Option<ArrayRef>> {
        vec![Some(Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, 2).unwrap()))]
    };
    assert!(plugin.update(&decimals(vec![9_999_999_999; 1_000], 10), &[0; 1_000], 1).unwrap().is_empty());
    let refused = widest.update(&decimals(vec![most, 1, -1, -most, -1], 38), &[0; 5], 1).unwrap();
    assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_large_set_leaves_in_parts() {
    let count = state::PART_VALUES_MAX as i64 * 2 + 5;
    let aggregates = [
        parse("n", "count(distinct l)").unwrap(),
        parse("t", "count(distinct s)").unwrap(),
        parse("all", "count(*)").unwrap(),
    ];
    let mut plugin = open(&aggregates);
    let columns: Vec<Option<ArrayRef>> = plugin
        .signature()
        .input
        .iter()
        .map(|w| {
            let values: Vec<Option<i64>> = (0..count).map(Some).collect();
            Some(column(&w.field.name, &values))
        })
        .collect();
    plugin.update(&columns, &vec![1; count as usize], SLOTS as u32).unwrap();
    let held = plugin.size().unwrap();
    assert!(held > count as u64 * 15, "{held}");
    let chunks = export(&mut *plugin, 1);
    assert_eq!(chunks.len(), SLOTS - 1 + 3);
    let mut restored = open(&aggregates);
    for chunk in &chunks {
        restored.merge(&chunk.columns, &chunk.groups, SLOTS as u32).unwrap();
    }
    for plugin in [&mut plugin, &mut restored] {
        assert_eq!(answers(&mut **plugin)[1], [count.to_string(), count.to_string(), count.to_string()]);
        plugin.reset(&[1]).unwrap();
    }
    assert!(plugin.size().unwrap() < held / 4, "{}", plugin.size().unwrap());
}

#[test]
fn memory_has_a_limit() {
    let aggregates = [parse("n", "count(distinct l)").unwrap()];
    let mut plugin = BuiltinFactory::new("test", &aggregates, 100_000).open("", &offered()).unwrap();
    assert!(plugin.update(&longs(&[1, 2, 3]), &[0; 3], 1).is_ok());
    let error = plugin.update(&longs(&(0..100_000).collect::<Vec<_>>()), &[0; 100_000], 1).unwrap_err();
    assert!(matches!(error, PluginError::Trap { out_of_memory: true, .. }) && !error.may_be_a_row(), "{error}");
}

#[test]
fn a_filter_that_fails_is_the_rows_fault() {
    let mut plugin = open(&[parse("n", "count(*) filter (where 10 / l > 1)").unwrap()]);
    assert!(plugin.update(&longs(&[1, 2, 9]), &[0; 3], 1).unwrap().is_empty());
    assert!(plugin.update(&longs(&[0]), &[0], 1).unwrap_err().may_be_a_row());
}

/// NaN is the largest number, and the smallest only where there is no other.
#[test]
fn nan_is_larger_than_all() {
    let aggregates = [parse("low", "min(d)").unwrap(), parse("high", "max(d)").unwrap()];
    let mut plugin = open(&aggregates);
    let values = Float64Array::from(vec![f64::NAN, -1.0, f64::INFINITY, f64::NAN]);
    plugin.update(&[Some(Arc::new(values))], &[0, 0, 0, 1], SLOTS as u32).unwrap();
    assert_eq!(answers(&mut *plugin)[..2], [["-1.0", "NaN"], ["NaN", "NaN"]]);
}

#[test]
fn texts_are_canonical_and_their_order_means_nothing() {
    let texts = |aggregates: &[(&str, &str)]| {
        canonical(&aggregates.iter().map(|(name, text)| parse(name, text).unwrap()).collect::<Vec<_>>())
    };
    let text = texts(&[("b", "SUM( l )"), ("a", "Count ( DISTINCT \"a b\" ) FILTER (WHERE i>0)")]);
    assert_eq!(text, "a = count(distinct \"a b\") filter (where i > 0), b = sum(l)");
    assert_eq!(text, texts(&[("a", "count(distinct \"a b\") filter (where i > 0)"), ("b", "sum(l)")]));

    let (one, two) = (parse("one", "sum(l)").unwrap(), parse("two", "max(i)").unwrap());
    let (mut here, mut there) = (open(&[one.clone(), two.clone()]), open(&[two, one]));
    assert_eq!(here.signature().state, there.signature().state);
    let columns = |plugin: &dyn Aggregator| {
        plugin.signature().input.iter().map(|w| Some(column(&w.field.name, &[Some(7)]))).collect::<Vec<_>>()
    };
    here.update(&columns(&*here), &[0], SLOTS as u32).unwrap();
    let chunk = export(&mut *here, 1 << 20).remove(0);
    there.merge(&chunk.columns, &chunk.groups, SLOTS as u32).unwrap();
    let output = there.evaluate(&[0], &[WindowUs { start: 0, end: 1 }], true).unwrap();
    assert_eq!(output.columns[1].as_primitive::<Int64Type>().value(0), 7);
}
