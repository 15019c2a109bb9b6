//! `millrace swap` and `millrace rollback`: asks, then follows the swap until the version that was asked for runs, or does not.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use millrace_core::swap::{Phase, ShadowReport, SwapRecord, Version};

use super::reach::{Body, Reach, Run};
use super::{Failure, Form};
use crate::api::query::encode;
use crate::plugin::artifact::{Artifact, Kind};
use crate::runtime::controller::phase_name;
use crate::spec::parse_duration_ms;

/// A plugin is compiled before the answer comes.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const DIFFERENCES_SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub struct SwapArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// an operator with a plugin
    pub operator: String,
    /// the new plugin; none: the same with another configuration
    #[arg(required_unless_present = "config")]
    pub file: Option<PathBuf>,
    /// changes the configuration: the value is JSON, or else text
    #[arg(long, value_name = "KEY=VALUE")]
    pub config: Vec<String>,
    /// first runs it beside the old one for so long: its results are compared, and withheld
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub shadow: Option<u64>,
    /// after the shadow it takes over if it gave the same results; else it is discarded
    #[arg(long, requires = "shadow")]
    pub promote_if_equal: bool,
    /// results that differ by less (relative to the larger one) are the same
    #[arg(long, requires = "shadow", default_value_t = 0.0)]
    pub tolerance: f64,
    /// a plugin of another name is meant
    #[arg(long)]
    pub replace: bool,
    /// what the file must be
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// return as soon as it has begun
    #[arg(long)]
    pub detach: bool,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// the operator
    pub operator: String,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

fn duration(text: &str) -> Result<u64, String> {
    parse_duration_ms(text).ok_or_else(|| "expected a duration such as 10m or 90s".to_owned())
}

pub fn run(args: &SwapArgs) -> Result<(), Failure> {
    let mut query = Vec::new();
    for pair in &args.config {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Failure::Usage(format!("--config {pair}: expected KEY=VALUE, such as --config unique_users=hll"))
        })?;
        query.push(format!("config.{}={}", encode(key), encode(value)));
    }
    let bytes = args.file.as_deref().map(read).transpose()?;
    if let Some(ms) = args.shadow {
        query.push(format!("shadow={ms}ms&tolerance={}", args.tolerance));
        query.extend(args.promote_if_equal.then(|| "promote_if_equal=true".to_owned()));
    }
    query.extend(args.replace.then(|| "replace=true".to_owned()));
    query.extend(args.sha256.as_ref().map(|sha256| format!("sha256={}", encode(sha256))));
    let run = args.reach.find()?;
    let below = format!("/operators/{}/plugin?{}", encode(&args.operator), query.join("&"));
    let begun: SwapRecord = run.post(&below, bytes.map_or(Body::None, Body::Wasm), PATIENCE)?;
    if args.detach {
        return show(&run, &begun, args.format);
    }
    let wanted = |record: &SwapRecord| record.phase.is_active() || record.phase.is_over();
    let record = follow(&run, begun, args.format, wanted)?;
    show(&run, &record, args.format)?;
    let as_asked = record.phase.is_active()
        || (args.shadow.is_some() && !args.promote_if_equal && record.phase == Phase::Discarded);
    if as_asked { Ok(()) } else { Err(failed(&record)) }
}

pub fn roll_back(args: &RollbackArgs) -> Result<(), Failure> {
    let run = args.reach.find()?;
    let begun: SwapRecord =
        run.post(&format!("/operators/{}/rollback", encode(&args.operator)), Body::None, PATIENCE)?;
    // one in probation changes places again; after it, going back is a swap of its own
    let in_probation = !begun.is_rollback && begun.phase == Phase::Probation;
    let wanted = |record: &SwapRecord| record.phase.is_over() || (!in_probation && record.phase.is_active());
    let record = follow(&run, begun, args.format, wanted)?;
    show(&run, &record, args.format)?;
    let went_back = if in_probation { record.phase == Phase::RolledBack } else { record.phase.is_active() };
    if went_back { Ok(()) } else { Err(failed(&record)) }
}

fn failed(record: &SwapRecord) -> Failure {
    let reason = record.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Failure::Other(anyhow::anyhow!(
        "swap {} of `{}` is {}{reason}",
        record.id,
        record.operator,
        phase_name(record.phase)
    ))
}

/// A file that may be a plugin of the right kind: what is wrong with it is said before anything is sent.
fn read(file: &std::path::Path) -> Result<Vec<u8>, Failure> {
    if file.is_dir() {
        return Err(Failure::Usage(format!(
            "{0} is a folder\nhint: `millrace plugin build {0}` says where its component is",
            file.display()
        )));
    }
    let artifact = Artifact::load("plugin", file, None).map_err(|e| Failure::Usage(e.to_string()))?;
    if artifact.kind() != Kind::Aggregation {
        let is = artifact.kind().name();
        return Err(Failure::Usage(format!("{} is a {is} plugin, and an aggregation is needed", file.display())));
    }
    std::fs::read(file).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))
}

