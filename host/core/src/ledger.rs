//! What has been given of each group of a window: its last revision, and when.
//!
//! Kept only where results can change, only while the window can, and part of the checkpoint: after a restart revisions
//! go on where they were, and what had not been given is given.

use crate::due::Given;
use crate::groups::WindowGroups;
use crate::slots::RESTORED_ROUND;
use crate::window::Window;

/// The groups of one window.
#[derive(Debug, Default)]
pub struct Ledger {
    index: WindowGroups,
    given: Vec<Given>,
    changed: bool,
}

impl Ledger {
    pub fn get(&self, hash: u64, key: &[u8]) -> Given {
        self.index.find(hash, key).and_then(|at| self.given.get(at as usize)).copied().unwrap_or_default()
    }

    pub fn set(&mut self, hash: u64, key: &[u8], given: Given) {
        self.changed = true;
        if let Some(at) = self.index.find(hash, key) {
            if let Some(place) = self.given.get_mut(at as usize) {
                *place = given;
            }
            return;
        }
        // no more entries than slots, and slots are numbered with 32 bits
        let at = u32::try_from(self.given.len()).unwrap_or(u32::MAX);
        self.index.insert(hash, key, at);
        self.given.push(given);
    }

    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// In the order in which they were first given.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8], Given)> {
        self.index.iter().zip(&self.given).map(|((hash, key, _), given)| (hash, key, *given))
    }

    /// Whether it has changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub fn mark_unchanged(&mut self) {
        self.changed = false;
    }

    pub fn size_bytes(&self) -> usize {
        self.index.size_bytes() + self.given.capacity() * size_of::<Given>()
    }
}

/// One line of a checkpoint's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Vec<u8>,
    pub window: Window,
    pub revision: u32,
    pub present: bool,
    /// the group has changed since
    pub changed: bool,
    /// the largest event time of a group of the global window
    pub last_event_ms: Option<i64>,
}

impl Entry {
    /// What a restart knows of the group.
    pub fn given(&self) -> Given {
        let round = if self.changed { 0 } else { RESTORED_ROUND };
        Given { revision: self.revision, present: self.present, round }
    }
}
