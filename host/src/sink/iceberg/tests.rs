//! The disasters of other Iceberg sinks, each with its own test, against a real SQLite catalog in a temporary folder.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use futures::TryStreamExt;
use iceberg::{Namespace, NamespaceIdent, TableCommit, TableCreation};
use millrace_core::batch::{Batch, RowSet};
use millrace_core::checkpoint::PositionRange;
use millrace_core::schema::{DataType, Field};

use super::*;
use crate::catalog::open_catalog;
use crate::spec::model::{CatalogKind, CatalogSpec, Evolve, PartitionField, PartitionTransform, SinkMode};

mod files;
mod upsert;

struct World {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    catalog: Arc<dyn Catalog>,
    spec: CatalogSpec,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let spec = CatalogSpec {
            name: "lake".into(),
            kind: CatalogKind::Sql,
            uri: format!("sqlite:{}", dir.path().join("catalog.db").display()),
            warehouse: format!("file://{}", dir.path().join("warehouse").display()),
            properties: BTreeMap::new(),
        };
        let catalog = runtime.block_on(open_catalog(&spec)).unwrap();
        Self { dir, runtime, catalog, spec }
    }

    fn sink_of(
        &self,
        catalog: Arc<dyn Catalog>,
        name: &str,
        spec: IcebergSinkSpec,
        schema: &Schema,
    ) -> Arc<IcebergSink> {
        let handle = self.runtime.handle().clone();
        self.runtime.block_on(IcebergSink::open("p", name, &spec, catalog, schema, handle)).unwrap()
    }

    fn sink_over(&self, catalog: Arc<dyn Catalog>, name: &str, partition_by: &[PartitionField]) -> Arc<IcebergSink> {
        self.sink_of(catalog, name, IcebergSinkSpec { partition_by: partition_by.to_vec(), ..spec() }, &schema())
    }

    fn sink(&self, name: &str) -> Arc<IcebergSink> {
        self.sink_over(self.catalog.clone(), name, &[])
    }

    fn claim(&self, sink: &IcebergSink, generation: u64, state: &SinkState) -> Result<u64> {
        self.runtime.block_on(SinkCommitter::claim(sink, &fence("a", generation), state))
    }

    fn commit(&self, sink: &IcebergSink, generation: u64, committable: &Committable) -> Result<()> {
        self.runtime.block_on(SinkCommitter::commit(sink, &fence("a", generation), committable))
    }

    fn table(&self) -> Table {
        let ident = TableIdent::new(NamespaceIdent::new("ads".into()), "t".into());
        self.runtime.block_on(self.catalog.load_table(&ident)).unwrap()
    }

    /// All rows of the table, by the crate's own scan.
    ///
    /// One data file after the other: two that share a file of position deletes can miss each other's word that it has been
    /// read, and then wait for ever (iceberg 0.10, `CachingDeleteFileLoader::load_file_for_task` awaits a `Notify` that it
    /// registers with too late).
    fn scan(&self) -> Vec<RecordBatch> {
        let table = self.table();
        let scan = table.scan().with_data_file_concurrency_limit(1).build().unwrap();
        self.runtime.block_on(async { scan.to_arrow().await?.try_collect().await }).unwrap()
    }

    /// all ids in the table, sorted
    fn ids(&self) -> Vec<i64> {
        let batches = self.scan();
        let mut ids: Vec<i64> = batches
            .iter()
            .flat_map(|b| b.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec())
            .collect();
        ids.sort_unstable();
        ids
    }
}

fn spec() -> IcebergSinkSpec {
    IcebergSinkSpec {
        catalog: "lake".into(),
        namespace: "ads".into(),
        table: "t".into(),
        partition_by: Vec::new(),
        evolve: Evolve::Fail,
        mode: SinkMode::Append { revision: false },
        commit_interval_ms: 1,
        properties: BTreeMap::new(),
    }
}

fn by(column: &str, transform: PartitionTransform) -> PartitionField {
    PartitionField { column: column.into(), transform }
}

