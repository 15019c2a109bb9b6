//! What concerns several parts of the file: who reads whom, what nobody reads, where failed messages go.
//!
//! Works on the nodes as the file names them, right or wrong, so that one wrong node does not hide the next error.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::document::Document;
use super::model::{OnError, SinkKind};
use super::parse::{Draft, Node, Section};
use super::{changelog, suggest};

const ERRORS: &str = ".errors";
const LATE: &str = ".late";
const ALL_ERRORS: &str = "*.errors";

/// Checks the graph, and replaces `*.errors` in the sinks' inputs by the nodes that it stands for.
pub fn check(doc: &Document<'_>, draft: &mut Draft) {
    unique_names(doc, &draft.nodes);
    let edges = edges(doc, &draft.nodes);
    cycles(doc, &draft.nodes, &edges);
    deduplicated_results(doc, draft, &edges);
    expand(draft, &edges);
    dead_letters(doc, draft, &edges);
    one_table(doc, draft);
    changelog::check(doc, draft);
    memory(doc, draft);
    // a wrong name somewhere is why nobody reads another: said once is enough
    if !doc.has_errors() {
        unread(doc, draft, &edges);
    }
}

/// One input of one node, resolved.
struct Edge {
    /// indexes of nodes
    to: usize,
    from: usize,
    /// what the reader sees: `events`, `events.errors`, `metrics.late`
    stream: String,
    place: Range<usize>,
}

fn unique_names(doc: &Document<'_>, nodes: &[Node]) {
    let mut first: BTreeMap<&str, &Node> = BTreeMap::new();
    for node in nodes {
        if let Some(other) = first.get(node.name.as_str()) {
            doc.report(
                Diagnostic::error(doc.spans.key(&node.path(&[])), format!("two nodes are named `{}`", node.name))
                    .context(doc.spans.key(&other.path(&[])), format!("the {} of that name", other.section.noun()))
                    .hint("a node's name is unique over sources, transforms, lookups, aggregations, joins and sinks"),
            );
        } else {
            first.insert(&node.name, node);
        }
    }
}

fn edges(doc: &Document<'_>, nodes: &[Node]) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (to, node) in nodes.iter().enumerate() {
        let mut seen = BTreeSet::new();
        for (input, keys) in &node.inputs {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let place = doc.spans.value(&node.path(&keys));
            if !seen.insert(input.as_str()) {
                doc.report(Diagnostic::error(place.clone(), format!("`{input}` is there twice")).hint("take one out"));
            }
            for (from, stream) in resolve(doc, nodes, node, input, &place) {
                edges.push(Edge { to, from, stream, place: place.clone() });
            }
        }
    }
    edges
}

/// The nodes that an input stands for.
fn resolve(
    doc: &Document<'_>,
    nodes: &[Node],
    reader: &Node,
    input: &str,
    place: &Range<usize>,
) -> Vec<(usize, String)> {
    let refuse = |message: String, hint: Option<String>| {
        doc.report(Diagnostic::error(place.clone(), message).hint_if_any(hint));
        Vec::new()
    };
    let side = input.ends_with(ERRORS) || input.ends_with(LATE);
    if side && reader.section != Section::Sinks {
        return refuse(
            format!("{} `{}` reads `{input}`: that is not supported yet", reader.section.noun(), reader.name),
            Some("only sinks can read `.errors` and `.late`".to_owned()),
        );
    }
    if input == ALL_ERRORS {
        let all = nodes.iter().enumerate().filter(|(_, node)| node.section != Section::Sinks);
        return all.map(|(index, node)| (index, format!("{}{ERRORS}", node.name))).collect();
    }
    let name = input.strip_suffix(ERRORS).or_else(|| input.strip_suffix(LATE)).unwrap_or(input);
    let Some((index, node)) = nodes.iter().enumerate().find(|(_, node)| node.name == name) else {
        let known = nodes.iter().filter(|node| node.section != Section::Sinks && node.name != reader.name);
        let hint = suggest::did_you_mean(name, known.map(|node| node.name.as_str()));
        return refuse(format!("unknown input `{input}`"), hint);
    };
    if node.section == Section::Sinks {
        let what = if side { "a sink has no such output yet" } else { "a sink has no output" };
        let hint = "read what the sink reads".to_owned();
        return refuse(format!("`{name}` is a sink: {what}"), (!side).then_some(hint));
    }
    if input.ends_with(LATE) && !node.section.has_late() {
        let hint = "aggregations and joins have `.late`; a source's failed messages are in `.errors`".to_owned();
        return refuse(format!("{} `{name}` has no `.late`", node.section.noun()), Some(hint));
    }
    vec![(index, input.to_owned())]
}

