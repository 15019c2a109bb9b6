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
use crate::plugin::limits::PluginLimits;
use crate::plugin::{
    AggregatorFactory, PluginEngine, PluginError, TransformerFactory, WasmFactory, WasmTransformFactory,
};
use crate::spec::columns;
use crate::spec::model::Pipeline;

/// What an operator runs in place of what the file gives.
pub struct Ran<F: ?Sized> {
    pub factory: Arc<F>,
    /// with its secrets
    pub config: String,
    /// without
    pub in_file: InFile,
}

/// Looks for it among the bytes that are kept beside the checkpoints.
pub struct WhatRan<'a> {
    pub pipeline: &'a Pipeline,
    pub opened: &'a Opened,
    pub restored: &'a Checkpoint,
    pub files: &'a dyn Files,
}

/// One operator's plugin: of the file, and of the checkpoint.
struct Found<'a> {
    operator: &'a str,
    /// its name in the file
    plugin: &'a str,
    /// what the file gives
    digest: Option<&'a str>,
    config: &'a str,
    /// what the checkpoint says
    ran: Option<&'a PluginRef>,
}

impl WhatRan<'_> {
    /// By aggregation.
    pub fn aggregations(&self) -> Result<BTreeMap<String, Ran<dyn AggregatorFactory>>, RunError> {
        let mut found = BTreeMap::new();
        let mut engine = None;
        for (name, spec) in &self.pipeline.aggregations {
            let of = Found {
                operator: name,
                plugin: &spec.plugin,
                digest: self.opened.factories.get(&spec.plugin).map(|factory| factory.digest()),
                config: &spec.config,
                ran: self.restored.operators.get(name).and_then(|operator| operator.plugin.as_ref()),
            };
            let make = |engine: &Arc<PluginEngine>, artifact: &Artifact, limits| {
                let factory = WasmFactory::new(engine, &spec.plugin, artifact, limits)?;
                Ok(Arc::new(factory) as Arc<dyn AggregatorFactory>)
            };
            found.extend(self.find(&of, &mut engine, make)?.map(|ran| (name.clone(), ran)));
        }
        Ok(found)
    }

    /// By aggregation, the version that still ends windows, whatever the pipeline file gives now.
    pub fn draining(&self) -> Result<BTreeMap<String, Drains>, RunError> {
        let Self { pipeline, opened, restored, .. } = self;
        let mut found = BTreeMap::new();
        let mut engine = None;
        for (name, spec) in &pipeline.aggregations {
            let Some(draining) = restored.operators.get(name).and_then(|operator| operator.draining.as_ref()) else {
                continue;
            };
            let Draining { plugin, before_ms, .. } = draining;
            let failed = |why: String| RunError::Spec(lost_while_draining(name, draining, &why));
            let (factory, config) = match opened.factories.get(&spec.plugin) {
                Some(given) if given.digest() == plugin.sha256 => {
                    (Arc::clone(given), pipeline.secrets.unseal(&plugin.config).map_err(failed)?)
                }
                _ => {
                    let make = |engine: &Arc<PluginEngine>, artifact: &Artifact, limits| {
                        let factory = WasmFactory::new(engine, &spec.plugin, artifact, limits)?;
                        Ok(Arc::new(factory) as Arc<dyn AggregatorFactory>)
                    };
                    self.open(&spec.plugin, plugin, &mut engine, make)?.map_err(failed)?
                }
            };
            let input = opened.resolved.input.get(name).cloned().unwrap_or_default();
            let offered = columns::offered_schema(&input, &spec.columns);
            let instance = factory.open(&config, &offered).map_err(|e| failed(e.to_string()))?;
            let (output, wrong) = columns::check_signature(spec, &input, instance.signature());
            if let Some(wrong) = wrong.first() {
                return Err(failed(wrong.message.clone()));
            }
            if output.as_ref() != opened.resolved.output.get(name) {
                let other = "its results have other columns than those of the plugin that follows it";
                return Err(failed(other.to_owned()));
            }
            info!(
                operator = %name,
                version = plugin.version,
                sha256 = plugin.sha256,
                before_ms,
                "the former version ends its windows"
            );
            found.insert(name.clone(), Drains { factory, config, before_ms: *before_ms });
        }
        Ok(found)
    }

    /// By transform.
    pub fn transforms(&self) -> Result<BTreeMap<String, Ran<dyn TransformerFactory>>, RunError> {
        let mut found = BTreeMap::new();
        let mut engine = None;
        for (name, spec) in &self.pipeline.transforms {
            let Some(spec) = &spec.plugin else { continue };
            let of = Found {
                operator: name,
                plugin: &spec.plugin,
                digest: self.opened.transformers.get(&spec.plugin).map(|factory| factory.digest()),
                config: &spec.config,
                ran: self.restored.transforms.get(name),
            };
            let make = |engine: &Arc<PluginEngine>, artifact: &Artifact, limits| {
                let factory = WasmTransformFactory::new(engine, &spec.plugin, artifact, limits)?;
                Ok(Arc::new(factory) as Arc<dyn TransformerFactory>)
            };
            found.extend(self.find(&of, &mut engine, make)?.map(|ran| (name.clone(), ran)));
        }
        Ok(found)
    }

    fn find<F: ?Sized>(
        &self,
        of: &Found<'_>,
        engine: &mut Option<Arc<PluginEngine>>,
        make: impl FnOnce(&Arc<PluginEngine>, &Artifact, PluginLimits) -> Result<Arc<F>, PluginError>,
    ) -> Result<Option<Ran<F>>, RunError> {
        let pipeline = self.pipeline;
        let Some((ran, in_file)) = of.ran.and_then(|ran| Some((ran, ran.in_file.as_ref()?))) else {
            return Ok(None);
        };
        if of.digest != Some(in_file.sha256.as_str()) || pipeline.secrets.seal(of.config) != in_file.config {
            info!(
                operator = %of.operator,
                ran = %short(&ran.sha256),
                "the pipeline file has changed since its plugin was swapped: what the file gives is wanted"
            );
            return Ok(None);
        }
        let opened = self.open(of.plugin, ran, engine, make)?;
        let (factory, config) = opened.map_err(|why| RunError::Spec(lost(of.operator, ran, &why)))?;
        info!(
            operator = %of.operator,
            version = ran.version,
            sha256 = ran.sha256,
            "it goes on with the plugin that was swapped in; the one of the pipeline file runs once the file changes"
        );
        Ok(Some(Ran { factory, config, in_file: in_file.clone() }))
    }

    /// What a checkpoint names, from its kept bytes, with its configuration; the inner error: why it cannot be opened.
    #[allow(clippy::type_complexity, reason = "the factory and its configuration")]
    fn open<F: ?Sized>(
        &self,
        name: &str,
        plugin: &PluginRef,
        engine: &mut Option<Arc<PluginEngine>>,
        make: impl FnOnce(&Arc<PluginEngine>, &Artifact, PluginLimits) -> Result<Arc<F>, PluginError>,
    ) -> Result<Result<(Arc<F>, String), String>, RunError> {
        let engine = match engine {
            Some(engine) => Arc::clone(engine),
            None => Arc::clone(engine.insert(start_engine().map_err(RunError::External)?)),
        };
        let opened = || {
            let config = self.pipeline.secrets.unseal(&plugin.config)?;
            let bytes = self.files.plugin(&plugin.sha256)?;
            let artifact = Artifact::from_bytes(name, bytes.to_vec(), None).map_err(|e| e.to_string())?;
            let limits = self.pipeline.plugins.get(name).map(|spec| spec.limits(self.pipeline.memory_share_bytes()));
            let factory = make(&engine, &artifact, limits.unwrap_or_default()).map_err(|e| e.to_string())?;
            Ok((factory, config))
        };
        Ok(opened())
    }
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
         another build); or `--drop-state {name}` to begin `{name}` with what the file gives and without any \
         state",
        plugin.name,
        plugin.version,
        short(&plugin.sha256)
    )
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
