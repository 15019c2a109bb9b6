//! Taking a pipeline over, and writing checkpoints as its owner.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use millrace_core::checkpoint::{
    Checkpoint, Choice, Condition, Entry, FIRST_NUMBER, FORMAT_VERSION, LogRecord, StateFile, Survey, Surveyed, choose,
};
use millrace_core::commit::{Claim, Fence};

use super::log::{Published, Read};
use super::{CheckpointError, CheckpointStore, Result};

/// How often a claim is tried when others take the number first.
const CLAIM_TRIES_MAX: u32 = 64;
/// State files verified at the same time; each is held in memory meanwhile.
const VERIFIED_AT_ONCE_MAX: usize = 4;

/// The right to write checkpoints, until somebody else claims it. Held by the coordinator alone.
#[derive(Debug)]
pub struct Owner {
    fence: Fence,
    /// the number of the next checkpoint: what state files and committables of the attempt in flight carry
    next_number: u64,
    /// the checkpoint that the run goes on from: restored, or the last one published
    pub(super) in_use: Option<u64>,
    /// checkpoints that the start passed over
    pub(super) unusable: BTreeSet<u64>,
}

impl Owner {
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The number that the next checkpoint will have, if it is published. An attempt that is given up leaves it to
    /// the next attempt.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }
}

/// The outcome of [`CheckpointStore::claim`].
#[derive(Debug)]
pub struct Claimed {
    pub incarnation: String,
    pub generation: u64,
    /// the claim's own number
    pub number: u64,
    /// what the run goes on from; none: from the beginning
    pub restored: Option<Box<LogRecord>>,
    /// newer ones that cannot be used and that no table has committed, newest first, with the reason
    pub damaged: Vec<(u64, String)>,
    pub owner: Owner,
}

impl CheckpointStore {
    /// Reads the log from its newest record down to the first whole checkpoint. State files are read and their
    /// checksums verified, so that a damaged one is known before anything is claimed.
    pub async fn survey(&self) -> Result<Survey> {
        for _ in 0..CLAIM_TRIES_MAX {
            if let Some(survey) = self.look().await? {
                return Ok(survey);
            }
        }
        Err(CheckpointError::Crowded(CLAIM_TRIES_MAX))
    }

    /// None: the process that owns the pipeline now has written newer records and deleted one that had been listed.
    async fn look(&self) -> Result<Option<Survey>> {
        let numbers = self.list_log().await?;
        let mut survey = Survey { records: Vec::new(), oldest: numbers.first().copied() };
        for number in numbers.into_iter().rev() {
            let condition = match self.read(number).await? {
                Read::Missing => return Ok(None),
                Read::Damaged(why) => Condition::Damaged { why },
                Read::Whole(record) => match record.checkpoint() {
                    None => Condition::Whole(record),
                    Some(checkpoint) => match self.verify_state(checkpoint).await? {
                        None => Condition::Whole(record),
                        // a record is deleted before its files: they may only have gone with it
                        Some(_) if self.read(number).await? == Read::Missing => return Ok(None),
                        Some(why) => Condition::StateDamaged { record, why },
                    },
                },
            };
            let enough = matches!(&condition, Condition::Whole(record) if record.checkpoint().is_some());
            survey.records.push(Surveyed { number, condition });
            if enough {
                break;
            }
        }
        Ok(Some(survey))
    }

    /// The first damage found among the checkpoint's state files.
    async fn verify_state(&self, checkpoint: &Checkpoint) -> Result<Option<String>> {
        let files: Vec<StateFile> = checkpoint.state_files().cloned().collect();
        let verified = futures::stream::iter(files)
            .map(|file| async move {
                match self.read_state_bytes(&file).await {
                    Ok(_) => Ok(()),
                    Err(CheckpointError::StateDamaged { path, why }) => Err(Ok(format!("state file {path}: {why}"))),
                    Err(other) => Err(Err(other)),
                }
            })
            .buffer_unordered(VERIFIED_AT_ONCE_MAX)
            .try_collect::<Vec<()>>()
            .await;
        match verified {
            Ok(_) => Ok(None),
            Err(damage_or_error) => damage_or_error.map(Some),
        }
    }

