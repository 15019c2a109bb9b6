//! A local folder as an object store whose answers survive a power cut.
//!
//! `LocalFileSystem` never shows a half-written file to another process, but it does not sync. Here a write is answered
//! only when the file and the folders that name it are on disk. A power cut before the answer may leave a file with the
//! wrong bytes: everything that is read back is verified by a checksum, and nothing was promised yet.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

#[derive(Debug)]
pub(super) struct DurableFolder {
    inner: LocalFileSystem,
    folder: Arc<PathBuf>,
    /// written, but not known to be on disk: a sync failed, or its caller gave up
    unsynced: Mutex<HashSet<Path>>,
}

impl DurableFolder {
    /// `folder` must exist.
    pub fn new(folder: &std::path::Path) -> Result<Self> {
        let folder = folder.canonicalize().map_err(|e| generic(Box::new(e)))?;
        if let Some(above) = folder.parent() {
            // the folder itself may be new
            File::open(above).and_then(|f| f.sync_all()).map_err(|e| generic(Box::new(e)))?;
        }
        let inner = LocalFileSystem::new_with_prefix(&folder)?;
        Ok(Self { inner, folder: Arc::new(folder), unsynced: Mutex::default() })
    }
}

impl DurableFolder {
    fn unsynced(&self) -> MutexGuard<'_, HashSet<Path>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "LocalFileSystem", source }
}

/// Syncs a file, and every folder between it and the root: a new name is as good as lost until its folder is on disk.
async fn sync(inner: &LocalFileSystem, folder: &Arc<PathBuf>, location: &Path) -> Result<()> {
    let file = inner.path_to_filesystem(location)?;
    let root = Arc::clone(folder);
    tokio::task::spawn_blocking(move || {
        File::open(&file)?.sync_all()?;
        for above in file.ancestors().skip(1).take_while(|above| above.starts_with(&*root)) {
            File::open(above)?.sync_all()?;
        }
        Ok::<_, std::io::Error>(())
    })
    .await
    .map_err(|e| generic(Box::new(e)))?
    .map_err(|e| generic(Box::new(e)))
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.unsynced().insert(location.clone());
        let put = self.inner.put_opts(location, payload, opts).await;
        if put.is_ok() {
            sync(&self.inner, &self.folder, location).await?;
        }
        self.unsynced().remove(location);
        put
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        let inner = LocalFileSystem::new_with_prefix(&*self.folder)?;
        Ok(Box::new(DurableUpload { upload, inner, folder: Arc::clone(&self.folder), location: location.clone() }))
    }

    /// What is read is on disk: whoever looks after a failed write must not take it for done.
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.unsynced().contains(location) && self.inner.head(location).await.is_ok() {
            sync(&self.inner, &self.folder, location).await?;
            self.unsynced().remove(location);
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        sync(&self.inner, &self.folder, to).await
    }
}

#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    inner: LocalFileSystem,
    folder: Arc<PathBuf>,
    location: Path,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let put = self.upload.complete().await?;
        sync(&self.inner, &self.folder, &self.location).await?;
        Ok(put)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
