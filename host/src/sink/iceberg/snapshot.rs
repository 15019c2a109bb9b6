//! A snapshot of our own: data files and position deletes added to what there is, with the claim, as one change.
//!
//! The iceberg crate has an action that appends and none that deletes rows, so the manifests, their list and the summary are
//! written here, with the crate's own writers. Nothing is visible before the change is submitted
//! ([`crate::catalog::submit`]); what was written for a change that did not happen is removed again, where that is certain.

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use iceberg::spec::{
    DataContentType, DataFile, FormatVersion, MAIN_BRANCH, ManifestContentType, ManifestFile, ManifestListWriter,
    ManifestWriter, ManifestWriterBuilder, Operation, Snapshot, SnapshotReference, SnapshotRetention,
    SnapshotSummaryCollector, Summary, TableMetadata,
};
use iceberg::table::Table;
use iceberg::{Error, ErrorKind, Result, TableRequirement, TableUpdate};
use uuid::Uuid;

use super::deletes::Deletes;

/// What a snapshot adds.
pub struct Added<'a> {
    /// all of one spec
    pub data: &'a [DataFile],
    pub data_spec_id: i32,
    pub deletes: &'a [Deletes],
    /// for the summary
    pub summary: HashMap<String, String>,
    /// table properties
    pub properties: HashMap<String, String>,
}

/// A change of exactly one state of the table.
pub struct Change {
    pub requirements: Vec<TableRequirement>,
    pub updates: Vec<TableUpdate>,
    /// made for it: nobody else names them
    pub files: Vec<String>,
}

pub async fn produce(base: &Table, added: Added<'_>) -> Result<Change> {
    let metadata = base.metadata();
    if metadata.format_version() != FormatVersion::V2 {
        return Err(unsupported(metadata));
    }
    let mut making = Making { base, uuid: Uuid::now_v7(), snapshot_id: new_snapshot_id(metadata), files: Vec::new() };
    let summary = summary(metadata, &added)?;
    let mut manifests = existing(base).await?;
    if !added.data.is_empty() {
        let data: Vec<&DataFile> = added.data.iter().collect();
        manifests.push(making.manifest(ManifestContentType::Data, added.data_spec_id, &data).await?);
    }
    let mut deletes: BTreeMap<i32, Vec<&DataFile>> = BTreeMap::new();
    for delete in added.deletes {
        deletes.entry(delete.spec_id).or_default().push(&delete.file);
    }
    for (spec_id, files) in deletes {
        manifests.push(making.manifest(ManifestContentType::Deletes, spec_id, &files).await?);
    }
    let (parent, sequence_number) = (metadata.current_snapshot_id(), metadata.next_sequence_number());
    let list = making.list(manifests, parent, sequence_number).await?;
    let snapshot = Snapshot::builder()
        .with_snapshot_id(making.snapshot_id)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(sequence_number)
        .with_timestamp_ms(now_ms().max(metadata.last_updated_ms()))
        .with_manifest_list(list)
        .with_summary(summary)
        .with_schema_id(metadata.current_schema_id())
        .build();
    let reference = SnapshotReference::new(making.snapshot_id, retention_of_main(metadata)?);
    Ok(Change {
        requirements: vec![
            TableRequirement::UuidMatch { uuid: metadata.uuid() },
            TableRequirement::RefSnapshotIdMatch { r#ref: MAIN_BRANCH.to_owned(), snapshot_id: parent },
        ],
        updates: vec![
            TableUpdate::AddSnapshot { snapshot },
            TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference },
            TableUpdate::SetProperties { updates: added.properties },
        ],
        files: making.files,
    })
}

/// Whether position deletes can be added to the table at all.
pub fn takes_position_deletes(metadata: &TableMetadata) -> Result<()> {
    if metadata.format_version() == FormatVersion::V2 { Ok(()) } else { Err(unsupported(metadata)) }
}

fn unsupported(metadata: &TableMetadata) -> Error {
    let version = metadata.format_version();
    Error::new(
        ErrorKind::FeatureUnsupported,
        format!(
            "its format version is {version}, and rows are replaced by position deletes, which only version 2 takes; hint: \
             `mode = \"append\"` with `revision = true`, or a table of version 2"
        ),
    )
}

struct Making<'a> {
    base: &'a Table,
    uuid: Uuid,
    snapshot_id: i64,
    files: Vec<String>,
}

