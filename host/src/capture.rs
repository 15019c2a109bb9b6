//! A plugin's failed call on disk: all that is needed to run it again elsewhere, with the same plugin or a corrected one.
//!
//! ```text
//!   captures/metrics-0001/capture.json   plugin, digest, configuration, limits, call, error, guilty rows
//!                         batch.arrow    the rows of the call, with their groups (Arrow IPC, as every Arrow reader has it)
//!                         state.arrow    the state of these groups before the call
//! ```
//!
//! A capture appears whole or not at all: it is written beside its place and then renamed. There are at most
//! [`CAPTURES_MAX`] in a folder, the first ones; the rest is counted. Whatever fails here is logged and stops nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use millrace_core::limits::CAPTURES_MAX;
use millrace_core::schema::Schema;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::plugin::limits::{Capabilities, PluginLimits};

const FORMAT: u32 = 1;
const HEADER: &str = "capture.json";
const BATCH: &str = "batch.arrow";
const STATE: &str = "state.arrow";

/// The column of `batch.arrow` and `state.arrow` that says to which group a row belongs.
pub const GROUP: &str = "millrace.group";

/// `capture.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    /// the release that wrote it
    pub millrace: String,
    pub written_at_ms: i64,
    pub pipeline: String,
    pub node: String,
    pub kind: Kind,
    pub plugin: Plugin,
    /// as the plugin got it, but for secrets
    pub config: String,
    /// the columns that it was offered
    pub offered: Schema,
    pub call: String,
    pub error: String,
    /// the plugin's last log messages
    pub guest_log: Vec<String>,
    /// rows of the call
    pub rows: usize,
    /// `batch.arrow` has the guilty ones only: the others were too many bytes
    pub only_guilty: bool,
    pub guilty: Vec<Guilty>,
    /// the groups of a call that is not about rows
    pub groups: Vec<u32>,
    /// of each of the groups, of a call that asks for results: start and end in microseconds
    pub windows: Vec<(i64, i64)>,
    pub groups_total: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Aggregation,
    Transform,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    /// in the pipeline file
    pub name: String,
    /// by its own words
    pub title: String,
    pub version: String,
    pub sha256: String,
    /// where its bytes may be
    pub paths: Vec<PathBuf>,
    pub memory_bytes: u64,
    pub deadline_ms: u64,
    pub startup_deadline_ms: u64,
    pub result_bytes_max: usize,
    #[serde(default)]
    pub capabilities: Capabilities,
}

impl Plugin {
    pub fn limits(&self) -> PluginLimits {
        let ms = std::time::Duration::from_millis;
        PluginLimits {
            memory_bytes: self.memory_bytes,
            deadline: ms(self.deadline_ms),
            startup_deadline: ms(self.startup_deadline_ms),
            result_bytes_max: self.result_bytes_max,
            capabilities: self.capabilities,
            ..PluginLimits::default()
        }
    }
}

/// A row that makes the plugin fail by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guilty {
    /// of `batch.arrow`
    pub row: u32,
    pub reason: String,
    #[serde(flatten)]
    pub place: Place,
}

/// Where a row came from, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
}

/// A capture, read back.
#[derive(Debug)]
pub struct Capture {
    pub folder: PathBuf,
    pub header: Header,
    pub batch: Option<RecordBatch>,
    pub state: Option<RecordBatch>,
}

impl Header {
    pub fn new(kind: Kind, pipeline: &str, node: &str, plugin: Plugin, config: &str, offered: &Schema) -> Self {
        Self {
            format: FORMAT,
            millrace: env!("CARGO_PKG_VERSION").to_owned(),
            written_at_ms: 0,
            pipeline: pipeline.to_owned(),
            node: node.to_owned(),
            kind,
            plugin,
            config: config.to_owned(),
            offered: offered.clone(),
            call: String::new(),
            error: String::new(),
            guest_log: Vec::new(),
            rows: 0,
            only_guilty: false,
            guilty: Vec::new(),
            groups: Vec::new(),
            windows: Vec::new(),
            groups_total: 0,
        }
    }
}

