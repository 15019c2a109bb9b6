//! The real world's parts of a run, made from the checked pipeline: connectors, decoders, plugins, sinks, and the
//! checkpoint store behind the traits that the tasks and the coordinator know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use crossbeam_channel::Sender;
use millrace_core::checkpoint::{Checkpoint, Holds, Keep, StateFile};
use millrace_core::limits::KEY_GROUPS;
use millrace_core::schema::Schema;
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::aggregate_task::{Export, StateUploader};
use super::beforehand::{self, Beginning, Files, Looked, Operators};
use super::begin::Begin;
use super::coordinator::CheckpointLog;
use super::message::{Event, OperatorPart, Part, RunError};
use super::read_state::StateReader;
use super::run::{AggregationNode, OpenWriter, Parts, SinkNode, SourceNode};
use super::stats::RunStats;
use super::swaps::SharedHistory;
use super::transforms::{Fits, TransformNode};
use super::what_ran::{Ran, WhatRan};
use crate::catalog::submit::open_submit;
use crate::checkpoint::{CheckpointError, CheckpointStore, Owner, StatePart, encode_state};
use crate::cli::open::Opened;
use crate::clock::{Clock, SystemClock};
use crate::decode::Decoder;
use crate::decode::json::JsonDecoder;
use crate::plugin::{AggregatorFactory, TransformerFactory};
use crate::sink::console::ConsoleSink;
use crate::sink::file::FileSink;
use crate::sink::iceberg::{IcebergSink, Versions};
use crate::sink::kafka::KafkaSink;
use crate::sink::revised::{self, Revised};
use crate::sink::{SinkCommitter, SinkError, WriterStore};
use crate::source::Connector;
use crate::source::generator::GeneratorConnector;
use crate::source::kafka::KafkaConnector;
use crate::spec::columns;
use crate::spec::model::{
    AggregationSpec, ConnectorSpec, Format, IcebergSinkSpec, Location, Pipeline, SinkKind, SinkMode, SinkSpec,
    SourceSpec, TransformPluginSpec, TransformSpec, WindowSpec,
};

impl From<CheckpointError> for RunError {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Fenced { .. } => Self::Fenced(error.to_string()),
            other => Self::External(other.to_string()),
        }
    }
}

