//! What can refuse a start, asked before the start changes anything: tables that do not take what their sinks write, a
//! checkpoint that does not fit the pipeline, state that a new plugin does not take.
//!
//! It reads the log, the tables' metadata, and state where a migration has to be tried on a copy. It claims, creates and
//! writes nothing, and it decides nothing by itself: the verdicts are those of [`restore`] and of the sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use millrace_core::checkpoint::{Checkpoint, Choice, OperatorState, StateFile, choose};
use millrace_core::commit::Claim;
use tokio::runtime::Handle;
use tracing::info;

use super::begin::{self, Begin};
use super::message::RunError;
use super::nodes::{self, Reader};
use super::plan::tables;
use super::read_state::StateReader;
use super::restore::{self, Reconciled, Wanted};
use super::run::{AggregationNode, offered_to_plugin, operator_state, try_migration};
use super::transforms::{self, TransformNode};
use crate::checkpoint::savepoint::{self, Savepoint};
use crate::checkpoint::{CheckpointError, CheckpointStore};
use crate::cli::open::Opened;
use crate::plugin::StateOrigin;
use crate::sink::iceberg::Claimed;
use crate::spec::model::Pipeline;

/// What a checkpoint refers to.
pub trait Files: StateReader {
    /// The component that an operator ran; `Err`: why there is none.
    fn plugin(&self, sha256: &str) -> Result<Bytes, String>;
}

impl Files for Reader {
    fn plugin(&self, sha256: &str) -> Result<Bytes, String> {
        self.runtime.block_on(self.store.get_plugin(sha256)).map_err(|e| e.to_string())
    }
}

impl StateReader for Savepoint {
    fn read(&self, file: &StateFile) -> Result<Vec<RecordBatch>, RunError> {
        Ok(self.read_state_file(file)?)
    }
}

impl Files for Savepoint {
    fn plugin(&self, sha256: &str) -> Result<Bytes, String> {
        self.read_plugin(sha256).map_err(|e| e.to_string())
    }
}

/// What a start begins with, as far as can be known before it claims the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Beginning {
    /// no checkpoint
    Nothing,
    /// of the log, by its number
    Checkpoint(u64),
    /// whose copy becomes the log's first checkpoint
    Savepoint,
}

/// Nothing has refused the start.
pub struct Looked {
    /// the claims that tables carry, by sink
    pub claims: Vec<(String, Claim)>,
    pub beginning: Beginning,
    /// opened for this beginning
    pub operators: Operators,
}

/// With the plugins that run: those that a checkpoint goes on with, or the file's.
pub struct Operators {
    pub aggregations: Vec<AggregationNode>,
    pub transforms: Vec<TransformNode>,
}

/// Asks everything that can refuse the start. Changes nothing.
pub fn look(pipeline: &Pipeline, opened: &Opened, runtime: &Handle, begin: Begin<'_>) -> Result<Looked, RunError> {
    // before the log: who claims a table has claimed the log before
    let claimed = look_at_tables(pipeline, opened, runtime)?;
    let claims: Vec<(String, Claim)> =
        claimed.iter().map(|(sink, claimed)| (sink.clone(), claimed.claim.clone())).collect();
    let location = &pipeline.checkpoint.location;
    // what is there will be moved aside
    let store = if begin.fresh { None } else { CheckpointStore::open_existing(location, &pipeline.name)? };
    let savepoint = match (begin.from_savepoint, &store) {
        (None, _) => None,
        (Some(folder), None) => Some(savepoint::open(folder)?),
        (Some(folder), Some(store)) => Some(runtime.block_on(begin::open(store, folder))?),
    };
    let survey = store.as_ref().map(|store| runtime.block_on(store.survey())).transpose()?;
    let (incarnation, last) = match survey.map(|survey| choose(&survey, &claims)) {
        None | Some(Choice::Fresh) => (None, None),
        Some(Choice::Resume { incarnation, restored, .. }) => (Some(incarnation), restored),
        Some(Choice::Refuse(refusal)) => return Err(CheckpointError::from(refusal).into()),
    };
    let last = last.as_ref().and_then(|record| Some((record.number, record.checkpoint()?)));
    let reader = store.map(|store| Reader { store: Arc::new(store), runtime: runtime.clone() });
    let (beginning, found): (_, Option<(&Checkpoint, &dyn Files)>) = match (last, &reader, &savepoint) {
        (Some((number, checkpoint)), Some(reader), _) => (Beginning::Checkpoint(number), Some((checkpoint, reader))),
        (_, _, Some(savepoint)) => (Beginning::Savepoint, Some((&savepoint.record.checkpoint, savepoint))),
        _ => (Beginning::Nothing, None),
    };
    let operators = judge(pipeline, opened, found, begin.drop_state)?;
    if let Some((_, of)) = claimed.iter().find(|(_, of)| Some(&of.claim.incarnation) != incarnation.as_ref()) {
        return Err(RunError::External(of.other.clone()));
    }
    Ok(Looked { claims, beginning, operators })
}

