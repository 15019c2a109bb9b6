//! Which keys have been seen lately: what a deduplication remembers, and for how long.
//!
//! An event of key k and time t **passes** unless an event of the same key that passed is remembered with a time f less
//! than `within` away: |t − f| < `within`, earlier or later. What has passed is remembered until watermark
//! W ≥ f + `within` − 1 ms: from then on only late events could repeat it. A late event is judged like any other, and
//! remembered if that is still worth it. So at most what passed in the last `within` before the watermark is held, and
//! what lies ahead of it.
//!
//! ```text
//!   bucket 12:00 ─▶ (key, time) (key, time) … │ exported so far │ new since       files 2
//!   bucket 12:04 ─▶ (key, time) …                                                 files 0
//!   one hash table over all buckets: key → the entries of that key
//! ```
//!
//! Entries are kept by buckets of event time: a bucket is forgotten as a whole, and since nothing in it ever changes, a
//! checkpoint writes what is new in it; after [`FILES_PER_BUCKET_MAX`] such pieces it is written anew as one.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashTable;

use crate::limits::FILES_PER_BUCKET_MAX;
use crate::window::{Tumbling, Window};

/// `within` is cut into so many buckets. Frozen, like the next: state files are named by the buckets.
const BUCKETS: i64 = 16;
const BUCKET_MS_MIN: i64 = 1_000;

#[derive(Debug)]
pub struct Seen {
    within_ms: i64,
    buckets_of: Tumbling,
    buckets: BTreeMap<i64, Bucket>,
    table: HashTable<Place>,
    watermark_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Bucket {
    entries: Vec<Entry>,
    key_bytes: Vec<u8>,
    exported: usize,
    files: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    time_ms: i64,
    /// it begins where the one before it ends
    key_end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    hash: u64,
    bucket: i64,
    index: usize,
}

/// Entries of one bucket that a checkpoint has to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub bucket: Window,
    pub entries: Range<usize>,
    /// it takes the place of all pieces written before
    pub whole: bool,
}

impl Bucket {
    fn key(&self, index: usize) -> &[u8] {
        let end = |entry: Option<&Entry>| entry.map_or(0, |e| e.key_end);
        let from = index.checked_sub(1).map_or(0, |before| end(self.entries.get(before)));
        self.key_bytes.get(from..end(self.entries.get(index))).unwrap_or_default()
    }
}

impl Seen {
    /// `within_ms` must be positive; the pipeline file is checked for that.
    pub fn new(within_ms: i64, watermark_ms: Option<i64>) -> Self {
        Self {
            within_ms,
            buckets_of: Tumbling::new(Self::bucket_ms(within_ms), 0),
            buckets: BTreeMap::new(),
            table: HashTable::new(),
            watermark_ms,
        }
    }

    /// Length of the buckets that state is kept in.
    pub fn bucket_ms(within_ms: i64) -> i64 {
        (within_ms / BUCKETS).max(BUCKET_MS_MIN)
    }

    /// Whether an event is the first of its key; it is remembered if so.
    pub fn passes(&mut self, hash: u64, key: &[u8], time_ms: i64) -> bool {
        let repeated = self.table.find(hash, |place| {
            place.hash == hash
                && self.buckets.get(&place.bucket).is_some_and(|bucket| {
                    bucket.entries.get(place.index).is_some_and(|entry| {
                        entry.time_ms.abs_diff(time_ms) < self.within_ms.unsigned_abs()
                            && !self.is_over(entry.time_ms)
                            && bucket.key(place.index) == key
                    })
                })
        });
        if repeated.is_some() {
            return false;
        }
        if !self.is_over(time_ms) {
            self.remember(hash, key, time_ms);
        }
        true
    }

