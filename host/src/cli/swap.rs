//! `millrace swap`: another plugin, or another configuration, for an operator of a running pipeline. Asks for it, then
//! follows the record until the new version runs or it is sure that it will not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_core::swap::{Phase, ShadowReport, SwapRecord, Version};

use super::reach::{Reach, Run};
use super::{Failure, Form, write_back};
use crate::api::model::NodeKind;
use crate::api::words;
use crate::plugin::artifact::{Artifact, Kind};

const ASK_EVERY: Duration = Duration::from_millis(200);
/// For the upload, and for the plugin to be checked and compiled.
const PATIENCE: Duration = Duration::from_secs(400);

#[derive(Debug, clap::Args)]
pub struct SwapArgs {
    #[command(flatten)]
    pub reach: Reach,
    pub operator: String,
    /// the component; none: the plugin that runs, with another configuration
    #[arg(required_unless_present = "config")]
    pub file: Option<PathBuf>,
    /// on top of the configuration that runs
    #[arg(long, value_name = "KEY=VALUE")]
    pub config: Vec<String>,
    /// run it beside the old version for so long and compare their results
    #[arg(long, value_name = "DURATION")]
    pub shadow: Option<String>,
    /// with --shadow: it takes over if the results are equal, else it is discarded
    #[arg(long, requires = "shadow")]
    pub promote_if_equal: bool,
    /// relative differences within it are none
    #[arg(long, requires = "promote_if_equal")]
    pub tolerance: Option<f64>,
    /// it gets no state: the running version ends the windows that are open, this one begins with the next
    #[arg(long)]
    pub drain: bool,
    /// a plugin of another name is meant
    #[arg(long)]
    pub replace: bool,
    /// once it runs, the pipeline file gives it, too: its path, and its configuration
    #[arg(long, conflicts_with_all = ["detach", "api"])]
    pub write: bool,
    /// do not wait for it
    #[arg(long)]
    pub detach: bool,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

impl SwapArgs {
    fn parameters(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut parameters = Vec::new();
        for pair in &self.config {
            let (key, value) = pair
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| Failure::Usage(format!("--config {pair}: expected KEY=VALUE")))?;
            parameters.push((format!("config.{key}"), value.to_owned()));
        }
        parameters.extend(self.shadow.iter().map(|shadow| ("shadow".to_owned(), shadow.clone())));
        let flags = [("promote_if_equal", self.promote_if_equal), ("replace", self.replace), ("drain", self.drain)];
        parameters
            .extend(flags.iter().filter(|(_, set)| *set).map(|(name, _)| ((*name).to_owned(), "true".to_owned())));
        parameters.extend(self.tolerance.map(|tolerance| ("tolerance".to_owned(), tolerance.to_string())));
        Ok(parameters)
    }
}

pub fn run(args: &SwapArgs) -> Result<(), Failure> {
    let mut parameters = args.parameters()?;
    let run = args.reach.find()?;
    let node = run.status.nodes.iter().find(|n| n.name == args.operator && n.kind.is_operator());
    let Some(node) = node else {
        let all: Vec<&str> =
            run.status.nodes.iter().filter(|n| n.kind.is_operator()).map(|n| n.name.as_str()).collect();
        return Err(Failure::Usage(format!(
            "pipeline `{}` has no operator `{}`; it has {}",
            run.status.name,
            args.operator,
            all.join(", ")
        )));
    };
    let mut content = None;
    if let Some(file) = &args.file {
        let (digest, bytes) = read(file, node.kind)?;
        parameters.push(("sha256".to_owned(), digest));
        content = Some(("application/wasm", bytes));
    }
    let below = format!("/operators/{}/plugin", args.operator);
    let record: SwapRecord = run.post(&below, &parameters, content, PATIENCE)?;
    if args.detach {
        return end(&record, &args.reach, args.format, true);
    }
    let follow = Follow { run: &run, reach: &args.reach, format: args.format, a_rollback_is_meant: false };
    let record = follow.to_end(record)?;
    // a shadow that was only to be looked at ends with its report
    let looked_at = args.shadow.is_some() && !args.promote_if_equal && record.shadow.is_some();
    if args.write && record.phase.is_active() {
        let file = args.reach.file()?;
        write(&file, &record, args.file.as_deref())?;
        eprintln!("{} gives it now", file.display());
    }
    end(&record, &args.reach, args.format, record.phase.is_active() || (looked_at && record.phase == Phase::Discarded))
}

