//! Real runs: events that a generator makes, results in files.

use std::fs;
use std::path::PathBuf;

use millrace_core::checkpoint::Reason;
use serde_json::Value;

use super::super::aggregate_task::ResultObserver;
use super::super::coordinator::{Order, SavepointWork};
use super::super::nodes;
use super::super::run::{self, RunOptions};
use super::*;
use crate::cli::open::{load, resolve};
use crate::cli::run::run_with;
use crate::cli::{Failure, Progress, RunArgs, Ui};
use crate::spec::model::Location;

mod kept;
mod refused;

/// Two kinds of state: groups of tumbling windows, and what a deduplication has seen.
const PIPELINE: &str = r#"
[pipeline]
name = "saved"
parallelism = PARALLELISM

[checkpoint]
location = "LOCATION"

[schemas.ad_event]
event_id = "string"
user_id = "string"
campaign_id = "string"
event_type = "string"
timestamp = "timestamptz"
revenue = "double?"

[sources.events]
type = "generator"
schema = "ad_event"
event_time = "timestamp"
watermark = { out_of_orderness = "5s" }
partitions = 3
count = COUNT
campaigns = 4
users = 20
start = "2026-01-31T12:00:00Z"

[aggregations.by_campaign]
inputs = ["events"]
key = ["campaign_id"]
window = { type = "sliding", size = "4s", slide = "1s" }

[aggregations.by_campaign.aggregate]
events = "count(*)"
best = "max(revenue)"    # a sum of doubles depends on their order
users = "count(distinct user_id)"

[sinks.results]
type = "file"
inputs = ["by_campaign"]
path = "OUT/results"
format = "jsonl"
"#;

const MORE: &str = r#"
[aggregations.by_user]
inputs = ["events"]
key = ["user_id"]
window = { type = "tumbling", size = "1s" }

[aggregations.by_user.aggregate]
events = "count(*)"

[sinks.more]
type = "file"
inputs = ["by_user"]
path = "OUT/more"
format = "jsonl"
"#;

/// A place where one run is on its own.
pub(crate) struct Place(pub PathBuf);

impl Place {
    pub fn new(above: &Path, name: &str, parallelism: usize, count: usize, more: &str) -> Self {
        let place = Self(above.join(name));
        fs::create_dir_all(&place.0).unwrap();
        let text = format!("{PIPELINE}{more}")
            .replace("PARALLELISM", &parallelism.to_string())
            .replace("COUNT", &count.to_string())
            .replace("LOCATION", "state")
            .replace("OUT", "out");
        fs::write(place.file(), text).unwrap();
        place
    }

    pub fn file(&self) -> PathBuf {
        self.0.join("pipeline.toml")
    }

    pub fn run(&self, keep_open: bool, from_savepoint: Option<&Path>) -> Result<(), String> {
        let args = RunArgs {
            file: self.file(),
            until_end: true,
            keep_open,
            fresh: false,
            from_savepoint: from_savepoint.map(Path::to_owned),
            drop_state: vec![],
            reset_offsets: vec![],
            ui: Some(Ui::None),
            watch: false,
            progress: Progress::None,
        };
        run_with(&args, None).map_err(|failure| match failure {
            Failure::Usage(message) => message,
            Failure::Other(error) => format!("{error:#}"),
        })
    }

    /// What the last checkpoint says, as a savepoint.
    fn save(&self, folder: &Path) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = CheckpointStore::open(&Location::Local(self.0.join("state")), "saved").unwrap();
        let surveyed = runtime.block_on(store.survey()).unwrap().records.pop().unwrap();
        let Condition::Whole(record) = surveyed.condition else { panic!("damaged") };
        let checkpoint = record.checkpoint().unwrap();
        assert!(checkpoint.operators["by_campaign"].files.len() > 1, "there is hardly a window open");
        let clock: Arc<dyn Clock> = Arc::new(crate::clock::SystemClock);
        savepoints(store, runtime.handle().clone(), clock)(&folder.display().to_string(), record.number, checkpoint)
            .unwrap();
    }

    fn rows(&self, sink: &str) -> Vec<String> {
        let files = fs::read_dir(self.0.join("out").join(sink)).unwrap();
        let texts = files.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        let mut rows: Vec<String> =
            texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        rows.sort_unstable();
        rows
    }
}

