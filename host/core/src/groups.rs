//! (key, window) → slot in the accumulator.
//!
//! The table owns which groups exist and which slot each has; what a slot holds is the plugin's business. Slots are
//! reused, so the number of slots is bounded by the largest number of groups that were open at one time.
//!
//! ```text
//!   window 12:00 ─▶ { hash → (key bytes, slot 0), (…, slot 3) }     changed since the last export: yes
//!   window 12:05 ─▶ { hash → (key bytes, slot 1) }                  no
//!   free slots: 2
//! ```
//!
//! A batch nearly always falls into one or two windows, so windows are the outer level: the inner lookup is one probe
//! of a hash table whose hash was computed once, at the exchange.

use std::collections::BTreeMap;

use hashbrown::HashTable;

use crate::slots::{Slots, TooManyGroups};

/// All groups of one operator task.
#[derive(Debug, Default)]
pub struct GroupTable {
    pub(crate) windows: BTreeMap<i64, WindowGroups>,
    pub slots: Slots,
    calls: u64,
}

/// The groups of one window.
#[derive(Debug, Default)]
pub struct WindowGroups {
    table: HashTable<u32>,
    /// in the order in which the groups came up
    groups: Vec<Group>,
    key_bytes: Vec<u8>,
    changed: bool,
    /// the last round in which rows came
    round: u32,
    /// the last call in which rows came
    used: u64,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    hash: u64,
    key_from: usize,
    key_to: usize,
    slot: u32,
}

impl GroupTable {
    /// The slots of groups of one window, made where they are new, appended to `into`. Marks the window as changed.
    pub fn slots<'k>(
        &mut self,
        window_start_ms: i64,
        keys: impl Iterator<Item = (u64, &'k [u8])>,
        into: &mut Vec<u32>,
    ) -> Result<(), TooManyGroups> {
        let window = self.windows.entry(window_start_ms).or_default();
        window.changed = true;
        window.round = self.slots.round();
        self.calls += 1;
        window.used = self.calls;
        for (hash, key) in keys {
            if let Some(slot) = window.find(hash, key) {
                into.push(slot);
                continue;
            }
            let slot = self.slots.take()?;
            window.insert(hash, key, slot);
            into.push(slot);
        }
        Ok(())
    }

