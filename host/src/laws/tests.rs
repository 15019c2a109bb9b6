//! A toy aggregation with one flaw at a time: each law finds its own, and shrinks it to what cannot be smaller.
//!
//! Laws are not independent: a plugin whose merge gives what updates give, and that does not care about the order of rows,
//! has a commutative merge. So each flaw comes with the exact set of laws that it breaks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow_array::{Array as _, ArrayRef, Int64Array, cast::AsArray as _, types::Int64Type};
use campaign_metrics::Campaign;
use millrace_core::schema::{DataType, Field, Schema};

use super::{Broken, Law, LawSubject, Trial, check, data, save, shrink};
use crate::golden::{Case, Subject, case};
use crate::plugin::native::NativeFactory;
use crate::plugin::{
    Aggregator, AggregatorFactory, Info, Kind, OutputRows, PluginError, Rejected, Result, Signature, StateChunk,
    StateOrigin, Wanted, WindowUs,
};

const CASE: &str = r#"
key = ["k"]
window = { type = "tumbling", size = "1m" }
event_time = "at"
[schema]
k = "string"
amount = "long?"
at = "timestamptz"
[[steps]]
events = [
  { k = "a", amount = 3, at = 2026-01-01T00:00:00Z },
  { k = "b", amount = 5, at = 2026-01-01T00:00:01Z },
  { k = "a", amount = 7, at = 2026-01-01T00:00:02Z },
  { k = "a", at = 2026-01-01T00:00:03Z },
  { k = "b", amount = 2, at = 2026-01-01T00:00:04Z },
  { k = "a", amount = -4, at = 2026-01-01T00:00:05Z },
]
"#;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    /// another number in each instance
    Noise,
    /// a second batch makes it forget the first
    ForgetsEarlierBatch,
    /// gives the first amount
    FirstCounts,
    /// the sum of a merge is the mean
    MergesMeans,
    /// the count of a merge is the larger one
    MergesLargest,
    CombineDoesNothing,
    CombineEmptiesItsSource,
    /// a small chunk is the only one
    LosesChunks,
    ResetKeepsTheCount,
    ResetEmptiesAll,
    CountsRejectedRows,
    CannotMigrate,
    MigratesWrongly,
    DiesOfAnAmount,
}

struct Toy(Flaw, Info);

#[derive(Clone, Default)]
struct Slot {
    sum: i64,
    count: i64,
    first: Option<i64>,
}

struct Instance {
    flaw: Flaw,
    noise: i64,
    slots: Vec<Slot>,
    signature: Signature,
}

impl AggregatorFactory for Toy {
    fn info(&self) -> &Info {
        &self.1
    }

    fn digest(&self) -> &str {
        "toy"
    }

    fn open(&self, _: &str, _: &Schema) -> Result<Box<dyn Aggregator>> {
        static INSTANCES: AtomicI64 = AtomicI64::new(0);
        let field = |name: &str, nullable| Field::new(name, DataType::Long, nullable);
        let signature = Signature {
            input: vec![Wanted { field: field("amount", true), dictionary: false, optional: false }],
            state: Schema::new(vec![field("sum", false), field("count", false), field("first", true)]),
            output: Schema::new(vec![field("total", false), field("rows", false), field("first", true)]),
            ordered: false,
        };
        let noise = if self.0 == Flaw::Noise { INSTANCES.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Ok(Box::new(Instance { flaw: self.0, noise, slots: Vec::new(), signature }))
    }
}

impl Instance {
    fn grow(&mut self, total: u32) {
        if self.slots.len() < total as usize {
            self.slots.resize(total as usize, Slot::default());
        }
    }

    fn fold(&mut self, into: usize, from: &Slot) {
        let flaw = self.flaw;
        let slot = &mut self.slots[into];
        if slot.count == 0 {
            *slot = from.clone();
            return;
        }
        slot.sum = slot.sum.wrapping_add(from.sum);
        if flaw == Flaw::MergesMeans {
            slot.sum /= 2;
        }
        slot.count = if flaw == Flaw::MergesLargest { slot.count.max(from.count) } else { slot.count + from.count };
        slot.first = slot.first.or(from.first);
    }