/// Opens everything that a run needs. Claims the checkpoint log, creates tables and adds columns to them, once nothing
/// refuses the start; tables are claimed by the run itself.
pub fn open(pipeline: &Pipeline, opened: &Opened, runtime: &Handle, begin: Begin<'_>) -> Result<Parts, RunError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Looked { claims, beginning, operators } = beforehand::look(pipeline, opened, runtime, begin)?;
    if begin.fresh {
        empty_location(&pipeline.checkpoint.location)?;
    }
    let store = Arc::new(CheckpointStore::open(&pipeline.checkpoint.location, &pipeline.name)?);
    let savepoint =
        begin.from_savepoint.map(|folder| runtime.block_on(super::begin::open(&store, folder))).transpose()?;
    let mut claimed = runtime.block_on(store.claim(&claims, clock.now_ms()))?;
    info!(
        pipeline = pipeline.name,
        generation = claimed.generation,
        from = claimed.restored.as_ref().map_or("the beginning".to_owned(), |r| format!("checkpoint {}", r.number)),
        "claimed"
    );
    let restored = match &savepoint {
        Some(savepoint) => {
            Some(runtime.block_on(super::begin::publish(&store, &mut claimed, savepoint, clock.now_ms()))?)
        }
        None => claimed.restored.as_ref().and_then(|record| record.checkpoint().cloned()),
    };
    let reader = Reader { store: Arc::clone(&store), runtime: runtime.clone() };
    let looked_at = match (&beginning, &claimed.restored) {
        (Beginning::Checkpoint(number), Some(record)) => *number == record.number,
        (Beginning::Nothing | Beginning::Savepoint, None) => true,
        _ => false,
    };
    let Operators { aggregations, transforms } = match &restored {
        // who ran until now has gone on in the meantime
        Some(checkpoint) if !looked_at => {
            beforehand::judge(pipeline, opened, Some((checkpoint, &reader)), begin.drop_state)?
        }
        _ => operators,
    };
    let input_of = |node: &str| opened.resolved.input.get(node).cloned().unwrap_or_default();
    let sinks = pipeline.sinks.iter();
    let sinks = sinks
        .map(|(name, spec)| open_sink(pipeline, name, spec, &input_of, &store, runtime))
        .collect::<Result<Vec<_>, _>>()?;
    for (digest, bytes) in &opened.plugin_bytes {
        runtime.block_on(store.put_plugin(digest, bytes.clone().into()))?;
    }
    let started_ms =
        restored.as_ref().map(|c| c.incarnation_started_ms).filter(|ms| *ms != 0).unwrap_or_else(|| clock.now_ms());
    let sources = pipeline
        .sources
        .iter()
        .map(|(name, spec)| open_source(name, spec, started_ms))
        .collect::<Result<Vec<_>, _>>()?;
    let steps: Vec<String> = transforms.iter().filter_map(TransformNode::steps_name).collect();
    let nodes = pipeline.sources.iter().map(|(n, _)| n).chain(pipeline.transforms.iter().map(|(n, _)| n)).chain(&steps);
    let nodes = nodes.chain(pipeline.aggregations.iter().map(|(n, _)| n)).chain(pipeline.sinks.iter().map(|(n, _)| n));
    let stats = Arc::new(RunStats::new(nodes.map(|n| Arc::from(n.as_str()))));
    let fence = claimed.owner.fence().clone();
    let next_number = claimed.owner.next_number();
    let log = Log {
        store: Arc::clone(&store),
        owner: Mutex::new(Some(claimed.owner)),
        keep: Keep { checkpoints: pipeline.checkpoint.retain, versions: pipeline.swap.versions_kept },
        clock: Arc::clone(&clock),
    };
    let mut restored = restored;
    if let Some(checkpoint) = &mut restored {
        checkpoint.incarnation_started_ms = started_ms;
    } else {
        restored = Some(Checkpoint { incarnation_started_ms: started_ms, ..Checkpoint::default() });
    }
    Ok(Parts {
        pipeline: pipeline.clone(),
        sources,
        transforms,
        aggregations,
        sinks,
        fence,
        next_number,
        restored,
        log: Arc::new(log),
        uploader: Arc::new(Uploader { store: Arc::clone(&store), runtime: runtime.clone() }),
        reader: Arc::new(reader),
        clock,
        runtime: runtime.clone(),
        stats,
        history: SharedHistory::new(pipeline.secrets.clone()),
    })
}

/// `--fresh`: the log is moved aside, never deleted.
fn empty_location(location: &Location) -> Result<(), RunError> {
    match location {
        Location::Local(path) => {
            if !path.exists() {
                return Ok(());
            }
            let stamp = SystemClock.now_ms();
            let mut aside = path.as_os_str().to_owned();
            aside.push(format!(".before-fresh-{stamp}"));
            std::fs::rename(path, &aside)
                .map_err(|e| RunError::External(format!("--fresh: cannot move {} aside: {e}", path.display())))?;
            warn!(moved_to = %std::path::Path::new(&aside).display(), "--fresh: the former checkpoints were moved aside");
            Ok(())
        }
        Location::ObjectStore { url, .. } => Err(RunError::Spec(format!(
            "--fresh works on local checkpoint locations; for {url} choose another `checkpoint.location`"
        ))),
    }
}

fn open_source(name: &str, spec: &SourceSpec, started_ms: i64) -> Result<SourceNode, RunError> {
    let external = |e: crate::source::SourceError| RunError::External(format!("source `{name}`: {e}"));
    let connector: Arc<dyn Connector> = match &spec.connector {
        ConnectorSpec::Kafka(kafka) => Arc::new(KafkaConnector::new(name, kafka).map_err(external)?),
        ConnectorSpec::Generator(generator) => {
            Arc::new(GeneratorConnector::new(name, generator, started_ms).map_err(external)?)
        }
    };
    let (schema, event_time, format) = (spec.schema.clone(), spec.event_time.clone(), spec.format);
    let node = name.to_owned();
    Ok(SourceNode {
        name: Arc::from(name),
        spec: spec.clone(),
        connector,
        decoder: Box::new(move || {
            let decoder: Box<dyn Decoder> = match format {
                Format::Json => Box::new(
                    JsonDecoder::new(&schema, &event_time)
                        .map_err(|e| RunError::Spec(format!("source `{node}`: {e}")))?,
                ),
            };
            Ok(decoder)
        }),
    })
}

