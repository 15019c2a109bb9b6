//! `[sources.NAME]`: where messages come from, and how they become rows with an event time.

use std::ops::RangeInclusive;

use super::{Known, errors, properties, reference};
use crate::spec::cursor::{Cursor, Word};
use crate::spec::diagnostic::Diagnostic;
use crate::spec::model::{
    ConnectorSpec, EventTimeSpec, Format, GeneratorSpec, KafkaSpec, MetadataSpec, SourceSchema, SourceSpec, Start,
    TimeSpec, TimeUnit, TopicSpec, WatermarkSpec, WhenIdle,
};
use crate::spec::suggest;
use millrace_core::schema::{DataType, Field, Schema};

const DAY_MS: u64 = 86_400_000;
const OUT_OF_ORDERNESS_MS: u64 = 5_000;
const IDLE_TIMEOUT_MS: u64 = 30_000;
const MAX_FUTURE_MS: u64 = DAY_MS;
/// Disorder beyond a month is not disorder.
const OUT_OF_ORDERNESS_RANGE_MS: RangeInclusive<u64> = 0..=31 * DAY_MS;
const IDLE_TIMEOUT_RANGE_MS: RangeInclusive<u64> = 100..=31 * DAY_MS;
const MAX_DRIFT_RANGE_MS: RangeInclusive<u64> = 1_000..=365 * DAY_MS;
const MAX_FUTURE_RANGE_MS: RangeInclusive<u64> = 1_000..=36_500 * DAY_MS;

const TOPIC_CHARS_MAX: usize = 249;

const GENERATOR_SEED: u64 = 42;
const GENERATOR_PARTITIONS: u32 = 4;
const GENERATOR_CAMPAIGNS: u32 = 1_000;
const GENERATOR_USERS: u32 = 1_000_000;
const GENERATOR_DISORDER_MS: u64 = 4_000;

#[derive(Clone, Copy)]
enum Kind {
    Kafka,
    Generator,
}

/// The columns that downstream sees, as far as they are known, and the source if all of it is right.
pub fn read(c: &Cursor<'_>, known: &Known<'_>) -> (Option<Schema>, Option<SourceSpec>) {
    let kinds = [
        ("kafka", Word::Now(Kind::Kafka)),
        ("generator", Word::Now(Kind::Generator)),
        ("file", Word::Later),
        ("iceberg", Word::Later),
    ];
    let Some(kind) = c.required("type", |c, key| c.choice(key, &kinds)) else {
        c.skip_rest();
        return (None, None);
    };
    let connector = match kind {
        Kind::Kafka => kafka(c, known).map(ConnectorSpec::Kafka),
        Kind::Generator => generator(c).map(ConnectorSpec::Generator),
    };
    let formats = [("json", Word::Now(Format::Json)), ("avro", Word::Later), ("protobuf", Word::Later)];
    let format = if c.has("format") { c.choice("format", &formats) } else { Some(Format::Json) };
    let schema =
        reference(c, "schema", "schema", known.schema_names).and_then(|name| known.schemas.get(&name).cloned());
    if known.head.time == TimeSpec::Processing {
        for key in ["event_time", "watermark"].into_iter().filter(|key| c.has(key)) {
            c.report(
                Diagnostic::error(c.key_span(key), format!("`{key}` means nothing with `time = \"processing\"`"))
                    .context(c.doc.spans.key(&["pipeline", "time"]), "events take place when they are read")
                    .hint("take it out, or write `time = \"event\"`"),
            );
        }
    }
    let event_time = event_time(c, schema.as_ref());
    let watermark = watermark(c);
    let (on_error, consecutive_limit) = errors(c, known.head);
    let (metadata, metadata_columns) = metadata(c);
    c.finish();

    let output = schema.as_ref().and_then(|schema| output(c, schema, &metadata_columns));
    let spec = (|| {
        Some(SourceSpec {
            connector: connector?,
            schema: schema?,
            format: format?,
            event_time: event_time?,
            watermark,
            on_error,
            consecutive_limit,
            output: output.clone()?,
            metadata,
        })
    })();
    (output, spec)
}

