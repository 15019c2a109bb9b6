//! `kill -9` at random instants and at every failpoint, under load: both tables as if nothing had happened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace_tests::events::Random;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;

use super::{Bench, MINUTE, TWO_MINUTES};

const RANDOM_KILLS: u32 = 20;
/// Start, claim, a few checkpoints and commits all lie in here.
const LIFE_MS_MAX: u64 = 2_500;
const EVENTS_PER_SECOND: u64 = 5_000;

/// Every failpoint's name, read from the host's source: one added there is walked through here.
fn failpoints() -> Vec<&'static str> {
    let source = include_str!("../../../../host/src/failpoint.rs");
    source
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": &str = \"")?.1.strip_suffix("\";"))
        // those of swaps have a test of their own
        .filter(|name| !name.starts_with("swap."))
        .collect()
}

/// Runs `work` while events keep coming; they stop when it returns.
pub fn under_load(bench: &mut Bench, work: impl FnOnce(&std::path::Path) -> Result<()>) -> Result<()> {
    let file = bench.file();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| -> Result<()> {
            // paced by the clock: a load, not a wait
            let started = Instant::now();
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                let due = started.elapsed().as_millis() as u64 * EVENTS_PER_SECOND / 1000;
                bench.produce(due - sent)?;
                sent = due;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        let worked = work(&file);
        stop.store(true, Ordering::Relaxed);
        producing.join().expect("the producing thread")?;
        worked
    })
}

pub fn kill_at_random(file: &std::path::Path, times: u32, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    for _ in 0..times {
        // the seed repeats the instant as far as a scheduler can
        Millrace::run_and_kill(file, Duration::from_millis(random.below(LIFE_MS_MAX)))?;
    }
    Ok(())
}

#[test]
fn sigkill_at_random_instants() -> Result<()> {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut bench = Bench::new("sigkill")?;
    bench.produce(20_000)?;
    under_load(&mut bench, |file| kill_at_random(file, RANDOM_KILLS, seed))?;
    ensure!(bench.commits() > 0, "no run lived long enough to commit: the test proves nothing");
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

/// Rows of several checkpoints wait for one commit, and the last run commits at every checkpoint.
#[test]
fn sigkill_while_rows_wait_for_their_commit() -> Result<()> {
    let mut bench = Bench::new("waiting")?;
    bench.pipeline.commit_interval = "900ms".to_owned();
    bench.pipeline.write()?;
    bench.produce(20_000)?;
    under_load(&mut bench, |file| kill_at_random(file, RANDOM_KILLS / 2, 7))?;
    ensure!(bench.commits() > 0, "no run lived long enough to commit: the test proves nothing");
    bench.pipeline.commit_interval = bench.pipeline.checkpoint_interval.clone();
    bench.pipeline.write()?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

/// Arms each failpoint, at its first hit and at a later one, and waits until it has killed the run.
pub fn at_every_failpoint(file: &std::path::Path) -> Result<()> {
    let names = failpoints();
    ensure!(names.len() >= 6, "the failpoints were not found in the source: {names:?}");
    for name in names {
        for hit in if name == "claim.after" { &[1][..] } else { &[1, 4][..] } {
            let armed = format!("{name}@{hit}");
            let millrace = Millrace::run(file, &[], &[("MILLRACE_FAILPOINT", armed.as_str())])?;
            let ended = millrace.wait(MINUTE).with_context(|| format!("failpoint {armed} was never hit"))?;
            ensure!(ended.was_killed(), "{armed}: ended with {}:\n{}", ended.status, ended.output);
        }
    }
    Ok(())
}

#[test]
fn sigkill_at_every_failpoint() -> Result<()> {
    let mut bench = Bench::new("failpoints")?;
    bench.produce(20_000)?;
    under_load(&mut bench, at_every_failpoint)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

#[test]
fn two_sinks_on_one_table_write_every_event_twice() -> Result<()> {
    let mut bench = Bench::new("two-sinks")?;
    bench.pipeline.metrics = false;
    bench.pipeline.raw_tables = vec!["ads.both".to_owned(), "ads.both".to_owned()];
    bench.pipeline.write()?;
    bench.produce(20_000)?;
    under_load(&mut bench, |file| kill_at_random(file, 4, 11))?;
    ensure!(bench.commits() > 0, "no run lived long enough to commit: the test proves nothing");
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    oracle::events_match(&bench.pipeline, "ads.both", &bench.dump()?, 2)
}
