//! What happens to an event by where the watermark stands: one test for each line of the table in docs/time.md.

use anyhow::{Context, Result, ensure};
use millrace_tests::oracle::{self, Rows};
use millrace_tests::paths::files_below;
use millrace_tests::pipeline::{Pipeline, aggregation, append, history, upsert};
use millrace_tests::windows;
use serde_json::Value;

use super::live::{Live, T, counts, holds, watermark_after};
use super::{Bench, MINUTE};

const CAMPAIGN: &str = "[\"campaign_id\"]";
const WINDOW_KEY: &str = "[\"campaign_id\", \"window_start\"]";
const ONE_MINUTE: &str = "type = \"tumbling\", size = \"1m\"";

fn counting(window: &str, more: &str) -> String {
    aggregation("counts", CAMPAIGN, window, &format!("aggregate = {{ events = \"count(*)\" }}\n{more}"))
}

/// Campaign, window in seconds, events (a deletion has none), revision, change.
type Version<'a> = (&'a str, i64, i64, Option<i64>, u32, &'a str);

/// The table holds exactly these versions of rows.
fn versions(bench: &Bench, table: &str, rows: &[Version<'_>]) -> Result<()> {
    let values: Vec<String> = rows
        .iter()
        .map(|(campaign, start, end, events, revision, change)| {
            let events = events.map_or("NULL::BIGINT".to_owned(), |n| n.to_string());
            let (start, end) = (T + start * 1_000, T + end * 1_000);
            format!("('{campaign}', {start}, {end}, {events}, {revision}, '{change}')")
        })
        .collect();
    let rows = format!(
        "FROM (VALUES {}) rows(campaign_id, window_start, window_end, events, revision, change)",
        values.join(", ")
    );
    holds(bench, table, &rows)
}

/// The last versions, by the query that the docs give.
fn latest(bench: &Bench, table: &str, rows: &str) -> Result<()> {
    let query = windows::latest();
    oracle::rows_match(&bench.pipeline, &bench.dump()?, Rows { actual: &query, ..Rows::of(table, rows) })
}

/// What a `.late` sink has written.
fn late_rows(bench: &Bench) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for file in files_below(&bench.pipeline.dir.join("late")) {
        for line in std::fs::read_to_string(&file)?.lines() {
            rows.push(serde_json::from_str(line)?);
        }
    }
    Ok(rows)
}

fn late_sink(pipeline: &mut Pipeline) {
    let sink = "\n[sinks.late]\ntype = \"file\"\ninputs = [\"counts.late\"]\npath = \"./late\"\nformat = \"jsonl\"\n";
    pipeline.more.push_str(sink);
}

#[test]
fn behind_the_watermark_while_its_window_is_open_it_counts() -> Result<()> {
    let mut live = Live::start("late-open", 1, |pipeline| {
        pipeline.more = counting(ONE_MINUTE, "") + &append("counts", "ads.counts");
        late_sink(pipeline);
    })?;
    live.move_on("counts", "a", 50)?;
    live.send_and_wait("counts", 0, &[("a", 10)])?;
    live.move_on("counts", "a", 70)?;
    ensure!(live.late_total("counts")? == 0);
    let (bench, _) = live.stop()?;
    holds(&bench, "ads.counts", &counts(&[("a", 0, 60, 2)]))?;
    ensure!(late_rows(&bench)?.is_empty());
    Ok(())
}

