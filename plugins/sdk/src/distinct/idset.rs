//! A set of 32-bit references in one flat table: about 7 bytes an entry.

use super::intern::Ref;

const SLOTS_MIN: usize = 4;

/// Open addressing, linear probing, at most 3/4 full; 0 = free.
#[derive(Debug, Default)]
pub struct IdSet {
    table: Vec<u32>,
    shift: u32,
    used: usize,
}

impl IdSet {
    pub fn len(&self) -> usize {
        self.used
    }

    pub fn bytes(&self) -> usize {
        self.table.len() * 4
    }

    /// Fibonacci hashing: references grow in near-equal steps, which it spreads evenly.
    #[inline]
    fn home(&self, id: Ref) -> usize {
        (id.wrapping_mul(0x9E37_79B1) >> (self.shift & 31)) as usize
    }

    /// Reads an id's home slot: brings its line into the cache.
    #[inline]
    pub fn touch(&self, id: Ref) -> u32 {
        self.table.get(self.home(id)).copied().unwrap_or_default()
    }

    /// Whether one more id needs a larger table.
    #[inline]
    pub fn is_full(&self) -> bool {
        (self.used + 1) * 4 > self.table.len() * 3
    }

    /// Whether the id was new. There has to be room.
    #[inline]
    pub fn insert(&mut self, id: Ref) -> bool {
        let mask = self.table.len().wrapping_sub(1);
        let mut slot = self.home(id);
        while let Some(entry) = self.table.get_mut(slot) {
            // one branch for "free" and "found", which nobody could predict
            if (*entry == 0) | (*entry == id) {
                let new = *entry == 0;
                *entry = id;
                self.used += usize::from(new);
                return new;
            }
            slot = (slot + 1) & mask;
        }
        false
    }

    /// Doubles the table; by how many bytes it has grown.
    #[cold]
    pub fn grow(&mut self) -> usize {
        let slots = (self.table.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.table, vec![0; slots]);
        self.shift = 32 - slots.trailing_zeros();
        self.used = 0;
        for id in old.iter().filter(|id| **id != 0) {
            self.insert(*id);
        }
        (slots - old.len()) * 4
    }

    /// As [`IdSet::iter`], some at a time, without a branch per slot that nobody could predict: ids are moved together first.
    pub fn each(&self, mut take: impl FnMut(&[Ref])) {
        let mut together = [0; 64];
        for slots in self.table.chunks(together.len()) {
            let mut used = 0;
            for id in slots {
                if let Some(to) = together.get_mut(used) {
                    *to = *id;
                }
                used += usize::from(*id != 0);
            }
            take(together.get(..used).unwrap_or_default());
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Ref> {
        self.table.iter().copied().filter(|id| *id != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// References in the steps of real strings, near ones that collide and far ones.
        #[test]
        fn it_equals_a_hash_set(ids in proptest::collection::vec(prop_oneof![1..64u32, (1..3000u32).prop_map(|n| n * 2), 1..=u32::MAX], 0..3000)) {
            let (mut set, mut model, mut bytes) = (IdSet::default(), HashSet::new(), 0);
            for id in ids {
                if set.is_full() {
                    bytes += set.grow();
                }
                prop_assert_eq!(set.insert(id), model.insert(id));
                prop_assert!(!set.insert(id));
            }
            prop_assert_eq!((set.len(), set.bytes()), (model.len(), bytes));
            let mut each: Vec<Ref> = Vec::new();
            set.each(|ids| each.extend(ids));
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), each);
            prop_assert_eq!(set.iter().collect::<HashSet<_>>(), model);
        }
    }
}
