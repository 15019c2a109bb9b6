//! Plugins that mean harm, or might as well: each kind is contained. It ends in an error that names the plugin and says
//! what it did, in time, and a fresh instance works. How much memory they can take is in [`super::memory`]; wrong files
//! are in `artifact/tests.rs`, wrong results in the tests of each world, WASI in [`super::wasi`].

use super::*;

/// A component in which this core module is instantiated, too (so many times): its start function runs with the plugin's.
pub(super) fn with_core_module(module: &[u8], times: usize) -> Artifact {
    use wasmparser::{Parser, Payload};
    let mut bytes = artifact("aggregation").component().to_vec();
    let mut depth = 0;
    let mut modules = 0_u32;
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } if depth == 1 => modules += 1,
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    section(&mut bytes, 1, module);
    let mut instances = leb(times as u32);
    for _ in 0..times {
        instances.push(0);
        instances.extend(leb(modules));
        instances.push(0);
    }
    section(&mut bytes, 2, &instances);
    Artifact::from_bytes("guest", bytes, None).unwrap()
}

fn leb(mut value: u32) -> Vec<u8> {
    let mut bytes = vec![];
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

fn section(bytes: &mut Vec<u8>, id: u8, body: &[u8]) {
    bytes.push(id);
    bytes.extend(leb(body.len() as u32));
    bytes.extend_from_slice(body);
}

/// A core module with one function of type () -> () that is its start function; `sections` (id, body) lie in between.
pub(super) fn starting(sections: &[(u8, &[u8])], code: &[u8]) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    section(&mut bytes, 1, &[1, 0x60, 0, 0]);
    section(&mut bytes, 3, &[1, 0]);
    for (id, body) in sections {
        section(&mut bytes, *id, body);
    }
    section(&mut bytes, 8, &[0]);
    let body = [&[0], code, &[0x0b]].concat();
    section(&mut bytes, 10, &[vec![1], leb(body.len() as u32), body].concat());
    bytes
}

fn refused(artifact: &Artifact) -> PluginError {
    WasmFactory::new(&engine(), "guest", artifact, limits()).err().unwrap()
}

/// The plugin is at fault in `call`, within its time, and another instance is not harmed.
fn contained(call: &'static str, expected: &str, run: impl FnOnce() -> PluginError) {
    let start = Instant::now();
    let (found, message, _) = trapped(run());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(found, call);
    assert!(message.contains(expected), "{message}");
    works_afresh();
}

/// Calls every function once, with data in it; the first error.
fn every_call(aggregator: &mut dyn Aggregator) -> Result<()> {
    let (columns, groups) = rows(10, 2);
    aggregator.update(&columns, &groups, 2)?;
    aggregator.combine(&[0], &[1])?;
    let chunk = aggregator.state(&[0, 1], 0, 1 << 20)?;
    aggregator.merge(&chunk.columns, &chunk.groups, 2)?;
    aggregator.evaluate(&[0, 1], &[WindowUs { start: 0, end: 1 }; 2], true)?;
    aggregator.reset(&[0])?;
    aggregator.size()?;
    let origin = StateOrigin {
        name: "test-guest".to_owned(),
        version: "0.1.0".to_owned(),
        config: "{}".to_owned(),
        state: Schema::new(vec![
            Field::new("count", DataType::Long, false),
            Field::new("sum", DataType::Double, false),
        ]),
    };
    let state: [ArrayRef; 2] = [Arc::new(Int64Array::from(vec![1])), Arc::new(Float64Array::from(vec![0.5]))];
    aggregator.migrate(&origin, &state)?;
    Ok(())
}

fn mode(mode: &str) -> PluginError {
    try_open(mode).and_then(|mut a| every_call(&mut *a)).unwrap_err()
}

/// The guest's `info` does what these four letters say.
fn with_info(what: &[u8; 4]) -> Artifact {
    let mut bytes = guest().to_vec();
    let mark = b"info-mode: good";
    let at = bytes.windows(mark.len()).position(|w| w == mark).expect("the mark");
    bytes[at + 11..at + 15].copy_from_slice(what);
    Artifact::from_bytes("guest", bytes, None).unwrap()
}

const DEADLINE: &str = "it ran past its deadline of 500ms (`deadline` raises it)";
const STARTUP: &str = "it ran past its deadline of 800ms (`startup_deadline` raises it)";

#[test]
fn well_behaved_guests_pass_every_call() {
    every_call(&mut *open("normal")).unwrap();
}

#[test]
fn endless_loop_in_info() {
    contained("info", STARTUP, || refused(&with_info(b"loop")));
}

#[test]
fn endless_loop_in_open() {
    contained("open", STARTUP, || mode("loop-in-open"));
}

#[test]
fn endless_loop_in_update() {
    contained("update", DEADLINE, || mode("loop-in-update"));
}

#[test]
fn endless_loop_in_merge() {
    contained("merge", DEADLINE, || mode("loop-in-merge"));
}

