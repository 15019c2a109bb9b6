//! `millrace replay`: a failed plugin call, run again from its [capture](crate::capture).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use millrace_core::limits::STATE_CHUNK_BYTES;
use serde_json::json;

use super::open::start_engine;
use super::{Failure, Form, ReplayArgs, ReplayRows};
use crate::capture::{Capture, GROUP, Kind};
use crate::plugin::artifact::Artifact;
use crate::plugin::wasm::{WasmFactory, WasmTransformFactory};
use crate::plugin::{
    Aggregator, AggregatorFactory, PluginError, Rejected, Result as Called, TransformerFactory as _, Wanted, WindowUs,
};
use crate::runtime::bisect::{guilty_rows, pick, take, take_input};
use crate::runtime::message::RunError;
use crate::sink::json::row_to_json;
use crate::spec::secrets;

/// The rest is counted only.
const ROWS_SHOWN_MAX: usize = 20;

/// What came of it.
struct Outcome {
    plugin: String,
    /// rows sent, by their number in `batch.arrow`
    sent: Vec<u32>,
    error: Option<PluginError>,
    /// rows that make it fail by themselves now, or that it refuses
    guilty: Vec<Rejected>,
    rejected: Vec<Rejected>,
}

pub fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let capture = Capture::read(&args.file).map_err(Failure::Usage)?;
    if secrets::has_secrets(&capture.header.config) {
        eprintln!("note: a capture holds no secrets: the plugin gets {} as its configuration", capture.header.config);
    }
    let artifact = artifact(&capture, args.plugin.as_deref())?;
    let outcome = replay(&capture, &artifact, args.rows)?;
    match args.format {
        Form::Json => println!("{:#}", as_json(&capture, &outcome)),
        Form::Text => print!("{}", as_text(&capture, &outcome)?),
    }
    match outcome.error {
        None => Ok(()),
        Some(_) => Err(Failure::Other(anyhow!("the call fails"))),
    }
}

/// The plugin that failed, by its digest; or the one that is to be tried.
fn artifact(capture: &Capture, other: Option<&Path>) -> Result<Artifact, Failure> {
    let plugin = &capture.header.plugin;
    if let Some(path) = other {
        return Artifact::load(&plugin.name, path, None).map_err(|e| Failure::Usage(e.to_string()));
    }
    // beside the captures, should the whole folder have moved
    let beside =
        capture.folder.ancestors().nth(2).map(|state| state.join("plugins").join(format!("{}.wasm", plugin.sha256)));
    let places: Vec<PathBuf> = beside.into_iter().chain(plugin.paths.iter().cloned()).collect();
    let found = places.iter().find_map(|path| Artifact::load(&plugin.name, path, Some(&plugin.sha256)).ok());
    found.ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|path| format!("\n  {}", path.display())).collect();
        Failure::Usage(format!(
            "plugin `{}` ({} {}) with sha256 {} is in none of{}\nhint: name a plugin to run instead: --plugin FILE.wasm",
            plugin.name,
            plugin.title,
            plugin.version,
            plugin.sha256,
            places.concat()
        ))
    })
}

fn replay(capture: &Capture, artifact: &Artifact, rows: ReplayRows) -> Result<Outcome, Failure> {
    let header = &capture.header;
    let other = |e: &dyn std::fmt::Display| Failure::Other(anyhow!("{e}"));
    let batch_rows = capture.batch.as_ref().map_or(0, RecordBatch::num_rows);
    let all: Vec<u32> = (0_u32..).take(batch_rows).collect();
    let sent = match rows {
        ReplayRows::All => all,
        ReplayRows::Guilty if header.guilty.is_empty() => {
            return Err(Failure::Usage(
                "no row was found guilty of this failure; leave out `--rows guilty`".to_owned(),
            ));
        }
        ReplayRows::Guilty => header.guilty.iter().map(|g| g.row).filter(|row| (*row as usize) < batch_rows).collect(),
    };
    let engine = start_engine().map_err(|e| other(&e))?;
    let mut outcome = Outcome { plugin: String::new(), sent, error: None, guilty: Vec::new(), rejected: Vec::new() };
    match header.kind {
        Kind::Aggregation => {
            let factory = WasmFactory::new(&engine, &header.plugin.name, artifact, header.plugin.limits());
            let factory = factory.map_err(|e| other(&e))?;
            outcome.plugin = format!("{} {}", factory.info().name, factory.info().version);
            aggregate(capture, &factory, &mut outcome)?;
        }
        Kind::Transform => {
            let factory = WasmTransformFactory::new(&engine, &header.plugin.name, artifact, header.plugin.limits());
            let factory = factory.map_err(|e| other(&e))?;
            outcome.plugin = format!("{} {}", factory.info().name, factory.info().version);
            let open = || factory.open(&header.config, &header.offered);
            let input = input(capture, &open().map_err(|e| other(&e))?.signature().input);
            rows_call(&mut outcome, open, |plugin, rows| {
                let columns = take_input(&input.columns, rows)?;
                let rows = u32::try_from(rows.len()).unwrap_or(u32::MAX);
                Ok(plugin.process(&columns, rows).map(|transformed| transformed.rejected))
            })?;
        }
    }
    Ok(outcome)
}

