//! `[pipeline]`, `[checkpoint]`, `[state]`, `[swap]`, `[errors]`.

use std::num::NonZero;

use millrace_core::limits::{PLUGIN_VERSIONS_KEPT, PLUGIN_VERSIONS_KEPT_MAX};

use crate::spec::cursor::{Cursor, Word, is_name};
use crate::spec::model::{Backend, CheckpointSpec, ErrorsSpec, Location, OnError, StateSpec, SwapSpec, TimeSpec};
use crate::spec::paths;

const DAY_MS: u64 = 86_400_000;
/// There are 128 key groups, and a worker without one would have nothing to do.
const PARALLELISM_MAX: usize = 128;
const NAME_CHARS_MAX: usize = 100;

const CHECKPOINT_INTERVAL_MS: u64 = 30_000;
const CHECKPOINT_TIMEOUT_MS: u64 = 600_000;
const CHECKPOINTS_RETAINED: usize = 3;
const PROBATION_MS: u64 = 300_000;
const MEMORY_LIMIT_BYTES: u64 = 2 << 30;
const MEMORY_LIMIT_BYTES_MIN: u64 = 16 << 20;
const CONSECUTIVE_ERRORS_MAX: u64 = 100;

/// What holds for the whole pipeline.
#[derive(Debug)]
pub struct Head {
    /// none if it is missing or wrong
    pub name: Option<String>,
    pub parallelism: usize,
    pub time: TimeSpec,
    pub checkpoint: CheckpointSpec,
    pub state: StateSpec,
    pub swap: SwapSpec,
    pub errors: ErrorsSpec,
}

pub fn read(root: &Cursor<'_>) -> Head {
    let (name, parallelism, time) =
        root.required("pipeline", |c, key| c.table(key, "`[pipeline]`")).map_or((None, None, None), |c| {
            let name = c.required("name", Cursor::string).filter(|name| {
                let right = is_name(name) && name.len() <= NAME_CHARS_MAX;
                if !right {
                    c.wrong(
                        &["name"],
                        format!("`{name}` cannot be a pipeline's name"),
                        format!("names are made of A-Z, a-z, 0-9, `_` and `-`, {NAME_CHARS_MAX} at most"),
                    );
                }
                right
            });
            let parallelism = c.integer("parallelism", 1..=i64::try_from(PARALLELISM_MAX).unwrap_or(i64::MAX));
            let times = [("event", Word::Now(TimeSpec::Event)), ("processing", Word::Now(TimeSpec::Processing))];
            let time = c.choice("time", &times);
            c.finish();
            (name, parallelism, time)
        });
    let parallelism = parallelism
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get).min(PARALLELISM_MAX));
    let checkpoint = checkpoint(root, name.as_deref().unwrap_or("pipeline"));
    let errors = errors(root, &checkpoint.location);
    let state = state(root, name.as_deref().unwrap_or("pipeline"), &checkpoint.location);
    let swap = swap(root);
    Head { name, parallelism, time: time.unwrap_or(TimeSpec::Event), checkpoint, state, swap, errors }
}

fn checkpoint(root: &Cursor<'_>, pipeline: &str) -> CheckpointSpec {
    let default = CheckpointSpec {
        interval_ms: CHECKPOINT_INTERVAL_MS,
        location: Location::Local(paths::absolute(&root.doc.dir, &format!("state/{pipeline}"))),
        retain: CHECKPOINTS_RETAINED,
        timeout_ms: CHECKPOINT_TIMEOUT_MS,
        min_pause_ms: 0,
        tolerated_failures: 0,
    };
    let Some(c) = root.table("checkpoint", "`[checkpoint]`") else { return default };
    let location = c.string("location").and_then(|text| match paths::location(&c.doc.dir, &text) {
        Ok(location) => Some(location),
        Err(bad) => {
            c.wrong(&["location"], bad.message, bad.hint);
            None
        }
    });
    let mut spec = CheckpointSpec {
        interval_ms: c.duration_ms("interval", 10..=DAY_MS).unwrap_or(default.interval_ms),
        location: location.unwrap_or(default.location),
        retain: c.integer("retain", 1..=10_000).unwrap_or(default.retain),
        timeout_ms: c.duration_ms("timeout", 1_000..=DAY_MS).unwrap_or(default.timeout_ms),
        min_pause_ms: c.duration_ms("min_pause", 0..=DAY_MS).unwrap_or(default.min_pause_ms),
        tolerated_failures: c.integer("tolerated_failures", 0..=1_000_000).unwrap_or(default.tolerated_failures),
    };
    let given = c.string_map("properties");
    match &mut spec.location {
        Location::ObjectStore { properties, .. } => *properties = given,
        Location::Local(_) if !given.is_empty() => c.wrong(
            &["properties"],
            "a folder takes no properties",
            "they belong to an object store: `location = \"s3://bucket/prefix\"`",
        ),
        Location::Local(_) => {}
    }
    c.finish();
    spec
}

