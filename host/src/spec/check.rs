//! Columns of the whole graph against each other, before the plugins are asked (`known_columns`) and after.

use std::collections::BTreeMap;

use millrace_core::schema::Schema;

use super::columns::{self, Misfit};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::document::{Document, Spans};
use super::model::{Pipeline, SinkSpec, TransformSpec};
use super::transforms::{self, Operator, through};
use super::{Loaded, OpenPlugin, OpenTransform, files};
use crate::plugin::{Info, Signature, TransformSignature, builtin};

/// The columns along every edge.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// what each source, transform and aggregation gives
    pub output: BTreeMap<String, Schema>,
    /// what each operator and sink reads: its inputs united by column name
    pub input: BTreeMap<String, Schema>,
    /// by aggregation
    pub signatures: BTreeMap<String, Signature>,
    /// by transform: the columns after `filter`, `set` and `select`
    pub steps: BTreeMap<String, Schema>,
    /// by transform with a plugin
    pub transform_signatures: BTreeMap<String, TransformSignature>,
    /// by plugin; for [`super::graph`], to be filled in by whoever has the factories
    pub plugins: BTreeMap<String, Info>,
    /// by plugin: imports that do nothing; filled in as `plugins`
    pub inert_imports: BTreeMap<String, Vec<String>>,
}

