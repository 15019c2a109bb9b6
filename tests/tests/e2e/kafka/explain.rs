//! `millrace explain` and the API that it asks: which partition holds a window open, since when, and why.

use anyhow::{Context, Result, ensure};
use millrace_tests::millrace::Millrace;
use millrace_tests::pipeline::{aggregation, append};
use serde_json::Value;

use super::MINUTE;
use super::live::{Live, T, watermark_after};

fn counting() -> String {
    aggregation(
        "counts",
        "[\"campaign_id\"]",
        "type = \"tumbling\", size = \"1m\"",
        "aggregate = { events = \"count(*)\" }",
    ) + &append("counts", "ads.counts")
}

/// `millrace explain …`, as text.
fn explain(arguments: &[&str]) -> Result<String> {
    let ended = Millrace::start(&[&["explain"], arguments].concat(), &[])?.wait(MINUTE)?.ok()?;
    Ok(ended.output)
}

/// Waits until the partition is in that state.
fn wait_for_state(live: &mut Live, partition: i64, state: &str) -> Result<()> {
    let api = live.api.clone();
    live.millrace.while_running(&format!("partition {partition} to be {state}"), MINUTE, || {
        Ok(api.partition("events", partition)?["state"] == state)
    })
}

/// Waits until the operator is held for that reason; says by what.
fn wait_for_reason(live: &mut Live, reason: &str) -> Result<Value> {
    let (api, mut held) = (live.api.clone(), Value::Null);
    live.millrace.while_running(&format!("the reason to be {reason}"), MINUTE, || {
        held = api.operator("counts")?["held_by"].clone();
        Ok(held["reason"] == reason)
    })?;
    Ok(held)
}

#[test]
fn the_partition_that_holds_the_watermark_is_named() -> Result<()> {
    let mut live = Live::start("explain", 2, |pipeline| {
        pipeline.max_drift = "5m".to_owned();
        pipeline.more = counting();
    })?;
    live.send(0, &[("a", 0), ("b", 70), ("a", 200)])?;
    live.send(1, &[("a", 20), ("a", 64)])?;
    live.api.wait_for_watermark(&mut live.millrace, "counts", watermark_after(64))?;
    let held = wait_for_reason(&mut live, "silent")?;
    ensure!(held["node"] == "events" && held["partition"]["partition"] == 1, "{held}");
    ensure!(held["watermark_ms"] == watermark_after(64) && held["stands_for_ms"].as_i64() >= Some(1_000), "{held}");
    let operator = live.api.operator("counts")?;
    let windows = &operator["windows"];
    ensure!(windows["open"] == 3 && windows["oldest_open"]["start_ms"] == T, "{operator}");
    let missing = T + 60_000 - 1 - watermark_after(64);
    ensure!(windows["oldest_open"]["missing_ms"] == missing, "{operator}");
    ensure!(operator["inputs"][0]["node"] == "events", "{operator}");

    // the command says the same, by the file, by the name with an address, and as JSON
    let (file, topic) = (live.bench.file().display().to_string(), live.bench.topic.clone());
    let url = live.api.url();
    for said in [explain(&[&file])?, explain(&["campaign-metrics", "counts", "--api", &url])?] {
        let first = said.lines().next().context("nothing was said")?;
        let wanted = [
            "counts: the window 2025-11-13 03:00–03:01 is open".to_owned(),
            format!("partition {topic}/1 of `events` stands at 2025-11-13 03:00:58.999"),
            "it no longer counts after 1 h (idle_timeout)".to_owned(),
        ];
        for words in wanted {
            ensure!(first.contains(&words), "{first} lacks {words}");
        }
        for words in ["watermark", "held by", "since", "3 open", "closes when event time is"] {
            ensure!(said.contains(words), "{said} lacks {words}");
        }
    }
    let ended = Millrace::start(&["explain", &file, "--format", "json"], &[("MILLRACE_LOG", "error")])?.wait(MINUTE)?;
    let json: Value = serde_json::from_str(&ended.ok()?.output)?;
    ensure!(json["operators"][0]["held_by"]["partition"]["partition"] == 1, "{json}");
    Millrace::start(&["explain", &file, "nothing"], &[])?.wait(MINUTE)?.failed(&["nothing", "counts"])?;

    // too far ahead of it, the other is not read on
    live.send_and_wait("counts", 0, &[("a", 500)])?;
    live.send(0, &[("a", 501)])?;
    wait_for_state(&mut live, 0, "held_by_drift")?;
    let (api, mut ahead) = (live.api.clone(), Value::Null);
    live.millrace.while_running("the message that is not read to be known", MINUTE, || {
        ahead = api.partition("events", 0)?;
        Ok(ahead["backlog"].as_i64() == Some(1))
    })?;
    ensure!(ahead["state"] == "held_by_drift" && ahead["drift"]["ahead_ms"].as_i64() > Some(300_000), "{ahead}");
    ensure!(ahead["drift"]["slowest_ms"] == watermark_after(64), "{ahead}");
    ensure!(explain(&[&file])?.contains("(max_drift 5 min)"));

    // the slow one goes on: windows close, and what comes for them then is late
    live.send(1, &[("a", 130)])?;
    live.api.wait_for_watermark(&mut live.millrace, "counts", watermark_after(130))?;
    live.send(1, &[("a", 30), ("a", 31)])?;
    live.api.wait_for_count(&mut live.millrace, "counts", "late_total", 2)?;
    let said = explain(&[&file, "counts"])?;
    ensure!(said.contains(&format!("2 events: 2 from {topic}/1 of `events`")), "{said}");
    let (_bench, _) = live.stop()?;
    Millrace::start(&["explain", &file], &[])?.wait(MINUTE)?.failed(&["campaign-metrics", "not running"])?;
    Ok(())
}

#[test]
fn what_is_idle_does_not_hold_and_what_is_dated_ahead_does_not_move() -> Result<()> {
    let mut live = Live::start("explain-idle", 3, |pipeline| {
        pipeline.idle_timeout = "1s".to_owned();
        pipeline.on_error = "skip".to_owned();
        pipeline.more = counting();
    })?;
    // partition 2 has nothing but a message of the next century
    live.send(0, &[("a", 10)])?;
    live.send(1, &[("a", 20)])?;
    live.send(2, &[("a", 5_000_000_000)])?;
    for partition in 0..3 {
        wait_for_state(&mut live, partition, "idle")?;
    }
    let future = live.api.partition("events", 2)?;
    ensure!(future["future_total"] == 1 && future["watermark_ms"].is_null(), "{future}");
    let file = live.bench.file().display().to_string();
    let said = explain(&[&file])?;
    let first = said.lines().next().context("nothing was said")?;
    ensure!(first.contains("all partitions of `events` are idle, silent for"), "{first}");
    ensure!(first.contains("(when_idle = \"hold\")"), "{first}");
    ensure!(said.contains("1 message dated beyond max_future"), "{said}");

    // one wakes, and alone moves the windows
    live.send(0, &[("a", 100)])?;
    live.api.wait_for_watermark(&mut live.millrace, "counts", watermark_after(100))?;
    live.stop()?;
    Ok(())
}
