//! Plugins replaced while events come: nothing is lost or counted twice, whatever the new version does and whenever the run is
//! killed; what a version counts differently is seen in exactly the events that it has counted.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use millrace_tests::api::Api;
use millrace_tests::guests::swap_counts;
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle::{self, Rows};
use millrace_tests::paths::{self, files_below};
use millrace_tests::pipeline::{aggregation, append, history, upsert};
use millrace_tests::windows;
use serde_json::Value;

use super::exactly_once::under_load;
use super::{Bench, MINUTE, TWO_MINUTES, WINDOW_MS};
use millrace_tests::events::Shape;

const SWAPS: usize = 200;
const WASM: &str = "application/wasm";

const COUNTS: &str = "count(*) FILTER (event_type = 'impression') AS impressions, \
     count(*) FILTER (event_type = 'click') AS clicks, count(*) FILTER (event_type = 'conversion') AS conversions, \
     coalesce(sum(revenue), 0.0) AS revenue, \
     CASE WHEN count(*) FILTER (event_type = 'impression') > 0 THEN (count(*) FILTER (event_type = 'click'))::DOUBLE \
     / count(*) FILTER (event_type = 'impression') END AS ctr";

/// Two aggregations by the same plugin: one gives each result once, the other early, and corrects it.
fn bench(name: &str, probation: &str) -> Result<Bench> {
    let shape = Shape { campaigns: 40, ..Shape::default() };
    let mut bench = Bench::on(name, &Broker::shared().brokers(), shape)?;
    let pipeline = &mut bench.pipeline;
    pipeline.metrics = false;
    pipeline.raw_tables.clear();
    let plugin = format!(
        "\n[swap]\nprobation = \"{probation}\"\n\n[plugins.counts]\npath = \"{}\"\ndeadline = \"1s\"\n",
        swap_counts("v1")?.display()
    );
    let minutes = "type = \"tumbling\", size = \"1m\"";
    let early = "plugin = \"counts\"\nallowed_lateness = \"1m\"\nemit = { every = \"400ms\" }";
    pipeline.more = plugin
        + &aggregation("once", "[\"campaign_id\"]", minutes, "plugin = \"counts\"")
        + &append("once", "ads.once")
        + &aggregation("early", "[\"campaign_id\"]", minutes, early)
        + &upsert("early", "ads.early", "[\"campaign_id\", \"window_start\"]")
        + &history("early", "ads.early_all");
    pipeline.write()?;
    Ok(bench)
}

fn tables_match(bench: &Bench) -> Result<()> {
    let dump = bench.dump()?;
    let query = windows::grouped(&windows::tumbling("events", WINDOW_MS, 0), "campaign_id", COUNTS);
    for (table, actual) in [("ads.once", "FROM t"), ("ads.early", "FROM t"), ("ads.early_all", &windows::latest())] {
        let rows = Rows { table, query: &query, actual, rounded: "revenue" };
        oracle::rows_match(&bench.pipeline, &dump, rows)?;
    }
    Ok(())
}

