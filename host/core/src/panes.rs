//! Tumbling and sliding windows of one task: which are open, closed, expired; which groups have changed since they were
//! given.
//!
//! ```text
//!   rows ─▶ pane ─▶ (pane, key) → slot                        GroupTable
//!                     │ a new pane
//!                     ▼
//!           windows with data, not expired:  start → closed? given up to which round? ledger
//!   watermark ─▶ close: each group that has changed since it was given
//!             ─▶ expire: the same; once more for operators below; then the window goes, and each pane with its last one
//! ```
//!
//! Owns no state of a plugin: it says which slots make a group, the task has them evaluated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::Audience;
use crate::due::{Due, Given, Load, LoadedGroup, Loads, Owner, PARTITIONS, Policy, When, partition_of};
use crate::groups::{GroupTable, WindowGroups};
use crate::key::{KeyGroup, Keys, key_group};
use crate::ledger::Ledger;
use crate::limits::STATE_SAMPLE_GROUPS;
use crate::partials::{PANES_MIN, Partials};
use crate::slots::TooManyGroups;
use crate::window::{Phase, Slicing, Window};
use crate::windower::Placed;

mod assembled;
mod kept;

use assembled::Assembled;

#[derive(Debug)]
pub struct Panes {
    slicing: Slicing,
    policy: Policy,
    pub(crate) table: GroupTable,
    /// windows that have data and have not expired, by start
    live: BTreeMap<i64, Live>,
    reached: Vec<Reached>,
    /// (pane, part) on disk
    spilled: BTreeMap<(i64, u32), Spilled>,
    next_part: u32,
    /// where each window gives its results once
    partials: Partials,
    /// whether they are worth it; none: not known yet
    shares: Option<bool>,
    /// a window with groups on disk, given a partition at a time
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Spilled {
    groups: usize,
    /// the last round in which rows had come
    round: u32,
}

#[derive(Clone, Copy, Debug)]
struct Partial {
    plan: Plan,
    next: usize,
}

/// Which groups of a window are to be given, and to whom.
#[derive(Clone, Copy, Debug)]
struct Plan {
    start_ms: i64,
    audience: Audience,
    is_final: bool,
    changed_only: bool,
    ends: bool,
}

/// How far the results of some key groups had been given when a checkpoint was taken: tasks may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub first_key_group: KeyGroup,
    /// inclusive
    pub last_key_group: KeyGroup,
    pub watermark_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Live {
    /// has given its results once
    closed: bool,
    /// all changes up to this round have been given
    round: u32,
    ledger: Ledger,
}

impl Panes {
    pub fn new(slicing: Slicing, policy: Policy) -> Self {
        Self {
            slicing,
            policy,
            table: GroupTable::default(),
            live: BTreeMap::new(),
            reached: Vec::new(),
            spilled: BTreeMap::new(),
            next_part: 1,
            partials: Partials::default(),
            shares: None,
            partial: None,
        }
    }

    /// Before anything is restored: windows that had expired by then have given their results.
    pub fn set_reached(&mut self, reached: Vec<Reached>) {
        self.reached = reached;
    }

    /// By all that was restored, this window had expired, and has given its results: of this group, or (none) of all.
    fn was_given(&self, window: Window, hash: Option<u64>) -> bool {
        let of = |reached: &&Reached| {
            hash.is_none_or(|hash| (reached.first_key_group..=reached.last_key_group).contains(&key_group(hash)))
        };
        let lateness_ms = self.policy.allowed_lateness_ms;
        let mut any = false;
        let mut of_it = self.reached.iter().filter(of).inspect(|_| any = true);
        let all = of_it.all(|reached| window.phase(reached.watermark_ms, lateness_ms) == Phase::Expired);
        all && any
    }

