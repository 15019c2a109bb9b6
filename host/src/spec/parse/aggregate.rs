//! `aggregate = { NAME = "sum(column)", … }` of an aggregation.

use crate::plugin::builtin::{self, Aggregate};
use crate::spec::cursor::Cursor;
use crate::spec::diagnostic::Diagnostic;

/// The aggregates if all of them are right.
pub fn read(c: &Cursor<'_>) -> Option<Vec<Aggregate>> {
    for key in ["config", "columns"] {
        if c.has(key) {
            c.report(
                Diagnostic::error(c.key_span(key), format!("`{key}` belongs to a plugin, and here are aggregates"))
                    .hint(match key {
                        "columns" => "an aggregate names the input's columns itself: take it out",
                        _ => "take it out",
                    }),
            );
        }
    }
    let table = c.table("aggregate", format!("`aggregate` of {}", c.what()))?;
    let names = table.keys();
    if names.is_empty() {
        c.wrong(&["aggregate"], "there is no aggregate here", "for example `aggregate = { events = \"count(*)\" }`");
    }
    let mut aggregates = Vec::new();
    for name in &names {
        if name.is_empty() || name.chars().any(char::is_control) {
            table.wrong(&[name], "a column needs a name that can be read", "take the control characters out");
        }
        let Some(text) = table.string(name) else { continue };
        match builtin::parse(name, &text) {
            Ok(aggregate) => aggregates.push(aggregate),
            Err(wrong) => {
                let span = table.span_within(name, &text, wrong.place.as_ref());
                table.report(Diagnostic::error(span, wrong.message).hint_if_any(wrong.hint));
            }
        }
    }
    table.finish();
    (!names.is_empty() && aggregates.len() == names.len()).then_some(aggregates)
}
