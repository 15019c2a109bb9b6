//! `millrace run`: one pipeline, until it is stopped, comes to its end, or fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use crossbeam_channel::{Sender, unbounded};
use tokio::runtime::Handle;
use tracing::warn;

use super::open::{Substitute, load, resolve, start_engine};
use super::{Failure, RunArgs, Ui, watch};
use crate::api::address::{Address, Announced};
use crate::api::token::Token;
use crate::api::{self, Api, Bound, Running};
use crate::checkpoint::CheckpointStore;
use crate::runtime::begin::{Begin, savepoints};
use crate::runtime::control::Control;
use crate::runtime::controller::Controller;
use crate::runtime::coordinator::{Finished, Order};
use crate::runtime::nodes;
use crate::runtime::progress::Progress;
use crate::runtime::run::{Parts, RunOptions, run as run_pipeline};
use crate::spec::model::Start;

pub fn run(args: &RunArgs) -> Result<(), Failure> {
    run_with(args, None)
}

/// With some plugins replaced by another implementation (benchmarks: native code).
pub fn run_with(args: &RunArgs, substitute: Option<Substitute<'_>>) -> Result<(), Failure> {
    let loaded = load(&args.file)?;
    let runtime = io_runtime()?;
    let resolved = resolve(&loaded, substitute)?;
    let mut reset_offsets = std::collections::BTreeMap::new();
    for reset in &args.reset_offsets {
        let (source, start) = parse_reset(reset).map_err(Failure::Usage)?;
        if !loaded.pipeline.sources.iter().any(|(name, _)| *name == source) {
            return Err(Failure::Usage(format!("--reset-offsets: the pipeline has no source `{source}`")));
        }
        reset_offsets.insert(source, start);
    }
    let options = RunOptions {
        until_end: args.until_end,
        keep_open: args.keep_open,
        drop_state: args.drop_state.iter().cloned().collect(),
        reset_offsets,
        observer: None,
    };
    let bound = bind(args.ui)?;
    let begin =
        Begin { fresh: args.fresh, from_savepoint: args.from_savepoint.as_deref(), drop_state: &args.drop_state };
    let parts = nodes::open(&loaded.pipeline, &resolved, runtime.handle(), begin)
        .map_err(|e| Failure::Other(anyhow::Error::new(e)))?;
    let (orders, order_receiver) = unbounded();
    let control = controller(&parts, orders.clone());
    stop_on_signals(orders)?;
    if let (true, Some(control)) = (args.watch, &control) {
        watch::start(&loaded.pipeline, Arc::clone(control)).map_err(|e| Failure::Other(e.into()))?;
    }
    let api = bound.map(|bound| serve(bound, &parts, control, runtime.handle())).transpose()?;
    let progress = Progress::start(&loaded.pipeline, &parts.stats, &parts.clock, args.progress);
    let finished = run_pipeline(parts, options, order_receiver);
    progress.finish();
    drop(api);
    match finished {
        Ok(Finished::Stopped) => eprintln!("stopped: checkpoint taken, all commits confirmed"),
        Ok(Finished::ReachedEnd) => eprintln!("done: all input read, all commits confirmed"),
        Err(error) => return Err(Failure::Other(anyhow::Error::new(error))),
    }
    Ok(())
}

fn bind(ui: Option<Ui>) -> Result<Option<Bound>, Failure> {
    let wanted = match ui {
        Some(Ui::None) => return Ok(None),
        Some(Ui::At(address)) => Some(address),
        None => None,
    };
    let token = Token::from_environment(|name| std::env::var(name).ok()).map_err(Failure::Usage)?;
    api::bind(wanted, token).map(Some).map_err(Failure::Usage)
}

/// What the API can change; none: only looked at.
fn controller(parts: &Parts, orders: Sender<Order>) -> Option<Arc<dyn Control>> {
    let store = CheckpointStore::open(&parts.pipeline.checkpoint.location, &parts.pipeline.name);
    let controller = store.map_err(|e| e.to_string()).and_then(|store| {
        let savepoints = savepoints(store.clone(), parts.runtime.clone(), Arc::clone(&parts.clock));
        Controller::new(parts, orders, store, Box::new(start_engine), Some(savepoints))
    });
    match controller {
        Ok(controller) => Some(Arc::new(controller)),
        Err(error) => {
            warn!("plugins of this run cannot be replaced while it runs: {error}");
            None
        }
    }
}

/// Answers, and says where beside the checkpoints, until what it returns is dropped.
fn serve(
    bound: Bound,
    parts: &Parts,
    control: Option<Arc<dyn Control>>,
    runtime: &Handle,
) -> anyhow::Result<(Option<Announced>, Api)> {
    let running = Running { control, ..Running::new(parts) };
    let api = bound.serve(running).map_err(anyhow::Error::msg)?;
    eprintln!("api: {}", api.url);
    let address = Address {
        pipeline: parts.pipeline.name.clone(),
        incarnation: parts.fence.incarnation.clone(),
        generation: parts.fence.generation,
        url: api.url.clone(),
        process: std::process::id(),
    };
    Ok((Announced::new(&parts.pipeline, address, runtime), api))
}

/// I/O only: object stores, catalogs, commits. Data moves on the tasks' own threads.
pub fn io_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("io")
        .enable_all()
        .build()
        .context("cannot start the I/O threads")
}

/// The first SIGTERM or SIGINT asks for a clean stop, the second ends the process at once.
pub fn stop_on_signals(orders: crossbeam_channel::Sender<Order>) -> anyhow::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    let count = Arc::new(AtomicU32::new(0));
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if count.fetch_add(1, Ordering::SeqCst) > 0 {
                    std::process::exit(128 + signal);
                }
                // a run that is over has no receiver left
                let _ = orders.send(Order::Stop { drain: false });
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

fn parse_reset(text: &str) -> Result<(String, Start), String> {
    let wrong =
        || format!("--reset-offsets {text}: expected SOURCE=earliest, SOURCE=latest or SOURCE=2026-01-31T12:00:00Z");
    let (source, start) = text.split_once('=').ok_or_else(wrong)?;
    let start = match start {
        "earliest" => Start::Earliest,
        "latest" => Start::Latest,
        time => Start::TimestampMs(crate::spec::parse_instant_ms(time).ok_or_else(wrong)?),
    };
    Ok((source.to_owned(), start))
}
