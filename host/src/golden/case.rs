//! A case's file, read with the same cursor and the same diagnostics as a pipeline file.
//!
//! ```toml
//! key = ["campaign_id"]                            # an aggregation's; a transform has neither key nor window
//! window = { type = "tumbling", size = "5m" }
//! event_time = "at"
//! config = { unique_users = "exact" }              # optional, as in pipelines; so is `columns`
//! tolerance = 1e-9                                 # optional: relative, for float and double results
//!
//! [schema]
//! campaign_id = "string"
//! at = "timestamptz"
//!
//! [[steps]]
//! events = [{ campaign_id = "a", at = 2026-01-01T00:00:01Z }]   # or events_file = "more.jsonl" (.csv)
//! watermark = 2026-01-01T00:05:00Z                 # after the events
//! expect = [{ window_start = 2026-01-01T00:00:00Z, campaign_id = "a", clicks = 0 }]
//! rejected = ["unknown event_type \"x\""]          # reasons of rows that the plugin refused, in any order
//! late = 1                                         # rows that came too late
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use millrace_core::batch::{Batch, Origin};
use millrace_core::schema::{Field, Schema};
use toml::de::{DeTable, DeValue};

use super::rows::{self, Row};
use crate::plugin::Kind;
use crate::spec::cursor::Cursor;
use crate::spec::diagnostic::{Diagnostic, Diagnostics, SourceText};
use crate::spec::document::{Document, Spans};
use crate::spec::model::{EventTimeSpec, SourceSchema, WindowSpec};
use crate::spec::{parse, suggest};

/// A case without errors of its own.
#[derive(Debug)]
pub struct Case {
    /// the file's name without `.toml`
    pub name: String,
    pub path: PathBuf,
    pub schema: SourceSchema,
    pub event_time: EventTimeSpec,
    /// empty for a transform
    pub key: Vec<String>,
    /// none for a transform
    pub window: Option<WindowSpec>,
    /// JSON object
    pub config: String,
    /// what the plugin calls X is column Y here
    pub columns: BTreeMap<String, String>,
    /// relative, for float and double results; none: exact
    pub tolerance: Option<f64>,
    /// the steps are the parts that this law of aggregation is checked on
    pub law: Option<String>,
    pub steps: Vec<Step>,
    pub source: Arc<SourceText>,
    pub spans: Spans,
}

/// Events, then a watermark, then what must have come out.
#[derive(Clone, Debug)]
pub struct Step {
    pub events: Batch,
    pub watermark_ms: Option<i64>,
    pub expect: Vec<ExpectedRow>,
    pub rejected: Vec<String>,
    pub late: u64,
    /// `key = value` of what an update may replace, by key
    pub places: BTreeMap<&'static str, Range<usize>>,
    /// where a key can be added
    pub end: usize,
}

#[derive(Clone, Debug)]
pub struct ExpectedRow {
    pub row: Row,
    pub span: Range<usize>,
}

/// Reads a case for a plugin of this kind. Fails with everything that is wrong with it.
pub fn load(path: &Path, kind: Kind) -> Result<Case, Diagnostics> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let source = Arc::new(SourceText { name: shown.clone(), text: String::new() });
        Diagnostics::new(source, vec![Diagnostic::whole_file(format!("cannot read {shown}: {error}"))], &[])
    })?;
    parse(path, shown, text, kind)
}

/// The same from a text.
pub fn parse(path: &Path, shown: String, text: String, kind: Kind) -> Result<Case, Diagnostics> {
    let source = Arc::new(SourceText { name: shown, text });
    let (root, syntax) = DeTable::parse_recoverable(&source.text);
    if !syntax.is_empty() {
        let found = syntax
            .iter()
            .map(|error| Diagnostic::error(error.span().unwrap_or(0..0), format!("not TOML: {}", error.message())))
            .collect();
        return Err(Diagnostics::new(Arc::clone(&source), found, &[]));
    }
    let dir = path.parent().unwrap_or(Path::new(".")).to_path_buf();
    let spans = Spans::of(root.get_ref(), &source.text);
    let env = |name: &str| std::env::var(name).ok();
    let doc = Document::new(Arc::clone(&source), dir, spans, &env);
    let draft = read(&doc, &Cursor::over(&doc, root.get_ref(), "a case"), kind);
    let (found, _, spans) = doc.finish();
    match draft {
        Some(draft) if !found.has_errors() => {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Case { name, path: path.to_owned(), source, spans, ..draft })
        }
        _ => Err(found),
    }
}

