//! From what the tasks say of themselves to what holds each operator back, and why.
//!
//! An operator's watermark is the minimum over what counts above it. So the walk goes up from the operator, through
//! transforms that only pass event time on, to partitions of sources and to operators whose results have a time of
//! their own, and the slowest of those is the answer.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use millrace_core::watermark::{Watermark, combine};

use super::Running;
use super::model::{
    CheckpointStatus, CommitStatus, DriftExplanation, Explanation, HeldBy, InputExplanation, LateFrom, NodeKind,
    NodeStatus, OldestWindow, OperatorExplanation, PartitionExplanation, PartitionName, PartitionState, PipelineStatus,
    PluginStatus, Reason, SourceExplanation, Windows,
};
use super::words;
use crate::runtime::stats::UNKNOWN;
use crate::runtime::status::{PartitionReport, PluginReport, Plugins, SourceStatus, TaskReport, WindowReport};
use crate::spec::model::{Pipeline, TimeSpec, WatermarkSpec, WhenIdle, WindowSpec};

/// A partition that was read so recently is at work.
const JUST_NOW_MS: i64 = 2_000;

/// What one run said at one moment.
struct Facts<'a> {
    running: &'a Running,
    now_at_ms: i64,
    /// of the run's steady clock
    steady_ms: i64,
    paused: bool,
    /// partitions ahead wait, whatever `max_drift` says
    memory_tight: bool,
    sources: Vec<(&'a str, WatermarkSpec, Vec<PartitionFacts>)>,
    operators: Vec<(&'a str, NodeKind, Vec<TaskReport>)>,
}

#[derive(Clone, Debug)]
struct PartitionFacts {
    topic: String,
    partition: i32,
    position: Option<i64>,
    end: Option<i64>,
    end_answered_at_ms: Option<i64>,
    report: PartitionReport,
}

impl PartitionFacts {
    fn backlog(&self) -> Option<i64> {
        Some(self.end?.saturating_sub(self.position?).max(0))
    }

    fn counts(&self) -> bool {
        !self.report.done && !self.report.idle && !self.report.waits_for_first_event
    }

    fn watermark(&self) -> Watermark {
        Watermark { time_ms: self.report.watermark_ms, idle: !self.counts() }
    }
}

impl<'a> Facts<'a> {
    fn gather(running: &'a Running) -> Self {
        let status = &running.stats.status;
        let published = status.sources();
        let pipeline = &running.pipeline;
        let sources = pipeline.sources.iter().map(|(name, spec)| {
            let partitions = published.get(name.as_str()).map(partitions).unwrap_or_default();
            (name.as_str(), spec.watermark, partitions)
        });
        let mut tasks = status.operators();
        let mut operator = |name: &'a str, kind| Some((name, kind, tasks.remove(name)?));
        let transforms = pipeline.transforms.iter().map(|(name, _)| (name.as_str(), NodeKind::Transform));
        let aggregations = pipeline.aggregations.iter().map(|(name, _)| (name.as_str(), NodeKind::Aggregation));
        Self {
            running,
            now_at_ms: running.clock.now_ms(),
            steady_ms: status.now_ms(),
            paused: status.paused.load(Relaxed),
            memory_tight: status.memory.is_tight(),
            sources: sources.collect(),
            operators: transforms.chain(aggregations).filter_map(|(name, kind)| operator(name, kind)).collect(),
        }
    }

    fn since(&self, at_ms: i64) -> i64 {
        self.steady_ms.saturating_sub(at_ms).max(0)
    }

    fn time(&self, ms: i64) -> String {
        words::time(ms, self.now_at_ms)
    }

    /// Where event time comes from that an operator gets: sources, and operators whose results have their own.
    fn roots(&self, operator: &str) -> Vec<&'a str> {
        let pipeline = &self.running.pipeline;
        let mut open: Vec<&str> = pipeline.inputs_of(operator).iter().map(String::as_str).collect();
        let mut roots = Vec::new();
        while let Some(node) = open.pop() {
            let passes_on = pipeline.transforms.iter().any(|(name, _)| name == node);
            if passes_on {
                open.extend(pipeline.inputs_of(node).iter().map(String::as_str));
            } else if !roots.contains(&node) {
                roots.push(node);
            }
        }
        roots.sort_unstable();
        roots
    }

    fn source(&self, name: &str) -> Option<&(&'a str, WatermarkSpec, Vec<PartitionFacts>)> {
        self.sources.iter().find(|(n, _, _)| *n == name)
    }

    /// The slowest of what counts above an operator.
    fn held_by(&self, operator: &str) -> Option<HeldBy> {
        let mut slowest: Option<HeldBy> = None;
        for root in self.roots(operator) {
            let held = match self.source(root) {
                Some((name, spec, partitions)) => {
                    let counting = partitions.iter().filter(|p| p.counts());
                    counting.min_by_key(|p| p.report.watermark_ms).map(|p| self.held_by_partition(name, *spec, p))
                }
                None => self.held_by_operator(root),
            };
            if let Some(held) = held
                && slowest.as_ref().is_none_or(|s| held.watermark_ms < s.watermark_ms)
            {
                slowest = Some(held);
            }
        }
        slowest
    }

    fn held_by_partition(&self, source: &str, spec: WatermarkSpec, p: &PartitionFacts) -> HeldBy {
        let stands_for_ms = self.since(p.report.stands_since_at_ms);
        let (reason, because) = self.reason(spec, p);
        HeldBy {
            node: source.to_owned(),
            partition: Some(PartitionName { topic: p.topic.clone(), partition: p.partition }),
            watermark_ms: p.report.watermark_ms,
            since_at_ms: self.now_at_ms.saturating_sub(stands_for_ms),
            stands_for_ms,
            reason,
            because,
        }
    }

    fn held_by_operator(&self, operator: &str) -> Option<HeldBy> {
        let (name, _, tasks) = self.operators.iter().find(|(name, _, _)| *name == operator)?;
        let watermark = lowest(tasks);
        if watermark.idle {
            return None;
        }
        let pipeline = &self.running.pipeline;
        let lateness_ms =
            pipeline.aggregations.iter().find(|(n, _)| n == name).map_or(0, |(_, a)| a.allowed_lateness_ms);
        let held_back = match lateness_ms {
            0 => String::new(),
            ms => format!(", less its allowed lateness of {}", words::duration(i64::try_from(ms).unwrap_or(i64::MAX))),
        };
        let stands_for_ms = self.since(stands_since(tasks));
        Some(HeldBy {
            node: (*name).to_owned(),
            partition: None,
            watermark_ms: watermark.time_ms.map(|ms| ms.saturating_sub_unsigned(lateness_ms)),
            since_at_ms: self.now_at_ms.saturating_sub(stands_for_ms),
            stands_for_ms,
            reason: Reason::Operator,
            because: format!("it goes as far as `{name}`{held_back}"),
        })
    }

    /// Why a partition does not go on.
    fn reason(&self, spec: WatermarkSpec, p: &PartitionFacts) -> (Reason, String) {
        let r = &p.report;
        let silent_for_ms = r.last_message_at_ms.map(|at| self.since(at));
        let answered_for_ms = p.end_answered_at_ms.map(|at| self.since(at));
        if self.paused {
            return (Reason::IntakePaused, "the intake is paused: commits wait for the catalog".to_owned());
        }
        if let Some(drift) = &r.drift {
            let max = spec.max_drift_ms.map_or(0, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
            let of_whom = match (drift.slowest_ms, r.watermark_ms) {
                (Some(slowest), Some(at)) => {
                    format!("{} ahead of the slowest, at {}", words::duration(at - slowest), self.time(slowest))
                }
                _ => "ahead of a partition with a backlog and no event yet".to_owned(),
            };
            let max = words::duration(max);
            let bound = match self.memory_tight {
                true => "there is little left of memory_limit".to_owned(),
                false => format!("max_drift {max}"),
            };
            return (Reason::Drift, format!("not read on, because it is {of_whom} ({bound})"));
        }
        let backlog = p.backlog().filter(|b| *b > 0);
        if r.watermark_ms.is_none() && r.messages_total > 0 && r.future_total == r.messages_total {
            let n = words::of(i64::try_from(r.future_total).unwrap_or(i64::MAX), "message");
            return (Reason::FutureGuard, format!("all {n} that came are dated beyond max_future"));
        }
        if let Some(backlog) = backlog {
            let (position, end) = (p.position.unwrap_or_default(), p.end.unwrap_or_default());
            let still = match silent_for_ms {
                Some(ms) if ms > JUST_NOW_MS => format!(", and nothing has come from it for {}", words::duration(ms)),
                None => ", and nothing has come from it yet".to_owned(),
                _ => String::new(),
            };
            let messages = words::of(backlog, "message");
            return (Reason::Backlog, format!("backlog of {messages} (position {position} of {end}){still}"));
        }
        let timeout_ms = spec.idle_timeout_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        if let Some(timeout_ms) = timeout_ms
            && answered_for_ms.is_none_or(|ms| ms > timeout_ms)
        {
            let ago = answered_for_ms.map_or("yet".to_owned(), |ms| format!("for {}", words::duration(ms)));
            return (Reason::NoAnswer, format!("no broker has answered {ago}, and without an answer it is not idle"));
        }
        let never = match timeout_ms {
            Some(timeout_ms) => format!("it no longer counts after {} (idle_timeout)", words::duration(timeout_ms)),
            None => "there is no idle_timeout".to_owned(),
        };
        let silent = silent_for_ms.map_or(String::new(), |ms| format!(", silent for {}", words::duration(ms)));
        if r.watermark_ms.is_none() {
            return (Reason::NoEvent, format!("no event yet, caught up; {never}"));
        }
        match silent_for_ms {
            Some(ms) if ms <= JUST_NOW_MS => {
                let bound = i64::try_from(spec.out_of_orderness_ms).unwrap_or(i64::MAX);
                let newest = r.newest_event_ms.map_or(String::new(), |ms| {
                    format!(
                        "; its newest event is of {}, and {} of disorder are waited for",
                        self.time(ms),
                        words::duration(bound)
                    )
                });
                (Reason::CaughtUp, format!("caught up{newest}"))
            }
            _ => (Reason::Silent, format!("caught up{silent}; {never}")),
        }
    }

    fn operator(&self, name: &str, kind: NodeKind, tasks: &[TaskReport]) -> OperatorExplanation {
        let watermark = lowest(tasks);
        let windows = windows(tasks, watermark.time_ms, self.has_own_windows(name));
        let mut held_by = self.held_by(name);
        if let Some(held) = &mut held_by
            && held.watermark_ms > watermark.time_ms
        {
            held.reason = Reason::OnTheWay;
            held.because = format!(
                "everything above has come to {}; rows up to there are on their way",
                held.watermark_ms.map_or("an event".to_owned(), |ms| self.time(ms))
            );
        }
        let mut late: Vec<LateFrom> = Vec::new();
        for (from, events) in tasks.iter().flat_map(|(_, r)| &r.late) {
            let same =
                |l: &&mut LateFrom| l.source == *from.source && l.topic == *from.topic && l.partition == from.partition;
            match late.iter_mut().find(same) {
                Some(known) => known.events += events,
                None => late.push(LateFrom {
                    source: from.source.to_string(),
                    topic: from.topic.to_string(),
                    partition: from.partition,
                    events: *events,
                }),
            }
        }
        late.sort_by(|a, b| (&a.source, &a.topic, a.partition).cmp(&(&b.source, &b.topic, b.partition)));
        OperatorExplanation {
            name: name.to_owned(),
            kind,
            answer: self.answer(name, watermark, &windows, held_by.as_ref()),
            watermark_ms: watermark.time_ms,
            idle: watermark.idle,
            stands_for_ms: self.since(stands_since(tasks)),
            held_by,
            inputs: inputs(tasks),
            windows,
            late_total: self.running.stats.node(name).late_total.load(Relaxed),
            late,
        }
    }

    /// Whether each task has windows of its own: sessions, and the one window of a key; others are the same in all tasks.
    fn has_own_windows(&self, operator: &str) -> bool {
        let spec = self.running.pipeline.aggregations.iter().find(|(name, _)| name == operator).map(|(_, spec)| spec);
        spec.is_some_and(|spec| matches!(spec.window, WindowSpec::Session { .. } | WindowSpec::Global))
    }

    /// The first line.
    fn answer(&self, name: &str, watermark: Watermark, windows: &Windows, held: Option<&HeldBy>) -> String {
        let because = match held {
            None => self.nothing_counts(name),
            Some(held) if held.reason == Reason::OnTheWay => held.because.clone(),
            Some(held) => {
                let who = match &held.partition {
                    Some(p) => format!("partition {}/{} of `{}`", p.topic, p.partition, held.node),
                    None => format!("`{}`", held.node),
                };
                let stands = match held.watermark_ms {
                    Some(ms) => format!("stands at {}", self.time(ms)),
                    None => "has not begun".to_owned(),
                };
                format!("{who} {stands}: {}", held.because)
            }
        };
        match (&windows.oldest_open, watermark.time_ms) {
            (Some(w), _) => {
                let window = words::window(w.start_ms, w.end_ms, self.now_at_ms);
                format!("{name}: the window {window} is open because {because}")
            }
            (None, Some(ms)) => format!("{name}: no window is open; event time is {}: {because}", self.time(ms)),
            (None, None) => format!("{name}: no window is open, and event time has not begun: {because}"),
        }
    }

    /// Every input is idle, done, or has not begun.
    fn nothing_counts(&self, operator: &str) -> String {
        let parts: Vec<String> = self
            .roots(operator)
            .into_iter()
            .map(|root| match self.source(root) {
                None => format!("`{root}` is idle"),
                Some((name, _, partitions)) if partitions.is_empty() => format!("`{name}` has no partition yet"),
                Some((name, _, partitions)) if partitions.iter().all(|p| p.report.done) => {
                    format!("`{name}` is at its end")
                }
                Some((name, spec, partitions)) => {
                    let last = partitions.iter().filter_map(|p| p.report.last_message_at_ms).max();
                    let silent = last.map_or("none of it has said anything".to_owned(), |at| {
                        format!("silent for {}", words::duration(self.since(at)))
                    });
                    let then = match spec.when_idle {
                        WhenIdle::Hold => "the watermark holds until there is an event (when_idle = \"hold\")",
                        WhenIdle::Advance => "the watermark goes on with the clock (when_idle = \"advance\")",
                    };
                    format!("all partitions of `{name}` are idle, {silent}; {then}")
                }
            })
            .collect();
        parts.join("; ")
    }

    fn source_explanation(&self, name: &str, spec: WatermarkSpec, partitions: &[PartitionFacts]) -> SourceExplanation {
        let watermark = combine(partitions.iter().map(PartitionFacts::watermark));
        SourceExplanation {
            name: name.to_owned(),
            watermark_ms: watermark.time_ms,
            idle: watermark.idle,
            out_of_orderness_ms: spec.out_of_orderness_ms,
            idle_timeout_ms: spec.idle_timeout_ms,
            max_drift_ms: spec.max_drift_ms,
            max_future_ms: spec.max_future_ms,
            partitions: partitions.iter().map(|p| self.partition(spec, p)).collect(),
        }
    }

    fn partition(&self, spec: WatermarkSpec, p: &PartitionFacts) -> PartitionExplanation {
        let r = &p.report;
        let silent_for_ms = r.last_message_at_ms.map(|at| self.since(at));
        let silent = silent_for_ms.map_or(String::new(), |ms| format!(" for {}", words::duration(ms)));
        let (state, because) = match r {
            PartitionReport { done: true, .. } => (PartitionState::Done, "all that was there has been read".to_owned()),
            PartitionReport { idle: true, .. } => (PartitionState::Idle, format!("idle: caught up, silent{silent}")),
            PartitionReport { waits_for_first_event: true, .. } => {
                (PartitionState::WaitsForFirstEvent, "new, no event yet: it holds nothing".to_owned())
            }
            PartitionReport { drift: Some(_), .. } => (PartitionState::HeldByDrift, self.reason(spec, p).1),
            _ => (PartitionState::Reading, self.reason(spec, p).1),
        };
        PartitionExplanation {
            topic: p.topic.clone(),
            partition: p.partition,
            state,
            watermark_ms: r.watermark_ms,
            stands_for_ms: self.since(r.stands_since_at_ms),
            newest_event_ms: r.newest_event_ms,
            silent_for_ms,
            position: p.position,
            end: p.end,
            backlog: p.backlog(),
            end_answered_for_ms: p.end_answered_at_ms.map(|at| self.since(at)),
            drift: r.drift.map(|d| DriftExplanation {
                held_for_ms: self.since(d.since_at_ms),
                slowest_ms: d.slowest_ms,
                ahead_ms: r.watermark_ms.zip(d.slowest_ms).map(|(at, slowest)| at.saturating_sub(slowest)),
            }),
            messages_total: r.messages_total,
            failed_total: r.failed_total,
            future_total: r.future_total,
            because,
        }
    }
}

/// Over all tasks of an operator: one that is idle does not count.
fn lowest(tasks: &[TaskReport]) -> Watermark {
    let time_ms = tasks.iter().map(|(_, r)| r.watermark.time_ms).min().flatten();
    Watermark { time_ms, idle: tasks.iter().all(|(_, r)| r.watermark.idle) }
}

fn stands_since(tasks: &[TaskReport]) -> i64 {
    tasks.iter().map(|(_, r)| r.stands_since_at_ms).max().unwrap_or_default()
}

fn inputs(tasks: &[TaskReport]) -> Vec<InputExplanation> {
    let mut by_node: Vec<(Arc<str>, Vec<Watermark>)> = Vec::new();
    for (names, report) in tasks {
        for (name, watermark) in names.iter().zip(&report.inputs) {
            match by_node.iter_mut().find(|(n, _)| n == name) {
                Some((_, all)) => all.push(*watermark),
                None => by_node.push((Arc::clone(name), vec![*watermark])),
            }
        }
    }
    let explained = by_node.into_iter().map(|(node, all)| {
        let Watermark { time_ms, idle } = combine(all);
        InputExplanation { node: node.to_string(), watermark_ms: time_ms, idle }
    });
    explained.collect()
}

fn windows(tasks: &[TaskReport], watermark_ms: Option<i64>, own: bool) -> Windows {
    let reports = || tasks.iter().map(|(_, r)| &r.windows);
    // else each task has its own groups of the same windows
    let over_tasks = |count: fn(&WindowReport) -> u64| {
        let counts = reports().map(count);
        if own { counts.sum() } else { counts.max().unwrap_or_default() }
    };
    let oldest = reports().filter_map(|w| w.oldest_open).min_by_key(|(start, end)| (*end, *start));
    Windows {
        open: over_tasks(|w| w.open),
        closed: over_tasks(|w| w.closed),
        oldest_open: oldest.map(|(start_ms, end_ms)| OldestWindow {
            start_ms,
            end_ms,
            closes_at_watermark_ms: end_ms.saturating_sub(1),
            missing_ms: watermark_ms.map(|at| end_ms.saturating_sub(1).saturating_sub(at).max(0)),
        }),
        groups: reports().map(|w| w.groups).sum(),
        state_bytes: reports().map(|w| w.state_bytes).sum(),
        corrections_waiting: reports().map(|w| w.corrections_waiting).sum(),
    }
}

/// Over all tasks. While they change places one after the other, those count that run what the first does.
fn plugin(tasks: &[Plugins]) -> Option<PluginStatus> {
    let mut active = sum(tasks.iter().filter_map(|task| task.active.as_ref()))?;
    active.companion = sum(tasks.iter().filter_map(|task| task.companion.as_ref())).map(Box::new);
    Some(active)
}

fn sum<'a>(reports: impl Iterator<Item = &'a PluginReport>) -> Option<PluginStatus> {
    let mut sum: Option<PluginStatus> = None;
    for report in reports {
        let sum = sum.get_or_insert_with(|| PluginStatus {
            name: report.name.clone(),
            version: report.version.clone(),
            sha256: report.sha256.clone(),
            config: report.config.clone(),
            ..PluginStatus::default()
        });
        if (&sum.sha256, &sum.config) == (&report.sha256, &report.config) {
            sum.cpu_ns_total += report.cpu_ns_total;
            sum.calls_total += report.calls_total;
            sum.rows_total += report.rows_total;
            sum.memory_bytes += report.memory_bytes;
        }
    }
    sum
}

