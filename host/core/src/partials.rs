//! Sliding windows with many panes: partial results that consecutive windows share.
//!
//! ```text
//!   panes        p1  p2  p3  p4 │ p5  p6
//!   front        ├───────────── │            f1 = p1+p2+p3+p4, f2 = p2+p3+p4, f3 = p3+p4, f4 = p4
//!   back                        │ ├─────     p5+p6
//!   window of p3…p6 = f3 + back
//! ```
//!
//! When a window begins behind the front, the front is made anew from the panes of that window, last to first, and the
//! back is empty: so a pane is folded about three times, not once for each of its windows (the two stacks of Tangwongsan,
//! Hirzel, Schneider, Wu: "General Incremental Sliding-Window Aggregation", VLDB 2015, a key at a time). A row that comes
//! late into a pane that has been folded makes its key stale until the front is made anew: that key is put together from
//! all of its panes.
//!
//! The partial results are slots of their own, never part of a checkpoint. They hold nothing after a plugin instance has
//! been exchanged: [`Partials::forget`].

use std::collections::{BTreeMap, HashSet};

use crate::groups::WindowGroups;
use crate::slots::{Slots, TooManyGroups};
use crate::window::Window;

/// Fewer panes a window are folded each time.
pub const PANES_MIN: usize = 6;

#[derive(Debug, Default)]
pub struct Partials {
    /// by start of a pane: that pane and all behind it, up to `flipped_ms`
    front: BTreeMap<i64, Level>,
    flipped_ms: i64,
    /// what comes behind, up to `folded_ms`
    back: Level,
    folded_ms: i64,
    /// hashes of keys: rows have come into panes that had been folded
    stale: HashSet<u64>,
}

#[derive(Debug, Default)]
struct Level {
    groups: WindowGroups,
    /// slots that are this level's; the others are those of panes or of the level behind
    owned: Vec<u32>,
}

/// What is to be done before the groups are evaluated, in this order.
#[derive(Clone, Debug, Default)]
pub struct Folds {
    /// hold partial results that are over: to be emptied, then released
    pub emptied: Vec<u32>,
    /// fold `sources[i]` into `targets[i]`; the sources stay
    pub sources: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Folds {
    pub fn is_empty(&self) -> bool {
        self.emptied.is_empty() && self.sources.is_empty()
    }

    fn fold(&mut self, source: u32, target: u32, slots: &mut Slots) {
        if slots.is_live(source) {
            slots.absorb(source, target);
            self.sources.push(source);
            self.targets.push(target);
        }
    }
}

impl Partials {
    /// Rows come into a pane.
    pub fn rows(&mut self, pane: Window, hashes: impl Iterator<Item = u64>) {
        if pane.start_ms < self.folded_ms {
            self.stale.extend(hashes);
        }
    }

    /// Makes the partial results of a window from its panes, which are all that there are of them. Windows come in the order
    /// of their starts.
    pub fn advance(
        &mut self,
        window: Window,
        panes: &[(i64, &WindowGroups)],
        slots: &mut Slots,
    ) -> Result<Folds, TooManyGroups> {
        let mut folds = Folds::default();
        let kept = self.front.split_off(&window.start_ms);
        for level in std::mem::replace(&mut self.front, kept).into_values() {
            folds.emptied.extend(level.owned);
        }
        if self.front.is_empty() {
            folds.emptied.extend(std::mem::take(&mut self.back).owned);
            self.stale.clear();
            self.flip(panes, slots, &mut folds)?;
            (self.flipped_ms, self.folded_ms) = (window.end_ms, window.end_ms);
            return Ok(folds);
        }
        for (_, pane) in panes.iter().filter(|(start_ms, _)| *start_ms >= self.folded_ms) {
            for (hash, key, slot) in pane.iter() {
                let target = match self.back.groups.find(hash, key) {
                    Some(target) => target,
                    None => {
                        let target = slots.take()?;
                        self.back.groups.insert(hash, key, target);
                        self.back.owned.push(target);
                        target
                    }
                };
                folds.fold(slot, target, slots);
            }
        }
        self.folded_ms = window.end_ms;
        Ok(folds)
    }

    fn flip(
        &mut self,
        panes: &[(i64, &WindowGroups)],
        slots: &mut Slots,
        folds: &mut Folds,
    ) -> Result<(), TooManyGroups> {
        let mut behind: Option<i64> = None;
        for (start_ms, pane) in panes.iter().rev() {
            let mut level = Level::default();
            let after = behind.and_then(|start| self.front.get(&start));
            for (hash, key, slot) in pane.iter() {
                let slot = match after.and_then(|level| level.groups.find(hash, key)) {
                    None => slot,
                    Some(rest) => {
                        let target = slots.take()?;
                        level.owned.push(target);
                        folds.fold(slot, target, slots);
                        folds.fold(rest, target, slots);
                        target
                    }
                };
                level.groups.insert(hash, key, slot);
            }
            for (hash, key, slot) in after.into_iter().flat_map(|level| level.groups.iter()) {
                if level.groups.find(hash, key).is_none() {
                    level.groups.insert(hash, key, slot);
                }
            }
            self.front.insert(*start_ms, level);
            behind = Some(*start_ms);
        }
        Ok(())
    }

    /// Each key of the window that was asked for last, with the slots that make its group; without the stale ones.
    pub fn groups(&self, mut give: impl FnMut(u64, &[u8], &[u32])) {
        let empty = WindowGroups::default();
        let front = self.front.values().next().map_or(&empty, |level| &level.groups);
        let is_stale = |hash: &u64| self.stale.contains(hash);
        for (hash, key, slot) in front.iter().filter(|(hash, _, _)| !is_stale(hash)) {
            match self.back.groups.find(hash, key) {
                Some(back) => give(hash, key, &[slot, back]),
                None => give(hash, key, &[slot]),
            }
        }
        for (hash, key, slot) in self.back.groups.iter().filter(|(hash, _, _)| !is_stale(hash)) {
            if front.find(hash, key).is_none() {
                give(hash, key, &[slot]);
            }
        }
    }

    /// Whether the key is put together from all of its panes.
    pub fn is_stale(&self, hash: u64) -> bool {
        self.stale.contains(&hash)
    }

    pub fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// All of it is over; returns slots to be emptied, then released.
    pub fn forget(&mut self) -> Vec<u32> {
        let former = std::mem::take(self);
        former.front.into_values().chain([former.back]).flat_map(|level| level.owned).collect()
    }

    pub fn size_bytes(&self) -> usize {
        self.front.values().chain([&self.back]).map(|level| level.groups.size_bytes()).sum()
    }
}
