//! Runs: rows of a partitioned table that wait for their commit, in one file per task and barrier.
//!
//! A file per partition and barrier would be thousands of files that the next commit reads and replaces. A run is one
//! file in Arrow's IPC format, a block per partition, in ascending order of the partitions' hashes; the footer has the
//! hashes. So any number of runs can be merged in one pass over each. Readers of the table never see one: no snapshot
//! names it, and its folder begins with `_`, which engines that remove orphans leave alone.

use std::collections::VecDeque;
use std::ops::Range;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::writer::FileWriter;
use arrow_ipc::{Block, root_as_footer};
use bytes::Bytes;
use iceberg::io::FileRead;
use iceberg::writer::file_writer::location_generator::LocationGenerator;
use serde_json::Value;

use super::classify;
use super::data::{Belongs, Closed, file_name};
use super::partition::Partitions;
use super::table::Layout;
use crate::sink::{Result, SinkError};

/// Encoded bytes collected before they are written.
const WRITTEN_AT_ONCE_BYTES: usize = 1 << 20;
/// Bytes read ahead of each run while runs are merged.
const READ_AHEAD_BYTES: u64 = 256 << 10;
/// `hash hash …`, one per block
const HASHES: &str = "millrace.partition-hashes";
/// length of the footer and the magic word
const TRAILER_BYTES: u64 = 10;

/// Where a checkpoint names a run; none: it names a data file.
pub fn path_of(file: &Value) -> Option<&str> {
    file.get("run").and_then(Value::as_str)
}

pub async fn write(
    layout: &Layout,
    task: usize,
    belongs: Belongs,
    partitions: &Partitions,
    pieces: impl Iterator<Item = Result<(u32, RecordBatch)>>,
) -> Result<Closed> {
    let path = layout.locations.generate_location(None, &format!("_runs/{}", file_name(belongs, task, "arrow")));
    let failed = |e: iceberg::Error| classify(&format!("writing {path}"), &e);
    let encoding = |e: arrow_schema::ArrowError| SinkError::Fatal(format!("writing {path}: {e}"));
    let mut out = layout.output(&path)?.writer().await.map_err(failed)?;
    let mut ipc = FileWriter::try_new(Vec::new(), &layout.arrow).map_err(encoding)?;
    let mut hashes: Vec<String> = Vec::new();
    for piece in pieces {
        let (id, rows) = piece?;
        ipc.write(&rows).map_err(encoding)?;
        hashes.push(partitions.hash(id).to_string());
        if ipc.get_ref().len() >= WRITTEN_AT_ONCE_BYTES {
            out.write(std::mem::take(ipc.get_mut()).into()).await.map_err(failed)?;
        }
    }
    ipc.write_metadata(HASHES, hashes.join(" "));
    ipc.finish().map_err(encoding)?;
    out.write(ipc.into_inner().map_err(encoding)?.into()).await.map_err(failed)?;
    out.close().await.map_err(failed)?;
    Ok(Closed(serde_json::json!({ "run": path })))
}

/// A run, read from its beginning.
pub struct Run {
    path: String,
    reader: Box<dyn FileRead>,
    decoder: FileDecoder,
    /// not read yet
    blocks: VecDeque<(u64, Block)>,
    /// read ahead: from this offset
    ahead: (u64, Bytes),
    /// where the blocks end
    end: u64,
}

impl Run {
    pub async fn open(layout: &Layout, path: &str) -> Result<Self> {
        let failed = |e: iceberg::Error| classify(&format!("reading {path}"), &e);
        let corrupt = |what: &dyn std::fmt::Display| SinkError::Fatal(format!("reading {path}: {what}"));
        let input = layout.file_io.new_input(path).map_err(failed)?;
        let size = input.metadata().await.map_err(failed)?.size;
        let reader = input.reader().await.map_err(failed)?;
        let trailer_start = size.checked_sub(TRAILER_BYTES).ok_or_else(|| corrupt(&"it is too short"))?;
        let trailer = reader.read(trailer_start..size).await.map_err(failed)?;
        let trailer = trailer.as_ref().try_into().map_err(|e| corrupt(&e))?;
        let length = read_footer_length(trailer).map_err(|e| corrupt(&e))?;
        let end = trailer_start.checked_sub(length as u64).ok_or_else(|| corrupt(&"its footer is too long"))?;
        let footer = reader.read(end..trailer_start).await.map_err(failed)?;
        let footer = root_as_footer(&footer).map_err(|e| corrupt(&e))?;
        let schema = footer.schema().map(fb_to_schema).ok_or_else(|| corrupt(&"it has no schema"))?;
        let hashes = footer.custom_metadata().iter().flatten().find(|pair| pair.key() == Some(HASHES));
        let hashes: Vec<u64> = hashes
            .and_then(|pair| pair.value())
            .and_then(|text| text.split_whitespace().map(|hash| hash.parse().ok()).collect())
            .ok_or_else(|| corrupt(&"it does not say its partitions"))?;
        let blocks: Vec<Block> = footer.recordBatches().iter().flatten().copied().collect();
        if blocks.len() != hashes.len() {
            return Err(corrupt(&format!("{} blocks, {} partitions", blocks.len(), hashes.len())));
        }
        let decoder = FileDecoder::new(schema.into(), footer.version());
        let blocks = hashes.into_iter().zip(blocks).collect();
        Ok(Self { path: path.to_owned(), reader, decoder, blocks, ahead: (0, Bytes::new()), end })
    }

    /// Leaves blocks out.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        self.blocks.retain(|(hash, _)| wanted(*hash));
    }

    /// The next block's partition.
    pub fn hash(&self) -> Option<u64> {
        self.blocks.front().map(|(hash, _)| *hash)
    }

    /// The next block.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some((_, block)) = self.blocks.pop_front() else { return Ok(None) };
        let corrupt = |what: &dyn std::fmt::Display| SinkError::Fatal(format!("reading {}: {what}", self.path));
        let length = |number: i64| u64::try_from(number).map_err(|e| corrupt(&e));
        let start = length(block.offset())?;
        let end = start + length(i64::from(block.metaDataLength()))? + length(block.bodyLength())?;
        let bytes = self.bytes(start..end).await?;
        let corrupt = |what: &dyn std::fmt::Display| SinkError::Fatal(format!("reading {}: {what}", self.path));
        self.decoder.read_record_batch(&block, &Buffer::from(bytes)).map_err(|e| corrupt(&e))
    }

    async fn bytes(&mut self, wanted: Range<u64>) -> Result<Bytes> {
        let held = |(start, bytes): &(u64, Bytes)| {
            let from = usize::try_from(wanted.start.checked_sub(*start)?).ok()?;
            let to = usize::try_from(wanted.end.checked_sub(*start)?).ok()?;
            (to <= bytes.len()).then(|| bytes.slice(from..to))
        };
        if let Some(bytes) = held(&self.ahead) {
            return Ok(bytes);
        }
        let upto = wanted.end.max((wanted.start + READ_AHEAD_BYTES).min(self.end));
        let read = self.reader.read(wanted.start..upto).await;
        let read = read.map_err(|e| classify(&format!("reading {}", self.path), &e))?;
        self.ahead = (wanted.start, read);
        held(&self.ahead).ok_or_else(|| SinkError::Fatal(format!("reading {}: it is too short", self.path)))
    }
}
