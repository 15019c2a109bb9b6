//! Whole runs against a simulated world, made from a seed: no event is lost or counted twice, whatever the
//! interleaving of partitions, barriers, commits, deaths and restarts at another parallelism.
//!
//! ```text
//!   seed ─▶ script ─▶ world (partitions, checkpoint location, files, tables): outlives every process
//!                       ▲
//!                       │ every touch is a counted step: it may be slow, fail, be applied with its answer lost,
//!                       │ or be where the process is killed; after that instant nothing of it is applied
//!   process 0, 1, 2 … ──┘ the real `run`, decoder, native plugin, checkpoint store; at the end a bounded one
//!                                                   │
//!   brute force over all messages ── compared with ─┴─▶ tables, checkpoints
//! ```
//!
//! The seed fixes the messages, their portions, the shape of every process, and at which hit of which place it is
//! struck. It does not fix how the threads of a run are scheduled, so a failure may need several attempts with its
//! seed. `MILLRACE_SEED=17` or `MILLRACE_SEED=0..5000` says which seeds to run instead of the usual ones.
//!
//! | module | owns |
//! |---|---|
//! | [`random`] | the generator |
//! | [`script`] | what a seed says |
//! | [`world`] | what outlives a process |
//! | [`process`] | steps, and what befalls a process |
//! | [`store`], [`source`], [`table`] | the world as a process reaches it |
//! | [`pipeline`], [`fragile`], [`steps`] | the parts of a run; its plugins |
//! | [`swapper`] | replaces the plugins now and then |
//! | [`oracle`] | the brute-force model |

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::unbounded;
use millrace_core::checkpoint::{Checkpoint, Reason};
use millrace_core::swap::{Phase, SwapRecord};

use super::coordinator::Finished;
use super::message::RunError;
use super::run::{RunOptions, run};
use pipeline::LEDGER;
use process::{Hang, INJECTED, Process, Release};
use random::Random;
use script::{Life, Place, Script, Turn, Twist};
use steps::UNIQUE;
use world::{World, lock};

mod fragile;
mod oracle;
mod pipeline;
mod process;
mod random;
mod script;
mod source;
mod steps;
mod store;
mod swapper;
mod table;
mod world;

/// Processes until one must have come to the end.
const LIVES_MAX: usize = 30;
const DRAINING_ACROSS_A_RESTART: &str = "Draining across a restart";
/// They mostly wait.
const WORKERS: usize = 6;
const USUAL: Range<u64> = 0..200;
/// One seed takes a fraction of a second; the longest sleeps wait for the discovery of partitions.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn no_event_is_lost_or_counted_twice_by_deaths_and_restarts() {
    let struck: Arc<Mutex<BTreeSet<(Place, bool)>>> = Arc::default();
    // by fate, in how many worlds
    let swaps: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let (at, seen) = (Arc::clone(&struck), Arc::clone(&swaps));
    let seeds = for_each_seed(USUAL, move |seed| {
        let world = Arc::new(World::new(Script::new(seed)));
        live_to_the_end(&world, 0)?;
        let killed = |t: &&Turn| matches!(t.twist, Twist::DieBefore | Twist::DieAfter);
        lock(&at).extend(lock(&world.struck).iter().filter(killed).map(|t| (t.place, t.twist == Twist::DieAfter)));
        let mut seen = lock(&seen);
        for fate in fates(&world) {
            *seen.entry(fate).or_default() += 1;
        }
        drop(seen);
        oracle::check(&world)
    });
    // none of it means anything if processes are not killed before and after every kind of step, and swaps do not go every way
    if seeds == USUAL {
        let swaps = lock(&swaps);
        println!("{swaps:#?}");
        // each came up in more than ten worlds; rarer ones have tests of their own
        let wanted = [
            "Done",
            "Done, drained",
            DRAINING_ACROSS_A_RESTART,
            "RolledBack",
            "RolledBack by itself",
            "Failed",
            "Discarded",
        ];
        let of_transforms = ["Done", "Failed"].map(|fate| format!("{UNIQUE}: {fate}"));
        for fate in wanted.map(str::to_owned).into_iter().chain(of_transforms) {
            assert!(swaps.contains_key(&fate), "no swap was {fate}: {swaps:?}");
        }
        let everywhere = Place::ALL.into_iter().flat_map(|place| [(place, false), (place, true)]);
        assert_eq!(*lock(&struck), everywhere.collect());
    }
}

