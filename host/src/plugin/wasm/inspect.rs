//! What `plugin inspect` shows, for every kind.

use std::sync::Arc;

use millrace_core::schema::Schema;

use super::instance::{Exports, Prepared};
use super::{WasmFactory, WasmJoinFactory, WasmTransformFactory};
use crate::plugin::artifact::{Artifact, Kind};
use crate::plugin::bindings::{aggregation, join, transform};
use crate::plugin::engine::PluginEngine;
use crate::plugin::limits::{Capabilities, PluginLimits};
use crate::plugin::{
    AggregatorFactory as _, Info, JoinSignature, JoinerFactory as _, Result, Signature, TransformSignature,
    TransformerFactory as _,
};

/// What can be said of a plugin without a configuration.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub info: Info,
    pub kind: Kind,
    pub digest: String,
    pub size_bytes: usize,
    pub was_core_module: bool,
    pub imports: Vec<String>,
    /// those of the imports that do nothing without a capability
    pub inert: Vec<String>,
    pub exports: Vec<String>,
    /// the interface release that it was built against
    pub wit_version: &'static str,
}

/// Loads the plugin far enough to hear its name and version.
pub fn inspect(engine: &Arc<PluginEngine>, artifact: &Artifact) -> Result<Inspection> {
    fn info<E: Exports>(engine: &Arc<PluginEngine>, artifact: &Artifact) -> Result<Info> {
        let prepared = Prepared::<E>::new(engine, artifact.name(), artifact, PluginLimits::default())?;
        Ok(prepared.info().clone())
    }
    let info = match artifact.kind() {
        Kind::Aggregation => info::<aggregation::GuestIndices>(engine, artifact),
        Kind::Transform => info::<transform::GuestIndices>(engine, artifact),
        Kind::Join => info::<join::GuestIndices>(engine, artifact),
    };
    Ok(Inspection {
        info: info?,
        kind: artifact.kind(),
        digest: artifact.digest().to_owned(),
        size_bytes: artifact.size_bytes(),
        was_core_module: artifact.was_core_module(),
        imports: artifact.imports().to_vec(),
        inert: artifact.inert(Capabilities::default()),
        exports: artifact.exports().to_vec(),
        wit_version: artifact.kind().wit_version(),
    })
}

/// What a plugin takes and gives under one configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Aggregation(Signature),
    Transform(TransformSignature),
    Join(JoinSignature),
}

/// Opens the plugin once with a configuration (JSON) and the columns that it is offered. `right` is a join's second
/// input; the other kinds have none.
pub fn shape(
    engine: &Arc<PluginEngine>,
    artifact: &Artifact,
    config: &str,
    offered: &Schema,
    right: &Schema,
) -> Result<Shape> {
    let (name, limits) = (artifact.name(), PluginLimits::default());
    Ok(match artifact.kind() {
        Kind::Aggregation => {
            let factory = WasmFactory::new(engine, name, artifact, limits)?;
            Shape::Aggregation(factory.open(config, offered)?.signature().clone())
        }
        Kind::Transform => {
            let factory = WasmTransformFactory::new(engine, name, artifact, limits)?;
            Shape::Transform(factory.open(config, offered)?.signature().clone())
        }
        Kind::Join => {
            let factory = WasmJoinFactory::new(engine, name, artifact, limits)?;
            Shape::Join(factory.open(config, offered, right)?.signature().clone())
        }
    })
}
