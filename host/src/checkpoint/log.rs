//! The log: one numbered JSON file per record, written only by create-if-absent.
//!
//! A file is `{"sha256":"<64 hex>","record":<record>}` and a newline, so that `jq .record` reads it; the checksum is
//! over the bytes of `<record>` exactly as they stand there. That frame is frozen: only the record has a format number.

use bytes::Bytes;
use futures::TryStreamExt;
use millrace_core::checkpoint::{FORMAT_VERSION, LogRecord};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::CheckpointStore;
use super::error::{CheckpointError, Class, Result, classify, one_line};

const FRAME_START: &[u8] = b"{\"sha256\":\"";
const FRAME_MIDDLE: &[u8] = b"\",\"record\":";
const FRAME_END: &[u8] = b"}\n";
const SHA256_HEX_CHARS: usize = 64;

/// Lower-case hex of the bytes' SHA-256.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(SHA256_HEX_CHARS), |mut text, byte| {
        // writing to a String cannot fail
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a record's file.
pub fn encode_record(record: &LogRecord) -> std::result::Result<Bytes, serde_json::Error> {
    let body = serde_json::to_vec(record)?;
    let mut file = Vec::with_capacity(body.len().saturating_add(128));
    file.extend_from_slice(FRAME_START);
    file.extend_from_slice(sha256_hex(&body).as_bytes());
    file.extend_from_slice(FRAME_MIDDLE);
    file.extend_from_slice(&body);
    file.extend_from_slice(FRAME_END);
    Ok(file.into())
}

/// Why a record's file was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum DecodeError {
    Damaged(String),
    NewerFormat(u32),
}

