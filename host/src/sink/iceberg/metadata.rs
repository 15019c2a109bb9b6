//! Former metadata files: the table's metadata log drops them beyond `write.metadata.previous-versions-max`, and with
//! `write.metadata.delete-after-commit.enabled` they are removed. No catalog of the iceberg crate does that.

use std::collections::BTreeSet;

use iceberg::table::Table;

/// Metadata files that the table's log named before and no longer does.
pub fn superseded(before: &Table, now: &Table) -> Vec<String> {
    let enabled = now.metadata().properties().get("write.metadata.delete-after-commit.enabled");
    if enabled.is_none_or(|v| v != "true") {
        return Vec::new();
    }
    let mut kept: BTreeSet<&str> = now.metadata().metadata_log().iter().map(|l| l.metadata_file.as_str()).collect();
    kept.extend(now.metadata_location());
    let log = before.metadata().metadata_log().iter().map(|l| l.metadata_file.as_str());
    log.chain(before.metadata_location()).filter(|path| !kept.contains(path)).map(str::to_owned).collect()
}