#[test]
fn endless_loop_in_combine() {
    contained("combine", DEADLINE, || mode("loop-in-combine"));
}

#[test]
fn endless_loop_in_state() {
    contained("state", DEADLINE, || mode("loop-in-state"));
}

#[test]
fn endless_loop_in_evaluate() {
    contained("evaluate", DEADLINE, || mode("loop-in-evaluate"));
}

#[test]
fn endless_loop_in_reset() {
    contained("reset", DEADLINE, || mode("loop-in-reset"));
}

#[test]
fn endless_loop_in_size() {
    contained("size", DEADLINE, || mode("loop-in-size"));
}

#[test]
fn endless_loop_in_migrate() {
    contained("migrate", DEADLINE, || mode("loop-in-migrate"));
}

#[test]
fn endless_loop_in_process() {
    let run = || transform::open("loop").process(&transform::batch(&["a"]), 1).unwrap_err();
    contained("process", DEADLINE, run);
}

#[test]
fn endless_loop_in_a_start_function() {
    let artifact = with_core_module(&starting(&[], &[0x03, 0x40, 0x0c, 0, 0x0b]), 1);
    contained("instantiate", STARTUP, || refused(&artifact));
}

#[test]
fn a_dead_instance_is_not_called_again() {
    let mut aggregator = open("loop-in-update");
    every_call(&mut *aggregator).unwrap_err();
    let (call, message, _) = trapped(aggregator.size().unwrap_err());
    assert_eq!(call, "size");
    assert!(message.contains("failed before, in `update`"), "{message}");
}

#[test]
fn deep_recursion() {
    contained("update", "call stack", || mode("stack"));
    // On the engine's own stack, and not the one in linear memory: call 0.
    let artifact = with_core_module(&starting(&[], &[0x10, 0]), 1);
    contained("instantiate", "its call stack is exhausted", || refused(&artifact));
}

#[test]
fn memory_bomb() {
    let expected = "its limit is 128 MiB (raise `memory` of the plugin or `memory_limit` of the pipeline";
    contained("update", expected, || mode("memory"));
}

#[test]
fn memory_bomb_before_the_first_call() {
    // 4 GiB from the beginning
    let artifact = with_core_module(&starting(&[(5, &[1, 0, 0x80, 0x80, 4])], &[]), 1);
    contained("instantiate", "it asked for 4296081408 bytes (4097 MiB) of linear memory", || refused(&artifact));
    // Several are added up: 30 × 5 MiB.
    let artifact = with_core_module(&starting(&[(5, &[1, 0, 80])], &[]), 30);
    contained("instantiate", "out of memory: it asked for", || refused(&artifact));
}

/// `table.grow` by 65,536 for ever.
pub(super) fn table_bomb() -> Artifact {
    let code = [0x03, 0x40, 0xd0, 0x70, 0x41, 0x80, 0x80, 4, 0xfc, 0x0f, 0, 0x1a, 0x0c, 0, 0x0b];
    with_core_module(&starting(&[(4, &[1, 0x70, 0, 0])], &code), 1)
}

#[test]
fn table_bomb_is_stopped() {
    contained("instantiate", "at most 1048576 are possible", || refused(&table_bomb()));
}

#[test]
fn instance_bomb() {
    contained("instantiate", "instance count too high", || refused(&with_core_module(&starting(&[], &[]), 900)));
    // More than that is not even valid.
    let error = refused(&with_core_module(&starting(&[], &[]), 10_000)).to_string();
    assert!(error.contains("instances count exceeds limit"), "{error}");
}

#[test]
fn shared_memory_and_atomic_waits() {
    // A wait on shared memory would sleep in the host. The proposal is off: the module is refused.
    let module = starting(&[(5, &[1, 3, 1, 1])], &[]);
    let error = refused(&with_core_module(&module, 1)).to_string();
    assert!(error.contains("`guest`") && error.contains("threads"), "{error}");
}

#[test]
fn giant_results() {
    contained("state", "more than the 67108864 bytes that one call may return (`result_size` raises it)", || {
        let mut aggregator = open("giant");
        aggregator.state(&[0], 0, 1 << 20).unwrap_err()
    });
    contained("info", "more than the 67108864 bytes", || refused(&with_info(b"vast")));
}

#[test]
fn no_name() {
    let error = refused(&with_info(b"none")).to_string();
    assert_eq!(error, "plugin `guest`: does not say its name and version in `info`");
}

#[test]
fn traps_in_every_call() {
    for call in ["open", "update", "merge", "combine", "state", "evaluate", "reset", "size", "migrate"] {
        let (found, message, _) = trapped(mode(&format!("panic-in-{call}")));
        assert_eq!(found, call);
        assert!(message.contains(&format!("no {call} today")), "{message}");
    }
    works_afresh();
}

