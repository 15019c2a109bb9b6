//! Files wherever a table says they are: local ones made durable by [`super::fs`], all others through opendal.
//!
//! A REST catalog may call its warehouse by any name, so that only a file's own location tells which store it is in.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use iceberg::Result;
use iceberg::io::{FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig, StorageFactory};
use iceberg_storage_opendal::OpenDalResolvingStorageFactory;
use serde::{Deserialize, Serialize};

use super::fs::{DurableFsFactory, local_path};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnywhereFactory {
    pub local: DurableFsFactory,
}

#[typetag::serde]
impl StorageFactory for AnywhereFactory {
    fn build(&self, config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        let local = self.local.build(config)?;
        let remote = OpenDalResolvingStorageFactory::new().build(config)?;
        Ok(Arc::new(Anywhere { local, remote }))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Anywhere {
    #[serde(with = "shared")]
    local: Arc<dyn Storage>,
    #[serde(with = "shared")]
    remote: Arc<dyn Storage>,
}

/// A storage says by its tag which one it is.
mod shared {
    use super::*;

    pub fn serialize<S: serde::Serializer>(
        storage: &Arc<dyn Storage>,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        storage.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Arc<dyn Storage>, D::Error> {
        Box::<dyn Storage>::deserialize(deserializer).map(Arc::from)
    }
}

impl Anywhere {
    fn of(&self, path: &str) -> &Arc<dyn Storage> {
        if local_path(path).is_some() { &self.local } else { &self.remote }
    }
}

#[async_trait]
#[typetag::serde]
impl Storage for Anywhere {
    async fn exists(&self, path: &str) -> Result<bool> {
        self.of(path).exists(path).await
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        self.of(path).metadata(path).await
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        self.of(path).read(path).await
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        self.of(path).reader(path).await
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.of(path).write(path, bytes).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        self.of(path).writer(path).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.of(path).delete(path).await
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        self.of(path).delete_prefix(path).await
    }

    async fn delete_stream(&self, paths: BoxStream<'static, String>) -> Result<()> {
        let (local, remote): (Vec<String>, Vec<String>) =
            paths.collect::<Vec<_>>().await.into_iter().partition(|path| local_path(path).is_some());
        self.local.delete_stream(stream::iter(local).boxed()).await?;
        self.remote.delete_stream(stream::iter(remote).boxed()).await
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        self.of(path).new_input(path)
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        self.of(path).new_output(path)
    }
}