/// The captures of one run.
#[derive(Debug, Default)]
pub struct Captures {
    folder: Option<PathBuf>,
    left_out: Mutex<u64>,
}

impl Captures {
    /// none: nothing is captured.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, left_out: Mutex::new(0) }
    }

    pub fn is_off(&self) -> bool {
        self.folder.is_none()
    }

    /// The new capture's folder; none if it was left out, which the log then says.
    pub fn write(&self, header: &Header, batch: Option<&RecordBatch>, state: Option<&RecordBatch>) -> Option<PathBuf> {
        let folder = self.folder.as_deref()?;
        // one at a time: their number is looked up in the folder
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        match write_next(folder, header, batch, state) {
            Ok(Some(written)) => {
                error!(node = header.node, "a failed call of the plugin was captured: {}", command(&written));
                Some(written)
            }
            Ok(None) => {
                *left_out += 1;
                warn!(
                    node = header.node,
                    left_out = *left_out,
                    "there are {CAPTURES_MAX} captures in {} already: this one is left out; move them away to see new ones",
                    folder.display()
                );
                None
            }
            Err(error) => {
                warn!(node = header.node, "a failed call cannot be captured in {}: {error}", folder.display());
                None
            }
        }
    }
}

/// What runs a captured call again.
pub fn command(capture: &Path) -> String {
    let path = capture.display().to_string();
    let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c));
    if plain { format!("millrace replay {path}") } else { format!("millrace replay '{}'", path.replace('\'', "'\\''")) }
}

/// Writes under the next free number; none if the folder is full.
fn write_next(
    folder: &Path,
    header: &Header,
    batch: Option<&RecordBatch>,
    state: Option<&RecordBatch>,
) -> io::Result<Option<PathBuf>> {
    fs::create_dir_all(folder)?;
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        // what is being written begins with a dot
        let number = name.to_str().filter(|name| !name.starts_with('.')).and_then(|name| name.rsplit_once('-'));
        numbers.extend(number.and_then(|(_, number)| number.parse::<u32>().ok()));
    }
    if numbers.len() >= CAPTURES_MAX {
        return Ok(None);
    }
    let number = numbers.into_iter().max().unwrap_or(0).saturating_add(1);
    let name = format!("{}-{number:04}", header.node);
    let (partial, whole) = (folder.join(format!(".{name}.partial")), folder.join(name));
    let written = write_files(&partial, header, batch, state)
        .and_then(|()| fs::rename(&partial, &whole))
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        // the error that is reported is the first
        let _ = fs::remove_dir_all(&partial);
    }
    written.map(|()| Some(whole))
}

fn write_files(
    folder: &Path,
    header: &Header,
    batch: Option<&RecordBatch>,
    state: Option<&RecordBatch>,
) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir(folder)?,
    }
    for (name, rows) in [(BATCH, batch), (STATE, state)] {
        let Some(rows) = rows else { continue };
        let mut writer =
            FileWriter::try_new(File::create(folder.join(name))?, &rows.schema()).map_err(io::Error::other)?;
        writer.write(rows).and_then(|()| writer.finish()).map_err(io::Error::other)?;
        writer.get_ref().sync_all()?;
    }
    let file = File::create(folder.join(HEADER))?;
    serde_json::to_writer_pretty(&file, header)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

impl Capture {
    /// `path` is the capture's folder, or a file in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        let folder = std::path::absolute(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let header = folder.join(HEADER);
        let text = fs::read_to_string(&header).map_err(|e| {
            let wanted = "a capture is a folder with `capture.json`, such as STATE/captures/metrics-0001";
            format!("{} cannot be read: {e}\nhint: {wanted}", header.display())
        })?;
        #[derive(Deserialize)]
        struct Version {
            format: u32,
            millrace: String,
        }
        let broken = |e: serde_json::Error| format!("{} is no capture: {e}", header.display());
        let version: Version = serde_json::from_str(&text).map_err(broken)?;
        if version.format != FORMAT {
            return Err(format!(
                "{} was written by Millrace {} in format {}, this one reads format {FORMAT}",
                header.display(),
                version.millrace,
                version.format
            ));
        }
        let header = serde_json::from_str(&text).map_err(broken)?;
        let (batch, state) = (read_rows(&folder.join(BATCH))?, read_rows(&folder.join(STATE))?);
        Ok(Self { folder, header, batch, state })
    }
}