#[test]
fn in_a_closed_window_it_corrects_the_row() -> Result<()> {
    let mut live = Live::start("late-closed", 1, |pipeline| {
        pipeline.more = counting(ONE_MINUTE, "allowed_lateness = \"1m\"")
            + &upsert("counts", "ads.last", WINDOW_KEY)
            + &history("counts", "ads.all");
    })?;
    live.send(0, &[("a", 10), ("b", 20)])?;
    live.move_on("counts", "a", 70)?;
    let closed = &live.api.operator("counts")?["windows"];
    ensure!(closed["closed"] == 1 && closed["open"] == 1, "{closed}");
    live.send_and_wait("counts", 0, &[("a", 20)])?;
    ensure!(live.late_total("counts")? == 0);
    // and once more, with what the next run knows of the window and of its row
    let mut live = live.restart()?;
    live.send_and_wait("counts", 0, &[("a", 30), ("c", 59)])?;
    let (bench, _) = live.stop()?;
    let last = counts(&[("a", 0, 60, 3), ("b", 0, 60, 1), ("c", 0, 60, 1)]);
    holds(&bench, "ads.last", &last)?;
    let all = [
        ("a", 0, 60, Some(1), 1, "insert"),
        ("b", 0, 60, Some(1), 1, "insert"),
        ("a", 0, 60, Some(2), 2, "replace"),
        ("a", 0, 60, Some(3), 3, "replace"),
        ("c", 0, 60, Some(1), 1, "insert"),
    ];
    versions(&bench, "ads.all", &all)?;
    latest(&bench, "ads.all", &last)
}

#[test]
fn when_all_its_windows_have_expired_it_goes_to_late() -> Result<()> {
    let mut live = Live::start("late-expired", 2, |pipeline| {
        pipeline.more = counting(ONE_MINUTE, "allowed_lateness = \"30s\"") + &upsert("counts", "ads.last", WINDOW_KEY);
        late_sink(pipeline);
    })?;
    live.send(0, &[("a", 10)])?;
    // [0, 60) expires under a watermark of 60 s - 1 ms + 30 s, which is here
    live.move_on("counts", "a", 95)?;
    live.send_and_wait("counts", 1, &[("a", 20), ("b", 59)])?;
    live.send_and_wait("counts", 0, &[("a", 30)])?;
    ensure!(live.late_total("counts")? == 3);
    let late = live.api.operator("counts")?["late"].clone();
    let of = |n: usize| (late[n]["source"].clone(), late[n]["partition"].clone(), late[n]["events"].clone());
    ensure!(late.as_array().is_some_and(|all| all.len() == 2), "{late}");
    ensure!(of(0) == ("events".into(), 0.into(), 1.into()) && of(1) == ("events".into(), 1.into(), 2.into()), "{late}");
    let (bench, ended) = live.stop()?;
    holds(&bench, "ads.last", &counts(&[("a", 0, 60, 1)]))?;

    let mut rows = late_rows(&bench)?;
    rows.sort_by_key(|row| (row["partition"].as_i64(), row["offset"].as_i64()));
    let places: Vec<_> = rows.iter().map(|row| (row["partition"].as_i64(), row["offset"].as_i64())).collect();
    ensure!(places == [(Some(0), Some(2)), (Some(1), Some(1)), (Some(1), Some(2))], "{rows:?}");
    let row = &rows[0];
    ensure!(row["node"] == "counts" && row["topic"] == bench.topic.as_str(), "{row}");
    let event = row["row"].as_str().context("no row")?;
    ensure!(event.contains("\"event_id\":\"e6\"") && event.contains("\"campaign_id\":\"a\""), "{row}");
    // the window, and how far behind the watermark the event is
    let reason = row["reason"].as_str().context("no reason")?;
    let behind = watermark_after(95) - (T + 30_000);
    for said in ["late".to_owned(), T.to_string(), (T + 60_000).to_string(), behind.to_string()] {
        ensure!(reason.contains(&said), "{reason} lacks {said}");
    }
    let first = ended.output.lines().find(|line| line.contains("late") && line.contains("offset=1"));
    let first = first.context("the first late events are not in the log")?;
    ensure!(first.contains("partition=1") && first.contains(&bench.topic), "{first}");
    Ok(())
}

