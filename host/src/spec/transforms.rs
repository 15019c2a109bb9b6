//! Columns through a transform, step by step, and the order in which operators can be looked at.
//!
//! Each step sees what the one before it gives; the expressions of one step see the same columns, not each other.

use std::collections::BTreeMap;

use millrace_core::schema::{Field, Schema};

use super::columns::{self, Misfit, Reader, misfit, near};
use super::model::{AggregationSpec, DeduplicateSpec, Pipeline, TransformPluginSpec, TransformSpec};
use crate::expr::{Expression, Filter, Wrong};
use crate::plugin::TransformSignature;

/// The column of a deduplication's state, beside the key: when the event that passed took place.
pub const FIRST_SEEN: &str = "first_seen";

/// An operator of the file.
#[derive(Clone, Copy)]
pub enum Operator<'a> {
    Transform(&'a str, &'a TransformSpec),
    Aggregation(&'a str, &'a AggregationSpec),
}

/// All operators, each after those that it reads; those of a cycle are left out.
pub fn operators(pipeline: &Pipeline) -> Vec<Operator<'_>> {
    let transforms =
        pipeline.transforms.iter().map(|(name, spec)| (name, &spec.inputs, Operator::Transform(name, spec)));
    let aggregations =
        pipeline.aggregations.iter().map(|(name, spec)| (name, &spec.inputs, Operator::Aggregation(name, spec)));
    let mut waiting: Vec<_> = transforms.chain(aggregations).collect();
    let mut order = Vec::new();
    loop {
        let names: Vec<&String> = waiting.iter().map(|(name, ..)| *name).collect();
        let (now, later): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, inputs, _)| !inputs.iter().any(|input| names.contains(&input)));
        if now.is_empty() {
            return order;
        }
        order.extend(now.into_iter().map(|(_, _, operator)| operator));
        waiting = later;
    }
}

/// The columns after `filter`, `set` and `select`; none if something in them is wrong.
pub fn steps(spec: &TransformSpec, input: &Schema) -> (Option<Schema>, Vec<Misfit>) {
    let mut wrong = Vec::new();
    if let Some(sql) = &spec.filter
        && let Err(found) = Filter::new(sql, input)
    {
        wrong.push(in_expression(&["filter"], found));
    }
    let mut after_set = input.clone();
    for (name, sql) in &spec.set {
        match Expression::new(sql, input) {
            Ok(expression) => {
                let field = Field::new(name, expression.data_type, expression.nullable);
                match after_set.fields.iter_mut().find(|known| known.name == *name) {
                    Some(known) => *known = field,
                    None => after_set.fields.push(field),
                }
            }
            Err(found) => wrong.push(in_expression(&["set", name], found)),
        }
    }
    // what a wrong expression would have given is not known
    if !wrong.is_empty() {
        return (None, wrong);
    }
    let Some(select) = &spec.select else { return (Some(after_set), wrong) };
    let mut selected: Vec<Field> = Vec::new();
    for (index, column) in select.iter().enumerate() {
        let index = index.to_string();
        let name = column.name.as_str();
        match &column.expression {
            Some(sql) => match Expression::new(sql, &after_set) {
                Ok(expression) => selected.push(Field::new(name, expression.data_type, expression.nullable)),
                Err(found) => wrong.push(in_expression(&["select", name], found)),
            },
            None if selected.iter().any(|field| field.name == name) => {
                wrong.push(misfit(
                    &["select", &index],
                    format!("`{name}` is there twice"),
                    Some("take one out".into()),
                ));
            }
            None => match after_set.field(name) {
                Some(field) => selected.push(field.clone()),
                None => {
                    let message = format!("the input has no column `{name}`");
                    wrong.push(misfit(&["select", &index], message, near(name, &after_set)));
                }
            },
        }
    }
    (wrong.is_empty().then(|| Schema::new(selected)), wrong)
}

