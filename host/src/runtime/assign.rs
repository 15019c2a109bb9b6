//! Which task reads which partition, and from where.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_core::checkpoint::Checkpoint;
use millrace_core::watermark::PartitionTime;

use super::message::{RunError, TaskId};
use super::monitor::{Known, Partitions};
use super::retry::retry;
use super::run::{RunOptions, SourceNode};
use super::source_task::{Assigned, PartitionProgress};
use crate::source::{Connector, PartitionId, StartAt};
use crate::spec::model::{ConnectorSpec, SourceSpec, Start};

/// The partitions of each task, and what is known of all of them.
pub fn assign(
    node: &SourceNode,
    checkpoint: &Checkpoint,
    options: &RunOptions,
    tasks: usize,
    bound_ms: i64,
    pause: &mut dyn FnMut(Duration) -> bool,
) -> Result<(Vec<Vec<Assigned>>, Partitions), RunError> {
    let id = TaskId { node: Arc::clone(&node.name), task: 0 };
    let found = retry(&id, || node.connector.discover(), pause)?;
    let reset = options.reset_offsets.get(&*node.name);
    let restored = checkpoint.sources.get(&*node.name);
    let mut assigned: Vec<Vec<Assigned>> = (0..tasks).map(|_| Vec::new()).collect();
    let mut known = BTreeMap::new();
    for (index, info) in found.into_iter().enumerate() {
        let before = restored
            .and_then(|s| s.partitions.iter().find(|p| p.topic == *info.id.topic && p.partition == info.id.partition));
        if let (Some(before), None) = (before, reset)
            && let (Some(then), Some(now)) = (&before.topic_id, &info.topic_id)
            && then != now
        {
            return Err(RunError::Spec(format!(
                "source `{}`: topic `{}` was deleted and made anew since the last checkpoint: its offsets mean something \
                 else now\nhint: `--reset-offsets {}=earliest` reads the new one from its beginning",
                node.name, info.id.topic, node.name
            )));
        }
        let restored_idle = reset.is_none() && before.is_some_and(|p| p.idle);
        let extent = if options.until_end || restored_idle {
            Some(retry(&id, || node.connector.extent(&info.id), pause)?)
        } else {
            None
        };
        let has_backlog = |position: i64| extent.is_some_and(|extent| position < extent.end);
        let (start, time) = match (before, reset) {
            (_, Some(start)) => (start_at(*start), PartitionTime::new(bound_ms)),
            // one that was idle is not if there is something to read by now
            (Some(p), None) => {
                let idle = p.idle && !has_backlog(p.position);
                (StartAt::Offset(p.position), PartitionTime::restored(bound_ms, p.watermark_ms, idle))
            }
            // a partition that came up while the pipeline was down is read from its beginning
            (None, None) if restored.is_some() => (StartAt::Earliest, PartitionTime::discovered(bound_ms)),
            (None, None) => (initial_start(&node.spec), PartitionTime::new(bound_ms)),
        };
        let until = extent.filter(|_| options.until_end).map(|extent| extent.end);
        let progress = Arc::<PartitionProgress>::default();
        if let Some(end) = until {
            progress.end.store(end, Relaxed);
        }
        let entry = Known { topic_id: info.topic_id.clone(), progress: Arc::clone(&progress) };
        known.insert(info.id.clone(), entry);
        if let Some(task) = assigned.get_mut(index % tasks) {
            task.push(Assigned { info, start, time, until, progress });
        }
    }
    Ok((assigned, Arc::new(Mutex::new(known))))
}

fn start_at(start: Start) -> StartAt {
    match start {
        Start::Earliest => StartAt::Earliest,
        Start::Latest => StartAt::Latest,
        Start::TimestampMs(ms) => StartAt::TimestampMs(ms),
    }
}

fn initial_start(spec: &SourceSpec) -> StartAt {
    match &spec.connector {
        ConnectorSpec::Kafka(kafka) => start_at(kafka.start),
        ConnectorSpec::Generator(_) => StartAt::Earliest,
    }
}

pub fn publish_positions(connectors: &[(Arc<str>, Arc<dyn Connector>)], checkpoint: &Checkpoint) {
    for (name, connector) in connectors {
        if let Some(state) = checkpoint.sources.get(&**name) {
            let positions: Vec<_> = state
                .partitions
                .iter()
                .map(|p| {
                    let id = PartitionId { topic: p.topic.as_str().into(), partition: p.partition };
                    (id, p.position)
                })
                .collect();
            connector.publish_positions(&positions);
        }
    }
}
