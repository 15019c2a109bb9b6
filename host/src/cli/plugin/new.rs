//! `millrace plugin new`: a folder that builds, and whose test passes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::project::below;
use super::{KINDS, Language, NewArgs, vendor};
use crate::cli::Failure;

const TEMPLATES: &str = "plugins/templates";

pub fn run(args: &NewArgs) -> Result<(), Failure> {
    check_name(&args.name).map_err(|(what, hint)| Failure::Usage(format!("error: {what}\nhint: {hint}")))?;
    let (kind, language) = (args.kind.name(), args.language.name());
    let template = format!("{TEMPLATES}/{language}/{kind}");
    let mut files: Vec<(String, String)> =
        vendor::below(&template).map(|(path, text)| (filled(path, &args.name), filled(text, &args.name))).collect();
    if files.is_empty() {
        return Err(Failure::Usage(format!(
            "error: there is no template for {kind} plugins in {language}\nhint: there are {}",
            available().join(", ")
        )));
    }
    files.extend(vendor::interface());
    let common = format!("{TEMPLATES}/{language}/{}", vendor::FOLDER);
    files.extend(vendor::below(&common).map(|(path, text)| (format!("{}/{path}", vendor::FOLDER), text.to_owned())));
    if args.language == Language::Rust {
        files.extend(vendor::sdk());
    }
    let folder = below(&args.path, Path::new(&args.name));
    let is_empty = std::fs::read_dir(&folder).map_or(true, |mut entries| entries.next().is_none());
    if folder.exists() && !is_empty {
        return Err(Failure::Usage(format!(
            "error: {} is there already, and nothing is overwritten\nhint: take another name, or another place with --path",
            folder.display()
        )));
    }
    for (path, text) in &files {
        write(&folder.join(path), text)?;
    }
    println!("{}: {kind} in {language}. Next:", folder.display());
    for command in next(&folder, args.language, files.iter().any(|(path, _)| path == "pipeline.toml")) {
        println!("  {command}");
    }
    Ok(())
}

fn next(folder: &Path, language: Language, has_pipeline: bool) -> Vec<String> {
    let mut commands =
        vec![format!("cd {}", folder.display()), "millrace plugin build".to_owned(), "millrace plugin test".to_owned()];
    if language == Language::Rust {
        commands.push("cargo test".to_owned());
    }
    if has_pipeline {
        commands.push("millrace run pipeline.toml --until-end".to_owned());
    }
    commands
}

fn write(path: &PathBuf, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| anyhow::anyhow!("cannot write {}: {error}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    Ok(std::fs::write(path, text).map_err(failed)?)
}

/// `language kind` of every template.
fn available() -> Vec<String> {
    let all: BTreeSet<String> = vendor::below(TEMPLATES)
        .filter_map(|(path, _)| {
            let mut parts = path.split('/');
            let (language, kind) = (parts.next()?, parts.next()?);
            KINDS.iter().any(|(name, _)| *name == kind).then(|| format!("{language} {kind}"))
        })
        .collect();
    all.into_iter().collect()
}

/// Kebab case: it names a crate, a file and a plugin, in four languages.
fn check_name(name: &str) -> Result<(), (String, String)> {
    let right = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-')
        && !name.contains("--");
    if !right {
        let suggestion = kebab(name);
        let hint = if suggestion.is_empty() {
            "for example `clicks-by-country`".to_owned()
        } else {
            format!("`{suggestion}` would do")
        };
        return Err((
            format!("`{name}` cannot be a plugin's name: it is made of a-z, 0-9 and single `-`, after a letter"),
            hint,
        ));
    }
    // what a crate or a module must not be called
    const TAKEN: [&str; 14] = [
        "test",
        "core",
        "std",
        "alloc",
        "millrace",
        "millrace-plugin",
        "self",
        "super",
        "crate",
        "async",
        "type",
        "match",
        "plugin",
        "build",
    ];
    if TAKEN.contains(&name) {
        return Err((
            format!("`{name}` is a name with a meaning of its own in the languages of plugins"),
            format!("`my-{name}` would do"),
        ));
    }
    Ok(())
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && out.ends_with(|last: char| last.is_ascii_lowercase()) {
            out.push('-');
        }
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    out.trim_start_matches(|c: char| !c.is_ascii_lowercase()).trim_end_matches('-').to_owned()
}

/// `{{name}}` is the name in kebab-case, `{{snake}}` and `{{Pascal}}` are what they say.
fn filled(text: &str, name: &str) -> String {
    let pascal: String = name
        .split('-')
        .map(|word| {
            let mut chars = word.chars();
            chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
        })
        .collect();
    text.replace("{{name}}", name).replace("{{snake}}", &name.replace('-', "_")).replace("{{Pascal}}", &pascal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_will_not_do_is_answered_with_one_that_does() {
        for (name, suggestion) in [
            ("ClicksByCountry", "clicks-by-country"),
            ("my_plugin", "my-plugin"),
            ("2x", "x"),
            ("-a-", "a"),
            ("a b", "a-b"),
        ] {
            let (_, hint) = check_name(name).unwrap_err();
            assert_eq!(hint, format!("`{suggestion}` would do"), "{name}");
            check_name(suggestion).unwrap();
        }
        for name in ["", "ü", "test", "core"] {
            check_name(name).unwrap_err();
        }
    }

    #[test]
    fn placeholders_are_filled_in_in_all_spellings() {
        assert_eq!(filled("{{name}} {{snake}} {{Pascal}}", "clicks-by-2"), "clicks-by-2 clicks_by_2 ClicksBy2");
    }

    #[test]
    fn no_template_leaves_a_placeholder() {
        let of_a_kind = |path: &str| KINDS.iter().any(|(kind, _)| path.contains(&format!("/{kind}/")));
        for (path, text) in vendor::below(TEMPLATES).filter(|(path, _)| of_a_kind(path)) {
            let (path, text) = (filled(path, "some-name"), filled(text, "some-name"));
            for left in ["{{name", "{{snake", "{{Pascal", "{{Name"] {
                assert!(!path.contains(left) && !text.contains(left), "{path} has {left}");
            }
        }
    }
}
