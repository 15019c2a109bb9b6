//! A trial that breaks a law, as a case's file: `plugin test` checks it from then on.

use std::fmt::Write as _;

use millrace_core::schema::Field;
use serde_json::Value;

use super::subject::LawSubject;
use super::{Broken, Law, Trial};
use crate::golden::case::Case;
use crate::golden::table::{Head, Role};
use crate::golden::update::{key, list, quoted, value};
use crate::spec::model::{EventTimeSpec, TimeUnit, WindowSpec};
use crate::spec::show_duration_ms;

pub fn file_name(law: Law) -> String {
    format!("law-{}.toml", law.name())
}

/// The file's text.
pub fn text(law: Law, subject: &LawSubject, case: &Case, trial: &Trial, broken: &Broken) -> String {
    let mut out = String::new();
    // writing to a string cannot fail
    let _ = write_head(&mut out, law, case, broken);
    let fields = &subject.schema.schema.fields;
    for part in 0..trial.parts {
        let events = trial.rows.iter().filter(|(of, _)| *of == part).map(|(_, row)| {
            let cells =
                fields.iter().filter_map(|f| Some(format!("{} = {}", key(&f.name), cell(f, row.get(&f.name)?))));
            format!("{{ {} }}", cells.collect::<Vec<_>>().join(", "))
        });
        let events: Vec<String> = events.collect();
        let events = if events.is_empty() { "[]".to_owned() } else { list(events.into_iter()) };
        let _ = writeln!(out, "\n[[steps]]{}\nevents = {events}", name_of(law, part));
    }
    out
}

fn write_head(out: &mut String, law: Law, case: &Case, broken: &Broken) -> std::fmt::Result {
    writeln!(out, "# Found by `millrace plugin test`: these rows break the law `{}`:", law.name())?;
    writeln!(out, "# {}.", law.says())?;
    for line in broken.0.lines() {
        // a comment holds no control characters
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        writeln!(out, "# {}", line.trim_end())?;
    }
    writeln!(out, "# It is checked by every `plugin test` from now on; the steps are the parts that rows come in.")?;
    writeln!(out, "law = {}", quoted(law.name()))?;
    let names: Vec<String> = case.key.iter().map(|k| quoted(k)).collect();
    writeln!(out, "key = [{}]", names.join(", "))?;
    let show = |ms: i64| quoted(&show_duration_ms(u64::try_from(ms).unwrap_or(0)));
    let offset = |ms: i64| if ms == 0 { String::new() } else { format!(", offset = {}", show(ms)) };
    let window = match case.window {
        Some(WindowSpec::Tumbling { size_ms, offset_ms }) => {
            Some(format!("type = \"tumbling\", size = {}{}", show(size_ms), offset(offset_ms)))
        }
        Some(WindowSpec::Sliding { size_ms, slide_ms, offset_ms }) => Some(format!(
            "type = \"sliding\", size = {}, slide = {}{}",
            show(size_ms),
            show(slide_ms),
            offset(offset_ms)
        )),
        Some(WindowSpec::Session { gap_ms }) => Some(format!("type = \"session\", gap = {}", show(gap_ms))),
        Some(WindowSpec::Global) => Some("type = \"global\"".to_owned()),
        None => None,
    };
    if let Some(window) = window {
        writeln!(out, "window = {{ {window} }}")?;
    }
    if let EventTimeSpec::Column { name, unit } = &case.event_time {
        let unit = match unit {
            TimeUnit::Millis => None,
            TimeUnit::Seconds => Some("s"),
            TimeUnit::Micros => Some("us"),
            TimeUnit::Nanos => Some("ns"),
        };
        match unit {
            None => writeln!(out, "event_time = {}", quoted(name))?,
            Some(unit) => writeln!(out, "event_time = {{ column = {}, unit = \"{unit}\" }}", quoted(name))?,
        }
    }
    if let Ok(config @ Value::Object(_)) = serde_json::from_str(&case.config)
        && case.config != "{}"
    {
        writeln!(out, "config = {}", plain(&config))?;
    }
    if !case.columns.is_empty() {
        let columns: Vec<String> = case.columns.iter().map(|(a, b)| format!("{} = {}", key(a), quoted(b))).collect();
        writeln!(out, "columns = {{ {} }}", columns.join(", "))?;
    }
    writeln!(out, "\n[schema]")?;
    for Field { name, data_type, nullable } in &case.schema.schema.fields {
        writeln!(out, "{} = \"{data_type}{}\"", key(name), if *nullable { "?" } else { "" })?;
    }
    Ok(())
}

/// The letter that the laws' messages use.
fn name_of(law: Law, part: usize) -> String {
    let letter = ["A", "B", "C"].get(part).filter(|_| matches!(law, Law::MergeAssociative | Law::MergeCommutative));
    letter.map(|letter| format!("  # {letter}")).unwrap_or_default()
}

fn cell(field: &Field, json: &Value) -> String {
    let head = Head { name: field.name.clone(), data_type: field.data_type, role: Role::Value };
    value(&head, &json.to_string())
}

/// JSON as inline TOML; TOML has no null, and options have none either.
fn plain(json: &Value) -> String {
    match json {
        Value::Object(map) => {
            let each = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| format!("{} = {}", key(k), plain(v)));
            format!("{{ {} }}", each.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}
