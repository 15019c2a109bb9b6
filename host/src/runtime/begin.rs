//! Beginning at a savepoint instead of at the location's own last checkpoint.
//!
//! The copy is published as the location's first checkpoint before anything runs: from then on a start, whatever it is
//! told, finds it. A location that has checkpoints of another origin is refused; nothing is written to it.

use std::path::Path;
use std::sync::Arc;

use millrace_core::checkpoint::{Checkpoint, Condition};
use tokio::runtime::Handle;
use tracing::info;

use super::controller::WriteSavepoint;
use super::message::RunError;
use crate::checkpoint::savepoint::{self, Savepoint, SavepointError};
use crate::checkpoint::{CheckpointStore, Claimed};
use crate::clock::Clock;

#[cfg(test)]
pub(crate) mod tests;

impl From<SavepointError> for RunError {
    fn from(error: SavepointError) -> Self {
        match error {
            SavepointError::Checkpoint(error) => error.into(),
            other => Self::External(other.to_string()),
        }
    }
}

/// How a run begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Begin<'a> {
    /// move what is at the checkpoint location aside
    pub fresh: bool,
    pub from_savepoint: Option<&'a Path>,
    /// these begin without what the checkpoint has of them: what ran in them does not matter
    pub drop_state: &'a [String],
}

/// The savepoint, if the location can begin with it. Looks, and changes nothing.
pub async fn open(store: &CheckpointStore, folder: &Path) -> Result<Savepoint, RunError> {
    let savepoint = savepoint::open(folder)?;
    for surveyed in store.survey().await?.records {
        let what = match surveyed.condition {
            Condition::Whole(record) => match record.checkpoint() {
                None => continue,
                Some(checkpoint) if savepoint.is_copied(checkpoint) => break,
                Some(_) => format!("checkpoint {}", surveyed.number),
            },
            Condition::Damaged { .. } | Condition::StateDamaged { .. } => {
                format!("a damaged checkpoint ({})", surveyed.number)
            }
        };
        return Err(occupied(store, &what));
    }
    Ok(savepoint)
}

/// Copies the savepoint and publishes it as the location's first checkpoint.
pub async fn publish(
    store: &CheckpointStore,
    claimed: &mut Claimed,
    savepoint: &Savepoint,
    now_ms: i64,
) -> Result<Checkpoint, RunError> {
    if let Some(restored) = &claimed.restored {
        return match restored.checkpoint() {
            // an earlier start came so far, and no further
            Some(checkpoint) if savepoint.is_copied(checkpoint) => Ok(checkpoint.clone()),
            _ => Err(occupied(store, &format!("checkpoint {}", restored.number))),
        };
    }
    let number = claimed.owner.next_number();
    let checkpoint = savepoint.copy_into(store, number).await?;
    let record = store.checkpoint_record(&claimed.owner, checkpoint.clone(), now_ms);
    store.publish_checkpoint(&mut claimed.owner, &record).await?;
    let of = &savepoint.record;
    info!(checkpoint = number, of = of.pipeline, number = of.number, by = of.millrace, "begun from a savepoint");
    Ok(checkpoint)
}

/// What writes the savepoints that a running pipeline is asked for.
pub fn savepoints(store: CheckpointStore, runtime: Handle, clock: Arc<dyn Clock>) -> WriteSavepoint {
    Arc::new(move |folder, number, checkpoint| {
        let written = savepoint::write(&store, Path::new(folder), number, checkpoint, clock.now_ms());
        runtime.block_on(written).map_err(|e| e.to_string())
    })
}

fn occupied(store: &CheckpointStore, what: &str) -> RunError {
    RunError::Spec(format!(
        "--from-savepoint: checkpoint location {} holds {what}: a savepoint is the beginning of an empty location\nchoices:\n  \
         - go on from what is there: leave `--from-savepoint` out\n  - begin from the savepoint: another \
         `checkpoint.location`, or `--fresh`, which moves what is there aside (the tables that it has written to still \
         refuse)",
        store.location()
    ))
}
