//! Every kind of window against brute force: any interleaving of events, watermarks, barriers, ticks, restarts at another
//! number of tasks. A slot of the accumulator holds the set of its events.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{ArrayRef, Int64Array};
use proptest::prelude::*;

use super::*;
use crate::batch::{Audience, Change};
use crate::due::{Assembly, LoadedGroup, partition_of};
use crate::key::{self, KeyGroup};
use crate::partials::Folds;
use crate::sessions::FOREVER;
use crate::watermark::END_OF_TIME_MS;
use crate::window::Phase;

type Id = usize;
type Set = BTreeSet<Id>;

#[derive(Clone, Copy, Debug)]
struct Event {
    key: i64,
    time_ms: i64,
    id: Id,
}

impl Event {
    fn is_refused(&self) -> bool {
        self.id % 7 == 3
    }
}

#[derive(Clone, Debug)]
enum Step {
    Events(Vec<(i64, i64)>),
    /// by how much, and which tasks see it
    Watermark(i64, u8),
    Barrier,
    Tick,
    Restart(usize),
    /// so many panes go to disk
    Spill(usize),
    /// plugin instances are exchanged: now, or (so many times) in the middle of an emission
    Exchange(usize),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    windows: Windows,
    policy: Policy,
}

/// One task: the windower, and what its slots hold.
struct Task {
    windower: Windower,
    slots: BTreeMap<u32, Set>,
    watermark_ms: Option<i64>,
    groups: (KeyGroup, KeyGroup),
    disk: Disk,
    /// so many times partial results are lost when they are about to be used
    unlucky: usize,
}

/// key, its hash, events, when they changed
type DiskRow = (Vec<u8>, u64, Set, u32);

#[derive(Default)]
struct Disk {
    parts: BTreeMap<(i64, u32), Vec<DiskRow>>,
    loaded: BTreeMap<(i64, u32), Vec<DiskRow>>,
}

impl Loads for Disk {
    fn load(&mut self, pane_start_ms: i64, part: u32, partition: usize) -> Vec<LoadedGroup> {
        let id = (pane_start_ms, part);
        let rows: Vec<DiskRow> =
            self.parts[&id].iter().filter(|(_, hash, _, _)| partition_of(*hash) == partition).cloned().collect();
        let group =
            |(key, hash, _, touched): &DiskRow| LoadedGroup { hash: *hash, key: key.clone(), touched: *touched };
        let groups = rows.iter().map(group).collect();
        self.loaded.insert(id, rows);
        groups
    }
}

#[derive(Default)]
struct Checkpoint {
    state: BTreeMap<i64, Vec<(Vec<u8>, Window, Set)>>,
    spilled: BTreeMap<i64, Vec<(Vec<u8>, Window, Set)>>,
    ledgers: BTreeMap<i64, Vec<Entry>>,
}

type GroupId = (i64, Window);

/// What came out.
#[derive(Default)]
struct World {
    table: BTreeMap<GroupId, Set>,
    revisions: BTreeMap<GroupId, u32>,
    once: BTreeMap<GroupId, Set>,
    late: Set,
    /// a row is given again only if it has changed: of what is on disk it is not known by key
    is_strict: bool,
}

fn key_of(bytes: &[u8]) -> i64 {
    let fields = [crate::schema::Field::new("k", crate::schema::DataType::Long, false)];
    let columns = key::decode(&fields, std::iter::once(bytes)).unwrap();
    columns[0].as_any().downcast_ref::<Int64Array>().unwrap().value(0)
}

fn encode(keys: &[i64]) -> Keys {
    let column: ArrayRef = std::sync::Arc::new(Int64Array::from(keys.to_vec()));
    key::encode(&[column], keys.len()).unwrap()
}

impl Task {
    fn new(case: Case, task: usize, tasks: usize) -> Self {
        Self {
            windower: Windower::new(case.windows, case.policy),
            slots: BTreeMap::new(),
            watermark_ms: None,
            groups: key::key_group_range(task, tasks),
            disk: Disk::default(),
            unlucky: 0,
        }
    }

    fn owns(&self, hash: u64) -> bool {
        (self.groups.0..self.groups.1).contains(&key::key_group(hash))
    }

