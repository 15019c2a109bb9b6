//! The memory that all exact string sets of one accumulator share.
//!
//! Strings are interned once for all groups; a group's set holds 32-bit references. Insertions are not done one by one:
//! they are noted, and done together in passes in which every memory access is independent of the others, so that the
//! processor overlaps the cache misses (a million users do not fit into its caches). Whatever reads a set first has
//! the notes done.
//!
//! Garbage: a freed group leaves its strings behind. When more references have been freed than are alive, the strings
//! that are still named are moved to a fresh interner: the work is at most proportional to what was freed, and with
//! tumbling windows there is next to nothing alive by then.

use std::cell::RefCell;
use std::hint::black_box;

use super::hash;
use super::idset::IdSet;
use super::intern::{self, Interner, Ref};

/// Notes done together: 64 B × 1,024 lines fit into a small second-level cache.
const NOTES_MAX: usize = 1024;
/// A longer text is not worth noting: it is inserted at once, so that the notes stay small.
const NOTED_TEXT_WORDS_MAX: usize = 64 * 1024;
/// Below this nobody gains from a collection.
const COLLECT_BYTES_MIN: usize = 1 << 20;

/// Values of a set for whose order memory is kept.
const ORDER_KEPT: usize = 1024;

/// Names a set within its scope.
pub type SetId = u32;

#[derive(Clone, Copy, Debug)]
struct Note {
    set: SetId,
    /// first word of the text in `Scope::text`
    start: u32,
    tag: u32,
    /// what the text may be, then what it is
    at: Ref,
}

/// A value, and the part of it that it is sorted by first.
type Keyed = (u64, Ref);

#[derive(Debug, Default)]
pub struct Scope {
    interner: Interner,
    sets: Vec<IdSet>,
    free: Vec<SetId>,
    notes: Vec<Note>,
    text: Vec<u64>,
    /// references in all sets
    alive: usize,
    /// references freed since the last collection
    freed: usize,
    set_bytes: usize,
    /// bytes of sets of other kinds (numbers, sketches), which report them here
    pub other_bytes: usize,
    /// whose values are in `order`: a set that needs several chunks is sorted once
    sorted: Option<SetId>,
    order: Vec<Keyed>,
}

impl Scope {
    pub fn new_set(&mut self) -> SetId {
        self.free.pop().unwrap_or_else(|| {
            self.sets.push(IdSet::default());
            crate::column::offset(self.sets.len() - 1)
        })
    }

    #[inline]
    pub fn insert(&mut self, set: SetId, text: &str) {
        let start = crate::column::offset(self.text.len());
        let tag = intern::tag(hash::push_words(text, &mut self.text));
        self.notes.push(Note { set, start, tag, at: 0 });
        if self.notes.len() >= NOTES_MAX || self.text.len() >= NOTED_TEXT_WORDS_MAX {
            self.flush();
        }
    }

    /// Does what was noted.
    pub fn flush(&mut self) {
        if self.notes.is_empty() {
            return;
        }
        self.sorted = None;
        let mut seen = 0u64;
        // Each pass touches what the next one needs, and is short: many of its accesses are then under way at once.
        for note in &self.notes {
            seen ^= self.interner.touch(note.tag);
        }
        for note in &mut self.notes {
            note.at = self.interner.candidate(note.tag);
        }
        for note in &self.notes {
            seen ^= self.interner.words_at(note.at).first().copied().unwrap_or_default();
        }
        let mut end = self.text.len();
        for note in self.notes.iter_mut().rev() {
            let start = note.start as usize;
            let words = self.text.get(start..end).unwrap_or_default();
            if !self.interner.is(note.at, words) {
                note.at = self.interner.intern(note.tag, words);
            }
            end = start;
        }
        for note in &self.notes {
            seen ^= self.sets.get(note.set as usize).map_or(0, |set| u64::from(set.touch(note.at)));
        }
        black_box(seen);
        for note in &self.notes {
            if let Some(set) = self.sets.get_mut(note.set as usize) {
                if set.is_full() {
                    self.set_bytes += set.grow();
                }
                self.alive += usize::from(set.insert(note.at));
            }
        }
        self.notes.clear();
        self.text.clear();
    }

    pub fn len(&mut self, set: SetId) -> usize {
        self.flush();
        self.sets.get(set as usize).map_or(0, IdSet::len)
    }

    /// Folds one set into another of the same scope: no string is touched.
    pub fn merge(&mut self, target: SetId, source: SetId) {
        self.flush();
        self.sorted = None;
        if target == source {
            return;
        }
        let Some(from) = self.sets.get_mut(source as usize).map(std::mem::take) else { return };
        if let Some(set) = self.sets.get_mut(target as usize) {
            for id in from.iter() {
                if set.is_full() {
                    self.set_bytes += set.grow();
                }
                self.alive += usize::from(set.insert(id));
            }
        }
        if let Some(set) = self.sets.get_mut(source as usize) {
            *set = from;
        }
    }

    /// Gives a set's memory back; its number is used again.
    pub fn free(&mut self, set: SetId) {
        self.flush();
        self.sorted = self.sorted.filter(|sorted| *sorted != set);
        if let Some(old) = self.sets.get_mut(set as usize).map(std::mem::take) {
            self.set_bytes -= old.bytes();
            self.alive -= old.len();
            self.freed += old.len();
            self.free.push(set);
        }
    }