fn aggregate(capture: &Capture, factory: &dyn AggregatorFactory, outcome: &mut Outcome) -> Result<(), Failure> {
    let header = &capture.header;
    let total = header.groups_total;
    let open = || -> Called<Box<dyn Aggregator>> {
        let mut plugin = factory.open(&header.config, &header.offered)?;
        if let Some(state) = &capture.state
            && header.call != "merge"
        {
            let columns = by_name(state, plugin.signature().state.fields.iter().map(|f| f.name.as_str()));
            let columns: Vec<ArrayRef> = columns.into_iter().flatten().collect();
            plugin.merge(&columns, &groups(state), total)?;
        }
        Ok(plugin)
    };
    let mut plugin = open().map_err(|e| {
        Failure::Other(anyhow!(
            "{e}\nhint: this was before the call, while the instance was made ready with the captured state"
        ))
    })?;
    let input = input(capture, &plugin.signature().input);
    if header.call != "update" {
        outcome.error = other_call(capture, &mut *plugin, &input).err();
        return Ok(());
    }
    rows_call(outcome, open, |plugin, rows| {
        let columns = take_input(&input.columns, rows)?;
        Ok(plugin.update(&columns, &pick(&input.groups, rows), total))
    })
}

/// A call on rows, made as the run made it: once with all of them, and, should that fail, in halves.
fn rows_call<P>(
    outcome: &mut Outcome,
    open: impl Fn() -> Called<P>,
    call: impl Fn(&mut P, &[u32]) -> Result<Called<Vec<Rejected>>, RunError>,
) -> Result<(), Failure> {
    let sent = outcome.sent.clone();
    let numbered = |rows: Vec<Rejected>| -> Vec<Rejected> {
        rows.into_iter().filter_map(|r| Some(Rejected { row: *sent.get(r.row as usize)?, ..r })).collect()
    };
    let other = |e: RunError| Failure::Other(anyhow!("{e}"));
    let mut plugin = open().map_err(|e| other(e.into()))?;
    let error = match call(&mut plugin, &sent).map_err(other)? {
        Ok(rejected) => {
            outcome.rejected = numbered(rejected);
            return Ok(());
        }
        Err(error) => error,
    };
    if error.may_be_a_row() {
        let mut scratch = None;
        let found = guilty_rows(sent.len(), |rows| {
            let instance = match &mut scratch {
                Some(instance) => instance,
                None => scratch.insert(open()?),
            };
            let result = call(instance, &pick(&sent, rows))?;
            if result.is_err() {
                scratch = None;
            }
            Ok(result.map(|_| ()))
        });
        // a search that was given up leaves the error of the call as it is
        outcome.guilty = numbered(found.unwrap_or_default());
    }
    outcome.error = Some(error);
    Ok(())
}

/// A call that is not about rows, on an instance that first gets the rows since its last export.
fn other_call(capture: &Capture, plugin: &mut dyn Aggregator, input: &Input) -> Called<()> {
    let header = &capture.header;
    let total = header.groups_total;
    if !input.groups.is_empty() {
        plugin.update(&input.columns, &input.groups, total)?;
    }
    match header.call.as_str() {
        "merge" => {
            let Some(state) = &capture.state else { return Ok(()) };
            let columns = by_name(state, plugin.signature().state.fields.iter().map(|f| f.name.as_str()));
            let columns: Vec<ArrayRef> = columns.into_iter().flatten().collect();
            plugin.merge(&columns, &groups(state), total)
        }
        "evaluate" => {
            let windows: Vec<WindowUs> = header.windows.iter().map(|&(start, end)| WindowUs { start, end }).collect();
            plugin.evaluate(&header.groups, &windows, true).map(|_| ())
        }
        "reset" => plugin.reset(&header.groups),
        "state" => {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                cursor = plugin.state(&header.groups, at, STATE_CHUNK_BYTES)?.next;
            }
            Ok(())
        }
        _ => plugin.size().map(|_| ()),
    }
}

struct Input {
    columns: Vec<Option<ArrayRef>>,
    groups: Vec<u32>,
}

fn input(capture: &Capture, wanted: &[Wanted]) -> Input {
    match &capture.batch {
        Some(batch) => {
            Input { columns: by_name(batch, wanted.iter().map(|w| w.field.name.as_str())), groups: groups(batch) }
        }
        None => Input { columns: vec![None; wanted.len()], groups: Vec::new() },
    }
}

fn by_name<'a>(batch: &RecordBatch, names: impl Iterator<Item = &'a str>) -> Vec<Option<ArrayRef>> {
    names.map(|name| batch.column_by_name(name).cloned()).collect()
}

fn groups(batch: &RecordBatch) -> Vec<u32> {
    let column = batch.column_by_name(GROUP).and_then(|c| c.as_primitive_opt::<UInt32Type>());
    column.map(|c| c.values().to_vec()).unwrap_or_default()
}