    fn take(&mut self, events: &[Event], world: &mut World) {
        let keys = encode(&events.iter().map(|e| e.key).collect::<Vec<_>>());
        let times: Vec<i64> = events.iter().map(|e| e.time_ms).collect();
        let rows = (0_u32..).take(events.len()).filter(|row| self.owns(keys.hash(*row as usize)));
        let rows: Vec<u32> = rows.collect();
        let mut placed = self.windower.place(&rows, &times, &keys, self.watermark_ms).unwrap();
        let kept = placed.take_kept().unwrap_or(rows);
        assert_eq!(kept.len(), placed.slots.len());
        world.late.extend(placed.late.iter().map(|row| events[*row as usize].id));
        let mut refused = Vec::new();
        for (at, (row, slot)) in kept.iter().zip(&placed.slots).enumerate() {
            let event = events[*row as usize];
            if event.is_refused() {
                refused.push(at);
            } else {
                self.slots.entry(*slot).or_default().insert(event.id);
            }
        }
        self.windower.touch(&placed.slots, refused.into_iter());
        if let Some(merges) = self.windower.merges() {
            for (from, to) in merges.sources.iter().zip(&merges.targets) {
                assert!(!merges.sources.contains(to), "{merges:?}");
                let set = self.slots.remove(from).unwrap_or_default();
                self.slots.entry(*to).or_default().extend(set);
            }
            self.windower.slots().release(merges.sources);
        }
    }

    fn give(&mut self, when: When, world: &mut World) {
        if !self.windower.sample().is_empty() {
            self.windower.set_shares(true);
        }
        while let Some(mut due) = self.windower.due(when, self.watermark_ms, &mut self.disk).unwrap() {
            if self.unlucky > 0 && !due.folds.is_empty() {
                // the instance dies before it has folded all of it
                self.unlucky -= 1;
                self.lose_partials(Some(&mut due));
            }
            let Folds { emptied, sources, targets } = std::mem::take(&mut due.folds);
            for slot in &emptied {
                self.slots.remove(slot);
            }
            self.windower.slots().release(emptied);
            for (from, to) in sources.iter().zip(&targets) {
                let set = self.slots.get(from).cloned().unwrap_or_default();
                self.slots.entry(*to).or_default().extend(set);
            }
            for load in &due.loads {
                let partition = self.disk.loaded.remove(&(load.pane_start_ms, load.part)).unwrap();
                for (slot, (_, _, set, _)) in load.slots.iter().zip(partition) {
                    self.slots.insert(*slot, set);
                }
            }
            for deletion in &due.deletions {
                let group = (key_of(due.deleted_key(deletion)), deletion.window);
                assert!(world.table.remove(&group).is_some(), "{group:?} is deleted and was not there");
                next_revision(world, group, deletion.revision);
            }
            let assembly = Assembly::of(&due, &due.groups, self.windower.slots()).unwrap();
            for (from, to) in assembly.sources.iter().zip(&assembly.targets) {
                let set = self.slots.get(from).cloned().unwrap_or_default();
                self.slots.entry(*to).or_default().extend(set);
            }
            let mut has_rows = Vec::new();
            for (group, slot) in due.groups.iter().zip(&assembly.slots) {
                let set = self.slots.get(slot).cloned().unwrap_or_default();
                let id = (key_of(due.key(group)), group.window);
                // the accumulator has a row for whatever it is asked for
                let is_live = !due.parts(group).is_empty();
                has_rows.push(is_live);
                if due.audience != Audience::Operators {
                    world.change(id, group.given.change(is_live), &set);
                }
                if due.audience != Audience::Sinks && is_live && id.1 != FOREVER {
                    assert!(world.once.insert(id, set).is_none(), "{id:?} is given to operators twice");
                }
            }
            let loaded = due.loads.iter().flat_map(|load| load.slots.iter().copied());
            let borrowed: Vec<u32> = assembly.borrowed.into_iter().chain(loaded).collect();
            for slot in &borrowed {
                self.slots.remove(slot);
            }
            self.windower.slots().release(borrowed);
            let gone = self.windower.settle(&due, &has_rows);
            for slot in &gone {
                self.slots.remove(slot);
            }
            self.windower.slots().release(gone);
        }
        self.windower.next_round();
    }

    /// As when a plugin instance is exchanged: it is brought back with what panes hold.
    fn lose_partials(&mut self, due: Option<&mut crate::due::Due>) {
        let over = self.windower.without_partials(due);
        for slot in &over {
            self.slots.remove(slot);
        }
        self.windower.slots().release(over);
    }

