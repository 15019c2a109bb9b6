//! What other windows cost beside tumbling ones of 5 minutes, and how throughput falls with the number of keys: CPU per event,
//! in one run, on one topic.
//!
//! The topic spans more than an hour of event time, so that windows of an hour are full.

use anyhow::Result;
use millrace_tests::paths::Scratch;
use millrace_tests::pipeline::{Pipeline, aggregation, append, campaign_plugin};
use millrace_tests::topic;

use super::{Usage, generate};

/// Event time: 4,000 s for 5 million events.
const EVENTS_PER_SECOND: &str = "1250";

const TUMBLING: &str = "type = \"tumbling\", size = \"5m\"";
/// Each with the most that it may cost beside the tumbling one, for state of constant size.
const WINDOWS: [(&str, &str, f64); 3] = [
    ("sliding 10m/5m", "type = \"sliding\", size = \"10m\", slide = \"5m\"", 1.15),
    ("sliding 1h/1m", "type = \"sliding\", size = \"1h\", slide = \"1m\"", 1.5),
    ("session 30s", "type = \"session\", gap = \"30s\"", 1.5),
];
/// What a group keeps, and whether it is of constant size.
const STATES: [(&str, &str, bool); 3] = [
    ("counts", "aggregate = { events = \"count(*)\", revenue = \"sum(revenue)\" }", true),
    ("HLL", "plugin = \"campaign-metrics\"\nconfig = { unique_users = \"hll\" }", true),
    ("exact sets", "plugin = \"campaign-metrics\"\nconfig = { unique_users = \"exact\" }", false),
];
const KEYS: [(&str, u64); 3] = [("1k keys", 1_000), ("100k keys", 100_000), ("1M keys", 1_000_000)];

struct Jobs<'a> {
    brokers: &'a str,
    full: String,
    empty: String,
    events: u64,
    scratch: Scratch,
    done: u32,
}

/// What one job used beyond its start.
#[derive(Clone, Copy)]
struct Cost {
    cpu_s: f64,
    usage: Usage,
}

impl Jobs<'_> {
    fn cost(&mut self, more: &str) -> Result<Cost> {
        self.done += 1;
        let shape = |pipeline: &mut Pipeline| {
            pipeline.metrics = false;
            pipeline.raw_tables.clear();
            pipeline.more = more.to_owned();
        };
        let folder = self.scratch.path().join(self.done.to_string());
        let start = super::run(&folder.join("start"), self.brokers, &self.empty, false, shape)?;
        let usage = super::run(&folder.join("full"), self.brokers, &self.full, false, shape)?;
        std::fs::remove_dir_all(folder)?;
        Ok(Cost { cpu_s: usage.cpu_s - start.cpu_s, usage })
    }

    fn show(&self, name: &str, cost: Cost, beside: &str) {
        let events = self.events as f64;
        println!(
            "{name:<28} {:>10.0} {:>13.3} {:>9.0}   {beside}",
            events / cost.usage.wall_s,
            cost.cpu_s / (events / 1e6),
            cost.usage.rss_mib
        );
    }
}

fn run_all(jobs: &mut Jobs<'_>) -> Result<()> {
    println!("\n{:<28} {:>10} {:>13} {:>9}", "window, state", "events/s", "steady CPU-s/M", "RSS MiB");
    let plugin = campaign_plugin()?;
    for (state, lines, is_constant) in STATES {
        let job = |window: &str| {
            let plugin = if lines.starts_with("plugin") { plugin.as_str() } else { "" };
            format!("{plugin}{}{}", aggregation("a", "[\"campaign_id\"]", window, lines), append("a", "ads.a"))
        };
        let base = jobs.cost(&job(TUMBLING))?;
        jobs.show(&format!("tumbling 5m, {state}"), base, "1.00");
        for (name, window, most) in WINDOWS {
            let cost = jobs.cost(&job(window))?;
            let ratio = cost.cpu_s / base.cpu_s;
            let target = if is_constant { format!("(target {most:.2})") } else { String::new() };
            jobs.show(&format!("{name}, {state}"), cost, &format!("{ratio:.2} {target}"));
        }
    }

    println!();
    let mut few = None;
    for (name, keys) in KEYS {
        // every key as often as the others, whatever the topic's users are
        let number = format!("(kafka_offset * 4 + kafka_partition) % {keys}");
        let numbered = format!("\n[transforms.numbered]\ninputs = [\"events\"]\nset = {{ number = \"{number}\" }}\n");
        let counts = aggregation("a", "[\"number\"]", TUMBLING, "aggregate = { events = \"count(*)\" }")
            .replace("inputs = [\"events\"]", "inputs = [\"numbered\"]");
        let cost = jobs.cost(&(numbered + &counts + &append("a", "ads.a")))?;
        let base = few.get_or_insert(cost.usage.wall_s);
        jobs.show(name, cost, &format!("throughput {:.2} of that with 1k", *base / cost.usage.wall_s));
    }
    Ok(())
}

pub fn run(brokers: &str, events: u64) -> Result<()> {
    let (full, empty) = (topic::unique("bench-windows"), topic::unique("bench-windows-empty"));
    topic::create(brokers, &full, 4)?;
    topic::create(brokers, &empty, 4)?;
    generate(brokers, &full, events, &["--rate", EVENTS_PER_SECOND])?;
    let scratch = Scratch::new("bench-windows")?;
    run_all(&mut Jobs { brokers, full, empty, events, scratch, done: 0 })
}