    fn columns(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let of = |pick: fn(&Slot) -> Option<i64>| -> ArrayRef {
            Arc::new(groups.iter().map(|g| pick(&self.slots[*g as usize])).collect::<Int64Array>())
        };
        vec![of(|s| Some(s.sum)), of(|s| Some(s.count)), of(|s| s.first)]
    }
}

impl Aggregator for Instance {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total: u32) -> Result<Vec<Rejected>> {
        self.grow(total);
        let amounts = columns[0].as_ref().unwrap().as_primitive::<Int64Type>();
        if self.flaw == Flaw::ForgetsEarlierBatch {
            for group in groups {
                self.slots[*group as usize] = Slot::default();
            }
        }
        let mut rejected = Vec::new();
        for (row, group) in groups.iter().enumerate() {
            let amount = amounts.is_valid(row).then(|| amounts.value(row));
            if self.flaw == Flaw::DiesOfAnAmount && amount == Some(7) {
                return Err(PluginError::Contract { plugin: "toy".into(), call: "update", message: "seven".into() });
            }
            let slot = &mut self.slots[*group as usize];
            if amount.is_some_and(|a| a < 0) {
                rejected.push(Rejected { row: row as u32, reason: "negative".into() });
                if self.flaw == Flaw::CountsRejectedRows {
                    slot.count += 1;
                }
                continue;
            }
            slot.sum = slot.sum.wrapping_add(amount.unwrap_or(0));
            slot.count += 1;
            if self.flaw == Flaw::FirstCounts {
                slot.first = slot.first.or(amount);
            }
        }
        Ok(rejected)
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()> {
        for (source, target) in sources.iter().zip(targets) {
            let from = self.slots[*source as usize].clone();
            if self.flaw != Flaw::CombineDoesNothing && from.count > 0 {
                self.fold(*target as usize, &from);
            }
            if self.flaw == Flaw::CombineEmptiesItsSource {
                self.slots[*source as usize] = Slot::default();
            }
        }
        Ok(())
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total: u32) -> Result<()> {
        self.grow(total);
        let of = |column: usize| state[column].as_primitive::<Int64Type>();
        for (row, group) in groups.iter().enumerate() {
            let first = of(2).is_valid(row).then(|| of(2).value(row));
            let from = Slot { sum: of(0).value(row), count: of(1).value(row), first };
            if from.count > 0 {
                self.fold(*group as usize, &from);
            }
        }
        Ok(())
    }

    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk> {
        let from = (cursor as usize).min(groups.len());
        let rows = (max_bytes as usize / 24).max(1).min(groups.len() - from);
        let chunk = groups[from..from + rows].to_vec();
        let next = (from + rows < groups.len() && self.flaw != Flaw::LosesChunks).then_some((from + rows) as u64);
        Ok(StateChunk { columns: self.columns(&chunk), groups: chunk, next })
    }

