//! More groups than memory holds: the disk backend goes on and is right, the memory backend stops and says what to do.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_tests::events::{Random, Shape};
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle::{self, Rows};
use millrace_tests::pipeline::{aggregation, append, campaign_plugin};
use millrace_tests::windows::{self, METRICS};

use super::Bench;

const EVENTS: u64 = 2_200_000;
const GROUPS: u64 = 2_000_000;
/// A group each: more than memory holds, and no more than it takes to show it.
const EVENTS_TOO_MANY: u64 = 1_300_000;
const FEW_GROUPS: u64 = 10_000;
const LIMIT_MIB: u64 = 256;
/// Of what grows with the number of groups and is not state: the tables of groups, the results on their way, the allocator.
const SLACK_MIB: u64 = 128;
const START_MS: i64 = 1_763_002_800_000;
const HOUR_MS: u64 = 3_600_000;
const LONG: Duration = Duration::from_secs(300);

/// As many events whatever the number of groups, over four windows that are all open to the end. A group that has more than
/// one event has the next when it is long cold.
fn bench(name: &str, events: u64, groups: u64, backend: &str) -> Result<Bench> {
    let mut bench = Bench::on(name, &Broker::shared().brokers(), Shape::default())?;
    write(&mut bench, backend)?;
    let mut random = Random::new(17);
    let mut text = String::new();
    for n in 0..events {
        text.clear();
        let user = n % groups;
        // the hour follows from the user, so that the same one comes to the same window
        let at = START_MS + i64::try_from(user * 4 / groups * HOUR_MS + random.below(HOUR_MS))?;
        write!(
            text,
            "{{\"event_id\":\"e{n}\",\"user_id\":\"user-{user:08}\",\"campaign_id\":\"c\",\"event_type\":\"click\",\"timestamp\":{at}}}"
        )?;
        bench.producer.send((n % 4) as i32, Some(text.as_bytes()))?;
    }
    bench.producer.flush()?;
    Ok(bench)
}

fn write(bench: &mut Bench, backend: &str) -> Result<()> {
    let pipeline = &mut bench.pipeline;
    pipeline.metrics = false;
    pipeline.raw_tables.clear();
    pipeline.checkpoint_interval = "10s".to_owned();
    pipeline.out_of_orderness = "12h".to_owned();
    pipeline.more = format!("\n[state]\nmemory_limit = \"{LIMIT_MIB}MiB\"\nbackend = \"{backend}\"\n")
        + &campaign_plugin()?
        + &aggregation("users", "[\"user_id\"]", "type = \"tumbling\", size = \"1h\"", "plugin = \"campaign-metrics\"")
        + &append("users", "ads.users");
    pipeline.write().map(drop)
}

/// Runs it to its end; the most memory that it held, in MiB.
fn peak_mib(bench: &Bench) -> Result<u64> {
    let mut millrace = Millrace::run(&bench.file(), &["--until-end"], &[])?;
    let peak = millrace.watch_peak_memory(LONG)?;
    millrace.wait(LONG)?.ok()?;
    let expected = windows::grouped(&windows::tumbling("events", 3_600_000, 0), "user_id", METRICS);
    oracle::rows_match(
        &bench.pipeline,
        &bench.dump()?,
        Rows { rounded: "revenue", ..Rows::of("ads.users", &expected) },
    )?;
    Ok(peak >> 20)
}

#[test]
fn two_million_groups_go_through_a_quarter_of_a_gibibyte_on_disk() -> Result<()> {
    let few = peak_mib(&bench("memory-few", EVENTS, FEW_GROUPS, "disk")?)?;
    let many = peak_mib(&bench("memory-many", EVENTS, GROUPS, "disk")?)?;
    println!("peak memory: {few} MiB with {FEW_GROUPS} groups, {many} MiB with {GROUPS}");
    ensure!(many <= few + LIMIT_MIB + SLACK_MIB, "{many} MiB with {GROUPS} groups, {few} MiB with {FEW_GROUPS}");
    Ok(())
}

#[test]
fn in_memory_they_stop_the_run_and_on_disk_it_goes_on() -> Result<()> {
    let mut bench = bench("memory-stops", EVENTS_TOO_MANY, EVENTS_TOO_MANY, "memory")?;
    let mut millrace = Millrace::run(&bench.file(), &["--until-end"], &[])?;
    let peak = millrace.watch_peak_memory(LONG)? >> 20;
    millrace.wait(LONG)?.failed(&[
        "memory_limit",
        "128 MiB",
        "groups",
        "backend = \"disk\"",
        "a checkpoint was taken",
    ])?;
    println!("it stopped at {peak} MiB");
    ensure!(peak <= 4 * LIMIT_MIB, "it stopped at {peak} MiB only");
    write(&mut bench, "disk")?;
    peak_mib(&bench).map(drop)
}
