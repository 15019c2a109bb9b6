//! A plugin that fails in a running pipeline: who is disturbed, what is captured, and what `millrace replay` makes of it.
//! Runs the command itself, with the generator as source.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

const EVENTS: u64 = 50_000;
/// Seldom enough to be alone in most calls, and often enough to be there.
const POISON: &str = "user-0000000999";

struct Guests {
    aggregation: Vec<u8>,
    /// the same without its fault
    mended: Vec<u8>,
    transform: Vec<u8>,
}

/// Builds `plugins/test-guests`.
fn guests() -> &'static Guests {
    static GUESTS: OnceLock<Guests> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let build = |arguments: &[&str], target: &str, file: &str| {
            let target = root.join("target").join(target);
            let built = Command::new(env!("CARGO"))
                .args(["build", "--release", "--target", "wasm32-unknown-unknown", "-p", "millrace-test-guests"])
                .args(arguments)
                .arg("--target-dir")
                .arg(&target)
                .current_dir(&root)
                .env_remove("RUSTFLAGS")
                .status();
            assert!(built.unwrap().success(), "the guest does not build");
            std::fs::read(target.join("wasm32-unknown-unknown/release").join(file)).unwrap()
        };
        let aggregation = "millrace_test_guests.wasm";
        Guests {
            aggregation: build(&["--lib"], "test-guests", aggregation),
            mended: build(&["--lib", "--features", "mended"], "test-guests-mended", aggregation),
            transform: build(&["--example", "transform"], "test-guests", "examples/transform.wasm"),
        }
    })
}

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    /// A hostile aggregation and a healthy one over one source.
    fn new(mode: &str, on_error: &str) -> Self {
        let hostile = format!(
            r#"
[aggregations.hostile]
inputs = ["events"]
key = ["campaign_id"]
window = {{ type = "tumbling", size = "10s" }}
plugin = "guest"
config = {{ mode = "{mode}" }}
columns = {{ kind = "user_id", value = "revenue" }}
on_error = "{on_error}"
"#
        );
        Self::with(&hostile, &guests().aggregation)
    }

    fn with(hostile: &str, guest: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            r#"
[pipeline]
name = "failures"
parallelism = 2
[checkpoint]
interval = "100ms"
location = "./state"
[plugins.guest]
path = "guest.wasm"
[schemas.ad_event]
event_id = "string"
user_id = "string"
campaign_id = "string"
event_type = "string"
timestamp = "timestamptz"
platform = "string?"
revenue = "double?"
[sources.events]
type = "generator"
seed = 7
partitions = 4
count = {EVENTS}
campaigns = 20
users = 10_000
start = "2026-01-31T12:00:00Z"
schema = "ad_event"
event_time = "timestamp"
{hostile}
[aggregations.healthy]
inputs = ["events"]
key = ["campaign_id"]
window = {{ type = "tumbling", size = "10s" }}
aggregate = {{ events = "count(*)", poison = "count(*) filter (where user_id = '{POISON}')" }}
[sinks.hostile_rows]
type = "file"
inputs = ["hostile"]
path = "hostile"
format = "jsonl"
[sinks.healthy_rows]
type = "file"
inputs = ["healthy"]
path = "healthy"
format = "jsonl"
[sinks.letters]
type = "file"
inputs = ["*.errors"]
path = "letters"
format = "jsonl"
"#
        );
        std::fs::write(dir.path().join("pipeline.toml"), text).unwrap();
        std::fs::write(dir.path().join("guest.wasm"), guest).unwrap();
        std::fs::write(dir.path().join("mended.wasm"), &guests().mended).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn millrace(&self, arguments: &[&str]) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_millrace")).args(arguments).current_dir(self.dir.path()).output();
        Said::of(output.unwrap())
    }

    fn run(&self) -> Said {
        self.millrace(&["run", "pipeline.toml", "--until-end", "--progress", "none"])
    }

    /// All rows that a file sink has written.
    fn rows(&self, sink: &str) -> Vec<Value> {
        let Ok(files) = std::fs::read_dir(self.path(sink)) else { return Vec::new() };
        let text = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        text.collect::<String>().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn sum(&self, sink: &str, column: &str) -> u64 {
        self.rows(sink).iter().map(|row| row[column].as_u64().unwrap()).sum()
    }
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

#[test]
fn poison_rows_are_taken_out_captured_and_replayed() {
    let case = Case::new(&format!("panics-on-{POISON}"), "dead-letter");
    let ran = case.run();
    assert_eq!(ran.code, Some(0), "{}", ran.err);

    // nobody else has noticed, and what the hostile plugin could count has been counted
    let poison = case.sum("healthy", "poison");
    assert!(poison > 0 && case.sum("healthy", "events") == EVENTS, "{poison} of {}", case.sum("healthy", "events"));
    assert_eq!(case.sum("hostile", "count"), EVENTS - poison);
    let letters = case.rows("letters");
    assert_eq!(letters.len() as u64, poison);
    let capture = case.path("state/captures/hostile-0001");
    let command = format!("millrace replay {}", capture.display());
    assert!(ran.err.contains(&command), "{}", ran.err);
    assert!(letters.iter().any(|letter| letter["reason"].as_str().unwrap().ends_with(&command)), "{letters:?}");
    for letter in &letters {
        assert!(letter["reason"].as_str().unwrap().contains("this row has no budget"), "{letter}");
        assert!(letter["row"].as_str().unwrap().contains(POISON) && letter["offset"].is_u64(), "{letter}");
    }

    // the same failure, as text and for programs
    let capture = capture.to_str().unwrap();
    let again = case.millrace(&["replay", capture]);
    assert_eq!(again.code, Some(1), "{again:?}");
    for words in ["it fails with the same error", "this row has no budget", POISON, "offset", "plugin's last log"] {
        assert!(again.out.contains(words), "{words}: {}", again.out);
    }
    let again = case.millrace(&["replay", &format!("{capture}/capture.json"), "--format", "json"]);
    let json = again.json();
    assert_eq!((again.code, &json["ok"]), (Some(1), &Value::Bool(false)));
    let numbers =
        |rows: &Value| rows.as_array().unwrap().iter().map(|r| r["row"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers(&json["guilty"]), numbers(&json["captured_guilty"]));
    assert_eq!(json["guilty"][0]["values"]["kind"], POISON);
    assert_eq!(json["error"], json["captured_error"]);
    let guilty = case.millrace(&["replay", capture, "--rows", "guilty", "--format", "json"]);
    assert_eq!((guilty.code, &guilty.json()["guilty"]), (Some(1), &json["guilty"]));

    // a correction
    let mended = case.millrace(&["replay", capture, "--plugin", "mended.wasm"]);
    assert_eq!(mended.code, Some(0), "{mended:?}");
    assert!(mended.out.contains("it succeeds now"), "{}", mended.out);

    // the folder may move, the plugin goes with it; without it there is a clear word
    std::fs::remove_file(case.path("guest.wasm")).unwrap();
    std::fs::rename(case.path("state"), case.path("moved")).unwrap();
    assert_eq!(case.millrace(&["replay", "moved/captures/hostile-0001"]).code, Some(1));
    std::fs::remove_dir_all(case.path("moved/plugins")).unwrap();
    let lost = case.millrace(&["replay", "moved/captures/hostile-0001"]);
    assert!(lost.code == Some(2) && lost.err.contains("--plugin FILE.wasm"), "{lost:?}");
    let nothing = case.millrace(&["replay", "no/such"]);
    assert!(nothing.code == Some(2) && nothing.err.contains("a capture is a folder"), "{nothing:?}");
}

/// No row is to blame for what fails when results are asked for: the run stops, and the call can be run again.
#[test]
fn a_failure_that_is_no_rows_stops_the_run_with_a_capture() {
    let case = Case::new("short", "dead-letter");
    let ran = case.run();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let command = format!("millrace replay {}", case.path("state/captures/hostile-0001").display());
    assert!(ran.err.contains("no row can be blamed") && ran.err.contains(&command), "{}", ran.err);
    assert!(case.rows("letters").is_empty());
    let again = case.millrace(&["replay", "state/captures/hostile-0001", "--format", "json"]);
    let json = again.json();
    assert_eq!((again.code, &json["verdict"]), (Some(1), &Value::from("it fails with the same error")), "{json}");
    assert_eq!(json["error"], json["captured_error"]);
}

#[test]
fn transforms_are_captured_and_replayed() {
    let hostile = format!(
        r#"
[transforms.hostile]
inputs = ["events"]
filter = "event_type <> 'click'"
plugin = "guest"
config = {{ mode = "panics-on-{POISON}" }}
columns = {{ word = "user_id", value = "revenue" }}
on_error = "dead-letter"
"#
    );
    let case = Case::with(&hostile, &guests().transform);
    let ran = case.run();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(case.sum("healthy", "events"), EVENTS);
    let letters = case.rows("letters");
    assert!(!letters.is_empty() && letters.iter().all(|l| l["row"].as_str().unwrap().contains(POISON)), "{letters:?}");
    let again = case.millrace(&["replay", "state/captures/hostile-0001", "--format", "json"]);
    let json = again.json();
    assert_eq!((again.code, &json["verdict"]), (Some(1), &Value::from("it fails with the same error")), "{json}");
    assert_eq!(json["guilty"][0]["values"]["word"], POISON);
    let place = &json["captured_guilty"][0];
    let captured = letters.iter().any(|l| l["partition"] == place["partition"] && l["offset"] == place["offset"]);
    assert!(captured, "{place} is in none of {letters:?}");
}

/// Where rows may not be dropped, the run stops at the first and names it.
#[test]
fn fail_names_the_row_and_the_capture() {
    let case = Case::new(&format!("panics-on-{POISON}"), "fail");
    let ran = case.run();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for words in ["aggregation `hostile`", "offset", "this row has no budget", "millrace replay", "on_error"] {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
}
