//! `api.json`, beside the log: where the pipeline's run can be talked to. Information only: whoever uses it asks the
//! run that answers there who it is.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutPayload};

use super::{CheckpointStore, Result};

impl CheckpointStore {
    fn address_path(&self) -> Path {
        self.path(&["api.json"])
    }

    pub async fn put_address(&self, bytes: Bytes) -> Result<()> {
        let (path, payload) = (self.address_path(), PutPayload::from(bytes));
        let put = || self.store.put_opts(&path, payload.clone(), PutMode::Overwrite.into());
        self.retrying.run_there("writing the API's address", put).await?;
        Ok(())
    }

    pub async fn get_address(&self) -> Result<Option<Bytes>> {
        self.get("reading the API's address", &self.address_path()).await
    }

    pub async fn remove_address(&self) -> Result<()> {
        let path = self.address_path();
        self.retrying.run("removing the API's address", || self.store.delete(&path)).await?;
        Ok(())
    }
}