/// The rows that matter: those that fail now, else those that failed then.
fn rows_of_interest(capture: &Capture, outcome: &Outcome) -> Vec<u32> {
    let now: Vec<u32> = outcome.guilty.iter().chain(&outcome.rejected).map(|r| r.row).collect();
    let rows = if now.is_empty() { capture.header.guilty.iter().map(|g| g.row).collect() } else { now };
    let there = capture.batch.as_ref().map_or(0, RecordBatch::num_rows);
    rows.into_iter().filter(|row| (*row as usize) < there).take(ROWS_SHOWN_MAX).collect()
}

fn verdict(capture: &Capture, outcome: &Outcome) -> &'static str {
    match &outcome.error {
        None => "it succeeds now",
        Some(error) if error.to_string() == capture.header.error => "it fails with the same error",
        Some(_) => "it fails with another error",
    }
}

fn as_json(capture: &Capture, outcome: &Outcome) -> serde_json::Value {
    let header = &capture.header;
    let rows = |rows: &[Rejected]| {
        let row = |r: &Rejected| json!({ "row": r.row, "reason": r.reason, "values": values(capture, r.row) });
        rows.iter().map(row).collect::<Vec<_>>()
    };
    json!({
        "capture": capture.folder,
        "node": header.node,
        "call": header.call,
        "plugin": outcome.plugin,
        "verdict": verdict(capture, outcome),
        "ok": outcome.error.is_none(),
        "rows_sent": outcome.sent.len(),
        "error": outcome.error.as_ref().map(ToString::to_string),
        "guest_log": guest_log(outcome.error.as_ref()),
        "captured_error": header.error,
        "captured_guilty": header.guilty,
        "guilty": rows(&outcome.guilty),
        "rejected": rows(&outcome.rejected),
    })
}

/// A row of the capture as JSON.
fn values(capture: &Capture, row: u32) -> Option<serde_json::Value> {
    let batch = capture.batch.as_ref()?;
    let columns: Vec<usize> = (0..batch.num_columns().saturating_sub(1)).collect();
    let text = row_to_json(&batch.project(&columns).ok()?, row as usize).ok()?;
    serde_json::from_str(&text).ok()
}

fn guest_log(error: Option<&PluginError>) -> &[String] {
    match error {
        Some(PluginError::Trap { guest_log, .. }) => guest_log,
        _ => &[],
    }
}

fn as_text(capture: &Capture, outcome: &Outcome) -> Result<String, Failure> {
    let header = &capture.header;
    let mut text = format!(
        "{} of `{}` in pipeline {}: {} captured, {} sent, {} groups\nplugin {} ({}); captured with {} {} (sha256 {})\n\n",
        header.call,
        header.node,
        header.pipeline,
        count(header.rows),
        count(outcome.sent.len()),
        header.groups_total,
        header.plugin.name,
        outcome.plugin,
        header.plugin.title,
        header.plugin.version,
        header.plugin.sha256.get(..12).unwrap_or_default(),
    );
    text += &format!("then: {}\n", header.error);
    text += &match &outcome.error {
        None => format!("now:  {}\n", verdict(capture, outcome)),
        Some(error) => format!("now:  {}: {error}\n", verdict(capture, outcome)),
    };
    let log = guest_log(outcome.error.as_ref());
    if !log.is_empty() {
        text += "\nthe plugin's last log messages:\n";
        log.iter().for_each(|line| text += &format!("  {line}\n"));
    }
    for (what, rows) in [("fails on", &outcome.guilty), ("refuses", &outcome.rejected)] {
        if !rows.is_empty() {
            text += &format!("\nit {what} {}:\n", count(rows.len()));
            let shown = rows.iter().take(ROWS_SHOWN_MAX);
            shown.for_each(|r| text += &format!("  row {}: {}\n", r.row, r.reason));
        }
    }
    let rows = rows_of_interest(capture, outcome);
    if let Some(batch) = capture.batch.as_ref().filter(|_| !rows.is_empty()) {
        text += &format!("\n{}\n", table(capture, batch, &rows).map_err(|e| Failure::Other(anyhow!("{e}")))?);
    }
    Ok(text)
}

fn count(rows: usize) -> String {
    format!("{rows} row{}", if rows == 1 { "" } else { "s" })
}

/// These rows with where they came from.
fn table(capture: &Capture, batch: &RecordBatch, rows: &[u32]) -> Result<String, arrow_schema::ArrowError> {
    let guilty = |row: &u32| capture.header.guilty.iter().find(|g| g.row == *row);
    let place = |row: &u32| {
        let place = &guilty(row)?.place;
        Some(format!("{}/{} offset {}", place.topic.as_ref()?, place.partition?, place.offset?))
    };
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("row".to_owned(), Arc::new(UInt32Array::from(rows.to_vec()))),
        ("from".to_owned(), Arc::new(rows.iter().map(place).collect::<StringArray>())),
    ];
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if field.name() != GROUP {
            columns.push((field.name().clone(), take(column, rows)?));
        }
    }
    let shown = RecordBatch::try_from_iter(columns)?;
    Ok(datafusion::arrow::util::pretty::pretty_format_batches(&[shown])?.to_string())
}
