//! `[plugins.NAME]`: where the component is, and what it may use.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::plugin::PluginLimits;
use crate::spec::cursor::Cursor;
use crate::spec::model::PluginSpec;
use crate::spec::{paths, suggest};

const HOUR_MS: u64 = 3_600_000;
/// A page of linear memory.
const MEMORY_BYTES_MIN: u64 = 64 << 10;
/// 32-bit linear memory has no more.
const MEMORY_BYTES_MAX: u64 = 4 << 30;
/// Less would not hold one chunk of state.
const RESULT_BYTES_MIN: u64 = 1 << 20;
const RESULT_BYTES_MAX: u64 = 1 << 30;
const LOG_RATE_MAX: i64 = 10_000;
const CAPABILITIES: [&str; 2] = ["clock", "random"];

pub fn read(c: &Cursor<'_>) -> Option<PluginSpec> {
    let path = c.required("path", Cursor::string).map(|path| paths::absolute(&c.doc.dir, &path));
    let memory_bytes = c.size_bytes("memory", MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX);
    let default = PluginLimits::default();
    let duration_ms = |key, default: Duration| {
        let asked = c.duration_ms(key, 1..=HOUR_MS);
        asked.unwrap_or_else(|| u64::try_from(default.as_millis()).unwrap_or(HOUR_MS))
    };
    let deadline_ms = duration_ms("deadline", default.deadline);
    let startup_deadline_ms = duration_ms("startup_deadline", default.startup_deadline);
    let result_bytes = c.size_bytes("result_size", RESULT_BYTES_MIN..=RESULT_BYTES_MAX);
    let result_bytes =
        result_bytes.or_else(|| u64::try_from(default.result_bytes_max).ok()).unwrap_or(RESULT_BYTES_MAX);
    let log_rate = c.integer("log_rate", 0..=LOG_RATE_MAX).unwrap_or(default.log_messages_per_second);
    let capabilities = c.strings("capabilities").unwrap_or_default();
    for (index, capability) in capabilities.iter().enumerate() {
        if !CAPABILITIES.contains(&capability.as_str()) {
            let hint = suggest::did_you_mean(capability, CAPABILITIES).unwrap_or_default();
            c.wrong(&["capabilities", &index.to_string()], format!("unknown capability `{capability}`"), hint);
        }
    }
    let sha256 = c.string("sha256").map(|pin| pin.to_ascii_lowercase()).filter(|pin| {
        let right = pin.len() == 64 && pin.chars().all(|c| c.is_ascii_hexdigit());
        if !right {
            c.wrong(&["sha256"], "this is not a SHA-256", "it has 64 hexadecimal digits: `sha256sum FILE` prints it");
        }
        right
    });
    c.finish();
    let path = path?;
    check_file(c, &path, sha256.as_deref())?;
    Some(PluginSpec {
        path,
        memory_bytes,
        capabilities,
        deadline_ms,
        startup_deadline_ms,
        result_bytes,
        log_rate,
        sha256,
    })
}

fn check_file(c: &Cursor<'_>, path: &Path, pin: Option<&str>) -> Option<()> {
    match std::fs::metadata(path) {
        Ok(file) if file.is_file() => {}
        Ok(_) => {
            c.wrong(&["path"], format!("{} is not a file", shown(path)), "`path` names the plugin's .wasm file");
            return None;
        }
        Err(error) => {
            c.wrong(
                &["path"],
                format!("there is no plugin at {}: {}", shown(path), reason(&error)),
                "build it: `millrace plugin build DIR` (this repository's own: `cargo xtask plugins`)",
            );
            return None;
        }
    }
    let Some(pin) = pin else { return Some(()) };
    match digest(path) {
        Ok(found) if found == pin => Some(()),
        Ok(found) => {
            c.wrong(
                &["sha256"],
                format!("{} is not the file that is pinned", shown(path)),
                format!("its SHA-256 is {found}: correct the pin if this is the plugin you mean"),
            );
            None
        }
        Err(error) => {
            c.wrong(&["path"], format!("cannot read {}: {}", shown(path), reason(&error)), "check its permissions");
            None
        }
    }
}

/// Lower-case hex SHA-256 of a file.
fn digest(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
        // writing to a string cannot fail
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

/// The file's name and the folder above it: enough to find it, and the same on every machine.
fn shown(path: &Path) -> String {
    let mut last: Vec<_> = path.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
    last.reverse();
    format!("`…/{}`", last.join("/"))
}

/// The system's reason without its number.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