fn partitions(source: &SourceStatus) -> Vec<PartitionFacts> {
    let known = |value: i64| Some(value).filter(|v| *v != UNKNOWN);
    let partitions = source.partitions.lock().unwrap_or_else(PoisonError::into_inner);
    let facts = partitions.iter().map(|(id, partition)| PartitionFacts {
        topic: id.topic.to_string(),
        partition: id.partition,
        position: known(partition.progress.position.load(Relaxed)),
        end: known(partition.progress.end.load(Relaxed)),
        end_answered_at_ms: known(partition.progress.end_answered_ms.load(Relaxed)),
        report: partition.progress.report(),
    });
    facts.collect()
}

pub fn explain(running: &Running) -> Explanation {
    let facts = Facts::gather(running);
    let operators: Vec<OperatorExplanation> =
        facts.operators.iter().map(|(name, kind, tasks)| facts.operator(name, *kind, tasks)).collect();
    let oldest = |o: &&OperatorExplanation| o.windows.oldest_open.as_ref().map_or(i64::MAX, |w| w.end_ms);
    let answer = match operators.iter().min_by_key(oldest) {
        Some(operator) => operator.answer.clone(),
        None => format!("{}: no operator keeps event time", running.pipeline.name),
    };
    Explanation {
        pipeline: running.pipeline.name.clone(),
        now_at_ms: facts.now_at_ms,
        answer,
        operators,
        sources: facts.sources.iter().map(|(name, spec, p)| facts.source_explanation(name, *spec, p)).collect(),
    }
}