#[test]
fn traps_at_random() {
    let mut failed = HashMap::new();
    let mut aggregator = None;
    for _ in 0..200 {
        let instance = aggregator.get_or_insert_with(|| try_open("panic-at-random"));
        let ended = match instance {
            Ok(instance) => every_call(&mut **instance),
            Err(_) => aggregator.take().unwrap().map(|_| ()),
        };
        if let Err(error) = ended {
            let (call, message, _) = trapped(error);
            assert!(message.contains(&format!("bad luck in {call}")), "{message}");
            *failed.entry(call).or_insert(0) += 1;
            aggregator = None;
        }
    }
    assert!(failed.values().sum::<i32>() > 50, "{failed:?}");
    works_afresh();
}

#[test]
fn log_flood() {
    let mut aggregator = open("log");
    let (columns, groups) = rows(10, 2);
    aggregator.update(&columns, &groups, 2).unwrap();
    let counters = aggregator.take_counters();
    assert!(counters.len() <= crate::plugin::limits::COUNTERS_MAX + 1);
    assert!(counters.contains(&("rows".to_owned(), 20_000)));
    assert_eq!(counters.iter().map(|(_, v)| v).sum::<u64>(), 30_000);
}

#[test]
fn leaked_pollables() {
    contained("process", "1024 WASI handles", || wasi::tried("leak-pollables").unwrap_err());
}

#[test]
fn leaked_networks() {
    contained("process", "1024 WASI handles", || wasi::tried("leak-networks").unwrap_err());
}

#[test]
fn leaked_streams() {
    contained("process", "1024 WASI handles", || wasi::tried("leak-streams").unwrap_err());
}

#[test]
fn works_until_the_ten_thousandth_batch() {
    let mut transformer = transform::open("batch-10000");
    let batch = transform::batch(&["a", "b"]);
    for _ in 1..10_000 {
        assert_eq!(transformer.process(&batch, 2).unwrap().origins, [0, 1]);
    }
    contained("process", "unreachable", || transformer.process(&batch, 2).unwrap_err());
    assert_eq!(transform::open("batch-10000").process(&batch, 2).unwrap().origins, [0, 1]);
}

#[test]
fn nan_and_infinities_pass_unharmed() {
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE / 4.0, f64::MAX];
    let columns: Vec<Option<ArrayRef>> = vec![
        Some(Arc::new(StringArray::from(vec!["a"; values.len()]))),
        Some(Arc::new(Float64Array::from(values.to_vec()))),
        None,
    ];
    let out = transform::open("normal").process(&columns, values.len() as u32).unwrap();
    let doubled = out.columns[1].as_primitive::<Float64Type>().values().to_vec();
    for (value, doubled) in values.iter().zip(doubled) {
        assert_eq!((value * 2.0).to_bits(), doubled.to_bits(), "{value}");
    }
    // Through the state and back.
    let mut aggregator = open("normal");
    let groups: Vec<u32> = (0..values.len() as u32).collect();
    aggregator.update(&columns, &groups, values.len() as u32).unwrap();
    let mut restored = open("normal");
    for chunk in export(&mut *aggregator, &groups) {
        restored.merge(&chunk.columns, &chunk.groups, values.len() as u32).unwrap();
    }
    let output = restored.evaluate(&groups, &vec![WindowUs { start: 0, end: 1 }; values.len()], true).unwrap();
    let sums = output.columns[2].as_primitive::<Float64Type>().values().to_vec();
    for (value, sum) in values.iter().zip(sums) {
        // The guest adds to 0.0.
        assert_eq!((0.0 + value).to_bits(), sum.to_bits(), "{value}");
    }
}

#[test]
fn flipped_bits() {
    use wasmparser::{Parser, Payload};
    // Most of the file is names and debug information: every second flip is in the code.
    let code = Parser::new(0).parse_all(guest()).find_map(|payload| match payload.unwrap() {
        Payload::CodeSectionStart { range, .. } => Some(range),
        _ => None,
    });
    let code = code.expect("code");
    let mut seed = 1_u64;
    let mut dice = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let (mut read, mut ran, mut refused) = (0, 0, 0);
    // How many still run depends on the compiler that made the guest: on until there were enough of each kind.
    let mut round = 0;
    while round < 300 || read <= 20 || ran <= 2 || refused <= 20 {
        round += 1;
        assert!(round < 3_000, "{read} read, {ran} ran, {refused} refused");
        let mut bytes = guest().to_vec();
        for _ in 0..=dice(3) {
            let at = if round % 2 == 0 { code.start + dice(code.len()) } else { dice(bytes.len()) };
            bytes[at] ^= 1 << dice(8);
        }
        let Ok(artifact) = Artifact::from_bytes("guest", bytes, None) else {
            refused += 1;
            continue;
        };
        read += 1;
        // Compiling takes most of the time: some of those that can be read are run.
        if round % 10 == 0 {
            let opened = WasmFactory::new(&engine(), "guest", &artifact, limits())
                .and_then(|factory| factory.open("{}", &Schema::default()));
            if let Ok(mut aggregator) = opened {
                let _ = every_call(&mut *aggregator);
                ran += 1;
            }
        }
    }
    works_afresh();
}
