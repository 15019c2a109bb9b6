//! A checked pipeline, as the rest of the host sees it: names resolved, defaults filled in, durations in milliseconds,
//! paths absolute. Nothing here has a span any more; whatever is wrong with a file has been said before this is made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use millrace_core::limits::MEMORY_HARD_FACTOR;
use millrace_core::schema::Schema;

use crate::plugin::builtin::Aggregate;
use crate::plugin::{Capabilities, PluginLimits};
use crate::spec::secrets::Secrets;

/// Names to nodes, in the order of the file.
pub type Named<T> = Vec<(String, T)>;

#[derive(Clone, Debug)]
pub struct Pipeline {
    pub name: String,
    /// the file it was read from, absolute
    pub file: PathBuf,
    pub parallelism: usize,
    pub time: TimeSpec,
    pub checkpoint: CheckpointSpec,
    pub state: StateSpec,
    pub swap: SwapSpec,
    pub errors: ErrorsSpec,
    pub plugins: BTreeMap<String, PluginSpec>,
    pub catalogs: BTreeMap<String, CatalogSpec>,
    pub schemas: BTreeMap<String, SourceSchema>,
    pub sources: Named<SourceSpec>,
    pub transforms: Named<TransformSpec>,
    pub aggregations: Named<AggregationSpec>,
    pub sinks: Named<SinkSpec>,
    /// what of all this must not be shown or kept
    pub secrets: Secrets,
}

/// What windows and watermarks go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSpec {
    Event,
    /// the host's clock when an event is read
    Processing,
}

#[derive(Clone, Debug)]
pub struct CheckpointSpec {
    pub interval_ms: u64,
    pub location: Location,
    pub retain: usize,
    pub timeout_ms: u64,
    pub min_pause_ms: u64,
    pub tolerated_failures: u32,
}

/// A folder or an object-store prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// absolute
    Local(PathBuf),
    /// `s3://bucket/prefix`; credentials from `properties` or the environment (AWS_*)
    ObjectStore { url: String, properties: BTreeMap<String, String> },
}

#[derive(Clone, Debug)]
pub struct StateSpec {
    pub memory_limit_bytes: u64,
    pub backend: Backend,
}

/// How plugins are replaced while the pipeline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapSpec {
    /// how long the former version goes on beside the new one, ready to take over again
    pub probation_ms: u64,
    /// former versions of each operator's plugin whose bytes are kept beside the checkpoints, to go back to
    pub versions_kept: usize,
}

/// Where groups are that do not fit into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nowhere: the run stops
    Memory,
    /// a folder, absolute
    Disk { path: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    Fail,
    DeadLetter,
    Skip,
}

