//! `kill -9` at random instants and at every failpoint while rows are corrected all the time: the last versions are what an
//! undisturbed world would have, whoever reads the table.

use std::path::Path;

use anyhow::{Result, ensure};
use millrace_tests::events::Shape;
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle::{self, Rows};
use millrace_tests::pipeline::{aggregation, campaign_plugin, history, upsert};
use millrace_tests::windows::{self, METRICS};

use super::exactly_once::{at_every_failpoint, kill_at_random, under_load};
use super::{Bench, TWO_MINUTES};

const RANDOM_KILLS: u32 = 15;
const LATENESS: &str = "allowed_lateness = \"6h\"";
const SESSION: &str = "count(*) AS events, sum(revenue) AS revenue";

/// Events are out of order by more than is waited for, and no window ever expires: every late event corrects a row.
fn bench(name: &str) -> Result<Bench> {
    let shape = Shape { campaigns: 20, users: 300, ..Shape::default() };
    let mut bench = Bench::on(name, &Broker::shared().brokers(), shape)?;
    let pipeline = &mut bench.pipeline;
    pipeline.metrics = false;
    pipeline.raw_tables.clear();
    pipeline.out_of_orderness = "500ms".to_owned();
    let by_campaign = "[\"campaign_id\"]";
    let early = format!("plugin = \"campaign-metrics\"\n{LATENESS}\nemit = {{ every = \"500ms\" }}");
    let minutes = aggregation("minutes", by_campaign, "type = \"tumbling\", size = \"1m\"", &early);
    let slid = aggregation(
        "slid",
        by_campaign,
        "type = \"sliding\", size = \"2m\", slide = \"30s\"",
        &format!("plugin = \"campaign-metrics\"\n{LATENESS}"),
    );
    let sessions = aggregation(
        "sessions",
        "[\"user_id\"]",
        "type = \"session\", gap = \"5s\"",
        &format!("aggregate = {{ events = \"count(*)\", revenue = \"sum(revenue)\" }}\n{LATENESS}"),
    );
    let campaign_window = "[\"campaign_id\", \"window_start\"]";
    pipeline.more = campaign_plugin()?
        + &minutes
        + &upsert("minutes", "ads.minutes", campaign_window)
        + &slid
        + &upsert("slid", "ads.slid", campaign_window)
        + &history("slid", "ads.slid_all")
        + &sessions
        + &upsert("sessions", "ads.sessions", "[\"user_id\", \"window_start\"]");
    pipeline.write()?;
    Ok(bench)
}

fn tables_match(bench: &Bench) -> Result<()> {
    let dump = bench.dump()?;
    let is = |table: &str, actual: &str, query: String| {
        let rows = Rows { table, query: &query, actual, rounded: "revenue" };
        oracle::rows_match(&bench.pipeline, &dump, rows)
    };
    let minutes = windows::grouped(&windows::tumbling("events", 60_000, 0), "campaign_id", METRICS);
    let slid = windows::grouped(&windows::sliding("events", 120_000, 30_000, 0), "campaign_id", METRICS);
    let sessions = windows::grouped(&windows::session("events", "user_id", 5_000), "user_id", SESSION);
    is("ads.minutes", "FROM t", minutes)?;
    is("ads.slid", "FROM t", slid.clone())?;
    is("ads.slid_all", &windows::latest(), slid)?;
    is("ads.sessions", "FROM t", sessions)?;
    // rows were corrected, or nothing was proved
    let corrected = "SELECT count(*) > 0 AS corrected FROM t WHERE revision > 1";
    is("ads.slid_all", corrected, "SELECT true AS corrected".to_owned())
}

fn disturbed(name: &str, disturb: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut bench = bench(name)?;
    bench.produce(10_000)?;
    under_load(&mut bench, disturb)?;
    ensure!(bench.commits() > 0, "no run lived long enough to commit: the test proves nothing");
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    tables_match(&bench)
}

#[test]
fn sigkill_at_random_instants() -> Result<()> {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    disturbed("upsert-sigkill", |file| {
        // at changing parallelism: state, ledgers and what the sinks remember move with the keys
        let text = std::fs::read_to_string(file)?;
        for life in 0..RANDOM_KILLS {
            let tasks = 1 + (life + 1) % 3;
            std::fs::write(file, text.replace("parallelism = 2", &format!("parallelism = {tasks}")))?;
            kill_at_random(file, 1, seed + u64::from(life))?;
        }
        Ok(std::fs::write(file, text)?)
    })
}

#[test]
fn sigkill_at_every_failpoint() -> Result<()> {
    disturbed("upsert-failpoints", at_every_failpoint)
}
