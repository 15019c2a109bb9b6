//! Where the API of a run is: written beside its checkpoints when it starts, removed when it ends. A run that was
//! killed leaves it behind, so whoever reads it asks the run that answers there whether it is the one that wrote it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tracing::warn;

use super::model::PipelineStatus;
use crate::checkpoint::CheckpointStore;
use crate::spec::model::{Location, Pipeline};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub pipeline: String,
    pub incarnation: String,
    pub generation: u64,
    pub url: String,
    pub process: u32,
}

impl Address {
    pub fn is_of(&self, status: &PipelineStatus) -> bool {
        (&self.pipeline, &self.incarnation, self.generation) == (&status.name, &status.incarnation, status.generation)
    }
}

/// The address in the pipeline's location, for as long as this lives.
pub struct Announced {
    store: CheckpointStore,
    runtime: Handle,
    address: Address,
}

impl Announced {
    /// A location that takes no address is a warning: the pipeline runs all the same.
    pub fn new(pipeline: &Pipeline, address: Address, runtime: &Handle) -> Option<Self> {
        let store = CheckpointStore::open(&pipeline.checkpoint.location, &pipeline.name);
        let written = store.and_then(|store| {
            let bytes = serde_json::to_vec_pretty(&address).unwrap_or_default();
            runtime.block_on(store.put_address(bytes.into())).map(|()| store)
        });
        match written {
            Ok(store) => Some(Self { store, runtime: runtime.clone(), address }),
            Err(error) => {
                warn!("other commands will not find the API by the pipeline's name: {error}");
                None
            }
        }
    }
}

impl Drop for Announced {
    /// Unless another run has written its own meanwhile.
    fn drop(&mut self) {
        let removed = self.runtime.block_on(async {
            let found = self.store.get_address().await?;
            let own = found.and_then(|bytes| serde_json::from_slice::<Address>(&bytes).ok());
            if own.as_ref() == Some(&self.address) { self.store.remove_address().await } else { Ok(()) }
        });
        if let Err(error) = removed {
            warn!("the API's address stays behind: {error}");
        }
    }
}

/// None: no run has written its address there, or it has ended.
pub async fn find(location: &Location, pipeline: &str) -> Result<Option<Address>, String> {
    if let Location::Local(folder) = location
        && !Path::new(folder).is_dir()
    {
        return Ok(None);
    }
    let store = CheckpointStore::open(location, pipeline).map_err(|e| e.to_string())?;
    let Some(bytes) = store.get_address().await.map_err(|e| e.to_string())? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{}/api.json is damaged: {e}", store.location()))
}
