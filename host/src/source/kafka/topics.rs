//! Which partitions there are, and which topic they belong to by id.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaRespErr as Resp;

use super::client::Context;
use crate::source::{PartitionId, SourceError};
use crate::spec::model::TopicSpec;

pub(super) type TopicIds = BTreeMap<String, String>;

/// Which topics are read.
pub(super) enum Topics {
    Names(Vec<String>),
    Pattern(regex::Regex),
}

/// Why the partitions are not known.
pub(super) enum Trouble {
    Missing(String),
    /// what was being done, and the error
    Broker(String, KafkaError),
}

impl Topics {
    pub(super) fn new(spec: &TopicSpec) -> Result<Self, SourceError> {
        match spec {
            TopicSpec::Names(names) => Ok(Self::Names(names.clone())),
            TopicSpec::Pattern(pattern) => regex::Regex::new(pattern).map(Self::Pattern).map_err(|error| {
                SourceError::Fatal(format!(
                    "`topic_pattern` is no regular expression: {error}; hint: it begins with ^, as in \"^ads-.*\""
                ))
            }),
        }
    }

    /// The one topic to ask for; none: all.
    pub(super) fn only_name(&self) -> Option<&str> {
        match self {
            Self::Names(names) => match names.as_slice() {
                [name] => Some(name),
                _ => None,
            },
            Self::Pattern(_) => None,
        }
    }

    pub(super) fn partitions(&self, metadata: &Metadata) -> Result<Vec<PartitionId>, Trouble> {
        let mut found = Vec::new();
        for topic in metadata.topics() {
            let wanted = match self {
                Self::Names(names) => names.iter().any(|name| name == topic.name()),
                // Kafka's own topics begin with two underscores
                Self::Pattern(pattern) => !topic.name().starts_with("__") && pattern.is_match(topic.name()),
            };
            if !wanted {
                continue;
            }
            match topic.error() {
                None => {}
                Some(Resp::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | Resp::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC) => {
                    continue;
                }
                Some(error) => {
                    let doing = format!("asking for topic `{}`", topic.name());
                    return Err(Trouble::Broker(doing, KafkaError::MetadataFetch(error.into())));
                }
            }
            let name: Arc<str> = topic.name().into();
            found.extend(topic.partitions().iter().map(|p| PartitionId { topic: name.clone(), partition: p.id() }));
        }
        found.sort();
        match self {
            Self::Names(names) => {
                let missing = names.iter().find(|name| !found.iter().any(|id| *id.topic == ***name));
                missing.map_or(Ok(found), |name| Err(Trouble::Missing(format!("there is no topic `{name}`"))))
            }
            Self::Pattern(pattern) if found.is_empty() => {
                Err(Trouble::Missing(format!("no topic matches `{}`", pattern.as_str())))
            }
            Self::Pattern(_) => Ok(found),
        }
    }
}

/// Asks for the ids of the partitions' topics (`DescribeTopics`, brokers from 2.8). `None`: this broker has none.
/// No answer is an error: without an id a topic made anew would pass for the old one.
pub(super) fn topic_ids(
    consumer: &BaseConsumer<Context>,
    partitions: &[PartitionId],
    timeout: Duration,
) -> Result<Option<TopicIds>, KafkaError> {
    let mut names: Vec<&str> = partitions.iter().map(|id| &*id.topic).collect();
    names.dedup();
    let names: Vec<CString> = names.into_iter().filter_map(|name| CString::new(name).ok()).collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let client = consumer.client().native_ptr();
    // SAFETY: `client` lives as long as `consumer`; `pointers` are as many NUL-terminated strings as is said, and are
    // copied by the call. Each object made here is destroyed here, the queue last but for the event read from it.
    let event = unsafe {
        let queue = rd::rd_kafka_queue_new(client);
        let options = rd::rd_kafka_AdminOptions_new(client, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, std::ptr::null_mut(), 0);
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        rd::rd_kafka_DescribeTopics(client, topics, options, queue);
        rd::rd_kafka_TopicCollection_destroy(topics);
        rd::rd_kafka_AdminOptions_destroy(options);
        let event = rd::rd_kafka_queue_poll(queue, timeout_ms);
        rd::rd_kafka_queue_destroy(queue);
        event
    };
    if event.is_null() {
        return Err(KafkaError::MetadataFetch(Code::OperationTimedOut));
    }
    // SAFETY: `event` is not null; whatever is read from it is copied before it is destroyed.
    unsafe {
        let read = read_topic_ids(event);
        rd::rd_kafka_event_destroy(event);
        read
    }
}

/// # Safety
/// `event` must be a live event.
unsafe fn read_topic_ids(event: *mut rd::rd_kafka_event_t) -> Result<Option<TopicIds>, KafkaError> {
    let mut ids = TopicIds::new();
    let failed = |error: Resp| KafkaError::MetadataFetch(error.into());
    // SAFETY: the accessors give pointers into the event, which the caller keeps alive; `count` says how many topics
    // the array has.
    unsafe {
        match rd::rd_kafka_event_error(event) {
            Resp::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            Resp::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE | Resp::RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION => {
                return Ok(None);
            }
            error => return Err(failed(error)),
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(failed(Resp::RD_KAFKA_RESP_ERR__BAD_MSG));
        }
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for index in 0..count {
            let topic = *topics.add(index);
            let error = rd::rd_kafka_TopicDescription_error(topic);
            let code = if error.is_null() { Resp::RD_KAFKA_RESP_ERR_NO_ERROR } else { rd::rd_kafka_error_code(error) };
            if code != Resp::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(failed(code));
            }
            let id = rd::rd_kafka_TopicDescription_topic_id(topic);
            if id.is_null()
                || (rd::rd_kafka_Uuid_most_significant_bits(id), rd::rd_kafka_Uuid_least_significant_bits(id)) == (0, 0)
            {
                continue;
            }
            let id = text(rd::rd_kafka_Uuid_base64str(id));
            ids.insert(text(rd::rd_kafka_TopicDescription_name(topic)), id);
        }
    }
    Ok(Some(ids))
}

/// # Safety
/// `pointer` must be null or a NUL-terminated string.
unsafe fn text(pointer: *const std::ffi::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
