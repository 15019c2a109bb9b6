//! From a failed plugin call to a [capture](crate::capture): which rows, groups and state belong to it.
//!
//! Slots are numbered anew, 0, 1, 2, …, so that a replay has as many groups as the call. A call on rows has their batch
//! and the state of its groups before it; any other call has the last exported state and the rows since.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, new_empty_array};
use arrow_schema::{ArrowError, DataType, Field as ArrowField, Schema as ArrowSchema};
use millrace_core::limits::CAPTURE_BYTES_MAX;
use millrace_core::schema::{Field, Schema};
use tracing::warn;

use super::bisect::{pick, take, take_input};
use super::message::RunError;
use crate::capture::{Captures, GROUP, Guilty, Header, Kind, Place, Plugin, command};
use crate::clock::{Clock as _, SystemClock};
use crate::plugin::limits::PluginLimits;
use crate::plugin::{Info, PluginError, Rejected, StateChunk, Wanted, WindowUs};
use crate::spec::model::{Location, Pipeline};
use crate::spec::secrets::Secrets;

/// Writes the captures of one node's plugin.
pub struct Recorder {
    captures: Arc<Captures>,
    header: Header,
    secrets: Secrets,
}

/// Looks up where a row of a call came from.
pub type PlaceOf<'a> = &'a dyn Fn(u32) -> Place;

/// A call that failed.
pub struct Failed<'a> {
    pub error: &'a PluginError,
    pub wanted: &'a [Wanted],
    /// the rows of the call; of a call that is not about rows, those that the instance got since its state was exported
    pub columns: &'a [Option<ArrayRef>],
    /// of each row; all 0 where there are no groups
    pub slots: &'a [u32],
    pub state_fields: &'a Schema,
    pub state: &'a [StateChunk],
    /// the groups that a call which is not about rows was made for, and their windows
    pub asked: &'a [u32],
    pub windows: &'a [WindowUs],
}

/// A plugin of a node, as far as a capture has to know it.
pub struct Recorded<'a> {
    pub kind: Kind,
    pub node: &'a str,
    /// a key of [`Pipeline::plugins`]
    pub plugin: &'a str,
    pub info: &'a Info,
    pub digest: &'a str,
    pub limits: PluginLimits,
    pub config: &'a str,
    pub offered: &'a Schema,
}

impl Recorder {
    /// none where nothing is to be captured, or there is no component that could be run again.
    pub fn new(captures: &Arc<Captures>, pipeline: &Pipeline, recorded: &Recorded<'_>) -> Option<Self> {
        let spec = pipeline.plugins.get(recorded.plugin).filter(|_| !captures.is_off())?;
        let kept = match &pipeline.checkpoint.location {
            Location::Local(folder) => Some(folder.join("plugins").join(format!("{}.wasm", recorded.digest))),
            Location::ObjectStore { .. } => None,
        };
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let limits = &recorded.limits;
        let plugin = Plugin {
            name: recorded.plugin.to_owned(),
            title: recorded.info.name.clone(),
            version: recorded.info.version.clone(),
            sha256: recorded.digest.to_owned(),
            paths: kept.into_iter().chain([spec.path.clone()]).collect(),
            memory_bytes: limits.memory_bytes,
            deadline_ms: ms(limits.deadline),
            startup_deadline_ms: ms(limits.startup_deadline),
            result_bytes_max: limits.result_bytes_max,
            capabilities: limits.capabilities,
        };
        let secrets = pipeline.secrets.clone();
        let config = secrets.seal(recorded.config);
        let header = Header::new(recorded.kind, &pipeline.name, recorded.node, plugin, &config, recorded.offered);
        Some(Self { captures: Arc::clone(captures), header, secrets })
    }

    /// Writes the capture. Returns the command that runs the call again; nothing that goes wrong here stops the pipeline.
    pub fn record(&self, failed: &Failed<'_>, guilty: &[Rejected], place: PlaceOf<'_>) -> Option<String> {
        self.try_record(failed, guilty, place).unwrap_or_else(|error| {
            warn!(node = self.header.node, "a failed call cannot be captured: {error}");
            None
        })
    }

