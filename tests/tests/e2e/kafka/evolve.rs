//! A plugin with one more result column takes over at a restart, and the tables gain the column: or nothing has changed.

use anyhow::{Context, Result, ensure};
use millrace_tests::api::Api;
use millrace_tests::events::Shape;
use millrace_tests::guests::swap_counts;
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::{Ended, Millrace};
use millrace_tests::oracle::{self, Rows};
use millrace_tests::paths::files_below;
use millrace_tests::pipeline::{aggregation, append, upsert};
use millrace_tests::windows;

use super::{Bench, MINUTE, TWO_MINUTES, WINDOW_MS};

const COUNTS: &str = "count(*) FILTER (event_type = 'impression') AS impressions, \
     count(*) FILTER (event_type = 'click') AS clicks, count(*) FILTER (event_type = 'conversion') AS conversions";
/// What the newer version gives, too.
const EVENTS: &str = "count(*) FILTER (event_type IN ('impression', 'click', 'conversion'))";

fn write(bench: &mut Bench, version: &str, evolve: &str) -> Result<()> {
    let plugin = format!("\n[plugins.counts]\npath = \"{}\"\n", swap_counts(version)?.display());
    let minutes = "type = \"tumbling\", size = \"1m\"";
    let evolve = format!("evolve = \"{evolve}\"\n");
    bench.pipeline.more = plugin
        + &aggregation("once", "[\"campaign_id\"]", minutes, "plugin = \"counts\"")
        + &append("once", "ads.once")
        + &evolve
        + &aggregation(
            "early",
            "[\"campaign_id\"]",
            minutes,
            "plugin = \"counts\"\nallowed_lateness = \"1m\"\nemit = { every = \"400ms\" }",
        )
        + &upsert("early", "ads.early", "[\"campaign_id\", \"window_start\"]")
        + &evolve;
    bench.pipeline.write().map(drop)
}

fn files(bench: &Bench) -> Vec<std::path::PathBuf> {
    [files_below(&bench.pipeline.warehouse()), files_below(&bench.pipeline.state())].concat()
}

fn command(bench: &Bench, arguments: &[&str]) -> Result<Ended> {
    let file = bench.file().display().to_string();
    Millrace::start(&[arguments, &[file.as_str()]].concat(), &[])?.wait(MINUTE)
}

/// Until all that was produced is counted; then a clean stop, windows open.
fn run_through(bench: &Bench, events: i64) -> Result<()> {
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    let api = Api::of(&mut millrace, &bench.pipeline)?;
    for node in ["once", "early"] {
        api.wait_for_count(&mut millrace, node, "rows_in_total", events)?;
    }
    millrace.terminate(MINUTE)?.ok().map(drop)
}

#[test]
fn a_plugin_with_one_more_column_takes_over_at_a_restart() -> Result<()> {
    let shape = Shape { campaigns: 40, ..Shape::default() };
    let mut bench = Bench::on("evolve", &Broker::shared().brokers(), shape)?;
    bench.pipeline.metrics = false;
    bench.pipeline.raw_tables.clear();
    write(&mut bench, "v1", "fail")?;
    bench.produce(20_000)?;
    run_through(&bench, 20_000)?;
    let before = bench.scratch.path().join("before.jsonl");
    std::fs::rename(bench.dump()?, &before)?;
    let closed_us = last_closed_us(&bench)?;

    // refused, whoever asks, and nothing has changed: by the table, and by the plugin that does not take the state
    let lacks = ["table ads.once does not fit", "lacks column `events` (long)", "add-columns"];
    let there = files(&bench);
    for (version, evolve, words) in [("more_output", "fail", &lacks[..]), ("incompatible", "add-columns", &["score"])] {
        write(&mut bench, version, evolve)?;
        bench.pipeline.more += &append("early.late", "ads.late");
        bench.pipeline.write()?;
        command(&bench, &["plan"])?.failed(words)?;
        Millrace::run_to_end(&bench.file(), MINUTE)?.failed(words)?;
        ensure!(there == files(&bench), "a refused start has changed files:\n{there:?}\n{:?}", files(&bench));
    }

    write(&mut bench, "more_output", "add-columns")?;
    let plan = command(&bench, &["plan"])?.ok()?.output;
    for table in ["once", "early"] {
        let line = format!("table lake.ads.{table}: gains column events: long");
        ensure!(plan.contains(&line), "`{line}` is not in the plan:\n{plan}");
    }
    bench.produce(20_000)?;
    run_through(&bench, 20_000)?;
    bench.produce(10_000)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;

    let dump = bench.dump()?;
    let all = windows::tumbling("events", WINDOW_MS, 0);
    // as if nothing had happened
    let whole = windows::grouped(&all, "campaign_id", &format!("{COUNTS}, coalesce(sum(revenue), 0.0) AS revenue"));
    for table in ["ads.once", "ads.early"] {
        let rows = Rows { table, query: &whole, actual: "SELECT * EXCLUDE (ctr, events) FROM t", rounded: "revenue" };
        oracle::rows_match(&bench.pipeline, &dump, rows)?;
    }
    // rows of windows that were closed before have none; all others have what is right for the whole window
    let query = format!(
        "SELECT * REPLACE (CASE WHEN window_end > {closed_us} // 1000 THEN events END AS events) FROM ({})",
        windows::grouped(&all, "campaign_id", &format!("{EVENTS} AS events"))
    );
    let actual = "SELECT campaign_id, window_start, window_end, events FROM t";
    oracle::rows_match(&bench.pipeline, &dump, Rows { table: "ads.once", query: &query, actual, rounded: "" })?;
    // early results of the older version are replaced as soon as an event comes to their window
    let new = format!(
        "event_id NOT IN (SELECT event_id FROM read_json_auto('{}', format = 'newline_delimited'))",
        before.display()
    );
    let query =
        format!("{} HAVING bool_or({new})", windows::grouped(&all, "campaign_id", &format!("{EVENTS} AS events")));
    let new_windows = format!("SELECT campaign_id, window_start FROM {all} WHERE {new}");
    let actual = format!(
        "SELECT campaign_id, window_start, window_end, events FROM t \
         WHERE (campaign_id, epoch_ms(window_start)) IN ({new_windows})"
    );
    oracle::rows_match(&bench.pipeline, &dump, Rows { table: "ads.early", query: &query, actual: &actual, rounded: "" })
}

/// The end of the last window whose results the append sink has, in microseconds.
fn last_closed_us(bench: &Bench) -> Result<i64> {
    let sql = "SELECT CAST(max(window_end) AS BIGINT) AS at FROM lake.ads.once";
    let file = bench.file().display().to_string();
    let said = Millrace::start(&["query", sql, "-f", &file, "--format", "csv"], &[])?.wait(MINUTE)?.ok()?.output;
    said.lines().find_map(|line| line.trim().parse().ok()).with_context(|| format!("no number in {said}"))
}
