//! `millrace plan`: what a run of the pipeline file would do with the last checkpoint and the tables. Asks nothing,
//! changes nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use millrace_core::checkpoint::{Choice, choose};
use serde_json::json;

use super::open::{load, resolve};
use super::run::io_runtime;
use super::{Failure, Form};
use crate::checkpoint::CheckpointStore;
use crate::runtime::plan::{self, Change, Fate, Plan, Plugin, Step};

#[cfg(test)]
mod tests;

const DIGEST_CHARS_SHOWN: usize = 12;

#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// the pipeline file
    pub file: PathBuf,
    /// as `run` would be told: begin this operator, source or sink without its state
    #[arg(long, value_name = "NODE")]
    pub drop_state: Vec<String>,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

/// Exit code 0: a run would go on and lose nothing. 1: it would refuse, or lose state.
pub fn run(args: &PlanArgs) -> Result<(), Failure> {
    let Made { pipeline, number, plan } = make(args)?;
    match args.format {
        Form::Json => {
            let harmless = plan.steps().all(|step| step.fate.is_harmless());
            println!("{}", json!({ "pipeline": pipeline, "checkpoint": number, "harmless": harmless, "plan": plan }));
        }
        Form::Text => print!("{}", show(&pipeline, number, &plan)),
    }
    verdict(&plan).map_err(|why| Failure::Other(anyhow::anyhow!(why)))
}

/// A plan, of which pipeline, from which checkpoint.
struct Made {
    pipeline: String,
    number: Option<u64>,
    plan: Plan,
}

fn make(args: &PlanArgs) -> Result<Made, Failure> {
    let loaded = load(&args.file)?;
    let opened = resolve(&loaded, None)?;
    let runtime = io_runtime()?;
    let failed = |e: &dyn std::fmt::Display| Failure::Other(anyhow::anyhow!("{e}"));
    let pipeline = &loaded.pipeline;
    let store =
        CheckpointStore::open_existing(&pipeline.checkpoint.location, &pipeline.name).map_err(|e| failed(&e))?;
    let (mut last, mut incarnation) = (None, None);
    if let Some(store) = &store {
        let survey = runtime.block_on(store.survey()).map_err(|e| failed(&e))?;
        match choose(&survey, &[]) {
            Choice::Fresh => {}
            Choice::Resume { restored, incarnation: of, .. } => (last, incarnation) = (restored, Some(of)),
            Choice::Refuse(refusal) => return Err(failed(&refusal)),
        }
    }
    let checkpoint = last.as_ref().and_then(|record| Some((record.number, record.checkpoint()?)));
    let found = checkpoint.zip(store.as_ref()).map(|((_, checkpoint), store)| (checkpoint, store));
    let drop_state: BTreeSet<String> = args.drop_state.iter().cloned().collect();
    let plan = plan::make(pipeline, &opened, found, incarnation.as_deref(), &drop_state, runtime.handle());
    let plan = plan.map_err(|e| failed(&e))?;
    Ok(Made { pipeline: pipeline.name.clone(), number: checkpoint.map(|(number, _)| number), plan })
}

fn verdict(plan: &Plan) -> Result<(), String> {
    let of = |fate: Fate| -> Vec<String> {
        plan.steps().filter(|step| step.fate == fate).map(|step| format!("`{}`", step.name)).collect()
    };
    let (refused, dropped) = (of(Fate::Refused), of(Fate::Dropped));
    match (refused.is_empty(), dropped.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => Err(format!("a run would lose what the checkpoint has of {}", dropped.join(", "))),
        (false, _) => Err(format!("a run would not start, because of {}", refused.join(", "))),
    }
}

fn show(pipeline: &str, checkpoint: Option<u64>, plan: &Plan) -> String {
    let mut text = match checkpoint {
        Some(number) => format!("{pipeline}, from checkpoint {number}\n"),
        None => format!("{pipeline}, from the beginning: there is no checkpoint\n"),
    };
    for (kind, steps) in [("sources", &plan.sources), ("operators", &plan.operators), ("sinks", &plan.sinks)] {
        if steps.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{kind}");
        let width = steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
        for step in steps {
            show_step(&mut text, step, width);
        }
    }
    text
}

fn show_step(text: &mut String, step: &Step, width: usize) {
    let fate = match step.fate {
        Fate::New => "new",
        Fate::Kept => "kept",
        Fate::Swapped => "kept, by another build of its plugin",
        Fate::Migrated => "kept, migrated by its new plugin",
        Fate::Dropped => "LOST",
        Fate::Refused => "REFUSED",
    };
    // writing to a String cannot fail
    let _ = writeln!(text, "  {:width$}  {fate}", step.name);
    let indent = " ".repeat(width.saturating_add(4));
    for line in step.why.iter().flat_map(|why| why.lines()) {
        let _ = writeln!(text, "{indent}{}", line.trim_start());
    }
    if let Some(change) = &step.plugin {
        show_plugin(text, change, &indent);
    }
    if let Some(table) = &step.table {
        if table.created {
            let _ = writeln!(text, "{indent}table {}: will be created", table.name);
        }
        for column in &table.added_columns {
            let _ = writeln!(text, "{indent}table {}: gains column {column}", table.name);
        }
    }
}

fn show_plugin(text: &mut String, change: &Change, indent: &str) {
    let named = |plugin: &Plugin| {
        let digest = plugin.sha256.get(..DIGEST_CHARS_SHOWN).unwrap_or(&plugin.sha256);
        format!("{} {} ({digest})", plugin.name, plugin.version)
    };
    let _ = match (&change.before, &change.after) {
        (Some(before), Some(after)) if before.sha256 != after.sha256 => {
            writeln!(text, "{indent}plugin {} → {}", named(before), named(after))
        }
        (_, Some(plugin)) | (Some(plugin), None) => writeln!(text, "{indent}plugin {}", named(plugin)),
        (None, None) => Ok(()),
    };
    if let (Some(before), Some(after)) = (&change.before, &change.after)
        && before.config != after.config
    {
        let _ = writeln!(text, "{indent}configuration {} → {}", before.config, after.config);
    }
    let imports = |plugin: Option<&Plugin>| Some(plugin?.imports.as_ref()?.join(", "));
    let (before, after) = (imports(change.before.as_ref()), imports(change.after.as_ref()));
    let named = |imports: &str| if imports.is_empty() { "nothing".to_owned() } else { imports.to_owned() };
    match (&before, &after) {
        (Some(before), Some(after)) if before != after => {
            let _ = writeln!(text, "{indent}asks for {} (before: {})", named(after), named(before));
        }
        (None, Some(after)) if !after.is_empty() => {
            let _ = writeln!(text, "{indent}asks for {after}");
        }
        _ => {}
    }
    if let Some(after) = change.after.as_ref().filter(|after| !after.capabilities.is_empty()) {
        let _ = writeln!(text, "{indent}may use {}", after.capabilities.join(", "));
    }
}
