//! Which checkpoint a restart trusts.
//!
//! The host reads the log from its newest record down to the first checkpoint that is whole (a [`Survey`]), asks each
//! table which checkpoint its claim names, and decides here, without I/O. The rule: a damaged checkpoint is passed
//! over only if no table has committed it; a checkpoint that nobody can read is never replaced by "start from nothing"
//! unless the log still begins where the incarnation began.
//!
//! ```text
//!   4 whole   5 damaged   6 claim          tables name 3, 4   →  resume from 4, say that 5 was passed over
//!                                          a table names 5    →  refuse: its rows are in the table, its offsets are lost
//! ```

use crate::checkpoint::{FIRST_NUMBER, LogRecord};
use crate::commit::Claim;

/// What is known of one record of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The record is as it was written; if it is a checkpoint, its state files are there and whole.
    Whole(Box<LogRecord>),
    /// The record cannot be trusted.
    Damaged { why: String },
    /// The record is as it was written, a state file that it refers to is not.
    StateDamaged { record: Box<LogRecord>, why: String },
}

impl Condition {
    fn record(&self) -> Option<&LogRecord> {
        match self {
            Self::Whole(record) | Self::StateDamaged { record, .. } => Some(record),
            Self::Damaged { .. } => None,
        }
    }
}

/// One record of the log as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Surveyed {
    pub number: u64,
    pub condition: Condition,
}

/// The log from its newest record down to the first whole checkpoint, or to its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// newest first
    pub records: Vec<Surveyed>,
    /// the smallest number in the log, read or not
    pub oldest: Option<u64>,
}

impl Survey {
    /// The number that the next record takes: after everything there is, readable or not.
    pub fn next_number(&self) -> u64 {
        self.records.first().map_or(FIRST_NUMBER, |newest| newest.number.saturating_add(1))
    }
}

/// What a starting process does.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// The location is empty: a new incarnation.
    Fresh,
    /// Write a claim with this number and generation, then go on from `restored` (none: the incarnation has no
    /// checkpoint yet).
    Resume {
        incarnation: String,
        generation: u64,
        number: u64,
        restored: Option<Box<LogRecord>>,
        /// checkpoints (or records that may have been one) newer than `restored` that cannot be used, newest first
        passed_over: Vec<(u64, String)>,
    },
    Refuse(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "checkpoint {number} cannot be used ({why}), and table `{table}` has already committed it: going back to {} would \
         count its events twice. hint: restore the file from a backup; or roll the table back to its snapshot before \
         checkpoint {number}, then start again",
        .would_use.map_or("the beginning".to_owned(), |n| format!("checkpoint {n}"))
    )]
    CommittedByTable { number: u64, why: String, table: String, would_use: Option<u64> },
    #[error(
        "no checkpoint of the log can be used ({}), and the log no longer reaches back to the pipeline's beginning: \
         starting from nothing would lose or repeat events. hint: restore the checkpoint location from a backup; or \
         start a new one with another `checkpoint.location`",
        list(.found)
    )]
    NothingUsable { found: Vec<(u64, String)> },
}

fn list(found: &[(u64, String)]) -> String {
    const SHOWN_MAX: usize = 5;
    let mut shown: Vec<String> = found.iter().take(SHOWN_MAX).map(|(n, why)| format!("{n}: {why}")).collect();
    if found.len() > SHOWN_MAX {
        shown.push(format!("and {} more", found.len() - SHOWN_MAX));
    }
    if shown.is_empty() { "only claims are left".to_owned() } else { shown.join("; ") }
}

