//! What happens to a row that cannot be used: the run fails, the row is skipped, or it goes to the dead letters.
//!
//! Nothing is dropped silently: every row is counted, the first few are logged with their coordinates, and a run of
//! failures without a single good row between them stops the pipeline.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow_array::builder::{BinaryBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use millrace_core::batch::Batch;
use millrace_core::limits::FIRST_OCCURRENCES_LOGGED;
use millrace_core::schema::DataType;
use tracing::warn;

use super::edge::{Hangup, Output};
use super::message::RunError;
use super::stats::NodeStats;
use crate::spec::columns::side_stream;
use crate::spec::model::OnError;
use crate::spec::secrets::Secrets;

/// A row that cannot be used, with all that is known of it.
#[derive(Clone, Debug, Default)]
pub struct FailedRow {
    pub reason: String,
    pub topic: Option<Arc<str>>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub event_time_ms: Option<i64>,
    /// the message as it came, if it was not decoded
    pub payload: Option<Vec<u8>>,
    /// the decoded row as JSON
    pub row: Option<String>,
}

impl FailedRow {
    /// A row of a batch, as it came to the node.
    pub fn of(batch: &Batch, row: u32, reason: String) -> Self {
        let at = row as usize;
        let origin = batch.origin.as_ref();
        Self {
            reason,
            topic: origin.map(|o| Arc::clone(&o.topic)),
            partition: origin.map(|o| o.partition),
            offset: origin.and_then(|o| o.offsets.get(at)).copied(),
            event_time_ms: batch.event_time_ms.get(at).copied(),
            payload: None,
            row: crate::sink::json::row_to_json(&batch.rows, at).ok(),
        }
    }

    fn place(&self) -> String {
        match (&self.topic, self.partition, self.offset) {
            (Some(topic), Some(partition), Some(offset)) => format!("{topic}/{partition} offset {offset}"),
            _ => "a row of unknown origin".to_owned(),
        }
    }
}

/// Turns failed rows into one batch of the dead-letter schema.
pub fn dead_letters(node: &str, rows: &[FailedRow]) -> Result<Batch, RunError> {
    let mut nodes = StringBuilder::new();
    let mut reasons = StringBuilder::new();
    let mut topics = StringBuilder::new();
    let mut partitions = Int32Builder::new();
    let mut offsets = Int64Builder::new();
    let mut times = TimestampMicrosecondBuilder::new();
    let mut payloads = BinaryBuilder::new();
    let mut json = StringBuilder::new();
    for row in rows {
        nodes.append_value(node);
        reasons.append_value(&row.reason);
        topics.append_option(row.topic.as_deref());
        partitions.append_option(row.partition);
        offsets.append_option(row.offset);
        times.append_option(row.event_time_ms.map(|ms| ms.saturating_mul(1_000)));
        payloads.append_option(row.payload.as_deref());
        json.append_option(row.row.as_deref());
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(nodes.finish()),
        Arc::new(reasons.finish()),
        Arc::new(topics.finish()),
        Arc::new(partitions.finish()),
        Arc::new(offsets.finish()),
        Arc::new(times.finish().with_data_type(DataType::Timestamptz.to_arrow())),
        Arc::new(payloads.finish()),
        Arc::new(json.finish()),
    ];
    let event_time_ms = rows.iter().map(|r| r.event_time_ms.unwrap_or_default()).collect();
    Ok(Batch {
        rows: RecordBatch::try_new(side_stream().to_arrow(), columns)?,
        event_time_ms,
        origin: None,
        changes: None,
    })
}

/// The policy of one task for rows that cannot be used.
pub struct Failures {
    node: Arc<str>,
    /// as a person calls it: "source", "transform", "aggregation"
    kind: &'static str,
    on_error: OnError,
    consecutive_limit: u64,
    consecutive: u64,
    logged: u64,
    outputs: Vec<Output>,
    stats: Arc<NodeStats>,
    /// that reasons may hold: plugins say what they like
    secrets: Secrets,
}

impl Failures {
    pub fn new(
        node: Arc<str>,
        kind: &'static str,
        on_error: OnError,
        consecutive_limit: u64,
        outputs: Vec<Output>,
        stats: Arc<NodeStats>,
    ) -> Self {
        Self {
            node,
            kind,
            on_error,
            consecutive_limit,
            consecutive: 0,
            logged: 0,
            outputs,
            stats,
            secrets: Secrets::default(),
        }
    }

