//! [`Control`] over a run: checks what is asked for against the pipeline as it runs, without touching it, and hands it to
//! the coordinator.
//!
//! A plugin is read, checked (interface, imports, columns, state, configuration), compiled and tried on no rows here, in the
//! thread of whoever asks. What is wrong with it is said before anything of the run has changed.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow_array::{ArrayRef, new_empty_array};
use crossbeam_channel::{Sender, bounded};
use millrace_core::checkpoint::{Checkpoint, PluginRef};
use millrace_core::schema::{Field, Schema};
use millrace_core::swap::{Phase, SwapRecord, Version};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tracing::info;

use super::aggregate_task::InputColumn;
use super::control::{Control, Refused, SwapRequest};
use super::coordinator::Order;
use super::recorder::{Recorded, Recorder};
use super::run::{AggregationNode, Parts, offered_to_plugin};
use super::swaps::{SharedHistory, SwapOrder};
use super::versions::shadow::Comparison;
use super::versions::{Candidate, OpenShared, refused};
use crate::api::words;
use crate::capture::{Captures, Kind};
use crate::checkpoint::CheckpointStore;
use crate::clock::Clock;
use crate::plugin::artifact::{self, Artifact};
use crate::plugin::limits::PluginLimits;
use crate::plugin::{AggregatorFactory, Info, PluginEngine, StateOrigin, WasmFactory};
use crate::spec::columns;
use crate::spec::model::{AggregationSpec, Backend, Pipeline, TransformSpec, WindowSpec};
use crate::spec::secrets::Secrets;

mod transforms;

use transforms::{no_shadow, of_transform};

/// Starts the engine that compiles plugins, once one is needed.
pub type StartEngine = Box<dyn Fn() -> Result<Arc<PluginEngine>, String> + Send + Sync>;

/// Copies a checkpoint into a folder.
pub type WriteSavepoint = Arc<dyn Fn(&str, u64, &Checkpoint) -> Result<(), String> + Send + Sync>;

pub struct Controller {
    pipeline: Pipeline,
    nodes: BTreeMap<String, Node>,
    /// in the order of time, by swap: what has been accepted in this run
    accepted: Mutex<BTreeMap<u64, Running>>,
    history: SharedHistory,
    orders: Sender<Order>,
    store: CheckpointStore,
    runtime: Handle,
    clock: Arc<dyn Clock>,
    captures: Arc<Captures>,
    start_engine: StartEngine,
    engine: OnceLock<Arc<PluginEngine>>,
    savepoint: Option<WriteSavepoint>,
}

struct Node {
    of: Of,
    input: Schema,
    output: Schema,
    first: Running,
}

enum Of {
    Aggregation(AggregationSpec),
    /// `tasks`: the node of those that run its plugin
    Transform {
        spec: TransformSpec,
        tasks: String,
    },
}

/// A plugin as it runs in an operator.
#[derive(Clone, Debug)]
struct Running {
    /// its configuration without secrets
    plugin: Version,
    /// with them
    config: String,
    state: Schema,
    output: Schema,
}

impl Controller {
    pub fn new(
        parts: &Parts,
        orders: Sender<Order>,
        store: CheckpointStore,
        start_engine: StartEngine,
        savepoint: Option<WriteSavepoint>,
    ) -> Result<Self, String> {
        let secrets = &parts.pipeline.secrets;
        let aggregations = parts.aggregations.iter().map(|node| Ok((node.name.to_string(), Node::of(node, secrets)?)));
        let transforms =
            parts.transforms.iter().filter_map(|node| Some(Ok((node.name.to_string(), of_transform(node, secrets)?))));
        Ok(Self {
            pipeline: parts.pipeline.clone(),
            nodes: aggregations.chain(transforms).collect::<Result<_, String>>()?,
            accepted: Mutex::default(),
            history: parts.history.clone(),
            orders,
            store,
            runtime: parts.runtime.clone(),
            clock: Arc::clone(&parts.clock),
            captures: Arc::new(Captures::new(parts.pipeline.errors.captures.clone())),
            start_engine,
            engine: OnceLock::new(),
            savepoint,
        })
    }

