//! Claims and commits: fenced, marked, verified whether the catalog said yes, no, or nothing.
//!
//! ```text
//!            ┌──────────────────────────────── look ◀───────────────┐
//!            ▼                                                      │
//!   claim names this checkpoint ──▶ done (the only "done")          │ whatever the answer was:
//!   a newer generation, another                                     │ Ok, conflict, error, none
//!   incarnation or checkpoint  ──▶ stop, with the choices           │
//!   the predecessor ──▶ append + claim in one fenced transaction ───┘
//! ```
//!
//! The look comes first on every round, so a lost answer cannot commit twice; the fence is evaluated on exactly the
//! table that the commit is bound to, so nothing can slip in between.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use iceberg::TableIdent;
use iceberg::spec::{DataFile, TableMetadata};
use iceberg::table::Table;
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use millrace_core::checkpoint::{Committable, SinkState};
use millrace_core::commit::{Claim, ClaimDecision, CommitDecision, Fence, decide_claim, decide_commit, property_key};
use tracing::{info, warn};

use super::fence::{FencedCatalog, Verdict};
use super::row_delta::{self, Delta};
use super::{IcebergSink, classify};
use crate::failpoint;
use crate::sink::{Result, SinkError};

/// Looks and attempts before a commit is given up. The checkpoint keeps it: the next start tries again.
const ATTEMPTS_MAX: u32 = 10;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// More partitions than that are written to a file that the summary names.
const POSITIONS_INLINE_MAX: usize = 64;

/// The claim in a table's properties.
pub fn claim_of(pipeline: &str, sink: &str, table: &Table) -> Result<Option<Claim>> {
    let key = property_key(pipeline, sink);
    let Some(text) = table.metadata().properties().get(&key) else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|e| {
        SinkError::Fatal(format!(
            "table {}: its property `{key}` is not a claim of Millrace ({e}): {text}",
            table.identifier()
        ))
    })
}

pub(super) fn found_claim(sink: &IcebergSink, table: &Table) -> Result<Option<Claim>> {
    claim_of(&sink.pipeline, &sink.name, table)
}

/// Takes the table for this run; returns the last checkpoint that is in it.
pub(super) async fn claim(sink: &IcebergSink, fence: &Fence, state: &SinkState) -> Result<u64> {
    let pending: Vec<u64> = state.pending.iter().map(|c| c.checkpoint).collect();
    let mut pause = Pause::new();
    loop {
        let table = match sink.catalog.load_table(&sink.ident).await {
            Ok(table) => table,
            Err(error) => {
                pause.after(classify(&format!("loading table {}", sink.ident), &error)).await?;
                continue;
            }
        };
        let found = found_claim(sink, &table)?;
        let committed = match decide_claim(found.as_ref(), fence, state.confirmed, &pending) {
            ClaimDecision::Take { committed } => committed,
            refusal => return Err(SinkError::Fatal(explain_claim(sink, fence, &refusal))),
        };
        if committed > 0 {
            require_in_history(sink, &table, fence, committed)?;
        }
        if found.as_ref().is_some_and(|c| c.generation == fence.generation) {
            sink.renew(table);
            return Ok(committed);
        }
        if let (None, Some(retention)) = (&sink.upsert, retention_of_main(table.metadata())) {
            warn!(
                "table {}: the retention set on its branch `main` ({retention}) is lost by this run's commits; set the \
                 table properties history.expire.min-snapshots-to-keep and history.expire.max-snapshot-age-ms instead",
                sink.ident
            );
        }
        let ours =
            Claim { incarnation: fence.incarnation.clone(), generation: fence.generation, checkpoint: committed };
        let summary = summary(sink, fence, &[("millrace.event", "claim".to_owned())]);
        // judged again on the very table that the commit is bound to
        let expected = found.clone();
        let judge = judge(sink, move |now| now == expected.as_ref());
        let what = format!("claiming table {}", sink.ident);
        match transact(&judge, &table, sink, &ours, summary, &Contents::nothing(sink)).await {
            Ok(()) if pause.first_look() => {}
            Ok(()) => pause.after(not_seen(&what)).await?,
            Err(_) if judge.stopped().is_some() => {
                pause.after(SinkError::Transient(format!("{what}: somebody was faster"))).await?
            }
            Err(error) => pause.after(because(&what, error)).await?,
        }
    }
}