fn kafka(c: &Cursor<'_>, known: &Known<'_>) -> Option<KafkaSpec> {
    let brokers = c.required("brokers", Cursor::string);
    let given: Vec<&str> = ["topic", "topics", "topic_pattern"].into_iter().filter(|key| c.has(key)).collect();
    let one = c.string("topic");
    let many = c.strings("topics");
    let pattern = c.string("topic_pattern");
    for (index, topic) in many.iter().flatten().enumerate() {
        check_topic(c, &["topics", &index.to_string()], topic);
    }
    if let Some(topic) = &one {
        check_topic(c, &["topic"], topic);
    }
    match given.as_slice() {
        [] => c.report(
            Diagnostic::error(c.own_span(), format!("{} lacks `topic`", c.what()))
                .hint("write `topic = \"…\"`, `topics = [\"…\"]` or `topic_pattern = \"^…\"`"),
        ),
        [_] => {}
        [first, second, ..] => c.report(
            Diagnostic::error(c.key_span(second), format!("`{first}` and `{second}` exclude each other"))
                .context(c.key_span(first), "this one is given, too")
                .hint("keep one of `topic`, `topics` and `topic_pattern`"),
        ),
    }
    if many.as_ref().is_some_and(Vec::is_empty) {
        c.wrong(&["topics"], format!("{} reads no topic", c.what()), "name one: `topics = [\"…\"]`");
    }
    if pattern.as_ref().is_some_and(|pattern| !pattern.starts_with('^')) {
        c.wrong(&["topic_pattern"], "a topic pattern begins with `^`", "for example `topic_pattern = \"^ads-.*\"`");
    }
    let topics = one
        .map(|topic| TopicSpec::Names(vec![topic]))
        .or(many.map(TopicSpec::Names))
        .or(pattern.map(TopicSpec::Pattern));
    let group_id = c
        .string("group_id")
        .unwrap_or_else(|| format!("millrace-{}", known.head.name.as_deref().unwrap_or("pipeline")));
    let start = match c.instant_or_word("start", &["earliest", "latest"]) {
        Some(Ok(ms)) => Start::TimestampMs(ms),
        Some(Err(word)) if word == "latest" => Start::Latest,
        _ => Start::Earliest,
    };
    let properties = properties::kafka(c);
    Some(KafkaSpec { brokers: brokers?, topics: topics?, group_id, start, properties })
}

/// Kafka's own rule for the names of topics.
pub fn check_topic(c: &Cursor<'_>, keys: &[&str], topic: &str) {
    let right = topic.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        && topic.len() <= TOPIC_CHARS_MAX
        && !matches!(topic, "." | "..");
    if !right {
        c.wrong(
            keys,
            format!("`{topic}` cannot be a topic's name"),
            format!("names of topics are made of A-Z, a-z, 0-9, `_`, `-` and `.`, {TOPIC_CHARS_MAX} at most"),
        );
    }
}

fn generator(c: &Cursor<'_>) -> Option<GeneratorSpec> {
    let rate =
        if c.is_word("rate", "unlimited") { c.string("rate").and(None) } else { c.integer("rate", 1..=1_000_000_000) };
    let start_ms = match c.instant_or_word("start", &["now"]) {
        Some(Ok(ms)) => Some(ms),
        _ => None,
    };
    Some(GeneratorSpec {
        seed: c.integer("seed", 0..=i64::MAX).unwrap_or(GENERATOR_SEED),
        partitions: c.integer("partitions", 1..=1_024).unwrap_or(GENERATOR_PARTITIONS),
        rate,
        count: c.integer("count", 0..=i64::MAX),
        campaigns: c.integer("campaigns", 1..=10_000_000).unwrap_or(GENERATOR_CAMPAIGNS),
        users: c.integer("users", 1..=1_000_000_000).unwrap_or(GENERATOR_USERS),
        disorder_ms: c.duration_ms("disorder", 0..=DAY_MS).unwrap_or(GENERATOR_DISORDER_MS),
        repeats_per_million: c.share_per_million("duplicates").unwrap_or(0),
        start_ms,
    })
}