/// Into the pipeline file, all of it or nothing. `component`: none: only the configuration is another.
fn write(file: &Path, record: &SwapRecord, component: Option<&Path>) -> Result<(), Failure> {
    let pipeline = super::open::load(file)?.pipeline;
    let failed =
        |why: String| Failure::Other(anyhow::anyhow!("it runs, but {} does not give it: {why}", file.display()));
    let operator = record.operator.as_str();
    let aggregation = pipeline.aggregations.iter().find(|(name, _)| name == operator);
    let transform = pipeline.transforms.iter().find(|(name, _)| name == operator);
    let (kind, plugin, config) = match (aggregation, transform.and_then(|(_, spec)| spec.plugin.as_ref())) {
        (Some((_, spec)), _) => ("aggregations", &spec.plugin, &spec.config),
        (None, Some(spec)) => ("transforms", &spec.plugin, &spec.config),
        (None, None) => return Err(failed(format!("it has no operator `{operator}` with a plugin"))),
    };
    let folder = pipeline.file.parent().unwrap_or(Path::new("."));
    let text = std::fs::read_to_string(&pipeline.file).map_err(|e| failed(e.to_string()))?;
    let given = pipeline.secrets.seal(config);
    let mut changed = write_back::with_config(&text, (kind, operator), &given, &record.to.config).map_err(failed)?;
    if let Some(component) = component {
        let path = write_back::path_from(folder, component).map_err(failed)?;
        changed = write_back::with_plugin_path(&changed, plugin, &path).map_err(failed)?;
    }
    let beside = pipeline.file.with_extension("toml.new");
    let written = std::fs::write(&beside, changed).and_then(|()| std::fs::rename(&beside, &pipeline.file));
    written.map_err(|e| failed(e.to_string()))
}

/// The digest and the bytes of a plugin that an operator of this kind can use.
fn read(file: &Path, operator: NodeKind) -> Result<(String, Vec<u8>), Failure> {
    if file.is_dir() {
        return Err(Failure::Usage(format!(
            "{0} is a folder: give the component\nhint: `millrace plugin build {0}` makes it and says where it is",
            file.display()
        )));
    }
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let artifact = Artifact::load(&name, file, None).map_err(|e| Failure::Other(e.into()))?;
    let wanted = if operator == NodeKind::Aggregation { Kind::Aggregation } else { Kind::Transform };
    if artifact.kind() != wanted {
        return Err(Failure::Usage(format!(
            "{} is a plugin of kind `{}`, and the operator needs one of kind `{}`",
            file.display(),
            artifact.kind().name(),
            wanted.name()
        )));
    }
    let bytes = std::fs::read(file).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
    Ok((artifact.digest().to_owned(), bytes))
}

/// From one phase to the next.
pub struct Follow<'a> {
    pub run: &'a Run,
    pub reach: &'a Reach,
    pub format: Form,
    /// in probation the roles are exchanged back: the record ends as rolled back
    pub a_rollback_is_meant: bool,
}

impl Follow<'_> {
    pub fn to_end(&self, mut record: SwapRecord) -> Result<SwapRecord, Failure> {
        let below = format!("/swaps/{}", record.id);
        let mut last = None;
        loop {
            if self.format == Form::Text && last != Some(record.phase) {
                println!("{}", phase(&record));
            }
            last = Some(record.phase);
            // a rollback answers with the record that it undoes, while that still is in probation
            let undone = self.a_rollback_is_meant && !record.is_rollback;
            if record.phase.is_over() || (record.phase.is_active() && !undone) {
                return Ok(record);
            }
            std::thread::sleep(ASK_EVERY);
            record = self.run.get(&below).map_err(|error| {
                Failure::Other(error.context(format!(
                    "the swap goes on, but is no longer followed; `millrace status {}` shows it",
                    self.reach.again()
                )))
            })?;
        }
    }
}

fn phase(record: &SwapRecord) -> String {
    let takes_state = record.state.as_deref().is_some_and(|state| state != "drained");
    let what = match record.phase {
        Phase::Preparing => "checking and compiling",
        Phase::Attaching if !takes_state => "waiting for the barrier at which it is put beside the old version",
        Phase::Attaching => "waiting for the barrier at which the state is copied",
        Phase::Warming if !takes_state => "tried on what comes",
        Phase::Warming => "taking in the state, and what has come since",
        Phase::Shadowing => "running beside the old version",
        Phase::Exchanging => "waiting for the barrier at which the two change places",
        // that of a transform has nothing to go on with
        Phase::Probation if record.state.is_none() => "it runs; the old version stands by",
        Phase::Probation => "it runs; the old version goes on as a shadow",
        Phase::Draining => "it runs; the old version ends the windows that began before",
        Phase::Done => "it runs",
        Phase::Refused => "refused",
        Phase::Failed => "failed",
        Phase::Discarded => "discarded",
        Phase::RolledBack => "rolled back",
    };
    format!("swap {}: {what}", record.id)
}

