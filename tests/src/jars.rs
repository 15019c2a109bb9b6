//! Programs that come as Maven jars: fetched once below the target folder, never compiled.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use crate::paths;

/// The one line that says what this machine lacks to fetch these jars and to run them.
pub fn missing_tool(folder: &str) -> Option<String> {
    let there = |name: &str, version: &str| {
        Command::new(name).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    if !there("java", "-version") {
        return Some("Java 17 or newer is missing (Debian: default-jre-headless)".to_owned());
    }
    let fetched = paths::target().join(folder).join(".complete").is_file();
    (!fetched && !there("mvn", "--version")).then(|| "Maven is missing (Debian: maven)".to_owned())
}

/// Fetches what `pom` names into a folder of the target folder, unless it is there; returns the folder.
pub fn ensure(what: &str, pom: &Path, folder: &str) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(missing) = missing_tool(folder) {
        bail!("{missing}");
    }
    let libs = paths::target().join(folder);
    let stamp = libs.join(".complete");
    let wanted = std::fs::read_to_string(pom).with_context(|| format!("reading {}", pom.display()))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(libs);
    }
    eprintln!("fetching {what} with Maven (once)");
    if libs.exists() {
        std::fs::remove_dir_all(&libs)?;
    }
    std::fs::create_dir_all(&libs)?;
    let output = Command::new("mvn")
        .args(["-B", "-q", "-f"])
        .arg(pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .arg("-DincludeScope=runtime")
        .output()
        .context("running mvn")?;
    ensure!(
        output.status.success(),
        "Maven could not fetch {what} ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    std::fs::write(stamp, wanted)?;
    Ok(libs)
}

pub fn class_path(libs: &Path) -> String {
    format!("{}/*", libs.display())
}
