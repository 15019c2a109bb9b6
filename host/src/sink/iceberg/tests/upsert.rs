//! Rows replaced and deleted: every sequence of changes, restarts, compactions by others and zombies leaves in the table what
//! a plain map says. Read back by the iceberg crate's own scan, which knows nothing of how the deletes were made.

use std::sync::Mutex;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use iceberg::spec::{ManifestContentType, ManifestListWriter, ManifestWriterBuilder, Operation};
use millrace_core::batch::{Audience, Change as Kind, Changes};
use millrace_core::checkpoint::{Holds, OpenCommit, StateFile, WriterState};
use millrace_core::watermark::END_OF_TIME_MS;

use super::*;
use crate::catalog::submit::{Submitted, open_submit};
use crate::sink::iceberg::data::{Belongs, data_file};
use crate::sink::iceberg::positions::Positions;
use crate::sink::iceberg::snapshot::Change;
use crate::sink::iceberg::upsert::UpsertWriter;
use crate::sink::iceberg::{live, removals};

mod random;

const HOUR_MS: i64 = 3_600_000;

/// State files in memory.
#[derive(Default)]
struct Kept {
    files: Mutex<BTreeMap<String, RecordBatch>>,
}

impl WriterStore for Kept {
    fn write(&self, sink: &str, checkpoint: u64, rows: RecordBatch) -> Result<StateFile> {
        let mut files = self.files.lock().unwrap();
        let path = format!("{sink}/{checkpoint:08}-{}", files.len());
        let file = StateFile {
            holds: Holds::State,
            part: 0,
            path: path.clone(),
            bytes: 1,
            sha256: String::new(),
            first_key_group: 0,
            last_key_group: 127,
            window_start_ms: 0,
            window_end_ms: 0,
            groups: rows.num_rows() as u64,
            written_by: checkpoint,
        };
        files.insert(path, rows);
        Ok(file)
    }

    fn read(&self, file: &StateFile) -> Result<Vec<RecordBatch>> {
        let files = self.files.lock().unwrap();
        let rows = files.get(&file.path).ok_or_else(|| SinkError::Fatal(format!("no {}", file.path)))?;
        // as a reader with small batches would give them
        let rows = rows.clone();
        Ok((0..rows.num_rows()).step_by(3).map(|at| rows.slice(at, 3.min(rows.num_rows() - at))).collect())
    }
}

/// One version of a result: key, window (hours), and a number for each row of it.
#[derive(Clone, Debug, PartialEq)]
struct Version {
    kind: Kind,
    revision: u32,
    key: Option<&'static str>,
    /// none: global
    window: Option<(i64, i64)>,
    numbers: Vec<i64>,
}

fn version(kind: Kind, revision: u32, key: &'static str, window: (i64, i64), numbers: &[i64]) -> Version {
    Version { kind, revision, key: Some(key), window: Some(window), numbers: numbers.to_vec() }
}

fn insert(key: &'static str, start: i64, number: i64) -> Version {
    version(Kind::Insert, 1, key, (start, start + 1), &[number])
}

fn replace(revision: u32, key: &'static str, start: i64, number: i64) -> Version {
    version(Kind::Replace, revision, key, (start, start + 1), &[number])
}

fn delete(revision: u32, key: &'static str, start: i64) -> Version {
    version(Kind::Delete, revision, key, (start, start + 1), &[])
}

fn results() -> Schema {
    Schema::new(vec![
        Field::new("campaign", DataType::String, true),
        Field::new("window_start", DataType::Timestamptz, true),
        Field::new("window_end", DataType::Timestamptz, true),
        Field::new("n", DataType::Long, false),
        Field::new("payload", DataType::String, true),
    ])
}

/// A deletion has one row, whose numbers say nothing.
fn changes(versions: &[Version], is_final: bool) -> RowSet {
    let rows: Vec<(&Version, i64)> = versions
        .iter()
        .flat_map(|v| {
            let deleted = (v.kind == Kind::Delete).then_some((v, 0));
            v.numbers.iter().map(move |n| (v, *n)).chain(deleted)
        })
        .collect();
    let time = |bound: fn((i64, i64)) -> i64| -> ArrayRef {
        let values = rows.iter().map(|(v, _)| v.window.map(|w| bound(w) * HOUR_MS * 1_000));
        Arc::new(TimestampMicrosecondArray::from_iter(values).with_data_type(DataType::Timestamptz.to_arrow()))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.iter().map(|(v, _)| v.key))),
        time(|w| w.0),
        time(|w| w.1),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, n)| *n))),
        Arc::new(StringArray::from_iter(rows.iter().map(|(_, n)| (n % 3 != 0).then(|| format!("payload {n}"))))),
    ];
    RowSet::all(Batch {
        rows: RecordBatch::try_new(results().to_arrow(), columns).unwrap(),
        event_time_ms: vec![0; rows.len()].into(),
        origin: None,
        changes: Some(Changes {
            kinds: rows.iter().map(|(v, _)| v.kind).collect(),
            revisions: rows.iter().map(|(v, _)| v.revision).collect(),
            is_final,
            audience: Audience::Sinks,
        }),
    })
}