    fn node(&self, operator: &str) -> Result<&Node, Refused> {
        let without = |does: &str| {
            Err(Refused::Invalid(format!(
                "`{operator}` has no plugin, {does}\nhint: change the pipeline file and start it again"
            )))
        };
        match self.nodes.get(operator) {
            Some(Node { of: Of::Aggregation(spec), .. }) if !spec.aggregates.is_empty() => {
                return without("it computes `aggregate`");
            }
            Some(node) => return Ok(node),
            None if self.pipeline.transforms.iter().any(|(name, _)| name == operator) => {
                return without("its steps are in the file");
            }
            None => {}
        }
        let names: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
        Err(Refused::Unknown(format!(
            "pipeline `{}` has no operator `{operator}`; it has {}",
            self.pipeline.name,
            names.join(", ")
        )))
    }

    /// What runs in an operator, and will after what is under way.
    fn running(&self, operator: &str, node: &Node) -> Running {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let history = self.history.lock();
        let active = history.iter().rev().filter(|record| record.operator == operator && record.phase.is_active());
        let known = active.into_iter().find_map(|record| accepted.get(&record.id));
        known.unwrap_or(&node.first).clone()
    }

    /// A record of its own for what is asked; only one at a time.
    fn reserve(&self, operator: &str, by: &str, from: Version, is_rollback: bool) -> Result<u64, Refused> {
        if !self.history.is_open() {
            return Err(Refused::Conflict("the run is starting or ending: nothing can be changed now".to_owned()));
        }
        let mut history = self.history.lock();
        let draining = history.iter().rev().find(|r| {
            // in probation, too, and it would be ended
            let is_draining =
                r.phase == Phase::Draining || (r.phase == Phase::Probation && r.drains_before_ms.is_some());
            r.operator == operator && is_draining
        });
        if let Some(draining) = draining {
            let before_ms = draining.drains_before_ms.unwrap_or_default();
            return Err(Refused::Conflict(format!(
                "since swap {} the former version of `{operator}` ends the windows that began before {} UTC: another version can \
                 follow when that swap is done\nhint: `millrace status {}` shows when it is{}",
                draining.id,
                words::time(before_ms, before_ms),
                self.pipeline.name,
                match draining.phase {
                    Phase::Probation => "; until its probation ends, `millrace rollback` takes the new version back",
                    _ => "",
                }
            )));
        }
        let is_busy = |r: &&SwapRecord| !r.phase.is_over() && !matches!(r.phase, Phase::Probation | Phase::Draining);
        let busy = history.iter().rev().find(is_busy);
        if let Some(busy) = busy {
            return Err(Refused::Conflict(format!(
                "swap {} of `{}` is under way ({}): one at a time\nhint: `millrace status {}` shows how far it is",
                busy.id,
                busy.operator,
                phase_name(busy.phase),
                self.pipeline.name
            )));
        }
        let id = history.next_id();
        history.push(SwapRecord {
            id,
            operator: operator.to_owned(),
            requested_at_ms: self.clock.now_ms(),
            by: by.to_owned(),
            is_rollback,
            from,
            ..SwapRecord::default()
        });
        Ok(id)
    }

    fn record(&self, id: u64) -> SwapRecord {
        self.history.lock().get(id).cloned().unwrap_or_default()
    }

    fn refuse(&self, id: u64, reason: String) -> Refused {
        // a plugin may have said what it was given
        let reason = self.pipeline.secrets.redact(&reason);
        if let Some(record) = self.history.lock().get_mut(id) {
            record.phase = Phase::Refused;
            record.reason = Some(reason.clone());
        }
        Refused::Invalid(reason)
    }

