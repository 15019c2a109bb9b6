//! Versions of plugins to swap for one another: `plugins/swap-guests`, built once.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::paths;

/// The component of a version (`v1`, `trap_later`, …: the table in `plugins/swap-guests/src/lib.rs`).
pub fn swap_counts(version: &str) -> Result<PathBuf> {
    component(&format!("swap_counts_{version}"))
}

/// The same of a transform: the table in `plugins/swap-guests/src/stamps.rs`.
pub fn swap_stamps(version: &str) -> Result<PathBuf> {
    component(&format!("swap_stamps_{version}"))
}

fn component(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let folder = BUILT.get_or_init(|| build().map_err(|e| format!("{e:#}")));
    let folder = folder.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
    let path = folder.join(format!("{name}.wasm"));
    ensure!(path.is_file(), "there is no component {name}");
    Ok(path)
}

fn build() -> Result<PathBuf> {
    // beside the host tests' guests: the SDK is built already
    let target = paths::target().join("test-guests");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--target", "wasm32-unknown-unknown", "-p", "millrace-swap-guests"])
        .args(["--examples", "--target-dir"])
        .arg(&target)
        .current_dir(paths::workspace())
        .env_remove("RUSTFLAGS")
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "the versions of the plugins do not build");
    Ok(target.join("wasm32-unknown-unknown/release/examples"))
}
