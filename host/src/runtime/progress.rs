//! The progress of a run: one live line on a terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::stats::{RunStats, UNKNOWN};
use crate::cli::Progress as Mode;
use crate::clock::Clock;
use crate::source::Waker;
use crate::spec::model::Pipeline;

const LIVE_INTERVAL: Duration = Duration::from_millis(500);
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Shows progress until [`Progress::finish`].
pub struct Progress {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

struct Line {
    stats: Arc<RunStats>,
    clock: Arc<dyn Clock>,
    sources: Vec<Arc<str>>,
    aggregations: Vec<Arc<str>>,
    last_rows: u64,
    last_at: Instant,
}

impl Progress {
    pub fn start(pipeline: &Pipeline, stats: &Arc<RunStats>, clock: &Arc<dyn Clock>, mode: Mode) -> Self {
        let live = std::io::stderr().is_terminal() && mode == Mode::Auto;
        let stop = Arc::new(AtomicBool::new(false));
        let waker = Arc::<Waker>::default();
        if mode == Mode::None {
            return Self { stop, waker, thread: None };
        }
        let names = |named: Vec<&String>| named.into_iter().map(|n| Arc::from(n.as_str())).collect::<Vec<Arc<str>>>();
        let mut line = Line {
            stats: Arc::clone(stats),
            clock: Arc::clone(clock),
            sources: names(pipeline.sources.iter().map(|(n, _)| n).collect()),
            aggregations: names(pipeline.aggregations.iter().map(|(n, _)| n).collect()),
            last_rows: 0,
            last_at: Instant::now(),
        };
        let (stopped, woken) = (Arc::clone(&stop), Arc::clone(&waker));
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || {
            loop {
                woken.wait(if live { LIVE_INTERVAL } else { PLAIN_INTERVAL });
                let last = stopped.load(Relaxed);
                let text = line.text();
                let mut err = std::io::stderr().lock();
                // a closed terminal is no reason to stop a pipeline
                let _ = if live { write!(err, "\r\x1b[2K{text}") } else { writeln!(err, "{text}") };
                if live && last {
                    let _ = writeln!(err);
                }
                let _ = err.flush();
                if last {
                    return;
                }
            }
        });
        Self { stop, waker, thread: thread.ok() }
    }

    pub fn finish(mut self) {
        self.stop.store(true, Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // it only prints
            let _ = thread.join();
        }
    }
}

impl Line {
    fn text(&mut self) -> String {
        let s = &self.stats;
        let rows = s.sum(&self.sources, |n| &n.rows_in_total);
        let elapsed = self.last_at.elapsed().as_secs_f64().max(1e-3);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (rows - self.last_rows) as f64 / elapsed;
        self.last_rows = rows;
        self.last_at = Instant::now();
        let now_ms = self.clock.now_ms();
        let groups: i64 = self.aggregations.iter().filter_map(|n| s.nodes.get(n)).map(|n| n.groups.load(Relaxed)).sum();
        let failed: u64 = s.nodes.values().map(|n| n.failed_total.load(Relaxed)).sum();
        let late: u64 = s.nodes.values().map(|n| n.late_total.load(Relaxed)).sum();
        let mut text = format!(
            "{} events · {}/s · lag {} · watermark {} · {} groups",
            count(rows),
            count_f(rate),
            known(s.lag.load(Relaxed), |v| count(u64::try_from(v).unwrap_or(0))),
            known(s.watermark_ms.load(Relaxed), time_of_day),
            count(u64::try_from(groups).unwrap_or(0)),
        );
        let ago = |at: i64| known(at, |at| format!("{:.1}s ago", ms_to_s(now_ms.saturating_sub(at))));
        let checkpoint = s.checkpoint.load(Relaxed);
        if checkpoint > 0 {
            text += &format!(
                " · checkpoint {checkpoint} ({} ms, {})",
                s.checkpoint_took_ms.load(Relaxed),
                ago(s.checkpoint_at_ms.load(Relaxed))
            );
        }
        let committed = s.committed.load(Relaxed);
        if committed > 0 {
            text += &format!(
                " · commit {committed} ({} rows, {} files in all, {})",
                count(s.committed_rows_total.load(Relaxed)),
                s.committed_files_total.load(Relaxed),
                ago(s.committed_at_ms.load(Relaxed))
            );
        }
        if failed > 0 {
            text += &format!(" · {} failed", count(failed));
        }
        if late > 0 {
            text += &format!(" · {} late", count(late));
        }
        let repeated: u64 = s.nodes.values().map(|n| n.duplicates_total.load(Relaxed)).sum();
        if repeated > 0 {
            text += &format!(" · {} repeated", count(repeated));
        }
        let brought_back: u64 = s.nodes.values().map(|n| n.plugin_failures_total.load(Relaxed)).sum();
        if brought_back > 0 {
            text += &format!(" · {} plugin failures", count(brought_back));
        }
        text
    }
}

fn known(value: i64, show: impl Fn(i64) -> String) -> String {
    if value == UNKNOWN { "–".to_owned() } else { show(value) }
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people")]
fn ms_to_s(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

/// `1.2M`, `34.5k`, `678`
pub fn count(n: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a count for people")]
    count_f(n as f64)
}

fn count_f(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.2}G", n / 1e9),
        n if n >= 1e6 => format!("{:.2}M", n / 1e6),
        n if n >= 1e4 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// `12:34:56.789` of the UTC day
pub fn time_of_day(ms: i64) -> String {
    let day = ms.rem_euclid(86_400_000);
    format!("{:02}:{:02}:{:02}.{:03}", day / 3_600_000, day / 60_000 % 60, day / 1_000 % 60, day % 1_000)
}
