//! The actual rows written into a case's file: those of `expect`, `rejected` and `late` that differ are replaced where they
//! stand, added where they are missing, taken out where nothing came. All else of the file stays as it is.

use millrace_core::schema::DataType;

use super::case::{Case, Step};
use super::compare::Difference;
use super::operator::StepOutcome;
use super::table::{Cell, Head, Role, Table};

/// The file's new text.
pub fn update(case: &Case, outcomes: &[(StepOutcome, Table)], differences: &[Difference]) -> String {
    let mut text = case.source.text.clone();
    let steps = (1..).zip(case.steps.iter().zip(outcomes)).collect::<Vec<_>>();
    // from the end, so that the places before stay right
    for (number, (step, (outcome, rows))) in steps.into_iter().rev() {
        let Some(difference) = differences.iter().find(|d| d.step == number) else { continue };
        let late = outcome.late.len();
        let values = [
            ("expect", (!rows.rows.is_empty()).then(|| list(rows.rows.iter().map(|row| inline_row(rows, row))))),
            ("rejected", (!outcome.rejected.is_empty()).then(|| list(outcome.rejected.iter().map(|r| quoted(r))))),
            ("late", (late > 0).then(|| late.to_string())),
        ];
        let differs = |key: &str| difference.lines.iter().any(|line| line.key() == key);
        let values: Vec<_> = values.into_iter().filter(|(key, _)| differs(key)).collect();
        put(&mut text, step, &values);
    }
    text
}

fn put(text: &mut String, step: &Step, values: &[(&'static str, Option<String>)]) {
    let mut edits: Vec<(std::ops::Range<usize>, String)> = Vec::new();
    let mut added = String::new();
    for (key, value) in values {
        match (step.places.get(key), value) {
            (Some(place), Some(value)) => edits.push((place.clone(), format!("{key} = {value}"))),
            (Some(place), None) => edits.push((whole_line(text, place.clone()), String::new())),
            (None, Some(value)) => added.push_str(&format!("{key} = {value}\n")),
            (None, None) => {}
        }
    }
    if !added.is_empty() {
        let end = text.get(step.end..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| step.end + at + 1);
        if end == text.len() && !text.ends_with('\n') {
            added.insert(0, '\n');
        }
        edits.push((end..end, added));
    }
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    for (place, value) in edits {
        text.replace_range(place, &value);
    }
}

/// With what follows on its last line, if that is nothing but space.
fn whole_line(text: &str, place: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let rest = text.get(place.end..).unwrap_or_default();
    let line = rest.find('\n').map_or(rest, |at| rest.get(..=at).unwrap_or_default());
    let end = if line.trim().is_empty() { place.end + line.len() } else { place.end };
    place.start..end
}

/// One item a line.
pub fn list(items: impl Iterator<Item = String>) -> String {
    let mut out = String::from("[\n");
    for item in items {
        out.push_str(&format!("  {item},\n"));
    }
    out.push(']');
    out
}

fn inline_row(table: &Table, row: &[Cell]) -> String {
    let cells = table
        .columns
        .iter()
        .zip(row)
        .filter(|(head, _)| head.role != Role::WindowEnd)
        .filter_map(|(head, cell)| Some(format!("{} = {}", key(&head.name), value(head, cell.as_ref()?))));
    format!("{{ {} }}", cells.collect::<Vec<_>>().join(", "))
}

/// A bare key where TOML allows one.
pub fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if bare { name.to_owned() } else { quoted(name) }
}

/// A cell's JSON as TOML.
pub fn value(head: &Head, json: &str) -> String {
    match head.data_type {
        // TOML has these as they are, for the years 0 to 9999
        DataType::Timestamp | DataType::Timestamptz | DataType::Date => {
            let bare = json.trim_matches('"');
            let four_digits = bare.find('-') == Some(4);
            if four_digits { bare.to_owned() } else { json.to_owned() }
        }
        DataType::Float | DataType::Double => match json {
            "\"NaN\"" => "nan".to_owned(),
            "\"Infinity\"" => "inf".to_owned(),
            "\"-Infinity\"" => "-inf".to_owned(),
            finite => finite.to_owned(),
        },
        DataType::Boolean | DataType::Int | DataType::Long => json.to_owned(),
        _ => serde_json::from_str::<String>(json).map_or_else(|_| json.to_owned(), |text| quoted(&text)),
    }
}

/// A basic string: as in JSON, which leaves DEL as it is, and TOML does not.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
