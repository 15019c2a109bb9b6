//! Savepoints that former versions have written: each stays restorable for ever. `tests/savepoints/<version>/` has the
//! savepoint, the pipeline file that goes on from it, and the rows that it then gives.
//!
//! A new one is kept with `MILLRACE_NEW_SAVEPOINT=<folder> cargo test … so_is_the_one_that_this_version_writes`, and never
//! made again.

use super::*;

/// Groups, a ledger of corrected results, sessions, and what a deduplication has seen (one partition: which event comes first
/// must not depend on the run).
const PIPELINE: &str = r#"# The savepoint was taken after 60_000 events, on another machine, at parallelism 1.

[pipeline]
name = "saved"
parallelism = 3

[checkpoint]
location = "state"

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
partitions = 1
count = 90_000
campaigns = 2
users = 5
start = "2026-01-31T12:00:00Z"

[transforms.now_and_then]
inputs = ["events"]
deduplicate = { key = ["user_id"], within = "8s" }

[aggregations.by_campaign]
inputs = ["events"]
key = ["campaign_id"]
window = { type = "tumbling", size = "4s" }
allowed_lateness = "8s"

[aggregations.by_campaign.aggregate]
events = "count(*)"
clicks = "count(*) filter (where event_type = 'click')"
best = "max(revenue)"
users = "count(distinct user_id)"

[aggregations.visits]
inputs = ["now_and_then"]
key = ["user_id"]
window = { type = "session", gap = "3s" }
aggregate = { events = "count(*)" }

[sinks.results]
type = "file"
inputs = ["by_campaign"]
path = "out/results"
format = "jsonl"
revision = true

[sinks.visits_out]
type = "file"
inputs = ["visits"]
path = "out/visits"
format = "jsonl"
"#;

const SINKS: [&str; 2] = ["results", "visits"];

fn at(above: &Path, name: &str, text: &str) -> Place {
    let place = Place(above.join(name));
    fs::create_dir_all(&place.0).unwrap();
    fs::write(place.file(), text).unwrap();
    place
}

#[test]
fn the_savepoint_of_every_version_is_restored() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/savepoints");
    let versions: Vec<PathBuf> = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!versions.is_empty());
    versions.iter().for_each(|version| is_restored(version));
}

#[test]
fn so_is_the_one_that_this_version_writes() {
    let dir = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("MILLRACE_NEW_SAVEPOINT").map(PathBuf::from);
    let into = kept.unwrap_or_else(|| dir.path().join("kept"));
    let until_savepoint = PIPELINE.replace("90_000", "60_000").replace("parallelism = 3", "parallelism = 1");
    let first = at(dir.path(), "first", &until_savepoint);
    first.run(true, None).unwrap();
    let whole = at(dir.path(), "whole", PIPELINE);
    whole.run(false, None).unwrap();
    fs::create_dir_all(&into).unwrap();
    fs::write(into.join("pipeline.toml"), PIPELINE).unwrap();
    first.save(&into.join("savepoint"));
    for sink in SINKS {
        let before = first.rows(sink);
        let rest: Vec<String> = whole.rows(sink).into_iter().filter(|row| !before.contains(row)).collect();
        assert!(!before.is_empty() && !rest.is_empty(), "{sink}");
        fs::write(into.join(format!("{sink}.jsonl")), rest.join("\n") + "\n").unwrap();
    }
    is_restored(&into);
}

fn is_restored(version: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let place = at(dir.path(), "run", &fs::read_to_string(version.join("pipeline.toml")).unwrap());
    place.run(false, Some(&version.join("savepoint"))).unwrap();
    for sink in SINKS {
        let expected = fs::read_to_string(version.join(format!("{sink}.jsonl"))).unwrap();
        let expected: Vec<&str> = expected.lines().collect();
        assert_eq!(place.rows(sink), expected, "{}", version.display());
    }
}