fn in_expression(keys: &[&str], found: Wrong) -> Misfit {
    Misfit { within: found.place, ..misfit(keys, found.message, found.hint) }
}

/// What the plugin wants against what the steps before it give, then the columns after it: its own, and those that it did
/// not output (none if they clash).
pub fn check_signature(
    spec: &TransformPluginSpec,
    input: &Schema,
    signature: &TransformSignature,
) -> (Option<Schema>, Vec<Misfit>) {
    let reader = Reader { plugin: &spec.plugin, columns: &spec.columns };
    // a column that it only gives may have any name
    let read = spec.columns.iter().filter(|(name, _)| signature.output.field(name).is_none());
    let mut wrong = columns::check_renaming(&read.map(|(a, b)| (a.clone(), b.clone())).collect(), input);
    wrong.extend(columns::check_input(&reader, &signature.input, input, |name| signature.output.field(name).is_some()));
    let unfit = wrong.len();
    for (index, field) in signature.output.fields.iter().enumerate() {
        let name = outside(&spec.columns, &field.name);
        let mut earlier = signature.output.fields.iter().take(index);
        if earlier.any(|known| outside(&spec.columns, &known.name) == name) {
            let message = format!("the result would have two columns `{name}`: plugin `{}` gives both", spec.plugin);
            wrong.push(misfit(&["plugin"], message, Some("rename one of them in the plugin".into())));
        }
        wrong.extend(columns::check_no_list(&spec.plugin, field));
    }
    let fits = wrong.len() == unfit;
    (fits.then(|| plugin_output(&spec.columns, input, &signature.output)), wrong)
}

/// The plugin's columns under their names here, then those of the input that it did not output.
pub fn plugin_output(renamed: &BTreeMap<String, String>, input: &Schema, output: &Schema) -> Schema {
    let own = output.fields.iter().map(|f| Field::new(outside(renamed, &f.name), f.data_type, f.nullable));
    let mut fields: Vec<Field> = own.collect();
    for field in &input.fields {
        if !fields.iter().any(|known| known.name == field.name) {
            fields.push(field.clone());
        }
    }
    Schema::new(fields)
}

/// What a plugin's column is called in the pipeline.
fn outside<'a>(renamed: &'a BTreeMap<String, String>, name: &'a str) -> &'a str {
    renamed.get(name).map_or(name, String::as_str)
}

/// The key of a deduplication in the columns that it sees.
pub fn check_deduplicate(spec: &DeduplicateSpec, input: &Schema) -> Vec<Misfit> {
    columns::check_key(
        &["deduplicate", "key"],
        &spec.key,
        input,
        &[columns::WINDOW_START, columns::WINDOW_END, FIRST_SEEN],
    )
}

/// A transform's way from its input to its output, for `check`'s graph and for the tasks.
pub struct Through {
    /// after filter, set and select: what the plugin is offered
    pub steps: Schema,
    pub output: Schema,
}

/// All of a transform's columns; `signature` is its plugin's, if it has one and it could be opened.
pub fn through(
    spec: &TransformSpec,
    input: &Schema,
    signature: impl FnOnce(&TransformPluginSpec, &Schema) -> Option<TransformSignature>,
) -> (Option<Through>, Vec<Misfit>) {
    let (steps, mut wrong) = steps(spec, input);
    let Some(steps) = steps else { return (None, wrong) };
    let output = match &spec.plugin {
        None => Some(steps.clone()),
        Some(plugin) => {
            let signature = if wrong.is_empty() { signature(plugin, &steps) } else { None };
            signature.and_then(|signature| {
                let (output, unfit) = check_signature(plugin, &steps, &signature);
                wrong.extend(unfit);
                output
            })
        }
    };
    if let (Some(deduplicate), Some(output)) = (&spec.deduplicate, &output) {
        wrong.extend(check_deduplicate(deduplicate, output));
    }
    (output.map(|output| Through { steps, output }), wrong)
}