    /// Groups that exist now.
    pub fn len(&self) -> usize {
        self.windows.values().map(|w| w.groups.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Start of each window that has groups, ascending.
    pub fn windows(&self) -> impl Iterator<Item = (i64, &WindowGroups)> {
        self.windows.iter().map(|(start, window)| (*start, window))
    }

    pub fn first_window(&self) -> Option<i64> {
        self.windows.keys().next().copied()
    }

    pub fn contains(&self, window_start_ms: i64) -> bool {
        self.windows.contains_key(&window_start_ms)
    }

    /// The windows that start in a range, ascending.
    pub fn range(&self, starts_ms: std::ops::Range<i64>) -> impl Iterator<Item = (i64, &WindowGroups)> {
        self.windows.range(starts_ms).map(|(start, window)| (*start, window))
    }

    /// Takes a window out. Its slots stay taken until [`Slots::release`]: they still hold the results.
    pub fn take_window(&mut self, window_start_ms: i64) -> Option<WindowGroups> {
        self.windows.remove(&window_start_ms)
    }

    /// Windows changed since [`GroupTable::take_changed`], ascending.
    pub fn changed(&self) -> impl Iterator<Item = i64> {
        self.windows.iter().filter(|(_, window)| window.changed).map(|(start, _)| *start)
    }

    /// Windows changed since the last call, ascending; they count as unchanged from now on.
    pub fn take_changed(&mut self) -> Vec<i64> {
        self.windows
            .iter_mut()
            .filter_map(|(start, window)| std::mem::take(&mut window.changed).then_some(*start))
            .collect()
    }

    /// Says that a window does not stand as it was exported.
    pub fn mark_changed(&mut self, window_start_ms: i64) {
        if let Some(window) = self.windows.get_mut(&window_start_ms) {
            window.changed = true;
        }
    }

    /// As if a row had just gone into each group that has any.
    pub fn touch_all(&mut self) {
        let round = self.slots.round();
        for window in self.windows.values_mut() {
            window.round = round;
            window.groups.iter().for_each(|group| self.slots.touch_again(group.slot));
        }
    }

    /// Says that a window stands as it was exported (after a restore).
    pub fn mark_unchanged(&mut self, window_start_ms: i64) {
        if let Some(window) = self.windows.get_mut(&window_start_ms) {
            window.changed = false;
        }
    }

    pub fn window(&self, window_start_ms: i64) -> Option<&WindowGroups> {
        self.windows.get(&window_start_ms)
    }
}

impl WindowGroups {
    /// The slot of a key's group.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let index = self.table.find(hash, |&index| {
            self.groups.get(index as usize).is_some_and(|g| g.hash == hash && self.key_of(g) == key)
        })?;
        self.groups.get(*index as usize).map(|g| g.slot)
    }

    /// A group that [`WindowGroups::find`] does not find.
    pub fn insert(&mut self, hash: u64, key: &[u8], slot: u32) {
        let key_from = self.key_bytes.len();
        self.key_bytes.extend_from_slice(key);
        // no more groups than slots, and slots are numbered with 32 bits
        let index = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        self.groups.push(Group { hash, key_from, key_to: self.key_bytes.len(), slot });
        let groups = &self.groups;
        self.table.insert_unique(hash, index, |&i| groups.get(i as usize).map_or(0, |g| g.hash));
    }

    fn key_of(&self, group: &Group) -> &[u8] {
        self.key_bytes.get(group.key_from..group.key_to).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The last round in which rows came.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Larger: rows came later.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Hash, key bytes and slot of each group, in the order in which they came up.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8], u32)> {
        self.groups.iter().map(|g| (g.hash, self.key_of(g), g.slot))
    }

    /// About what the table itself takes, without the accumulator.
    pub fn size_bytes(&self) -> usize {
        self.key_bytes.capacity() + self.groups.capacity() * size_of::<Group>() + self.table.capacity() * 5
    }

    /// Slot of each group, in the order in which they came up.
    pub fn slots(&self) -> Vec<u32> {
        self.groups.iter().map(|g| g.slot).collect()
    }

    /// How many bytes all keys take.
    pub fn key_bytes(&self) -> usize {
        self.key_bytes.len()
    }

    /// Canonical key bytes of each group, in the same order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.groups.iter().map(|g| self.key_of(g))
    }

    /// Hash of each group, in the same order.
    pub fn hashes(&self) -> impl Iterator<Item = u64> {
        self.groups.iter().map(|g| g.hash)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn slot(table: &mut GroupTable, window: i64, hash: u64, key: &[u8]) -> u32 {
        let mut slots = Vec::new();
        table.slots(window, std::iter::once((hash, key)), &mut slots).unwrap();
        slots[0]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Touch { window: i64, key: u8 },
        Expire { window: i64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(
            prop_oneof![
                4 => (0_i64..6, any::<u8>()).prop_map(|(window, key)| Step::Touch { window, key }),
                1 => (0_i64..6).prop_map(|window| Step::Expire { window }),
            ],
            1..300,
        )
    }

    proptest! {
        /// Against a plain map: a live group keeps its slot, two live groups never share one, freed slots come back.
        #[test]
        fn agrees_with_a_map(steps in steps()) {
            let mut table = GroupTable::default();
            let mut model: HashMap<(i64, u8), u32> = HashMap::new();
            let mut most = 0;
            for step in steps {
                match step {
                    Step::Touch { window, key } => {
                        // a poor hash on purpose: collisions must be told apart by the key's bytes
                        let slot = slot(&mut table, window, u64::from(key % 4), &[key]);
                        if let Some(known) = model.get(&(window, key)) {
                            prop_assert_eq!(*known, slot);
                        } else {
                            prop_assert!(!model.values().any(|s| *s == slot), "slot {} is taken", slot);
                            model.insert((window, key), slot);
                        }
                        most = most.max(model.len());
                    }
                    Step::Expire { window } => {
                        let taken = table.take_window(window).map(|w| w.slots()).unwrap_or_default();
                        let mut expected: Vec<u32> = model.iter().filter(|((w, _), _)| *w == window).map(|(_, s)| *s).collect();
                        let mut got = taken.clone();
                        expected.sort_unstable();
                        got.sort_unstable();
                        prop_assert_eq!(got, expected);
                        model.retain(|(w, _), _| *w != window);
                        table.slots.release(taken);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            prop_assert!(table.slots.total() as usize <= most);
        }
    }

    #[test]
    fn only_touched_windows_count_as_changed() {
        let mut table = GroupTable::default();
        let hash = xxh3_64(b"k");
        slot(&mut table, 10, hash, b"k");
        slot(&mut table, 20, hash, b"k");
        assert_eq!(table.take_changed(), vec![10, 20]);
        assert_eq!(table.take_changed(), Vec::<i64>::new());
        slot(&mut table, 20, hash, b"k");
        assert_eq!(table.take_changed(), vec![20]);
    }
}