    fn engine(&self) -> Result<&Arc<PluginEngine>, String> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = (self.start_engine)()?;
        Ok(self.engine.get_or_init(|| engine))
    }

    fn begin(&self, request: SwapRequest, former: Option<String>) -> Result<SwapRecord, Refused> {
        let node = self.node(&request.operator)?;
        if let (Of::Transform { .. }, Some(_)) = (&node.of, request.shadow) {
            return Err(Refused::Invalid(no_shadow(&request.operator)));
        }
        if let (Of::Aggregation(_), Backend::Disk { .. }) = (&node.of, &self.pipeline.state.backend) {
            return Err(Refused::Invalid(format!(
                "with `backend = \"disk\"` a plugin is replaced at a start\nhint: change the file, then `millrace stop {0}` and \
                 `millrace run {0}`: nothing is lost in between",
                self.pipeline.file.display()
            )));
        }
        if let (Of::Transform { .. }, true) = (&node.of, request.drain) {
            return Err(Refused::Invalid(format!(
                "`{}` is a transform: it has no windows that a former version could end\nhint: without `--drain`",
                request.operator
            )));
        }
        if request.drain && !node.has_fixed_windows() {
            return Err(Refused::Invalid(format!(
                "only windows of a fixed size can be ended by the former version: a new event may join any session of `{}`, and \
                 the global window never ends\nhint: without `--drain` the new version takes the state over, or makes its own of \
                 it (`migrate`)",
                request.operator
            )));
        }
        let running = self.running(&request.operator, node);
        let id = self.reserve(&request.operator, &request.by, running.plugin.clone(), former.is_some())?;
        let shadow = request.shadow;
        let operator = match &node.of {
            Of::Aggregation(_) => request.operator.clone(),
            Of::Transform { tasks, .. } => tasks.clone(),
        };
        let config = match former {
            Some(config) => Ok(config),
            None => self.configure(&running.config, &request.config),
        };
        let prepared = config.and_then(|config| match &node.of {
            Of::Aggregation(spec) => self.prepare(id, request, node, spec, &running, config),
            Of::Transform { spec, .. } => self.prepare_transform(id, request, node, spec, &running, config),
        });
        match prepared {
            Ok(candidate) => {
                let order = SwapOrder { candidate: Arc::new(candidate), operator, shadow };
                if self.orders.send(Order::Swap(order)).is_err() {
                    return Err(self.refuse(id, "the run is ending".to_owned()));
                }
                Ok(self.record(id))
            }
            Err(reason) => Err(self.refuse(id, reason)),
        }
    }

    fn configure(&self, running: &str, changes: &[(String, String)]) -> Result<String, String> {
        let config = configure(running, changes)?;
        // what is shown of a configuration can be sent back
        if changes.is_empty() { Ok(config) } else { self.pipeline.secrets.unseal(&config) }
    }

    /// What was sent, or runs, if it is a plugin of this kind and not what runs. `plugin`: its name in the file.
    fn read(
        &self,
        request: &mut SwapRequest,
        plugin: &str,
        kind: artifact::Kind,
        running: &Running,
        config: &str,
    ) -> Result<Read, String> {
        let operator = &request.operator;
        let bytes = match request.bytes.take() {
            Some(bytes) => bytes,
            None => {
                let kept = self.runtime.block_on(self.store.get_plugin(&running.plugin.sha256));
                kept.map_err(|e| e.to_string())?.to_vec()
            }
        };
        let artifact = Artifact::from_bytes(plugin, bytes.clone(), None).map_err(|e| e.to_string())?;
        if let Some(wanted) = request.sha256.as_ref().filter(|wanted| !wanted.eq_ignore_ascii_case(artifact.digest())) {
            return Err(format!(
                "its sha256 is {}, and {wanted} was said\nhint: is it the file that was meant, and did all of it arrive?",
                artifact.digest()
            ));
        }
        if artifact.kind() != kind {
            let wanted = if kind == artifact::Kind::Aggregation { "an aggregation" } else { "a transform" };
            return Err(format!("it is a {} plugin, and `{operator}` needs {wanted}", artifact.kind().name()));
        }
        if artifact.digest() == running.plugin.sha256 && config == running.config {
            return Err(format!("it is what `{operator}` runs, with the same configuration: there is nothing to do"));
        }
        let spec = self.pipeline.plugins.get(plugin);
        let limits = spec.map(|spec| spec.limits(self.pipeline.memory_share_bytes())).unwrap_or_default();
        Ok(Read { artifact, bytes, limits })
    }

    /// What it is called, whatever comes of it.
    fn name(&self, id: u64, info: &Info, sha256: &str, config: &str) {
        if let Some(record) = self.history.lock().get_mut(id) {
            let (name, version, sha256) = (info.name.clone(), info.version.clone(), sha256.to_owned());
            record.to = Version { name, version, sha256, config: self.pipeline.secrets.seal(config) };
        }
    }

    /// It may run: kept for the next start, and known.
    fn accept(&self, id: u64, by: &str, bytes: Vec<u8>, accepted: Running, state: Option<&str>) -> Result<(), String> {
        let to = accepted.plugin.clone();
        let kept = self.runtime.block_on(self.store.put_plugin(&to.sha256, bytes.into()));
        kept.map_err(|e| e.to_string())?;
        let mut operator = String::new();
        if let Some(record) = self.history.lock().get_mut(id) {
            record.to = to.clone();
            record.state = state.map(str::to_owned);
            operator.clone_from(&record.operator);
        }
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).insert(id, accepted);
        info!(operator = %operator, id, name = to.name, version = to.version, sha256 = to.sha256, by, "swap: checked");
        Ok(())
    }

    /// Everything that can be known of it before it runs.
    fn prepare(
        &self,
        id: u64,
        mut request: SwapRequest,
        node: &Node,
        spec: &AggregationSpec,
        running: &Running,
        config: String,
    ) -> Result<Candidate, String> {
        let Read { artifact, bytes, limits } =
            self.read(&mut request, &spec.plugin, artifact::Kind::Aggregation, running, &config)?;
        let operator = &request.operator;
        let factory = WasmFactory::new(self.engine()?, &spec.plugin, &artifact, limits).map_err(|e| e.to_string())?;
        let factory: Arc<dyn AggregatorFactory> = Arc::new(factory);
        let info = factory.info().clone();
        self.name(id, &info, factory.digest(), &config);
        if info.name != running.plugin.name && !request.replace {
            return Err(other_name(&info.name, operator, running, "is to take over its state"));
        }
        let offered = columns::offered_schema(&node.input, &spec.columns);
        let mut instance = factory.open(&config, &offered).map_err(|e| e.to_string())?;
        let signature = instance.signature().clone();
        let (output, wrong) = columns::check_signature(spec, &node.input, &signature);
        if let Some(wrong) = wrong.first() {
            let hints: Vec<String> = wrong.hints.iter().map(|hint| format!("\nhint: {hint}")).collect();
            return Err(format!("{}{}", wrong.message, hints.concat()));
        }
        let output = output.unwrap_or_default();
        if output != node.output {
            return Err(other_output(&self.pipeline, operator, &node.output, &output));
        }
        let to = Version {
            name: info.name.clone(),
            version: info.version.clone(),
            sha256: factory.digest().to_owned(),
            config: self.pipeline.secrets.seal(&config),
        };
        let is_same = signature.state == running.state && config == running.config;
        let origin = (!is_same && !request.drain).then(|| StateOrigin {
            name: running.plugin.name.clone(),
            version: running.plugin.version.clone(),
            config: running.config.clone(),
            state: running.state.clone(),
        });
        if let Some(origin) = &origin {
            let none: Vec<ArrayRef> =
                origin.state.fields.iter().map(|f| new_empty_array(&f.data_type.to_arrow())).collect();
            let migrated = instance.migrate(origin, &none).map_err(|e| e.to_string())?;
            if migrated.is_none() {
                return Err(format!("{}{}", refused(origin, &signature.state), self.choices(operator, node)));
            }
        }
        drop(instance);
        let accepted = Running {
            plugin: to.clone(),
            config: config.clone(),
            state: signature.state.clone(),
            output: signature.output.clone(),
        };
        let state = match (request.drain, &origin) {
            (true, _) => "drained",
            (false, None) => "taken over",
            (false, Some(_)) => "migrated",
        };
        self.accept(id, &request.by, bytes, accepted, Some(state))?;
        let key: Vec<Field> = spec.key.iter().filter_map(|k| node.input.field(k).cloned()).collect();
        let comparison = request
            .shadow
            .map(|shadow| Comparison::new(key, running.output.clone(), signature.output.clone(), shadow.tolerance));
        let wanted = columns::wanted_columns(&node.input, &spec.columns, &signature.input);
        let input = wanted.map(|(index, field)| InputColumn { index, field: field.clone() }).collect();
        let open = {
            let (factory, config, offered) = (Arc::clone(&factory), config.clone(), offered.clone());
            OpenShared::Aggregator(Arc::new(move || factory.open(&config, &offered)))
        };
        let of = (Kind::Aggregation, operator.as_str(), spec.plugin.as_str());
        let recorder = self.recorder(of, (info, factory.limits()), &to, config, offered);
        Ok(Candidate {
            id,
            plugin: PluginRef {
                name: to.name,
                version: to.version,
                sha256: to.sha256,
                config: to.config,
                in_file: None,
            },
            state: signature.state,
            open,
            recorder,
            input,
            origin,
            drains: request.drain,
            comparison,
            is_over: Arc::new(AtomicBool::new(false)),
        })
    }

    fn recorder(
        &self,
        (kind, operator, plugin): (Kind, &str, &str),
        (info, limits): (Info, PluginLimits),
        to: &Version,
        config: String,
        offered: Schema,
    ) -> Box<dyn Fn() -> Option<Recorder> + Send + Sync> {
        let (captures, pipeline) = (Arc::clone(&self.captures), self.pipeline.clone());
        let (operator, plugin, digest) = (operator.to_owned(), plugin.to_owned(), to.sha256.clone());
        Box::new(move || {
            let recorded = Recorded {
                kind,
                node: &operator,
                plugin: &plugin,
                info: &info,
                digest: &digest,
                limits: limits.clone(),
                config: &config,
                offered: &offered,
            };
            Recorder::new(&captures, &pipeline, &recorded)
        })
    }

    /// What can be done instead where the state cannot be taken over.
    fn choices(&self, operator: &str, node: &Node) -> String {
        let file = self.pipeline.file.display();
        let drain = match node.has_fixed_windows() {
            false => "",
            true => {
                "\n  - let the running version end the windows that are open, and this one begin with the next: the same command \
                 with `--drain`"
            }
        };
        format!(
            "\nchoices:\n  - let it take the old state: `migrate`; in the SDK `#[state(default)]` on a new field, \
             `#[migrate(from = …)]` for the rest{drain}\n  - give up the state of the open windows: change the file, \
             `millrace stop {file}`, `millrace run {file} --drop-state {operator}`"
        )
    }
}