fn component(version: &str) -> Result<Vec<u8>> {
    let path = match version {
        "wrong world" => paths::target().join("plugins/event_cleaner.wasm"),
        _ => swap_counts(version)?,
    };
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// Asks, and waits until the new version gives the results or never will.
fn swap(api: &Api, millrace: &mut Millrace, operator: &str, version: &str, query: &str) -> Result<Value> {
    let below = format!("/operators/{operator}/plugin{query}");
    let (status, answer) = api.post(&below, WASM, &component(version)?)?;
    if status != 202 {
        return Ok(serde_json::json!({ "phase": "refused", "status": status, "reason": answer["error"] }));
    }
    let is_there = ["probation", "done", "failed", "discarded", "rolled_back"];
    wait_for_phase(api, millrace, &answer, &is_there)
}

fn wait_for_phase(api: &Api, millrace: &mut Millrace, swap: &Value, phases: &[&str]) -> Result<Value> {
    let mut record = Value::Null;
    millrace.while_running(&format!("swap {} to be one of {phases:?}", swap["id"]), MINUTE, || {
        record = api.get(&format!("/swaps/{}", swap["id"]))?;
        Ok(record["phase"].as_str().is_some_and(|phase| phases.contains(&phase)))
    })?;
    Ok(record)
}

/// Every fifth attempt is one that must not go well.
fn bad(attempt: usize) -> (&'static str, &'static str, &'static str) {
    let all = [
        ("wrong world", "", "refused"),
        ("trap_first", "", "failed"),
        ("incompatible", "", "refused"),
        ("equal", "?sha256=0000000000000000000000000000000000000000000000000000000000000000", "refused"),
        ("endless", "", "failed"),
        ("more_output", "", "refused"),
    ];
    all[attempt / 5 % all.len()]
}

#[test]
fn two_hundred_swaps_under_load() -> Result<()> {
    let mut bench = bench("swaps", "20s")?;
    bench.produce(20_000)?;
    let pipeline = bench.pipeline.clone();
    let mut pauses_us = Vec::new();
    under_load(&mut bench, |file| {
        let mut millrace = Millrace::run(file, &[], &[])?;
        let api = Api::of(&mut millrace, &pipeline)?;
        api.wait_for_rows(&mut millrace, "once", 10_000)?;
        let mut versions = [["equal", "v1"].into_iter().cycle(), ["equal", "v1"].into_iter().cycle()];
        for attempt in 0..SWAPS {
            let which = attempt % 2;
            let operator = ["once", "early"][which];
            if attempt % 5 == 4 {
                let (version, query, expected) = bad(attempt);
                let mut record = swap(&api, &mut millrace, operator, version, query)?;
                if expected == "failed" && record["phase"] == "probation" {
                    // no row had come before it took over
                    record = wait_for_phase(&api, &mut millrace, &record, &["rolled_back"])?;
                } else {
                    ensure!(record["phase"] == expected, "{attempt}: {version} should be {expected}: {record}");
                }
                ensure!(record["reason"].as_str().is_some_and(|r| !r.is_empty()), "{attempt}: no reason in {record}");
                continue;
            }
            let version = versions[which].next().unwrap_or("v1");
            let record = swap(&api, &mut millrace, operator, version, "")?;
            ensure!(record["phase"] == "probation" || record["phase"] == "done", "{attempt}: {version}: {record}");
            pauses_us.push(record["pause_us"].as_u64().context("no pause")?);
        }
        // it fails while it gives the results: the former one takes over by itself
        for operator in ["once", "early"] {
            let record = swap(&api, &mut millrace, operator, "trap_later", "")?;
            let record = wait_for_phase(&api, &mut millrace, &record, &["failed", "rolled_back"])?;
            let reason = record["reason"].as_str().unwrap_or_default();
            ensure!(reason.contains("fails after"), "{record}");
        }
        ensure!(api.node("once")?["failed_total"] == 0, "rows were blamed: {}", api.node("once")?);
        millrace.terminate(MINUTE)?.ok().map(drop)
    })?;
    pauses_us.sort_unstable();
    let at = |percent: usize| pauses_us.get((pauses_us.len() - 1) * percent / 100).copied().unwrap_or_default();
    println!("{} good swaps, pause µs: median {}, p99 {}, max {}", pauses_us.len(), at(50), at(99), at(100));
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    tables_match(&bench)
}

/// Each phase of a swap is also the last thing that a process does.
#[test]
fn sigkill_at_every_phase_of_a_swap() -> Result<()> {
    let mut bench = bench("swap-sigkill", "300ms")?;
    // the only checkpoints are those of the swap: that at which the state is copied, that which says the new version, that
    // at which its probation ends
    bench.pipeline.checkpoint_interval = "1h".to_owned();
    bench.pipeline.commit_interval = "1h".to_owned();
    bench.pipeline.write()?;
    bench.produce(20_000)?;
    let pipeline = bench.pipeline.clone();
    let mut seen = Vec::new();
    under_load(&mut bench, |file| {
        let places = ["checkpoint.before-durable", "checkpoint.after-durable", "swap.attached", "swap.exchanged"];
        let mut versions = ["equal", "v1"].into_iter().cycle();
        for (place, hit) in places.into_iter().flat_map(|place| (1..=3).map(move |hit| (place, hit))) {
            if place.starts_with("swap.") && hit > 2 {
                continue;
            }
            let armed = format!("{place}@{hit}");
            let mut millrace = Millrace::run(file, &[], &[("MILLRACE_FAILPOINT", armed.as_str())])?;
            let api = Api::of(&mut millrace, &pipeline)?;
            api.wait_for_count(&mut millrace, "once", "rows_in_total", 1)?;
            let before = running(&api)?;
            // another one than runs, by turns
            let version = versions.next().unwrap_or("v1");
            let version = if digest(version)? == before { versions.next().unwrap_or("v1") } else { version };
            // the answer may be lost with the process
            let _ = api.post("/operators/once/plugin", WASM, &component(version)?);
            let ended = millrace.wait(MINUTE).with_context(|| format!("{armed} was never hit"))?;
            ensure!(ended.was_killed(), "{armed}: ended with {}:\n{}", ended.status, ended.output);
            // what runs now is what the last durable checkpoint says
            let mut millrace = Millrace::run(file, &[], &[])?;
            let api = Api::of(&mut millrace, &pipeline)?;
            api.wait_for_count(&mut millrace, "once", "rows_in_total", 1)?;
            let after = running(&api)?;
            let swapped = after != before;
            let must = match (place, hit) {
                ("checkpoint.after-durable", 1) | ("swap.attached", _) | ("checkpoint.before-durable", 1 | 2) => {
                    Some(false)
                }
                ("swap.exchanged", _) => Some(false),
                ("checkpoint.after-durable", _) | ("checkpoint.before-durable", 3) => Some(true),
                _ => None,
            };
            ensure!(must.is_none_or(|must| must == swapped), "{armed}: before {before}, after {after}");
            seen.push(swapped);
            millrace.terminate(MINUTE)?.ok()?;
        }
        Ok(())
    })?;
    ensure!(seen.contains(&true) && seen.contains(&false), "nothing was proved: {seen:?}");
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    tables_match(&bench)
}

fn running(api: &Api) -> Result<String> {
    let node = api.node("once")?;
    Ok(node["plugin"]["sha256"].as_str().with_context(|| format!("no plugin in {node}"))?.to_owned())
}

fn digest(version: &str) -> Result<String> {
    let output = std::process::Command::new("sha256sum").arg(swap_counts(version)?).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned())
}

