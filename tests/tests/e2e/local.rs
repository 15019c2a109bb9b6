//! Without a broker: the embedded generator, and the command line itself.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millrace_tests::api::Api;
use millrace_tests::events::Random;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::paths::Scratch;
use millrace_tests::pipeline::{EVENTS, Pipeline};
use millrace_tests::process::wait_for;

const MINUTE: Duration = Duration::from_secs(60);
const WINDOW_MS: i64 = 60_000;
const COUNT: u64 = 200_000;
/// After the first start, which is at most a few seconds before the generator's clock begins.
const ALL_DUE_S: u64 = 20;

/// 20,000 events per second: the whole takes ten seconds, so that kills fall into it.
fn generator(scratch: &Scratch) -> Pipeline {
    let mut pipeline = Pipeline::new(scratch.path());
    pipeline.source = format!(
        "type = \"generator\"\nseed = 5\npartitions = 4\nrate = 20_000\ncount = {COUNT}\ncampaigns = 100\nusers = 10_000\n\
         disorder = \"4s\"\nstart = \"2026-01-31T12:00:00Z\"\n"
    );
    pipeline.window = "1m".to_owned();
    pipeline
}

#[test]
fn the_generator_survives_sigkill() -> Result<()> {
    let scratch = Scratch::new("generator")?;
    let pipeline = generator(&scratch);
    let file = pipeline.write()?;
    let mut random = Random::new(3);
    let started = Instant::now();
    for _ in 0..5 {
        Millrace::run_and_kill(&file, Duration::from_millis(300 + random.below(1_500)))?;
    }
    // `--until-end` reads what is due by then: everything
    wait_for("the last event to be due", MINUTE, || Ok(started.elapsed() > Duration::from_secs(ALL_DUE_S)))?;
    Millrace::run_to_end(&file, MINUTE)?.ok()?;
    oracle::events_complete(&pipeline, EVENTS, COUNT, 4)?;
    oracle::metrics_match_events_table(&pipeline, WINDOW_MS)
}

/// Aggregates without a plugin: killed and restarted with their state, then compared with DuckDB's answer; and other
/// aggregates are no continuation of these.
#[test]
fn aggregates_survive_sigkill() -> Result<()> {
    let scratch = Scratch::new("aggregates")?;
    let mut pipeline = generator(&scratch);
    pipeline.metrics = false;
    pipeline.more = r#"
[aggregations.counts]
inputs = ["events"]
key = ["platform"]
window = { type = "tumbling", size = "100ms" }

[aggregations.counts.aggregate]
events = "count(*)"
sales = "count(revenue)"
clicks = "count(*) filter (where event_type = 'click')"
revenue = "sum(revenue)"
average = "avg(revenue)"
dearest = "max(revenue)"
first_at = "min(timestamp)"
last_at = "max(timestamp)"
first_user = "min(user_id)"
users = "count(distinct user_id)"
about_users = "approx_distinct(user_id)"

[sinks.counted]
type = "iceberg"
inputs = ["counts"]
catalog = "lake"
table = "ads.counts"
"#
    .to_owned();
    // few events a second of event time: windows without a sale
    pipeline.source = pipeline.source.replace("rate = 20_000", "rate = 4_000").replace("200000", "40000");
    let file = pipeline.write()?;
    let mut random = Random::new(11);
    let started = Instant::now();
    for _ in 0..4 {
        Millrace::run_and_kill(&file, Duration::from_millis(500 + random.below(1_500)))?;
    }
    let whole = pipeline.more.clone();
    pipeline.more = whole.replace("max(revenue)", "min(revenue)");
    pipeline.write()?;
    Millrace::run_to_end(&file, MINUTE)?.failed(&["dearest = max(revenue)", "--drop-state counts"])?;
    pipeline.more = whole;
    pipeline.write()?;
    wait_for("the last event to be due", MINUTE, || Ok(started.elapsed() > Duration::from_secs(ALL_DUE_S)))?;
    Millrace::run_to_end(&file, MINUTE)?.ok()?;
    oracle::events_complete(&pipeline, EVENTS, 40_000, 4)?;
    oracle::counts_match_events_table(&pipeline, "ads.counts", 100)
}

