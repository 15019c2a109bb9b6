//! The slow path: any JSON there is, and the words for what is wrong with a message.
//!
//! `serde_json` checks the syntax of the whole message; after that the members are found by walking over text that is
//! known to be valid, so that numbers are still there as they were written (decimals are exact). Of several members
//! with one name the last counts. A string with a lone surrogate is an error where a column wants it, ignored
//! elsewhere.

use serde::de::IgnoredAny;

use super::columns::{Table, Value};
use super::plan::{ColumnPlan, Kind, Node, Plan};
use super::value;

/// Longest piece of a message that a reason quotes, in characters.
const QUOTED_CHARS_MAX: usize = 48;

/// Reads one message into the row under construction and ends the row, or says why not (the caller rolls back).
pub(super) fn decode(plan: &Plan, table: &mut Table, message: &[u8]) -> Result<(), String> {
    if message.is_empty() {
        return Err("empty message: expected a JSON object".to_owned());
    }
    let syntax = serde_json::from_slice::<IgnoredAny>(message);
    if let Err(error) = std::str::from_utf8(message) {
        let at = error.valid_up_to();
        let place = if syntax.is_ok() { member_at(message, at) } else { None };
        let place = place.map_or(String::new(), |name| format!("{}: ", described(&name, plan)));
        let byte = message.get(at).copied().unwrap_or(0);
        return Err(format!("{place}not valid UTF-8: byte 0x{byte:02x} at position {at}"));
    }
    if let Err(error) = syntax {
        return Err(format!("not valid JSON: {error}; found {}", quoted(message)));
    }
    let start = skip_space(message, 0);
    if message.get(start) != Some(&b'{') {
        return Err(format!("the top level is {}, expected an object", found(message.get(start..).unwrap_or(&[]))));
    }

    let mut members: Vec<Option<&[u8]>> = vec![None; plan.columns.len()];
    collect(&plan.root, message.get(start..).unwrap_or(&[]), &mut members);

    let mut valid = vec![0u64; plan.columns.len().div_ceil(64).max(1)];
    for (index, (column, member)) in plan.columns.iter().zip(members).enumerate() {
        match member.map(|raw| convert(column, raw)).transpose()? {
            Some(Some(value)) => {
                if !table.put(index, value) {
                    return Err(format!("{}: internal error: its column is of another kind", label(column)));
                }
                if let Some(word) = valid.get_mut(index / 64) {
                    *word |= 1 << (index % 64);
                }
            }
            given if column.required => {
                let what = if given.is_some() { "null" } else { "missing" };
                let why = if column.is_event_time { "it is the event time" } else { "it is not nullable" };
                return Err(format!("{} is {what}, and {why}", label(column)));
            }
            _ => {}
        }
    }
    table.end_row(&valid);
    Ok(())
}

/// A member's value in its column; `None` for null.
fn convert(column: &ColumnPlan, raw: &[u8]) -> Result<Option<Value>, String> {
    let kind = column.kind;
    let text = std::str::from_utf8(raw).unwrap_or("");
    let value = match raw.first() {
        Some(b'n') => return Ok(None),
        Some(b'"') => {
            let string = serde_json::from_slice::<String>(raw)
                .map_err(|error| format!("{}: {error}; found {}", label(column), found(raw)))?;
            value::from_text(kind, &string)
        }
        Some(b't') if kind == Kind::Boolean => Some(Value::Boolean(true)),
        Some(b'f') if kind == Kind::Boolean => Some(Value::Boolean(false)),
        Some(b'-' | b'0'..=b'9') => value::from_number(kind, text),
        _ => None,
    };
    match value {
        Some(value) => Ok(Some(value)),
        None => Err(format!("{}: expected {}, found {}", label(column), value::expected(kind), found(raw))),
    }
}

fn label(column: &ColumnPlan) -> String {
    format!("column `{}` ({})", column.name, column.type_name)
}

/// What a raw value is, for people.
fn found(raw: &[u8]) -> String {
    match raw.first() {
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "an array".to_owned(),
        Some(b'"') => format!("the string {}", quoted(raw)),
        Some(b'-' | b'0'..=b'9') => format!("the number {}", quoted(raw)),
        _ => quoted(raw),
    }
}

