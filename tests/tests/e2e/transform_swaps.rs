//! Plugins of transforms replaced while events come, on the embedded generator: DuckDB computes from the raw events table what
//! the others should hold, whichever version has made their rows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::api::Api;
use millrace_tests::guests::{swap_counts, swap_stamps};
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::paths::{self, Scratch};
use millrace_tests::pipeline::{CATALOG, Pipeline};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
const RATE: u64 = 5_000;
const WASM: &str = "application/wasm";

/// One transform gives all of its rows, the other deduplicates them; a window counts them, and a table has them.
fn pipeline(scratch: &Scratch, probation: &str) -> Result<Pipeline> {
    let mut pipeline = Pipeline::new(scratch.path());
    pipeline.source = format!(
        "type = \"generator\"\nseed = 7\npartitions = 4\nrate = {RATE}\ncampaigns = 40\nusers = 10_000\ndisorder = \"1s\"\n\
         duplicates = 0.05\n"
    );
    pipeline.metrics = false;
    let plugin = swap_stamps("v1")?;
    let transforms = format!(
        r#"
[swap]
probation = "{probation}"

[plugins.stamps]
path = "{}"
deadline = "1s"

[transforms.stamped]
inputs = ["events"]
plugin = "stamps"

[transforms.plain]
inputs = ["stamped"]
set = {{ worth = "worth / cast(stamp AS double)" }}

[transforms.once]
inputs = ["events"]
filter = "event_type <> 'click'"
plugin = "stamps"
deduplicate = {{ key = ["event_id"], within = "1h" }}

[aggregations.counted]
inputs = ["stamped"]
key = ["campaign_id"]
window = {{ type = "tumbling", size = "1s" }}
aggregate = {{ rows = "count(*)", different = "count(distinct event_id)" }}
"#,
        plugin.display()
    );
    pipeline.more = transforms + &table("plain", "plain") + &table("once", "once") + &table("counted", "counted");
    pipeline.write()?;
    Ok(pipeline)
}

fn table(name: &str, input: &str) -> String {
    format!(
        "\n[sinks.{name}_table]\ntype = \"iceberg\"\ninputs = [\"{input}\"]\ncatalog = \"{CATALOG}\"\ntable = \"ads.{name}\"\n"
    )
}

fn tables_match(pipeline: &Pipeline) -> Result<()> {
    // a conversion is two rows
    let rows = "SELECT e.* FROM events e, LATERAL (SELECT unnest(CASE WHEN event_type = 'conversion' THEN [1, 2] ELSE [1] END))";
    oracle::query_matches(
        pipeline,
        "ads.plain",
        "stamp",
        &format!("SELECT coalesce(revenue, 1.0) AS worth, * FROM ({rows})"),
    )?;
    let once = "SELECT DISTINCT event_id, user_id, campaign_id, event_type, timestamp, platform, revenue FROM events \
                WHERE event_type <> 'click'";
    oracle::query_matches(pipeline, "ads.once", "stamp, worth, kafka_partition, kafka_offset", once)?;
    let counted = format!(
        "SELECT campaign_id, date_trunc('second', timestamp) AS window_start, window_start + INTERVAL 1 second AS window_end, \
         count(*) AS rows, count(DISTINCT event_id) AS different FROM ({rows}) GROUP BY ALL"
    );
    oracle::query_matches(pipeline, "ads.counted", "", &counted)
}

struct Run {
    millrace: Millrace,
    api: Api,
}

impl Run {
    fn start(pipeline: &Pipeline, environment: &[(&str, &str)]) -> Result<Self> {
        let mut millrace = Millrace::run(&pipeline.file(), &[], environment)?;
        let api = Api::of(&mut millrace, pipeline)?;
        Ok(Self { millrace, api })
    }

    /// The answer to a request for this version, and its status.
    fn ask(&self, operator: &str, version: &str, query: &str) -> Result<(u16, Value)> {
        let component = std::fs::read(swap_stamps(version)?)?;
        self.api.post(&format!("/operators/{operator}/plugin{query}"), WASM, &component)
    }

