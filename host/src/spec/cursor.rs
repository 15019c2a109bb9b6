//! A reader over one table of the file that remembers which keys were asked for: those left over at the end are the
//! unknown ones. Each read fills in `${…}`, checks the type and range, and reports what is wrong with line and caret.
//!
//! A read returns `None` both for a key that is absent and for one that is wrong; the wrong one has then been reported,
//! so that a default put in its place is never used.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::document::Document;
use super::{substitute, suggest, units};

/// One of a key's possible words: what it means, or that it comes in a later release.
#[derive(Clone, Copy, Debug)]
pub enum Word<T> {
    Now(T),
    Later,
}

pub struct Cursor<'a> {
    pub doc: &'a Document<'a>,
    table: &'a DeTable<'a>,
    /// the keys that lead here
    pub path: Vec<String>,
    /// what the table is, for messages: "source `events`"
    what: String,
    read: RefCell<BTreeSet<String>>,
}

/// A string value with everything filled in.
struct Text {
    text: String,
    only_reference: bool,
}

impl<'a> Cursor<'a> {
    pub fn root(doc: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self::over(doc, table, "a pipeline file")
    }

    /// The whole of another file than a pipeline's; `what` names it in messages.
    pub fn over(doc: &'a Document<'a>, table: &'a DeTable<'a>, what: &str) -> Self {
        Self { doc, table, path: Vec::new(), what: what.into(), read: RefCell::default() }
    }

    fn entry(&self, key: &str) -> Option<(&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
        self.read.borrow_mut().insert(key.to_owned());
        self.table.iter().find(|(name, _)| name.get_ref() == key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    fn path_to<'p>(&'p self, keys: &[&'p str]) -> Vec<&'p str> {
        self.path.iter().map(String::as_str).chain(keys.iter().copied()).collect()
    }

    /// The span of a key of this table, or of the table's own name where it lacks the key.
    pub fn key_span(&self, key: &str) -> Range<usize> {
        self.doc.spans.key(&self.path_to(&[key]))
    }

    /// The span of a value of this table, or of an item of it.
    pub fn value_span(&self, keys: &[&str]) -> Range<usize> {
        self.doc.spans.value(&self.path_to(keys))
    }

    pub fn own_span(&self) -> Range<usize> {
        self.doc.spans.key(&self.path_to(&[]))
    }

    pub fn report(&self, found: Diagnostic) {
        self.doc.report(found);
    }

    /// Reports a finding at a value of this table.
    pub fn wrong(&self, keys: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        self.report(Diagnostic::error(self.value_span(keys), message).hint(hint));
    }

    fn wrong_type(&self, keys: &[&str], wanted: &str, value: &DeValue<'_>, example: &str) {
        let key = keys.first().copied().unwrap_or_default();
        let found = match value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date-time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.report(
            Diagnostic::error(self.value_span(keys), format!("`{key}` of {} must be {wanted}", self.what))
                .label(format!("this is {found}"))
                .hint(format!("for example `{key} = {example}`")),
        );
    }

    /// Reads a key that must be there.
    pub fn required<T>(&self, key: &str, read: impl FnOnce(&Self, &str) -> Option<T>) -> Option<T> {
        if !self.has(key) {
            self.read.borrow_mut().insert(key.to_owned());
            self.report(Diagnostic::error(self.own_span(), format!("{} lacks `{key}`", self.what)));
            return None;
        }
        read(self, key)
    }

    fn fill(&self, raw: &str, keys: &[&str]) -> Option<Text> {
        match substitute::fill(raw, self.doc.env, &self.doc.dir) {
            Ok(filled) => {
                self.doc.keep_secret(filled.secrets);
                Some(Text { text: filled.text, only_reference: filled.only_reference })
            }
            Err(errors) => {
                let value = self.value_span(keys);
                let text = self.doc.source.text.get(value.clone()).unwrap_or("");
                for error in errors {
                    // the reference itself, unless an escape hides it
                    let span = text
                        .find(&error.reference)
                        .map(|at| value.start + at..value.start + at + error.reference.len());
                    self.report(Diagnostic::error(span.unwrap_or(value.clone()), error.message).hint(error.hint));
                }
                None
            }
        }
    }

    fn text(&self, key: &str, wanted: &str, example: &str) -> Option<Text> {
        let (_, value) = self.entry(key)?;
        match value.get_ref() {
            DeValue::String(raw) => self.fill(raw, &[key]),
            other => {
                self.wrong_type(&[key], wanted, other, example);
                None
            }
        }
    }

    /// A string that is not empty.
    pub fn string(&self, key: &str) -> Option<String> {
        let text = self.text(key, "a string", "\"…\"")?.text;
        if text.is_empty() {
            self.wrong(&[key], format!("`{key}` of {} is empty", self.what), "give it a value, or take the line out");
            return None;
        }
        Some(text)
    }

    /// An integer within `range`; a string that is nothing but one `${VAR}` may hold it.
    pub fn integer<T: TryFrom<i64>>(&self, key: &str, range: RangeInclusive<i64>) -> Option<T> {
        let (_, value) = self.entry(key)?;
        let parsed = match value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(raw) => {
                let text = self.fill(raw, &[key])?;
                if !text.only_reference {
                    self.wrong_type(&[key], "an integer", value.get_ref(), &range.start().max(&1).to_string());
                    return None;
                }
                match text.text.trim().parse::<i64>() {
                    Ok(number) => Some(number),
                    Err(_) => {
                        let message = format!("`{key}` of {} must be an integer", self.what);
                        let label = format!("this is `{}` here", text.text);
                        self.report(Diagnostic::error(self.value_span(&[key]), message).label(label));
                        return None;
                    }
                }
            }
            other => {
                self.wrong_type(&[key], "an integer", other, &range.start().max(&1).to_string());
                return None;
            }
        };
        let in_range = parsed.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        if in_range.is_none() {
            let bounds = match (*range.start(), *range.end()) {
                (least, i64::MAX) => format!("at least {least}"),
                (least, most) => format!("from {least} to {most}"),
            };
            self.report(
                Diagnostic::error(self.value_span(&[key]), format!("`{key}` of {} is out of range", self.what))
                    .hint(format!("it must be {bounds}")),
            );
        }
        in_range
    }

    /// A boolean; a string that is nothing but one `${VAR}` may hold it.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        let (_, value) = self.entry(key)?;
        match value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            DeValue::String(raw) => {
                let text = self.fill(raw, &[key])?;
                let parsed = text.text.trim().parse().ok().filter(|_| text.only_reference);
                if parsed.is_none() {
                    self.wrong_type(&[key], "a boolean", value.get_ref(), "true");
                }
                parsed
            }
            other => {
                self.wrong_type(&[key], "a boolean", other, "true");
                None
            }
        }
    }

