//! The brute-force model: a loop over all messages by the contract's definitions, compared with what is in the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use millrace_core::checkpoint::{Checkpoint, PositionRange};
use serde_json::Value;

use super::pipeline::LEDGER;
use super::script::{Event, GOOD, Kind, Meaning, Script};
use super::world::{Table, World, lock};
use crate::spec::parse_instant_ms;

/// A message: partition and offset.
type Place = (i32, i64);

type Checked = Result<(), String>;

pub fn check(world: &World) -> Checked {
    let checkpoints = checkpoints(world)?;
    for table in ["results", "raw", "errors", "late"] {
        positions_touch(world, table, checkpoints.last())?;
    }
    raw_events(&world.script, &world.table("raw"))?;
    let results = results(&world.script, &world.table("results"))?;
    let (source_errors, refused) = errors(world)?;
    let late = late(&world.script, &world.table("late"))?;

    let unreadable = world.script.messages().filter(|(_, m)| !matches!(m.meaning, Meaning::Event(_)));
    exactly_once("dead letters of the source", unreadable.map(|(p, m)| (p, m.offset)), source_errors)?;
    if let Some(good) =
        refused.iter().find(|place| world.script.events().any(|(p, o, e)| (p, o) == **place && e.kind == GOOD))
    {
        return Err(format!("{good:?} was refused without a reason"));
    }
    let dropped = checkpoints.last().map_or(0, |c| c.operators.values().map(|o| o.late_dropped).sum());
    if world.script.punctual && (!late.is_empty() || dropped > 0) {
        return Err(format!("no event is late, but {late:?} and {dropped} more were taken for it"));
    }
    let mut seen: Vec<Place> = results.into_iter().chain(refused).chain(late).collect();
    if !world.script.late_connected {
        // counted, but nobody knows which: they must be as many as are missing
        let there: BTreeSet<Place> = seen.iter().copied().collect();
        let missing: Vec<Place> =
            world.script.events().map(|(p, o, _)| (p, o)).filter(|p| !there.contains(p)).collect();
        if missing.len() as u64 != dropped {
            return Err(format!("{missing:?} are in no result, {dropped} were counted as late"));
        }
        seen.extend(missing);
    }
    exactly_once("results, refused and late", world.script.events().map(|(p, o, _)| (p, o)), seen)
}

fn exactly_once(
    what: &str,
    expected: impl IntoIterator<Item = Place>,
    found: impl IntoIterator<Item = Place>,
) -> Checked {
    let mut times: BTreeMap<Place, i64> = BTreeMap::new();
    for place in found {
        *times.entry(place).or_default() += 1;
    }
    for place in expected {
        match times.remove(&place) {
            Some(1) => {}
            Some(n) => return Err(format!("{what}: {place:?} is there {n} times")),
            None => return Err(format!("{what}: {place:?} is lost")),
        }
    }
    match times.into_iter().next() {
        None => Ok(()),
        Some((place, n)) => Err(format!("{what}: {place:?} is there {n} times, and does not belong there")),
    }
}

fn long(row: &Value, column: &str) -> Result<i64, String> {
    row[column].as_i64().ok_or_else(|| format!("no number in `{column}` of {row}"))
}

fn place(row: &Value) -> Result<Place, String> {
    Ok((i32::try_from(long(row, "partition")?).map_err(|e| e.to_string())?, long(row, "offset")?))
}

fn instant(row: &Value, column: &str) -> Result<i64, String> {
    row[column].as_str().and_then(parse_instant_ms).ok_or_else(|| format!("no time in `{column}` of {row}"))
}

fn same<T: PartialEq + Debug>(what: &str, row: &Value, found: T, expected: T) -> Checked {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, not {expected:?}, in {row}")) }
}

/// Every readable event once, unchanged, under a commit that says it covers its offset.
fn raw_events(script: &Script, table: &Table) -> Checked {
    let events: BTreeMap<Place, &Event> = script.events().map(|(p, o, e)| ((p, o), e)).collect();
    let mut found = Vec::new();
    for commit in &table.commits {
        for row in &commit.rows {
            let place = place(row)?;
            let event = events.get(&place).ok_or_else(|| format!("{row} is no event of the source"))?;
            same("id", row, long(row, "id")?, event.id)?;
            same("user", row, long(row, "user")?, event.user)?;
            same("key", row, row["key"].as_str(), Some(event.key.as_str()))?;
            same("at", row, instant(row, "at")?, event.time_ms)?;
            covered(place, commit.checkpoint, &commit.positions)?;
            found.push(place);
        }
    }
    exactly_once("raw events", events.into_keys(), found)
}

fn covered(place: Place, checkpoint: u64, ranges: &[PositionRange]) -> Checked {
    let range = ranges.iter().find(|r| r.partition == place.0);
    if range.is_some_and(|r| (r.from..r.to).contains(&place.1)) {
        return Ok(());
    }
    Err(format!("{place:?} came with the commit of checkpoint {checkpoint}, which says {range:?}"))
}

