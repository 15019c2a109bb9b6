//! The machine's clock is set forward and back while the pipeline runs: no result, no idleness, no lateness notices.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace_tests::paths::Scratch;
use millrace_tests::pipeline::{aggregation, append, upsert};

use super::live::{Live, counts, holds, watermark_after};

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

#[test]
fn setting_the_clock_changes_nothing_in_event_time() -> Result<()> {
    let scratch = Scratch::new("clock-library")?;
    let clock = WallClock::new(scratch.path())?;
    let (library, offset) = (clock.library.display().to_string(), clock.offset.display().to_string());
    let environment = [("LD_PRELOAD", library.as_str()), ("CLOCK_OFFSET_FILE", offset.as_str())];
    let campaign = "[\"campaign_id\"]";
    let mut live = Live::start_with("clock", 2, &environment, |pipeline| {
        // an hour: set forward by days, the clock must not make a partition idle
        pipeline.idle_timeout = "1h".to_owned();
        let count = "aggregate = { events = \"count(*)\" }";
        pipeline.more = aggregation("minutes", campaign, "type = \"tumbling\", size = \"1m\"", count)
            + &append("minutes", "ads.minutes")
            + &aggregation("visits", campaign, "type = \"session\", gap = \"30s\"", count)
            + &append("visits", "ads.visits")
            + &aggregation(
                "early",
                campaign,
                "type = \"tumbling\", size = \"1h\"",
                &format!("{count}\nemit = {{ every = \"100ms\" }}"),
            )
            + &upsert("early", "ads.early", "[\"campaign_id\", \"window_start\"]");
    })?;
    live.send(1, &[("a", 10)])?;
    live.send(0, &[("a", 0), ("a", 300)])?;
    live.api.wait_for_watermark(&mut live.millrace, "minutes", watermark_after(10))?;
    let now_ms = |live: &Live| Ok::<_, anyhow::Error>(live.api.status()?["now_at_ms"].as_i64().unwrap_or_default());
    let before_ms = now_ms(&live)?;
    clock.set(3 * DAY_S)?;
    ensure!(now_ms(&live)? > before_ms + 2 * DAY_S * 1_000, "the clock was not set");
    // partition 1 has been silent "for three days", and holds the windows as before; commits and early results go on
    live.send(0, &[("b", 310)])?;
    live.wait_for_table("ads.early", &counts(&[("a", 0, 3_600, 3), ("b", 0, 3_600, 1)]))?;
    let silent = live.api.partition("events", 1)?;
    ensure!(silent["state"] == "reading" && silent["silent_for_ms"].as_i64() < Some(DAY_S * 1_000), "{silent}");

    clock.set(-30 * DAY_S)?;
    ensure!(now_ms(&live)? < before_ms, "the clock was not set back");
    live.send(1, &[("a", 20), ("b", 70)])?;
    live.api.wait_for_watermark(&mut live.millrace, "minutes", watermark_after(70))?;
    live.wait_for_table("ads.early", &counts(&[("a", 0, 3_600, 4), ("b", 0, 3_600, 2)]))?;
    clock.set(DAY_S)?;
    live.send(1, &[("b", 400)])?;
    live.api.wait_for_watermark(&mut live.millrace, "visits", watermark_after(310))?;
    for operator in ["minutes", "visits", "early"] {
        ensure!(live.late_total(operator)? == 0, "{operator}");
    }
    let (bench, _) = live.stop()?;
    holds(&bench, "ads.minutes", &counts(&[("a", 0, 60, 3), ("b", 60, 120, 1)]))?;
    holds(&bench, "ads.visits", &counts(&[("a", 0, 50, 3), ("b", 70, 100, 1)]))
}