    /// Gives each row its slot, or finds it late. Runs of rows in one pane: the pane is looked up once a run, the key once a
    /// row.
    pub fn place(
        &mut self,
        rows: &[u32],
        times_ms: &[i64],
        keys: &Keys,
        watermark_ms: Option<i64>,
    ) -> Result<Placed, TooManyGroups> {
        let time_of = |row: u32| times_ms.get(row as usize).copied().unwrap_or_default();
        let mut placed = Placed::with_capacity(rows.len());
        let mut from = 0;
        while let Some(&first) = rows.get(from) {
            let pane = self.slicing.pane(time_of(first));
            let rest = rows.get(from..).unwrap_or_default();
            let within = |row: &&u32| (pane.start_ms..pane.end_ms).contains(&time_of(**row));
            let run = rest.get(..rest.iter().take_while(within).count().max(1)).unwrap_or_default();
            from += run.len();
            let last = self.slicing.last_window(pane);
            if last.phase(watermark_ms, self.policy.allowed_lateness_ms) == Phase::Expired {
                placed.late(rows, from - run.len(), run);
                continue;
            }
            placed.kept(run);
            if !self.table.contains(pane.start_ms) {
                let lateness_ms = self.policy.allowed_lateness_ms;
                self.enliven(pane, |window| window.phase(watermark_ms, lateness_ms) == Phase::Expired);
            }
            self.partials.rows(pane, run.iter().map(|&row| keys.hash(row as usize)));
            let of = run.iter().map(|&row| (keys.hash(row as usize), keys.bytes(row as usize)));
            self.table.slots(pane.start_ms, of, &mut placed.slots)?;
        }
        Ok(placed)
    }

    /// A pane has come up: its windows have data.
    fn enliven(&mut self, pane: Window, is_over: impl Fn(Window) -> bool) {
        for window in self.slicing.windows(pane) {
            if is_over(window) {
                break;
            }
            self.live.entry(window.start_ms).or_default();
        }
    }

    /// The window that an event belongs to which is the last to expire.
    pub fn last_window(&self, time_ms: i64) -> Window {
        self.slicing.last_window(self.slicing.pane(time_ms))
    }

    /// What is to be given next; to be settled before the next call.
    pub fn due(
        &mut self,
        when: When,
        watermark_ms: Option<i64>,
        loads: &mut dyn Loads,
    ) -> Result<Option<Due>, TooManyGroups> {
        if self.partial.is_some()
            && let Some(due) = self.next_partition(loads)?
        {
            return Ok(Some(due));
        }
        match when {
            When::Watermark => self.due_by_time(watermark_ms, loads),
            When::Barrier if self.policy.early => Ok(None),
            When::Barrier => self.due_changed(|window| window.phase(watermark_ms, 0) != Phase::Open, loads),
            When::Tick => self.due_changed(|_| true, loads),
        }
    }

    fn due_by_time(&mut self, watermark_ms: Option<i64>, loads: &mut dyn Loads) -> Result<Option<Due>, TooManyGroups> {
        let lateness_ms = self.policy.allowed_lateness_ms;
        loop {
            let passed = |(start, live): (&i64, &Live)| {
                let phase = self.slicing.window(*start).phase(watermark_ms, lateness_ms);
                match phase {
                    Phase::Expired => Some((*start, true)),
                    Phase::Closed if !live.closed => Some((*start, false)),
                    _ => None,
                }
            };
            // those that have expired come first; behind them are those that have closed
            let reached =
                |(start, _): &(&i64, &Live)| self.slicing.window(**start).phase(watermark_ms, 0) != Phase::Open;
            let Some((start_ms, expired)) = self.live.iter().take_while(reached).find_map(passed) else {
                return Ok(None);
            };
            let due = if expired { self.expiring(start_ms, loads)? } else { self.changed(start_ms, loads)? };
            if !expired && let Some(live) = self.live.get_mut(&start_ms) {
                live.closed = true;
            }
            if due.is_some() {
                return Ok(due);
            }
        }
    }

