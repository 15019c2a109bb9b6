//! The values of one set in the order of their bytes.
//!
//! Owns what is sorted: of each value a key of 32 bits and its reference, in one word. Never decides anything by the key
//! alone: values whose keys are equal are compared in full.
//!
//! ```text
//!   user-000 0012345        what the values seen so far have in common is skipped, and the key is made of the eight bytes
//!   └─ skipped ─┘└─ key     after it: of all of them if they differ in the low halves only (digits), else of the first four
//! ```
//!
//! What values have in common is taken to be as it was in the sets before, which saves a pass over them: each value that is
//! looked at costs a cache miss. If it turns out otherwise, or a large set could have better keys, they are made once more.

use std::hint::black_box;

use super::idset::IdSet;
use super::intern::{Interner, Ref};

/// Values for which memory is kept.
const KEPT: usize = 1024;
/// Values that have so many words in common are compared in full.
const AT_MAX: usize = 64;
/// So few values can have keys that are not the best ones.
const SMALL: usize = 32;
const HIGH_HALVES: u64 = 0xF0F0_F0F0_F0F0_F0F0;

#[derive(Debug, Default)]
pub struct Order {
    /// high half the key, low half the reference
    values: Vec<u64>,
    differing: Differing,
}

/// The bits in which two words of the values differ, or values of sets before have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Differing {
    first: u64,
    second: u64,
}

impl Order {
    /// Puts a set in order.
    pub fn sort(&mut self, interner: &Interner, set: &IdSet) {
        // one large set does not keep its memory for all the small ones
        self.values.shrink_to(set.len().max(KEPT));
        // which words: those before are the same in all values
        let mut at = 0;
        loop {
            let seen = self.fill(interner, set, at);
            if seen == Differing::default() && set.len() > 1 && at < AT_MAX {
                at += 2;
                continue;
            }
            let (fits, wanted) = if set.len() > SMALL {
                (Form::of(self.differing) == Form::of(seen), seen)
            } else {
                (self.differing.and(seen) == self.differing, self.differing.and(seen))
            };
            if fits {
                break;
            }
            self.differing = wanted;
        }
        self.values.sort_unstable();
        for equal in self.values.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|equal| equal.len() > 1) {
            equal.sort_unstable_by(|a, b| {
                let words = |value: &u64| interner.words(reference(*value)).iter().map(|w| raised(*w).swap_bytes());
                words(a).cmp(words(b))
            });
        }
    }

    /// Keys by what is known to differ; what does.
    fn fill(&mut self, interner: &Interner, set: &IdSet, at: usize) -> Differing {
        let mut seen = Differing::default();
        let mut first = None;
        let form = Form::of(self.differing);
        self.values.clear();
        self.values.reserve(set.len());
        let mut touched = 0;
        set.each(|ids| {
            // a short pass, so that its cache misses are under way together
            for id in ids {
                touched ^= interner.pair(*id, at).0;
            }
            if let Some(id) = ids.first() {
                let first = *first.get_or_insert(interner.pair(*id, at));
                seen = seen.and(form.keys(interner, ids, at, first, &mut self.values));
            }
        });
        black_box(touched);
        seen
    }

    /// The values from number `from` on.
    pub fn iter_from(&self, from: usize) -> impl Iterator<Item = Ref> {
        self.values.iter().skip(from).map(|value| reference(*value))
    }

    pub fn clear(&mut self) {
        self.values.clear();
        self.values.shrink_to(KEPT);
    }

    pub fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<u64>()
    }
}

impl Differing {
    fn and(self, more: Self) -> Self {
        Self { first: self.first | more.first, second: self.second | more.second }
    }
}

/// How a key is made of two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    skipped_bits: u32,
    /// in the eight bytes that follow
    same_bits: u32,
    /// … only low halves of bytes differ
    is_halves: bool,
}

impl Form {
    fn of(differing: Differing) -> Self {
        let Differing { first, second } = differing;
        let same_bits = if first == 0 { 64 + second.trailing_zeros() } else { first.trailing_zeros() };
        let form = Self { skipped_bits: same_bits / 8 * 8, same_bits: 0, is_halves: false };
        let differing = form.window(first, second);
        // within the first byte: the others' order is that of whole words
        Self { same_bits: differing.leading_zeros().min(8), is_halves: differing & HIGH_HALVES == 0, ..form }
    }

    /// The eight bytes after those that are skipped, the first one highest.
    #[inline]
    fn window(self, first: u64, second: u64) -> u64 {
        let rest = 64_u32.saturating_sub(self.skipped_bits);
        let bytes = match self.skipped_bits.checked_sub(64) {
            None => (first >> (self.skipped_bits & 63)) | second.checked_shl(rest).unwrap_or(0),
            Some(more) => second.checked_shr(more).unwrap_or(0),
        };
        bytes.swap_bytes()
    }

