//! A savepoint: one checkpoint with all that it needs, in a folder of its own.
//!
//! Owns the folder's layout. It takes its facts from a checkpoint and its bytes from the checkpoint location, and gives
//! both back to a location that is empty. It never looks at a table, and it refers to nothing outside its folder: the
//! pipeline that it was taken from may be deleted.
//!
//! ```text
//!   <folder>/state/<operator>/*.parquet     key, window, the plugin's state columns
//!           /draining/<operator>/*.parquet the same, of the version that ends its windows: its own columns
//!           /ledger/<operator>/*.parquet    what has been given of each group whose result can still change
//!           /sinks/<sink>/*.parquet         what the sink's writer knows
//!           /plugins/<sha256>.wasm          what the operators ran
//!           /savepoint.json                 written last: a folder without it is no savepoint
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use arrow_array::RecordBatch;
use bytes::Bytes;
use millrace_core::checkpoint::{Checkpoint, Holds, Reason, StateFile};
use serde::{Deserialize, Serialize};

use super::log::sha256_hex;
use super::state::decode_state;
use super::{CheckpointError, CheckpointStore};

#[cfg(test)]
mod tests;

/// Raised when a reader of the former format could misunderstand a savepoint.
pub const FORMAT: u32 = 1;
/// The file that makes a folder a savepoint.
pub const RECORD: &str = "savepoint.json";
const UNFINISHED: &str = "savepoint.json.unfinished";
/// What is at the end of [`RECORD`]; the checksum is over all bytes before it.
const SEAL: &str = ",\n  \"sha256\": \"";
const SEAL_END: &str = "\"\n}\n";

#[derive(Debug, thiserror::Error)]
pub enum SavepointError {
    #[error("savepoint folder {folder}: {why}. hint: a savepoint goes into a folder that is empty or not there yet")]
    Taken { folder: String, why: String },
    #[error("savepoint folder {folder}: {doing} failed: {why}")]
    Folder { folder: String, doing: String, why: String },
    #[error(
        "{folder} is no savepoint: there is no {RECORD} in it, which is written last. hint: name the folder that \
         `millrace savepoint` was given; one that it could not finish has to be taken again"
    )]
    Incomplete { folder: String },
    #[error("{folder}/{file} is damaged: {why}. hint: take it from a copy; the other files do not make up for it")]
    Damaged { folder: String, file: String, why: String },
    #[error(
        "{folder}/{RECORD} has format {found}, this program knows formats up to {FORMAT}. hint: run the version that \
         wrote it ({by}), or a newer one"
    )]
    NewerFormat { folder: String, found: u32, by: String },
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
}

type Result<T> = std::result::Result<T, SavepointError>;

/// What [`RECORD`] says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    pub pipeline: String,
    /// the version of millrace that wrote it
    pub millrace: String,
    /// the checkpoint's number in the log that it was taken from
    pub number: u64,
    pub written_at_ms: i64,
    /// the paths of its files are relative to the folder
    pub checkpoint: Checkpoint,
}

/// A whole savepoint; its files are verified when they are read.
#[derive(Debug)]
pub struct Savepoint {
    folder: PathBuf,
    pub record: Record,
}

/// Copies a checkpoint, all of whose commits are confirmed, into an empty folder. What a failure leaves is removed again;
/// what a crash leaves has no [`RECORD`].
pub async fn write(
    store: &CheckpointStore,
    folder: &Path,
    number: u64,
    checkpoint: &Checkpoint,
    now_ms: i64,
) -> Result<()> {
    let folder = Folder::take(folder)?;
    let written = fill(store, &folder, number, checkpoint, now_ms).await;
    if written.is_err() {
        folder.clear();
    }
    written
}

async fn fill(
    store: &CheckpointStore,
    folder: &Folder,
    number: u64,
    checkpoint: &Checkpoint,
    now_ms: i64,
) -> Result<()> {
    let mut checkpoint = checkpoint.clone();
    for (kind, node, file) in files_mut(&mut checkpoint) {
        let bytes = store.read_state_bytes(file).await?;
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        let path = format!("{kind}/{node}/{name}");
        folder.write(&path, &bytes)?;
        file.path = path;
    }
    for plugin in checkpoint.plugins() {
        // what is built in, or native, has no bytes
        if let Some(bytes) = store.kept_plugin(&plugin.sha256).await? {
            folder.write(&format!("plugins/{}.wasm", plugin.sha256), &bytes)?;
        }
    }
    let record = Record {
        format: FORMAT,
        pipeline: store.pipeline().to_owned(),
        millrace: env!("CARGO_PKG_VERSION").to_owned(),
        number,
        written_at_ms: now_ms,
        checkpoint,
    };
    folder.finish(&seal(&record).map_err(|e| folder.failed("writing savepoint.json", &e))?)
}

