//! Strings, each stored once, named by a 32-bit reference.
//!
//! Owns the arena and the table that finds a string in it. Never frees a single string: the owner builds a fresh
//! interner from what is alive and drops the old one (see [`super::scope`]). Identity is exact: a 32-bit tag only saves
//! most comparisons.
//!
//! ```text
//! table: [tag | reference] ──► chunks: [word word][word][word word word]…   a string is words up to the one with 0xFF
//! ```

use super::hash;

/// Words in a chunk (1 MiB); a longer string gets a chunk of its own.
const CHUNK_BITS: u32 = 17;
const CHUNK_WORDS: usize = 1 << CHUNK_BITS;
const TABLE_SLOTS_MIN: usize = 64;

/// Names a string: chunk number and word within it. Never 0.
pub type Ref = u32;

#[derive(Debug)]
pub struct Interner {
    chunks: Vec<Vec<u64>>,
    /// high half the tag, low half the reference; 0 = free. A tag's top bits are its home slot.
    table: Vec<u64>,
    shift: u32,
    used: usize,
    bytes: usize,
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the half that is wanted")]
pub fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the half that is wanted")]
fn reference(entry: u64) -> Ref {
    entry as u32
}

impl Default for Interner {
    fn default() -> Self {
        // the first word stays unused, so that no reference is 0
        let mut new = Self { chunks: vec![vec![0]], table: Vec::new(), shift: 0, used: 0, bytes: 0 };
        new.resize(TABLE_SLOTS_MIN);
        new
    }
}

impl Interner {
    /// Strings held.
    pub fn len(&self) -> usize {
        self.used
    }

    pub fn bytes(&self) -> usize {
        self.bytes + self.chunks.last().map_or(0, |c| c.capacity() * 8)
    }

    #[inline]
    fn home(&self, tag: u32) -> usize {
        (tag >> self.shift) as usize
    }

    #[inline]
    fn after(&self, slot: usize) -> usize {
        (slot + 1) & (self.table.len() - 1)
    }

    #[inline]
    fn entry(&self, slot: usize) -> u64 {
        self.table.get(slot).copied().unwrap_or_default()
    }

    /// The entry in a tag's home slot: brings its line into the cache.
    #[inline]
    pub fn touch(&self, tag: u32) -> u64 {
        self.entry(self.home(tag))
    }

    /// The first string with a tag, almost always the one that is wanted; 0 if there is none.
    #[inline]
    pub fn candidate(&self, wanted: u32) -> Ref {
        let mut slot = self.home(wanted);
        loop {
            let entry = self.entry(slot);
            if entry == 0 || tag(entry) == wanted {
                return reference(entry);
            }
            slot = self.after(slot);
        }
    }

    /// All words from a reference to the end of its chunk.
    #[inline]
    pub fn words_at(&self, at: Ref) -> &[u64] {
        self.chunks
            .get((at >> CHUNK_BITS) as usize)
            .and_then(|c| c.get(at as usize & (CHUNK_WORDS - 1)..))
            .unwrap_or_default()
    }

    /// Two words, from number `at` on of what begins here; past the end of the chunk they are 0.
    #[inline]
    pub fn pair(&self, from: Ref, at: usize) -> (u64, u64) {
        let start = (from as usize & (CHUNK_WORDS - 1)) + at;
        let chunk = self.chunks.get((from >> CHUNK_BITS) as usize).map(Vec::as_slice).unwrap_or_default();
        let word = |at: usize| chunk.get(at).copied().unwrap_or_default();
        (word(start), word(start + 1))
    }

    /// Whether a candidate is the string of these words.
    #[inline]
    pub fn is(&self, at: Ref, words: &[u64]) -> bool {
        at != 0 && same(self.words_at(at), words)
    }

    /// The reference of these words, which are stored if they are new.
    pub fn intern(&mut self, wanted: u32, words: &[u64]) -> Ref {
        let mut slot = self.home(wanted);
        loop {
            let entry = self.entry(slot);
            if entry == 0 {
                return self.store(wanted, slot, words);
            }
            if tag(entry) == wanted && self.is(reference(entry), words) {
                return reference(entry);
            }
            slot = self.after(slot);
        }
    }

    fn store(&mut self, tag: u32, slot: usize, words: &[u64]) -> Ref {
        let full = self.chunks.last().is_none_or(|c| c.len() + words.len() > CHUNK_WORDS);
        if full {
            self.bytes += self.chunks.last().map_or(0, |c| c.capacity() * 8);
            self.chunks.push(Vec::with_capacity(CHUNK_WORDS.max(words.len())));
        }
        let chunk_number = self.chunks.len() - 1;
        let mut at = 0;
        if let Some(chunk) = self.chunks.last_mut() {
            at = (chunk_number << CHUNK_BITS) | chunk.len();
            chunk.extend_from_slice(words);
        }
        #[allow(clippy::panic, reason = "32 GiB of strings: no memory limit lets it come to this")]
        let Ok(at) = Ref::try_from(at) else { panic!("more than 32 GiB of distinct strings") };
        if let Some(entry) = self.table.get_mut(slot) {
            *entry = (u64::from(tag) << 32) | u64::from(at);
        }
        self.used += 1;
        if self.used * 4 > self.table.len() * 3 {
            self.resize(self.table.len() * 2);
        }
        at
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.table, vec![0; slots]);
        self.bytes = self.bytes + slots * 8 - old.len() * 8;
        self.shift = 32 - slots.trailing_zeros();
        for entry in old.into_iter().filter(|e| *e != 0) {
            let mut slot = self.home(tag(entry));
            while self.entry(slot) != 0 {
                slot = self.after(slot);
            }
            if let Some(free) = self.table.get_mut(slot) {
                *free = entry;
            }
        }
    }

    /// The words of one string.
    pub fn words(&self, at: Ref) -> &[u64] {
        let rest = self.words_at(at);
        rest.get(..hash::count_words(rest)).unwrap_or_default()
    }
}

/// The last word of `words` holds the end mark, so equal words are the equal string.
#[inline]
fn same(stored: &[u64], words: &[u64]) -> bool {
    stored.len() >= words.len() && stored.iter().zip(words).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// A tag that many strings share, whatever their hash: only the text tells them apart then.
    fn crowded(hash: u64) -> u32 {
        (tag(hash) & 3) << 30
    }

    proptest! {
        #[test]
        fn it_equals_a_hash_map(texts in proptest::collection::vec("[ab]{0,9}|[a-zÿ]{14,18}", 0..400), collide: bool) {
            let (mut interner, mut model) = (Interner::default(), HashMap::new());
            for text in texts {
                let mut words = Vec::new();
                let hash = hash::push_words(&text, &mut words);
                let tag = if collide { crowded(hash) } else { tag(hash) };
                let known = model.get(&text).copied();
                let candidate = interner.candidate(tag);
                if interner.is(candidate, &words) {
                    prop_assert_eq!(Some(candidate), known);
                }
                let at = interner.intern(tag, &words);
                prop_assert_eq!(known.unwrap_or(at), at);
                prop_assert_eq!(interner.words(at), &*words);
                model.insert(text, at);
            }
            prop_assert_eq!(interner.len(), model.len());
            let mut references: Vec<Ref> = model.into_values().collect();
            references.sort_unstable();
            references.dedup();
            prop_assert_eq!(references.len(), interner.len());
        }
    }
}