/// Of a newer plugin: one more column, which it always has.
fn more_results() -> Schema {
    let more = Field::new("more", DataType::Long, false);
    Schema::new(results().fields.into_iter().chain([more]).collect())
}

fn with_more(rows: RowSet) -> RowSet {
    let batch = &rows.batch.rows;
    let numbers = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
    let more = Arc::new(Int64Array::from_iter_values(numbers.values().iter().map(|n| n * 100)));
    let columns = batch.columns().iter().cloned().chain([more as ArrayRef]).collect();
    let wider = RecordBatch::try_new(more_results().to_arrow(), columns).unwrap();
    RowSet::all(Batch { rows: wider, ..Arc::unwrap_or_clone(rows.batch) })
}

/// A row as it is compared.
type Row = (Option<String>, Option<i64>, Option<i64>, i64, Option<String>);

fn row(key: Option<&str>, window: Option<(i64, i64)>, number: i64) -> Row {
    let payload = (number % 3 != 0).then(|| format!("payload {number}"));
    (key.map(str::to_owned), window.map(|w| w.0), window.map(|w| w.1), number, payload)
}

/// A process that runs one upserting sink, and the checkpoint that a next one would start from.
struct Process<'a> {
    world: &'a World,
    kept: Arc<Kept>,
    sink: Arc<IcebergSink>,
    writer: Box<dyn SinkWriter>,
    generation: u64,
    checkpoint: u64,
    /// the last published checkpoint
    state: SinkState,
    /// checkpoints per commit
    every: u32,
    partition_by: Vec<PartitionField>,
    identity: Vec<String>,
    buffer_bytes: usize,
    endless_max: Option<usize>,
    /// the input has one more column, which the table gains
    gives_more: bool,
}

const BUFFER_BYTES: usize = 64 << 20;

impl World {
    fn upsert_sink(&self, partition_by: &[PartitionField], identity: &[String]) -> Arc<IcebergSink> {
        let spec = IcebergSinkSpec { partition_by: partition_by.to_vec(), ..spec() };
        self.upsert_sink_of(spec, &results(), identity)
    }

    fn upsert_sink_of(&self, spec: IcebergSinkSpec, columns: &Schema, identity: &[String]) -> Arc<IcebergSink> {
        let handle = self.runtime.handle().clone();
        let key = vec!["campaign".to_owned(), "window_start".to_owned()];
        let spec = IcebergSinkSpec { mode: SinkMode::Upsert { key }, ..spec };
        self.runtime.block_on(async {
            let submit = open_submit(&self.spec).await.unwrap();
            let catalog = self.catalog.clone();
            let versions = Versions { identity: identity.to_vec(), window_ms: None };
            IcebergSink::open_upsert("p", "s", &spec, catalog, submit, columns, &versions, handle).await.unwrap()
        })
    }

    fn rows_by_scan(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.scan().iter().flat_map(rows_of).collect();
        rows.sort();
        rows
    }