#[derive(Clone, Debug)]
pub struct ErrorsSpec {
    pub on_error: OnError,
    pub consecutive_limit: u64,
    /// a folder, absolute, for what is needed to run a plugin's failed call again; none: nothing is kept
    pub captures: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct PluginSpec {
    /// absolute
    pub path: PathBuf,
    pub memory_bytes: Option<u64>,
    pub capabilities: Vec<String>,
    pub deadline_ms: u64,
    /// for instantiation, `info` and `open` each
    pub startup_deadline_ms: u64,
    /// what one call may return
    pub result_bytes: u64,
    /// log messages passed on per second
    pub log_rate: u32,
    pub sha256: Option<String>,
}

impl PluginSpec {
    /// `memory_share`: what one plugin task may take of the whole budget.
    pub fn limits(&self, memory_share: u64) -> PluginLimits {
        let has = |capability: &str| self.capabilities.iter().any(|c| c == capability);
        PluginLimits {
            memory_bytes: self.memory_bytes.unwrap_or(memory_share.saturating_mul(MEMORY_HARD_FACTOR)),
            deadline: Duration::from_millis(self.deadline_ms),
            startup_deadline: Duration::from_millis(self.startup_deadline_ms),
            result_bytes_max: usize::try_from(self.result_bytes).unwrap_or(usize::MAX),
            log_messages_per_second: self.log_rate,
            capabilities: Capabilities { clock: has("clock"), random: has("random") },
        }
    }
}

#[derive(Clone, Debug)]
pub struct CatalogSpec {
    pub name: String,
    pub kind: CatalogKind,
    /// `sqlite:<absolute path>` or the REST endpoint
    pub uri: String,
    /// absolute path without scheme made `file://…`, or `s3://…`
    pub warehouse: String,
    /// storage and catalog properties (`s3.endpoint`, `token`, `credential`, …)
    pub properties: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogKind {
    Sql,
    Rest,
}

/// A schema of the file: the columns, and where each is found in a message.
#[derive(Clone, Debug)]
pub struct SourceSchema {
    pub schema: Schema,
    /// one per field: the path inside the message (`["geo", "country"]`); `[name]` unless said otherwise
    pub paths: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
pub struct SourceSpec {
    pub connector: ConnectorSpec,
    pub schema: SourceSchema,
    pub format: Format,
    pub event_time: EventTimeSpec,
    pub watermark: WatermarkSpec,
    pub on_error: OnError,
    pub consecutive_limit: u64,
    /// the columns of the schema plus the metadata columns: what downstream sees
    pub output: Schema,
    pub metadata: MetadataSpec,
}

/// Metadata columns asked for: the column's name, by what it holds.
#[derive(Clone, Debug, Default)]
pub struct MetadataSpec {
    pub topic: Option<String>,
    pub partition: Option<String>,
    pub offset: Option<String>,
    pub timestamp: Option<String>,
    pub key: Option<String>,
}

#[derive(Clone, Debug)]
pub enum ConnectorSpec {
    Kafka(KafkaSpec),
    Generator(GeneratorSpec),
}

#[derive(Clone, Debug)]
pub struct KafkaSpec {
    pub brokers: String,
    pub topics: TopicSpec,
    pub group_id: String,
    pub start: Start,
    /// handed to librdkafka as they are
    pub properties: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicSpec {
    Names(Vec<String>),
    /// a regular expression as librdkafka takes them, anchored with `^`
    Pattern(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    TimestampMs(i64),
}

/// Seeded ad events, partitioned and replayable.
#[derive(Clone, Debug)]
pub struct GeneratorSpec {
    pub seed: u64,
    pub partitions: u32,
    /// events per second over all partitions; none = as fast as they are read
    pub rate: Option<u64>,
    /// events in all; none = no end
    pub count: Option<u64>,
    pub campaigns: u32,
    pub users: u32,
    /// events arrive out of order by up to this much
    pub disorder_ms: u64,
    /// of a million events, how many repeat an earlier one
    pub repeats_per_million: u32,
    /// event time of the first event; none = when the pipeline's incarnation started
    pub start_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
}

#[derive(Clone, Debug)]
pub enum EventTimeSpec {
    /// a column of the schema; JSON numbers are in `unit`
    Column { name: String, unit: TimeUnit },
    /// the record's own timestamp
    RecordTimestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

#[derive(Clone, Copy, Debug)]
pub struct WatermarkSpec {
    pub out_of_orderness_ms: u64,
    pub idle_timeout_ms: Option<u64>,
    pub max_drift_ms: Option<u64>,
    pub max_future_ms: Option<u64>,
    pub when_idle: WhenIdle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenIdle {
    Hold,
    Advance,
}

/// Steps over rows, applied in the order of the fields.
#[derive(Clone, Debug)]
pub struct TransformSpec {
    /// names of sources, transforms and aggregations
    pub inputs: Vec<String>,
    /// SQL; rows for which it is not true are dropped
    pub filter: Option<String>,
    /// columns and their SQL expressions, added or replaced
    pub set: Vec<(String, String)>,
    /// the only columns that go on; none: all of them
    pub select: Option<Vec<Selected>>,
    pub plugin: Option<TransformPluginSpec>,
    pub deduplicate: Option<DeduplicateSpec>,
    pub on_error: OnError,
    pub consecutive_limit: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    pub name: String,
    /// SQL; none: the column of that name
    pub expression: Option<String>,
}

#[derive(Clone, Debug)]
pub struct TransformPluginSpec {
    /// a key of [`Pipeline::plugins`]
    pub plugin: String,
    /// JSON object
    pub config: String,
    /// what the plugin calls X is column Y here, on both sides
    pub columns: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeduplicateSpec {
    pub key: Vec<String>,
    pub within_ms: i64,
}

impl TransformSpec {
    /// Whether anything is to be done before rows are deduplicated.
    pub fn has_steps(&self) -> bool {
        self.filter.is_some() || !self.set.is_empty() || self.select.is_some() || self.plugin.is_some()
    }
}

impl Pipeline {
    /// What one plugin task may take of the whole budget.
    pub fn memory_share_bytes(&self) -> u64 {
        let tasks = self.plugin_nodes().count().saturating_mul(self.parallelism).max(1);
        self.state.memory_limit_bytes / u64::try_from(tasks).unwrap_or(u64::MAX)
    }

    /// Every node that runs a plugin, and the plugin's name in the file.
    pub fn plugin_nodes(&self) -> impl Iterator<Item = (&str, &str)> {
        let transforms =
            self.transforms.iter().filter_map(|(name, t)| Some((name.as_str(), t.plugin.as_ref()?.plugin.as_str())));
        transforms.chain(self.aggregations.iter().map(|(name, a)| (name.as_str(), a.plugin.as_str())))
    }

    /// The inputs of an operator; a source has none.
    pub fn inputs_of(&self, node: &str) -> &[String] {
        let transform = self.transforms.iter().find(|(name, _)| name == node).map(|(_, t)| &t.inputs);
        let inputs =
            transform.or_else(|| self.aggregations.iter().find(|(name, _)| name == node).map(|(_, a)| &a.inputs));
        inputs.map_or(&[], Vec::as_slice)
    }

    /// A node and all operators and sources above it, each once.
    pub fn upstream<'a>(&'a self, node: &'a str) -> Vec<&'a str> {
        let mut found = vec![node];
        let mut next = 0;
        while let Some(at) = found.get(next).copied() {
            next += 1;
            for input in self.inputs_of(at) {
                if !found.contains(&input.as_str()) {
                    found.push(input);
                }
            }
        }
        found
    }
}

#[derive(Clone, Debug)]
pub struct AggregationSpec {
    /// names of sources and transforms
    pub inputs: Vec<String>,
    pub key: Vec<String>,
    pub window: WindowSpec,
    pub allowed_lateness_ms: u64,
    pub emit: EmitSpec,
    /// of a group of a global window, counted from its last event
    pub state_ttl_ms: Option<u64>,
    /// a key of [`Pipeline::plugins`]; with `aggregates` a name that no plugin can have
    pub plugin: String,
    /// in place of a plugin, in the order of the file; else empty
    pub aggregates: Vec<Aggregate>,
    /// JSON object; with `aggregates` their canonical text
    pub config: String,
    /// what the plugin calls X is column Y here
    pub columns: BTreeMap<String, String>,
    pub on_error: OnError,
    pub consecutive_limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowSpec {
    Tumbling { size_ms: i64, offset_ms: i64 },
    Sliding { size_ms: i64, slide_ms: i64, offset_ms: i64 },
    Session { gap_ms: i64 },
    Global,
}

/// When a group gives its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitSpec {
    OnClose,
    /// of wall time, too: groups that have changed
    Every {
        every_ms: u64,
    },
}

impl AggregationSpec {
    /// Whether a row once given can be replaced or deleted later.
    pub fn corrects(&self) -> bool {
        self.allowed_lateness_ms > 0 || self.emit != EmitSpec::OnClose
    }
}

#[derive(Clone, Debug)]
pub struct SinkSpec {
    /// node names, `NODE.errors`, `NODE.late`; `*.errors` is already expanded
    pub inputs: Vec<String>,
    pub kind: SinkKind,
}

#[derive(Clone, Debug)]
pub enum SinkKind {
    Iceberg(IcebergSinkSpec),
    Kafka(KafkaSinkSpec),
    File(FileSinkSpec),
    Console,
}

impl SinkKind {
    /// Whether a row can take the place of one that was written before.
    pub fn corrects(&self) -> bool {
        let upserts = matches!(self, Self::Iceberg(spec) if matches!(spec.mode, SinkMode::Upsert { .. }));
        upserts || self.keeps_revisions()
    }

    /// Whether each version of a row is a row of its own, with its revision.
    pub fn keeps_revisions(&self) -> bool {
        match self {
            Self::Iceberg(spec) => spec.mode == SinkMode::Append { revision: true },
            Self::Kafka(spec) => spec.revision,
            Self::File(spec) => spec.revision,
            Self::Console => false,
        }
    }
}

/// What an aggregation's rows come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// all of the sinks take corrections
    pub corrects: bool,
    /// a node that groups rows: it takes each group once
    pub operators: bool,
    /// a sink: it takes the changelog
    pub sinks: bool,
}

impl Pipeline {
    /// Who reads the rows of a node, straight or through row-wise steps.
    pub fn below(&self, node: &str) -> Below {
        let mut below = Below { corrects: true, ..Below::default() };
        let mut reached = vec![node];
        let mut next = 0;
        while let Some(at) = reached.get(next).copied() {
            next += 1;
            let reads = |inputs: &[String]| inputs.iter().any(|input| input == at);
            below.sinks |= self.sinks.iter().any(|(_, sink)| reads(&sink.inputs));
            below.corrects &= self.sinks.iter().all(|(_, sink)| !reads(&sink.inputs) || sink.kind.corrects());
            below.operators |= self.aggregations.iter().any(|(_, spec)| reads(&spec.inputs));
            for (name, spec) in self.transforms.iter().filter(|(_, spec)| reads(&spec.inputs)) {
                below.operators |= spec.deduplicate.is_some();
                if spec.deduplicate.is_none() && !reached.contains(&name.as_str()) {
                    reached.push(name);
                }
            }
        }
        below
    }
}

#[derive(Clone, Debug)]
pub struct IcebergSinkSpec {
    /// a key of [`Pipeline::catalogs`]
    pub catalog: String,
    /// namespace
    pub namespace: String,
    pub table: String,
    pub partition_by: Vec<PartitionField>,
    pub evolve: Evolve,
    pub mode: SinkMode,
    /// a multiple of the checkpoint interval
    pub commit_interval_ms: u64,
    /// `write.*` and other table properties
    pub properties: BTreeMap<String, String>,
}

/// What a row of a changelog does to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkMode {
    /// it is one more row; `revision`: with its revision and its kind of change in two columns
    Append { revision: bool },
    /// it takes the place of the row with this key
    Upsert { key: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionField {
    pub column: String,
    pub transform: PartitionTransform,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionTransform {
    Identity,
    Bucket(u32),
    Truncate(u32),
    Year,
    Month,
    Day,
    Hour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evolve {
    AddColumns,
    Fail,
}

#[derive(Clone, Debug)]
pub struct KafkaSinkSpec {
    pub brokers: String,
    pub topic: String,
    /// the column whose value is the record's key
    pub key: Option<String>,
    /// with each row's revision and its kind of change
    pub revision: bool,
    pub properties: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct FileSinkSpec {
    /// a folder, absolute; one file per task and checkpoint
    pub path: PathBuf,
    pub format: FileFormat,
    /// with each row's revision and its kind of change
    pub revision: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    Jsonl,
    Parquet,
}