/// Commits one committable. `Ok` means: seen in the table.
pub(super) async fn commit(sink: &IcebergSink, fence: &Fence, committable: &Committable) -> Result<()> {
    let mut pause = Pause::new();
    let what = format!("committing checkpoint {} to table {}", committable.checkpoint, sink.ident);
    let mut attempted = false;
    // made at the first attempt: the file that may hold the positions is written once
    let mut parts: Option<(HashMap<String, String>, Contents)> = None;
    loop {
        let table = match sink.catalog.load_table(&sink.ident).await {
            Ok(table) => table,
            Err(error) => {
                pause.after(classify(&what, &error)).await?;
                continue;
            }
        };
        let found = found_claim(sink, &table)?;
        match decide_commit(found.as_ref(), fence, committable.predecessor, committable.checkpoint) {
            CommitDecision::AlreadyCommitted => {
                require_in_history(sink, &table, fence, committable.checkpoint)?;
                if !attempted {
                    info!(table = %sink.ident, checkpoint = committable.checkpoint, "found committed");
                }
                failpoint::hit(failpoint::COMMIT_AFTER);
                if let Some((_, Contents::Delta(delta))) = &parts {
                    delta.clean_up(sink).await;
                }
                sink.after_commit(table, committable).await;
                return Ok(());
            }
            CommitDecision::Go => {}
            CommitDecision::Fenced { found } => return Err(SinkError::Fatal(explain_fenced(sink, fence, &found))),
            CommitDecision::Unexpected { found, expected } => {
                return Err(SinkError::Fatal(explain_unexpected(
                    sink,
                    found.as_ref(),
                    expected,
                    committable.checkpoint,
                )));
            }
        }
        if attempted {
            warn!("{what}: not in the table yet, trying again");
        }
        let (summary, contents) = match &mut parts {
            Some(parts) => parts,
            none => match Contents::of(sink, committable).await {
                Ok(contents) => none.insert((commit_summary(sink, fence, committable).await?, contents)),
                Err(error) => {
                    pause.after(because(&what, error)).await?;
                    continue;
                }
            },
        };
        let ours = Claim {
            incarnation: fence.incarnation.clone(),
            generation: fence.generation,
            checkpoint: committable.checkpoint,
        };
        let (fence_now, predecessor, checkpoint) = (fence.clone(), committable.predecessor, committable.checkpoint);
        let judge =
            judge(sink, move |now| decide_commit(now, &fence_now, predecessor, checkpoint) == CommitDecision::Go);
        failpoint::hit(failpoint::COMMIT_BEFORE);
        attempted = true;
        match transact(&judge, &table, sink, &ours, summary.clone(), contents).await {
            Ok(()) => {
                failpoint::hit(failpoint::COMMIT_APPLIED_ANSWER_LOST);
                if !pause.first_look() {
                    pause.after(not_seen(&what)).await?;
                }
            }
            // the next look says why
            Err(_) if judge.stopped().is_some() => {
                pause.after(SinkError::Transient(format!("{what}: the table changed meanwhile"))).await?;
            }
            Err(error) => pause.after(because(&what, error)).await?,
        }
    }
}

/// What `main` itself says of how long its snapshots are kept. The iceberg crate's append writes the branch anew without
/// it, and lets nobody add to its commits.
pub(super) fn retention_of_main(table: &TableMetadata) -> Option<String> {
    let table = serde_json::to_value(table).ok()?;
    let rules =
        table.get("refs")?.get("main")?.as_object()?.iter().filter(|(key, _)| *key != "snapshot-id" && *key != "type");
    let rules: Vec<String> = rules.map(|(key, value)| format!("{key} = {value}")).collect();
    (!rules.is_empty()).then(|| rules.join(", "))
}

