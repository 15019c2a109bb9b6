//! Against librdkafka's mock cluster: what the client does, not what a broker does (that is for the end-to-end tests).

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::*;
use crate::source::RawMessage;
use crate::source::generator::produce_to_kafka;
use crate::spec::model::{GeneratorSpec, Start, TopicSpec};

const LONG: Duration = Duration::from_secs(20);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(topic: &str, partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    cluster
}

fn spec(brokers: &str, topics: TopicSpec) -> KafkaSpec {
    KafkaSpec {
        brokers: brokers.to_owned(),
        topics,
        group_id: "g".to_owned(),
        start: Start::Earliest,
        properties: BTreeMap::new(),
    }
}

fn connector(cluster: &Cluster, topic: &str) -> KafkaConnector {
    reading(cluster, TopicSpec::Names(vec![topic.to_owned()])).unwrap()
}

fn reading(cluster: &Cluster, topics: TopicSpec) -> Result<KafkaConnector, SourceError> {
    let connector = KafkaConnector::new("s", &spec(&cluster.bootstrap_servers(), topics))?;
    // the mock cluster never answers that question
    connector.topic_ids_supported.store(false, Ordering::Relaxed);
    Ok(connector)
}

fn producer(cluster: &Cluster) -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap()
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, values: std::ops::Range<i32>) {
    for value in values {
        let payload = format!("v{value}");
        let record: BaseRecord<'_, str, str> = BaseRecord::to(topic)
            .partition(partition)
            .payload(payload.as_str())
            .key("k")
            .timestamp(1_000 + i64::from(value));
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(LONG).unwrap();
}

fn id(topic: &str, partition: i32) -> PartitionId {
    PartitionId { topic: topic.into(), partition }
}

/// Reads until the position reaches `end`; what was read, as (offset, payload).
fn read_until(reader: &mut dyn PartitionReader, waker: &Waker, end: i64, max: usize) -> Vec<(i64, String)> {
    let started = Instant::now();
    let mut all = Vec::new();
    while reader.position() < end {
        assert!(started.elapsed() < LONG, "at {} of {end}", reader.position());
        if reader.fetch(max).unwrap() == 0 {
            waker.wait(Duration::from_secs(5));
        }
        let mut messages = Vec::new();
        reader.messages(&mut messages);
        assert!(messages.len() <= max);
        all.extend(messages.iter().map(|m| (m.offset, String::from_utf8(m.payload.unwrap().to_vec()).unwrap())));
    }
    all
}

fn expected(offsets: std::ops::Range<i64>) -> Vec<(i64, String)> {
    offsets.map(|o| (o, format!("v{o}"))).collect()
}

#[test]
fn partitions_are_found_read_and_read_again_from_any_offset() {
    let cluster = cluster("t", 2);
    let connector = connector(&cluster, "t");
    let producer = producer(&cluster);
    send(&producer, "t", 0, 0..500);
    let found: Vec<PartitionId> = connector.discover().unwrap().into_iter().map(|p| p.id).collect();
    assert_eq!(found, [id("t", 0), id("t", 1)]);
    assert_eq!(connector.extent(&id("t", 0)).unwrap(), Extent { begin: 0, end: 500 });
    assert_eq!(connector.extent(&id("t", 1)).unwrap(), Extent { begin: 0, end: 0 });

    let waker = Arc::new(Waker::default());
    let mut reader = connector.open(&id("t", 0), StartAt::Earliest, &waker).unwrap();
    let mut other = connector.open(&id("t", 1), StartAt::Earliest, &waker).unwrap();
    assert_eq!(read_until(&mut *reader, &waker, 500, 64), expected(0..500));
    assert_eq!(other.fetch(10).unwrap(), 0);
    drop(reader);

    // the same partition again, from the middle, then from the end
    let mut reader = connector.open(&id("t", 0), StartAt::Offset(321), &waker).unwrap();
    assert_eq!(reader.position(), 321);
    assert_eq!(read_until(&mut *reader, &waker, 500, 1_000), expected(321..500));
    let mut messages: Vec<RawMessage<'_>> = Vec::new();
    reader.messages(&mut messages);
    let last = messages.last().unwrap();
    assert_eq!((last.key, last.timestamp_ms), (Some(&b"k"[..]), Some(1_499)));
    drop(messages);
    drop(reader);
    let reader = connector.open(&id("t", 0), StartAt::Latest, &waker).unwrap();
    assert_eq!(reader.position(), 500);
    connector.publish_positions(&[(id("t", 0), 500), (id("t", 1), 0)]);
    connector.check().unwrap();
}

#[test]
fn an_empty_reader_is_woken_by_what_arrives() {
    let cluster = cluster("t", 1);
    let connector = connector(&cluster, "t");
    let waker = Arc::new(Waker::default());
    let mut reader = connector.open(&id("t", 0), StartAt::Latest, &waker).unwrap();
    // past the word that the end is reached
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(700) {
        waker.wait(Duration::from_millis(100));
        assert_eq!(reader.fetch(10).unwrap(), 0);
    }
    let producer = producer(&cluster);
    let sender = std::thread::spawn(move || send(&producer, "t", 0, 0..1));
    let started = Instant::now();
    let mut read = 0;
    while read == 0 && started.elapsed() < LONG {
        waker.wait(LONG);
        read = reader.fetch(10).unwrap();
    }
    assert!(started.elapsed() < LONG, "nobody woke the reader");
    assert_eq!((read, reader.position()), (1, 1));
    sender.join().unwrap();
}

#[test]
fn positions_out_of_range_are_refused_before_and_while_reading() {
    let cluster = cluster("t", 1);
    let connector = connector(&cluster, "t");
    send(&producer(&cluster), "t", 0, 0..10);
    let waker = Arc::new(Waker::default());
    let is_out = |error: SourceError| {
        assert!(matches!(error, SourceError::OutOfRange { position: 99, begin: 0, end: 10, .. }), "{error}");
        assert_eq!(error.to_string(), "source `s`: offset 99 of t/0 is out of range: the broker has [0, 10)");
    };
    is_out(connector.open(&id("t", 0), StartAt::Offset(99), &waker).err().unwrap());
    let (source, consumer) = (connector.source.clone(), connector.consumer.clone());
    let mut reader = reader::KafkaReader::open(source, consumer, id("t", 0), 99, waker.clone()).unwrap();
    let started = Instant::now();
    let error = loop {
        assert!(started.elapsed() < LONG, "the broker did not complain");
        match reader.fetch(10) {
            Ok(0) => waker.wait(Duration::from_secs(1)),
            Ok(_) => panic!("there is no message"),
            Err(error) => break error,
        }
    };
    is_out(error);
}

#[test]
fn a_missing_topic_is_waited_for_a_little_then_fatal() {
    let cluster = cluster("t", 1);
    let connector = connector(&cluster, "nowhere");
    let Err(SourceError::Transient(line)) = connector.discover() else { panic!() };
    assert!(line.starts_with("there is no topic `nowhere` on 127.0.0.1:"), "{line}");
    assert!(line.ends_with("; hint: create it, or correct `topic` in [sources.s]"), "{line}");
    let long_ago = Instant::now().checked_sub(Duration::from_millis(MISSING_TOPIC_GRACE_MS + 1));
    *connector.topic_missing_since.lock().unwrap() = long_ago;
    assert!(matches!(connector.discover(), Err(SourceError::Fatal(_))));
}

#[test]
fn a_pattern_finds_topics() {
    let cluster = cluster("ads-a", 1);
    cluster.create_topic("ads-b", 2, 1).unwrap();
    cluster.create_topic("other-ads-c", 1, 1).unwrap();
    let find = |pattern: &str| reading(&cluster, TopicSpec::Pattern(pattern.to_owned())).and_then(|c| c.discover());
    let found: Vec<PartitionId> = find("^ads-.*").unwrap().into_iter().map(|p| p.id).collect();
    assert_eq!(found, [id("ads-a", 0), id("ads-b", 0), id("ads-b", 1)]);
    assert!(find("^nothing").unwrap_err().to_string().contains("no topic matches `^nothing`"));
    assert!(find("^(").unwrap_err().to_string().contains("`topic_pattern` is no regular expression"));
}

#[test]
fn no_broker_is_one_line_with_a_hint_and_closing_does_not_hang() {
    let spec = spec("127.0.0.1:1", TopicSpec::Names(vec!["t".to_owned()]));
    let connector = KafkaConnector::new("s", &spec).unwrap();
    let Err(SourceError::Transient(line)) = connector.discover() else { panic!() };
    assert!(!line.contains('\n'), "{line}");
    assert!(line.contains("Connection refused") && line.contains("is Kafka reachable at 127.0.0.1:1?"), "{line}");
    let closing = Instant::now();
    drop(connector);
    assert!(closing.elapsed() < Duration::from_secs(5), "{:?}", closing.elapsed());
}

#[test]
fn our_own_properties_are_refused_and_unknown_ones_named() {
    let with = |name: &str, value: &str| {
        let mut spec = spec("127.0.0.1:1", TopicSpec::Names(vec!["t".to_owned()]));
        spec.properties.insert(name.to_owned(), value.to_owned());
        match KafkaConnector::new("s", &spec) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(
        with("auto.offset.reset", "latest"),
        "the property \"auto.offset.reset\" in [sources.s.properties] is Millrace's own; hint: set `start`; a \
         position that is gone is never replaced silently"
    );
    assert!(with("fetch.min.byte", "1").contains("\"fetch.min.byte\""), "{}", with("fetch.min.byte", "1"));
    assert!(with("fetch.min.bytes", "x").contains("fetch.min.bytes"), "{}", with("fetch.min.bytes", "x"));
    assert_eq!(with("fetch.min.bytes", "65536"), "");
}

#[test]
fn generated_events_arrive_partition_by_partition() {
    let cluster = cluster("t", 2);
    let spec = GeneratorSpec {
        seed: 1,
        partitions: 2,
        rate: None,
        count: Some(101),
        campaigns: 10,
        users: 10,
        disorder_ms: 10,
        repeats_per_million: 0,
        start_ms: None,
    };
    // the mock cluster does not know idempotent producers well enough
    let properties = BTreeMap::from([("enable.idempotence".to_owned(), "false".to_owned())]);
    let brokers = cluster.bootstrap_servers();
    let mut told = Vec::new();
    let mut progress = |sent| {
        told.push(sent);
        true
    };
    assert_eq!(produce_to_kafka(&brokers, "t", &spec, 5_000, &properties, &mut progress).unwrap(), 101);
    assert_eq!(told, [0, 101]);
    let events = crate::source::generator::AdEvents::new(&spec, 5_000).unwrap();
    let connector = connector(&cluster, "t");
    let waker = Arc::new(Waker::default());
    for partition in 0..2u32 {
        let end = events.count(partition).unwrap();
        let id = id("t", i32::try_from(partition).unwrap());
        let mut reader = connector.open(&id, StartAt::Earliest, &waker).unwrap();
        let text = |offset| {
            let mut text = Vec::new();
            events.json(partition, offset, &mut text);
            (offset, String::from_utf8(text).unwrap())
        };
        assert_eq!(read_until(&mut *reader, &waker, end, 1_000), (0..end).map(text).collect::<Vec<_>>());
    }
    let few = GeneratorSpec { partitions: 3, ..spec };
    let error = produce_to_kafka(&brokers, "t", &few, 0, &properties, &mut |_| true).unwrap_err().to_string();
    assert!(error.contains("is there with 2 partitions, not 3"), "{error}");
}
