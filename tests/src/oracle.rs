//! DuckDB computes what should be in the tables, PyIceberg reads what is. Both run in a virtual environment below the
//! target folder, made once per version of `requirements.txt`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use crate::paths;
use crate::pipeline::{CATALOG, EVENTS, METRICS, Pipeline};

/// The one line that says what the oracle needs and this machine has not.
pub fn missing_tool() -> Option<String> {
    if venv_is_current() {
        return None;
    }
    let there = |arguments: &[&str]| {
        Command::new("python3")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !there(&["--version"]) {
        return Some("Python 3 is missing (Debian: python3)".to_owned());
    }
    (!there(&["-c", "import venv, ensurepip"]))
        .then(|| "Python's venv or pip is missing (Debian: python3-venv)".to_owned())
}

fn requirements() -> PathBuf {
    paths::workspace().join("tests/oracle/requirements.txt")
}

fn venv() -> PathBuf {
    paths::target().join("oracle-venv")
}

fn venv_is_current() -> bool {
    let had = std::fs::read_to_string(venv().join(".complete"));
    let wanted = std::fs::read_to_string(requirements());
    matches!((had, wanted), (Ok(had), Ok(wanted)) if had == wanted)
}

/// Makes the virtual environment unless it is there; returns its Python.
pub fn ensure_python() -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let python = venv().join("bin/python");
    if venv_is_current() {
        return Ok(python);
    }
    if let Some(missing) = missing_tool() {
        bail!("{missing}");
    }
    eprintln!("installing DuckDB, PyIceberg and schemathesis into {} (once)", venv().display());
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output().with_context(|| format!("running {command:?}"))?;
        ensure!(
            output.status.success(),
            "{command:?} ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv()))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(requirements()))?;
    std::fs::copy(requirements(), venv().join(".complete"))?;
    Ok(python)
}

/// Runs `tests/oracle/check.py`; an error holds the first differences it found.
fn check(pipeline: &Pipeline, arguments: &[&str]) -> Result<String> {
    let output = Command::new(ensure_python()?)
        .arg(paths::workspace().join("tests/oracle/check.py"))
        .args(["--catalog", CATALOG, "--catalog-properties", &pipeline.catalog.for_python.to_string()])
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .context("running the oracle")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "the oracle disagrees ({}):\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{}", said.trim_end());
    Ok(said)
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// The campaign table is what DuckDB computes from the dumped events, row by row.
pub fn metrics_match(pipeline: &Pipeline, dump: &Path, window_ms: i64) -> Result<()> {
    check(pipeline, &["metrics", "--table", METRICS, "--events", utf8(dump)?, "--window-ms", &window_ms.to_string()])
        .map(drop)
}

/// The same, computed from a raw events table of this very pipeline.
pub fn metrics_match_events_table(pipeline: &Pipeline, window_ms: i64) -> Result<()> {
    check(pipeline, &["metrics", "--table", METRICS, "--events-table", EVENTS, "--window-ms", &window_ms.to_string()])
        .map(drop)
}

/// The table of aggregates without a plugin is what DuckDB computes from a raw events table.
pub fn counts_match_events_table(pipeline: &Pipeline, table: &str, window_ms: i64) -> Result<()> {
    check(pipeline, &["counts", "--table", table, "--events-table", EVENTS, "--window-ms", &window_ms.to_string()])
        .map(drop)
}

/// DuckDB reads the last checkpoint's state files: with what is in the campaign table, they are all events of the raw table.
pub fn state_matches_events_table(pipeline: &Pipeline, window_ms: i64) -> Result<()> {
    state_in(pipeline, &pipeline.state(), window_ms)
}

/// The same of a savepoint's folder.
pub fn savepoint_matches_events_table(pipeline: &Pipeline, folder: &Path, window_ms: i64) -> Result<()> {
    state_in(pipeline, folder, window_ms)
}

fn state_in(pipeline: &Pipeline, state: &Path, window_ms: i64) -> Result<()> {
    let (state, window_ms) = (utf8(state)?, window_ms.to_string());
    check(
        pipeline,
        &["state", "--table", METRICS, "--events-table", EVENTS, "--state", state, "--window-ms", &window_ms],
    )
    .map(drop)
}

/// A table holds exactly the rows that a query over the raw events table of this very pipeline gives, but for columns that
/// are not compared.
pub fn query_matches(pipeline: &Pipeline, table: &str, exclude: &str, query: &str) -> Result<()> {
    let arguments = ["query", "--table", table, "--events-table", EVENTS, "--query", query, "--exclude", exclude];
    check(pipeline, &arguments).map(drop)
}

/// What a table should hold.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub table: &'a str,
    /// over the dumped events, `events`, whose `timestamp` is in epoch milliseconds as are all times that come out
    pub query: &'a str,
    /// over the table, `t`
    pub actual: &'a str,
    /// columns, with commas between, that are sums of doubles with four decimals: their last bits may differ
    pub rounded: &'a str,
}

impl<'a> Rows<'a> {
    /// All of a table's rows.
    pub fn of(table: &'a str, query: &'a str) -> Self {
        Self { table, query, actual: "FROM t", rounded: "" }
    }
}

/// A table holds exactly the rows that a query over the dumped topic gives, whether PyIceberg reads it or DuckDB.
pub fn rows_match(pipeline: &Pipeline, dump: &Path, rows: Rows<'_>) -> Result<()> {
    let Rows { table, query, actual, rounded } = rows;
    let arguments = ["rows", "--table", table, "--events", utf8(dump)?, "--query", query, "--actual", actual];
    check(pipeline, &[&arguments[..], &["--rounded", rounded]].concat()).map(drop)
}

/// DuckDB reads the last checkpoint's files of a deduplication: the keys that a query over the raw events table gives, as
/// far as they are young enough.
pub fn seen_matches(pipeline: &Pipeline, operator: &str, within_ms: i64, query: &str) -> Result<()> {
    let (state, within_ms) = (pipeline.state(), within_ms.to_string());
    let state = utf8(&state)?;
    let arguments = ["seen", "--table", EVENTS, "--state", state, "--operator", operator, "--within-ms", &within_ms];
    check(pipeline, &[&arguments[..], &["--query", query]].concat()).map(drop)
}

/// A raw table holds every dumped event exactly `copies` times, and nothing else.
pub fn events_match(pipeline: &Pipeline, table: &str, dump: &Path, copies: u32) -> Result<()> {
    check(pipeline, &["events", "--table", table, "--events", utf8(dump)?, "--copies", &copies.to_string()]).map(drop)
}

/// A raw table holds `count` different events, their offsets without a hole in each of the partitions.
pub fn events_complete(pipeline: &Pipeline, table: &str, count: u64, partitions: u32) -> Result<()> {
    let (count, partitions) = (count.to_string(), partitions.to_string());
    check(pipeline, &["complete", "--table", table, "--count", &count, "--partitions", &partitions]).map(drop)
}

/// The current snapshot's id of a table: it has changed if anything was committed.
pub fn snapshot(pipeline: &Pipeline, table: &str) -> Result<String> {
    check(pipeline, &["snapshot", "--table", table])
}
