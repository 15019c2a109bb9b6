//! The checkpoint location as a process reaches it. The real [`CheckpointStore`](crate::checkpoint::CheckpointStore)
//! works on it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::process::Process;
use super::script::Place;
use super::world::lock;
use crate::checkpoint::decode_record;

pub struct Location {
    pub process: Arc<Process>,
}

/// The memory store never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory answers at once")
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Location")
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulation")
    }
}

#[async_trait]
impl ObjectStore for Location {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.process.dawdle_async().await;
        let world = &self.process.world;
        let is_record = matches!(options.mode, PutMode::Create);
        let bytes = Bytes::from(payload.clone());
        let put = || {
            let put = now(world.store.put_opts(path, payload, options));
            if put.is_ok()
                && let Ok(record) = decode_record(&bytes)
            {
                lock(&world.published).push(record);
            }
            put
        };
        self.process.risky_step(if is_record { Place::LogPut } else { Place::StatePut }, put)?
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.process.dawdle_async().await;
        self.process.risky_step(Place::StoreRead, || now(self.process.world.store.get_opts(path, options)))?
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.process.risky_step(Place::StoreRead, || self.process.world.store.list(prefix)) {
            Ok(listed) => listed,
            Err(trouble) => futures::stream::once(async move { Err(trouble.into()) }).boxed(),
        }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let process = Arc::clone(&self.process);
        paths
            .map(move |path| {
                let path = path?;
                process.risky_step(Place::Delete, || now(process.world.store.delete(&path)))??;
                Ok(path)
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "list_with_delimiter".into(), implementer: "simulation".into() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "put_multipart".into(), implementer: "simulation".into() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "simulation".into() })
    }
}