/// The inverse of [`encode_record`]. A format that is newer than this program's is told apart from damage.
pub fn decode_record(file: &[u8]) -> std::result::Result<LogRecord, DecodeError> {
    let damaged = |why: &str| DecodeError::Damaged(why.to_owned());
    let rest = file.strip_prefix(FRAME_START).ok_or_else(|| damaged("its beginning is not that of a record"))?;
    let (checksum, rest) = rest.split_at_checked(SHA256_HEX_CHARS).ok_or_else(|| damaged("it is cut off"))?;
    let rest = rest.strip_prefix(FRAME_MIDDLE).ok_or_else(|| damaged("its checksum is broken"))?;
    let body = rest.strip_suffix(FRAME_END).ok_or_else(|| damaged("it is cut off"))?;
    if sha256_hex(body).as_bytes() != checksum {
        return Err(damaged("its checksum does not match"));
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable = |e: serde_json::Error| DecodeError::Damaged(format!("it is not a record: {e}"));
    let Format { format } = serde_json::from_slice(body).map_err(unreadable)?;
    if format > FORMAT_VERSION {
        return Err(DecodeError::NewerFormat(format));
    }
    serde_json::from_slice(body).map_err(unreadable)
}

/// One number of the log, read.
#[derive(Debug, PartialEq)]
pub enum Read {
    Whole(Box<LogRecord>),
    Damaged(String),
    Missing,
}

/// How an attempt to write a number ended.
#[derive(Debug, PartialEq)]
pub enum Published {
    /// Our bytes are there.
    Ours,
    /// Somebody else's are ([`Read::Whole`] or [`Read::Damaged`]).
    Lost(Read),
}

impl CheckpointStore {
    pub(super) fn log_prefix(&self) -> Path {
        self.path(&["log"])
    }

    pub(super) fn log_path(&self, number: u64) -> Path {
        self.path(&["log", &format!("{number:020}.json")])
    }

    /// The numbers in the log, ascending. Files with other names are not ours and are left alone.
    pub async fn list_log(&self) -> Result<Vec<u64>> {
        self.list_log_after(None).await
    }

    pub(super) async fn list_log_after(&self, after: Option<u64>) -> Result<Vec<u64>> {
        let prefix = self.log_prefix();
        let offset = after.map(|n| self.log_path(n));
        let listed = self
            .retrying
            .run("listing the log", || {
                let objects = match &offset {
                    Some(offset) => self.store.list_with_offset(Some(&prefix), offset),
                    None => self.store.list(Some(&prefix)),
                };
                objects.try_collect::<Vec<_>>()
            })
            .await?
            .unwrap_or_default();
        let mut numbers: Vec<u64> = listed
            .iter()
            .filter_map(|object| {
                let digits = object.location.filename()?.strip_suffix(".json")?;
                (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
            })
            .filter(|n| after.is_none_or(|after| *n > after))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads and verifies one record. A newer format and another pipeline's record are errors: both mean that this
    /// program must not go on here.
    pub async fn read(&self, number: u64) -> Result<Read> {
        let path = self.log_path(number);
        let doing = format!("reading log record {number}");
        let Some(file) = self.get(&doing, &path).await? else { return Ok(Read::Missing) };
        self.judge(number, &file)
    }

    fn judge(&self, number: u64, file: &[u8]) -> Result<Read> {
        match decode_record(file) {
            Ok(record) if record.pipeline != *self.pipeline => Err(CheckpointError::OtherPipeline {
                location: self.location().to_owned(),
                found: record.pipeline,
                ours: self.pipeline.to_string(),
                number,
            }),
            Ok(record) if record.number != number => {
                Ok(Read::Damaged(format!("it says that it is number {}", record.number)))
            }
            Ok(record) => Ok(Read::Whole(Box::new(record))),
            Err(DecodeError::Damaged(why)) => Ok(Read::Damaged(why)),
            Err(DecodeError::NewerFormat(found)) => {
                Err(CheckpointError::NewerFormat { number, found, known: FORMAT_VERSION })
            }
        }
    }

    pub(super) async fn get(&self, doing: &str, path: &Path) -> Result<Option<Bytes>> {
        self.retrying.run(doing, || async move { self.store.get(path).await?.bytes().await }).await
    }

    /// Writes the record under its number, unless the number is taken. The outcome is certain: after any error the
    /// stored bytes are compared with ours (a conditional PUT that the client repeats can lose against itself).
    ///
    /// After an `Err` the outcome is **not** known; calling again with the same record (its nonce included) is safe.
    pub async fn publish(&self, record: &LogRecord) -> Result<Published> {
        let number = record.number;
        let doing = format!("writing log record {number}");
        let body = encode_record(record).map_err(|e| CheckpointError::Unusable {
            location: self.location().to_owned(),
            doing: doing.clone(),
            why: e.to_string(),
        })?;
        let path = self.log_path(number);
        let mut tries = 0;
        loop {
            tries += 1;
            let put = self.store.put_opts(&path, PutPayload::from(body.clone()), PutMode::Create.into()).await;
            let Err(error) = put else { return Ok(Published::Ours) };
            // It may have been applied all the same: look.
            let looked = match self.store.get(&path).await {
                Ok(found) => found.bytes().await,
                Err(e) => Err(e),
            };
            let error = match looked {
                Ok(found) if found == body => return Ok(Published::Ours),
                Ok(found) => return Ok(Published::Lost(self.judge(number, &found)?)),
                Err(e) if classify(&e) == Class::Missing => error,
                Err(e) => e,
            };
            let again = matches!(classify(&error), Class::Transient | Class::NoSpace | Class::Exists | Class::Missing);
            if !again || tries >= self.retrying.backoff.tries_max {
                return Err(self.retrying.error(&doing, tries, &error));
            }
            tracing::warn!(location = %self.location(), number, tries, error = %one_line(&error), "log record not written yet");
            self.retrying.backoff.pause(tries).await;
        }
    }
}

#[cfg(test)]
mod unit_tests {
    use millrace_core::checkpoint::Entry;

    use super::*;

    fn record() -> LogRecord {
        LogRecord {
            format: FORMAT_VERSION,
            number: 7,
            pipeline: "p".into(),
            incarnation: "i".into(),
            generation: 2,
            nonce: "n".into(),
            written_at_ms: 1,
            entry: Entry::Claim,
        }
    }

    #[test]
    fn the_file_is_plain_json_and_reads_back() {
        let file = encode_record(&record()).expect("encodes");
        let json: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
        assert_eq!(json["record"]["number"], 7);
        assert_eq!(decode_record(&file), Ok(record()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let file = encode_record(&record()).expect("encodes");
        for at in 0..file.len() {
            let mut bad = file.to_vec();
            bad[at] ^= 1;
            assert!(matches!(decode_record(&bad), Err(DecodeError::Damaged(_))), "byte {at}");
            assert!(matches!(decode_record(&file[..at]), Err(DecodeError::Damaged(_))), "cut at {at}");
        }
    }

    #[test]
    fn a_later_format_is_not_damage_even_if_it_looks_quite_different() {
        let body = br#"{"format":99,"what":"nobody knows"}"#;
        let file = [FRAME_START, sha256_hex(body).as_bytes(), FRAME_MIDDLE, body, FRAME_END].concat();
        assert_eq!(decode_record(&file), Err(DecodeError::NewerFormat(99)));
    }
}
