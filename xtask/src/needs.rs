//! What has to be on the machine, said in one line that names the Debian package, before anything is compiled.

use anyhow::{Result, bail, ensure};

use crate::shell;

const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// What the build needs beyond Rust: librdkafka is built from its C sources, against the system's OpenSSL and zlib.
pub fn for_build() -> Result<()> {
    let mut missing = Vec::new();
    if !shell::answers("cc", &["--version"]) {
        missing.push("gcc");
    }
    if !shell::answers("make", &["--version"]) {
        missing.push("make");
    }
    if !shell::answers("pkg-config", &["--version"]) {
        missing.push("pkg-config");
        // nothing can tell whether these are there, and installing what is there does no harm
        missing.extend(["libssl-dev", "zlib1g-dev"]);
    } else {
        if !shell::answers("pkg-config", &["--exists", "openssl"]) {
            missing.push("libssl-dev");
        }
        if !shell::answers("pkg-config", &["--exists", "zlib"]) {
            missing.push("zlib1g-dev");
        }
    }
    ensure!(
        missing.is_empty(),
        "the build needs what this machine lacks. hint: `apt-get install {}` (Debian's names)",
        missing.join(" ")
    );
    wasm_target()
}

/// Plugins are compiled for it; rustup adds it.
pub fn wasm_target() -> Result<()> {
    let library = shell::stdout(shell::program("rustc").args(["--print", "target-libdir", "--target", WASM_TARGET]))?;
    if std::path::Path::new(&library).is_dir() {
        return Ok(());
    }
    if !shell::answers("rustup", &["--version"]) {
        bail!(
            "the Rust target {WASM_TARGET} is missing, and there is no rustup to add it. hint: install it as you did Rust"
        );
    }
    shell::run(shell::program("rustup").args(["target", "add", WASM_TARGET]))
}

/// What the end-to-end tests need beyond the build; one line for each thing missing.
pub fn for_kafka() -> Option<&'static str> {
    if !shell::answers("java", &["-version"]) {
        return Some("Java 17 or newer is missing (Debian: default-jre-headless)");
    }
    let fetched =
        ["kafka/libs", "rest-catalog/libs"].iter().all(|jars| shell::target().join(jars).join(".complete").is_file());
    (!fetched && !shell::answers("mvn", &["--version"])).then_some("Maven is missing (Debian: maven)")
}

/// What plugins in other languages are built with.
pub fn for_javascript() -> Option<&'static str> {
    let there = shell::answers("node", &["--version"]) && shell::answers("npm", &["--version"]);
    (!there).then_some("Node.js 20 or newer, or its npm, is missing (Debian: nodejs npm)")
}

/// C, too: its compiler comes from PyPI.
pub fn for_python() -> Option<&'static str> {
    (!shell::answers("python3", &["-c", "import venv, ensurepip"]))
        .then_some("Python 3, its venv or its pip is missing (Debian: python3-venv)")
}

pub fn for_oracle() -> Option<&'static str> {
    if shell::target().join("oracle-venv/.complete").is_file() {
        return None;
    }
    if !shell::answers("python3", &["--version"]) {
        return Some("Python 3 is missing (Debian: python3)");
    }
    (!shell::answers("python3", &["-c", "import venv, ensurepip"]))
        .then_some("Python's venv or pip is missing (Debian: python3-venv)")
}
