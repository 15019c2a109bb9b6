//! The same events three ways: whole, with many checkpoints, stopped and resumed at another parallelism.

use anyhow::Result;
use millrace_tests::millrace::Millrace;

use super::{Bench, MINUTE, TWO_MINUTES};

const EVENTS: u64 = 200_000;

#[test]
fn whole() -> Result<()> {
    let mut bench = Bench::new("golden-whole")?;
    bench.pipeline.checkpoint_interval = "10m".to_owned();
    bench.pipeline.commit_interval = "10m".to_owned();
    bench.pipeline.write()?;
    bench.produce(EVENTS)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

#[test]
fn a_checkpoint_every_200_ms() -> Result<()> {
    let mut bench = Bench::new("golden-checkpoints")?;
    bench.pipeline.checkpoint_interval = "200ms".to_owned();
    bench.pipeline.commit_interval = "200ms".to_owned();
    bench.pipeline.write()?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    // the events come in pieces, each seen in a commit before the next, so that there are many checkpoints between them
    for _ in 0..10 {
        let before = bench.commits();
        bench.produce(EVENTS / 10)?;
        millrace.while_running("a commit", MINUTE, || Ok(bench.commits() > before))?;
    }
    millrace.terminate(MINUTE)?.ok()?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

#[test]
fn stopped_and_resumed_at_another_parallelism() -> Result<()> {
    let mut bench = Bench::new("golden-resumed")?;
    for parallelism in [2, 3, 1] {
        bench.pipeline.parallelism = parallelism;
        bench.pipeline.write()?;
        let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
        let before = bench.commits();
        bench.produce(EVENTS / 4)?;
        millrace.while_running("a commit", MINUTE, || Ok(bench.commits() > before))?;
        millrace.terminate(MINUTE)?.ok()?;
    }
    bench.pipeline.parallelism = 4;
    bench.pipeline.write()?;
    bench.produce(EVENTS / 4)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}
