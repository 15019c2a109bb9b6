//! One bad message among 8,191 good ones costs only itself, whatever is wrong with it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use millrace_tests::events::bad_messages;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::paths::files_below;
use millrace_tests::pipeline::EVENTS;
use millrace_tests::topic;
use serde_json::Value;

use super::{Bench, MINUTE, TWO_MINUTES, WINDOW_MS};

const GOOD_AROUND_EACH: u64 = 8_191;

type Position = (i32, i64);

/// The position that one dead letter names; it must say why, too.
fn position(letter: &Value) -> Result<Position> {
    let number = |name: &str| letter[name].as_i64().with_context(|| format!("no `{name}` in {letter}"));
    ensure!(letter["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "no reason in {letter}");
    ensure!(letter["node"] == "events", "not the source's: {letter}");
    Ok((i32::try_from(number("partition")?)?, number("offset")?))
}

/// Sends good and bad; returns where the bad ones are.
fn produce(bench: &mut Bench) -> Result<BTreeSet<Position>> {
    let mut next_offset = [0i64; 4];
    let mut bad = BTreeSet::new();
    for (i, (what, payload)) in bad_messages().into_iter().enumerate() {
        for n in 0..GOOD_AROUND_EACH {
            // somewhere in the middle, each time elsewhere
            if n == GOOD_AROUND_EACH / 2 + 97 * i as u64 {
                let partition = i % 4;
                println!("{what}: {partition}/{}", next_offset[partition]);
                bench.producer.send(partition as i32, payload.as_deref())?;
                bad.insert((partition as i32, next_offset[partition]));
                next_offset[partition] += 1;
            }
            let (partition, event) = bench.events.next();
            bench.producer.send(partition, Some(event))?;
            next_offset[partition as usize] += 1;
        }
    }
    bench.producer.flush()?;
    Ok(bad)
}

fn good_is_kept(bench: &Bench, bad: &BTreeSet<Position>) -> Result<()> {
    let dump = bench.scratch.path().join("good.jsonl");
    topic::dump(&bench.brokers, &bench.topic, &dump, bad)?;
    oracle::metrics_match(&bench.pipeline, &dump, WINDOW_MS)?;
    oracle::events_match(&bench.pipeline, EVENTS, &dump, 1)
}

#[test]
fn dead_letters_to_kafka() -> Result<()> {
    let mut bench = Bench::new("bad-kafka")?;
    let dead = topic::unique("dead");
    topic::create(&bench.brokers, &dead, 1)?;
    bench.pipeline.on_error = "dead-letter".to_owned();
    bench.pipeline.more = format!(
        "[sinks.bad_events]\ntype = \"kafka\"\ninputs = [\"events.errors\"]\nbrokers = \"{}\"\ntopic = \"{dead}\"\n\
         [sinks.bad_events.properties]\n\"message.max.bytes\" = \"33554432\"\n",
        bench.brokers
    );
    bench.pipeline.write()?;
    let bad = produce(&mut bench)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;

    let mut letters = BTreeSet::new();
    topic::read(&bench.brokers, &dead, |_, _, payload| {
        letters.insert(position(&serde_json::from_slice(payload.context("a tombstone")?)?)?);
        Ok(())
    })?;
    assert_eq!(letters, bad);
    good_is_kept(&bench, &bad)
}

#[test]
fn dead_letters_to_a_file() -> Result<()> {
    let mut bench = Bench::new("bad-file")?;
    bench.pipeline.on_error = "dead-letter".to_owned();
    bench.pipeline.more =
        "[sinks.bad_events]\ntype = \"file\"\ninputs = [\"events.errors\"]\npath = \"./bad\"\nformat = \"jsonl\"\n"
            .to_owned();
    bench.pipeline.write()?;
    let bad = produce(&mut bench)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;

    let mut letters = BTreeSet::new();
    for file in files_below(&bench.scratch.path().join("bad")) {
        for line in std::fs::read_to_string(&file)?.lines() {
            letters.insert(position(&serde_json::from_str(line)?)?);
        }
    }
    assert_eq!(letters, bad);
    good_is_kept(&bench, &bad)
}

#[test]
fn skipped() -> Result<()> {
    let mut bench = Bench::new("bad-skip")?;
    bench.pipeline.on_error = "skip".to_owned();
    bench.pipeline.write()?;
    let bad = produce(&mut bench)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    good_is_kept(&bench, &bad)
}

#[test]
fn fail_names_the_message() -> Result<()> {
    let mut bench = Bench::new("bad-fail")?;
    bench.produce(4_000)?;
    bench.producer.send(2, Some(b"not an event"))?;
    bench.produce(4_000)?;
    // the topic, the partition and the offset of the one bad message: 1,000 good ones came before it there
    let topic = bench.topic.clone();
    Millrace::run_to_end(&bench.file(), MINUTE)?.failed(&[&topic, "1000"])?;
    Ok(())
}