/// Every file that a checkpoint refers to: the folder that it belongs to, the operator or sink, the file.
fn files_mut(checkpoint: &mut Checkpoint) -> impl Iterator<Item = (&'static str, &str, &mut StateFile)> {
    let of_operators = checkpoint.operators.iter_mut().flat_map(|(name, operator)| {
        operator.files.iter_mut().map(move |file| {
            let kind = match file.holds {
                Holds::State => "state",
                Holds::Draining => "draining",
                Holds::Ledger => "ledger",
            };
            (kind, name.as_str(), file)
        })
    });
    let of_sinks = checkpoint.sinks.iter_mut().flat_map(|(name, sink)| {
        let files = sink.writer.iter_mut().flat_map(|writer| writer.files.iter_mut());
        files.map(move |file| ("sinks", name.as_str(), file))
    });
    of_operators.chain(of_sinks)
}

/// The record's text, and at its end the checksum of all before it: `jq` reads it, and an edited one is found out.
fn seal(record: &Record) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(record)?;
    let body = text.strip_suffix("\n}").unwrap_or(&text);
    Ok(format!("{body}{SEAL}{}{SEAL_END}", sha256_hex(body.as_bytes())))
}

/// Whether the text is what [`seal`] made.
fn is_sealed(text: &str) -> bool {
    let Some((body, sum)) = text.rsplit_once(SEAL) else { return false };
    sum.strip_suffix(SEAL_END).is_some_and(|sum| sha256_hex(body.as_bytes()) == sum)
}

/// Reads what there is to know of a savepoint, but for its files.
pub fn open(folder: &Path) -> Result<Savepoint> {
    let shown = || folder.display().to_string();
    let damaged = |why: String| SavepointError::Damaged { folder: shown(), file: RECORD.to_owned(), why };
    let text = match fs::read_to_string(folder.join(RECORD)) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(SavepointError::Incomplete { folder: shown() }),
        Err(e) => {
            let doing = format!("reading {RECORD}");
            return Err(SavepointError::Folder { folder: shown(), doing, why: e.to_string() });
        }
    };
    if !is_sealed(&text) {
        return Err(damaged("its checksum does not match: it was cut off or edited".to_owned()));
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
        millrace: String,
    }
    let unreadable = |e: serde_json::Error| damaged(format!("it is not a savepoint's: {e}"));
    let Format { format, millrace } = serde_json::from_str(&text).map_err(unreadable)?;
    if format > FORMAT {
        return Err(SavepointError::NewerFormat { folder: shown(), found: format, by: millrace });
    }
    let record = serde_json::from_str(&text).map_err(unreadable)?;
    Ok(Savepoint { folder: folder.to_owned(), record })
}

impl Savepoint {
    /// Copies all files to a location, as those of checkpoint `number`, each verified on its way. What comes back is the
    /// checkpoint that another incarnation begins with: its tables know nothing of what the former one has committed.
    pub async fn copy_into(&self, store: &CheckpointStore, number: u64) -> Result<Checkpoint> {
        let mut checkpoint = self.record.checkpoint.clone();
        // so that retention treats it as any other
        checkpoint.reason = Reason::Periodic;
        // All was confirmed, in tables that are another incarnation's. Where their rows are, a writer looks up.
        checkpoint.sinks.clear();
        for (_, node, file) in files_mut(&mut checkpoint) {
            let bytes = self.read(file)?;
            file.path = store.upload_file(number, node, bytes).await?;
            file.written_by = number;
        }
        for plugin in checkpoint.plugins() {
            let file = format!("plugins/{}.wasm", plugin.sha256);
            match fs::read(self.folder.join(&file)) {
                Ok(bytes) => store.put_plugin(&plugin.sha256, bytes.into()).await?,
                // the pipeline file may give it
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(self.damaged(&file, e.to_string())),
            }
        }
        Ok(checkpoint)
    }

