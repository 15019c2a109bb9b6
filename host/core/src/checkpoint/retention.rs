//! What of the log and of the state files may be deleted.
//!
//! Kept are so many of the newest usable checkpoints, the one that the run goes on from, every one whose own commit is not
//! confirmed yet, those at which a swap took place that is still in its probation, and savepoints. A state file lives as long as a kept checkpoint refers to it. The newest record of
//! the log is never deleted, so numbers are never reused, and a writer that was overtaken always finds a newer number.

use std::collections::{BTreeMap, BTreeSet};

use super::versions;
use crate::checkpoint::{LogRecord, Reason};
use crate::swap::Phase;

/// How much is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// the newest usable ones
    pub checkpoints: usize,
    /// of each operator's plugin, those before the running one
    pub versions: usize,
}

/// The answer of [`decide_retention`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// the checkpoints that stay
    pub kept: BTreeSet<u64>,
    /// log records to delete, oldest first
    pub delete_records: Vec<u64>,
    /// state files that a kept checkpoint refers to
    pub live_files: BTreeSet<String>,
    /// state files that only deleted checkpoints refer to
    pub delete_files: BTreeSet<String>,
    /// digests of plugins that nobody can ask for any more
    pub delete_plugins: BTreeSet<String>,
    /// every record that stays could be read: a file that none of them names is nobody's
    pub files_known: bool,
}

impl Retention {
    pub fn oldest_kept(&self) -> Option<u64> {
        self.kept.first().copied()
    }
}

/// * `records`: all readable records of the log, in any order
/// * `unreadable`: numbers in the log whose record cannot be read; they go when they are older than all that is kept
/// * `unusable`: checkpoints that the start passed over (their state is damaged): they do not count towards `keep`
/// * `in_use`: the checkpoint that the run goes on from
/// * `confirmed`: per sink, the last checkpoint known to be committed, if that is newer than what the log says
pub fn decide_retention(
    records: &[LogRecord],
    unreadable: &BTreeSet<u64>,
    unusable: &BTreeSet<u64>,
    in_use: Option<u64>,
    keep: Keep,
    confirmed: &BTreeMap<String, u64>,
) -> Retention {
    let by_number: BTreeMap<u64, &LogRecord> = records.iter().map(|r| (r.number, r)).collect();
    let newest_of_all = by_number.last_key_value().map(|(n, _)| *n).max(unreadable.last().copied());
    let checkpoints = || by_number.values().filter_map(|r| r.checkpoint().map(|c| (r.number, c)));

    // What is confirmed only grows, so the largest number that anybody knows is the truth.
    let mut known = confirmed.clone();
    for (_, checkpoint) in checkpoints() {
        for (sink, state) in &checkpoint.sinks {
            let entry = known.entry(sink.clone()).or_default();
            *entry = (*entry).max(state.confirmed);
        }
    }
    let unconfirmed = |number: u64, checkpoint: &crate::checkpoint::Checkpoint| {
        checkpoint.sinks.iter().any(|(sink, state)| {
            state.pending.iter().any(|c| c.checkpoint == number) && known.get(sink).is_none_or(|done| *done < number)
        })
    };

    let mut kept: BTreeSet<u64> = checkpoints()
        .map(|(number, _)| number)
        .filter(|number| !unusable.contains(number))
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .take(keep.checkpoints.max(1))
        .collect();
    let on_probation: BTreeSet<u64> = checkpoints()
        .next_back()
        .into_iter()
        .flat_map(|(_, newest)| newest.swaps.iter().filter(|swap| swap.phase == Phase::Probation))
        .filter_map(|swap| swap.checkpoint)
        .collect();
    for (number, checkpoint) in checkpoints() {
        if in_use == Some(number)
            || unconfirmed(number, checkpoint)
            || on_probation.contains(&number)
            || checkpoint.reason == Reason::Savepoint
        {
            kept.insert(number);
        }
    }
    // Nothing to fall back on: nothing is deleted.
    let Some(oldest_kept) = kept.first().copied() else { return Retention::default() };

    let mut answer = Retention::default();
    for (number, checkpoint) in checkpoints() {
        let into = if kept.contains(&number) { &mut answer.live_files } else { &mut answer.delete_files };
        into.extend(checkpoint.state_files().map(|f| f.path.clone()));
    }
    answer.delete_files = answer.delete_files.difference(&answer.live_files).cloned().collect();

    let mut delete: BTreeSet<u64> = checkpoints().map(|(n, _)| n).filter(|n| !kept.contains(n)).collect();
    delete.extend(by_number.keys().chain(unreadable).copied().filter(|n| *n < oldest_kept && !kept.contains(n)));
    // A record that cannot be read may be a checkpoint whose files nobody knows: while it stays, its files stay.
    delete.retain(|n| Some(*n) != newest_of_all);
    answer.files_known = unreadable.iter().all(|n| delete.contains(n));
    if answer.files_known {
        let staying = checkpoints().filter(|(number, _)| !delete.contains(number)).map(|(_, checkpoint)| checkpoint);
        answer.delete_plugins =
            versions::unneeded(checkpoints().map(|(_, checkpoint)| checkpoint), staying, keep.versions);
    } else {
        answer.delete_files.clear();
    }
    answer.delete_records = delete.into_iter().collect();
    answer.kept = kept;
    answer
}

