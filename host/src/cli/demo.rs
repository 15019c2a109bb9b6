//! `millrace demo`: the campaign pipeline on an embedded source of events (or over a real broker), with its results
//! growing in the terminal; then what to try next.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use crossbeam_channel::{Sender, unbounded};

use super::open::{colour, resolve};
use super::run::{io_runtime, stop_on_signals};
use super::{DemoArgs, Failure, Progress as Mode};
use crate::clock::{Clock, SystemClock};
use crate::runtime::begin::Begin;
use crate::runtime::coordinator::Order;
use crate::runtime::nodes;
use crate::runtime::progress::{Progress, count, time_of_day};
use crate::runtime::run::{RunOptions, run as run_pipeline};
use crate::source::{Waker, generator};
use crate::spec;
use crate::spec::model::GeneratorSpec;

/// Campaigns shown.
const ROWS_SHOWN: usize = 12;
const REDRAW: Duration = Duration::from_secs(1);

pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let file = args.root.join("pipelines").join(if args.kafka { "demo_kafka.toml" } else { "demo.toml" });
    let folder = args.root.join(".millrace").join(if args.kafka { "demo-kafka" } else { "demo" });
    let folder = std::path::absolute(&folder).context("the demo's folder")?;
    if !args.keep && folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    // A new topic each time, unless the last one is to go on.
    let topic_file = folder.join("topic");
    let topic = std::fs::read_to_string(&topic_file)
        .unwrap_or_else(|_| format!("ads-campaign-events-demo-{}", SystemClock.now_ms()));
    let env = |name: &str| match name {
        "MILLRACE_DEMO_DIR" => Some(folder.display().to_string()),
        "MILLRACE_DEMO_RATE" => Some(args.rate.to_string()),
        "MILLRACE_DEMO_TOPIC" => Some(topic.clone()),
        _ => std::env::var(name).ok(),
    };
    let loaded = spec::load(&file, &env).map_err(|e| Failure::Usage(e.render(colour())))?;
    super::log::never_say(loaded.secrets.iter().cloned());
    let opened = resolve(&loaded, None)?;
    let stop_producer = Arc::new(AtomicBool::new(false));
    let producer = if args.kafka {
        std::fs::create_dir_all(&folder).context("the demo's folder")?;
        std::fs::write(&topic_file, &topic).context("the demo's folder")?;
        Some(produce(&topic, args.rate, &stop_producer)?)
    } else {
        None
    };
    let runtime = io_runtime()?;
    let parts =
        nodes::open(&loaded.pipeline, &opened, runtime.handle(), Begin::default()).map_err(anyhow::Error::new)?;
    let (orders, order_receiver) = unbounded();
    stop_on_signals(orders.clone())?;
    let board = Arc::new(Mutex::new(Board::default()));
    let observed = Arc::clone(&board);
    let options = RunOptions {
        observer: Some(Arc::new(move |batch| {
            observed.lock().unwrap_or_else(PoisonError::into_inner).add(&batch.rows);
        })),
        ..RunOptions::default()
    };
    eprintln!(
        "{} events/s into 5 s windows per campaign, through plugin {}, into {}\n(Ctrl-C ends the demo cleanly)\n",
        args.rate,
        opened.factories.values().next().map_or(String::new(), |f| format!("{} {}", f.info().name, f.info().version)),
        folder.join("warehouse").display(),
    );
    let done = Arc::new(AtomicBool::new(false));
    let painter = paint(&board, &done)?;
    let timer = args.seconds.map(|seconds| end_after(seconds, orders, &done));
    let mode = if std::io::stderr().is_terminal() { Mode::None } else { Mode::Plain };
    let progress = Progress::start(&loaded.pipeline, &parts.stats, &parts.clock, mode);
    let board_stats = Arc::clone(&parts.stats);
    board.lock().unwrap_or_else(PoisonError::into_inner).stats = Some(board_stats);
    let finished = run_pipeline(parts, options, order_receiver);
    progress.finish();
    done.store(true, Relaxed);
    stop_producer.store(true, Relaxed);
    painter.waker.wake();
    join(painter.thread);
    if let Some(timer) = timer {
        timer.waker.wake();
        join(timer.thread);
    }
    if let Some(producer) = producer {
        join(producer);
    }
    finished.map_err(anyhow::Error::new)?;
    try_next(&args.root, &file, &folder);
    Ok(())
}

