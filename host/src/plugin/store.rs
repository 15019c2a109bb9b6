//! What the host keeps per plugin instance while guest code runs: the memory meter, the last log messages, counters.
//! All that a guest can call of the host is implemented here; it reaches nothing else.

use std::collections::VecDeque;
use std::time::Instant;

use wasmtime::ResourceLimiter;

use super::bindings::{host, types};
use super::limits::{
    CORE_ITEMS_MAX, COUNTER_NAME_BYTES_MAX, COUNTER_OTHER, COUNTERS_MAX, LOG_BURST_MESSAGES, LOG_MESSAGES_PER_SECOND,
    LOG_RING_MESSAGES_MAX, TABLE_ELEMENTS_MAX, TEXT_BYTES_MAX, cut,
};

/// The data of one instance's `Store`.
pub(super) struct HostState {
    pub(super) meter: Meter,
    pub(super) log: GuestLog,
    pub(super) counters: Counters,
}

impl HostState {
    pub(super) fn new(plugin: &str, memory_bytes_max: u64) -> Self {
        Self {
            meter: Meter {
                memory_bytes: 0,
                memory_bytes_max: usize::try_from(memory_bytes_max).unwrap_or(usize::MAX),
                table_elements: 0,
            },
            log: GuestLog::new(plugin),
            counters: Counters::default(),
        }
    }
}

/// The guest asked for more than its limit. Raised as an error (a trap) and not as a failed `memory.grow`, which most
/// guests turn into an "unreachable" that says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LimitReached {
    #[error("out of memory: it asked for {} of linear memory, its limit is {}", mebibytes(*.wanted), mebibytes(*.limit))]
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

/// Messages of one instance: passed on to the host's log at a limited rate, the last ones kept for its error.
pub(super) struct GuestLog {
    plugin: String,
    ring: VecDeque<(host::Level, String)>,
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl GuestLog {
    fn new(plugin: &str) -> Self {
        Self {
            plugin: plugin.to_owned(),
            ring: VecDeque::new(),
            tokens: LOG_BURST_MESSAGES,
            refilled: Instant::now(),
            suppressed: 0,
        }
    }

    fn push(&mut self, level: host::Level, message: String) {
        let message = cut(message, TEXT_BYTES_MAX);
        if self.admit(Instant::now()) {
            let plugin = self.plugin.as_str();
            if self.suppressed > 0 {
                tracing::warn!(plugin, suppressed = self.suppressed, "plugin log messages were left out: too many");
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
        let earned = elapsed_ms.saturating_mul(u128::from(LOG_MESSAGES_PER_SECOND)) / 1_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(LOG_BURST_MESSAGES);
            self.tokens = self.tokens.saturating_add(earned).min(LOG_BURST_MESSAGES);
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
        self.log.push(level, message);
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
        let mut meter = HostState::new("p", 300).meter;
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
        let mut log = GuestLog::new("p");
        let start = log.refilled;
        let burst = (0..1_000).filter(|_| log.admit(start)).count();
        assert_eq!(burst, LOG_BURST_MESSAGES as usize);
        let later = start + Duration::from_millis(500);
        let more = (0..1_000).filter(|_| log.admit(later)).count();
        assert_eq!(more, LOG_MESSAGES_PER_SECOND as usize / 2);
    }

    #[test]
    fn the_ring_keeps_the_last_messages() {
        let mut log = GuestLog::new("p");
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
