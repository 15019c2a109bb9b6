use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use millrace_core::batch::{Audience, Change};
use millrace_core::schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::steps::Done;
use super::*;
use crate::capture::Place;
use crate::plugin::{PluginError, Rejected, TransformSignature, Transformed, Transformer, Wanted};
use crate::spec::model::{OnError, Selected, TransformPluginSpec, TransformSpec};

fn input() -> Schema {
    Schema::new(vec![Field::new("n", DataType::Long, false), Field::new("word", DataType::String, true)])
}

fn rows(numbers: &[i64]) -> RecordBatch {
    let words: StringArray = numbers.iter().map(|n| (n % 5 != 4).then(|| format!("w{n}"))).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(numbers.to_vec())), Arc::new(words)];
    RecordBatch::try_new(input().to_arrow(), columns).unwrap()
}

fn spec() -> TransformSpec {
    TransformSpec {
        inputs: vec!["events".into()],
        filter: None,
        set: Vec::new(),
        select: None,
        plugin: None,
        deduplicate: None,
        on_error: OnError::Skip,
        consecutive_limit: u64::MAX,
    }
}

fn set(name: &str, sql: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), sql.to_owned())]
}

fn apply(spec: &TransformSpec, batch: &RecordBatch) -> Done {
    Steps::new(spec, &input(), |_| Ok(None)).unwrap().apply(batch, None, &|_| Place::default()).unwrap()
}

fn numbers(batch: &RecordBatch, column: &str) -> Vec<i64> {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn a_filter_that_keeps_all_rows_copies_none() {
    let batch = rows(&[1, 2, 3]);
    let done = apply(&TransformSpec { filter: Some("n > 0".into()), ..spec() }, &batch);
    assert!(done.rows.is_none() && done.from.is_none() && done.failed.is_empty());
    let with_set = TransformSpec { filter: Some("n > 0".into()), set: set("m", "n + 1"), ..spec() };
    let done = apply(&with_set, &batch);
    let made = done.rows.unwrap();
    assert!(Arc::ptr_eq(made.column(0), batch.column(0)) && Arc::ptr_eq(made.column(1), batch.column(1)));
    assert_eq!((numbers(&made, "m"), done.from), (vec![2, 3, 4], None));
}

#[test]
fn null_does_not_pass_and_steps_see_what_the_ones_before_left() {
    let spec = TransformSpec {
        filter: Some("word <> 'w3'".into()),
        set: set("n", "n * 10"),
        select: Some(vec![
            Selected { name: "word".into(), expression: None },
            Selected { name: "more".into(), expression: Some("n + 1".into()) },
        ]),
        ..spec()
    };
    let done = apply(&spec, &rows(&[2, 3, 4, 5]));
    let made = done.rows.unwrap();
    assert_eq!((numbers(&made, "more"), done.from), (vec![21, 51], Some(vec![0, 3])));
    assert_eq!(made.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["word", "more"]);
}

#[test]
fn a_guard_that_is_evaluated_with_what_it_guards_blames_no_row() {
    let guarded = TransformSpec { filter: Some("n <> 0 AND 10 / n > 1".into()), ..spec() };
    let done = apply(&guarded, &rows(&[0, 1, 2, 0, 100]));
    assert_eq!((done.from, done.failed), (Some(vec![1, 2]), vec![]));
}

/// In `word`'s place two columns; a row for each of `n % 3`; what else it does with a number is said by `acts`.
struct Fragile {
    signature: TransformSignature,
    acts: Acts,
    calls: Arc<AtomicU32>,
}

type Acts = Arc<dyn Fn(i64, u32) -> Option<PluginError> + Send + Sync>;

fn signature() -> TransformSignature {
    let wanted = |name: &str, data_type, optional| Wanted {
        field: Field::new(name, data_type, false),
        dictionary: false,
        optional,
    };
    TransformSignature {
        input: vec![wanted("number", DataType::Long, false), wanted("bonus", DataType::Long, true)],
        output: Schema::new(vec![
            Field::new("copy", DataType::Long, false),
            Field::new("number", DataType::Long, false),
        ]),
    }
}

fn trap(out_of_memory: bool) -> PluginError {
    let (plugin, guest_log) = ("fragile".to_owned(), Vec::new());
    PluginError::Trap { plugin, call: "process", message: "poison".into(), guest_log, out_of_memory }
}

impl Transformer for Fragile {
    fn signature(&self) -> &TransformSignature {
        &self.signature
    }

    fn process(&mut self, columns: &[Option<ArrayRef>], rows: u32) -> Result<Transformed, PluginError> {
        let call = self.calls.fetch_add(1, Relaxed);
        assert!(columns[1].is_none());
        let values = columns[0].as_ref().unwrap().as_primitive::<Int64Type>();
        assert_eq!(values.len(), rows as usize);
        let (mut copies, mut doubled, mut origins, mut rejected) = (vec![], vec![], vec![], vec![]);
        for (row, &n) in (0_u32..).zip(values.values()) {
            if let Some(error) = (self.acts)(n, call) {
                return Err(error);
            }
            if n < 0 {
                rejected.push(Rejected { row, reason: format!("{n} is negative") });
                continue;
            }
            for copy in 0..n % 3 {
                copies.push(copy);
                doubled.push(n * 2);
                origins.push(row);
            }
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(copies)), Arc::new(Int64Array::from(doubled))];
        Ok(Transformed { columns, origins, rejected })
    }
}