    /// Drops strings that no set names any more, once that pays. Called after groups were reset.
    pub fn collect(&mut self) {
        self.flush();
        self.sorted = None;
        self.order.clear();
        self.order.shrink_to(ORDER_KEPT);
        if self.alive == 0 {
            self.interner = Interner::default();
            self.freed = 0;
        }
        if self.freed <= self.alive || self.interner.bytes() < COLLECT_BYTES_MIN {
            return;
        }
        let old = std::mem::take(&mut self.interner);
        self.freed = 0;
        for set in &mut self.sets {
            let mut moved = IdSet::default();
            for id in set.iter() {
                let words = old.words(id);
                if moved.is_full() {
                    moved.grow();
                }
                moved.insert(self.interner.intern(intern::tag(hash::words(words)), words));
            }
            self.set_bytes = self.set_bytes + moved.bytes() - set.bytes();
            *set = moved;
        }
    }

    /// Calls `take` with the words of each value of a set, in order, from number `from` on, until it says no.
    pub fn sorted(&mut self, set: SetId, from: usize, mut take: impl FnMut(&[u64]) -> bool) {
        self.flush();
        if self.sorted != Some(set) {
            self.order.clear();
            if let Some(set) = self.sets.get(set as usize) {
                // one large set does not keep its memory for all the small ones
                self.order.shrink_to(set.len().max(ORDER_KEPT));
                sort(&self.interner, set, &mut self.order);
            }
            self.sorted = Some(set);
        }
        for (_, id) in self.order.iter().skip(from) {
            if !take(self.interner.words_at(*id)) {
                return;
            }
        }
    }

    /// bytes held in all
    pub fn bytes(&self) -> usize {
        self.interner.bytes()
            + self.set_bytes
            + self.other_bytes
            + self.sets.capacity() * size_of::<IdSet>()
            + self.free.capacity() * size_of::<SetId>()
            + self.notes.capacity() * size_of::<Note>()
            + self.text.capacity() * 8
            + self.order.capacity() * size_of::<Keyed>()
    }

    #[cfg(test)]
    pub fn interned(&self) -> usize {
        self.interner.len()
    }
}

/// Sorts by bytes. What all values begin with is skipped, and the eight bytes after it are the key: identifiers of one form
/// are then almost never compared in full.
fn sort(interner: &Interner, set: &IdSet, order: &mut Vec<Keyed>) {
    set.each(|id| order.push((0, id)));
    let Some(&(_, first)) = order.first() else { return };
    let word = |id: Ref, at: usize| interner.words_at(id).get(at).copied().unwrap_or_default();
    // the first word in which they differ, and where in it; each pass is short, so that its cache misses overlap
    let differs = |at: usize| order.iter().fold(0, |seen, (_, id)| seen | (word(*id, at) ^ word(first, at)));
    let Some((at, difference)) =
        (0..interner.words(first).len()).map(|at| (at, differs(at))).find(|(_, difference)| *difference != 0)
    else {
        return;
    };
    let skipped_bits = difference.trailing_zeros() / 8 * 8;
    for (key, id) in order.iter_mut() {
        // What follows a value that ends in its first word says nothing: it has been told from the others by then.
        let next = order_key(word(*id, at + 1)).checked_shr(u64::BITS - skipped_bits).unwrap_or(0);
        *key = (order_key(word(*id, at)) << skipped_bits) | next;
    }
    order.sort_unstable_by(|(a, a_id), (b, b_id)| {
        a.cmp(b).then_with(|| {
            let (a, b) = (interner.words(*a_id), interner.words(*b_id));
            a.iter().map(|w| order_key(*w)).cmp(b.iter().map(|w| order_key(*w)))
        })
    });
}

/// A word whose order is that of the bytes: every byte one up, so that the end mark 0xFF wraps to 0; what follows the
/// mark is the same in all strings.
#[inline]
fn order_key(word: u64) -> u64 {
    // per-byte addition without carry between bytes
    let low = (word & 0x7F7F_7F7F_7F7F_7F7F) + 0x0101_0101_0101_0101;
    (low ^ (word & 0x8080_8080_8080_8080)).swap_bytes()
}

thread_local! {
    static CURRENT: RefCell<Option<Box<Scope>>> = const { RefCell::new(None) };
}

/// Makes a scope the current one of this thread for a call; gives it back at the end, after a panic, too.
pub struct Entered<'a> {
    home: &'a mut Option<Box<Scope>>,
    outer: Option<Box<Scope>>,
}

pub fn enter(home: &mut Option<Box<Scope>>) -> Entered<'_> {
    let scope = home.take().unwrap_or_default();
    let outer = CURRENT.with(|c| c.replace(Some(scope)));
    Entered { home, outer }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.home = CURRENT.with(|c| c.replace(self.outer.take()));
    }
}

/// Runs on the current scope; none outside of an accumulator's calls (an author's own unit test, say).
#[inline]
pub fn with<R>(f: impl FnOnce(&mut Scope) -> R) -> Option<R> {
    CURRENT.try_with(|c| c.try_borrow_mut().ok().and_then(|mut s| s.as_deref_mut().map(f))).ok().flatten()
}