impl Making<'_> {
    fn path(&mut self, name: &str) -> String {
        let path = format!("{}/metadata/{name}", self.base.metadata().location());
        self.files.push(path.clone());
        path
    }

    async fn manifest(
        &mut self,
        content: ManifestContentType,
        spec_id: i32,
        files: &[&DataFile],
    ) -> Result<ManifestFile> {
        let mut writer = self.manifest_writer(content, spec_id)?;
        for file in files {
            // negative: the snapshot's own
            writer.add_file((*file).clone(), -1)?;
        }
        writer.write_manifest_file().await
    }

    fn manifest_writer(&mut self, content: ManifestContentType, spec_id: i32) -> Result<ManifestWriter> {
        let path = self.path(&format!("{}-m{}.avro", self.uuid, self.files.len()));
        let metadata = self.base.metadata();
        let spec = metadata.partition_spec_by_id(spec_id).ok_or_else(|| {
            Error::new(ErrorKind::DataInvalid, format!("the table has no partition spec {spec_id} any more"))
        })?;
        let builder = ManifestWriterBuilder::new(
            self.base.file_io().new_output(path)?,
            Some(self.snapshot_id),
            metadata.current_schema().clone(),
            spec.as_ref().clone(),
        );
        Ok(match content {
            ManifestContentType::Data => builder.build_v2_data(),
            ManifestContentType::Deletes => builder.build_v2_deletes(),
        })
    }

    async fn list(
        &mut self,
        manifests: Vec<ManifestFile>,
        parent: Option<i64>,
        sequence_number: i64,
    ) -> Result<String> {
        let path = self.path(&format!("snap-{}-0-{}.avro", self.snapshot_id, self.uuid));
        let out = self.base.file_io().new_output(&path)?.writer().await?;
        let mut writer = ManifestListWriter::v2(out, self.snapshot_id, parent, sequence_number);
        writer.add_manifests(manifests.into_iter())?;
        writer.close().await?;
        Ok(path)
    }
}

/// The manifests of the current snapshot, those that only say what was removed included.
async fn existing(base: &Table) -> Result<Vec<ManifestFile>> {
    let Some(snapshot) = base.metadata().current_snapshot() else { return Ok(Vec::new()) };
    let list = base.manifest_list_reader(snapshot).load().await?;
    let says_something = |m: &ManifestFile| m.has_added_files() || m.has_existing_files() || m.has_deleted_files();
    Ok(list.consume_entries().into_iter().filter(says_something).collect())
}

fn summary(metadata: &TableMetadata, added: &Added<'_>) -> Result<Summary> {
    let operation = match (added.data.is_empty(), added.deletes.is_empty()) {
        (_, true) => Operation::Append,
        (true, false) => Operation::Delete,
        (false, false) => Operation::Overwrite,
    };
    let mut collector = SnapshotSummaryCollector::default();
    let of_data = added.data.iter().map(|file| (added.data_spec_id, file));
    for (spec_id, file) in of_data.chain(added.deletes.iter().map(|delete| (delete.spec_id, &delete.file))) {
        if let Some(spec) = metadata.partition_spec_by_id(spec_id) {
            collector.add_file(file, metadata.current_schema().clone(), spec.clone());
        }
    }
    let mut properties = added.summary.clone();
    properties.extend(collector.build());
    let before = metadata.current_snapshot().map(|s| &s.summary().additional_properties);
    let number = |properties: Option<&HashMap<String, String>>, key: &str| -> Option<u64> {
        properties.map_or(Some(0), |p| p.get(key).map_or(Some(0), |text| text.parse().ok()))
    };
    for (total, plus) in [
        ("total-data-files", "added-data-files"),
        ("total-delete-files", "added-delete-files"),
        ("total-records", "added-records"),
        ("total-files-size", "added-files-size"),
        ("total-position-deletes", "added-position-deletes"),
        ("total-equality-deletes", "added-equality-deletes"),
    ] {
        // a former total that nobody knows makes no new one
        if before.is_some_and(|before| !before.contains_key(total)) {
            continue;
        }
        if let (Some(had), Some(adds)) = (number(before, total), number(Some(&properties), plus)) {
            properties.insert(total.to_owned(), had.saturating_add(adds).to_string());
        }
    }
    debug_assert!(added.deletes.iter().all(|d| d.file.content_type() == DataContentType::PositionDeletes));
    Ok(Summary { operation, additional_properties: properties })
}

/// How long the snapshots of `main` are kept is said by whoever looks after the table, and stays.
fn retention_of_main(metadata: &TableMetadata) -> Result<SnapshotRetention> {
    let unreadable =
        |e: serde_json::Error| Error::new(ErrorKind::DataInvalid, "the table's branch `main`").with_source(e);
    if metadata.current_snapshot_id().is_none() {
        return Ok(SnapshotRetention::branch(None, None, None));
    }
    // the crate shows references only in the metadata's own JSON
    let mut json = serde_json::to_value(metadata).map_err(unreadable)?;
    let main = json.get_mut("refs").and_then(|refs| refs.get_mut(MAIN_BRANCH)).map(serde_json::Value::take);
    match main {
        Some(main) => serde_json::from_value::<SnapshotReference>(main).map(|main| main.retention).map_err(unreadable),
        None => Ok(SnapshotRetention::branch(None, None, None)),
    }
}

fn new_snapshot_id(metadata: &TableMetadata) -> i64 {
    loop {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let id = i64::try_from((high ^ low) >> 1).unwrap_or_default();
        if id > 0 && metadata.snapshot_by_id(id).is_none() {
            return id;
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
