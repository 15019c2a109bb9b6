//! What a pipeline file takes from `${secret:…}` reaches the plugin and the catalog, and nothing else: no answer of the API, no
//! line that is printed, no file beside the checkpoints or in a savepoint, whatever is swapped and however that fails.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::api::Api;
use millrace_tests::guests::swap_counts;
use millrace_tests::millrace::Millrace;
use millrace_tests::paths::{Scratch, files_below};
use millrace_tests::pipeline::{Pipeline, aggregation, append};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
const WASM: &str = "application/wasm";

const SALT: &str = "salt-9f3c77d1\"x";
const PIN: &str = "7319462580";
const CATALOG: &str = "catalog-51c2aa90";
const TOKEN: &str = "token-e8b04d36";
/// What is looked for: the salt without what has to be escaped.
const PLANTED: [&str; 4] = ["salt-9f3c77d1", PIN, CATALOG, TOKEN];

fn environment(salt: &str) -> [(&str, &str); 5] {
    [
        ("TEST_SALT", salt),
        ("TEST_PIN", PIN),
        ("TEST_CATALOG", CATALOG),
        ("MILLRACE_API_TOKEN", TOKEN),
        ("MILLRACE_LOG", "debug"),
    ]
}

fn pipeline(scratch: &Scratch) -> Result<Pipeline> {
    let mut pipeline = Pipeline::new(scratch.path());
    pipeline.name = "discreet".to_owned();
    pipeline.source =
        "type = \"generator\"\nseed = 5\npartitions = 2\nrate = 2_000\ncampaigns = 20\nusers = 100\n".into();
    pipeline.catalog.toml = pipeline.catalog.toml.replace("catalog.db", "${secret:TEST_CATALOG}.db");
    pipeline.metrics = false;
    pipeline.raw_tables.clear();
    let lines = "plugin = \"counts\"\nconfig = { salt = \"${secret:TEST_SALT}\", pin = \"${secret:TEST_PIN}\" }";
    pipeline.more = format!(
        "\n[swap]\nprobation = \"100ms\"\n\n[plugins.counts]\npath = \"{}\"\ndeadline = \"1s\"\n",
        swap_counts("salted")?.display()
    ) + &aggregation("counts", "[\"campaign_id\"]", "type = \"tumbling\", size = \"1s\"", lines)
        + &append("counts", "ads.counts");
    Ok(pipeline)
}

/// Asks for a swap, or something that becomes one, and waits for its end.
fn ends_as(api: &Api, millrace: &mut Millrace, below: &str, body: &[u8], phase: &str) -> Result<Value> {
    let (status, answer) = api.post(below, WASM, body)?;
    ensure!(status == 202, "{below}: {status}: {answer}");
    hides_them(below, answer.to_string().as_bytes())?;
    let mut record = Value::Null;
    millrace.while_running(&format!("swap {} to be {phase}", answer["id"]), MINUTE, || {
        record = api.get(&format!("/swaps/{}", answer["id"]))?;
        Ok(record["phase"] == phase)
    })?;
    Ok(record)
}

fn hides_them(what: &str, bytes: &[u8]) -> Result<()> {
    for planted in PLANTED {
        let found = bytes.windows(planted.len()).position(|window| window == planted.as_bytes());
        let around = found.map(|at| &bytes[at.saturating_sub(200)..(at + 100).min(bytes.len())]);
        ensure!(found.is_none(), "{what} holds {planted}: {}", String::from_utf8_lossy(around.unwrap_or_default()));
    }
    Ok(())
}

fn files_hide_them(folder: &Path) -> Result<usize> {
    let files = files_below(folder);
    for file in &files {
        // one that a checkpoint has replaced meanwhile is gone
        let Ok(bytes) = std::fs::read(file) else { continue };
        hides_them(&file.display().to_string(), &bytes)?;
    }
    Ok(files.len())
}

/// Every path of the document that is read.
fn answers_hide_them(api: &Api, swap: &Value) -> Result<()> {
    let document: Value = serde_json::from_str(&api.whole("/api/v1/openapi.json")?.1)?;
    let mut read = 0;
    for (path, methods) in document["paths"].as_object().context("no paths")? {
        if methods.get("get").is_some() {
            let path = path.replace("{name}", "discreet").replace("{operator}", "counts");
            let path = path.replace("{id}", &swap["id"].to_string());
            hides_them(&path, api.whole(&path)?.0.as_bytes())?;
            read += 1;
        }
    }
    ensure!(read >= 10, "only {read} paths were read");
    Ok(())
}

