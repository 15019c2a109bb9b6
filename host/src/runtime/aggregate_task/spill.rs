//! `backend = "disk"`: windows whose groups do not fit into memory.
//!
//! ```text
//!   half of the share is taken ─▶ the coldest panes' groups leave the plugin by `state` ─▶ one local file a pane and time,
//!                                 a batch per partition of the keys; a fresh instance has the rest
//!   an event for such a pane   ─▶ a new group in memory: states of one key are put together again by `merge`
//!   the window gives results   ─▶ a partition at a time: read back, merged, evaluated, emptied
//!   checkpoint                 ─▶ each file once, as state files of its own
//! ```
//!
//! (Grace hash aggregation: Graefe, "Query Evaluation Techniques", ACM Computing Surveys 1993, §4.) The files are this
//! run's only: a restart has the checkpoint.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, UInt32Array};
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use millrace_core::checkpoint::Holds;
use millrace_core::due::{LoadedGroup, Loads, PARTITIONS, partition_of};
use millrace_core::limits::{MEMORY_SPILL_PERCENT, STATE_CHUNK_BYTES};
use millrace_core::schema::Schema;
use xxhash_rust::xxh3::xxh3_64;

use super::{AggregateTask, State};
use crate::runtime::message::RunError;

/// One task's files.
pub struct Spill {
    /// of this task only
    folder: PathBuf,
    /// `key`, `touched`, the plugin's state columns
    schema: SchemaRef,
    files: BTreeMap<(i64, u32), SpillFile>,
    /// state columns of the partition that was read last, by part
    loaded: BTreeMap<(i64, u32), Vec<ArrayRef>>,
    /// [`Loads`] cannot fail: what went wrong is looked at afterwards
    failed: Option<RunError>,
}

/// Keys and state columns.
type Groups = (Vec<Vec<u8>>, Vec<ArrayRef>);

struct SpillFile {
    path: PathBuf,
    /// a checkpoint has it
    exported: bool,
}

impl Spill {
    /// What a former run left there is removed.
    pub fn open(folder: &Path, task: &str, state: &Schema) -> Result<Self, RunError> {
        let folder = folder.join(task);
        let failed = |what: &str, e: &std::io::Error| {
            RunError::External(format!("[state] path: cannot {what} {}: {e}", folder.display()))
        };
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("empty", &e)),
            _ => {}
        }
        std::fs::create_dir_all(&folder).map_err(|e| failed("create", &e))?;
        let own = [
            ArrowField::new("key", arrow_schema::DataType::Binary, false),
            ArrowField::new("touched", arrow_schema::DataType::UInt32, false),
        ];
        let state = state.to_arrow();
        let fields = own.into_iter().map(Arc::new).chain(state.fields().iter().cloned());
        let schema = Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()));
        Ok(Self { folder, schema, files: BTreeMap::new(), loaded: BTreeMap::new(), failed: None })
    }

    /// `rows` of `columns` by partition; each row has its key.
    fn write(&mut self, id: (i64, u32), batch: &RecordBatch, by_partition: &[Vec<u32>]) -> Result<(), RunError> {
        let path = self.folder.join(format!("{}-{}.arrow", id.0, id.1));
        let failed = |e: &dyn std::fmt::Display| RunError::External(format!("writing {}: {e}", path.display()));
        let file = File::create(&path).map_err(|e| failed(&e))?;
        let mut writer = FileWriter::try_new(BufWriter::new(file), &self.schema).map_err(|e| failed(&e))?;
        for rows in by_partition {
            let rows = UInt32Array::from(rows.clone());
            let part = arrow_select::take::take_record_batch(batch, &rows)?;
            writer.write(&part).map_err(|e| failed(&e))?;
        }
        writer.finish().map_err(|e| failed(&e))?;
        self.files.insert(id, SpillFile { path, exported: false });
        Ok(())
    }

    fn reader(&self, id: (i64, u32)) -> Result<FileReader<BufReader<File>>, RunError> {
        let file = self.files.get(&id).ok_or_else(|| RunError::Internal(format!("no file of part {id:?}")))?;
        let failed = |e: &dyn std::fmt::Display| RunError::External(format!("reading {}: {e}", file.path.display()));
        let opened = File::open(&file.path).map_err(|e| failed(&e))?;
        FileReader::try_new(BufReader::new(opened), None).map_err(|e| failed(&e))
    }

    fn partition(&self, id: (i64, u32), partition: usize) -> Result<RecordBatch, RunError> {
        let mut reader = self.reader(id)?;
        reader.set_index(partition)?;
        match reader.next() {
            Some(batch) => Ok(batch?),
            None => Err(RunError::External(format!("a file of part {id:?} in {} is cut off", self.folder.display()))),
        }
    }

    /// The state columns of what [`Loads::load`] gave last.
    pub fn take_loaded(&mut self, id: (i64, u32)) -> Vec<ArrayRef> {
        self.loaded.remove(&id).unwrap_or_default()
    }

    pub fn take_failure(&mut self) -> Option<RunError> {
        self.failed.take()
    }

    /// Parts that no checkpoint has yet, as (key, state columns).
    pub fn take_new(&mut self) -> Vec<(i64, u32)> {
        let new: Vec<(i64, u32)> = self.files.iter().filter(|(_, f)| !f.exported).map(|(id, _)| *id).collect();
        self.files.values_mut().for_each(|file| file.exported = true);
        new
    }

    /// All groups of a part: keys and state columns.
    pub fn read(&self, id: (i64, u32)) -> Result<Vec<Groups>, RunError> {
        let batches = self.reader(id)?.collect::<Result<Vec<RecordBatch>, _>>()?;
        let filled = batches.iter().filter(|batch| batch.num_rows() > 0);
        filled.map(|batch| Ok((keys(batch)?, batch.columns().get(2..).unwrap_or_default().to_vec()))).collect()
    }

    /// Forgets the files of parts that are no more.
    pub fn retain(&mut self, parts: &[(i64, u32)]) {
        self.files.retain(|id, file| {
            let kept = parts.binary_search(id).is_ok();
            if !kept && let Err(error) = std::fs::remove_file(&file.path) {
                tracing::warn!("{} is not needed any more but cannot be removed: {error}", file.path.display());
            }
            kept
        });
    }
}