#[test]
fn duckdb_reads_the_state_of_open_windows() -> Result<()> {
    let scratch = Scratch::new("state")?;
    let mut pipeline = generator(&scratch);
    pipeline.source = pipeline.source.replace("rate = 20_000", "rate = \"unlimited\"");
    pipeline.window = "1s".to_owned();
    let file = pipeline.write()?;
    Millrace::run(&file, &["--until-end", "--keep-open"], &[])?.wait(MINUTE)?.ok()?;
    oracle::state_matches_events_table(&pipeline, 1_000)?;
    // and a later run closes them
    Millrace::run_to_end(&file, MINUTE)?.ok()?;
    oracle::metrics_match_events_table(&pipeline, 1_000)
}

/// What is in the campaign table and what is in a savepoint's open windows are together all events of the raw table: a savepoint is
/// complete when its command says so, and any Parquet reader reads it.
#[test]
fn duckdb_reads_a_savepoint_of_a_running_pipeline() -> Result<()> {
    let scratch = Scratch::new("savepoint-state")?;
    let mut pipeline = generator(&scratch);
    pipeline.source = pipeline.source.replace("rate = 20_000", "rate = \"unlimited\"");
    pipeline.window = "1s".to_owned();
    let mut millrace = Millrace::run(&pipeline.write()?, &[], &[])?;
    let api = Api::of(&mut millrace, &pipeline)?;
    api.wait_for_rows(&mut millrace, "metrics", i64::try_from(COUNT)?)?;
    let folder = scratch.path().join("monday");
    let asked = serde_json::json!({ "folder": folder }).to_string();
    let (status, answer) = api.post("/savepoints", "application/json", asked.as_bytes())?;
    ensure!(status == 201, "{status}: {answer}");
    millrace.kill()?;
    oracle::savepoint_matches_events_table(&pipeline, &folder, 1_000)
}

#[test]
fn a_bad_spec_ends_with_code_2_and_points_at_it() -> Result<()> {
    let scratch = Scratch::new("bad-spec")?;
    let mut pipeline = generator(&scratch);
    pipeline.more = "[sinks.typo]\ntype = \"console\"\ninput = [\"events\"]\n".to_owned();
    let file = pipeline.write()?;
    let file = file.to_str().unwrap_or_default();
    for command in ["check", "run"] {
        let ended = Millrace::start(&[command, file], &[])?.wait(MINUTE)?.failed(&["inputs", "^", "pipeline.toml"])?;
        ensure!(ended.status.code() == Some(2), "{command} ended with {}:\n{}", ended.status, ended.output);
    }
    Ok(())
}

#[test]
fn a_query_reads_what_was_written() -> Result<()> {
    let scratch = Scratch::new("query")?;
    let mut pipeline = generator(&scratch);
    pipeline.source = pipeline.source.replace("rate = 20_000", "rate = \"unlimited\"");
    let file = pipeline.write()?;
    Millrace::run_to_end(&file, MINUTE)?.ok()?;
    let sql = "SELECT count(*) AS n FROM lake.ads.campaign_events";
    let ended = Millrace::start(&["query", sql, "-f", file.to_str().unwrap_or_default(), "--format", "csv"], &[])?
        .wait(MINUTE)?
        .ok()?;
    ensure!(ended.output.lines().any(|line| line.trim() == COUNT.to_string()), "the query said:\n{}", ended.output);
    let sql = "SELECT colour FROM lake.ads.campaign_events";
    let ended = Millrace::start(&["query", sql, "-f", file.to_str().unwrap_or_default()], &[])?
        .wait(MINUTE)?
        .failed(&["No field named colour", "lake.ads.campaign_events.platform"])?;
    ensure!(ended.output.matches("colour").count() == 1, "the error is not said once:\n{}", ended.output);
    Ok(())
}
