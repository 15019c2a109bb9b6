//! A start that is refused has changed nothing: no table, no column, no file, no record in the log.

use std::collections::BTreeMap;

use super::*;

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
evolve = "add-columns"
"#;

/// Would be made before the aggregation is looked at, were it not for the order.
const ANOTHER_TABLE: &str = r#"
[sinks.another]
type = "iceberg"
inputs = ["events"]
catalog = "lake"
table = "ads.events"
"#;

/// Every file below, and what is in it.
fn all_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("pipeline.toml") {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_refused_start_has_changed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "refused", 1, 15_000, TABLE);
    place.run(true, None).unwrap();
    let right = fs::read_to_string(place.file()).unwrap();
    let folder = dir.path().join("savepoint");
    place.save(&folder);
    let before = all_below(&place.0);
    assert!(before.keys().any(|path| path.extension().is_some_and(|e| e == "parquet")));

    let more_columns = right.replace("best = ", "clicks = \"count(*)\"\nbest = ");
    let other_window = right.replace("\"4s\"", "\"5s\"");
    let not_evolved = more_columns.replace("add-columns", "fail");
    for (text, from_savepoint, why) in [
        (format!("{more_columns}{ANOTHER_TABLE}"), None, "the aggregates of `by_campaign`"),
        (format!("{other_window}{ANOTHER_TABLE}"), None, "the window of `by_campaign`"),
        // the other table comes first
        (format!("{ANOTHER_TABLE}{not_evolved}"), None, "lacks column `clicks`"),
        (format!("{other_window}{ANOTHER_TABLE}"), Some(&*folder), "leave `--from-savepoint` out"),
        (more_columns.replace("\"state\"", "\"elsewhere\""), None, "another incarnation"),
    ] {
        fs::write(place.file(), text).unwrap();
        let refused = place.run(false, from_savepoint).unwrap_err();
        assert!(refused.contains(why), "{why}: {refused}");
        let after = all_below(&place.0);
        let changed: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).collect();
        let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
        assert!(changed.is_empty() && new.is_empty(), "{why}: changed {changed:?}, new {new:?}");
    }
    fs::write(place.file(), &right).unwrap();
    place.run(false, None).unwrap();
}