impl Control for Controller {
    fn swap(&self, request: SwapRequest) -> Result<SwapRecord, Refused> {
        if request.bytes.is_none() && request.config.is_empty() {
            return Err(Refused::Invalid("neither a plugin nor a configuration: there is nothing to do".to_owned()));
        }
        self.begin(request, None)
    }

    fn rollback(&self, operator: &str, drain: bool, by: &str) -> Result<SwapRecord, Refused> {
        let node = self.node(operator)?;
        let last = {
            let history = self.history.lock();
            let of = |record: &&SwapRecord| record.operator == operator && record.phase.is_active();
            history.iter().rev().find(of).cloned()
        };
        let Some(last) = last else {
            return Err(Refused::Conflict(format!(
                "`{operator}` runs what it ran at first: there is nothing to go back to"
            )));
        };
        if last.phase == Phase::Probation {
            let operator = match &node.of {
                Of::Aggregation(_) => operator.to_owned(),
                Of::Transform { tasks, .. } => tasks.clone(),
            };
            let order = Order::RollBack { operator, why: format!("asked for by {by}") };
            return match self.orders.send(order) {
                Ok(()) => Ok(last),
                Err(_) => Err(Refused::Conflict("the run is ending".to_owned())),
            };
        }
        let bytes = self.runtime.block_on(self.store.get_plugin(&last.from.sha256));
        let bytes = bytes.map_err(|e| Refused::Invalid(format!("the former version is not kept any more: {e}")))?;
        let former = self.pipeline.secrets.unseal(&last.from.config).map_err(Refused::Invalid)?;
        let request = SwapRequest {
            operator: operator.to_owned(),
            bytes: Some(bytes.to_vec()),
            sha256: Some(last.from.sha256.clone()),
            config: Vec::new(),
            replace: true,
            shadow: None,
            drain,
            by: by.to_owned(),
        };
        self.begin(request, Some(former))
    }

