//! What a commit that replaces rows costs, as a ratio to one that only appends: the same rows through both sinks, in turns.
//!
//! ```text
//!   append   rows ─▶ prepare ─▶ commit
//!   upsert   the same rows, half of which replace some of the epochs before ─▶ prepare (positions saved) ─▶ commit (deletes)
//! ```

use anyhow::Result;

#[cfg(feature = "bench")]
pub fn run() -> Result<()> {
    measure::run()
}

#[cfg(not(feature = "bench"))]
pub fn run() -> Result<()> {
    anyhow::bail!("built without the host: `cargo xtask bench` builds with it")
}

#[cfg(feature = "bench")]
mod measure {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Instant;

    use anyhow::Result;
    use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
    use millrace::catalog::open_catalog;
    use millrace::catalog::submit::open_submit;
    use millrace::checkpoint::{CheckpointStore, StatePart, encode_state};
    use millrace::sink::iceberg::{IcebergSink, Versions};
    use millrace::sink::{Result as SinkResult, SinkCommitter, SinkError, SinkWriter, WriterStore};
    use millrace::spec::model::{CatalogKind, CatalogSpec, Evolve, IcebergSinkSpec, Location, SinkMode};
    use millrace_core::batch::{Audience, Batch, Change, Changes, RowSet};
    use millrace_core::checkpoint::{Committable, Holds, SinkState, StateFile};
    use millrace_core::commit::Fence;
    use millrace_core::schema::{DataType, Field, Schema};
    use millrace_tests::paths::Scratch;
    use tokio::runtime::{Handle, Runtime};

    const COMMITS: u64 = 60;
    const WARM_UP: u64 = 10;
    const WINDOW_MS: i64 = 300_000;

    struct Store {
        store: CheckpointStore,
        runtime: Handle,
    }

    impl WriterStore for Store {
        fn write(&self, sink: &str, checkpoint: u64, rows: RecordBatch) -> SinkResult<StateFile> {
            let part = StatePart {
                operator: sink.to_owned(),
                holds: Holds::State,
                part: 0,
                first_key_group: 0,
                last_key_group: 127,
                window_start_ms: 0,
                window_end_ms: 0,
                batches: vec![rows],
            };
            let failed = |e: millrace::checkpoint::CheckpointError| SinkError::Fatal(e.to_string());
            let encoded = encode_state(&part).map_err(failed)?;
            self.runtime.block_on(self.store.upload_state(checkpoint, encoded)).map_err(failed)
        }

