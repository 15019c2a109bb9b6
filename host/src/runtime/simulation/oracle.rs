//! The brute-force model: a loop over all messages by the contract's definitions, compared with what is in the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use millrace_core::checkpoint::{Checkpoint, PositionRange};
use serde_json::Value;

use super::pipeline::LEDGER;
use super::script::{Event, GOOD, Meaning, Script};
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

/// Each window once per key, of its own events; returns those.
fn results(script: &Script, table: &Table) -> Result<Vec<Place>, String> {
    let events: BTreeMap<i64, (Place, &Event)> = script.events().map(|(p, o, e)| (e.id, ((p, o), e))).collect();
    let mut windows = BTreeSet::new();
    let mut places = Vec::new();
    for row in table.commits.iter().flat_map(|c| &c.rows) {
        let key = row["key"].as_str().ok_or_else(|| format!("no key in {row}"))?;
        let start_ms = instant(row, "window_start")?;
        same("window_end", row, instant(row, "window_end")?, start_ms + script.window_ms)?;
        if !windows.insert((key, start_ms)) {
            return Err(format!("a second result for key and window: {row}"));
        }
        let ids = row["ids"].as_str().unwrap_or_default().split_whitespace();
        let mut users = BTreeSet::new();
        let before = places.len();
        for id in ids {
            let id: i64 = id.parse().map_err(|e| format!("{e} in {row}"))?;
            let (place, event) = events.get(&id).ok_or_else(|| format!("{id} is no event: {row}"))?;
            same("key", row, key, event.key.as_str())?;
            same("the window of one event", row, start_ms, window_start_ms(script, event.time_ms))?;
            same("kind", row, event.kind, GOOD)?;
            users.insert(event.user);
            places.push(*place);
        }
        same("events", row, usize::try_from(long(row, "events")?).ok(), Some(places.len() - before))?;
        same("users", row, usize::try_from(long(row, "users")?).ok(), Some(users.len()))?;
    }
    Ok(places)
}

fn window_start_ms(script: &Script, time_ms: i64) -> i64 {
    (time_ms - script.window_offset_ms).div_euclid(script.window_ms) * script.window_ms + script.window_offset_ms
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
        let last_ms = window_start_ms(script, event.time_ms) + script.window_ms - 1;
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