    /// Moves the coldest panes to disk, so many.
    fn spill(&mut self, panes: usize) {
        for (start_ms, _) in self.windower.coldest().into_iter().take(panes) {
            let (part, groups) = self.windower.evict(start_ms).unwrap();
            let mut rows = Vec::new();
            for (hash, key, slot) in groups.iter() {
                let touched = self.windower.slots().touched(slot);
                let set = self.slots.remove(&slot).unwrap_or_default();
                rows.extend((touched > 0).then(|| (key.to_vec(), hash, set, touched)));
            }
            self.windower.slots().release(groups.slots());
            self.disk.parts.insert((start_ms, part), rows);
        }
    }

    /// As a task's part of a checkpoint: what has changed is written, the rest stays.
    fn export(&mut self, checkpoint: &mut Checkpoint) {
        let (changed, others) = self.windower.take_changed();
        checkpoint.state.retain(|start, _| others.contains(start));
        checkpoint.spilled.clear();
        let spilled = self.windower.spilled();
        self.disk.parts.retain(|id, _| spilled.contains(id));
        for bucket in self.windower.buckets(&changed) {
            let windows = bucket.windows.clone().unwrap_or_else(|| vec![bucket.window; bucket.slots.len()]);
            let rows = bucket.keys.iter().zip(windows).zip(&bucket.slots);
            let set = |slot: &u32| self.slots.get(slot).cloned().unwrap_or_default();
            let rows = rows.map(|((key, window), slot)| (key.to_vec(), window, set(slot))).collect();
            checkpoint.state.insert(bucket.window.start_ms, rows);
        }
        for ((start, _), rows) in &self.disk.parts {
            let window = Window { start_ms: *start, end_ms: *start };
            let rows = rows.iter().map(|(key, _, set, _)| (key.clone(), window, set.clone()));
            checkpoint.spilled.entry(*start).or_default().extend(rows);
        }
        let (changed, others) = self.windower.take_ledgers();
        checkpoint.ledgers.retain(|start, _| others.contains(start));
        checkpoint.ledgers.extend(changed);
    }

    fn restore(&mut self, from: &[Checkpoint]) {
        let hash = |bytes: &[u8]| encode(&[key_of(bytes)]).hash(0);
        for (start, rows) in from.iter().flat_map(|c| c.state.iter().chain(&c.spilled)) {
            let rows: Vec<_> = rows.iter().filter(|(key, _, _)| self.owns(hash(key))).collect();
            let keys = encode(&rows.iter().map(|(key, _, _)| key_of(key)).collect::<Vec<_>>());
            let windows: Vec<Window> = rows.iter().map(|(_, window, _)| *window).collect();
            let slots = self.windower.restore(*start, &keys, &windows).unwrap();
            for (slot, (_, _, set)) in slots.iter().zip(rows) {
                self.slots.entry(*slot).or_default().extend(set);
            }
        }
        for entry in from.iter().flat_map(|c| c.ledgers.values().flatten()) {
            if self.owns(hash(&entry.key)) {
                self.windower.restore_entry(hash(&entry.key), entry);
            }
        }
    }
}

fn next_revision(world: &mut World, group: GroupId, revision: u32) {
    let last = world.revisions.insert(group, revision).unwrap_or(0);
    // a key of the global window that was forgotten begins anew
    assert!(revision == last + 1 || (revision == 1 && group.1 == FOREVER), "{group:?}: {revision} after {last}");
}

impl World {
    fn change(&mut self, group: GroupId, change: Option<(Change, u32)>, set: &Set) {
        let Some((change, revision)) = change else { return };
        next_revision(self, group, revision);
        let before = match change {
            Change::Delete => self.table.remove(&group),
            _ => self.table.insert(group, set.clone()),
        };
        if self.is_strict && change == Change::Replace {
            assert_ne!(before.as_ref(), Some(set), "{group:?} is given again, and has not changed");
        }
        let expected = change != Change::Insert;
        assert!(before.is_some() == expected || group.1 == FOREVER, "{change:?} of {group:?}, which was {before:?}");
    }
}

/// The definition, event by event, over plain sets.
#[derive(Default)]
struct Model {
    /// what each window has taken, refused events included
    groups: BTreeMap<GroupId, Vec<Event>>,
    late: Set,
    /// of the global window: the last content of keys that were forgotten
    forgotten: BTreeMap<i64, Set>,
}

