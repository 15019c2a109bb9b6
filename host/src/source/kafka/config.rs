//! The client's settings: ours, then the user's on top, except for those that our guarantees rest on.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::source::SourceError;
use crate::spec::model::KafkaSpec;

/// Messages of one partition that wait in the client before it stops fetching more (plus what a fetch under way brings).
const QUEUED_MESSAGES_MIN: &str = "20000";

/// The same in bytes of messages, KiB per partition: the queues are not joined, so the limit holds for each.
const QUEUED_KIB_MAX: &str = "16384";

/// How soon fetching goes on after a queue was full (librdkafka's own second would leave fast readers idle).
const QUEUE_FULL_BACKOFF_MS: &str = "5";

/// Longest pause between attempts to connect to a broker that is down.
const RECONNECT_BACKOFF_MAX_MS: &str = "2000";

/// No group is ever joined; but positions that the group's coordinator does not take are given up after it, and closing
/// waits for them (45 s by default).
const SESSION_TIMEOUT_MS: &str = "6000";

/// The part of the client's log that tells of topic ids.
const TOPIC_IDS_LOGGED: &str = "metadata";

/// Settings with which positions would be another's business, each with what to use instead.
const PROTECTED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set `brokers`"),
    ("metadata.broker.list", "set `brokers`"),
    ("group.id", "set `group_id`"),
    ("enable.auto.commit", "positions belong to checkpoints; they are published to the group after each"),
    ("auto.commit.interval.ms", "positions belong to checkpoints; they are published to the group after each"),
    ("enable.auto.offset.store", "positions belong to checkpoints"),
    ("enable.partition.eof", "the end of a partition is found out by it"),
    ("auto.offset.reset", "set `start`; a position that is gone is never replaced silently"),
    ("offset.store.method", "positions belong to checkpoints"),
    ("group.protocol", "partitions are assigned by Millrace, not by the group"),
];

pub(super) fn client_config(source: &str, spec: &KafkaSpec) -> Result<ClientConfig, SourceError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &spec.brokers)
        .set("group.id", &spec.group_id)
        .set("client.id", "millrace")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        .set("queued.min.messages", QUEUED_MESSAGES_MIN)
        .set("queued.max.messages.kbytes", QUEUED_KIB_MAX)
        .set("fetch.queue.backoff.ms", QUEUE_FULL_BACKOFF_MS)
        .set("reconnect.backoff.max.ms", RECONNECT_BACKOFF_MAX_MS)
        .set("session.timeout.ms", SESSION_TIMEOUT_MS)
        .set_log_level(RDKafkaLogLevel::Debug)
        // a few lines now and then; one of them tells that a topic was made anew (see `changed_id`)
        .set("debug", TOPIC_IDS_LOGGED);
    for (name, value) in &spec.properties {
        if let Some((_, instead)) = PROTECTED.iter().find(|(protected, _)| protected == name) {
            return Err(SourceError::Fatal(format!(
                "the property \"{name}\" in [sources.{source}.properties] is Millrace's own; hint: {instead}"
            )));
        }
        if name == "debug" {
            config.set(name, format!("{TOPIC_IDS_LOGGED},{value}"));
        } else {
            config.set(name, value);
        }
    }
    Ok(config)
}

/// The client's complaint about its settings, with the name in question.
pub(super) fn describe(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, what, name, value) if value.is_empty() => format!("{what} (\"{name}\")"),
        KafkaError::ClientConfig(_, what, name, value) => format!("{what} (\"{name}\" = \"{value}\")"),
        KafkaError::ClientCreation(what) => what.clone(),
        other => other.to_string(),
    }
}
