//! The plugins' bytes, by digest: a recovery runs what the checkpoint was made with, whatever the file says by now.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::log::sha256_hex;
use super::{CheckpointError, CheckpointStore, Result};

impl CheckpointStore {
    fn plugin_path(&self, sha256: &str) -> Result<Path> {
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_digest {
            let why = "that is not a digest (64 lower-case hex digits)".to_owned();
            return Err(CheckpointError::PluginDamaged { sha256: sha256.to_owned(), why });
        }
        Ok(self.path(&["plugins", &format!("{sha256}.wasm")]))
    }

    /// Keeps the component's bytes; cheap if they are there already.
    pub async fn put_plugin(&self, sha256: &str, bytes: Bytes) -> Result<()> {
        let path = self.plugin_path(sha256)?;
        let found = sha256_hex(&bytes);
        if found != sha256 {
            let why = format!("the bytes to be kept have the digest {found}");
            return Err(CheckpointError::PluginDamaged { sha256: sha256.to_owned(), why });
        }
        let doing = format!("keeping plugin {sha256}");
        let there = self.retrying.run(&doing, || self.store.head(&path)).await?;
        if there.is_some_and(|meta| meta.size == bytes.len() as u64) {
            return Ok(());
        }
        // The name says what the bytes are, so overwriting (a torn copy, say) is always right.
        let payload = PutPayload::from(bytes);
        self.retrying
            .run_there(&doing, || self.store.put_opts(&path, payload.clone(), PutMode::Overwrite.into()))
            .await?;
        Ok(())
    }

    /// None where there are no bytes to keep: built in, native, or never kept.
    pub(super) async fn kept_plugin(&self, sha256: &str) -> Result<Option<Bytes>> {
        let Ok(path) = self.plugin_path(sha256) else { return Ok(None) };
        let there = self.retrying.run(&format!("looking for plugin {sha256}"), || self.store.head(&path)).await?;
        match there {
            Some(_) => self.get_plugin(sha256).await.map(Some),
            None => Ok(None),
        }
    }

    pub async fn get_plugin(&self, sha256: &str) -> Result<Bytes> {
        let path = self.plugin_path(sha256)?;
        let damaged = |why: String| CheckpointError::PluginDamaged { sha256: sha256.to_owned(), why };
        let bytes = self
            .get(&format!("reading plugin {sha256}"), &path)
            .await?
            .ok_or_else(|| damaged(format!("{path} is not there")))?;
        let found = sha256_hex(&bytes);
        if found == sha256 { Ok(bytes) } else { Err(damaged(format!("its digest is {found}"))) }
    }
}
