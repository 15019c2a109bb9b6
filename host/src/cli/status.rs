//! `millrace status`, `stop` and `savepoint`: what runs do, and their end.

use std::time::Duration;

use super::reach::{Body, Reach, Run};
use super::swap::{lines, time};
use super::{Failure, Form};
use crate::api::model::{Health, NodeStatus, PipelineStatus, SavepointTaken, Swaps};
use crate::api::words;
use crate::runtime::controller::phase_name;

/// A checkpoint, all of its commits, and the copy.
const SAVEPOINT_PATIENCE: Duration = Duration::from_secs(3_600);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between the two looks that rates are made of.
const SAMPLE: Duration = Duration::from_secs(1);
const SWAPS_SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// a pipeline file, or a pipeline's name; none: all that run, of the files in `.` and `pipelines`
    pub pipeline: Option<String>,
    /// where the run answers, if it is elsewhere
    #[arg(long, value_name = "URL", requires = "pipeline")]
    pub api: Option<String>,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// first take a savepoint into this folder
    #[arg(long, value_name = "DIR")]
    pub savepoint: Option<std::path::PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct SavepointArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// a folder that is not there yet, on the machine of the run
    pub folder: std::path::PathBuf,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

#[derive(serde::Serialize)]
struct Shown {
    status: PipelineStatus,
    swaps: Swaps,
}

pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let runs: Vec<Run> = match &args.pipeline {
        Some(pipeline) => vec![Reach { pipeline: pipeline.clone(), api: args.api.clone() }.find()?],
        None => super::reach::all_running(),
    };
    if runs.is_empty() {
        eprintln!("no pipeline of the files in `.` and `pipelines` is running");
    }
    let text = args.format == Form::Text;
    if text && !runs.is_empty() {
        std::thread::sleep(SAMPLE);
    }
    let mut all = Vec::new();
    for run in &runs {
        let status: PipelineStatus = run.get("")?;
        let swaps: Swaps = run.get("/swaps")?;
        if text {
            show(&run.status, &status, &swaps);
        }
        all.push(Shown { status, swaps });
    }
    if !text {
        println!("{}", serde_json::to_string_pretty(&all).map_err(|e| Failure::Other(e.into()))?);
    }
    Ok(())
}

fn show(before: &PipelineStatus, now: &PipelineStatus, swaps: &Swaps) {
    let seconds = (now.now_at_ms - before.now_at_ms).max(1) as f64 / 1_000.0;
    let up = words::duration(now.now_at_ms.saturating_sub(now.started_at_ms));
    println!("{}: running for {up}, generation {}, Millrace {}", now.name, now.generation, now.version);
    let watermark = now.watermark_ms.map_or("none yet".to_owned(), |ms| words::time(ms, now.now_at_ms));
    let backlog = now.backlog.map_or("unknown".to_owned(), words::number);
    println!("  watermark {watermark}, backlog {backlog}{}", if now.intake_paused { ", intake paused" } else { "" });
    if let Some(checkpoint) = &now.checkpoint {
        let ago = words::duration(now.now_at_ms.saturating_sub(checkpoint.at_ms));
        println!("  checkpoint {} {ago} ago, took {} ms", checkpoint.number, checkpoint.took_ms);
    }
    println!("\n  {:<20} {:<12} {:>14} {:>12} {:>14} {:>12}", "node", "kind", "rows in", "in/s", "rows out", "state");
    for node in &now.nodes {
        let former = before.nodes.iter().find(|n| n.name == node.name);
        let rate = former.map_or(0, |f| node.rows_in_total.saturating_sub(f.rows_in_total)) as f64 / seconds;
        let number = |n: u64| words::number(i64::try_from(n).unwrap_or(i64::MAX));
        println!(
            "  {:<20} {:<12} {:>14} {:>12} {:>14} {:>12}",
            node.name,
            node.kind.name(),
            number(node.rows_in_total),
            number(rate as u64),
            number(node.rows_out_total),
            if node.state_bytes > 0 { bytes(node.state_bytes.unsigned_abs()) } else { String::new() },
        );
        for line in of_plugin(node, former, seconds) {
            println!("    {line}");
        }
    }
    if !swaps.swaps.is_empty() {
        println!("\n  swaps");
    }
    for swap in swaps.swaps.iter().rev().take(SWAPS_SHOWN) {
        let by = if swap.by.is_empty() { String::new() } else { format!(" by {}", swap.by) };
        println!("  {} {} {}{by}", swap.id, time(swap.requested_at_ms), phase_name(swap.phase));
        for line in lines(swap).iter().chain(swap.reason.as_ref()) {
            println!("      {line}");
        }
    }
    println!();
}