/// `tables`: the claim that each table carries for this pipeline, by the table's (or sink's) name. Claims of another
/// incarnation are ignored here: [`crate::commit::decide_claim`] refuses them with the choices there are.
pub fn choose(survey: &Survey, tables: &[(String, Claim)]) -> Choice {
    if survey.records.is_empty() {
        return Choice::Fresh;
    }
    let mut passed_over = Vec::new();
    let mut restored = None;
    for Surveyed { number, condition } in &survey.records {
        match condition {
            Condition::Whole(record) if record.checkpoint().is_some() => {
                restored = Some(record.clone());
                break;
            }
            Condition::Whole(_) => {}
            Condition::Damaged { why } | Condition::StateDamaged { why, .. } => {
                passed_over.push((*number, why.clone()))
            }
        }
    }
    let newest_readable = survey.records.iter().find_map(|s| s.condition.record().map(|record| (s.number, record)));
    let complete = survey.oldest == Some(FIRST_NUMBER);
    let Some((readable_number, readable)) = newest_readable else {
        return Choice::Refuse(Refusal::NothingUsable { found: passed_over });
    };
    let named = passed_over.iter().find_map(|(number, why)| {
        let (table, _) =
            tables.iter().find(|(_, c)| c.incarnation == readable.incarnation && c.checkpoint == *number)?;
        Some((*number, why.clone(), table.clone()))
    });
    if let Some((number, why, table)) = named {
        let would_use = restored.as_ref().map(|r| r.number);
        return Choice::Refuse(Refusal::CommittedByTable { number, why, table, would_use });
    }
    if restored.is_none() && !complete {
        return Choice::Refuse(Refusal::NothingUsable { found: passed_over });
    }
    let number = survey.next_number();
    // A record raises the generation by no more than its number; so this is above the generation of every record,
    // those that cannot be read included. Without damage it is the newest generation plus one.
    let generation = readable.generation.saturating_add(number.saturating_sub(readable_number));
    Choice::Resume { incarnation: readable.incarnation.clone(), generation, number, restored, passed_over }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, Entry, FORMAT_VERSION};

    fn record(number: u64, generation: u64, entry: Entry) -> Box<LogRecord> {
        Box::new(LogRecord {
            format: FORMAT_VERSION,
            number,
            pipeline: "p".into(),
            incarnation: "i".into(),
            generation,
            nonce: format!("n{number}"),
            written_at_ms: 0,
            entry,
        })
    }

    fn checkpoint(number: u64, generation: u64) -> Surveyed {
        let entry = Entry::Checkpoint(Checkpoint::default());
        Surveyed { number, condition: Condition::Whole(record(number, generation, entry)) }
    }

    fn claim(number: u64, generation: u64) -> Surveyed {
        Surveyed { number, condition: Condition::Whole(record(number, generation, Entry::Claim)) }
    }

    fn damaged(number: u64) -> Surveyed {
        Surveyed { number, condition: Condition::Damaged { why: "checksum".into() } }
    }

    fn state_damaged(number: u64, generation: u64) -> Surveyed {
        let record = record(number, generation, Entry::Checkpoint(Checkpoint::default()));
        Surveyed { number, condition: Condition::StateDamaged { record, why: "gone".into() } }
    }

    fn survey(oldest: u64, records: Vec<Surveyed>) -> Survey {
        Survey { records, oldest: Some(oldest) }
    }

    fn table(incarnation: &str, checkpoint: u64) -> (String, Claim) {
        ("t".into(), Claim { incarnation: incarnation.into(), generation: 1, checkpoint })
    }

    fn resumed(choice: Choice) -> (u64, u64, Option<u64>, Vec<u64>) {
        match choice {
            Choice::Resume { generation, number, restored, passed_over, .. } => {
                (number, generation, restored.map(|r| r.number), passed_over.into_iter().map(|p| p.0).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_location_is_a_new_incarnation() {
        assert_eq!(choose(&Survey::default(), &[]), Choice::Fresh);
    }

    #[test]
    fn the_newest_whole_checkpoint_is_restored_and_the_generation_raised() {
        let log = survey(3, vec![claim(6, 3), claim(5, 2), checkpoint(4, 1)]);
        assert_eq!(resumed(choose(&log, &[table("i", 4)])), (7, 4, Some(4), vec![]));
    }

    #[test]
    fn claims_alone_start_over_only_if_the_log_is_complete() {
        assert_eq!(resumed(choose(&survey(1, vec![claim(2, 2), claim(1, 1)]), &[])), (3, 3, None, vec![]));
        assert!(matches!(choose(&survey(2, vec![claim(2, 2)]), &[]), Choice::Refuse(Refusal::NothingUsable { .. })));
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_unless_a_table_names_it() {
        for bad in [damaged(5), state_damaged(5, 1)] {
            let log = survey(3, vec![claim(6, 2), bad, checkpoint(4, 1)]);
            assert_eq!(resumed(choose(&log, &[table("i", 4)])), (7, 3, Some(4), vec![5]));
            // a stranger's table says nothing about our log
            assert_eq!(resumed(choose(&log, &[table("other", 5)])), (7, 3, Some(4), vec![5]));
            assert!(matches!(
                choose(&log, &[table("i", 4), table("i", 5)]),
                Choice::Refuse(Refusal::CommittedByTable { number: 5, would_use: Some(4), .. })
            ));
        }
    }

    #[test]
    fn a_generation_that_nobody_can_read_any_more_is_exceeded_all_the_same() {
        // 5 and 6 may have been claims with generations 2 and 3
        let log = survey(3, vec![damaged(6), damaged(5), checkpoint(4, 1)]);
        let (number, generation, ..) = resumed(choose(&log, &[]));
        assert_eq!((number, generation), (7, 4));
    }

    #[test]
    fn the_only_checkpoint_damaged() {
        let log = survey(1, vec![damaged(2), claim(1, 1)]);
        assert_eq!(resumed(choose(&log, &[])), (3, 3, None, vec![2]));
        assert!(matches!(choose(&log, &[table("i", 2)]), Choice::Refuse(Refusal::CommittedByTable { .. })));
        let shortened = survey(7, vec![claim(9, 2), damaged(8), damaged(7)]);
        assert!(matches!(choose(&shortened, &[]), Choice::Refuse(Refusal::NothingUsable { .. })));
        assert!(matches!(choose(&survey(1, vec![damaged(1)]), &[]), Choice::Refuse(Refusal::NothingUsable { .. })));
    }
}
