//! Opens the Iceberg catalogs that a pipeline file names.
//!
//! Owns the choice of storage ([`anywhere`]: local files made durable, S3 through opendal), time-outs and the SQLite file's
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

use crate::catalog::anywhere::AnywhereFactory;
use crate::spec::model::{CatalogKind, CatalogSpec};

mod anywhere;
pub mod fs;
pub mod submit;

/// The catalog crate sets no time-out of its own: a silent server would hold a commit for ever.
const REST_REQUEST_TIMEOUT_SECONDS: u64 = 60;
const REST_CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// A server that is just being started is waited for: about ten seconds in all.
const REST_CONNECTS_MAX: u32 = 7;
const REST_CONNECT_PAUSE: Duration = Duration::from_millis(150);
/// A single connection: SQLite has one writer, and a pool of ten only makes them collide.
const SQLITE_CONNECTIONS_MAX: &str = "1";

/// Opens a catalog; a SQLite file that does not exist is created with its folders. The catalog's name inside the
/// database is the name in the pipeline file, so PyIceberg's `SqlCatalog` of that name sees the same tables.
pub async fn open_catalog(spec: &CatalogSpec) -> Result<Arc<dyn Catalog>> {
    // who asks says which catalog it is
    let place = || format!("at {}", spec.uri);
    match spec.kind {
        CatalogKind::Sql => open_sql(spec).await.with_context(place),
        CatalogKind::Rest => open_rest(spec).await.with_context(place),
    }
}

/// To be looked at only: none if there is nothing yet, and nothing is created.
pub async fn open_existing(spec: &CatalogSpec) -> Result<Option<Arc<dyn Catalog>>> {
    let file = match spec.kind {
        CatalogKind::Sql => sqlite_path(&spec.uri),
        CatalogKind::Rest => None,
    };
    if file.is_some_and(|file| !file.exists()) {
        return Ok(None);
    }
    open_catalog(spec).await.map(Some)
}

async fn open_sql(spec: &CatalogSpec) -> Result<Arc<dyn Catalog>> {
    let mut properties = own_properties(spec);
    let uri = sqlite_uri(&spec.uri)?;
    if let Some(parent) = sqlite_path(&spec.uri).as_deref().and_then(Path::parent) {
        fs::create_folder(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    properties.entry("pool.max-connections".into()).or_insert_with(|| SQLITE_CONNECTIONS_MAX.into());
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
    let client = rest_client()?;
    wait_for_server(&client, spec).await?;
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

fn rest_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(REST_REQUEST_TIMEOUT_SECONDS))
        .connect_timeout(Duration::from_secs(REST_CONNECT_TIMEOUT_SECONDS))
        .build()
}

/// Until the server answers anything at all: what it says is the catalog's business.
async fn wait_for_server(client: &reqwest::Client, spec: &CatalogSpec) -> Result<()> {
    let config = format!("{}/v1/config", spec.uri.trim_end_matches('/'));
    let mut pause = REST_CONNECT_PAUSE;
    for attempt in 1.. {
        let Err(error) = client.get(&config).send().await else { break };
        if attempt == REST_CONNECTS_MAX || !(error.is_connect() || error.is_timeout()) {
            let error = anyhow::Error::new(error);
            let hint = format!("is the catalog's server running, and `uri` in [catalogs.{}] right?", spec.name);
            bail!("the server does not answer: {error:#}; hint: {hint}");
        }
        tracing::warn!(catalog = spec.name, uri = spec.uri, "the server does not answer; trying again in {pause:?}");
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(())
}

/// Where the tables' files are is said by the files themselves; a local warehouse is made, and synced up to its root.
fn storage_factory(warehouse: &str) -> Result<Arc<dyn StorageFactory>> {
    let root = fs::local_path(warehouse);
    if let Some(root) = &root {
        fs::create_folder(root).with_context(|| format!("cannot create {}", root.display()))?;
    }
    Ok(Arc::new(AnywhereFactory { local: fs::DurableFsFactory { root } }))
}

fn own_properties(spec: &CatalogSpec) -> HashMap<String, String> {
    spec.properties.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// How SQLite is opened. It waits 5 s for a lock by default, and synchronous=FULL with a rollback journal makes a commit
/// durable.
fn sqlite_uri(uri: &str) -> Result<String> {
    if sqlite_path(uri).is_none() {
        bail!("only `sqlite:` addresses are supported for type = \"sql\", found `{uri}`");
    }
    Ok(if uri.contains('?') { uri.to_owned() } else { format!("{uri}?mode=rwc") })
}

/// The file of a `sqlite:` address.
fn sqlite_path(uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("sqlite:")?;
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(Path::new(path).to_path_buf())
}
