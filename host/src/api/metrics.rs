//! The numbers of a run as Prometheus reads them (text format 0.0.4).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use millrace_core::swap::{Phase, SwapRecord};

use super::model::{NodeStatus, PartitionState, PipelineStatus, PluginStatus};
use super::{Running, explain};

struct Text(String);

impl Text {
    /// A family of samples; one without samples is left out.
    fn family(&mut self, kind: &str, name: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let t = &mut self.0;
        // writing to a string cannot fail
        let _ = writeln!(t, "# HELP millrace_{name} {help}\n# TYPE millrace_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(t, "millrace_{name}{{{labels}}} {value}");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus knows nothing but doubles")]
fn float(n: i64) -> f64 {
    n as f64
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus knows nothing but doubles")]
fn count(n: u64) -> f64 {
    n as f64
}

fn seconds(ms: i64) -> f64 {
    float(ms) / 1_000.0
}

/// `pairs` as labels; names of nodes and topics hold nothing that needs escaping, other text might.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect::<Vec<_>>().join(",")
}

/// How many swaps have ended how, since the process began. The run remembers only the last ones, and a counter never goes
/// back.
#[derive(Default)]
pub struct Tally(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    /// what is remembered of those that were counted
    known: BTreeSet<u64>,
    totals: BTreeMap<(String, &'static str), u64>,
}

impl Tally {
    fn totals(&self, running: &Running, swaps: &[SwapRecord]) -> BTreeMap<(String, &'static str), u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // those of earlier processes have been counted there
        let over = swaps.iter().filter(|s| s.phase.is_over() && s.requested_at_ms >= running.started_at_ms);
        for swap in over {
            if counted.known.insert(swap.id) {
                *counted.totals.entry((swap.operator.clone(), outcome(swap.phase))).or_default() += 1;
            }
        }
        let oldest = swaps.first().map_or(0, |s| s.id);
        counted.known.retain(|id| *id >= oldest);
        counted.totals.clone()
    }
}

fn outcome(phase: Phase) -> &'static str {
    match phase {
        Phase::Draining => "draining",
        Phase::Done => "done",
        Phase::Refused => "refused",
        Phase::Failed => "failed",
        Phase::Discarded => "discarded",
        Phase::RolledBack => "rolled_back",
        _ => "under_way",
    }
}

fn swaps(t: &mut Text, running: &Running, tally: &Tally, pipeline: &str) {
    let swaps = running.swaps();
    let totals = tally.totals(running, &swaps);
    let totals = totals.iter().map(|((node, outcome), n)| {
        (labels(&[("pipeline", pipeline), ("node", node), ("outcome", outcome)]), count(*n))
    });
    t.family("counter", "swaps_total", "Swaps of plugins that are over.", totals);
    let mut pauses: BTreeMap<&str, u64> = BTreeMap::new();
    for swap in &swaps {
        if let Some(pause_us) = swap.pause_us {
            pauses.insert(&swap.operator, pause_us);
        }
    }
    let pauses =
        pauses.iter().map(|(node, us)| (labels(&[("pipeline", pipeline), ("node", node)]), count(*us) / 1_000_000.0));
    t.family("gauge", "swap_pause_seconds", "How long the slowest task read nothing in the last swap.", pauses);
}

fn plugins(t: &mut Text, status: &PipelineStatus) {
    let all: Vec<(String, &PluginStatus)> = status
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.plugin.as_ref()?)))
        .flat_map(|(node, plugin)| {
            let companion = plugin.companion.as_deref().map(|c| ("companion", c));
            [("active", plugin)].into_iter().chain(companion).map(|(role, plugin)| {
                let of = labels(&[("pipeline", &status.name), ("node", &node.name), ("role", role)]);
                (of, plugin)
            })
        })
        .collect();
    let info = all.iter().map(|(of, p)| {
        let what = [("plugin", p.name.as_str()), ("version", &p.version), ("sha256", &p.sha256)];
        (format!("{of},{}", labels(&what)), 1.0)
    });
    t.family("gauge", "plugin_info", "The plugin that runs, and the one beside it.", info);
    let all = |value: fn(&PluginStatus) -> f64| all.iter().map(move |(of, p)| (of.clone(), value(p)));
    let cpu = all(|p| count(p.cpu_ns_total) / 1e9);
    t.family("counter", "plugin_cpu_seconds_total", "Processor time inside the plugin.", cpu);
    t.family("counter", "plugin_calls_total", "Calls of the plugin.", all(|p| count(p.calls_total)));
    t.family("counter", "plugin_rows_total", "Rows that the plugin has taken in.", all(|p| count(p.rows_total)));
    t.family("gauge", "plugin_memory_bytes", "Linear memory of the plugin.", all(|p| count(p.memory_bytes)));
}

