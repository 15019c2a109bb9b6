//! The files that this program carries for new plugins: `wit/`, the Rust SDK and the templates.
//!
//! A project gets them below `millrace/`, laid out as in this repository, so that the SDK finds `wit/` where it expects
//! it. Only its manifests change: what they inherit from the workspace is written out.

use std::fmt::Write as _;

/// Path in the repository, with `/` → text.
static EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Below a project's folder.
pub const FOLDER: &str = "millrace";

/// The files below a folder of the repository: the path below it, and the text.
pub fn below(folder: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    EMBEDDED.iter().filter_map(move |(path, text)| {
        let rest = path.strip_prefix(folder)?.strip_prefix('/')?;
        Some((rest, *text))
    })
}

fn file(path: &str) -> &'static str {
    EMBEDDED.iter().find(|(known, _)| *known == path).map_or("", |(_, text)| text)
}

/// The interface, for every language.
pub fn interface() -> Vec<(String, String)> {
    below("wit").map(|(path, text)| (format!("{FOLDER}/wit/{path}"), text.to_owned())).collect()
}

/// The Rust SDK, and the versions of what it depends on as they were tested.
pub fn sdk() -> Vec<(String, String)> {
    let mut files = vec![("Cargo.lock".to_owned(), file("Cargo.lock").to_owned())];
    for package in ["sdk", "sdk-macros"] {
        let folder = format!("plugins/{package}");
        for (path, text) in below(&folder) {
            let text = if path == "Cargo.toml" { standalone(text, file("Cargo.toml")) } else { text.to_owned() };
            files.push((format!("{FOLDER}/{folder}/{path}"), text));
        }
    }
    files
}

/// A member's manifest without its workspace: inherited values are written out, what only its own tests need is left out.
fn standalone(manifest: &str, workspace: &str) -> String {
    let mut out = String::new();
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim();
        }
        let tests_only = ["[dev-dependencies]", "[lints]", "[[bench]]", "[[test]]", "[[example]]"].contains(&section);
        if tests_only {
            continue;
        }
        let inherited = line.split_once(".workspace = true").map(|(name, _)| name);
        // writing to a string cannot fail
        let _ = match inherited {
            Some(name) if section == "[package]" => {
                writeln!(out, "{name} = {}", value(workspace, "[workspace.package]", name))
            }
            Some("millrace-plugin-macros") => writeln!(out, "millrace-plugin-macros = {{ path = \"../sdk-macros\" }}"),
            Some(name) => writeln!(out, "{name} = {}", value(workspace, "[workspace.dependencies]", name)),
            None => writeln!(out, "{line}"),
        };
    }
    out
}

/// `name = value` in a section; every entry of ours is on one line.
fn value<'w>(manifest: &'w str, section: &str, name: &str) -> &'w str {
    manifest
        .lines()
        .skip_while(|line| line.trim() != section)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == name))
        .map_or("\"*\"", |(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_sdk_is_inherited_any_more() {
        let files = sdk();
        let manifests: Vec<_> = files.iter().filter(|(path, _)| path.ends_with("Cargo.toml")).collect();
        assert_eq!(manifests.len(), 2);
        for (path, text) in manifests {
            assert!(!text.contains("workspace") && !text.contains("\"*\""), "{path}:\n{text}");
            toml::from_str::<toml::Table>(text).unwrap_or_else(|e| panic!("{path}: {e}\n{text}"));
        }
        assert!(files.iter().any(|(path, _)| path == "millrace/plugins/sdk/src/lib.rs"));
        assert!(interface().iter().any(|(path, _)| path.starts_with("millrace/wit/types/")));
    }
}
