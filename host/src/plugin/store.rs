//! What the host keeps per plugin instance while guest code runs: the memory meter, the last log messages, counters.
//! All that a guest can call of the host is implemented here; it reaches nothing else.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use wasmtime::ResourceLimiter;

use super::bindings::{host, types};
use super::limits::{
    CORE_ITEMS_MAX, COUNTER_NAME_BYTES_MAX, COUNTER_OTHER, COUNTERS_MAX, LOG_BURST_SECONDS, LOG_RING_MESSAGES_MAX,
    PluginLimits, TABLE_ELEMENTS_MAX, TEXT_BYTES_MAX, cut,
};
use super::wasi::Wasi;

/// The data of one instance's `Store`.
pub(super) struct HostState {
    pub(super) meter: Meter,
    pub(super) counters: Counters,
    pub(super) wasi: Wasi,
    /// shared with the streams that the guest has opened
    log: Arc<Mutex<GuestLog>>,
}

impl HostState {
    pub(super) fn new(plugin: &str, limits: &PluginLimits) -> Self {
        let log = Arc::new(Mutex::new(GuestLog::new(plugin, limits.log_messages_per_second)));
        Self {
            meter: Meter {
                memory_bytes: 0,
                memory_bytes_max: usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX),
                table_elements: 0,
            },
            counters: Counters::default(),
            wasi: Wasi::new(&log, limits.capabilities),
            log,
        }
    }

    pub(super) fn guest_log(&self) -> MutexGuard<'_, GuestLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest asked for more than its limit. Raised as an error (a trap) and not as a failed `memory.grow`, which most
/// guests turn into an "unreachable" that says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LimitReached {
    #[error("out of memory: it asked for {} of linear memory, its limit is {} (raise `memory` of the \
             plugin or `memory_limit` of the pipeline if it needs more)", mebibytes(*.wanted), mebibytes(*.limit))]
    Memory { wanted: usize, limit: usize },
    #[error("its tables would have {wanted} elements, at most {TABLE_ELEMENTS_MAX} are possible")]
    Table { wanted: usize },
}

fn mebibytes(bytes: usize) -> String {
    match bytes {
        b if b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b => format!("{b} bytes ({} MiB)", b >> 20),
    }
}

/// Adds up all memories and tables of the instance.
pub(super) struct Meter {
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
}