#[test]
fn secrets_are_neither_shown_nor_kept() -> Result<()> {
    let scratch = Scratch::new("secrets")?;
    let pipeline = pipeline(&scratch)?;
    let file = pipeline.write()?;
    let component = |version: &str| -> Result<Vec<u8>> { Ok(std::fs::read(swap_counts(version)?)?) };
    let plugin = "/operators/counts/plugin";

    let mut millrace = Millrace::run(&file, &[], &environment(SALT))?;
    let api = Api::of(&mut millrace, &pipeline)?.with_token(TOKEN);
    api.wait_for_rows(&mut millrace, "counts", 2_000)?;
    let record = ends_as(&api, &mut millrace, plugin, &component("salted_2")?, "done")?;
    ensure!(record["state"] == "taken over", "{record}");
    let config = record["to"]["config"].as_str().context("no configuration")?;
    ensure!(config.contains("${secret#") && config.contains("${secret-value#"), "{config}");
    let back = ends_as(&api, &mut millrace, "/operators/counts/rollback", &[], "done")?;
    ensure!(back["to"]["version"] == "1.1.0" && back["to"]["config"] == config, "{back}");

    // what is refused, and what fails, says why
    let (status, answer) = api.post(plugin, WASM, &component("incompatible")?)?;
    ensure!(status == 422, "{status}: {answer}");
    hides_them("a refusal", answer.to_string().as_bytes())?;
    let (status, answer) = api.post(&format!("{plugin}?config.pin=12"), WASM, &[])?;
    ensure!(status == 422, "another configuration, and nothing that migrates: {status}: {answer}");
    hides_them("a refusal", answer.to_string().as_bytes())?;
    let (status, answer) = api.post(plugin, WASM, &component("told")?)?;
    hides_them("an answer", answer.to_string().as_bytes())?;
    let mut told = answer;
    if status == 202 {
        millrace.while_running("the failure of `told`", MINUTE, || {
            told = api.get(&format!("/swaps/{}", told["id"]))?;
            Ok(["failed", "rolled_back"].iter().any(|phase| told["phase"] == *phase))
        })?;
    }
    ensure!(told.to_string().contains("this version says its options: [redacted]"), "{status}: {told}");

    // this one runs on after a restart
    let last = ends_as(&api, &mut millrace, plugin, &component("salted_2")?, "done")?;
    let savepoint = scratch.path().join("savepoint");
    let asked = serde_json::json!({ "folder": savepoint }).to_string();
    let (status, answer) = api.post("/savepoints", "application/json", asked.as_bytes())?;
    ensure!(status == 201, "{status}: {answer}");
    answers_hide_them(&api, &last)?;
    let said = millrace.terminate(MINUTE)?.ok()?.output;
    hides_them("what was printed", said.as_bytes())?;
    ensure!(said.contains("[redacted]"), "the log does not say why `told` failed");
    ensure!(files_hide_them(&pipeline.state())? > 10 && files_hide_them(&savepoint)? > 2, "no files");

    // the same secret: what ran goes on, with it
    let mut millrace = Millrace::run(&file, &[], &environment(SALT))?;
    let api = Api::of(&mut millrace, &pipeline)?.with_token(TOKEN);
    api.wait_for_rows(&mut millrace, "counts", 2_000)?;
    let running = api.get("/operators/counts")?;
    ensure!(running.to_string().contains("\"1.1.1\""), "{running}");
    let back = ends_as(&api, &mut millrace, "/operators/counts/rollback", &[], "done")?;
    ensure!(back["state"] == "taken over" && back["to"]["version"] == "1.1.0", "{back}");
    answers_hide_them(&api, &back)?;
    let said = millrace.terminate(MINUTE)?.ok()?.output;
    ensure!(!said.contains("migrated"), "{said}");
    hides_them("what was printed", said.as_bytes())?;
    files_hide_them(&pipeline.state())?;

    // another one: another configuration, which this plugin does not migrate to
    let ended = Millrace::run(&file, &[], &environment("salt-9f3c77d1-other"))?.wait(MINUTE)?;
    let ended = ended.failed(&["--drop-state counts"])?;
    hides_them("what was printed", ended.output.as_bytes())?;
    Ok(())
}
