//! What a start would do to a sink's table. Looks, and changes nothing.

use millrace_core::schema::Schema;
use serde::Serialize;

use crate::catalog::open_existing;
use crate::sink::iceberg::table::{self, Look};
use crate::spec::model::{Pipeline, SinkKind, SinkSpec};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    pub name: String,
    pub created: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub added_columns: Vec<String>,
}

/// None: the sink has no table. `Err`: why a start would refuse it.
pub async fn look(pipeline: &Pipeline, spec: &SinkSpec, columns: &Schema) -> Result<Option<Table>, String> {
    let SinkKind::Iceberg(iceberg) = &spec.kind else { return Ok(None) };
    let catalog = pipeline.catalogs.get(&iceberg.catalog);
    let catalog = catalog.ok_or_else(|| format!("catalog `{}` is not in the pipeline", iceberg.catalog))?;
    let opened = open_existing(catalog).await.map_err(|e| format!("catalog `{}`: {e:#}", iceberg.catalog))?;
    let look = match opened {
        None => Look::Missing,
        Some(catalog) => table::look(&*catalog, iceberg, columns).await.map_err(|e| e.to_string())?,
    };
    let name = format!("{}.{}.{}", iceberg.catalog, iceberg.namespace, iceberg.table);
    Ok(Some(match look {
        Look::Missing => Table { name, created: true, added_columns: Vec::new() },
        Look::There(added) => {
            Table { name, created: false, added_columns: added.iter().map(ToString::to_string).collect() }
        }
    }))
}
