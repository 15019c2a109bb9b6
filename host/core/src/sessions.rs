//! Session windows, and the global one: windows that each key has for itself.
//!
//! ```text
//!   gap 10, key a     0    5        18    25
//!                     ├────┼────────┤     │           [0, 15)
//!                                   ├─────┼─────────┤ [18, 35)
//!              14               ├─────────┤           overlaps both: one session [0, 35)
//! ```
//!
//! An event at t is `[t, t + gap)`; events less than a gap apart are one session (Flink: `EventTimeSessionWindows`;
//! there windows that only touch are one, too, which makes the result depend on which came first, the event or the
//! watermark). The global window is a session that takes every event of its key, and is forgotten when the watermark has
//! come to its last event plus `ttl`.
//!
//! A session *is* a slot. When one event makes two of them one, the later slot is folded into the earlier one, after
//! all rows on their way to either have gone in ([`Sessions::merges`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use hashbrown::HashTable;

use crate::batch::Audience;
use crate::due::{Due, Given, Owner, Policy, When};
use crate::key::Keys;
use crate::limits::PLUGIN_GROUPS_PER_CALL_MAX;
use crate::slots::{Slots, TooManyGroups};
use crate::watermark::END_OF_TIME_MS;
use crate::window::{Phase, Window};
use crate::windower::{Census, Merges, Placed};

mod kept;

/// Sessions that start within so many gaps are kept in one file of a checkpoint.
const BUCKET_GAPS: i64 = 4;
const BUCKET_MS_MIN: i64 = 60_000;
/// What the plugin is told of the global window.
pub const FOREVER: Window = Window { start_ms: i64::MIN, end_ms: i64::MAX };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Session,
    Global,
}

#[derive(Debug)]
pub struct Sessions {
    kind: Kind,
    /// or how long a key of the global window is kept
    gap_ms: i64,
    policy: Policy,
    pub(crate) slots: Slots,
    /// hash → number in `keys`
    index: HashTable<u32>,
    keys: Vec<Key>,
    free_keys: Vec<u32>,
    key_bytes: usize,
    /// by slot
    sessions: Vec<Option<Session>>,
    count: usize,
    /// of them
    closed: u64,
    /// (when, slot): the session may close or expire; one that has grown since is put back
    timers: BTreeSet<(i64, u32)>,
    /// to be given, in this order
    queue: VecDeque<Due>,
    /// sessions that end with the next due that ends some
    over: Vec<u32>,
    /// sessions whose changes wait for a barrier or tick
    waiting: Vec<u32>,
    /// (source, target), in the order in which they came up
    merged: Vec<(i64, u32, u32)>,
    /// by start of the bucket
    buckets: BTreeMap<i64, BucketState>,
    /// exports so far
    exports: u64,
}

#[derive(Debug, Default)]
struct Key {
    hash: u64,
    bytes: Box<[u8]>,
    /// slots of its sessions
    sessions: Vec<u32>,
}

#[derive(Debug)]
struct Session {
    key: u32,
    start_ms: i64,
    /// of the global window: when it is forgotten
    end_ms: i64,
    timer_ms: i64,
    /// has given its result; it may be given again
    closed: bool,
    waiting: bool,
    /// its bucket is marked as changed since this export
    marked: u64,
    /// rows that sinks have: of this window, or of those it has grown from
    given: Vec<(Window, Given)>,
}

#[derive(Debug, Default)]
struct BucketState {
    sessions: u64,
    changed: bool,
    ledger_changed: bool,
}

impl Sessions {
    /// `gap_ms` > 0: for the global window, how long a key without events is kept.
    pub fn new(kind: Kind, gap_ms: i64, policy: Policy) -> Self {
        Self {
            kind,
            gap_ms: gap_ms.max(1),
            policy,
            slots: Slots::default(),
            index: HashTable::new(),
            keys: Vec::new(),
            free_keys: Vec::new(),
            key_bytes: 0,
            sessions: Vec::new(),
            count: 0,
            closed: 0,
            timers: BTreeSet::new(),
            queue: VecDeque::new(),
            over: Vec::new(),
            waiting: Vec::new(),
            merged: Vec::new(),
            buckets: BTreeMap::new(),
            exports: 1,
        }
    }

