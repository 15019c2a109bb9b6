//! The store against misbehaving object stores, racing claimers, zombies and damage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::builder::{Float64Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;
use faulty::Faulty;
use millrace_core::checkpoint::{
    Checkpoint, Committable, Keep, OperatorState, Refusal, SinkState, StateFile, state_file_schema,
};
use millrace_core::commit::Claim;
use millrace_core::schema::{DataType, Field, Schema, UTC};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::*;

mod faulty;

const QUICK: Backoff = Backoff { tries_max: 40, first_pause_ms: 0, pause_max_ms: 1 };

fn newest(checkpoints: usize) -> Keep {
    Keep { checkpoints, versions: 1 }
}

fn over(store: Arc<dyn ObjectStore>) -> CheckpointStore {
    CheckpointStore::with_store(store, "some/prefix", "p").with_backoff(QUICK)
}

fn part(operator: &str, marker: i64) -> StatePart {
    let batch =
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![marker])) as ArrayRef)]).expect("a batch");
    StatePart {
        holds: Default::default(),
        part: 0,
        operator: operator.into(),
        first_key_group: 0,
        last_key_group: 63,
        window_start_ms: 0,
        window_end_ms: 300_000,
        batches: vec![batch],
    }
}

async fn upload(store: &CheckpointStore, number: u64, marker: i64) -> StateFile {
    let encoded = encode_state(&part("metrics", marker)).expect("encodes");
    store.upload_state(number, encoded).await.expect("uploads")
}

fn checkpoint(files: Vec<StateFile>, confirmed: u64, pending: &[u64]) -> Checkpoint {
    let committable = |n: &u64| Committable {
        checkpoint: *n,
        predecessor: 0,
        files: vec![serde_json::json!({"path": "data/x.parquet"})],
        rows: 1,
        positions: vec![],
        windows_ms: Some((0, 1)),
        plugins: BTreeMap::new(),
    };
    let sink = SinkState { confirmed, pending: pending.iter().map(committable).collect(), ..SinkState::default() };
    Checkpoint {
        operators: [("metrics".to_owned(), OperatorState { files, ..OperatorState::default() })].into(),
        sinks: [("s".to_owned(), sink)].into(),
        ..Checkpoint::default()
    }
}

async fn publish(store: &CheckpointStore, owner: &mut Owner, checkpoint: Checkpoint) -> Result<u64> {
    let record = store.checkpoint_record(owner, checkpoint, 1_000);
    store.publish_checkpoint(owner, &record).await
}

fn table(incarnation: &str, checkpoint: u64) -> (String, Claim) {
    ("ads.t".into(), Claim { incarnation: incarnation.into(), generation: 1, checkpoint })
}

/// The state of a claimed checkpoint, as the markers in its files.
async fn restored_markers(store: &CheckpointStore, claimed: &Claimed) -> Vec<i64> {
    let mut markers = Vec::new();
    let Some(record) = &claimed.restored else { return markers };
    for file in record.checkpoint().expect("a checkpoint").state_files() {
        for batch in store.read_state_file(file).await.expect("whole") {
            let column = batch.column(0).as_any().downcast_ref::<Int64Array>().expect("longs");
            markers.extend(column.values().iter().copied());
        }
    }
    markers
}

#[tokio::test]
async fn a_pipeline_starts_checkpoints_and_is_taken_over() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = over(memory.clone());
    let mut first = store.claim(&[], 1).await.expect("claims");
    assert_eq!((first.number, first.generation, first.restored.is_none()), (1, 1, true));
    let file = upload(&store, first.owner.next_number(), 7).await;
    assert!(file.path.starts_with("state/metrics/00000000000000000002-"), "{}", file.path);
    let number = publish(&store, &mut first.owner, checkpoint(vec![file], 0, &[2])).await.expect("publishes");
    assert_eq!((number, first.owner.next_number()), (2, 3));

    let second = over(memory).claim(&[], 2).await.expect("claims");
    assert_eq!((second.number, second.generation, &second.incarnation), (3, 2, &first.incarnation));
    assert_eq!(restored_markers(&store, &second).await, [7]);
}