/// The SQL catalog of the iceberg crate is known to answer `Ok` though its COMMIT failed.
fn not_seen(what: &str) -> SinkError {
    SinkError::Transient(format!("{what}: the catalog said yes, but the table does not show it"))
}

/// The claim is a property, and rolling a table back does not move properties: so the checkpoint's snapshot must be in
/// the history of `main`, too, unless the history has been expired that far.
fn require_in_history(sink: &IcebergSink, table: &Table, fence: &Fence, checkpoint: u64) -> Result<()> {
    let metadata = table.metadata();
    let (wanted, key) = (checkpoint.to_string(), property_key(&sink.pipeline, &sink.name));
    let mut current = metadata.current_snapshot().cloned();
    while let Some(snapshot) = current {
        let summary = &snapshot.summary().additional_properties;
        let says = |key: &str, value: &str| summary.get(key).is_some_and(|v| v == value);
        if says("millrace.checkpoint", &wanted)
            && says("millrace.sink", &sink.name)
            && says("millrace.pipeline", &sink.pipeline)
            && says("millrace.incarnation", &fence.incarnation)
        {
            return Ok(());
        }
        let Some(parent) = snapshot.parent_snapshot_id() else {
            return Err(SinkError::Fatal(format!(
                "table {}: its property `{key}` names checkpoint {checkpoint}, but no snapshot of `main` does: the table was \
                 rolled back, and its rows since then are gone\nchoices:\n  - bring `main` back to the snapshot whose summary \
                 says millrace.checkpoint = {checkpoint}\n  - begin anew: drop the table and start with an empty checkpoint \
                 location",
                sink.ident
            )));
        };
        current = metadata.snapshot_by_id(parent).cloned();
    }
    // the snapshots before this one have expired
    Ok(())
}

pub(super) type Judge = FencedCatalog<()>;

/// What a commit does to the table's rows.
enum Contents {
    Append(Vec<DataFile>),
    Delta(Delta),
}

impl Contents {
    fn nothing(sink: &IcebergSink) -> Self {
        if sink.upsert.is_some() { Self::Delta(Delta::empty()) } else { Self::Append(Vec::new()) }
    }

    async fn of(sink: &IcebergSink, committable: &Committable) -> Result<Self> {
        match &sink.upsert {
            Some(_) => Ok(Self::Delta(Delta::of(sink, committable).await?)),
            None => Ok(Self::Append(data_files(sink, committable)?)),
        }
    }
}

/// The error, and what it has kept from happening.
fn because(what: &str, error: SinkError) -> SinkError {
    match error {
        SinkError::Transient(why) => SinkError::Transient(format!("{what}: {why}")),
        SinkError::Fatal(why) => SinkError::Fatal(format!("{what}: {why}")),
    }
}

fn judge(sink: &IcebergSink, go: impl Fn(Option<&Claim>) -> bool + Send + Sync + 'static) -> Judge {
    let key = property_key(&sink.pipeline, &sink.name);
    FencedCatalog::new(sink.catalog.clone(), move |table: &Table| {
        // an unreadable claim is not the one expected: the look that follows explains it
        let claim = table.metadata().properties().get(&key).map(|text| serde_json::from_str::<Claim>(text));
        match claim.transpose() {
            Ok(claim) if go(claim.as_ref()) => Verdict::Go,
            _ => Verdict::Stop(()),
        }
    })
}

