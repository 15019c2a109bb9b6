//! The API's document and the API agree: schemathesis makes requests from the document, well formed ones and others, and
//! checks every answer against it. `tests/fuzz` says what it is told about the pipeline.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::api::Api;
use millrace_tests::guests::swap_counts;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::paths::{self, Scratch};
use millrace_tests::pipeline::{Pipeline, aggregation, append};

const MINUTE: Duration = Duration::from_secs(60);
/// Far fewer than there are, far more than by requests that are all refused at the door.
const CASES_MIN: usize = 400;

#[test]
fn the_api_is_what_its_document_says() -> Result<()> {
    let scratch = Scratch::new("fuzzed")?;
    let mut pipeline = Pipeline::new(scratch.path());
    pipeline.name = "fuzzed".to_owned();
    pipeline.source =
        "type = \"generator\"\nseed = 5\npartitions = 2\nrate = 2_000\ncampaigns = 20\nusers = 100\n".into();
    pipeline.metrics = false;
    pipeline.raw_tables.clear();
    pipeline.more =
        format!(
            "\n[swap]\nprobation = \"100ms\"\n\n[plugins.counts]\npath = \"{}\"\ndeadline = \"1s\"\n",
            swap_counts("v1")?.display()
        ) + &aggregation("counts", "[\"campaign_id\"]", "type = \"tumbling\", size = \"1s\"", "plugin = \"counts\"")
            + &append("counts", "ads.counts");
    let mut millrace = Millrace::run(&pipeline.write()?, &[], &[])?;
    let api = Api::of(&mut millrace, &pipeline)?;
    api.wait_for_rows(&mut millrace, "counts", 1_000)?;

    // there is something to go back to
    let equal = std::fs::read(swap_counts("equal")?)?;
    let (status, record) = api.post("/operators/counts/plugin", "application/wasm", &equal)?;
    ensure!(status == 202, "{status}: {record}");
    let below = format!("/swaps/{}", record["id"]);
    millrace.while_running("a swap to be done", MINUTE, || Ok(api.get(&below)?["phase"] == "done"))?;

    let answers = scratch.path().join("answers.txt");
    let components = ["v1", "equal", "trap_first", "incompatible"].map(swap_counts);
    let components = components.into_iter().map(|path| Ok(path?.display().to_string())).collect::<Result<Vec<_>>>()?;
    let folder = paths::workspace().join("tests/fuzz");
    let run = Command::new(oracle::ensure_python()?)
        .args(["-c", "import schemathesis.cli as c; c.schemathesis()", "--config-file"])
        .arg(folder.join("schemathesis.toml"))
        .args(["run", &format!("{}/api/v1/openapi.json", api.url()), "--checks", "all", "--phases", "coverage,fuzzing"])
        .args(["--exclude-operation-id", "stop", "--no-color", "--request-timeout", "20", "--continue-on-failure"])
        .current_dir(scratch.path())
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("FUZZ_PIPELINE", &pipeline.name)
        .env("FUZZ_OPERATOR", "counts")
        .env("FUZZ_COMPONENTS", components.join(":"))
        .env("FUZZ_FOLDER", scratch.path().join("savepoints"))
        .env("FUZZ_ANSWERS", &answers)
        .output()
        .context("starting schemathesis")?;
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let mut statuses = BTreeMap::<String, BTreeMap<u16, usize>>::new();
    for line in std::fs::read_to_string(&answers).unwrap_or_default().lines() {
        let mut words = line.rsplitn(2, ' ');
        let status = words.next().and_then(|status| status.parse().ok()).context("a line without a status")?;
        *statuses.entry(words.next().unwrap_or_default().to_owned()).or_default().entry(status).or_default() += 1;
    }
    println!("{statuses:#?}");
    ensure!(run.status.success(), "the API is not what its document says ({}):\n{said}", run.status);
    let cases: usize = statuses.values().flat_map(BTreeMap::values).sum();
    ensure!(cases >= CASES_MIN, "only {cases} requests were made: {statuses:#?}\n{said}");
    ensure!(statuses.values().flat_map(BTreeMap::keys).all(|status| *status < 500), "{statuses:#?}");
    let document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(paths::workspace().join("host/src/api/openapi.json"))?)?;
    for (path, methods) in document["paths"].as_object().context("no paths")? {
        // the first would end the run; the second is read before all others, and not asked for again
        if path.ends_with("/stop") || path.ends_with("/openapi.json") {
            continue;
        }
        for method in methods.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()) {
            let answered = statuses.get(&format!("{method} {path}")).into_iter().flatten();
            let done = answered.filter(|(status, _)| **status / 100 == 2).count();
            ensure!(done > 0, "{method} {path} never did what was asked: {statuses:#?}");
        }
        let of_path = statuses.iter().filter(|(operation, _)| operation.split(' ').nth(1) == Some(path));
        let refused = of_path.flat_map(|(_, by)| by.keys()).filter(|status| **status / 100 == 4).count();
        ensure!(refused > 0, "{path} never refused anything: {statuses:#?}");
    }

    // it goes on as if nothing had been
    let rows = api.node("counts")?["rows_in_total"].as_i64().context("no rows")?;
    api.wait_for_rows(&mut millrace, "counts", rows + 1_000)?;
    let (status, answer) = api.post("/stop", "", &[])?;
    ensure!(status == 202, "{status}: {answer}");
    millrace.wait(MINUTE)?.ok()?;
    Ok(())
}