/// With the plugins that run: those that the checkpoint goes on with, or the file's.
pub(super) fn open_operators(
    pipeline: &Pipeline,
    opened: &Opened,
    restored: Option<(&Checkpoint, &dyn Files)>,
) -> Result<Operators, RunError> {
    let ran = restored.map(|(restored, files)| WhatRan { pipeline, opened, restored, files });
    let mut of_aggregations = ran.as_ref().map(WhatRan::aggregations).transpose()?.unwrap_or_default();
    let mut draining = ran.as_ref().map(WhatRan::draining).transpose()?.unwrap_or_default();
    let mut of_transforms = ran.as_ref().map(WhatRan::transforms).transpose()?.unwrap_or_default();
    let (input, output) = (&opened.resolved.input, &opened.resolved.output);
    let of = |schemas: &BTreeMap<String, Schema>, name: &str| schemas.get(name).cloned().unwrap_or_default();
    let aggregations = pipeline.aggregations.iter().map(|(name, spec)| {
        let ran = of_aggregations.remove(name);
        let node = open_aggregation(name, spec, opened, ran, of(input, name), of(output, name))?;
        Ok(AggregationNode { drains: draining.remove(name), ..node })
    });
    let transforms = pipeline.transforms.iter().map(|(name, spec)| {
        open_transform(name, spec, opened, of_transforms.remove(name), of(input, name), of(output, name))
    });
    Ok(Operators {
        aggregations: aggregations.collect::<Result<_, RunError>>()?,
        transforms: transforms.collect::<Result<_, _>>()?,
    })
}

fn open_transform(
    name: &str,
    spec: &TransformSpec,
    opened: &Opened,
    ran: Option<Ran<dyn TransformerFactory>>,
    input: Schema,
    output: Schema,
) -> Result<TransformNode, RunError> {
    if let Some(Ran { factory, config, in_file }) = ran {
        let given = Fits::new(spec, &input, &*factory, &config).map(|fits| fits.output);
        if given.as_ref() != Ok(&output) {
            let why = given.err().unwrap_or_else(|| "it gives other columns than the one of the file".to_owned());
            return Err(RunError::Spec(format!(
                "`{name}` goes on with a plugin that was swapped in, and what is before it has changed since: {why}\nhint: let \
                 the pipeline file name the component that is to run"
            )));
        }
        let plugin = spec.plugin.clone().map(|plugin| TransformPluginSpec { config, ..plugin });
        let spec = TransformSpec { plugin, ..spec.clone() };
        let in_file = Some(in_file);
        return Ok(TransformNode { name: Arc::from(name), spec, factory: Some(factory), in_file, input, output });
    }
    let factory = match &spec.plugin {
        None => None,
        Some(plugin) => Some(
            opened
                .transformers
                .get(&plugin.plugin)
                .cloned()
                .ok_or_else(|| RunError::Internal(format!("plugin `{}` was not opened", plugin.plugin)))?,
        ),
    };
    Ok(TransformNode { name: Arc::from(name), spec: spec.clone(), factory, in_file: None, input, output })
}

fn open_aggregation(
    name: &str,
    spec: &AggregationSpec,
    opened: &Opened,
    ran: Option<Ran<dyn AggregatorFactory>>,
    input: Schema,
    output: Schema,
) -> Result<AggregationNode, RunError> {
    if let Some(Ran { factory, config, in_file }) = ran {
        let spec = AggregationSpec { config, ..spec.clone() };
        let name = Arc::from(name);
        return Ok(AggregationNode { name, spec, factory, in_file: Some(in_file), drains: None, input, output });
    }
    let factory = opened
        .factories
        .get(&spec.plugin)
        .cloned()
        .ok_or_else(|| RunError::Internal(format!("plugin `{}` was not opened", spec.plugin)))?;
    let (name, spec) = (Arc::from(name), spec.clone());
    Ok(AggregationNode { name, spec, factory, in_file: None, drains: None, input, output })
}

