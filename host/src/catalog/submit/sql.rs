//! The SQL catalog's way: one row per table, which names its current metadata file.
//!
//! `UPDATE … WHERE metadata_location = <the base's>` is the compare-and-swap. The columns are those of Java's `JdbcCatalog`,
//! PyIceberg's `SqlCatalog` and the iceberg crate alike.

use async_trait::async_trait;
use iceberg::table::Table;
use iceberg::{MetadataLocation, Result};
use sqlx::AnyPool;
use sqlx::any::{AnyPoolOptions, install_default_drivers};

use super::{Submit, Submitted};
use crate::catalog::sqlite_uri;
use crate::sink::iceberg::classify;
use crate::sink::iceberg::snapshot::Change;
use crate::spec::model::CatalogSpec;

const SWAP: &str = "UPDATE iceberg_tables SET metadata_location = ?, previous_metadata_location = ? \
                    WHERE catalog_name = ? AND table_namespace = ? AND table_name = ? AND metadata_location = ? \
                    AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)";
/// SQLite has one writer.
const CONNECTIONS_MAX: u32 = 1;

pub struct SqlSubmit {
    catalog: String,
    pool: AnyPool,
}

impl SqlSubmit {
    pub async fn open(spec: &CatalogSpec) -> anyhow::Result<Self> {
        install_default_drivers();
        let pool = AnyPoolOptions::new().max_connections(CONNECTIONS_MAX).connect(&sqlite_uri(&spec.uri)?).await?;
        Ok(Self { catalog: spec.name.clone(), pool })
    }

    async fn swap(&self, base: &Table, from: &str, to: &str) -> std::result::Result<u64, sqlx::Error> {
        let ident = base.identifier();
        let namespace = ident.namespace().clone().inner().join(".");
        let query = sqlx::query(SWAP).bind(to).bind(from).bind(&self.catalog).bind(namespace).bind(ident.name());
        Ok(query.bind(from).execute(&self.pool).await?.rows_affected())
    }
}

/// Writes the table's next metadata file; returns the base's and its own location.
async fn write_metadata(base: &Table, change: &Change) -> Result<(String, String)> {
    for requirement in &change.requirements {
        requirement.check(Some(base.metadata()))?;
    }
    let from = base.metadata_location_result()?.to_owned();
    let mut builder = base.metadata().clone().into_builder(Some(from.clone()));
    for update in &change.updates {
        builder = update.clone().apply(builder)?;
    }
    let metadata = builder.build()?.metadata;
    let location = from.parse::<MetadataLocation>()?.with_next_version().with_new_metadata(&metadata);
    metadata.write_to(base.file_io(), &location).await?;
    Ok((from, location.to_string()))
}

#[async_trait]
impl Submit for SqlSubmit {
    async fn submit(&self, base: &Table, change: &Change) -> Submitted {
        let (from, to) = match write_metadata(base, change).await {
            Ok(locations) => locations,
            Err(e) => return Submitted::Refused(classify("writing the table's metadata", &e)),
        };
        match self.swap(base, &from, &to).await {
            Ok(0) => {
                if let Err(e) = base.file_io().delete(&to).await {
                    tracing::warn!("{to} is not needed any more but cannot be removed: {e}");
                }
                Submitted::Conflict("the catalog names other metadata by now".to_owned())
            }
            Ok(_) => Submitted::Yes,
            Err(e) => Submitted::Perhaps(format!("the catalog's database: {e}")),
        }
    }
}