/// The last version of each result, if each version is there once.
fn last_versions(table: &Table) -> Result<BTreeMap<(String, i64, i64), Value>, String> {
    let mut versions: BTreeMap<(String, i64, i64), BTreeMap<i64, Value>> = BTreeMap::new();
    for row in table.commits.iter().flat_map(|c| &c.rows) {
        let key = row["key"].as_str().ok_or_else(|| format!("no key in {row}"))?;
        let group = (key.to_owned(), instant(row, "window_start")?, instant(row, "window_end")?);
        if versions.entry(group).or_default().insert(long(row, "revision")?, row.clone()).is_some() {
            return Err(format!("this revision is there twice: {row}"));
        }
    }
    let mut last = BTreeMap::new();
    for (group, versions) in versions {
        let mut present = false;
        for (expected, (revision, row)) in (1..).zip(&versions) {
            let kind = row["change"].as_str().unwrap_or_default();
            if *revision != expected || (kind == "insert") == present {
                return Err(format!("revision {expected} should be here, present: {present}: {row}"));
            }
            present = kind != "delete";
        }
        last.extend(versions.into_values().last().filter(|_| present).map(|row| (group, row)));
    }
    Ok(last)
}

/// The last version of each window of each key is of its own events; returns those.
fn results(script: &Script, table: &Table) -> Result<Vec<Place>, String> {
    let events: BTreeMap<i64, (Place, &Event)> = script.events().map(|(p, o, e)| (e.id, ((p, o), e))).collect();
    let mut windows_of: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    let last = last_versions(table)?;
    for ((key, start_ms, end_ms), row) in &last {
        let ids = row["ids"].as_str().unwrap_or_default().split_whitespace();
        let ids: Vec<i64> = ids.map(str::parse).collect::<Result<_, _>>().map_err(|e| format!("{e} in {row}"))?;
        let mut users = BTreeSet::new();
        for id in &ids {
            let (_, event) = events.get(id).ok_or_else(|| format!("{id} is no event: {row}"))?;
            same("key", row, key.as_str(), event.key.as_str())?;
            same("kind", row, event.kind, GOOD)?;
            users.insert(event.user);
            let in_it = match script.kind {
                Kind::Session => *start_ms <= event.time_ms && event.time_ms + script.window_ms <= *end_ms,
                _ => windows(script, event.time_ms).contains(start_ms) && *end_ms == start_ms + script.window_ms,
            };
            same("that the window is one of the event's", row, in_it, true)?;
            if !windows_of.entry(*id).or_default().insert(*start_ms) {
                return Err(format!("event {id} is there twice: {row}"));
            }
        }
        same("events", row, usize::try_from(long(row, "events")?).ok(), Some(ids.len()))?;
        same("users", row, usize::try_from(long(row, "users")?).ok(), Some(users.len()))?;
    }
    for (id, found) in &windows_of {
        let (_, event) = events[id];
        // windows that expired before it came lack it: the older ones
        let all = windows(script, event.time_ms);
        let newest: BTreeSet<i64> = all.iter().rev().take(found.len()).copied().collect();
        let right = match script.kind {
            Kind::Session => found.len() == 1,
            _ => *found == newest && (!script.punctual || found.len() == all.len()),
        };
        if !right {
            return Err(format!("event {id} at {} is in the windows {found:?} of {all:?}", event.time_ms));
        }
    }
    if script.punctual && script.kind == Kind::Session {
        let found: BTreeSet<(String, i64, i64)> = last.into_keys().collect();
        let expected = islands(script);
        if found != expected {
            let (extra, missing): (Vec<_>, Vec<_>) =
                (found.difference(&expected).collect(), expected.difference(&found).collect());
            return Err(format!("the sessions {extra:?} are none, {missing:?} are missing"));
        }
    }
    Ok(windows_of.keys().map(|id| events[id].0).collect())
}

/// Gaps and islands over the sorted times; of nothing but refused events there is no row.
fn islands(script: &Script) -> BTreeSet<(String, i64, i64)> {
    let mut by_key: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for (_, _, event) in script.events() {
        by_key.entry(&event.key).or_default().push(event);
    }
    let mut found = BTreeSet::new();
    for (key, mut events) in by_key {
        events.sort_by_key(|event| event.time_ms);
        for island in events.chunk_by(|a, b| b.time_ms - a.time_ms < script.window_ms) {
            let (first, last) = (island[0].time_ms, island[island.len() - 1].time_ms);
            if island.iter().any(|event| event.kind == GOOD) {
                found.insert((key.to_owned(), first, last + script.window_ms));
            }
        }
    }
    found
}

/// Starts of the windows of an event, ascending; of sessions, of the one that it would be by itself.
fn windows(script: &Script, time_ms: i64) -> Vec<i64> {
    let slide_ms = match script.kind {
        Kind::Tumbling => script.window_ms,
        Kind::Sliding { slide_ms } => slide_ms,
        Kind::Session => return vec![time_ms],
    };
    let begins = |start: &i64| (start - script.window_offset_ms).rem_euclid(slide_ms) == 0;
    (time_ms - script.window_ms + 1..=time_ms).filter(begins).collect()
}