fn open_sink(
    pipeline: &Pipeline,
    name: &str,
    spec: &SinkSpec,
    input_of: &dyn Fn(&str) -> Schema,
    store: &Arc<CheckpointStore>,
    runtime: &Handle,
) -> Result<SinkNode, RunError> {
    let rows = input_of(name);
    let plain = |writer: OpenWriter| SinkNode {
        name: Arc::from(name),
        inputs: spec.inputs.clone(),
        tasks: 1,
        writer,
        committer: None,
        partition: None,
        every: 1,
    };
    let node = name.to_owned();
    let kept = key_and_window(pipeline, spec);
    let revised = spec.kind.keeps_revisions();
    let input = sink_columns(pipeline, spec, &rows);
    let mut node = match &spec.kind {
        SinkKind::Iceberg(iceberg) => open_iceberg(pipeline, name, spec, iceberg, &input, store, runtime)?,
        SinkKind::Kafka(kafka) => {
            let kafka = kafka.clone();
            plain(Box::new(move |task| Ok(Box::new(KafkaSink::new(&kafka, &node, task)?))))
        }
        SinkKind::File(file) => {
            let file = file.clone();
            plain(Box::new(move |task| Ok(Box::new(FileSink::new(&file, &node, task)?))))
        }
        SinkKind::Console => plain(Box::new(move |_| Ok(Box::new(ConsoleSink::new(&node))))),
    };
    if revised {
        let writer = node.writer;
        node.writer = Box::new(move |task| Ok(Box::new(Revised::new(writer(task)?, &rows, &kept))));
    }
    Ok(node)
}

/// The columns that a sink writes of the rows that come to it.
pub(super) fn sink_columns(pipeline: &Pipeline, spec: &SinkSpec, rows: &Schema) -> Schema {
    if spec.kind.keeps_revisions() { revised::schema(rows, &key_and_window(pipeline, spec)) } else { rows.clone() }
}

/// The columns by which the rows of a sink that is fed by aggregations are told apart.
fn key_and_window(pipeline: &Pipeline, spec: &SinkSpec) -> Vec<String> {
    let above: Vec<&str> = spec.inputs.iter().flat_map(|input| pipeline.upstream(input)).collect();
    let feeding = pipeline.aggregations.iter().filter(|(name, _)| above.contains(&name.as_str()));
    let window = [columns::WINDOW_START, columns::WINDOW_END].map(str::to_owned);
    feeding.flat_map(|(_, spec)| spec.key.iter().cloned()).chain(window).collect()
}