fn fence(incarnation: &str, generation: u64) -> Fence {
    Fence { incarnation: incarnation.into(), generation }
}

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Long, false),
        Field::new("campaign", DataType::String, true),
        Field::new("at", DataType::Timestamptz, false),
        Field::new("payload", DataType::Binary, true),
    ])
}

fn rows(ids: std::ops::Range<i64>) -> RowSet {
    let n = usize::try_from(ids.end - ids.start).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(StringArray::from_iter(ids.clone().map(|i| (i % 5 != 0).then(|| format!("c{}", i % 3))))),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(ids.clone().map(|i| i * 3_600_000_000))
                .with_data_type(DataType::Timestamptz.to_arrow()),
        ),
        Arc::new(BinaryArray::from_iter(ids.clone().map(|i| (i % 2 == 0).then(|| vec![1_u8, 2, 255])))),
    ];
    RowSet::all(Batch {
        rows: RecordBatch::try_new(schema().to_arrow(), columns).unwrap(),
        event_time_ms: vec![0; n].into(),
        origin: None,
        changes: None,
    })
}

fn prepared(sink: &IcebergSink, checkpoint: u64, predecessor: u64, ids: std::ops::Range<i64>) -> Committable {
    let mut writer = sink.writer(0, false);
    writer.write(&rows(ids)).unwrap();
    let prepared = writer.prepare(checkpoint).unwrap();
    Committable {
        checkpoint,
        predecessor,
        files: prepared.files,
        rows: prepared.rows,
        positions: Vec::new(),
        windows_ms: None,
        plugins: BTreeMap::new(),
    }
}

fn confirmed(confirmed: u64) -> SinkState {
    SinkState { confirmed, ..SinkState::default() }
}

#[test]
fn partitioned_rows_come_back_and_every_partition_has_its_own_file() {
    let world = World::new();
    let sink = world.sink_over(
        world.catalog.clone(),
        "s",
        &[
            by("campaign", PartitionTransform::Identity),
            by("at", PartitionTransform::Day),
            by("id", PartitionTransform::Bucket(4)),
        ],
    );
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    let committable = prepared(&sink, 1, 0, 0..100);
    assert!(committable.files.len() > 4 * 3);
    world.commit(&sink, 1, &committable).unwrap();
    assert_eq!(world.ids(), (0..100).collect::<Vec<_>>());
}

#[test]
fn small_files_are_joined_and_removed_once_the_commit_is_in() {
    let world = World::new();
    let sink = world.sink("s");
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    let mut files = Vec::new();
    for (checkpoint, ids) in [(1, 0..10), (2, 10..20), (3, 20..30)] {
        files.extend(prepared(&sink, checkpoint, 0, ids).files);
    }
    let joined = world.runtime.block_on(SinkCommitter::join(&*sink, 3, files)).unwrap();
    assert_eq!(joined.len(), 1);
    let data = || {
        let entries = std::fs::read_dir(world.dir.path().join("warehouse/ads/t/data")).unwrap();
        entries.count()
    };
    assert_eq!(data(), 4);
    let committable = Committable { files: joined, ..prepared(&sink, 3, 0, 0..0) };
    world.commit(&sink, 1, &committable).unwrap();
    assert_eq!(world.ids(), (0..30).collect::<Vec<_>>());
    assert_eq!(data(), 1);
}

/// apache/iceberg #16008, #2808: the answer is lost, the process starts again.
#[test]
fn a_commit_whose_answer_was_lost_is_found_and_not_repeated() {
    let world = World::new();
    let sink = world.sink("s");
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    let one = prepared(&sink, 1, 0, 0..10);
    world.commit(&sink, 1, &one).unwrap();
    // the next process knows it as pending
    let again = world.sink("s");
    let state = SinkState { pending: vec![one.clone()], ..SinkState::default() };
    assert_eq!(world.claim(&again, 2, &state).unwrap(), 1);
    world.commit(&again, 2, &one).unwrap();
    assert_eq!(world.ids(), (0..10).collect::<Vec<_>>());
}

