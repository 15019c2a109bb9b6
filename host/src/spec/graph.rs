//! The graph as text, for `millrace check`: data flows downwards and to the right, columns stand along the edges.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use millrace_core::schema::Schema;

use super::check::Resolved;
use super::columns::is_side_stream;
use super::model::{
    AggregationSpec, ConnectorSpec, EmitSpec, EventTimeSpec, FileFormat, Location, OnError, PartitionField,
    PartitionTransform, Pipeline, SinkKind, SinkMode, SinkSpec, SourceSpec, Start, TimeSpec, TopicSpec, TransformSpec,
    WindowSpec,
};
use super::units::{show_bytes, show_duration_ms};
use super::{Loaded, diagnostic, files};
use crate::plugin::{PluginLimits, Wanted};

/// Draws the graph. Secrets are redacted.
pub fn graph(loaded: &Loaded, resolved: &Resolved) -> String {
    let mut drawing = Drawing { pipeline: &loaded.pipeline, resolved, out: String::new(), drawn: BTreeSet::new() };
    drawing.head();
    for (name, source) in &loaded.pipeline.sources {
        drawing.out.push('\n');
        drawing.source(name, source);
    }
    drawing.memory();
    drawing.limits();
    diagnostic::redact(&drawing.out, &loaded.secrets)
}

struct Drawing<'a> {
    pipeline: &'a Pipeline,
    resolved: &'a Resolved,
    out: String,
    /// a node with several inputs is drawn whole once
    drawn: BTreeSet<&'a str>,
}

impl<'a> Drawing<'a> {
    fn line(&mut self, margin: &str, text: &str) {
        // writing to a string cannot fail
        let _ = writeln!(self.out, "{margin}{text}");
    }

    fn head(&mut self) {
        let pipeline = self.pipeline;
        let location = match &pipeline.checkpoint.location {
            Location::Local(path) => path.display().to_string(),
            Location::ObjectStore { url, .. } => url.clone(),
        };
        let time = if pipeline.time == TimeSpec::Processing { ", in processing time" } else { "" };
        self.line("", &format!("pipeline {}, parallelism {}{time}", pipeline.name, pipeline.parallelism));
        self.line(
            "",
            &format!(
                "checkpoint every {} to {location}, {} kept",
                show_duration_ms(pipeline.checkpoint.interval_ms),
                pipeline.checkpoint.retain
            ),
        );
    }

    fn source(&mut self, name: &'a str, source: &SourceSpec) {
        self.line("", &format!("{name}  source, {}", connector(&source.connector)));
        let event_time = match &source.event_time {
            EventTimeSpec::Column { name, .. } => format!("`{name}`"),
            EventTimeSpec::RecordTimestamp => "the record's timestamp".to_owned(),
        };
        let drift =
            source.watermark.max_drift_ms.map_or(String::new(), |ms| format!(", drift ≤ {}", show_duration_ms(ms)));
        let time = match self.pipeline.time {
            TimeSpec::Event => format!(
                "event time {event_time}, {} out of order{drift}",
                show_duration_ms(source.watermark.out_of_orderness_ms)
            ),
            TimeSpec::Processing => "time of reading".to_owned(),
        };
        self.line("│ ", &format!("{time}; on error {}", on_error(source.on_error)));
        self.line("│ ", &columns(&source.output));
        self.readers(name, "");
    }