pub(crate) fn event_time(c: &Cursor<'_>, schema: Option<&SourceSchema>) -> Option<EventTimeSpec> {
    if !c.has("event_time") {
        return Some(EventTimeSpec::RecordTimestamp);
    }
    let (name, unit, keys): (_, _, &[&str]) = if c.is_table("event_time") {
        let table = c.table("event_time", format!("`event_time` of {}", c.what()))?;
        let name = table.required("column", Cursor::string);
        let units = [
            ("ms", Word::Now(TimeUnit::Millis)),
            ("s", Word::Now(TimeUnit::Seconds)),
            ("us", Word::Now(TimeUnit::Micros)),
            ("ns", Word::Now(TimeUnit::Nanos)),
        ];
        let unit = table.choice("unit", &units);
        table.finish();
        (name?, unit, &["event_time", "column"])
    } else {
        (c.string("event_time")?, None, &["event_time"])
    };
    // a schema that is missing or wrong has been reported
    let Some(schema) = schema else {
        return Some(EventTimeSpec::Column { name, unit: unit.unwrap_or(TimeUnit::Millis) });
    };
    let Some(field) = schema.schema.field(&name) else {
        let columns = schema.schema.fields.iter().map(|field| field.name.as_str());
        c.report(
            Diagnostic::error(c.value_span(keys), format!("{} has no column `{name}`", c.what()))
                .hint_if_any(suggest::did_you_mean(&name, columns)),
        );
        return None;
    };
    match field.data_type {
        DataType::Long | DataType::Timestamp | DataType::Timestamptz => {}
        DataType::String if unit.is_some() => {
            c.wrong(
                &["event_time", "unit"],
                format!("`{name}` is a string, and strings have no unit: they are RFC 3339"),
                "take `unit` out, or declare the column as `long` or `timestamptz`",
            );
            return None;
        }
        DataType::String => {}
        other => {
            c.wrong(
                keys,
                format!("`{name}` is of type `{other}` and cannot be the event time"),
                "it must be `timestamptz`, `timestamp`, `long` (epoch milliseconds) or `string` (RFC 3339)",
            );
            return None;
        }
    }
    Some(EventTimeSpec::Column { name, unit: unit.unwrap_or(TimeUnit::Millis) })
}

fn watermark(c: &Cursor<'_>) -> WatermarkSpec {
    let mut spec = WatermarkSpec {
        out_of_orderness_ms: OUT_OF_ORDERNESS_MS,
        idle_timeout_ms: Some(IDLE_TIMEOUT_MS),
        max_drift_ms: None,
        max_future_ms: Some(MAX_FUTURE_MS),
        when_idle: WhenIdle::Hold,
    };
    let Some(table) = c.table("watermark", format!("`watermark` of {}", c.what())) else { return spec };
    if let Some(ms) = table.duration_ms("out_of_orderness", OUT_OF_ORDERNESS_RANGE_MS) {
        spec.out_of_orderness_ms = ms;
    }
    spec.idle_timeout_ms = table.duration_ms("idle_timeout", IDLE_TIMEOUT_RANGE_MS).or(spec.idle_timeout_ms);
    spec.max_drift_ms = table.duration_ms("max_drift", MAX_DRIFT_RANGE_MS);
    spec.max_future_ms = table.duration_ms("max_future", MAX_FUTURE_RANGE_MS).or(spec.max_future_ms);
    let words = [("hold", Word::Now(WhenIdle::Hold)), ("advance", Word::Now(WhenIdle::Advance))];
    spec.when_idle = table.choice("when_idle", &words).unwrap_or(spec.when_idle);
    table.finish();
    spec
}

/// The columns asked for, in the order in which they follow those of the schema, each with its key.
fn metadata(c: &Cursor<'_>) -> (MetadataSpec, Vec<(&'static str, Field)>) {
    let Some(table) = c.table("metadata", format!("`metadata` of {}", c.what())) else { return Default::default() };
    let spec = MetadataSpec {
        topic: table.string("topic"),
        partition: table.string("partition"),
        offset: table.string("offset"),
        timestamp: table.string("timestamp"),
        key: table.string("key"),
    };
    table.later(&["headers"]);
    table.finish();
    let columns = [
        ("topic", &spec.topic, DataType::String, false),
        ("partition", &spec.partition, DataType::Int, false),
        ("offset", &spec.offset, DataType::Long, false),
        ("timestamp", &spec.timestamp, DataType::Timestamptz, false),
        ("key", &spec.key, DataType::Binary, true),
    ];
    let columns = columns
        .into_iter()
        .filter_map(|(key, name, data_type, nullable)| Some((key, Field::new(name.as_deref()?, data_type, nullable))))
        .collect();
    (spec, columns)
}

/// The schema's columns, then those of the metadata.
fn output(c: &Cursor<'_>, schema: &SourceSchema, metadata: &[(&'static str, Field)]) -> Option<Schema> {
    let mut output = schema.schema.clone();
    let mut unique = true;
    for (key, field) in metadata {
        if output.field(&field.name).is_some() {
            unique = false;
            c.wrong(
                &["metadata", key],
                format!("{} has two columns named `{}`", c.what(), field.name),
                format!("choose another name: `{key} = \"kafka_{key}\"`"),
            );
        }
        output.fields.push(field.clone());
    }
    unique.then_some(output)
}