/// Windows that expired before the swap have the old rule's values, those that began after it the new one's, and those that
/// were open across it each event by the rule that counted it.
#[test]
fn a_swap_that_changes_the_metric() -> Result<()> {
    let mut bench = bench("swap-metric", "1s")?;
    let before = 20_000;
    bench.produce(before)?;
    let first = bench.dump()?;
    let counted = bench.scratch.path().join("before.jsonl");
    std::fs::rename(first, &counted)?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    let api = Api::of(&mut millrace, &bench.pipeline)?;
    let all = i64::try_from(before)?;
    api.wait_for_count(&mut millrace, "once", "rows_in_total", all)?;
    let record = swap(&api, &mut millrace, "once", "v2", "")?;
    ensure!(record["state"] == "taken over", "{record}");
    wait_for_phase(&api, &mut millrace, &record, &["done"])?;
    bench.produce(20_000)?;
    api.wait_for_count(&mut millrace, "once", "rows_in_total", all + 20_000)?;
    // and it is what goes on after a clean stop
    millrace.terminate(MINUTE)?.ok()?;
    bench.produce(10_000)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;

    let events = format!(
        "(SELECT e.*, b.event_id IS NULL AS by_v2 FROM events e LEFT JOIN (SELECT event_id FROM read_json_auto('{}', \
         format = 'newline_delimited')) b USING (event_id))",
        counted.display()
    );
    let clicks = "sum(CASE WHEN event_type <> 'click' THEN 0 WHEN by_v2 THEN 2 ELSE 1 END)::BIGINT";
    let counts = COUNTS
        .replace("count(*) FILTER (event_type = 'click') AS clicks", &format!("{clicks} AS clicks"))
        .replace("(count(*) FILTER (event_type = 'click'))::DOUBLE", &format!("({clicks})::DOUBLE"));
    let query = windows::grouped(&windows::tumbling(&events, WINDOW_MS, 0), "campaign_id", &counts);
    let dump = bench.dump()?;
    let rows = Rows { table: "ads.once", query: &query, actual: "FROM t", rounded: "revenue" };
    oracle::rows_match(&bench.pipeline, &dump, rows)
}

