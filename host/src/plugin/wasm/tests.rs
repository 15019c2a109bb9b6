//! The host against `plugins/test-guests`: right answers, and every way of misbehaving ends in the right error, in time,
//! with a fresh instance working afterwards.

mod hostile;
mod join;
mod memory;
mod pipeline;
mod start;
mod transform;
mod wasi;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array as _, ArrayRef, DictionaryArray, Float64Array, Int64Array, StringArray, cast::AsArray as _};
use millrace_core::schema::{DataType, Field, Schema};

use super::*;
use crate::plugin::{
    Aggregator, AggregatorFactory as _, Artifact, JoinSide, Joined, Joiner, JoinerFactory as _, Kind, PluginEngine,
    PluginError, PluginLimits, Rejected, Result, StateChunk, StateOrigin, Transformer, TransformerFactory as _,
    WindowUs,
};

/// The core modules of `plugins/test-guests` by name, built once.
fn guests() -> &'static HashMap<&'static str, Vec<u8>> {
    static GUESTS: OnceLock<HashMap<&'static str, Vec<u8>>> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = root.join("target/test-guests");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--target", "wasm32-unknown-unknown", "-p", "millrace-test-guests"])
            .args(["--lib", "--examples", "--target-dir"])
            .arg(&target)
            .current_dir(&root)
            .env_remove("RUSTFLAGS")
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the guests do not build");
        let built = target.join("wasm32-unknown-unknown/release");
        let read = |file: &str| std::fs::read(built.join(file)).expect("a guest");
        HashMap::from([
            ("aggregation", read("millrace_test_guests.wasm")),
            ("transform", read("examples/transform.wasm")),
            ("join", read("examples/join.wasm")),
            ("wasi", read("examples/wasi.wasm")),
        ])
    })
}

/// The aggregation's core module.
pub(in crate::plugin) fn guest() -> &'static [u8] {
    &guests()["aggregation"]
}

fn artifact(name: &str) -> Artifact {
    Artifact::from_bytes("guest", guests()[name].clone(), None).unwrap()
}

fn engine() -> Arc<PluginEngine> {
    static ENGINE: OnceLock<Arc<PluginEngine>> = OnceLock::new();
    Arc::clone(ENGINE.get_or_init(|| Arc::new(PluginEngine::new(None).unwrap())))
}

fn limits() -> PluginLimits {
    PluginLimits {
        memory_bytes: 128 << 20,
        deadline: Duration::from_millis(500),
        startup_deadline: Duration::from_millis(800),
        ..PluginLimits::default()
    }
}

pub(crate) fn factory() -> &'static WasmFactory {
    static FACTORY: OnceLock<WasmFactory> = OnceLock::new();
    FACTORY.get_or_init(|| WasmFactory::new(&engine(), "guest", &artifact("aggregation"), limits()).unwrap())
}

