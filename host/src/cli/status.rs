//! `millrace status`: what running pipelines do.

use std::time::Duration;

use super::reach::{Reach, Run};
use super::swap::version;
use super::{Failure, Form};
use crate::api::model::{NodeStatus, PipelineStatus, PluginStatus, Swaps};
use crate::api::words;

/// Between the two looks that rates come from.
const SAMPLE: Duration = Duration::from_secs(1);
const SWAPS_SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// a pipeline file, or a pipeline's name; none: all of the files in `.` and `pipelines` that run
    pub pipeline: Option<String>,
    /// where the run answers, if it is elsewhere
    #[arg(long, value_name = "URL", requires = "pipeline")]
    pub api: Option<String>,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
    /// again and again
    #[arg(long)]
    pub watch: bool,
}

#[derive(serde::Serialize)]
struct Shown {
    #[serde(flatten)]
    status: PipelineStatus,
    #[serde(flatten)]
    swaps: Swaps,
}

pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let runs = match &args.pipeline {
        Some(pipeline) => vec![Reach { pipeline: pipeline.clone(), api: args.api.clone() }.find()?],
        None => Reach::all(),
    };
    if runs.is_empty() {
        eprintln!("no pipeline of the files in `.` and `pipelines` runs\nhint: `millrace run FILE`");
    }
    loop {
        show(&runs, args.format)?;
        if !args.watch || runs.is_empty() {
            return Ok(());
        }
    }
}

fn show(runs: &[Run], format: Form) -> Result<(), Failure> {
    let before = runs.iter().map(|run| run.get("")).collect::<anyhow::Result<Vec<PipelineStatus>>>()?;
    if !runs.is_empty() && format == Form::Text {
        std::thread::sleep(SAMPLE);
    }
    let mut shown = Vec::new();
    for run in runs {
        shown.push(Shown { status: run.get("")?, swaps: run.get("/swaps")? });
    }
    match format {
        Form::Json => println!("{}", serde_json::to_string_pretty(&shown).map_err(|e| Failure::Other(e.into()))?),
        Form::Text => {
            for (before, now) in before.iter().zip(&shown) {
                print!("{}", text(before, now));
            }
        }
    }
    Ok(())
}

fn text(before: &PipelineStatus, Shown { status, swaps }: &Shown) -> String {
    let mut lines = vec![format!(
        "{}  generation {} of {}, up {}",
        status.name,
        status.generation,
        status.incarnation,
        words::duration(status.now_at_ms - status.started_at_ms)
    )];
    let lag = status.watermark_ms.map_or("no event yet".to_owned(), |ms| words::duration(status.now_at_ms - ms));
    let backlog = status.backlog.map_or("unknown".to_owned(), words::number);
    let checkpoint = status.checkpoint.as_ref().map_or("none yet".to_owned(), |c| {
        format!("{}, {} ago", c.number, words::duration(status.now_at_ms - c.at_ms))
    });
    lines.push(format!("  watermark lag {lag}, backlog {backlog}, checkpoint {checkpoint}"));
    let elapsed_ms = u64::try_from(status.now_at_ms - before.now_at_ms).unwrap_or_default().max(1);
    for node in &status.nodes {
        let then = before.nodes.iter().find(|n| n.name == node.name);
        self::node(then.unwrap_or(node), node, elapsed_ms, &mut lines);
    }
    let skipped = swaps.swaps.len().saturating_sub(SWAPS_SHOWN);
    for swap in swaps.swaps.iter().skip(skipped) {
        let before = swap.drains_before_ms.filter(|_| !swap.phase.is_over());
        let windows = before.map_or(String::new(), |ms| {
            format!(" (windows before {} UTC end with the former version)", words::time(ms, status.now_at_ms))
        });
        // all of it is in the JSON
        let reason = swap.reason.as_deref().and_then(|reason| reason.lines().next());
        let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
        lines.push(format!(
            "  swap {}  {} {}  {} → {}  {:?}{windows}{reason}  by {}",
            swap.id,
            words::time(swap.requested_at_ms, status.now_at_ms),
            swap.operator,
            version(&swap.from),
            version(&swap.to),
            swap.phase,
            swap.by
        ));
    }
    lines.join("\n") + "\n"
}

fn node(then: &NodeStatus, now: &NodeStatus, elapsed_ms: u64, lines: &mut Vec<String>) {
    let rate = |then: u64, now: u64| signed(now.saturating_sub(then).saturating_mul(1_000) / elapsed_ms);
    let mut line = format!(
        "  {} ({})  in {} ({}/s), out {} ({}/s)",
        now.name,
        now.kind.name(),
        words::number(signed(now.rows_in_total)),
        words::number(rate(then.rows_in_total, now.rows_in_total)),
        words::number(signed(now.rows_out_total)),
        words::number(rate(then.rows_out_total, now.rows_out_total)),
    );
    if now.groups > 0 {
        line += &format!(", {}, {} bytes", words::of(now.groups, "group"), words::number(now.state_bytes));
    }
    lines.push(line);
    if let Some(p) = &now.plugin {
        lines.push(plugin("plugin", p));
        lines.extend(p.companion.as_deref().map(|companion| plugin("beside", companion)));
    }
}

fn plugin(what: &str, p: &PluginStatus) -> String {
    let short = p.sha256.get(..12).unwrap_or(&p.sha256);
    let per_row = p.cpu_ns_total.checked_div(p.rows_total).map_or(String::new(), |ns| format!(", {ns} ns a row"));
    format!(
        "    {what}  {} {} ({short})  {} of processor time{per_row}, {} of memory",
        p.name,
        p.version,
        words::duration(signed(p.cpu_ns_total / 1_000_000)),
        crate::spec::show_bytes(p.memory_bytes)
    )
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
