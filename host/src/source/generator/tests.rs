use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use serde_json::Value;

use super::*;

const START_MS: i64 = 1_763_000_000_000;

fn spec() -> GeneratorSpec {
    GeneratorSpec {
        seed: 7,
        partitions: 4,
        rate: None,
        count: None,
        campaigns: 100,
        users: 1_000,
        disorder_ms: 4_000,
        repeats_per_million: 0,
        start_ms: None,
    }
}

fn text(events: &AdEvents, partition: u32, offset: i64) -> String {
    let mut text = Vec::new();
    events.json(partition, offset, &mut text);
    String::from_utf8(text).unwrap()
}

fn id(partition: i32) -> PartitionId {
    PartitionId { topic: TOPIC.into(), partition }
}

#[derive(Debug)]
struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn read_all(reader: &mut dyn PartitionReader, max: usize) -> Vec<(i64, String, Option<i64>)> {
    let mut all = Vec::new();
    while reader.fetch(max).unwrap() > 0 {
        let mut messages = Vec::new();
        reader.messages(&mut messages);
        let text = |m: &RawMessage<'_>| String::from_utf8(m.payload.unwrap().to_vec()).unwrap();
        all.extend(messages.iter().map(|m| (m.offset, text(m), m.timestamp_ms)));
        assert_eq!(reader.position(), all.last().unwrap().0 + 1);
    }
    all
}

/// Checkpoints and oracles rest on it: an event must never change with the version of this program.
#[test]
fn events_are_frozen() {
    let events = AdEvents::new(&spec(), START_MS).unwrap();
    assert_eq!(
        [text(&events, 0, 0), text(&events, 3, 1_000_000)],
        [
            r#"{"event_id":"1cdb8b66-ccba-45b4-a7b6-8aff55db6cd3","user_id":"user-0000000027","campaign_id":"campaign-000006","event_type":"impression","timestamp":1762999997087,"platform":"ctv"}"#,
            r#"{"event_id":"7f449325-0369-4990-a231-07889108ebc4","user_id":"user-0000000022","campaign_id":"campaign-000034","event_type":"impression","timestamp":1763003999213,"platform":"android"}"#,
        ]
    );
}

#[test]
fn a_million_users_make_the_distributions_that_were_asked_for() {
    let spec = GeneratorSpec { campaigns: 1_000, users: 1_000_000, ..spec() };
    let events = AdEvents::new(&spec, START_MS).unwrap();
    let (mut ids, mut users) = (HashSet::new(), HashSet::new());
    let (mut clicks, mut conversions, mut first_campaign) = (0, 0, 0);
    let mut latest = [i64::MIN; 4];
    let mut most_behind = 0;
    let n = 100_000;
    for offset in 0..n / 4 {
        for partition in 0..4u32 {
            let event: Value = serde_json::from_str(&text(&events, partition, offset)).unwrap();
            let is = |name: &str, value: &str| event[name] == value;
            assert!(ids.insert(event["event_id"].as_str().unwrap().to_owned()));
            users.insert(event["user_id"].as_str().unwrap().to_owned());
            clicks += i32::from(is("event_type", "click"));
            conversions += i32::from(is("event_type", "conversion"));
            first_campaign += i32::from(is("campaign_id", "campaign-000000"));
            assert_eq!(event.get("revenue").is_some(), is("event_type", "conversion"));
            assert!(["ios", "android", "web", "ctv"].contains(&event["platform"].as_str().unwrap()));
            let time = event["timestamp"].as_i64().unwrap();
            let arrival = events.arrival_ms(partition, offset);
            assert!((arrival - 4_000..=arrival).contains(&time));
            let latest = &mut latest[partition as usize];
            *latest = time.max(*latest);
            most_behind = most_behind.max(*latest - time);
        }
    }
    assert!((8_700..9_300).contains(&clicks), "{clicks}");
    assert!((900..1_100).contains(&conversions), "{conversions}");
    // 1 / H(1000) = 13.4 %
    assert!((13_000..13_800).contains(&first_campaign), "{first_campaign}");
    // sum over k of 1 - exp(-100,000 / (k H(1,000,000))): 37,460
    assert!((37_000..37_900).contains(&users.len()), "{}", users.len());
    assert!((3_500..=4_000).contains(&most_behind), "{most_behind}");
}

#[test]
fn a_reader_finds_the_same_events_from_any_offset() {
    let spec = GeneratorSpec { count: Some(1_003), ..spec() };
    let connector = GeneratorConnector::new("g", &spec, START_MS).unwrap();
    let partitions = connector.discover().unwrap();
    assert_eq!(partitions.len(), 4);
    let waker = Arc::new(Waker::default());
    let mut total = 0;
    for info in partitions {
        let extent = connector.extent(&info.id).unwrap();
        let open = |start| connector.open(&info.id, start, &waker).unwrap();
        let whole = read_all(&mut *open(StartAt::Earliest), 64);
        assert_eq!(i64::try_from(whole.len()).unwrap(), extent.end);
        let middle = read_all(&mut *open(StartAt::Offset(100)), 7);
        assert_eq!(middle, whole[100..]);
        let arrival = whole[200].2.unwrap();
        assert_eq!(open(StartAt::TimestampMs(arrival)).position(), 200);
        assert_eq!(open(StartAt::Latest).position(), extent.end);
        assert_eq!(open(StartAt::TimestampMs(i64::MAX)).position(), extent.end);
        assert_eq!(open(StartAt::TimestampMs(i64::MIN)).position(), 0);
        assert!(matches!(
            connector.open(&info.id, StartAt::Offset(extent.end + 1), &waker),
            Err(SourceError::OutOfRange { .. })
        ));
        total += whole.len();
    }
    assert_eq!(total, 1_003);
    assert!(matches!(connector.extent(&id(4)), Err(SourceError::Fatal(_))));
}

