//! Columns of the whole graph against each other, before the plugins are asked (`known_columns`) and after.

use std::collections::BTreeMap;

use millrace_core::schema::Schema;

use super::columns::{self, Misfit};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::document::{Document, Spans};
use super::model::{Pipeline, SinkSpec};
use super::{Loaded, OpenPlugin, files};
use crate::plugin::{Info, Signature, builtin};

/// The columns along every edge.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// what each source and aggregation gives
    pub output: BTreeMap<String, Schema>,
    /// what each aggregation and sink reads: its inputs united by column name
    pub input: BTreeMap<String, Schema>,
    /// by aggregation
    pub signatures: BTreeMap<String, Signature>,
    /// by plugin; for [`super::graph`], to be filled in by whoever has the factories
    pub plugins: BTreeMap<String, Info>,
    /// by plugin: imports that do nothing; filled in as `plugins`
    pub inert_imports: BTreeMap<String, Vec<String>>,
}

/// Checks what needs no plugin: keys of aggregations, sinks fed by sources and side streams, numbers of files.
pub fn known_columns(doc: &Document<'_>, pipeline: &Pipeline, outputs: &BTreeMap<String, Schema>) {
    let reads_rows = |inputs: &[String]| !inputs.iter().any(|input| columns::is_side_stream(input));
    for (name, spec) in pipeline.aggregations.iter().filter(|(_, spec)| reads_rows(&spec.inputs)) {
        match input_of(&spec.inputs, outputs) {
            Some(Ok(input)) => report(doc, "aggregations", name, columns::check_aggregation(spec, &input)),
            Some(Err(wrong)) => report(doc, "aggregations", name, vec![wrong]),
            None => {}
        }
    }
    for (name, sink) in &pipeline.sinks {
        match input_of(&sink.inputs, outputs) {
            Some(Ok(input)) => report(doc, "sinks", name, columns::check_sink(sink, &input)),
            Some(Err(wrong)) => report(doc, "sinks", name, vec![wrong]),
            None => {}
        }
        if let Some((message, hint)) = files::expected(pipeline, sink).as_ref().and_then(files::warning) {
            doc.report(Diagnostic::warning(doc.spans.key(&["sinks", name, "partition_by"]), message).hint(hint));
        }
    }
}

fn report(doc: &Document<'_>, section: &str, name: &str, wrong: Vec<Misfit>) {
    for misfit in wrong {
        doc.report(located(&doc.spans, section, name, misfit));
    }
}

fn located(spans: &Spans, section: &str, name: &str, misfit: Misfit) -> Diagnostic {
    let path: Vec<&str> = [section, name].into_iter().chain(misfit.keys.iter().map(String::as_str)).collect();
    let mut found = Diagnostic::error(spans.value(&path), misfit.message);
    found.hints = misfit.hints;
    found
}

/// The united columns of some inputs; none if one of them is not known (yet).
fn input_of(inputs: &[String], outputs: &BTreeMap<String, Schema>) -> Option<Result<Schema, Misfit>> {
    if inputs.is_empty() {
        return None;
    }
    let side = columns::side_stream();
    let schemas: Option<Vec<(&str, &Schema)>> = inputs
        .iter()
        .map(|input| {
            let schema = if columns::is_side_stream(input) { Some(&side) } else { outputs.get(input) };
            schema.map(|schema| (input.as_str(), schema))
        })
        .collect();
    schemas.map(|schemas| columns::united(&schemas))
}

/// The second stage: opens each aggregation's plugin with its configuration and the columns offered, and checks the
/// columns along every edge. `open` must not keep the instance.
pub fn check_plugins(loaded: &Loaded, open: &OpenPlugin<'_>) -> Result<Resolved, Diagnostics> {
    let pipeline = &loaded.pipeline;
    let mut found = Vec::new();
    let mut resolved = Resolved {
        output: pipeline.sources.iter().map(|(name, source)| (name.clone(), source.output.clone())).collect(),
        input: BTreeMap::new(),
        signatures: BTreeMap::new(),
        plugins: BTreeMap::new(),
        inert_imports: BTreeMap::new(),
    };
    for (name, spec) in &pipeline.aggregations {
        let input = match input_of(&spec.inputs, &resolved.output) {
            Some(Ok(input)) => input,
            Some(Err(wrong)) => {
                found.push(located(&loaded.spans, "aggregations", name, wrong));
                continue;
            }
            None => continue,
        };
        let offered = columns::offered_schema(&input, &spec.columns);
        let signature = match pipeline.plugins.get(&spec.plugin) {
            Some(plugin) => open(&spec.plugin, plugin, &spec.config, &offered)
                .map_err(|message| vec![refused(loaded, name, &spec.plugin, &message)]),
            None => builtin::signature(&spec.aggregates, &offered).map_err(|wrong| {
                let wrong = wrong.into_iter().map(columns::aggregate_misfit);
                wrong.map(|misfit| located(&loaded.spans, "aggregations", name, misfit)).collect()
            }),
        };
        match signature {
            Ok(signature) => {
                let (output, wrong) = columns::check_signature(spec, &input, &signature);
                found.extend(wrong.into_iter().map(|misfit| located(&loaded.spans, "aggregations", name, misfit)));
                resolved.output.extend(output.map(|output| (name.clone(), output)));
                resolved.signatures.insert(name.clone(), signature);
            }
            Err(wrong) => found.extend(wrong),
        }
        resolved.input.insert(name.clone(), input);
    }
    for (name, sink) in &pipeline.sinks {
        found.extend(check_sink(loaded, name, sink, &mut resolved));
    }
    if found.is_empty() {
        return Ok(resolved);
    }
    found.extend(loaded.warnings.iter().cloned());
    Err(Diagnostics::new(std::sync::Arc::clone(&loaded.source), found, &loaded.secrets))
}

fn check_sink(loaded: &Loaded, name: &str, sink: &SinkSpec, resolved: &mut Resolved) -> Vec<Diagnostic> {
    let wrong = match input_of(&sink.inputs, &resolved.output) {
        Some(Ok(input)) => {
            let wrong = columns::check_sink(sink, &input);
            resolved.input.insert(name.to_owned(), input);
            wrong
        }
        Some(Err(wrong)) => vec![wrong],
        None => Vec::new(),
    };
    wrong.into_iter().map(|misfit| located(&loaded.spans, "sinks", name, misfit)).collect()
}

/// The caret stands at `config`, or, where there is none, at `plugin`.
fn refused(loaded: &Loaded, name: &str, plugin: &str, message: &str) -> Diagnostic {
    let path = ["aggregations", name, "config"];
    let key = if loaded.spans.has(&path) { "config" } else { "plugin" };
    let span = loaded.spans.key(&["aggregations", name, key]);
    Diagnostic::error(span, format!("plugin `{plugin}` cannot be used here: {message}"))
        .hint("`millrace plugin inspect FILE` shows what it takes")
}
