//! What the tasks of a run say of themselves, for whoever asks: each publishes once a batch, or less; the API reads.
//!
//! Times in here are of two kinds. `…_ms` of event time are epoch milliseconds; `…_at_ms` are milliseconds of the run's
//! own steady clock ([`Status::now_ms`]), which no change of the machine's clock moves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use millrace_core::batch::Origin;
use millrace_core::swap::Version;
use millrace_core::watermark::{InputWatermarks, Watermark};

use super::memory::Memory;
use super::monitor::Partitions;
use crate::clock::thread_cpu_ns;
use crate::spec::model::WatermarkSpec;

/// One partition, as its source task sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionReport {
    pub watermark_ms: Option<i64>,
    pub idle: bool,
    /// found while running, no event yet: it does not hold the watermark
    pub waits_for_first_event: bool,
    /// bounded runs: all that was there at the start has been read
    pub done: bool,
    /// the largest event time that moved the watermark in this run
    pub newest_event_ms: Option<i64>,
    /// since when the watermark stands where it does
    pub stands_since_at_ms: i64,
    /// none: no message yet in this run
    pub last_message_at_ms: Option<i64>,
    /// not read on, because it is too far ahead of the slowest
    pub drift: Option<DriftWait>,
    pub messages_total: u64,
    pub failed_total: u64,
    /// of `failed_total`: dated beyond `max_future`
    pub future_total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriftWait {
    pub since_at_ms: i64,
    /// where the slowest partition stood when last looked at; none: one with a backlog has had no event yet
    pub slowest_ms: Option<i64>,
}

/// The windows of one task of an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowReport {
    /// end > watermark
    pub open: u64,
    /// the watermark has passed their end, late events may still correct them
    pub closed: u64,
    /// start and end of the open window that ends first
    pub oldest_open: Option<(i64, i64)>,
    pub groups: u64,
    pub state_bytes: u64,
    /// closed windows, or sessions, whose correction waits for the next tick or barrier
    pub corrections_waiting: u64,
}

/// Where late events came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LatePartition {
    pub source: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
}

#[derive(Clone, Debug, Default)]
pub struct OperatorReport {
    pub watermark: Watermark,
    /// since when the watermark stands where it does
    pub stands_since_at_ms: i64,
    /// one per queue into the task, named by [`OperatorStatus::inputs`]
    pub inputs: Vec<Watermark>,
    pub windows: WindowReport,
    pub late: BTreeMap<LatePartition, u64>,
}

/// What a task says, and the node behind each of its queues.
pub type TaskReport = (Vec<Arc<str>>, OperatorReport);

/// One task of an operator.
#[derive(Debug)]
pub struct OperatorStatus {
    started: Instant,
    /// the node behind each queue into the task
    pub inputs: Vec<Arc<str>>,
    report: Mutex<OperatorReport>,
}

impl Default for OperatorStatus {
    fn default() -> Self {
        Self { started: Instant::now(), inputs: Vec::new(), report: Mutex::default() }
    }
}

impl OperatorStatus {
    /// The watermark has moved, or an input has become idle.
    pub fn watermark(&self, watermarks: &InputWatermarks) {
        let mut report = self.lock();
        let now = watermarks.state();
        if report.watermark.time_ms != now.time_ms {
            report.stands_since_at_ms = elapsed_ms(self.started);
        }
        report.watermark = now;
        report.inputs.clear();
        report.inputs.extend_from_slice(watermarks.inputs());
    }

    pub fn windows(&self, windows: WindowReport) {
        self.lock().windows = windows;
    }

    pub fn late(&self, origin: &Origin, events: u64) {
        let from = LatePartition {
            source: Arc::clone(&origin.source),
            topic: Arc::clone(&origin.topic),
            partition: origin.partition,
        };
        *self.lock().late.entry(from).or_default() += events;
    }

    pub fn report(&self) -> OperatorReport {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, OperatorReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source: what its file says of time, and its partitions.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    pub watermark: WatermarkSpec,
    pub partitions: Partitions,
}

/// What the instances of one version in one task have taken, and take. Counters begin with the version.
#[derive(Debug, Default)]
pub struct PluginGauges {
    pub of: Version,
    pub calls_total: AtomicU64,
    /// processor time of the thread that called it
    pub cpu_ns_total: AtomicU64,
    pub rows_total: AtomicU64,
    pub memory_bytes: AtomicU64,
}

impl PluginGauges {
    /// A call is over that began when the thread had used so much.
    pub fn count(&self, began_ns: u64, rows: usize, memory_bytes: u64) {
        self.calls_total.fetch_add(1, Relaxed);
        self.cpu_ns_total.fetch_add(thread_cpu_ns().saturating_sub(began_ns), Relaxed);
        self.rows_total.fetch_add(rows as u64, Relaxed);
        self.memory_bytes.store(memory_bytes, Relaxed);
    }

    pub fn of(plugin: Version) -> Arc<Self> {
        Arc::new(Self { of: plugin, ..Self::default() })
    }