    fn start(&self, partition_by: &[PartitionField], every: u32) -> Process<'_> {
        let identity = vec!["campaign".to_owned(), "window_start".to_owned()];
        self.start_with(partition_by, every, identity)
    }

    fn start_with(&self, partition_by: &[PartitionField], every: u32, identity: Vec<String>) -> Process<'_> {
        let sink = self.upsert_sink(partition_by, &identity);
        let kept = Arc::<Kept>::default();
        let mut process = Process {
            world: self,
            writer: sink.upsert_writer(kept.clone()).unwrap(),
            kept,
            sink,
            generation: 0,
            checkpoint: 0,
            state: SinkState::default(),
            every,
            partition_by: partition_by.to_vec(),
            identity,
            buffer_bytes: BUFFER_BYTES,
            endless_max: None,
            gives_more: false,
        };
        process.restart();
        process
    }

    fn snapshot_summary(&self) -> (Operation, HashMap<String, String>) {
        let table = self.table();
        let summary = table.metadata().current_snapshot().unwrap().summary();
        (summary.operation.clone(), summary.additional_properties.clone())
    }

    fn submit(&self, base: &Table, change: &Change) -> Submitted {
        self.runtime.block_on(async { open_submit(&self.spec).await.unwrap().submit(base, change).await })
    }

    /// What a compaction by somebody else leaves: all rows in one new file per partition, nothing deleted.
    fn compact(&self, sink: &IcebergSink) {
        let base = self.table();
        let layout = &sink.layout;
        let batches = self.scan();
        let change = self.runtime.block_on(async {
            let mut files = writer::Files::new(77, layout.clone());
            let mut partitions = partition::Partitions::default();
            for batch in &batches {
                let batch = layout.conform(batch).unwrap();
                for row in 0..batch.num_rows() {
                    let one = batch.slice(row, 1);
                    let id =
                        if layout.spec.is_unpartitioned() { 0 } else { partitions.assign(layout, &one).unwrap()[0] };
                    files.write(Belongs::To(0), &partitions, id, &one).await.unwrap();
                }
            }
            let closed = layout.durable(files.finish().await.unwrap()).unwrap();
            let metadata = base.metadata();
            let snapshot_id = i64::from(u32::MAX) + metadata.next_sequence_number();
            let path = |name: &str| format!("{}/metadata/compacted-{snapshot_id}-{name}", metadata.location());
            let out = base.file_io().new_output(path("m.avro")).unwrap();
            let builder = ManifestWriterBuilder::new(
                out,
                Some(snapshot_id),
                metadata.current_schema().clone(),
                metadata.default_partition_spec().as_ref().clone(),
            );
            let mut manifest = builder.build_v2_data();
            for file in &closed {
                manifest.add_file(data_file(layout, file).unwrap(), -1).unwrap();
            }
            let manifest = manifest.write_manifest_file().await.unwrap();
            let out = base.file_io().new_output(path("list.avro")).unwrap().writer().await.unwrap();
            let parent = metadata.current_snapshot_id();
            let mut list = ManifestListWriter::v2(out, snapshot_id, parent, metadata.next_sequence_number());
            list.add_manifests((!closed.is_empty()).then_some(manifest).into_iter()).unwrap();
            list.close().await.unwrap();
            let snapshot = iceberg::spec::Snapshot::builder()
                .with_snapshot_id(snapshot_id)
                .with_parent_snapshot_id(parent)
                .with_sequence_number(metadata.next_sequence_number())
                .with_timestamp_ms(metadata.last_updated_ms() + 1)
                .with_manifest_list(path("list.avro"))
                .with_summary(iceberg::spec::Summary {
                    operation: Operation::Replace,
                    additional_properties: HashMap::new(),
                })
                .with_schema_id(metadata.current_schema_id())
                .build();
            let retention = iceberg::spec::SnapshotRetention::branch(None, None, None);
            let reference = iceberg::spec::SnapshotReference::new(snapshot_id, retention);
            Change {
                requirements: Vec::new(),
                updates: vec![
                    iceberg::TableUpdate::AddSnapshot { snapshot },
                    iceberg::TableUpdate::SetSnapshotRef { ref_name: "main".into(), reference },
                ],
                files: Vec::new(),
            }
        });
        assert!(matches!(self.submit(&base, &change), Submitted::Yes));
    }

    fn live(&self, content: ManifestContentType) -> Vec<iceberg::spec::DataFile> {
        let files = self.runtime.block_on(live::files(&self.table(), content)).unwrap();
        files.iter().map(|file| file.entry.data_file().clone()).collect()
    }
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let time = |column: &str, row: usize| {
        let column = batch.column_by_name(column).unwrap().as_primitive::<TimestampMicrosecondType>();
        column.is_valid(row).then(|| column.value(row) / (HOUR_MS * 1_000))
    };
    let text = |column: &str, row: usize| {
        let column = batch.column_by_name(column).unwrap().as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let number = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
    (0..batch.num_rows())
        .map(|i| {
            (text("campaign", i), time("window_start", i), time("window_end", i), number.value(i), text("payload", i))
        })
        .collect()
}

impl Process<'_> {
    /// As if the process had been killed and another started: with the last published checkpoint and nothing else.
    fn restart(&mut self) {
        self.generation += 1;
        self.sink = if self.gives_more {
            let spec =
                IcebergSinkSpec { evolve: Evolve::AddColumns, partition_by: self.partition_by.clone(), ..spec() };
            self.world.upsert_sink_of(spec, &more_results(), &self.identity)
        } else {
            self.world.upsert_sink(&self.partition_by, &self.identity)
        };
        let committed = self.world.claim(&self.sink, self.generation, &self.state).unwrap();
        self.state.pending.retain(|c| c.checkpoint > committed);
        self.state.confirmed = self.state.confirmed.max(committed);
        let upsert = self.sink.upsert.as_ref().unwrap();
        let writer = UpsertWriter::new(self.sink.clone(), upsert, self.kept.clone()).with_buffer(self.buffer_bytes);
        let mut writer = match self.endless_max {
            Some(max) => writer.with_endless_max(max),
            None => writer,
        };
        writer.restore(&self.state).unwrap();
        self.writer = Box::new(writer);
        // numbers are never used again
        self.checkpoint += 1;
        self.commit_pending();
    }

    fn write(&mut self, versions: &[Version]) {
        let rows = changes(versions, false);
        self.writer.write(&if self.gives_more { with_more(rows) } else { rows }).unwrap();
    }

    /// What a crash before the checkpoint is published leaves out.
    fn prepared(&mut self) -> SinkState {
        self.checkpoint += 1;
        let prepared = self.writer.prepare(self.checkpoint).unwrap();
        let mut state = self.state.clone();
        state.writer = prepared.writer;
        state.open.files.extend(prepared.files);
        state.open.rows += prepared.rows;
        state.open.checkpoints += 1;
        if state.open.checkpoints >= self.every && !state.open.files.is_empty() {
            let open = std::mem::take(&mut state.open);
            let files = match self.every {
                1 => open.files,
                _ => {
                    self.world.runtime.block_on(SinkCommitter::join(&*self.sink, self.checkpoint, open.files)).unwrap()
                }
            };
            state.pending.push(Committable {
                checkpoint: self.checkpoint,
                predecessor: state.pending.last().map_or(state.confirmed, |c| c.checkpoint),
                files,
                rows: open.rows,
                positions: Vec::new(),
                windows_ms: None,
                plugins: BTreeMap::new(),
            });
        } else if state.open.files.is_empty() {
            state.open = OpenCommit::default();
        }
        state
    }

    fn publish(&mut self) {
        self.state = self.prepared();
    }

    fn commit_pending(&mut self) {
        for committable in std::mem::take(&mut self.state.pending) {
            self.world.commit(&self.sink, self.generation, &committable).unwrap();
            self.state.confirmed = committable.checkpoint;
        }
    }

    /// A checkpoint and its commit.
    fn epoch(&mut self, versions: &[Version]) {
        self.write(versions);
        self.publish();
        self.commit_pending();
    }

    fn expect(&self, mut rows: Vec<Row>) {
        rows.sort();
        assert_eq!(self.world.rows_by_scan(), rows);
    }

    fn positions(&self) -> &WriterState {
        self.state.writer.as_ref().unwrap()
    }
}