    /// Takes the pipeline over: after this, the former owner cannot publish any more. `tables` are the claims that
    /// the tables carry for this pipeline, by sink or table name (they decide whether a damaged checkpoint may be
    /// passed over).
    pub async fn claim(&self, tables: &[(String, Claim)], now_ms: i64) -> Result<Claimed> {
        for _ in 0..CLAIM_TRIES_MAX {
            let survey = self.survey().await?;
            let (incarnation, generation, number, restored, damaged) = match choose(&survey, tables) {
                Choice::Fresh => ((self.new_id)(), 1, FIRST_NUMBER, None, Vec::new()),
                Choice::Resume { incarnation, generation, number, restored, passed_over } => {
                    (incarnation, generation, number, restored, passed_over)
                }
                Choice::Refuse(refusal) => return Err(refusal.into()),
            };
            let fence = Fence { incarnation: incarnation.clone(), generation };
            match self.publish(&self.record(&fence, number, Entry::Claim, now_ms)).await? {
                // All lower numbers were in the survey, so `restored` is the newest there will ever be below ours.
                Published::Ours => {}
                // another claim, or a last checkpoint of the former owner: look again
                Published::Lost(_) => continue,
            }
            match self.refuse_if_overtaken(number, generation).await {
                // the number was free only because the former owner, who is further by now, had deleted its record
                Err(CheckpointError::Fenced { by, .. }) if by < generation => continue,
                other => other?,
            }
            for (number, why) in &damaged {
                tracing::error!(
                    checkpoint = number,
                    why,
                    "checkpoint passed over: it is damaged, and no table has committed it"
                );
            }
            let owner = Owner {
                fence,
                next_number: number.saturating_add(1),
                in_use: restored.as_ref().map(|r| r.number),
                unusable: damaged.iter().map(|(n, _)| *n).collect(),
            };
            return Ok(Claimed { incarnation, generation, number, restored, damaged, owner });
        }
        Err(CheckpointError::Crowded(CLAIM_TRIES_MAX))
    }

    /// The record that [`CheckpointStore::publish_checkpoint`] publishes; made apart, so that a failed attempt can be
    /// repeated with the very same bytes.
    pub fn checkpoint_record(&self, owner: &Owner, checkpoint: Checkpoint, now_ms: i64) -> LogRecord {
        self.record(&owner.fence, owner.next_number, Entry::Checkpoint(checkpoint), now_ms)
    }

    fn record(&self, fence: &Fence, number: u64, entry: Entry, now_ms: i64) -> LogRecord {
        LogRecord {
            format: FORMAT_VERSION,
            number,
            pipeline: self.pipeline.to_string(),
            incarnation: fence.incarnation.clone(),
            generation: fence.generation,
            nonce: (self.new_id)(),
            written_at_ms: now_ms,
            entry,
        }
    }

    /// Makes the checkpoint durable, and returns its number. All its state files must be uploaded.
    ///
    /// A transient error leaves the outcome open: call again with the same record, or stop. With another record under
    /// the same number the answer may be [`CheckpointError::AlreadyPublished`].
    pub async fn publish_checkpoint(&self, owner: &mut Owner, record: &LogRecord) -> Result<u64> {
        let number = record.number;
        match self.publish(record).await? {
            Published::Ours => {}
            Published::Lost(Read::Whole(other)) if other.generation == owner.fence.generation => {
                return Err(CheckpointError::AlreadyPublished { number });
            }
            Published::Lost(Read::Whole(other)) => {
                return Err(CheckpointError::Fenced { by: other.generation, ours: owner.fence.generation });
            }
            Published::Lost(Read::Damaged(why)) => {
                let doing = format!("writing log record {number}");
                let why = format!("the number is taken by a file that cannot be read: {why}");
                return Err(CheckpointError::Unusable { location: self.location().to_owned(), doing, why });
            }
            Published::Lost(Read::Missing) => {
                let doing = format!("writing log record {number}");
                let why = "the number was taken and freed again by somebody else".to_owned();
                return Err(CheckpointError::Unusable { location: self.location().to_owned(), doing, why });
            }
        }
        self.refuse_if_overtaken(number, owner.fence.generation).await?;
        owner.next_number = number.saturating_add(1);
        owner.in_use = Some(number);
        Ok(number)
    }

    /// A number of ours that was free because the new owner's retention had already deleted the record there would
    /// look like a success: but then there are newer numbers, and the newest is never deleted.
    async fn refuse_if_overtaken(&self, number: u64, generation: u64) -> Result<()> {
        let newer = self.list_log_after(Some(number)).await?;
        let Some(newest) = newer.last() else { return Ok(()) };
        let by = match self.read(*newest).await? {
            Read::Whole(record) => record.generation,
            Read::Damaged(_) | Read::Missing => generation.saturating_add(1),
        };
        Err(CheckpointError::Fenced { by, ours: generation })
    }
}
