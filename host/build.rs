//! What `millrace plugin new` writes, put into the program: the interface, the Rust SDK and the templates.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Folders and files below the repository's root. Tests and examples of the SDK stay here.
const EMBEDDED: [&str; 8] = [
    "wit",
    "plugins/sdk/Cargo.toml",
    "plugins/sdk/src",
    "plugins/sdk-macros/Cargo.toml",
    "plugins/sdk-macros/src",
    "plugins/templates",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    let mut files = Vec::new();
    for path in EMBEDDED {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
        walk(&root.join(path), &mut files)?;
    }
    files.sort();
    let mut code = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&root)?.to_string_lossy().replace('\\', "/");
        writeln!(code, "({name:?}, include_str!({:?})),", file.display().to_string())?;
    }
    code.push(']');
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("embedded.rs"), code)?;
    Ok(())
}

fn walk(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // what a template's own build leaves behind
        if !matches!(&*name, "target" | "node_modules" | "__pycache__" | "dist" | ".venv") {
            walk(&path, files)?;
        }
    }
    Ok(())
}
