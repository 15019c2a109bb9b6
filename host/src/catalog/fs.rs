//! Local files for Iceberg that survive a power failure.
//!
//! The crate's own local storage writes `metadata.json` without fsync, while SQLite's pointer to it *is* durable: after a
//! crash the table could be unreadable. Here a file is written beside its place, synced, renamed, and the folders that
//! name it are synced, up to the root that the storage was made for and never above.
//!
//! Data files come by the thousand, and nothing names them before a checkpoint does. A storage made by
//! [`DurableFs::deferred`] writes them without a sync and remembers them; [`DurableFs::sync`] makes all of them durable.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use iceberg::io::{
    FileMetadata, FileRead, FileWrite, InputFile, LocalFsStorage, OutputFile, Storage, StorageConfig, StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// More files than this are made durable together by one `syncfs` instead of one fsync each.
const FSYNC_EACH_MAX: usize = 16;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DurableFsFactory {
    /// the warehouse, where it is a local folder
    pub root: Option<PathBuf>,
}

#[typetag::serde]
impl StorageFactory for DurableFsFactory {
    fn build(&self, _config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(DurableFs { root: self.root.clone(), ..DurableFs::default() }))
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DurableFs {
    inner: LocalFsStorage,
    root: Option<PathBuf>,
    /// whole files that no sync has reached yet; none: every file is synced when it is closed
    #[serde(skip)]
    unsynced: Option<Arc<Mutex<BTreeSet<PathBuf>>>>,
}

impl DurableFs {
    /// Files written to it are durable after the next [`Self::sync`] only. `root` must be durable itself.
    pub fn deferred(root: PathBuf) -> Self {
        Self { root: Some(root), unsynced: Some(Arc::default()), ..Self::default() }
    }

    /// Makes all files that have been closed so far durable, those of other clones too.
    pub fn sync(&self) -> io::Result<()> {
        let Some(unsynced) = &self.unsynced else { return Ok(()) };
        // Held until all is on disk: whoever finds the list empty may rely on it.
        let mut unsynced = unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        sync_files(&unsynced, self.root.as_deref())?;
        unsynced.clear();
        Ok(())
    }

    /// Files that the next [`Self::sync`] has to reach.
    pub fn unsynced(&self) -> usize {
        self.unsynced.as_ref().map_or(0, |files| files.lock().unwrap_or_else(PoisonError::into_inner).len())
    }
}

/// The path of a `file:` location or of one without a scheme; `None` for any other store.
pub fn local_path(location: &str) -> Option<PathBuf> {
    if let Some(rest) = location.strip_prefix("file:") {
        return Some(PathBuf::from(format!("/{}", rest.trim_start_matches('/'))));
    }
    location.starts_with('/').then(|| PathBuf::from(location))
}

fn path_of(location: &str) -> Result<PathBuf> {
    local_path(location)
        .ok_or_else(|| Error::new(ErrorKind::DataInvalid, format!("`{location}` is not an absolute local path")))
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Unexpected, format!("cannot {what} {}: {error}", path.display())).with_source(error)
}

/// Creates a folder and those above it that are missing; their names are durable when it returns.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(folder)?;
    for above in missing.iter().filter_map(|made| made.parent()) {
        fs::File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// The folders whose sync makes the name of `path` durable: its own, and those above it that an earlier process may
/// have made without living to sync them.
fn naming<'a>(path: &'a Path, root: Option<&'a Path>) -> impl Iterator<Item = &'a Path> {
    let below_root = move |folder: &Path| root.is_some_and(|root| folder.starts_with(root));
    path.ancestors().skip(1).enumerate().take_while(move |(i, folder)| *i == 0 || below_root(folder)).map(|(_, f)| f)
}

fn sync_names(path: &Path, root: Option<&Path>) -> io::Result<()> {
    naming(path, root).try_for_each(|folder| fs::File::open(folder)?.sync_all())
}

fn sync_files(paths: &BTreeSet<PathBuf>, root: Option<&Path>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if paths.len() > FSYNC_EACH_MAX
        && let Some(first) = paths.first()
    {
        use std::os::fd::AsRawFd;
        let file = fs::File::open(first)?;
        // SAFETY: the descriptor is open for the whole call.
        let answer = unsafe { libc::syncfs(file.as_raw_fd()) };
        return if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    }
    for path in paths {
        fs::File::open(path)?.sync_all()?;
    }
    let folders: BTreeSet<&Path> = paths.iter().flat_map(|path| naming(path, root)).collect();
    folders.into_iter().try_for_each(|folder| fs::File::open(folder)?.sync_all())
}

struct DurableWrite {
    file: Option<fs::File>,
    path: PathBuf,
    storage: DurableFs,
}

#[async_trait]
impl FileWrite for DurableWrite {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(file) = self.file.as_mut() else {
            return Err(Error::new(ErrorKind::DataInvalid, format!("{} is closed already", self.path.display())));
        };
        file.write_all(&bytes).map_err(|e| failed("write", &self.path, e))
    }

    async fn close(&mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        if let Some(unsynced) = &self.storage.unsynced {
            unsynced.lock().unwrap_or_else(PoisonError::into_inner).insert(self.path.clone());
            return Ok(());
        }
        file.sync_all()
            .and_then(|()| sync_names(&self.path, self.storage.root.as_deref()))
            .map_err(|e| failed("sync", &self.path, e))
    }
}