    fn report(&self) -> PluginReport {
        let Version { name, version, sha256, config } = self.of.clone();
        PluginReport {
            name,
            version,
            sha256,
            config,
            cpu_ns_total: self.cpu_ns_total.load(Relaxed),
            calls_total: self.calls_total.load(Relaxed),
            rows_total: self.rows_total.load(Relaxed),
            memory_bytes: self.memory_bytes.load(Relaxed),
        }
    }
}

/// Where a version's counters stood at some moment.
#[derive(Clone, Debug)]
pub struct Since {
    gauges: Arc<PluginGauges>,
    cpu_ns: u64,
    rows: u64,
}

impl Since {
    pub fn now(gauges: &Arc<PluginGauges>) -> Self {
        let (cpu_ns, rows) = (gauges.cpu_ns_total.load(Relaxed), gauges.rows_total.load(Relaxed));
        Self { gauges: Arc::clone(gauges), cpu_ns, rows }
    }

    /// Nanoseconds of processor time and rows, since then.
    pub fn taken(&self) -> (u64, u64) {
        let Self { cpu_ns, rows, .. } = Self::now(&self.gauges);
        (cpu_ns.saturating_sub(self.cpu_ns), rows.saturating_sub(self.rows))
    }
}

/// The same at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginReport {
    pub name: String,
    pub version: String,
    pub sha256: String,
    /// canonical JSON
    pub config: String,
    pub cpu_ns_total: u64,
    pub calls_total: u64,
    pub rows_total: u64,
    pub memory_bytes: u64,
}

/// Of one task: the version that gives the results, and the one beside it.
#[derive(Debug, Default)]
pub struct PluginSlot(Mutex<(Arc<PluginGauges>, Option<Arc<PluginGauges>>)>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plugins {
    /// none: the operator has no plugin
    pub active: Option<PluginReport>,
    pub companion: Option<PluginReport>,
}

impl PluginSlot {
    pub fn set(&self, active: &Arc<PluginGauges>, beside: Option<&Arc<PluginGauges>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Arc::clone(active), beside.cloned());
    }

    fn plugins(&self) -> Plugins {
        let (active, beside) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let named = |gauges: Arc<PluginGauges>| (!gauges.of.name.is_empty()).then(|| gauges.report());
        Plugins { active: named(active), companion: beside.and_then(named) }
    }
}

/// Everything that the tasks of a run publish.
#[derive(Debug)]
pub struct Status {
    pub started: Instant,
    /// the intake is held back: too many commits wait for the catalog
    pub paused: Arc<AtomicBool>,
    pub memory: Arc<Memory>,
    sources: Mutex<BTreeMap<Arc<str>, SourceStatus>>,
    operators: Mutex<BTreeMap<Arc<str>, Vec<Arc<OperatorStatus>>>>,
    plugins: Mutex<BTreeMap<Arc<str>, Vec<Arc<PluginSlot>>>>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            paused: Arc::default(),
            memory: Arc::default(),
            sources: Mutex::default(),
            operators: Mutex::default(),
            plugins: Mutex::default(),
        }
    }
}

impl Status {
    /// The run's steady clock.
    pub fn now_ms(&self) -> i64 {
        elapsed_ms(self.started)
    }

    /// The next task of an operator. `inputs`: the node behind each of its queues.
    pub fn operator(&self, node: &Arc<str>, inputs: Vec<Arc<str>>, restored_ms: Option<i64>) -> Arc<OperatorStatus> {
        let watermark = Watermark { time_ms: restored_ms, idle: false };
        let report = OperatorReport { watermark, stands_since_at_ms: self.now_ms(), ..OperatorReport::default() };
        let status = Arc::new(OperatorStatus { started: self.started, inputs, report: Mutex::new(report) });
        let mut operators = self.operators.lock().unwrap_or_else(PoisonError::into_inner);
        operators.entry(Arc::clone(node)).or_default().push(Arc::clone(&status));
        status
    }

    /// The plugin of the next task of an operator.
    pub fn plugin(&self, node: &Arc<str>) -> Arc<PluginSlot> {
        let slot = Arc::<PluginSlot>::default();
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.entry(Arc::clone(node)).or_default().push(Arc::clone(&slot));
        slot
    }

    /// By operator, what each of its tasks says of its plugins.
    pub fn plugins(&self) -> BTreeMap<Arc<str>, Vec<Plugins>> {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.iter().map(|(name, slots)| (Arc::clone(name), slots.iter().map(|s| s.plugins()).collect())).collect()
    }

    pub fn source(&self, node: &Arc<str>, source: SourceStatus) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(node), source);
    }

    pub fn sources(&self) -> BTreeMap<Arc<str>, SourceStatus> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// By operator, what each of its tasks says.
    pub fn operators(&self) -> BTreeMap<Arc<str>, Vec<TaskReport>> {
        let operators = self.operators.lock().unwrap_or_else(PoisonError::into_inner);
        let reports = |tasks: &Vec<Arc<OperatorStatus>>| tasks.iter().map(|t| (t.inputs.clone(), t.report())).collect();
        operators.iter().map(|(name, tasks)| (Arc::clone(name), reports(tasks))).collect()
    }
}

pub fn elapsed_ms(started: Instant) -> i64 {
    i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX)
}
