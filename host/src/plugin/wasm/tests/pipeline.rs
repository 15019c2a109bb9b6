//! A pipeline in which one plugin fails: its rows are refused, everything else goes on as if it was not there.

use super::*;
use crate::cli::run::run_with;
use crate::cli::{Progress, RunArgs};

const PIPELINE: &str = r#"
[pipeline]
name = "one-fails"
parallelism = 1

[errors]
on_error = "skip"
consecutive_limit = 1_000_000

[plugins.bad]
path = "guest.wasm"
memory = "64MiB"

[plugins.good]
path = "guest.wasm"
memory = "64MiB"

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
partitions = 2
count = 3_000
campaigns = 5

[aggregations.poisoned]
inputs = ["events"]
key = ["campaign_id"]
window = { type = "tumbling", size = "1h" }
plugin = "bad"
config = { mode = "panics-on-conversion" }
columns = { kind = "event_type", value = "revenue" }

[aggregations.healthy]
inputs = ["events"]
key = ["campaign_id"]
window = { type = "tumbling", size = "1h" }
plugin = "good"
config = { mode = "normal" }
columns = { kind = "event_type", value = "revenue" }

[sinks.raw]
type = "file"
inputs = ["events"]
path = "raw"
format = "jsonl"

[sinks.bad_out]
type = "file"
inputs = ["poisoned"]
path = "bad"
format = "jsonl"

[sinks.good_out]
type = "file"
inputs = ["healthy"]
path = "good"
format = "jsonl"
"#;

#[test]
fn other_operators_go_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("guest.wasm"), guest()).unwrap();
    let file = dir.path().join("pipeline.toml");
    std::fs::write(&file, PIPELINE).unwrap();
    let args = RunArgs {
        file,
        until_end: true,
        keep_open: false,
        fresh: false,
        from_savepoint: None,
        drop_state: vec![],
        reset_offsets: vec![],
        ui: Some(crate::cli::Ui::None),
        watch: false,
        progress: Progress::None,
    };
    let ended = run_with(&args, None);
    assert!(
        ended.is_ok(),
        "{}",
        match ended.err().unwrap() {
            crate::cli::Failure::Usage(message) => message,
            crate::cli::Failure::Other(error) => format!("{error:#}"),
        }
    );
    let raw = lines(&dir.path().join("raw"));
    assert_eq!(raw.len(), 3_000);
    let conversions = raw.iter().filter(|row| row["event_type"] == "conversion").count();
    assert!(conversions > 10, "nothing to refuse: {conversions}");
    let counted = |folder: &str| -> usize {
        let counts = lines(&dir.path().join(folder)).into_iter().map(|row| row["count"].as_u64().unwrap());
        usize::try_from(counts.sum::<u64>()).unwrap()
    };
    assert_eq!(counted("good"), 3_000);
    assert_eq!(counted("bad"), 3_000 - conversions);
}

fn lines(folder: &std::path::Path) -> Vec<serde_json::Value> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let files: Vec<String> = files.collect();
    files.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).unwrap()).collect()
}