/// A version that can make nothing of the state there is: the one before ends the windows that have begun, through a death and
/// a restart, and no window holds a bit of both.
#[test]
fn a_version_that_takes_no_state_begins_with_the_next_windows() -> Result<()> {
    let mut bench = bench("swap-drain", "1s")?;
    let hops = "type = \"sliding\", size = \"3m\", slide = \"1m\"";
    bench.pipeline.more += &aggregation("hops", "[\"campaign_id\"]", hops, "plugin = \"counts\"");
    bench.pipeline.more += &append("hops", "ads.hops");
    bench.pipeline.write()?;
    let all = 20_000;
    bench.produce(all)?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    let api = Api::of(&mut millrace, &bench.pipeline)?;
    let mut read = i64::try_from(all)?;
    let mut cuts = Vec::new();
    for operator in ["once", "hops"] {
        api.wait_for_count(&mut millrace, operator, "rows_in_total", read)?;
        let refused = swap(&api, &mut millrace, operator, "incompatible", "")?;
        let reason = refused["reason"]["message"].as_str().or(refused["reason"].as_str()).unwrap_or_default();
        ensure!(refused["phase"] == "refused" && reason.contains("--drain"), "{refused}");
        let record = swap(&api, &mut millrace, operator, "incompatible", "?drain=true")?;
        ensure!(record["phase"] == "probation" && record["state"] == "drained", "{record}");
        cuts.push(record["drains_before_ms"].as_i64().with_context(|| format!("no cut: {record}"))?);
        wait_for_phase(&api, &mut millrace, &record, &["draining"])?;
        // one at a time
        let refused = swap(&api, &mut millrace, operator, "v2", "?drain=true")?;
        ensure!(refused["status"] == 409 && refused.to_string().contains("began before"), "{refused}");
    }
    // both versions have state at the end of it
    bench.produce(200)?;
    read += 200;
    api.wait_for_count(&mut millrace, "hops", "rows_in_total", read)?;
    // the second from now on has begun after now
    let checkpoint =
        |api: &Api| -> Result<u64> { Ok(api.status()?["checkpoint"]["number"].as_u64().unwrap_or_default()) };
    let now = checkpoint(&api)?;
    millrace.while_running("two checkpoints", MINUTE, || Ok(checkpoint(&api)? >= now + 2))?;
    millrace.kill()?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    let api = Api::of(&mut millrace, &bench.pipeline)?;
    let phases = |api: &Api| -> Result<Vec<String>> {
        let swaps = api.get("/swaps")?;
        let of = swaps["swaps"].as_array().context("no swaps")?.iter().filter(|swap| swap["state"] == "drained");
        Ok(of.map(|swap| swap["phase"].as_str().unwrap_or_default().to_owned()).collect())
    };
    millrace.while_running("the history to be there", MINUTE, || Ok(!phases(&api)?.is_empty()))?;
    ensure!(phases(&api)? == ["draining", "draining"], "{:?}", phases(&api)?);
    bench.produce(20_000)?;
    millrace.while_running("both swaps to be done", MINUTE, || Ok(phases(&api)? == ["done", "done"]))?;
    bench.produce(5_000)?;
    millrace.terminate(MINUTE)?.ok()?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;

    let tables = [("ads.once", WINDOW_MS, cuts[0]), ("ads.hops", 3 * WINDOW_MS, cuts[1])];
    clicks_count_as_three_after(&bench, &tables)
}

