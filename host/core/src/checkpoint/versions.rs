//! Which plugins' bytes nobody can ask for any more.
//!
//! Kept is what a checkpoint that stays runs or was given, what a swap under way goes from and to, and of each operator
//! the versions before, to go back to. Only what a checkpoint or its history names is ever deleted: others may keep bytes
//! there, too.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::Checkpoint;

/// Digests, of those that `all` name, that no checkpoint that stays has a use for. `keep`: different versions of each operator
/// before the running one.
pub(super) fn unneeded<'a>(
    all: impl Iterator<Item = &'a Checkpoint>,
    staying: impl Iterator<Item = &'a Checkpoint>,
    keep: usize,
) -> BTreeSet<String> {
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for checkpoint in staying {
        needed.extend(running(checkpoint));
        let mut before: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for swap in checkpoint.swaps.iter().rev() {
            if !swap.phase.is_over() {
                needed.extend([swap.from.sha256.as_str(), swap.to.sha256.as_str()]);
            }
            let kept = before.entry(&swap.operator).or_default();
            // what never gave results had nothing before it
            if swap.exchanged_at_ms.is_some() && kept.len() < keep {
                kept.insert(&swap.from.sha256);
            }
        }
        needed.extend(before.into_values().flatten());
    }
    let mut named: BTreeSet<String> = BTreeSet::new();
    for checkpoint in all {
        let history = checkpoint.swaps.iter().flat_map(|swap| [swap.from.sha256.as_str(), swap.to.sha256.as_str()]);
        named.extend(running(checkpoint).chain(history).map(str::to_owned));
    }
    named.retain(|digest| !needed.contains(digest.as_str()));
    named
}

fn running(checkpoint: &Checkpoint) -> impl Iterator<Item = &str> {
    checkpoint.plugins().flat_map(|plugin| {
        let in_file = plugin.in_file.as_ref().map(|file| file.sha256.as_str());
        [plugin.sha256.as_str()].into_iter().chain(in_file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{InFile, OperatorState, PluginRef};
    use crate::swap::{Phase, SwapRecord, Version};

    fn runs(digest: &str, in_file: Option<&str>) -> Checkpoint {
        let in_file = in_file.map(|sha256| InFile { sha256: sha256.into(), config: "{}".into() });
        let plugin =
            PluginRef { name: "m".into(), version: "1".into(), sha256: digest.into(), config: "{}".into(), in_file };
        let operator = OperatorState { plugin: Some(plugin), ..OperatorState::default() };
        Checkpoint { operators: [("metrics".to_owned(), operator)].into(), ..Checkpoint::default() }
    }

    fn swapped(checkpoint: &mut Checkpoint, from: &str, to: &str, phase: Phase) {
        let version = |sha256: &str| Version { sha256: sha256.into(), ..Version::default() };
        let ran = phase.is_active() || phase == Phase::RolledBack;
        checkpoint.swaps.push(SwapRecord {
            id: checkpoint.swaps.next_id(),
            operator: "metrics".into(),
            phase,
            from: version(from),
            to: version(to),
            exchanged_at_ms: ran.then_some(1),
            ..SwapRecord::default()
        });
    }

    fn gone(all: &[Checkpoint], staying: &[Checkpoint]) -> Vec<String> {
        unneeded(all.iter(), staying.iter(), 3).into_iter().collect()
    }

    #[test]
    fn what_runs_and_what_the_file_gave_stay() {
        let (old, new) = (runs("a", None), runs("c", Some("b")));
        assert_eq!(gone(&[old.clone(), new.clone()], std::slice::from_ref(&new)), ["a"]);
        assert!(gone(&[old.clone(), new.clone()], &[old, new]).is_empty());
    }

    #[test]
    fn what_ends_its_windows_stays() {
        let old = runs("a", None);
        let mut new = runs("b", None);
        let plugin = old.operators["metrics"].plugin.clone().unwrap();
        let draining = crate::checkpoint::Draining { plugin, state: Default::default(), before_ms: 1 };
        new.operators.get_mut("metrics").unwrap().draining = Some(draining);
        assert!(gone(&[old.clone(), new.clone()], std::slice::from_ref(&new)).is_empty());
        new.operators.get_mut("metrics").unwrap().draining = None;
        assert_eq!(gone(&[old, new.clone()], std::slice::from_ref(&new)), ["a"]);
    }

    #[test]
    fn what_transforms_run_stays_too() {
        let mut old = runs("a", None);
        let plugin = runs("t2", Some("t1")).operators.remove("metrics").and_then(|operator| operator.plugin);
        old.transforms.extend(plugin.map(|plugin| ("clean".to_owned(), plugin)));
        let new = runs("a", None);
        assert!(gone(std::slice::from_ref(&old), std::slice::from_ref(&old)).is_empty());
        assert_eq!(gone(&[old, new.clone()], &[new]), ["t1", "t2"]);
    }

    #[test]
    fn of_versions_before_the_last_different_ones_stay_however_often_they_ran() {
        let mut last = runs("f", Some("f"));
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "d"), ("d", "e"), ("e", "f")] {
            swapped(&mut last, from, to, Phase::Done);
        }
        assert_eq!(gone(std::slice::from_ref(&last), std::slice::from_ref(&last)), ["a", "b"]);
        let gone_of = |keep| unneeded([&last].into_iter(), [&last].into_iter(), keep).into_iter().collect::<String>();
        assert_eq!([1, 2, 4, 20].map(gone_of), ["abcd", "abc", "a", ""]);
    }

    #[test]
    fn what_was_refused_goes_and_what_is_under_way_stays() {
        let mut last = runs("a", None);
        swapped(&mut last, "a", "refused", Phase::Refused);
        swapped(&mut last, "a", "failed", Phase::Failed);
        swapped(&mut last, "a", "shadow", Phase::Shadowing);
        assert_eq!(gone(std::slice::from_ref(&last), std::slice::from_ref(&last)), ["failed", "refused"]);
    }
}
