//! Cases of campaign-metrics, natively: right ones pass in every way, wrong ones say what is wrong.

use std::path::Path;
use std::sync::Arc;

use campaign_metrics::Campaign;
use millrace_core::schema::Schema;

use super::run::Way;
use super::table::Table;
use super::{Case, Difference, Outcome, Subject, case, compare, update};
use crate::plugin::native::NativeFactory;
use crate::plugin::{
    Aggregator, AggregatorFactory, Info, Kind, OutputRows, PluginError, Rejected, Result, Signature, StateChunk,
    StateOrigin, WindowUs,
};
use arrow_array::ArrayRef;

const HEAD: &str = r#"# kept: a comment
key = ["campaign_id"]
window = { type = "tumbling", size = "5m" }
event_time = "at"

[schema]
campaign_id = "string"
event_type = "string"
user_id = "string"
revenue = "double?"
at = "timestamptz"
"#;

const STEPS: &str = r#"
[[steps]]
events = [
  { campaign_id = "a", event_type = "impression", user_id = "u1", at = 2026-01-01T00:00:01Z },
  { campaign_id = "a", event_type = "click", user_id = "u2", at = 2026-01-01T00:04:59.999Z },
  { campaign_id = "b", event_type = "conversion", user_id = "u2", revenue = 1.5, at = 2026-01-01T00:00:02Z },
  { campaign_id = "b", event_type = "view", user_id = "u3", at = 2026-01-01T00:00:03Z },
  { campaign_id = "a", event_type = "click", user_id = "u9", at = 2026-01-01T00:05:00Z },
]
watermark = 2026-01-01T00:04:59.999Z # closes the first window
expect = [
  { campaign_id = "a", impressions = 1, clicks = 1, conversions = 0, revenue = 0.0, unique_users = 2, ctr = 1.0, cvr = 0.0 },
  { campaign_id = "b", impressions = 0, clicks = 0, conversions = 1, revenue = 1.5, unique_users = 1 },
]
rejected = ["unknown event_type \"view\""]

[[steps]] # another
events = [
  { campaign_id = "a", event_type = "click", user_id = "u1", at = 2026-01-01T00:00:01Z },
  { campaign_id = "a", event_type = "impression", user_id = "u9", at = 2026-01-01T00:06:00Z },
]
expect = [
  { window_start = 2026-01-01T00:05:00Z, window_end = 2026-01-01T00:10:00Z, campaign_id = "a", impressions = 1, clicks = 1, conversions = 0, revenue = 0.0, unique_users = 1, ctr = 1.0, cvr = 0.0 },
]
late = 1
"#;

fn parse(text: String) -> std::result::Result<Case, String> {
    case::parse(Path::new("tests/t.toml"), "t.toml".into(), text, Kind::Aggregation).map_err(|e| e.render(false))
}

fn native() -> Arc<dyn AggregatorFactory> {
    Arc::new(NativeFactory::<Campaign>::new("campaign-metrics"))
}

fn differences(case: &Case, subject: &Subject, outcome: &Outcome) -> Vec<Difference> {
    let table = |batches: &[_]| Table::of_results(subject.output(), case.key.len(), batches);
    let expected = case.expected(subject.output()).unwrap_or_else(|e| panic!("{}", e.render(false)));
    (1..)
        .zip(case.steps.iter().zip(expected))
        .zip(outcome)
        .filter_map(|((number, (step, expected)), came)| {
            let counts = (step.rejected.as_slice(), step.late);
            compare(number, table(&[expected]), &table(&came.rows), counts, came, case.tolerance)
        })
        .collect()
}

/// What differs, in one way to run it.
fn run(text: String, way: Way) -> Vec<Difference> {
    let case = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let subject = Subject::open(&native(), &case).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let outcome = subject.run(&case, way).unwrap();
    differences(&case, &subject, &outcome)
}

/// The files that campaign-metrics passes as a component, in every language.
#[test]
fn the_files_of_campaign_metrics_pass_natively() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/campaign-metrics/tests");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let cases: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    assert!(cases.len() >= 2, "{cases:?}");
    for path in cases {
        let case = case::load(&path, Kind::Aggregation).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let subject = Subject::open(&native(), &case).unwrap_or_else(|e| panic!("{}", e.render(false)));
        for way in Way::ALL {
            let outcome = subject.run(&case, way).unwrap();
            assert_eq!(differences(&case, &subject, &outcome), [], "{}, {way}", path.display());
        }
    }
}

#[test]
fn a_right_case_passes_in_every_way() {
    for way in Way::ALL {
        assert_eq!(run(format!("{HEAD}{STEPS}"), way), [], "{way}");
    }
}