/// Adds and removes rows and moves the claim, in one snapshot.
async fn transact(
    judge: &Judge,
    table: &Table,
    sink: &IcebergSink,
    claim: &Claim,
    summary: HashMap<String, String>,
    contents: &Contents,
) -> Result<()> {
    let value = serde_json::to_string(claim).map_err(|e| SinkError::Fatal(e.to_string()))?;
    let key = property_key(&sink.pipeline, &sink.name);
    let append = |files: &[DataFile]| -> iceberg::Result<Transaction> {
        let tx = Transaction::new(table);
        let append = tx.fast_append().with_check_duplicate(false).set_snapshot_properties(summary.clone());
        let tx = append.add_data_files(files.to_vec()).apply(tx)?;
        tx.update_table_properties().set(key.clone(), value.clone()).apply(tx)
    };
    match (contents, &sink.upsert) {
        (Contents::Delta(delta), Some(upsert)) => {
            let properties = HashMap::from([(key, value)]);
            row_delta::transact(sink, upsert, judge, delta, &summary, &properties).await
        }
        (Contents::Append(files), _) => {
            let failed = |e: iceberg::Error| classify(&format!("table {}", sink.ident), &e);
            append(files).map_err(failed)?.commit(judge).await.map(drop).map_err(failed)
        }
        (Contents::Delta(_), None) => {
            Err(SinkError::Fatal("rows to be replaced in a table that is appended to".to_owned()))
        }
    }
}

fn data_files(sink: &IcebergSink, committable: &Committable) -> Result<Vec<DataFile>> {
    committable.files.iter().map(|file| super::data::data_file(&sink.layout, file)).collect()
}

fn summary(sink: &IcebergSink, fence: &Fence, more: &[(&str, String)]) -> HashMap<String, String> {
    let mut summary = HashMap::from([
        ("millrace.pipeline".to_owned(), sink.pipeline.clone()),
        ("millrace.sink".to_owned(), sink.name.clone()),
        ("millrace.incarnation".to_owned(), fence.incarnation.clone()),
        ("millrace.generation".to_owned(), fence.generation.to_string()),
    ]);
    summary.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    summary
}

async fn commit_summary(
    sink: &IcebergSink,
    fence: &Fence,
    committable: &Committable,
) -> Result<HashMap<String, String>> {
    let json = |value: &dyn erased::Json| value.json();
    let mut more = vec![
        ("millrace.event", "commit".to_owned()),
        ("millrace.checkpoint", committable.checkpoint.to_string()),
        ("millrace.predecessor", committable.predecessor.to_string()),
        ("millrace.rows", committable.rows.to_string()),
    ];
    let positions = json(&committable.positions);
    if committable.positions.len() <= POSITIONS_INLINE_MAX {
        more.push(("millrace.positions", positions));
    } else {
        let location = sink.base().metadata().location().to_owned();
        let path = format!("{location}/metadata/millrace-positions-{}.json", uuid::Uuid::now_v7());
        let write = async { sink.layout.file_io.new_output(&path)?.write(Bytes::from(positions)).await };
        write.await.map_err(|e| classify(&format!("writing {path}"), &e))?;
        more.push(("millrace.positions-file", path));
    }
    if let Some((start, end)) = committable.windows_ms {
        more.push(("millrace.windows-ms", json(&[start, end])));
    }
    if !committable.plugins.is_empty() {
        more.push(("millrace.plugins", json(&committable.plugins)));
    }
    Ok(summary(sink, fence, &more))
}

/// `serde_json` of values that always serialise.
mod erased {
    pub trait Json {
        fn json(&self) -> String;
    }
    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            serde_json::to_string(self).unwrap_or_default()
        }
    }
}

/// Pauses between attempts, longer each time, until it is enough.
struct Pause {
    next: Duration,
    attempts: u32,
    looked: bool,
}

impl Pause {
    fn new() -> Self {
        Self { next: BACKOFF_FIRST, attempts: 0, looked: false }
    }

    /// After a catalog's "yes" the look follows at once; after the second one something is wrong.
    fn first_look(&mut self) -> bool {
        !std::mem::replace(&mut self.looked, true)
    }

