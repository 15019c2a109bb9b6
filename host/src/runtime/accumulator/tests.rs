//! An accumulator whose instances die at any call must give what a loop over the rows gives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use arrow_array::Int64Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use millrace_core::schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::*;
use crate::plugin::{AggregatorFactory as _, StateOrigin};

const POISON: i64 = 666;
const REFUSED: i64 = 13;
/// kills an instance every third time that one sees it
const FLAKY: i64 = 99;
const LIMIT: u64 = 5;

/// What all instances of one test share.
#[derive(Default)]
struct World {
    calls: AtomicU64,
    /// calls, counted over all instances, that kill the instance
    deadly: Mutex<BTreeSet<u64>>,
    out_of_memory: bool,
    opened: AtomicUsize,
    flaky: AtomicU64,
}

/// Adds up per slot. State: (sum). Like a real instance it is not to be called again once it has failed.
struct Fragile {
    world: Arc<World>,
    signature: Signature,
    sums: Vec<i64>,
    dead: bool,
}

fn trap(call: &'static str, out_of_memory: bool) -> PluginError {
    PluginError::Trap { plugin: "fragile".into(), call, message: "boom".into(), guest_log: Vec::new(), out_of_memory }
}

impl Fragile {
    fn enter(&mut self, call: &'static str) -> Result<(), PluginError> {
        assert!(!self.dead, "`{call}` on a dead instance");
        let number = self.world.calls.fetch_add(1, Relaxed);
        self.dead = self.world.deadly.lock().unwrap().contains(&number);
        if self.dead { Err(trap(call, self.world.out_of_memory)) } else { Ok(()) }
    }
}

