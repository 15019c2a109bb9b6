//! The pipeline file: parsed, checked, explained.
//!
//! ```text
//!   file ─ toml ─▶ parse ──────▶ links ─────────▶ columns ──────────▶ Loaded      (load: no plugin is run)
//!                  each table    who reads whom,  keys, partitions
//!                  on its own    dead letters     of what is known
//!
//!   Loaded ─ open each plugin ─▶ columns along every edge ──────────▶ Resolved    (check_plugins)
//! ```
//!
//! Every step goes on after an error, so that all of them are shown at once, each with file, line, caret and hint. Keys
//! of later releases are read and refused by name; a key that nobody reads is unknown. Nothing here touches a broker, a
//! catalog or a table; of the disk it reads the file itself, secret files and the plugins' bytes (for a pin).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millrace_core::schema::Schema;
use toml::de::DeTable;

use crate::plugin::{Signature, TransformSignature};

pub mod changelog;
mod check;
pub mod columns;
pub(crate) mod cursor;
pub(crate) mod diagnostic;
pub(crate) mod document;
mod files;
mod graph;
mod links;
pub mod model;
pub(crate) mod parse;
mod paths;
pub mod secrets;
mod substitute;
pub(crate) mod suggest;
pub mod transforms;
mod units;

pub use check::{Resolved, check_plugins};
pub use diagnostic::{Diagnostic, Diagnostics, Severity, redact};
pub use graph::graph;
pub use units::{parse_duration_ms, parse_instant_ms, parse_size_bytes, show_bytes, show_duration_ms};

use cursor::Cursor;
use diagnostic::SourceText;
use document::{Document, Spans};
use model::Pipeline;

/// A pipeline file without errors of its own.
#[derive(Debug)]
pub struct Loaded {
    pub pipeline: Pipeline,
    pub warnings: Diagnostics,
    /// values that must never be printed: see [`redact`]
    pub secrets: Vec<String>,
    source: Arc<SourceText>,
    spans: Spans,
}

/// Reads and checks a pipeline file. `env` is the environment for `${VAR}`. Fails with everything that is wrong with it,
/// warnings included.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Diagnostics> {
    let shown = if path.is_relative() { Some(path) } else { path.file_name().map(Path::new) };
    let name = shown.unwrap_or(path).display().to_string();
    let unreadable = |what: String| {
        let source = Arc::new(SourceText { name: name.clone(), text: String::new() });
        Diagnostics::new(source, vec![Diagnostic::whole_file(format!("cannot read {name}: {what}"))], &[])
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let file = std::path::absolute(path).map_err(|error| unreadable(error.to_string()))?;
    let file = paths::absolute(Path::new("/"), &file.to_string_lossy());
    let dir = file.parent().unwrap_or(Path::new("/")).to_path_buf();
    let source = Arc::new(SourceText { name, text });

    let (root, syntax) = DeTable::parse_recoverable(&source.text);
    if !syntax.is_empty() {
        let found = syntax
            .iter()
            .map(|error| Diagnostic::error(error.span().unwrap_or(0..0), format!("not TOML: {}", error.message())))
            .collect();
        return Err(Diagnostics::new(Arc::clone(&source), found, &[]));
    }
    let spans = Spans::of(root.get_ref(), &source.text);
    let doc = Document::new(Arc::clone(&source), dir, spans, env);
    let mut draft = parse::file(&doc, &Cursor::root(&doc, root.get_ref()));
    links::check(&doc, &mut draft);
    let parse::Draft { head, plugins, catalogs, schemas, sources, transforms, aggregations, sinks, nodes } = draft;
    let mut pipeline = Pipeline {
        name: head.name.unwrap_or_default(),
        file,
        parallelism: head.parallelism,
        time: head.time,
        checkpoint: head.checkpoint,
        state: head.state,
        swap: head.swap,
        errors: head.errors,
        plugins,
        catalogs,
        schemas,
        sources,
        transforms,
        aggregations,
        sinks,
        secrets: secrets::Secrets::default(),
    };
    let outputs: BTreeMap<String, Schema> =
        nodes.into_iter().filter_map(|node| Some((node.name, node.output?))).collect();
    check::known_columns(&doc, &pipeline, outputs);

    let (found, secrets, spans) = doc.finish();
    if found.has_errors() {
        return Err(found);
    }
    pipeline.secrets = secrets::Secrets::new(&pipeline.name, &secrets);
    Ok(Loaded { pipeline, warnings: found, secrets, source, spans })
}

/// What a plugin is asked at check time: opened with its configuration and the columns offered, it tells its signature.
pub type OpenPlugin<'a> = dyn Fn(&str, &model::PluginSpec, &str, &Schema) -> Result<Signature, String> + 'a;

/// The same of a transform plugin.
pub type OpenTransform<'a> = dyn Fn(&str, &model::PluginSpec, &str, &Schema) -> Result<TransformSignature, String> + 'a;