fn try_open(mode: &str) -> Result<Box<dyn Aggregator>> {
    factory().open(&format!(r#"{{"mode":"{mode}"}}"#), &Schema::default())
}

fn open(mode: &str) -> Box<dyn Aggregator> {
    try_open(mode).unwrap()
}

/// Row `i`: kind, value, group.
fn rows(count: usize, groups: u32) -> (Vec<Option<ArrayRef>>, Vec<u32>) {
    let kinds = ["impression", "click", "conversion"];
    let kind: StringArray = (0..count).map(|i| (i % 7 != 3).then(|| kinds[i % 3])).collect();
    let value: Float64Array = (0..count).map(|i| (i % 5 != 0).then_some(i as f64 / 4.0)).collect();
    let groups = (0..count).map(|i| (i as u32).wrapping_mul(2_654_435_761) % groups).collect();
    (vec![Some(Arc::new(kind)), Some(Arc::new(value)), None], groups)
}

/// The same aggregation as a loop: (count, clicks, sum) per group.
fn naive(columns: &[Option<ArrayRef>], groups: &[u32], total: u32) -> Vec<(i64, i64, f64)> {
    let kind = columns[0].as_ref().unwrap().as_string::<i32>();
    let value = columns[1].as_ref().unwrap().as_primitive::<Float64Type>();
    let mut result = vec![(0, 0, 0.0); total as usize];
    for (i, group) in groups.iter().enumerate() {
        let slot = &mut result[*group as usize];
        slot.0 += 1;
        slot.1 += i64::from(kind.is_valid(i) && kind.value(i) == "click");
        slot.2 += if value.is_valid(i) { value.value(i) } else { 0.0 };
    }
    result
}

fn results(aggregator: &mut dyn Aggregator, groups: &[u32]) -> Vec<(i64, i64, f64)> {
    let windows = vec![WindowUs { start: 0, end: 1 }; groups.len()];
    let output = aggregator.evaluate(groups, &windows, false).unwrap();
    assert_eq!(output.groups, None);
    let longs = |i: usize| output.columns[i].as_primitive::<Int64Type>().values().to_vec();
    let sums = output.columns[2].as_primitive::<Float64Type>().values().to_vec();
    let means = output.columns[3].as_primitive::<Float64Type>();
    let labels = output.columns[4].as_string::<i32>();
    let rows: Vec<_> = longs(0).into_iter().zip(longs(1)).zip(sums).map(|((a, b), c)| (a, b, c)).collect();
    for (i, (count, _, sum)) in rows.iter().enumerate() {
        assert_eq!(means.is_valid(i), *count > 0);
        assert!(*count == 0 || means.value(i) == sum / *count as f64);
        assert_eq!(labels.value(i), format!("g{}", groups[i]));
    }
    rows
}

fn export(aggregator: &mut dyn Aggregator, groups: &[u32]) -> Vec<StateChunk> {
    let mut chunks = vec![aggregator.state(groups, 0, 1 << 20).unwrap()];
    while let Some(next) = chunks.last().unwrap().next {
        chunks.push(aggregator.state(groups, next, 1 << 20).unwrap());
    }
    chunks
}

/// After whatever happened, a new instance of the same factory gives right answers.
fn works_afresh() {
    let mut fresh = open("normal");
    let (columns, groups) = rows(100, 5);
    assert!(fresh.update(&columns, &groups, 5).unwrap().is_empty());
    assert_eq!(results(&mut *fresh, &[0, 1, 2, 3, 4]), naive(&columns, &groups, 5));
}

fn trapped(error: PluginError) -> (&'static str, String, Vec<String>) {
    match error {
        PluginError::Trap { plugin, call, message, guest_log, .. } => {
            assert_eq!(plugin, "guest");
            (call, message, guest_log)
        }
        other => panic!("not a trap: {other}"),
    }
}

#[test]
fn answers_equal_those_of_a_loop() {
    let mut aggregator = open("normal");
    let mut expected = vec![(0, 0, 0.0); 1_000];
    for count in [1, 7, 8, 9, 8_192, 1_000, 0] {
        let (columns, groups) = rows(count, 1_000);
        assert!(aggregator.update(&columns, &groups, 1_000).unwrap().is_empty());
        for (sum, new) in expected.iter_mut().zip(naive(&columns, &groups, 1_000)) {
            *sum = (sum.0 + new.0, sum.1 + new.1, sum.2 + new.2);
        }
    }
    let all: Vec<u32> = (0..1_000).collect();
    assert_eq!(results(&mut *aggregator, &all), expected);
    assert_eq!(aggregator.size().unwrap(), 24_000);
    assert!(aggregator.memory_bytes() >= 1 << 20);

    aggregator.combine(&[0, 1], &[2, 2]).unwrap();
    let merged =
        [0, 1, 2].map(|g: usize| expected[g]).into_iter().fold((0, 0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
    let combined = results(&mut *aggregator, &[0, 2]);
    assert_eq!((combined[0], combined[1].0, combined[1].1), (expected[0], merged.0, merged.1));
    assert!((combined[1].2 - merged.2).abs() < 1e-6);
    aggregator.reset(&[2]).unwrap();
    assert_eq!(results(&mut *aggregator, &[2, 3]), [(0, 0, 0.0), expected[3]]);
}

#[test]
fn slices_dictionaries_and_optional_columns_arrive_the_same() {
    let (columns, groups) = rows(1_000, 10);
    let slice = |c: &Option<ArrayRef>| c.as_ref().map(|c| c.slice(13, 500));
    let mut sliced: Vec<_> = columns.iter().map(slice).collect();
    let groups = &groups[13..513];
    let expected = naive(&sliced, groups, 10);
    let all: Vec<u32> = (0..10).collect();
    for mode in ["normal", "plain", "dictionary"] {
        let mut aggregator = open(mode);
        aggregator.update(&sliced, groups, 10).unwrap();
        assert_eq!(results(&mut *aggregator, &all), expected, "{mode}");

        let kinds: DictionaryArray<Int32Type> = columns[0].as_ref().unwrap().as_string::<i32>().iter().collect();
        let mut encoded = sliced.clone();
        encoded[0] = Some(Arc::new(kinds.slice(13, 500)));
        let mut aggregator = open(mode);
        aggregator.update(&encoded, groups, 10).unwrap();
        assert_eq!(results(&mut *aggregator, &all), expected, "{mode} from a dictionary");
    }
    sliced[2] = Some(Arc::new(Int64Array::from(vec![1; 500])));
    let mut aggregator = open("normal");
    aggregator.update(&sliced, groups, 10).unwrap();
    for (with, without) in results(&mut *aggregator, &all).iter().zip(&expected) {
        assert!((with.2 - without.2 - without.0 as f64).abs() < 1e-6);
    }
}

#[test]
fn exported_state_restores_exactly() {
    let mut original = open("normal");
    let (columns, groups) = rows(5_000, 7);
    original.update(&columns, &groups, 7).unwrap();
    let all: Vec<u32> = (0..7).collect();
    let chunks = export(&mut *original, &all);
    assert_eq!(chunks.len(), 4);
    let mut restored = open("normal");
    for chunk in &chunks {
        restored.merge(&chunk.columns, &chunk.groups, 7).unwrap();
    }
    assert_eq!(results(&mut *restored, &all), results(&mut *original, &all));
    assert_eq!(results(&mut *original, &all), naive(&columns, &groups, 7));
}

#[test]
fn older_state_migrates_or_is_declined() {
    let origin = |version: &str| StateOrigin {
        name: "test-guest".to_owned(),
        version: version.to_owned(),
        config: "{}".to_owned(),
        state: Schema::new(vec![
            Field::new("count", DataType::Long, false),
            Field::new("sum", DataType::Double, false),
        ]),
    };
    let state: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![3, 4])), Arc::new(Float64Array::from(vec![0.5, 1.5]))];
    let mut aggregator = open("normal");
    let migrated = aggregator.migrate(&origin("0.1.0"), &state).unwrap().unwrap();
    assert_eq!(migrated[1].as_primitive::<Int64Type>().values(), &[0, 0]);
    aggregator.merge(&migrated, &[0, 1], 2).unwrap();
    assert_eq!(results(&mut *aggregator, &[0, 1]), [(3, 0, 0.5), (4, 0, 1.5)]);
    assert!(aggregator.migrate(&origin("0.0.1"), &state).unwrap().is_none());
}

/// What comes back is checked like everything else that a guest returns.
#[test]
fn migrated_state_is_of_the_new_schema_row_for_row() {
    let origin = StateOrigin {
        name: "test-guest".to_owned(),
        version: "0.1.0".to_owned(),
        config: "{}".to_owned(),
        state: Schema::new(vec![
            Field::new("count", DataType::Long, false),
            Field::new("sum", DataType::Double, false),
        ]),
    };
    let state: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![3, 4])), Arc::new(Float64Array::from(vec![0.5, 1.5]))];
    for (mode, expected) in [
        ("migrate-short", "column `clicks` (long): has 0 values, 2 are expected"),
        ("migrate-long", "column `clicks` (long): has 3 values, 2 are expected"),
        ("migrate-kind", "column `clicks` (long): has values of kind float64"),
        ("migrate-missing", "column `clicks` (long): is missing"),
        ("migrate-nulls", "column `clicks` (long): 2 of 2 values are null"),
        ("migrate-columns", "returned 2 columns, its signature has 3"),
    ] {
        let error = open(mode).migrate(&origin, &state).unwrap_err();
        let PluginError::Contract { call: "migrate", message, .. } = &error else { panic!("{mode}: {error}") };
        assert!(message.contains(expected), "{mode}: {message}");
        works_afresh();
    }
    let error = open("migrate-error").migrate(&origin, &state).unwrap_err();
    assert!(error.to_string().contains("no such state"), "{error}");
    // of the host's own columns, too
    let error = open("normal").migrate(&origin, &[Arc::clone(&state[0]), state[1].slice(0, 1)]).unwrap_err();
    assert!(error.to_string().contains("a state column of 1 rows beside one of 2"), "{error}");
    // in parts, and put together again
    let rows = 2 * crate::plugin::limits::MIGRATE_ROWS_MAX + 5;
    let counts: ArrayRef = Arc::new((0..rows as i64).collect::<Int64Array>());
    let sums: ArrayRef = Arc::new((0..rows).map(|i| Some(i as f64)).collect::<Float64Array>());
    let migrated = open("normal").migrate(&origin, &[Arc::clone(&counts), Arc::clone(&sums)]).unwrap().unwrap();
    assert_eq!((&migrated[0], migrated[1].len(), &migrated[2]), (&counts, rows, &sums));
}

