//! A window's groups, put together from those of its panes.

use crate::groups::WindowGroups;

/// The groups of several panes, by key.
#[derive(Default)]
pub(super) struct Assembled {
    /// the "slot" of a key is its number
    pub keys: WindowGroups,
    slots: Vec<u32>,
    /// by key: where its slots begin; one more than there are keys
    starts: Vec<usize>,
}

impl Assembled {
    /// Slots of one key are in the order of the panes.
    pub fn of(panes: &[&WindowGroups], is_wanted: impl Fn(u64, u32) -> bool) -> Self {
        let mut keys = WindowGroups::default();
        let mut pairs: Vec<(u32, u32)> = Vec::with_capacity(panes.iter().map(|pane| pane.len()).sum());
        for (hash, key, slot) in panes.iter().flat_map(|pane| pane.iter()).filter(|(h, _, slot)| is_wanted(*h, *slot)) {
            let number = keys.find(hash, key).unwrap_or_else(|| {
                // no more keys than slots, and slots are numbered with 32 bits
                let number = u32::try_from(keys.len()).unwrap_or(u32::MAX);
                keys.insert(hash, key, number);
                number
            });
            pairs.push((number, slot));
        }
        let mut starts = vec![0_usize; keys.len() + 1];
        for (number, _) in &pairs {
            if let Some(count) = starts.get_mut(*number as usize + 1) {
                *count += 1;
            }
        }
        let mut before = 0;
        for start in &mut starts {
            before += *start;
            *start = before;
        }
        let mut next = starts.clone();
        let mut slots = vec![0_u32; pairs.len()];
        for (number, slot) in pairs {
            let Some(place) = next.get_mut(number as usize) else { continue };
            if let Some(at) = slots.get_mut(*place) {
                *at = slot;
            }
            *place += 1;
        }
        Self { keys, slots, starts }
    }

    /// By key.
    pub fn parts(&self) -> impl Iterator<Item = &[u32]> {
        let ends = self.starts.iter().skip(1);
        self.starts.iter().zip(ends).map(|(from, to)| self.slots.get(*from..*to).unwrap_or_default())
    }
}