    /// Everything that reads a node, below it.
    fn readers(&mut self, name: &str, margin: &str) {
        let pipeline = self.pipeline;
        let mut readers: Vec<(&'a str, String, Reader<'a>)> = Vec::new();
        let streams = [name.to_owned(), format!("{name}.errors"), format!("{name}.late")];
        for (reader, spec) in &pipeline.transforms {
            if spec.inputs.iter().any(|input| input == name) {
                readers.push((reader, String::new(), Reader::Transform(spec)));
            }
        }
        for (reader, spec) in &pipeline.aggregations {
            if spec.inputs.iter().any(|input| input == name) {
                readers.push((reader, String::new(), Reader::Aggregation(spec)));
            }
        }
        for stream in &streams {
            for (reader, spec) in &pipeline.sinks {
                if spec.inputs.contains(stream) {
                    let side = stream.strip_prefix(name).unwrap_or_default();
                    let label = if is_side_stream(stream) { format!(" {side} ─▶") } else { String::new() };
                    readers.push((reader, label, Reader::Sink(spec)));
                }
            }
        }
        let last = readers.len().saturating_sub(1);
        for (index, (reader, label, kind)) in readers.into_iter().enumerate() {
            let (arm, below) = if index == last { ("└─▶", "    ") } else { ("├─▶", "│   ") };
            let arm = if label.is_empty() { arm.to_owned() } else { arm.replace('▶', "") + &label };
            let margin_below = format!("{margin}{below}");
            if !self.drawn.insert(reader) {
                self.line(margin, &format!("{arm} {reader}  (above)"));
                continue;
            }
            match kind {
                Reader::Transform(spec) => self.transform(reader, spec, margin, &arm, &margin_below),
                Reader::Aggregation(spec) => self.aggregation(reader, spec, margin, &arm, &margin_below),
                Reader::Sink(spec) => self.sink(reader, spec, margin, &arm, &margin_below),
            }
        }
    }

    fn transform(&mut self, name: &'a str, spec: &TransformSpec, margin: &str, arm: &str, below: &str) {
        self.line(
            margin,
            &format!("{arm} {name}  transform ×{}; on error {}", self.pipeline.parallelism, on_error(spec.on_error)),
        );
        let inner = format!("{below}│ ");
        if let Some(filter) = &spec.filter {
            self.line(&inner, &format!("filter {filter}"));
        }
        for (column, sql) in &spec.set {
            self.line(&inner, &format!("set {column} = {sql}"));
        }
        if let Some(select) = &spec.select {
            let columns: Vec<String> = select
                .iter()
                .map(|column| match &column.expression {
                    Some(sql) => format!("{} = {sql}", column.name),
                    None => column.name.clone(),
                })
                .collect();
            self.line(&inner, &format!("select {}", columns.join(", ")));
        }
        let resolved = self.resolved;
        if let Some(plugin) = &spec.plugin {
            let text = self.plugin(&plugin.plugin, &plugin.config);
            self.line(&inner, &text);
            if let (Some(signature), Some(input)) = (resolved.transform_signatures.get(name), resolved.steps.get(name))
            {
                let reads = reads(&signature.input, &plugin.columns, input);
                self.line(&inner, &format!("reads {reads}"));
            }
        }
        if let Some(deduplicate) = &spec.deduplicate {
            let within = show_duration_ms(u64::try_from(deduplicate.within_ms).unwrap_or(0));
            self.line(&inner, &format!("deduplicate by {} within {within}", deduplicate.key.join(", ")));
        }
        if let Some(output) = resolved.output.get(name) {
            self.line(&inner, &columns(output));
        }
        self.readers(name, below);
    }

    /// The plugin as a node runs it.
    fn plugin(&self, name: &str, config: &str) -> String {
        let version = self.resolved.plugins.get(name).map_or(String::new(), |info| match info.name == name {
            true => format!(" {}", info.version),
            false => format!(" ({} {})", info.name, info.version),
        });
        let config = if config == "{}" { String::new() } else { format!(", config {config}") };
        format!("plugin {name}{version}{config}")
    }

    fn aggregation(&mut self, name: &'a str, spec: &AggregationSpec, margin: &str, arm: &str, below: &str) {
        self.line(
            margin,
            &format!(
                "{arm} {name}  aggregation ×{}, key {}, {}",
                self.pipeline.parallelism,
                spec.key.join(", "),
                window(spec)
            ),
        );
        let resolved = self.resolved;
        let inner = format!("{below}│ ");
        let aggregates: Vec<String> = spec.aggregates.iter().map(ToString::to_string).collect();
        let logic = match aggregates.is_empty() {
            true => self.plugin(&spec.plugin, &spec.config),
            false => aggregates.join(", "),
        };
        self.line(&inner, &format!("{logic}; on error {}", on_error(spec.on_error)));
        if let (Some(signature), Some(input)) = (resolved.signatures.get(name), resolved.input.get(name)) {
            let reads = reads(&signature.input, &spec.columns, input);
            if !reads.is_empty() {
                self.line(&inner, &format!("reads {reads}"));
            }
        }
        if let Some(output) = resolved.output.get(name) {
            self.line(&inner, &columns(output));
        }
        self.readers(name, below);
    }

