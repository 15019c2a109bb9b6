//! WASI: what a guest of another language finds, and that nothing of it is real, waits, or has no bound.

use super::*;
use crate::plugin::Capabilities;

fn opened(mode: &str, capabilities: Capabilities) -> Box<dyn Transformer> {
    let limits = PluginLimits { capabilities, ..limits() };
    let factory = WasmTransformFactory::new(&engine(), "guest", &artifact("wasi"), limits).unwrap();
    factory.open(&format!(r#"{{"mode":"{mode}"}}"#), &Schema::default()).unwrap()
}

fn tried_with(mode: &str, capabilities: Capabilities) -> Result<String> {
    let out = opened(mode, capabilities).process(&[], 1)?;
    Ok(out.columns[0].as_string::<i32>().value(0).to_owned())
}

pub(super) fn tried(mode: &str) -> Result<String> {
    tried_with(mode, Capabilities::default())
}

/// The call must have come back at once, not at its deadline.
fn at_once(mode: &str) -> String {
    let start = Instant::now();
    let answer = tried(mode).unwrap();
    let took = start.elapsed();
    assert!(took < limits().deadline * 4, "{mode} took {took:?}");
    answer
}

#[test]
fn environment_arguments_and_files_are_empty() {
    assert_eq!(tried("environment").unwrap(), "[] [] None");
    assert_eq!(tried("files").unwrap(), "0");
    assert_eq!(tried("stdin").unwrap(), "true true true");
}

#[test]
fn sockets_and_names_are_denied() {
    assert_eq!(tried("sockets").unwrap(), "access-denied access-denied permanent-resolver-failure");
}

#[test]
fn an_interface_that_nobody_serves_links_and_traps() {
    let (call, message, _) = trapped(tried("http").unwrap_err());
    assert_eq!(call, "process");
    assert_eq!(message, "it called `wasi:http/nobody@0.2.0#ask`, which this host does not have");
    // The same for what a later patch release has added to an interface that is served.
    let (_, message, _) = trapped(tried("later").unwrap_err());
    assert_eq!(message, "it called `wasi:clocks/wall-clock@0.2.99#later`, which this host does not have");
}

#[test]
fn output_becomes_log_lines_and_last_words() {
    let (_, message, log) = trapped(tried("print").unwrap_err());
    assert_eq!(
        message,
        "it ended its program (exit code 1) instead of returning; its last words: ValueError: no budget"
    );
    assert_eq!(log, ["info: first line", "info: second line", "error: Traceback", "error: ValueError: no budget"]);
    let (_, message, _) = trapped(tried("print-and-trap").unwrap_err());
    assert!(message.contains("unreachable") && message.ends_with("its last words: ValueError: no budget"), "{message}");
    assert_eq!(tried("print-much").unwrap(), "printed");
}

#[test]
fn a_sleep_is_over_at_once() {
    assert_eq!(at_once("sleep"), "[0, 1, 2] true");
    let (_, message, _) = trapped(tried("poll-nothing").unwrap_err());
    assert!(message.contains("wait for ever"), "{message}");
}

#[test]
fn a_guest_that_sleeps_for_ever_meets_its_deadline() {
    let start = Instant::now();
    let (_, message, _) = trapped(tried("poll-forever").unwrap_err());
    assert_eq!(message, "it ran past its deadline of 500ms (`deadline` raises it)");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn time_stands_still_unless_granted() {
    assert_eq!(tried("clock").unwrap(), "0 0 false");
    let real = tried_with("clock", Capabilities { clock: true, random: false }).unwrap();
    let seconds: u64 = real.split(' ').next().unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now - seconds < 60 && real.ends_with(" true"), "{real}");
    // A real clock does not make a sleep real.
    let start = Instant::now();
    tried_with("sleep", Capabilities { clock: true, random: false }).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn randomness_comes_from_a_seed_unless_granted() {
    let seeded = tried("random").unwrap();
    assert_eq!(seeded, tried("random").unwrap());
    // SplitMix64 from seed 0, as published: e220a8397b1dcdaf, 6e789e6aa1b965f4, …
    assert!(
        seeded.starts_with("[175, 205, 29, 123, 57, 168, 32, 226, 244, 101, 185, 161, 106, 158, 120, 110,"),
        "{seeded}"
    );
    let real = || tried_with("random", Capabilities { clock: false, random: true }).unwrap();
    assert_ne!(real(), real());
}

#[test]
fn what_one_call_makes_the_host_allocate_is_bounded() {
    let (_, message, _) = trapped(tried("random-giant").unwrap_err());
    assert!(message.contains("1099511627776 random bytes at once, at most 1048576"), "{message}");
    let (_, message, _) = trapped(tried("zeroes").unwrap_err());
    assert!(message.contains("more zeroes than `check_write` allows"), "{message}");
}

#[test]
fn inert_imports_are_listed() {
    let artifact = artifact("wasi");
    let inert = inspect(&engine(), &artifact).unwrap().inert;
    assert!(
        inert.iter().all(|i| i.starts_with("wasi:")) && inert.contains(&"wasi:clocks/wall-clock@0.2.99".to_owned())
    );
    let granted = artifact.inert(Capabilities { clock: true, random: true });
    assert_eq!(inert.len() - granted.len(), 4, "{granted:?}");
}
