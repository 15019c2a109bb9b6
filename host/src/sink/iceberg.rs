//! Rows into an Iceberg table, exactly once.
//!
//! ```text
//!   table      created or checked when the sink is opened
//!   writer     one per task: rows → Parquet files, named in the checkpoint     (sink task's thread)
//!   join       what waited for the commit becomes the commit's files            (coordinator)
//!   commit     claim, fenced commit, verification                              (committer)
//!
//!   upsert     the writer of a table that holds the last version of each row: remembers where its rows are
//!   row_delta  its commit: new rows and position deletes of the former ones, one snapshot
//! ```
//!
//! It never commits anything that a durable checkpoint does not list, and never says "done" of a commit that it has not
//! seen in the table.

use std::sync::{Arc, PoisonError, RwLock};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use iceberg::table::Table;
use iceberg::{Catalog, TableIdent};
use millrace_core::checkpoint::{Committable, SinkState};
use millrace_core::commit::{Claim, Fence};
use millrace_core::schema::{Field, Schema};
use serde_json::Value;
use tokio::runtime::Handle;

use self::identity::Identity;
use super::{Result, SinkCommitter, SinkError, SinkWriter, WriterStore};
use crate::catalog::submit::Submit;
use crate::spec::model::{IcebergSinkSpec, SinkMode};

mod buffer;
pub mod commit;
mod data;
mod deletes;
pub mod encode;
pub mod fence;
mod identity;
pub mod join;
mod live;
mod lookup;
mod metadata;
mod metrics;
pub mod partition;
mod positions;
mod removals;
mod row_delta;
mod run;
pub mod snapshot;
pub mod table;
#[cfg(test)]
mod tests;
mod upsert;
pub mod writer;

/// The columns that opening a sink would add to the table that is there, and the claim that it carries; none: the table would
/// be created. Changes nothing. Refused as opening it would be.
pub async fn look(
    pipeline: &str,
    sink: &str,
    spec: &IcebergSinkSpec,
    catalog: &dyn Catalog,
    input: &Schema,
) -> Result<Option<(Vec<Field>, Option<Claimed>)>> {
    let Some((table, added)) = table::look(catalog, spec, input).await? else { return Ok(None) };
    if let SinkMode::Upsert { .. } = spec.mode {
        takes_replacements(&table)?;
    }
    let claim = commit::claim_of(pipeline, sink, &table)?;
    let claimed =
        claim.map(|claim| Claimed { other: commit::explain_other(pipeline, sink, table.identifier(), &claim), claim });
    Ok(Some((added, claimed)))
}

/// The claim of a table that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub claim: Claim,
    /// why a run is refused that goes on with another incarnation
    pub other: String,
}

fn takes_replacements(table: &Table) -> Result<()> {
    snapshot::takes_position_deletes(table.metadata())
        .map_err(|e| SinkError::Fatal(format!("table {}: {}", table.identifier(), e.message())))
}

/// One Iceberg table as a sink.
pub struct IcebergSink {
    pub(crate) pipeline: String,
    pub(crate) name: String,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) ident: TableIdent,
    pub(crate) layout: Arc<table::Layout>,
    pub(crate) table: RwLock<Table>,
    pub(crate) runtime: Handle,
    /// none: it appends
    pub(crate) upsert: Option<row_delta::Upsert>,
}

/// How versions of one row are told from other rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// the columns in which they are equal
    pub identity: Vec<String>,
    /// the length of their windows, where all have the same
    pub window_ms: Option<i64>,
}

impl std::fmt::Debug for IcebergSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IcebergSink").field("sink", &self.name).field("table", &self.ident).finish_non_exhaustive()
    }
}

impl IcebergSink {
    /// Creates the table, or checks that the one there can take the rows of `input`. Sinks of one pipeline share the
    /// catalog; `runtime` does the I/O of the writers, which run on plain threads.
    pub async fn open(
        pipeline: &str,
        sink: &str,
        spec: &IcebergSinkSpec,
        catalog: Arc<dyn Catalog>,
        input: &Schema,
        runtime: Handle,
    ) -> Result<Arc<Self>> {
        Self::make(pipeline, sink, spec, catalog, input, runtime).await.map(Arc::new)
    }

