//! What a task takes over of a checkpoint's state files: the groups of its own key range.

use std::collections::BTreeMap;

use arrow_array::{BooleanArray, RecordBatch};
use millrace_core::checkpoint::{BucketId, StateFile};
use millrace_core::key::{self, KeyGroup};

use super::aggregate_task::RestoredWindow;
use super::message::RunError;
use super::restore::{FileForTask, owns};

/// Reads the state files of a checkpoint.
pub trait StateReader: Send + Sync {
    fn read(&self, file: &StateFile) -> Result<Vec<RecordBatch>, RunError>;
}

/// Files that hold one task's groups and no others, by what they hold and the start of their window.
pub type Windows = BTreeMap<BucketId, Vec<StateFile>>;

/// A task's windows as a checkpoint has them, and the files that later checkpoints can go on referring to.
pub fn read_state(
    reader: &dyn StateReader,
    key_columns: usize,
    range: (KeyGroup, KeyGroup),
    wanted: Vec<FileForTask>,
) -> Result<(Vec<RestoredWindow>, Windows), RunError> {
    let mut windows: BTreeMap<BucketId, RestoredWindow> = BTreeMap::new();
    let mut known = Windows::new();
    for wanted in wanted {
        let (holds, start_ms) = (wanted.file.holds, wanted.file.window_start_ms);
        let batches = reader.read(&wanted.file)?;
        let batches = if wanted.clean { batches } else { own_groups(&batches, key_columns, range)? };
        let new = RestoredWindow { holds, start_ms, batches: Vec::new(), clean: true, files: 0 };
        let window = windows.entry((holds, start_ms)).or_insert(new);
        window.batches.extend(batches);
        window.files += 1;
        window.clean &= wanted.clean;
        if wanted.clean {
            known.entry((holds, start_ms)).or_default().push(wanted.file);
        }
    }
    // A window with a file that other tasks share is written anew by the next checkpoint.
    known.retain(|bucket, _| windows.get(bucket).is_some_and(|w| w.clean));
    Ok((windows.into_values().collect(), known))
}

/// Rows of a shared state file that belong to these key groups.
pub(crate) fn own_groups(
    batches: &[RecordBatch],
    key_columns: usize,
    range: (KeyGroup, KeyGroup),
) -> Result<Vec<RecordBatch>, RunError> {
    batches
        .iter()
        .map(|batch| {
            let columns = batch.columns().get(..key_columns).unwrap_or_default();
            let keys = key::encode(columns, batch.num_rows()).map_err(|e| RunError::Internal(e.to_string()))?;
            let mine: BooleanArray = keys.hashes().iter().map(|&hash| Some(owns(range, hash))).collect();
            Ok(arrow_select::filter::filter_record_batch(batch, &mine)?)
        })
        .collect()
}
