//! State and tables that do not belong together: refused, with the choices, and nothing is written.

use anyhow::Result;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle::snapshot;
use millrace_tests::paths::copy_folder;
use millrace_tests::pipeline::{EVENTS, METRICS};

use super::{Bench, MINUTE};

fn snapshots(bench: &Bench) -> Result<[String; 2]> {
    Ok([snapshot(&bench.pipeline, METRICS)?, snapshot(&bench.pipeline, EVENTS)?])
}

#[test]
fn an_emptied_state_folder_is_refused() -> Result<()> {
    let mut bench = Bench::new("emptied")?;
    bench.produce(20_000)?;
    Millrace::run_to_end(&bench.file(), MINUTE)?.ok()?;
    let before = snapshots(&bench)?;
    std::fs::remove_dir_all(bench.pipeline.state())?;

    Millrace::run_to_end(&bench.file(), MINUTE)?.failed(&["ads.campaign_", "incarnation"])?;
    assert_eq!(snapshots(&bench)?, before, "a refused run has committed");
    bench.tables_match()
}

#[test]
fn a_rewind_to_an_older_checkpoint_is_refused() -> Result<()> {
    let mut bench = Bench::new("rewind")?;
    bench.produce(20_000)?;
    Millrace::run(&bench.file(), &["--until-end", "--keep-open"], &[])?.wait(MINUTE)?.ok()?;
    let older = bench.scratch.path().join("older-state");
    copy_folder(&bench.pipeline.state(), &older)?;
    bench.produce(20_000)?;
    Millrace::run_to_end(&bench.file(), MINUTE)?.ok()?;
    let before = snapshots(&bench)?;
    std::fs::remove_dir_all(bench.pipeline.state())?;
    copy_folder(&older, &bench.pipeline.state())?;

    Millrace::run_to_end(&bench.file(), MINUTE)?.failed(&["ads.campaign_", "checkpoint", "ahead|older|newer"])?;
    assert_eq!(snapshots(&bench)?, before, "a refused run has committed");
    bench.tables_match()
}