    /// One step of a window's end: what has changed, to the sinks; all, to operators below; both at once where nothing
    /// had been given.
    fn expiring(&mut self, start_ms: i64, loads: &mut dyn Loads) -> Result<Option<Due>, TooManyGroups> {
        let Some(live) = self.live.get(&start_ms) else { return Ok(None) };
        let fresh = live.ledger.is_empty();
        let to_sinks = self.policy.keeps_ledger() && !fresh && self.has_changed(start_ms, live.round);
        let plan = Plan { start_ms, audience: Audience::Sinks, is_final: true, changed_only: true, ends: false };
        if to_sinks {
            return self.plan(plan, loads).map(Some);
        }
        if self.policy.keeps_ledger() && !fresh && !self.policy.operators {
            // sinks have them all
            let mut due = Due::new(Audience::Operators, true);
            (due.window_start_ms, due.ends) = (Some(start_ms), true);
            return Ok(Some(due));
        }
        let audience = if self.policy.keeps_ledger() && !fresh { Audience::Operators } else { Audience::All };
        self.plan(Plan { audience, changed_only: false, ends: true, ..plan }, loads).map(Some)
    }

    /// Closed windows (or all) with groups that have changed since they were given.
    fn due_changed(
        &mut self,
        asked: impl Fn(Window) -> bool,
        loads: &mut dyn Loads,
    ) -> Result<Option<Due>, TooManyGroups> {
        let wanted = |(start, live): (&i64, &Live)| {
            (asked(self.slicing.window(*start)) && self.has_changed(*start, live.round)).then_some(*start)
        };
        let starts: Vec<i64> = self.live.iter().filter_map(wanted).collect();
        for start_ms in starts {
            if let Some(due) = self.changed(start_ms, loads)? {
                return Ok(Some(due));
            }
        }
        Ok(None)
    }

    /// The groups of a window that have changed since they were given; none: it is up to date.
    fn changed(&mut self, start_ms: i64, loads: &mut dyn Loads) -> Result<Option<Due>, TooManyGroups> {
        if !self.policy.keeps_ledger() {
            return Ok(None);
        }
        let plan = Plan { start_ms, audience: Audience::Sinks, is_final: false, changed_only: true, ends: false };
        let due = self.plan(plan, loads)?;
        if due.is_empty() && due.is_last {
            self.slots_of(&due);
            let round = self.table.slots.round();
            if let Some(live) = self.live.get_mut(&start_ms) {
                live.round = round;
            }
            return Ok(None);
        }
        Ok(Some(due))
    }

    /// All of it at once, or, where groups are on disk, its first partition.
    fn plan(&mut self, plan: Plan, loads: &mut dyn Loads) -> Result<Due, TooManyGroups> {
        if self.spilled_of(plan.start_ms).next().is_none() {
            let mut due = if self.shares_partials(plan) { self.fold(plan)? } else { self.gather(plan, None, &[]) };
            due.ends = plan.ends;
            return Ok(due);
        }
        self.partial = Some(Partial { plan, next: 0 });
        let due = self.next_partition(loads)?;
        // the last partition is a due even if it is empty
        Ok(due.unwrap_or_else(|| Due::new(plan.audience, plan.is_final)))
    }

    /// Each window is given once, in order, and is worth it.
    fn shares_partials(&self, plan: Plan) -> bool {
        self.shares == Some(true)
            && !self.policy.keeps_ledger()
            && self.spilled.is_empty()
            && plan.ends
            && self.panes_of(plan.start_ms).nth(PANES_MIN).is_some()
    }

    /// Pairs of slots of one key each, if it has to be found out whether a group grows when another is folded into it:
    /// partial results of sets that grow would take many times the state.
    pub fn sample(&self) -> Vec<(u32, u32)> {
        if self.shares.is_some() || self.slicing.is_tumbling() || self.policy.keeps_ledger() {
            return Vec::new();
        }
        let Some(start_ms) = self.live.keys().next().copied() else { return Vec::new() };
        let panes: Vec<&WindowGroups> = self.panes_of(start_ms).map(|(_, pane)| pane).collect();
        let [former @ .., last] = panes.as_slice() else { return Vec::new() };
        if former.len() < PANES_MIN {
            return Vec::new();
        }
        let is_live = |slot: &u32| self.table.slots.is_live(*slot);
        let pair = |(hash, key, slot): (u64, &[u8], u32)| {
            let other = former.iter().rev().find_map(|pane| pane.find(hash, key)).filter(is_live)?;
            is_live(&slot).then_some((other, slot))
        };
        last.iter().filter_map(pair).take(STATE_SAMPLE_GROUPS).collect()
    }

