//! Any kind of window behind one face: rows in, slots out; then which groups are due.
//!
//! The order that the task keeps: [`Windower::place`] rows → the accumulator takes them → [`Windower::touch`] → what
//! [`Windower::merges`] says → [`Windower::due`], [`Windower::settle`] until nothing is due → [`Windower::next_round`].

use crate::due::{Due, Loads, Policy, When};
use crate::groups::WindowGroups;
use crate::key::{KeyList, Keys};
use crate::ledger::Entry;
use crate::panes::{Panes, Reached};
use crate::sessions::{Kind, Sessions};
use crate::slots::{Slots, TooManyGroups};
use crate::window::{Slicing, Window};

#[derive(Debug)]
pub enum Windower {
    Panes(Panes),
    Sessions(Sessions),
}

/// The windows of an aggregation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    Sliced(Slicing),
    Session {
        gap_ms: i64,
    },
    /// one for ever; a key without events for so long is forgotten
    Global {
        ttl_ms: i64,
    },
}

/// Where rows went.
#[derive(Debug, Default)]
pub struct Placed {
    /// of the rows that are not late, in their order
    pub slots: Vec<u32>,
    pub late: Vec<u32>,
    /// the rows that are not late; none: no row is late
    kept: Option<Vec<u32>>,
}

impl Placed {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self { slots: Vec::with_capacity(rows), late: Vec::new(), kept: None }
    }

    /// `run` begins at `at` in `rows`.
    pub(crate) fn late(&mut self, rows: &[u32], at: usize, run: &[u32]) {
        if self.kept.is_none() {
            self.kept = Some(rows.get(..at).unwrap_or_default().to_vec());
        }
        self.late.extend_from_slice(run);
    }

    pub(crate) fn kept(&mut self, run: &[u32]) {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(run);
        }
    }

    /// The rows that are not late; none: all of them.
    pub fn take_kept(&mut self) -> Option<Vec<u32>> {
        self.kept.take()
    }
}

/// Sessions that have become one: fold each source into its target, then reset the sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merges {
    /// by start of the sessions
    pub sources: Vec<u32>,
    pub targets: Vec<u32>,
}

/// A unit of a checkpoint's state: a pane, or the sessions that start in a span of time.
#[derive(Debug)]
pub struct Bucket {
    pub window: Window,
    pub slots: Vec<u32>,
    /// one per slot
    pub keys: KeyList,
    /// one per slot, where they differ from the bucket's
    pub windows: Option<Vec<Window>>,
}

impl Windower {
    pub fn new(windows: Windows, policy: Policy) -> Self {
        match windows {
            Windows::Sliced(slicing) => Self::Panes(Panes::new(slicing, policy)),
            Windows::Session { gap_ms } => Self::Sessions(Sessions::new(Kind::Session, gap_ms, policy)),
            Windows::Global { ttl_ms } => Self::Sessions(Sessions::new(Kind::Global, ttl_ms, policy)),
        }
    }

    /// See [`Panes::sample`].
    pub fn sample(&self) -> Vec<(u32, u32)> {
        match self {
            Self::Panes(panes) => panes.sample(),
            Self::Sessions(_) => Vec::new(),
        }
    }

    /// See [`Panes::set_shares`].
    pub fn set_shares(&mut self, shares: bool) {
        if let Self::Panes(panes) = self {
            panes.set_shares(shares);
        }
    }

    /// Another version of the plugin: whether it shares is to be found out anew.
    pub fn forget_shares(&mut self) {
        if let Self::Panes(panes) = self {
            panes.forget_shares();
        }
    }

    /// The plugin instance has been exchanged: see [`Panes::without_partials`].
    pub fn without_partials(&mut self, due: Option<&mut Due>) -> Vec<u32> {
        match self {
            Self::Panes(panes) => panes.without_partials(due),
            Self::Sessions(_) => Vec::new(),
        }
    }

    /// What can be moved to disk: buckets with their number of groups, those first that have been left alone for longest.
    pub fn coldest(&self) -> Vec<(i64, usize)> {
        match self {
            Self::Panes(panes) => panes.coldest(),
            // an event may join any of them: they stay in memory
            Self::Sessions(_) => Vec::new(),
        }
    }

    /// See [`Panes::evict`].
    pub fn evict(&mut self, start_ms: i64) -> Option<(u32, WindowGroups)> {
        match self {
            Self::Panes(panes) => panes.evict(start_ms),
            Self::Sessions(_) => None,
        }
    }

    /// (bucket, part) of all that is on disk.
    pub fn spilled(&self) -> Vec<(i64, u32)> {
        match self {
            Self::Panes(panes) => panes.spilled().collect(),
            Self::Sessions(_) => Vec::new(),
        }
    }

    /// Groups on disk, a group that was moved out several times as often.
    pub fn spilled_groups(&self) -> usize {
        match self {
            Self::Panes(panes) => panes.spilled_groups(),
            Self::Sessions(_) => 0,
        }
    }