pub fn text(running: &Running, tally: &Tally) -> String {
    let (status, explanation) = (explain::status(running), explain::explain(running));
    let pipeline = status.name.as_str();
    let own = || labels(&[("pipeline", pipeline)]);
    let mut t = Text(String::new());
    t.family(
        "gauge",
        "info",
        "The run that answers.",
        [(
            labels(&[
                ("pipeline", pipeline),
                ("version", &status.version),
                ("incarnation", &status.incarnation),
                ("generation", &status.generation.to_string()),
            ]),
            1.0,
        )],
    );
    t.family("gauge", "start_time_seconds", "When the run began.", [(own(), seconds(status.started_at_ms))]);
    let paused = f64::from(u8::from(status.intake_paused));
    t.family("gauge", "intake_paused", "1: nothing is read, commits wait for the catalog.", [(own(), paused)]);

    let nodes = |value: fn(&NodeStatus) -> Option<f64>| {
        status.nodes.iter().filter_map(move |n| {
            let of = labels(&[("pipeline", pipeline), ("node", &n.name), ("kind", n.kind.name())]);
            Some((of, value(n)?))
        })
    };
    type Value = fn(&NodeStatus) -> Option<f64>;
    let counters: [(&str, &str, Value); 7] = [
        ("node_rows_in_total", "Messages read (sources), rows taken in (the rest).", |n| Some(count(n.rows_in_total))),
        ("node_rows_out_total", "Rows given out.", |n| Some(count(n.rows_out_total))),
        ("node_bytes_in_total", "Bytes of the messages read.", |n| {
            (n.bytes_in_total > 0).then(|| count(n.bytes_in_total))
        }),
        ("node_failed_rows_total", "Rows that could not be used.", |n| Some(count(n.failed_total))),
        ("node_late_rows_total", "Rows whose windows had all expired.", |n| {
            n.kind.is_operator().then(|| count(n.late_total))
        }),
        ("node_duplicate_rows_total", "Rows that a deduplication dropped.", |n| {
            n.kind.is_operator().then(|| count(n.duplicates_total))
        }),
        ("node_plugin_failures_total", "Plugin instances that died and were brought back.", |n| {
            n.kind.is_operator().then(|| count(n.plugin_failures_total))
        }),
    ];
    for (name, help, value) in counters {
        t.family("counter", name, help, nodes(value));
    }
    let gauges: [(&str, &str, Value); 4] = [
        ("node_groups", "Groups that are open now.", |n| n.kind.is_operator().then(|| float(n.groups))),
        ("node_state_bytes", "Bytes of state.", |n| n.kind.is_operator().then(|| float(n.state_bytes))),
        ("node_watermark_seconds", "Event time that the node has come to.", |n| n.watermark_ms.map(seconds)),
        ("node_backlog_messages", "Messages that are there and not read.", |n| n.backlog.map(float)),
    ];
    for (name, help, value) in gauges {
        t.family("gauge", name, help, nodes(value));
    }

    plugins(&mut t, &status);
    swaps(&mut t, running, tally, pipeline);

    let operators =
        || explanation.operators.iter().map(|o| (labels(&[("pipeline", pipeline), ("node", &o.name)]), &o.windows));
    let windows = operators().map(|(of, w)| (of, count(w.open)));
    t.family("gauge", "operator_open_windows", "Windows that have not ended.", windows);
    let windows = operators().map(|(of, w)| (of, count(w.closed)));
    t.family("gauge", "operator_closed_windows", "Windows that have ended and may be corrected.", windows);
    let waiting = operators().map(|(of, w)| (of, count(w.corrections_waiting)));
    t.family("gauge", "operator_corrections_waiting", "Closed windows, or sessions, whose correction waits.", waiting);
    let late = explanation.operators.iter().flat_map(|o| {
        o.late.iter().map(|l| {
            let partition = l.partition.to_string();
            let of = [
                ("pipeline", pipeline),
                ("node", &o.name),
                ("source", &l.source),
                ("topic", &l.topic),
                ("partition", &partition),
            ];
            (labels(&of), count(l.events))
        })
    });
    t.family("counter", "operator_late_rows_total", "Late rows by the partition that they came from.", late);

    let partitions: Vec<_> = explanation
        .sources
        .iter()
        .flat_map(|s| {
            s.partitions.iter().map(|p| {
                let partition = p.partition.to_string();
                let of = [
                    ("pipeline", pipeline),
                    ("source", s.name.as_str()),
                    ("topic", &p.topic),
                    ("partition", &partition),
                ];
                (labels(&of), p)
            })
        })
        .collect();
    let all = || partitions.iter();
    let known = |value: Option<f64>, of: &String| value.map(|v| (of.clone(), v));
    let watermarks = all().filter_map(|(of, p)| known(p.watermark_ms.map(seconds), of));
    t.family("gauge", "partition_watermark_seconds", "Event time that the partition has come to.", watermarks);
    let positions = all().filter_map(|(of, p)| known(p.position.map(float), of));
    t.family("gauge", "partition_position", "Offset of the next message to read.", positions);
    let backlogs = all().filter_map(|(of, p)| known(p.backlog.map(float), of));
    t.family("gauge", "partition_backlog_messages", "Messages that are there and not read.", backlogs);
    let idle = all().map(|(of, p)| (of.clone(), f64::from(u8::from(p.state == PartitionState::Idle))));
    t.family("gauge", "partition_idle", "1: it does not hold the watermark.", idle);
    let held = all().map(|(of, p)| (of.clone(), f64::from(u8::from(p.state == PartitionState::HeldByDrift))));
    t.family("gauge", "partition_held_by_drift", "1: not read on, too far ahead of the slowest.", held);
    let messages = all().map(|(of, p)| (of.clone(), count(p.messages_total)));
    t.family("counter", "partition_messages_total", "Messages read.", messages);
    let failed = all().map(|(of, p)| (of.clone(), count(p.failed_total)));
    t.family("counter", "partition_failed_messages_total", "Messages that could not be used.", failed);
    let future = all().map(|(of, p)| (of.clone(), count(p.future_total)));
    t.family("counter", "partition_future_messages_total", "Of the failed: dated beyond max_future.", future);

    if let Some(c) = &status.checkpoint {
        t.family("gauge", "checkpoint_number", "The last durable checkpoint.", [(own(), count(c.number))]);
        t.family("gauge", "checkpoint_timestamp_seconds", "When it became durable.", [(own(), seconds(c.at_ms))]);
        t.family("gauge", "checkpoint_duration_seconds", "How long it took.", [(own(), count(c.took_ms) / 1_000.0)]);
    }
    if let Some(c) = &status.commit {
        t.family("gauge", "commit_checkpoint_number", "The last checkpoint committed.", [(own(), count(c.checkpoint))]);
        t.family("gauge", "commit_timestamp_seconds", "When it was confirmed.", [(own(), seconds(c.at_ms))]);
        t.family("counter", "commit_rows_total", "Rows committed.", [(own(), count(c.rows_total))]);
        t.family("counter", "commit_files_total", "Files committed.", [(own(), count(c.files_total))]);
    }
    t.0
}
