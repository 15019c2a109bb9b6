//! Opens the Iceberg catalogs that a pipeline file names.
//!
//! Owns the choice of storage (local files made durable by [`fs`], S3 through opendal), time-outs and the SQLite file's
//! creation. It never looks into a table. From [`CatalogSpec`] to the sinks and to SQL.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use iceberg::io::StorageFactory;
use iceberg::{Catalog, CatalogBuilder};
use iceberg_catalog_rest::RestCatalogBuilder;
use iceberg_catalog_sql::{SqlBindStyle, SqlCatalogBuilder};
use iceberg_storage_opendal::OpenDalStorageFactory;

use crate::spec::model::{CatalogKind, CatalogSpec};

pub mod fs;

/// The catalog crate sets no time-out of its own: a silent server would hold a commit for ever.
const REST_REQUEST_TIMEOUT_SECONDS: u64 = 60;
const REST_CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// A single connection: SQLite has one writer, and a pool of ten only makes them collide.
const SQLITE_CONNECTIONS_MAX: &str = "1";

/// Opens a catalog; a SQLite file that does not exist is created with its folders. The catalog's name inside the
/// database is the name in the pipeline file, so PyIceberg's `SqlCatalog` of that name sees the same tables.
pub async fn open_catalog(spec: &CatalogSpec) -> Result<Arc<dyn Catalog>> {
    let place = || format!("catalog `{}` at {}", spec.name, spec.uri);
    match spec.kind {
        CatalogKind::Sql => open_sql(spec).await.with_context(place),
        CatalogKind::Rest => open_rest(spec).await.with_context(place),
    }
}

async fn open_sql(spec: &CatalogSpec) -> Result<Arc<dyn Catalog>> {
    let mut properties = own_properties(spec);
    let uri = match sqlite_path(&spec.uri) {
        Some(path) => {
            if let Some(parent) = path.parent() {
                fs::create_folder(parent).with_context(|| format!("cannot create {}", parent.display()))?;
            }
            properties.entry("pool.max-connections".into()).or_insert_with(|| SQLITE_CONNECTIONS_MAX.into());
            // sqlx waits 5 s for a lock by default, and synchronous=FULL with a rollback journal makes a commit durable
            if spec.uri.contains('?') { spec.uri.clone() } else { format!("{}?mode=rwc", spec.uri) }
        }
        None => bail!("only `sqlite:` addresses are supported for type = \"sql\", found `{}`", spec.uri),
    };
    let catalog = SqlCatalogBuilder::default()
        .uri(uri)
        .warehouse_location(&spec.warehouse)
        .sql_bind_style(SqlBindStyle::QMark)
        .with_storage_factory(storage_factory(&spec.warehouse)?)
        .load(&spec.name, properties)
        .await?;
    Ok(Arc::new(catalog))
}

async fn open_rest(spec: &CatalogSpec) -> Result<Arc<dyn Catalog>> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(REST_REQUEST_TIMEOUT_SECONDS))
        .connect_timeout(Duration::from_secs(REST_CONNECT_TIMEOUT_SECONDS))
        .build()?;
    let mut properties = own_properties(spec);
    properties.insert("uri".into(), spec.uri.clone());
    if !spec.warehouse.is_empty() {
        properties.insert("warehouse".into(), spec.warehouse.clone());
    }
    let catalog = RestCatalogBuilder::default()
        .with_client(client)
        .with_storage_factory(storage_factory(&spec.warehouse)?)
        .load(&spec.name, properties)
        .await?;
    Ok(Arc::new(catalog))
}

fn own_properties(spec: &CatalogSpec) -> HashMap<String, String> {
    spec.properties.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn storage_factory(warehouse: &str) -> Result<Arc<dyn StorageFactory>> {
    match warehouse.split_once("://") {
        Some(("s3" | "s3a", _)) => Ok(Arc::new(OpenDalStorageFactory::S3 { customized_credential_load: None })),
        Some(("file", _)) | None => {
            let root = fs::local_path(warehouse);
            if let Some(root) = &root {
                fs::create_folder(root).with_context(|| format!("cannot create {}", root.display()))?;
            }
            Ok(Arc::new(fs::DurableFsFactory { root }))
        }
        Some((scheme, _)) => bail!("a warehouse at `{scheme}://` is not supported; use file:// or s3://"),
    }
}

/// The file of a `sqlite:` address.
fn sqlite_path(uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("sqlite:")?;
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(Path::new(path).to_path_buf())
}