    /// What came of the sample.
    pub fn set_shares(&mut self, shares: bool) {
        self.shares = Some(shares);
    }

    /// As if there had been no sample.
    pub fn forget_shares(&mut self) {
        self.shares = None;
    }

    /// The groups of a window from what consecutive windows share.
    fn fold(&mut self, plan: Plan) -> Result<Due, TooManyGroups> {
        let window = self.slicing.window(plan.start_ms);
        let panes: Vec<(i64, &WindowGroups)> =
            self.table.windows.range(window.start_ms..window.end_ms).map(|(s, p)| (*s, p)).collect();
        let folds = self.partials.advance(window, &panes, &mut self.table.slots)?;
        let mut due = Due::new(plan.audience, plan.is_final);
        due.window_start_ms = Some(plan.start_ms);
        (due.folds, due.is_shared) = (folds, true);
        let restart = self.reached.iter().any(|r| window.phase(r.watermark_ms, 0) != Phase::Open);
        let slots = &self.table.slots;
        let mut give = |hash: u64, key: &[u8], parts: &[u32]| {
            let live: Vec<u32> = parts.iter().copied().filter(|slot| slots.is_live(*slot)).collect();
            if live.is_empty() || (restart && self.was_given(window, Some(hash))) {
                return;
            }
            due.push(window, Given::default(), Owner::Key(hash), key, &live);
        };
        self.partials.groups(&mut give);
        if self.partials.has_stale() {
            let panes: Vec<&WindowGroups> = panes.iter().map(|(_, pane)| *pane).collect();
            let stale = Assembled::of(&panes, |hash, slot| self.partials.is_stale(hash) && slots.is_live(slot));
            for ((hash, key, _), parts) in stale.keys.iter().zip(stale.parts()) {
                give(hash, key, parts);
            }
        }
        Ok(due)
    }

    /// The plugin instance has been exchanged, and partial results are gone: the groups of a due are put together from all
    /// of their panes. Returns slots to be emptied, then released.
    pub fn without_partials(&mut self, due: Option<&mut Due>) -> Vec<u32> {
        let mut over = self.partials.forget();
        if let Some(due) = due {
            over.extend(std::mem::take(&mut due.folds).emptied);
            due.is_shared = false;
            for at in 0..due.groups.len() {
                let Some((owner, start_ms)) = due.groups.get(at).map(|g| (g.owner, g.window.start_ms)) else {
                    continue;
                };
                let Owner::Key(hash) = owner else { continue };
                let key = due.groups.get(at).map(|group| due.key(group).to_vec()).unwrap_or_default();
                let of_key = self.panes_of(start_ms).filter_map(|(_, pane)| pane.find(hash, &key));
                let parts: Vec<u32> = of_key.filter(|slot| self.table.slots.is_live(*slot)).collect();
                due.set_parts(at, &parts);
            }
        }
        over
    }

    /// The next partition with groups that are due, or the last.
    fn next_partition(&mut self, loads: &mut dyn Loads) -> Result<Option<Due>, TooManyGroups> {
        while let Some(Partial { plan, next }) = self.partial {
            let is_last = next + 1 >= PARTITIONS;
            self.partial = (!is_last).then_some(Partial { plan, next: next + 1 });
            let parts: Vec<(i64, u32)> = self.spilled_of(plan.start_ms).collect();
            let mut panes = Vec::with_capacity(parts.len());
            let mut loaded = Vec::with_capacity(parts.len());
            for (pane_start_ms, part) in parts {
                let groups = loads.load(pane_start_ms, part, next);
                let mut pane = WindowGroups::default();
                let mut slots = Vec::with_capacity(groups.len());
                for LoadedGroup { hash, key, touched } in groups {
                    let slot = self.table.slots.take()?;
                    self.table.slots.set_touched(slot, touched);
                    pane.insert(hash, &key, slot);
                    slots.push(slot);
                }
                panes.push(pane);
                loaded.push(Load { pane_start_ms, part, slots });
            }
            let mut due = self.gather(plan, Some(next), &panes);
            (due.ends, due.is_last, due.loads) = (plan.ends && is_last, is_last, loaded);
            if !due.groups.is_empty() || is_last {
                return Ok(Some(due));
            }
            self.slots_of(&due);
        }
        Ok(None)
    }