    /// Asks, and waits until one of these phases has come.
    fn swap(&mut self, operator: &str, version: &str, phases: &[&str]) -> Result<Value> {
        let (status, record) = self.ask(operator, version, "")?;
        ensure!(status == 202, "{version}: {status} {record}");
        self.wait_for(&record, phases)
    }

    fn wait_for(&mut self, record: &Value, phases: &[&str]) -> Result<Value> {
        let Self { millrace, api } = self;
        let mut now = Value::Null;
        millrace.while_running(&format!("swap {} to be one of {phases:?}", record["id"]), MINUTE, || {
            now = api.get(&format!("/swaps/{}", record["id"]))?;
            Ok(now["phase"].as_str().is_some_and(|phase| phases.contains(&phase)))
        })?;
        Ok(now)
    }

    /// More rows come to an operator.
    fn flow(&mut self, operator: &str) -> Result<()> {
        let now = self.api.node(operator)?["rows_in_total"].as_i64().unwrap_or_default();
        self.api.wait_for_rows(&mut self.millrace, operator, now + i64::try_from(RATE)?)
    }

    fn runs(&self, operator: &str) -> Result<String> {
        let node = self.api.node(operator)?;
        Ok(node["plugin"]["version"].as_str().with_context(|| format!("no plugin in {node}"))?.to_owned())
    }
}

/// What the command says; `Err`: it did not end well.
fn millrace(arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new(paths::millrace()?).args(arguments).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(said)
}

#[test]
fn every_row_is_made_once_by_one_version_or_another() -> Result<()> {
    let scratch = Scratch::new("transform-swaps")?;
    let pipeline = pipeline(&scratch, "1h")?;
    let file = pipeline.file().display().to_string();
    let mut run = Run::start(&pipeline, &[])?;
    run.flow("stamped")?;

    // refused: nothing has changed
    let (status, answer) = run.api.post("/operators/stamped/plugin", WASM, &std::fs::read(swap_counts("v1")?)?)?;
    ensure!(status >= 400 && answer.to_string().contains("needs a transform"), "{status} {answer}");
    let (status, answer) = run.ask("stamped", "more_output", "")?;
    ensure!(status >= 400 && answer.to_string().contains("new are `rank: long`"), "{status} {answer}");
    ensure!(answer.to_string().contains("millrace run"), "{answer}");
    let (status, answer) = run.ask("stamped", "v2", "?shadow=10s")?;
    ensure!(status >= 400 && answer.to_string().contains("window by window"), "{status} {answer}");

    // failed on trial: the same
    for (version, word) in [("trap_first", "fails at its first row"), ("endless", "deadline")] {
        let record = run.swap("stamped", version, &["failed"])?;
        ensure!(record["reason"].as_str().is_some_and(|reason| reason.contains(word)), "{version}: {record}");
    }
    ensure!(run.runs("stamped")? == "1.0.0");

    // it takes over, and is taken back
    let record = run.swap("stamped", "v2", &["probation"])?;
    ensure!(record["pause_us"].as_u64().is_some_and(|us| us < 1_000_000), "{record}");
    run.flow("stamped")?;
    ensure!(run.runs("stamped")? == "2.0.0" && run.runs("once")? == "1.0.0");
    let status = millrace(&["status", &file])?;
    ensure!(status.contains("swap-stamps 2.0.0") && status.contains("beside  swap-stamps 1.0.0"), "{status}");
    millrace(&["rollback", &file, "stamped"])?;
    let record = run.wait_for(&record, &["rolled_back"])?;
    ensure!(record["rollback"]["left_as_given"].as_u64().is_some_and(|rows| rows > 0), "{record}");
    ensure!(run.runs("stamped")? == "1.0.0");

    // it fails while its rows count: the former one takes over by itself
    let record = run.swap("once", "trap_later", &["probation"])?;
    ensure!(run.runs("once")? == "1.0.4");
    let record = run.wait_for(&record, &["rolled_back"])?;
    ensure!(record["reason"].as_str().is_some_and(|reason| reason.contains("fails after")), "{record}");
    ensure!(run.runs("once")? == "1.0.0" && run.api.node("once")?["failed_total"] == 0, "{}", run.api.node("once")?);

    // another configuration is a swap, too (a power of two: divided by it, the worth is what it was to the last bit)
    let said = millrace(&["swap", &file, "stamped", "--config", "stamp=8"])?;
    ensure!(said.contains("it runs"), "{said}");
    run.flow("stamped")?;

    // a restart runs what ran, and there is a way back
    for operator in ["stamped", "once"] {
        run.swap(operator, "v2", &["probation"])?;
    }
    run.millrace.kill()?;
    let plan = millrace(&["plan", &file])?;
    ensure!(plan.contains("plugin swap-stamps 2.0.0"), "{plan}");
    let mut run = Run::start(&pipeline, &[])?;
    for operator in ["stamped", "once"] {
        run.flow(operator)?;
        ensure!(run.runs(operator)? == "2.0.0", "{operator}");
        let (status, record) = run.api.post(&format!("/operators/{operator}/rollback"), "", b"")?;
        ensure!(status == 202, "{status}: {record}");
        run.wait_for(&record, &["probation"])?;
    }
    ensure!(run.runs("once")? == "1.0.0");
    let node = run.api.node("stamped")?;
    ensure!(node["plugin"]["config"] == "{\"stamp\":8}", "{node}");
    run.millrace.terminate(MINUTE)?.ok()?;

    Millrace::run_to_end(&pipeline.file(), MINUTE)?.ok()?;
    tables_match(&pipeline)?;
    let query = format!("SELECT DISTINCT stamp FROM {CATALOG}.ads.plain ORDER BY stamp");
    let stamps = millrace(&["query", &query, "-f", &file])?;
    ensure!(["1", "2", "8"].iter().all(|stamp| stamps.contains(stamp)), "{stamps}");
    ensure!(!["3", "4", "5"].iter().any(|stamp| stamps.contains(stamp)), "{stamps}");
    Ok(())
}