    async fn after(&mut self, error: SinkError) -> Result<()> {
        self.attempts += 1;
        match error {
            SinkError::Transient(message) if self.attempts < ATTEMPTS_MAX => {
                warn!("{message}; looking again in {:?}", self.next);
                tokio::time::sleep(self.next).await;
                self.next = (self.next * 2).min(BACKOFF_MAX);
                Ok(())
            }
            SinkError::Transient(message) => Err(SinkError::Fatal(format!(
                "{message}\nhint: given up after {ATTEMPTS_MAX} attempts; the checkpoint lists the commit, the next start \
                 looks for it first"
            ))),
            fatal => Err(fatal),
        }
    }
}

fn explain_claim(sink: &IcebergSink, fence: &Fence, refusal: &ClaimDecision) -> String {
    let table = &sink.ident;
    let key = property_key(&sink.pipeline, &sink.name);
    match refusal {
        ClaimDecision::Take { .. } => String::new(),
        ClaimDecision::Fenced { found } => explain_fenced(sink, fence, found),
        ClaimDecision::OtherIncarnation { found } => explain_other(&sink.pipeline, &sink.name, table, found),
        ClaimDecision::Ahead { found, newest_known } => format!(
            "table {table} is at checkpoint {} of this pipeline, the restored checkpoint knows of none after {newest_known}: \
             it is older than the table (a rewind, an old copy of the state folder). Going on would write events again.\n\
             choices:\n  - the right location: restore the checkpoint log that holds checkpoint {}\n  - go back: roll table \
             {table} back to the snapshot whose summary says `millrace.checkpoint = {newest_known}` and set its property \
             `{key}` to that checkpoint, then start again\n  - accept duplicates: set the table property `{key}` to checkpoint {newest_known}, then start again",
            found.checkpoint, found.checkpoint
        ),
        ClaimDecision::Behind { found, confirmed } => format!(
            "table {table} is at checkpoint {} of this pipeline, but checkpoint {confirmed} was confirmed in it: the table was \
             rolled back, dropped or replaced. Going on would leave a gap.\nchoices:\n  - bring the table back to the snapshot \
             of checkpoint {confirmed}\n  - begin anew: `--drop-state {}` forgets what this sink has committed (the gap stays)",
            found.as_ref().map_or(0, |c| c.checkpoint),
            sink.name
        ),
    }
}

/// Why a table is not taken that another incarnation has claimed.
pub fn explain_other(pipeline: &str, sink: &str, table: &TableIdent, found: &Claim) -> String {
    let key = property_key(pipeline, sink);
    format!(
        "table {table} has commits up to checkpoint {} of another incarnation of this pipeline and sink ({}): the \
         checkpoint location was emptied or changed, or another pipeline has the same name. Going on would write its \
         events again.\nchoices:\n  - the right location: set `checkpoint.location` to the one that holds incarnation {}\n  \
         - begin anew: drop table {table} (or roll it back to before that incarnation), then start again\n  \
         - a run from a savepoint: give the sink a table of its own; or, if the savepoint was the last thing that incarnation \
         did (its `confirmed` for this sink is {}, so that nothing is written twice), remove the table property `{key}`, then \
         start again\n  - accept duplicates: remove the table property `{key}`, then start again",
        found.checkpoint, found.incarnation, found.incarnation, found.checkpoint
    )
}

fn explain_fenced(sink: &IcebergSink, fence: &Fence, found: &Claim) -> String {
    format!(
        "fenced: a newer process (generation {}) has taken table {} over; this one (generation {}) stops without having \
         written anything more",
        found.generation, sink.ident, fence.generation
    )
}

fn explain_unexpected(sink: &IcebergSink, found: Option<&Claim>, expected: u64, checkpoint: u64) -> String {
    let key = property_key(&sink.pipeline, &sink.name);
    let found = found.map_or("is gone".to_owned(), |c| {
        format!("names checkpoint {} (incarnation {}, generation {})", c.checkpoint, c.incarnation, c.generation)
    });
    format!(
        "table {}: checkpoint {checkpoint} follows checkpoint {expected}, but the table's claim (`{key}`) {found}: somebody \
         changed the table under this run. Nothing was committed.\nhint: stop what else writes under this pipeline's name, \
         then start again",
        sink.ident
    )
}
