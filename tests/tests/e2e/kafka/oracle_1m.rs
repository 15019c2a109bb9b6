//! A million generated events, the shipped partitioning, the whole way: equal row by row.

use std::time::Duration;

use anyhow::Result;
use millrace_tests::events::Shape;
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::pipeline::EVENTS;

use super::{Bench, MINUTE, TWO_MINUTES};

const FIVE_MINUTES_MS: i64 = 300_000;

#[test]
fn a_million_events_are_in_both_tables_as_duckdb_says() -> Result<()> {
    let brokers = Broker::shared().brokers();
    let mut bench = Bench::on("oracle-1m", &brokers, Shape::default())?;
    bench.pipeline.window = "5m".to_owned();
    bench.pipeline.checkpoint_interval = "30s".to_owned();
    bench.pipeline.commit_interval = "5m".to_owned();
    bench.pipeline.raw_partition_by =
        ["identity(campaign_id)", "identity(platform)", "day(timestamp)"].map(str::to_owned).to_vec();
    bench.pipeline.write()?;
    let arguments = "--count 1000000 --partitions 4 --seed 7 --campaigns 1000 --users 1000000 --disorder-ms 4000";
    let mut generate = vec!["generate", "--kafka", &brokers, "--topic", &bench.topic];
    generate.extend(arguments.split(' '));
    Millrace::start(&generate, &[])?.wait(TWO_MINUTES)?.ok()?;

    Millrace::run_to_end(&bench.file(), Duration::from_secs(300))?.ok()?;

    let dump = bench.dump()?;
    oracle::metrics_match(&bench.pipeline, &dump, FIVE_MINUTES_MS)?;
    oracle::events_match(&bench.pipeline, EVENTS, &dump, 1)?;

    // a drained run has nothing more to say
    let before = bench.commits();
    Millrace::run_to_end(&bench.file(), MINUTE)?.ok()?;
    assert_eq!(bench.commits(), before, "a run over nothing new has committed something");
    Ok(())
}
