//! Pipeline files of the tests: the campaign job, with what a test wants to vary.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::paths;

/// The one catalog's name: PyIceberg needs it to find the tables.
pub const CATALOG: &str = "lake";
pub const METRICS: &str = "ads.campaign_metrics";
pub const EVENTS: &str = "ads.campaign_events";

/// Where the tables are.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// the lines of `[catalogs.lake]`
    pub toml: String,
    /// the same in PyIceberg's terms
    pub for_python: Value,
}

impl Catalog {
    /// A SQLite file and a folder.
    fn local(warehouse: &Path) -> Self {
        let place = warehouse.display();
        Self {
            toml: "type = \"sql\"\nuri = \"sqlite:warehouse/catalog.db\"\nwarehouse = \"./warehouse\"\n".to_owned(),
            for_python: json!({
                "type": "sql",
                "uri": format!("sqlite:///{place}/catalog.db"),
                "warehouse": format!("file://{place}"),
                "init_catalog_tables": "false",
            }),
        }
    }
}

/// A pipeline in a folder of its own: file, state, warehouse.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub dir: PathBuf,
    pub name: String,
    pub parallelism: usize,
    pub checkpoint_interval: String,
    pub commit_interval: String,
    pub window: String,
    /// the lines of `[sources.events]` that say which source it is
    pub source: String,
    pub on_error: String,
    /// `[checkpoint]` but for the interval
    pub checkpoint: String,
    pub catalog: Catalog,
    /// `event` or `processing`
    pub time: String,
    pub out_of_orderness: String,
    pub idle_timeout: String,
    pub max_drift: String,
    /// the aggregation and its table
    pub metrics: bool,
    /// tables that take the raw events; the name of a sink is `raw_0`, `raw_1`, …
    pub raw_tables: Vec<String>,
    pub raw_partition_by: Vec<String>,
    /// more TOML, at the end
    pub more: String,
}

impl Pipeline {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            name: "campaign-metrics".to_owned(),
            parallelism: 2,
            checkpoint_interval: "300ms".to_owned(),
            commit_interval: "300ms".to_owned(),
            window: "1m".to_owned(),
            source: String::new(),
            on_error: "fail".to_owned(),
            checkpoint: "location = \"./state\"\n".to_owned(),
            catalog: Catalog::local(&dir.join("warehouse")),
            time: "event".to_owned(),
            out_of_orderness: "5s".to_owned(),
            // nothing is ever late, so that the oracle needs no notion of it: no idleness within a test
            idle_timeout: "1h".to_owned(),
            max_drift: "10m".to_owned(),
            metrics: true,
            raw_tables: vec![EVENTS.to_owned()],
            raw_partition_by: vec!["identity(platform)".to_owned(), "day(timestamp)".to_owned()],
            more: String::new(),
        }
    }

    pub fn kafka(dir: &Path, brokers: &str, topic: &str) -> Self {
        let source = format!("type = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{topic}\"\nstart = \"earliest\"\n");
        Self { source, ..Self::new(dir) }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.join("pipeline.toml")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn warehouse(&self) -> PathBuf {
        self.dir.join("warehouse")
    }

    /// Writes the file; returns its path.
    pub fn write(&self) -> Result<PathBuf> {
        let file = self.file();
        std::fs::write(&file, self.toml()?)?;
        Ok(file)
    }

    fn toml(&self) -> Result<String> {
        let Self { name, parallelism, checkpoint_interval, commit_interval, window, source, on_error, .. } = self;
        let Self { checkpoint, time, out_of_orderness, idle_timeout, max_drift, .. } = self;
        let event_time = match time.as_str() {
            "event" => format!(
                "event_time = \"timestamp\"\nwatermark = {{ out_of_orderness = \"{out_of_orderness}\", \
                 idle_timeout = \"{idle_timeout}\", max_drift = \"{max_drift}\" }}\n"
            ),
            _ => String::new(),
        };
        let catalog = &self.catalog.toml;
        let mut toml = format!(
            r#"[pipeline]
name = "{name}"
parallelism = {parallelism}
time = "{time}"

[checkpoint]
interval = "{checkpoint_interval}"
{checkpoint}
[catalogs.{CATALOG}]
{catalog}
[sources.events]
{source}format = "json"
{event_time}metadata = {{ partition = "kafka_partition", offset = "kafka_offset" }}
on_error = "{on_error}"
schema = "ad_event"

[schemas.ad_event]
event_id = "string"
user_id = "string"
campaign_id = "string"
event_type = "string"
timestamp = "timestamptz"
platform = "string?"
revenue = "double?"
"#
        );
        if self.metrics {
            let plugin = paths::plugin()?;
            write!(
                toml,
                r#"
[plugins.campaign-metrics]
path = "{}"

[aggregations.metrics]
inputs = ["events"]
key = ["campaign_id"]
window = {{ type = "tumbling", size = "{window}" }}
plugin = "campaign-metrics"

[sinks.campaign_metrics]
type = "iceberg"
inputs = ["metrics"]
catalog = "{CATALOG}"
table = "{METRICS}"
mode = "append"
commit_interval = "{commit_interval}"
"#,
                plugin.display()
            )?;
        }
        for (i, table) in self.raw_tables.iter().enumerate() {
            write!(
                toml,
                r#"
[sinks.raw_{i}]
type = "iceberg"
inputs = ["events"]
catalog = "{CATALOG}"
table = "{table}"
mode = "append"
commit_interval = "{commit_interval}"
partition_by = {:?}
"#,
                self.raw_partition_by
            )?;
        }
        toml.push('\n');
        toml.push_str(&self.more);
        Ok(toml)
    }
}

/// `[aggregations.NAME]` of the source; `lines` say the rest.
pub fn aggregation(name: &str, key: &str, window: &str, lines: &str) -> String {
    format!("\n[aggregations.{name}]\ninputs = [\"events\"]\nkey = {key}\nwindow = {{ {window} }}\n{lines}\n")
}

/// A table that keeps the last version of each row of an aggregation.
pub fn upsert(input: &str, table: &str, key: &str) -> String {
    format!("{}mode = \"upsert\"\nkey = {key}\n", iceberg(&format!("{input}_last"), input, table))
}

/// A table that keeps every version, each with its revision.
pub fn history(input: &str, table: &str) -> String {
    format!("{}revision = true\n", iceberg(&format!("{input}_history"), input, table))
}

/// A table of what an aggregation gives once.
pub fn append(input: &str, table: &str) -> String {
    iceberg(&format!("{}_once", input.replace('.', "_")), input, table)
}

fn iceberg(name: &str, input: &str, table: &str) -> String {
    format!(
        "\n[sinks.{name}]\ntype = \"iceberg\"\ninputs = [\"{input}\"]\ncatalog = \"{CATALOG}\"\ntable = \"{table}\"\n"
    )
}

/// `[plugins.campaign-metrics]`, for pipelines without the usual aggregation.
pub fn campaign_plugin() -> Result<String> {
    Ok(format!("\n[plugins.campaign-metrics]\npath = \"{}\"\n", paths::plugin()?.display()))
}