    /// Before anything is restored: how far results had been given, by key groups.
    pub fn set_reached(&mut self, reached: Vec<Reached>) {
        // a session that has given its last result is not among the state
        if let Self::Panes(panes) = self {
            panes.set_reached(reached);
        }
    }

    pub fn slots(&mut self) -> &mut Slots {
        match self {
            Self::Panes(panes) => &mut panes.table.slots,
            Self::Sessions(sessions) => &mut sessions.slots,
        }
    }

    /// Gives each row its slot, or finds it late by this watermark.
    pub fn place(
        &mut self,
        rows: &[u32],
        times_ms: &[i64],
        keys: &Keys,
        watermark_ms: Option<i64>,
    ) -> Result<Placed, TooManyGroups> {
        match self {
            Self::Panes(panes) => panes.place(rows, times_ms, keys, watermark_ms),
            Self::Sessions(sessions) => sessions.place(rows, times_ms, keys, watermark_ms),
        }
    }

    /// Rows have gone into these slots, but for the refused ones (row numbers, ascending).
    pub fn touch(&mut self, slots: &[u32], refused: impl Iterator<Item = usize>) {
        let mut refused = refused.peekable();
        let all = self.slots();
        for (row, slot) in slots.iter().enumerate() {
            if refused.next_if_eq(&row).is_none() {
                all.touch(*slot);
            }
        }
    }

    /// To be done once all rows placed so far have gone in; the sources are free then.
    pub fn merges(&mut self) -> Option<Merges> {
        match self {
            Self::Panes(_) => None,
            Self::Sessions(sessions) => sessions.merges(),
        }
    }

    /// The window that an event by itself belongs to which is the last to expire.
    pub fn last_window(&self, time_ms: i64) -> Window {
        match self {
            Self::Panes(panes) => panes.last_window(time_ms),
            Self::Sessions(sessions) => sessions.window_of(time_ms),
        }
    }

    /// What is to be given next; to be settled before the next call. All rows must have gone in.
    pub fn due(
        &mut self,
        when: When,
        watermark_ms: Option<i64>,
        loads: &mut dyn Loads,
    ) -> Result<Option<Due>, TooManyGroups> {
        match self {
            Self::Panes(panes) => panes.due(when, watermark_ms, loads),
            Self::Sessions(sessions) => Ok(sessions.due(when, watermark_ms)),
        }
    }

    /// The rows of a due are on their way; `has_rows`: of each of its groups. Returns slots that nothing needs any more: to
    /// be reset, then released.
    pub fn settle(&mut self, due: &Due, has_rows: &[bool]) -> Vec<u32> {
        match self {
            Self::Panes(panes) => panes.settle(due, has_rows),
            Self::Sessions(sessions) => sessions.settle(due, has_rows),
        }
    }

    /// An emission is over.
    pub fn next_round(&mut self) {
        self.slots().next_round();
    }

    /// Starts of the buckets that have changed since [`Windower::take_changed`].
    pub fn changed(&self) -> Vec<i64> {
        match self {
            Self::Panes(panes) => panes.table.changed().collect(),
            Self::Sessions(sessions) => sessions.changed(),
        }
    }

    /// Starts of the changed buckets, which count as unchanged from now on, and of all others.
    pub fn take_changed(&mut self) -> (Vec<i64>, Vec<i64>) {
        match self {
            Self::Panes(panes) => {
                let changed = panes.table.take_changed();
                let others = panes.table.windows().map(|(start, _)| start);
                let others = others.filter(|start| changed.binary_search(start).is_err()).collect();
                (changed, others)
            }
            Self::Sessions(sessions) => sessions.take_changed(),
        }
    }

    /// The pane that starts here.
    pub fn bucket_window(&self, start_ms: i64) -> Window {
        match self {
            Self::Panes(panes) => panes.pane(start_ms),
            Self::Sessions(_) => Window { start_ms, end_ms: start_ms },
        }
    }

    /// Starts of all buckets.
    pub fn bucket_starts(&self) -> Vec<i64> {
        match self {
            Self::Panes(panes) => panes.table.windows().map(|(start, _)| start).collect(),
            Self::Sessions(sessions) => sessions.bucket_starts(),
        }
    }

    /// What these buckets hold.
    pub fn buckets(&self, starts_ms: &[i64]) -> Vec<Bucket> {
        match self {
            Self::Panes(panes) => {
                let bucket = |start: &i64| {
                    let groups = panes.table.window(*start)?;
                    let mut slots = Vec::with_capacity(groups.len());
                    let mut keys = KeyList::with_capacity(groups.len(), groups.key_bytes());
                    // of nothing but refused rows: there is nothing to keep
                    for (_, key, slot) in groups.iter().filter(|(_, _, slot)| panes.table.slots.is_live(*slot)) {
                        slots.push(slot);
                        keys.push(key);
                    }
                    Some(Bucket { window: panes.pane(*start), slots, keys, windows: None })
                };
                starts_ms.iter().filter_map(bucket).collect()
            }
            Self::Sessions(sessions) => sessions.buckets(starts_ms),
        }
    }