#[test]
fn a_cut_within_the_only_step_keeps_what_was_open() {
    let one_step = STEPS.split("[[steps]] # another").next().unwrap().to_owned();
    let found = run(format!("{HEAD}{one_step}"), Way::Restored(2, 1));
    // the click at 00:05:00 comes out at the end of time
    let shown: String = found.iter().map(Difference::to_string).collect();
    assert!(shown.contains("window_start 2026-01-01T00:05:00Z  campaign_id \"a\"\n      not expected: "), "{shown}");
    // two windows: those that expect no window are not found in either
    assert!(shown.contains("missing"), "{shown}");
}

#[test]
fn only_what_differs_is_shown() {
    let wrong = STEPS
        .replace(
            "clicks = 1, conversions = 0, revenue = 0.0, unique_users = 2",
            "clicks = 11, conversions = 0, unique_users = 2",
        )
        .replace("campaign_id = \"b\", impressions = 0", "campaign_id = \"c\", impressions = 0")
        .replace("rejected = [\"unknown event_type \\\"view\\\"\"]\n", "")
        .replace("late = 1", "late = 0")
        .replace("window_end = 2026-01-01T00:10:00Z", "window_end = 2026-01-01T00:15:00Z");
    let found = run(format!("{HEAD}{wrong}"), Way::Tasks(1));
    let shown: String = found.iter().map(Difference::to_string).collect();
    assert_eq!(
        shown,
        r#"  step 1
    window_start 2026-01-01T00:00:00Z  campaign_id "a"
      clicks   expected 11    got 1
      revenue  expected null  got 0.0
    window_start 2026-01-01T00:00:00Z  campaign_id "c"
      missing: impressions 0  clicks 0  conversions 1  revenue 1.5  unique_users 1
    window_start 2026-01-01T00:00:00Z  campaign_id "b"
      not expected: impressions 0  clicks 0  conversions 1  revenue 1.5  unique_users 1
    rejected rows: expected 0, got 1
      not expected: unknown event_type "view"
  step 2
    window_start 2026-01-01T00:05:00Z  campaign_id "a"
      window_end  expected 2026-01-01T00:15:00Z  got 2026-01-01T00:10:00Z
    late rows: expected 0, got 1
      late: its window [1767225600000, 1767225900000) expired under watermark 1767225899999, 298999 ms behind it
"#
    );
}

#[test]
fn floats_are_compared_exactly_unless_a_tolerance_is_given() {
    let near = STEPS.replace("revenue = 1.5, unique_users", "revenue = 1.5000000001, unique_users");
    assert_eq!(run(format!("{HEAD}{near}"), Way::Tasks(1)).len(), 1);
    assert_eq!(run(format!("tolerance = 1e-9\n{HEAD}{near}"), Way::Tasks(1)), []);
    assert_eq!(run(format!("tolerance = 1e-12\n{HEAD}{near}"), Way::Tasks(1)).len(), 1);
}

#[test]
fn what_came_out_is_written_into_the_file_and_nothing_else_changes() {
    let bare: String = STEPS
        .replace("late = 1\n", "")
        .replace("rejected = [\"unknown event_type \\\"view\\\"\"]\n", "rejected = []\n");
    let (before, rest) = bare.split_once("expect = [\n").unwrap();
    let (_, rest) = rest.split_once("]\n").unwrap();
    let text = format!("{HEAD}{before}{}", rest.replace("ctr = 1.0, cvr = 0.0 },\n", "ctr = nan },\n"));
    let case = parse(text.clone()).unwrap();
    let subject = Subject::open(&native(), &case).unwrap();
    let outcome = subject.run(&case, Way::Tasks(1)).unwrap();
    let found = differences(&case, &subject, &outcome);
    assert_eq!(found.len(), 2);
    let table = |batches: &[_]| Table::of_results(subject.output(), case.key.len(), batches);
    let tables: Vec<_> = outcome
        .into_iter()
        .map(|step| {
            let rows = table(&step.rows);
            (step, rows)
        })
        .collect();
    let updated = update::update(&case, &tables, &found);
    assert_eq!(run(updated.clone(), Way::Tasks(1)), [], "{updated}");
    for kept in ["# kept: a comment", "# closes the first window\n", "[[steps]] # another\n", "user_id = \"u9\", at"] {
        assert!(updated.contains(kept), "{kept} is gone:\n{updated}");
    }
    assert!(updated.contains("rejected = [\n  \"unknown event_type \\\"view\\\"\",\n]\n"), "{updated}");
}