#[test]
fn a_process_that_was_overtaken_changes_nothing_more() {
    for_each_seed(0..60, |seed| {
        let world = Arc::new(World::new(Script::new(seed)));
        let mut random = Random::new(seed, 3);
        // after the claim of the log: who stands still before it is the one who overtakes
        let (place, first) = random.pick(&[
            (Place::Fetch, 1),
            (Place::LogPut, 2),
            (Place::StatePut, 1),
            (Place::Delete, 1),
            (Place::TableClaim, 1),
            (Place::Write, 1),
            (Place::Prepare, 1),
            (Place::Commit, 1),
        ]);
        let turn = Turn { place, hit: first + random.next() % 4, twist: Twist::Hang };
        let older = Life { until_end: false, keep_open: false, turn: Some(turn), ..undisturbed(&world, 0) };
        let (place, hit) =
            random.pick(&[(Place::TableClaim, 1), (Place::LogPut, 2), (Place::LogPut, 5), (Place::Commit, 2)]);
        let (hanging, hung) = unbounded();
        let (sender, release) = unbounded();
        std::thread::scope(|scope| {
            let older = scope.spawn(|| live(&world, older, Some(Hang { hanging, release }), None));
            // an error: it came to its end without having stood still
            let overtaken = hung.recv().is_ok();
            let newer = undisturbed(&world, 1);
            let complete = newer.until_end && !newer.keep_open;
            let finished = live(&world, newer, None, Some(Release { place, hit, sender }));
            let older = older.join().map_err(|_| "the older process panicked")?;
            match (overtaken, older) {
                (true, Err(error)) if is_fenced(&error) => {}
                (false, Ok(Finished::Stopped)) => {}
                // its last checkpoint was there before it was overtaken
                (true, Ok(Finished::Stopped)) if has_stopped(&world, 1) => {}
                (_, other) => return Err(format!("overtaken: {overtaken}, the older process ended with {other:?}")),
            }
            finished.map_err(|e| format!("the newer process: {e}"))?;
            if !complete {
                live_to_the_end(&world, 2)?;
            }
            oracle::check(&world)
        })
    });
}

/// The monitor looks for new partitions every ten seconds, so this takes as long.
#[test]
fn a_partition_found_while_running_is_read_from_its_beginning() {
    for_each_seed(0..3, |seed| {
        let mut script = Script { punctual: false, ..Script::new(seed) };
        let mut found = Script::new(seed + 1_000).partitions.remove(0);
        let next_id = script.messages().count() + 10_000;
        script::renumber(&mut found, i64::try_from(next_id).unwrap());
        found.appears_while_running = true;
        script.partitions.push(found);
        let world = Arc::new(World::new(script));
        let life = Life { interval_ms: 300, until_end: false, keep_open: false, ..undisturbed(&world, 0) };
        let finished = live(&world, life, None, None).map_err(|e| e.to_string())?;
        if finished != Finished::Stopped {
            return Err(format!("it {finished:?}"));
        }
        live_to_the_end(&world, 1)?;
        oracle::check(&world)
    });
}

/// What has become of the swaps, at any checkpoint.
fn fates(world: &World) -> BTreeSet<String> {
    let published = lock(&world.published);
    let cuts: Vec<_> = published.iter().filter_map(|r| Some((r.generation, r.checkpoint()?))).collect();
    let draining = |c: &Checkpoint| c.operators.get(LEDGER).and_then(|o| o.draining.clone());
    let mut fates: BTreeSet<String> = cuts.iter().flat_map(|(_, c)| c.swaps.iter().flat_map(fates_of)).collect();
    let across = cuts.windows(2).any(|pair| match pair {
        [(a, before), (b, after)] => a != b && draining(before).is_some() && draining(before) == draining(after),
        _ => false,
    });
    fates.extend(across.then(|| DRAINING_ACROSS_A_RESTART.to_owned()));
    fates
}

fn fates_of(swap: &SwapRecord) -> Vec<String> {
    let is_back = swap.phase == Phase::RolledBack;
    let given_again = swap.rollback.as_ref().is_some_and(|corrections| corrections.given_again > 0);
    let more = [
        ("", true),
        (" by itself", is_back && !swap.is_rollback),
        (", results given again", is_back && given_again),
        (", drained", swap.drains_before_ms.is_some()),
    ];
    let of = if swap.operator == UNIQUE { format!("{UNIQUE}: ") } else { String::new() };
    more.iter().filter(|(_, is)| *is).map(|(more, _)| format!("{of}{:?}{more}", swap.phase)).collect()
}

