//! How sessions leave for a checkpoint, bucket by bucket of their starts, and come back from one; which buckets have changed.

use std::collections::{BTreeMap, BTreeSet};

use super::{FOREVER, Kind, Session, Sessions};
use crate::due::Given;
use crate::key::{KeyList, Keys};
use crate::ledger::Entry;
use crate::slots::TooManyGroups;
use crate::window::Window;
use crate::windower::Bucket;

impl Sessions {
    pub fn changed(&self) -> Vec<i64> {
        self.buckets.iter().filter(|(_, bucket)| bucket.changed).map(|(start, _)| *start).collect()
    }

    pub fn bucket_starts(&self) -> Vec<i64> {
        self.buckets.keys().copied().collect()
    }

    pub fn take_changed(&mut self) -> (Vec<i64>, Vec<i64>) {
        self.exports += 1;
        let mut parts = (Vec::new(), Vec::new());
        for (start, bucket) in &mut self.buckets {
            let part = if std::mem::take(&mut bucket.changed) { &mut parts.0 } else { &mut parts.1 };
            part.push(*start);
        }
        parts
    }

    pub fn mark_changed(&mut self, start_ms: i64) {
        if let Some(bucket) = self.buckets.get_mut(&start_ms) {
            bucket.changed = true;
        }
    }

    pub fn mark_unchanged(&mut self, start_ms: i64) {
        self.exports += 1;
        if let Some(bucket) = self.buckets.get_mut(&start_ms) {
            bucket.changed = false;
        }
    }

    pub fn mark_ledger_unchanged(&mut self, start_ms: i64) {
        self.exports += 1;
        if let Some(bucket) = self.buckets.get_mut(&start_ms) {
            bucket.ledger_changed = false;
        }
    }

    /// What buckets hold, in one pass.
    pub fn buckets(&self, starts_ms: &[i64]) -> Vec<Bucket> {
        let mut found: BTreeMap<i64, Bucket> = BTreeMap::new();
        for start_ms in starts_ms {
            let window = match self.kind {
                Kind::Global => Window { start_ms: 0, end_ms: 0 },
                Kind::Session => Window { start_ms: *start_ms, end_ms: start_ms.saturating_add(self.bucket_ms()) },
            };
            let windows = Some(Vec::new());
            found.insert(*start_ms, Bucket { window, slots: Vec::new(), keys: KeyList::default(), windows });
        }
        for (slot, session) in self.alive() {
            let Some(bucket) = found.get_mut(&self.bucket_start(session.start_ms)) else { continue };
            bucket.slots.push(slot);
            bucket.keys.push(self.key_bytes(session));
            if let Some(windows) = &mut bucket.windows {
                windows.push(session.window());
            }
        }
        found.into_values().collect()
    }

    fn alive(&self) -> impl Iterator<Item = (u32, &Session)> {
        (0_u32..).zip(&self.sessions).filter_map(|(slot, session)| Some((slot, session.as_ref()?)))
    }

    /// Lines of the buckets in which any has changed since the last call; and which buckets stand as they were.
    pub fn take_ledgers(&mut self) -> (Vec<(i64, Vec<Entry>)>, Vec<i64>) {
        let mut changed: BTreeMap<i64, Vec<Entry>> = BTreeMap::new();
        let mut unchanged: BTreeSet<i64> = BTreeSet::new();
        for (start, bucket) in &mut self.buckets {
            if std::mem::take(&mut bucket.ledger_changed) {
                changed.insert(*start, Vec::new());
            } else {
                unchanged.insert(*start);
            }
        }
        let mut with_lines: BTreeSet<i64> = BTreeSet::new();
        for (slot, session) in self.alive() {
            let start_ms = self.bucket_start(session.start_ms);
            let lines = self.lines(slot, session);
            if lines.is_empty() {
                continue;
            }
            with_lines.insert(start_ms);
            if let Some(bucket) = changed.get_mut(&start_ms) {
                bucket.extend(lines);
            }
        }
        changed.retain(|_, lines| !lines.is_empty());
        unchanged.retain(|start| with_lines.contains(start));
        (changed.into_iter().collect(), unchanged.into_iter().collect())
    }

    fn lines(&self, slot: u32, session: &Session) -> Vec<Entry> {
        let is_global = self.kind == Kind::Global;
        let line = |window: Window, given: Given| Entry {
            key: self.key_bytes(session).to_vec(),
            window,
            revision: given.revision,
            present: given.present,
            changed: self.slots.touched(slot) > given.round,
            last_event_ms: is_global.then(|| session.end_ms.saturating_sub(self.gap_ms)),
        };
        let given = session.given.iter().filter(|(_, given)| given.revision > 0);
        let mut lines: Vec<Entry> = given.map(|(window, given)| line(*window, *given)).collect();
        // of nothing but refused rows: it has no result, and holds together what comes
        if lines.is_empty() && (is_global || !self.slots.is_live(slot)) {
            lines.push(line(self.shown(session), Given::default()));
        }
        lines
    }

    pub fn restore(&mut self, keys: &Keys, windows: &[Window]) -> Result<Vec<u32>, TooManyGroups> {
        let mut slots = Vec::with_capacity(windows.len());
        for (row, window) in windows.iter().enumerate() {
            let (hash, bytes) = (keys.hash(row), keys.bytes(row));
            let number = self.find(hash, bytes).unwrap_or_else(|| self.add_key(hash, bytes));
            let slot = self.slots.take()?;
            self.slots.restored(slot);
            // the ledger says when it is forgotten
            let window = if self.kind == Kind::Global { FOREVER } else { *window };
            self.add(slot, number, window);
            // what has not been given yet; the ledger says what has
            if self.policy.keeps_ledger()
                && let Some(session) = self.session_mut(slot)
            {
                session.waiting = true;
                self.waiting.push(slot);
            }
            slots.push(slot);
        }
        Ok(slots)
    }

    pub fn restore_entry(&mut self, hash: u64, entry: &Entry) {
        let Some(key) = self.find(hash, &entry.key).and_then(|number| self.keys.get(number as usize)) else { return };
        let of = |slot: &&u32| {
            let overlaps = |s: &Session| s.start_ms < entry.window.end_ms && entry.window.start_ms < s.end_ms;
            self.kind == Kind::Global || self.session(**slot).is_some_and(overlaps)
        };
        let Some(slot) = key.sessions.iter().find(of).copied() else { return };
        let ttl_ms = self.gap_ms;
        if entry.revision == 0 && !entry.changed {
            self.slots.set_touched(slot, 0);
        }
        let keeps = self.policy.keeps_ledger();
        let Some(session) = self.session_mut(slot) else { return };
        if entry.revision > 0 && keeps {
            session.given.push((entry.window, entry.given()));
        }
        if let Some(last_ms) = entry.last_event_ms {
            session.end_ms = last_ms.saturating_add(ttl_ms);
            let timer_ms = session.window().max_time_ms();
            self.set_timer(slot, timer_ms);
        }
        let start_ms = self.session(slot).map_or(0, |session| session.start_ms);
        self.ledger_changed(start_ms);
    }
}
