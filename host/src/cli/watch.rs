//! `millrace run --watch`: a plugin's file that changes is swapped in, for whoever writes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use millrace_core::swap::SwapRecord;
use sha2::{Digest as _, Sha256};

use crate::runtime::control::{Control, Refused, SwapRequest};
use crate::runtime::controller::phase_name;
use crate::spec::model::Pipeline;

/// How often files are looked at; one that is still being written has another size or time at the next look.
const LOOK_EVERY: Duration = Duration::from_millis(300);

struct Watched {
    operator: String,
    path: PathBuf,
    seen: Option<(SystemTime, u64)>,
    digest: Vec<u8>,
    /// it has changed since, and was not taken yet
    is_new: bool,
}

/// Looks until the process ends.
pub fn start(pipeline: &Pipeline, control: Arc<dyn Control>) -> std::io::Result<()> {
    let watched = pipeline.plugin_nodes().filter_map(|(operator, plugin)| {
        let path = pipeline.plugins.get(plugin)?.path.clone();
        let digest = std::fs::read(&path).map(|bytes| Sha256::digest(bytes).to_vec()).unwrap_or_default();
        Some(Watched { operator: operator.to_owned(), seen: stamp(&path), path, digest, is_new: false })
    });
    let mut watched: Vec<Watched> = watched.collect();
    for one in &watched {
        eprintln!("watching {} for `{}`", one.path.display(), one.operator);
    }
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            for one in &mut watched {
                one.look(&*control);
            }
        }
    })?;
    Ok(())
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

impl Watched {
    fn look(&mut self, control: &dyn Control) {
        let now = stamp(&self.path);
        if now != self.seen {
            // it may not be complete yet
            (self.seen, self.is_new) = (now, true);
            return;
        }
        if !self.is_new {
            return;
        }
        let Ok(bytes) = std::fs::read(&self.path) else { return };
        let digest = Sha256::digest(&bytes).to_vec();
        self.is_new = false;
        if digest == self.digest {
            return;
        }
        let request = SwapRequest {
            operator: self.operator.clone(),
            bytes: Some(bytes),
            by: "--watch".to_owned(),
            ..SwapRequest::default()
        };
        match control.swap(request) {
            Ok(record) => {
                self.digest = digest;
                say(&follow(control, record));
            }
            // once the other change is over
            Err(Refused::Conflict(_)) => self.is_new = true,
            Err(refused) => {
                self.digest = digest;
                eprintln!("{} has changed, and is not swapped in: {}", self.path.display(), refused.message());
            }
        }
    }
}

fn follow(control: &dyn Control, begun: SwapRecord) -> SwapRecord {
    let mut record = begun;
    while !record.phase.is_active() && !record.phase.is_over() {
        std::thread::sleep(LOOK_EVERY);
        match control.swaps().into_iter().find(|r| r.id == record.id) {
            Some(now) => record = now,
            None => break,
        }
    }
    record
}

fn say(record: &SwapRecord) {
    let to = &record.to;
    let pause = record.pause_us.map(|us| format!(", pause {:.1} ms", us as f64 / 1_000.0)).unwrap_or_default();
    let reason = record.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    eprintln!(
        "`{}`: {} {} ({}) is swapped in: {}{pause}{reason}",
        record.operator,
        to.name,
        to.version,
        to.sha256.get(..12).unwrap_or_default(),
        phase_name(record.phase)
    );
}
