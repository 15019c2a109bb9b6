//! The fence: a catalog that judges the table before every attempt to commit.
//!
//! `Transaction::commit` calls `load_table` at the start of every attempt and binds the commit to exactly the snapshot
//! it got. So a decision taken inside `load_table` is atomic with the commit. One thing has to hold for that: whatever
//! moves the fence also moves the snapshot. A claim is therefore committed as an empty snapshot, never as a change of
//! properties alone, which no catalog would see as a conflict.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use iceberg::table::Table;
use iceberg::{Catalog, Error, ErrorKind, Namespace, NamespaceIdent, Result, TableCommit, TableCreation, TableIdent};

/// What a judge says about the table that a commit is about to be bound to.
pub enum Verdict<R> {
    Go,
    Stop(R),
}

/// Looks at the table as a commit would find it.
type Judge<R> = Box<dyn Fn(&Table) -> Verdict<R> + Send + Sync>;

/// Wraps a catalog for one commit. The reason for a stop is kept in `stopped`.
pub struct FencedCatalog<R> {
    inner: Arc<dyn Catalog>,
    judge: Judge<R>,
    stopped: Mutex<Option<R>>,
}

impl<R> std::fmt::Debug for FencedCatalog<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FencedCatalog").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<R> FencedCatalog<R> {
    pub fn new(inner: Arc<dyn Catalog>, judge: impl Fn(&Table) -> Verdict<R> + Send + Sync + 'static) -> Self {
        Self { inner, judge: Box::new(judge), stopped: Mutex::new(None) }
    }

    /// Why the judge stopped the commit, if it did.
    pub fn stopped(&self) -> Option<R> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl<R: Send> Catalog for FencedCatalog<R> {
    async fn load_table(&self, table: &TableIdent) -> Result<Table> {
        let table = self.inner.load_table(table).await?;
        match (self.judge)(&table) {
            Verdict::Go => Ok(table),
            Verdict::Stop(reason) => {
                *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                Err(Error::new(ErrorKind::PreconditionFailed, "stopped by the fence"))
            }
        }
    }

    async fn update_table(&self, commit: TableCommit) -> Result<Table> {
        self.inner.update_table(commit).await
    }

    async fn list_namespaces(&self, parent: Option<&NamespaceIdent>) -> Result<Vec<NamespaceIdent>> {
        self.inner.list_namespaces(parent).await
    }

    async fn create_namespace(
        &self,
        namespace: &NamespaceIdent,
        properties: HashMap<String, String>,
    ) -> Result<Namespace> {
        self.inner.create_namespace(namespace, properties).await
    }

    async fn get_namespace(&self, namespace: &NamespaceIdent) -> Result<Namespace> {
        self.inner.get_namespace(namespace).await
    }

    async fn namespace_exists(&self, namespace: &NamespaceIdent) -> Result<bool> {
        self.inner.namespace_exists(namespace).await
    }

    async fn update_namespace(&self, namespace: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()> {
        self.inner.update_namespace(namespace, properties).await
    }

    async fn drop_namespace(&self, namespace: &NamespaceIdent) -> Result<()> {
        self.inner.drop_namespace(namespace).await
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        self.inner.list_tables(namespace).await
    }

    async fn create_table(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        self.inner.create_table(namespace, creation).await
    }

    async fn drop_table(&self, table: &TableIdent) -> Result<()> {
        self.inner.drop_table(table).await
    }

    async fn purge_table(&self, table: &TableIdent) -> Result<()> {
        self.inner.purge_table(table).await
    }

    async fn table_exists(&self, table: &TableIdent) -> Result<bool> {
        self.inner.table_exists(table).await
    }

    async fn rename_table(&self, from: &TableIdent, to: &TableIdent) -> Result<()> {
        self.inner.rename_table(from, to).await
    }

    async fn register_table(&self, table: &TableIdent, metadata_location: String) -> Result<Table> {
        self.inner.register_table(table, metadata_location).await
    }
}