/// The beginning of a piece of a message, printable.
fn quoted(raw: &[u8]) -> String {
    let head = raw.get(..raw.len().min(QUOTED_CHARS_MAX * 4)).unwrap_or(&[]);
    let text = String::from_utf8_lossy(head);
    let shown: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(printable).collect();
    let more = raw.len() > head.len() || text.chars().nth(QUOTED_CHARS_MAX).is_some();
    if more { format!("{shown}… ({} bytes)", raw.len()) } else { shown }
}

fn printable(c: char) -> Box<dyn Iterator<Item = char>> {
    if c.is_control() { Box::new(c.escape_default()) } else { Box::new(std::iter::once(c)) }
}

/// The name of the top level's member that position `at` of a (valid) message stands in.
fn member_at(message: &[u8], at: usize) -> Option<String> {
    let start = skip_space(message, 0);
    let object = message.get(start..).filter(|o| o.first() == Some(&b'{'))?;
    let mut name = None;
    each_member(object, |key, _, end| {
        if name.is_none() && start + end > at {
            name = Some(String::from_utf8_lossy(key).into_owned());
        }
    });
    name
}

fn described(name: &str, plan: &Plan) -> String {
    let column = plan.root.children.get(name.as_bytes()).and_then(|node| plan.columns.get(node.column?));
    column.map_or_else(|| format!("member `{}`", quoted(name.as_bytes())), label)
}

/// Finds the columns' members below `object`.
fn collect<'m>(node: &Node, object: &'m [u8], members: &mut [Option<&'m [u8]>]) {
    each_member(object, |key, raw, _| {
        let unescaped;
        let name = if key.contains(&b'\\') {
            // a key with a lone surrogate is no column's name
            unescaped = unescape(key);
            unescaped.as_deref().map_or(&[][..], str::as_bytes)
        } else {
            key
        };
        let Some(child) = node.children.get(name) else { return };
        if let Some(slot) = child.column.and_then(|c| members.get_mut(c)) {
            *slot = Some(raw);
        }
        if !child.children.is_empty() {
            forget(child, members);
            if raw.first() == Some(&b'{') {
                collect(child, raw, members);
            }
        }
    });
}

/// The last member of a name counts: what an earlier one had below it does not.
fn forget(node: &Node, members: &mut [Option<&[u8]>]) {
    for child in node.children.values() {
        if let Some(slot) = child.column.and_then(|c| members.get_mut(c)) {
            *slot = None;
        }
        forget(child, members);
    }
}

fn unescape(key: &[u8]) -> Option<String> {
    let mut quoted = Vec::with_capacity(key.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(key);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).ok()
}

/// Walks over the members of an object that is known to be valid: key (between its quotes), value, position after it.
fn each_member<'m>(object: &'m [u8], mut visit: impl FnMut(&'m [u8], &'m [u8], usize)) {
    let mut at = skip_space(object, 1);
    while object.get(at) == Some(&b'"') {
        let key_end = string_end(object, at + 1);
        let start = skip_space(object, skip_space(object, key_end + 1) + 1);
        let end = value_end(object, start);
        let (Some(key), Some(raw)) = (object.get(at + 1..key_end), object.get(start..end)) else { return };
        visit(key, raw, end);
        at = skip_space(object, end);
        if object.get(at) != Some(&b',') {
            return;
        }
        at = skip_space(object, at + 1);
    }
}

/// The closing quote of a string whose first byte is at `at`.
fn string_end(m: &[u8], mut at: usize) -> usize {
    while let Some(found) = m.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if m.get(at) == Some(&b'"') {
            return at;
        }
        at += 2;
    }
    m.len()
}

fn value_end(m: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0usize;
    while let Some(byte) = m.get(at) {
        match byte {
            b'"' => {
                at = string_end(m, at + 1);
                if depth == 0 {
                    return at + 1;
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    m.len()
}

fn skip_space(m: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = m.get(at) {
        at += 1;
    }
    at
}
