//! What every command that reads a pipeline file does first: parse, open the plugins, check the columns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use millrace_core::limits::MEMORY_HARD_FACTOR;
use millrace_core::schema::Schema;

use super::{Failure, log};
use crate::plugin::artifact::{Artifact, Kind};
use crate::plugin::builtin::BuiltinFactory;
use crate::plugin::engine::{Compiler, PluginEngine};
use crate::plugin::wasm::{WasmFactory, WasmTransformFactory};
use crate::plugin::{AggregatorFactory, Signature, TransformSignature, TransformerFactory};
use crate::spec::model::PluginSpec;
use crate::spec::{self, Loaded, Resolved};

/// A pipeline with its plugins opened and every edge checked.
pub struct Opened {
    pub resolved: Resolved,
    /// by name in the file, see [`AggregationSpec::plugin`](crate::spec::model::AggregationSpec)
    pub factories: BTreeMap<String, Arc<dyn AggregatorFactory>>,
    /// the same of transforms
    pub transformers: BTreeMap<String, Arc<dyn TransformerFactory>>,
    /// digest → the bytes as they were given, to be kept with the checkpoints
    pub plugin_bytes: BTreeMap<String, Vec<u8>>,
}

/// Replaces a plugin by another implementation of the same trait (benchmarks: native code).
pub type Substitute<'a> = &'a dyn Fn(&str) -> Option<Arc<dyn AggregatorFactory>>;

pub fn load(file: &Path) -> Result<Loaded, Failure> {
    let loaded = spec::load(file, &|name| std::env::var(name).ok()).map_err(|e| Failure::Usage(e.render(colour())))?;
    log::never_say(loaded.secrets.iter().cloned());
    if !loaded.warnings.is_empty() {
        eprintln!("{}", loaded.warnings.render(colour()));
    }
    Ok(loaded)
}

pub fn colour() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

pub fn resolve(loaded: &Loaded, substitute: Option<Substitute<'_>>) -> Result<Opened, Failure> {
    let mut factories: BTreeMap<String, Arc<dyn AggregatorFactory>> = BTreeMap::new();
    let mut transformers: BTreeMap<String, Arc<dyn TransformerFactory>> = BTreeMap::new();
    let mut plugin_bytes = BTreeMap::new();
    let mut broken: BTreeMap<String, String> = BTreeMap::new();
    let mut inert_imports = BTreeMap::new();
    let mut engine = None;
    for (name, plugin) in &loaded.pipeline.plugins {
        if let Some(factory) = substitute.and_then(|s| s(name)) {
            factories.insert(name.clone(), factory);
            continue;
        }
        let opened = open_plugin(name, plugin, loaded.pipeline.memory_share_bytes(), &mut engine);
        let opened = opened.map(|(factory, bytes, inert)| {
            inert_imports.insert(name.clone(), inert);
            (factory, bytes)
        });
        match opened {
            Ok((Factory::Aggregator(factory), bytes)) => {
                plugin_bytes.insert(factory.digest().to_owned(), bytes);
                factories.insert(name.clone(), factory);
            }
            Ok((Factory::Transformer(factory), bytes)) => {
                plugin_bytes.insert(factory.digest().to_owned(), bytes);
                transformers.insert(name.clone(), factory);
            }
            Err(message) => {
                broken.insert(name.clone(), message);
            }
        }
    }
    for (_, node) in loaded.pipeline.aggregations.iter().filter(|(_, node)| !node.aggregates.is_empty()) {
        let factory = BuiltinFactory::new(
            &node.plugin,
            &node.aggregates,
            loaded.pipeline.memory_share_bytes().saturating_mul(MEMORY_HARD_FACTOR),
        );
        factories.insert(node.plugin.clone(), Arc::new(factory));
    }
    let missing = |name: &str, is: &str, wanted: &str| match broken.get(name) {
        Some(message) => message.clone(),
        None => format!("it is {is} plugin, and {wanted} needs another kind"),
    };
    let open = |name: &str, _: &PluginSpec, config: &str, offered: &Schema| -> Result<Signature, String> {
        let factory = factories.get(name).ok_or_else(|| missing(name, "a transform", "an aggregation"))?;
        let instance = factory.open(config, offered).map_err(|e| e.to_string())?;
        Ok(instance.signature().clone())
    };
    let open_transform =
        |name: &str, _: &PluginSpec, config: &str, offered: &Schema| -> Result<TransformSignature, String> {
            let factory = transformers.get(name).ok_or_else(|| missing(name, "an aggregation", "a transform"))?;
            let instance = factory.open(config, offered).map_err(|e| e.to_string())?;
            Ok(instance.signature().clone())
        };
    let mut resolved =
        spec::check_plugins(loaded, &open, &open_transform).map_err(|e| Failure::Usage(e.render(colour())))?;
    resolved.inert_imports = inert_imports;
    Ok(Opened { resolved, factories, transformers, plugin_bytes })
}

enum Factory {
    Aggregator(Arc<dyn AggregatorFactory>),
    Transformer(Arc<dyn TransformerFactory>),
}

fn open_plugin(
    name: &str,
    spec: &PluginSpec,
    memory_share: u64,
    engine: &mut Option<Arc<PluginEngine>>,
) -> Result<(Factory, Vec<u8>, Vec<String>), String> {
    let artifact = Artifact::load(name, &spec.path, spec.sha256.as_deref()).map_err(|e| e.to_string())?;
    let engine = match engine {
        Some(engine) => Arc::clone(engine),
        None => Arc::clone(engine.insert(start_engine()?)),
    };
    let limits = spec.limits(memory_share);
    let inert = artifact.inert(limits.capabilities);
    let factory = match artifact.kind() {
        Kind::Transform => WasmTransformFactory::new(&engine, name, &artifact, limits)
            .map(|factory| Factory::Transformer(Arc::new(factory))),
        _ => WasmFactory::new(&engine, name, &artifact, limits).map(|factory| Factory::Aggregator(Arc::new(factory))),
    };
    let factory = factory.map_err(|e| e.to_string())?;
    let bytes = std::fs::read(&spec.path).map_err(|e| format!("{}: {e}", spec.path.display()))?;
    Ok((factory, bytes, inert))
}

/// `millrace` itself: other programs (benchmarks) do not have the command that compiles.
static COMPILING_PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// From now on every engine of [`start_engine`] compiles in a process of its own.
pub fn compile_in_children() {
    // This link leads to the program that runs, also when its file has been replaced since.
    let link = Path::new("/proc/self/exe");
    let program = if link.exists() { Ok(link.to_owned()) } else { std::env::current_exe() };
    if let Ok(program) = program {
        let _ = COMPILING_PROGRAM.set(program);
    }
}

/// An engine with this user's cache of compiled plugins.
pub fn start_engine() -> Result<Arc<PluginEngine>, String> {
    let compiler = COMPILING_PROGRAM.get().map_or(Compiler::InProcess, |program| Compiler::child(program.clone()));
    PluginEngine::with_compiler(cache_dir().as_deref(), compiler).map(Arc::new).map_err(|e| e.to_string())
}

/// Compiled plugins are kept here between runs.
fn cache_dir() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))?;
    Some(base.join("millrace").join("plugins"))
}
