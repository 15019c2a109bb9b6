//! The parts of a run, over the simulated world: everything that [`run`](crate::runtime::run::run) is handed.
//!
//! ```text
//!   events ─┬──────────────▶ raw                    .errors of both ──▶ errors
//!           └─▶ (unique) ─▶ ledger ────▶ results        ledger.late ──▶ late (in most worlds)
//! ```
//!
//! In every other world the ledger reads what a plugin hands on and a deduplication lets pass. No event repeats another, so that one that is
//! taken for a repetition, after a restart from a state that is ahead of the positions, is missing.
//!
//! The decoder, the native plugin, the checkpoint store and its state files are the real ones.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use millrace_core::batch::Batch;
use millrace_core::checkpoint::{Checkpoint, Entry, Keep};
use millrace_core::limits::PLUGIN_VERSIONS_KEPT;
use millrace_core::schema::{DataType, Field, Schema};
use millrace_plugin::prelude::*;
use tokio::runtime::Handle;

use super::fragile::FragileFactory;
use super::process::Process;
use super::random::Random;
use super::script::{CLOCK_JUMPS_MS, Kind, MAX_FUTURE_MS, Script};
use super::source::Broker;
use super::steps::{StepsFactory, UNIQUE, output};
use super::store::Location;
use super::swapper::swapper;
use super::table::{Committer, Writer};
use crate::checkpoint::{Backoff, CheckpointStore};
use crate::clock::Clock;
use crate::decode::json::JsonDecoder;
use crate::plugin::AggregatorFactory;
use crate::plugin::native::NativeFactory;
use crate::runtime::edge::PartitionHash;
use crate::runtime::message::RunError;
use crate::runtime::nodes::{Log, Reader, Uploader};
use crate::runtime::run::{AggregationNode, Drains, Parts, SinkNode, SourceNode};
use crate::runtime::stats::RunStats;
use crate::runtime::swaps::SharedHistory;
use crate::runtime::transforms::TransformNode;
use crate::sink::revised::Revised;
use crate::spec::model;
use crate::spec::transforms::plugin_output;

const PIPELINE: &str = "simulation";
const SOURCE: &str = "events";
pub const LEDGER: &str = "ledger";

#[derive(Input)]
pub struct Event<'a> {
    id: i64,
    user: i64,
    kind: &'a str,
}

/// Remembers every event, so that one too few or too many is seen, and which.
#[derive(State, Default)]
pub struct Ledger {
    events: i64,
    ids: String,
    users: DistinctCount<i64>,
}

#[derive(Output)]
pub struct Entries {
    events: i64,
    ids: String,
    users: i64,
}

#[aggregation(name = "ledger", version = "1.0.0")]
impl Aggregation for Ledger {
    type Input<'a> = Event<'a>;
    type Output = Entries;

    fn update(&mut self, event: Event<'_>) -> Result<(), Reject> {
        if event.kind != "good" {
            return Err(Reject::new("refused"));
        }
        self.events += 1;
        self.ids.push_str(&format!("{} ", event.id));
        self.users.insert(event.user);
        Ok(())
    }

    fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.ids.push_str(&other.ids);
        self.users.merge(&other.users);
    }

    fn evaluate(&self, _: &Window) -> Entries {
        Entries { events: self.events, ids: self.ids.clone(), users: self.users.count() }
    }
}

/// A machine's clock that is set anew between any two looks at it: event time must not notice.
#[derive(Debug)]
struct JumpingClock {
    now_ms: i64,
    looks: AtomicU64,
}

impl Clock for JumpingClock {
    fn now_ms(&self) -> i64 {
        let look = self.looks.fetch_add(1, Ordering::SeqCst);
        self.now_ms + Random::new(look, 4).within(-CLOCK_JUMPS_MS..=CLOCK_JUMPS_MS)
    }
}