fn one(key: &'static str, start: i64, number: i64) -> Row {
    row(Some(key), Some((start, start + 1)), number)
}

#[test]
fn the_last_version_of_each_row_is_in_the_table() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[insert("a", 0, 1), insert("b", 0, 2), insert("a", 1, 3)]);
    assert_eq!(world.snapshot_summary().0, Operation::Append);
    process.expect(vec![one("a", 0, 1), one("b", 0, 2), one("a", 1, 3)]);

    process.epoch(&[replace(2, "a", 0, 10), delete(2, "b", 0), insert("c", 1, 4)]);
    process.expect(vec![one("a", 0, 10), one("a", 1, 3), one("c", 1, 4)]);
    let (operation, summary) = world.snapshot_summary();
    assert_eq!(operation, Operation::Overwrite);
    let says = |key: &str| summary.get(key).map(String::as_str);
    assert_eq!((says("added-records"), says("total-records")), (Some("2"), Some("5")));
    assert_eq!((says("added-position-deletes"), says("total-position-deletes")), (Some("2"), Some("2")));
    assert_eq!((says("added-delete-files"), says("total-delete-files")), (Some("1"), Some("1")));
    assert_eq!((says("total-data-files"), says("millrace.event")), (Some("2"), Some("commit")));
    assert_eq!(says("millrace.checkpoint"), Some(process.checkpoint.to_string().as_str()));

    // only deletions: no data file
    process.epoch(&[delete(3, "a", 0)]);
    assert_eq!(world.snapshot_summary().0, Operation::Delete);
    process.expect(vec![one("a", 1, 3), one("c", 1, 4)]);
    // nothing
    let before = world.table().metadata().current_snapshot_id();
    process.epoch(&[]);
    assert_eq!(world.table().metadata().current_snapshot_id(), before);
}

#[test]
fn an_epoch_writes_the_last_version_only_and_nothing_of_what_came_and_went() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.write(&[insert("a", 0, 1), insert("b", 0, 2)]);
    process.write(&[replace(2, "a", 0, 10), delete(2, "b", 0)]);
    process.write(&[replace(3, "a", 0, 11)]);
    process.publish();
    assert_eq!((process.state.pending[0].rows, process.state.pending[0].files.len()), (1, 1));
    process.commit_pending();
    process.expect(vec![one("a", 0, 11)]);
    let before = world.table().metadata().current_snapshot_id();
    process.epoch(&[insert("c", 0, 1), delete(2, "c", 0)]);
    assert_eq!(world.table().metadata().current_snapshot_id(), before);
}

#[test]
fn deletes_are_written_under_the_partition_of_the_file_they_name() {
    let world = World::new();
    let by = [by("campaign", PartitionTransform::Identity), by("window_start", PartitionTransform::Day)];
    let mut process = world.start(&by, 1);
    process.epoch(&[insert("a", 0, 1), insert("b", 0, 2), insert("a", 30, 3), insert("a", 1, 7)]);
    process.epoch(&[replace(2, "a", 0, 10), replace(2, "b", 0, 20), replace(2, "a", 1, 70), insert("b", 50, 5)]);
    process.expect(vec![one("a", 0, 10), one("b", 0, 20), one("a", 30, 3), one("a", 1, 70), one("b", 50, 5)]);
    let data: HashMap<String, String> = world
        .live(ManifestContentType::Data)
        .iter()
        .map(|file| (file.file_path().to_owned(), format!("{:?}", file.partition())))
        .collect();
    let deletes = world.live(ManifestContentType::Deletes);
    assert_eq!(deletes.len(), 2);
    for file in &deletes {
        let named = file.referenced_data_file().expect("one data file a partition");
        assert_eq!(data[&named], format!("{:?}", file.partition()));
        let bound = &file.lower_bounds()[&2_147_483_546];
        assert_eq!(*bound, iceberg::spec::Datum::string(&named));
        assert_eq!(file.upper_bounds()[&2_147_483_546], *bound);
    }
}