#[async_trait]
#[typetag::serde]
impl Storage for DurableFs {
    async fn exists(&self, path: &str) -> Result<bool> {
        self.inner.exists(path).await
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        self.inner.metadata(path).await
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        self.inner.read(path).await
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        self.inner.reader(path).await
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let path = path_of(path)?;
        if let Some(parent) = path.parent() {
            create_folder(parent).map_err(|e| failed("create", parent, e))?;
        }
        let mut beside = path.clone().into_os_string();
        beside.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
        let beside = PathBuf::from(beside);
        let written = fs::File::create(&beside)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| sync_names(&path, self.root.as_deref()));
        written.map_err(|e| {
            // best effort: what is left would only be an orphan beside the real file
            drop(fs::remove_file(&beside));
            failed("write", &path, e)
        })
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let path = path_of(path)?;
        let file = match (fs::File::create(&path), path.parent()) {
            (Err(e), Some(parent)) if e.kind() == io::ErrorKind::NotFound => {
                let made = if self.unsynced.is_some() { fs::create_dir_all(parent) } else { create_folder(parent) };
                made.map_err(|e| failed("create", parent, e))?;
                fs::File::create(&path)
            }
            (file, _) => file,
        };
        let file = file.map_err(|e| failed("create", &path, e))?;
        Ok(Box::new(DurableWrite { file: Some(file), path, storage: self.clone() }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        if let (Some(unsynced), Some(path)) = (&self.unsynced, local_path(path)) {
            unsynced.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
        }
        self.inner.delete(path).await
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        self.inner.delete_prefix(path).await
    }

    async fn delete_stream(&self, paths: BoxStream<'static, String>) -> Result<()> {
        self.inner.delete_stream(paths).await
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_synced_up_to_the_root_and_never_above() {
        let path = Path::new("/srv/lake/ads/t/data/day=1/x.parquet");
        let folders = |root| naming(path, root).map(|f| f.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            folders(Some(Path::new("/srv/lake/ads"))),
            ["/srv/lake/ads/t/data/day=1", "/srv/lake/ads/t/data", "/srv/lake/ads/t", "/srv/lake/ads"]
        );
        assert_eq!(folders(Some(Path::new("/srv/lak"))), ["/srv/lake/ads/t/data/day=1"]);
        assert_eq!(folders(None), ["/srv/lake/ads/t/data/day=1"]);
    }

    #[tokio::test]
    async fn deferred_files_are_remembered_until_a_sync_has_reached_them() {
        let dir = tempfile::tempdir().unwrap();
        let storage = DurableFs::deferred(dir.path().to_owned());
        let write = async |name: &str| {
            let path = dir.path().join(name);
            let mut writer = storage.writer(path.to_str().unwrap()).await.unwrap();
            writer.write(Bytes::from_static(b"rows")).await.unwrap();
            writer.close().await.unwrap();
            path
        };
        write("a/b/1").await;
        assert_eq!(storage.unsynced(), 1);
        storage.clone().sync().unwrap();
        assert_eq!(storage.unsynced(), 0);
        // a sync that fails has not reached anything
        let lost = write("a/2").await;
        fs::remove_file(&lost).unwrap();
        storage.sync().unwrap_err();
        assert_eq!(storage.unsynced(), 1);
        write("a/2").await;
        storage.sync().unwrap();
        // more than are synced one by one
        for i in 0..=FSYNC_EACH_MAX {
            write(&format!("many/{i}")).await;
        }
        storage.sync().unwrap();
        assert_eq!(storage.unsynced(), 0);
    }
}