struct Helper {
    waker: Arc<Waker>,
    thread: std::thread::JoinHandle<()>,
}

fn join(thread: std::thread::JoinHandle<()>) {
    if thread.join().is_err() {
        eprintln!("a helper thread of the demo panicked; its message is above");
    }
}

fn end_after(seconds: u64, orders: Sender<Order>, done: &Arc<AtomicBool>) -> Helper {
    let waker = Arc::<Waker>::default();
    let (woken, done) = (Arc::clone(&waker), Arc::clone(done));
    let thread = std::thread::spawn(move || {
        woken.wait(Duration::from_secs(seconds));
        if !done.load(Relaxed) {
            // a run that is over has no receiver left
            let _ = orders.send(Order::Stop { drain: false });
        }
    });
    Helper { waker, thread }
}

fn produce(topic: &str, rate: u64, stop: &Arc<AtomicBool>) -> Result<std::thread::JoinHandle<()>, Failure> {
    let brokers = std::env::var("KAFKA_BROKERS").unwrap_or_else(|_| "localhost:9092".to_owned());
    let (topic, stop) = (topic.to_owned(), Arc::clone(stop));
    let start_ms = SystemClock.now_ms();
    let spec = GeneratorSpec {
        seed: 42,
        partitions: 4,
        rate: Some(rate),
        count: None,
        campaigns: 20,
        users: 10_000,
        disorder_ms: 1_000,
        repeats_per_million: 0,
        start_ms: Some(start_ms),
    };
    let (ready, made) = unbounded();
    let thread = std::thread::Builder::new()
        .name("producer".into())
        .spawn(move || {
            let result = generator::produce_to_kafka(&brokers, &topic, &spec, start_ms, &BTreeMap::new(), &mut |_| {
                // the first call comes once the topic is there; nobody listens to the later ones
                let _ = ready.send(());
                !stop.load(Relaxed)
            });
            if let Err(error) = result {
                eprintln!("the demo's producer: {error}");
            }
        })
        .context("cannot start a thread")?;
    if made.recv().is_err() {
        join(thread);
        return Err(Failure::Other(anyhow::anyhow!("the demo's topic could not be filled")));
    }
    Ok(thread)
}

/// What the results have come to so far.
#[derive(Default)]
struct Board {
    campaigns: BTreeMap<String, Row>,
    windows: u64,
    last_window_us: i64,
    stats: Option<Arc<crate::runtime::stats::RunStats>>,
}

#[derive(Clone, Default)]
struct Row {
    impressions: i64,
    clicks: i64,
    conversions: i64,
    revenue: f64,
    /// of the last window
    last_users: i64,
    last_ctr: Option<f64>,
}