    /// See [`Panes::take_ledgers`]. The lines of sessions are in the order of their buckets.
    pub fn take_ledgers(&mut self) -> (Vec<(i64, Vec<Entry>)>, Vec<i64>) {
        match self {
            Self::Panes(panes) => panes.take_ledgers(),
            Self::Sessions(sessions) => sessions.take_ledgers(),
        }
    }

    /// Slots for groups as a checkpoint had them, one per row. `windows`: of each row.
    pub fn restore(
        &mut self,
        bucket_start_ms: i64,
        keys: &Keys,
        windows: &[Window],
    ) -> Result<Vec<u32>, TooManyGroups> {
        match self {
            Self::Panes(panes) => panes.restore(bucket_start_ms, keys, windows.len()),
            Self::Sessions(sessions) => sessions.restore(keys, windows),
        }
    }

    /// A line of a checkpoint's ledger; all state has been restored.
    pub fn restore_entry(&mut self, hash: u64, entry: &Entry) {
        match self {
            Self::Panes(panes) => panes.restore_entry(hash, entry),
            Self::Sessions(sessions) => sessions.restore_entry(hash, entry),
        }
    }

    /// Another plugin instance with another state has taken over: what these buckets hold is not what was exported.
    pub fn mark_changed(&mut self, starts_ms: impl IntoIterator<Item = i64>) {
        for start_ms in starts_ms {
            match self {
                Self::Panes(panes) => panes.table.mark_changed(start_ms),
                Self::Sessions(sessions) => sessions.mark_changed(start_ms),
            }
        }
    }

    /// So are the results of all groups: what has been given of them is given once more, where results can change.
    pub fn touch_all(&mut self, watermark_ms: Option<i64>) {
        match self {
            Self::Panes(panes) => panes.table.touch_all(),
            Self::Sessions(sessions) => sessions.touch_all(watermark_ms),
        }
    }

    /// After a restore: the state of this bucket stands as it was exported.
    pub fn mark_unchanged(&mut self, start_ms: i64) {
        match self {
            Self::Panes(panes) => panes.table.mark_unchanged(start_ms),
            Self::Sessions(sessions) => sessions.mark_unchanged(start_ms),
        }
    }

    /// After a restore: so does this ledger.
    pub fn mark_ledger_unchanged(&mut self, start_ms: i64) {
        match self {
            Self::Panes(panes) => panes.mark_ledger_unchanged(start_ms),
            Self::Sessions(sessions) => sessions.mark_ledger_unchanged(start_ms),
        }
    }

    /// Groups that exist now; of sliding windows, per pane.
    pub fn len(&self) -> usize {
        match self {
            Self::Panes(panes) => panes.table.len(),
            Self::Sessions(sessions) => sessions.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Windows that have data and have not expired: how many are open, how many closed, and the open one that ends first.
    pub fn census(&self, watermark_ms: Option<i64>) -> Census {
        match self {
            Self::Panes(panes) => {
                let mut census = Census::default();
                for window in panes.windows() {
                    census.count(window, watermark_ms);
                }
                census
            }
            Self::Sessions(sessions) => sessions.census(),
        }
    }

    /// Bytes that the tables take, beside the accumulator.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Panes(panes) => panes.size_bytes(),
            Self::Sessions(sessions) => sessions.size_bytes(),
        }
    }

    /// Closed windows, or sessions, whose correction waits for the next barrier or tick.
    pub fn corrections_waiting(&self) -> usize {
        match self {
            Self::Panes(panes) => panes.corrections_waiting(),
            Self::Sessions(sessions) => sessions.corrections_waiting(),
        }
    }

    /// Whether [`Windower::due`] may have something to say of a watermark: if not, rows need not have gone in.
    pub fn may_be_due(&self, watermark_ms: Option<i64>) -> bool {
        match self {
            Self::Panes(panes) => panes.may_be_due(watermark_ms),
            Self::Sessions(sessions) => sessions.may_be_due(watermark_ms),
        }
    }
}

/// Windows, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub open: u64,
    pub closed: u64,
    pub oldest_open: Option<Window>,
}

impl Census {
    pub(crate) fn count(&mut self, window: Window, watermark_ms: Option<i64>) {
        if window.phase(watermark_ms, 0) != crate::window::Phase::Open {
            self.closed += 1;
            return;
        }
        self.open += 1;
        if self.oldest_open.is_none_or(|oldest| window.end_ms < oldest.end_ms) {
            self.oldest_open = Some(window);
        }
    }
}

#[cfg(test)]
mod tests;
