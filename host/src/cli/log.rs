//! The log, on standard error. Once a pipeline file has been read, no line of it holds one of the file's secrets, whoever
//! wrote the line: librdkafka, a plugin, an object store's client.

use std::io::{self, IsTerminal, Write};
use std::sync::{PoisonError, RwLock};

use crate::spec::redact;
use crate::spec::secrets::redactable;

/// Of all files that this process has read, the longest first.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// `MILLRACE_LOG` filters (`info`, `millrace=debug`, …).
pub fn start(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MILLRACE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Redacting)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// From now on.
pub fn never_say(secrets: impl IntoIterator<Item = String>) {
    let mut all = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    all.extend(redactable(secrets.into_iter()));
    all.sort_by_key(|form| std::cmp::Reverse(form.len()));
    all.dedup();
}

pub fn redacted(text: &str) -> String {
    redact(text, &SECRETS.read().unwrap_or_else(PoisonError::into_inner))
}

/// A line comes in one piece.
struct Redacting;

impl Write for Redacting {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(redacted(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
