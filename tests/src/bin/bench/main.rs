//! How fast, and where the time goes: every stage on the same topic in one run, each a process of its own.
//!
//! ```text
//!   raw            librdkafka's batch calls, payloads only touched
//!   decode         + bytes into Arrow
//!   native         + windows, aggregation, checkpoints, Iceberg: the plugin's code linked into the host
//!   wasm           the same with the plugin in its sandbox
//!   events         the raw events into an unpartitioned table
//!   events-by-day  … partitioned by campaign, platform and day
//! ```
//!
//! then windows, numbers of keys and sinks beside each other ([`windows`]; `bench windows` does only that), commits that
//! replace rows ([`upsert`]; `bench upsert` does only that, without a broker), and plugins by themselves ([`plugins`]; `bench
//! plugins`).
//!
//! CPU time and peak RSS are the child's own (`wait4`). A start on an empty topic is measured too and subtracted for the
//! steady-state column: compiling the plugin and opening the catalog are paid once, not per event.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use millrace_tests::kafka::Broker;
use millrace_tests::paths::{self, Scratch, files_below};
use millrace_tests::pipeline::Pipeline;
use millrace_tests::topic;

mod consume;
mod native;
mod plugins;
mod upsert;
mod windows;

const EVENTS_DEFAULT: u64 = 5_000_000;
const USAGE: &str = "usage: bench [plugins | upsert | [windows] [--events N] [--brokers HOST:PORT]]";

#[derive(Clone, Copy, Debug)]
struct Usage {
    wall_s: f64,
    cpu_s: f64,
    rss_mib: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["plugins"] => return plugins::run(),
        ["upsert"] => return upsert::run(),
        ["--stage", "native", pipeline] => return native::run(Path::new(pipeline)),
        ["--stage", stage, brokers, topic, pipeline] => {
            return consume::run(stage, brokers, topic, Path::new(pipeline));
        }
        _ => {}
    }
    let (mut events, mut brokers) = (EVENTS_DEFAULT, None);
    let mut rest = arguments.as_slice();
    let only_windows = rest.first() == Some(&"windows");
    if only_windows {
        rest = &rest[1..];
    }
    while let [flag, value, more @ ..] = rest {
        match *flag {
            "--events" => events = value.replace('_', "").parse().context("--events wants a number")?,
            "--brokers" => brokers = Some((*value).to_owned()),
            _ => bail!("{USAGE}"),
        }
        rest = more;
    }
    ensure!(rest.is_empty(), "{USAGE}");
    let brokers = brokers.unwrap_or_else(|| Broker::shared().brokers());
    if only_windows {
        return windows::run(&brokers, events);
    }
    bench(&brokers, events)?;
    windows::run(&brokers, events)?;
    upsert::run()?;
    plugins::run()
}