impl Aggregator for Fragile {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn update(
        &mut self,
        columns: &[Option<ArrayRef>],
        groups: &[u32],
        total: u32,
    ) -> Result<Vec<Rejected>, PluginError> {
        self.enter("update")?;
        let values = columns[0].as_ref().unwrap().as_primitive::<Int64Type>().values();
        assert_eq!(values.len(), groups.len());
        self.sums.resize(total as usize, 0);
        let mut rejected = Vec::new();
        for (row, (&value, &group)) in values.iter().zip(groups).enumerate() {
            match value {
                // half of the call is in by now
                POISON => {
                    self.dead = true;
                    return Err(trap("update", self.world.out_of_memory));
                }
                FLAKY if self.world.flaky.fetch_add(1, Relaxed).is_multiple_of(3) => {
                    self.dead = true;
                    return Err(trap("update", false));
                }
                REFUSED => rejected.push(Rejected { row: row as u32, reason: "refused".into() }),
                value => self.sums[group as usize] += value,
            }
        }
        Ok(rejected)
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<(), PluginError> {
        self.enter("combine")?;
        for (source, target) in sources.iter().zip(targets) {
            self.sums[*target as usize] += self.sums[*source as usize];
        }
        Ok(())
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total: u32) -> Result<(), PluginError> {
        self.enter("merge")?;
        self.sums.resize(total as usize, 0);
        for (&value, &group) in state[0].as_primitive::<Int64Type>().values().iter().zip(groups) {
            self.sums[group as usize] += value;
        }
        Ok(())
    }

    /// Two groups a chunk.
    fn state(&mut self, groups: &[u32], cursor: u64, _: u64) -> Result<StateChunk, PluginError> {
        self.enter("state")?;
        let from = cursor as usize;
        let to = groups.len().min(from + 2);
        let column: Int64Array = groups[from..to].iter().map(|g| Some(self.sums[*g as usize])).collect();
        Ok(StateChunk {
            columns: vec![Arc::new(column)],
            groups: groups[from..to].to_vec(),
            next: (to < groups.len()).then_some(to as u64),
        })
    }

    fn evaluate(&mut self, groups: &[u32], _: &[WindowUs], _: bool) -> Result<OutputRows, PluginError> {
        self.enter("evaluate")?;
        let column: Int64Array = groups.iter().map(|g| Some(self.sums[*g as usize])).collect();
        Ok(OutputRows { columns: vec![Arc::new(column)], groups: None })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<(), PluginError> {
        self.enter("reset")?;
        groups.iter().for_each(|g| self.sums[*g as usize] = 0);
        Ok(())
    }

    fn size(&mut self) -> Result<u64, PluginError> {
        self.enter("size")?;
        Ok(8 * self.sums.len() as u64)
    }

    fn migrate(&mut self, _: &StateOrigin, _: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>, PluginError> {
        unreachable!("nothing migrates here")
    }

    fn memory_bytes(&self) -> u64 {
        // as if it had been large once: worth rebuilding, once
        if self.world.opened.load(Relaxed) == 1 { 1 << 30 } else { 1 << 20 }
    }
}

fn accumulator(world: &Arc<World>, kept_bytes_max: usize) -> Accumulator {
    let shared = Arc::clone(world);
    let open: OpenInstance = Arc::new(move || {
        shared.opened.fetch_add(1, Relaxed);
        let field = |name| Field::new(name, DataType::Long, false);
        let signature = Signature {
            input: Vec::new(),
            state: Schema::new(vec![field("sum")]),
            output: Schema::new(vec![field("sum")]),
            ordered: false,
        };
        Ok(Box::new(Fragile { world: Arc::clone(&shared), signature, sums: Vec::new(), dead: false }))
    });
    let first = open().unwrap();
    Accumulator::new("sums".into(), first, open, kept_bytes_max, Arc::default(), None, LIMIT)
}

fn nowhere(_: u32) -> Place {
    Place::default()
}

fn column(values: &[i64]) -> Vec<Option<ArrayRef>> {
    vec![Some(Arc::new(Int64Array::from(values.to_vec())))]
}

fn sums(accumulator: &mut Accumulator, slots: &[u32]) -> Vec<i64> {
    let windows = vec![WindowUs { start: 0, end: 1 }; slots.len()];
    let output = accumulator.evaluate(slots, &windows, true).unwrap();
    output.columns[0].as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn only_the_rows_that_kill_the_instance_are_taken_out() {
    let world = Arc::<World>::default();
    let mut accumulator = accumulator(&world, usize::MAX);
    assert!(accumulator.update(column(&[1, 2]), &[0, 1], 2, &nowhere).unwrap().is_empty());
    let mut values = vec![1; 8_192];
    values[5_000] = POISON;
    values[17] = REFUSED;
    values[18] = POISON;
    let slots: Vec<u32> = (0..8_192).map(|row| row % 3).collect();
    let refused = accumulator.update(column(&values), &slots, 3, &nowhere).unwrap();
    assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), [17, 18, 5_000]);
    assert!(refused[1].reason.contains("boom") && refused[0].reason == "refused");
    let expected: i64 = 3 + 8_192 - 3;
    assert_eq!(sums(&mut accumulator, &[0, 1, 2]).iter().sum::<i64>(), expected);
    assert_eq!(accumulator.stats.plugin_failures_total.load(Relaxed), 1);
}

#[test]
fn memory_that_is_used_up_is_no_rows_fault() {
    let world = Arc::new(World { out_of_memory: true, ..World::default() });
    let mut accumulator = accumulator(&world, usize::MAX);
    let error = accumulator.update(column(&[1, POISON, 2]), &[0, 0, 0], 1, &nowhere).unwrap_err();
    assert!(matches!(&error, RunError::Plugin(m) if m.contains("no row can be blamed")), "{error}");
}

#[test]
fn what_fails_again_on_a_new_instance_stops_the_run() {
    let world = Arc::<World>::default();
    let mut accumulator = accumulator(&world, usize::MAX);
    accumulator.update(column(&[1, 2]), &[0, 1], 2, &nowhere).unwrap();
    // the evaluation, and, after a merge and an update that bring the new instance back, the evaluation again
    *world.deadly.lock().unwrap() = BTreeSet::from([1, 4]);
    let windows = [WindowUs { start: 0, end: 1 }];
    let error = accumulator.evaluate(&[0], &windows, true).unwrap_err();
    assert!(error.to_string().contains("a new instance failed in the same way"), "{error}");
}

/// Each failure passes, and the next call fails again: that is no way to work.
#[test]
fn too_many_failures_in_a_row_stop_the_run() {
    let world = Arc::<World>::default();
    let mut accumulator = accumulator(&world, usize::MAX);
    let mut flaky = |value| {
        let updated = accumulator.update(column(&[value]), &[0], 1, &nowhere);
        updated.and_then(|_| accumulator.export(0, &[0])).map(|_| accumulator.exported(0..1))
    };
    for _ in 0..2 {
        (1..LIMIT).for_each(|_| flaky(FLAKY).unwrap());
        flaky(1).unwrap();
    }
    (1..LIMIT).for_each(|_| flaky(FLAKY).unwrap());
    let error = flaky(FLAKY).unwrap_err().to_string();
    assert!(error.contains("5 calls in a row have failed (consecutive_limit)"), "{error}");
}

#[test]
fn memory_is_given_back_once_and_nothing_is_lost_by_it() {
    let world = Arc::<World>::default();
    let mut accumulator = accumulator(&world, usize::MAX);
    accumulator.update(column(&[4, 5]), &[0, 1], 2, &nowhere).unwrap();
    accumulator.export(0, &[0, 1]).unwrap();
    accumulator.exported(0..1);
    for _ in 0..3 {
        accumulator.give_memory_back().unwrap();
    }
    assert_eq!(world.opened.load(Relaxed), 2);
    assert_eq!(sums(&mut accumulator, &[0, 1]), [4, 5]);
}

/// The same with a real component: one row that panics and one that never ends, among good ones.
#[test]
fn a_component_survives_its_poison() {
    let factory = crate::plugin::wasm::tests::factory();
    let open: OpenInstance = Arc::new(|| factory.open(r#"{"mode":"poison"}"#, &Schema::default()));
    let mut accumulator =
        Accumulator::new("guest".into(), open().unwrap(), open, usize::MAX, Arc::<NodeStats>::default(), None, LIMIT);
    let columns = |kinds: Vec<&str>| -> Vec<Option<ArrayRef>> {
        let values = arrow_array::Float64Array::from(vec![1.0; kinds.len()]);
        vec![Some(Arc::new(arrow_array::StringArray::from(kinds))), Some(Arc::new(values)), None]
    };
    assert!(accumulator.update(columns(vec!["click"; 6]), &[0, 1, 0, 1, 0, 1], 2, &nowhere).unwrap().is_empty());
    let mut kinds = vec!["click"; 100];
    kinds[40] = "panic";
    kinds[77] = "loop";
    let slots: Vec<u32> = (0..100).map(|row| row % 2).collect();
    let refused = accumulator.update(columns(kinds), &slots, 2, &nowhere).unwrap();
    assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), [40, 77]);
    assert!(refused[0].reason.contains("this row has no budget"), "{}", refused[0].reason);
    assert!(refused[1].reason.contains("deadline"), "{}", refused[1].reason);
    let windows = vec![WindowUs { start: 0, end: 1 }; 2];
    let output = accumulator.evaluate(&[0, 1], &windows, true).unwrap();
    assert_eq!(output.columns[0].as_primitive::<Int64Type>().values(), &[3 + 49, 3 + 49]);
}

#[derive(Clone, Debug)]
enum Step {
    Update(Vec<(u8, i64)>),
    /// a barrier: all windows are exported
    Export,
    /// the oldest window closes, in two calls
    Close,
    /// groups of one window become one
    Fold {
        newest: bool,
        from: u8,
        to: u8,
    },
    /// results of groups put together from others, which stay as they are
    Assemble(Vec<(u8, u8)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![20 => 1_i64..FLAKY, 1 => Just(POISON), 1 => Just(REFUSED)];
    let step = prop_oneof![
        4 => prop::collection::vec((0_u8..12, value), 1..30).prop_map(Step::Update),
        1 => Just(Step::Export),
        1 => Just(Step::Close),
        2 => (any::<bool>(), 0_u8..6, 0_u8..6).prop_map(|(newest, from, to)| Step::Fold { newest, from, to }),
        1 => prop::collection::vec((0_u8..12, 0_u8..12), 1..5).prop_map(Step::Assemble),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Groups 0–5 are window 0, 6–11 window 1, …; a closed window's slots come back with the next one.
    #[test]
    fn an_instance_may_die_at_any_call(
        steps in steps(),
        deadly in prop::collection::btree_set(0_u64..160, 0..5),
        kept_bytes_max in prop_oneof![Just(0_usize), Just(200), Just(usize::MAX)],
    ) {
        // Two failures in a row are the plugin's fault, and tested above: at most one in forty calls.
        let lonely: BTreeMap<u64, u64> = deadly.iter().map(|d| (d / 40, *d)).collect();
        let world = Arc::new(World { deadly: Mutex::new(lonely.into_values().collect()), ..World::default() });
        let mut accumulator = accumulator(&world, kept_bytes_max);
        prop_assume!(accumulator.update(column(&[]), &[], 12, &nowhere).is_ok());
        let mut expected = [0_i64; 12];
        let windows = |oldest: u32| [(oldest, oldest % 2 * 6), (oldest + 1, (oldest + 1) % 2 * 6)];
        let slots_of = |first: u32| (first..first + 6).collect::<Vec<u32>>();
        let mut oldest = 0_u32;
        for step in steps {
            match step {
                Step::Update(rows) => {
                    let values: Vec<i64> = rows.iter().map(|(_, v)| *v).collect();
                    let slots: Vec<u32> = rows.iter().map(|(slot, _)| u32::from(*slot)).collect();
                    let refused = accumulator.update(column(&values), &slots, 12, &nowhere);
                    let Ok(refused) = refused else {
                        // the injected deaths hit the repetition, too
                        return Ok(());
                    };
                    let refused: Vec<usize> = refused.iter().map(|r| r.row as usize).collect();
                    let bad: Vec<usize> =
                        (0..values.len()).filter(|i| matches!(values[*i], POISON | REFUSED)).collect();
                    if refused != bad {
                        // a row may only be blamed wrongly when a death was injected into the search
                        prop_assert!(!world.deadly.lock().unwrap().is_empty());
                    }
                    for (row, (slot, value)) in rows.iter().enumerate() {
                        if !refused.contains(&row) {
                            expected[usize::from(*slot)] += value;
                        }
                    }
                    if accumulator.is_full() {
                        for (window, first) in windows(oldest) {
                            let Ok(_) = accumulator.export(i64::from(window), &slots_of(first)) else { return Ok(()) };
                        }
                        accumulator.exported(i64::from(oldest)..i64::from(oldest) + 2);
                    }
                }
                Step::Export => {
                    for (window, first) in windows(oldest) {
                        let Ok(_) = accumulator.export(i64::from(window), &slots_of(first)) else { return Ok(()) };
                    }
                    accumulator.exported(i64::from(oldest)..i64::from(oldest) + 2);
                }
                Step::Fold { from, to, .. } if from == to => {}
                Step::Fold { newest, from, to } => {
                    let (_, first) = windows(oldest)[usize::from(newest)];
                    let (from, to) = (first + u32::from(from), first + u32::from(to));
                    let Ok(()) = accumulator.fold(vec![from], vec![to]) else { return Ok(()) };
                    expected[to as usize] += std::mem::take(&mut expected[from as usize]);
                }
                Step::Assemble(pairs) => {
                    let mut assembly = Assembly::default();
                    for (borrowed, (a, b)) in (12..).zip(&pairs) {
                        assembly.sources.extend([u32::from(*a), u32::from(*b)]);
                        assembly.targets.extend([borrowed; 2]);
                        assembly.slots.push(borrowed);
                        assembly.borrowed.push(borrowed);
                    }
                    accumulator.grow(20);
                    let us = vec![WindowUs { start: 0, end: 1 }; pairs.len()];
                    let Ok(output) = accumulator.evaluate_assembled(&assembly, &[], &us, false) else { return Ok(()) };
                    let sums: Vec<i64> =
                        pairs.iter().map(|(a, b)| expected[usize::from(*a)] + expected[usize::from(*b)]).collect();
                    prop_assert_eq!(output.columns[0].as_primitive::<Int64Type>().values(), &sums);
                }
                Step::Close => {
                    let [(_, first), _] = windows(oldest);
                    for slots in slots_of(first).chunks(3) {
                        let us = vec![WindowUs { start: 0, end: 1 }; 3];
                        let Ok(output) = accumulator.evaluate(slots, &us, true) else { return Ok(()) };
                        let from = slots[0] as usize;
                        prop_assert_eq!(output.columns[0].as_primitive::<Int64Type>().values(), &expected[from..from + 3]);
                        let Ok(()) = accumulator.reset(slots) else { return Ok(()) };
                        expected[from..from + 3].fill(0);
                    }
                    oldest += 1;
                }
            }
        }
        let all: Vec<u32> = (0..12).collect();
        if let Ok(output) = accumulator.evaluate(&all, &[WindowUs { start: 0, end: 1 }; 12], true) {
            prop_assert_eq!(output.columns[0].as_primitive::<Int64Type>().values(), &expected);
        }
    }
}