/// `campaign-metrics 1.1.0 (1a2b3c4d5e6f)`
pub fn version(v: &Version) -> String {
    if v.name.is_empty() {
        return "no such plugin".to_owned();
    }
    let short = v.sha256.get(..12).unwrap_or(&v.sha256);
    format!("{} {} ({short})", v.name, v.version)
}

/// What came of it; an error unless it is as it was asked for.
pub fn end(record: &SwapRecord, reach: &Reach, format: Form, done: bool) -> Result<(), Failure> {
    match format {
        Form::Json => println!("{}", serde_json::to_string_pretty(record).map_err(|e| Failure::Other(e.into()))?),
        Form::Text => print!("{}", text(record, reach)),
    }
    if done {
        return Ok(());
    }
    let why = record.reason.as_deref().unwrap_or("it does not run");
    Err(Failure::Other(anyhow::anyhow!("swap {} of `{}`: {why}", record.id, record.operator)))
}

fn text(record: &SwapRecord, reach: &Reach) -> String {
    let mut lines = vec![format!("{}: {} → {}", record.operator, version(&record.from), version(&record.to))];
    let mut line = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("  {name:<11}{value}")));
    };
    line("state", record.state.clone());
    if let Some(ms) = record.drains_before_ms {
        let what = if record.phase.is_over() { "ended" } else { "ends" };
        line("windows", Some(format!("the old version {what} those that began before {} UTC", words::time(ms, ms))));
    }
    line("pause", record.pause_us.map(|us| format!("{}.{:03} ms", us / 1_000, us % 1_000)));
    line("checkpoint", record.checkpoint.map(|n| n.to_string()));
    line("reason", record.reason.clone());
    if record.phase == Phase::Probation {
        line("probation", record.probation_until_ms.map(|ms| format!("until {} UTC", words::time(ms, ms))));
        line("undo", Some(format!("millrace rollback {} {}", reach.again(), record.operator)));
    }
    if !record.phase.is_over() && !record.phase.is_active() {
        line("look", Some(format!("millrace status {}", reach.again())));
    }
    if let Some(c) = &record.rollback {
        let said = format!("{} given again, {} left as given", c.given_again, c.left_as_given);
        line("results", Some(said));
    }
    if let Some(report) = &record.shadow {
        shadow(report, &mut lines);
    }
    lines.join("\n") + "\n"
}

fn shadow(report: &ShadowReport, lines: &mut Vec<String>) {
    lines.push(format!(
        "  compared   {} results in {} windows, tolerance {}: {} differ, {} of open windows (warm-up), {} only old, {} only new",
        report.compared,
        report.windows,
        report.tolerance,
        report.different,
        report.different_in_warm_up,
        report.only_old,
        report.only_new
    ));
    if let (Some(new), Some(old)) = (report.new_ns_per_row, report.old_ns_per_row) {
        lines.push(format!("  speed      {new:.0} ns a row, the old one {old:.0}"));
    }
    for (which, columns) in [("old", &report.only_in_old), ("new", &report.only_in_new)] {
        if !columns.is_empty() {
            lines.push(format!("  only {which}   columns {}", columns.join(", ")));
        }
    }
    for c in &report.columns {
        lines.push(format!(
            "  {}: {} differ, {} in warm-up, by {:.4} % at most",
            c.column,
            c.different,
            c.different_in_warm_up,
            c.largest_relative * 100.0
        ));
    }
    let mut largest: Vec<_> = report.largest.iter().collect();
    largest.sort_by(|a, b| (a.is_warm_up.cmp(&b.is_warm_up)).then(b.relative.total_cmp(&a.relative)));
    for d in largest {
        let key: Vec<String> = d.key.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let window = words::window(d.window_start_ms, d.window_end_ms, d.window_start_ms);
        let warm_up = if d.is_warm_up { "  (warm-up)" } else { "" };
        lines.push(format!("    {window}  {}  {}: {} → {}{warm_up}", key.join(" "), d.column, d.old, d.new));
    }
}
