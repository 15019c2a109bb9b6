//! `millrace generate`: the same seeded ad events as the embedded source, into a file or a topic.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use super::{Failure, GenerateArgs};
use crate::clock::{Clock, SystemClock};
use crate::source::generator;
use crate::spec::model::GeneratorSpec;
use crate::spec::parse_instant_ms;

pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    if args.rate == 0 || args.partitions == 0 || args.campaigns == 0 || args.users == 0 {
        return Err(Failure::Usage("--rate, --partitions, --campaigns and --users must be at least 1".into()));
    }
    let span_ms = i64::try_from(args.count.saturating_mul(1_000) / args.rate).unwrap_or(i64::MAX);
    let start_ms = match &args.start {
        Some(text) => parse_instant_ms(text).ok_or_else(|| {
            Failure::Usage(format!("--start {text}: expected RFC 3339, such as 2026-01-31T12:00:00Z"))
        })?,
        None if args.live => SystemClock.now_ms(),
        None => SystemClock.now_ms().saturating_sub(span_ms),
    };
    let spec = GeneratorSpec {
        seed: args.seed,
        partitions: args.partitions,
        rate: Some(args.rate),
        count: Some(args.count),
        campaigns: args.campaigns,
        users: args.users,
        disorder_ms: args.disorder_ms,
        repeats_per_million: 0,
        start_ms: Some(start_ms),
    };
    let mut properties = BTreeMap::new();
    for property in &args.property {
        let (key, value) = property
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--property {property}: expected KEY=VALUE")))?;
        properties.insert(key.to_owned(), value.to_owned());
    }
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |written: u64| {
        if terminal {
            // a closed terminal is no reason to stop
            let _ = write!(std::io::stderr(), "\r{written} of {} events", args.count);
        }
        true
    };
    let written = match (&args.file, &args.kafka, &args.topic) {
        (Some(path), _, _) => generator::write_jsonl(path, &spec, start_ms).map_err(anyhow::Error::msg)?,
        (None, Some(brokers), Some(topic)) => {
            generator::produce_to_kafka(brokers, topic, &spec, start_ms, &properties, &mut progress)
                .map_err(anyhow::Error::new)?
        }
        _ => return Err(Failure::Usage("a FILE, or --kafka BROKERS --topic TOPIC".into())),
    };
    if terminal {
        eprintln!();
    }
    eprintln!("{written} events written");
    Ok(())
}