    /// Loaded slots of a due that nobody evaluates: they have never held anything.
    fn slots_of(&mut self, due: &Due) {
        for load in &due.loads {
            self.table.slots.release(load.slots.iter().copied());
        }
    }

    /// (pane, part) on disk of a window's panes.
    fn spilled_of(&self, start_ms: i64) -> impl Iterator<Item = (i64, u32)> {
        let window = self.slicing.window(start_ms);
        self.spilled.range((window.start_ms, 0)..(window.end_ms, 0)).map(|(id, _)| *id)
    }

    fn has_changed(&self, start_ms: i64, since: u32) -> bool {
        let window = self.slicing.window(start_ms);
        let mut spilled = self.spilled.range((window.start_ms, 0)..(window.end_ms, 0));
        self.panes_of(start_ms).any(|(_, pane)| pane.round() > since) || spilled.any(|(_, part)| part.round > since)
    }

    fn panes_of(&self, start_ms: i64) -> impl Iterator<Item = (i64, &WindowGroups)> {
        let window = self.slicing.window(start_ms);
        self.table.range(window.start_ms..window.end_ms)
    }

    /// The groups of a window, or of a partition of its keys, each with the slots of its panes.
    fn gather(&self, plan: Plan, partition: Option<usize>, loaded: &[WindowGroups]) -> Due {
        let Plan { start_ms, audience, is_final, changed_only, .. } = plan;
        let is_asked = |hash: u64| partition.is_none_or(|partition| partition_of(hash) == partition);
        let window = self.slicing.window(start_ms);
        let mut due = Due::new(audience, is_final);
        due.window_start_ms = Some(start_ms);
        let slots = &self.table.slots;
        let ledger = self.live.get(&start_ms).map(|live| &live.ledger).filter(|ledger| !ledger.is_empty());
        let given = |hash, key: &[u8]| ledger.map_or_else(Given::default, |ledger| ledger.get(hash, key));
        // of most windows nothing was given before a restart
        let restart = self.reached.iter().any(|r| window.phase(r.watermark_ms, 0) != Phase::Open);
        let was_given = |hash| restart && self.was_given(window, Some(hash));
        let mut panes: Vec<&WindowGroups> = self.panes_of(start_ms).map(|(_, pane)| pane).chain(loaded).collect();
        if panes.len() == 1
            && let Some(pane) = panes.pop()
        {
            for (hash, key, slot) in pane.iter().filter(|(h, _, slot)| is_asked(*h) && slots.is_live(*slot)) {
                let given = given(hash, key);
                if (!changed_only || slots.touched(slot) > given.round) && !was_given(hash) {
                    due.push(window, given, Owner::Key(hash), key, &[slot]);
                }
            }
            return due;
        }
        let assembled = Assembled::of(&panes, |hash, slot| is_asked(hash) && slots.is_live(slot));
        for ((hash, key, _), parts) in assembled.keys.iter().zip(assembled.parts()) {
            let touched = parts.iter().map(|slot| slots.touched(*slot)).max().unwrap_or(0);
            let given = given(hash, key);
            if (!changed_only || touched > given.round) && !was_given(hash) {
                due.push(window, given, Owner::Key(hash), key, parts);
            }
        }
        due
    }