#[test]
fn another_place_goes_on_where_the_savepoint_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Place::new(dir.path(), "whole", 2, 100_000, "");
    whole.run(false, None).unwrap();
    let first = Place::new(dir.path(), "first", 2, 60_000, "");
    first.run(true, None).unwrap();
    let folder = dir.path().join("savepoint");
    first.save(&folder);

    let second = Place::new(dir.path(), "second", 3, 100_000, MORE);
    second.run(false, Some(&folder)).unwrap();
    let (before, after) = (first.rows("results"), second.rows("results"));
    assert!(!before.is_empty(), "no window has closed before the savepoint");
    let mut both = [before, after].concat();
    both.sort_unstable();
    let expected = whole.rows("results");
    let differs = both.iter().zip(&expected).find(|(found, expected)| found != expected);
    assert!(
        differs.is_none() && both.len() == expected.len(),
        "{differs:?}, {} rows of {}",
        both.len(),
        expected.len()
    );
    let events = |row: &String| serde_json::from_str::<Value>(row).unwrap()["events"].as_u64().unwrap();
    assert_eq!(second.rows("more").iter().map(events).sum::<u64>(), 40_000);

    let again = second.run(false, Some(&folder)).unwrap_err();
    assert!(again.contains("leave `--from-savepoint` out"), "{again}");
    // goes on from its own last checkpoint, which has read all there was
    second.run(false, None).unwrap();
    assert_eq!([first.rows("results"), second.rows("results")].concat().len(), whole.rows("results").len());
}

#[test]
fn a_running_pipeline_is_asked_for_one_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Place::new(dir.path(), "whole", 2, 60_000, "");
    whole.run(false, None).unwrap();
    let first = Place::new(dir.path(), "first", 2, 60_000, "");
    let folder = dir.path().join("savepoint");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Ok(loaded) = load(&first.file()) else { panic!("the file is wrong") };
    let Ok(opened) = resolve(&loaded, None) else { panic!("the file is wrong") };
    let parts = nodes::open(&loaded.pipeline, &opened, runtime.handle(), Begin::default()).unwrap();
    let store = CheckpointStore::open(&loaded.pipeline.checkpoint.location, "saved").unwrap();
    let write = savepoints(store, runtime.handle().clone(), Arc::clone(&parts.clock));
    let (orders, receiver) = crossbeam_channel::unbounded();
    let (reply, answer) = crossbeam_channel::bounded(1);
    let to = folder.display().to_string();
    let work: SavepointWork = Box::new(move |number, checkpoint| write(&to, number, checkpoint));
    // with the first results: windows have closed, others are open
    let asked = std::sync::Mutex::new(Some((orders.clone(), Order::Savepoint { work, reply })));
    let observer: ResultObserver = Arc::new(move |_| {
        if let Some((orders, savepoint)) = asked.lock().unwrap().take() {
            orders.send(savepoint).unwrap();
        }
    });
    let asking = std::thread::spawn(move || {
        let number = answer.recv();
        orders.send(Order::Stop { drain: false }).unwrap();
        number.unwrap().unwrap()
    });
    run::run(parts, RunOptions { observer: Some(observer), ..RunOptions::default() }, receiver).unwrap();
    let number = asking.join().unwrap();
    let record = savepoint::open(&folder).unwrap().record;
    assert_eq!((record.number, record.checkpoint.reason), (number, Reason::Savepoint));
    assert!(!record.checkpoint.operators["by_campaign"].files.is_empty());

    first.run(false, None).unwrap();
    assert_eq!(first.rows("results"), whole.rows("results"));
    let second = Place::new(dir.path(), "second", 1, 60_000, "");
    second.run(false, Some(&folder)).unwrap();
    let mut all = [first.rows("results"), second.rows("results")].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, whole.rows("results"));
    assert!(second.rows("results").len() > 1);
}

#[test]
fn a_start_that_is_refused_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let first = Place::new(dir.path(), "first", 1, 15_000, "");
    first.run(true, None).unwrap();
    let folder = dir.path().join("savepoint");
    first.save(&folder);
    let second = Place::new(dir.path(), "second", 1, 15_000, "");
    let right = fs::read_to_string(second.file()).unwrap();
    fs::write(second.file(), right.replace("\"4s\"", "\"5s\"")).unwrap();
    let refused = second.run(false, Some(&folder)).unwrap_err();
    assert!(refused.contains("the window of `by_campaign`"), "{refused}");
    assert!(!second.0.join("state").exists(), "a refused start has left something at its location");
    fs::write(second.file(), &right).unwrap();
    second.run(false, Some(&folder)).unwrap();
    assert!(!second.rows("results").is_empty());
}
