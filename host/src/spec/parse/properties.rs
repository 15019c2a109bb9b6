//! Property tables handed to others as they are: here only what is known to be wrong is refused.

use std::collections::BTreeMap;

use crate::spec::cursor::Cursor;

/// librdkafka properties that Millrace sets itself, and what to write instead.
const KAFKA_OWNED: [(&str, &str); 8] = [
    ("bootstrap.servers", "write `brokers = \"host:port\"`"),
    ("metadata.broker.list", "write `brokers = \"host:port\"`"),
    ("group.id", "write `group_id = \"…\"`"),
    ("auto.offset.reset", "write `start = \"earliest\"`"),
    ("enable.auto.commit", "positions are kept in checkpoints, and published to the group for information only"),
    ("enable.auto.offset.store", "positions are kept in checkpoints"),
    ("enable.partition.eof", "`--until-end` finds the ends by itself"),
    ("transactional.id", "exactly-once Kafka sinks are not supported yet"),
];

pub fn kafka(c: &Cursor<'_>) -> BTreeMap<String, String> {
    let properties = c.string_map("properties");
    for name in properties.keys() {
        if let Some((_, hint)) = KAFKA_OWNED.iter().find(|(owned, _)| owned == name) {
            c.wrong(&["properties", name], format!("`{name}` is set by Millrace"), *hint);
        }
    }
    properties
}

/// Values that a table property may have.
enum Values {
    Integer,
    Boolean,
    Words(&'static [&'static str]),
}

const ICEBERG: [(&str, Values); 14] = [
    ("write.parquet.row-group-size-bytes", Values::Integer),
    ("write.parquet.page-size-bytes", Values::Integer),
    ("write.parquet.page-row-limit", Values::Integer),
    ("write.parquet.dict-size-bytes", Values::Integer),
    ("write.parquet.compression-level", Values::Integer),
    ("write.parquet.compression-codec", Values::Words(&["zstd", "snappy", "lz4", "uncompressed"])),
    ("write.parquet.bloom-filter-max-bytes", Values::Integer),
    ("write.target-file-size-bytes", Values::Integer),
    ("write.metadata.delete-after-commit.enabled", Values::Boolean),
    ("write.metadata.previous-versions-max", Values::Integer),
    ("commit.retry.num-retries", Values::Integer),
    ("commit.retry.min-wait-ms", Values::Integer),
    ("commit.retry.max-wait-ms", Values::Integer),
    ("write.format.default", Values::Words(&["parquet"])),
];

pub fn iceberg(c: &Cursor<'_>) -> BTreeMap<String, String> {
    let properties = c.string_map("properties");
    for (name, value) in &properties {
        if name.starts_with("millrace.") {
            c.wrong(
                &["properties", name],
                format!("`{name}`: properties that begin with `millrace.` are the claims of pipelines"),
                "choose another name",
            );
        }
        let Some((_, values)) = ICEBERG.iter().find(|(known, _)| known == name) else { continue };
        let (right, wanted) = match values {
            Values::Integer => (value.parse::<u64>().is_ok(), "a whole number".to_owned()),
            Values::Boolean => (matches!(value.as_str(), "true" | "false"), "\"true\" or \"false\"".to_owned()),
            Values::Words(words) => (words.contains(&value.to_ascii_lowercase().as_str()), words.join(", ")),
        };
        if !right {
            c.wrong(&["properties", name], format!("`{value}` is no value for `{name}`"), format!("it takes {wanted}"));
        }
    }
    properties
}
