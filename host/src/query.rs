//! SQL over the pipeline's catalogs: DataFusion reads Iceberg tables, now or as they were.
//!
//! Reading only: each table is pinned to one snapshot before the query runs, so all parts of a query see the same
//! state, and nothing can be written or created.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider};
use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::context::{SQLOptions, SessionConfig, SessionContext};
use iceberg::table::Table;
use iceberg::{Catalog, NamespaceIdent, TableIdent};
use iceberg_datafusion::IcebergStaticTableProvider;

use crate::spec::model::CatalogSpec;

/// Which state of the tables a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Now,
    Snapshot(i64),
    /// the last snapshot made at or before it
    TimeMs(i64),
}

/// Runs one query over the tables of these catalogs.
pub async fn query(catalogs: &BTreeMap<String, CatalogSpec>, sql: &str, at: At) -> Result<Vec<RecordBatch>> {
    let config = SessionConfig::new().with_information_schema(false).with_create_default_catalog_and_schema(false);
    let context = SessionContext::new_with_config(config);
    let state = context.state();
    let dialect = state.config().options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect).context("the SQL does not parse")?;
    let references = state.resolve_table_references(&statement)?;
    let mut providers: BTreeMap<String, Arc<MemoryCatalogProvider>> = BTreeMap::new();
    for reference in references {
        let (catalog_name, namespace, name) = resolve(catalogs, &reference)?;
        let spec = catalogs.get(&catalog_name).ok_or_else(|| unknown_catalog(catalogs, &catalog_name))?;
        let opened = crate::catalog::open_catalog(spec).await;
        let catalog = opened.with_context(|| format!("catalog `{catalog_name}`"))?;
        let table = load(&*catalog, &catalog_name, &namespace, &name).await?;
        let provider = pin(table, at, &format!("{catalog_name}.{namespace}.{name}")).await?;
        let schemas = providers.entry(catalog_name.clone()).or_default();
        let schema = match schemas.schema(&namespace) {
            Some(schema) => schema,
            None => {
                let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
                schemas.register_schema(&namespace, Arc::clone(&schema))?;
                schema
            }
        };
        schema.register_table(name, Arc::new(provider))?;
    }
    // With one catalog its name may be left out of the SQL.
    let only = if catalogs.len() == 1 { catalogs.keys().next() } else { None };
    let context = match only {
        Some(catalog) => {
            let config = SessionConfig::new()
                .with_create_default_catalog_and_schema(false)
                .with_default_catalog_and_schema(catalog, "default");
            SessionContext::new_with_config(config)
        }
        None => context,
    };
    for (name, provider) in providers {
        context.register_catalog(name, provider);
    }
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame = context.sql_with_options(sql, read_only).await.map_err(|e| said_once(&e))?;
    let schema = Arc::clone(frame.schema().inner());
    let mut batches = frame.collect().await.map_err(|e| said_once(&e))?;
    if batches.is_empty() {
        // the columns are an answer, too
        batches.push(RecordBatch::new_empty(schema));
    }
    Ok(batches)
}

/// Every layer of DataFusion's errors repeats the words of the one below.
fn said_once(error: &DataFusionError) -> anyhow::Error {
    anyhow!("{}", error.find_root())
}

fn resolve(catalogs: &BTreeMap<String, CatalogSpec>, reference: &TableReference) -> Result<(String, String, String)> {
    match reference {
        TableReference::Full { catalog, schema, table } => {
            Ok((catalog.to_string(), schema.to_string(), table.to_string()))
        }
        TableReference::Partial { schema, table } => match catalogs.keys().next() {
            Some(only) if catalogs.len() == 1 => Ok((only.clone(), schema.to_string(), table.to_string())),
            _ => bail!("table `{schema}.{table}`: which catalog? {}", names(catalogs)),
        },
        TableReference::Bare { table } => {
            let example = catalogs.keys().next().map_or("catalog", String::as_str);
            bail!("table `{table}`: write catalog.namespace.table, such as {example}.ads.{table}")
        }
    }
}

fn unknown_catalog(catalogs: &BTreeMap<String, CatalogSpec>, name: &str) -> anyhow::Error {
    anyhow!("there is no catalog `{name}`: {}", names(catalogs))
}

fn names(catalogs: &BTreeMap<String, CatalogSpec>) -> String {
    let names: Vec<&str> = catalogs.keys().map(String::as_str).collect();
    format!("the pipeline file has {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

async fn load(catalog: &dyn Catalog, catalog_name: &str, namespace: &str, name: &str) -> Result<Table> {
    let namespace_ident = NamespaceIdent::new(namespace.to_owned());
    let ident = TableIdent::new(namespace_ident.clone(), name.to_owned());
    if catalog.table_exists(&ident).await.with_context(|| format!("catalog `{catalog_name}`"))? {
        return catalog.load_table(&ident).await.with_context(|| format!("table {catalog_name}.{namespace}.{name}"));
    }
    let there = match catalog.list_tables(&namespace_ident).await {
        Ok(tables) if !tables.is_empty() => {
            let names: Vec<&str> = tables.iter().map(TableIdent::name).collect();
            format!("{catalog_name}.{namespace} has {}", names.join(", "))
        }
        _ => format!("{catalog_name}.{namespace} has no tables"),
    };
    bail!("there is no table {catalog_name}.{namespace}.{name}: {there}")
}

/// The table as of one snapshot, with that snapshot's own schema.
async fn pin(table: Table, at: At, name: &str) -> Result<IcebergStaticTableProvider> {
    let metadata = table.metadata();
    let snapshot = match at {
        At::Now => return Ok(IcebergStaticTableProvider::try_new_from_table(table).await?),
        At::Snapshot(id) => metadata
            .snapshot_by_id(id)
            .with_context(|| {
                let newest: Vec<String> =
                    metadata.history().iter().rev().take(5).map(|h| h.snapshot_id.to_string()).collect();
                format!("table {name} has no snapshot {id}; its newest are {}", newest.join(", "))
            })?
            .snapshot_id(),
        At::TimeMs(time_ms) => {
            metadata
                .history()
                .iter()
                .rev()
                .find(|h| h.timestamp_ms <= time_ms)
                .with_context(|| match metadata.history().first() {
                    Some(first) => format!(
                        "table {name} has no snapshot that old: its history begins at {}",
                        format_time(first.timestamp_ms)
                    ),
                    None => format!("table {name} has no snapshot yet"),
                })?
                .snapshot_id
        }
    };
    Ok(IcebergStaticTableProvider::try_new_from_table_snapshot(table, snapshot).await?)
}

fn format_time(ms: i64) -> String {
    let array = arrow_array::TimestampMillisecondArray::from(vec![ms]).with_timezone("+00:00");
    arrow_cast::display::array_value_to_string(&array, 0).unwrap_or_else(|_| ms.to_string())
}