fn windows_of(windows: Windows, event: Event) -> Vec<Window> {
    let Windows::Sliced(slicing) = windows else { unreachable!() };
    let (size, slide) = (slicing.window(0).end_ms, slide_of(slicing));
    let starts = (event.time_ms - size + 1..=event.time_ms).filter(|s| s.rem_euclid(slide) == 0);
    starts.map(|start_ms| Window { start_ms, end_ms: start_ms + size }).collect()
}

fn slide_of(slicing: Slicing) -> i64 {
    // windows begin at multiples of it
    (1..).find(|t| slicing.last_window(slicing.pane(*t)).start_ms == *t).unwrap()
}

impl Model {
    fn take(&mut self, case: Case, event: Event, watermark_ms: Option<i64>) {
        let lateness_ms = case.policy.allowed_lateness_ms;
        let is_over = |window: &Window| window.phase(watermark_ms, lateness_ms) == Phase::Expired;
        match case.windows {
            Windows::Sliced(_) => {
                let windows = windows_of(case.windows, event);
                if windows.iter().all(is_over) {
                    self.late.insert(event.id);
                }
                for window in windows.into_iter().filter(|w| !is_over(w)) {
                    self.groups.entry((event.key, window)).or_default().push(event);
                }
            }
            Windows::Session { gap_ms } => {
                let mut window = Window { start_ms: event.time_ms, end_ms: event.time_ms + gap_ms };
                let near: Vec<GroupId> = self
                    .groups
                    .keys()
                    .filter(|(key, w)| *key == event.key && !is_over(w))
                    .filter(|(_, w)| w.start_ms < window.end_ms && window.start_ms < w.end_ms)
                    .copied()
                    .collect();
                if near.is_empty() && is_over(&window) {
                    self.late.insert(event.id);
                    return;
                }
                let mut events = vec![event];
                for group in near {
                    events.extend(self.groups.remove(&group).unwrap());
                    window.start_ms = window.start_ms.min(group.1.start_ms);
                    window.end_ms = window.end_ms.max(group.1.end_ms);
                }
                self.groups.insert((event.key, window), events);
            }
            Windows::Global { .. } => self.groups.entry((event.key, FOREVER)).or_default().push(event),
        }
    }

    fn advance(&mut self, case: Case, keys: impl Fn(i64) -> bool, watermark_ms: Option<i64>) {
        let Windows::Global { ttl_ms } = case.windows else { return };
        self.groups.retain(|(key, _), events| {
            let last_ms = events.iter().map(|e| e.time_ms).max().unwrap();
            let is_over = watermark_ms != Some(END_OF_TIME_MS) && watermark_ms >= Some(last_ms + ttl_ms - 1);
            if is_over && keys(*key) && !content(events).is_empty() {
                self.forgotten.insert(*key, content(events));
            }
            !(is_over && keys(*key))
        });
    }

    /// What the table must hold: windows for which `shown`.
    fn table(&self, shown: impl Fn(&GroupId) -> bool) -> BTreeMap<GroupId, Set> {
        let mut table: BTreeMap<GroupId, Set> =
            self.forgotten.iter().map(|(key, set)| ((*key, FOREVER), set.clone())).collect();
        let shown = self.groups.iter().filter(|(group, _)| shown(group));
        table.extend(shown.map(|(group, events)| (*group, content(events))).filter(|(_, set)| !set.is_empty()));
        table
    }
}

fn content(events: &[Event]) -> Set {
    events.iter().filter(|e| !e.is_refused()).map(|e| e.id).collect()
}

fn start(case: Case, tasks: usize) -> Vec<Task> {
    (0..tasks).map(|task| Task::new(case, task, tasks)).collect()
}

fn watermark_of(tasks: &[Task], key: i64) -> Option<i64> {
    let hash = encode(&[key]).hash(0);
    tasks.iter().find(|task| task.owns(hash)).and_then(|task| task.watermark_ms)
}

