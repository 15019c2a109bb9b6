//! The plugins' golden cases: those in Rust; then the helper libraries of the other languages by themselves, and
//! campaign-metrics in each, built as an author would (a folder with `plugin.toml`, the helper and `wit/`), through the cases
//! that the Rust plugin passes.
//!
//! ```text
//!   target/languages/node_modules, venv     the compilers of JavaScript, Python and C, from npm and PyPI, once
//!                   /LANGUAGE               plugins/campaign-metrics/LANGUAGE + its tests + the helper + wit/
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{build, needs, shell};

const PLUGIN: &str = "plugins/campaign-metrics";
const TEMPLATES: &str = "plugins/templates";
/// Below the workspace's root: what says which compilers, in which versions.
const NODE_PACKAGES: &str = "plugins/campaign-metrics/javascript/package.json";
const PYTHON_PACKAGES: [&str; 2] =
    ["plugins/templates/python/millrace/requirements.txt", "plugins/templates/c/millrace/requirements.txt"];

/// False: it ran, and did not go well.
type Step = fn() -> Result<bool>;

/// Each is one test: passed, failed, and skipped.
pub fn run() -> Result<(u64, u64, u64)> {
    let languages: [(&str, Option<&str>, &[Step]); 4] = [
        ("rust", None, &[rust]),
        ("javascript", needs::for_javascript(), &[node_packages, javascript_helper, || cases("javascript")]),
        ("python", needs::for_python(), &[python_packages, python_helper, || cases("python")]),
        ("c", needs::for_python(), &[python_packages, || cases("c")]),
    ];
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (language, missing, steps) in languages {
        if let Some(missing) = missing {
            eprintln!("plugins in {language} are skipped: {missing}");
            skipped += 1;
            continue;
        }
        let mut well = true;
        for step in steps {
            well = well && step()?;
        }
        println!("plugins in {language}: {}", if well { "ok" } else { "FAILED" });
        if well { passed += 1 } else { failed += 1 }
    }
    Ok((passed, failed, skipped))
}

fn folder() -> PathBuf {
    shell::target().join("languages")
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(shell::root().join(path)).with_context(|| format!("reading {path}"))
}

/// Installs what is not there yet; `marker` keeps what was asked for.
fn installed(marker: &str, wanted: &str, install: impl FnOnce() -> Result<bool>) -> Result<bool> {
    let marker = folder().join(marker);
    if fs::read_to_string(&marker).is_ok_and(|had| had == wanted) {
        return Ok(true);
    }
    fs::create_dir_all(folder())?;
    Ok(install()? && fs::write(&marker, wanted).map(|()| true)?)
}

fn well(command: &mut Command) -> Result<bool> {
    Ok(shell::status(command)?.success())
}

fn node_packages() -> Result<bool> {
    let wanted = read(NODE_PACKAGES)?;
    installed(".node", &wanted, || {
        fs::write(folder().join("package.json"), &wanted)?;
        let arguments = ["install", "--no-audit", "--no-fund", "--loglevel=error"];
        well(shell::program("npm").args(arguments).current_dir(folder()))
    })
}

fn python_packages() -> Result<bool> {
    let wanted = PYTHON_PACKAGES.iter().map(|path| read(path)).collect::<Result<String>>()?;
    installed(".python", &wanted, || {
        let venv = folder().join("venv");
        let mut pip = shell::program(venv.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]);
        for path in PYTHON_PACKAGES {
            pip.arg("-r").arg(path);
        }
        Ok(well(shell::program("python3").args(["-m", "venv"]).arg(&venv))? && well(&mut pip)?)
    })
}

fn javascript_helper() -> Result<bool> {
    well(shell::program("node").args(["--test", "--test-reporter=dot", "plugins/helper-tests/javascript"]))
}

/// The helper speaks in types that componentize-py generates.
fn python_helper() -> Result<bool> {
    let bindings = folder().join("bindings");
    if bindings.exists() {
        fs::remove_dir_all(&bindings)?;
    }
    let mut generate = with_tools("componentize-py")?;
    for package in ["types", "aggregation", "transform"] {
        generate.arg("-d").arg(format!("wit/{package}"));
    }
    for kind in ["aggregation", "transform"] {
        generate.arg("-w").arg(format!("millrace:{kind}/{kind}-plugin"));
    }
    generate.arg("bindings").arg(&bindings);
    let mut tests = with_tools("python3")?;
    tests.args(["-B", "-m", "unittest", "discover", "-s", "plugins/helper-tests/python"]).env(
        "PYTHONPATH",
        std::env::join_paths([bindings, shell::root().join(TEMPLATES).join("python")]).context("PYTHONPATH")?,
    );
    Ok(well(&mut generate)? && well(&mut tests)?)
}

/// A program that finds the compilers for Python and C.
fn with_tools(name: impl Into<PathBuf>) -> Result<Command> {
    let (bin, name) = (folder().join("venv/bin"), name.into());
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&rest)))
        .context("the path of programs")?;
    let own = bin.join(&name);
    let mut command = shell::program(if own.exists() { own } else { name });
    command.env("PATH", path);
    Ok(command)
}

/// Builds the project and runs its cases, by the `millrace` that has been built before.
fn cases(language: &str) -> Result<bool> {
    let project = folder().join(language);
    if project.exists() {
        fs::remove_dir_all(&project)?;
    }
    let root = shell::root();
    copy(&root.join(PLUGIN).join(language), &project)?;
    copy(&root.join(PLUGIN).join("tests"), &project.join("tests"))?;
    copy(&root.join(TEMPLATES).join(language).join("millrace"), &project.join("millrace"))?;
    copy(&root.join("wit"), &project.join("millrace/wit"))?;
    for verb in ["build", "test"] {
        let mut millrace = with_tools(shell::target().join("release/millrace"))?;
        if !well(millrace.args(["plugin", verb]).arg(&project))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The cases of the components in `target/plugins`.
fn rust() -> Result<bool> {
    let plugins = shell::target().join("plugins");
    for (package, file) in build::PLUGINS {
        let (from, project) = (shell::root().join("plugins").join(package), folder().join("rust").join(package));
        if project.exists() {
            fs::remove_dir_all(&project)?;
        }
        copy(&from.join("tests"), &project.join("tests"))?;
        fs::copy(plugins.join(file), project.join(file)).with_context(|| format!("copying {file}"))?;
        let text = read(&format!("plugins/{package}/plugin.toml"))?;
        fs::write(project.join("plugin.toml"), text.replace("../../target/plugins/", ""))?;
        let mut millrace = shell::program(shell::target().join("release/millrace"));
        if !well(millrace.args(["plugin", "test"]).arg(&project))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}
