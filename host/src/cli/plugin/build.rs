//! `millrace plugin build`: the component of a project, made by its language's own tools, then loaded once, so that what
//! is wrong with it is said now.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::project::{FILE, Project};
use super::{BuildArgs, Form, Language, load};
use crate::cli::Failure;
use crate::plugin::inspect;
use crate::spec::show_bytes;

const WASM_TARGET: &str = "wasm32-unknown-unknown";

pub fn run(args: &BuildArgs) -> Result<(), Failure> {
    let project = Project::load(&args.dir)?;
    need(&project)?;
    if project.language == Language::Rust && project.build.is_empty() {
        let built = cargo_build(&project)?;
        put(&built, &project.component)?;
    } else {
        run_command(&project)?;
    }
    if !project.component.is_file() {
        let what = project.component.display();
        return Err(Failure::Other(anyhow::anyhow!(
            "the build went well, but made no {what}\nhint: `component` in {FILE} must name the file that it makes"
        )));
    }
    let artifact = load::artifact(&project.component, Some(&project))?;
    inspect(&load::engine()?, &artifact).map_err(anyhow::Error::new)?;
    let (path, size) = (project.component.display(), artifact.size_bytes());
    match args.format {
        Form::Json => println!(
            "{}",
            json!({ "component": path.to_string(), "kind": artifact.kind().name(), "bytes": size, "sha256": artifact.digest() })
        ),
        Form::Text => {
            println!("{path}  {}  sha256 {}", show_bytes(u64::try_from(size).unwrap_or(u64::MAX)), artifact.digest());
            println!("next: {}", project.command("test"));
        }
    }
    Ok(())
}

/// All programs that are missing, in one line.
fn need(project: &Project) -> Result<(), Failure> {
    let cargo = (project.language == Language::Rust).then(|| "cargo".to_owned());
    let missing: Vec<String> =
        project.needs.iter().cloned().chain(cargo).filter(|program| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let hints: Vec<&str> = missing.iter().filter_map(|program| where_from(program)).collect();
    let hint = if hints.is_empty() { String::new() } else { format!("\nhint: {}", hints.join("; ")) };
    Err(Failure::Usage(format!(
        "error: to build {} in {} this machine lacks: {}{hint}",
        project.name,
        project.language.name(),
        missing.join(", ")
    )))
}

fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn where_from(program: &str) -> Option<&'static str> {
    Some(match program {
        "cargo" | "rustup" => "Rust is installed from https://rustup.rs",
        "node" | "npm" => "Node.js is installed from https://nodejs.org, or as the package nodejs (with npm)",
        "python3" => "Python is installed from https://python.org, or as the package python3 (with python3-venv)",
        "clang" => "clang is installed as the package clang",
        _ => return None,
    })
}

fn run_command(project: &Project) -> Result<(), Failure> {
    let Some((program, arguments)) = project.build.split_first() else { return Ok(()) };
    let shown = project.build.join(" ");
    let status = Command::new(program)
        .args(arguments)
        .current_dir(&project.dir)
        .status()
        .map_err(|e| anyhow::anyhow!("`{shown}` (from {FILE}) cannot be started: {e}"))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Other(anyhow::anyhow!(
        "`{shown}` failed ({status}) in {}; its reasons are above",
        project.dir.display()
    )))
}

/// Builds for WebAssembly, and says where cargo has put the component: its target folder may be anywhere.
fn cargo_build(project: &Project) -> Result<PathBuf, Failure> {
    add_target(&project.dir)?;
    let output = Command::new("cargo")
        // as an rlib, too, it would not be optimised as a whole
        .args(["rustc", "--release", "--lib", "--crate-type", "cdylib", "--target", WASM_TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(&project.dir)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| anyhow::anyhow!("cargo cannot be started: {e}"))?;
    if !output.status.success() {
        return Err(Failure::Other(anyhow::anyhow!("cargo build failed; its reasons are above")));
    }
    // the project's own crate is the last that is made
    let made = String::from_utf8_lossy(&output.stdout);
    let component = made
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.get("reason").is_some_and(|reason| reason == "compiler-artifact"))
        .flat_map(|message| message.get("filenames").and_then(Value::as_array).cloned().unwrap_or_default())
        .filter_map(|file| Some(PathBuf::from(file.as_str()?)))
        .rfind(|file| file.extension().is_some_and(|e| e == "wasm"));
    component.ok_or_else(|| {
        Failure::Other(anyhow::anyhow!(
            "cargo made no .wasm file\nhint: Cargo.toml must say `[lib] crate-type = [\"cdylib\", \"rlib\"]`"
        ))
    })
}

/// The standard library for WebAssembly, if rustup can tell that it is not there.
fn add_target(dir: &Path) -> Result<(), Failure> {
    if find("rustup").is_none() {
        return Ok(());
    }
    let installed = Command::new("rustup").args(["target", "list", "--installed"]).current_dir(dir).output();
    if installed.is_ok_and(|o| !o.status.success() || String::from_utf8_lossy(&o.stdout).contains(WASM_TARGET)) {
        return Ok(());
    }
    eprintln!("adding Rust's target {WASM_TARGET}: rustup target add {WASM_TARGET}");
    let added = Command::new("rustup").args(["target", "add", WASM_TARGET]).current_dir(dir).status();
    if added.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(Failure::Other(anyhow::anyhow!(
        "Rust's target {WASM_TARGET} could not be added\nhint: `rustup target add {WASM_TARGET}` needs the network once"
    )))
}

/// Beside it first: a running pipeline or test never sees half a file.
fn put(built: &Path, component: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| anyhow::anyhow!("cannot write {}: {error}", component.display());
    if let Some(folder) = component.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let fresh = component.with_extension("wasm.new");
    std::fs::copy(built, &fresh).map_err(failed)?;
    Ok(std::fs::rename(&fresh, component).map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_missing_programs_are_named_in_one_line() {
        let project = Project {
            dir: PathBuf::from("."),
            name: "p".into(),
            kind: crate::plugin::Kind::Aggregation,
            language: Language::Python,
            component: PathBuf::from("target/p.wasm"),
            build: vec!["sh".into()],
            needs: vec!["sh".into(), "no-such-program".into(), "nor-this".into()],
        };
        let Err(Failure::Usage(message)) = need(&project) else { panic!("nothing is missing") };
        assert_eq!(message, "error: to build p in python this machine lacks: no-such-program, nor-this");
    }
}
