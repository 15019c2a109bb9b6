//! No room for what has to be written: one clear line, and at the next start nothing is lost or doubled.

use anyhow::{Result, ensure};
use millrace_tests::events::Shape;
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::pipeline::EVENTS;

use super::{Bench, MINUTE, TWO_MINUTES};

/// Log records, the catalog and results fit in; the state of tens of thousands of users does not, nor do raw events.
const FILE_BYTES_MAX: u64 = 64 << 10;
const EVENTS_AT_ONCE: u64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// Runs without a limit to a first checkpoint, then with it until it fails, then without to the end.
fn fails_and_goes_on(bench: &mut Bench, words: &[&str]) -> Result<()> {
    bench.produce(2_000)?;
    Millrace::run(&bench.file(), &["--until-end", "--keep-open"], &[])?.wait(MINUTE)?.ok()?;
    bench.produce(EVENTS_AT_ONCE)?;
    let ended = Millrace::run_with_small_files(&bench.file(), FILE_BYTES_MAX)?.wait(MINUTE)?.failed(words)?;
    let errors = ended.output.lines().filter(|line| line.starts_with("error: ")).count();
    ensure!(errors == 1, "{errors} errors instead of one:\n{}", ended.output);
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    Ok(())
}

#[test]
fn at_the_checkpoint_location() -> Result<()> {
    let users = Shape { users: 1_000_000, ..Shape::default() };
    let mut bench = Bench::on("full-state", &Broker::shared().brokers(), users)?;
    bench.pipeline.raw_tables.clear();
    bench.pipeline.window = "1h".to_owned();
    bench.pipeline.write()?;
    let state = bench.pipeline.state().display().to_string();
    fails_and_goes_on(&mut bench, &[&state, "writing a state file", "File too large", "hint: free some space"])?;
    oracle::metrics_match(&bench.pipeline, &bench.dump()?, HOUR_MS)
}

#[test]
fn in_the_warehouse() -> Result<()> {
    let mut bench = Bench::new("full-warehouse")?;
    bench.pipeline.metrics = false;
    bench.pipeline.write()?;
    let warehouse = bench.pipeline.warehouse().display().to_string();
    fails_and_goes_on(&mut bench, &[&warehouse, "ads.campaign_events", "File too large"])?;
    oracle::events_match(&bench.pipeline, EVENTS, &bench.dump()?, 1)
}
