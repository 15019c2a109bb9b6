//! `[aggregations.NAME]`: key, window, plugin.

use super::{Known, errors, inputs, reference};
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
    c.later(&["aggregate", "state_ttl"]);
    let plugin = if c.has("plugin") {
        reference(c, "plugin", "plugin", known.plugins)
    } else {
        if !c.has("aggregate") {
            c.report(
                Diagnostic::error(c.own_span(), format!("{} lacks `plugin`", c.what()))
                    .hint("name one of `[plugins]`: `plugin = \"…\"`"),
            );
        }
        None
    };
    let config = if c.has("config") {
        c.table("config", "config").and_then(|_| c.json("config")).map(|json| json.to_string())
    } else {
        Some("{}".to_owned())
    };
    let columns = c.string_map("columns");
    let (on_error, consecutive_limit) = errors(c, known.head);
    c.finish();

    let names = inputs.clone().unwrap_or_default();
    let spec = (|| {
        Some(AggregationSpec {
            inputs: inputs?,
            key: key?,
            window: window?,
            allowed_lateness_ms: 0,
            plugin: plugin?,
            config: config?,
            columns,
            on_error,
            consecutive_limit,
        })
    })();
    (names, spec)
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
