//! State of one version in the next, through the real boundary and natively: `counts_v1` → `v2` → `v3` of
//! `plugins/sdk-guests`, against a count by hand; and what is refused.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::types::Float64Type;
use millrace_sdk_guests::{counts_v1, counts_v2, counts_v3, counts_v4};

use super::*;

/// More than one `migrate` gets.
const GROUPS: u32 = 8_000;

fn wasm(version: &str) -> Box<dyn AggregatorFactory> {
    Box::new(WasmFactory::new(&engine(), version, &component(version), PluginLimits::default()).unwrap())
}

/// The four versions in both forms.
fn versions() -> [[Box<dyn AggregatorFactory>; 4]; 2] {
    [
        ["counts_v1", "counts_v2", "counts_v3", "counts_v4"].map(wasm),
        [
            Box::new(NativeFactory::<counts_v1::Counts>::new("v1")),
            Box::new(NativeFactory::<counts_v2::Counts>::new("v2")),
            Box::new(NativeFactory::<counts_v3::Counts>::new("v3")),
            Box::new(NativeFactory::<counts_v4::Counts>::new("v4")),
        ],
    ]
}

fn open(factory: &dyn AggregatorFactory, config: &str) -> Box<dyn Aggregator> {
    let offered =
        [("user", DataType::String, false), ("amount", DataType::Long, true), ("note", DataType::String, true)];
    factory.open(config, &schema(&offered)).unwrap()
}

fn origin(factory: &dyn AggregatorFactory, config: &str) -> StateOrigin {
    let Info { name, version, .. } = factory.info().clone();
    StateOrigin { name, version, config: config.to_owned(), state: open(factory, config).signature().state.clone() }
}

#[derive(Clone)]
struct Event {
    group: u32,
    user: String,
    amount: Option<i64>,
    note: Option<String>,
}

/// Group 7 sees a thousand users, so that it travels in many rows; every eleventh group sees nothing.
fn events(seed: u64) -> Vec<Event> {
    let event = |i: u64| {
        let n = i.wrapping_add(seed * 100_000).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        Event {
            group: if i.is_multiple_of(12) { 7 } else { (n % u64::from(GROUPS)) as u32 },
            user: format!("user-{}", n % 4_001),
            amount: (!n.is_multiple_of(7)).then_some((n % 1_000) as i64),
            note: (n.is_multiple_of(3) && !n.is_multiple_of(5)).then(|| format!("note-{}", n % 89)),
        }
    };
    (0..12_000).map(event).filter(|event| event.group % 11 != 3).collect()
}

fn update(aggregator: &mut dyn Aggregator, events: &[Event]) {
    let wanted: Vec<String> = aggregator.signature().input.iter().map(|w| w.field.name.clone()).collect();
    let column = |name: &String| -> Option<ArrayRef> {
        Some(match name.as_str() {
            "user" => Arc::new(events.iter().map(|e| Some(e.user.as_str())).collect::<StringArray>()),
            "amount" => Arc::new(events.iter().map(|e| e.amount).collect::<Int64Array>()),
            _ => Arc::new(events.iter().map(|e| e.note.as_deref()).collect::<StringArray>()),
        })
    };
    let columns: Vec<_> = wanted.iter().map(column).collect();
    let groups: Vec<u32> = events.iter().map(|e| e.group).collect();
    assert_eq!(aggregator.update(&columns, &groups, GROUPS).unwrap(), []);
}

fn all() -> Vec<u32> {
    (0..GROUPS).collect()
}

/// How many rows went over in each chunk; none: refused.
fn swap(old: &mut dyn Aggregator, origin: &StateOrigin, new: &mut dyn Aggregator) -> Result<Option<Vec<usize>>> {
    let (mut cursor, mut chunks) = (Some(0), Vec::new());
    while let Some(at) = cursor {
        // small ones, of which group 7 fills several; the last one is migrated in parts
        let chunk = old.state(&all(), at, if chunks.len() < 20 { 2_000 } else { 5_000_000 })?;
        let Some(migrated) = new.migrate(origin, &chunk.columns)? else { return Ok(None) };
        new.merge(&migrated, &chunk.groups, GROUPS)?;
        chunks.push(chunk.groups.len());
        cursor = chunk.next;
    }
    Ok(Some(chunks))
}

fn evaluate(aggregator: &mut dyn Aggregator) -> Vec<ArrayRef> {
    let windows = vec![WindowUs { start: 0, end: 1 }; GROUPS as usize];
    aggregator.evaluate(&all(), &windows, false).unwrap().columns
}

/// By hand, for each group.
struct Seen {
    n: Vec<Option<i64>>,
    sum: Vec<i64>,
    note: Vec<Option<String>>,
    users: Vec<Option<i64>>,
    smallest: Vec<Option<i64>>,
}

fn by_hand(events: &[&[Event]]) -> Seen {
    let mut groups: BTreeMap<u32, Vec<&Event>> = all().into_iter().map(|group| (group, Vec::new())).collect();
    events.iter().flat_map(|events| *events).for_each(|event| groups.get_mut(&event.group).unwrap().push(event));
    let each = || groups.values();
    Seen {
        n: each().map(|mine| Some(mine.len() as i64)).collect(),
        sum: each().map(|mine| mine.iter().filter_map(|e| e.amount).sum()).collect(),
        note: each().map(|mine| mine.iter().filter_map(|e| e.note.clone()).max()).collect(),
        users: each().map(|mine| Some(mine.iter().map(|e| &e.user).collect::<BTreeSet<_>>().len() as i64)).collect(),
        smallest: each().map(|mine| mine.iter().map(|e| e.amount.unwrap_or(0)).min()).collect(),
    }
}