/// What [`nodes::open`](crate::runtime::nodes::open) does for the real world.
pub fn open(process: &Arc<Process>, runtime: &Handle) -> Result<Parts, RunError> {
    let (world, life) = (&process.world, &process.life);
    let clock: Arc<dyn Clock> = Arc::new(JumpingClock { now_ms: world.script.now_ms, looks: AtomicU64::new(0) });
    let ids = Arc::clone(world);
    let backoff = Backoff { tries_max: life.store_tries, first_pause_ms: 0, pause_max_ms: 1 };
    let store = CheckpointStore::with_store(Arc::new(Location { process: Arc::clone(process) }), "", PIPELINE)
        .with_backoff(backoff)
        .with_ids(Arc::new(move || ids.next_id().to_string()));
    let store = Arc::new(store);
    let claimed = runtime.block_on(store.claim(&world.claims(), clock.now_ms()))?;
    let restored = claimed.restored.and_then(|record| match record.entry {
        Entry::Checkpoint(checkpoint) => Some(checkpoint),
        Entry::Claim => None,
    });
    let source = source(process);
    let transforms = if world.script.seed % 2 == 1 { vec![unique(process, &source.spec.output)] } else { Vec::new() };
    let (from, input) = transforms.first().map_or((SOURCE, &source.spec.output), |t| (&*t.name, &t.output));
    let aggregation = aggregation(process, from, input, restored.as_ref());
    let sinks = sinks(process, &aggregation.output);
    let history = SharedHistory::default();
    if life.memory_limit_bytes >= 1_000_000 || script_stays(process) {
        process.swaps_with(swapper(process, &aggregation, transforms.first(), &history));
    }
    let names = sinks.iter().map(|s| &s.name).chain([&source.name, &aggregation.name]).cloned();
    Ok(Parts {
        stats: Arc::new(RunStats::new(names)),
        pipeline: pipeline(process, &sinks),
        sources: vec![source],
        transforms,
        aggregations: vec![aggregation],
        sinks,
        fence: claimed.owner.fence().clone(),
        next_number: claimed.owner.next_number(),
        restored: restored.or_else(|| Some(Checkpoint { incarnation_started_ms: 1, ..Checkpoint::default() })),
        log: Arc::new(Log {
            store: Arc::clone(&store),
            owner: Mutex::new(Some(claimed.owner)),
            keep: Keep { checkpoints: life.retain, versions: PLUGIN_VERSIONS_KEPT },
            clock: Arc::clone(&clock),
        }),
        uploader: Arc::new(Uploader { store: Arc::clone(&store), runtime: runtime.clone() }),
        reader: Arc::new(Reader { store, runtime: runtime.clone() }),
        clock,
        runtime: runtime.clone(),
        history,
    })
}

fn source(process: &Arc<Process>) -> SourceNode {
    let script = &process.world.script;
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    let columns = vec![
        field("key", DataType::String),
        field("id", DataType::Long),
        field("user", DataType::Long),
        field("kind", DataType::String),
        field("at", DataType::Timestamptz),
    ];
    let metadata = [field("partition", DataType::Int), field("offset", DataType::Long)];
    let output = Schema::new(columns.iter().cloned().chain(metadata).collect());
    let paths = columns.iter().map(|c| vec![c.name.clone()]).collect();
    let schema = model::SourceSchema { schema: Schema::new(columns), paths };
    let event_time = model::EventTimeSpec::Column { name: "at".into(), unit: model::TimeUnit::Millis };
    let spec = model::SourceSpec {
        // never opened: the broker is handed in
        connector: model::ConnectorSpec::Kafka(model::KafkaSpec {
            brokers: String::new(),
            topics: model::TopicSpec::Names(Vec::new()),
            group_id: String::new(),
            start: model::Start::Earliest,
            properties: BTreeMap::new(),
        }),
        schema: schema.clone(),
        format: model::Format::Json,
        event_time: event_time.clone(),
        watermark: model::WatermarkSpec {
            out_of_orderness_ms: script.out_of_orderness_ms,
            idle_timeout_ms: script.idle_timeout_ms,
            max_drift_ms: script.max_drift_ms,
            max_future_ms: Some(MAX_FUTURE_MS),
            when_idle: model::WhenIdle::Hold,
        },
        on_error: model::OnError::DeadLetter,
        consecutive_limit: u64::MAX,
        output,
        metadata: model::MetadataSpec {
            partition: Some("partition".into()),
            offset: Some("offset".into()),
            ..model::MetadataSpec::default()
        },
    };
    SourceNode {
        name: SOURCE.into(),
        spec,
        connector: Arc::new(Broker::new(process)),
        decoder: Box::new(move || Ok(Box::new(JsonDecoder::new(&schema, &event_time).map_err(RunError::Internal)?))),
    }
}