pub fn status(running: &Running) -> PipelineStatus {
    let facts = Facts::gather(running);
    let stats = &running.stats;
    let known = |value: i64| Some(value).filter(|v| *v != UNKNOWN);
    let checkpoint = stats.checkpoint.load(Relaxed);
    let committed = stats.committed.load(Relaxed);
    PipelineStatus {
        name: running.pipeline.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: running.fence.incarnation.clone(),
        generation: running.fence.generation,
        time: if running.pipeline.time == TimeSpec::Processing { "processing" } else { "event" }.to_owned(),
        started_at_ms: running.started_at_ms,
        now_at_ms: facts.now_at_ms,
        intake_paused: facts.paused,
        watermark_ms: known(stats.watermark_ms.load(Relaxed)),
        backlog: known(stats.lag.load(Relaxed)),
        checkpoint: (checkpoint > 0).then(|| CheckpointStatus {
            number: checkpoint,
            at_ms: stats.checkpoint_at_ms.load(Relaxed),
            took_ms: stats.checkpoint_took_ms.load(Relaxed),
        }),
        commit: (committed > 0).then(|| CommitStatus {
            checkpoint: committed,
            at_ms: stats.committed_at_ms.load(Relaxed),
            rows_total: stats.committed_rows_total.load(Relaxed),
            files_total: stats.committed_files_total.load(Relaxed),
        }),
        nodes: nodes(&running.pipeline, &facts),
    }
}