#[tokio::test]
async fn on_a_folder_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let location = Location::Local(dir.path().join("deep/state"));
    let store = CheckpointStore::open(&location, "p").expect("opens");
    let mut claimed = store.claim(&[], 1).await.expect("claims");
    for marker in 0..4 {
        let file = upload(&store, claimed.owner.next_number(), marker).await;
        publish(&store, &mut claimed.owner, checkpoint(vec![file], 0, &[])).await.expect("publishes");
        store.retain(&claimed.owner, newest(2), &BTreeMap::new()).await.expect("retains");
    }
    assert_eq!(store.list_log().await.expect("lists"), [4, 5]);
    let states = dir.path().join("deep/state/state/metrics");
    assert_eq!(std::fs::read_dir(states).expect("a folder").count(), 2);
    let again = CheckpointStore::open(&location, "p").expect("opens").claim(&[], 2).await.expect("claims");
    assert_eq!(restored_markers(&store, &again).await, [3]);
    let record = dir.path().join("deep/state/log/00000000000000000005.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(record).expect("reads")).expect("JSON");
    assert_eq!(json["record"]["entry"]["kind"], "checkpoint");
}

#[tokio::test]
async fn another_pipeline_at_the_same_place_is_refused() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    over(memory.clone()).claim(&[], 1).await.expect("claims");
    let other = CheckpointStore::with_store(memory, "some/prefix", "q").claim(&[], 1).await;
    assert!(matches!(other, Err(CheckpointError::OtherPipeline { .. })), "{other:?}");
}

#[tokio::test]
async fn of_sixteen_racing_claimers_exactly_one_gets_each_number_whatever_the_store_does() {
    for seed in 0..12 {
        let store = Arc::new(Faulty::new(seed, 25));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let store = over(store.clone());
            tasks.spawn(async move { store.claim(&[], 1).await });
        }
        let mut numbers = BTreeSet::new();
        let mut generations = BTreeSet::new();
        let mut incarnations = BTreeSet::new();
        let mut fenced = 0;
        while let Some(claimed) = tasks.join_next().await {
            match claimed.expect("no panic") {
                Ok(c) => {
                    assert!(numbers.insert(c.number), "seed {seed}: number {} twice", c.number);
                    assert!(generations.insert(c.generation), "seed {seed}: generation {} twice", c.generation);
                    incarnations.insert(c.incarnation);
                }
                // its claim was written, and another one right after it
                Err(CheckpointError::Fenced { .. }) => fenced += 1,
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
        assert!(store.met.load(Ordering::SeqCst) > 0);
        store.heal();
        let log = over(store).list_log().await.expect("lists");
        assert_eq!(log, (1..=16).collect::<Vec<u64>>(), "seed {seed}: no gaps, no number twice");
        assert_eq!(numbers.len() + fenced, 16);
        assert_eq!(incarnations.len(), 1);
        assert!(numbers.contains(&16), "the last one owns the pipeline");
    }
}

#[tokio::test]
async fn every_fault_leaves_one_record_per_number_and_the_writer_knows_it() {
    for seed in 0..40 {
        let faulty = Arc::new(Faulty::new(seed, 40));
        let store = over(faulty.clone());
        let mut claimed = store.claim(&[], 1).await.expect("claims");
        for marker in 0..5 {
            let file = upload(&store, claimed.owner.next_number(), marker).await;
            publish(&store, &mut claimed.owner, checkpoint(vec![file], 0, &[])).await.expect("publishes");
            store.retain(&claimed.owner, newest(2), &BTreeMap::new()).await.expect("retains");
        }
        faulty.heal();
        assert_eq!(store.list_log().await.expect("lists"), [5, 6], "seed {seed}");
        let next = store.claim(&[], 2).await.expect("claims");
        assert_eq!(restored_markers(&store, &next).await, [4], "seed {seed}");
    }
}

#[tokio::test]
async fn an_unreachable_store_is_a_transient_error_after_bounded_tries() {
    let quick = Backoff { tries_max: 3, ..QUICK };
    let error = over(Arc::new(Faulty::new(1, 100))).with_backoff(quick).claim(&[], 1).await.expect_err("no answer");
    assert!(error.is_transient() && error.to_string().contains("3 times"), "{error}");
}

#[tokio::test]
async fn a_zombie_is_fenced_at_its_next_write() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (old, new) = (over(memory.clone()), over(memory));
    let mut zombie = old.claim(&[], 1).await.expect("claims").owner;
    publish(&old, &mut zombie, checkpoint(vec![], 0, &[])).await.expect("publishes");
    let owner = new.claim(&[], 2).await.expect("claims").owner;
    let refused = publish(&old, &mut zombie, checkpoint(vec![], 0, &[])).await;
    assert!(matches!(refused, Err(CheckpointError::Fenced { by: 2, ours: 1 })), "{refused:?}");
    let refused = old.retain(&zombie, newest(1), &BTreeMap::new()).await;
    assert!(matches!(refused, Err(CheckpointError::Fenced { .. })), "{refused:?}");
    assert_eq!(owner.next_number(), 4);
}