/// `number` is the pipeline's `n`, on both sides.
fn with_plugin(acts: Acts) -> (Steps, Arc<NodeStats>) {
    let columns = BTreeMap::from([("number".to_owned(), "n".to_owned())]);
    let plugin = TransformPluginSpec { plugin: "fragile".into(), config: "{}".into(), columns };
    let spec = TransformSpec { filter: Some("n <> 7".into()), plugin: Some(plugin.clone()), ..spec() };
    let (stats, calls): (Arc<NodeStats>, Arc<AtomicU32>) = Default::default();
    let of_plugin = Arc::clone(&stats);
    let steps = Steps::new(&spec, &input(), move |steps| {
        let open: OpenTransformer = Box::new(move || {
            let (acts, calls) = (Arc::clone(&acts), Arc::clone(&calls));
            Ok(Box::new(Fragile { signature: signature(), acts, calls }))
        });
        let node = PluginNode {
            name: "node".into(),
            columns: plugin.columns.clone(),
            input: steps.clone(),
            stats: of_plugin,
            consecutive_limit: 5,
        };
        let plugin = TransformPlugin::new(&node, open, None)?;
        let id = TaskId { node: "node".into(), task: 0 };
        let (events, _) = crossbeam_channel::unbounded();
        Ok(Some(TransformVersions::new(id, events, Arc::default(), node, Arc::default(), plugin)))
    });
    (steps.unwrap(), stats)
}

#[test]
fn a_plugin_s_columns_come_first_and_the_host_appends_the_others() {
    let (mut steps, stats) = with_plugin(Arc::new(|_, _| None));
    let done = steps.apply(&rows(&[3, 4, 7, 5, -2]), None, &|_| Place::default()).unwrap();
    let made = done.rows.unwrap();
    let names: Vec<String> = made.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["copy", "n", "word"]);
    assert_eq!((numbers(&made, "n"), numbers(&made, "copy")), (vec![8, 10, 10], vec![0, 0, 1]));
    let words = made.column(2).as_string::<i32>();
    assert!(words.is_null(0));
    assert_eq!((words.value(1), words.value(2)), ("w5", "w5"));
    assert_eq!((done.from, done.failed), (Some(vec![1, 3, 3]), vec![(4, "-2 is negative".to_owned())]));
    assert_eq!(stats.plugin_failures_total.load(Relaxed), 0);
}

#[test]
fn out_of_memory_blames_no_row_and_a_failure_that_has_passed_is_forgiven() {
    let (mut steps, _) = with_plugin(Arc::new(|n, _| (n == 5).then(|| trap(true))));
    let error = steps.apply(&rows(&[3, 4, 5]), None, &|_| Place::default()).err().unwrap().to_string();
    assert!(error.contains("no row can be blamed"), "{error}");
    for out_of_memory in [true, false] {
        let (mut steps, stats) = with_plugin(Arc::new(move |_, call| (call == 0).then(|| trap(out_of_memory))));
        let done = steps.apply(&rows(&[3, 4, 5]), None, &|_| Place::default()).unwrap();
        assert_eq!((done.from, done.failed), (Some(vec![1, 2, 2]), vec![]));
        assert_eq!(stats.plugin_failures_total.load(Relaxed), 1);
    }
}

#[test]
fn too_many_failures_in_a_row_stop_the_run() {
    // every other call fails: each failure is forgiven, and the next batch fails again
    let (mut steps, _) = with_plugin(Arc::new(|_, call| (call % 2 == 0).then(|| trap(true))));
    let mut once = || steps.apply(&rows(&[4]), None, &|_| Place::default()).map(|_| ());
    (1..5).for_each(|_| once().unwrap());
    let error = once().unwrap_err().to_string();
    assert!(error.contains("5 calls in a row have failed"), "{error}");
}