#[test]
fn a_group_of_several_rows_is_replaced_as_a_whole() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    let rows = |numbers: &[i64]| numbers.iter().map(|n| one("a", 0, *n)).collect::<Vec<_>>();
    process.epoch(&[version(Kind::Insert, 1, "a", (0, 1), &[1, 2, 3])]);
    process.expect(rows(&[1, 2, 3]));
    process.epoch(&[version(Kind::Replace, 2, "a", (0, 1), &[4, 5])]);
    process.expect(rows(&[4, 5]));
    // a filter has held one row of the new version back: its deletion stands among those that replace
    let mut filtered = changes(&[version(Kind::Replace, 3, "a", (0, 1), &[6, 7, 8])], false);
    let batch = Arc::make_mut(&mut filtered.batch);
    let kinds = [Kind::Replace, Kind::Delete, Kind::Replace];
    batch.changes.as_mut().unwrap().kinds = kinds.into();
    process.writer.write(&filtered).unwrap();
    process.epoch(&[]);
    process.expect(rows(&[6, 8]));
    process.epoch(&[version(Kind::Delete, 4, "a", (0, 1), &[])]);
    process.expect(Vec::new());
}

/// A session that grows: the same start, another end.
#[test]
fn sessions_are_deleted_and_inserted_in_order() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[version(Kind::Insert, 1, "a", (0, 2), &[1]), version(Kind::Insert, 1, "a", (5, 6), &[2])]);
    process.epoch(&[version(Kind::Delete, 2, "a", (0, 2), &[]), version(Kind::Insert, 1, "a", (0, 3), &[3])]);
    process.expect(vec![row(Some("a"), Some((0, 3)), 3), row(Some("a"), Some((5, 6)), 2)]);
    // two sessions become one, twice within an epoch
    process.write(&[
        version(Kind::Delete, 2, "a", (0, 3), &[]),
        version(Kind::Delete, 2, "a", (5, 6), &[]),
        version(Kind::Insert, 1, "a", (0, 6), &[5]),
    ]);
    process.write(&[version(Kind::Delete, 2, "a", (0, 6), &[]), version(Kind::Insert, 1, "a", (0, 8), &[6])]);
    process.epoch(&[]);
    process.expect(vec![row(Some("a"), Some((0, 8)), 6)]);
}

#[test]
fn several_epochs_wait_for_one_commit() {
    let world = World::new();
    let mut process = world.start(&[by("campaign", PartitionTransform::Identity)], 3);
    process.epoch(&[insert("a", 0, 1), insert("b", 0, 2)]);
    process.epoch(&[replace(2, "a", 0, 10), insert("c", 0, 3)]);
    process.epoch(&[replace(3, "a", 0, 11), delete(2, "b", 0)]);
    process.expect(vec![one("a", 0, 11), one("c", 0, 3)]);
    assert_eq!(world.table().metadata().snapshots().len(), 2, "the claim, and one commit");
    process.epoch(&[replace(4, "a", 0, 12)]);
    process.restart();
    process.epoch(&[replace(5, "a", 0, 13)]);
    process.epoch(&[replace(2, "c", 0, 30)]);
    process.expect(vec![one("a", 0, 13), one("c", 0, 30)]);
}

#[test]
fn a_table_gains_a_column_between_two_lives() {
    for (every, partition_by) in [(1, vec![]), (2, vec![by("campaign", PartitionTransform::Identity)])] {
        let world = World::new();
        let more = || {
            let of = |batch: RecordBatch| {
                let more = batch.column_by_name("more").unwrap().as_primitive::<Int64Type>().clone();
                let rows = rows_of(&batch).into_iter();
                rows.zip(&more).map(|(row, more)| (row.0.unwrap(), row.3, more)).collect::<Vec<_>>()
            };
            let mut rows: Vec<_> = world.scan().into_iter().flat_map(of).collect();
            rows.sort();
            rows
        };
        let row = |key: &str, number, more| (key.to_owned(), number, more);
        let mut process = world.start(&partition_by, every);
        process.epoch(&[insert("a", 0, 1), insert("b", 0, 2), insert("c", 0, 3), insert("d", 0, 4)]);
        process.epoch(&[replace(2, "a", 0, 10)]);
        // of two epochs that are one commit, the first ends the first life; else its commit is left to the second
        process.write(&[replace(2, "b", 0, 20)]);
        process.publish();
        process.gives_more = true;
        process.restart();
        process.epoch(&[replace(2, "c", 0, 30), insert("e", 0, 5)]);
        assert_eq!(
            more(),
            [
                row("a", 10, None),
                row("b", 20, None),
                row("c", 30, Some(3_000)),
                row("d", 4, None),
                row("e", 5, Some(500))
            ]
        );
        // rows of either life are found where they are, remembered or looked up
        for forget in [false, true] {
            if forget {
                process.state.writer = None;
            }
            process.restart();
            let revision = if forget { 4 } else { 3 };
            process.epoch(&[replace(revision, "b", 0, 21), replace(revision, "e", 0, 50)]);
            process.epoch(&[delete(revision, if forget { "d" } else { "a" }, 0)]);
        }
        assert_eq!(more(), [row("b", 21, Some(2_100)), row("c", 30, Some(3_000)), row("e", 50, Some(5_000))]);
        let metadata = world.table();
        let columns = metadata.metadata().current_schema().as_struct().fields();
        assert!(columns.last().is_some_and(|field| field.name == "more" && !field.required));
    }
}