#[tokio::test]
async fn a_zombie_that_finds_its_number_freed_by_retention_is_fenced_all_the_same() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (old, new) = (over(memory.clone()), over(memory));
    let mut zombie = old.claim(&[], 1).await.expect("claims").owner;
    let mut owner = new.claim(&[], 2).await.expect("claims").owner;
    for _ in 0..3 {
        publish(&new, &mut owner, checkpoint(vec![], 0, &[])).await.expect("publishes");
    }
    new.retain(&owner, newest(1), &BTreeMap::new()).await.expect("retains");
    assert_eq!(new.list_log().await.expect("lists"), [5], "number 2 is free now");
    let refused = publish(&old, &mut zombie, checkpoint(vec![], 0, &[])).await;
    assert!(matches!(refused, Err(CheckpointError::Fenced { by: 2, ours: 1 })), "{refused:?}");
    // and what it left does no harm
    let next = new.claim(&[], 3).await.expect("claims");
    assert_eq!((next.number, next.generation, next.restored.map(|r| r.number)), (6, 3, Some(5)));
}

#[tokio::test]
async fn a_start_that_meets_the_owners_retention_looks_again() {
    for seed in 0..300 {
        let faulty = Arc::new(Faulty::new(seed, 0));
        let (old, new) = (over(faulty.clone()), over(faulty));
        let Claimed { incarnation, mut owner, .. } = old.claim(&[], 1).await.expect("claims");
        publish(&old, &mut owner, checkpoint(vec![upload(&old, 2, 0).await], 0, &[])).await.expect("publishes");
        let until_fenced = async {
            loop {
                let file = upload(&old, owner.next_number(), 1).await;
                if publish(&old, &mut owner, checkpoint(vec![file], 0, &[])).await.is_err() {
                    return;
                }
                // fenced at the latest at the next publish
                let _ = old.retain(&owner, newest(1), &BTreeMap::new()).await;
            }
        };
        let taken_over = async { new.claim(&[table(&incarnation, 2)], 2).await.expect("claims") };
        let (claimed, ()) = tokio::join!(taken_over, until_fenced);
        assert_eq!((claimed.incarnation, claimed.generation), (incarnation, 2), "seed {seed}");
        assert_eq!(claimed.restored.map(|r| r.number), Some(claimed.number - 1), "seed {seed}");
    }
}

#[tokio::test]
async fn the_same_record_may_be_published_again_after_an_unknown_outcome_another_may_not() {
    let store = over(Arc::new(InMemory::new()));
    let mut owner = store.claim(&[], 1).await.expect("claims").owner;
    let record = store.checkpoint_record(&owner, checkpoint(vec![], 0, &[]), 5);
    assert_eq!(store.publish(&record).await.expect("writes"), Published::Ours); // … and the process did not learn it
    let other = store.checkpoint_record(&owner, checkpoint(vec![], 1, &[]), 6);
    let refused = store.publish_checkpoint(&mut owner, &other).await;
    assert!(matches!(refused, Err(CheckpointError::AlreadyPublished { number: 2 })), "{refused:?}");
    assert_eq!(store.publish_checkpoint(&mut owner, &record).await.expect("ours"), 2);
}

/// Two checkpoints (2 and 3), then `harm` to the second or its state file.
async fn harmed(harm: impl AsyncFnOnce(&Faulty, &StateFile)) -> (CheckpointStore, String) {
    let faulty = Arc::new(Faulty::new(1, 0));
    let store = over(faulty.clone());
    let mut claimed = store.claim(&[], 1).await.expect("claims");
    let mut last = None;
    for marker in [10, 20] {
        let file = upload(&store, claimed.owner.next_number(), marker).await;
        last = Some(file.clone());
        publish(&store, &mut claimed.owner, checkpoint(vec![file], 0, &[])).await.expect("publishes");
    }
    harm(&faulty, &last.expect("two")).await;
    (store, claimed.incarnation)
}

