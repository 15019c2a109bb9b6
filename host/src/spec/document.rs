//! One pipeline file while it is being checked: its text, where each of its values stands, and what was found so far.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics, Severity, SourceText};

/// Where a key and its value stand, by the path of keys that leads there.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    places: BTreeMap<String, Place>,
}

#[derive(Clone, Debug)]
struct Place {
    key: Range<usize>,
    value: Range<usize>,
}

/// Between the keys of a path; no TOML file can hold it in a bare key.
const SEPARATOR: &str = "\u{1f}";

impl Spans {
    pub fn of(root: &DeTable<'_>, text: &str) -> Self {
        let mut spans = Self::default();
        spans.walk_table(root, "", text);
        spans
    }

    fn walk_table(&mut self, table: &DeTable<'_>, above: &str, text: &str) {
        for (key, value) in table {
            let path = format!("{above}{}{SEPARATOR}", key.get_ref());
            self.walk(value.get_ref(), key.span(), value.span(), path, text);
        }
    }

    fn walk(&mut self, value: &DeValue<'_>, key: Range<usize>, place: Range<usize>, path: String, text: &str) {
        match value {
            DeValue::Table(table) => self.walk_table(table, &path, text),
            DeValue::Array(array) => {
                for (index, item) in array.iter().enumerate() {
                    let path = format!("{path}{index}{SEPARATOR}");
                    self.walk(item.get_ref(), item.span(), item.span(), path, text);
                }
            }
            _ => {}
        }
        // a caret under many lines shows nothing: then the key stands for the value. So does it for `[a.table]`, whose
        // span is its header.
        let one_line =
            text.get(place.clone()).is_some_and(|t| !t.is_empty() && !t.contains('\n') && !t.starts_with('['));
        let inline =
            one_line || matches!(value, DeValue::Array(_)) && !text.get(place.clone()).unwrap_or("\n").contains('\n');
        let value = if inline { place } else { key.clone() };
        self.places.insert(path, Place { key, value });
    }

    fn place(&self, path: &[&str]) -> Option<&Place> {
        self.places.get(&path.iter().map(|key| format!("{key}{SEPARATOR}")).collect::<String>())
    }

    pub fn has(&self, path: &[&str]) -> bool {
        self.place(path).is_some()
    }

    /// The key at `path`, or the nearest one above it that the file has.
    pub fn key(&self, path: &[&str]) -> Range<usize> {
        self.nearest(path, |place| &place.key)
    }

    /// The value at `path`, or the nearest key above it that the file has.
    pub fn value(&self, path: &[&str]) -> Range<usize> {
        match self.place(path) {
            Some(place) => place.value.clone(),
            None => self.key(path),
        }
    }

    /// The key `name` of the table at `path`, as the file has it.
    pub fn key_itself(&self, path: &[String], name: &str) -> Range<usize> {
        let path: Vec<&str> = path.iter().map(String::as_str).chain([name]).collect();
        self.key(&path)
    }

    fn nearest(&self, path: &[&str], pick: fn(&Place) -> &Range<usize>) -> Range<usize> {
        let mut path = path;
        loop {
            if let Some(place) = self.place(path) {
                return pick(place).clone();
            }
            match path.split_last() {
                Some((_, above)) => path = above,
                None => return 0..0,
            }
        }
    }
}

/// What all readers of the file share.
pub struct Document<'e> {
    pub source: Arc<SourceText>,
    /// the folder that the file is in, absolute
    pub dir: PathBuf,
    pub spans: Spans,
    pub env: &'e dyn Fn(&str) -> Option<String>,
    found: RefCell<Vec<Diagnostic>>,
    secrets: RefCell<Vec<String>>,
}

impl<'e> Document<'e> {
    pub fn new(source: Arc<SourceText>, dir: PathBuf, spans: Spans, env: &'e dyn Fn(&str) -> Option<String>) -> Self {
        Self { source, dir, spans, env, found: RefCell::default(), secrets: RefCell::default() }
    }

    pub fn report(&self, found: Diagnostic) {
        self.found.borrow_mut().push(found);
    }

    pub fn has_errors(&self) -> bool {
        self.found.borrow().iter().any(|found| found.severity == Severity::Error)
    }

    pub fn keep_secret(&self, secrets: Vec<String>) {
        self.secrets.borrow_mut().extend(secrets);
    }

    /// Everything found, and every secret met.
    pub fn finish(self) -> (Diagnostics, Vec<String>, Spans) {
        let mut secrets = self.secrets.into_inner();
        // the longest first: one secret may be a part of another
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        (Diagnostics::new(self.source, self.found.into_inner(), &secrets), secrets, self.spans)
    }
}
