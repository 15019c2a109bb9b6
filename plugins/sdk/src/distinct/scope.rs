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
use super::order::Order;

/// Notes done together: 64 B × 1,024 lines fit into a small second-level cache.
const NOTES_MAX: usize = 1024;
/// A longer text is not worth noting: it is inserted at once, so that the notes stay small.
const NOTED_TEXT_WORDS_MAX: usize = 64 * 1024;
/// Below this nobody gains from a collection.
const COLLECT_BYTES_MIN: usize = 1 << 20;

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
    order: Order,
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
            if let Some(set) = self.sets.get(set as usize) {
                self.order.sort(&self.interner, set);
            }
            self.sorted = Some(set);
        }
        for id in self.order.iter_from(from) {
            if !take(self.interner.words_at(id)) {
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
            + self.order.bytes()
    }

    #[cfg(test)]
    pub fn interned(&self) -> usize {
        self.interner.len()
    }
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