fn keys(batch: &RecordBatch) -> Result<Vec<Vec<u8>>, RunError> {
    let column = batch.columns().first().and_then(|c| c.as_binary_opt::<i32>());
    let column = column.ok_or_else(|| RunError::Internal("a file of groups on disk lacks its keys".into()))?;
    Ok(column.iter().map(|key| key.unwrap_or_default().to_vec()).collect())
}

impl Loads for Spill {
    fn load(&mut self, pane_start_ms: i64, part: u32, partition: usize) -> Vec<LoadedGroup> {
        let id = (pane_start_ms, part);
        let read = self.partition(id, partition).and_then(|batch| {
            let touched = batch.columns().get(1).and_then(|c| c.as_primitive_opt::<UInt32Type>()).cloned();
            let touched =
                touched.ok_or_else(|| RunError::Internal("a file of groups on disk lacks when they changed".into()))?;
            Ok((keys(&batch)?, touched, batch))
        });
        let (keys, touched, batch) = match read {
            Ok(read) => read,
            Err(error) => {
                self.failed.get_or_insert(error);
                return Vec::new();
            }
        };
        self.loaded.insert(id, batch.columns().get(2..).unwrap_or_default().to_vec());
        let group = |(key, touched): (Vec<u8>, &u32)| LoadedGroup { hash: xxh3_64(&key), key, touched: *touched };
        keys.into_iter().zip(touched.values()).map(group).collect()
    }
}

impl AggregateTask {
    /// Moves groups out if they take too much; to be called when no row is pending.
    pub(super) fn spill_if_full(&mut self, state: &mut State) -> Result<(), RunError> {
        let share = self.memory_share.share_bytes;
        if self.spill.is_none()
            || self.used_bytes(state).saturating_mul(100) < share.saturating_mul(MEMORY_SPILL_PERCENT)
        {
            return Ok(());
        }
        // a version that ends its windows does so in memory
        let mut panes = state.windower.coldest();
        panes.retain(|(start_ms, _)| self.plugin.holds(*start_ms) == [Holds::State]);
        let total: usize = panes.iter().map(|(_, groups)| groups).sum();
        if total == 0 {
            return Ok(());
        }
        // half of the groups at least: moving costs a fresh instance
        let mut moved = 0;
        let wanted = |(_, groups): &(i64, usize)| {
            let more = moved * 2 < total;
            moved += groups;
            more
        };
        let cold: Vec<i64> = panes.into_iter().take_while(wanted).map(|(start_ms, _)| start_ms).collect();
        let changed = state.windower.changed();
        let stay: Vec<i64> = changed.into_iter().filter(|start_ms| !cold.contains(start_ms)).collect();
        for bucket in state.windower.buckets(&stay) {
            for holds in self.plugin.holds(bucket.window.start_ms) {
                self.plugin.export(*holds, bucket.window.start_ms, &bucket.slots)?;
            }
        }
        for start_ms in &cold {
            self.evict(state, *start_ms)?;
        }
        self.plugin.exported(&state.windower.bucket_starts());
        self.plugin.renew()?;
        tracing::debug!(task = %self.id, panes = cold.len(), groups = moved, "groups moved to disk");
        Ok(())
    }

