//! A released package of `wit/` never changes: its digest (without comments and spacing) is in `wit/released.toml`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Package with version → digest of what it says.
fn packages(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let text: Vec<String> = files.iter().map(|file| meaning(&std::fs::read_to_string(file).unwrap())).collect();
        let text = text.join("\n");
        let package = text.strip_prefix("package ").and_then(|rest| rest.split_once(';')).unwrap().0.to_owned();
        let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(found.insert(package.clone(), digest).is_none(), "{package} is in two folders");
    }
    found
}

fn meaning(text: &str) -> String {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
    words.join(" ")
}

fn wrong(packages: &BTreeMap<String, String>, released: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (package, digest) in released {
        match packages.get(package) {
            Some(found) if found == digest => {}
            Some(_) => wrong.push(format!(
                "{package} is released and has been changed: plugins built against it would no longer load. Undo the \
                 change, and make it in a new version in a folder of its own (wit/README.md)"
            )),
            None => wrong.push(format!("{package} is released and is gone: put it back")),
        }
    }
    for (package, digest) in packages {
        let draft = package.split_once('@').is_none_or(|(_, version)| version.contains("-dev."));
        if !draft && !released.contains_key(package) {
            wrong.push(format!("{package} is not a draft: add `\"{package}\" = \"{digest}\"` to wit/released.toml"));
        }
    }
    wrong
}

#[test]
fn released_packages_have_not_changed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let released: BTreeMap<String, String> =
        toml::from_str(&std::fs::read_to_string(root.join("released.toml")).unwrap()).unwrap();
    let packages = packages(&root);
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for package in packages.keys() {
        let (name, version) = package.split_once('@').unwrap();
        assert!(readme.contains(&format!("| `{name}` | {version} |")), "wit/README.md does not list {package}");
    }
    let wrong = wrong(&packages, &released);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_change_is_explained() {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let released = map(&[("a:b@0.1.0", "1")]);
    assert!(wrong(&map(&[("a:b@0.1.0", "1"), ("a:c@0.2.0-dev.1", "7")]), &released).is_empty());
    assert!(wrong(&map(&[("a:b@0.1.0", "2")]), &released)[0].contains("a:b@0.1.0 is released and has been changed"));
    assert!(wrong(&map(&[]), &released)[0].contains("is gone"));
    let found = wrong(&map(&[("a:b@0.1.0", "1"), ("a:c@0.1.0", "7")]), &released);
    assert_eq!(found, ["a:c@0.1.0 is not a draft: add `\"a:c@0.1.0\" = \"7\"` to wit/released.toml"]);
    assert_eq!(meaning("package  a:b; // x\n\n  world w { }\n"), "package a:b; world w { }");
}