fn open_iceberg(
    pipeline: &Pipeline,
    name: &str,
    spec: &SinkSpec,
    iceberg: &IcebergSinkSpec,
    input: &Schema,
    store: &Arc<CheckpointStore>,
    runtime: &Handle,
) -> Result<SinkNode, RunError> {
    let catalog = pipeline
        .catalogs
        .get(&iceberg.catalog)
        .ok_or_else(|| RunError::Internal(format!("catalog `{}` is not in the pipeline", iceberg.catalog)))?;
    let failed = |e: anyhow::Error| RunError::External(format!("catalog `{}`: {e:#}", iceberg.catalog));
    let opened = runtime.block_on(crate::catalog::open_catalog(catalog)).map_err(failed)?;
    let every = iceberg.commit_interval_ms.checked_div(pipeline.checkpoint.interval_ms).unwrap_or(1).max(1);
    let every = u32::try_from(every).unwrap_or(u32::MAX);
    if let SinkMode::Upsert { key } = &iceberg.mode {
        let submit = runtime.block_on(open_submit(catalog)).map_err(failed)?;
        let versions = versions(pipeline, spec, key);
        let sink =
            IcebergSink::open_upsert(&pipeline.name, name, iceberg, opened, submit, input, &versions, runtime.clone());
        let sink = runtime.block_on(sink)?;
        let store: Arc<dyn WriterStore> = Arc::new(Keeper { store: Arc::clone(store), runtime: runtime.clone() });
        let writers = Arc::clone(&sink);
        let node = SinkNode {
            name: Arc::from(name),
            inputs: spec.inputs.clone(),
            // where the rows of an identity are, one mind has to know
            tasks: 1,
            writer: Box::new(move |_| Ok(writers.upsert_writer(Arc::clone(&store))?)),
            committer: Some(sink),
            partition: None,
            every,
        };
        return Ok(node);
    }
    let sink = runtime.block_on(IcebergSink::open(&pipeline.name, name, iceberg, opened, input, runtime.clone()))?;
    // Results are few: one task writes them to one file a commit. Events are many.
    let results =
        |input: &str| pipeline.upstream(input).iter().any(|n| pipeline.aggregations.iter().any(|(a, _)| a == n));
    let from_sources = spec.inputs.iter().any(|i| !columns::is_side_stream(i) && !results(i));
    let (writers, hasher) = (Arc::clone(&sink), Arc::clone(&sink));
    let node = SinkNode {
        name: Arc::from(name),
        inputs: spec.inputs.clone(),
        tasks: if from_sources { pipeline.parallelism.max(1) } else { 1 },
        writer: Box::new(move |task| Ok(writers.writer(task, every > 1))),
        committer: Some(Arc::clone(&sink) as Arc<dyn SinkCommitter>),
        partition: Some(Arc::new(move |batch| Ok(hasher.partition_hash(&batch.rows)?))),
        every,
    };
    Ok(node)
}

/// The aggregations whose rows come to a sink, straight or through row-wise steps.
fn feeding<'a>(pipeline: &'a Pipeline, spec: &'a SinkSpec) -> Vec<&'a AggregationSpec> {
    let mut reached: Vec<&str> = spec.inputs.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(at) = reached.get(next).copied() {
        next += 1;
        if let Some((_, aggregation)) = pipeline.aggregations.iter().find(|(name, _)| name == at) {
            found.push(aggregation);
            continue;
        }
        for input in pipeline.inputs_of(at) {
            if !reached.contains(&input.as_str()) {
                reached.push(input);
            }
        }
    }
    found
}

/// Versions of a row have key and window of the aggregation that gives them in common. Where several give them, and each by
/// another key, only the sink's own key is left.
fn versions(pipeline: &Pipeline, spec: &SinkSpec, key: &[String]) -> Versions {
    let all: Vec<Versions> = feeding(pipeline, spec)
        .into_iter()
        .map(|spec| {
            let window = (spec.window != WindowSpec::Global).then(|| columns::WINDOW_START.to_owned());
            let window_ms = match spec.window {
                WindowSpec::Tumbling { size_ms, .. } | WindowSpec::Sliding { size_ms, .. } => Some(size_ms),
                WindowSpec::Session { .. } | WindowSpec::Global => None,
            };
            Versions { identity: spec.key.iter().cloned().chain(window).collect(), window_ms }
        })
        .collect();
    let first = all.first().cloned().unwrap_or_default();
    let same_key = !all.is_empty() && all.iter().all(|versions| versions.identity == first.identity);
    let same_window = all.iter().all(|versions| versions.window_ms == first.window_ms);
    Versions {
        identity: if same_key { first.identity } else { key.to_vec() },
        window_ms: first.window_ms.filter(|_| same_window),
    }
}

