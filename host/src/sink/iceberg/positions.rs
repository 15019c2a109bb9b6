//! Where the rows are that may still be replaced: identity → (file, position), as long as its window can change.
//!
//! ```text
//!   written ─▶ known ─▶ replaced, deleted: taken out, the places go to the commit's removals
//!                   └─▶ its window has expired: forgotten
//!
//!   checkpoint:  file of all ◀─ changes ◀─ changes …      one file a checkpoint, written anew when they are many
//! ```
//!
//! What is not known may be in the table or not: [`Unknown`] says for which identities that has to be found out. Never
//! guesses: an identity it is not sure of is looked up by the commit.

use std::collections::{HashMap, HashSet};

use millrace_core::checkpoint::{StateFile, WriterState};
use millrace_core::limits::POSITION_FILES_MAX;
use millrace_core::watermark::END_OF_TIME_MS;
use serde::{Deserialize, Serialize};

use super::identity::Id;
use super::removals::{Place, PlaceRow, places_batch, read_places};
use crate::sink::{Result, SinkError, WriterStore};

/// So few rows are not written anew because half of them are out of date.
const ANEW_ROWS_MIN: u64 = 512;

/// Which identities that are not known the table may have rows of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// none: all that this sink's rows can still change is known
    #[default]
    Nothing,
    /// those of windows that start at or before this one, in microseconds
    UpTo(i64),
    Everything,
}

impl Unknown {
    /// `start_us`: of the identity's window; none: it has none.
    pub fn may_have(self, start_us: Option<i64>) -> bool {
        match self {
            Self::Nothing => false,
            Self::UpTo(newest) => start_us.is_none_or(|start| start <= newest),
            Self::Everything => true,
        }
    }
}

pub struct Known {
    pub places: Box<[Place]>,
    /// none: its window has no end
    end_ms: Option<i64>,
    /// larger: written later
    written: u64,
}

/// What a checkpoint says of positions besides the files.
#[derive(Debug, Serialize, Deserialize)]
struct Notes {
    /// the columns that the identities are made of
    identity: Vec<String>,
    unknown: Unknown,
    newest_start_us: Option<i64>,
}

#[derive(Default)]
pub struct Positions {
    identity: Vec<String>,
    known: HashMap<Id, Known>,
    /// since the last file
    changed: HashSet<Id>,
    files: Vec<StateFile>,
    /// the files say more than is true: the next is written anew
    anew: bool,
    unknown: Unknown,
    /// of all windows that have been written
    newest_start_us: Option<i64>,
    written: u64,
    /// none: as many as there are
    endless_max: Option<usize>,
}

impl Positions {
    /// Of a table that has no rows of this sink, or of one that has: then `unknown` says which.
    pub fn new(identity: Vec<String>, unknown: Unknown) -> Self {
        Self { identity, unknown, ..Self::default() }
    }

    pub fn with_endless_max(self, endless_max: usize) -> Self {
        Self { endless_max: Some(endless_max), ..self }
    }

    /// As a checkpoint has them; none: they are of other identities.
    pub fn restored(identity: Vec<String>, state: &WriterState, store: &dyn WriterStore) -> Result<Option<Self>> {
        let notes: Notes = serde_json::from_value(state.notes.clone())
            .map_err(|e| SinkError::Fatal(format!("what the checkpoint says of written rows cannot be read: {e}")))?;
        if notes.identity != identity {
            return Ok(None);
        }
        let mut positions = Self::new(identity, notes.unknown);
        positions.newest_start_us = notes.newest_start_us;
        for file in &state.files {
            let mut rows = Vec::new();
            for batch in store.read(file)? {
                rows.extend(read_places(&batch).ok_or_else(|| {
                    SinkError::Fatal(format!("state file {}: its columns are not those of positions", file.path))
                })?);
            }
            positions.apply(rows);
        }
        positions.files = state.files.clone();
        Ok(Some(positions))
    }

    /// The rows of one file. Those of one identity stand together; one without a place says that it has no rows any more.
    fn apply(&mut self, rows: Vec<PlaceRow>) {
        let mut rows = rows.into_iter().peekable();
        while let Some(row) = rows.next() {
            let mut places: Vec<Place> = row.place.into_iter().collect();
            while let Some(more) = rows.next_if(|next| next.id == row.id) {
                places.extend(more.place);
            }
            self.known.remove(&row.id);
            if !places.is_empty() {
                self.insert(row.id, places, row.end_ms);
            }
        }
    }