#[test]
fn two_committers_of_one_checkpoint_land_it_once() {
    let world = World::new();
    let (a, b) = (world.sink("s"), world.sink("s"));
    world.claim(&a, 1, &SinkState::default()).unwrap();
    for checkpoint in 1..=10_u64 {
        let from = i64::try_from(checkpoint).unwrap() * 10;
        let c = prepared(&a, checkpoint, checkpoint - 1, from..from + 10);
        let f = fence("a", 1);
        let (x, y) = world
            .runtime
            .block_on(async { futures::join!(SinkCommitter::commit(&*a, &f, &c), SinkCommitter::commit(&*b, &f, &c)) });
        x.unwrap();
        y.unwrap();
    }
    assert_eq!(world.ids(), (10..110).collect::<Vec<_>>());
}

#[test]
fn two_sinks_of_a_pipeline_share_a_table() {
    let world = World::new();
    let (a, b) = (world.sink("a"), world.sink("b"));
    world.claim(&a, 1, &SinkState::default()).unwrap();
    world.claim(&b, 1, &SinkState::default()).unwrap();
    let (x, y) = (prepared(&a, 1, 0, 0..10), prepared(&b, 1, 0, 10..20));
    let f = fence("a", 1);
    let (rx, ry) = world
        .runtime
        .block_on(async { futures::join!(SinkCommitter::commit(&*a, &f, &x), SinkCommitter::commit(&*b, &f, &y)) });
    rx.unwrap();
    ry.unwrap();
    assert_eq!(world.ids(), (0..20).collect::<Vec<_>>());
}

