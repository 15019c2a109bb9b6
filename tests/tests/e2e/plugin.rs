//! A new author's first minutes: `plugin new`, `build`, `test`, and the pipeline that comes with it.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use millrace_tests::paths::{self, Scratch};

/// Runs the program in a folder. Cargo's own folder is shared by all tests, so that dependencies are built once.
fn millrace(folder: &Path, arguments: &[&str]) -> Result<Output> {
    Command::new(paths::millrace()?)
        .args(arguments)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", paths::target().join("e2e-plugins"))
        .env_remove("RUSTFLAGS")
        .output()
        .with_context(|| format!("millrace {}", arguments.join(" ")))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn well(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = millrace(folder, arguments)?;
    ensure!(output.status.success(), "millrace {} failed:\n{}", arguments.join(" "), text(&output));
    Ok(text(&output))
}

#[test]
fn a_new_plugin_builds_its_tests_pass_and_its_pipeline_runs() -> Result<()> {
    let scratch = Scratch::new("plugin-new")?;
    well(scratch.path(), &["plugin", "new", "first-try"])?;
    let again = millrace(scratch.path(), &["plugin", "new", "first-try"])?;
    ensure!(again.status.code() == Some(2) && text(&again).contains("nothing is overwritten"), "{}", text(&again));

    let project = scratch.path().join("first-try");
    let untested = millrace(&project, &["plugin", "test"])?;
    ensure!(
        untested.status.code() == Some(2) && text(&untested).contains("`millrace plugin build` makes it"),
        "{}",
        text(&untested)
    );
    let built = well(&project, &["plugin", "build"])?;
    ensure!(built.contains("target/first-try.wasm") && built.contains("next: millrace plugin test"), "{built}");
    let tested = well(&project, &["plugin", "test"])?;
    ensure!(tested.contains("1 case passed, 0 failed; 11 laws hold, 0 do not"), "{tested}");
    let inspected = well(&project, &["plugin", "inspect", "--format", "json"])?;
    let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
    ensure!(inspected["name"] == "first-try" && inspected["signature"]["output"][0]["name"] == "events", "{inspected}");
    let component = ["plugin", "bench", "target/first-try.wasm", "--case", "tests/basic.toml"];
    let measured = well(&project, &[&component[..], &["--rows", "1000", "--format", "json"]].concat())?;
    let measured: serde_json::Value = serde_json::from_str(&measured)?;
    ensure!(measured["batches"][0]["ns_per_row"].as_f64().is_some_and(|ns| ns > 0.0), "{measured}");
    let ran = well(&project, &["run", "pipeline.toml", "--until-end", "--progress", "none"])?;
    ensure!(ran.contains("unique_users") && ran.contains("campaign-000002"), "{ran}");
    Ok(())
}

#[test]
fn a_wrong_plugin_is_told_what_is_wrong() -> Result<()> {
    let scratch = Scratch::new("plugin-wrong")?;
    well(scratch.path(), &["plugin", "new", "second-try"])?;
    let project = scratch.path().join("second-try");
    let source = project.join("src/lib.rs");
    let right = std::fs::read_to_string(&source)?;
    // a merge that forgets something: the golden case does not see it, the laws do
    std::fs::write(&source, right.replace("        self.revenue += other.revenue;\n", ""))?;
    well(&project, &["plugin", "build"])?;
    let tested = millrace(&project, &["plugin", "test"])?;
    ensure!(tested.status.code() == Some(1), "{}", text(&tested));
    let said = text(&tested);
    ensure!(said.contains("case basic: ok") && said.contains("law merge-is-update: FAILED"), "{said}");
    ensure!(project.join("tests/law-merge-is-update.toml").is_file(), "{said}");
    // what was saved is red by itself, and green once the plugin is right
    let alone = millrace(&project, &["plugin", "test", "--case", "law-merge-is-update"])?;
    ensure!(
        alone.status.code() == Some(1) && text(&alone).contains("case law-merge-is-update: FAILED"),
        "{}",
        text(&alone)
    );
    std::fs::write(&source, &right)?;
    well(&project, &["plugin", "build"])?;
    well(&project, &["plugin", "test"])?;

    // a golden case that is not right any more, and is accepted
    let case = project.join("tests/basic.toml");
    let golden = std::fs::read_to_string(&case)?;
    std::fs::write(&case, golden.replace("revenue = 2.5, unique_users = 2", "revenue = 2.25, unique_users = 2"))?;
    let tested = text(&millrace(&project, &["plugin", "test"])?);
    ensure!(tested.contains("revenue  expected 2.25  got 2.5"), "{tested}");
    well(&project, &["plugin", "test", "--update"])?;
    ensure!(std::fs::read_to_string(&case)? == golden, "the update is not what was there before");

    // it does not compile
    std::fs::write(&source, "fn")?;
    let built = millrace(&project, &["plugin", "build"])?;
    ensure!(built.status.code() == Some(1) && text(&built).contains("cargo build failed"), "{}", text(&built));
    Ok(())
}

#[test]
fn the_other_kinds_build_and_pass_too() -> Result<()> {
    let scratch = Scratch::new("plugin-kinds")?;
    for (kind, says) in [("transform", "1 case passed, 0 failed"), ("join", "it loads")] {
        let name = format!("a-{kind}");
        well(scratch.path(), &["plugin", "new", &name, "--kind", kind])?;
        let project = scratch.path().join(&name);
        well(&project, &["plugin", "build"])?;
        let tested = well(&project, &["plugin", "test"])?;
        ensure!(tested.contains(says), "{kind}: {tested}");
    }
    let ran =
        well(&scratch.path().join("a-transform"), &["run", "pipeline.toml", "--until-end", "--progress", "none"])?;
    ensure!(ran.contains("platform") && ran.contains("ios"), "{ran}");
    Ok(())
}
