//! The files of a snapshot that are live, and where each belongs: its partition spec and partition.
//!
//! A file is live if a manifest that the snapshot lists has it as added or existing. Whoever rewrites a file (a compaction)
//! writes another manifest in place of the one that had it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use iceberg::Result;
use iceberg::spec::{ManifestContentType, ManifestEntryRef, ManifestFile, Struct};
use iceberg::table::Table;

/// Where a data file belongs, and so the deletes of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Home {
    pub spec_id: i32,
    pub partition: Struct,
}

/// Rows of one live data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub file: String,
    pub home: Home,
    /// ascending
    pub positions: Vec<i64>,
}

/// A live file, and the spec of its partition.
pub struct LiveFile {
    pub spec_id: i32,
    pub entry: ManifestEntryRef,
}

impl LiveFile {
    pub fn home(&self) -> Home {
        Home { spec_id: self.spec_id, partition: self.entry.data_file().partition().clone() }
    }
}

async fn manifests(table: &Table, content: ManifestContentType) -> Result<Vec<ManifestFile>> {
    let Some(snapshot) = table.metadata().current_snapshot() else { return Ok(Vec::new()) };
    let list = table.manifest_list_reader(snapshot).load().await?;
    let has_live = |m: &ManifestFile| m.has_added_files() || m.has_existing_files();
    Ok(list.consume_entries().into_iter().filter(|m| m.content == content && has_live(m)).collect())
}

async fn read(table: &Table, manifest: &ManifestFile) -> Result<Vec<LiveFile>> {
    let (entries, _) = manifest.load_manifest(table.file_io()).await?.into_parts();
    let spec_id = manifest.partition_spec_id;
    Ok(entries.into_iter().filter(|entry| entry.is_alive()).map(|entry| LiveFile { spec_id, entry }).collect())
}

/// All of them: every manifest is read.
pub async fn files(table: &Table, content: ManifestContentType) -> Result<Vec<LiveFile>> {
    let mut files = Vec::new();
    for manifest in manifests(table, content).await? {
        files.extend(read(table, &manifest).await?);
    }
    Ok(files)
}

type Listed = Arc<HashMap<String, Home>>;

/// What manifests list, kept as long as the snapshot names them: they never change.
#[derive(Default)]
pub struct Manifests {
    known: Mutex<HashMap<String, Listed>>,
}

impl Manifests {
    /// Homes of those of the wanted data files that are live. The newest manifests are looked into first, no more than needed:
    /// what changes was mostly written lately.
    pub async fn homes(&self, table: &Table, wanted: &BTreeSet<&str>) -> Result<HashMap<String, Home>> {
        let mut homes = HashMap::new();
        if wanted.is_empty() {
            return Ok(homes);
        }
        let mut manifests = manifests(table, ManifestContentType::Data).await?;
        manifests.sort_by_key(|manifest| std::cmp::Reverse(manifest.sequence_number));
        let listed: HashSet<&str> = manifests.iter().map(|m| m.manifest_path.as_str()).collect();
        self.known().retain(|path, _| listed.contains(path.as_str()));
        for manifest in &manifests {
            if homes.len() == wanted.len() {
                break;
            }
            let known = self.known().get(&manifest.manifest_path).cloned();
            let files = match known {
                Some(files) => files,
                None => {
                    let files = read(table, manifest).await?;
                    let files = files.iter().map(|file| (file.entry.file_path().to_owned(), file.home())).collect();
                    let files: Listed = Arc::new(files);
                    self.known().insert(manifest.manifest_path.clone(), files.clone());
                    files
                }
            };
            let found = wanted.iter().filter_map(|path| Some(((*path).to_owned(), files.get(*path)?.clone())));
            homes.extend(found);
        }
        Ok(homes)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Listed>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
