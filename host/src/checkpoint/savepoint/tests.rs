use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use millrace_core::checkpoint::{OperatorState, PluginRef, SinkState, WriterState};
use object_store::memory::InMemory;

use super::*;
use crate::checkpoint::{StatePart, encode_state};

fn store() -> CheckpointStore {
    CheckpointStore::with_store(Arc::new(InMemory::new()), "at", "p")
}

async fn file(store: &CheckpointStore, node: &str, holds: Holds, marker: i64) -> StateFile {
    let column = Arc::new(Int64Array::from(vec![marker])) as ArrayRef;
    let part = StatePart {
        operator: node.into(),
        holds,
        part: 0,
        first_key_group: 0,
        last_key_group: 127,
        window_start_ms: marker,
        window_end_ms: marker + 1,
        batches: vec![RecordBatch::try_from_iter([("n", column)]).unwrap()],
    };
    store.upload_state(7, encode_state(&part).unwrap()).await.unwrap()
}

/// With state, a ledger, a writer's files, and plugins whose bytes are kept.
async fn checkpoint(store: &CheckpointStore) -> Checkpoint {
    let sha256 = sha256_hex(b"wasm");
    store.put_plugin(&sha256, Bytes::from_static(b"wasm")).await.unwrap();
    let plugin = PluginRef { name: "m".into(), version: "1.0.0".into(), sha256, config: "{}".into(), in_file: None };
    let files = vec![
        file(store, "metrics", Holds::State, 1).await,
        file(store, "metrics", Holds::State, 2).await,
        file(store, "metrics", Holds::Ledger, 3).await,
    ];
    let operator = OperatorState { plugin: Some(plugin), files, ..OperatorState::default() };
    let builtin = PluginRef { sha256: "builtin 1.0.0: n = count()".into(), ..operator.plugin.clone().unwrap() };
    let counts = OperatorState { plugin: Some(builtin), ..OperatorState::default() };
    let cleaner = sha256_hex(b"cleaner");
    store.put_plugin(&cleaner, Bytes::from_static(b"cleaner")).await.unwrap();
    let cleaner = PluginRef { sha256: cleaner, ..operator.plugin.clone().unwrap() };
    let writer = WriterState { files: vec![file(store, "table", Holds::State, 4).await], ..WriterState::default() };
    let sink = SinkState { confirmed: 7, writer: Some(writer), ..SinkState::default() };
    Checkpoint {
        reason: Reason::Savepoint,
        operators: [("metrics".to_owned(), operator), ("counts".to_owned(), counts)].into(),
        sinks: [("table".to_owned(), sink)].into(),
        transforms: [("clean".to_owned(), cleaner)].into(),
        ..Checkpoint::default()
    }
}

async fn written(folder: &Path) -> Checkpoint {
    let store = store();
    let checkpoint = checkpoint(&store).await;
    write(&store, folder, 7, &checkpoint, 1_000).await.unwrap();
    checkpoint
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { all_files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn another_location_gets_all_that_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/savepoint");
    let before = written(&folder).await;
    let folders: BTreeSet<PathBuf> = all_files(&folder)
        .iter()
        .map(|file| file.parent().unwrap().strip_prefix(&folder).unwrap().to_owned())
        .collect();
    assert_eq!(folders, ["", "ledger/metrics", "plugins", "sinks/table", "state/metrics"].map(PathBuf::from).into());

    let other = store();
    let savepoint = open(&folder).unwrap();
    assert_eq!((savepoint.record.number, &*savepoint.record.pipeline), (7, "p"));
    let copied = savepoint.copy_into(&other, 2).await.unwrap();
    assert!(copied.sinks.is_empty() && copied.reason == Reason::Periodic);
    let markers = |files: &[StateFile]| files.iter().map(|f| (f.window_start_ms, f.holds)).collect::<Vec<_>>();
    let (old, new) = (&before.operators["metrics"], &copied.operators["metrics"]);
    assert_eq!(markers(&old.files), markers(&new.files));
    for file in &new.files {
        assert!(file.path.starts_with("state/metrics/00000000000000000002-"), "{}", file.path);
        let batch = other.read_state_file(file).await.unwrap().remove(0);
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
        assert_eq!((column.value(0), file.written_by), (file.window_start_ms, 2));
    }
    let plugin = old.plugin.as_ref().unwrap();
    assert_eq!(other.get_plugin(&plugin.sha256).await.unwrap(), Bytes::from_static(b"wasm"));
    assert_eq!(copied.transforms, before.transforms);
    let cleaner = &copied.transforms["clean"].sha256;
    assert_eq!(other.get_plugin(cleaner).await.unwrap(), Bytes::from_static(b"cleaner"));
    assert!(savepoint.is_copied(&copied));
    let mut later = copied.clone();
    later.operators.get_mut("metrics").unwrap().files.pop();
    assert!(!savepoint.is_copied(&later));
}

#[tokio::test]
async fn a_folder_with_something_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "x").unwrap();
    let store = store();
    let checkpoint = checkpoint(&store).await;
    let refused = write(&store, dir.path(), 7, &checkpoint, 0).await.unwrap_err();
    assert!(matches!(refused, SavepointError::Taken { .. }), "{refused}");
    assert_eq!(all_files(dir.path()), [dir.path().join("mine")]);
}

#[tokio::test]
async fn what_cannot_be_finished_leaves_an_empty_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = store();
    let mut checkpoint = checkpoint(&store).await;
    checkpoint.operators.get_mut("metrics").unwrap().files[2].sha256 = "0".repeat(64);
    let failed = write(&store, dir.path(), 7, &checkpoint, 0).await.unwrap_err();
    assert!(matches!(failed, SavepointError::Checkpoint(CheckpointError::StateDamaged { .. })), "{failed}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[tokio::test]
async fn every_cut_off_or_changed_file_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    for file in all_files(dir.path()) {
        let whole = fs::read(&file).unwrap();
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        for bytes in [&whole[..whole.len() - 1], &changed] {
            fs::write(&file, bytes).unwrap();
            let found = match open(dir.path()) {
                Ok(savepoint) => savepoint.copy_into(&store(), 2).await.map(|_| ()),
                Err(error) => Err(error),
            };
            // what no operator needs now is not read
            let unread = file.starts_with(dir.path().join("sinks"));
            assert_eq!(found.is_err(), !unread, "{}", file.display());
        }
        fs::write(&file, whole).unwrap();
    }
    assert!(open(dir.path()).unwrap().copy_into(&store(), 2).await.is_ok());
}

#[tokio::test]
async fn only_what_was_finished_is_a_savepoint() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let record = dir.path().join(RECORD);
    let newer = Record { format: FORMAT + 1, ..open(dir.path()).unwrap().record };
    fs::write(&record, seal(&newer).unwrap()).unwrap();
    assert!(matches!(open(dir.path()), Err(SavepointError::NewerFormat { found: 2, .. })));
    let outside = Record { format: FORMAT, ..newer };
    let text = serde_json::to_string(&outside).unwrap().replace("\"state/metrics/", "\"../metrics/");
    fs::write(&record, seal(&serde_json::from_str(&text).unwrap()).unwrap()).unwrap();
    let refused = open(dir.path()).unwrap().copy_into(&store(), 2).await.unwrap_err();
    assert!(refused.to_string().contains("not inside"), "{refused}");
    fs::rename(&record, dir.path().join(UNFINISHED)).unwrap();
    assert!(matches!(open(dir.path()), Err(SavepointError::Incomplete { .. })));
}