    /// Takes these out of the reasons, which dead letters keep.
    pub fn hiding(self, secrets: Secrets) -> Self {
        Self { secrets, ..self }
    }

    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// A batch of `total` rows has been worked on; `failed` are its bad rows with their index, ascending.
    pub fn handle(
        &mut self,
        total: usize,
        mut failed: Vec<(usize, FailedRow)>,
    ) -> Result<Result<(), Hangup>, RunError> {
        if failed.is_empty() {
            if total > 0 {
                self.consecutive = 0;
            }
            return Ok(Ok(()));
        }
        for (_, row) in &mut failed {
            row.reason = self.secrets.redact(&row.reason);
        }
        self.stats.failed_total.fetch_add(failed.len() as u64, Relaxed);
        let mut next_index = 0;
        for (index, row) in &failed {
            self.consecutive = if *index == next_index { self.consecutive + 1 } else { 1 };
            next_index = index + 1;
            if self.on_error == OnError::Fail {
                return Err(RunError::Data(format!(
                    "{} `{}`: {}: {}\nhint: on_error = \"skip\" or \"dead-letter\" keeps the pipeline going",
                    self.kind,
                    self.node,
                    row.place(),
                    row.reason
                )));
            }
            if self.logged < FIRST_OCCURRENCES_LOGGED {
                self.logged += 1;
                let fate = if self.on_error == OnError::Skip { "skipped" } else { "sent to the dead letters" };
                warn!(node = %self.node, place = row.place(), reason = row.reason, "row {fate}");
                if self.logged == FIRST_OCCURRENCES_LOGGED {
                    warn!(node = %self.node, "further such rows are counted, not logged");
                }
            }
            if self.consecutive >= self.consecutive_limit {
                return Err(RunError::Data(format!(
                    "{} `{}`: {} rows in a row could not be used (consecutive_limit); the last one, {}: {}",
                    self.kind,
                    self.node,
                    self.consecutive,
                    row.place(),
                    row.reason
                )));
            }
        }
        if next_index < total {
            self.consecutive = 0;
        }
        if self.on_error == OnError::DeadLetter {
            let rows: Vec<FailedRow> = failed.into_iter().map(|(_, row)| row).collect();
            let batch = Arc::new(dead_letters(&self.node, &rows)?);
            for output in &self.outputs {
                if let Err(hangup) = output.rows(&batch)? {
                    return Ok(Err(hangup));
                }
            }
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::edge::{Exchange, connect};
    use super::super::message::Message;
    use super::*;

    fn failures(on_error: OnError, limit: u64) -> Failures {
        Failures::new("events".into(), "source", on_error, limit, Vec::new(), Arc::default())
    }

    fn bad(index: usize) -> (usize, FailedRow) {
        (index, FailedRow { reason: "broken".into(), offset: Some(7), ..FailedRow::default() })
    }

    #[test]
    fn one_bad_row_among_good_ones_is_counted_and_passed() {
        let mut f = failures(OnError::Skip, 3);
        for _ in 0..10 {
            f.handle(8_192, vec![bad(5)]).unwrap().unwrap();
        }
        assert_eq!(f.stats.failed_total.load(Relaxed), 10);
    }

    #[test]
    fn too_many_in_a_row_stop_the_run_even_across_batches() {
        let mut f = failures(OnError::Skip, 4);
        f.handle(4, vec![bad(2), bad(3)]).unwrap().unwrap();
        assert!(f.handle(2, vec![bad(0), bad(1)]).is_err());
        let mut f = failures(OnError::Skip, 4);
        f.handle(4, vec![bad(2), bad(3)]).unwrap().unwrap();
        f.handle(3, vec![bad(0)]).unwrap().unwrap();
        f.handle(2, vec![bad(0), bad(1)]).unwrap().unwrap();
    }

    #[test]
    fn dead_letters_keep_no_secret() {
        let (mut outputs, mut inputs) = connect(&Exchange::Forward, None, 1, 1);
        let (output, packets) = (outputs.remove(0), inputs.remove(0).remove(0));
        let hiding = Secrets::new("p", &["salt-9f3c".to_owned()]);
        let mut f = Failures::new("a".into(), "aggregation", OnError::DeadLetter, 9, vec![output], Arc::default());
        f = f.hiding(hiding);
        let row = FailedRow { reason: "it panicked: my salt is \"salt-9f3c\"".into(), ..FailedRow::default() };
        f.handle(2, vec![(1, row)]).unwrap().unwrap();
        let Ok(Message::Rows(packet)) = packets.try_recv() else { panic!("no dead letter") };
        let said = format!("{:?}", packet.rows);
        assert!(said.contains("my salt is") && said.contains("[redacted]") && !said.contains("9f3c"), "{said}");
    }

    #[test]
    fn fail_stops_at_the_first() {
        assert!(matches!(failures(OnError::Fail, 100).handle(9, vec![bad(1)]), Err(RunError::Data(_))));
    }
}