    /// A share from 0 up to, but not, 1, in millionths.
    pub fn share_per_million(&self, key: &str) -> Option<u32> {
        let (_, value) = self.entry(key)?;
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
            other => {
                self.wrong_type(&[key], "a number", other, "0.05");
                return None;
            }
        };
        // every share in the range is a whole number of millionths below a million
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the range, checked here")]
        let share = number.filter(|n| (0.0..1.0).contains(n)).map(|n| (n * 1e6) as u32);
        if share.is_none() {
            self.wrong(&[key], format!("`{key}` of {} is out of range", self.what), "it must be from 0 to less than 1");
        }
        share
    }

    /// Whether a string value is this word once it is filled in.
    pub fn is_word(&self, key: &str, word: &str) -> bool {
        self.table.iter().any(|(name, value)| match value.get_ref() {
            DeValue::String(raw) if name.get_ref() == key => {
                substitute::fill(raw, self.doc.env, &self.doc.dir).is_ok_and(|filled| filled.text == word)
            }
            _ => false,
        })
    }

    /// A duration in milliseconds, within `range`.
    pub fn duration_ms(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(key, "a duration", "\"30s\"")?.text;
        let Some(ms) = units::parse_duration_ms(&text) else {
            self.wrong(
                &[key],
                format!("`{text}` is not a duration"),
                "durations are written \"5m\", \"30s\", \"1h30m\", \"500ms\" (units d, h, m, s, ms)",
            );
            return None;
        };
        if !range.contains(&ms) {
            let (least, most) = (units::show_duration_ms(*range.start()), units::show_duration_ms(*range.end()));
            self.wrong(
                &[key],
                format!("`{key}` of {} is out of range", self.what),
                format!("it must be from \"{least}\" to \"{most}\""),
            );
            return None;
        }
        Some(ms)
    }

    /// A size in bytes, within `range`.
    pub fn size_bytes(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(key, "a size", "\"128MiB\"")?.text;
        let Some(bytes) = units::parse_size_bytes(&text) else {
            self.wrong(
                &[key],
                format!("`{text}` is not a size"),
                "sizes are written \"128MiB\", \"2GiB\" (units B, KiB, MiB, GiB, TiB; kB, MB, GB, TB)",
            );
            return None;
        };
        if !range.contains(&bytes) {
            let (least, most) = (units::show_bytes(*range.start()), units::show_bytes(*range.end()));
            self.wrong(
                &[key],
                format!("`{key}` of {} is out of range", self.what),
                format!("it must be from \"{least}\" to \"{most}\""),
            );
            return None;
        }
        Some(bytes)
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, key: &str, words: &[(&str, Word<T>)]) -> Option<T> {
        let text = self.text(key, "a string", &format!("\"{}\"", words.first().map_or("", |word| word.0)))?.text;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, Word::Now(value))) => Some(*value),
            Some((_, Word::Later)) => {
                let now: Vec<String> = words
                    .iter()
                    .filter(|(_, word)| matches!(word, Word::Now(_)))
                    .map(|(word, _)| format!("`{key} = \"{word}\"`"))
                    .collect();
                self.report(
                    Diagnostic::error(self.value_span(&[key]), format!("`{key} = \"{text}\"` is not supported yet"))
                        .hint(format!("use {}", now.join(" or "))),
                );
                None
            }
            None => {
                let hint = suggest::did_you_mean(&text, words.iter().map(|(word, _)| *word));
                self.report(
                    Diagnostic::error(self.value_span(&[key]), format!("unknown {key} `{text}`")).hint_if_any(hint),
                );
                None
            }
        }
    }

    /// A list of strings that are not empty. Item `i` stands at `[key, i]`.
    pub fn strings(&self, key: &str) -> Option<Vec<String>> {
        let (_, value) = self.entry(key)?;
        let items = match value.get_ref() {
            DeValue::Array(items) => items,
            DeValue::String(one) => {
                self.wrong_type(&[key], "a list of strings", value.get_ref(), &format!("[\"{one}\"]"));
                return None;
            }
            other => {
                self.wrong_type(&[key], "a list of strings", other, "[\"…\"]");
                return None;
            }
        };
        let mut out = Vec::new();
        let mut complete = true;
        for (index, item) in items.iter().enumerate() {
            let index = index.to_string();
            let text = match item.get_ref() {
                DeValue::String(raw) => self.fill(raw, &[key, &index]).map(|text| text.text),
                other => {
                    self.wrong_type(&[key, &index], "a list of strings", other, "[\"…\"]");
                    None
                }
            };
            match text {
                Some(text) if text.is_empty() => {
                    self.wrong(&[key, &index], format!("`{key}` of {} names nothing here", self.what), "take it out");
                    complete = false;
                }
                Some(text) => out.push(text),
                None => complete = false,
            }
        }
        complete.then_some(out)
    }

    /// A table of strings; numbers and booleans are taken as they are written. Empty if absent.
    pub fn string_map(&self, key: &str) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let Some((_, value)) = self.entry(key) else { return out };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(&[key], "a table", value.get_ref(), "{ name = \"value\" }");
            return out;
        };
        for (name, value) in table {
            let name = name.get_ref().as_ref();
            let text = match value.get_ref() {
                DeValue::String(raw) => self.fill(raw, &[key, name]).map(|text| text.text),
                DeValue::Boolean(value) => Some(value.to_string()),
                DeValue::Integer(number) => Some(number.as_str().to_owned()),
                DeValue::Float(number) => Some(number.as_str().to_owned()),
                DeValue::Table(_) => {
                    self.wrong(
                        &[key, name],
                        format!("`{name}` in `{key}` of {} is a table", self.what),
                        format!("names with dots need quotes: `\"{name}.…\" = \"value\"`"),
                    );
                    None
                }
                other => {
                    self.wrong_type(&[key, name], "a table of strings", other, "{ name = \"value\" }");
                    None
                }
            };
            if let Some(text) = text {
                out.insert(name.to_owned(), text);
            }
        }
        out
    }

    /// Any value as JSON. Date-times become strings.
    pub fn json(&self, key: &str) -> Option<serde_json::Value> {
        let (_, value) = self.entry(key)?;
        self.to_json(value.get_ref(), &[key])
    }

    fn to_json(&self, value: &DeValue<'_>, keys: &[&str]) -> Option<serde_json::Value> {
        use serde_json::Value;
        Some(match value {
            DeValue::String(raw) => {
                let text = self.fill(raw, keys)?;
                match serde_json::from_str(&text.text) {
                    Ok(plain @ (Value::Number(_) | Value::Bool(_))) if text.only_reference => plain,
                    _ => Value::String(text.text),
                }
            }
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => number.into(),
                Err(_) => {
                    self.wrong(keys, "an integer of more than 64 bits", "write it as a string");
                    return None;
                }
            },
            DeValue::Float(number) => {
                match number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
                    Some(number) => Value::Number(number),
                    None => {
                        self.wrong(keys, format!("JSON has no `{}`", number.as_str()), "write a finite number");
                        return None;
                    }
                }
            }
            DeValue::Datetime(at) => Value::String(at.to_string()),
            DeValue::Array(items) => {
                let each = items.iter().enumerate().map(|(index, item)| {
                    let index = index.to_string();
                    let keys: Vec<&str> = keys.iter().copied().chain([index.as_str()]).collect();
                    self.to_json(item.get_ref(), &keys)
                });
                Value::Array(each.collect::<Option<_>>()?)
            }
            DeValue::Table(table) => {
                let each = table.iter().map(|(name, item)| {
                    let keys: Vec<&str> = keys.iter().copied().chain([name.get_ref().as_ref()]).collect();
                    Some((name.get_ref().to_string(), self.to_json(item.get_ref(), &keys)?))
                });
                Value::Object(each.collect::<Option<_>>()?)
            }
        })
    }

    /// A date-time as TOML or RFC 3339 writes it, in epoch milliseconds; `words` are returned as they are.
    pub fn instant_or_word(&self, key: &str, words: &[&str]) -> Option<Result<i64, String>> {
        let (_, value) = self.entry(key)?;
        let text = match value.get_ref() {
            DeValue::Datetime(at) => at.to_string(),
            DeValue::String(raw) => self.fill(raw, &[key])?.text,
            other => {
                self.wrong_type(&[key], "a word or a timestamp", other, "\"2026-01-31T00:00:00Z\"");
                return None;
            }
        };
        if words.contains(&text.as_str()) {
            return Some(Err(text));
        }
        if let Some(ms) = units::parse_instant_ms(&text) {
            return Some(Ok(ms));
        }
        let hint = match suggest::closest(&text, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("write {} or a timestamp with its offset: \"2026-01-31T00:00:00Z\"", words.join(", "))
            }
        };
        self.wrong(&[key], format!("`{text}` is no {key}"), hint);
        None
    }

    /// A value as the file has it, for what has rules of its own.
    pub fn raw(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.entry(key).map(|(_, value)| value)
    }

    /// The tables `[[key]]`, in order; `noun` and a number from 1 name one of them in messages.
    pub fn list_of_tables(&self, key: &str, noun: &str) -> Vec<Self> {
        let Some((_, value)) = self.entry(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(&[key], &format!("a list of tables (`[[{key}]]`)"), value.get_ref(), "[{ … }]");
            return Vec::new();
        };
        let mut out = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let index_key = index.to_string();
            match item.get_ref() {
                DeValue::Table(table) => {
                    let path = self.path.iter().cloned().chain([key.to_owned(), index_key]).collect();
                    let what = format!("{noun} {}", index + 1);
                    out.push(Self { doc: self.doc, table, path, what, read: RefCell::default() });
                }
                other => self.wrong_type(&[key, &index_key], "a table", other, "[{ … }]"),
            }
        }
        out
    }

    /// Where this table's last value ends; none if it has none.
    pub fn end(&self) -> Option<usize> {
        self.table.values().map(|value| value.span().end).max()
    }

    pub fn is_table(&self, key: &str) -> bool {
        self.table.iter().any(|(name, value)| name.get_ref() == key && matches!(value.get_ref(), DeValue::Table(_)))
    }

    /// A table below this one; `what` names it in messages.
    pub fn table(&self, key: &str, what: impl Into<String>) -> Option<Self> {
        let (_, value) = self.entry(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.below(key, table, what.into())),
            other => {
                self.wrong_type(&[key], "a table", other, "{ … }");
                None
            }
        }
    }

    fn below(&self, key: &str, table: &'a DeTable<'a>, what: String) -> Self {
        let path = self.path.iter().cloned().chain([key.to_owned()]).collect();
        Self { doc: self.doc, table, path, what, read: RefCell::default() }
    }

    /// The tables `[key.NAME]`, in the order of the file; `noun` names one of them in messages.
    pub fn tables(&self, key: &str, noun: &str) -> Vec<(String, Self)> {
        let Some(section) = self.table(key, format!("`{key}`")) else { return Vec::new() };
        let mut out = Vec::new();
        for name in section.keys() {
            let what = format!("{noun} `{name}`");
            if let Some(cursor) = section.table(&name, what.clone()) {
                if !is_name(&name) {
                    section.report(
                        Diagnostic::error(
                            section.key_span(&name),
                            format!("{what} has characters that no name may have"),
                        )
                        .hint("names are made of A-Z, a-z, 0-9, `_` and `-`"),
                    );
                }
                out.push((name, cursor));
            }
        }
        out
    }

    /// All keys, in the order of the file.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.table.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        keys.into_iter().map(|key| key.get_ref().to_string()).collect()
    }

    /// Refuses a key that is part of the spec, but of a later release.
    pub fn later(&self, keys: &[&str]) {
        for key in keys {
            if self.entry(key).is_some() {
                self.not_yet(key, &format!("`{key}` of {}", self.what));
            }
        }
    }

    /// Says at `key` that `what` is not supported yet.
    pub fn not_yet(&self, key: &str, what: &str) {
        self.report(
            Diagnostic::error(self.key_span(key), format!("{what} is not supported yet"))
                .hint("the key is part of the pipeline file, but this release cannot do it: take it out"),
        );
    }

    /// These keys have been dealt with, or are known but absent.
    pub fn skip(&self, keys: &[&str]) {
        self.read.borrow_mut().extend(keys.iter().map(|key| (*key).to_owned()));
    }

    /// The span of a part of a string value, or of all of it where the file spells it in another way (escapes, `${…}`).
    pub fn span_within(&self, key: &str, text: &str, part: Option<&Range<usize>>) -> Range<usize> {
        let value = self.value_span(&[key]);
        let written = self.doc.source.text.get(value.clone()).unwrap_or_default();
        let quoted = ["\"", "'"].iter().any(|quote| written == format!("{quote}{text}{quote}"));
        match part {
            Some(part) if quoted => value.start + 1 + part.start..value.start + 1 + part.end,
            _ => value,
        }
    }

    /// The rest of this table is not looked at: what it would mean is not known.
    pub fn skip_rest(&self) {
        self.read.borrow_mut().extend(self.keys());
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(&self) {
        let read = self.read.borrow();
        for key in self.keys() {
            if !read.contains(&key) {
                let known = read.iter().map(String::as_str);
                let hint = match suggest::closest(&key, known.clone()) {
                    Some(near) => Some(format!("did you mean `{near}`?")),
                    None => suggest::did_you_mean(&key, known.filter(|known| !self.has(known))),
                };
                self.report(
                    Diagnostic::error(self.key_span(&key), format!("unknown key `{key}`"))
                        .label(format!("{} has no such key", self.what))
                        .hint_if_any(hint),
                );
            }
        }
    }

    pub fn what(&self) -> &str {
        &self.what
    }
}

/// Names of pipelines and nodes.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}