#[test]
fn late_without_a_sink_it_is_counted_and_dropped() -> Result<()> {
    let mut live = Live::start("late-dropped", 1, |pipeline| {
        pipeline.more = counting(ONE_MINUTE, "") + &append("counts", "ads.counts");
    })?;
    live.send(0, &[("a", 10)])?;
    live.move_on("counts", "a", 65)?;
    let events: Vec<(&str, i64)> = (0..50).map(|second| ("a", second)).collect();
    live.send_and_wait("counts", 0, &events)?;
    ensure!(live.late_total("counts")? == 50);
    let (bench, ended) = live.stop()?;
    holds(&bench, "ads.counts", &counts(&[("a", 0, 60, 1)]))?;
    let shown = ended.output.lines().filter(|line| line.contains("dropped") && line.contains("offset=")).count();
    ensure!((1..10).contains(&shown), "{shown} late events are in the log:\n{}", ended.output);
    Ok(())
}

#[test]
fn of_its_sliding_windows_it_counts_in_those_that_have_not_expired() -> Result<()> {
    let sliding = "type = \"sliding\", size = \"2m\", slide = \"1m\"";
    let mut live = Live::start("late-sliding", 1, |pipeline| {
        pipeline.more = counting(sliding, "") + &append("counts", "ads.counts");
        late_sink(pipeline);
    })?;
    live.move_on("counts", "a", 70)?;
    // of [-60, 60) and [0, 120) only the second is left
    live.send_and_wait("counts", 0, &[("a", 30)])?;
    ensure!(live.late_total("counts")? == 0);
    live.move_on("counts", "b", 130)?;
    // none is left
    live.send_and_wait("counts", 0, &[("a", 31)])?;
    ensure!(live.late_total("counts")? == 1);
    live.move_on("counts", "b", 190)?;
    let (bench, _) = live.stop()?;
    holds(&bench, "ads.counts", &counts(&[("a", 0, 120, 2), ("a", 60, 180, 1), ("b", 60, 180, 1)]))?;
    let late = late_rows(&bench)?;
    ensure!(late.len() == 1, "an event is late once, not once a window: {late:?}");
    Ok(())
}

#[test]
fn of_its_sliding_windows_it_corrects_those_that_are_closed() -> Result<()> {
    let sliding = "type = \"sliding\", size = \"2m\", slide = \"1m\"";
    let mut live = Live::start("corrected-sliding", 1, |pipeline| {
        pipeline.more = counting(sliding, "allowed_lateness = \"1m\"")
            + &upsert("counts", "ads.last", WINDOW_KEY)
            + &history("counts", "ads.all");
    })?;
    live.send(0, &[("a", 10), ("a", 30)])?;
    live.move_on("counts", "a", 70)?;
    // [-60, 60) is closed, [0, 120) open
    live.send_and_wait("counts", 0, &[("a", 20)])?;
    let mut live = live.restart()?;
    live.move_on("counts", "b", 130)?;
    let (bench, _) = live.stop()?;
    let last = counts(&[("a", -60, 60, 3), ("a", 0, 120, 4)]);
    holds(&bench, "ads.last", &last)?;
    let all = [
        ("a", -60, 60, Some(2), 1, "insert"),
        ("a", -60, 60, Some(3), 2, "replace"),
        ("a", 0, 120, Some(4), 1, "insert"),
    ];
    versions(&bench, "ads.all", &all)?;
    latest(&bench, "ads.all", &last)
}

#[test]
fn between_two_sessions_it_makes_them_one() -> Result<()> {
    let session = "type = \"session\", gap = \"30s\"";
    let mut live = Live::start("late-session", 1, |pipeline| {
        pipeline.more = counting(session, "allowed_lateness = \"10m\"")
            + &upsert("counts", "ads.last", WINDOW_KEY)
            + &history("counts", "ads.all");
    })?;
    live.send(0, &[("a", 0), ("a", 10), ("a", 60), ("c", 0)])?;
    live.move_on("counts", "b", 200)?;
    live.send_and_wait("counts", 0, &[("a", 35)])?;
    let mut live = live.restart()?;
    // one grows at its end, the other at its beginning
    live.send_and_wait("counts", 0, &[("c", 25), ("a", -29)])?;
    let (bench, _) = live.stop()?;
    let last = counts(&[("a", -29, 90, 5), ("c", 0, 55, 2)]);
    holds(&bench, "ads.last", &last)?;
    latest(&bench, "ads.all", &last)?;
    // what had been given out and is no session any more was taken back
    let changes = "SELECT change, count(*) AS n FROM t GROUP BY ALL";
    let expected = "FROM (VALUES ('insert', 6), ('delete', 4)) rows(change, n)";
    oracle::rows_match(&bench.pipeline, &bench.dump()?, Rows { actual: changes, ..Rows::of("ads.all", expected) })
}

