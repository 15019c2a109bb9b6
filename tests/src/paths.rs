//! Where things are, and scratch folders that stay only when a test fails.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The program under test: `MILLRACE_BIN`, or what `cargo xtask build` made.
pub fn millrace() -> Result<PathBuf> {
    let path = std::env::var_os("MILLRACE_BIN").map_or_else(|| target().join("release/millrace"), PathBuf::from);
    ensure!(path.is_file(), "{} is not there: run `cargo xtask build`", path.display());
    Ok(path)
}

pub fn plugin() -> Result<PathBuf> {
    built_plugin("campaign_metrics")
}

/// One of those that `cargo xtask plugins` makes.
pub fn built_plugin(name: &str) -> Result<PathBuf> {
    let path = target().join(format!("plugins/{name}.wasm"));
    ensure!(path.is_file(), "{} is not there: run `cargo xtask build`", path.display());
    Ok(path)
}

/// A folder below `target/e2e`, removed at the end unless the test fails or `MILLRACE_KEEP` is set.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = target().join("e2e").join(unique);
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("MILLRACE_KEEP").is_some() {
            eprintln!("kept: {}", self.0.display());
        } else {
            // a folder that cannot be removed is no failure of the test
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// All files below a folder, in no order. A folder that is not there (yet) has none, and one that vanishes meanwhile
/// is no error.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => found.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    found
}

pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from)?);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(&file, &target).with_context(|| format!("copying {}", file.display()))?;
    }
    Ok(())
}
