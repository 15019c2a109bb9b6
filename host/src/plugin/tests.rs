//! Plugins written with the SDK (`plugins/sdk-guests`) give the same answers natively and as components, and what a
//! component carries is of its own world only.

mod migrate;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use arrow_array::builder::{Float64Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::types::Int64Type;
use arrow_array::{
    Array as _, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array, cast::AsArray as _, new_null_array,
};
use arrow_schema::{DataType as ArrowType, Field as ArrowField};
use millrace_core::schema::DataType;
use millrace_sdk_guests::{clean::Clean, every_type, keep::Keep, matched::ClickThrough};

use super::native::{NativeFactory, NativeJoinFactory, NativeTransformFactory};
use super::*;

/// The component of this name, all of them built once.
fn component(name: &str) -> Artifact {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = root.join("target/test-guests");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--target", "wasm32-unknown-unknown", "-p", "millrace-sdk-guests"])
            .args(["--examples", "--target-dir"])
            .arg(&target)
            .current_dir(&root)
            .env_remove("RUSTFLAGS")
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the guests do not build");
        target.join("wasm32-unknown-unknown/release/examples")
    });
    Artifact::load(name, &folder.join(format!("{name}.wasm")), None).unwrap()
}

fn engine() -> Arc<PluginEngine> {
    static ENGINE: OnceLock<Arc<PluginEngine>> = OnceLock::new();
    Arc::clone(ENGINE.get_or_init(|| Arc::new(PluginEngine::new(None).unwrap())))
}

fn schema(columns: &[(&str, DataType, bool)]) -> Schema {
    Schema::new(columns.iter().map(|(name, ty, nullable)| Field::new(*name, *ty, *nullable)).collect())
}

fn longs(array: &ArrayRef) -> Vec<Option<i64>> {
    array.as_primitive::<Int64Type>().iter().collect()
}

fn strings(array: &ArrayRef) -> Vec<&str> {
    array.as_string::<i32>().iter().map(Option::unwrap).collect()
}

#[test]
fn a_component_carries_its_own_world_and_nothing_else() {
    for (name, kind) in [
        ("every_type", Kind::Aggregation),
        ("counts_by_row", Kind::Aggregation),
        ("counts_by_column", Kind::Aggregation),
        ("clean", Kind::Transform),
        ("keep", Kind::Transform),
        ("matched", Kind::Join),
    ] {
        let artifact = component(name);
        assert_eq!(artifact.kind(), kind);
        let world = format!("millrace:{0}/{0}@{1}", kind.name(), kind.wit_version());
        assert_eq!(artifact.exports(), [world], "{name}");
        assert_eq!(artifact.imports(), ["millrace:types/host@0.1.0", "millrace:types/types@0.1.0"], "{name}");
    }
}

const ROWS: i64 = 21;

