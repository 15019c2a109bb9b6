//! The machine's clock is set forward and back while the pipeline runs: no result, no idleness, no lateness notices.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace_tests::paths::{Scratch, files_below};
use millrace_tests::pipeline::aggregation;
use serde_json::Value;

use super::MINUTE;
use super::live::{Live, T, watermark_after};

const DAY_S: i64 = 86_400;

/// A clock that the test sets, as a library that is loaded before the C library's own.
struct WallClock {
    library: PathBuf,
    offset: PathBuf,
}

impl WallClock {
    fn new(folder: &Path) -> Result<Self> {
        let (library, offset) = (folder.join("clock.so"), folder.join("offset"));
        std::fs::write(&offset, 0_i64.to_ne_bytes())?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/kafka/clock.c");
        let output = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        let output = output.context("running cc")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { library, offset })
    }

    /// In place: the file is mapped by the process.
    fn set(&self, offset_s: i64) -> Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(&self.offset)?;
        Ok(file.write_all_at(&offset_s.to_ne_bytes(), 0)?)
    }
}

/// Campaign, start and end of the window in seconds, events.
type Row = (String, i64, i64, i64);

/// The last versions of the rows that a file sink has written. Files and not a table: Iceberg refuses snapshots that are
/// older than its last.
fn rows(folder: &Path) -> Result<BTreeSet<Row>> {
    let mut last: BTreeMap<(String, String), (i64, Row)> = BTreeMap::new();
    let second = |at: &Value| at.as_str().and_then(parse_second).map(|at| at - T / 1_000).context("no time");
    for file in files_below(folder) {
        for line in std::fs::read_to_string(&file)?.lines() {
            let row: Value = serde_json::from_str(line)?;
            let campaign = row["campaign_id"].as_str().unwrap_or_default().to_owned();
            let revision = row["revision"].as_i64().unwrap_or(1);
            let (start, end) = (second(&row["window_start"])?, second(&row["window_end"])?);
            let key = (campaign.clone(), row["window_start"].to_string());
            let row = (campaign, start, end, row["events"].as_i64().unwrap_or_default());
            if last.get(&key).is_none_or(|(before, _)| *before < revision) {
                last.insert(key, (revision, row));
            }
        }
    }
    Ok(last.into_values().map(|(_, row)| row).collect())
}

/// Of `2025-11-13T03:00:10Z`, as all of them are of that hour or the next.
fn parse_second(at: &str) -> Option<i64> {
    let (_, time) = at.split_once('T')?;
    let parts: Vec<i64> = time.get(..8)?.split(':').filter_map(|part| part.parse().ok()).collect();
    let [hour, minute, second] = parts[..] else { return None };
    Some(T / 86_400_000 * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn these(rows: &[(&str, i64, i64, i64)]) -> BTreeSet<Row> {
    rows.iter().map(|(campaign, start, end, events)| ((*campaign).to_owned(), *start, *end, *events)).collect()
}

fn file_sink(input: &str, more: &str) -> String {
    format!(
        "\n[sinks.{input}_file]\ntype = \"file\"\ninputs = [\"{input}\"]\npath = \"./{input}\"\nformat = \"jsonl\"\n{more}\n"
    )
}

#[test]
fn setting_the_clock_changes_nothing_in_event_time() -> Result<()> {
    let scratch = Scratch::new("clock-library")?;
    let clock = WallClock::new(scratch.path())?;
    let (library, offset) = (clock.library.display().to_string(), clock.offset.display().to_string());
    let environment = [("LD_PRELOAD", library.as_str()), ("CLOCK_OFFSET_FILE", offset.as_str())];
    let campaign = "[\"campaign_id\"]";
    let mut live = Live::start_with("clock", 2, &environment, |pipeline| {
        // set forward by days, the clock must not make a partition idle
        pipeline.idle_timeout = "1h".to_owned();
        let count = "aggregate = { events = \"count(*)\" }";
        let early = format!("{count}\nemit = {{ every = \"100ms\" }}");
        pipeline.more = aggregation("minutes", campaign, "type = \"tumbling\", size = \"1m\"", count)
            + &file_sink("minutes", "")
            + &aggregation("visits", campaign, "type = \"session\", gap = \"30s\"", count)
            + &file_sink("visits", "")
            + &aggregation("early", campaign, "type = \"tumbling\", size = \"1h\"", &early)
            + &file_sink("early", "revision = true");
    })?;
    let folder = live.bench.pipeline.dir.clone();
    let early = |live: &mut Live, wanted: &[(&str, i64, i64, i64)]| {
        let (folder, wanted) = (folder.join("early"), these(wanted));
        live.millrace.while_running("the early results", MINUTE, || Ok(rows(&folder)? == wanted))
    };
    let now_ms = |live: &Live| Ok::<_, anyhow::Error>(live.api.status()?["now_at_ms"].as_i64().unwrap_or_default());
    live.send(1, &[("a", 10)])?;
    live.send(0, &[("a", 0), ("a", 300)])?;
    live.api.wait_for_watermark(&mut live.millrace, "minutes", watermark_after(10))?;
    let before_ms = now_ms(&live)?;
    clock.set(3 * DAY_S)?;
    ensure!(now_ms(&live)? > before_ms + 2 * DAY_S * 1_000, "the clock was not set");
    // partition 1 has been silent "for three days", and holds the windows as before; checkpoints and early results go on
    live.send(0, &[("b", 310)])?;
    early(&mut live, &[("a", 0, 3_600, 3), ("b", 0, 3_600, 1)])?;
    let silent = live.api.partition("events", 1)?;
    ensure!(silent["state"] == "reading" && silent["silent_for_ms"].as_i64() < Some(DAY_S * 1_000), "{silent}");

    clock.set(-30 * DAY_S)?;
    ensure!(now_ms(&live)? < before_ms, "the clock was not set back");
    live.send(1, &[("a", 20), ("b", 70)])?;
    live.api.wait_for_watermark(&mut live.millrace, "minutes", watermark_after(70))?;
    early(&mut live, &[("a", 0, 3_600, 4), ("b", 0, 3_600, 2)])?;
    clock.set(DAY_S)?;
    live.send(1, &[("b", 400)])?;
    live.api.wait_for_watermark(&mut live.millrace, "visits", watermark_after(310))?;
    for operator in ["minutes", "visits", "early"] {
        ensure!(live.late_total(operator)? == 0, "{operator}");
    }
    let (_bench, _) = live.stop()?;
    let minutes = rows(&folder.join("minutes"))?;
    ensure!(minutes == these(&[("a", 0, 60, 3), ("b", 60, 120, 1)]), "{minutes:?}");
    let visits = rows(&folder.join("visits"))?;
    ensure!(visits == these(&[("a", 0, 50, 3), ("b", 70, 100, 1)]), "{visits:?}");
    Ok(())
}