/// Checks what needs no plugin: expressions and keys of operators fed by sources, sinks fed by them and by side streams,
/// numbers of files.
pub fn known_columns(doc: &Document<'_>, pipeline: &Pipeline, mut outputs: BTreeMap<String, Schema>) {
    let reads_rows = |inputs: &[String]| !inputs.iter().any(|input| columns::is_side_stream(input));
    for operator in transforms::operators(pipeline) {
        let (section, name, inputs) = match operator {
            Operator::Transform(name, spec) => ("transforms", name, &spec.inputs),
            Operator::Aggregation(name, spec) => ("aggregations", name, &spec.inputs),
        };
        if !reads_rows(inputs) {
            continue;
        }
        let wrong = match (input_of(inputs, &outputs), operator) {
            (Some(Ok(input)), Operator::Aggregation(_, spec)) => columns::check_aggregation(spec, &input),
            (Some(Ok(input)), Operator::Transform(_, spec)) => {
                let (found, wrong) = through(spec, &input, |_, _| None);
                outputs.extend(found.filter(|_| wrong.is_empty()).map(|found| (name.to_owned(), found.output)));
                wrong
            }
            (Some(Err(wrong)), _) => vec![wrong],
            (None, _) => Vec::new(),
        };
        report(doc, section, name, wrong);
    }
    for (name, sink) in &pipeline.sinks {
        match input_of(&sink.inputs, &outputs) {
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
        doc.report(located(&doc.spans, &doc.source.text, section, name, misfit));
    }
}

fn located(spans: &Spans, text: &str, section: &str, name: &str, misfit: Misfit) -> Diagnostic {
    let path: Vec<&str> = [section, name].into_iter().chain(misfit.keys.iter().map(String::as_str)).collect();
    let mut place = spans.value(&path);
    // a part of a text can be pointed at where the file has it as it is: no escapes, nothing filled in
    let written = text.get(place.clone()).unwrap_or_default();
    let plain = written.starts_with(['"', '\'']) && !written.contains(['\\', '\n', '$']);
    if let Some(within) = misfit.within.filter(|within| plain && within.end < written.len()) {
        place = place.start + 1 + within.start..place.start + 1 + within.end.max(within.start + 1);
    }
    let mut found = Diagnostic::error(place, misfit.message);
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

/// The second stage: opens each operator's plugin with its configuration and the columns offered, and checks the
/// columns along every edge. The two must not keep the instance.
pub fn check_plugins(
    loaded: &Loaded,
    open: &OpenPlugin<'_>,
    open_transform: &OpenTransform<'_>,
) -> Result<Resolved, Diagnostics> {
    let pipeline = &loaded.pipeline;
    let mut found = Vec::new();
    let mut resolved = Resolved {
        output: pipeline.sources.iter().map(|(name, source)| (name.clone(), source.output.clone())).collect(),
        input: BTreeMap::new(),
        signatures: BTreeMap::new(),
        steps: BTreeMap::new(),
        transform_signatures: BTreeMap::new(),
        plugins: BTreeMap::new(),
        inert_imports: BTreeMap::new(),
    };
    for operator in transforms::operators(pipeline) {
        let (name, spec) = match operator {
            Operator::Aggregation(name, spec) => (name, spec),
            Operator::Transform(name, spec) => {
                found.extend(check_transform(loaded, name, spec, open_transform, &mut resolved));
                continue;
            }
        };
        let input = match input_of(&spec.inputs, &resolved.output) {
            Some(Ok(input)) => input,
            Some(Err(wrong)) => {
                found.push(at_node(loaded, "aggregations", name, wrong));
                continue;
            }
            None => continue,
        };
        let offered = columns::offered_schema(&input, &spec.columns);
        let signature = match pipeline.plugins.get(&spec.plugin) {
            Some(plugin) => open(&spec.plugin, plugin, &spec.config, &offered)
                .map_err(|message| vec![refused(loaded, "aggregations", name, &spec.plugin, &message)]),
            None => builtin::signature(&spec.aggregates, &offered).map_err(|wrong| {
                let wrong = wrong.into_iter().map(columns::aggregate_misfit);
                wrong.map(|misfit| at_node(loaded, "aggregations", name, misfit)).collect()
            }),
        };
        match signature {
            Ok(signature) => {
                let (output, wrong) = columns::check_signature(spec, &input, &signature);
                found.extend(wrong.into_iter().map(|misfit| at_node(loaded, "aggregations", name, misfit)));
                resolved.output.extend(output.map(|output| (name.to_owned(), output)));
                resolved.signatures.insert(name.to_owned(), signature);
            }
            Err(wrong) => found.extend(wrong),
        }
        resolved.input.insert(name.to_owned(), input);
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

fn check_transform(
    loaded: &Loaded,
    name: &str,
    spec: &TransformSpec,
    open: &OpenTransform<'_>,
    resolved: &mut Resolved,
) -> Vec<Diagnostic> {
    let at = |wrong: Vec<Misfit>| wrong.into_iter().map(|misfit| at_node(loaded, "transforms", name, misfit)).collect();
    let input = match input_of(&spec.inputs, &resolved.output) {
        Some(Ok(input)) => input,
        Some(Err(wrong)) => return at(vec![wrong]),
        None => return Vec::new(),
    };
    let mut refusal = None;
    let (found, wrong) = through(spec, &input, |plugin, steps| {
        let known = loaded.pipeline.plugins.get(&plugin.plugin)?;
        match open(&plugin.plugin, known, &plugin.config, &columns::offered_schema(steps, &plugin.columns)) {
            Ok(signature) => {
                resolved.transform_signatures.insert(name.to_owned(), signature.clone());
                Some(signature)
            }
            Err(message) => {
                refusal = Some(refused(loaded, "transforms", name, &plugin.plugin, &message));
                None
            }
        }
    });
    resolved.input.insert(name.to_owned(), input);
    if let Some(found) = found {
        resolved.steps.insert(name.to_owned(), found.steps);
        resolved.output.insert(name.to_owned(), found.output);
    }
    let mut all: Vec<Diagnostic> = at(wrong);
    all.extend(refusal);
    all
}

fn at_node(loaded: &Loaded, section: &str, name: &str, misfit: Misfit) -> Diagnostic {
    located(&loaded.spans, &loaded.source.text, section, name, misfit)
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
    wrong.into_iter().map(|misfit| at_node(loaded, "sinks", name, misfit)).collect()
}

/// The caret stands at `config`, or, where there is none, at `plugin`.
fn refused(loaded: &Loaded, section: &str, name: &str, plugin: &str, message: &str) -> Diagnostic {
    let path = [section, name, "config"];
    let key = if loaded.spans.has(&path) { "config" } else { "plugin" };
    let span = loaded.spans.key(&[section, name, key]);
    Diagnostic::error(span, format!("plugin `{plugin}` cannot be used here: {message}"))
        .hint("`millrace plugin inspect FILE` shows what it takes")
}