proptest! {
    /// Brute force: each row alone through the rules, written down once more.
    #[test]
    fn poison_rows_go_and_all_others_come_through(numbers_in in prop::collection::vec(-3_i64..60, 1..80)) {
        let is_poison = |n: i64| n % 11 == 6;
        let (mut steps, _) = with_plugin(Arc::new(move |n, _| is_poison(n).then(|| trap(false))));
        let done = steps.apply(&rows(&numbers_in), None, &|_| Place::default()).unwrap();
        let (mut from, mut doubled, mut failed) = (vec![], vec![], vec![]);
        for (row, &n) in (0_u32..).zip(&numbers_in).filter(|(_, n)| **n != 7) {
            if is_poison(n) || n < 0 {
                failed.push(row);
            } else {
                for _ in 0..n % 3 {
                    from.push(row);
                    doubled.push(n * 2);
                }
            }
        }
        prop_assert_eq!(done.failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), failed);
        for (row, reason) in &done.failed {
            let word = if is_poison(numbers_in[*row as usize]) { "poison" } else { "negative" };
            prop_assert!(reason.contains(word));
        }
        let made = done.rows.unwrap();
        prop_assert_eq!(numbers(&made, "n"), doubled);
        let from_all = done.from.unwrap_or_else(|| (0_u32..).take(numbers_in.len()).collect());
        prop_assert_eq!(from_all, from);
    }

    /// A table kept from what the filter lets through is the filter of the table kept from everything.
    #[test]
    fn a_filtered_changelog_is_the_changelog_of_the_filtered(
        steps_in in prop::collection::vec((0_usize..4, -3_i64..9, any::<bool>()), 1..60),
        batch_rows in 1_usize..9,
    ) {
        let mut task = Steps::new(&TransformSpec { filter: Some("n < 5".into()), ..spec() }, &input(), |_| Ok(None)).unwrap();
        let (mut all, mut filtered): (BTreeMap<usize, i64>, BTreeMap<usize, i64>) = Default::default();
        for batch in steps_in.chunks(batch_rows) {
            let kinds: Vec<Change> = batch.iter().map(|(key, n, delete)| match (delete, all.contains_key(key)) {
                (true, true) => { all.remove(key); Change::Delete }
                (_, known) => { all.insert(*key, *n); if known { Change::Replace } else { Change::Insert } }
            }).collect();
            let changes = Changes { revisions: vec![1; batch.len()].into(), kinds: kinds.into(), is_final: false, audience: Audience::Sinks };
            let ns: Vec<i64> = batch.iter().map(|(_, n, _)| *n).collect();
            let made = Batch { rows: rows(&ns), event_time_ms: vec![0; ns.len()].into(), origin: None, changes: Some(changes) };
            let done = task.apply(&made.rows, made.changes.as_ref(), &|_| Place::default()).unwrap();
            let from = done.from.clone().unwrap_or_else(|| (0_u32..).take(batch.len()).collect());
            let made = changed(Arc::new(made), done);
            for (row, kind) in from.into_iter().zip(made.changes.as_ref().unwrap().kinds.iter()) {
                let (key, n, _) = batch[row as usize];
                match kind {
                    Change::Delete => { filtered.remove(&key); }
                    _ => { filtered.insert(key, n); }
                }
            }
            let expected: BTreeMap<usize, i64> = all.iter().filter(|(_, n)| **n < 5).map(|(k, n)| (*k, *n)).collect();
            prop_assert_eq!(&filtered, &expected);
        }
    }

    #[test]
    fn an_expression_fails_on_its_rows_alone(numbers_in in prop::collection::vec(-3_i64..6, 1..80)) {
        let spec = TransformSpec { filter: Some("n < 5".into()), set: set("q", "12 / (n - 2)"), ..spec() };
        let done = apply(&spec, &rows(&numbers_in));
        let passes = |n: i64| n < 5 && n != 2;
        let expected: Vec<i64> = numbers_in.iter().filter(|n| passes(**n)).map(|n| 12 / (n - 2)).collect();
        prop_assert_eq!(numbers(&done.rows.unwrap(), "q"), expected);
        let bad: Vec<u32> = (0_u32..).zip(&numbers_in).filter(|(_, n)| **n == 2).map(|(row, _)| row).collect();
        prop_assert_eq!(done.failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), bad);
    }
}

#[test]
fn what_travels_beside_a_row_goes_with_it() {
    let batch = Batch {
        rows: rows(&[1, 2, 3]),
        event_time_ms: [10, 20, 30].into(),
        origin: Some(Origin { source: "s".into(), topic: "t".into(), partition: 3, offsets: [7, 8, 9].into() }),
        changes: Some(Changes {
            kinds: [Change::Insert, Change::Delete, Change::Replace].into(),
            revisions: [1, 2, 3].into(),
            is_final: true,
            audience: Audience::All,
        }),
    };
    let taken = take_rows(&batch, &[0, 2, 2]).unwrap();
    assert_eq!(numbers(&taken.rows, "n"), [1, 3, 3]);
    assert_eq!(*taken.event_time_ms, [10, 30, 30]);
    assert_eq!(*taken.origin.as_ref().unwrap().offsets, [7, 9, 9]);
    let changes = taken.changes.as_ref().unwrap();
    assert_eq!(
        (&*changes.kinds, &*changes.revisions),
        (&[Change::Insert, Change::Replace, Change::Replace][..], &[1, 3, 3][..])
    );
}
