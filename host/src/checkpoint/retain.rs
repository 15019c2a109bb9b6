//! Deleting what no kept checkpoint needs. Idempotent: what a crash leaves behind, the next call takes.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use millrace_core::checkpoint::{Keep, Retention, decide_retention, is_orphan};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::log::Read;
use super::state::written_for;
use super::{CheckpointError, CheckpointStore, Owner, Result};
use crate::clock::{Clock, SystemClock};

const READ_AT_ONCE_MAX: usize = 8;
const DELETED_AT_ONCE_MAX: usize = 8;

/// What one call of [`CheckpointStore::retain`] or [`CheckpointStore::sweep_orphans`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    pub kept: BTreeSet<u64>,
    pub records_deleted: usize,
    pub files_deleted: usize,
}

impl CheckpointStore {
    /// Deletes checkpoints beyond those to keep, and the state files and plugins that only they refer to; never one whose own
    /// commit is not confirmed. `confirmed`: per sink, the last checkpoint known to be in the table. Call it after
    /// [`CheckpointStore::publish_checkpoint`]; refused once another process owns the pipeline.
    pub async fn retain(&self, owner: &Owner, keep: Keep, confirmed: &BTreeMap<String, u64>) -> Result<Retained> {
        let decision = self.decide(owner, keep, confirmed).await?;
        // Records first: a checkpoint in the log always has its files.
        for number in &decision.delete_records {
            self.delete(&format!("deleting log record {number}"), &self.log_path(*number)).await?;
        }
        let files_deleted = self.delete_files(decision.delete_files.iter()).await?;
        self.delete_plugins(&decision.delete_plugins, SystemClock.now_ms()).await?;
        Ok(Retained { kept: decision.kept, records_deleted: decision.delete_records.len(), files_deleted })
    }

    /// Lists all state files and deletes those that nothing can refer to any more: left by attempts that crashed, or
    /// by a retention that did. Call it once in a while, after a checkpoint: it costs a listing of all state files.
    pub async fn sweep_orphans(&self, owner: &Owner, confirmed: &BTreeMap<String, u64>) -> Result<Retained> {
        // Listed before the log is read: what is written in between is not in the list.
        let prefix = self.path(&["state"]);
        let listed = self
            .retrying
            .run("listing the state files", || self.store.list(Some(&prefix)).try_collect::<Vec<_>>())
            .await?
            .unwrap_or_default();
        // every checkpoint in the log counts, also those that the next retention will delete
        let all = Keep { checkpoints: usize::MAX, versions: usize::MAX };
        let decision = self.decide(owner, all, confirmed).await?;
        let orphans: Vec<String> = listed
            .iter()
            .filter_map(|object| self.relative(&object.location))
            .filter(|path| written_for(path).is_some_and(|number| is_orphan(path, number, &decision)))
            .collect();
        let files_deleted = self.delete_files(orphans.iter()).await?;
        Ok(Retained { kept: decision.kept, records_deleted: 0, files_deleted })
    }

    async fn decide(&self, owner: &Owner, keep: Keep, confirmed: &BTreeMap<String, u64>) -> Result<Retention> {
        let numbers = self.list_log().await?;
        let read: Vec<(u64, Read)> = futures::stream::iter(numbers)
            .map(|number| async move { Ok::<_, CheckpointError>((number, self.read(number).await?)) })
            .buffered(READ_AT_ONCE_MAX)
            .try_collect()
            .await?;
        let mut records = Vec::new();
        let mut unreadable = BTreeSet::new();
        for (number, read) in read {
            match read {
                Read::Whole(record) => records.push(*record),
                Read::Damaged(_) => {
                    unreadable.insert(number);
                }
                Read::Missing => {}
            }
        }
        let ours = owner.fence().generation;
        if let Some(by) = records.iter().map(|r| r.generation).find(|generation| *generation > ours) {
            return Err(CheckpointError::Fenced { by, ours });
        }
        Ok(decide_retention(&records, &unreadable, &owner.unusable, owner.in_use, keep, confirmed))
    }

    async fn delete_files(&self, files: impl Iterator<Item = &String>) -> Result<usize> {
        let paths: Vec<Path> = files.filter_map(|file| self.absolute(file).ok()).collect();
        let count = paths.len();
        futures::stream::iter(paths)
            .map(|path| async move { self.delete("deleting a state file", &path).await })
            .buffer_unordered(DELETED_AT_ONCE_MAX)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(count)
    }

    /// What is gone already is deleted.
    pub(super) async fn delete(&self, doing: &str, path: &Path) -> Result<()> {
        self.retrying.run(doing, || self.store.delete(path)).await?;
        Ok(())
    }
}