/// Whether a state file that no kept checkpoint refers to was left by an attempt that can no longer be published:
/// written for a number below all that is kept. What an attempt in flight writes carries a number above all of the log.
pub fn is_orphan(path: &str, written_for: u64, retention: &Retention) -> bool {
    retention.files_known
        && retention.oldest_kept().is_some_and(|oldest| written_for < oldest)
        && !retention.live_files.contains(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::swap::{History, SwapRecord};

    fn newest(checkpoints: usize) -> Keep {
        Keep { checkpoints, versions: 3 }
    }
    use crate::checkpoint::{
        Checkpoint, Committable, Entry, FORMAT_VERSION, OperatorState, SinkState, StateFile, WriterState,
    };

    fn file(path: &str, written_by: u64) -> StateFile {
        StateFile {
            holds: Default::default(),
            part: 0,
            path: path.into(),
            bytes: 1,
            sha256: String::new(),
            first_key_group: 0,
            last_key_group: 0,
            window_start_ms: 0,
            window_end_ms: 1,
            groups: 1,
            written_by,
        }
    }

    fn record(number: u64, entry: Entry) -> LogRecord {
        LogRecord {
            format: FORMAT_VERSION,
            number,
            pipeline: "p".into(),
            incarnation: "i".into(),
            generation: 1,
            nonce: String::new(),
            written_at_ms: 0,
            entry,
        }
    }

    fn checkpoint(number: u64, files: &[&str], confirmed: u64, pending: &[u64]) -> LogRecord {
        let committable = |n: &u64| Committable {
            checkpoint: *n,
            predecessor: 0,
            files: vec![],
            rows: 1,
            positions: vec![],
            windows_ms: None,
            plugins: BTreeMap::new(),
        };
        let operator =
            OperatorState { files: files.iter().map(|f| file(f, number)).collect(), ..OperatorState::default() };
        let sink = SinkState { confirmed, pending: pending.iter().map(committable).collect(), ..SinkState::default() };
        let checkpoint = Checkpoint {
            operators: [("o".to_owned(), operator)].into(),
            sinks: [("s".to_owned(), sink)].into(),
            ..Checkpoint::default()
        };
        record(number, Entry::Checkpoint(checkpoint))
    }

    fn none() -> BTreeSet<u64> {
        BTreeSet::new()
    }

    #[test]
    fn files_that_a_kept_checkpoint_refers_to_stay() {
        let log = [
            record(1, Entry::Claim),
            checkpoint(2, &["a", "b"], 0, &[2]),
            checkpoint(3, &["b", "c"], 2, &[3]),
            checkpoint(4, &["c", "d"], 3, &[4]),
            checkpoint(5, &["c", "e"], 4, &[]),
        ];
        let r = decide_retention(&log, &none(), &none(), Some(5), newest(1), &BTreeMap::new());
        assert_eq!(r.kept, [5].into());
        assert_eq!(r.delete_records, [1, 2, 3, 4]);
        assert_eq!(r.delete_files, ["a", "b", "d"].map(String::from).into());
        assert!(is_orphan("x", 4, &r) && !is_orphan("x", 5, &r) && !is_orphan("c", 3, &r));
    }

    /// A sink's memory of its rows is kept and let go like the operators' state.
    #[test]
    fn a_sinks_files_stay_as_long_as_a_kept_checkpoint_names_them() {
        let with = |number: u64, files: &[&str]| {
            let files = files.iter().map(|path| file(path, number)).collect();
            let writer = Some(WriterState { files, notes: serde_json::Value::Null });
            let sink = SinkState { writer, ..SinkState::default() };
            record(
                number,
                Entry::Checkpoint(Checkpoint { sinks: [("s".to_owned(), sink)].into(), ..Checkpoint::default() }),
            )
        };
        let log = [with(2, &["a"]), with(3, &["a", "b"]), with(4, &["b", "c"])];
        let r = decide_retention(&log, &none(), &none(), Some(4), newest(2), &BTreeMap::new());
        assert_eq!(r.kept, [3, 4].into());
        assert!(r.delete_files.is_empty());
        let r = decide_retention(&log, &none(), &none(), Some(4), newest(1), &BTreeMap::new());
        assert_eq!(r.delete_files, ["a".to_owned()].into());
        assert!(!is_orphan("b", 3, &r) && is_orphan("a", 3, &r));
    }

    #[test]
    fn an_unconfirmed_commit_keeps_its_checkpoint_until_somebody_knows_better() {
        let log = [checkpoint(2, &["a"], 0, &[2]), checkpoint(3, &[], 0, &[2, 3]), checkpoint(4, &[], 0, &[2, 3, 4])];
        let r = decide_retention(&log, &none(), &none(), Some(4), newest(1), &BTreeMap::new());
        assert_eq!(r.kept, [2, 3, 4].into());
        let r = decide_retention(&log, &none(), &none(), Some(4), newest(1), &[("s".to_owned(), 2)].into());
        assert_eq!(r.kept, [3, 4].into());
        assert_eq!(r.delete_files, ["a".to_owned()].into());
    }

    #[test]
    fn the_barrier_of_a_swap_is_kept_through_its_probation() {
        let with = |number: u64, phase: Phase| {
            let mut swaps = History::default();
            swaps.push(SwapRecord { id: 1, phase, checkpoint: Some(3), ..SwapRecord::default() });
            record(number, Entry::Checkpoint(Checkpoint { swaps, ..Checkpoint::default() }))
        };
        let before = [checkpoint(2, &["a"], 0, &[]), checkpoint(3, &["b"], 0, &[]), with(4, Phase::Probation)];
        for (phase, kept) in [(Phase::Probation, vec![3, 5]), (Phase::Done, vec![5]), (Phase::RolledBack, vec![5])] {
            let mut log = before.to_vec();
            log.push(with(5, phase));
            let r = decide_retention(&log, &none(), &none(), Some(5), newest(1), &BTreeMap::new());
            assert_eq!(r.kept, kept.into_iter().collect(), "{phase:?}");
            assert_eq!(r.delete_files.contains("b"), phase != Phase::Probation);
        }
    }

    #[test]
    fn what_the_start_passed_over_does_not_push_out_what_it_restored() {
        let log = [checkpoint(7, &["a"], 0, &[]), checkpoint(8, &["b"], 0, &[]), record(9, Entry::Claim)];
        let r = decide_retention(&log, &none(), &[8].into(), Some(7), newest(1), &BTreeMap::new());
        assert_eq!(r.kept, [7].into());
        assert_eq!(r.delete_records, [8]);
    }

    #[test]
    fn the_newest_record_stays_even_if_it_is_unreadable_and_nothing_is_deleted_without_a_checkpoint() {
        let log = [checkpoint(2, &["a"], 0, &[]), checkpoint(3, &["b"], 0, &[])];
        let r = decide_retention(&log, &[4].into(), &none(), Some(3), newest(1), &BTreeMap::new());
        assert_eq!(r.delete_records, [2]);
        assert!(r.delete_files.is_empty(), "4 may refer to them");
        let claims = [record(1, Entry::Claim), record(2, Entry::Claim)];
        assert_eq!(
            decide_retention(&claims, &none(), &none(), None, newest(1), &BTreeMap::new()),
            Retention::default()
        );
    }

    proptest! {
        /// Whatever the log looks like: what is kept has its files, the newest record stays, and nothing that is
        /// unconfirmed goes.
        #[test]
        fn kept_checkpoints_stay_whole(
            shape in prop::collection::vec((0u8..4, prop::collection::vec(0u8..12, 0..4), any::<bool>()), 1..20),
            keep in 0usize..5,
            confirmed in 0u64..20,
        ) {
            let mut log = Vec::new();
            let mut unreadable = BTreeSet::new();
            for (number, (kind, files, pending)) in (1u64..).zip(&shape) {
                let names: Vec<String> = files.iter().map(|f| format!("f{f}")).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                match kind {
                    0 => log.push(record(number, Entry::Claim)),
                    1 => { unreadable.insert(number); }
                    _ => {
                        let waiting: Vec<u64> = pending.then_some(number).into_iter().collect();
                        log.push(checkpoint(number, &names, 0, &waiting));
                    }
                }
            }
            let known: BTreeMap<String, u64> = [("s".to_owned(), confirmed)].into();
            let r = decide_retention(&log, &unreadable, &BTreeSet::new(), None, newest(keep), &known);
            let deleted: BTreeSet<u64> = r.delete_records.iter().copied().collect();
            prop_assert!(deleted.is_disjoint(&r.kept));
            prop_assert!(!deleted.contains(&(shape.len() as u64)));
            let checkpoints = log.iter().filter(|l| l.checkpoint().is_some()).count();
            prop_assert!(r.kept.len() >= keep.max(1).min(checkpoints));
            for l in &log {
                let Some(c) = l.checkpoint() else { continue };
                if r.kept.contains(&l.number) {
                    for f in c.state_files() {
                        prop_assert!(!r.delete_files.contains(&f.path));
                        prop_assert!(!is_orphan(&f.path, f.written_by, &r));
                    }
                }
                let waiting = c.sinks.values().any(|s| !s.pending.is_empty()) && l.number > confirmed;
                prop_assert!(!(waiting && deleted.contains(&l.number)));
            }
        }
    }
}