fn cycles(doc: &Document<'_>, nodes: &[Node], edges: &[Edge]) {
    let mut in_cycle: BTreeSet<usize> = BTreeSet::new();
    for start in 0..nodes.len() {
        if in_cycle.contains(&start) {
            continue;
        }
        let Some(cycle) = path_back(start, edges) else { continue };
        in_cycle.extend(cycle.iter().map(|edge| edge.from));
        let name = |index: usize| nodes.get(index).map_or("", |node| node.name.as_str());
        let mut names: Vec<String> = cycle.iter().map(|edge| format!("`{}`", name(edge.from))).collect();
        names.push(format!("`{}`", name(start)));
        let Some(last) = cycle.last() else { continue };
        doc.report(
            Diagnostic::error(last.place.clone(), format!("the graph has a cycle: {}", names.join(" → ")))
                .hint("data flows one way, from sources to sinks: take one of these inputs out"),
        );
    }
}

/// Whether rows of a node are, or are made of, results of an aggregation.
fn has_aggregation(node: usize, nodes: &[Node], edges: &[Edge]) -> bool {
    let mut reached = vec![node];
    let mut next = 0;
    while let Some(&at) = reached.get(next) {
        next += 1;
        if nodes.get(at).is_some_and(|node| node.section == Section::Aggregations) {
            return true;
        }
        for edge in edges.iter().filter(|edge| edge.to == at) {
            if !reached.contains(&edge.from) {
                reached.push(edge.from);
            }
        }
    }
    false
}

/// Results are a changelog: a second row of a key is not a repeated one.
fn deduplicated_results(doc: &Document<'_>, draft: &Draft, edges: &[Edge]) {
    for (index, node) in draft.nodes.iter().enumerate() {
        let path = node.path(&["deduplicate"]);
        if node.section != Section::Transforms || !doc.spans.has(&path) {
            continue;
        }
        if let Some(edge) = edges.iter().find(|e| e.to == index && has_aggregation(e.from, &draft.nodes, edges)) {
            doc.report(
                Diagnostic::error(
                    doc.spans.key(&path),
                    format!("`{}` would deduplicate an aggregation's results", node.name),
                )
                .context(edge.place.clone(), "results come from here")
                .hint("deduplicate the events, before the aggregation: it gives one row per key and window"),
            );
        }
    }
}

/// The edges of a shortest way from a node back to itself, in the order that data flows; the last one closes it.
fn path_back(start: usize, edges: &[Edge]) -> Option<Vec<&Edge>> {
    let mut reached: BTreeMap<usize, &Edge> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for edge in edges.iter().filter(|edge| edge.from == node) {
            if reached.contains_key(&edge.to) {
                continue;
            }
            reached.insert(edge.to, edge);
            if edge.to == start {
                let mut path: Vec<&Edge> = vec![edge];
                let mut at = edge.from;
                while at != start {
                    let edge = reached.get(&at)?;
                    path.push(edge);
                    at = edge.from;
                }
                path.reverse();
                return Some(path);
            }
            queue.push_back(edge.to);
        }
    }
    None
}

fn expand(draft: &mut Draft, edges: &[Edge]) {
    for (name, sink) in &mut draft.sinks {
        let is_this = |edge: &&Edge| {
            draft.nodes.get(edge.to).is_some_and(|node| node.section == Section::Sinks && node.name == *name)
        };
        let mut inputs: Vec<String> = Vec::new();
        for edge in edges.iter().filter(is_this) {
            if !inputs.contains(&edge.stream) {
                inputs.push(edge.stream.clone());
            }
        }
        sink.inputs = inputs;
    }
}

/// What nobody reads is a slip more often than not.
fn unread(doc: &Document<'_>, draft: &Draft, edges: &[Edge]) {
    for (index, node) in draft.nodes.iter().enumerate() {
        let read = edges.iter().any(|edge| edge.from == index && edge.stream == node.name);
        if node.section != Section::Sinks && !read {
            let noun = node.section.noun();
            doc.report(
                Diagnostic::warning(doc.spans.key(&node.path(&[])), format!("nothing reads {noun} `{}`", node.name))
                    .hint(format!("connect it (`inputs = [\"{}\"]`), or take it out", node.name)),
            );
        }
    }
    let sections: [(&str, &str, Vec<&String>, &str); 3] = [
        ("plugins", "plugin", draft.plugins.keys().collect(), "plugin"),
        ("catalogs", "catalog", draft.catalogs.keys().collect(), "catalog"),
        ("schemas", "schema", draft.schemas.keys().collect(), "schema"),
    ];
    for (section, noun, names, key) in sections {
        for name in names {
            let quoted = [format!("\"{name}\""), format!("'{name}'")];
            let used = draft.nodes.iter().any(|node| {
                let path = node.path(&[key]);
                let written = doc.source.text.get(doc.spans.value(&path)).unwrap_or("");
                doc.spans.has(&path) && (quoted.iter().any(|q| q == written) || written.contains("${"))
            });
            if !used {
                doc.report(Diagnostic::warning(
                    doc.spans.key(&[section, name]),
                    format!("no node uses {noun} `{name}`"),
                ));
            }
        }
    }
}