fn read(doc: &Document<'_>, c: &Cursor<'_>, kind: Kind) -> Option<Case> {
    let schema = c.required("schema", |c, key| c.table(key, "`schema`")).and_then(|table| parse::schema::read(&table));
    let event_time = parse::source::event_time(c, schema.as_ref());
    let (mut key, mut window) = (Some(Vec::new()), None);
    if kind == Kind::Aggregation {
        key = c.required("key", Cursor::strings);
        window = c.required("window", |c, _| parse::aggregation::window(c));
        if !c.has("event_time") {
            c.report(
                Diagnostic::error(c.own_span(), "a case of an aggregation lacks `event_time`")
                    .hint("name the column that says when an event happened: it decides about the windows"),
            );
        }
    } else {
        for only in ["key", "window"] {
            if c.raw(only).is_some() {
                c.wrong(&[only], format!("a {} has no `{only}`", kind.name()), "take it out");
            }
        }
    }
    let config = if c.has("config") { c.json("config")?.to_string() } else { "{}".to_owned() };
    let columns = c.string_map("columns");
    let tolerance = tolerance(c);
    let law = c.string("law");
    let cursors = c.list_of_tables("steps", "step");
    if cursors.is_empty() {
        c.report(
            Diagnostic::error(c.own_span(), "a case without steps tests nothing")
                .hint("add `[[steps]]` with `events = [{ … }]` and `expect = [{ … }]`"),
        );
    }
    let (schema, event_time) = (schema?, event_time?);
    let mut steps = Vec::new();
    let mut watermark_ms = None;
    for step in &cursors {
        let step = read_step(step, &schema, &event_time, &mut watermark_ms);
        steps.extend(step);
    }
    c.finish();
    Some(Case {
        name: String::new(),
        path: PathBuf::new(),
        schema,
        event_time,
        key: key?,
        window,
        config,
        columns,
        tolerance,
        law,
        steps,
        source: Arc::clone(&doc.source),
        spans: Spans::default(),
    })
}

fn tolerance(c: &Cursor<'_>) -> Option<f64> {
    let value = c.raw("tolerance")?;
    let parsed = match value.get_ref() {
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::Integer(number) => number.as_str().parse().ok(),
        _ => None,
    };
    let parsed = parsed.filter(|number: &f64| (0.0..1.0).contains(number));
    if parsed.is_none() {
        c.wrong(&["tolerance"], "`tolerance` is a number from 0 to 1", "it is relative: `tolerance = 1e-9`");
    }
    parsed
}

fn read_step(
    c: &Cursor<'_>,
    schema: &SourceSchema,
    event_time: &EventTimeSpec,
    watermark_ms: &mut Option<i64>,
) -> Option<Step> {
    let mut places = BTreeMap::new();
    for key in ["expect", "rejected", "late"] {
        if let Some(value) = c.raw(key) {
            places.insert(key, c.doc.spans.key_itself(&c.path, key).start..value.span().end);
        }
    }
    let inline = list_of_rows(c, "events");
    if unknown_columns(c, schema) {
        return None;
    }
    let mut all: Vec<Row> = inline.iter().map(|(row, _)| row.clone()).collect();
    if let Some(file) = c.string("events_file") {
        match rows::from_file(&c.doc.dir.join(&file), schema) {
            Ok(more) => all.extend(more),
            Err(message) => c.wrong(&["events_file"], message, "the path is relative to the case's folder"),
        }
    }
    let events = match rows::decode(schema, event_time, &all) {
        Ok((rows, times)) => batch(rows, times),
        Err(misfits) => {
            for (row, reason) in misfits {
                match inline.get(row) {
                    Some((_, span)) => c.report(
                        Diagnostic::error(span.clone(), format!("this event does not fit `[schema]`: {reason}"))
                            .hint("`?` after a type makes a column that may be left out: `amount = \"double?\"`"),
                    ),
                    None => c.wrong(
                        &["events_file"],
                        format!("row {} does not fit `[schema]`: {reason}", row - inline.len() + 1),
                        "correct the file, or the schema",
                    ),
                }
            }
            return None;
        }
    };
    let watermark = match c.instant_or_word("watermark", &[]) {
        Some(Ok(ms)) => Some(ms),
        _ => None,
    };
    if let (Some(now), Some(before)) = (watermark, *watermark_ms)
        && now < before
    {
        c.wrong(&["watermark"], "a watermark never goes back", "steps are in the order of time: see the step before");
    }
    *watermark_ms = watermark.or(*watermark_ms);
    let expect = list_of_rows(c, "expect").into_iter().map(|(row, span)| ExpectedRow { row, span }).collect();
    let rejected = c.strings("rejected").unwrap_or_default();
    let late = c.integer("late", 0..=i64::MAX).unwrap_or(0);
    let end = c.end().unwrap_or_else(|| c.own_span().end);
    c.finish();
    Some(Step { events, watermark_ms: watermark, expect, rejected, late, places, end })
}