#[test]
fn state_goes_from_version_to_version() {
    let (before, between, after) = (events(1), events(2), events(3));
    for [v1, v2, v3, _] in versions() {
        let (mut one, mut two) = (open(&*v1, ""), open(&*v2, ""));
        update(&mut *one, &before);
        let chunks = swap(&mut *one, &origin(&*v1, ""), &mut *two).unwrap().unwrap();
        assert!(chunks.iter().sum::<usize>() > GROUPS as usize, "{chunks:?}");
        assert!(chunks.len() > 2 && chunks.last() > Some(&limits::MIGRATE_ROWS_MAX), "{chunks:?}");
        update(&mut *two, &between);
        let (columns, seen) = (evaluate(&mut *two), by_hand(&[&before, &between]));
        assert_eq!(longs(&columns[0]), seen.n);
        assert_eq!(longs(&columns[1]), seen.sum.iter().copied().map(Some).collect::<Vec<_>>());
        let notes: Vec<_> = columns[2].as_string::<i32>().iter().map(|note| note.map(str::to_owned)).collect();
        assert_eq!(notes, seen.note);
        assert_eq!(longs(&columns[3]), seen.users);
        // the new field knows of the events since
        let smallest = by_hand(&[&between]).smallest;
        assert_eq!(longs(&columns[4]), smallest.into_iter().map(|s| s.or(Some(i64::MAX))).collect::<Vec<_>>());

        // version 3 has a function for each of the others
        for (factory, old, former) in [(&v1, &mut one, &[&before[..]][..]), (&v2, &mut two, &[&before, &between])] {
            let mut three = open(&*v3, "");
            swap(&mut **old, &origin(&**factory, ""), &mut *three).unwrap().unwrap();
            update(&mut *three, &after);
            let (columns, seen) = (evaluate(&mut *three), by_hand(&[former, &[&after]].concat()));
            assert_eq!(longs(&columns[0]), seen.n);
            for (group, (total, sum)) in columns[1].as_primitive::<Float64Type>().iter().zip(&seen.sum).enumerate() {
                assert!((total.unwrap() - *sum as f64 / 100.0).abs() < 1e-9, "group {group}: {total:?} of {sum}");
            }
            // it does not look at notes any more: those that came over stay
            let notes = by_hand(former).note;
            assert_eq!(strings(&columns[2]), notes.iter().map(|n| n.as_deref().unwrap_or("")).collect::<Vec<_>>());
            assert_eq!(longs(&columns[3]), seen.users);
        }
    }
}

/// The sketches of all groups are as much as one call may return.
#[test]
fn sets_become_sketches_and_never_the_other_way_round() {
    let hll = r#"{"users":"hll"}"#;
    let (before, after) = (events(1), events(2));
    for [v1, v2, v3, _] in versions() {
        let (mut old, mut new, mut direct) = (open(&*v1, ""), open(&*v2, hll), open(&*v2, hll));
        update(&mut *old, &before);
        swap(&mut *old, &origin(&*v1, ""), &mut *new).unwrap().unwrap();
        update(&mut *new, &after);
        update(&mut *direct, &before);
        update(&mut *direct, &after);
        assert_eq!(longs(&evaluate(&mut *new)[3]), longs(&evaluate(&mut *direct)[3]));

        let mut estimated = open(&*v1, hll);
        update(&mut *estimated, &before);
        assert_eq!(swap(&mut *estimated, &origin(&*v1, hll), &mut *open(&*v2, "")).unwrap(), None);
        assert_eq!(swap(&mut *estimated, &origin(&*v1, hll), &mut *open(&*v3, "")).unwrap(), None);
    }
}

#[test]
fn what_nobody_said_may_be_taken_over_is_refused() {
    for [v1, v2, v3, v4] in versions() {
        let (mut one, mut two) = (open(&*v1, ""), open(&*v2, ""));
        update(&mut *one, &events(1));
        update(&mut *two, &events(1));
        // another schema, and nothing that says what becomes of it
        assert_eq!(swap(&mut *one, &origin(&*v1, ""), &mut *open(&*v4, "")).unwrap(), None);
        // the same schema under other options; then the same options in other words
        assert_eq!(swap(&mut *one, &origin(&*v1, ""), &mut *open(&*v1, r#"{"users":"hll"}"#)).unwrap(), None);
        let mut same = open(&*v1, r#"{"users":"exact"}"#);
        assert!(swap(&mut *one, &origin(&*v1, ""), &mut *same).unwrap().is_some());
        assert_eq!(evaluate(&mut *same), evaluate(&mut *one));
        // another plugin's
        let other = StateOrigin { name: "sums".to_owned(), ..origin(&*v1, "") };
        assert_eq!(swap(&mut *one, &other, &mut *open(&*v2, "")).unwrap(), None);
        // a version that no function names
        let newer = StateOrigin { version: "2.2.0".to_owned(), ..origin(&*v2, "") };
        assert_eq!(swap(&mut *two, &newer, &mut *open(&*v3, "")).unwrap(), None);
        assert!(swap(&mut *two, &origin(&*v2, ""), &mut *open(&*v3, "")).unwrap().is_some());
        // a row that the function refuses, after others that it took
        let negative = Event { group: GROUPS - 1, user: "ann".to_owned(), amount: Some(-1), note: None };
        update(&mut *two, &[negative]);
        assert_eq!(swap(&mut *two, &origin(&*v2, ""), &mut *open(&*v3, "")).unwrap(), None);
    }
}