    /// Whether a checkpoint says what [`Savepoint::copy_into`] made of this one: nothing has happened since.
    pub fn is_copied(&self, checkpoint: &Checkpoint) -> bool {
        let plain = |checkpoint: &Checkpoint| {
            let mut plain = Checkpoint { reason: Reason::Periodic, ..checkpoint.clone() };
            plain.sinks.clear();
            for (_, _, file) in files_mut(&mut plain) {
                file.path.clear();
                file.written_by = 0;
            }
            for operator in plain.operators.values_mut() {
                operator.files.sort_by(|a, b| (&a.sha256, a.first_key_group).cmp(&(&b.sha256, b.first_key_group)));
            }
            plain
        };
        checkpoint.sinks.is_empty() && plain(checkpoint) == plain(&self.record.checkpoint)
    }

    /// The groups of one file, verified.
    pub fn read_state_file(&self, file: &StateFile) -> Result<Vec<RecordBatch>> {
        decode_state(file, self.read(file)?).map_err(|why| self.damaged(&file.path, why))
    }

    /// A component that an operator ran, verified.
    pub fn read_plugin(&self, sha256: &str) -> Result<Bytes> {
        let file = format!("plugins/{sha256}.wasm");
        let bytes = fs::read(self.folder.join(&file)).map_err(|e| self.damaged(&file, e.to_string()))?;
        let found = sha256_hex(&bytes);
        if found == sha256 { Ok(bytes.into()) } else { Err(self.damaged(&file, format!("its digest is {found}"))) }
    }

    fn read(&self, file: &StateFile) -> Result<Bytes> {
        let inside = Path::new(&file.path).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err(self.damaged(RECORD, format!("it names the file {}, which is not inside", file.path)));
        }
        let bytes = fs::read(self.folder.join(&file.path)).map_err(|e| self.damaged(&file.path, e.to_string()))?;
        if bytes.len() as u64 != file.bytes || sha256_hex(&bytes) != file.sha256 {
            let why = format!("size or checksum are not those in {RECORD}");
            return Err(self.damaged(&file.path, why));
        }
        Ok(bytes.into())
    }

    fn damaged(&self, file: &str, why: String) -> SavepointError {
        SavepointError::Damaged { folder: self.folder.display().to_string(), file: file.to_owned(), why }
    }
}

/// The folder that a savepoint is written into; all that is in it is ours.
struct Folder(PathBuf);

impl Folder {
    fn take(path: &Path) -> Result<Self> {
        let folder = Self(path.to_owned());
        fs::create_dir_all(path).map_err(|e| folder.failed("making the folder", &e))?;
        let mut found = fs::read_dir(path).map_err(|e| folder.failed("listing the folder", &e))?;
        if found.next().is_some() {
            let why = if path.join(RECORD).exists() { "it holds another savepoint" } else { "it is not empty" };
            return Err(SavepointError::Taken { folder: path.display().to_string(), why: why.to_owned() });
        }
        Ok(folder)
    }

    /// On disk when it returns, but for the folders' own entries: [`Folder::finish`].
    fn write(&self, relative: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(relative);
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| self.failed(&format!("writing {relative}"), &e))
    }

    /// The record comes last, at once, and only when all that it names is on disk.
    fn finish(&self, record: &str) -> Result<()> {
        let finish = || {
            sync_folders(&self.0)?;
            fs::rename(self.0.join(UNFINISHED), self.0.join(RECORD))?;
            File::open(&self.0)?.sync_all()?;
            match self.0.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(above) => File::open(above)?.sync_all(),
                None => Ok(()),
            }
        };
        self.write(UNFINISHED, record.as_bytes())?;
        finish().map_err(|e| self.failed(&format!("writing {RECORD}"), &e))
    }

    /// Only what [`write`] puts there.
    fn clear(&self) {
        for ours in ["state", "ledger", "sinks", "plugins"] {
            // what stays is found by the next one, which says that the folder is not empty
            let _ = fs::remove_dir_all(self.0.join(ours));
        }
        let _ = fs::remove_file(self.0.join(UNFINISHED));
    }

    fn failed(&self, doing: &str, error: &dyn std::fmt::Display) -> SavepointError {
        let folder = self.0.display().to_string();
        SavepointError::Folder { folder, doing: doing.to_owned(), why: error.to_string() }
    }
}

fn sync_folders(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    File::open(folder)?.sync_all()
}
