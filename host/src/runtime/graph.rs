//! The queues between the tasks of a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use millrace_core::schema::Schema;

use super::edge::{Exchange, Output, connect};
use super::message::{Message, RunError};
use super::run::Parts;
use super::unite::Unite;
use crate::spec::columns;

/// All queues of the graph, taken out by node and task.
#[derive(Default)]
pub struct Graph {
    outputs: BTreeMap<(String, usize), Vec<Output>>,
    inputs: BTreeMap<(String, usize), Vec<Receiver<Message>>>,
    /// by node and task, the node behind each of its inputs
    senders: BTreeMap<(String, usize), Vec<Arc<str>>>,
}

impl Graph {
    pub fn outputs(&mut self, node: &str, task: usize) -> Vec<Output> {
        self.outputs.remove(&(node.to_owned(), task)).unwrap_or_default()
    }

    pub fn inputs(&mut self, node: &str, task: usize) -> Vec<Receiver<Message>> {
        self.inputs.remove(&(node.to_owned(), task)).unwrap_or_default()
    }

    pub fn senders(&self, node: &str, task: usize) -> Vec<Arc<str>> {
        self.senders.get(&(node.to_owned(), task)).cloned().unwrap_or_default()
    }

    fn edge(
        &mut self,
        from: &str,
        senders: usize,
        to: &str,
        receivers: usize,
        exchange: &Exchange,
        unite: Option<Unite>,
    ) {
        let (outputs, inputs) = connect(exchange, unite, senders, receivers);
        for (task, output) in outputs.into_iter().enumerate() {
            self.outputs.entry((from.to_owned(), task)).or_default().push(output);
        }
        let from: Arc<str> = from.into();
        for (task, input) in inputs.into_iter().enumerate() {
            let senders = self.senders.entry((to.to_owned(), task)).or_default();
            senders.extend(input.iter().map(|_| Arc::clone(&from)));
            self.inputs.entry((to.to_owned(), task)).or_default().extend(input);
        }
    }
}

pub fn wire(parts: &Parts, tasks: usize) -> Result<Graph, RunError> {
    let mut graph = Graph::default();
    for node in &parts.transforms {
        let steps = node.steps_name();
        let first = steps.as_deref().unwrap_or(&node.name);
        let exchange = if node.spec.has_steps() { None } else { node.by_key() };
        for (input, unite) in united(parts, &node.spec.inputs)? {
            graph.edge(input, tasks, first, tasks, exchange.as_ref().unwrap_or(&Exchange::Forward), unite);
        }
        if let (Some(steps), Some(by_key)) = (&steps, node.by_key()) {
            graph.edge(steps, tasks, &node.name, tasks, &by_key, None);
        }
    }
    for node in &parts.aggregations {
        let columns: Arc<[usize]> = node.spec.key.iter().filter_map(|k| node.input.index_of(k)).collect();
        let exchange = Exchange::Key { columns };
        for (input, unite) in united(parts, &node.spec.inputs)? {
            graph.edge(input, tasks, &node.name, tasks, &exchange, unite);
        }
    }
    for sink in &parts.sinks {
        let exchange = match &sink.partition {
            Some(hash) => Exchange::Partition(Arc::clone(hash)),
            None => Exchange::Forward,
        };
        for (input, unite) in united(parts, &sink.inputs)? {
            graph.edge(input, tasks, &sink.name, sink.tasks, &exchange, unite);
        }
    }
    Ok(graph)
}

/// Each input of a node, and what brings its batches to the columns of all of them.
fn united<'a>(parts: &Parts, inputs: &'a [String]) -> Result<Vec<(&'a str, Option<Unite>)>, RunError> {
    let schemas: Vec<(&str, Schema)> = inputs.iter().map(|input| (input.as_str(), schema(parts, input))).collect();
    let borrowed: Vec<(&str, &Schema)> = schemas.iter().map(|(input, schema)| (*input, schema)).collect();
    let all = columns::united(&borrowed).map_err(|misfit| RunError::Spec(misfit.message))?;
    Ok(schemas.iter().map(|(input, schema)| (*input, Unite::new(schema, &all))).collect())
}

/// The columns that a node, or one of its side streams, gives.
fn schema(parts: &Parts, input: &str) -> Schema {
    let source = parts.sources.iter().find(|s| *s.name == *input).map(|s| s.spec.output.clone());
    source
        .or_else(|| parts.transforms.iter().find(|t| *t.name == *input).map(|t| t.output.clone()))
        .or_else(|| parts.aggregations.iter().find(|a| *a.name == *input).map(|a| a.output.clone()))
        .unwrap_or_else(columns::side_stream)
}
