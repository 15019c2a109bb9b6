//! Which groups give their result now, and what their rows do to the table.
//!
//! ```text
//!   watermark, barrier, tick ─▶ Windower::due ─▶ Due ─▶ combine, evaluate ─▶ rows ─▶ Windower::settle
//!                                                        (the task's work)
//! ```

use std::ops::Range;

use crate::batch::{Audience, Change};
use crate::partials::Folds;
use crate::slots::{Slots, TooManyGroups};
use crate::window::Window;

/// What an aggregation's file and place in the graph say of its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub allowed_lateness_ms: i64,
    /// open windows give results, too, at each tick
    pub early: bool,
    /// somebody takes the changelog
    pub sinks: bool,
    /// somebody takes each group once, when its window has expired
    pub operators: bool,
}

impl Policy {
    /// Whether a row once given can change.
    pub fn corrects(&self) -> bool {
        self.allowed_lateness_ms > 0 || self.early
    }

    /// Whether it must be known what has been given.
    pub fn keeps_ledger(&self) -> bool {
        self.corrects() && self.sinks
    }
}

/// Why results are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// the watermark has moved
    Watermark,
    /// a checkpoint is about to be taken
    Barrier,
    /// of wall time, with early results
    Tick,
}

/// What sinks have of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// of the last row given; 0: none ever
    pub revision: u32,
    /// that row has not been deleted
    pub present: bool,
    /// when it was given
    pub round: u32,
}

impl Given {
    /// What the group's rows of now do, and their revision. None: nothing changes.
    pub fn change(&self, has_rows: bool) -> Option<(Change, u32)> {
        let next = self.revision.saturating_add(1);
        match (self.present, has_rows) {
            (true, true) => Some((Change::Replace, next)),
            (false, true) => Some((Change::Insert, next)),
            (true, false) => Some((Change::Delete, next)),
            (false, false) => None,
        }
    }

    /// After the rows of [`Given::change`] have been given in this round.
    pub fn then(&self, has_rows: bool, round: u32) -> Self {
        match self.change(has_rows) {
            Some((_, revision)) => Self { revision, present: has_rows, round },
            None => Self { round, ..*self },
        }
    }
}

/// Who a group is, for whoever settles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// by the hash of its key, in the window
    Key(u64),
    Session {
        slot: u32,
    },
}

#[derive(Clone, Debug)]
pub struct DueGroup {
    pub window: Window,
    pub given: Given,
    pub owner: Owner,
    key: Range<usize>,
    parts: Range<usize>,
}

/// A row that goes, of a window that is no more: a session has grown or merged.
#[derive(Clone, Debug)]
pub struct Deletion {
    pub window: Window,
    pub revision: u32,
    key: Range<usize>,
}

/// Groups that give their results together.
#[derive(Clone, Debug)]
pub struct Due {
    pub audience: Audience,
    /// no row of them will change again
    pub is_final: bool,
    pub groups: Vec<DueGroup>,
    pub deletions: Vec<Deletion>,
    keys: Vec<u8>,
    parts: Vec<u32>,
    /// groups that were moved to disk: to be merged into their slots for the evaluation, emptied and released after it
    pub loads: Vec<Load>,
    /// what is to be done first; the parts of groups are only right if it has been
    pub folds: Folds,
    /// parts are partial results, which are gone when the plugin instance is exchanged
    pub is_shared: bool,
    /// of a window that many keys share: its start
    pub(crate) window_start_ms: Option<i64>,
    /// once it has been settled, its groups are over
    pub(crate) ends: bool,
    /// no more groups of this window come in this emission
    pub(crate) is_last: bool,
}

/// Groups of one part of a pane on disk, in the order in which [`Loads::load`] gave them.
#[derive(Clone, Debug)]
pub struct Load {
    pub pane_start_ms: i64,
    pub part: u32,
    pub slots: Vec<u32>,
}

/// A group on disk.
#[derive(Clone, Debug)]
pub struct LoadedGroup {
    pub hash: u64,
    pub key: Vec<u8>,
    /// the round in which a row last went in
    pub touched: u32,
}