fn look_at_tables(pipeline: &Pipeline, opened: &Opened, runtime: &Handle) -> Result<Vec<(String, Claimed)>, RunError> {
    let mut claims = Vec::new();
    for (name, spec) in &pipeline.sinks {
        let rows = opened.resolved.input.get(name).cloned().unwrap_or_default();
        let columns = nodes::sink_columns(pipeline, spec, &rows);
        let table = runtime.block_on(tables::look_at(pipeline, name, spec, &columns)).map_err(RunError::External)?;
        let claim = table.and_then(|table| table.claim);
        claims.extend(claim.map(|claim| (name.clone(), claim)));
    }
    Ok(claims)
}

/// Whether the pipeline can go on from a checkpoint; if so, its operators.
pub fn judge(
    pipeline: &Pipeline,
    opened: &Opened,
    found: Option<(&Checkpoint, &dyn Files)>,
    drop_state: &[String],
) -> Result<Operators, RunError> {
    let mut kept = found.map(|(checkpoint, _)| checkpoint.clone()).unwrap_or_default();
    kept.operators.retain(|name, _| !drop_state.contains(name));
    kept.transforms.retain(|name, _| !drop_state.contains(name));
    let nodes = nodes::open_operators(pipeline, opened, found.map(|(_, files)| (&kept, files)))?;
    let Some((checkpoint, files)) = found else { return Ok(nodes) };
    let operators = states(pipeline, &nodes)?;
    let drop_state: BTreeSet<String> = drop_state.iter().cloned().collect();
    let mut kept = checkpoint.clone();
    let reconciled = restore::reconcile(&mut kept, &wanted(pipeline, &operators), &drop_state)?;
    let Reconciled { notes: _, migrations } = reconciled;
    for (operator, origin) in &migrations {
        let node = nodes.aggregations.iter().find(|node| *node.name == **operator);
        let (Some(node), Some(state)) = (node, kept.operators.get(operator)) else { continue };
        info!(operator, from = origin.version, "its new plugin is tried on a copy of its state");
        let config = pipeline.secrets.unseal_known(&origin.config);
        try_migration(node, files, state, &StateOrigin { config, ..origin.clone() })?;
    }
    Ok(nodes)
}

/// The operators that keep state, as a checkpoint would have them.
pub fn states(pipeline: &Pipeline, nodes: &Operators) -> Result<BTreeMap<String, OperatorState>, RunError> {
    let mut operators = transforms::operator_states(&nodes.transforms);
    for node in &nodes.aggregations {
        let plugin = node.factory.open(&node.spec.config, &offered_to_plugin(node))?;
        operators
            .insert(node.name.to_string(), operator_state(node, plugin.signature().state.clone(), &pipeline.secrets));
    }
    Ok(operators)
}

pub fn wanted<'a>(pipeline: &'a Pipeline, operators: &'a BTreeMap<String, OperatorState>) -> Wanted<'a> {
    Wanted {
        sources: pipeline.sources.iter().map(|(name, _)| name.as_str()).collect(),
        operators: operators.iter().map(|(name, state)| (name.as_str(), state)).collect(),
        sinks: pipeline.sinks.iter().map(|(name, _)| name.as_str()).collect(),
    }
}