#[test]
fn a_restart_goes_on_from_any_checkpoint() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[insert("a", 0, 1), insert("b", 0, 2)]);
    // killed before the checkpoint is published: what it had written is read again
    process.write(&[replace(2, "a", 0, 99)]);
    let lost = process.prepared();
    process.restart();
    process.epoch(&[replace(2, "a", 0, 10)]);
    process.expect(vec![one("a", 0, 10), one("b", 0, 2)]);
    drop(lost);
    // published, not committed
    process.write(&[replace(3, "a", 0, 11), delete(2, "b", 0)]);
    process.publish();
    process.restart();
    process.expect(vec![one("a", 0, 11)]);
    // committed, the answer lost
    process.write(&[replace(4, "a", 0, 12), insert("c", 0, 3)]);
    process.publish();
    let pending = process.state.clone();
    process.commit_pending();
    process.state = pending;
    process.restart();
    assert!(process.state.pending.is_empty());
    process.expect(vec![one("a", 0, 12), one("c", 0, 3)]);
    // and once more by a committer that does not know
    process.epoch(&[replace(5, "a", 0, 13)]);
    process.expect(vec![one("a", 0, 13), one("c", 0, 3)]);
}

#[test]
fn a_commit_repeated_after_a_lost_answer_deletes_nothing_twice() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[insert("a", 0, 1)]);
    process.write(&[replace(2, "a", 0, 2)]);
    process.publish();
    let again = process.state.pending[0].clone();
    process.commit_pending();
    let snapshot = world.table().metadata().current_snapshot_id();
    world.commit(&process.sink, process.generation, &again).unwrap();
    assert_eq!(world.table().metadata().current_snapshot_id(), snapshot);
    process.expect(vec![one("a", 0, 2)]);
}

#[test]
fn rows_that_a_compaction_has_moved_are_found() {
    for partition_by in [vec![], vec![by("campaign", PartitionTransform::Identity)]] {
        let world = World::new();
        let mut process = world.start(&partition_by, 1);
        process.epoch(&[insert("a", 0, 1), insert("b", 0, 2), insert("c", 0, 3)]);
        process.epoch(&[replace(2, "a", 0, 10)]);
        world.compact(&process.sink);
        assert!(world.live(ManifestContentType::Deletes).is_empty());
        process.epoch(&[replace(3, "a", 0, 11), delete(2, "b", 0), insert("d", 0, 4)]);
        process.expect(vec![one("a", 0, 11), one("c", 0, 3), one("d", 0, 4)]);
        // between the checkpoint and its commit, too
        process.write(&[replace(4, "a", 0, 12), replace(2, "c", 0, 30), replace(2, "d", 0, 40)]);
        process.publish();
        world.compact(&process.sink);
        process.restart();
        process.expect(vec![one("a", 0, 12), one("c", 0, 30), one("d", 0, 40)]);
    }
}

#[test]
fn a_zombie_deletes_nothing() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[insert("a", 0, 1)]);
    process.write(&[replace(2, "a", 0, 2)]);
    process.publish();
    let (zombie, generation, state) = (process.sink.clone(), process.generation, process.state.clone());
    process.state.pending.clear();
    // the next process claims the table before the zombie's commit comes
    world.claim(&world.upsert_sink(&[], &process.identity), generation + 1, &state).unwrap();
    let error = world.commit(&zombie, generation, &state.pending[0]).unwrap_err().to_string();
    assert!(error.contains("fenced"), "{error}");
    process.expect(vec![one("a", 0, 1)]);
}

#[test]
fn the_retention_set_on_main_is_kept() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[insert("a", 0, 1)]);
    let base = world.table();
    let retention = iceberg::spec::SnapshotRetention::branch(Some(5), Some(86_400_000), None);
    let id = base.metadata().current_snapshot_id().unwrap();
    let reference = iceberg::spec::SnapshotReference::new(id, retention);
    let updates = vec![iceberg::TableUpdate::SetSnapshotRef { ref_name: "main".into(), reference }];
    let change = Change { requirements: Vec::new(), updates, files: Vec::new() };
    assert!(matches!(world.submit(&base, &change), Submitted::Yes));
    let kept = |world: &World| commit::retention_of_main(world.table().metadata()).unwrap();
    let said = kept(&world);
    assert!(said.contains("min-snapshots-to-keep = 5"), "{said}");
    process.epoch(&[replace(2, "a", 0, 2)]);
    assert_eq!(kept(&world), said);
    process.restart();
    assert_eq!(kept(&world), said);
}