    fn evict(&mut self, state: &mut State, start_ms: i64) -> Result<(), RunError> {
        let Some((part, groups)) = state.windower.evict(start_ms) else { return Ok(()) };
        let place: std::collections::HashMap<u32, (u64, &[u8])> =
            groups.iter().map(|(hash, key, slot)| (slot, (hash, key))).collect();
        let slots = groups.slots();
        let mut batches = Vec::new();
        let Some(spill) = &mut self.spill else { return Ok(()) };
        let mut by_partition = vec![Vec::new(); PARTITIONS];
        let mut row = 0_u32;
        for chunk in self.plugin.state(&slots, STATE_CHUNK_BYTES)? {
            let mut keys: Vec<&[u8]> = Vec::with_capacity(chunk.groups.len());
            let mut touched = Vec::with_capacity(chunk.groups.len());
            for slot in &chunk.groups {
                let (hash, key) = place.get(slot).copied().unwrap_or_default();
                let changed = state.windower.slots().touched(*slot);
                keys.push(key);
                touched.push(changed);
                // of nothing but refused rows: there is nothing to keep
                if let Some(rows) = by_partition.get_mut(partition_of(hash))
                    && changed > 0
                {
                    rows.push(row);
                }
                row += 1;
            }
            let own: [ArrayRef; 2] = [Arc::new(BinaryArray::from(keys)), Arc::new(UInt32Array::from(touched))];
            let columns = own.into_iter().chain(chunk.columns).collect();
            batches.push(RecordBatch::try_new(Arc::clone(&spill.schema), columns)?);
        }
        let batch = arrow_select::concat::concat_batches(&spill.schema, &batches)?;
        spill.write((start_ms, part), &batch, &by_partition)?;
        state.windower.slots().release(slots);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Int64Array;
    use millrace_core::schema::{DataType, Field};

    use super::*;

    #[test]
    fn a_partition_is_read_back_and_files_go_with_their_panes() {
        let folder = tempfile::tempdir().unwrap();
        let state = Schema::new(vec![Field::new("n", DataType::Long, false)]);
        let mut spill = Spill::open(folder.path(), "metrics-0", &state).unwrap();
        let keys: Vec<Vec<u8>> = (0_u32..5_000).map(|n| n.to_le_bytes().to_vec()).collect();
        let mut by_partition = vec![Vec::new(); PARTITIONS];
        for (row, key) in (0_u32..).zip(&keys) {
            by_partition[partition_of(xxh3_64(key))].push(row);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(BinaryArray::from_iter_values(&keys)),
            Arc::new(UInt32Array::from_iter_values(0..5_000)),
            Arc::new(Int64Array::from_iter_values(0..5_000)),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&spill.schema), columns).unwrap();
        spill.write((60_000, 3), &batch, &by_partition).unwrap();
        let mut seen = 0;
        for partition in 0..PARTITIONS {
            let groups = spill.load(60_000, 3, partition);
            let column = spill.take_loaded((60_000, 3)).remove(0);
            let values = column.as_primitive::<arrow_array::types::Int64Type>().values().to_vec();
            for (group, value) in groups.iter().zip(values) {
                assert_eq!(group.key, (value as u32).to_le_bytes());
                assert_eq!((partition_of(group.hash), i64::from(group.touched)), (partition, value));
                seen += 1;
            }
        }
        assert_eq!(seen, 5_000);
        assert_eq!((spill.take_new(), spill.take_new()), (vec![(60_000, 3)], vec![]));
        let all: usize = spill.read((60_000, 3)).unwrap().iter().map(|(keys, _)| keys.len()).sum();
        assert_eq!(all, 5_000);
        let files = || std::fs::read_dir(folder.path().join("metrics-0")).unwrap().count();
        spill.retain(&[(60_000, 3)]);
        assert_eq!(files(), 1);
        spill.retain(&[]);
        assert_eq!(files(), 0);
        assert!(spill.load(60_000, 3, 0).is_empty());
        assert!(spill.take_failure().is_some());
    }
}