#[test]
fn strange_values_survive_an_update() {
    use crate::golden::table::{Head, Role};
    use millrace_core::schema::DataType;
    let head = |data_type| Head { name: "x".into(), data_type, role: Role::Value };
    for (data_type, json, toml) in [
        (DataType::String, r#""a\"b\\c\n\u0001é\u007f""#, "\"a\\\"b\\\\c\\n\\u0001é\\u007f\""),
        (DataType::Double, "\"NaN\"", "nan"),
        (DataType::Double, "\"-Infinity\"", "-inf"),
        (DataType::Double, "1e300", "1e300"),
        (DataType::Timestamptz, "\"2026-01-01T00:00:00Z\"", "2026-01-01T00:00:00Z"),
        (DataType::Date, "\"-0001-01-01\"", "\"-0001-01-01\""),
        (DataType::Decimal { precision: 9, scale: 2 }, "\"1.50\"", "\"1.50\""),
    ] {
        assert_eq!(update::value(&head(data_type), json), toml);
        toml::from_str::<toml::Table>(&format!("x = {toml}")).unwrap();
    }
}

#[test]
fn events_come_from_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let case_at = |events: &str| {
        let steps = format!(
            "{HEAD}\n[[steps]]\n{events}\nexpect = [{{ campaign_id = \"a,\\\"b\", impressions = 1, clicks = 1, conversions = 0, \
             revenue = -inf, unique_users = 2, ctr = 1.0, cvr = 0.0 }}]\n"
        );
        case::parse(&folder.path().join("t.toml"), "t.toml".into(), steps, Kind::Aggregation)
    };
    std::fs::write(
        folder.path().join("e.csv"),
        "campaign_id,event_type,user_id,revenue,at\n\"a,\"\"b\",click,u,,2026-01-01T00:00:00Z\n\"a,\"\"b\",impression,,-Infinity,1767225600000\n",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("e.jsonl"),
        "{\"campaign_id\":\"a,\\\"b\",\"event_type\":\"click\",\"user_id\":\"u\",\"at\":\"2026-01-01T00:00:00Z\"}\n\n\
         {\"campaign_id\":\"a,\\\"b\",\"event_type\":\"impression\",\"user_id\":\"\",\"revenue\":\"-Infinity\",\"at\":1767225600000,\"more\":1}\n",
    )
    .unwrap();
    for file in ["e.csv", "e.jsonl"] {
        let case = case_at(&format!("events_file = \"{file}\"")).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let subject = Subject::open(&native(), &case).unwrap();
        let outcome = subject.run(&case, Way::Tasks(2)).unwrap();
        assert_eq!(differences(&case, &subject, &outcome), [], "{file}");
    }
    std::fs::write(folder.path().join("bad.csv"), "campaign_id,event_type,user_id,at\na,click,u,yesterday\n").unwrap();
    let error = case_at("events_file = \"bad.csv\"").unwrap_err().render(false);
    assert!(error.contains("row 1 does not fit `[schema]`") && error.contains("at"), "{error}");
    std::fs::write(folder.path().join("bad.csv"), "campaign,event_type\n").unwrap();
    let error = case_at("events_file = \"bad.csv\"").unwrap_err().render(false);
    assert!(error.contains("no column `campaign`"), "{error}");
}

/// Every error has the line, and says what to do.
#[test]
fn what_is_wrong_with_a_case_is_said_where_it_stands() {
    let step = "\n[[steps]]\nevents = [{ campaign_id = \"a\", event_type = \"click\", user_id = \"u\", at = 2026-01-01T00:00:00Z }]\n";
    let bad = [
        (
            format!("{HEAD}\n[[steps]]\nevents = [{{ campaign_id = \"a\" }}]\n"),
            "t.toml:14:11",
            "does not fit `[schema]`",
        ),
        (format!("{HEAD}{}", step.replace("user_id", "usr_id")), "t.toml:14:54", "did you mean `user_id`?"),
        (format!("{HEAD}{step}expct = []\n"), "t.toml:15:1", "did you mean `expect`?"),
        (format!("{HEAD}{step}watermark = \"soon\"\n"), "t.toml:15:13", "`soon` is no watermark"),
        (format!("{HEAD}{step}expect = 3\n"), "t.toml:15:10", "`expect` is a list of rows"),
        (format!("{HEAD}{step}late = -1\n"), "t.toml:15:8", "out of range"),
        (format!("{HEAD}{step}events_file = \"none.csv\"\n"), "t.toml:15:15", "cannot read"),
        (HEAD.to_owned(), "a case without steps", "[[steps]]"),
        (HEAD.replace("event_time = \"at\"\n", "") + step, "lacks `event_time`", "windows"),
        (HEAD.replace("key = [\"campaign_id\"]\n", "") + step, "lacks `key`", ""),
        (HEAD.replace("\"tumbling\"", "\"sliding\"") + step, "t.toml:3:1", "lacks `slide`"),
        (format!("tolerance = 2\n{HEAD}{step}"), "t.toml:1:13", "from 0 to 1"),
        (
            format!("{HEAD}{step}watermark = 2026-01-01T00:00:01Z\n{step}watermark = 2026-01-01T00:00:00Z\n"),
            "t.toml:19:13",
            "never goes back",
        ),
        (format!("{HEAD}{step}]"), "t.toml:15:1", "not TOML"),
    ];
    for (text, place, words) in bad {
        let error = parse(text.clone()).err().unwrap_or_else(|| panic!("no error in\n{text}"));
        assert!(error.contains(place) && error.contains(words), "{place} {words} is not in\n{error}");
    }
}