async fn assert_falls_back(store: CheckpointStore, incarnation: String) {
    let refused = store.claim(&[table(&incarnation, 3)], 2).await;
    assert!(
        matches!(
            refused,
            Err(CheckpointError::Refused(Refusal::CommittedByTable { number: 3, would_use: Some(2), .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(store.list_log().await.expect("lists"), [1, 2, 3], "a refusal claims nothing");
    let mut claimed = store.claim(&[table(&incarnation, 2)], 2).await.expect("claims");
    assert_eq!(claimed.damaged.iter().map(|d| d.0).collect::<Vec<_>>(), [3]);
    assert_eq!(restored_markers(&store, &claimed).await, [10]);
    // with one to keep, the restored one stays until there is a newer one
    store.retain(&claimed.owner, newest(1), &BTreeMap::new()).await.expect("retains");
    let log = store.list_log().await.expect("lists");
    assert!(log.contains(&2) && log.contains(&4), "{log:?}");
    let file = upload(&store, claimed.owner.next_number(), 30).await;
    publish(&store, &mut claimed.owner, checkpoint(vec![file], 0, &[])).await.expect("publishes");
    store.retain(&claimed.owner, newest(1), &BTreeMap::new()).await.expect("retains");
    assert_eq!(store.list_log().await.expect("lists"), [5]);
    assert_eq!(restored_markers(&store, &store.claim(&[], 3).await.expect("claims")).await, [30]);
}

const NEWEST: &str = "some/prefix/log/00000000000000000003.json";

#[tokio::test]
async fn a_torn_record_is_passed_over_unless_a_table_has_committed_it() {
    for keep in [0, 1, 80, 300] {
        let (store, incarnation) =
            harmed(async |f, _| f.damage(NEWEST, |b| b[..keep.min(b.len() - 1)].to_vec()).await).await;
        assert_falls_back(store, incarnation).await;
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_record_or_in_its_state_is_found() {
    let flip = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        bytes
    };
    let (store, incarnation) = harmed(async |f, _| f.damage(NEWEST, flip).await).await;
    assert_falls_back(store, incarnation).await;
    let (store, incarnation) =
        harmed(async |f, file| f.damage(&format!("some/prefix/{}", file.path), flip).await).await;
    assert_falls_back(store, incarnation).await;
}

#[tokio::test]
async fn a_missing_state_file_is_found() {
    use object_store::ObjectStoreExt;
    let (store, incarnation) = harmed(async |f, file| {
        f.inner.delete(&Path::from(format!("some/prefix/{}", file.path))).await.expect("deletes");
    })
    .await;
    assert_falls_back(store, incarnation).await;
}

#[tokio::test]
async fn an_unconfirmed_commit_keeps_its_checkpoint() {
    let store = over(Arc::new(InMemory::new()));
    let mut owner = store.claim(&[], 1).await.expect("claims").owner;
    for pending in [&[2][..], &[2, 3], &[2, 3, 4]] {
        publish(&store, &mut owner, checkpoint(vec![], 0, pending)).await.expect("publishes");
    }
    let kept = store.retain(&owner, newest(1), &BTreeMap::new()).await.expect("retains").kept;
    assert_eq!(kept, [2, 3, 4].into());
    let kept = store.retain(&owner, newest(1), &[("s".to_owned(), 3)].into()).await.expect("retains").kept;
    assert_eq!(kept, [4].into());
}

#[tokio::test]
async fn orphans_are_swept_and_what_is_in_flight_is_not() {
    let store = over(Arc::new(InMemory::new()));
    let mut owner = store.claim(&[], 1).await.expect("claims").owner;
    let crashed = upload(&store, 2, 1).await; // no checkpoint will name it
    let shared = upload(&store, 2, 2).await;
    for _ in 0..3 {
        publish(&store, &mut owner, checkpoint(vec![shared.clone()], 0, &[])).await.expect("publishes");
    }
    let in_flight = upload(&store, owner.next_number(), 3).await;
    assert_eq!(store.retain(&owner, newest(1), &BTreeMap::new()).await.expect("retains").files_deleted, 0);
    assert_eq!(store.sweep_orphans(&owner, &BTreeMap::new()).await.expect("sweeps").files_deleted, 1);
    assert_eq!(store.sweep_orphans(&owner, &BTreeMap::new()).await.expect("sweeps").files_deleted, 0);
    assert!(matches!(store.read_state_file(&crashed).await, Err(CheckpointError::StateDamaged { .. })));
    for file in [shared, in_flight] {
        store.read_state_file(&file).await.expect("is there");
    }
}

/// A seeded walk over everything an owner does, with faults, restarts, zombies and damage in between: whenever it is
/// looked at, what the pipeline goes on from is the newest state that was published and not harmed.
#[tokio::test]
async fn kept_checkpoints_are_always_restorable() {
    for seed in 0..60u64 {
        let faulty = Arc::new(Faulty::new(seed, 15));
        let ids = Arc::new(AtomicU64::new(0));
        let store =
            over(faulty.clone()).with_ids(Arc::new(move || format!("{seed}-{}", ids.fetch_add(1, Ordering::SeqCst))));
        let mut random = seed.wrapping_mul(0x5851_F42D_4C95_7F2D) | 1;
        let mut draw = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let mut claimed = store.claim(&[], 0).await.expect("claims");
        let mut live: Vec<StateFile> = Vec::new();
        let mut expected: Vec<i64> = Vec::new();
        let mut confirmed = 0;
        for step in 0..40i64 {
            match draw(6) {
                0 => {
                    // a crash, with files of an attempt in flight left behind
                    upload(&store, claimed.owner.next_number(), -step).await;
                    claimed = store.claim(&[], step).await.expect("claims");
                    assert_eq!(restored_markers(&store, &claimed).await, expected, "seed {seed}, step {step}");
                    assert!(claimed.damaged.is_empty());
                }
                1 | 2 => {
                    if live.len() > 3 {
                        live.remove(0);
                    }
                    live.push(upload(&store, claimed.owner.next_number(), step).await);
                    let number = claimed.owner.next_number();
                    let cut = checkpoint(live.clone(), confirmed, &[number]);
                    publish(&store, &mut claimed.owner, cut).await.expect("publishes");
                    expected = Vec::new();
                    for file in &live {
                        let batch = &store.read_state_file(file).await.expect("whole")[0];
                        let column = batch.column(0).as_any().downcast_ref::<Int64Array>().expect("longs");
                        expected.push(column.value(0));
                    }
                    if draw(2) == 0 {
                        confirmed = number;
                    }
                }
                3 | 4 => {
                    let keep = draw(3) as usize;
                    let known = [("s".to_owned(), confirmed)].into();
                    store.retain(&claimed.owner, newest(keep), &known).await.expect("retains");
                }
                _ => {
                    let known = [("s".to_owned(), confirmed)].into();
                    store.sweep_orphans(&claimed.owner, &known).await.expect("sweeps");
                }
            }
            // every checkpoint that is in the log is whole
            for number in store.list_log().await.expect("lists") {
                let Read::Whole(record) = store.read(number).await.expect("reads") else { panic!("seed {seed}") };
                for file in record.checkpoint().into_iter().flat_map(Checkpoint::state_files) {
                    store.read_state_file(file).await.unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
                }
            }
        }
    }
}

#[tokio::test]
async fn plugins_are_kept_by_digest() {
    let faulty = Arc::new(Faulty::new(3, 30));
    let store = over(faulty.clone());
    let bytes = Bytes::from_static(b"\0asm");
    let digest = super::log::sha256_hex(&bytes);
    store.put_plugin(&digest, bytes.clone()).await.expect("keeps");
    store.put_plugin(&digest, bytes.clone()).await.expect("keeps");
    assert_eq!(store.get_plugin(&digest).await.expect("reads"), bytes);
    assert!(store.put_plugin(&digest, Bytes::from_static(b"other")).await.is_err());
    assert!(store.get_plugin("../../etc/passwd").await.is_err());
    faulty
        .damage(&format!("some/prefix/plugins/{digest}.wasm"), |mut b| {
            b[0] ^= 1;
            b
        })
        .await;
    assert!(matches!(store.get_plugin(&digest).await, Err(CheckpointError::PluginDamaged { .. })));
}

/// Every type that a key or a plugin's state can have, with nulls.
fn state_of_every_type() -> RecordBatch {
    let nullable = |name: &str, t| Field::new(name, t, true);
    let key = [Field::new("campaign_id", DataType::String, false)];
    let state = Schema::new(vec![
        nullable("b", DataType::Boolean),
        nullable("i", DataType::Int),
        nullable("l", DataType::Long),
        nullable("f", DataType::Float),
        nullable("d", DataType::Double),
        nullable("m", DataType::Decimal { precision: 38, scale: 6 }),
        nullable("day", DataType::Date),
        nullable("ts", DataType::Timestamp),
        nullable("tz", DataType::Timestamptz),
        nullable("s", DataType::String),
        nullable("bin", DataType::Binary),
        nullable("ll", DataType::ListLong),
        nullable("ld", DataType::ListDouble),
        nullable("users.values", DataType::ListString),
    ]);
    let item = |t: DataType| arrow_schema::Field::new("item", t.to_arrow(), false);
    let mut ll = ListBuilder::new(Int64Builder::new()).with_field(item(DataType::Long));
    ll.append_value([Some(1), Some(-2)]);
    ll.append_null();
    let mut ld = ListBuilder::new(Float64Builder::new()).with_field(item(DataType::Double));
    ld.append_value([Some(0.5)]);
    ld.append_null();
    let mut ls = ListBuilder::new(StringBuilder::new()).with_field(item(DataType::String));
    ls.append_value([Some("u1"), Some(""), Some("ü2")]);
    ls.append_value(Vec::<Option<&str>>::new());
    let micros = |v: Vec<Option<i64>>| TimestampMicrosecondArray::from(v);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["c1", "c2"])),
        Arc::new(micros(vec![Some(0), Some(0)]).with_timezone(UTC)),
        Arc::new(micros(vec![Some(300_000_000), Some(300_000_000)]).with_timezone(UTC)),
        Arc::new(BooleanArray::from(vec![Some(true), None])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), None])),
        Arc::new(Int64Array::from(vec![Some(i64::MAX), None])),
        Arc::new(Float32Array::from(vec![Some(f32::MIN_POSITIVE), None])),
        Arc::new(Float64Array::from(vec![Some(f64::INFINITY), None])),
        Arc::new(Decimal128Array::from(vec![Some(-1), None]).with_precision_and_scale(38, 6).expect("fits")),
        Arc::new(Date32Array::from(vec![Some(-1), None])),
        Arc::new(micros(vec![Some(-1), None])),
        Arc::new(micros(vec![Some(1), None]).with_timezone(UTC)),
        Arc::new(StringArray::from(vec![Some("\0é"), None])),
        Arc::new(BinaryArray::from(vec![Some(&b"\xff\x00"[..]), None])),
        Arc::new(ll.finish()),
        Arc::new(ld.finish()),
        Arc::new(ls.finish()),
    ];
    RecordBatch::try_new(state_file_schema(&key, &state).to_arrow(), columns).expect("a batch")
}

