//! Checkpoints in an S3 store that verifies signatures; the tables are local.

use anyhow::{Result, ensure};
use millrace_tests::millrace::Millrace;
use millrace_tests::s3::{BUCKET, S3};

use super::exactly_once::{kill_at_random, under_load};
use super::{Bench, MINUTE, TWO_MINUTES};

const PREFIX: &str = "checkpoints/ads/";

/// A pipeline whose checkpoints are there; `properties` are lines of `[checkpoint]`.
fn bench(name: &str, properties: &str) -> Result<Bench> {
    let mut bench = Bench::new(name)?;
    bench.pipeline.checkpoint = format!("location = \"s3://{BUCKET}/{PREFIX}\"\n{properties}");
    bench.pipeline.write()?;
    Ok(bench)
}

/// The log is in the bucket, and nothing of the state is anywhere else.
fn kept_in(s3: &S3, bench: &Bench) -> Result<()> {
    let (log, state) = (s3.keys(&format!("{PREFIX}log/"))?, s3.keys(&format!("{PREFIX}state/"))?);
    ensure!(!log.is_empty() && !state.is_empty(), "the bucket has {log:?} and {state:?}");
    ensure!(!bench.pipeline.state().exists(), "there is a local state folder, too");
    Ok(())
}

#[test]
fn sigkill_with_checkpoints_on_s3() -> Result<()> {
    let s3 = S3::start()?;
    let mut bench = bench("s3-sigkill", &s3.properties())?;
    bench.produce(20_000)?;
    under_load(&mut bench, |file| {
        for failpoint in ["checkpoint.before-durable@3", "checkpoint.after-durable@2", "commit.before@2"] {
            let ended = Millrace::run(file, &[], &[("MILLRACE_FAILPOINT", failpoint)])?.wait(MINUTE)?;
            ensure!(ended.was_killed(), "{failpoint}: ended with {}:\n{}", ended.status, ended.output);
        }
        kill_at_random(file, 4, 23)
    })?;
    kept_in(&s3, &bench)?;
    let ended = Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    ensure!(!ended.output.contains(&s3.secret), "the secret was printed:\n{}", ended.output);
    bench.tables_match()
}

#[test]
fn the_older_of_two_processes_is_fenced_on_s3() -> Result<()> {
    let s3 = S3::start()?;
    // everything from the environment, as on a machine of AWS
    let mut bench = bench("s3-zombie", "")?;
    bench.produce(20_000)?;
    let mut older = Millrace::run(&bench.file(), &[], &s3.environment())?;
    older.while_running("the first commit", MINUTE, || Ok(bench.commits() > 0))?;

    let newer = Millrace::run(&bench.file(), &[], &s3.environment())?;
    bench.produce(20_000)?;
    older.wait(MINUTE)?.failed(&["generation", "taken|fenced|took"])?;
    newer.terminate(MINUTE)?.ok()?;

    kept_in(&s3, &bench)?;
    Millrace::run(&bench.file(), &["--until-end"], &s3.environment())?.wait(TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

#[test]
fn a_store_that_is_down_for_a_while_costs_nothing_but_time() -> Result<()> {
    let s3 = S3::start()?;
    let mut bench = bench("s3-down", &s3.properties())?;
    bench.produce(20_000)?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    millrace.while_running("the first commit", MINUTE, || Ok(bench.commits() > 0))?;

    s3.set_down(true)?;
    bench.produce(20_000)?;
    millrace.wait_for_words("trying again", MINUTE)?;
    s3.set_down(false)?;
    let before = bench.commits();
    bench.produce(20_000)?;
    millrace.while_running("a commit after it came back", MINUTE, || Ok(bench.commits() > before))?;
    millrace.terminate(MINUTE)?.ok()?;

    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

#[test]
fn wrong_credentials_and_a_missing_bucket_are_named() -> Result<()> {
    let mut s3 = S3::start()?;
    let mut bench = bench("s3-refused", &s3.properties().replace(&s3.secret, "wrong-secret-17"))?;
    let ended = Millrace::run_to_end(&bench.file(), MINUTE)?.failed(&[
        "s3://millrace/",
        "refused",
        "hint:",
        "s3.access-key-id",
    ])?;
    ensure!(!ended.output.contains("wrong-secret-17"), "the secret was printed:\n{}", ended.output);

    bench.pipeline.checkpoint = format!("location = \"s3://no-such-bucket/{PREFIX}\"\n{}", s3.properties());
    bench.pipeline.write()?;
    Millrace::run_to_end(&bench.file(), MINUTE)?
        .failed(&["s3://no-such-bucket/", "the bucket or folder is not there"])?;

    bench.pipeline.checkpoint = format!("location = \"s3://{BUCKET}/{PREFIX}\"\n{}", s3.properties());
    bench.pipeline.write()?;
    s3.stop();
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.failed(&["s3://millrace/", "reachable?"])?;
    Ok(())
}
