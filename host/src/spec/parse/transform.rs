//! `[transforms.NAME]`: filter, set, select, plugin, deduplicate.

use super::{Known, errors, inputs, reference};
use crate::spec::cursor::Cursor;
use crate::spec::diagnostic::Diagnostic;
use crate::spec::model::{DeduplicateSpec, Selected, TransformPluginSpec, TransformSpec};

const WITHIN_MS_MAX: u64 = 366 * 86_400_000;

/// Its inputs, and the transform if all of it is right.
pub fn read(c: &Cursor<'_>, known: &Known<'_>) -> (Vec<String>, Option<TransformSpec>) {
    let inputs = inputs(c);
    let filter = optional(c, "filter", |c, key| c.string(key));
    let set = optional(c, "set", expressions).map(Option::unwrap_or_default);
    let select = optional(c, "select", select);
    let plugin = if c.has("plugin") { plugin(c, known).map(Some) } else { without_plugin(c) };
    let deduplicate = optional(c, "deduplicate", deduplicate);
    let (on_error, consecutive_limit) = errors(c, known.head);
    c.finish();
    if !["filter", "set", "select", "plugin", "deduplicate"].iter().any(|step| c.has(step)) {
        c.report(
            Diagnostic::error(c.own_span(), format!("{} does nothing", c.what()))
                .hint("give it a `filter`, `set`, `select`, `plugin` or `deduplicate`"),
        );
    }
    let names = inputs.clone().unwrap_or_default();
    let spec = (|| {
        Some(TransformSpec {
            inputs: inputs?,
            filter: filter?,
            set: set?,
            select: select?,
            plugin: plugin?,
            deduplicate: deduplicate?,
            on_error,
            consecutive_limit,
        })
    })();
    (names, spec)
}

/// None: it is there and wrong.
fn optional<T>(c: &Cursor<'_>, key: &str, read: impl FnOnce(&Cursor<'_>, &str) -> Option<T>) -> Option<Option<T>> {
    // asked for in any case, so that it is known as a key
    let value = read(c, key);
    if c.has(key) { value.map(Some) } else { Some(None) }
}

/// A table of columns and SQL, in the order of the file.
fn expressions(c: &Cursor<'_>, key: &str) -> Option<Vec<(String, String)>> {
    let table = c.table(key, format!("`{key}` of {}", c.what()))?;
    let names = table.keys();
    if names.is_empty() {
        c.wrong(&[key], format!("`{key}` of {} names no column", c.what()), "write `{ column = \"expression\" }`");
        return None;
    }
    let each: Vec<Option<(String, String)>> =
        names.into_iter().map(|name| Some((name.clone(), table.string(&name)?))).collect();
    each.into_iter().collect()
}

fn select(c: &Cursor<'_>, key: &str) -> Option<Vec<Selected>> {
    if c.is_table(key) {
        let all = expressions(c, key)?;
        return Some(all.into_iter().map(|(name, sql)| Selected { name, expression: Some(sql) }).collect());
    }
    let names = c.strings(key)?;
    if names.is_empty() {
        c.wrong(&[key], format!("`{key}` of {} names no column", c.what()), "name those that go on");
        return None;
    }
    Some(names.into_iter().map(|name| Selected { name, expression: None }).collect())
}

fn plugin(c: &Cursor<'_>, known: &Known<'_>) -> Option<TransformPluginSpec> {
    let plugin = reference(c, "plugin", "plugin", known.plugins);
    let config = if c.has("config") {
        c.table("config", "config").and_then(|_| c.json("config")).map(|json| json.to_string())
    } else {
        Some("{}".to_owned())
    };
    let columns = c.string_map("columns");
    Some(TransformPluginSpec { plugin: plugin?, config: config?, columns })
}

/// What belongs to a plugin makes no sense without one.
fn without_plugin(c: &Cursor<'_>) -> Option<Option<TransformPluginSpec>> {
    // asked for, so that they are known as keys
    c.string("plugin");
    c.string_map("columns");
    c.json("config");
    let given: Vec<&str> = ["config", "columns"].into_iter().filter(|key| c.has(key)).collect();
    for key in &given {
        let hint = if *key == "columns" { "to rename a column: `select = { new = \"old\" }`" } else { "take it out" };
        c.wrong(&[key], format!("`{key}` is for a plugin, and {} has none", c.what()), hint);
    }
    given.is_empty().then_some(None)
}

fn deduplicate(c: &Cursor<'_>, key: &str) -> Option<DeduplicateSpec> {
    let table = c.table(key, format!("`{key}` of {}", c.what()))?;
    let key = table.required("key", Cursor::strings).filter(|key| {
        if key.is_empty() {
            table.wrong(&["key"], "nothing tells two events apart", "name one column or more: `key = [\"…\"]`");
        }
        !key.is_empty()
    });
    let within_ms = table.required("within", |c, key| c.duration_ms(key, 1..=WITHIN_MS_MAX));
    table.finish();
    Some(DeduplicateSpec { key: key?, within_ms: i64::try_from(within_ms?).ok()? })
}
