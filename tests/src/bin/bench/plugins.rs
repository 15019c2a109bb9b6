//! Plugins beside native code: what a row costs in the row style, by hand on the columns, and at the boundary alone; and
//! what a plugin's start costs. Thread CPU time, the minimum of many rounds in which all take turns: ratios of one run
//! are good even on a busy machine.

#[cfg(not(feature = "bench"))]
pub fn run() -> anyhow::Result<()> {
    anyhow::bail!("built without the host: `cargo xtask bench` builds with it")
}

#[cfg(feature = "bench")]
pub use measured::run;

#[cfg(feature = "bench")]
mod measured {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use anyhow::{Context, Result, ensure};
    use arrow_array::types::Int32Type;
    use arrow_array::{Array, ArrayRef, DictionaryArray, Float64Array, StringArray};
    use millrace::plugin::native::NativeFactory;
    use millrace::plugin::{
        Aggregator, AggregatorFactory, Artifact, PluginEngine, PluginLimits, WasmFactory, WindowUs,
    };
    use millrace_core::schema::{DataType, Field, Schema};
    use millrace_sdk_guests::{counts_by_column, counts_by_row};
    use millrace_tests::paths::{self, Scratch};

    const ROWS: usize = 1 << 18;
    const GROUPS: u32 = 1_000;
    const BATCHES: [usize; 4] = [64, 1_024, 8_192, 65_536];
    const ROUNDS: usize = 31;
    const STARTS: usize = 201;

    /// What takes turns, in the order of the table's columns.
    const NAMES: [&str; 5] = ["native rows", "native columns", "wasm rows", "wasm columns", "boundary"];

    pub fn run() -> Result<()> {
        let engine = Arc::new(PluginEngine::new(None)?);
        println!("\nplugins: counts by event type and revenue, {GROUPS} groups, {ROWS} rows; ns per row (thread CPU)");
        for (form, dictionary) in [("plain strings", false), ("dictionary-encoded strings", true)] {
            print!("\n{form}\n{:>12}", "rows a call");
            NAMES.iter().for_each(|name| print!("{name:>15}"));
            println!("   rows ÷ columns in wasm");
            for rows in BATCHES {
                let mut contenders = contenders(&engine)?;
                let ns = measure(&mut contenders, &batches(rows, dictionary))?;
                agree(&mut contenders)?;
                print!("{rows:>12}");
                ns.iter().for_each(|ns| print!("{ns:>15.2}"));
                println!("   {:.2}", ns[2] / ns[3]);
            }
        }
        let empty = empty_call(&engine)?;
        println!("\na call without a row: {empty:.0} ns");
        start()
    }

    fn offered() -> Schema {
        Schema::new(vec![
            Field::new("event_type", DataType::String, false),
            Field::new("revenue", DataType::Double, true),
        ])
    }

    fn wasm(engine: &Arc<PluginEngine>, name: &str) -> Result<Box<dyn Aggregator>> {
        let file = paths::target().join("wasm32-unknown-unknown/release/examples").join(format!("{name}.wasm"));
        let artifact = Artifact::load(name, &file, None)?;
        Ok(WasmFactory::new(engine, name, &artifact, PluginLimits::default())?.open("", &offered())?)
    }

    fn contenders(engine: &Arc<PluginEngine>) -> Result<Vec<Box<dyn Aggregator>>> {
        Ok(vec![
            NativeFactory::<counts_by_row::Counts>::new("rows").open("", &offered())?,
            NativeFactory::<counts_by_column::Counts>::new("columns").open("", &offered())?,
            wasm(engine, "counts_by_row")?,
            wasm(engine, "counts_by_column")?,
            wasm(engine, "nothing")?,
        ])
    }

    struct Batch {
        columns: Vec<Option<ArrayRef>>,
        groups: Vec<u32>,
    }

    /// 90 % impressions, 9 % clicks, 1 % conversions, which alone have revenue.
    fn batches(rows: usize, dictionary: bool) -> Vec<Batch> {
        let mut seed = 1_u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        let batch = || {
            let kinds: Vec<&str> = (0..rows)
                .map(|_| match next() % 100 {
                    0..90 => "impression",
                    90..99 => "click",
                    _ => "conversion",
                })
                .collect();
            let revenue: Float64Array = kinds.iter().map(|kind| (*kind == "conversion").then_some(1.25)).collect();
            let kinds: ArrayRef = match dictionary {
                true => Arc::new(kinds.into_iter().collect::<DictionaryArray<Int32Type>>()),
                false => Arc::new(StringArray::from(kinds)),
            };
            let groups = (0..rows).map(|_| u32::try_from(next() % u64::from(GROUPS)).unwrap_or_default()).collect();
            Batch { columns: vec![Some(kinds), Some(Arc::new(revenue))], groups }
        };
        std::iter::repeat_with(batch).take(ROWS / rows).collect()
    }

