//! The plugins' bytes, by digest: a recovery runs what the checkpoint was made with, whatever the file says by now.
//!
//! They are put before any checkpoint names them, and by another thread than the one that deletes. So what was put not long
//! ago is never deleted, and putting what is there already makes it young again.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::TryStreamExt;
use millrace_core::limits::PLUGIN_UNTOUCHED_MS;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::log::sha256_hex;
use super::{CheckpointError, CheckpointStore, Result};
use crate::clock::{Clock, SystemClock};

impl CheckpointStore {
    fn plugin_path(&self, sha256: &str) -> Result<Path> {
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_digest {
            let why = "that is not a digest (64 lower-case hex digits)".to_owned();
            return Err(CheckpointError::PluginDamaged { sha256: sha256.to_owned(), why });
        }
        Ok(self.path(&["plugins", &format!("{sha256}.wasm")]))
    }

    /// Keeps the component's bytes; cheap if they were put not long ago.
    pub async fn put_plugin(&self, sha256: &str, bytes: Bytes) -> Result<()> {
        let path = self.plugin_path(sha256)?;
        let found = sha256_hex(&bytes);
        if found != sha256 {
            let why = format!("the bytes to be kept have the digest {found}");
            return Err(CheckpointError::PluginDamaged { sha256: sha256.to_owned(), why });
        }
        let doing = format!("keeping plugin {sha256}");
        let there = self.retrying.run(&doing, || self.store.head(&path)).await?;
        let young = |put_at_ms: i64| SystemClock.now_ms().saturating_sub(put_at_ms) < PLUGIN_UNTOUCHED_MS / 2;
        if there.is_some_and(|meta| meta.size == bytes.len() as u64 && young(meta.last_modified.timestamp_millis())) {
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

    /// Deletes those of these plugins that are there, and were not put lately.
    pub(super) async fn delete_plugins(&self, digests: &BTreeSet<String>, now_ms: i64) -> Result<usize> {
        if digests.is_empty() {
            return Ok(0);
        }
        let prefix = self.path(&["plugins"]);
        let listed = self
            .retrying
            .run("listing the plugins", || self.store.list(Some(&prefix)).try_collect::<Vec<_>>())
            .await?
            .unwrap_or_default();
        let mut deleted = 0;
        for object in listed {
            let name = object.location.filename().and_then(|name| name.strip_suffix(".wasm"));
            let untouched = now_ms.saturating_sub(object.last_modified.timestamp_millis()) >= PLUGIN_UNTOUCHED_MS;
            if untouched && name.is_some_and(|digest| digests.contains(digest)) {
                self.delete("deleting a plugin", &object.location).await?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}