    fn swaps(&self) -> Vec<SwapRecord> {
        self.history.lock().iter().cloned().collect()
    }

    fn stop(&self, drain: bool, by: &str) -> Result<(), Refused> {
        if drain && !self.history.is_open() {
            return Err(Refused::Conflict(
                "the run is starting or ending: its windows cannot be ended now; try again in a moment".to_owned(),
            ));
        }
        info!(by, drain, "stopping: asked for");
        self.orders.send(Order::Stop { drain }).map_err(|_| Refused::Conflict("the run is ending".to_owned()))
    }

    fn savepoint(&self, folder: &str, by: &str) -> Result<u64, Refused> {
        let Some(write) = &self.savepoint else {
            return Err(Refused::Invalid("this run takes no savepoints".to_owned()));
        };
        if !self.history.is_open() {
            return Err(Refused::Conflict("the run is starting or ending: nothing can be saved now".to_owned()));
        }
        info!(by, folder, "taking a savepoint");
        let (reply, answer) = bounded(1);
        let (write, folder) = (Arc::clone(write), folder.to_owned());
        let work = Box::new(move |number, checkpoint: &Checkpoint| write(&folder, number, checkpoint));
        let ending = || Refused::Conflict("the run is ending".to_owned());
        self.orders.send(Order::Savepoint { work, reply }).map_err(|_| ending())?;
        answer.recv().map_err(|_| ending())?.map_err(Refused::Invalid)
    }
}

