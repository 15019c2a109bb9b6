//! Small files that have waited for a commit interval become one per partition, before a checkpoint names them.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{DataFile, Struct};
use iceberg::writer::file_writer::FileWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::table::Layout;
use super::{classify, writer};
use crate::sink::{Result, SinkError};

/// Partitions joined at the same time; the files of each are held in memory meanwhile.
const JOINED_AT_ONCE_MAX: usize = 2;
/// Task number in the names of joined files.
const JOIN_TASK: usize = 999;

/// Returns the files to commit, and the paths of those that are part of others now.
pub async fn join(layout: &Layout, files: Vec<Value>) -> Result<(Vec<Value>, Vec<String>)> {
    let mut by_partition: BTreeMap<String, (Struct, Vec<(DataFile, Value)>)> = BTreeMap::new();
    for json in files {
        let file = writer::data_file(layout, &json)?;
        let key = json.get("partition").and_then(Value::as_str).unwrap_or_default().to_owned();
        by_partition.entry(key).or_insert_with(|| (file.partition().clone(), Vec::new())).1.push((file, json));
    }
    let joined: Vec<(Vec<Value>, Vec<String>)> = stream::iter(by_partition.into_values())
        .map(|(partition, files)| join_partition(layout, partition, files))
        .buffered(JOINED_AT_ONCE_MAX)
        .try_collect()
        .await?;
    Ok(joined.into_iter().fold((Vec::new(), Vec::new()), |(mut files, mut gone), (f, g)| {
        files.extend(f);
        gone.extend(g);
        (files, gone)
    }))
}

async fn join_partition(
    layout: &Layout,
    partition: Struct,
    files: Vec<(DataFile, Value)>,
) -> Result<(Vec<Value>, Vec<String>)> {
    let target = layout.options.target_file_bytes as u64;
    let (small, mut kept): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(file, _)| file.file_size_in_bytes() < target / 2);
    if small.len() < 2 {
        kept.extend(small);
        return Ok((kept.into_iter().map(|(_, json)| json).collect(), Vec::new()));
    }
    let mut out = writer::open(layout, JOIN_TASK, None, partition.clone()).await?;
    let mut gone = Vec::with_capacity(small.len());
    for (file, _) in small {
        let path = file.file_path().to_owned();
        let failed = |e: iceberg::Error| classify(&format!("reading {path} to join it"), &e);
        let bytes = layout.file_io.new_input(&path).map_err(failed)?.read().await.map_err(failed)?;
        let corrupt = |e: String| SinkError::Fatal(format!("reading {path} to join it: {e}"));
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .and_then(|b| b.with_batch_size(8_192).build())
            .map_err(|e| corrupt(e.to_string()))?;
        for batch in reader {
            let batch = batch.map_err(|e| corrupt(e.to_string()))?;
            let columns = batch
                .columns()
                .iter()
                .zip(layout.arrow.fields())
                .map(|(column, field)| arrow_cast::cast(column, field.data_type()))
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|e| corrupt(e.to_string()))?;
            let batch = arrow_array::RecordBatch::try_new(layout.arrow.clone(), columns)
                .map_err(|e| corrupt(e.to_string()))?;
            out.write(&batch).await.map_err(failed)?;
        }
        gone.push(path);
    }
    let mut result: Vec<Value> = kept.into_iter().map(|(_, json)| json).collect();
    result.extend(writer::close(layout, out, partition).await?);
    Ok((result, gone))
}