    fn sink(&mut self, name: &str, spec: &SinkSpec, margin: &str, arm: &str, below: &str) {
        let text = match &spec.kind {
            SinkKind::Iceberg(iceberg) => format!(
                "iceberg {}.{}.{}, {}, commit every {}",
                iceberg.catalog,
                iceberg.namespace,
                iceberg.table,
                match &iceberg.mode {
                    SinkMode::Append { revision: false } => "append".to_owned(),
                    SinkMode::Append { revision: true } => "append every revision".to_owned(),
                    SinkMode::Upsert { key } => format!("upsert by {}", key.join(", ")),
                },
                show_duration_ms(iceberg.commit_interval_ms)
            ),
            SinkKind::Kafka(kafka) => format!("kafka {} at {}, at least once", kafka.topic, kafka.brokers),
            SinkKind::File(file) => format!("{} files in {}", file_format(file.format), file.path.display()),
            SinkKind::Console => "console".to_owned(),
        };
        self.line(margin, &format!("{arm} {name}  sink, {text}"));
        if let SinkKind::Iceberg(iceberg) = &spec.kind
            && let Some(expected) = files::expected(self.pipeline, spec)
        {
            let fields: Vec<String> = iceberg.partition_by.iter().map(partition).collect();
            let files = if expected.files == 1 { "one file".to_owned() } else { format!("{} files", expected.files) };
            self.line(below, &format!("  partitioned by {}: about {files} a commit", fields.join(", ")));
            if let Some((_, hint)) = files::warning(&expected) {
                self.line(below, &format!("  warning: more than {}; {hint}", files::FILES_PER_COMMIT_MAX));
            }
        }
    }

    /// What the plugins may take of the whole budget.
    fn memory(&mut self) {
        let pipeline = self.pipeline;
        let limit = pipeline.state.memory_limit_bytes;
        let parallelism = u64::try_from(pipeline.parallelism).unwrap_or(u64::MAX);
        let nodes = pipeline.plugin_nodes().count();
        let tasks = u64::try_from(nodes).unwrap_or(u64::MAX).saturating_mul(parallelism);
        self.out.push('\n');
        let Some(share) = limit.checked_div(tasks) else {
            self.line("", &format!("memory {}, no plugins", show_bytes(limit)));
            return;
        };
        self.line("", &format!("memory {} for {tasks} plugin tasks: {} each", show_bytes(limit), show_bytes(share)));
        for (name, plugin) in pipeline.plugin_nodes() {
            let cap = pipeline.plugins.get(plugin).and_then(|plugin| plugin.memory_bytes);
            let each = cap.unwrap_or(share);
            let total = each.saturating_mul(parallelism);
            let from = if cap.is_some() { "`memory` of the plugin" } else { "its share" };
            let warning = if total > limit { "  warning: more than the limit" } else { "" };
            self.line(
                "  ",
                &format!(
                    "{name}: {} ({from}) × {parallelism} = {} of {}{warning}",
                    show_bytes(each),
                    show_bytes(total),
                    show_bytes(limit)
                ),
            );
        }
    }
}