#[test]
fn a_change_of_another_state_of_the_table_is_a_conflict() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    let base = world.table();
    process.epoch(&[insert("a", 0, 1)]);
    let change = Change { requirements: Vec::new(), updates: Vec::new(), files: Vec::new() };
    assert!(matches!(world.submit(&base, &change), Submitted::Conflict(_)));
    process.expect(vec![one("a", 0, 1)]);
}

#[test]
fn positions_are_forgotten_when_nothing_can_change_any_more() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[insert("a", 0, 1), insert("a", 1, 2)]);
    let known = |process: &Process<'_>| {
        let identity = process.identity.clone();
        Positions::restored(identity, process.positions(), &*process.kept).unwrap().unwrap().len()
    };
    assert_eq!(known(&process), 2);
    process.writer.watermark(HOUR_MS - 1);
    process.epoch(&[replace(2, "a", 1, 3)]);
    assert_eq!(process.positions().files.len(), 2, "a change is a file of its own");
    process.writer.write(&changes(&[replace(3, "a", 1, 4), insert("z", 1, 5)], true)).unwrap();
    process.epoch(&[insert("b", 2, 6)]);
    process.expect(vec![one("a", 0, 1), one("a", 1, 4), one("z", 1, 5), one("b", 2, 6)]);
    // the rest is written anew once the files say much more than is true
    process.writer.watermark(2 * HOUR_MS - 1);
    for revision in 2..20 {
        process.epoch(&[replace(revision, "b", 2, i64::from(revision))]);
        assert!(process.positions().files.len() <= 8);
    }
    assert_eq!(known(&process), 1);
    process.epoch(&[insert("q", 5, 1)]);
    process.epoch(&[delete(20, "b", 2)]);
    assert_eq!(known(&process), 1, "a deletion is a change, too");
    let unchanged = process.positions().files.clone();
    process.epoch(&[]);
    assert_eq!(process.positions().files, unchanged);
    process.writer.watermark(END_OF_TIME_MS);
    process.epoch(&[]);
    assert!(process.positions().files.is_empty());
}

/// A run that starts over, and one that goes on after the windows were closed: the table knows rows that nobody remembers.
#[test]
fn rows_of_an_earlier_life_are_looked_up() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[insert("a", 0, 1), insert("b", 0, 2), insert("a", 1, 3)]);
    // drained: all windows are closed, and a later run opens them again
    process.writer.write(&changes(&[insert("c", 1, 4)], true)).unwrap();
    process.writer.watermark(END_OF_TIME_MS);
    process.epoch(&[]);
    process.restart();
    process.epoch(&[insert("a", 1, 30), insert("c", 1, 40), insert("a", 2, 5)]);
    process.expect(vec![one("a", 0, 1), one("b", 0, 2), one("a", 1, 30), one("c", 1, 40), one("a", 2, 5)]);
    // as with `--drop-state`: the sink's memory is gone
    process.state.writer = None;
    process.restart();
    process.epoch(&[replace(2, "b", 0, 20), insert("a", 2, 50), delete(3, "a", 0), insert("z", 9, 9)]);
    process.expect(vec![one("b", 0, 20), one("a", 1, 30), one("c", 1, 40), one("a", 2, 50), one("z", 9, 9)]);
    // only what the table may have is looked for
    process.write(&[insert("y", 9, 8)]);
    process.publish();
    assert!(process.state.pending[0].files.iter().all(|file| removals::path_of(file).is_none()));
}

#[test]
fn rows_without_a_window_are_known_by_their_key_and_looked_up_when_forgotten() {
    let world = World::new();
    let mut process = world.start_with(&[], 1, vec!["campaign".to_owned()]);
    process.endless_max = Some(4);
    process.restart();
    let of = |kind, revision, key, number| Version { kind, revision, key, window: None, numbers: vec![number] };
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let all: Vec<Version> = keys.iter().zip(1..).map(|(key, n)| of(Kind::Insert, 1, Some(*key), n)).collect();
    process.epoch(&all);
    process.epoch(&[of(Kind::Insert, 1, None, 9)]);
    process.restart();
    // one that is known, one that was forgotten, one that came back after its time to live, and null
    let again = [
        of(Kind::Replace, 2, Some("h"), 80),
        of(Kind::Replace, 2, Some("a"), 10),
        of(Kind::Insert, 1, Some("b"), 20),
        of(Kind::Replace, 2, None, 90),
    ];
    process.epoch(&again);
    let rest = [("c", 3), ("d", 4), ("e", 5), ("f", 6), ("g", 7), ("h", 80), ("a", 10), ("b", 20)];
    let mut expected: Vec<Row> = rest.iter().map(|(key, n)| row(Some(key), None, *n)).collect();
    expected.push(row(None, None, 90));
    process.expect(expected);
}

