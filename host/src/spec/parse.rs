//! From the table of the file to its parts. Each part is read on its own: a wrong one is reported and left out, the
//! rest goes on, so that all errors are found in one run. What concerns several parts is checked in `links`.

use std::collections::BTreeMap;

use super::cursor::Cursor;
use super::diagnostic::Diagnostic;
use super::document::Document;
use super::model::{
    AggregationSpec, CatalogSpec, Named, OnError, PluginSpec, SinkSpec, SourceSchema, SourceSpec, TransformSpec,
};
use super::suggest;
use millrace_core::schema::Schema;

mod aggregate;
pub(crate) mod aggregation;
mod catalog;
mod head;
mod later;
mod partition;
mod plugin;
mod properties;
pub(crate) mod schema;
mod sink;
pub(crate) mod source;
mod transform;

pub use head::Head;

/// The sections that hold nodes of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Sources,
    Transforms,
    Lookups,
    Aggregations,
    Joins,
    Sinks,
}

impl Section {
    pub fn key(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Transforms => "transforms",
            Self::Lookups => "lookups",
            Self::Aggregations => "aggregations",
            Self::Joins => "joins",
            Self::Sinks => "sinks",
        }
    }

    pub fn noun(self) -> &'static str {
        match self {
            Self::Sources => "source",
            Self::Transforms => "transform",
            Self::Lookups => "lookup",
            Self::Aggregations => "aggregation",
            Self::Joins => "join",
            Self::Sinks => "sink",
        }
    }

    /// Whether it has a `.late` output.
    pub fn has_late(self) -> bool {
        matches!(self, Self::Aggregations | Self::Joins)
    }
}

/// A node as the file names it, whether or not the rest of it was right.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub section: Section,
    /// as written, and the keys below the node that each stands at
    pub inputs: Vec<(String, Vec<String>)>,
    /// a source's columns, if its schema is right
    pub output: Option<Schema>,
}

impl Node {
    /// The path of this node's table, and of what is below it.
    pub fn path<'a>(&'a self, below: &[&'a str]) -> Vec<&'a str> {
        [self.section.key(), self.name.as_str()].into_iter().chain(below.iter().copied()).collect()
    }
}

/// Everything of the file that could be read.
#[derive(Debug)]
pub struct Draft {
    pub head: Head,
    pub plugins: BTreeMap<String, PluginSpec>,
    pub catalogs: BTreeMap<String, CatalogSpec>,
    pub schemas: BTreeMap<String, SourceSchema>,
    pub sources: Named<SourceSpec>,
    pub transforms: Named<TransformSpec>,
    pub aggregations: Named<AggregationSpec>,
    pub sinks: Named<SinkSpec>,
    pub nodes: Vec<Node>,
}

/// What the parts of the file need to know of each other while they are read.
pub struct Known<'k> {
    pub head: &'k Head,
    /// names that exist, right or wrong
    pub plugins: &'k [String],
    pub catalogs: &'k [String],
    pub schema_names: &'k [String],
    pub schemas: &'k BTreeMap<String, SourceSchema>,
}

pub fn file<'a>(doc: &'a Document<'a>, root: &Cursor<'a>) -> Draft {
    let head = head::read(root);
    let mut nodes = Vec::new();

    let plugins = root.tables("plugins", "plugin");
    let plugin_names = names(&plugins);
    let plugins = plugins.iter().filter_map(|(name, cursor)| Some((name.clone(), plugin::read(cursor)?))).collect();

    let catalogs = root.tables("catalogs", "catalog");
    let catalog_names = names(&catalogs);
    let catalogs =
        catalogs.iter().filter_map(|(name, cursor)| Some((name.clone(), catalog::read(name, cursor)?))).collect();

    let schemas = root.tables("schemas", "schema");
    let schema_names = names(&schemas);
    let schemas = schemas.iter().filter_map(|(name, cursor)| Some((name.clone(), schema::read(cursor)?))).collect();

    let known = Known {
        head: &head,
        plugins: &plugin_names,
        catalogs: &catalog_names,
        schema_names: &schema_names,
        schemas: &schemas,
    };

    let mut sources = Vec::new();
    for (name, cursor) in root.tables("sources", "source") {
        let (output, spec) = source::read(&cursor, &known);
        nodes.push(Node { name: name.clone(), section: Section::Sources, inputs: Vec::new(), output });
        sources.extend(spec.map(|spec| (name, spec)));
    }
    let mut transforms = Vec::new();
    for (name, cursor) in root.tables("transforms", "transform") {
        let (inputs, spec) = transform::read(&cursor, &known);
        nodes.push(Node { name: name.clone(), section: Section::Transforms, inputs: numbered(inputs), output: None });
        transforms.extend(spec.map(|spec| (name, spec)));
    }
    later::sections(root, &mut nodes);
    let mut aggregations = Vec::new();
    for (name, cursor) in root.tables("aggregations", "aggregation") {
        let spec = aggregation::read(&cursor, &known);
        nodes.push(Node { name: name.clone(), section: Section::Aggregations, inputs: numbered(spec.0), output: None });
        aggregations.extend(spec.1.map(|spec| (name, spec)));
    }
    let mut sinks = Vec::new();
    for (name, cursor) in root.tables("sinks", "sink") {
        let (inputs, spec) = sink::read(&cursor, &known);
        nodes.push(Node { name: name.clone(), section: Section::Sinks, inputs: numbered(inputs), output: None });
        sinks.extend(spec.map(|spec| (name, spec)));
    }
    root.finish();

    for (key, noun) in [("sources", "source"), ("sinks", "sink")] {
        if !nodes.iter().any(|node| node.section.key() == key) {
            let span = doc.spans.key(&["pipeline"]);
            doc.report(
                Diagnostic::error(span, format!("the pipeline has no {noun}"))
                    .hint(format!("add a table `[{key}.NAME]`")),
            );
        }
    }
    Draft { head, plugins, catalogs, schemas, sources, transforms, aggregations, sinks, nodes }
}

fn names(tables: &[(String, Cursor<'_>)]) -> Vec<String> {
    tables.iter().map(|(name, _)| name.clone()).collect()
}

fn numbered(inputs: Vec<String>) -> Vec<(String, Vec<String>)> {
    inputs.into_iter().enumerate().map(|(i, name)| (name, vec!["inputs".to_owned(), i.to_string()])).collect()
}

/// Reads `inputs`, which must name something.
fn inputs(c: &Cursor<'_>) -> Option<Vec<String>> {
    let inputs = c.required("inputs", Cursor::strings)?;
    if inputs.is_empty() {
        c.wrong(&["inputs"], format!("{} reads nothing", c.what()), "name a node: `inputs = [\"…\"]`");
        return None;
    }
    Some(inputs)
}

/// Reads a key that names another table: `known` are those that exist.
fn reference(c: &Cursor<'_>, key: &str, noun: &str, known: &[String]) -> Option<String> {
    let name = c.required(key, Cursor::string)?;
    if known.contains(&name) {
        return Some(name);
    }
    let hint = suggest::did_you_mean(&name, known.iter().map(String::as_str))
        .unwrap_or_else(|| format!("add a table `[{noun}s.{name}]`"));
    c.wrong(&[key], format!("unknown {noun} `{name}`"), hint);
    None
}

/// Reads `on_error` and `consecutive_limit`, which fall back to `[errors]`.
fn errors(c: &Cursor<'_>, head: &Head) -> (OnError, u64) {
    (
        head::on_error(c).unwrap_or(head.errors.on_error),
        head::consecutive_limit(c).unwrap_or(head.errors.consecutive_limit),
    )
}