/// What only the plugin can say.
#[test]
fn what_the_plugin_does_not_take_is_said_where_it_stands() {
    let step = "\n[[steps]]\nevents = []\n";
    let open = |text: String| {
        let case = parse(text).unwrap_or_else(|e| panic!("{e}"));
        let subject = Subject::open(&native(), &case);
        subject.and_then(|s| case.expected(s.output()).map(|_| ())).map_err(|e| e.render(false)).unwrap_err()
    };
    let error = open(format!("config = {{ unique_users = \"about\" }}\n{HEAD}{step}"));
    assert!(error.contains("t.toml:1:1") && error.contains("refused its configuration"), "{error}");
    let error = open(HEAD.replace("user_id = \"string\"\n", "") + step);
    assert!(error.contains("refused its input: column `user_id`"), "{error}");
    let error = open(HEAD.replace("[\"campaign_id\"]", "[\"campain_id\"]") + step);
    assert!(error.contains("t.toml:2:8") && error.contains("did you mean `campaign_id`?"), "{error}");
    let error = open(format!("{HEAD}{step}expect = [{{ campaign_id = \"a\", click = 1 }}]\n"));
    assert!(error.contains("t.toml:15:11") && error.contains("did you mean `clicks`?"), "{error}");
    let error = open(format!("{HEAD}{step}expect = [{{ campaign_id = \"a\", clicks = \"x\" }}]\n"));
    assert!(error.contains("t.toml:15:11") && error.contains("cannot be a result"), "{error}");
}

/// Dies whenever it is asked for results.
struct Dying(NativeFactory<Campaign>);

struct DyingInstance(Box<dyn Aggregator>);

impl AggregatorFactory for Dying {
    fn info(&self) -> &Info {
        self.0.info()
    }
    fn digest(&self) -> &str {
        "dying"
    }
    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Aggregator>> {
        Ok(Box::new(DyingInstance(self.0.open(config, offered)?)))
    }
}

impl Aggregator for DyingInstance {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }
    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total: u32) -> Result<Vec<Rejected>> {
        self.0.update(columns, groups, total)
    }
    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()> {
        self.0.combine(sources, targets)
    }
    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total: u32) -> Result<()> {
        self.0.merge(state, groups, total)
    }
    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk> {
        self.0.state(groups, cursor, max_bytes)
    }
    fn evaluate(&mut self, _: &[u32], _: &[WindowUs], _: bool) -> Result<OutputRows> {
        Err(PluginError::Trap {
            plugin: "dying".into(),
            call: "evaluate",
            message: "I always do".into(),
            guest_log: Vec::new(),
            out_of_memory: false,
        })
    }
    fn reset(&mut self, groups: &[u32]) -> Result<()> {
        self.0.reset(groups)
    }
    fn size(&mut self) -> Result<u64> {
        self.0.size()
    }
    fn migrate(&mut self, origin: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>> {
        self.0.migrate(origin, state)
    }
}

#[test]
fn a_plugin_that_dies_fails_its_case_with_its_reason() {
    let case = parse(format!("{HEAD}{STEPS}")).unwrap();
    let factory: Arc<dyn AggregatorFactory> = Arc::new(Dying(NativeFactory::new("campaign-metrics")));
    let subject = Subject::open(&factory, &case).unwrap();
    for way in Way::ALL {
        let error = subject.run(&case, way).unwrap_err();
        assert!(error.contains("I always do"), "{way}: {error}");
    }
}

mod transforms {
    use super::*;
    use crate::golden::transform::{TransformSubject, Way};
    use crate::plugin::{TransformSignature, Transformed, Transformer, TransformerFactory, Wanted};
    use arrow_array::{Int64Array, UInt32Array, cast::AsArray as _, types::Int64Type};
    use millrace_core::schema::{DataType, Field};