#[test]
fn when_the_session_it_would_make_has_expired_it_goes_to_late() -> Result<()> {
    let session = "type = \"session\", gap = \"30s\"";
    let mut live = Live::start("late-session-expired", 1, |pipeline| {
        pipeline.more = counting(session, "") + &append("counts", "ads.counts");
        late_sink(pipeline);
    })?;
    let campaigns = ["a", "c", "d", "e", "f", "g", "h", "i"];
    live.send(0, &campaigns.map(|campaign| (campaign, 0)))?;
    // each task has sessions of its own
    let api = live.api.clone();
    live.millrace.while_running("eight open sessions", MINUTE, || {
        Ok(api.operator("counts")?["windows"]["open"] == campaigns.len())
    })?;
    live.move_on("counts", "b", 100)?;
    live.send_and_wait("counts", 0, &[("a", 20)])?;
    ensure!(live.late_total("counts")? == 1);
    let (bench, _) = live.stop()?;
    holds(&bench, "ads.counts", &counts(&campaigns.map(|campaign| (campaign, 0, 30, 1))))?;
    ensure!(late_rows(&bench)?.len() == 1);
    Ok(())
}

/// Its own `[t, t + gap)` has expired, but it is part of a session that has not.
#[test]
fn when_a_session_that_has_not_expired_takes_it_up_it_counts() -> Result<()> {
    let session = "type = \"session\", gap = \"30s\"";
    let mut live = Live::start("late-session-alive", 1, |pipeline| {
        pipeline.more = counting(session, "") + &append("counts", "ads.counts");
    })?;
    live.send(0, &[("a", 0), ("a", 25), ("a", 50), ("a", 75)])?;
    live.move_on("counts", "a", 100)?;
    live.send_and_wait("counts", 0, &[("a", 5), ("a", -29)])?;
    ensure!(live.late_total("counts")? == 0);
    live.move_on("counts", "b", 200)?;
    let (bench, _) = live.stop()?;
    holds(&bench, "ads.counts", &counts(&[("a", -29, 130, 7)]))
}

/// A global window never ends: nothing is late for it, and a key that comes back after `state_ttl` begins anew.
#[test]
fn in_a_global_window_it_always_counts() -> Result<()> {
    let mut live = Live::start("late-global", 1, |pipeline| {
        pipeline.more = counting("type = \"global\"", "emit = { every = \"100ms\" }\nstate_ttl = \"10m\"")
            + &upsert("counts", "ads.last", CAMPAIGN);
    })?;
    // each event is given out before the next comes
    live.send(0, &[("a", 10)])?;
    live.wait_for_results("counts", 1)?;
    live.move_on("counts", "b", 400)?;
    live.wait_for_results("counts", 2)?;
    live.send(0, &[("a", 20)])?;
    live.wait_for_results("counts", 3)?;
    // `a` is forgotten, `b` is not
    live.move_on("counts", "b", 700)?;
    live.wait_for_results("counts", 4)?;
    let api = live.api.clone();
    live.millrace
        .while_running("the key to be forgotten", MINUTE, || Ok(api.operator("counts")?["windows"]["groups"] == 1))?;
    live.send(0, &[("a", 710)])?;
    live.wait_for_results("counts", 5)?;
    ensure!(live.late_total("counts")? == 0);
    let (bench, _) = live.stop()?;
    let rows = "FROM (VALUES ('a', NULL::BIGINT, NULL::BIGINT, 1), ('b', NULL, NULL, 2)) \
                rows(campaign_id, window_start, window_end, events)";
    holds(&bench, "ads.last", rows)
}