    fn insert(&mut self, id: Id, places: Vec<Place>, end_ms: Option<i64>) {
        self.written += 1;
        self.known.insert(id, Known { places: places.into(), end_ms, written: self.written });
    }

    /// The identity's rows are where `places` says, until its window has expired.
    pub fn remember(&mut self, id: Id, places: Vec<Place>, end_ms: Option<i64>) {
        self.changed.insert(id.clone());
        self.insert(id, places, end_ms);
    }

    /// Its rows are about to be replaced or deleted.
    pub fn take(&mut self, id: &Id) -> Option<Known> {
        let known = self.known.remove(id);
        if known.is_some() {
            self.changed.insert(id.clone());
        }
        known
    }

    /// A window has been written.
    pub fn saw_window(&mut self, start_us: Option<i64>) {
        self.newest_start_us = self.newest_start_us.max(start_us);
    }

    pub fn unknown(&self) -> Unknown {
        self.unknown
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Of windows that have expired nothing changes any more.
    pub fn forget(&mut self, watermark_ms: i64) {
        self.known.retain(|_, known| known.end_ms.is_none_or(|end| watermark_ms < end.saturating_sub(1)));
        if watermark_ms == END_OF_TIME_MS {
            // A later run goes on where the events had ended: it may open the same windows again.
            self.unknown = self.unknown.max(self.newest_start_us.map_or(Unknown::Nothing, Unknown::UpTo));
        }
    }

    /// Windows without an end are never forgotten by time: the longest unwritten go when they are too many.
    fn bound(&mut self) {
        let mut endless: Vec<u64> =
            self.known.values().filter(|known| known.end_ms.is_none()).map(|known| known.written).collect();
        let Some(max) = self.endless_max.filter(|max| endless.len() > *max) else { return };
        // some at a time, not one by one
        let gone = (endless.len() - max / 4 * 3).min(endless.len().saturating_sub(1));
        let (_, oldest_kept, _) = endless.select_nth_unstable(gone);
        let oldest_kept = *oldest_kept;
        self.known.retain(|_, known| known.end_ms.is_some() || known.written >= oldest_kept);
        self.unknown = Unknown::Everything;
        self.anew = true;
    }

    /// What a checkpoint has to say of them; durable, when it returns.
    pub fn save(&mut self, sink: &str, checkpoint: u64, store: &dyn WriterStore) -> Result<WriterState> {
        self.bound();
        let in_files: u64 = self.files.iter().map(|file| file.groups).sum();
        let rows: usize = self.known.values().map(|known| known.places.len()).sum();
        let with_changes = in_files.saturating_add(self.changed.len() as u64);
        let many = with_changes > (rows as u64).max(ANEW_ROWS_MIN).saturating_mul(2);
        if self.known.is_empty() {
            self.files.clear();
        } else if self.anew || !self.changed.is_empty() {
            let failed = |e| SinkError::Fatal(format!("sink `{sink}`: positions of its rows: {e}"));
            let anew = self.anew || many || self.files.len() >= POSITION_FILES_MAX;
            let batch = if anew {
                let all = self.known.iter();
                places_batch(all.flat_map(|(id, k)| k.places.iter().map(|place| (&**id, Some(place), k.end_ms))))
            } else {
                let changed = self.changed.iter().map(|id| (id, self.known.get(id)));
                places_batch(changed.flat_map(|(id, known)| {
                    let gone = known.is_none().then_some((&**id, None, None));
                    let places = known.into_iter().flat_map(|k| k.places.iter().map(|place| (Some(place), k.end_ms)));
                    places.map(|(place, end)| (&**id, place, end)).chain(gone)
                }))
            };
            let file = store.write(sink, checkpoint, batch.map_err(failed)?)?;
            if anew {
                self.files.clear();
            }
            self.files.push(file);
        }
        self.changed.clear();
        self.anew = false;
        let notes =
            Notes { identity: self.identity.clone(), unknown: self.unknown, newest_start_us: self.newest_start_us };
        let notes = serde_json::to_value(notes)
            .map_err(|e| SinkError::Fatal(format!("sink `{sink}`: notes for the checkpoint: {e}")))?;
        Ok(WriterState { files: self.files.clone(), notes })
    }
}