fn nodes(pipeline: &Pipeline, facts: &Facts<'_>) -> Vec<NodeStatus> {
    let sources = pipeline.sources.iter().map(|(name, _)| (name, NodeKind::Source, &[][..]));
    let transforms = pipeline.transforms.iter().map(|(name, t)| (name, NodeKind::Transform, &t.inputs[..]));
    let aggregations = pipeline.aggregations.iter().map(|(name, a)| (name, NodeKind::Aggregation, &a.inputs[..]));
    let sinks = pipeline.sinks.iter().map(|(name, s)| (name, NodeKind::Sink, &s.inputs[..]));
    let plugins = facts.running.stats.status.plugins();
    let all = sources.chain(transforms).chain(aggregations).chain(sinks);
    let node = |(name, kind, inputs): (&String, NodeKind, &[String])| {
        let stats = facts.running.stats.node(name);
        let partitions = facts.source(name).map(|(_, _, partitions)| partitions);
        let operator = facts.operators.iter().find(|(n, _, _)| n == name);
        let watermark_ms = match (partitions, operator) {
            (Some(partitions), _) => combine(partitions.iter().map(PartitionFacts::watermark)).time_ms,
            (None, Some((_, _, tasks))) => lowest(tasks).time_ms,
            (None, None) => None,
        };
        let backlogs = partitions.map(|p| p.iter().filter_map(PartitionFacts::backlog).collect::<Vec<_>>());
        NodeStatus {
            name: name.clone(),
            kind,
            inputs: inputs.to_vec(),
            watermark_ms,
            backlog: backlogs.filter(|b| !b.is_empty()).map(|b| b.into_iter().fold(0, i64::saturating_add)),
            rows_in_total: stats.rows_in_total.load(Relaxed),
            rows_out_total: stats.rows_out_total.load(Relaxed),
            bytes_in_total: stats.bytes_in_total.load(Relaxed),
            failed_total: stats.failed_total.load(Relaxed),
            late_total: stats.late_total.load(Relaxed),
            duplicates_total: stats.duplicates_total.load(Relaxed),
            plugin_failures_total: stats.plugin_failures_total.load(Relaxed),
            groups: stats.groups.load(Relaxed),
            state_bytes: stats.state_bytes.load(Relaxed),
            plugin: plugins.get(name.as_str()).and_then(|tasks| plugin(tasks)),
        }
    };
    all.map(node).collect()
}