    fn evaluate(&mut self, groups: &[u32], _: &[WindowUs], _: bool) -> Result<OutputRows> {
        let mut columns = self.columns(groups);
        let noisy = columns[0].as_primitive::<Int64Type>().unary::<_, Int64Type>(|sum| sum.wrapping_add(self.noise));
        columns[0] = Arc::new(noisy);
        Ok(OutputRows { columns, groups: None })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<()> {
        if self.flaw == Flaw::ResetEmptiesAll {
            self.slots.fill(Slot::default());
        }
        for group in groups {
            let slot = &mut self.slots[*group as usize];
            *slot =
                Slot { count: if self.flaw == Flaw::ResetKeepsTheCount { slot.count } else { 0 }, ..Slot::default() };
        }
        Ok(())
    }

    fn size(&mut self) -> Result<u64> {
        Ok(24 * self.slots.len() as u64)
    }

    fn migrate(&mut self, _: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>> {
        match self.flaw {
            Flaw::CannotMigrate => Ok(None),
            Flaw::MigratesWrongly => {
                let sums = state[0].as_primitive::<Int64Type>().unary::<_, Int64Type>(|sum| sum.wrapping_mul(2));
                Ok(Some(vec![Arc::new(sums), Arc::clone(&state[1]), Arc::clone(&state[2])]))
            }
            _ => Ok(Some(state.to_vec())),
        }
    }
}

fn parsed(text: &str) -> Case {
    case::parse(Path::new("tests/toy.toml"), "toy.toml".into(), text.to_owned(), Kind::Aggregation)
        .unwrap_or_else(|e| panic!("{}\n{text}", e.render(false)))
}

fn subject(factory: Arc<dyn AggregatorFactory>, case: &Case) -> LawSubject {
    let subject = Subject::open(&factory, case).unwrap_or_else(|e| panic!("{}", e.render(false)));
    LawSubject::new(subject, case).unwrap()
}

fn toy(flaw: Flaw) -> Arc<dyn AggregatorFactory> {
    Arc::new(Toy(flaw, Info { name: "toy".into(), version: "1.0.0".into(), config_schema: "{}".into() }))
}

/// The laws that are broken on the given and generated rows, each with the first trial that shows it.
fn broken(subject: &LawSubject, case: &Case) -> Vec<(Law, Trial, Broken)> {
    let trials = data::trials(subject, case);
    let first = |law: Law| trials.iter().find_map(|t| check(law, subject, t).map(|seen| (law, t.clone(), seen)));
    Law::ALL.into_iter().filter_map(first).collect()
}

#[test]
fn each_flaw_breaks_its_laws_and_shrinks_to_the_smallest_rows() {
    let case = parsed(CASE);
    let flaws: [(Flaw, &[(Law, usize)]); 12] = [
        (Flaw::ForgetsEarlierBatch, &[(Law::SplitInvariance, 2)]),
        (Flaw::FirstCounts, &[(Law::RowOrder, 2), (Law::MergeCommutative, 2)]),
        (Flaw::MergesMeans, &[(Law::MergeAssociative, 3), (Law::MergeIsUpdate, 2)]),
        (Flaw::MergesLargest, &[(Law::MergeIsUpdate, 2)]),
        (Flaw::CombineDoesNothing, &[(Law::CombineIsMerge, 1)]),
        (Flaw::CombineEmptiesItsSource, &[(Law::CombineIsMerge, 1)]),
        (Flaw::LosesChunks, &[(Law::SaveLoad, 2)]),
        (Flaw::ResetKeepsTheCount, &[(Law::Reset, 1)]),
        // two groups: one that is reset, and a neighbour
        (Flaw::ResetEmptiesAll, &[(Law::Reset, 2)]),
        (Flaw::CountsRejectedRows, &[(Law::RejectedRows, 1)]),
        (Flaw::CannotMigrate, &[(Law::Migrate, 0)]),
        (Flaw::MigratesWrongly, &[(Law::Migrate, 1)]),
    ];
    for (flaw, expected) in flaws {
        let subject = subject(toy(flaw), &case);
        let found = broken(&subject, &case);
        let laws: Vec<Law> = found.iter().map(|(law, ..)| *law).collect();
        assert_eq!(laws, expected.iter().map(|(law, _)| *law).collect::<Vec<_>>(), "{flaw:?}");
        for ((law, trial, seen), (_, rows)) in found.into_iter().zip(expected) {
            let (smallest, seen) = shrink::shrink(law, &subject, trial, seen);
            assert_eq!(smallest.rows.len(), *rows, "{flaw:?} {}: {:?}", law.name(), smallest.rows);
            for at in 0..smallest.rows.len() {
                let mut fewer = smallest.clone();
                fewer.rows.remove(at);
                assert_eq!(check(law, &subject, &fewer), None, "{flaw:?}: row {at} can be left out");
            }
            // as a file it is still broken, and holds for a plugin without the flaw
            let again = parsed(&save::text(law, &subject, &case, &smallest, &seen));
            assert_eq!(again.law.as_deref(), Some(law.name()));
            let steps = Trial::of_steps(&again);
            assert_eq!(steps.rows, smallest.rows);
            assert!(check(law, &subject, &steps).is_some(), "{flaw:?}");
            let sound = self::subject(toy(Flaw::None), &again);
            assert_eq!(check(law, &sound, &steps), None, "{flaw:?}");
        }
    }
}

#[test]
fn values_are_made_as_simple_as_they_can_be() {
    let case = parsed(CASE);
    let subject = subject(toy(Flaw::FirstCounts), &case);
    let (law, trial, seen) = broken(&subject, &case).into_iter().next().unwrap();
    let (smallest, seen) = shrink::shrink(law, &subject, trial, seen);
    let mut amounts: Vec<_> = smallest.rows.iter().filter_map(|(_, row)| row["amount"].as_i64()).collect();
    amounts.sort_unstable();
    assert_eq!(law, Law::RowOrder);
    assert_eq!(amounts, [0, 1]);
    assert!(smallest.rows.iter().all(|(_, row)| row["k"] == ""), "{:?}", smallest.rows);
    assert!(seen.0.contains("`first` in the result of k \"\" is "), "{}", seen.0);
    assert!(seen.0.contains(" in this order, and "), "{}", seen.0);
}

#[test]
fn noise_is_found_between_two_instances() {
    let case = parsed(CASE);
    let subject = subject(toy(Flaw::Noise), &case);
    assert!(broken(&subject, &case).iter().any(|(law, ..)| *law == Law::Determinism));
}

#[test]
fn rows_that_kill_a_plugin_break_a_law_and_are_found() {
    let case = parsed(CASE);
    let subject = subject(toy(Flaw::DiesOfAnAmount), &case);
    let (law, trial, seen) = broken(&subject, &case).into_iter().next().unwrap();
    let (smallest, seen) = shrink::shrink(law, &subject, trial, seen);
    assert_eq!(smallest.rows.len(), 1);
    assert_eq!(smallest.rows[0].1["amount"], 7);
    assert!(seen.0.contains("seven"), "{}", seen.0);
}

#[test]
fn a_sound_plugin_keeps_all_laws() {
    let case = parsed(CASE);
    assert_eq!(broken(&subject(toy(Flaw::None), &case), &case), []);
    for users in ["exact", "hll"] {
        let case = parsed(&format!(
            "config = {{ unique_users = \"{users}\" }}\n{}",
            CASE.replace("amount = \"long?\"", "revenue = \"double?\"\nuser_id = \"string\"\nevent_type = \"string\"")
                .replace("amount = ", "revenue = 0.1, event_type = \"click\", user_id = \"u\", x = ")
                .replace("{ k = \"a\", at", "{ k = \"a\", event_type = \"impression\", user_id = \"v\", at")
                .replace(", x = 3", "")
                .replace(", x = 5", "")
                .replace(", x = 7", "")
                .replace(", x = 2", "")
                .replace(", x = -4", "")
        ));
        let factory = Arc::new(NativeFactory::<Campaign>::new("campaign-metrics"));
        assert_eq!(broken(&subject(factory, &case), &case), [], "{users}");
    }
}
