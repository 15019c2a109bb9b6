//! Where reading starts by time, and what a partition that says nothing does to the others.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use millrace_tests::events::{Events, Shape};
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::paths::files_below;
use millrace_tests::pipeline::EVENTS;
use millrace_tests::topic;
use serde_json::Value;

use super::exactly_once::under_load;
use super::{Bench, MINUTE, TWO_MINUTES, WINDOW_MS};

/// 2001-09-09T01:46:40Z
const FIRST_RECORD_MS: i64 = 1_000_000_000_000;

#[test]
fn start_at_a_time_reads_what_was_produced_since() -> Result<()> {
    let mut bench = Bench::new("start-time")?;
    bench.pipeline.source = bench.pipeline.source.replace("\"earliest\"", "\"2001-09-09T02:20:00Z\"");
    bench.pipeline.write()?;
    // a record a second; every fourth partition's are all older than the start
    let (count, from) = (4_000, 2_000);
    let mut skipped = BTreeSet::new();
    for i in 0..count {
        let (partition, payload) = bench.events.next();
        let old = partition == 3;
        let timestamp_ms = if old { FIRST_RECORD_MS } else { FIRST_RECORD_MS + i * 1_000 };
        bench.producer.send_at(partition, Some(payload), Some(timestamp_ms))?;
        if old || i < from {
            skipped.insert((partition, i / 4));
        }
    }
    bench.producer.flush()?;
    Millrace::run(&bench.file(), &["--until-end", "--keep-open"], &[])?.wait(MINUTE)?.ok()?;

    // the checkpoint goes before `start`, also in the partition that had nothing to read
    bench.produce(4_000)?;
    Millrace::run_to_end(&bench.file(), MINUTE)?.ok()?;
    let dump = bench.scratch.path().join("since.jsonl");
    topic::dump(&bench.brokers, &bench.topic, &dump, &skipped)?;
    oracle::events_match(&bench.pipeline, EVENTS, &dump, 1)?;
    oracle::metrics_match(&bench.pipeline, &dump, WINDOW_MS)
}

#[test]
fn a_silent_partition_does_not_hold_the_windows() -> Result<()> {
    // four partitions, events in three of them
    let shape = Shape { partitions: 4, ..Shape::default() };
    let mut bench = Bench::on("idle", &Broker::shared().brokers(), shape.clone())?;
    bench.pipeline.idle_timeout = "1s".to_owned();
    bench.pipeline.more =
        "[sinks.late]\ntype = \"file\"\ninputs = [\"metrics.late\"]\npath = \"./late\"\nformat = \"jsonl\"\n"
            .to_owned();
    bench.pipeline.write()?;
    bench.events = Events::new(Shape { partitions: 3, ..shape });
    bench.produce(12_000)?;
    let results = bench.pipeline.warehouse().join("ads/campaign_metrics/data");
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    under_load(&mut bench, |_| {
        millrace.while_running("a window to close", MINUTE, || Ok(!files_below(&results).is_empty()))
    })?;

    // an event of the first window, minutes behind the others
    let old = r#"{"event_id":"late","user_id":"u","campaign_id":"campaign-0001","event_type":"click","timestamp":1763000000000}"#;
    bench.producer.send(3, Some(old.as_bytes()))?;
    bench.producer.flush()?;
    let late = bench.scratch.path().join("late");
    millrace.while_running("the late event", MINUTE, || Ok(!files_below(&late).is_empty()))?;
    millrace.terminate(MINUTE)?.ok()?;

    let mut rows = Vec::new();
    for file in files_below(&late) {
        for line in std::fs::read_to_string(&file)?.lines() {
            rows.push(serde_json::from_str::<Value>(line)?);
        }
    }
    let [row] = rows.as_slice() else { anyhow::bail!("not one late row: {rows:?}") };
    ensure!(row["node"] == "metrics" && row["partition"] == 3 && row["offset"] == 0, "{row}");
    ensure!(row["reason"].as_str().context("no reason")?.contains("late"), "{row}");

    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    oracle::events_match(&bench.pipeline, EVENTS, &bench.dump()?, 1)?;
    let in_time = bench.scratch.path().join("in-time.jsonl");
    topic::dump(&bench.brokers, &bench.topic, &in_time, &BTreeSet::from([(3, 0)]))?;
    oracle::metrics_match(&bench.pipeline, &in_time, WINDOW_MS)
}