/// Reports members of events that no column takes: in a file they are ignored, here they are slips of the fingers.
fn unknown_columns(c: &Cursor<'_>, schema: &SourceSchema) -> bool {
    let names: Vec<&str> = schema.paths.iter().filter_map(|path| path.first()).map(String::as_str).collect();
    let Some(DeValue::Array(items)) = c.raw("events").map(|value| value.get_ref()) else { return false };
    let tables = items.iter().filter_map(|item| match item.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    });
    let mut found = false;
    for key in tables.flat_map(|table| table.keys()).filter(|key| !names.contains(&&**key.get_ref())) {
        found = true;
        c.report(
            Diagnostic::error(key.span(), format!("`[schema]` has no column `{}`", key.get_ref()))
                .hint_if_any(suggest::did_you_mean(key.get_ref(), names.iter().copied())),
        );
    }
    found
}

/// `key = [{ … }, …]`, each with its place.
fn list_of_rows(c: &Cursor<'_>, key: &str) -> Vec<(Row, Range<usize>)> {
    let Some(value) = c.raw(key) else { return Vec::new() };
    let example = format!("write `{key} = [{{ user = \"a\", amount = 1.5 }}]`");
    let DeValue::Array(items) = value.get_ref() else {
        c.wrong(&[key], format!("`{key}` is a list of rows"), example);
        return Vec::new();
    };
    let mut out = Vec::new();
    for item in items {
        match rows::from_toml(item.get_ref()) {
            Ok(serde_json::Value::Object(row)) => out.push((row, item.span())),
            Ok(_) => c.report(Diagnostic::error(item.span(), "this is not a row").hint(example.clone())),
            Err(message) => c.report(Diagnostic::error(item.span(), message)),
        }
    }
    out
}

/// Events as they come from a source.
pub fn batch(rows: RecordBatch, event_time_ms: Vec<i64>) -> Batch {
    let offsets = (0_i64..).take(rows.num_rows()).collect();
    let origin = Origin { source: "case".into(), topic: "case".into(), partition: 0, offsets };
    Batch { rows, event_time_ms: event_time_ms.into(), origin: Some(origin), changes: None }
}

impl Case {
    /// A finding in this case's file.
    pub fn wrong(&self, found: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics::new(Arc::clone(&self.source), found, &[])
    }

    /// What each step expects, as rows of the operator's output. A column that a row leaves out is null; so may be any
    /// column here, also one that never is: the comparison says it better.
    pub fn expected(&self, output: &Schema) -> Result<Vec<RecordBatch>, Diagnostics> {
        let fields = output.fields.iter().map(|f| Field::new(f.name.as_str(), f.data_type, true)).collect();
        let paths = output.fields.iter().map(|f| vec![f.name.clone()]).collect();
        let schema = SourceSchema { schema: Schema::new(fields), paths };
        let mut found = Vec::new();
        let mut batches = Vec::new();
        for step in &self.steps {
            for expected in &step.expect {
                for unknown in expected.row.keys().filter(|key| output.field(key).is_none()) {
                    let known = output.fields.iter().map(|f| f.name.as_str());
                    found.push(
                        Diagnostic::error(expected.span.clone(), format!("the result has no column `{unknown}`"))
                            .hint_if_any(suggest::did_you_mean(unknown, known)),
                    );
                }
            }
            let rows: Vec<Row> = step.expect.iter().map(|e| e.row.clone()).collect();
            match rows::decode(&schema, &EventTimeSpec::RecordTimestamp, &rows) {
                Ok((rows, _)) => batches.push(rows),
                Err(misfits) => {
                    let at = |row: usize| step.expect.get(row).map_or(0..0, |e| e.span.clone());
                    found.extend(misfits.into_iter().map(|(row, reason)| {
                        Diagnostic::error(at(row), format!("this row cannot be a result: {reason}"))
                    }));
                }
            }
        }
        if found.is_empty() { Ok(batches) } else { Err(self.wrong(found)) }
    }
}