/// A column of every type; some values are null if there is a reason to.
fn every(nulls: bool) -> Vec<ArrayRef> {
    let rows = || (0..ROWS).map(move |i| (!nulls || i % 3 != 1).then_some(i));
    let ints = || rows().map(|i| i.map(|i| i as i32 * 7 - 40));
    let words = |i: i64| ["", "click", "naïve", "日本語", "impression"][i as usize % 5].repeat(i as usize % 3);
    let item = |ty| Arc::new(ArrowField::new("item", ty, false));
    let mut longs = ListBuilder::new(Int64Builder::new()).with_field(item(ArrowType::Int64));
    let mut doubles = ListBuilder::new(Float64Builder::new()).with_field(item(ArrowType::Float64));
    let mut texts = ListBuilder::new(StringBuilder::new()).with_field(item(ArrowType::Utf8));
    for i in rows() {
        for n in 0..i.unwrap_or(0) % 4 {
            longs.values().append_value(n - 2);
            doubles.values().append_value(n as f64 / 8.0);
            texts.values().append_value(words(n + i.unwrap_or(0)));
        }
        longs.append(i.is_some());
        doubles.append(i.is_some());
        texts.append(i.is_some());
    }
    let instants = || rows().map(|i| i.map(|i| (i - 10) * 1_000_000_007)).collect::<TimestampMicrosecondArray>();
    let decimals = rows().map(|i| i.map(|i| i128::from(i - 10) * 9_999_999_999_999_999));
    vec![
        Arc::new(rows().map(|i| i.map(|i| i % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(ints().collect::<Int32Array>()),
        Arc::new(rows().map(|i| i.map(|i| i64::MAX - i)).collect::<Int64Array>()),
        Arc::new(rows().map(|i| i.map(|i| i as f32 / 3.0)).collect::<Float32Array>()),
        Arc::new(rows().map(|i| i.map(|i| f64::MAX / (i + 1) as f64)).collect::<Float64Array>()),
        Arc::new(decimals.collect::<Decimal128Array>().with_precision_and_scale(20, 4).unwrap()),
        Arc::new(ints().collect::<Date32Array>()),
        Arc::new(instants()),
        Arc::new(instants().with_data_type(DataType::Timestamptz.to_arrow())),
        Arc::new(rows().map(|i| i.map(words)).collect::<StringArray>()),
        Arc::new(rows().map(|i| i.map(|i| vec![0xFF, i as u8])).collect::<BinaryArray>()),
        Arc::new(longs.finish()),
        Arc::new(doubles.finish()),
        Arc::new(texts.finish()),
    ]
}

const STRING: usize = 9;

/// All of a column's types cross, in every form: the last row of each group is what was put in there, after a journey
/// through the state, too.
#[test]
fn every_type_crosses_as_input_state_and_result() {
    let limits = PluginLimits::default();
    let factories: [Box<dyn AggregatorFactory>; 2] = [
        Box::new(NativeFactory::<every_type::Last>::new("every-type")),
        Box::new(WasmFactory::new(&engine(), "every-type", &component("every_type"), limits).unwrap()),
    ];
    let encoded = |column: &ArrayRef| {
        let dictionary = ArrowType::Dictionary(Box::new(ArrowType::Int32), Box::new(ArrowType::Utf8));
        arrow_cast::cast(column, &dictionary).unwrap()
    };
    let groups: Vec<u32> = (0..ROWS as u32).map(|i| i * i % 3).collect();
    let last: UInt32Array = (0..2).map(|group| groups.iter().rposition(|g| *g == group).unwrap() as u32).collect();
    let (plain, nullable) = (every(false), every(true));
    for factory in &factories {
        for form in ["plain", "dictionary", "missing", "sliced"] {
            let mut aggregator = factory.open("", &offered(factory.as_ref())).unwrap();
            let mut required: Vec<Option<ArrayRef>> = plain.iter().cloned().map(Some).collect();
            let mut optional: Vec<Option<ArrayRef>> = nullable.iter().cloned().map(Some).collect();
            let mut expected: Vec<ArrayRef> = plain.clone();
            expected.extend(nullable.iter().cloned());
            match form {
                "dictionary" => {
                    required[STRING] = Some(encoded(&plain[STRING]));
                    optional[STRING] = Some(encoded(&nullable[STRING]));
                }
                "missing" => {
                    optional = vec![None; nullable.len()];
                    for (column, nullable) in expected.iter_mut().skip(plain.len()).zip(&nullable) {
                        *column = new_null_array(nullable.data_type(), nullable.len());
                    }
                }
                _ => {}
            }
            let columns: Vec<Option<ArrayRef>> = required.into_iter().chain(optional).collect();
            // two calls; the second one begins within a byte of every bitmap
            let cut = if form == "sliced" { 5 } else { 0 };
            for (from, rows) in [(0, cut), (cut, ROWS as usize - cut)] {
                let part: Vec<_> = columns.iter().map(|c| c.as_ref().map(|c| c.slice(from, rows))).collect();
                assert!(aggregator.update(&part, &groups[from..from + rows], 2).unwrap().is_empty());
            }
            let mut restored = factory.open("", &offered(factory.as_ref())).unwrap();
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let chunk = aggregator.state(&[0, 1], at, 1).unwrap();
                restored.merge(&chunk.columns, &chunk.groups, 2).unwrap();
                cursor = chunk.next;
            }
            let window = WindowUs { start: 0, end: 1 };
            for aggregator in [&mut aggregator, &mut restored] {
                let out = aggregator.evaluate(&[0, 1], &[window, window], true).unwrap();
                let counts = [0, 1].map(|g| Some(groups.iter().filter(|x| **x == g).count() as i64));
                assert_eq!(longs(&out.columns[0]), counts);
                assert_eq!(out.columns.len(), expected.len() + 1);
                for (found, expected) in out.columns[1..].iter().zip(&expected) {
                    let expected = arrow_select::take::take(expected, &last, None).unwrap();
                    assert_eq!(found, &expected, "{form}, {}", factory.digest());
                }
            }
        }
    }
}

/// Offered is what is wanted.
fn offered(factory: &dyn AggregatorFactory) -> Schema {
    let everything: Vec<Field> = ["boolean", "int", "long", "float", "double", "decimal", "date", "timestamp"]
        .into_iter()
        .chain(["timestamptz", "string", "binary", "longs", "doubles", "strings"])
        .map(|name| Field::new(name, DataType::Long, true))
        .collect();
    let plugin = factory.open("", &Schema::new(everything)).unwrap();
    Schema::new(plugin.signature().input.iter().map(|w| w.field.clone()).collect())
}

fn transformers(name: &str, native: impl TransformerFactory + 'static) -> [Box<dyn TransformerFactory>; 2] {
    let wasm = WasmTransformFactory::new(&engine(), name, &component(name), PluginLimits::default());
    [Box::new(native), Box::new(wasm.unwrap())]
}

#[test]
fn a_transform_maps_drops_multiplies_and_refuses() {
    let kinds = StringArray::from(vec![Some("A"), None, Some("b, C"), Some("d"), Some("")]);
    let numbers = Int64Array::from(vec![1, 2, 3, -4, 5]);
    let bonus = Int64Array::from(vec![Some(100), None, None, None, Some(500)]);
    let columns: Vec<Option<ArrayRef>> = vec![Some(Arc::new(kinds)), Some(Arc::new(numbers)), Some(Arc::new(bonus))];
    let input = schema(&[("kind", DataType::String, true), ("n", DataType::Long, false)]);
    for factory in transformers("clean", NativeTransformFactory::<Clean>::new("clean")) {
        let mut clean = factory.open("", &input).unwrap();
        let out = clean.process(&columns, 5).unwrap();
        assert_eq!(strings(&out.columns[0]), ["a", "b", "c", ""]);
        assert_eq!(longs(&out.columns[1]), [101, 3, 3, 505].map(Some));
        assert_eq!(out.origins, [0, 2, 2, 4]);
        assert_eq!(out.rejected, [Rejected { row: 3, reason: "-4 is negative".into() }]);
        // a missing column, an option, and a batch without a row
        let mut other = factory.open(r#"{"separator": "|"}"#, &input).unwrap();
        let out = other.process(&[columns[0].clone(), columns[1].clone(), None], 5).unwrap();
        assert_eq!(
            (strings(&out.columns[0]), longs(&out.columns[1])),
            (vec!["a", "b, c", ""], [1, 3, 5].map(Some).into())
        );
        let none: Vec<Option<ArrayRef>> = columns.iter().map(|c| c.as_ref().map(|c| c.slice(0, 0))).collect();
        let out = clean.process(&none, 0).unwrap();
        assert_eq!((out.columns[0].len(), out.origins.len(), out.rejected.len()), (0, 0, 0));
        for (config, offered, message) in [
            (r#"{"separater": "|"}"#, &input, "unknown option `separater`; there are: separator"),
            ("", &Schema::default(), "column `kind` (string) is missing"),
        ] {
            let error = factory.open(config, offered).err().unwrap().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}

#[test]
fn a_filter_gives_no_column() {
    let numbers = Int64Array::from(vec![Some(2), Some(3), None, Some(4)]);
    for factory in transformers("keep", NativeTransformFactory::<Keep>::new("keep")) {
        let mut keep = factory.open("", &schema(&[("n", DataType::Long, true)])).unwrap();
        assert_eq!(keep.signature().output, Schema::default());
        let out = keep.process(&[Some(Arc::new(numbers.clone()))], 4).unwrap();
        assert_eq!((out.columns.len(), &out.origins[..], out.rejected.len()), (0, &[0, 3][..], 0));
    }
}

#[test]
fn a_join_makes_rows_of_pairs_and_of_what_is_unmatched() {
    let at = |us: &[i64]| {
        let times = TimestampMicrosecondArray::from(us.to_vec());
        Some(Arc::new(times.with_data_type(DataType::Timestamptz.to_arrow())) as ArrayRef)
    };
    let left = [Some(Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef), at(&[10, 20])];
    let right = [at(&[15, 25, 5])];
    let sides = [
        schema(&[("creative", DataType::String, false), ("at", DataType::Timestamptz, false)]),
        schema(&[("at", DataType::Timestamptz, false)]),
    ];
    let wasm = WasmJoinFactory::new(&engine(), "matched", &component("matched"), PluginLimits::default()).unwrap();
    let native = NativeJoinFactory::<ClickThrough>::new("matched");
    for factory in [&native as &dyn JoinerFactory, &wasm] {
        let mut join = factory.open("", &sides[0], &sides[1]).unwrap();
        let out = join.pairs(&left, &right, 2, 3, &[0, 1, 1, 0], &[0, 0, 1, 2]).unwrap();
        assert_eq!(strings(&out.columns[0]), ["a", "b"]);
        assert_eq!(longs(&out.columns[1]), [Some(5), Some(5)]);
        assert_eq!(out.origins, [0, 2]);
        let out = join.unmatched(JoinSide::Left, &left, 2).unwrap();
        assert_eq!((strings(&out.columns[0]), longs(&out.columns[1])), (vec!["a", "b"], vec![None, None]));
        assert_eq!(out.origins, [0, 1]);
        let out = join.unmatched(JoinSide::Right, &right, 3).unwrap();
        assert!(out.origins.is_empty() && out.columns[0].is_empty());
        let error = factory.open("", &sides[1], &sides[1]).err().unwrap().to_string();
        assert!(error.contains("left: column `creative` (string) is missing"), "{error}");
    }
}

/// A trap says nothing but "unreachable"; the SDK's hook tells the host what was said and where.
#[test]
fn a_panic_carries_its_message_and_its_place() {
    let wasm = WasmTransformFactory::new(&engine(), "clean", &component("clean"), PluginLimits::default()).unwrap();
    let mut clean = wasm.open("", &schema(&[("kind", DataType::String, true), ("n", DataType::Long, false)])).unwrap();
    let kinds: ArrayRef = Arc::new(StringArray::from(vec!["panic"]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let error = clean.process(&[Some(kinds), Some(numbers), None], 1).unwrap_err().to_string();
    let line =
        include_str!("../../../plugins/sdk-guests/src/clean.rs").lines().position(|l| l.contains("panic!(")).unwrap();
    assert!(error.contains("no kind is called panic"), "{error}");
    assert!(error.contains(&format!("sdk-guests/src/clean.rs:{}:", line + 1)), "{error}");
}