impl Board {
    fn add(&mut self, rows: &RecordBatch) {
        let longs = |name: &str| rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
        let doubles = |name: &str| rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Float64Type>());
        let (Some(campaigns), Some(starts)) = (
            rows.column_by_name("campaign_id").and_then(|c| c.as_string_opt::<i32>()),
            rows.column_by_name("window_start").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>()),
        ) else {
            return;
        };
        let columns = (longs("impressions"), longs("clicks"), longs("conversions"), longs("unique_users"));
        let (Some(impressions), Some(clicks), Some(conversions), Some(users)) = columns else { return };
        let (revenue, ctr) = (doubles("revenue"), doubles("ctr"));
        for i in 0..rows.num_rows() {
            let row = self.campaigns.entry(campaigns.value(i).to_owned()).or_default();
            row.impressions += impressions.value(i);
            row.clicks += clicks.value(i);
            row.conversions += conversions.value(i);
            row.revenue += revenue.map_or(0.0, |r| r.value(i));
            row.last_users = users.value(i);
            row.last_ctr = ctr.and_then(|c| arrow_array::Array::is_valid(c, i).then(|| c.value(i)));
            if starts.value(i) > self.last_window_us {
                self.last_window_us = starts.value(i);
                self.windows += 1;
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        if self.campaigns.is_empty() {
            return vec!["the first windows are filling …".to_owned()];
        }
        let mut rows: Vec<(&String, &Row)> = self.campaigns.iter().collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.impressions));
        let mut lines = vec![
            format!(
                "{} windows closed, the last at {} UTC · {} campaigns, the largest:",
                self.windows,
                time_of_day(self.last_window_us / 1_000 + 5_000),
                rows.len()
            ),
            format!(
                "{:<18}{:>13}{:>9}{:>13}{:>12}   {:>12}{:>9}",
                "campaign", "impressions", "clicks", "conversions", "revenue", "users (5 s)", "ctr"
            ),
        ];
        lines.extend(rows.into_iter().take(ROWS_SHOWN).map(|(name, r)| {
            format!(
                "{name:<18}{:>13}{:>9}{:>13}{:>12.2}   {:>12}{:>9}",
                r.impressions,
                r.clicks,
                r.conversions,
                r.revenue,
                r.last_users,
                r.last_ctr.map_or("–".to_owned(), |c| format!("{:.2} %", c * 100.0))
            )
        }));
        if let Some(stats) = &self.stats {
            let rows_in: u64 = stats.nodes.get("events").map_or(0, |n| n.rows_in_total.load(Relaxed));
            lines.push(format!(
                "\n{} events read · checkpoint {} · {} rows in {} files committed",
                count(rows_in),
                stats.checkpoint.load(Relaxed),
                count(stats.committed_rows_total.load(Relaxed)),
                stats.committed_files_total.load(Relaxed),
            ));
        }
        lines
    }
}

/// Redraws in place on a terminal; elsewhere one line a second while something changes.
fn paint(board: &Arc<Mutex<Board>>, done: &Arc<AtomicBool>) -> Result<Helper, Failure> {
    let waker = Arc::<Waker>::default();
    let (board, done, woken) = (Arc::clone(board), Arc::clone(done), Arc::clone(&waker));
    let terminal = std::io::stdout().is_terminal();
    let thread = std::thread::Builder::new()
        .name("painter".into())
        .spawn(move || {
            let mut drawn = 0;
            let mut windows = 0;
            loop {
                woken.wait(REDRAW);
                let last = done.load(Relaxed);
                let (lines, now) = {
                    let board = board.lock().unwrap_or_else(PoisonError::into_inner);
                    (board.lines(), board.windows)
                };
                let text = lines.join("\n");
                let mut out = std::io::stdout().lock();
                // a closed terminal is no reason to stop the pipeline
                if terminal {
                    if drawn > 0 {
                        let _ = write!(out, "\x1b[{drawn}A\x1b[J");
                    }
                    let _ = writeln!(out, "{text}");
                    drawn = text.lines().count();
                } else if now != windows || last {
                    windows = now;
                    let _ = writeln!(out, "{text}\n");
                }
                let _ = out.flush();
                if last {
                    return;
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(Helper { waker, thread })
}

fn try_next(root: &Path, file: &Path, folder: &Path) {
    let shown =
        |path: &Path| path.strip_prefix("./").map_or_else(|_| path.to_path_buf(), PathBuf::from).display().to_string();
    println!(
        "\nThe results are an Iceberg table now. Three things to try next:\n\n\
         1. query it\n   MILLRACE_DEMO_DIR={} target/release/millrace query \\\n     \
         'SELECT campaign_id, sum(impressions) AS impressions, sum(clicks) AS clicks, sum(revenue) AS revenue \
         FROM lake.ads.campaign_metrics GROUP BY 1 ORDER BY 2 DESC LIMIT 10' \\\n     -f {}\n\n\
         2. edit the plugin ({}), then run the demo again\n   cargo xtask demo\n\n\
         3. change the pipeline ({}): another window, key or sink; ask what it means\n   target/release/millrace check {}",
        folder.display(),
        shown(file),
        shown(&root.join("plugins/campaign-metrics/src/lib.rs")),
        shown(file),
        shown(file),
    );
}
