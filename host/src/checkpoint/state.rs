//! State files: immutable Parquet, one per operator, key-group range and window.
//!
//! Encoding is a plain function (it costs CPU, so it runs on a blocking thread, never on a worker's); upload and
//! reading are asynchronous. The types are the ones every Parquet reader knows.

use arrow_array::RecordBatch;
use bytes::Bytes;
use millrace_core::checkpoint::{Holds, StateFile};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, WriteMultipart};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::log::sha256_hex;
use super::{CheckpointError, CheckpointStore, Result};

/// Rows of a row group: bounds the memory that reading a file back takes beside the file itself.
const ROW_GROUP_ROWS_MAX: usize = 65_536;
/// Rows of a batch read back.
const READ_BATCH_ROWS_MAX: usize = 8_192;
/// Larger files go up in parts.
const SINGLE_PUT_BYTES_MAX: usize = 32 << 20;
const PART_BYTES: usize = 16 << 20;
const PARTS_AT_ONCE_MAX: usize = 4;
const ZSTD_LEVEL: i32 = 1;

/// The groups of one window in one key-group range, as an operator exported them.
#[derive(Clone, Debug)]
pub struct StatePart {
    pub operator: String,
    pub holds: Holds,
    /// see [`millrace_core::checkpoint::BucketId`]
    pub part: u32,
    /// inclusive
    pub first_key_group: u16,
    /// inclusive
    pub last_key_group: u16,
    pub window_start_ms: i64,
    pub window_end_ms: i64,
    /// one row per group, in the columns of [`millrace_core::checkpoint::state_file_schema`]; at least one batch
    pub batches: Vec<RecordBatch>,
}

/// A state file that is not uploaded yet.
#[derive(Clone, Debug)]
pub struct EncodedState {
    operator: String,
    bytes: Bytes,
    /// all but `path` and `written_by`
    file: StateFile,
}

/// Parquet, zstd, with its checksum. Costs CPU: call it on a blocking thread.
pub fn encode_state(part: &StatePart) -> Result<EncodedState> {
    let failed = |why: String| CheckpointError::Encoding { operator: part.operator.clone(), why };
    let first = part.batches.first().ok_or_else(|| failed("there is no batch".to_owned()))?;
    let write = || -> std::result::Result<Vec<u8>, ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_created_by("millrace".to_owned())
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties))?;
        for batch in &part.batches {
            writer.write(batch)?;
        }
        writer.into_inner()
    };
    let bytes = Bytes::from(write().map_err(|e| failed(e.to_string()))?);
    let groups: usize = part.batches.iter().map(RecordBatch::num_rows).sum();
    let file = StateFile {
        holds: part.holds,
        part: part.part,
        path: String::new(),
        bytes: bytes.len() as u64,
        sha256: sha256_hex(&bytes),
        first_key_group: part.first_key_group,
        last_key_group: part.last_key_group,
        window_start_ms: part.window_start_ms,
        window_end_ms: part.window_end_ms,
        groups: groups as u64,
        written_by: 0,
    };
    Ok(EncodedState { operator: part.operator.clone(), bytes, file })
}

impl EncodedState {
    pub fn num_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The checkpoint number in a state file's name, which [`CheckpointStore::upload_state`] put there.
pub(super) fn written_for(path: &str) -> Option<u64> {
    let (_, name) = path.rsplit_once('/')?;
    let (number, _) = name.strip_suffix(".parquet")?.split_once('-')?;
    (number.len() == 20).then(|| number.parse().ok())?
}

impl CheckpointStore {
    /// Uploads under a new name; `number` is the checkpoint in flight ([`super::Owner::next_number`]). Durable when it
    /// returns, and never visible half-written. A file whose checkpoint is given up may be named by the next one, or
    /// is collected later.
    pub async fn upload_state(&self, number: u64, state: EncodedState) -> Result<StateFile> {
        let EncodedState { operator, bytes, mut file } = state;
        file.path = self.upload_file(number, &operator, bytes).await?;
        file.written_by = number;
        Ok(file)
    }

    /// Gives a state file's bytes a name of their own, and returns it.
    pub(super) async fn upload_file(&self, number: u64, operator: &str, bytes: Bytes) -> Result<String> {
        let path = self.path(&["state", operator, &format!("{number:020}-{}.parquet", (self.new_id)())]);
        let doing = format!("writing a state file of `{operator}` ({} bytes)", bytes.len());
        self.retrying
            .run_there(&doing, || {
                let (path, bytes) = (&path, bytes.clone());
                async move {
                    if bytes.len() <= SINGLE_PUT_BYTES_MAX {
                        // the name is ours alone: putting twice is putting once
                        self.store.put_opts(path, PutPayload::from(bytes), PutMode::Overwrite.into()).await?;
                        return Ok(());
                    }
                    let upload = self.store.put_multipart(path).await?;
                    let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
                    let mut rest = bytes;
                    while !rest.is_empty() {
                        parts.wait_for_capacity(PARTS_AT_ONCE_MAX).await?;
                        parts.put(rest.split_to(rest.len().min(PART_BYTES)));
                    }
                    parts.finish().await.map(|_| ())
                }
            })
            .await?;
        Ok(self.relative(&path).unwrap_or_else(|| path.to_string()))
    }

    /// The file's bytes, if size and checksum are those that the checkpoint names.
    pub(super) async fn read_state_bytes(&self, file: &StateFile) -> Result<Bytes> {
        let damaged = |why: String| CheckpointError::StateDamaged { path: file.path.clone(), why };
        let path = self.absolute(&file.path).map_err(|e| damaged(format!("not a path: {e}")))?;
        let bytes = self
            .get(&format!("reading state file {}", file.path), &path)
            .await?
            .ok_or_else(|| damaged("it is missing".to_owned()))?;
        if bytes.len() as u64 != file.bytes {
            return Err(damaged(format!("it has {} bytes, the checkpoint says {}", bytes.len(), file.bytes)));
        }
        if sha256_hex(&bytes) != file.sha256 {
            return Err(damaged("its checksum does not match".to_owned()));
        }
        Ok(bytes)
    }

    /// The groups of one file, verified. Decoding costs CPU on the calling task: restore on a blocking thread's runtime,
    /// or before the workers start.
    pub async fn read_state_file(&self, file: &StateFile) -> Result<Vec<RecordBatch>> {
        let bytes = self.read_state_bytes(file).await?;
        decode_state(file, bytes).map_err(|why| CheckpointError::StateDamaged { path: file.path.clone(), why })
    }
}

/// The groups of a file whose bytes are verified; `Err`: why it is damaged nevertheless.
pub(super) fn decode_state(file: &StateFile, bytes: Bytes) -> std::result::Result<Vec<RecordBatch>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(READ_BATCH_ROWS_MAX).build())
        .map_err(|e| e.to_string())?;
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let groups: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if groups as u64 != file.groups {
        return Err(format!("it holds {groups} groups, the checkpoint says {}", file.groups));
    }
    Ok(batches)
}