fn undisturbed(world: &World, number: usize) -> Life {
    Life {
        faults_percent: 0,
        store_tries: 40,
        plugin_falls_percent: 0,
        swaps_percent: 0,
        turn: None,
        ..world.script.life(number)
    }
}

fn has_stopped(world: &World, generation: u64) -> bool {
    let published = lock(&world.published);
    let mut of_it = published.iter().filter(|r| r.generation == generation).filter_map(|r| r.checkpoint());
    of_it.any(|c| c.reason == Reason::Stop)
}

fn is_fenced(error: &RunError) -> bool {
    matches!(error, RunError::Fenced(_)) || error.to_string().contains("fenced")
}

/// Both versions of a plugin have failed, in different tasks: the next process goes on from the last checkpoint.
fn is_of_two_minds(error: &RunError) -> bool {
    matches!(error, RunError::Plugin(why) if why.contains("do not agree on the version"))
}

/// Process after process, until a bounded one has closed all windows.
fn live_to_the_end(world: &Arc<World>, first: usize) -> Result<(), String> {
    for number in first..first + LIVES_MAX {
        let life = world.script.life(number);
        let complete = life.until_end && !life.keep_open;
        match live(world, life, None, None) {
            Ok(Finished::ReachedEnd) if complete => return Ok(()),
            Ok(_) => {}
            Err(error) if error.to_string().contains(INJECTED) || is_of_two_minds(&error) => {}
            Err(error) => return Err(format!("process {number}: {error}")),
        }
    }
    Err(format!("none of {LIVES_MAX} processes came to the end"))
}

fn live(world: &Arc<World>, life: Life, hang: Option<Hang>, releases: Option<Release>) -> Result<Finished, RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.map_err(|e| RunError::External(e.to_string()))?;
    let (orders, receiver) = unbounded();
    let options = RunOptions { until_end: life.until_end, keep_open: life.keep_open, ..RunOptions::default() };
    let process = Arc::new(Process::new(world, life, orders, hang, releases));
    let parts = pipeline::open(&process, runtime.handle())?;
    run(parts, options, receiver)
}

/// Runs a scenario for every seed, on a few threads; the first that fails or hangs is named.
fn for_each_seed(
    usual: Range<u64>,
    scenario: impl Fn(u64) -> Result<(), String> + Send + Sync + 'static,
) -> Range<u64> {
    let seeds = seeds_from_environment().unwrap_or(usual);
    let (next, end) = (Arc::new(AtomicU64::new(seeds.start)), seeds.end);
    let scenario = Arc::new(scenario);
    let (done, results) = unbounded();
    for _ in 0..WORKERS {
        let (next, scenario, done) = (Arc::clone(&next), Arc::clone(&scenario), done.clone());
        std::thread::spawn(move || {
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed >= end {
                    return;
                }
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(seed)));
                let result = result.unwrap_or_else(|_| Err("a panic; its message is above".to_owned()));
                if done.send((seed, result)).is_err() {
                    return;
                }
            }
        });
    }
    drop(done);
    let mut waiting: BTreeSet<u64> = seeds.clone().collect();
    while !waiting.is_empty() {
        match results.recv_timeout(PATIENCE) {
            Ok((seed, Ok(()))) => {
                waiting.remove(&seed);
            }
            Ok((seed, Err(failure))) => panic!(
                "seed {seed}: {failure}\n{}\nagain: MILLRACE_SEED={seed} cargo test --release -p millrace simulation",
                Script::new(seed).summary()
            ),
            Err(_) => panic!("hanging: one of the seeds {:?}", waiting.iter().take(WORKERS).collect::<Vec<_>>()),
        }
    }
    seeds
}

/// `17`, or `0..5000`.
fn seeds_from_environment() -> Option<Range<u64>> {
    let text = std::env::var("MILLRACE_SEED").ok()?;
    let number =
        |text: &str| text.parse().unwrap_or_else(|_| panic!("MILLRACE_SEED={text} is no seed: 17, or 0..5000"));
    Some(match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    })
}