/// Nobody remembers where the row is, and it is in no snapshot yet: an earlier epoch of the same commit has written it.
#[test]
fn what_an_earlier_epoch_of_the_commit_has_written_is_looked_up_too() {
    let world = World::new();
    let mut process = world.start(&[], 3);
    process.epoch(&[insert("a", 0, 1), insert("b", 0, 2)]);
    process.writer.watermark(HOUR_MS - 1);
    process.epoch(&[insert("c", 5, 3)]);
    process.epoch(&[replace(2, "a", 0, 10)]);
    process.expect(vec![one("a", 0, 10), one("b", 0, 2), one("c", 5, 3)]);
}

/// A buffer that is full is written before the barrier: later versions delete rows of the same commit.
#[test]
fn a_full_buffer_is_written_early() {
    let world = World::new();
    let mut process = world.start(&[by("campaign", PartitionTransform::Identity)], 1);
    process.buffer_bytes = 1;
    process.restart();
    process.write(&[insert("a", 0, 1), insert("b", 0, 2)]);
    process.write(&[replace(2, "a", 0, 10), insert("a", 1, 5)]);
    process.write(&[delete(2, "b", 0), replace(3, "a", 0, 11)]);
    process.epoch(&[]);
    process.expect(vec![one("a", 0, 11), one("a", 1, 5)]);
    process.epoch(&[replace(4, "a", 0, 12)]);
    process.expect(vec![one("a", 0, 12), one("a", 1, 5)]);
}

#[test]
fn nothing_is_left_beside_the_table_when_the_commit_is_in() {
    let world = World::new();
    let mut process = world.start(&[], 1);
    process.epoch(&[insert("a", 0, 1)]);
    process.epoch(&[replace(2, "a", 0, 2)]);
    let folder = world.dir.path().join("warehouse/ads/t/data/_removals");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

/// `mode = "append"` with `revision = true`: the last versions are what an upsert sink's table holds.
#[test]
fn a_sink_that_keeps_revisions_has_every_version() {
    use crate::sink::revised::{Revised, schema};
    let world = World::new();
    let kept = ["campaign", "window_start", "window_end"].map(str::to_owned);
    let mode = SinkMode::Append { revision: true };
    let sink =
        world.sink_of(world.catalog.clone(), "s", IcebergSinkSpec { mode, ..spec() }, &schema(&results(), &kept));
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    let mut writer = Revised::new(sink.writer(0, false), &results(), &kept);
    for (checkpoint, versions) in [
        (1, vec![insert("a", 0, 1), insert("b", 0, 2)]),
        (2, vec![replace(2, "a", 0, 10), delete(2, "b", 0)]),
        (3, vec![replace(3, "a", 0, 11)]),
    ] {
        writer.write(&changes(&versions, false)).unwrap();
        let prepared = writer.prepare(checkpoint).unwrap();
        let committable = Committable {
            checkpoint,
            predecessor: checkpoint - 1,
            files: prepared.files,
            rows: prepared.rows,
            positions: Vec::new(),
            windows_ms: None,
            plugins: BTreeMap::new(),
        };
        world.commit(&sink, 1, &committable).unwrap();
    }
    let mut versions = Vec::new();
    for batch in &world.scan() {
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        let numbers = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
        let revisions = batch.column_by_name("revision").unwrap().as_primitive::<arrow_array::types::Int32Type>();
        for row in 0..batch.num_rows() {
            let number = numbers.is_valid(row).then(|| numbers.value(row));
            let of = |name| text(name).value(row).to_owned();
            versions.push((of("campaign"), revisions.value(row), of("change"), number));
        }
    }
    versions.sort();
    let expected = [
        ("a", 1, "insert", Some(1)),
        ("a", 2, "replace", Some(10)),
        ("a", 3, "replace", Some(11)),
        ("b", 1, "insert", Some(2)),
        ("b", 2, "delete", None),
    ];
    assert_eq!(versions, expected.map(|(key, revision, change, n)| (key.to_owned(), revision, change.to_owned(), n)));
}

#[test]
fn a_table_of_version_three_is_refused_with_the_way_out() {
    use iceberg::spec::FormatVersion;
    use iceberg::transaction::{ApplyTransactionAction, Transaction};
    let world = World::new();
    let identity = ["campaign".to_owned()];
    world.upsert_sink(&[], &identity);
    let handle = world.runtime.handle().clone();
    let opened = world.runtime.block_on(async {
        let ident = TableIdent::new(NamespaceIdent::new("ads".into()), "t".into());
        let tx = Transaction::new(&world.catalog.load_table(&ident).await.unwrap());
        let tx = tx.upgrade_table_version().set_format_version(FormatVersion::V3).apply(tx).unwrap();
        tx.commit(&*world.catalog).await.unwrap();
        let submit = open_submit(&world.spec).await.unwrap();
        let mode = SinkMode::Upsert { key: identity.to_vec() };
        let spec = IcebergSinkSpec { mode, ..spec() };
        let versions = Versions { identity: identity.to_vec(), window_ms: None };
        IcebergSink::open_upsert("p", "s", &spec, world.catalog.clone(), submit, &results(), &versions, handle).await
    });
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("version") && error.contains("hint:"), "{error}");
}