    /// The same of a table that holds the last version of each row only.
    #[allow(clippy::too_many_arguments, reason = "those of `open`, and what replacing rows needs besides")]
    pub async fn open_upsert(
        pipeline: &str,
        sink: &str,
        spec: &IcebergSinkSpec,
        catalog: Arc<dyn Catalog>,
        submit: Arc<dyn Submit>,
        input: &Schema,
        versions: &Versions,
        runtime: Handle,
    ) -> Result<Arc<Self>> {
        let mut opened = Self::make(pipeline, sink, spec, catalog, input, runtime).await?;
        takes_replacements(&opened.base())?;
        let identity = Arc::new(Identity::new(&opened.layout, &versions.identity)?);
        opened.upsert = Some(row_delta::Upsert::new(identity, versions.window_ms, submit));
        Ok(Arc::new(opened))
    }

    async fn make(
        pipeline: &str,
        sink: &str,
        spec: &IcebergSinkSpec,
        catalog: Arc<dyn Catalog>,
        input: &Schema,
        runtime: Handle,
    ) -> Result<Self> {
        let (table, layout) = table::open(catalog.as_ref(), spec, input).await?;
        Ok(Self {
            pipeline: pipeline.to_owned(),
            name: sink.to_owned(),
            catalog,
            ident: table.identifier().clone(),
            layout: Arc::new(layout),
            table: RwLock::new(table),
            runtime,
            upsert: None,
        })
    }

    /// The writer of one task. `waits`: not every checkpoint is committed, and what it lists is joined before.
    pub fn writer(&self, task: usize, waits: bool) -> Box<dyn SinkWriter> {
        Box::new(writer::IcebergWriter::new(task, self.layout.clone(), self.runtime.clone(), waits))
    }

    /// The only writer of a sink that was opened to replace rows.
    pub fn upsert_writer(self: &Arc<Self>, store: Arc<dyn WriterStore>) -> Result<Box<dyn SinkWriter>> {
        let Some(upsert) = &self.upsert else {
            return Err(SinkError::Fatal(format!("sink `{}` was opened to append", self.name)));
        };
        Ok(Box::new(upsert::UpsertWriter::new(Arc::clone(self), upsert, store)))
    }

    /// One hash per row, equal for rows of one Iceberg partition, so that one task can write each; `None` if the table
    /// is unpartitioned and any task may write any row.
    pub fn partition_hash(&self, rows: &RecordBatch) -> Result<Option<Vec<u64>>> {
        if self.layout.spec.is_unpartitioned() {
            return Ok(None);
        }
        let rows = self.layout.project(rows)?;
        partition::hashes(&self.layout, &rows).map(Some)
    }

    pub(crate) fn base(&self) -> Table {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn renew(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// The commit is in the table: nothing needs the files any more that it has replaced.
    pub(crate) async fn after_commit(&self, table: Table, committable: &Committable) {
        let superseded = metadata::superseded(&self.base(), &table);
        let gone = join::replaced(&committable.files).chain(superseded.iter().map(String::as_str));
        self.layout.remove(gone).await;
        self.renew(table);
    }
}

#[async_trait]
impl SinkCommitter for IcebergSink {
    async fn claim(&self, fence: &Fence, state: &SinkState) -> Result<u64> {
        commit::claim(self, fence, state).await
    }

    async fn join(&self, checkpoint: u64, files: Vec<Value>) -> Result<Vec<Value>> {
        if self.upsert.is_none() {
            return join::join(&self.layout, &self.runtime, checkpoint, files).await;
        }
        // Places in the files are remembered, so they stay as they are. Runs are of the time when this sink appended.
        let (runs, mut files): (Vec<Value>, Vec<Value>) =
            files.into_iter().partition(|file| run::path_of(file).is_some());
        if !runs.is_empty() {
            files.extend(join::join(&self.layout, &self.runtime, checkpoint, runs).await?);
        }
        Ok(files)
    }

    async fn commit(&self, fence: &Fence, committable: &Committable) -> Result<()> {
        commit::commit(self, fence, committable).await
    }
}

/// What time can heal is retried by the caller, the rest stops the run.
pub(crate) fn classify(what: &str, error: &iceberg::Error) -> SinkError {
    use iceberg::ErrorKind;
    let words = format!("{what}: {error}");
    match error.kind() {
        ErrorKind::DataInvalid if words.contains("snapshot timestamp") => SinkError::Transient(format!(
            "{words}\nhint: this machine's clock is behind the table's last snapshot: set it, or wait until it has caught up"
        )),
        ErrorKind::DataInvalid
        | ErrorKind::FeatureUnsupported
        | ErrorKind::TableNotFound
        | ErrorKind::NamespaceNotFound => SinkError::Fatal(words),
        _ if words.contains("PermissionDenied") => SinkError::Fatal(words),
        _ => SinkError::Transient(words),
    }
}