/// Each phase of a swap is also the last thing that a process does.
#[test]
fn sigkill_at_every_phase() -> Result<()> {
    let scratch = Scratch::new("transform-swaps-sigkill")?;
    let mut pipeline = pipeline(&scratch, "300ms")?;
    // the only checkpoints are those of the swap: that at which the trial begins, that which says the new version, that at
    // which its probation ends
    pipeline.checkpoint_interval = "1h".to_owned();
    pipeline.commit_interval = "1h".to_owned();
    pipeline.write()?;
    let places = ["checkpoint.before-durable", "checkpoint.after-durable", "swap.attached", "swap.exchanged"];
    for (place, hit) in places.into_iter().flat_map(|place| (1..=3).map(move |hit| (place, hit))) {
        if place.starts_with("swap.") && hit > 2 {
            continue;
        }
        let armed = format!("{place}@{hit}");
        let mut run = Run::start(&pipeline, &[("MILLRACE_FAILPOINT", armed.as_str())])?;
        run.flow("stamped")?;
        let before = run.runs("stamped")?;
        let other = if before == "1.0.0" { "v2" } else { "v1" };
        // the answer may be lost with the process
        let _ = run.ask("stamped", other, "");
        let ended = run.millrace.wait(MINUTE).with_context(|| format!("{armed} was never hit"))?;
        ensure!(ended.was_killed(), "{armed}: ended with {}:\n{}", ended.status, ended.output);
        // what runs now is what the last durable checkpoint says
        let mut run = Run::start(&pipeline, &[])?;
        run.flow("stamped")?;
        let swapped = run.runs("stamped")? != before;
        let must = matches!((place, hit), ("checkpoint.after-durable", 2 | 3) | ("checkpoint.before-durable", 3));
        ensure!(swapped == must, "{armed}: {before} ran, now {}", run.runs("stamped")?);
        run.millrace.terminate(MINUTE)?.ok()?;
    }
    Millrace::run_to_end(&pipeline.file(), MINUTE)?.ok()?;
    tables_match(&pipeline)
}