/// Of each table: its windows' size, and where the version begins that counts a click as three.
fn clicks_count_as_three_after(bench: &Bench, tables: &[(&str, i64, i64)]) -> Result<()> {
    let dump = bench.dump()?;
    for &(table, size_ms, cut) in tables {
        let rule = format!("CASE WHEN event_type <> 'click' THEN 0 WHEN window_start < {cut} THEN 1 ELSE 3 END");
        let clicks = format!("sum({rule})::BIGINT");
        let counts = COUNTS
            .replace("count(*) FILTER (event_type = 'click') AS clicks", &format!("{clicks} AS clicks"))
            .replace("(count(*) FILTER (event_type = 'click'))::DOUBLE", &format!("({clicks})::DOUBLE"));
        let query = windows::grouped(&windows::sliding("events", size_ms, WINDOW_MS, 0), "campaign_id", &counts);
        oracle::rows_match(
            &bench.pipeline,
            &dump,
            Rows { table, query: &query, actual: "FROM t", rounded: "revenue" },
        )?;
    }
    Ok(())
}

/// `stop --drain`: windows that are open give their results now, those of a former version too.
#[test]
fn a_stop_that_drains_gives_all_that_is_open() -> Result<()> {
    let mut bench = bench("stop-drain", "1s")?;
    bench.produce(20_000)?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    let api = Api::of(&mut millrace, &bench.pipeline)?;
    api.wait_for_count(&mut millrace, "once", "rows_in_total", 20_000)?;
    let record = swap(&api, &mut millrace, "once", "incompatible", "?drain=true")?;
    let cut = record["drains_before_ms"].as_i64().with_context(|| format!("no cut: {record}"))?;
    bench.produce(10_000)?;
    api.wait_for_count(&mut millrace, "once", "rows_in_total", 30_000)?;
    let file = bench.file().display().to_string();
    let stopped = std::process::Command::new(paths::millrace()?).args(["stop", &file, "--drain"]).output()?;
    ensure!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    millrace.wait(MINUTE)?.ok()?;
    clicks_count_as_three_after(&bench, &[("ads.once", WINDOW_MS, cut)])
}

/// A version that is rolled back leaves nothing behind in a table that takes corrections.
#[test]
fn a_rollback_corrects_what_was_given_meanwhile() -> Result<()> {
    rolled_back("swap-rollback", "v2", "")
}

/// The former version has the windows that it was to end, and those that it was not.
#[test]
fn a_rollback_corrects_what_a_version_without_state_gave() -> Result<()> {
    rolled_back("swap-drain-rollback", "incompatible", "?drain=true")
}

fn rolled_back(name: &str, version: &str, query: &str) -> Result<()> {
    let mut bench = bench(name, "1h")?;
    bench.produce(20_000)?;
    let pipeline = bench.pipeline.clone();
    under_load(&mut bench, |file| {
        let mut millrace = Millrace::run(file, &[], &[])?;
        let api = Api::of(&mut millrace, &pipeline)?;
        api.wait_for_rows(&mut millrace, "early", 10_000)?;
        let record = swap(&api, &mut millrace, "early", version, query)?;
        ensure!(record["phase"] == "probation", "{record}");
        // until windows have expired under it
        let status = api.operator("early")?;
        let at_ms = status["watermark_ms"].as_i64().context("no watermark")?;
        api.wait_for_watermark(&mut millrace, "early", at_ms + 5 * WINDOW_MS)?;
        let (status, answer) = api.post("/operators/early/rollback", "", b"")?;
        ensure!(status == 202, "{status}: {answer}");
        let record = wait_for_phase(&api, &mut millrace, &record, &["rolled_back"])?;
        ensure!(record["rollback"]["given_again"].as_u64().is_some_and(|n| n > 0), "{record}");
        ensure!(record["rollback"]["left_as_given"] == 0, "{record}");
        millrace.terminate(MINUTE)?.ok().map(drop)
    })?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    tables_match(&bench)
}

