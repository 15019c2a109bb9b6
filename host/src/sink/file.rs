//! Rows into files of a folder: JSON lines or Parquet, one file per task and checkpoint.
//!
//! **At-least-once.** A file appears under its final name when the checkpoint that covers it is being taken, complete
//! and synced. If the process dies before that checkpoint is durable, the rows are read again and appear once more, in
//! a file of a later checkpoint. No file is ever overwritten or appended to. A dead-letter file is such a file.
//!
//! ```text
//!   .bad-0-<id>.open                          being written; nobody reads it; deleted by the next start
//!   bad-00000000000000000012-0.jsonl          node, checkpoint, task
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use millrace_core::batch::RowSet;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::json::JsonRows;
use super::rows::{append_only, for_each_row, selected};
use super::{Prepared, Result, SinkError, SinkWriter};
use crate::spec::model::{FileFormat, FileSinkSpec};

/// Lines collected before they are handed to the operating system.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Attempts of one checkpoint number whose files exist already, before we give up.
const NAMES_TRIED_MAX: u32 = 1_000;
const OPEN_SUFFIX: &str = ".open";
const ID_CHARS: usize = 32;

/// One task's files.
pub struct FileSink {
    folder: PathBuf,
    format: FileFormat,
    node: String,
    task: usize,
    open: Option<Open>,
}

struct Open {
    path: PathBuf,
    rows: u64,
    content: Content,
}

enum Content {
    Jsonl { file: File, good_bytes: u64, buffer: Vec<u8> },
    Parquet { schema: SchemaRef, writer: Box<ArrowWriter<File>> },
}

impl FileSink {
    /// Makes the folder, and deletes what a crashed run of this task left open (its rows will be read again).
    pub fn new(spec: &FileSinkSpec, node: &str, task: usize) -> Result<Self> {
        fs::create_dir_all(&spec.path).map_err(|e| failed("making the folder", &spec.path, &e))?;
        let sink = Self { folder: spec.path.clone(), format: spec.format, node: node.to_owned(), task, open: None };
        let entries = fs::read_dir(&spec.path).map_err(|e| failed("listing the folder", &spec.path, &e))?;
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_some_and(|name| sink.left_open(name))
                && let Err(e) = fs::remove_file(entry.path())
                && e.kind() != ErrorKind::NotFound
            {
                return Err(failed("deleting an unfinished file", &entry.path(), &e));
            }
        }
        Ok(sink)
    }

    fn open_prefix(&self) -> String {
        format!(".{}-{}-", self.node, self.task)
    }

    fn left_open(&self, name: &str) -> bool {
        name.strip_prefix(&self.open_prefix())
            .and_then(|rest| rest.strip_suffix(OPEN_SUFFIX))
            .is_some_and(|id| id.len() == ID_CHARS && id.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    fn create(&self, schema: SchemaRef) -> Result<Open> {
        let path = self.folder.join(format!("{}{}{OPEN_SUFFIX}", self.open_prefix(), uuid::Uuid::new_v4().simple()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| failed("making a file", &path, &e))?;
        let content = match self.format {
            FileFormat::Jsonl => Content::Jsonl { file, good_bytes: 0, buffer: Vec::new() },
            FileFormat::Parquet => {
                let level = ZstdLevel::try_new(1).map_err(|e| SinkError::Fatal(e.to_string()))?;
                let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
                let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))
                    .map_err(|e| SinkError::Fatal(format!("sink `{}`: {}: {e}", self.node, path.display())))?;
                Content::Parquet { schema, writer: Box::new(writer) }
            }
        };
        Ok(Open { path, rows: 0, content })
    }

    /// Gives the finished file its name. A hard link, unlike a rename, never replaces what is there.
    fn publish(&self, open: &Path, checkpoint: u64) -> Result<PathBuf> {
        let extension = match self.format {
            FileFormat::Jsonl => "jsonl",
            FileFormat::Parquet => "parquet",
        };
        for attempt in 1..=NAMES_TRIED_MAX {
            // an attempt of the same checkpoint that was given up has left its rows here: they stay
            let suffix = if attempt == 1 { String::new() } else { format!("-{attempt}") };
            let name = format!("{}-{checkpoint:020}-{}{suffix}.{extension}", self.node, self.task);
            let path = self.folder.join(name);
            match fs::hard_link(open, &path) {
                Ok(()) => {
                    fs::remove_file(open).map_err(|e| failed("naming a file", open, &e))?;
                    sync_folder(&self.folder)?;
                    return Ok(path);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed("naming a file", &path, &e)),
            }
        }
        Err(SinkError::Fatal(format!(
            "sink `{}`: {NAMES_TRIED_MAX} files of checkpoint {checkpoint} exist in {}",
            self.node,
            self.folder.display()
        )))
    }
}

