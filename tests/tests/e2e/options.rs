//! A swap to other options of the same component, and the way back once its probation is over: what ran before is a component
//! and its options.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_tests::api::Api;
use millrace_tests::guests::swap_counts;
use millrace_tests::millrace::Millrace;
use millrace_tests::paths::Scratch;
use millrace_tests::pipeline::{Pipeline, aggregation, append};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
const WASM: &str = "application/wasm";

fn pipeline(scratch: &Scratch) -> Result<Pipeline> {
    let mut pipeline = Pipeline::new(scratch.path());
    pipeline.name = "tuned".to_owned();
    pipeline.source =
        "type = \"generator\"\nseed = 5\npartitions = 2\nrate = 2_000\ncampaigns = 20\nusers = 100\n".into();
    pipeline.metrics = false;
    pipeline.raw_tables.clear();
    let lines = "plugin = \"counts\"\nconfig = { step = 1 }";
    pipeline.more = format!(
        "\n[swap]\nprobation = \"100ms\"\n\n[plugins.counts]\npath = \"{}\"\n",
        swap_counts("tuned")?.display()
    ) + &aggregation("counts", "[\"campaign_id\"]", "type = \"tumbling\", size = \"1s\"", lines)
        + &append("counts", "ads.counts");
    Ok(pipeline)
}

/// Asks, and waits until the probation is over.
fn done(api: &Api, millrace: &mut Millrace, below: &str) -> Result<Value> {
    let (status, answer) = api.post(below, WASM, &[])?;
    ensure!(status == 202, "{below}: {status}: {answer}");
    let mut record = Value::Null;
    millrace.while_running(&format!("{below} to be done"), MINUTE, || {
        record = api.get(&format!("/swaps/{}", answer["id"]))?;
        Ok(record["phase"] == "done")
    })?;
    Ok(record)
}

#[test]
fn a_rollback_after_the_probation_takes_the_former_options_again() -> Result<()> {
    let scratch = Scratch::new("options")?;
    let pipeline = pipeline(&scratch)?;
    let mut millrace = Millrace::run(&pipeline.write()?, &[], &[])?;
    let api = Api::of(&mut millrace, &pipeline)?;
    api.wait_for_rows(&mut millrace, "counts", 2_000)?;

    let swap = done(&api, &mut millrace, "/operators/counts/plugin?config.step=2")?;
    let configs = |of: &Value| (of["from"]["config"].clone(), of["to"]["config"].clone());
    ensure!(configs(&swap) == ("{\"step\":1}".into(), "{\"step\":2}".into()), "{swap}");
    let runs = || -> Result<Value> { Ok(api.get("/operators/counts")?["node"]["plugin"]["config"].clone()) };
    ensure!(runs()? == "{\"step\":2}", "the new options do not run: {}", runs()?);
    let back = done(&api, &mut millrace, "/operators/counts/rollback")?;
    ensure!(configs(&back) == ("{\"step\":2}".into(), "{\"step\":1}".into()), "{back}");
    ensure!(back["is_rollback"] == true && back["state"] == "migrated", "{back}");
    ensure!(back["from"]["sha256"] == back["to"]["sha256"], "{back}");
    ensure!(runs()? == "{\"step\":1}", "the former options do not run: {}", runs()?);
    millrace.terminate(MINUTE)?.ok()?;
    Ok(())
}