    /// Repeats a row `n` times, and refuses negative ones; with `flaw` it numbers the rows of a batch.
    struct Repeat {
        flaw: bool,
        info: Info,
        signature: TransformSignature,
    }

    struct Repeater(bool, TransformSignature);

    fn repeat(flaw: bool) -> Arc<dyn TransformerFactory> {
        let long = |name: &str| Field::new(name, DataType::Long, false);
        Arc::new(Repeat {
            flaw,
            info: Info { name: "repeat".into(), version: "1.0.0".into(), config_schema: "{}".into() },
            signature: TransformSignature {
                input: vec![Wanted { field: long("n"), dictionary: false, optional: false }],
                output: Schema::new(vec![long("n"), long("copy")]),
            },
        })
    }

    impl TransformerFactory for Repeat {
        fn info(&self) -> &Info {
            &self.info
        }
        fn digest(&self) -> &str {
            "repeat"
        }
        fn open(&self, _: &str, _: &Schema) -> Result<Box<dyn Transformer>> {
            Ok(Box::new(Repeater(self.flaw, self.signature.clone())))
        }
    }

    impl Transformer for Repeater {
        fn signature(&self) -> &TransformSignature {
            &self.1
        }
        fn process(&mut self, columns: &[Option<ArrayRef>], rows: u32) -> Result<Transformed> {
            let counts = columns[0].as_ref().unwrap().as_primitive::<Int64Type>();
            assert_eq!(counts.len(), rows as usize);
            let (mut origins, mut copies, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
            for row in 0..rows {
                let n = counts.value(row as usize);
                if n < 0 {
                    rejected.push(Rejected { row, reason: format!("{n} is negative") });
                }
                for copy in 0..n.max(0) {
                    origins.push(row);
                    copies.push(if self.0 { i64::from(row) } else { copy });
                }
            }
            let n = arrow_select::take::take(counts, &UInt32Array::from(origins.clone()), None).unwrap();
            Ok(Transformed { columns: vec![n, Arc::new(Int64Array::from(copies))], origins, rejected })
        }
    }

    const CASE: &str = r#"
[schema]
name = "string"
n = "int"
[[steps]]
events = [{ name = "a", n = 2 }, { name = "b", n = -1 }, { name = "c", n = 0 }, { name = "d", n = 1 }]
expect = [{ name = "a", n = 2, copy = 0 }, { name = "a", n = 2, copy = 1 }, { name = "d", n = 1, copy = 0 }]
rejected = ["-1 is negative"]
"#;

    fn run(text: &str, flaw: bool, way: Way) -> String {
        let case = case::parse(Path::new("t.toml"), "t.toml".into(), text.to_owned(), Kind::Transform)
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        let subject = TransformSubject::open(&repeat(flaw), &case).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let outcome = subject.run(&case, way).unwrap();
        let table = |batches: &[_]| Table::of_rows(&subject.output, batches);
        let expected = case.expected(&subject.output).unwrap();
        let (step, came) = (&case.steps[0], &outcome[0]);
        let counts = (step.rejected.as_slice(), step.late);
        compare(1, table(&expected), &table(&came.rows), counts, came, None).map(|d| d.to_string()).unwrap_or_default()
    }

    #[test]
    fn rows_keep_the_columns_that_the_plugin_does_not_give() {
        for way in Way::ALL {
            assert_eq!(run(CASE, false, way), "", "{way}");
        }
        let text = CASE.replace("name = \"d\", n = 1, copy = 0", "name = \"e\", n = 1, copy = 0");
        assert_eq!(run(&text, false, Way::AllAtOnce), "  step 1\n    row 3\n      name  expected \"e\"  got \"d\"\n");
    }

    #[test]
    fn a_transform_that_depends_on_the_batch_is_found_row_by_row() {
        let text = CASE.replace("n = 2, copy = 1", "n = 2, copy = 0").replace("n = 1, copy = 0", "n = 1, copy = 3");
        assert_eq!(run(&text, true, Way::AllAtOnce), "");
        assert!(run(&text, true, Way::RowByRow).contains("copy  expected 3  got 0"));
    }

    #[test]
    fn a_case_has_no_window() {
        let text = format!("key = [\"name\"]\n{CASE}");
        let error = case::parse(Path::new("t.toml"), "t.toml".into(), text, Kind::Transform).unwrap_err().render(false);
        assert!(error.contains("t.toml:1:7") && error.contains("a transform has no `key`"), "{error}");
    }
}
