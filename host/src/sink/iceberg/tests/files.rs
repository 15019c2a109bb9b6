//! Data files and runs: which are made, that nothing un-synced is listed, and that what Iceberg is told of them is true.

use std::collections::BTreeSet;
use std::path::Path;

use arrow_array::{BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, StringArray};
use iceberg::expr::Reference;
use iceberg::spec::Datum;

use super::*;
use crate::sink::iceberg::data::{Belongs, DataFileWriter, data_file};
use crate::sink::iceberg::run;
use crate::sink::iceberg::writer::IcebergWriter;

fn partitioned(world: &World) -> Arc<IcebergSink> {
    let partition = [by("campaign", PartitionTransform::Identity), by("id", PartitionTransform::Bucket(3))];
    world.sink_over(world.catalog.clone(), "s", &partition)
}

fn unsynced(sink: &IcebergSink) -> usize {
    sink.layout.deferred.as_ref().unwrap().unsynced()
}

/// Partition values of the files, in any order.
fn partitions(sink: &IcebergSink, files: &[Value]) -> Vec<String> {
    files.iter().map(|file| format!("{:?}", data_file(&sink.layout, file).unwrap().partition())).collect()
}

fn files_in(world: &World, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(world.dir.path().join("warehouse/ads/t/data").join(folder)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn committable(checkpoint: u64, files: Vec<Value>) -> Committable {
    Committable {
        checkpoint,
        predecessor: 0,
        files,
        rows: 0,
        positions: Vec::new(),
        windows_ms: None,
        plugins: BTreeMap::new(),
    }
}

#[test]
fn a_closed_file_is_listed_only_after_it_was_synced() {
    let world = World::new();
    let sink = world.sink("s");
    let batch = sink.layout.project(&rows(0..10).batch.rows).unwrap();
    let closed = world.runtime.block_on(async {
        let mut file = DataFileWriter::new(&sink.layout, 0, Belongs::To(1), iceberg::spec::Struct::empty())?;
        file.write(&batch).await?;
        file.close(&sink.layout).await
    });
    assert_eq!(unsynced(&sink), 1);
    assert_eq!(sink.layout.durable(vec![closed.unwrap()]).unwrap().len(), 1);
    assert_eq!(unsynced(&sink), 0);
}

#[test]
fn rows_that_wait_become_one_file_per_partition_when_the_commit_is_due() {
    let world = World::new();
    let sink = partitioned(&world);
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    // as if the parallelism had changed in between: both tasks have rows of every partition
    let mut writers = [sink.writer(0, true), sink.writer(1, true)];
    let mut waiting = Vec::new();
    for checkpoint in 1..=3 {
        for (writer, task) in writers.iter_mut().zip(0..) {
            let from = i64::try_from(checkpoint).unwrap() * 100 + task * 50;
            writer.write(&rows(from..from + 20)).unwrap();
            writer.write(&rows(from + 20..from + 50)).unwrap();
            let prepared = writer.prepare(checkpoint).unwrap();
            assert_eq!((prepared.files.len(), prepared.rows, unsynced(&sink)), (1, 50, 0));
            assert!(run::path_of(&prepared.files[0]).is_some());
            waiting.extend(prepared.files);
        }
    }
    assert_eq!(files_in(&world, "_runs").len(), 6);
    assert!(writers[0].prepare(4).unwrap().files.is_empty());

    let files = world.runtime.block_on(SinkCommitter::join(&*sink, 4, waiting)).unwrap();
    assert_eq!(unsynced(&sink), 0);
    let found = partitions(&sink, &files);
    // campaigns null, c0, c1, c2, each in three buckets
    assert_eq!((found.len(), found.iter().collect::<BTreeSet<_>>().len()), (12, 12));
    assert_eq!(files.iter().map(|f| data_file(&sink.layout, f).unwrap().record_count()).sum::<u64>(), 300);
    assert_eq!(files_in(&world, "_runs").len(), 6, "older checkpoints name them until the commit is in");
    world.commit(&sink, 1, &committable(4, files)).unwrap();
    assert_eq!(world.ids(), (100..400).collect::<Vec<_>>());
    assert_eq!(files_in(&world, "_runs"), Vec::<String>::new());
}

#[test]
fn a_full_buffer_costs_no_more_files() {
    let world = World::new();
    let sink = partitioned(&world);
    world.claim(&sink, 1, &SinkState::default()).unwrap();
    let handle = world.runtime.handle().clone();
    let mut writer = IcebergWriter::new(7, sink.layout.clone(), handle, false).with_buffer(1);
    for from in [0, 100, 200] {
        writer.write(&rows(from..from + 100)).unwrap();
    }
    let spilled = files_in(&world, "_runs");
    assert_eq!(spilled.len(), 3);
    assert!(spilled.iter().all(|name| name.starts_with("after-00000000-007-")), "{spilled:?}");
    let files = writer.prepare(5).unwrap().files;
    assert_eq!((files.len(), unsynced(&sink)), (12, 0));
    assert_eq!(files_in(&world, "_runs"), Vec::<String>::new());
    let first = data_file(&sink.layout, &files[0]).unwrap();
    let name = Path::new(first.file_path()).file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("00000005-007-"), "{name}");
    world.commit(&sink, 1, &committable(5, files)).unwrap();
    assert_eq!(world.ids(), (0..300).collect::<Vec<_>>());
}

#[test]
fn runs_and_small_files_from_before_a_column_was_added_get_nulls() {
    for partition_by in [vec![], vec![by("campaign", PartitionTransform::Identity)]] {
        let world = World::new();
        let before = world.sink_over(world.catalog.clone(), "s", &partition_by);
        let mut waiting = Vec::new();
        for (checkpoint, ids) in [(1, 0..10), (2, 10..20)] {
            let mut writer = before.writer(0, true);
            writer.write(&rows(ids)).unwrap();
            waiting.extend(writer.prepare(checkpoint).unwrap().files);
        }
        let mut wider = schema();
        wider.fields.push(Field::new("more", DataType::String, true));
        let evolving = IcebergSinkSpec { evolve: Evolve::AddColumns, partition_by, ..spec() };
        let sink = world.sink_of(world.catalog.clone(), "s", evolving, &wider);
        world.claim(&sink, 1, &SinkState::default()).unwrap();
        let files = world.runtime.block_on(SinkCommitter::join(&*sink, 3, waiting)).unwrap();
        let more = sink.layout.schema.field_by_name("more").unwrap().id;
        for file in &files {
            let file = data_file(&sink.layout, file).unwrap();
            assert_eq!(file.null_value_counts().get(&more), Some(&file.record_count()));
        }
        world.commit(&sink, 1, &committable(3, files)).unwrap();
        assert_eq!(world.ids(), (0..20).collect::<Vec<_>>());
    }
}

/// Thirty rows in three row groups; row i has the value i - 15, and none where i % 7 is 3.
#[test]
fn counts_and_bounds_are_those_of_the_rows() {
    let world = World::new();
    let decimal = |precision| DataType::Decimal { precision, scale: 2 };
    let columns = [
        ("flag", DataType::Boolean),
        ("int", DataType::Int),
        ("long", DataType::Long),
        ("float", DataType::Float),
        ("double", DataType::Double),
        ("decimal9", decimal(9)),
        ("decimal18", decimal(18)),
        ("decimal38", decimal(38)),
        ("date", DataType::Date),
        ("at", DataType::Timestamptz),
        ("text", DataType::String),
        ("bytes", DataType::Binary),
        ("nothing", DataType::String),
        ("unknown", DataType::Double),
    ];
    let wide = Schema::new(columns.iter().map(|(name, kind)| Field::new(*name, *kind, true)).collect());
    let row_groups = BTreeMap::from([("write.parquet.row-group-limit".to_owned(), "10".to_owned())]);
    let sink = world.sink_of(world.catalog.clone(), "s", IcebergSinkSpec { properties: row_groups, ..spec() }, &wide);
    world.claim(&sink, 1, &SinkState::default()).unwrap();

    let values = || (0..30).map(|i| (i % 7 != 3).then_some(i - 15));
    let decimals = |precision| {
        let array = Decimal128Array::from_iter(values().map(|v| v.map(i128::from)));
        Arc::new(array.with_precision_and_scale(precision, 2).unwrap()) as ArrayRef
    };
    let text = |v: i32| format!("{}{:03}", "x".repeat(15), v + 15);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from_iter(values().map(|v| v.map(|v| v > 0)))),
        Arc::new(Int32Array::from_iter(values())),
        Arc::new(Int64Array::from_iter(values().map(|v| v.map(i64::from)))),
        Arc::new(Float32Array::from_iter(values().map(|v| v.map(|v| v as f32)))),
        // one NaN
        Arc::new(Float64Array::from_iter(values().map(|v| v.map(|v| if v == 0 { f64::NAN } else { f64::from(v) })))),
        decimals(9),
        decimals(18),
        decimals(38),
        Arc::new(Date32Array::from_iter(values())),
        Arc::new(
            TimestampMicrosecondArray::from_iter(values().map(|v| v.map(i64::from)))
                .with_data_type(DataType::Timestamptz.to_arrow()),
        ),
        Arc::new(StringArray::from_iter(values().map(|v| v.map(text)))),
        Arc::new(BinaryArray::from_iter(values().map(|v| v.map(|v| [u8::try_from(v + 15).unwrap(); 20])))),
        Arc::new(StringArray::new_null(30)),
        // all NaN in the second row group
        Arc::new(Float64Array::from_iter((0..30).map(|i| if (10..20).contains(&i) { f64::NAN } else { 1.0 }))),
    ];
    let mut writer = sink.writer(0, false);
    let batch = RecordBatch::try_new(wide.to_arrow(), arrays).unwrap();
    let event_time_ms = vec![0; 30].into();
    writer.write(&RowSet::all(Batch { rows: batch, event_time_ms, origin: None, changes: None })).unwrap();
    let files = writer.prepare(1).unwrap().files;
    let file = data_file(&sink.layout, &files[0]).unwrap();

    let expected = [
        ("flag", Datum::bool(false), Datum::bool(true)),
        ("int", Datum::int(-15), Datum::int(14)),
        ("long", Datum::long(-15), Datum::long(14)),
        ("float", Datum::float(-15.0), Datum::float(14.0)),
        ("double", Datum::double(-15.0), Datum::double(14.0)),
        ("date", Datum::date(-15), Datum::date(14)),
        ("at", Datum::timestamptz_micros(-15), Datum::timestamptz_micros(14)),
        ("text", Datum::string(format!("{}0", "x".repeat(15))), Datum::string(format!("{}1", "x".repeat(15)))),
        ("bytes", Datum::binary([0; 16]), Datum::binary([29; 15].into_iter().chain([30]))),
    ];
    let id = |name: &str| sink.layout.schema.field_by_name(name).unwrap().id;
    for (name, lower, upper) in expected {
        let found = (file.lower_bounds().get(&id(name)), file.upper_bounds().get(&id(name)));
        assert_eq!(found, (Some(&lower), Some(&upper)), "{name}");
    }
    for name in ["decimal9", "decimal18", "decimal38"] {
        let shown = |bound: Option<&Datum>| bound.unwrap().to_string();
        assert_eq!(shown(file.lower_bounds().get(&id(name))), "-0.15");
        assert_eq!(shown(file.upper_bounds().get(&id(name))), "0.14");
    }
    for name in ["nothing", "unknown"] {
        assert!(!file.lower_bounds().contains_key(&id(name)) && !file.upper_bounds().contains_key(&id(name)));
    }
    for (name, _) in &columns {
        assert_eq!(file.value_counts().get(&id(name)), Some(&30), "{name}");
        assert!(file.column_sizes().get(&id(name)).is_some_and(|bytes| *bytes > 0), "{name}");
        let nulls = match *name {
            "nothing" => 30,
            "unknown" => 0,
            _ => 4,
        };
        assert_eq!(file.null_value_counts().get(&id(name)), Some(&nulls), "{name}");
    }
    let nans = |name| file.nan_value_counts().get(&id(name)).copied();
    assert_eq!((nans("double"), nans("float"), nans("unknown"), nans("int")), (Some(1), Some(0), Some(10), None));
    assert_eq!(file.split_offsets().unwrap().len(), 3);
    assert_eq!(
        file.file_size_in_bytes(),
        std::fs::metadata(file.file_path().strip_prefix("file://").unwrap()).unwrap().len()
    );

    world.commit(&sink, 1, &committable(1, files)).unwrap();
    let planned = |text: &str| {
        let table = world.table();
        let scan = table.scan().with_filter(Reference::new("text").equal_to(Datum::string(text))).build().unwrap();
        world.runtime.block_on(async { scan.plan_files().await?.try_collect::<Vec<_>>().await }).unwrap().len()
    };
    for v in values().flatten() {
        assert_eq!(planned(&text(v)), 1, "{v}");
    }
    assert_eq!(planned("y"), 0);
}