/// Reads back what was moved to disk.
pub trait Loads {
    /// The groups of a partition of keys: see [`partition_of`].
    fn load(&mut self, pane_start_ms: i64, part: u32, partition: usize) -> Vec<LoadedGroup>;
}

/// Nothing was moved to disk.
impl Loads for () {
    fn load(&mut self, _: i64, _: u32, _: usize) -> Vec<LoadedGroup> {
        Vec::new()
    }
}

/// Windows with groups on disk are given a partition of keys at a time, so that only so many are in memory.
pub const PARTITIONS: usize = 256;

/// Of other bits than those that say the key group.
pub fn partition_of(hash: u64) -> usize {
    usize::try_from((hash >> 32) % PARTITIONS as u64).unwrap_or(0)
}

impl Due {
    pub(crate) fn new(audience: Audience, is_final: bool) -> Self {
        Self {
            audience,
            is_final,
            groups: Vec::new(),
            deletions: Vec::new(),
            keys: Vec::new(),
            parts: Vec::new(),
            loads: Vec::new(),
            folds: Folds::default(),
            is_shared: false,
            window_start_ms: None,
            ends: false,
            is_last: true,
        }
    }

    pub(crate) fn push(&mut self, window: Window, given: Given, owner: Owner, key: &[u8], parts: &[u32]) {
        let key = self.push_key(key);
        let from = self.parts.len();
        self.parts.extend_from_slice(parts);
        self.groups.push(DueGroup { window, given, owner, key, parts: from..self.parts.len() });
    }

    pub(crate) fn delete(&mut self, window: Window, revision: u32, key: &[u8]) {
        let key = self.push_key(key);
        self.deletions.push(Deletion { window, revision, key });
    }

    fn push_key(&mut self, key: &[u8]) -> Range<usize> {
        let from = self.keys.len();
        self.keys.extend_from_slice(key);
        from..self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.deletions.is_empty()
    }

    pub fn key(&self, group: &DueGroup) -> &[u8] {
        self.keys.get(group.key.clone()).unwrap_or_default()
    }

    pub fn deleted_key(&self, deletion: &Deletion) -> &[u8] {
        self.keys.get(deletion.key.clone()).unwrap_or_default()
    }

    /// Other parts for the same group.
    pub(crate) fn set_parts(&mut self, at: usize, parts: &[u32]) {
        let from = self.parts.len();
        self.parts.extend_from_slice(parts);
        if let Some(group) = self.groups.get_mut(at) {
            group.parts = from..self.parts.len();
        }
    }

    /// The slots that the group is put together from, by start of their panes; one: it is the group.
    pub fn parts(&self, group: &DueGroup) -> &[u32] {
        self.parts.get(group.parts.clone()).unwrap_or_default()
    }
}

/// How groups of several parts are put together: into empty slots, for one evaluation.
#[derive(Clone, Debug, Default)]
pub struct Assembly {
    /// one per group: where its state stands
    pub slots: Vec<u32>,
    /// fold `sources[i]` into `targets[i]`, in this order
    pub sources: Vec<u32>,
    pub targets: Vec<u32>,
    /// to be reset and released afterwards
    pub borrowed: Vec<u32>,
}

impl Assembly {
    pub fn of(due: &Due, groups: &[DueGroup], slots: &mut Slots) -> Result<Self, TooManyGroups> {
        let mut assembly = Self::default();
        for group in groups {
            let parts = due.parts(group);
            if let [only] = parts {
                assembly.slots.push(*only);
                continue;
            }
            let target = slots.take()?;
            assembly.borrowed.push(target);
            assembly.slots.push(target);
            assembly.sources.extend_from_slice(parts);
            assembly.targets.resize(assembly.sources.len(), target);
        }
        Ok(assembly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_count_every_change_and_nothing_else() {
        let mut given = Given::default();
        let mut said = Vec::new();
        for (round, has_rows) in (0..).zip([false, true, true, false, false, true]) {
            said.push(given.change(has_rows));
            given = given.then(has_rows, round);
        }
        use Change::{Delete, Insert, Replace};
        assert_eq!(said, [None, Some((Insert, 1)), Some((Replace, 2)), Some((Delete, 3)), None, Some((Insert, 4))]);
        assert_eq!(given, Given { revision: 4, present: true, round: 5 });
    }
}