impl Meter {
    pub(super) fn memory_bytes(&self) -> u64 {
        u64::try_from(self.memory_bytes).unwrap_or(u64::MAX)
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_bytes_max {
            return Err(wasmtime::Error::new(LimitReached::Memory { wanted, limit: self.memory_bytes_max }));
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.table_elements.saturating_add(desired.saturating_sub(current));
        if wanted > TABLE_ELEMENTS_MAX {
            return Err(wasmtime::Error::new(LimitReached::Table { wanted }));
        }
        self.table_elements = wanted;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn instances(&self) -> usize {
        CORE_ITEMS_MAX
    }

    fn tables(&self) -> usize {
        CORE_ITEMS_MAX
    }

    fn memories(&self) -> usize {
        CORE_ITEMS_MAX
    }
}

/// A stream of the guest's.
#[derive(Clone, Copy)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

/// Messages of one instance: passed on to the host's log at a limited rate, the last ones kept for its error.
pub(super) struct GuestLog {
    plugin: String,
    ring: VecDeque<(host::Level, String)>,
    per_second: u32,
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
    /// lines that have not ended yet
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl GuestLog {
    fn new(plugin: &str, per_second: u32) -> Self {
        Self {
            plugin: plugin.to_owned(),
            ring: VecDeque::new(),
            per_second,
            tokens: per_second.saturating_mul(LOG_BURST_SECONDS),
            refilled: Instant::now(),
            suppressed: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Each line is a message.
    pub(super) fn print(&mut self, output: Output, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n");
            let line = match output {
                Output::Stdout => &mut self.stdout,
                Output::Stderr => &mut self.stderr,
            };
            // One byte too many, so that it is seen to be cut.
            let room = (TEXT_BYTES_MAX + 1).saturating_sub(line.len());
            line.extend(text.unwrap_or(part).iter().take(room));
            if text.is_some() {
                self.end_line(output);
            }
        }
    }

    fn end_line(&mut self, output: Output) {
        let (line, level) = match output {
            Output::Stdout => (std::mem::take(&mut self.stdout), host::Level::Info),
            Output::Stderr => (std::mem::take(&mut self.stderr), host::Level::Error),
        };
        if !line.is_empty() {
            self.push(level, String::from_utf8_lossy(&line).into_owned());
        }
    }

    /// The guest is dead: what it had begun to say is all that there will be.
    pub(super) fn end_lines(&mut self) {
        self.end_line(Output::Stdout);
        self.end_line(Output::Stderr);
    }

    fn push(&mut self, level: host::Level, message: String) {
        let message = cut(message, TEXT_BYTES_MAX);
        if self.admit(Instant::now()) {
            let plugin = self.plugin.as_str();
            if self.suppressed > 0 {
                tracing::warn!(
                    plugin,
                    suppressed = self.suppressed,
                    "plugin log messages were left out: more than `log_rate` allows"
                );
                self.suppressed = 0;
            }
            match level {
                host::Level::Debug => tracing::debug!(plugin, "{message}"),
                host::Level::Info => tracing::info!(plugin, "{message}"),
                // An error of a plugin that goes on is a warning to the operator: nothing of the host's is lost.
                host::Level::Warn | host::Level::Error => tracing::warn!(plugin, "{message}"),
            }
        } else {
            self.suppressed += 1;
        }
        if self.ring.len() == LOG_RING_MESSAGES_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back((level, message));
    }

    /// Token bucket.
    fn admit(&mut self, now: Instant) -> bool {
        let elapsed_ms = now.saturating_duration_since(self.refilled).as_millis();
        let earned = elapsed_ms.saturating_mul(u128::from(self.per_second)) / 1_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(self.per_second.saturating_mul(LOG_BURST_SECONDS));
            self.refilled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }

    /// The last messages, oldest first, as `level: text`.
    pub(super) fn last(&self) -> Vec<String> {
        let name = |level| match level {
            host::Level::Debug => "debug",
            host::Level::Info => "info",
            host::Level::Warn => "warn",
            host::Level::Error => "error",
        };
        self.ring.iter().map(|(level, text)| format!("{}: {text}", name(*level))).collect()
    }

    /// The last thing it said, if that was an error: after a trap this is the panic's text.
    pub(super) fn last_error(&self) -> Option<&str> {
        match self.ring.back() {
            Some((host::Level::Error, text)) => Some(text),
            _ => None,
        }
    }
}

/// Counters that the guest adds to, until the host takes them.
#[derive(Default)]
pub(super) struct Counters {
    by_name: std::collections::BTreeMap<String, u64>,
}

impl Counters {
    fn add(&mut self, name: String, by: u64) {
        let known = self.by_name.contains_key(&name);
        let fits = name.len() <= COUNTER_NAME_BYTES_MAX && self.by_name.len() < COUNTERS_MAX;
        let name = if known || fits { name } else { COUNTER_OTHER.to_owned() };
        let value = self.by_name.entry(name).or_default();
        *value = value.saturating_add(by);
    }

    /// What was counted since the last call. The names stay known, so that there are never more of them.
    pub(super) fn take(&mut self) -> Vec<(String, u64)> {
        let counted = self.by_name.iter_mut().filter(|(_, value)| **value > 0);
        counted.map(|(name, value)| (name.clone(), std::mem::take(value))).collect()
    }
}

impl types::Host for HostState {}

impl host::Host for HostState {
    fn log(&mut self, level: host::Level, message: String) {
        self.guest_log().push(level, message);
    }

    fn count(&mut self, name: String, by: u64) {
        self.counters.add(name, by);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_memories_of_an_instance_are_added_up() {
        let limits = PluginLimits { memory_bytes: 300, ..PluginLimits::default() };
        let mut meter = HostState::new("p", &limits).meter;
        assert!(meter.memory_growing(0, 200, None).unwrap());
        assert!(meter.memory_growing(0, 50, None).unwrap());
        assert!(meter.memory_growing(200, 250, None).unwrap());
        assert_eq!(meter.memory_bytes(), 300);
        let error = meter.memory_growing(50, 51, None).unwrap_err();
        assert!(error.downcast_ref::<LimitReached>().is_some(), "{error}");
        assert_eq!(meter.memory_bytes(), 300);
    }

    #[test]
    fn log_rate_is_limited_and_recovers() {
        let mut log = GuestLog::new("p", 20);
        let start = log.refilled;
        let burst = (0..1_000).filter(|_| log.admit(start)).count();
        assert_eq!(burst, 100);
        let later = start + Duration::from_millis(500);
        let more = (0..1_000).filter(|_| log.admit(later)).count();
        assert_eq!(more, 10);
        let mut silent = GuestLog::new("p", 0);
        assert!(!silent.admit(start + Duration::from_secs(100)));
    }

    #[test]
    fn lines_are_put_together_and_cut() {
        let mut log = GuestLog::new("p", 20);
        log.print(Output::Stdout, b"one\ntw");
        log.print(Output::Stderr, b"half");
        log.print(Output::Stdout, b"o\n\n\xff!\n");
        assert_eq!(log.last(), ["info: one", "info: two", "info: \u{fffd}!"]);
        for _ in 0..100 {
            log.print(Output::Stdout, &[b'x'; 1_000]);
        }
        assert_eq!(log.stdout.len(), TEXT_BYTES_MAX + 1);
        log.end_lines();
        assert_eq!(log.last()[3], format!("info: {}…", "x".repeat(TEXT_BYTES_MAX)));
        assert_eq!(log.last_error(), Some("half"));
    }

    #[test]
    fn the_ring_keeps_the_last_messages() {
        let mut log = GuestLog::new("p", 20);
        for i in 0..100 {
            log.push(host::Level::Info, format!("m{i}"));
        }
        assert_eq!(log.last().len(), LOG_RING_MESSAGES_MAX);
        assert_eq!(log.last().last().unwrap(), "info: m99");
        assert_eq!(log.last_error(), None);
        log.push(host::Level::Error, "boom".to_owned());
        assert_eq!(log.last_error(), Some("boom"));
    }

    #[test]
    fn counters_are_bounded_and_nothing_counted_is_lost() {
        let mut counters = Counters::default();
        for i in 0..200 {
            counters.add(format!("c{i}"), 1);
        }
        let taken = counters.take();
        assert!(taken.len() <= COUNTERS_MAX + 1, "{}", taken.len());
        assert_eq!(taken.iter().map(|(_, v)| v).sum::<u64>(), 200);
        assert!(counters.take().is_empty());
        counters.add("c0".to_owned(), u64::MAX);
        counters.add("c0".to_owned(), 5);
        assert_eq!(counters.take(), [("c0".to_owned(), u64::MAX)]);
    }
}
