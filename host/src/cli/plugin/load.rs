//! A component opened for one of the plugin commands, and what is wrong with it otherwise.

use std::path::Path;
use std::sync::Arc;

use super::project::Project;
use crate::cli::Failure;
use crate::cli::open::start_engine;
use crate::plugin::artifact::Artifact;
use crate::plugin::{
    AggregatorFactory, PluginEngine, PluginLimits, TransformerFactory, WasmFactory, WasmTransformFactory,
};

/// Reads a component's file.
pub fn artifact(path: &Path, project: Option<&Project>) -> Result<Artifact, Failure> {
    if let Some(project) = project.filter(|_| !path.exists()) {
        return Err(Failure::Usage(format!(
            "error: there is no component at {} yet\nhint: `{}` makes it",
            path.display(),
            project.command("build")
        )));
    }
    let name = project.map_or_else(
        || path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        |project| project.name.clone(),
    );
    let artifact = Artifact::load(&name, path, None).map_err(|error| Failure::Other(anyhow::Error::new(error)))?;
    if let Some(project) = project.filter(|project| project.kind != artifact.kind()) {
        return Err(Failure::Usage(format!(
            "error: {} is a plugin of kind `{}`, and plugin.toml says `{}`\nhint: correct `kind`, or build again",
            path.display(),
            artifact.kind().name(),
            project.kind.name()
        )));
    }
    Ok(artifact)
}

pub fn engine() -> Result<Arc<PluginEngine>, Failure> {
    start_engine().map_err(|error| Failure::Other(anyhow::anyhow!(error)))
}

/// Compiled, linked and asked for its name.
pub fn aggregation(engine: &Arc<PluginEngine>, artifact: &Artifact) -> Result<Arc<dyn AggregatorFactory>, Failure> {
    let factory =
        WasmFactory::new(engine, artifact.name(), artifact, PluginLimits::default()).map_err(anyhow::Error::new)?;
    Ok(Arc::new(factory))
}

/// The same of a transform.
pub fn transform(engine: &Arc<PluginEngine>, artifact: &Artifact) -> Result<Arc<dyn TransformerFactory>, Failure> {
    let factory = WasmTransformFactory::new(engine, artifact.name(), artifact, PluginLimits::default())
        .map_err(anyhow::Error::new)?;
    Ok(Arc::new(factory))
}
