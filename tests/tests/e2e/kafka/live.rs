//! A pipeline that runs while a test says which event comes when: what came before has been judged before the next is
//! sent, so that each is as late as the test wants it.

use anyhow::Result;
use millrace_tests::api::Api;
use millrace_tests::events::Shape;
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::{Ended, Millrace};
use millrace_tests::oracle::{self, Rows};
use millrace_tests::pipeline::Pipeline;

use super::{Bench, MINUTE};

/// A whole hour. Seconds in these tests are counted from here.
pub const T: i64 = 1_763_002_800_000;
/// What is out of order by less is waited for.
const OUT_OF_ORDERNESS_MS: i64 = 5_000;

pub struct Live {
    pub bench: Bench,
    pub millrace: Millrace,
    pub api: Api,
    sent: u64,
}

/// The watermark once a partition has had an event of that second.
pub fn watermark_after(second: i64) -> i64 {
    T + second * 1_000 - OUT_OF_ORDERNESS_MS - 1
}

/// Rows of an aggregation that counts: campaign, window in seconds, events.
pub fn counts(rows: &[(&str, i64, i64, i64)]) -> String {
    let values: Vec<String> = rows
        .iter()
        .map(|(campaign, start, end, events)| {
            format!("('{campaign}', {}, {}, {events})", T + start * 1_000, T + end * 1_000)
        })
        .collect();
    format!("FROM (VALUES {}) rows(campaign_id, window_start, window_end, events)", values.join(", "))
}

impl Live {
    /// Without the usual aggregation and tables.
    pub fn start(name: &str, partitions: i32, shape: impl FnOnce(&mut Pipeline)) -> Result<Self> {
        Self::start_with(name, partitions, &[], shape)
    }

    pub fn start_with(
        name: &str,
        partitions: i32,
        environment: &[(&str, &str)],
        shape: impl FnOnce(&mut Pipeline),
    ) -> Result<Self> {
        let mut bench = Bench::on(name, &Broker::shared().brokers(), Shape { partitions, ..Shape::default() })?;
        bench.pipeline.metrics = false;
        bench.pipeline.raw_tables.clear();
        shape(&mut bench.pipeline);
        bench.pipeline.write()?;
        let mut millrace = Millrace::run(&bench.file(), &[], environment)?;
        let api = Api::of(&mut millrace, &bench.pipeline)?;
        Ok(Self { bench, millrace, api, sent: 0 })
    }

    /// Events of these campaigns and seconds, clicks of a new user each, in one go.
    pub fn send(&mut self, partition: i32, events: &[(&str, i64)]) -> Result<()> {
        for (campaign, second) in events {
            self.sent += 1;
            let (n, at) = (self.sent, T + second * 1_000);
            let event = format!(
                r#"{{"event_id":"e{n}","user_id":"user-{n}","campaign_id":"{campaign}","event_type":"click","timestamp":{at}}}"#
            );
            self.bench.producer.send(partition, Some(event.as_bytes()))?;
        }
        self.bench.producer.flush()
    }

    /// Sends, and waits until the operator has taken in everything that was ever sent.
    pub fn send_and_wait(&mut self, operator: &str, partition: i32, events: &[(&str, i64)]) -> Result<()> {
        self.send(partition, events)?;
        let sent = i64::try_from(self.sent)?;
        self.api.wait_for_rows(&mut self.millrace, operator, sent)
    }

    /// Sends one event to each partition, and waits until the operator's watermark is where they put it.
    pub fn move_on(&mut self, operator: &str, campaign: &str, second: i64) -> Result<()> {
        for partition in 0..self.bench.partitions {
            self.send(partition, &[(campaign, second)])?;
        }
        self.api.wait_for_watermark(&mut self.millrace, operator, watermark_after(second))
    }

    /// How many events were late for the operator, as the API counts them.
    pub fn late_total(&self, operator: &str) -> Result<i64> {
        Ok(self.api.operator(operator)?["late_total"].as_i64().unwrap_or(-1))
    }

    /// A clean stop: what was given out is committed, open windows stay open.
    pub fn stop(self) -> Result<(Bench, Ended)> {
        let ended = self.millrace.terminate(MINUTE)?.ok()?;
        Ok((self.bench, ended))
    }

    /// Stops and starts again.
    pub fn restart(self) -> Result<Self> {
        let (bench, _) = self.stop()?;
        let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
        let api = Api::of(&mut millrace, &bench.pipeline)?;
        // counters begin anew
        Ok(Self { bench, millrace, api, sent: 0 })
    }

    /// Waits until the operator has given out so many versions of rows in this run.
    pub fn wait_for_results(&mut self, operator: &str, rows: i64) -> Result<()> {
        self.api.wait_for_count(&mut self.millrace, operator, "rows_out_total", rows)
    }

    /// Waits until the table holds these rows.
    pub fn wait_for_table(&mut self, table: &str, rows: &str) -> Result<()> {
        let bench = &self.bench;
        self.millrace.while_running(
            &format!("{table} to hold {rows}"),
            MINUTE,
            || Ok(holds(bench, table, rows).is_ok()),
        )
    }
}

/// The table holds these rows.
pub fn holds(bench: &Bench, table: &str, rows: &str) -> Result<()> {
    oracle::rows_match(&bench.pipeline, &bench.dump()?, Rows::of(table, rows))
}