#[test]
fn a_plugin_that_needs_more_memory_than_it_may_have_does_not_load() {
    let artifact = artifact("aggregation");
    let tiny = PluginLimits { memory_bytes: 64 << 10, ..limits() };
    let (call, message, _) = trapped(WasmFactory::new(&engine(), "guest", &artifact, tiny).err().unwrap());
    assert_eq!(call, "instantiate");
    assert!(message.contains("out of memory"), "{message}");
}

#[test]
fn traps_say_what_the_guest_said() {
    let (columns, groups) = rows(10, 2);
    let (call, message, log) = trapped(open("panic").update(&columns, &groups, 2).unwrap_err());
    assert_eq!(call, "update");
    assert!(message.contains("unreachable") && message.contains("campaign 42 has no budget"), "{message}");
    assert!(log.last().unwrap().starts_with("error: panicked at"), "{log:?}");

    let (_, message, log) = trapped(open("trap").update(&columns, &groups, 2).unwrap_err());
    assert!(message.contains("unreachable") && log.is_empty(), "{message} {log:?}");
    let (_, message, _) = trapped(open("internal").update(&columns, &groups, 2).unwrap_err());
    assert_eq!(message, "lost my marbles");
    works_afresh();
}

#[test]
fn refusals_are_the_plugins_own_words() {
    let PluginError::Refused { what, message, .. } = try_open("bad-config").err().unwrap() else { panic!() };
    assert_eq!((what, message.as_str()), ("its configuration", "`mode` must not be bad-config"));
    let PluginError::Refused { what, message, .. } = try_open("bad-input").err().unwrap() else { panic!() };
    assert_eq!((what, message.as_str()), ("its input", "no column `user`"));
}

