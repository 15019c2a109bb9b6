use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::*;
use crate::runtime::begin::tests::Place;

/// `Err`: what a person reads, and the exit code.
fn planned(place: &Place, drop_state: &[&str]) -> Result<(), (String, u8)> {
    let drop_state = drop_state.iter().map(|name| (*name).to_owned()).collect();
    run(&PlanArgs { file: place.file(), drop_state, format: Form::Text }).map_err(|failure| match failure {
        Failure::Usage(message) => (message, 2),
        Failure::Other(error) => (format!("{error:#}"), 1),
    })
}

fn everything(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        found.push((entry.path(), entry.metadata().unwrap().modified().unwrap()));
        if entry.path().is_dir() {
            found.extend(everything(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_changed_file_is_held_against_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "p", 1, 15_000, "");
    let fresh = everything(dir.path());
    assert_eq!(planned(&place, &[]), Ok(()));
    assert_eq!(everything(dir.path()), fresh);

    place.run(true, None).unwrap();
    let text = fs::read_to_string(place.file()).unwrap();
    let change = |from: &str, to: &str| fs::write(place.file(), text.replace(from, to)).unwrap();
    assert_eq!(planned(&place, &[]), Ok(()));
    assert_eq!(planned(&place, &["by_campaign"]).unwrap_err().1, 1);
    change("parallelism = 1", "parallelism = 2");
    assert_eq!(planned(&place, &[]), Ok(()));
    change("\"4s\"", "\"5s\"");
    let before = everything(dir.path());
    let (why, code) = planned(&place, &[]).unwrap_err();
    assert!(code == 1 && why.contains("would not start, because of `by_campaign`"), "{why}");
    let (why, code) = planned(&place, &["by_campaign"]).unwrap_err();
    assert!(code == 1 && why.contains("would lose"), "{why}");
    assert_eq!(everything(dir.path()), before);
    change("\"4s\"", "\"never\"");
    assert_eq!(planned(&place, &[]).unwrap_err().1, 2);
}

#[test]
fn the_plan_says_what_changes() {
    let plugin = |version: &str, config: &str| Plugin {
        name: "m".into(),
        version: version.into(),
        sha256: version.repeat(12),
        config: config.into(),
        capabilities: vec!["clock".into()],
    };
    let change = Change { before: Some(plugin("1.0.0", "{}")), after: Some(plugin("1.1.0", "{\"a\":1}")) };
    let operator = Step { name: "metrics".into(), fate: Fate::Migrated, why: None, plugin: Some(change), table: None };
    let table = plan::Table {
        name: "lake.ads.t".into(),
        created: false,
        added_columns: vec!["clicks long".into()],
        claim: None,
    };
    let sink = Step { name: "t".into(), fate: Fate::Kept, why: None, plugin: None, table: Some(table) };
    let plan = Plan { sources: vec![], operators: vec![operator], sinks: vec![sink] };
    let expected = "p, from checkpoint 7\n\noperators\n  metrics  kept, migrated by its new plugin\n           \
                    plugin m 1.0.0 (1.0.01.0.01.) → m 1.1.0 (1.1.01.1.01.)\n           configuration {} → {\"a\":1}\n           \
                    may use clock\n\nsinks\n  t  kept\n     table lake.ads.t: gains column clicks long\n";
    assert_eq!(show("p", Some(7), &plan), expected);
}
