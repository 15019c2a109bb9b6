//! `[aggregations.NAME]`: key, window, plugin or aggregates.

use std::collections::BTreeMap;

use super::{Known, aggregate, errors, inputs, reference};
use crate::plugin::builtin::{Aggregate, canonical};
use crate::spec::cursor::{Cursor, Word};
use crate::spec::diagnostic::Diagnostic;
use crate::spec::model::{AggregationSpec, WindowSpec};

const WINDOW_MS_MAX: u64 = 36_500 * 86_400_000;

/// Its inputs, and the aggregation if all of it is right.
pub fn read(c: &Cursor<'_>, known: &Known<'_>) -> (Vec<String>, Option<AggregationSpec>) {
    let inputs = inputs(c);
    let key = c.required("key", Cursor::strings).filter(|key| {
        if key.is_empty() {
            c.wrong(
                &["key"],
                "an aggregation without a key is not supported yet",
                "name one column or more: `key = [\"…\"]`",
            );
        }
        !key.is_empty()
    });
    let window = c.required("window", |c, _| window(c));
    let late = c.duration_ms("allowed_lateness", 0..=WINDOW_MS_MAX);
    if late.is_some_and(|ms| ms > 0) {
        c.wrong(
            &["allowed_lateness"],
            "`allowed_lateness` is not supported yet",
            "take it out (or `\"0s\"`), and widen `out_of_orderness` of the source's watermark: what comes later goes to `.late`",
        );
    }
    if c.is_table("emit") {
        c.later(&["emit"]);
    } else {
        c.choice("emit", &[("on_close", Word::Now(()))]);
    }
    c.later(&["state_ttl"]);
    let logic = logic(c, known);
    let (on_error, consecutive_limit) = errors(c, known.head);
    c.finish();

    let names = inputs.clone().unwrap_or_default();
    let spec = (|| {
        let Logic { plugin, aggregates, config, columns } = logic?;
        Some(AggregationSpec {
            inputs: inputs?,
            key: key?,
            window: window?,
            allowed_lateness_ms: 0,
            plugin,
            aggregates,
            config,
            columns,
            on_error,
            consecutive_limit,
        })
    })();
    (names, spec)
}

/// What is computed for each group.
struct Logic {
    plugin: String,
    aggregates: Vec<Aggregate>,
    config: String,
    columns: BTreeMap<String, String>,
}

fn logic(c: &Cursor<'_>, known: &Known<'_>) -> Option<Logic> {
    if c.has("aggregate") {
        if c.has("plugin") {
            c.report(
                Diagnostic::error(c.key_span("aggregate"), format!("{} has `plugin` and `aggregate`", c.what()))
                    .context(c.key_span("plugin"), "the plugin")
                    .hint("it takes one of them: give the other an aggregation of its own"),
            );
        }
        let node = c.path.last().cloned().unwrap_or_default();
        let aggregates = aggregate::read(c);
        c.skip(&["plugin", "config", "columns"]);
        let aggregates = aggregates?;
        return Some(Logic {
            plugin: format!("aggregate of {node}"),
            config: canonical(&aggregates),
            aggregates,
            columns: BTreeMap::new(),
        });
    }
    let plugin = if c.has("plugin") {
        reference(c, "plugin", "plugin", known.plugins)
    } else {
        c.report(Diagnostic::error(c.own_span(), format!("{} lacks `plugin` or `aggregate`", c.what())).hint(
            "name one of `[plugins]`: `plugin = \"…\"`; or count without one: `aggregate = { events = \"count(*)\" }`",
        ));
        None
    };
    let config = if c.has("config") {
        c.table("config", "config").and_then(|_| c.json("config")).map(|json| json.to_string())
    } else {
        Some("{}".to_owned())
    };
    let columns = c.string_map("columns");
    c.skip(&["aggregate"]);
    Some(Logic { plugin: plugin?, aggregates: Vec::new(), config: config?, columns })
}

pub(crate) fn window(c: &Cursor<'_>) -> Option<WindowSpec> {
    let table = c.table("window", format!("`window` of {}", c.what()))?;
    let kinds =
        [("tumbling", Word::Now(())), ("sliding", Word::Later), ("session", Word::Later), ("global", Word::Later)];
    if table.required("type", |c, key| c.choice(key, &kinds)).is_none() {
        table.skip_rest();
        return None;
    }
    let size_ms = table.required("size", |c, key| c.duration_ms(key, 1..=WINDOW_MS_MAX));
    let offset_ms = table.duration_ms("offset", 0..=WINDOW_MS_MAX).unwrap_or(0);
    table.finish();
    let size_ms = size_ms?;
    if offset_ms >= size_ms {
        table.wrong(
            &["offset"],
            "a window's offset is smaller than its size",
            "windows repeat every `size`: subtract it until the offset is smaller",
        );
        return None;
    }
    Some(WindowSpec::Tumbling { size_ms: i64::try_from(size_ms).ok()?, offset_ms: i64::try_from(offset_ms).ok()? })
}