    /// ns per row of each, the minimum over the rounds.
    fn measure(contenders: &mut [Box<dyn Aggregator>], batches: &[Batch]) -> Result<Vec<f64>> {
        let mut best = vec![f64::INFINITY; contenders.len()];
        for _ in 0..ROUNDS {
            for (contender, best) in contenders.iter_mut().zip(&mut best) {
                let started = thread_cpu();
                for batch in batches {
                    let rejected = contender.update(&batch.columns, &batch.groups, GROUPS)?;
                    ensure!(rejected.is_empty(), "a row was refused");
                }
                let ns = (thread_cpu() - started).as_nanos() as f64 / ROWS as f64;
                *best = best.min(ns);
            }
        }
        Ok(best)
    }

    /// All have counted the same: what is fast and wrong is not measured.
    fn agree(contenders: &mut [Box<dyn Aggregator>]) -> Result<()> {
        let groups: Vec<u32> = (0..GROUPS).collect();
        let windows = vec![WindowUs { start: 0, end: 1 }; groups.len()];
        let mut answers = Vec::new();
        for contender in contenders.iter_mut().take(4) {
            answers.push(contender.evaluate(&groups, &windows, true)?.columns);
        }
        ensure!(answers.iter().all(|columns| *columns == answers[0] && !columns[0].is_empty()), "answers differ");
        Ok(())
    }

    /// ns of a call of the plugin that does nothing.
    fn empty_call(engine: &Arc<PluginEngine>) -> Result<f64> {
        let mut nothing = wasm(engine, "nothing")?;
        let empty: Vec<Option<ArrayRef>> = vec![
            Some(Arc::new(StringArray::from(Vec::<&str>::new()))),
            Some(Arc::new(Float64Array::from(Vec::<f64>::new()))),
        ];
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            const CALLS: u32 = 1_000;
            let started = thread_cpu();
            for _ in 0..CALLS {
                nothing.update(&empty, &[], GROUPS)?;
            }
            best = best.min((thread_cpu() - started).as_nanos() as f64 / f64::from(CALLS));
        }
        Ok(best)
    }

    /// Compiling (once per binary), loading what is compiled (once per run), and an instance (per task, and after a trap).
    fn start() -> Result<()> {
        let scratch = Scratch::new("bench-plugins")?;
        let artifact = Artifact::load("campaign-metrics", &paths::plugin()?, None)?;
        let engine = Arc::new(PluginEngine::new(Some(scratch.path()))?);
        let new = || WasmFactory::new(&engine, "campaign-metrics", &artifact, PluginLimits::default());
        let timed = |times: usize, run: &mut dyn FnMut() -> Result<()>| -> Result<(f64, f64)> {
            let mut ms = Vec::new();
            for _ in 0..times {
                let started = Instant::now();
                run()?;
                ms.push(started.elapsed().as_secs_f64() * 1e3);
            }
            ms.sort_by(f64::total_cmp);
            Ok((ms.first().copied().context("no run")?, ms[ms.len() / 2]))
        };
        let (cold, _) = timed(1, &mut || Ok(drop(new()?)))?;
        let (load, load_median) = timed(STARTS, &mut || Ok(drop(new()?)))?;
        let factory = new()?;
        let schema = Schema::new(vec![
            Field::new("event_type", DataType::String, false),
            Field::new("user_id", DataType::String, false),
            Field::new("revenue", DataType::Double, true),
        ]);
        let (open, open_median) = timed(STARTS, &mut || Ok(drop(factory.open("", &schema)?)))?;
        println!("\nstart of campaign-metrics ({} KiB), wall ms: least, median", artifact.size_bytes() >> 10);
        println!("  compile, cold                    {cold:>8.2}");
        println!("  load from the cache, with `info` {load:>8.3} {load_median:>8.3}");
        println!("  an instance, with `open`         {open:>8.3} {open_median:>8.3}");
        Ok(())
    }

    fn thread_cpu() -> Duration {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local of the right type.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
        Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or_default())
    }
}