/// The fence holds only if whatever moves the claim also moves the snapshot.
#[test]
fn a_claim_is_a_snapshot_without_rows_and_carries_the_property() {
    let world = World::new();
    let sink = world.sink("s");
    let look = || {
        let table = world.table();
        let snapshot = table.metadata().current_snapshot().cloned();
        (table.metadata().properties().get("millrace.p.s").cloned(), snapshot)
    };
    assert_eq!(look(), (None, None));
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    let (property, first) = look();
    assert_eq!(property.unwrap(), r#"{"incarnation":"a","generation":1,"checkpoint":0}"#);
    let first = first.unwrap();
    let summary = &first.summary().additional_properties;
    assert_eq!(summary.get("millrace.event").unwrap(), "claim");
    assert_eq!(summary.get("millrace.generation").unwrap(), "1");
    assert!(!summary.contains_key("added-data-files") && !summary.contains_key("millrace.checkpoint"), "{summary:?}");
    // the run that has it needs no second one
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    assert_eq!(look().1.unwrap().snapshot_id(), first.snapshot_id());
    world.commit(&sink, 1, &prepared(&sink, 1, 0, 0..10)).unwrap();
    let rows = look().1.unwrap();
    world.claim(&sink, 2, &confirmed(1)).unwrap();
    let (property, second) = look();
    assert_eq!(property.unwrap(), r#"{"incarnation":"a","generation":2,"checkpoint":1}"#);
    assert_eq!(second.unwrap().parent_snapshot_id(), Some(rows.snapshot_id()));
    assert_eq!(world.ids(), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_zombie_is_fenced_and_writes_nothing() {
    let world = World::new();
    let old = world.sink("s");
    world.claim(&old, 1, &SinkState::default()).unwrap();
    let new = world.sink("s");
    world.claim(&new, 2, &SinkState::default()).unwrap();
    let error = world.commit(&old, 1, &prepared(&old, 1, 0, 0..10)).unwrap_err().to_string();
    assert!(error.contains("fenced"), "{error}");
    world.commit(&new, 2, &prepared(&new, 1, 0, 50..60)).unwrap();
    assert_eq!(world.ids(), (50..60).collect::<Vec<_>>());
}

/// apache/iceberg #18098, #10892: an emptied state folder, a rewind to an older checkpoint.
#[test]
fn another_incarnation_and_an_older_checkpoint_are_refused_with_choices() {
    let world = World::new();
    let sink = world.sink("s");
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    world.commit(&sink, 1, &prepared(&sink, 1, 0, 0..10)).unwrap();
    world.commit(&sink, 1, &prepared(&sink, 2, 1, 10..20)).unwrap();
    let other =
        world.runtime.block_on(SinkCommitter::claim(&*sink, &fence("b", 1), &SinkState::default())).unwrap_err();
    assert!(other.to_string().contains("another incarnation") && other.to_string().contains("choices"), "{other}");
    let rewound = world.claim(&sink, 2, &confirmed(1)).unwrap_err().to_string();
    assert!(rewound.contains("checkpoint 2") && rewound.contains("choices"), "{rewound}");
    let behind = world.claim(&sink, 2, &confirmed(3)).unwrap_err().to_string();
    assert!(behind.contains("checkpoint 3 was confirmed"), "{behind}");
    assert_eq!(world.claim(&sink, 2, &confirmed(2)).unwrap(), 2);
}

/// apache/iceberg #5846: the marker survives the expiry of its snapshot.
#[test]
fn the_claim_outlives_expired_snapshots() {
    use iceberg::transaction::{ApplyTransactionAction, Transaction};
    let world = World::new();
    let sink = world.sink("s");
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    world.commit(&sink, 1, &prepared(&sink, 1, 0, 0..10)).unwrap();
    world.commit(&sink, 1, &prepared(&sink, 2, 1, 10..20)).unwrap();
    // a stranger's commit, so that none of ours is the current one, then everything old goes
    let expire = async {
        let table = world.catalog.load_table(&sink.ident).await?;
        let tx = Transaction::new(&table);
        let other = HashMap::from([("stranger".to_owned(), "1".to_owned())]);
        let tx = tx.fast_append().set_snapshot_properties(other).apply(tx)?;
        let table = tx.commit(&*world.catalog).await?;
        let tx = Transaction::new(&table);
        let tx = tx.expire_snapshots().expire_older_than_ms(i64::MAX).retain_last(1).apply(tx)?;
        tx.commit(&*world.catalog).await
    };
    assert_eq!(world.runtime.block_on(expire).unwrap().metadata().snapshots().len(), 1);
    assert_eq!(world.claim(&sink, 2, &confirmed(2)).unwrap(), 2);
    world.commit(&sink, 2, &prepared(&sink, 3, 2, 20..30)).unwrap();
    assert_eq!(world.ids(), (0..30).collect::<Vec<_>>());
}

/// Answers `Ok` to the first commits without applying them, as the SQL catalog does when its COMMIT fails.
#[derive(Debug)]
struct Swallows {
    inner: Arc<dyn Catalog>,
    left: AtomicU32,
}

#[async_trait]
impl Catalog for Swallows {
    async fn update_table(&self, commit: TableCommit) -> iceberg::Result<Table> {
        let take = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if take.is_ok() {
            self.inner.load_table(commit.identifier()).await
        } else {
            self.inner.update_table(commit).await
        }
    }
    async fn load_table(&self, t: &TableIdent) -> iceberg::Result<Table> {
        self.inner.load_table(t).await
    }
    async fn list_namespaces(&self, p: Option<&NamespaceIdent>) -> iceberg::Result<Vec<NamespaceIdent>> {
        self.inner.list_namespaces(p).await
    }
    async fn create_namespace(&self, n: &NamespaceIdent, p: HashMap<String, String>) -> iceberg::Result<Namespace> {
        self.inner.create_namespace(n, p).await
    }
    async fn get_namespace(&self, n: &NamespaceIdent) -> iceberg::Result<Namespace> {
        self.inner.get_namespace(n).await
    }
    async fn namespace_exists(&self, n: &NamespaceIdent) -> iceberg::Result<bool> {
        self.inner.namespace_exists(n).await
    }
    async fn update_namespace(&self, n: &NamespaceIdent, p: HashMap<String, String>) -> iceberg::Result<()> {
        self.inner.update_namespace(n, p).await
    }
    async fn drop_namespace(&self, n: &NamespaceIdent) -> iceberg::Result<()> {
        self.inner.drop_namespace(n).await
    }
    async fn list_tables(&self, n: &NamespaceIdent) -> iceberg::Result<Vec<TableIdent>> {
        self.inner.list_tables(n).await
    }
    async fn create_table(&self, n: &NamespaceIdent, c: TableCreation) -> iceberg::Result<Table> {
        self.inner.create_table(n, c).await
    }
    async fn drop_table(&self, t: &TableIdent) -> iceberg::Result<()> {
        self.inner.drop_table(t).await
    }
    async fn purge_table(&self, t: &TableIdent) -> iceberg::Result<()> {
        self.inner.purge_table(t).await
    }
    async fn table_exists(&self, t: &TableIdent) -> iceberg::Result<bool> {
        self.inner.table_exists(t).await
    }
    async fn rename_table(&self, a: &TableIdent, b: &TableIdent) -> iceberg::Result<()> {
        self.inner.rename_table(a, b).await
    }
    async fn register_table(&self, t: &TableIdent, l: String) -> iceberg::Result<Table> {
        self.inner.register_table(t, l).await
    }
}

#[test]
fn a_yes_that_was_not_meant_is_noticed_and_repeated() {
    let world = World::new();
    let swallows = Arc::new(Swallows { inner: world.catalog.clone(), left: AtomicU32::new(0) });
    let sink = world.sink_over(swallows.clone(), "s", &[]);
    swallows.left.store(1, Ordering::SeqCst);
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    swallows.left.store(2, Ordering::SeqCst);
    world.commit(&sink, 1, &prepared(&sink, 1, 0, 0..10)).unwrap();
    assert_eq!(world.ids(), (0..10).collect::<Vec<_>>());
}

/// The crate loses the retention of `main` at every append: whoever relies on it is warned.
#[test]
fn a_retention_that_commits_would_lose_is_seen() {
    let world = World::new();
    let sink = world.sink("s");
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    let table = world.table();
    assert_eq!(commit::retention_of_main(table.metadata()), None);
    let mut json = serde_json::to_value(table.metadata()).unwrap();
    json["refs"]["main"]["min-snapshots-to-keep"] = 5.into();
    let kept = serde_json::from_value(json).unwrap();
    assert_eq!(commit::retention_of_main(&kept).unwrap(), "min-snapshots-to-keep = 5");
}

/// More partitions than a summary should hold: their positions are in a file, one per commit whatever it takes.
#[test]
fn the_positions_of_many_partitions_are_written_once() {
    let world = World::new();
    let swallows = Arc::new(Swallows { inner: world.catalog.clone(), left: AtomicU32::new(0) });
    let sink = world.sink_over(swallows.clone(), "s", &[]);
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    let positions: Vec<PositionRange> = (0..100)
        .map(|partition| PositionRange { source: "e".into(), topic: "t".into(), partition, from: 0, to: 1 })
        .collect();
    swallows.left.store(2, Ordering::SeqCst);
    world.commit(&sink, 1, &Committable { positions: positions.clone(), ..prepared(&sink, 1, 0, 0..10) }).unwrap();
    let table = world.table();
    let summary = &table.metadata().current_snapshot().unwrap().summary().additional_properties;
    let named = summary.get("millrace.positions-file").unwrap();
    let text = std::fs::read(named.strip_prefix("file://").unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Vec<PositionRange>>(&text).unwrap(), positions);
    let metadata = std::fs::read_dir(world.dir.path().join("warehouse/ads/t/metadata")).unwrap();
    let files = metadata.filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().contains("millrace-positions"));
    assert_eq!(files.count(), 1);
}
