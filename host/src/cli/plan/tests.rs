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

/// A table that this pipeline has committed to.
const TABLE: &str = r#"
[catalogs.lake]
type = "sql"
uri = "sqlite:warehouse/catalog.db"
warehouse = "./warehouse"

[sinks.table]
type = "iceberg"
inputs = ["by_campaign"]
catalog = "lake"
table = "ads.results"
"#;

#[test]
fn a_table_of_another_incarnation_is_refused_and_one_made_anew_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "p", 1, 15_000, TABLE);
    place.run(true, None).unwrap();
    let plan = || {
        let args = PlanArgs { file: place.file(), drop_state: Vec::new(), format: Form::Text };
        let made = make(&args).unwrap_or_else(|_| panic!("there is a plan"));
        let step = made.plan.sinks.into_iter().find(|step| step.name == "table").unwrap();
        (step.fate, step.why.unwrap_or_default(), step.table.unwrap().created)
    };
    assert_eq!(plan(), (Fate::Kept, String::new(), false));

    let text = fs::read_to_string(place.file()).unwrap();
    fs::write(place.file(), text.replace("\"state\"", "\"elsewhere\"")).unwrap();
    let (fate, why, _) = plan();
    assert!(fate == Fate::Refused && why.contains("another incarnation"), "{why}");
    let (why, code) = planned(&place, &[]).unwrap_err();
    assert!(code == 1 && why.contains("`table`"), "{why}");

    fs::write(place.file(), text).unwrap();
    fs::remove_dir_all(place.0.join("warehouse")).unwrap();
    let (fate, why, created) = plan();
    assert!(fate == Fate::Kept && created && why.contains("is not the one of before"), "{fate:?} {created} {why}");
}

#[test]
fn the_plan_says_what_changes() {
    let plugin = |version: &str, config: &str, imports: &[&str]| Plugin {
        imports: Some(imports.iter().map(|import| (*import).to_owned()).collect()),
        name: "m".into(),
        version: version.into(),
        sha256: version.repeat(12),
        config: config.into(),
        capabilities: vec!["clock".into()],
    };
    let clock = "wasi:clocks/wall-clock@0.2.6";
    let change =
        Change { before: Some(plugin("1.0.0", "{}", &[])), after: Some(plugin("1.1.0", "{\"a\":1}", &[clock])) };
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
                    asks for wasi:clocks/wall-clock@0.2.6 (before: nothing)\n           may use clock\n\nsinks\n  t  kept\n     table lake.ads.t: gains column clicks long\n";
    assert_eq!(show("p", Some(7), &plan), expected);
}
