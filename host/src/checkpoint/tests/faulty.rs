//! An object store that misbehaves the way real ones do: seeded, so that a failing run can be repeated.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Debug)]
pub struct Faulty {
    pub inner: InMemory,
    random: AtomicU64,
    /// of 100 operations, how many meet a fault
    percent: AtomicU64,
    /// of all faults met
    pub met: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// nothing happened
    Before,
    /// it happened, the answer is lost
    After,
    /// it happened twice: a conditional PUT repeated by the client loses against itself
    LostToItself,
}

impl Faulty {
    pub fn new(seed: u64, percent: u64) -> Self {
        Self {
            inner: InMemory::new(),
            random: AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            percent: AtomicU64::new(percent),
            met: AtomicU64::new(0),
        }
    }

    pub fn heal(&self) {
        self.percent.store(0, Ordering::SeqCst);
    }

    fn next(&self) -> u64 {
        let step = |mut x: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        let former = self.random.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| Some(step(x)));
        step(former.expect("always some")) >> 11
    }

    fn draw(&self) -> Option<Fault> {
        if self.next() % 100 >= self.percent.load(Ordering::SeqCst) {
            return None;
        }
        self.met.fetch_add(1, Ordering::SeqCst);
        Some([Fault::Before, Fault::After, Fault::LostToItself][(self.next() % 3) as usize])
    }

    /// Slow answers: other tasks get their turn in between.
    async fn dawdle(&self) {
        for _ in 0..self.next() % 4 {
            tokio::task::yield_now().await;
        }
    }

    /// Changes an object behind everybody's back.
    pub async fn damage(&self, path: &str, how: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let path = Path::from(path);
        let bytes: Bytes = self.inner.get(&path).await.expect("is there").bytes().await.expect("bytes");
        self.inner.put(&path, PutPayload::from(how(bytes.to_vec()))).await.expect("memory");
    }
}

fn broken() -> Error {
    Error::Generic { store: "Faulty", source: "connection reset".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.dawdle().await;
        let create = matches!(opts.mode, PutMode::Create);
        let fault = self.draw();
        if matches!(fault, Some(Fault::Before)) {
            return Err(broken());
        }
        let result = self.inner.put_opts(location, payload, opts).await;
        self.dawdle().await;
        match fault {
            None => result,
            // only a conditional put can lose against itself
            Some(Fault::LostToItself) if create => {
                Err(Error::AlreadyExists { path: location.to_string(), source: "412".into() })
            }
            Some(_) => Err(broken()),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.dawdle().await;
        if self.draw().is_some() { Err(broken()) } else { self.inner.get_opts(location, options).await }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.draw() {
            None => self.inner.delete_stream(locations),
            Some(Fault::Before) => futures::stream::once(async { Err(broken()) }).boxed(),
            Some(_) => {
                let applied = self.inner.delete_stream(locations);
                applied.map(|_| Err(broken())).boxed()
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.draw().is_some() {
            return futures::stream::once(async { Err(broken()) }).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
