//! A restart runs what ran: a plugin that was swapped in goes on while the pipeline file gives what it gave then. Once the
//! file gives something else, that is what is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_core::checkpoint::{Checkpoint, Draining, InFile, PluginRef};
use tracing::info;

use super::beforehand::Files;
use super::message::RunError;
use super::run::Drains;
use crate::api::words;
use crate::cli::open::{Opened, start_engine};
use crate::plugin::artifact::Artifact;
use crate::plugin::{AggregatorFactory, PluginEngine, WasmFactory};
use crate::spec::columns;
use crate::spec::model::Pipeline;

/// What an operator runs in place of what the file gives.
pub struct Ran {
    pub factory: Arc<dyn AggregatorFactory>,
    /// with its secrets
    pub config: String,
    /// without
    pub in_file: InFile,
}

/// By aggregation. Its bytes are kept beside the checkpoints.
pub fn find(
    pipeline: &Pipeline,
    opened: &Opened,
    restored: &Checkpoint,
    files: &dyn Files,
    engine: &mut Option<Arc<PluginEngine>>,
) -> Result<BTreeMap<String, Ran>, RunError> {
    let mut found = BTreeMap::new();
    for (name, spec) in &pipeline.aggregations {
        let plugin = restored.operators.get(name).and_then(|operator| operator.plugin.as_ref());
        let Some((plugin, in_file)) = plugin.and_then(|plugin| Some((plugin, plugin.in_file.as_ref()?))) else {
            continue;
        };
        let given = opened.factories.get(&spec.plugin).map(|factory| factory.digest());
        if given != Some(in_file.sha256.as_str()) || pipeline.secrets.seal(&spec.config) != in_file.config {
            info!(
                operator = %name,
                ran = %short(&plugin.sha256),
                "the pipeline file has changed since its plugin was swapped: what the file gives is wanted"
            );
            continue;
        }
        let (factory, config) = open(pipeline, &spec.plugin, plugin, files, engine)?
            .map_err(|why| RunError::Spec(lost(name, plugin, &why)))?;
        info!(
            operator = %name,
            version = plugin.version,
            sha256 = plugin.sha256,
            "it goes on with the plugin that was swapped in; the one of the pipeline file runs once the file changes"
        );
        let ran = Ran { factory, config, in_file: in_file.clone() };
        found.insert(name.clone(), ran);
    }
    Ok(found)
}

/// By aggregation, the version that still ends windows, whatever the pipeline file gives now.
pub fn find_draining(
    pipeline: &Pipeline,
    opened: &Opened,
    restored: &Checkpoint,
    files: &dyn Files,
    engine: &mut Option<Arc<PluginEngine>>,
) -> Result<BTreeMap<String, Drains>, RunError> {
    let mut found = BTreeMap::new();
    for (name, spec) in &pipeline.aggregations {
        let Some(draining) = restored.operators.get(name).and_then(|operator| operator.draining.as_ref()) else {
            continue;
        };
        let Draining { plugin, before_ms, .. } = draining;
        let failed = |why: String| RunError::Spec(lost_while_draining(name, draining, &why));
        let (factory, config) = match opened.factories.get(&spec.plugin) {
            // it was never swapped in: its bytes are the file's
            Some(given) if given.digest() == plugin.sha256 => {
                (Arc::clone(given), pipeline.secrets.unseal(&plugin.config).map_err(failed)?)
            }
            _ => open(pipeline, &spec.plugin, plugin, files, engine)?.map_err(failed)?,
        };
        let input = opened.resolved.input.get(name).cloned().unwrap_or_default();
        let offered = columns::offered_schema(&input, &spec.columns);
        let instance = factory.open(&config, &offered).map_err(|e| failed(e.to_string()))?;
        let (output, wrong) = columns::check_signature(spec, &input, instance.signature());
        if let Some(wrong) = wrong.first() {
            return Err(failed(wrong.message.clone()));
        }
        if output.as_ref() != opened.resolved.output.get(name) {
            return Err(failed("its results have other columns than those of the plugin that follows it".to_owned()));
        }
        info!(operator = %name, version = plugin.version, sha256 = plugin.sha256, before_ms, "the former version ends its windows");
        found.insert(name.clone(), Drains { factory, config, before_ms: *before_ms });
    }
    Ok(found)
}

/// The inner error: why what a checkpoint names cannot be opened.
#[allow(clippy::type_complexity, reason = "the factory and its configuration")]
fn open(
    pipeline: &Pipeline,
    name: &str,
    plugin: &PluginRef,
    files: &dyn Files,
    engine: &mut Option<Arc<PluginEngine>>,
) -> Result<Result<(Arc<dyn AggregatorFactory>, String), String>, RunError> {
    let engine = match engine {
        Some(engine) => Arc::clone(engine),
        None => Arc::clone(engine.insert(start_engine().map_err(RunError::External)?)),
    };
    let opened = || {
        let config = pipeline.secrets.unseal(&plugin.config)?;
        let bytes = files.plugin(&plugin.sha256)?;
        let artifact = Artifact::from_bytes(name, bytes.to_vec(), None).map_err(|e| e.to_string())?;
        let limits = pipeline.plugins.get(name).map(|spec| spec.limits(pipeline.memory_share_bytes()));
        let factory = WasmFactory::new(&engine, name, &artifact, limits.unwrap_or_default());
        let factory: Arc<dyn AggregatorFactory> = Arc::new(factory.map_err(|e| e.to_string())?);
        Ok((factory, config))
    };
    Ok(opened())
}

fn lost_while_draining(name: &str, draining: &Draining, why: &str) -> String {
    let Draining { plugin, before_ms, .. } = draining;
    format!(
        "plugin {} {} ({}) still ends the windows of `{name}` that began before {} UTC, and it cannot go on: {why}\nhint: let it \
         end them with what ran before; or `--drop-state {name}` to begin `{name}` with empty windows",
        plugin.name,
        plugin.version,
        short(&plugin.sha256),
        words::time(*before_ms, *before_ms)
    )
}

fn lost(name: &str, plugin: &PluginRef, why: &str) -> String {
    format!(
        "`{name}` ran plugin {} {} ({}), which was swapped in, and that cannot be opened: {why}\nhint: put the same component \
         into the pipeline file; or, if what the file gives is to take its state over, change the file in any way (its configuration, \
         another build); or `--drop-state {name}` to begin `{name}` with empty windows",
        plugin.name,
        plugin.version,
        short(&plugin.sha256)
    )
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