fn read_rows(path: &Path) -> Result<Option<RecordBatch>, String> {
    let broken = |e: arrow_schema::ArrowError| format!("{}: {e}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let reader = FileReader::try_new(file, None).map_err(broken)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(broken)?;
    arrow_select::concat::concat_batches(&schema, &batches).map(Some).map_err(broken)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::Int64Array;
    use millrace_core::schema::{DataType, Field};

    use super::*;

    fn header(node: &str) -> Header {
        let plugin = Plugin {
            name: "p".into(),
            title: "p".into(),
            version: "1.0.0".into(),
            sha256: "00".into(),
            paths: vec!["/x/y.wasm".into()],
            memory_bytes: 1,
            deadline_ms: 2,
            startup_deadline_ms: 3,
            result_bytes_max: 4,
            capabilities: Capabilities { clock: true, random: false },
        };
        let offered = Schema::new(vec![Field::new("a", DataType::Decimal { precision: 9, scale: 2 }, true)]);
        let place = Place { topic: Some("t".into()), partition: Some(1), offset: Some(2) };
        let guilty = vec![Guilty { row: 7, reason: "boom".into(), place }];
        Header { guilty, ..Header::new(Kind::Aggregation, "pipeline", node, plugin, r#"{"a": 1.50}"#, &offered) }
    }

    fn rows() -> RecordBatch {
        let field = Field::new("n", DataType::Long, true);
        let schema = Schema::new(vec![field]).to_arrow();
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![Some(1), None]))]).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let captures = Captures::new(Some(dir.path().join("captures")));
        let folder = captures.write(&header("m"), Some(&rows()), None).unwrap();
        assert_eq!(folder.file_name().unwrap(), "m-0001");
        for path in [folder.clone(), folder.join("capture.json")] {
            let read = Capture::read(&path).unwrap();
            assert_eq!(read.header, header("m"));
            assert_eq!((read.batch, read.state.is_none()), (Some(rows()), true));
        }
        assert!(Capture::read(dir.path()).unwrap_err().contains("hint: a capture is a folder"));
        std::fs::write(folder.join("capture.json"), r#"{"format": 9, "millrace": "7.0.0"}"#).unwrap();
        assert!(Capture::read(&folder).unwrap_err().contains("Millrace 7.0.0 in format 9"));
    }

    #[test]
    fn the_first_captures_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        // a process that died while it wrote
        std::fs::create_dir_all(dir.path().join(".m-0001.partial/x")).unwrap();
        for run in 0..2 {
            let captures = Captures::new(Some(dir.path().to_owned()));
            for number in 0..CAPTURES_MAX {
                let written = captures.write(&header("m"), None, None);
                assert_eq!(written.is_some(), run == 0, "{number} of run {run}");
            }
        }
        assert!(Capture::read(&dir.path().join("m-0001")).is_ok());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), CAPTURES_MAX);
    }

    #[test]
    fn a_place_that_cannot_be_written_to_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        assert_eq!(Captures::new(Some(file)).write(&header("m"), Some(&rows()), None), None);
        assert_eq!(Captures::new(None).write(&header("m"), None, None), None);
    }

    #[test]
    fn the_command_is_one_for_a_shell() {
        assert_eq!(command(Path::new("/a/b-0001")), "millrace replay /a/b-0001");
        assert_eq!(command(Path::new("/a b/it's")), r"millrace replay '/a b/it'\''s'");
    }
}
