//! What is wrong with a pipeline file, said so that a person can repair it: message, file, line, caret, `hint:`.
//!
//! Owns the list of findings and its two forms, for a terminal and as JSON. It never decides what is an error: the
//! checks do, and hand their findings here; all of them are shown at once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde_json::json;

/// What stands where a secret would have been printed.
const REDACTED: &str = "[redacted]";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// The pipeline file as it was read.
#[derive(Debug, Default)]
pub struct SourceText {
    /// as given on the command line if that was relative, else the file's own name
    pub name: String,
    pub text: String,
}

impl SourceText {
    /// Line and column (in characters) of a byte offset, both from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..).map_or(0, |line| line.chars().count());
        (before.matches('\n').count() + 1, column + 1)
    }
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    /// bytes of the file; none if it concerns the file as a whole
    pub span: Option<Range<usize>>,
    /// stands beside the caret
    pub label: Option<String>,
    /// other places that belong to it
    pub context: Vec<(Range<usize>, String)>,
    pub hints: Vec<String>,
}

impl Diagnostic {
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, Some(span), message.into())
    }

    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, Some(span), message.into())
    }

    /// An error that no line of the file stands for.
    pub fn whole_file(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, None, message.into())
    }

    fn new(severity: Severity, span: Option<Range<usize>>, message: String) -> Self {
        Self { severity, message, span, label: None, context: Vec::new(), hints: Vec::new() }
    }

    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    #[must_use]
    pub fn context(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.context.push((span, label.into()));
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    #[must_use]
    pub fn hint_if_any(mut self, hint: Option<String>) -> Self {
        self.hints.extend(hint);
        self
    }
}

/// All findings in one file, in the order of their lines.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    source: Arc<SourceText>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// `secrets` are taken out of everything that could be printed, here and once.
    pub fn new(source: Arc<SourceText>, mut list: Vec<Diagnostic>, secrets: &[String]) -> Self {
        for found in &mut list {
            found.message = redact(&found.message, secrets);
            found.label = found.label.as_deref().map(|label| redact(label, secrets));
            for hint in &mut found.hints {
                *hint = redact(hint, secrets);
            }
            for (_, label) in &mut found.context {
                *label = redact(label, secrets);
            }
        }
        list.sort_by_key(|found| (found.span.as_ref().map_or(0, |span| span.start), found.severity));
        Self { source, list }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|found| found.severity == Severity::Error)
    }

    /// The terminal form: each finding with its line and caret, then how many there are.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for found in &self.list {
            let level = match found.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let mut group = level.primary_title(found.message.as_str()).elements(self.snippet(found));
            for hint in &found.hints {
                group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
            }
            out.push_str(renderer.render(&[group]).trim_end());
            out.push_str("\n\n");
        }
        let count = |severity| self.list.iter().filter(|found| found.severity == severity).count();
        let totals: Vec<String> = [(count(Severity::Error), "error"), (count(Severity::Warning), "warning")]
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} {what}{}", if *n == 1 { "" } else { "s" }))
            .collect();
        if !totals.is_empty() {
            out.push_str(&format!("{}: {}\n", self.source.name, totals.join(", ")));
        }
        out
    }

    fn snippet<'a>(&'a self, found: &'a Diagnostic) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let span = found.span.clone()?;
        let mut primary = AnnotationKind::Primary.span(span);
        if let Some(label) = &found.label {
            primary = primary.label(label.as_str());
        }
        let context =
            found.context.iter().map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(label.as_str()));
        Some(
            Snippet::source(self.source.text.as_str())
                .path(self.source.name.as_str())
                .annotation(primary)
                .annotations(context),
        )
    }

    /// For programs: one object per finding. Lines and columns count from 1, columns in characters.
    pub fn to_json(&self) -> serde_json::Value {
        let entry = |found: &Diagnostic| {
            let start = found.span.as_ref().map(|span| self.source.position(span.start));
            let end = found.span.as_ref().map(|span| self.source.position(span.end));
            json!({
                "severity": match found.severity { Severity::Error => "error", Severity::Warning => "warning" },
                "message": found.message,
                "file": self.source.name,
                "line": start.map(|at| at.0),
                "column": start.map(|at| at.1),
                "end_line": end.map(|at| at.0),
                "end_column": end.map(|at| at.1),
                "label": found.label,
                "hints": found.hints,
            })
        };
        serde_json::Value::Array(self.list.iter().map(entry).collect())
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Takes every secret out of a text that is about to be shown.
pub fn redact(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), REDACTED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let source = SourceText { name: "x.toml".into(), text: "a = 1\nü = 2\n".into() };
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position("a = 1\nü".len()), (2, 2));
    }

    #[test]
    fn secrets_never_reach_either_form() {
        let source = Arc::new(SourceText { name: "x.toml".into(), text: "a = '${secret:P}'\n".into() });
        let finding = Diagnostic::error(4..17, "`hunter2` is no number").label("hunter2").hint("not hunter2");
        let all = Diagnostics::new(source, vec![finding], &["hunter2".into()]);
        assert!(!all.render(true).contains("hunter2"));
        assert!(!all.to_json().to_string().contains("hunter2"));
        assert!(all.to_string().contains(REDACTED));
    }
}
