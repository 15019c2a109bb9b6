//! What one plugin may use, and every bound of the plugin host. A plugin is somebody else's code: nothing it asks for
//! (memory, time, results, log lines, counters) is without a limit here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Linear memory of one instance, all its memories together.
pub const MEMORY_BYTES_DEFAULT: u64 = 512 << 20;

/// Longest that one call may run.
pub const CALL_DEADLINE_DEFAULT: Duration = Duration::from_secs(1);

/// Longest that instantiation, `info` and `open` may run each: an interpreter inside a plugin has to start first.
pub const STARTUP_DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// Bytes that one call may hand to the host (results, or arguments of a host function).
pub const RESULT_BYTES_MAX_DEFAULT: usize = 64 << 20;

/// Rows of state that one `migrate` gets: a set that becomes a sketch takes 4 KiB, far more than it had.
pub const MIGRATE_ROWS_MAX: usize = 4_096;

/// Bytes of strings that one dictionary-encoded result column may stand for.
pub const UNPACKED_BYTES_MAX: u64 = 256 << 20;

/// Step of the clock that ends calls which run too long.
pub const EPOCH_TICK_MS: u64 = 10;

/// Stack of the guest's functions.
pub const WASM_STACK_BYTES_MAX: usize = 512 << 10;

/// Elements of all the tables of one instance.
pub const TABLE_ELEMENTS_MAX: usize = 1 << 20;

/// Core instances, memories and tables of one component instance (an adapter or an interpreter brings a few).
pub const CORE_ITEMS_MAX: usize = 64;

/// WASI handles (streams, pollables, …) that one instance may hold.
pub const WASI_HANDLES_MAX: usize = 1_024;

/// Bytes that one WASI call may write to stdout or stderr.
pub const WASI_WRITE_BYTES_MAX: usize = 64 << 10;

/// Random bytes that one WASI call may ask for.
pub const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// Size of a plugin's file.
pub const ARTIFACT_BYTES_MAX: u64 = 64 << 20;

/// What the process that compiles a plugin may take: address space, and processor time of all its threads.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 4 << 30;
pub const COMPILE_CPU_SECONDS_MAX: u64 = 180;

/// Threads of that process: each reserves address space.
pub const COMPILE_THREADS_MAX: usize = 4;

/// Machine code of one plugin.
pub const COMPILED_BYTES_MAX: usize = 512 << 20;

/// Columns in one signature, each for input, state and output.
pub const SIGNATURE_COLUMNS_MAX: usize = 1_024;

/// Compiled plugins kept in the cache directory; the oldest leave first.
pub const CACHE_ENTRIES_MAX: usize = 64;

/// Messages kept per instance, to be shown with the error when it fails.
pub const LOG_RING_MESSAGES_MAX: usize = 32;

/// Longest log message, reason or error text taken from a plugin; the rest is cut off.
pub const TEXT_BYTES_MAX: usize = 4 << 10;

/// Log messages that one instance may send on per second, and how many seconds' worth of them at once.
pub const LOG_MESSAGES_PER_SECOND_DEFAULT: u32 = 20;
pub const LOG_BURST_SECONDS: u32 = 5;

/// Different counters of one instance; further names are added up under [`COUNTER_OTHER`].
pub const COUNTERS_MAX: usize = 64;
pub const COUNTER_NAME_BYTES_MAX: usize = 128;
pub const COUNTER_OTHER: &str = "other";

/// What a plugin may have of the real world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// the machine's clocks; without it time stands still
    pub clock: bool,
    /// the machine's randomness; without it every instance sees the same numbers
    pub random: bool,
}

impl Capabilities {
    /// Is this `wasi:` import linked to something that does nothing real?
    pub fn leaves_inert(self, import: &str) -> bool {
        let granted =
            (self.clock && import.starts_with("wasi:clocks/")) || (self.random && import.starts_with("wasi:random/"));
        !granted
    }
}

/// The limits of one plugin, from its `[plugins.NAME]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginLimits {
    pub memory_bytes: u64,
    /// longest that one call may run
    pub deadline: Duration,
    /// the same for instantiation, `info` and `open`
    pub startup_deadline: Duration,
    pub result_bytes_max: usize,
    /// 0: none of its messages are passed on
    pub log_messages_per_second: u32,
    pub capabilities: Capabilities,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_BYTES_DEFAULT,
            deadline: CALL_DEADLINE_DEFAULT,
            startup_deadline: STARTUP_DEADLINE_DEFAULT,
            result_bytes_max: RESULT_BYTES_MAX_DEFAULT,
            log_messages_per_second: LOG_MESSAGES_PER_SECOND_DEFAULT,
            capabilities: Capabilities::default(),
        }
    }
}

/// Cuts a text from a plugin at `bytes_max`, on a character boundary.
pub(super) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, cut};

    #[test]
    fn a_capability_makes_its_imports_real() {
        let imports = ["wasi:clocks/wall-clock@0.2.0", "wasi:random/random@0.2.0", "wasi:cli/stdin@0.2.0"];
        let inert = |clock, random| imports.map(|i| Capabilities { clock, random }.leaves_inert(i));
        assert_eq!(inert(false, false), [true; 3]);
        assert_eq!(inert(true, false), [false, true, true]);
        assert_eq!(inert(false, true), [true, false, true]);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("héllo".to_owned(), 2), "h…");
        assert_eq!(cut("héllo".to_owned(), 3), "hé…");
        assert_eq!(cut("héllo".to_owned(), 6), "héllo");
    }
}
