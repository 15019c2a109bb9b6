//! Local files for Iceberg that survive a power failure.
//!
//! The crate's own local storage writes `metadata.json` without fsync, while SQLite's pointer to it *is* durable: after a
//! crash the table could be unreadable. Here a file is written beside its place, synced, renamed, and its folder synced.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DurableFsFactory;

#[typetag::serde]
impl StorageFactory for DurableFsFactory {
    fn build(&self, _config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(DurableFs::default()))
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DurableFs {
    inner: LocalFsStorage,
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

/// Syncs the folder and every folder above it that may be new.
pub fn sync_folders(path: &Path) -> io::Result<()> {
    // table folders are at most: warehouse / namespace / table / data / partitions…
    for folder in path.ancestors().skip(1).take(6) {
        if folder.parent().is_some() {
            fs::File::open(folder)?.sync_all()?;
        }
    }
    Ok(())
}

/// Makes files that were written without fsync durable, with the folders they are in.
pub fn sync_files(paths: &[PathBuf]) -> io::Result<()> {
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
    let mut folders = std::collections::BTreeSet::new();
    for path in paths {
        fs::File::open(path)?.sync_all()?;
        if let Some(folder) = path.parent()
            && folders.insert(folder.to_path_buf())
        {
            sync_folders(path)?;
        }
    }
    Ok(())
}

struct DurableWrite {
    file: Option<fs::File>,
    path: PathBuf,
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
        if let Some(file) = self.file.take() {
            file.sync_all().map_err(|e| failed("sync", &self.path, e))?;
            sync_folders(&self.path).map_err(|e| failed("sync the folder of", &self.path, e))?;
        }
        Ok(())
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
            fs::create_dir_all(parent).map_err(|e| failed("create", parent, e))?;
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
            .and_then(|()| sync_folders(&path));
        written.map_err(|e| {
            // best effort: what is left would only be an orphan beside the real file
            drop(fs::remove_file(&beside));
            failed("write", &path, e)
        })
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let path = path_of(path)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| failed("create", parent, e))?;
        }
        let file = fs::File::create(&path).map_err(|e| failed("create", &path, e))?;
        Ok(Box::new(DurableWrite { file: Some(file), path }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
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