fn unique(process: &Arc<Process>, input: &Schema) -> TransformNode {
    let spec = model::TransformSpec {
        inputs: vec![SOURCE.into()],
        filter: Some("id >= 0".into()),
        set: vec![("user".into(), "user + 0".into())],
        select: None,
        plugin: Some(model::TransformPluginSpec {
            plugin: UNIQUE.into(),
            config: String::new(),
            columns: BTreeMap::new(),
        }),
        deduplicate: Some(model::DeduplicateSpec {
            key: vec!["id".into(), "key".into()],
            within_ms: process.world.script.window_ms,
        }),
        on_error: model::OnError::Fail,
        consecutive_limit: u64::MAX,
    };
    TransformNode {
        name: UNIQUE.into(),
        spec,
        factory: Some(Arc::new(StepsFactory::new(process, 0))),
        in_file: None,
        input: input.clone(),
        output: plugin_output(&BTreeMap::new(), input, &output()),
    }
}

fn aggregation(process: &Arc<Process>, from: &str, input: &Schema, restored: Option<&Checkpoint>) -> AggregationNode {
    let script = &process.world.script;
    let factory = NativeFactory::<Ledger>::new(LEDGER);
    let signature = factory.open("", input).expect("opens").signature().clone();
    let edges = ["window_start", "window_end"].map(|name| Field::new(name, DataType::Timestamptz, false));
    let output = [Field::new("key", DataType::String, false)].into_iter().chain(edges).chain(signature.output.fields);
    let draining = restored.and_then(|checkpoint| checkpoint.operators.get(LEDGER)?.draining.as_ref());
    let drains = draining.map(|draining| Drains {
        factory: Arc::new(FragileFactory {
            inner: NativeFactory::<Ledger>::new(LEDGER),
            process: Arc::clone(process),
            falls_percent: None,
        }),
        config: String::new(),
        before_ms: draining.before_ms,
    });
    AggregationNode {
        name: LEDGER.into(),
        spec: model::AggregationSpec {
            inputs: vec![from.into()],
            key: vec!["key".into()],
            window: window(script),
            allowed_lateness_ms: script.lateness_ms,
            emit: match script.early {
                true => model::EmitSpec::Every { every_ms: 5 },
                false => model::EmitSpec::OnClose,
            },
            state_ttl_ms: None,
            plugin: LEDGER.into(),
            aggregates: Vec::new(),
            config: String::new(),
            columns: BTreeMap::new(),
            on_error: model::OnError::DeadLetter,
            consecutive_limit: u64::MAX,
        },
        factory: Arc::new(FragileFactory { inner: factory, process: Arc::clone(process), falls_percent: None }),
        in_file: None,
        drains,
        input: input.clone(),
        output: Schema::new(output.collect()),
    }
}

fn window(script: &Script) -> model::WindowSpec {
    let (size_ms, offset_ms) = (script.window_ms, script.window_offset_ms);
    match script.kind {
        Kind::Tumbling => model::WindowSpec::Tumbling { size_ms, offset_ms },
        Kind::Sliding { slide_ms } => model::WindowSpec::Sliding { size_ms, slide_ms, offset_ms },
        Kind::Session => model::WindowSpec::Session { gap_ms: size_ms },
    }
}