/// The checkpoint log behind the coordinator.
pub(super) struct Log {
    pub store: Arc<CheckpointStore>,
    /// taken out while a record is being published
    pub owner: Mutex<Option<Owner>>,
    pub keep: Keep,
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl CheckpointLog for Log {
    async fn publish(&self, number: u64, checkpoint: &Checkpoint) -> Result<(), RunError> {
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut owner = owner.ok_or_else(|| RunError::Internal("two checkpoints are published at once".into()))?;
        let record = self.store.checkpoint_record(&owner, checkpoint.clone(), self.clock.now_ms());
        let published = if record.number == number {
            self.store.publish_checkpoint(&mut owner, &record).await.map(|_| ()).map_err(RunError::from)
        } else {
            Err(RunError::Internal(format!("checkpoint {number} would be published as {}", record.number)))
        };
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        published
    }

    async fn retain(&self, confirmed: BTreeMap<String, u64>) {
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(owner) = owner else { return };
        if let Err(error) = self.store.retain(&owner, self.keep, &confirmed).await {
            warn!("old checkpoints could not be removed: {error}");
        }
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
    }
}

pub(super) struct Reader {
    pub store: Arc<CheckpointStore>,
    pub runtime: Handle,
}

impl StateReader for Reader {
    fn read(&self, file: &StateFile) -> Result<Vec<arrow_array::RecordBatch>, RunError> {
        Ok(self.runtime.block_on(self.store.read_state_file(file))?)
    }
}

/// What a sink's writer has to know again, among the operators' state files.
struct Keeper {
    store: Arc<CheckpointStore>,
    runtime: Handle,
}

impl WriterStore for Keeper {
    fn write(&self, sink: &str, checkpoint: u64, rows: RecordBatch) -> crate::sink::Result<StateFile> {
        let part = StatePart {
            operator: sink.to_owned(),
            holds: Holds::State,
            part: 0,
            first_key_group: 0,
            last_key_group: KEY_GROUPS - 1,
            window_start_ms: 0,
            window_end_ms: 0,
            batches: vec![rows],
        };
        let failed = |e: CheckpointError| SinkError::Fatal(e.to_string());
        let encoded = encode_state(&part).map_err(failed)?;
        self.runtime.block_on(self.store.upload_state(checkpoint, encoded)).map_err(failed)
    }

    fn read(&self, file: &StateFile) -> crate::sink::Result<Vec<RecordBatch>> {
        let read = self.runtime.block_on(self.store.read_state_file(file));
        read.map_err(|e| SinkError::Fatal(e.to_string()))
    }
}

/// Encodes on blocking threads, uploads, acknowledges.
pub(super) struct Uploader {
    pub store: Arc<CheckpointStore>,
    pub runtime: Handle,
}

impl StateUploader for Uploader {
    fn submit(&self, export: Export, events: Sender<Event>) {
        let store = Arc::clone(&self.store);
        self.runtime.spawn(async move {
            let task = export.task.clone();
            let event = match upload(&store, export).await {
                Ok(event) => event,
                Err(error) => Event::Failed { task, error },
            };
            // a run that is over has no receiver left
            let _ = events.send(event);
        });
    }
}

async fn upload(store: &CheckpointStore, export: Export) -> Result<Event, RunError> {
    let mut written = Vec::with_capacity(export.windows.len());
    for window in export.windows {
        let rows = tokio::task::spawn_blocking(move || window.batches.make()).await;
        let batches = rows.map_err(|e| RunError::Internal(format!("making state files: {e}")))??;
        if batches.is_empty() {
            continue;
        }
        let part = StatePart {
            operator: export.task.node.to_string(),
            holds: window.holds,
            part: window.part,
            first_key_group: export.key_groups.0,
            last_key_group: export.key_groups.1.saturating_sub(1),
            window_start_ms: window.window.start_ms,
            window_end_ms: window.window.end_ms,
            batches,
        };
        let encoded = tokio::task::spawn_blocking(move || encode_state(&part))
            .await
            .map_err(|e| RunError::Internal(format!("encoding state: {e}")))??;
        written.push(store.upload_state(export.checkpoint, encoded).await?);
    }
    let part = Part::Operator(OperatorPart {
        watermark_ms: export.watermark_ms,
        reached: export.reached,
        unchanged: export.unchanged,
        written,
        late_dropped: export.late_dropped,
        version: export.version,
        exchanged: export.exchanged,
        next_window_ms: export.next_window_ms,
        is_draining: export.is_draining,
    });
    Ok(Event::Acknowledged { task: export.task, checkpoint: export.checkpoint, part })
}