        fn read(&self, file: &StateFile) -> SinkResult<Vec<RecordBatch>> {
            self.runtime.block_on(self.store.read_state_file(file)).map_err(|e| SinkError::Fatal(e.to_string()))
        }
    }

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("campaign_id", DataType::String, false),
            Field::new("window_start", DataType::Timestamptz, false),
            Field::new("window_end", DataType::Timestamptz, false),
            Field::new("clicks", DataType::Long, false),
            Field::new("revenue", DataType::Double, true),
        ])
    }

    /// Results of an epoch: of every key, in the window of now (new every fifth epoch) and the one before.
    fn rows(epoch: u64, keys: usize) -> Result<RowSet> {
        let now = i64::try_from(epoch / 5)?;
        let windows = [now - 1, now];
        let groups: Vec<(usize, i64)> = windows.iter().flat_map(|w| (0..keys / 2).map(move |key| (key, *w))).collect();
        let is_new = |window: i64| epoch.is_multiple_of(5) && window == now;
        let times = |add: i64| -> ArrayRef {
            let values = groups.iter().map(|(_, w)| (w + add) * WINDOW_MS * 1_000);
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(values).with_data_type(DataType::Timestamptz.to_arrow()),
            )
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(groups.iter().map(|(key, _)| format!("campaign-{key:06}")))),
            times(0),
            times(1),
            Arc::new(groups.iter().map(|(key, w)| Some(i64::try_from(*key).unwrap_or(0) * w)).collect::<Int64Array>()),
            Arc::new(groups.iter().map(|(key, _)| Some(*key as f64 * 0.5)).collect::<Float64Array>()),
        ];
        let changes = Changes {
            kinds: groups.iter().map(|(_, w)| if is_new(*w) { Change::Insert } else { Change::Replace }).collect(),
            revisions: groups.iter().map(|_| u32::try_from(epoch).unwrap_or(1) + 1).collect(),
            is_final: false,
            audience: Audience::Sinks,
        };
        let batch = Batch {
            rows: RecordBatch::try_new(schema().to_arrow(), columns)?,
            event_time_ms: vec![0; groups.len()].into(),
            origin: None,
            changes: Some(changes),
        };
        Ok(RowSet::all(batch))
    }

    struct Side {
        sink: Arc<IcebergSink>,
        writer: Box<dyn SinkWriter>,
        fence: Fence,
        last: u64,
        prepare_s: f64,
        commit_s: f64,
        cpu_s: f64,
    }

    impl Side {
        fn epoch(&mut self, runtime: &Runtime, checkpoint: u64, rows: &RowSet) -> Result<()> {
            let cpu = cpu_s();
            let started = Instant::now();
            self.writer.watermark(i64::try_from(checkpoint / 5)? * WINDOW_MS - WINDOW_MS - 1);
            self.writer.write(rows)?;
            let prepared = self.writer.prepare(checkpoint)?;
            let prepare_s = started.elapsed().as_secs_f64();
            let committable = Committable {
                checkpoint,
                predecessor: std::mem::replace(&mut self.last, checkpoint),
                files: prepared.files,
                rows: prepared.rows,
                positions: Vec::new(),
                windows_ms: None,
                plugins: BTreeMap::new(),
            };
            runtime.block_on(self.sink.commit(&self.fence, &committable))?;
            if checkpoint > WARM_UP {
                self.prepare_s += prepare_s;
                self.commit_s += started.elapsed().as_secs_f64() - prepare_s;
                self.cpu_s += cpu_s() - cpu;
            }
            Ok(())
        }
    }

    /// Of the whole process: nothing else is going on.
    fn cpu_s() -> f64 {
        // SAFETY: all zeros is a valid `rusage`, the kernel fills it in.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a local of the right type.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }

    fn open(runtime: &Runtime, folder: &Path, name: &str, upsert: bool) -> Result<Side> {
        let catalog = CatalogSpec {
            name: "lake".into(),
            kind: CatalogKind::Sql,
            uri: format!("sqlite:{}", folder.join("catalog.db").display()),
            warehouse: format!("file://{}", folder.join("warehouse").display()),
            properties: BTreeMap::new(),
        };
        let key = ["campaign_id", "window_start"].map(str::to_owned).to_vec();
        let mode = if upsert { SinkMode::Upsert { key: key.clone() } } else { SinkMode::Append { revision: false } };
        let spec = IcebergSinkSpec {
            catalog: "lake".into(),
            namespace: "bench".into(),
            table: name.into(),
            partition_by: Vec::new(),
            evolve: Evolve::Fail,
            mode,
            commit_interval_ms: 1,
            properties: BTreeMap::new(),
        };
        let handle = runtime.handle().clone();
        runtime.block_on(async {
            let opened = open_catalog(&catalog).await?;
            let schema = schema();
            let sink = if upsert {
                let submit = open_submit(&catalog).await?;
                let versions = Versions { identity: key, window_ms: Some(WINDOW_MS) };
                IcebergSink::open_upsert("bench", name, &spec, opened, submit, &schema, &versions, handle.clone())
                    .await?
            } else {
                IcebergSink::open("bench", name, &spec, opened, &schema, handle.clone()).await?
            };
            let fence = Fence { incarnation: "bench".into(), generation: 1 };
            sink.claim(&fence, &SinkState::default()).await?;
            let writer = if upsert {
                let store = CheckpointStore::open(&Location::Local(folder.join("state")), "bench")?;
                sink.upsert_writer(Arc::new(Store { store, runtime: handle }))?
            } else {
                sink.writer(0, false)
            };
            Ok(Side { sink, writer, fence, last: 0, prepare_s: 0.0, commit_s: 0.0, cpu_s: 0.0 })
        })
    }

    pub fn run() -> Result<()> {
        let scratch = Scratch::new("bench-upsert")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        println!(
            "\n{:<22} {:>12} {:>12} {:>12} {:>14} {:>10}",
            "upsert ÷ append", "prepare ms", "commit ms", "CPU ms", "append CPU ms", "CPU ratio"
        );
        for keys in [1_000, 10_000, 100_000] {
            let folder = scratch.path().join(keys.to_string());
            let mut append = open(&runtime, &folder, "append", false)?;
            let mut upsert = open(&runtime, &folder, "upsert", true)?;
            upsert.writer.restore(&SinkState::default())?;
            for checkpoint in 1..=COMMITS {
                let rows = rows(checkpoint, keys)?;
                append.epoch(&runtime, checkpoint, &plain(&rows))?;
                upsert.epoch(&runtime, checkpoint, &rows)?;
            }
            let ms = |seconds: f64| seconds * 1e3 / (COMMITS - WARM_UP) as f64;
            println!(
                "{:<22} {:>12.1} {:>12.1} {:>12.1} {:>14.1} {:>10.2}",
                format!("{keys} rows a commit"),
                ms(upsert.prepare_s),
                ms(upsert.commit_s),
                ms(upsert.cpu_s),
                ms(append.cpu_s),
                upsert.cpu_s / append.cpu_s
            );
        }
        Ok(())
    }

    fn plain(rows: &RowSet) -> RowSet {
        RowSet::all(Batch { changes: None, ..(*rows.batch).clone() })
    }
}