/// Whatever goes to the dead letters must have somewhere to go.
fn dead_letters(doc: &Document<'_>, draft: &Draft, edges: &[Edge]) {
    let connected = |name: &str| edges.iter().any(|edge| edge.stream == format!("{name}{ERRORS}"));
    let nodes = draft
        .nodes
        .iter()
        .filter(|node| matches!(node.section, Section::Sources | Section::Transforms | Section::Aggregations))
        .filter(|node| !connected(&node.name));
    let mut inherited = Vec::new();
    for node in nodes {
        let path = node.path(&["on_error"]);
        let own = doc.spans.has(&path);
        let dead_letter = draft
            .sources
            .iter()
            .any(|(name, spec)| *name == node.name && spec.on_error == OnError::DeadLetter)
            || draft.transforms.iter().any(|(name, spec)| *name == node.name && spec.on_error == OnError::DeadLetter)
            || draft.aggregations.iter().any(|(name, spec)| *name == node.name && spec.on_error == OnError::DeadLetter);
        if dead_letter && own {
            doc.report(
                Diagnostic::error(
                    doc.spans.value(&path),
                    format!(
                        "dead letters of `{}` have nowhere to go: nothing reads `{}{ERRORS}`",
                        node.name, node.name
                    ),
                )
                .hint(format!(
                    "add a sink with `inputs = [\"{}{ERRORS}\"]`, or with `[\"{ALL_ERRORS}\"]` for all nodes",
                    node.name
                )),
            );
        } else if dead_letter {
            inherited.push(format!("`{}{ERRORS}`", node.name));
        }
    }
    if !inherited.is_empty() {
        doc.report(
            Diagnostic::error(
                doc.spans.value(&["errors", "on_error"]),
                format!("dead letters have nowhere to go: nothing reads {}", inherited.join(", ")),
            )
            .hint(format!("add a sink with `inputs = [\"{ALL_ERRORS}\"]`")),
        );
    }
}

/// Two sinks may write one table, but then they must agree on its partitions.
fn one_table(doc: &Document<'_>, draft: &Draft) {
    let mut first = BTreeMap::new();
    for (name, sink) in &draft.sinks {
        let SinkKind::Iceberg(spec) = &sink.kind else { continue };
        let table = (&spec.catalog, &spec.namespace, &spec.table);
        let Some((other_name, other)) = first.insert(table, (name, &spec.partition_by)) else { continue };
        if *other != spec.partition_by {
            doc.report(
                Diagnostic::error(
                    doc.spans.key(&["sinks", name, "partition_by"]),
                    format!("sinks `{other_name}` and `{name}` write one table, but partition it differently"),
                )
                .context(doc.spans.key(&["sinks", other_name, "partition_by"]), "the other")
                .hint("give both the same `partition_by`"),
            );
        }
    }
}

/// Plugins that may grow beyond the whole budget.
fn memory(doc: &Document<'_>, draft: &Draft) {
    let limit = draft.head.state.memory_limit_bytes;
    for (name, plugin) in &draft.plugins {
        let Some(bytes) = plugin.memory_bytes else { continue };
        let of_transforms =
            draft.transforms.iter().filter_map(|(_, spec)| spec.plugin.as_ref()).filter(|p| p.plugin == *name);
        let users = draft.aggregations.iter().filter(|(_, aggregation)| aggregation.plugin == *name).count()
            + of_transforms.count();
        let tasks = u64::try_from(users.saturating_mul(draft.head.parallelism)).unwrap_or(u64::MAX);
        let total = bytes.saturating_mul(tasks);
        if total > limit {
            let show = super::units::show_bytes;
            doc.report(
                Diagnostic::warning(
                    doc.spans.value(&["plugins", name, "memory"]),
                    format!(
                        "{tasks} tasks with {} each are {}, more than the memory limit, {}",
                        show(bytes),
                        show(total),
                        show(limit)
                    ),
                )
                .hint("lower `memory` or `parallelism`, or raise `memory_limit` of `[state]`"),
            );
        }
    }
}
