//! What has waited for a commit becomes the files of that commit, before a checkpoint names them: runs are merged into a
//! file per partition, small data files of a partition into one.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use futures::future::try_join_all;
use iceberg::spec::DataFile;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tokio::runtime::Handle;

use super::data::{Belongs, Closed, data_file};
use super::partition::Partitions;
use super::run::{self, Run};
use super::table::Layout;
use super::{classify, writer};
use crate::sink::{Result, SinkError};

/// Threads that merge runs.
const MERGED_AT_ONCE_MAX: u64 = 2;
/// A data file of this size is good enough: reading and writing it once more would cost more than it saves.
const SMALL_FILE_BYTES_MAX: u64 = 8 << 20;
/// Task number in the names of joined files.
const JOIN_TASK: usize = 999;
/// In a joined file's entry: the files whose rows it has, which nothing needs once it is committed.
pub const REPLACES: &str = "replaces";

/// The files that a committable's files have replaced.
pub fn replaced(files: &[Value]) -> impl Iterator<Item = &str> {
    files.iter().filter_map(|file| file.get(REPLACES)?.as_array()).flatten().filter_map(Value::as_str)
}

/// Returns the files to commit; they are durable.
pub async fn join(layout: &Arc<Layout>, runtime: &Handle, checkpoint: u64, files: Vec<Value>) -> Result<Vec<Value>> {
    let belongs = Belongs::To(checkpoint);
    let (runs, files): (Vec<Value>, Vec<Value>) = files.into_iter().partition(|file| run::path_of(file).is_some());
    let mut gone: Vec<String> = runs.iter().filter_map(run::path_of).map(str::to_owned).collect();
    let mut made = Vec::new();
    if !gone.is_empty() {
        let merges = (0..MERGED_AT_ONCE_MAX).map(|share| {
            let (layout, runtime, paths) = (layout.clone(), runtime.clone(), gone.clone());
            let wanted = move |hash| hash % MERGED_AT_ONCE_MAX == share;
            tokio::task::spawn_blocking(move || runtime.block_on(merge(&layout, JOIN_TASK, belongs, &paths, wanted)))
        });
        for merged in try_join_all(merges).await.map_err(|e| SinkError::Fatal(format!("merging runs: {e}")))? {
            made.extend(merged?);
        }
    }
    let mut by_partition: BTreeMap<String, Vec<(DataFile, Value)>> = BTreeMap::new();
    for json in files {
        let file = data_file(layout, &json)?;
        let key = json.get("partition").and_then(Value::as_str).unwrap_or_default().to_owned();
        by_partition.entry(key).or_default().push((file, json));
    }
    let mut result = Vec::new();
    for files in by_partition.into_values() {
        let small_below = SMALL_FILE_BYTES_MAX.min(layout.options.target_file_bytes as u64 / 2);
        let (small, kept): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(f, _)| f.file_size_in_bytes() < small_below);
        result.extend(kept.into_iter().map(|(_, json)| json));
        if small.len() < 2 {
            result.extend(small.into_iter().map(|(_, json)| json));
            continue;
        }
        let small: Vec<String> = small.iter().map(|(file, _)| file.file_path().to_owned()).collect();
        made.extend(rewrite(layout, belongs, &small).await?);
        gone.extend(small);
    }
    let mut made = layout.durable(made)?;
    if let Some(Value::Object(last)) = made.last_mut() {
        last.insert(REPLACES.to_owned(), gone.into());
    }
    result.extend(made);
    Ok(result)
}

/// The rows of all runs whose partition's hash is wanted, in data files: one pass, a partition at a time.
pub async fn merge(
    layout: &Arc<Layout>,
    task: usize,
    belongs: Belongs,
    runs: &[String],
    wanted: impl Fn(u64) -> bool,
) -> Result<Vec<Closed>> {
    let mut open = Vec::with_capacity(runs.len());
    for path in runs {
        let mut run = Run::open(layout, path).await?;
        run.retain(&wanted);
        open.push(run);
    }
    let mut files = writer::Files::new(task, layout.clone());
    let mut partitions = Partitions::default();
    while let Some(hash) = open.iter().filter_map(Run::hash).min() {
        for run in &mut open {
            while run.hash() == Some(hash)
                && let Some(rows) = run.next().await?
            {
                // two partitions of one hash would get more files than they need, nothing worse
                write(layout, &mut files, &mut partitions, belongs, &rows).await?;
            }
        }
    }
    files.finish().await
}

/// The rows of data files of one partition.
async fn rewrite(layout: &Arc<Layout>, belongs: Belongs, paths: &[String]) -> Result<Vec<Closed>> {
    let mut files = writer::Files::new(JOIN_TASK, layout.clone());
    let mut partitions = Partitions::default();
    for path in paths {
        let failed = |e: iceberg::Error| classify(&format!("reading {path} to join it"), &e);
        let bytes = layout.file_io.new_input(path).map_err(failed)?.read().await.map_err(failed)?;
        let corrupt = |e: &dyn std::fmt::Display| SinkError::Fatal(format!("reading {path} to join it: {e}"));
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|b| b.with_batch_size(8_192).build());
        for batch in reader.map_err(|e| corrupt(&e))? {
            write(layout, &mut files, &mut partitions, belongs, &batch.map_err(|e| corrupt(&e))?).await?;
        }
    }
    files.finish().await
}

/// Writes rows that were read back: they are of one partition.
async fn write(
    layout: &Layout,
    files: &mut writer::Files,
    partitions: &mut Partitions,
    belongs: Belongs,
    rows: &RecordBatch,
) -> Result<()> {
    let rows = layout.conform(rows)?;
    let id = partitions.assign(layout, &rows.slice(0, 1))?.first().copied().unwrap_or_default();
    files.write(belongs, partitions, id, &rows).await.map(drop)
}