impl Node {
    /// A version can end them while another one begins with the next.
    fn has_fixed_windows(&self) -> bool {
        match &self.of {
            Of::Aggregation(spec) => !matches!(spec.window, WindowSpec::Session { .. } | WindowSpec::Global),
            Of::Transform { .. } => false,
        }
    }

    fn of(node: &AggregationNode, secrets: &Secrets) -> Result<Self, String> {
        let info = node.factory.info();
        let instance = node.factory.open(&node.spec.config, &offered_to_plugin(node)).map_err(|e| e.to_string())?;
        let signature = instance.signature();
        let plugin = Version {
            name: info.name.clone(),
            version: info.version.clone(),
            sha256: node.factory.digest().to_owned(),
            config: secrets.seal(&node.spec.config),
        };
        let config = node.spec.config.clone();
        Ok(Self {
            of: Of::Aggregation(node.spec.clone()),
            input: node.input.clone(),
            output: node.output.clone(),
            first: Running { plugin, config, state: signature.state.clone(), output: signature.output.clone() },
        })
    }
}

/// A component that an operator may run.
struct Read {
    artifact: Artifact,
    bytes: Vec<u8>,
    limits: PluginLimits,
}

fn other_name(name: &str, operator: &str, running: &Running, meant: &str) -> String {
    format!(
        "it calls itself `{name}`, and `{operator}` runs `{}`: is it the file that was meant?\nhint: `--replace` if a plugin \
         of another name {meant}",
        running.plugin.name
    )
}

/// The running configuration with some of it changed: values are JSON, or else text.
fn configure(running: &str, changes: &[(String, String)]) -> Result<String, String> {
    if changes.is_empty() {
        return Ok(running.to_owned());
    }
    let mut config: Map<String, Value> =
        serde_json::from_str(running).map_err(|e| format!("the running configuration is no JSON object: {e}"))?;
    for (key, value) in changes {
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
        config.insert(key.clone(), value);
    }
    Ok(Value::Object(config).to_string())
}

fn other_output(pipeline: &Pipeline, operator: &str, now: &Schema, new: &Schema) -> String {
    let lacks = |of: &Schema, other: &Schema| -> Vec<String> {
        of.fields.iter().filter(|f| other.field(&f.name) != Some(*f)).map(|f| format!("`{f}`")).collect()
    };
    let (gone, come) = (lacks(now, new), lacks(new, now));
    let list = |what: &str, columns: Vec<String>| match columns.is_empty() {
        true => String::new(),
        false => format!("; {what} {}", columns.join(", ")),
    };
    let evolve = match new.fields.iter().any(|field| now.field(&field.name).is_none()) {
        true => ", and `evolve = \"add-columns\"` into the Iceberg sinks whose tables are to gain what is new",
        false => "",
    };
    let file = pipeline.file.display();
    format!(
        "its results have other columns than those that `{operator}` gives{}{}\nhint: columns of a running pipeline do not \
         change. Put the new plugin into the file{evolve}; then `millrace plan {file}`, `millrace stop {file}`, \
         `millrace run {file}`",
        list("it lacks", gone),
        list("new are", come)
    )
}

pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "preparing",
        Phase::Attaching => "attaching",
        Phase::Warming => "warming",
        Phase::Shadowing => "shadowing",
        Phase::Exchanging => "exchanging",
        Phase::Probation => "probation",
        Phase::Draining => "draining",
        Phase::Done => "done",
        Phase::Refused => "refused",
        Phase::Failed => "failed",
        Phase::Discarded => "discarded",
        Phase::RolledBack => "rolled back",
    }
}
