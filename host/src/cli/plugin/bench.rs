//! `millrace plugin bench`: what a plugin costs, in CPU time of the thread that calls it, the least of some repeats.
//!
//! Rows are drawn from a case's own values, their keys spread over so many groups. Beside it stands the same plugin
//! natively where that can be built ([`native`]), and what merely counting the rows of each group costs in native code: the
//! machine's own measure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, UInt32Array};
use serde_json::json;

use super::project::Project;
use super::{BenchArgs, Form, load, native};
use crate::cli::Failure;
use crate::cli::open::colour;
use crate::golden::{Subject, case};
use crate::laws::{LawSubject, data};
use crate::plugin::{Aggregator, Kind, PluginEngine, PluginError};
use crate::runtime::run::offered_to_plugin;
use crate::spec::show_bytes;

const BATCH_ROWS: [usize; 4] = [64, 1_024, 8_192, 65_536];
const REPEATS: usize = 5;

struct Measured {
    batch_rows: usize,
    ns_per_row: f64,
    counting_ns_per_row: f64,
}

pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let project = if args.path.is_dir() { Some(Project::load(&args.path)?) } else { None };
    let path = project.as_ref().map_or(args.path.as_path(), |project| project.component.as_path());
    let artifact = load::artifact(path, project.as_ref())?;
    if artifact.kind() != Kind::Aggregation {
        return Err(Failure::Usage(format!(
            "error: only aggregations are measured yet, this is a {}",
            artifact.kind().name()
        )));
    }
    let file = match (&args.case, &project) {
        (Some(case), None) => case.into(),
        (Some(case), Some(project)) => project.tests().join(format!("{}.toml", case.trim_end_matches(".toml"))),
        (None, Some(project)) => project.cases().into_iter().next().ok_or_else(|| no_case(args))?,
        (None, None) => return Err(no_case(args)),
    };
    let case = case::load(&file, artifact.kind()).map_err(|found| Failure::Usage(found.render(colour())))?;

    // without the cache: this is what the first start costs
    let cold = Arc::new(PluginEngine::new(None).map_err(anyhow::Error::new)?);
    let started = Instant::now();
    load::aggregation(&cold, &artifact)?;
    let compile = started.elapsed();
    let factory = load::aggregation(&load::engine()?, &artifact)?;
    let subject = Subject::open(&factory, &case).map_err(|found| Failure::Usage(found.render(colour())))?;
    let subject = LawSubject::new(subject, &case).map_err(anyhow::Error::new)?;
    let trial = data::many(&case, args.rows as usize);
    let prepared = subject
        .prepare(&trial)
        .ok_or_else(|| Failure::Usage("error: rows cannot be made from this case\nhint: give it some events".into()))?;
    let groups: Vec<u32> = (0..args.rows).map(|row| data::spread(row, args.groups)).collect();

    let mut starts = Vec::new();
    for _ in 0..REPEATS {
        let started = cpu_time();
        subject.open().map_err(anyhow::Error::new)?;
        starts.push(cpu_time().saturating_sub(started));
    }
    let start = starts.into_iter().min().unwrap_or_default();
    let mut measured = Vec::new();
    let mut state = (0_u64, 0_u64);
    for batch_rows in BATCH_ROWS.into_iter().filter(|rows| *rows <= args.rows as usize) {
        let batches = batches(&prepared.columns, &groups, batch_rows)?;
        let mut least = Duration::MAX;
        let mut counting = Duration::MAX;
        for _ in 0..REPEATS {
            let mut instance = subject.open().map_err(anyhow::Error::new)?;
            let took = feed(&mut *instance.plugin, &batches, args.groups).map_err(anyhow::Error::new)?;
            least = least.min(took);
            counting = counting.min(count(&batches, args.groups));
            state = (instance.plugin.size().map_err(anyhow::Error::new)?, instance.plugin.memory_bytes());
        }
        let per_row = |took: Duration| took.as_secs_f64() * 1e9 / f64::from(args.rows);
        measured.push(Measured { batch_rows, ns_per_row: per_row(least), counting_ns_per_row: per_row(counting) });
    }
    let sizes: Vec<usize> = measured.iter().map(|m| m.batch_rows).collect();
    let rows = native::Rows {
        config: &subject.node.spec.config,
        offered: &offered_to_plugin(&subject.node),
        columns: &prepared.columns,
        groups: &groups,
        total: args.groups,
    };
    let natively = match &project {
        Some(project) => native::measure(project, &rows, &sizes),
        None => Err("only a project has a native build".to_owned()),
    };
    let native_of = |index: usize| natively.as_ref().ok().and_then(|all| all.get(index)).copied();
    let per_group = state.0 / u64::from(args.groups.max(1));
    match args.format {
        Form::Json => println!(
            "{:#}",
            json!({
                "rows": args.rows,
                "groups": args.groups,
                "batches": measured.iter().enumerate().map(|(index, m)| json!({
                    "batch_rows": m.batch_rows,
                    "ns_per_row": m.ns_per_row,
                    "native_ns_per_row": native_of(index),
                    "counting_ns_per_row": m.counting_ns_per_row,
                })).collect::<Vec<_>>(),
                "state_bytes_per_group": per_group,
                "memory_bytes": state.1,
                "compile_ms": compile.as_secs_f64() * 1e3,
                "instance_us": start.as_secs_f64() * 1e6,
            })
        ),
        Form::Text => {
            let info = factory.info();
            println!(
                "{} {}: {} rows in {} groups, values of the case `{}`",
                info.name, info.version, args.rows, args.groups, case.name
            );
            println!("  rows a batch   ns a row   natively   only counting them");
            for (index, m) in measured.iter().enumerate() {
                let native = native_of(index).map_or_else(|| "-".to_owned(), |ns| format!("{ns:.1}"));
                println!(
                    "  {:>12}   {:>8.1}   {native:>8}   {:>18.1}",
                    m.batch_rows, m.ns_per_row, m.counting_ns_per_row
                );
            }
            if let Err(why) = &natively {
                println!("  natively   not measured: {why}");
            }
            println!("  state      {per_group} bytes a group; {} of memory in all", show_bytes(state.1));
            println!("  compile    {:.0} ms (the first time; then it is cached)", compile.as_secs_f64() * 1e3);
            println!("  instance   {:.0} µs", start.as_secs_f64() * 1e6);
        }
    }
    Ok(())
}

