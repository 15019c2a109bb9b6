//! A topic that is deleted and made anew: its offsets look right and mean something else. The run stops, says what the
//! choices are, and takes nothing of the new one.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use millrace_tests::events::Shape;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::pipeline::EVENTS;
use millrace_tests::topic::{self, Producer};

use super::{Bench, MINUTE, TWO_MINUTES, WINDOW_MS};

const BEFORE: u64 = 8_000;
/// More than before, so that every old offset is a valid one.
const AFTER: u64 = 20_000;

/// Deletes the topic, makes it anew and fills it with later events than it had.
fn make_anew(bench: &mut Bench) -> Result<()> {
    topic::recreate(&bench.brokers, &bench.topic, Shape::default().partitions)?;
    bench.producer = Producer::new(&bench.brokers, &bench.topic)?;
    bench.produce(AFTER)
}

/// The old topic's events, dumped before it went, are in the raw table, and no other. Then, as asked for, the run goes
/// on with the new topic's, and every event of both is counted once.
fn nothing_is_taken_until_asked_for(bench: &Bench, old: &PathBuf) -> Result<()> {
    oracle::events_match(&bench.pipeline, EVENTS, old, 1)?;
    let ended = Millrace::run_to_end(&bench.file(), MINUTE)?;
    ended.failed(&[&bench.topic, "deleted and made anew", "--reset-offsets events=earliest"])?;
    oracle::events_match(&bench.pipeline, EVENTS, old, 1)?;

    Millrace::run(&bench.file(), &["--until-end", "--reset-offsets", "events=earliest"], &[])?
        .wait(TWO_MINUTES)?
        .ok()?;
    let new = bench.dump()?;
    let mut both = std::fs::OpenOptions::new().append(true).open(old)?;
    both.write_all(&std::fs::read(new)?)?;
    oracle::events_match(&bench.pipeline, EVENTS, old, 1)?;
    oracle::metrics_match(&bench.pipeline, old, WINDOW_MS)
}

fn dump_aside(bench: &Bench) -> Result<PathBuf> {
    let old = bench.scratch.path().join("old.jsonl");
    std::fs::rename(bench.dump()?, &old)?;
    Ok(old)
}

#[test]
fn while_the_pipeline_is_stopped() -> Result<()> {
    let mut bench = Bench::new("recreated-stopped")?;
    bench.produce(BEFORE)?;
    Millrace::run(&bench.file(), &["--until-end", "--keep-open"], &[])?.wait(MINUTE)?.ok()?;
    let old = dump_aside(&bench)?;
    make_anew(&mut bench)?;
    nothing_is_taken_until_asked_for(&bench, &old)
}

#[test]
fn while_the_pipeline_runs() -> Result<()> {
    let mut bench = Bench::new("recreated-running")?;
    bench.produce(BEFORE)?;
    let old = dump_aside(&bench)?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    millrace.while_running("all of the old topic to be committed", MINUTE, || {
        Ok(bench.commits() > 0 && oracle::events_match(&bench.pipeline, EVENTS, &old, 1).is_ok())
    })?;
    make_anew(&mut bench)?;
    let ended =
        millrace.wait(MINUTE)?.failed(&[&bench.topic, "deleted and made anew", "--reset-offsets events=earliest"])?;
    ensure!(
        !ended.output.contains("offsets have nothing to do"),
        "found out only by the next look around:\n{}",
        ended.output
    );
    nothing_is_taken_until_asked_for(&bench, &old)
}
