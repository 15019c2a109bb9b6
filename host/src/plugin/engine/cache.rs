//! Compiled plugins on disk. Machine code is run as it is, so an entry is used only if this user alone can write to the
//! directory and the entry still has the digest that was noted when it was written. Anything else: compile again.
//!
//! An entry is `SHA256-CONFIG.cwasm` (digest of the component; hash of the engine's version and settings) with
//! `SHA256-CONFIG.sha256` beside it. The cache is a convenience: no failure in here stops a pipeline.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::plugin::artifact::hex;
use crate::plugin::limits::CACHE_ENTRIES_MAX;

pub(super) struct Cache {
    dir: PathBuf,
    /// of the engine's version, target and settings
    config: u64,
}

impl Cache {
    /// None, with the reason in the log, if the directory cannot be had or others can write to it.
    pub(super) fn open(dir: &Path, engine: &Engine) -> Option<Self> {
        match prepare(dir) {
            Ok(()) => {
                let mut hasher = DefaultHasher::new();
                engine.precompile_compatibility_hash().hash(&mut hasher);
                Some(Self { dir: dir.to_owned(), config: hasher.finish() })
            }
            Err(e) => {
                tracing::warn!(dir = %dir.display(), "compiled plugins are not cached: {e}");
                None
            }
        }
    }

    fn paths(&self, component: &[u8]) -> (PathBuf, PathBuf) {
        let stem = format!("{}-{:016x}", hex(&Sha256::digest(component)), self.config);
        (self.dir.join(format!("{stem}.cwasm")), self.dir.join(format!("{stem}.sha256")))
    }

    pub(super) fn get(&self, engine: &Engine, component: &[u8]) -> Option<Component> {
        let (code_path, digest_path) = self.paths(component);
        let code = fs::read(&code_path).ok()?;
        let noted = fs::read_to_string(&digest_path).ok()?;
        if noted.trim() != hex(&Sha256::digest(&code)) {
            tracing::warn!(file = %code_path.display(), "cached plugin is damaged; compiling it again");
            return None;
        }
        // SAFETY: these are the bytes that `put` got from the compiler: they lie in a directory that only this user can
        // write to (checked in `prepare`), and have the digest that was noted with them. `put` replaces files and never
        // writes into one, so that the mapping stays as it is. An engine of another version or configuration is refused
        // by wasmtime itself.
        let loaded = unsafe { Component::deserialize_file(engine, &code_path) };
        loaded
            .inspect_err(
                |e| tracing::warn!(file = %code_path.display(), "cached plugin is not usable, compiling it again: {e}"),
            )
            .ok()
    }

    pub(super) fn put(&self, component: &[u8], code: &[u8]) {
        if let Err(e) = self.try_put(component, code) {
            tracing::warn!(dir = %self.dir.display(), "cannot keep a compiled plugin: {e}");
        }
    }

    fn try_put(&self, component: &[u8], code: &[u8]) -> io::Result<()> {
        let (code_path, digest_path) = self.paths(component);
        // A crash between the two leaves code without its digest, which `get` does not use.
        replace(&code_path, code)?;
        replace(&digest_path, hex(&Sha256::digest(code)).as_bytes())?;
        self.evict()
    }

    fn evict(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "cwasm") {
                let modified = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                entries.push((modified, path));
            }
        }
        entries.sort();
        for (_, path) in entries.iter().rev().skip(CACHE_ENTRIES_MAX) {
            fs::remove_file(path.with_extension("sha256"))?;
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Written beside and renamed, so that another process never reads half a file.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let unique = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{unique}.tmp", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(unix)]
fn prepare(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let metadata = fs::metadata(dir)?;
    // SAFETY: geteuid has no preconditions and cannot fail.
    let me = unsafe { libc::geteuid() };
    if metadata.uid() != me {
        return Err(io::Error::other("the directory belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others can write to the directory; `chmod go-w` it"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn prepare(_: &Path) -> io::Result<()> {
    Err(io::Error::other("only done on Unix, where it can be checked who may write to the directory"))
}