/// Dead letters of the source, and rows that the plugin refused.
fn errors(world: &World) -> Result<(Vec<Place>, Vec<Place>), String> {
    let table = world.table("errors");
    let rows = table.commits.iter().flat_map(|c| &c.rows);
    let (of_plugin, of_source): (Vec<&Value>, Vec<&Value>) = rows.partition(|row| row["node"] == LEDGER);
    let places = |rows: Vec<&Value>| rows.into_iter().map(place).collect::<Result<Vec<_>, _>>();
    Ok((places(of_source)?, places(of_plugin)?))
}

/// Late rows, if no watermark that there can ever have been makes one of them early.
fn late(script: &Script, table: &Table) -> Result<Vec<Place>, String> {
    let bound_ms = i64::try_from(script.out_of_orderness_ms + script.lateness_ms).map_err(|e| e.to_string())?;
    let newest_ms = script.events().map(|(_, _, e)| e.time_ms).max().unwrap_or_default();
    let events: BTreeMap<Place, &Event> = script.events().map(|(p, o, e)| ((p, o), e)).collect();
    let rows = table.commits.iter().flat_map(|c| &c.rows);
    rows.map(|row| {
        let place = place(row)?;
        let event = events.get(&place).ok_or_else(|| format!("late, and no event: {row}"))?;
        let last_ms = windows(script, event.time_ms).last().map_or(0, |start_ms| start_ms + script.window_ms - 1);
        if last_ms > newest_ms - bound_ms - 1 {
            return Err(format!("no watermark can have passed the window of {row}"));
        }
        Ok(place)
    })
    .collect()
}

/// The ranges that a table's commits say they cover touch, and reach to where the last checkpoint is.
fn positions_touch(world: &World, name: &str, last: Option<&Checkpoint>) -> Checked {
    let mut reached: BTreeMap<i32, i64> = BTreeMap::new();
    let table = world.table(name);
    let open = last.and_then(|c| c.sinks.get(name)).map(|s| s.open.positions.clone()).unwrap_or_default();
    let commits = table.commits.iter().map(|c| (c.checkpoint, &c.positions));
    let mut former = 0;
    for (checkpoint, ranges) in commits.chain([(u64::MAX, &open)]) {
        if checkpoint <= former {
            return Err(format!("table {name}: checkpoint {checkpoint} after {former}"));
        }
        former = checkpoint;
        for range in ranges {
            let before = reached.insert(range.partition, range.to);
            if before.unwrap_or(0) != range.from || range.to < range.from {
                return Err(format!("table {name}: {range:?} of checkpoint {checkpoint} follows {before:?}"));
            }
        }
    }
    for (number, p) in (0..).zip(&world.script.partitions) {
        if last.is_some_and(|c| c.sinks.contains_key(name)) && reached.get(&number).copied().unwrap_or(0) != p.end {
            return Err(format!(
                "table {name}: partition {number} is covered to {:?} of {}",
                reached.get(&number),
                p.end
            ));
        }
    }
    Ok(())
}

/// All checkpoints ever published, if no generation, position, watermark or count goes back from one to the next. A record
/// may still be written where another was deleted, by a process that then finds newer ones: nobody goes on from that.
fn checkpoints(world: &World) -> Result<Vec<Checkpoint>, String> {
    let records = lock(&world.published).clone();
    let mut former: BTreeMap<String, i64> = BTreeMap::new();
    let mut checkpoints = Vec::new();
    let (mut number, mut generation) = (0, 0);
    for record in &records {
        if record.number < number {
            continue;
        }
        if record.generation < generation || record.number == number {
            return Err(format!(
                "record {} of generation {} follows {number} of {generation}",
                record.number, record.generation
            ));
        }
        (number, generation) = (record.number, record.generation);
        let mut facts = Vec::new();
        if let Some(checkpoint) = record.checkpoint() {
            facts.extend(never_go_back(checkpoint));
            checkpoints.push(checkpoint.clone());
        }
        for (name, value) in facts {
            let before = former.insert(name.clone(), value);
            if before.is_some_and(|before| before > value) {
                return Err(format!("record {}: {name} goes back from {before:?} to {value}", record.number));
            }
        }
    }
    Ok(checkpoints)
}

fn never_go_back(checkpoint: &Checkpoint) -> Vec<(String, i64)> {
    let mut facts = Vec::new();
    for p in checkpoint.sources.values().flat_map(|s| &s.partitions) {
        facts.push((format!("position of {}", p.partition), p.position));
        facts.push((format!("watermark of {}", p.partition), p.watermark_ms.unwrap_or(i64::MIN)));
    }
    for (name, operator) in &checkpoint.operators {
        facts.push((format!("watermark of {name}"), operator.watermark_ms.unwrap_or(i64::MIN)));
        facts.push((format!("late_dropped of {name}"), signed(operator.late_dropped)));
    }
    for (name, sink) in &checkpoint.sinks {
        facts.push((format!("what is confirmed of {name}"), signed(sink.confirmed)));
    }
    facts
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