    /// Takes in what has passed, as a checkpoint says.
    pub fn remember(&mut self, hash: u64, key: &[u8], time_ms: i64) {
        let start = self.buckets_of.assign(time_ms).start_ms;
        let bucket = self.buckets.entry(start).or_default();
        bucket.key_bytes.extend_from_slice(key);
        let place = Place { hash, bucket: start, index: bucket.entries.len() };
        bucket.entries.push(Entry { hash, time_ms, key_end: bucket.key_bytes.len() });
        self.table.insert_unique(hash, place, |place| place.hash);
    }

    /// Nothing on time can repeat an event of this time any more.
    fn is_over(&self, time_ms: i64) -> bool {
        self.watermark_ms.is_some_and(|w| w >= time_ms.saturating_add(self.within_ms).saturating_sub(1))
    }

    /// Forgets the buckets that are over as a whole.
    pub fn advance(&mut self, watermark_ms: Option<i64>) {
        self.watermark_ms = self.watermark_ms.max(watermark_ms);
        while let Some(first) = self.buckets.first_entry() {
            let window = self.buckets_of.starting_at(*first.key());
            let last = window.max_time_ms().saturating_add(self.within_ms).saturating_sub(1);
            if self.watermark_ms.is_none_or(|w| w < last) {
                return;
            }
            let (start, bucket) = first.remove_entry();
            for (index, entry) in bucket.entries.iter().enumerate() {
                let place = Place { hash: entry.hash, bucket: start, index };
                if let Ok(found) = self.table.find_entry(entry.hash, |other| *other == place) {
                    found.remove();
                }
            }
        }
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes held, about.
    pub fn size_bytes(&self) -> usize {
        let bucket = |b: &Bucket| b.key_bytes.capacity() + b.entries.capacity() * size_of::<Entry>();
        self.buckets.values().map(bucket).sum::<usize>() + self.table.capacity() * size_of::<Place>()
    }

    /// The buckets that there are, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = i64> {
        self.buckets.keys().copied()
    }

    /// What has to be written since the last call; it counts as written from now on.
    pub fn take_changed(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (&start, bucket) in &mut self.buckets {
            let total = bucket.entries.len();
            if bucket.exported == total {
                continue;
            }
            let whole = bucket.exported == 0 || bucket.files >= FILES_PER_BUCKET_MAX;
            let from = if whole { 0 } else { bucket.exported };
            bucket.files = if whole { 1 } else { bucket.files + 1 };
            bucket.exported = total;
            pieces.push(Piece { bucket: self.buckets_of.starting_at(start), entries: from..total, whole });
        }
        pieces
    }

    /// Says that a bucket stands in so many files as it is (after a restore).
    pub fn mark_written(&mut self, bucket_start_ms: i64, files: usize) {
        if let Some(bucket) = self.buckets.get_mut(&bucket_start_ms) {
            bucket.exported = bucket.entries.len();
            bucket.files = files;
        }
    }