/// What is not as usual with a plugin: limits of its own, capabilities, imports that do nothing.
impl Drawing<'_> {
    fn limits(&mut self) {
        let default = PluginLimits::default();
        for (name, spec) in &self.pipeline.plugins {
            let limits = spec.limits(default.memory_bytes);
            let mut unusual = Vec::new();
            let duration = |d: Duration| show_duration_ms(u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
            if limits.deadline != default.deadline {
                unusual.push(format!("a call takes at most {}", duration(limits.deadline)));
            }
            if limits.startup_deadline != default.startup_deadline {
                unusual.push(format!("its start at most {}", duration(limits.startup_deadline)));
            }
            if limits.result_bytes_max != default.result_bytes_max {
                unusual.push(format!("results at most {}", show_bytes(spec.result_bytes)));
            }
            if limits.log_messages_per_second != default.log_messages_per_second {
                unusual.push(format!("{} log messages/s", limits.log_messages_per_second));
            }
            if !spec.capabilities.is_empty() {
                unusual.push(format!("has the real {}", spec.capabilities.join(" and ")));
            }
            if !unusual.is_empty() {
                self.line("", &format!("plugin {name}: {}", unusual.join(", ")));
            }
            let inert = self.resolved.inert_imports.get(name).filter(|inert| !inert.is_empty());
            if let Some(inert) = inert {
                self.line("", &format!("plugin {name}: inert imports (no files, network or environment here)"));
                for import in inert {
                    self.line("  ", import);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Reader<'a> {
    Transform(&'a TransformSpec),
    Aggregation(&'a AggregationSpec),
    Sink(&'a SinkSpec),
}

/// The columns that a plugin is sent, under its own names.
fn reads(wanted: &[Wanted], renamed: &BTreeMap<String, String>, input: &Schema) -> String {
    let columns: Vec<String> = wanted
        .iter()
        .filter(|wanted| {
            let column = renamed.get(&wanted.field.name).unwrap_or(&wanted.field.name);
            !wanted.optional || input.field(column).is_some()
        })
        .map(|wanted| match renamed.get(&wanted.field.name) {
            Some(column) => format!("{} = {column}", wanted.field.name),
            None => wanted.field.name.clone(),
        })
        .collect();
    columns.join(", ")
}

/// The window, and when it gives results.
fn window(spec: &AggregationSpec) -> String {
    let span = |ms: i64| show_duration_ms(u64::try_from(ms).unwrap_or(0));
    let offset = |ms: i64| if ms == 0 { String::new() } else { format!(" offset {}", span(ms)) };
    let mut text = match spec.window {
        WindowSpec::Tumbling { size_ms, offset_ms } => format!("tumbling {}{}", span(size_ms), offset(offset_ms)),
        WindowSpec::Sliding { size_ms, slide_ms, offset_ms } => {
            format!("sliding {} every {}{}", span(size_ms), span(slide_ms), offset(offset_ms))
        }
        WindowSpec::Session { gap_ms } => format!("sessions with a gap of {}", span(gap_ms)),
        WindowSpec::Global => "global".to_owned(),
    };
    if spec.allowed_lateness_ms > 0 {
        text += &format!(", corrected for {}", show_duration_ms(spec.allowed_lateness_ms));
    }
    if let EmitSpec::Every { every_ms } = spec.emit {
        text += &format!(", results every {}", show_duration_ms(every_ms));
    }
    if let Some(ttl) = spec.state_ttl_ms {
        text += &format!(", forgotten after {}", show_duration_ms(ttl));
    }
    text
}

fn columns(schema: &Schema) -> String {
    let fields: Vec<String> = schema.fields.iter().map(ToString::to_string).collect();
    fields.join(", ")
}

fn connector(connector: &ConnectorSpec) -> String {
    match connector {
        ConnectorSpec::Kafka(kafka) => {
            let topics = match &kafka.topics {
                TopicSpec::Names(names) => names.join(", "),
                TopicSpec::Pattern(pattern) => pattern.clone(),
            };
            let start = match kafka.start {
                Start::Earliest => "earliest".to_owned(),
                Start::Latest => "latest".to_owned(),
                Start::TimestampMs(ms) => format!("timestamp {ms} ms"),
            };
            format!("kafka {topics} at {}, group {}, from {start}", kafka.brokers, kafka.group_id)
        }
        ConnectorSpec::Generator(generator) => {
            let rate = generator.rate.map_or("as fast as read".to_owned(), |rate| format!("{rate} events/s"));
            let count = generator.count.map_or(String::new(), |count| format!(", {count} events in all"));
            format!("generator with seed {}, {} partitions, {rate}{count}", generator.seed, generator.partitions)
        }
    }
}

fn partition(field: &PartitionField) -> String {
    let column = &field.column;
    match field.transform {
        PartitionTransform::Identity => format!("identity({column})"),
        PartitionTransform::Bucket(n) => format!("bucket({n}, {column})"),
        PartitionTransform::Truncate(n) => format!("truncate({n}, {column})"),
        PartitionTransform::Year => format!("year({column})"),
        PartitionTransform::Month => format!("month({column})"),
        PartitionTransform::Day => format!("day({column})"),
        PartitionTransform::Hour => format!("hour({column})"),
    }
}

fn on_error(on_error: OnError) -> &'static str {
    match on_error {
        OnError::Fail => "fail",
        OnError::DeadLetter => "dead-letter",
        OnError::Skip => "skip",
    }
}

fn file_format(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Jsonl => "jsonl",
        FileFormat::Parquet => "parquet",
    }
}