#[test]
fn a_rate_lets_events_out_as_the_clock_goes() {
    let clock = Arc::new(HandClock(AtomicI64::new(START_MS - 1)));
    let spec = GeneratorSpec { rate: Some(1_000), partitions: 2, ..spec() };
    let connector = GeneratorConnector::with_clock("g", &spec, START_MS, clock.clone()).unwrap();
    let waker = Arc::new(Waker::default());
    let mut readers = [0, 1].map(|p| connector.open(&id(p), StartAt::Earliest, &waker).unwrap());
    let mut read = |at_ms: i64| {
        clock.0.store(START_MS + at_ms, Ordering::Relaxed);
        [0, 1].map(|p| (readers[p].fetch(10_000).unwrap(), connector.extent(&id(p as i32)).unwrap().end))
    };
    assert_eq!(read(-1), [(0, 0), (0, 0)]);
    assert_eq!(read(0), [(1, 1), (0, 0)]);
    assert_eq!(read(1), [(0, 1), (1, 1)]);
    assert_eq!(read(999), [(499, 500), (499, 500)]);
    assert_eq!(read(999), [(0, 500), (0, 500)]);
    // a restart long after finds all that has come meanwhile, where it was
    let restarted = GeneratorConnector::with_clock("g", &spec, START_MS, clock.clone()).unwrap();
    let mut reader = restarted.open(&id(0), StartAt::Offset(500), &waker).unwrap();
    clock.0.store(START_MS + 60_000, Ordering::Relaxed);
    let events = read_all(&mut *reader, 1_000);
    assert_eq!(events.len(), 30_001 - 500);
    assert_eq!(events[0].2, Some(START_MS + 1_000));
}

#[test]
fn readers_are_woken_while_time_goes_on() {
    let spec = GeneratorSpec { rate: Some(1), ..spec() };
    let connector = GeneratorConnector::new("g", &spec, START_MS).unwrap();
    let waker = Arc::new(Waker::default());
    let reader = connector.open(&id(0), StartAt::Latest, &waker).unwrap();
    let before = Instant::now();
    for _ in 0..3 {
        waker.wait(Duration::from_secs(20));
    }
    assert!(before.elapsed() < Duration::from_secs(20));
    drop(reader);
    drop(connector);
}

#[test]
fn a_file_holds_what_the_readers_read() {
    let spec = GeneratorSpec { count: Some(10), ..spec() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    assert_eq!(write_jsonl(&path, &spec, START_MS), Ok(10));
    let events = AdEvents::new(&spec, START_MS).unwrap();
    let lines: Vec<String> = std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[9], text(&events, 1, 2));
    assert!(write_jsonl(&path, &GeneratorSpec { count: None, ..spec }, START_MS).is_err());
}

#[test]
fn zipf_ranks_have_their_weights() {
    let zipf = zipf::Zipf::new(10).unwrap();
    let mut counts = [0u32; 10];
    // every column of the table and an even grid of coins: the exact shares
    let grid = 1u64 << 10;
    for column in 0..grid * 10 {
        let high = (column << 32) / (grid * 10);
        for coin in 0..64 {
            counts[zipf.rank(high << 32 | coin << 26 | 1 << 25) as usize] += 1;
        }
    }
    let harmonic: f64 = (1..=10).map(|k| 1.0 / f64::from(k)).sum();
    let total: u32 = counts.iter().sum();
    for (rank, count) in (1u32..).zip(counts) {
        let (share, expected) = (f64::from(count) / f64::from(total), 1.0 / (f64::from(rank) * harmonic));
        assert!((share - expected).abs() < 0.004, "rank {rank}: {share} for {expected}");
    }
    assert!(zipf::Zipf::new(0).is_none());
    assert_eq!(zipf::Zipf::new(1).unwrap().rank(u64::MAX), 0);
}

#[test]
fn duplicates_repeat_an_event_of_a_moment_ago() {
    let spec = GeneratorSpec { repeats_per_million: 50_000, partitions: 3, count: Some(30_000), ..spec() };
    let events = AdEvents::new(&spec, START_MS).unwrap();
    let (mut first, mut repeated) = (std::collections::HashMap::new(), 0);
    for number in 0..30_000_u64 {
        let mut text = Vec::new();
        events.json((number % 3) as u32, (number / 3) as i64, &mut text);
        if let Some(before) = first.get(&text) {
            repeated += 1;
            assert!(number - before <= 4 * super::events::REPEATED_AFTER_MAX, "{before} comes again as {number}");
        } else {
            first.insert(text, number);
        }
    }
    assert!((1_300..1_700).contains(&repeated), "{repeated} of 30,000 are repeated, should be 5 %");
}