fn state(root: &Cursor<'_>, pipeline: &str, checkpoints: &Location) -> StateSpec {
    let default = StateSpec { memory_limit_bytes: MEMORY_LIMIT_BYTES, backend: Backend::Memory };
    let Some(c) = root.table("state", "`[state]`") else { return default };
    let disk = c.choice("backend", &[("memory", Word::Now(false)), ("disk", Word::Now(true))]).unwrap_or(false);
    let limit = c.size_bytes("memory_limit", MEMORY_LIMIT_BYTES_MIN..=1 << 50);
    let path = c.string("path").and_then(|path| match paths::scheme(&path) {
        None => Some(paths::absolute(&c.doc.dir, &path)),
        Some(scheme) => {
            c.wrong(&["path"], format!("`{scheme}:` is not supported here"), "name a folder on a local disk");
            None
        }
    });
    if path.is_some() && !disk {
        c.wrong(&["path"], "only the disk backend has a `path`", "take it out, or write `backend = \"disk\"`");
    }
    c.finish();
    let beside = || match checkpoints {
        Location::Local(folder) => folder.join("spill"),
        Location::ObjectStore { .. } => std::env::temp_dir().join(format!("millrace-{pipeline}")),
    };
    let backend = if disk { Backend::Disk { path: path.unwrap_or_else(beside) } } else { Backend::Memory };
    StateSpec { memory_limit_bytes: limit.unwrap_or(default.memory_limit_bytes), backend }
}

fn swap(root: &Cursor<'_>) -> SwapSpec {
    let default = SwapSpec { probation_ms: PROBATION_MS, versions_kept: PLUGIN_VERSIONS_KEPT };
    let Some(c) = root.table("swap", "`[swap]`") else { return default };
    let kept_max = i64::try_from(PLUGIN_VERSIONS_KEPT_MAX).unwrap_or(i64::MAX);
    let spec = SwapSpec {
        probation_ms: c.duration_ms("probation", 0..=30 * DAY_MS).unwrap_or(default.probation_ms),
        versions_kept: c.integer("versions_kept", 1..=kept_max).unwrap_or(default.versions_kept),
    };
    c.finish();
    spec
}

fn errors(root: &Cursor<'_>, checkpoints: &Location) -> ErrorsSpec {
    let captures = match checkpoints {
        Location::Local(folder) => Some(folder.join("captures")),
        Location::ObjectStore { .. } => None,
    };
    let default = ErrorsSpec { on_error: OnError::Fail, consecutive_limit: CONSECUTIVE_ERRORS_MAX, captures };
    let Some(c) = root.table("errors", "`[errors]`") else { return default };
    let captures = c.string("captures").and_then(|path| match paths::scheme(&path) {
        None => Some(paths::absolute(&c.doc.dir, &path)),
        Some(scheme) => {
            c.wrong(&["captures"], format!("`{scheme}:` is not supported here"), "name a folder");
            None
        }
    });
    let spec = ErrorsSpec {
        on_error: on_error(&c).unwrap_or(default.on_error),
        consecutive_limit: consecutive_limit(&c).unwrap_or(default.consecutive_limit),
        captures: captures.or(default.captures),
    };
    c.finish();
    spec
}

pub fn on_error(c: &Cursor<'_>) -> Option<OnError> {
    c.choice(
        "on_error",
        &[
            ("fail", Word::Now(OnError::Fail)),
            ("dead-letter", Word::Now(OnError::DeadLetter)),
            ("skip", Word::Now(OnError::Skip)),
        ],
    )
}

pub fn consecutive_limit(c: &Cursor<'_>) -> Option<u64> {
    c.integer("consecutive_limit", 1..=i64::MAX)
}