fn follow(
    run: &Run,
    begun: SwapRecord,
    form: Form,
    is_there: impl Fn(&SwapRecord) -> bool,
) -> Result<SwapRecord, Failure> {
    let mut record = begun;
    let mut said = None;
    loop {
        if form == Form::Text && said != Some(record.phase) {
            said = Some(record.phase);
            let until = match record.phase {
                Phase::Shadowing => record.shadow_until_ms.map(|ms| format!(" until {}", time(ms))).unwrap_or_default(),
                _ => String::new(),
            };
            eprintln!("swap {}: {}{until}", record.id, phase_name(record.phase));
            if record.phase == Phase::Shadowing && std::io::stderr().is_terminal() {
                eprintln!("(Ctrl-C leaves it to itself: `millrace status {}` shows how it goes)", run.name());
            }
        }
        if is_there(&record) {
            return Ok(record);
        }
        std::thread::sleep(LOOK_EVERY);
        record = run.get(&format!("/swaps/{}", record.id))?;
    }
}

fn show(run: &Run, record: &SwapRecord, form: Form) -> Result<(), Failure> {
    if form == Form::Json {
        println!("{}", serde_json::to_string_pretty(record).map_err(|e| Failure::Other(e.into()))?);
        return Ok(());
    }
    for line in lines(record) {
        println!("{line}");
    }
    if record.phase == Phase::Probation {
        println!("undo it:       millrace rollback {} {}", run.name(), record.operator);
    }
    Ok(())
}

/// A swap in words.
pub fn lines(record: &SwapRecord) -> Vec<String> {
    let mut lines = vec![format!("{}: {} → {}", record.operator, version(&record.from), version(&record.to))];
    let mut line = |name: &str, text: Option<String>| lines.extend(text.map(|text| format!("{name:<15}{text}")));
    line("state:", record.state.clone());
    line("pause:", record.pause_us.map(|us| format!("{:.1} ms", us as f64 / 1_000.0)));
    line("checkpoint:", record.checkpoint.map(|number| number.to_string()));
    let in_probation = record.phase == Phase::Probation;
    let until = record.probation_until_ms.filter(|_| in_probation);
    line("probation:", until.map(|ms| format!("until {}; the former version takes over if it fails", time(ms))));
    if let Some(corrections) = &record.rollback {
        line("given again:", Some(format!("{} results of expired windows", corrections.given_again)));
        let left = corrections.left_as_given;
        line("left as given:", (left > 0).then(|| format!("{left} results: not all of the sinks take corrections")));
    }
    if let Some(report) = &record.shadow {
        lines.extend(report_lines(report));
    }
    lines
}

pub fn report_lines(report: &ShadowReport) -> Vec<String> {
    let mut lines = vec![format!(
        "compared:      {} results of {} windows, tolerance {}",
        report.compared, report.windows, report.tolerance
    )];
    let found = report.different + report.only_old + report.only_new;
    match (found, report.different_in_warm_up) {
        (0, 0) => lines.push("different:     none".to_owned()),
        (0, warm_up) => lines.push(format!(
            "different:     {warm_up}, all in windows that were open when the shadow began: it has taken over what the old \
             version had counted"
        )),
        (_, warm_up) => lines.push(format!(
            "different:     {} ({} more in windows that were open when the shadow began), only old: {}, only new: {}",
            report.different, warm_up, report.only_old, report.only_new
        )),
    }
    for column in &report.columns {
        lines.push(format!(
            "  {:<20} {} results, {} in warm-up; at most {:.4} %",
            column.column,
            column.different,
            column.different_in_warm_up,
            column.largest_relative * 100.0
        ));
    }
    for (what, columns) in [("only in old", &report.only_in_old), ("only in new", &report.only_in_new)] {
        if !columns.is_empty() {
            lines.push(format!("  columns {what}: {}", columns.join(", ")));
        }
    }
    for difference in report.largest.iter().take(DIFFERENCES_SHOWN) {
        let key: Vec<String> = difference.key.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        lines.push(format!(
            "  {} {} {}: {} → {} ({:.4} %){}",
            key.join(", "),
            time(difference.window_start_ms),
            difference.column,
            difference.old,
            difference.new,
            difference.relative * 100.0,
            if difference.is_warm_up { ", warm-up" } else { "" }
        ));
    }
    lines
}

pub fn version(of: &Version) -> String {
    if of.name.is_empty() {
        return "?".to_owned();
    }
    format!("{} {} ({})", of.name, of.version, of.sha256.get(..12).unwrap_or(&of.sha256))
}

pub fn time(ms: i64) -> String {
    crate::api::words::time(ms, ms)
}