#[test]
fn rejected_rows_leave_no_trace() {
    let mut aggregator = open("reject");
    let (columns, groups) = rows(3, 1);
    let rejected = aggregator.update(&columns, &groups, 1).unwrap();
    assert_eq!(rejected, [Rejected { row: 1, reason: "negative".to_owned() }]);
    assert_eq!(results(&mut *aggregator, &[0]), [(2, 0, 0.5)]);
}

/// Every broken promise is named, with the call and the column.
#[test]
fn broken_contracts_are_named() {
    let (columns, groups) = rows(10, 3);
    let broken = |mode: &str, call: &str, expected: &str| {
        let error = match try_open(mode) {
            Err(error) => error,
            Ok(mut a) => {
                let updated = a.update(&columns, &groups, 3);
                let evaluated =
                    |a: &mut dyn Aggregator| a.evaluate(&[0, 1, 2], &[WindowUs { start: 0, end: 1 }; 3], true);
                match call {
                    "update" => updated.unwrap_err(),
                    "state" => a.state(&[0, 1, 2], 0, 1 << 20).unwrap_err(),
                    _ => evaluated(&mut *a).unwrap_err(),
                }
            }
        };
        let PluginError::Contract { plugin, call: found, message } = error else { panic!("{mode}: {error}") };
        assert_eq!((plugin.as_str(), found), ("guest", call), "{mode}");
        assert!(message.contains(expected), "{mode}: {message}");
    };
    broken("twice", "open", "declares state column `count` twice");
    broken("reject-far", "update", "rejected row 10, there are 10");
    broken("reject-twice", "update", "rejected row 0 twice");
    broken("short", "evaluate", "column `count` (long): has 1 values, 3 are expected");
    broken("kind", "evaluate", "column `count` (long): has values of kind float64");
    broken("missing", "evaluate", "column `count` (long): is missing");
    broken("nulls", "evaluate", "column `count` (long): 3 of 3 values are null");
    broken("bits", "evaluate", "column `mean` (double): validity has 2 bytes, 3 rows need 1");
    broken("tail", "evaluate", "column `mean` (double): validity has bits set past row 3");
    broken("utf8", "evaluate", "column `label` (string): is not valid UTF-8");
    broken("offsets", "evaluate", "column `label` (string): offsets decrease");
    broken("offsets-first", "evaluate", "column `label` (string): offsets do not start at 0");
    broken("group", "evaluate", "returned a row for group 9999");
    broken("group", "state", "returned a row for group 1000");
    broken("short", "state", "column `clicks` (long): has 0 values, 2 are expected");
    broken("columns", "state", "returned 2 columns, its signature has 3");
    broken("cursor", "state", "the next cursor is 0, after 0: it must grow");
    works_afresh();
}