/// The command, as a person would: what differs is named, and what does not is promoted.
#[test]
fn a_shadow_finds_a_tenth_of_a_percent_in_one_campaign() -> Result<()> {
    let mut bench = bench("swap-shadow", "1s")?;
    bench.produce(20_000)?;
    under_load(&mut bench, |file| {
        let pipeline = bench_name(file)?;
        let mut millrace = Millrace::run(file, &[], &[])?;
        let api = Api::of(&mut millrace, &pipeline)?;
        api.wait_for_rows(&mut millrace, "once", 10_000)?;
        let shadow = |version: &str| -> Result<(bool, Value)> {
            let (file, component) = (file.display().to_string(), swap_counts(version)?.display().to_string());
            let arguments = ["swap", &file, "once", &component, "--shadow", "4s", "--promote-if-equal"];
            let output = std::process::Command::new(paths::millrace()?)
                .args(arguments)
                .args(["--tolerance", "0.00001", "--format", "json"])
                .output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            let record = serde_json::from_str(&said)
                .with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
            Ok((output.status.success(), record))
        };
        let (went_well, record) = shadow("planted")?;
        ensure!(!went_well && record["phase"] == "discarded", "{record}");
        let report = &record["shadow"];
        ensure!(report["different"].as_u64().is_some_and(|n| n > 0), "no real difference: {report}");
        for difference in report["largest"].as_array().context("no differences")? {
            ensure!(difference["column"] == "revenue", "{difference}");
            ensure!(difference["key"] == serde_json::json!([["campaign_id", "campaign-0007"]]), "{difference}");
            let relative = difference["relative"].as_f64().unwrap_or_default();
            ensure!(relative > 0.0 && relative < 0.00101, "{difference}");
        }
        let (went_well, record) = shadow("equal")?;
        ensure!(went_well && record["shadow"]["different"] == 0, "{record}");
        millrace.terminate(MINUTE)?.ok().map(drop)
    })?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    tables_match(&bench)
}

/// The pipeline as far as its API needs it.
fn bench_name(file: &Path) -> Result<millrace_tests::pipeline::Pipeline> {
    Ok(millrace_tests::pipeline::Pipeline::new(file.parent().context("a folder")?))
}

/// A savepoint is taken while events come; DuckDB reads it; a run begins with it at another parallelism.
#[test]
fn a_savepoint_is_where_another_run_begins() -> Result<()> {
    let mut bench = bench("savepoint", "1s")?;
    bench.produce(30_000)?;
    let pipeline = bench.pipeline.clone();
    let folder = bench.scratch.path().join("monday");
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    let api = Api::of(&mut millrace, &pipeline)?;
    api.wait_for_rows(&mut millrace, "once", 30_000)?;
    let file = bench.file().display().to_string();
    let taken = std::process::Command::new(paths::millrace()?).args(["savepoint", &file]).arg(&folder).output()?;
    ensure!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    ensure!(folder.join("savepoint.json").is_file(), "{:?}", files_below(&folder));
    millrace.kill()?;
    // another warehouse and another location: the savepoint has all that is needed
    bench.produce(20_000)?;
    let text = std::fs::read_to_string(bench.file())?;
    std::fs::write(
        bench.file(),
        text.replace("\"./state\"", "\"./elsewhere\"").replace("parallelism = 2", "parallelism = 3"),
    )?;
    let before = process_rows(&bench)?;
    std::fs::remove_dir_all(bench.pipeline.state())?;
    let refused = Millrace::run(&bench.file(), &["--until-end", "--from-savepoint", utf8(&folder)?], &[])?;
    // the tables are of the former incarnation: said, and not overwritten
    refused.wait(TWO_MINUTES)?.failed(&["claim|incarnation"])?;
    ensure!(before == process_rows(&bench)?, "a refused run has changed a table");
    Ok(())
}

fn process_rows(bench: &Bench) -> Result<String> {
    oracle::snapshot(&bench.pipeline, "ads.once")
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