fn bench(brokers: &str, events: u64) -> Result<()> {
    let scratch = Scratch::new("bench")?;
    let full = topic::unique("bench");
    let empty = topic::unique("bench-empty");
    topic::create(brokers, &full, 4)?;
    topic::create(brokers, &empty, 4)?;
    generate(brokers, &full, events, &[])?;

    println!(
        "{:<14} {:>10} {:>9} {:>13} {:>9} {:>7}",
        "stage", "events/s", "CPU-s/M", "steady CPU-s/M", "RSS MiB", "files"
    );
    let millions = events as f64 / 1e6;
    let show = |name: &str, usage: Usage, start: Option<Usage>, files: Option<usize>| {
        let steady = (usage.cpu_s - start.map_or(0.0, |start| start.cpu_s)) / millions;
        println!(
            "{name:<14} {:>10.0} {:>9.3} {steady:>13.3} {:>9.0} {:>7}",
            events as f64 / usage.wall_s,
            usage.cpu_s / millions,
            usage.rss_mib,
            files.map_or_else(|| "-".to_owned(), |files| files.to_string())
        );
        steady
    };
    let stages = scratch.path().join("stages");
    std::fs::create_dir_all(&stages)?;
    let pipeline = Pipeline::kafka(&stages, brokers, &full).write()?;
    for stage in ["raw", "decode"] {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--stage", stage, brokers, &full]).arg(&pipeline);
        match measured(command) {
            Ok(usage) => drop(show(stage, usage, None, None)),
            Err(e) => println!("{stage:<14} failed: {e:#}"),
        }
    }
    let mut steady = Vec::new();
    for (name, native, shape) in [
        ("native", true, shape_metrics as fn(&mut Pipeline)),
        ("wasm", false, shape_metrics),
        ("events", false, shape_events),
        ("events-by-day", false, shape_events_partitioned),
    ] {
        let start = run(&scratch.path().join(format!("{name}-start")), brokers, &empty, native, shape)?;
        let folder = scratch.path().join(name);
        let usage = run(&folder, brokers, &full, native, shape)?;
        let is_data = |file: &&std::path::PathBuf| file.extension().is_some_and(|extension| extension == "parquet");
        let files = files_below(&folder.join("warehouse")).iter().filter(is_data).count();
        steady.push(show(name, usage, Some(start), Some(files)));
    }
    if let [native, wasm, ..] = steady[..] {
        println!("\nsandbox's share (wasm ÷ native, steady state): {:.3}", wasm / native);
    }
    Ok(())
}

fn generate(brokers: &str, topic: &str, events: u64, more: &[&str]) -> Result<()> {
    eprintln!("producing {events} events");
    let ended = Command::new(paths::millrace()?)
        .args(["generate", "--kafka", brokers, "--topic", topic, "--count", &events.to_string()])
        .args(["--partitions", "4", "--seed", "42", "--campaigns", "1000", "--users", "1000000"])
        .args(more)
        .stdin(Stdio::null())
        .status()?;
    ensure!(ended.success(), "millrace generate ended with {ended}");
    Ok(())
}

fn shape_metrics(pipeline: &mut Pipeline) {
    pipeline.raw_tables.clear();
}

fn shape_events(pipeline: &mut Pipeline) {
    pipeline.metrics = false;
    pipeline.raw_partition_by.clear();
}

fn shape_events_partitioned(pipeline: &mut Pipeline) {
    pipeline.metrics = false;
    pipeline.raw_partition_by =
        ["identity(campaign_id)", "identity(platform)", "day(timestamp)"].map(str::to_owned).to_vec();
}

/// The whole program, from an empty warehouse to the topic's end.
fn run(folder: &Path, brokers: &str, topic: &str, native: bool, shape: impl Fn(&mut Pipeline)) -> Result<Usage> {
    std::fs::create_dir_all(folder)?;
    let mut pipeline = Pipeline::kafka(folder, brokers, topic);
    pipeline.window = "5m".to_owned();
    pipeline.checkpoint_interval = "10s".to_owned();
    pipeline.commit_interval = "10m".to_owned();
    shape(&mut pipeline);
    let file = pipeline.write()?;
    let mut command;
    if native {
        command = Command::new(std::env::current_exe()?);
        command.args(["--stage", "native"]).arg(file);
    } else {
        command = Command::new(paths::millrace()?);
        command.arg("run").arg(file).args(["--until-end", "--progress", "none"]);
    }
    measured(command)
}

/// Runs a child to its end; what it used comes from `wait4`, so that it is the child's alone.
fn measured(mut command: Command) -> Result<Usage> {
    let started = Instant::now();
    let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {command:?}"))?;
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: all zeros is a valid `rusage`, the kernel fills it in.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals of the right type; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid, "waiting for {command:?}: {}", std::io::Error::last_os_error());
    ensure!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{command:?} ended with wait status {status}");
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Usage {
        wall_s: started.elapsed().as_secs_f64(),
        cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        // Linux says KiB
        rss_mib: usage.ru_maxrss as f64 / 1024.0,
    })
}