fn no_case(args: &BenchArgs) -> Failure {
    let path = args.path.display();
    Failure::Usage(format!(
        "error: which rows? A case says what they look like\nhint: `millrace plugin bench {path} --case tests/basic.toml`"
    ))
}

struct Slice {
    columns: Vec<Option<ArrayRef>>,
    groups: Vec<u32>,
}

/// Batches of their own memory: slices of one are not what a pipeline sends.
fn batches(columns: &[Option<ArrayRef>], groups: &[u32], rows: usize) -> Result<Vec<Slice>, Failure> {
    let mut out = Vec::new();
    let all: Vec<u32> = (0_u32..).take(groups.len()).collect();
    for rows in all.chunks(rows) {
        let indices = UInt32Array::from(rows.to_vec());
        let columns = columns
            .iter()
            .map(|column| column.as_ref().map(|column| arrow_select::take::take(column, &indices, None)).transpose())
            .collect::<Result<_, _>>()
            .map_err(anyhow::Error::new)?;
        let groups = rows.iter().filter_map(|row| groups.get(*row as usize)).copied().collect();
        out.push(Slice { columns, groups });
    }
    Ok(out)
}

fn feed(plugin: &mut dyn Aggregator, batches: &[Slice], groups: u32) -> Result<Duration, PluginError> {
    let started = cpu_time();
    for batch in batches {
        plugin.update(&batch.columns, &batch.groups, groups)?;
    }
    Ok(cpu_time().saturating_sub(started))
}

fn count(batches: &[Slice], groups: u32) -> Duration {
    let started = cpu_time();
    let mut counts = vec![0_u64; groups as usize];
    for group in batches.iter().flat_map(|batch| &batch.groups) {
        if let Some(count) = counts.get_mut(*group as usize) {
            *count += 1;
        }
    }
    std::hint::black_box(&counts);
    cpu_time().saturating_sub(started)
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing, and the clock exists on every Unix; on failure it stays zero.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