/// The 5 minutes are made of corrected minutes, each counted once: they wait for what may still come.
#[test]
fn in_windows_of_windows_it_counts_once() -> Result<()> {
    let mut live = Live::start("late-rolled-up", 1, |pipeline| {
        pipeline.more = counting(ONE_MINUTE, "allowed_lateness = \"1m\"\nemit = { every = \"100ms\" }")
            + &upsert("counts", "ads.minutes", WINDOW_KEY)
            + &aggregation(
                "fives",
                CAMPAIGN,
                "type = \"tumbling\", size = \"5m\"",
                "aggregate = { events = \"sum(events)\", minutes = \"count(*)\" }",
            )
            .replace("[\"events\"]", "[\"counts\"]")
            + &append("fives", "ads.fives");
    })?;
    live.send(0, &[("a", 10), ("a", 280)])?;
    live.move_on("counts", "a", 310)?;
    // [240, 300) is closed and corrected
    live.send_and_wait("counts", 0, &[("a", 290)])?;
    live.api.wait_for_watermark(&mut live.millrace, "fives", watermark_after(310) - 60_000)?;
    let fives = live.api.operator("fives")?;
    ensure!(fives["watermark_ms"] == watermark_after(310) - 60_000, "{fives}");
    ensure!(fives["held_by"]["node"] == "counts", "{fives}");
    live.move_on("counts", "b", 370)?;
    live.api.wait_for_watermark(&mut live.millrace, "fives", T + 300_000 - 1)?;
    let (bench, _) = live.stop()?;
    let rows = format!(
        "FROM (VALUES ('a', {T}, {}, 3, 2)) rows(campaign_id, window_start, window_end, events, minutes)",
        T + 300_000
    );
    holds(&bench, "ads.fives", &rows)
}

/// With `time = "processing"` an event takes place when it is read: whatever it is dated.
#[test]
fn in_processing_time_nothing_is_late() -> Result<()> {
    let mut live = Live::start("processing", 2, |pipeline| {
        pipeline.time = "processing".to_owned();
        let windows = [
            ("tumbled", "type = \"tumbling\", size = \"100ms\""),
            ("slid", "type = \"sliding\", size = \"200ms\", slide = \"100ms\""),
            ("sessions", "type = \"session\", gap = \"100ms\""),
        ];
        for (name, window) in windows {
            pipeline.more += &aggregation(name, CAMPAIGN, window, "aggregate = { events = \"count(*)\" }");
            pipeline.more += &append(name, &format!("ads.{name}"));
        }
    })?;
    for second in [0, 7_200, 3_600] {
        live.send_and_wait("sessions", 0, &[("a", second), ("b", second)])?;
        live.send_and_wait("sessions", 1, &[("a", second - 86_400)])?;
    }
    for name in ["tumbled", "slid", "sessions"] {
        ensure!(live.late_total(name)? == 0, "{name}");
        let api = live.api.clone();
        live.millrace
            .while_running("all windows to close", MINUTE, || Ok(api.operator(name)?["windows"]["groups"] == 0))?;
    }
    let (bench, _) = live.stop()?;
    for (name, times) in [("tumbled", 1), ("slid", 2), ("sessions", 1)] {
        let expected = format!("SELECT campaign_id, {times} * count(*) AS events FROM events GROUP BY ALL");
        let actual = "SELECT campaign_id, sum(events)::BIGINT AS events FROM t GROUP BY ALL";
        let table = format!("ads.{name}");
        oracle::rows_match(&bench.pipeline, &bench.dump()?, Rows { actual, ..Rows::of(&table, &expected) })?;
    }
    Ok(())
}