    /// The window of an event by itself.
    pub fn window_of(&self, time_ms: i64) -> Window {
        Window { start_ms: time_ms, end_ms: time_ms.saturating_add(self.gap_ms) }
    }

    pub fn place(
        &mut self,
        rows: &[u32],
        times_ms: &[i64],
        keys: &Keys,
        watermark_ms: Option<i64>,
    ) -> Result<Placed, TooManyGroups> {
        let mut placed = Placed::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            let one = std::slice::from_ref(row);
            let index = *row as usize;
            let time_ms = times_ms.get(index).copied().unwrap_or_default();
            match self.slot_of(time_ms, keys.hash(index), keys.bytes(index), watermark_ms)? {
                Some(slot) => {
                    placed.kept(one);
                    placed.slots.push(slot);
                }
                None => placed.late(rows, at, one),
            }
        }
        Ok(placed)
    }

    /// None: late.
    fn slot_of(
        &mut self,
        time_ms: i64,
        hash: u64,
        key: &[u8],
        watermark_ms: Option<i64>,
    ) -> Result<Option<u32>, TooManyGroups> {
        let own = self.window_of(time_ms);
        let known = self.find(hash, key);
        let mut first: Option<u32> = None;
        let mut more: Vec<u32> = Vec::new();
        if let Some(number) = known
            && let Some(key) = self.keys.get(number as usize)
        {
            for &slot in &key.sessions {
                let Some(session) = self.session(slot) else { continue };
                if self.kind == Kind::Global || (session.start_ms < own.end_ms && own.start_ms < session.end_ms) {
                    match first {
                        None => first = Some(slot),
                        Some(_) => more.push(slot),
                    }
                }
            }
        }
        let Some(first) = first else {
            if self.kind == Kind::Session && own.phase(watermark_ms, self.policy.allowed_lateness_ms) == Phase::Expired
            {
                return Ok(None);
            }
            let slot = self.slots.take()?;
            let number = known.unwrap_or_else(|| self.add_key(hash, key));
            self.add(slot, number, own);
            self.notice(slot, watermark_ms);
            return Ok(Some(slot));
        };
        let slot = if more.is_empty() { first } else { self.merge(first, &more) };
        self.extend(slot, own);
        self.notice(slot, watermark_ms);
        Ok(Some(slot))
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let of = |number: &u32| {
            self.keys.get(*number as usize).is_some_and(|known| known.hash == hash && *known.bytes == *key)
        };
        self.index.find(hash, of).copied()
    }

    fn add_key(&mut self, hash: u64, bytes: &[u8]) -> u32 {
        let key = Key { hash, bytes: bytes.into(), sessions: Vec::new() };
        self.key_bytes += bytes.len();
        // no more keys than slots, and slots are numbered with 32 bits
        let next = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        let number = self.free_keys.pop().unwrap_or(next);
        match self.keys.get_mut(number as usize) {
            Some(free) => *free = key,
            None => self.keys.push(key),
        }
        let keys = &self.keys;
        self.index.insert_unique(hash, number, |n| keys.get(*n as usize).map_or(0, |key| key.hash));
        number
    }

    fn session(&self, slot: u32) -> Option<&Session> {
        self.sessions.get(slot as usize)?.as_ref()
    }

    fn session_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.sessions.get_mut(slot as usize)?.as_mut()
    }

    fn key_bytes(&self, session: &Session) -> &[u8] {
        self.keys.get(session.key as usize).map_or(&[], |key| &key.bytes)
    }

    fn add(&mut self, slot: u32, key: u32, window: Window) {
        let timer_ms = window.max_time_ms();
        let session = Session {
            key,
            start_ms: window.start_ms,
            end_ms: window.end_ms,
            timer_ms,
            closed: false,
            waiting: false,
            marked: self.exports,
            given: Vec::new(),
        };
        let at = slot as usize;
        if self.sessions.len() <= at {
            self.sessions.resize_with(at + 1, || None);
        }
        if let Some(place) = self.sessions.get_mut(at) {
            *place = Some(session);
        }
        if let Some(key) = self.keys.get_mut(key as usize) {
            key.sessions.push(slot);
        }
        self.count += 1;
        self.timers.insert((timer_ms, slot));
        let bucket = self.buckets.entry(self.bucket_start(window.start_ms)).or_default();
        bucket.sessions += 1;
        bucket.changed = true;
        bucket.ledger_changed = true;
    }

    /// Takes a session out; its slot stays as it is.
    fn remove(&mut self, slot: u32) -> Option<Session> {
        let session = self.sessions.get_mut(slot as usize)?.take()?;
        self.count -= 1;
        self.closed = self.closed.saturating_sub(u64::from(session.closed));
        self.timers.remove(&(session.timer_ms, slot));
        let bucket_start_ms = self.bucket_start(session.start_ms);
        if let Some(bucket) = self.buckets.get_mut(&bucket_start_ms) {
            bucket.sessions -= 1;
            bucket.changed = true;
            bucket.ledger_changed |= !session.given.is_empty();
            if bucket.sessions == 0 {
                self.buckets.remove(&bucket_start_ms);
            }
        }
        if let Some(key) = self.keys.get_mut(session.key as usize) {
            key.sessions.retain(|of_key| *of_key != slot);
        }
        Some(session)
    }

    /// A key without sessions is forgotten.
    fn remove_key(&mut self, number: u32) {
        let Some(key) = self.keys.get_mut(number as usize).filter(|key| key.sessions.is_empty()) else { return };
        let hash = key.hash;
        self.key_bytes -= key.bytes.len();
        *key = Key::default();
        if let Ok(entry) = self.index.find_entry(hash, |n| *n == number) {
            entry.remove();
            self.free_keys.push(number);
        }
    }

    /// An event has made sessions one: the one that starts first takes the others in.
    fn merge(&mut self, first: u32, more: &[u32]) -> u32 {
        let start = |slot: &u32| self.session(*slot).map_or(i64::MAX, |s| s.start_ms);
        let root = std::iter::once(first).chain(more.iter().copied()).min_by_key(start).unwrap_or(first);
        let mut others: Vec<u32> = std::iter::once(first).chain(more.iter().copied()).filter(|s| *s != root).collect();
        others.sort_by_key(start);
        for slot in others {
            let Some(other) = self.remove(slot) else { continue };
            self.merged.push((other.start_ms, slot, root));
            if let Some(session) = self.session_mut(root) {
                session.end_ms = session.end_ms.max(other.end_ms);
                session.given.extend(other.given);
            }
        }
        root
    }

    /// An event has come into a session.
    fn extend(&mut self, slot: u32, own: Window) {
        let exports = self.exports;
        let Some(session) = self.session_mut(slot) else { return };
        let before_ms = session.start_ms;
        session.start_ms = before_ms.min(own.start_ms);
        session.end_ms = session.end_ms.max(own.end_ms);
        let is_marked = std::mem::replace(&mut session.marked, exports) == exports;
        let (after_ms, last_ms) = (session.start_ms, session.window().max_time_ms());
        if session.closed {
            // it may be open again, or has to be given once more
            let timer_ms = session.timer_ms.min(last_ms);
            self.set_closed(slot, false);
            self.set_timer(slot, timer_ms);
        }
        if is_marked && before_ms == after_ms {
            return;
        }
        let (before, after) = (self.bucket_start(before_ms), self.bucket_start(after_ms));
        if before != after {
            if let Some(bucket) = self.buckets.get_mut(&before) {
                bucket.sessions -= 1;
                bucket.changed = true;
                bucket.ledger_changed = true;
                if bucket.sessions == 0 {
                    self.buckets.remove(&before);
                }
            }
            self.buckets.entry(after).or_default().sessions += 1;
        }
        let bucket = self.buckets.entry(after).or_default();
        bucket.changed = true;
        bucket.ledger_changed = true;
    }

    /// A session has changed: if sinks have rows of it, or should have, it waits for the next emission.
    fn notice(&mut self, slot: u32, watermark_ms: Option<i64>) {
        let (early, keeps) = (self.policy.early, self.policy.keeps_ledger());
        let Some(session) = self.session_mut(slot) else { return };
        let given = !session.given.is_empty();
        let start_ms = session.start_ms;
        let is_closed = session.window().phase(watermark_ms, 0) != Phase::Open;
        if keeps && (early || given || is_closed) && !std::mem::replace(&mut session.waiting, true) {
            self.waiting.push(slot);
        }
        if given {
            self.ledger_changed(start_ms);
        }
    }

    /// As if an event that changes no edge had come into each session that has a result.
    pub fn touch_all(&mut self, watermark_ms: Option<i64>) {
        let of =
            |(slot, session): (u32, &Option<Session>)| (session.is_some() && self.slots.is_live(slot)).then_some(slot);
        let slots: Vec<u32> = (0_u32..).zip(&self.sessions).filter_map(of).collect();
        for slot in slots {
            self.slots.touch_again(slot);
            self.notice(slot, watermark_ms);
        }
    }

    pub fn merges(&mut self) -> Option<Merges> {
        if self.merged.is_empty() {
            return None;
        }
        let mut merged = std::mem::take(&mut self.merged);
        let into: HashMap<u32, u32> = merged.iter().map(|(_, from, to)| (*from, *to)).collect();
        let root = |mut slot: u32| {
            while let Some(next) = into.get(&slot) {
                slot = *next;
            }
            slot
        };
        merged.sort_by_key(|(start_ms, _, _)| *start_ms);
        let mut merges = Merges::default();
        for (_, from, to) in merged {
            let to = root(to);
            self.slots.absorb(from, to);
            merges.sources.push(from);
            merges.targets.push(to);
        }
        Some(merges)
    }

    pub fn due(&mut self, when: When, watermark_ms: Option<i64>) -> Option<Due> {
        if let Some(due) = self.queue.pop_front() {
            return Some(due);
        }
        match when {
            // it goes on for ever: what has changed is given, the state stays
            When::Watermark if self.kind == Kind::Global && watermark_ms == Some(END_OF_TIME_MS) => {
                self.due_waiting(watermark_ms);
            }
            When::Watermark => self.due_by_time(watermark_ms),
            When::Barrier if self.policy.early => {}
            When::Barrier | When::Tick => self.due_waiting(watermark_ms),
        }
        self.queue.pop_front()
    }

    /// Sessions that have closed or expired, as many as one call takes.
    fn due_by_time(&mut self, watermark_ms: Option<i64>) {
        let lateness_ms = self.policy.allowed_lateness_ms;
        let mut closing = Due::new(Audience::Sinks, false);
        let mut changed = Due::new(Audience::Sinks, true);
        let mut fresh = Due::new(Audience::All, true);
        let mut once_more = Due::new(Audience::Operators, true);
        (changed.ends, fresh.ends, once_more.ends) = (!self.policy.operators, true, true);
        let mut over = 0;
        while let Some(&(timer_ms, slot)) = self.timers.first() {
            let most = closing.groups.len().max(changed.groups.len()).max(fresh.groups.len()).max(over);
            if watermark_ms < Some(timer_ms) || most >= PLUGIN_GROUPS_PER_CALL_MAX {
                break;
            }
            self.timers.pop_first();
            let Some(session) = self.session(slot) else { continue };
            let (window, has_given) = (session.window(), !session.given.is_empty());
            match window.phase(watermark_ms, lateness_ms) {
                Phase::Open => self.set_timer(slot, window.max_time_ms()),
                Phase::Closed => {
                    self.set_timer(slot, window.max_time_ms().saturating_add(lateness_ms));
                    if self.set_closed(slot, true) && self.policy.keeps_ledger() {
                        self.give(slot, &mut closing);
                    }
                }
                Phase::Expired if !has_given => self.push(slot, &mut fresh),
                Phase::Expired => {
                    let before = changed.groups.len();
                    self.give(slot, &mut changed);
                    if self.policy.operators {
                        self.push(slot, &mut once_more);
                    } else if changed.groups.len() == before {
                        self.over.push(slot);
                    }
                    over += 1;
                }
            }
        }
        // what ends without a row of its own is settled with the last one
        let any_over = !self.over.is_empty();
        self.queue.extend([closing, changed, fresh].into_iter().filter(|due| !due.is_empty()));
        if any_over || !once_more.is_empty() {
            self.queue.push_back(once_more);
        }
    }

    /// What has changed since it was given; where open sessions give nothing, the rows of those that have grown go.
    fn due_waiting(&mut self, watermark_ms: Option<i64>) {
        let mut due = Due::new(Audience::Sinks, false);
        for slot in std::mem::take(&mut self.waiting) {
            let Some(session) = self.session_mut(slot) else { continue };
            if !std::mem::take(&mut session.waiting) {
                continue;
            }
            let is_open = session.window().phase(watermark_ms, 0) == Phase::Open;
            if is_open && !self.policy.early {
                self.delete_former(slot, &mut due);
            } else {
                self.give(slot, &mut due);
            }
        }
        if !due.is_empty() {
            self.queue.push_back(due);
        }
    }

    /// The session's row, if it has changed since it was given; rows of windows that it has grown from go.
    fn give(&mut self, slot: u32, due: &mut Due) {
        self.delete_former(slot, due);
        let Some(session) = self.session(slot) else { return };
        let given = session.given.first().map(|(_, given)| *given).unwrap_or_default();
        if self.slots.touched(slot) > given.round {
            self.push(slot, due);
        }
    }

    fn push(&self, slot: u32, due: &mut Due) {
        let Some(session) = self.session(slot) else { return };
        let window = self.shown(session);
        let given = session.given.iter().find(|(of, _)| *of == window).map(|(_, given)| *given).unwrap_or_default();
        // of nothing but refused rows: it has no result, but it ends
        let parts = [slot];
        let parts = if self.slots.is_live(slot) { parts.as_slice() } else { &[] };
        due.push(window, given, Owner::Session { slot }, self.key_bytes(session), parts);
    }

    fn delete_former(&mut self, slot: u32, due: &mut Due) {
        let Some(session) = self.session(slot) else { return };
        let window = self.shown(session);
        let former: Vec<(Window, Given)> = session.given.iter().filter(|(of, _)| *of != window).copied().collect();
        if former.is_empty() {
            return;
        }
        for (of, given) in former.into_iter().filter(|(_, given)| given.present) {
            due.delete(of, given.revision.saturating_add(1), self.key_bytes(session));
        }
        let start_ms = session.start_ms;
        if let Some(session) = self.session_mut(slot) {
            session.given.retain(|(of, _)| *of == window);
        }
        self.ledger_changed(start_ms);
    }

    /// The window as others see it.
    fn shown(&self, session: &Session) -> Window {
        match self.kind {
            Kind::Session => session.window(),
            Kind::Global => FOREVER,
        }
    }

    pub fn settle(&mut self, due: &Due, has_rows: &[bool]) -> Vec<u32> {
        let round = self.slots.round();
        let mut gone = Vec::new();
        if due.ends {
            gone.extend(due.groups.iter().filter_map(|group| match group.owner {
                Owner::Session { slot } => Some(slot),
                Owner::Key(_) => None,
            }));
            gone.extend(std::mem::take(&mut self.over));
            for &slot in &gone {
                if let Some(session) = self.remove(slot) {
                    self.remove_key(session.key);
                }
            }
            return gone;
        }
        for (group, has_rows) in due.groups.iter().zip(has_rows) {
            let Owner::Session { slot } = group.owner else { continue };
            let Some(session) = self.session_mut(slot) else { continue };
            let then = group.given.then(*has_rows, round);
            match session.given.iter_mut().find(|(of, _)| *of == group.window) {
                Some((_, given)) => *given = then,
                None => session.given.push((group.window, then)),
            }
            let start_ms = session.start_ms;
            self.ledger_changed(start_ms);
        }
        gone
    }

    fn set_timer(&mut self, slot: u32, timer_ms: i64) {
        let Some(session) = self.session_mut(slot) else { return };
        let before_ms = std::mem::replace(&mut session.timer_ms, timer_ms);
        self.timers.remove(&(before_ms, slot));
        self.timers.insert((timer_ms, slot));
    }

    /// Whether it has changed.
    fn set_closed(&mut self, slot: u32, closed: bool) -> bool {
        let Some(session) = self.session_mut(slot) else { return false };
        let changes = std::mem::replace(&mut session.closed, closed) != closed;
        if changes {
            self.closed = if closed { self.closed + 1 } else { self.closed.saturating_sub(1) };
        }
        changes
    }

    fn bucket_start(&self, start_ms: i64) -> i64 {
        match self.kind {
            Kind::Global => 0,
            Kind::Session => {
                let bucket_ms = self.bucket_ms();
                start_ms.div_euclid(bucket_ms).saturating_mul(bucket_ms)
            }
        }
    }

    fn bucket_ms(&self) -> i64 {
        self.gap_ms.saturating_mul(BUCKET_GAPS).max(BUCKET_MS_MIN)
    }

    fn ledger_changed(&mut self, session_start_ms: i64) {
        let start_ms = self.bucket_start(session_start_ms);
        if let Some(bucket) = self.buckets.get_mut(&start_ms) {
            bucket.ledger_changed = true;
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The oldest is the one whose turn comes first; it may have grown since.
    pub fn census(&self) -> Census {
        let oldest = self.timers.iter().filter_map(|(_, slot)| self.session(*slot)).find(|session| !session.closed);
        let oldest_open = oldest.filter(|_| self.kind == Kind::Session).map(Session::window);
        Census { open: (self.count as u64).saturating_sub(self.closed), closed: self.closed, oldest_open }
    }

    pub fn size_bytes(&self) -> usize {
        // each session has its slot in a list of its key, and at most about one row that was given
        let given = if self.policy.keeps_ledger() { self.count * size_of::<(Window, Given)>() } else { 0 };
        self.key_bytes
            + given
            + self.count * 16
            + self.keys.capacity() * size_of::<Key>()
            + self.sessions.capacity() * size_of::<Option<Session>>()
            + self.index.capacity() * 5
            + self.timers.len() * 24
    }

    /// Sessions with changes that wait for the next barrier or tick.
    pub fn corrections_waiting(&self) -> usize {
        if self.policy.early { 0 } else { self.waiting.len() }
    }

    /// Whether [`Sessions::due`] may have something to say.
    pub fn may_be_due(&self, watermark_ms: Option<i64>) -> bool {
        self.timers.first().is_some_and(|(timer_ms, _)| watermark_ms >= Some(*timer_ms))
            || (self.kind == Kind::Global && watermark_ms == Some(END_OF_TIME_MS))
    }
}

impl Session {
    fn window(&self) -> Window {
        Window { start_ms: self.start_ms, end_ms: self.end_ms }
    }
}
