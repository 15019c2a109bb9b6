//! rustfmt, clippy, cargo-deny.

use std::process::ExitCode;

use anyhow::Result;

use crate::shell;

pub fn run() -> Result<ExitCode> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    // the release profile: its dependencies are there already
    shell::run(shell::cargo().args(["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    if shell::answers("cargo-deny", &["--version"]) {
        shell::run(shell::cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    } else {
        eprintln!("cargo-deny is not installed: licences and sources are not checked (cargo install cargo-deny)");
    }
    Ok(ExitCode::SUCCESS)
}
