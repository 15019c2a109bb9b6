//! `[aggregations.NAME]`: key, window, plugin or aggregates.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{Known, aggregate, errors, inputs, reference};
use crate::plugin::builtin::{Aggregate, canonical};
use crate::spec::cursor::{Cursor, Word};
use crate::spec::diagnostic::Diagnostic;
use crate::spec::model::{AggregationSpec, EmitSpec, WindowSpec};

const WINDOW_MS_MAX: u64 = 36_500 * 86_400_000;
const EMIT_EVERY_RANGE_MS: RangeInclusive<u64> = 10..=86_400_000;
/// More panes to a window are worth a warning.
const PANES_MAX: i64 = 120;

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
    let allowed_lateness_ms = c.duration_ms("allowed_lateness", 0..=WINDOW_MS_MAX).unwrap_or(0);
    let emit = emit(c);
    let state_ttl_ms = c.duration_ms("state_ttl", 1..=WINDOW_MS_MAX);
    match window {
        Some(WindowSpec::Global) => global(c, emit),
        Some(_) if c.has("state_ttl") => c.wrong(
            &["state_ttl"],
            "only groups of a global window have a `state_ttl`",
            "take it out: the state of a window goes when it expires",
        ),
        _ => {}
    }
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
            allowed_lateness_ms,
            emit: emit?,
            state_ttl_ms,
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

fn emit(c: &Cursor<'_>) -> Option<EmitSpec> {
    if !c.is_table("emit") {
        return c
            .choice("emit", &[("on_close", Word::Now(EmitSpec::OnClose))])
            .or((!c.has("emit")).then_some(EmitSpec::OnClose));
    }
    let table = c.table("emit", format!("`emit` of {}", c.what()))?;
    let every_ms = table.required("every", |c, key| c.duration_ms(key, EMIT_EVERY_RANGE_MS));
    table.finish();
    Some(EmitSpec::Every { every_ms: every_ms? })
}

/// A global window never closes.
fn global(c: &Cursor<'_>, emit: Option<EmitSpec>) {
    if emit == Some(EmitSpec::OnClose) {
        c.report(
            Diagnostic::error(c.key_span("window"), "a global window never closes, and would never give a result")
                .hint("say how often it does: `emit = { every = \"10s\" }`"),
        );
    }
    if !c.has("state_ttl") {
        c.report(
            Diagnostic::error(c.key_span("window"), "a global window keeps its groups for ever")
                .hint("say when one without new events is forgotten: `state_ttl = \"7d\"`"),
        );
    }
    if c.has("allowed_lateness") {
        c.wrong(&["allowed_lateness"], "nothing is late in a global window", "take it out");
    }
}

pub(crate) fn window(c: &Cursor<'_>) -> Option<WindowSpec> {
    #[derive(Clone, Copy)]
    enum Kind {
        Tumbling,
        Sliding,
        Session,
        Global,
    }
    let table = c.table("window", format!("`window` of {}", c.what()))?;
    let kinds = [
        ("tumbling", Word::Now(Kind::Tumbling)),
        ("sliding", Word::Now(Kind::Sliding)),
        ("session", Word::Now(Kind::Session)),
        ("global", Word::Now(Kind::Global)),
    ];
    let Some(kind) = table.required("type", |c, key| c.choice(key, &kinds)) else {
        table.skip_rest();
        return None;
    };
    let duration = |key: &str| {
        let ms = table.required(key, |c, key| c.duration_ms(key, 1..=WINDOW_MS_MAX))?;
        i64::try_from(ms).ok()
    };
    let offset = || i64::try_from(table.duration_ms("offset", 0..=WINDOW_MS_MAX).unwrap_or(0)).ok();
    let window = match kind {
        Kind::Tumbling => {
            let (size_ms, offset_ms) = (duration("size"), offset());
            size_ms.zip(offset_ms).map(|(size_ms, offset_ms)| WindowSpec::Tumbling { size_ms, offset_ms })
        }
        Kind::Sliding => {
            let (size_ms, slide_ms, offset_ms) = (duration("size"), duration("slide"), offset());
            (|| Some(WindowSpec::Sliding { size_ms: size_ms?, slide_ms: slide_ms?, offset_ms: offset_ms? }))()
        }
        Kind::Session => duration("gap").map(|gap_ms| WindowSpec::Session { gap_ms }),
        Kind::Global => Some(WindowSpec::Global),
    };
    table.finish();
    let (repeats, every, offset_ms) = match window? {
        WindowSpec::Tumbling { size_ms, offset_ms } => ("size", size_ms, offset_ms),
        WindowSpec::Sliding { size_ms, slide_ms, .. } if slide_ms > size_ms => {
            table.wrong(
                &["slide"],
                "windows that are further apart than they are long leave events out",
                "`slide` is `size` at the most",
            );
            return None;
        }
        WindowSpec::Sliding { size_ms, slide_ms, offset_ms } => {
            panes(c, &table, size_ms, slide_ms);
            ("slide", slide_ms, offset_ms)
        }
        other => return Some(other),
    };
    if offset_ms >= every {
        table.wrong(
            &["offset"],
            format!("a window's offset is smaller than its {repeats}"),
            format!("windows repeat every `{repeats}`: subtract it until the offset is smaller"),
        );
        return None;
    }
    window
}

/// Each window is put together from its panes, and each pane is kept until its last window expires.
fn panes(c: &Cursor<'_>, table: &Cursor<'_>, size_ms: i64, slide_ms: i64) {
    let a_slide = if size_ms % slide_ms == 0 { 1 } else { 2 };
    let panes = (size_ms / slide_ms).saturating_mul(a_slide).saturating_add(a_slide - 1);
    if panes > PANES_MAX {
        c.report(
            Diagnostic::warning(
                table.value_span(&["slide"]),
                format!("each window is put together from {panes} panes"),
            )
            .hint(format!(
                "more than {PANES_MAX} cost much memory and time: a longer `slide`{}",
                if a_slide == 2 { ", or one that divides `size`" } else { "" }
            )),
        );
    }
}
