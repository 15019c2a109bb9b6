//! What makes the instances of a version, of whichever kind its plugin is: swaps treat all kinds alike, tasks do not.

use std::sync::Arc;

use crate::plugin::{Aggregator, PluginError, Transformer};

/// Makes instances for any task.
#[derive(Clone)]
pub enum OpenShared {
    Aggregator(Arc<dyn Fn() -> Result<Box<dyn Aggregator>, PluginError> + Send + Sync>),
    Transformer(Arc<dyn Fn() -> Result<Box<dyn Transformer>, PluginError> + Send + Sync>),
}

impl OpenShared {
    /// An error for a plugin of another kind: whoever checked it has not looked.
    pub fn aggregator(&self) -> Result<Box<dyn Aggregator>, PluginError> {
        match self {
            Self::Aggregator(open) => open(),
            Self::Transformer(_) => Err(other_kind("an aggregation")),
        }
    }

    /// see [`OpenShared::aggregator`]
    pub fn transformer(&self) -> Result<Box<dyn Transformer>, PluginError> {
        match self {
            Self::Transformer(open) => open(),
            Self::Aggregator(_) => Err(other_kind("a transform")),
        }
    }
}

fn other_kind(wanted: &str) -> PluginError {
    PluginError::Load { plugin: "of the swap".to_owned(), message: format!("it is not {wanted}") }
}