fn run(case: Case, tasks: usize, steps: &[Step]) {
    let mut tasks = start(case, tasks);
    let is_strict = !steps.iter().any(|step| matches!(step, Step::Spill(_)));
    let (mut world, mut model) = (World { is_strict, ..World::default() }, Model::default());
    let mut next_id = 0;
    let mut clock_ms = 0;
    for step in steps.iter().chain([&Step::Watermark(END_OF_TIME_MS, 255)]) {
        match step {
            Step::Events(events) => {
                let events: Vec<Event> = (next_id..)
                    .zip(events)
                    .map(|(id, (key, time_ms))| Event { key: *key, time_ms: clock_ms + time_ms, id })
                    .collect();
                next_id += events.len();
                for event in &events {
                    model.take(case, *event, watermark_of(&tasks, event.key));
                }
                tasks.iter_mut().for_each(|task| task.take(&events, &mut world));
            }
            Step::Watermark(by_ms, mask) => {
                clock_ms = if *by_ms == END_OF_TIME_MS { *by_ms } else { clock_ms + by_ms };
                for (number, task) in tasks.iter_mut().enumerate() {
                    if mask & (1 << number) != 0 {
                        task.watermark_ms = Some(clock_ms);
                        task.give(When::Watermark, &mut world);
                        let owned = |key: i64| task.owns(encode(&[key]).hash(0));
                        model.advance(case, owned, Some(clock_ms));
                    }
                }
                // a session that has closed gives its row at once, also if it had grown
                if matches!(case.windows, Windows::Session { .. }) && case.policy.sinks && *mask == 255 {
                    let is_closed = |group: &GroupId| group.1.phase(Some(clock_ms), 0) != Phase::Open;
                    let expired = |group: &GroupId| {
                        group.1.phase(Some(clock_ms), case.policy.allowed_lateness_ms) == Phase::Expired
                    };
                    let asked =
                        |group: &GroupId| if case.policy.corrects() { is_closed(group) } else { expired(group) };
                    for group in model.table(asked).keys() {
                        assert!(world.table.contains_key(group), "{group:?} has closed and gave nothing");
                    }
                }
            }
            Step::Barrier | Step::Tick => {
                let when = if matches!(step, Step::Barrier) { When::Barrier } else { When::Tick };
                if when == When::Tick && !case.policy.early {
                    continue;
                }
                tasks.iter_mut().for_each(|task| task.give(when, &mut world));
                if case.policy.early == (when == When::Tick) && case.policy.sinks {
                    let early = case.policy.early;
                    let is_shown =
                        |group: &GroupId| early || group.1.phase(watermark_of(&tasks, group.0), 0) != Phase::Open;
                    assert_eq!(world.table, model.table(is_shown), "after {step:?}");
                }
            }
            Step::Exchange(0) => tasks.iter_mut().for_each(|task| task.lose_partials(None)),
            Step::Exchange(times) => tasks.iter_mut().for_each(|task| task.unlucky = *times),
            Step::Spill(panes) => tasks.iter_mut().for_each(|task| task.spill(*panes)),
            Step::Restart(next) => {
                let mut checkpoints = Vec::new();
                for task in &mut tasks {
                    task.give(When::Barrier, &mut world);
                    let mut checkpoint = Checkpoint::default();
                    task.export(&mut checkpoint);
                    // and once more, as if the next checkpoint had come at once: nothing is lost by what stays
                    task.export(&mut checkpoint);
                    checkpoints.push(checkpoint);
                }
                let reached: Vec<Reached> = tasks
                    .iter()
                    .map(|task| Reached {
                        first_key_group: task.groups.0,
                        last_key_group: task.groups.1 - 1,
                        watermark_ms: task.watermark_ms,
                    })
                    .collect();
                let watermark_ms = tasks.iter().map(|task| task.watermark_ms).max().flatten();
                tasks = start(case, *next);
                for task in &mut tasks {
                    task.watermark_ms = watermark_ms;
                    task.windower.set_reached(reached.clone());
                    task.restore(&checkpoints);
                    // the model forgets when the watermark is looked at, and so does the task
                    task.give(When::Watermark, &mut world);
                }
                model.advance(case, |_| true, watermark_ms);
            }
        }
    }
    assert_eq!(world.late, model.late, "late");
    let all = model.table(|_| true);
    if case.policy.sinks || !case.policy.corrects() {
        assert_eq!(world.table, all, "the table at the end");
    }
    if case.policy.operators && !matches!(case.windows, Windows::Global { .. }) {
        assert_eq!(world.once, all, "what operators were given");
    }
    if !matches!(case.windows, Windows::Global { .. }) {
        for task in &tasks {
            assert!(task.windower.is_empty(), "groups are left");
            assert!(task.slots.values().all(Set::is_empty), "slots are not empty: {:?}", task.slots);
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let events = prop::collection::vec((0_i64..5, -60_i64..30), 1..20).prop_map(Step::Events);
    let step = prop_oneof![
        6 => events,
        3 => (1_i64..25, prop_oneof![2 => Just(255_u8), 1 => any::<u8>()]).prop_map(|(by, mask)| Step::Watermark(by, mask)),
        2 => Just(Step::Barrier),
        2 => Just(Step::Tick),
        1 => (1_usize..4).prop_map(Step::Restart),
        1 => (1_usize..6).prop_map(Step::Spill),
        1 => (0_usize..3).prop_map(Step::Exchange),
    ];
    prop::collection::vec(step, 1..40)
}

fn policy() -> impl Strategy<Value = Policy> {
    (prop_oneof![Just(0_i64), 1_i64..40], any::<bool>(), 0_u8..3).prop_map(|(allowed_lateness_ms, early, below)| {
        Policy { allowed_lateness_ms, early, sinks: below != 1, operators: below != 0 }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn sliced_windows_are_what_the_definition_says(
        (size, slide) in (1_i64..40).prop_flat_map(|size| (Just(size), 1..=size)),
        policy in policy(), tasks in 1_usize..4, steps in steps(),
    ) {
        run(Case { windows: Windows::Sliced(Slicing::new(size, slide, 0)), policy }, tasks, &steps);
    }

    /// Many panes a window, which share partial results; nothing on disk.
    #[test]
    fn windows_of_many_panes_are_what_the_definition_says(
        (size, slide) in (20_i64..80).prop_flat_map(|size| (Just(size), 1..=size / 8)),
        tasks in 1_usize..3, mut steps in prop::collection::vec(steps(), 1..4),
    ) {
        let policy = Policy { sinks: true, operators: true, ..Policy::default() };
        let steps: Vec<Step> = steps.drain(..).flatten().filter(|s| !matches!(s, Step::Spill(_) | Step::Tick)).collect();
        run(Case { windows: Windows::Sliced(Slicing::new(size, slide, 0)), policy }, tasks, &steps);
    }

    #[test]
    fn tumbling_windows_are_what_the_definition_says(
        size in 1_i64..40, policy in policy(), tasks in 1_usize..4, steps in steps(),
    ) {
        run(Case { windows: Windows::Sliced(Slicing::tumbling(size, 0)), policy }, tasks, &steps);
    }

    #[test]
    fn sessions_are_what_the_definition_says(
        gap_ms in 1_i64..20, policy in policy(), tasks in 1_usize..4, steps in steps(),
    ) {
        run(Case { windows: Windows::Session { gap_ms }, policy }, tasks, &steps);
    }

    #[test]
    fn the_global_window_is_what_the_definition_says(
        ttl_ms in 1_i64..60, tasks in 1_usize..4, steps in steps(),
    ) {
        let policy = Policy { allowed_lateness_ms: 0, early: true, sinks: true, operators: false };
        run(Case { windows: Windows::Global { ttl_ms }, policy }, tasks, &steps);
    }

    /// Without late events the order in which they come does not matter: gaps and islands over the sorted times.
    #[test]
    fn sessions_are_islands(
        gap_ms in 1_i64..20,
        events in prop::collection::vec((0_i64..3, 0_i64..200), 1..80),
    ) {
        let mut expected: BTreeSet<GroupId> = BTreeSet::new();
        for key in 0..3 {
            let mut times: Vec<i64> = events.iter().filter(|(k, _)| *k == key).map(|(_, t)| *t).collect();
            times.sort_unstable();
            for island in times.chunk_by(|a, b| b - a < gap_ms) {
                expected.insert((key, Window { start_ms: island[0], end_ms: island[island.len() - 1] + gap_ms }));
            }
        }
        let policy = Policy { sinks: true, ..Policy::default() };
        let mut task = Task::new(Case { windows: Windows::Session { gap_ms }, policy }, 0, 1);
        let mut world = World::default();
        for (at, chunk) in events.chunks(9).enumerate() {
            // ids that are not refused
            let all = chunk.iter().zip(0..).map(|((key, time_ms), n)| Event { key: *key, time_ms: *time_ms, id: (at * 9 + n) * 7 });
            task.take(&all.collect::<Vec<_>>(), &mut world);
        }
        task.watermark_ms = Some(END_OF_TIME_MS);
        task.give(When::Watermark, &mut world);
        prop_assert_eq!(world.table.keys().copied().collect::<BTreeSet<_>>(), expected);
    }
}
