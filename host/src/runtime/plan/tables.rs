//! What a start would do to a sink's table. Looks, and changes nothing.

use millrace_core::schema::Schema;
use serde::Serialize;

use crate::catalog::open_existing;
use crate::sink::iceberg::{Claimed, look};
use crate::spec::model::{Pipeline, SinkKind, SinkSpec};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    pub name: String,
    pub created: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub added_columns: Vec<String>,
    /// that it carries for this sink
    #[serde(skip)]
    pub claim: Option<Claimed>,
}

/// None: the sink has no table. `Err`: why a start would refuse it.
pub async fn look_at(
    pipeline: &Pipeline,
    sink: &str,
    spec: &SinkSpec,
    columns: &Schema,
) -> Result<Option<Table>, String> {
    let SinkKind::Iceberg(iceberg) = &spec.kind else { return Ok(None) };
    let catalog = pipeline.catalogs.get(&iceberg.catalog);
    let catalog = catalog.ok_or_else(|| format!("catalog `{}` is not in the pipeline", iceberg.catalog))?;
    let opened = open_existing(catalog).await.map_err(|e| format!("catalog `{}`: {e:#}", iceberg.catalog))?;
    let found = match opened {
        None => None,
        Some(catalog) => look(&pipeline.name, sink, iceberg, &*catalog, columns).await.map_err(|e| e.to_string())?,
    };
    let name = format!("{}.{}.{}", iceberg.catalog, iceberg.namespace, iceberg.table);
    Ok(Some(match found {
        None => Table { name, created: true, added_columns: Vec::new(), claim: None },
        Some((added, claim)) => {
            Table { name, created: false, added_columns: added.iter().map(ToString::to_string).collect(), claim }
        }
    }))
}