    /// The rows of a due are on their way. Returns slots that nothing needs any more: reset, then released.
    pub fn settle(&mut self, due: &Due, has_rows: &[bool]) -> Vec<u32> {
        let round = self.table.slots.round();
        let Some(start_ms) = due.window_start_ms else { return Vec::new() };
        if due.ends {
            self.live.remove(&start_ms);
            let mut gone = self.forget_panes(start_ms);
            if self.live.is_empty() {
                gone.extend(self.partials.forget());
            }
            return gone;
        }
        let Some(live) = self.live.get_mut(&start_ms) else { return Vec::new() };
        if due.is_last {
            live.round = round;
        }
        for (group, has_rows) in due.groups.iter().zip(has_rows) {
            if let Owner::Key(hash) = group.owner {
                live.ledger.set(hash, due.key(group), group.given.then(*has_rows, round));
            }
        }
        Vec::new()
    }

    /// Panes whose last window has expired.
    fn forget_panes(&mut self, start_ms: i64) -> Vec<u32> {
        let last = |pane: &i64| self.slicing.last_window(self.slicing.pane(*pane)).start_ms == start_ms;
        let window = self.slicing.window(start_ms);
        let gone: Vec<i64> =
            self.table.range(window.start_ms..window.end_ms).map(|(pane, _)| pane).take_while(last).collect();
        let slicing = self.slicing;
        self.spilled.retain(|(pane, _), _| slicing.last_window(slicing.pane(*pane)).start_ms != start_ms);
        gone.into_iter().filter_map(|pane| self.table.take_window(pane)).flat_map(|pane| pane.slots()).collect()
    }

    /// Panes in memory with how many groups each has, those first that have been left alone for longest.
    pub fn coldest(&self) -> Vec<(i64, usize)> {
        let mut panes: Vec<(u64, i64, usize)> =
            self.table.windows().map(|(start, pane)| (pane.used(), start, pane.len())).collect();
        panes.sort_unstable();
        panes.into_iter().map(|(_, start, groups)| (start, groups)).collect()
    }

    /// A pane's groups go to disk: the number of the part that they are now. Their slots are still taken.
    pub fn evict(&mut self, pane_start_ms: i64) -> Option<(u32, WindowGroups)> {
        let groups = self.table.take_window(pane_start_ms)?;
        let part = self.next_part;
        self.next_part += 1;
        let spilled = Spilled { groups: groups.len(), round: groups.round() };
        self.spilled.insert((pane_start_ms, part), spilled);
        Some((part, groups))
    }

    pub fn spilled_groups(&self) -> usize {
        self.spilled.values().map(|part| part.groups).sum()
    }

    /// (pane, part) of all that is on disk.
    pub fn spilled(&self) -> impl Iterator<Item = (i64, u32)> {
        self.spilled.keys().copied()
    }

    /// Windows that have data and have not expired.
    pub fn windows(&self) -> impl Iterator<Item = Window> {
        self.live.keys().map(|start| self.slicing.window(*start))
    }

    /// The pane that starts here.
    pub fn pane(&self, start_ms: i64) -> Window {
        self.slicing.pane(start_ms)
    }

    pub fn size_bytes(&self) -> usize {
        let tables: usize = self.table.windows().map(|(_, pane)| pane.size_bytes()).sum();
        let spilled = self.spilled.len() * size_of::<(i64, u32, Spilled)>();
        tables
            + spilled
            + self.partials.size_bytes()
            + self.live.values().map(|live| live.ledger.size_bytes()).sum::<usize>()
    }

    /// Closed windows with changes that wait for the next barrier or tick.
    pub fn corrections_waiting(&self) -> usize {
        if !self.policy.keeps_ledger() {
            return 0;
        }
        self.live.iter().filter(|(start, live)| live.closed && self.has_changed(**start, live.round)).count()
    }

    /// Whether [`Panes::due`] may have something to say.
    pub fn may_be_due(&self, watermark_ms: Option<i64>) -> bool {
        let lateness_ms = self.policy.allowed_lateness_ms;
        let phase = |start: &i64, lateness_ms| self.slicing.window(*start).phase(watermark_ms, lateness_ms);
        let first = self.live.iter().next();
        first.is_some_and(|(start, _)| phase(start, lateness_ms) == Phase::Expired)
            || self.live.iter().any(|(start, live)| !live.closed && phase(start, 0) != Phase::Open)
    }
}
