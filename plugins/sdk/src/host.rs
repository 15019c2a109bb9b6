//! What a plugin may call: `log` and `count`. Natively the log goes to stderr and counters go nowhere, since no host
//! listens; a test that wants to see them builds the component.

/// How serious a log record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Writes a record to the host's log. Not per row: the host keeps a bounded number of records a call.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::guest::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("[plugin {level:?}] {message}");
}

/// Adds to a counter that is shown with the plugin's metrics.
pub fn count(name: &str, by: u64) {
    #[cfg(target_arch = "wasm32")]
    crate::guest::count(name, by);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (name, by);
}
