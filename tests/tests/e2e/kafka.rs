//! Against a real Apache Kafka, one broker for all.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use millrace_tests::events::{Events, Shape};
use millrace_tests::kafka::Broker;
use millrace_tests::oracle;
use millrace_tests::paths::{Scratch, files_below};
use millrace_tests::pipeline::{EVENTS, Pipeline};
use millrace_tests::topic::{self, Producer};

mod bad_input;
mod broker_restart;
mod catalog;
mod clock;
mod disk_full;
mod early;
mod event_time;
mod evolve;
mod exactly_once;
mod explain;
mod golden;
mod late;
mod live;
mod memory;
mod oracle_1m;
mod recreated;
mod refusals;
mod s3;
mod swaps;
mod unreachable;
mod upserts;
mod windows_1m;
mod zombie;

const MINUTE: Duration = Duration::from_secs(60);
const TWO_MINUTES: Duration = Duration::from_secs(120);
const WINDOW_MS: i64 = 60_000;

/// A topic with events in it, and a pipeline that reads it.
struct Bench {
    pipeline: Pipeline,
    brokers: String,
    topic: String,
    partitions: i32,
    events: Events,
    producer: Producer,
    scratch: Scratch,
}

impl Bench {
    fn new(name: &str) -> Result<Self> {
        Self::on(name, &Broker::shared().brokers(), Shape::default())
    }

    fn on(name: &str, brokers: &str, shape: Shape) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let topic = topic::unique(name);
        topic::create(brokers, &topic, shape.partitions)?;
        let pipeline = Pipeline::kafka(scratch.path(), brokers, &topic);
        pipeline.write()?;
        let producer = Producer::new(brokers, &topic)?;
        let (brokers, partitions, events) = (brokers.to_owned(), shape.partitions, Events::new(shape));
        Ok(Self { pipeline, brokers, topic, partitions, events, producer, scratch })
    }

    fn produce(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            let (partition, payload) = self.events.next();
            self.producer.send(partition, Some(payload))?;
        }
        self.producer.flush()
    }

    fn file(&self) -> PathBuf {
        self.pipeline.file()
    }

    fn dump(&self) -> Result<PathBuf> {
        let file = self.scratch.path().join("dump.jsonl");
        topic::dump(&self.brokers, &self.topic, &file, &BTreeSet::new())?;
        Ok(file)
    }

    /// Both tables are what the topic says.
    fn tables_match(&self) -> Result<()> {
        let dump = self.dump()?;
        oracle::metrics_match(&self.pipeline, &dump, WINDOW_MS)?;
        oracle::events_match(&self.pipeline, EVENTS, &dump, 1)
    }

    /// How many commits with rows in them the tables have seen. Claiming a table makes a snapshot too, without rows and
    /// so without a manifest: it does not count.
    fn commits(&self) -> usize {
        let is_manifest = |name: &str| name.ends_with(".avro") && !name.starts_with("snap-");
        files_below(&self.pipeline.warehouse())
            .iter()
            .filter(|file| file.file_name().and_then(|name| name.to_str()).is_some_and(is_manifest))
            .count()
    }
}