fn sinks(process: &Arc<Process>, results: &Schema) -> Vec<SinkNode> {
    let life = &process.life;
    let by_time: PartitionHash =
        Arc::new(|batch: &Batch| Ok(Some(batch.event_time_ms.iter().map(|ms| ms.unsigned_abs()).collect())));
    let sink = |name: &str, inputs: &[&str], partition| {
        let writers = Arc::clone(process);
        SinkNode {
            name: name.into(),
            inputs: inputs.iter().map(|&i| i.to_owned()).collect(),
            tasks: life.sink_tasks,
            writer: Box::new(move |_| Ok(Box::new(Writer { process: Arc::clone(&writers), rows: Vec::new() }))),
            committer: Some(Arc::new(Committer { process: Arc::clone(process), table: name.to_owned() })),
            partition,
            every: life.commit_every,
        }
    };
    // each version of each result, under its revision
    let (writers, results) = (Arc::clone(process), results.clone());
    let kept = ["key", "window_start", "window_end"].map(str::to_owned);
    let changelog = SinkNode {
        // versions of a row must not overtake each other
        tasks: 1,
        writer: Box::new(move |_| {
            let rows = Box::new(Writer { process: Arc::clone(&writers), rows: Vec::new() });
            Ok(Box::new(Revised::new(rows, &results, &kept)))
        }),
        ..sink("results", &[LEDGER], None)
    };
    let mut sinks = vec![
        changelog,
        sink("raw", &[SOURCE], Some(by_time)),
        sink("errors", &["events.errors", "ledger.errors"], None),
    ];
    if process.world.script.late_connected {
        sinks.push(sink("late", &["ledger.late"], None));
    }
    sinks
}

/// Sessions never go to disk.
fn script_stays(process: &Process) -> bool {
    process.world.script.kind == Kind::Session
}

fn pipeline(process: &Process, sinks: &[SinkNode]) -> model::Pipeline {
    let life = &process.life;
    let stays = script_stays(process);
    let memory_limit_bytes = if stays { 1 << 50 } else { life.memory_limit_bytes };
    let backend = match memory_limit_bytes {
        0..1_000_000 => model::Backend::Disk { path: process.disk.path().to_owned() },
        _ => model::Backend::Memory,
    };
    let named = |sink: &SinkNode| {
        let file = model::FileSinkSpec { path: Default::default(), format: model::FileFormat::Jsonl, revision: true };
        let kind = if &*sink.name == "results" { model::SinkKind::File(file) } else { model::SinkKind::Console };
        (sink.name.to_string(), model::SinkSpec { inputs: sink.inputs.clone(), kind })
    };
    model::Pipeline {
        name: PIPELINE.into(),
        file: Default::default(),
        parallelism: life.parallelism,
        time: model::TimeSpec::Event,
        checkpoint: model::CheckpointSpec {
            interval_ms: life.interval_ms,
            location: model::Location::Local(Default::default()),
            retain: life.retain,
            timeout_ms: 60_000,
            min_pause_ms: 0,
            tolerated_failures: 0,
        },
        state: model::StateSpec { memory_limit_bytes, backend },
        swap: model::SwapSpec { probation_ms: life.probation_ms, versions_kept: PLUGIN_VERSIONS_KEPT },
        errors: model::ErrorsSpec { on_error: model::OnError::DeadLetter, consecutive_limit: u64::MAX, captures: None },
        plugins: BTreeMap::new(),
        catalogs: BTreeMap::new(),
        schemas: BTreeMap::new(),
        sources: Vec::new(),
        transforms: Vec::new(),
        aggregations: Vec::new(),
        sinks: sinks.iter().map(named).collect(),
        secrets: Default::default(),
    }
}