#[test]
fn several_rows_may_answer_for_one_group() {
    let mut aggregator = open("several");
    let (columns, groups) = rows(10, 3);
    aggregator.update(&columns, &groups, 3).unwrap();
    let output = aggregator.evaluate(&[2, 1], &[WindowUs { start: 0, end: 1 }; 2], true).unwrap();
    assert_eq!(output.groups, Some(vec![2, 2]));
}

/// The host's own mistakes do not reach the guest either.
#[test]
fn what_the_host_sends_is_checked() {
    let (columns, groups) = rows(10, 3);
    let wrong = |columns: &[Option<ArrayRef>], groups: &[u32], total: u32, expected: &str| {
        let error = open("normal").update(columns, groups, total).unwrap_err();
        assert!(matches!(error, PluginError::Contract { call: "update", .. }));
        assert!(error.to_string().contains(expected), "{error}");
    };
    wrong(&columns[..2], &groups, 3, "2 columns, the plugin wants 3");
    wrong(&columns, &groups[..9], 3, "column `kind` has 10 rows, the call has 9");
    wrong(&columns, &groups, 2, "for group 2 of 2");
    wrong(&[None, columns[1].clone(), None], &groups, 3, "column `kind` is missing");
    wrong(
        &[columns[1].clone(), columns[1].clone(), None],
        &groups,
        3,
        "column `kind`: the host has a column of Arrow type",
    );
}

#[test]
fn compiled_plugins_are_cached_and_damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("plugins");
    let artifact = artifact("aggregation");
    let load = || {
        let engine = Arc::new(PluginEngine::new(Some(&cache)).unwrap());
        let start = Instant::now();
        let factory = WasmFactory::new(&engine, "guest", &artifact, limits()).unwrap();
        assert_eq!(factory.info().version, "1.2.3");
        start.elapsed()
    };
    let compiled = load();
    let code = || -> Vec<PathBuf> {
        let files = std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path());
        files.filter(|p| p.extension().is_some_and(|e| e == "cwasm")).collect()
    };
    assert_eq!(code().len(), 1);
    let cached = load();
    println!("compiled in {compiled:?}, from the cache in {cached:?}");
    let original = std::fs::read(&code()[0]).unwrap();
    let mut damaged = original.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&code()[0], &damaged).unwrap();
    load();
    assert_eq!(std::fs::read(&code()[0]).unwrap().len(), original.len());
    assert_ne!(std::fs::read(&code()[0]).unwrap(), damaged, "the damaged code was used");

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::remove_file(&code()[0]).unwrap();
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
        load();
        assert!(code().is_empty(), "a directory that others can write to is not used");
    }
}

#[test]
fn inspection_tells_name_and_imports() {
    let artifact = artifact("aggregation");
    let inspection = inspect(&engine(), &artifact).unwrap();
    assert_eq!((inspection.info.name.as_str(), inspection.info.version.as_str()), ("test-guest", "1.2.3"));
    assert_eq!(inspection.kind, Kind::Aggregation);
    assert!(inspection.was_core_module && inspection.inert.is_empty());
    assert_eq!(inspection.exports, ["millrace:aggregation/aggregation@0.1.0"]);
    assert!(inspection.imports.iter().all(|i| i.starts_with("millrace:types/")), "{:?}", inspection.imports);
    assert_eq!(inspection.digest.len(), 64);
}