impl SinkWriter for FileSink {
    fn write(&mut self, rows: &RowSet) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        append_only(&self.node, rows)?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.create(rows.batch.rows.schema())?,
        };
        let written = match &mut open.content {
            Content::Jsonl { file, good_bytes, buffer } => write_lines(file, good_bytes, buffer, rows, &open.path),
            Content::Parquet { schema, writer } => write_parquet(&self.node, schema, writer, rows),
        };
        if written.is_ok() {
            open.rows = open.rows.saturating_add(rows.len() as u64);
        }
        self.open = Some(open);
        written
    }

    fn prepare(&mut self, checkpoint: u64) -> Result<Prepared> {
        let Some(mut open) = self.open.take() else { return Ok(Prepared::default()) };
        let finished = match &mut open.content {
            Content::Jsonl { file, good_bytes, buffer } => flush(file, good_bytes, buffer, &open.path)
                .and_then(|()| file.set_len(*good_bytes).map_err(|e| failed("cutting", &open.path, &e)))
                .and_then(|()| sync(file, &open.path)),
            Content::Parquet { writer, .. } => match writer.finish() {
                Ok(_) => sync(writer.inner(), &open.path),
                Err(e) => Err(SinkError::Fatal(format!("sink `{}`: {}: {e}", self.node, open.path.display()))),
            },
        };
        if let Err(e) = finished.and_then(|()| self.publish(&open.path, checkpoint)) {
            // still open: a caller that tries again loses nothing
            self.open = Some(open);
            return Err(e);
        }
        Ok(Prepared { rows: open.rows, ..Prepared::default() })
    }
}

/// All rows or none: after an error, the same call can be made again.
fn write_lines(file: &mut File, good_bytes: &mut u64, buffer: &mut Vec<u8>, rows: &RowSet, path: &Path) -> Result<()> {
    let before = buffer.len();
    let json = JsonRows::new(&rows.batch.rows)?;
    for_each_row(rows, |row| {
        json.write_row(buffer, row);
        buffer.push(b'\n');
        Ok(())
    })?;
    if buffer.len() < BUFFER_BYTES_MAX {
        return Ok(());
    }
    let flushed = flush(file, good_bytes, buffer, path);
    if flushed.is_err() {
        buffer.truncate(before);
    }
    flushed
}

/// Writes the buffer after what is known to be good, and empties it. After a failure it can be called again.
fn flush(file: &mut File, good_bytes: &mut u64, buffer: &mut Vec<u8>, path: &Path) -> Result<()> {
    let write = |file: &mut File| -> std::io::Result<()> {
        file.seek(SeekFrom::Start(*good_bytes))?;
        file.write_all(buffer)
    };
    if let Err(e) = write(file) {
        // gives the space back; what remains of the torn write is overwritten, or cut off before the file is synced
        let _ = file.set_len(*good_bytes);
        return Err(failed("writing", path, &e));
    }
    *good_bytes = good_bytes.saturating_add(buffer.len() as u64);
    buffer.clear();
    Ok(())
}

fn write_parquet(node: &str, schema: &SchemaRef, writer: &mut ArrowWriter<File>, rows: &RowSet) -> Result<()> {
    let batch: RecordBatch = selected(rows)?;
    if batch.schema_ref() != schema {
        return Err(SinkError::Fatal(format!(
            "sink `{node}`: its inputs differ in their columns ({} and {})",
            columns(schema),
            columns(batch.schema_ref())
        )));
    }
    // half-written row groups cannot be taken back: the run stops, and goes on from its last checkpoint
    writer.write(&batch).map_err(|e| SinkError::Fatal(format!("sink `{node}`: writing Parquet: {e}")))
}

fn columns(schema: &SchemaRef) -> String {
    schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
}

fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(|e| failed("syncing", path, &e))
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed("syncing the folder", folder, &e))
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> SinkError {
    let line = format!("file sink: {doing}: {}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            SinkError::Transient(format!("{line}. hint: free some space"))
        }
        ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::ResourceBusy => SinkError::Transient(line),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            SinkError::Fatal(format!("{line}. hint: the process must be allowed to write there"))
        }
        _ => SinkError::Fatal(line),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_core::batch::{Audience, Batch, Change, Changes, Rows};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::sink::json::tests::every_type;

    fn rows(which: Rows) -> RowSet {
        let batch = Batch { rows: every_type(), event_time_ms: vec![0, 0].into(), origin: None, changes: None };
        RowSet { batch: Arc::new(batch), rows: which }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    fn spec(folder: &Path, format: FileFormat) -> FileSinkSpec {
        FileSinkSpec { path: folder.join("out"), format, revision: false }
    }

    #[test]
    fn a_file_has_its_name_only_once_it_is_complete_and_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a folder");
        let spec = spec(dir.path(), FileFormat::Jsonl);
        let mut sink = FileSink::new(&spec, "bad", 0).expect("opens");
        assert_eq!(sink.prepare(4).expect("nothing to do").rows, 0);
        sink.write(&rows(Rows::All)).expect("writes");
        assert!(names(&spec.path).iter().all(|n| n.starts_with('.')), "{:?}", names(&spec.path));
        assert_eq!(sink.prepare(5).expect("prepares").rows, 2);
        // the checkpoint is given up, its number comes again
        sink.write(&rows(Rows::Some(vec![1].into()))).expect("writes");
        assert_eq!(sink.prepare(5).expect("prepares").rows, 1);
        assert_eq!(names(&spec.path), ["bad-00000000000000000005-0-2.jsonl", "bad-00000000000000000005-0.jsonl"]);
        let first = fs::read_to_string(spec.path.join("bad-00000000000000000005-0.jsonl")).expect("reads");
        assert_eq!(first.lines().count(), 2);
        let second = fs::read_to_string(spec.path.join("bad-00000000000000000005-0-2.jsonl")).expect("reads");
        assert!(second.starts_with(r#"{"b":null"#), "{second}");
    }

    #[test]
    fn what_a_crash_left_open_is_deleted_by_the_same_task_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let spec = spec(dir.path(), FileFormat::Jsonl);
        let mut crashed = FileSink::new(&spec, "bad", 0).expect("opens");
        crashed.write(&rows(Rows::All)).expect("writes");
        let _other = FileSink::new(&spec, "bad", 1).expect("opens");
        let _namesake = FileSink::new(&spec, "ba", 0).expect("opens");
        assert_eq!(names(&spec.path).len(), 1);
        let _again = FileSink::new(&spec, "bad", 0).expect("opens");
        assert_eq!(names(&spec.path).len(), 0);
        assert!(matches!(crashed.prepare(1), Err(SinkError::Fatal(_))), "the old process must not go on quietly");
    }

    #[test]
    fn a_full_disk_is_transient_and_a_later_try_writes_each_row_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let spec = spec(dir.path(), FileFormat::Jsonl);
        let mut sink = FileSink::new(&spec, "bad", 0).expect("opens");
        sink.write(&rows(Rows::All)).expect("writes");
        let Some(Open { content: Content::Jsonl { file, .. }, .. }) = &mut sink.open else { panic!("open") };
        let good = std::mem::replace(file, OpenOptions::new().write(true).open("/dev/full").expect("Linux"));
        let failed = sink.prepare(1);
        assert!(matches!(&failed, Err(SinkError::Transient(m)) if m.contains("free some space")), "{failed:?}");
        let Some(Open { content: Content::Jsonl { file, .. }, .. }) = &mut sink.open else { panic!("still open") };
        *file = good;
        assert_eq!(sink.prepare(1).expect("prepares").rows, 2);
        let text = fs::read_to_string(spec.path.join("bad-00000000000000000001-0.jsonl")).expect("reads");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn parquet_reads_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let spec = spec(dir.path(), FileFormat::Parquet);
        let mut sink = FileSink::new(&spec, "bad", 3).expect("opens");
        sink.write(&rows(Rows::All)).expect("writes");
        sink.write(&rows(Rows::Some(vec![1].into()))).expect("writes");
        assert_eq!(sink.prepare(9).expect("prepares").rows, 3);
        let file = File::open(spec.path.join("bad-00000000000000000009-3.parquet")).expect("is there");
        let read: Vec<RecordBatch> = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|b| b.build())
            .expect("Parquet")
            .collect::<std::result::Result<_, _>>()
            .expect("rows");
        assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
        assert_eq!(read[0].slice(0, 2), every_type());
    }

    #[test]
    fn corrections_are_refused_not_appended() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut sink = FileSink::new(&spec(dir.path(), FileFormat::Jsonl), "results", 0).expect("opens");
        let changes = Changes {
            kinds: vec![Change::Insert, Change::Replace].into(),
            revisions: vec![1, 2].into(),
            is_final: false,
            audience: Audience::Sinks,
        };
        let batch =
            Batch { rows: every_type(), event_time_ms: vec![0, 0].into(), origin: None, changes: Some(changes) };
        let all = RowSet { batch: Arc::new(batch), rows: Rows::All };
        assert!(matches!(sink.write(&all), Err(SinkError::Fatal(_))));
        let inserts = RowSet { rows: Rows::Some(vec![0].into()), ..all };
        assert!(sink.write(&inserts).is_ok());
    }
}
