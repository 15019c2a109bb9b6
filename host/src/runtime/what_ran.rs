//! A restart runs what ran: a plugin that was swapped in goes on while the pipeline file gives what it gave then. Once the
//! file gives something else, that is what is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_core::checkpoint::{Checkpoint, InFile, PluginRef};
use tracing::info;

use super::beforehand::Files;
use super::message::RunError;
use crate::cli::open::{Opened, start_engine};
use crate::plugin::artifact::Artifact;
use crate::plugin::{AggregatorFactory, WasmFactory};
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
) -> Result<BTreeMap<String, Ran>, RunError> {
    let mut found = BTreeMap::new();
    let mut engine = None;
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
        let failed = |why: String| RunError::Spec(lost(name, plugin, &why));
        let config = pipeline.secrets.unseal(&plugin.config).map_err(failed)?;
        let bytes = files.plugin(&plugin.sha256).map_err(failed)?;
        let artifact = Artifact::from_bytes(&spec.plugin, bytes.to_vec(), None).map_err(|e| failed(e.to_string()))?;
        let limits = pipeline.plugins.get(&spec.plugin).map(|spec| spec.limits(pipeline.memory_share_bytes()));
        let engine = match &engine {
            Some(engine) => engine,
            None => engine.insert(start_engine().map_err(RunError::External)?),
        };
        let factory = WasmFactory::new(engine, &spec.plugin, &artifact, limits.unwrap_or_default());
        let factory = factory.map_err(|e| failed(e.to_string()))?;
        info!(
            operator = %name,
            version = plugin.version,
            sha256 = plugin.sha256,
            "it goes on with the plugin that was swapped in; the one of the pipeline file runs once the file changes"
        );
        let ran = Ran { factory: Arc::new(factory), config, in_file: in_file.clone() };
        found.insert(name.clone(), ran);
    }
    Ok(found)
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
