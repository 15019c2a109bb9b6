//! Submits a change of a table that was made by hand: what the iceberg crate lets only its own transactions do.
//!
//! ```text
//!   SQL    metadata.json is written, then the catalog's row is swapped if it still names the base's    sql
//!   REST   requirements and updates are POSTed; the server checks that `main` is where the base had it   rest
//! ```
//!
//! A change is applied to exactly the state of the table that it was made for, or not at all. Whether it was is not always
//! known: then the answer is [`Submitted::Perhaps`], and only a look at the table tells.

use std::sync::Arc;

use async_trait::async_trait;
use iceberg::table::Table;

use crate::sink::SinkError;
use crate::sink::iceberg::snapshot::Change;
use crate::spec::model::{CatalogKind, CatalogSpec};

mod rest;
mod sql;

/// How an attempt has ended.
#[derive(Debug)]
pub enum Submitted {
    Yes,
    /// certainly not applied: the table is no longer as the change supposes
    Conflict(String),
    /// certainly not applied
    Refused(SinkError),
    /// applied, or not, or not yet
    Perhaps(String),
}

#[async_trait]
pub trait Submit: Send + Sync {
    async fn submit(&self, base: &Table, change: &Change) -> Submitted;
}

/// Opens the way into a catalog that [`super::open_catalog`] has opened, too.
pub async fn open_submit(spec: &CatalogSpec) -> anyhow::Result<Arc<dyn Submit>> {
    Ok(match spec.kind {
        CatalogKind::Sql => Arc::new(sql::SqlSubmit::open(spec).await?),
        CatalogKind::Rest => Arc::new(rest::RestSubmit::open(spec).await?),
    })
}