    fn try_record(
        &self,
        failed: &Failed<'_>,
        guilty: &[Rejected],
        place: PlaceOf<'_>,
    ) -> Result<Option<String>, RunError> {
        let rows: Vec<u32> = guilty.iter().map(|r| r.row).collect();
        let mut parts = Parts::new(failed, None)?;
        let only_guilty = parts.bytes() > CAPTURE_BYTES_MAX && !rows.is_empty();
        if only_guilty {
            parts = Parts::new(failed, Some(&rows))?;
        }
        if parts.bytes() > CAPTURE_BYTES_MAX {
            let (bytes, most) = (parts.bytes(), CAPTURE_BYTES_MAX);
            warn!(node = self.header.node, bytes, most, "a failed call is too large to be captured");
            return Ok(None);
        }
        let (call, guest_log) = match failed.error {
            PluginError::Trap { call, guest_log, .. } => (*call, guest_log.as_slice()),
            PluginError::Contract { call, .. } => (*call, &[][..]),
            PluginError::Load { .. } | PluginError::Refused { .. } => ("open", &[][..]),
        };
        let guilty = (0_u32..).zip(guilty).map(|(index, r)| Guilty {
            row: if only_guilty { index } else { r.row },
            reason: self.secrets.redact(&r.reason),
            place: place(r.row),
        });
        let header = Header {
            written_at_ms: SystemClock.now_ms(),
            call: call.to_owned(),
            error: self.secrets.redact(&failed.error.to_string()),
            guest_log: guest_log.iter().map(|line| self.secrets.redact(line)).collect(),
            rows: failed.slots.len(),
            only_guilty,
            guilty: guilty.collect(),
            groups: numbered(failed.asked, &parts.used),
            windows: failed.windows.iter().map(|w| (w.start, w.end)).collect(),
            groups_total: u32::try_from(parts.used.len()).unwrap_or(u32::MAX),
            ..self.header.clone()
        };
        let state = (!failed.state_fields.fields.is_empty()).then_some(&parts.state);
        Ok(self.captures.write(&header, Some(&parts.batch), state).map(|folder| command(&folder)))
    }
}

/// The error with the command that runs the call again.
pub fn with_command(error: RunError, command: Option<&str>) -> RunError {
    match (error, command) {
        (RunError::Plugin(message), Some(command)) => {
            RunError::Plugin(format!("{message}\nhint: {command} runs the failed call again"))
        }
        (error, _) => error,
    }
}

/// The rows of a capture.
struct Parts {
    /// slots in the order of their new numbers
    used: Vec<u32>,
    batch: RecordBatch,
    state: RecordBatch,
}

impl Parts {
    /// With `only` these rows, and the state of their groups.
    fn new(failed: &Failed<'_>, only: Option<&[u32]>) -> Result<Self, RunError> {
        let (columns, slots) = match only {
            None => (failed.columns.to_vec(), failed.slots.to_vec()),
            Some(rows) => (take_input(failed.columns, rows)?, pick(failed.slots, rows)),
        };
        let mut used = slots.clone();
        if only.is_none() {
            used.extend_from_slice(failed.asked);
            failed.state.iter().for_each(|chunk| used.extend_from_slice(&chunk.groups));
        }
        used.sort_unstable();
        used.dedup();
        let present = failed.wanted.iter().zip(columns).filter_map(|(wanted, column)| Some((&wanted.field, column?)));
        let batch = with_groups(present, numbered(&slots, &used))?;
        let (mut state, mut groups) = (vec![Vec::new(); failed.state_fields.fields.len()], Vec::new());
        for chunk in failed.state {
            let rows = (0_u32..).zip(&chunk.groups).filter(|(_, slot)| used.binary_search(slot).is_ok());
            let rows: Vec<u32> = rows.map(|(row, _)| row).collect();
            groups.extend(numbered(&pick(&chunk.groups, &rows), &used));
            for (all, column) in state.iter_mut().zip(&chunk.columns) {
                all.push(take(column, &rows)?);
            }
        }
        let whole = |(field, parts): (&Field, &Vec<ArrayRef>)| -> Result<ArrayRef, ArrowError> {
            if parts.is_empty() {
                return Ok(new_empty_array(&field.data_type.to_arrow()));
            }
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            arrow_select::concat::concat(&parts)
        };
        let columns = failed.state_fields.fields.iter().zip(&state).map(whole).collect::<Result<Vec<_>, _>>()?;
        let state = with_groups(failed.state_fields.fields.iter().zip(columns), groups)?;
        Ok(Self { used, batch, state })
    }

    fn bytes(&self) -> usize {
        let bytes = |c: &ArrayRef| c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size());
        self.batch.columns().iter().chain(self.state.columns()).map(bytes).sum()
    }
}

fn numbered(slots: &[u32], used: &[u32]) -> Vec<u32> {
    slots.iter().filter_map(|slot| u32::try_from(used.binary_search(slot).ok()?).ok()).collect()
}

fn with_groups<'a>(
    columns: impl Iterator<Item = (&'a Field, ArrayRef)>,
    groups: Vec<u32>,
) -> Result<RecordBatch, ArrowError> {
    // of the type that the column has: a dictionary, say
    let (mut fields, mut arrays): (Vec<ArrowField>, Vec<ArrayRef>) = columns
        .map(|(field, array)| (ArrowField::new(&field.name, array.data_type().clone(), field.nullable), array))
        .unzip();
    fields.push(ArrowField::new(GROUP, DataType::UInt32, false));
    arrays.push(Arc::new(UInt32Array::from(groups)));
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), arrays)
}
