//! The release binary and the plugins, built so that nothing is compiled twice: `test`, `demo` and `bench` all select
//! the same packages' features and the one optimised profile.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{needs, shell};

/// Package, the file cargo makes of it, and its name below `target/plugins`.
pub const PLUGINS: [(&str, &str); 3] = [
    ("campaign-metrics", "campaign_metrics.wasm"),
    ("event-cleaner", "event_cleaner.wasm"),
    ("touchpoints", "touchpoints.wasm"),
];
const WASM_TARGET: &str = "wasm32-unknown-unknown";

pub fn run() -> Result<()> {
    needs::for_build()?;
    // Of the whole workspace, as the tests are: another selection has other features, and compiles wasmtime again.
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "millrace"]))?;
    build_plugins()
}

pub fn plugins() -> Result<()> {
    needs::wasm_target()?;
    build_plugins()
}

fn build_plugins() -> Result<()> {
    let folder = shell::target().join("plugins");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (package, file) in PLUGINS {
        // As an rlib, too, it would not be optimised as a whole.
        build_guests(&["rustc", "-p", package, "--lib", "--crate-type", "cdylib"])?;
        let built = shell::target().join(WASM_TARGET).join("release").join(file);
        // beside it first: a running pipeline never sees half a file
        let fresh = folder.join(format!("{file}.new"));
        std::fs::copy(&built, &fresh).with_context(|| format!("copying {}", built.display()))?;
        std::fs::rename(&fresh, folder.join(file))?;
    }
    Ok(())
}

/// Plugins are small: whole-program optimisation costs them seconds, and the host nothing, since the settings go by the
/// environment and the guest's target has a folder of its own.
fn build_guests(what: &[&str]) -> Result<()> {
    shell::run(
        shell::cargo()
            .args(what)
            .args(["--release", "--target", WASM_TARGET])
            .env("CARGO_PROFILE_RELEASE_LTO", "true")
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    )
}

pub fn bench(arguments: &[String]) -> Result<ExitCode> {
    run()?;
    build_guests(&["build", "-p", "millrace-sdk-guests", "--examples"])?;
    let status = shell::status(
        shell::cargo()
            .args(["run", "--release", "-p", "millrace-tests", "--features", "bench", "--bin", "bench", "--"])
            .args(arguments),
    )?;
    Ok(shell::code(status))
}