fn of_plugin(node: &NodeStatus, former: Option<&NodeStatus>, seconds: f64) -> Vec<String> {
    let Some(plugin) = &node.plugin else { return Vec::new() };
    let digest = plugin.sha256.get(..12).unwrap_or(&plugin.sha256);
    let mut lines = vec![format!("plugin {} {} ({digest}) {}", plugin.name, plugin.version, plugin.config)];
    let before = former.and_then(|f| f.plugin.as_ref());
    let share = |now: u64, before: Option<u64>| {
        now.saturating_sub(before.unwrap_or(now)) as f64 / 1_000_000_000.0 / seconds * 100.0
    };
    let per_row = |cpu_ns: u64, rows: u64| cpu_ns.checked_div(rows).unwrap_or(0);
    let using = &plugin.use_of;
    lines.push(format!(
        "  CPU {:.1} % of a core, {} ns/row, memory {}",
        share(using.cpu_ns_total, before.map(|b| b.use_of.cpu_ns_total)),
        per_row(using.cpu_ns_total, using.rows_total),
        bytes(using.memory_bytes)
    ));
    if let Some(beside) = &plugin.beside {
        lines.push(format!(
            "  beside it another version: {} ns/row, memory {}",
            per_row(beside.cpu_ns_total, beside.rows_total),
            bytes(beside.memory_bytes)
        ));
    }
    lines
}

fn bytes(bytes: u64) -> String {
    match bytes {
        b if b >= 10 << 20 => format!("{} MiB", b >> 20),
        b if b >= 10 << 10 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

pub fn stop(args: &StopArgs) -> Result<(), Failure> {
    let run = args.reach.find()?;
    if let Some(folder) = &args.savepoint {
        let taken = take_savepoint(&run, folder)?;
        println!("savepoint of checkpoint {} in {}", taken.checkpoint, taken.folder);
    }
    let _: Health = run.post("/stop", Body::None, STOP_PATIENCE)?;
    eprintln!("stopping: a last checkpoint, then its commits");
    // it answers until it has ended
    while run.get::<PipelineStatus>("").is_ok_and(|status| status.generation == run.status.generation) {
        std::thread::sleep(LOOK_EVERY);
    }
    println!("{} has stopped", run.name());
    Ok(())
}

pub fn savepoint(args: &SavepointArgs) -> Result<(), Failure> {
    let run = args.reach.find()?;
    let taken = take_savepoint(&run, &args.folder)?;
    match args.format {
        Form::Text => println!("savepoint of checkpoint {} in {}", taken.checkpoint, taken.folder),
        Form::Json => {
            println!("{}", serde_json::to_string_pretty(&taken).map_err(|e| Failure::Other(e.into()))?);
        }
    }
    Ok(())
}

fn take_savepoint(run: &Run, folder: &std::path::Path) -> Result<SavepointTaken, Failure> {
    let folder = std::path::absolute(folder).map_err(|e| Failure::Usage(format!("{}: {e}", folder.display())))?;
    let asked = serde_json::json!({ "folder": folder });
    Ok(run.post("/savepoints", Body::Json(asked), SAVEPOINT_PATIENCE)?)
}