    /// Key bytes and times of some entries of a bucket.
    pub fn entries(&self, bucket_start_ms: i64, entries: Range<usize>) -> impl Iterator<Item = (&[u8], i64)> {
        let bucket = self.buckets.get(&bucket_start_ms);
        entries.filter_map(move |index| Some((bucket?.key(index), bucket?.entries.get(index)?.time_ms)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    /// The definition, word for word.
    #[derive(Default)]
    struct Model {
        passed: Vec<(u8, i64)>,
        watermark_ms: Option<i64>,
    }

    impl Model {
        fn passes(&mut self, key: u8, time: i64, within: i64) -> bool {
            let remembered = |f: i64| self.watermark_ms.is_none_or(|w| w < f + within - 1);
            let repeated = self.passed.iter().any(|(k, f)| *k == key && (time - f).abs() < within && remembered(*f));
            if !repeated {
                self.passed.push((key, time));
            }
            !repeated
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Event(u8, i64),
        Watermark(i64),
        /// a checkpoint; with `true` a restart from it
        Checkpoint(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0_u8..12, 0_i64..60_000).prop_map(|(key, time)| Step::Event(key, time)),
            2 => (0_i64..60_000).prop_map(Step::Watermark),
            1 => any::<bool>().prop_map(Step::Checkpoint),
        ];
        prop::collection::vec(step, 1..250)
    }

    /// What a key and its bytes look like: of several lengths, and all in a few hash values.
    fn key(number: u8) -> (u64, Vec<u8>) {
        let bytes = vec![number; usize::from(number % 5)];
        let bytes = if bytes.is_empty() { vec![number, 0] } else { bytes };
        (xxh3_64(&[number % 3]), bytes)
    }

    type Files = BTreeMap<i64, Vec<Vec<(Vec<u8>, i64)>>>;

    /// As the coordinator does it: what is not unchanged goes, what is written is added.
    fn checkpoint(seen: &mut Seen, files: &mut Files) {
        let pieces = seen.take_changed();
        let unchanged: Vec<i64> =
            seen.buckets().filter(|b| !pieces.iter().any(|p| p.whole && p.bucket.start_ms == *b)).collect();
        files.retain(|start, _| unchanged.contains(start));
        for piece in pieces {
            let start = piece.bucket.start_ms;
            let entries = seen.entries(start, piece.entries).map(|(key, time)| (key.to_vec(), time)).collect();
            files.entry(start).or_default().push(entries);
        }
    }

    proptest! {
        #[test]
        fn is_what_the_definition_says(steps in steps(), within in prop_oneof![1_i64..50, 1_000_i64..40_000]) {
            let mut seen = Seen::new(within, None);
            let mut model = Model::default();
            let mut files = Files::new();
            for step in steps {
                match step {
                    Step::Event(number, time) => {
                        let (hash, bytes) = key(number);
                        prop_assert_eq!(seen.passes(hash, &bytes, time), model.passes(number, time, within));
                    }
                    Step::Watermark(time) => {
                        model.watermark_ms = model.watermark_ms.max(Some(time));
                        seen.advance(Some(time));
                    }
                    Step::Checkpoint(restart) => {
                        checkpoint(&mut seen, &mut files);
                        prop_assert!(files.values().all(|f| f.len() <= FILES_PER_BUCKET_MAX));
                        let written: usize = files.values().flatten().map(Vec::len).sum();
                        prop_assert_eq!(written, seen.len());
                        if restart {
                            seen = Seen::new(within, model.watermark_ms);
                            for (start, pieces) in &files {
                                for (bytes, time) in pieces.iter().flatten() {
                                    let number = bytes[0];
                                    seen.remember(key(number).0, bytes, *time);
                                }
                                seen.mark_written(*start, pieces.len());
                            }
                        }
                    }
                }
                // bounded: nothing is held that was over a bucket ago
                if let Some(w) = model.watermark_ms {
                    let oldest = w - within - Seen::bucket_ms(within);
                    let held = seen.buckets().flat_map(|b| seen.entries(b, 0..1_000));
                    prop_assert!(held.map(|(_, time)| time).all(|time| time > oldest));
                }
            }
        }
    }

    #[test]
    fn a_key_that_keeps_coming_passes_once_per_within() {
        let mut seen = Seen::new(10_000, None);
        let passed: Vec<i64> = (0..40).map(|s| s * 1_000).filter(|t| seen.passes(1, b"k", *t)).collect();
        assert_eq!(passed, [0, 10_000, 20_000, 30_000]);
        assert!(!seen.passes(1, b"k", 1), "an older event near one that passed is a repetition, too");
        assert!(seen.passes(1, b"other", 1));
    }

    #[test]
    fn what_is_over_is_forgotten_and_a_late_event_passes() {
        let mut seen = Seen::new(10_000, None);
        assert!(seen.passes(1, b"k", 0));
        seen.advance(Some(9_998));
        assert!(!seen.passes(1, b"k", 0));
        seen.advance(Some(9_999));
        assert!(seen.passes(1, b"k", 0), "late, and nothing is known of it any more");
        assert!(seen.passes(1, b"k", 0), "nor is it worth remembering");
        seen.advance(Some(100_000));
        assert_eq!(seen.len(), 0);
    }
}