    /// The keys of values, with their references; the bits in which they differ from these two words.
    #[inline(never)]
    fn keys(self, interner: &Interner, ids: &[Ref], at: usize, words: (u64, u64), into: &mut Vec<u64>) -> Differing {
        let (first, second) = (raised(words.0), raised(words.1));
        let mut seen = Differing::default();
        into.extend(ids.iter().map(|id| {
            // What follows a value that ends in the first of them says nothing: it has been told from the others by then.
            let (a, b) = interner.pair(*id, at);
            let (a, b) = (raised(a), raised(b));
            seen = seen.and(Differing { first: a ^ first, second: b ^ second });
            (self.key(a, b) << 32) | u64::from(*id)
        }));
        seen
    }

    /// 32 bits.
    #[inline]
    fn key(self, first: u64, second: u64) -> u64 {
        let window = self.window(first, second);
        if self.is_halves {
            let halves = window & !HIGH_HALVES;
            let bytes = (halves | (halves >> 4)) & 0x00FF_00FF_00FF_00FF;
            let pairs = (bytes | (bytes >> 8)) & 0x0000_FFFF_0000_FFFF;
            (pairs | (pairs >> 16)) & 0xFFFF_FFFF
        } else {
            (window << self.same_bits) >> 32
        }
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the half that is wanted")]
fn reference(value: u64) -> Ref {
    value as u32
}

/// A word, its bytes still from low to high, whose bytes are in order: every one a step up, so that the end mark 0xFF wraps to
/// 0; what follows the mark is the same in all strings.
#[inline]
fn raised(word: u64) -> u64 {
    // per-byte addition without carry between bytes
    let low = (word & 0x7F7F_7F7F_7F7F_7F7F) + 0x0101_0101_0101_0101;
    low ^ (word & 0x8080_8080_8080_8080)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::distinct::{hash, intern};

    /// Digits of one length and of several, what differs late or at once, beginnings of each other.
    fn text() -> impl Strategy<Value = String> {
        let number = prop_oneof![0..20_u32, 0..1_000_000_u32];
        (0..9, number).prop_map(|(form, n)| match form {
            0 => format!("user-{n:010}"),
            1 => format!("{n}"),
            2 => format!("urn:customer:of-the-north:{n:07}"),
            3 => format!("{:08x}-{n:04x}", n.wrapping_mul(0x9E37_79B1)),
            4 => "ab".repeat(n as usize % 14),
            5 => format!("é{}", char::from_u32(n % 0x3000).unwrap_or('\u{7f}')),
            6 => format!("\0{n}"),
            7 => format!("{n:020}"),
            _ => format!("user-{n:03}"),
        })
    }

    proptest! {
        /// Sets of one form, then of another, then mixed: what was taken to be differing changes from one to the next.
        #[test]
        fn it_equals_a_tree_set(sets in proptest::collection::vec((0..10_usize, proptest::collection::vec(text(), 0..160)), 1..12)) {
            let (mut interner, mut order) = (Interner::default(), Order::default());
            for (form, texts) in sets {
                let beginning = ["", "user-", "urn:", "é"].get(form).copied().unwrap_or_default();
                let model: BTreeSet<&String> = texts.iter().filter(|text| text.starts_with(beginning)).collect();
                let mut set = IdSet::default();
                for text in &model {
                    let mut words = Vec::new();
                    let hash = hash::push_words(text, &mut words);
                    if set.is_full() {
                        set.grow();
                    }
                    set.insert(interner.intern(intern::tag(hash), &words));
                }
                order.sort(&interner, &set);
                let texts = order.iter_from(0).map(|id| {
                    let mut bytes = Vec::new();
                    hash::push_bytes(interner.words(id), &mut bytes);
                    String::from_utf8(bytes).unwrap()
                });
                prop_assert_eq!(texts.collect::<Vec<_>>(), model.into_iter().cloned().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn values_of_one_form_have_keys_that_tell_them_apart() {
        let key = |of: &[&str]| {
            let words = |text: &str| {
                let mut words = Vec::new();
                hash::push_words(text, &mut words);
                (raised(words[0]), raised(words[1]))
            };
            let some = words(of[0]);
            let differing = of
                .iter()
                .map(|text| words(text))
                .fold(Differing::default(), |d, (a, b)| d.and(Differing { first: a ^ some.0, second: b ^ some.1 }));
            let form = Form::of(differing);
            of.iter().map(|text| form.key(words(text).0, words(text).1)).collect::<Vec<_>>()
        };
        assert_eq!(
            key(&["user-0000012345", "user-0000999999", "user-0000000000"]),
            [0x1234_5600, 0xAAAA_AA00, 0x1111_1100]
        );
    }
}