#[tokio::test]
async fn state_of_every_type_comes_back_as_it_went() {
    let dir = tempfile::tempdir().expect("a folder");
    // kept for a look with another reader, if asked
    let folder = std::env::var_os("MILLRACE_TEST_KEEP").map_or(dir.path().to_owned(), Into::into);
    let store = CheckpointStore::open(&Location::Local(folder), "p").expect("opens");
    let batch = state_of_every_type();
    let part = StatePart { batches: vec![batch.clone(), batch.clone()], ..part("metrics", 0) };
    let encoded = encode_state(&part).expect("encodes");
    let file = store.upload_state(12, encoded).await.expect("uploads");
    assert_eq!((file.groups, file.written_by, file.last_key_group), (4, 12, 63));
    let read = store.read_state_file(&file).await.expect("reads");
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].schema(), batch.schema());
    assert_eq!((read[0].slice(0, 2), read[0].slice(2, 2)), (batch.clone(), batch));
}

#[tokio::test]
async fn a_large_state_file_goes_up_in_parts() {
    let store = over(Arc::new(InMemory::new()));
    let mut x = 1u64;
    let noise: Vec<i64> = (0..5_000_000)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 1).cast_signed()
        })
        .collect();
    let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(noise)) as ArrayRef)]).expect("a batch");
    let encoded = encode_state(&StatePart { batches: vec![batch], ..part("metrics", 0) }).expect("encodes");
    assert!(encoded.num_bytes() > 32 << 20, "{}", encoded.num_bytes());
    let file = store.upload_state(2, encoded).await.expect("uploads");
    let read = store.read_state_file(&file).await.expect("reads");
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 5_000_000);
}
