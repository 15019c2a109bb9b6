//! Every kind of window over a million events at once, through a real broker: one partition is an hour ahead of the others,
//! one falls silent, all are out of order. DuckDB computes the same by brute force.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_tests::api::Api;
use millrace_tests::events::{Events, Shape};
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle::{self, Rows};
use millrace_tests::pipeline::{aggregation, append, campaign_plugin, upsert};
use millrace_tests::windows::{self, METRICS, grouped};

use super::{Bench, MINUTE, TWO_MINUTES};

const EVENTS: u64 = 1_000_000;
const MINUTE_MS: i64 = 60_000;
const FIVE_MS: i64 = 5 * MINUTE_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const AHEAD: i64 = 3;
const SILENT: i64 = 4;
const OPERATORS: [&str; 8] = ["shifted", "ten", "hour", "visits", "purchases", "forever", "fives", "hourly"];

const PLUGIN: &str = "plugin = \"campaign-metrics\"";
/// In the host's words and in DuckDB's.
const SUMS: (&str, &str) = (
    "aggregate = { events = \"count(*)\", revenue = \"sum(revenue)\", first_at = \"min(timestamp)\", last_at = \"max(timestamp)\" }",
    "count(*) AS events, sum(revenue) AS revenue, min(timestamp) AS first_at, max(timestamp) AS last_at",
);

fn aggregations() -> Result<String> {
    let campaign = "[\"campaign_id\"]";
    let add =
        |name: &str, key: &str, window: &str, lines: &str, sink: &str| aggregation(name, key, window, lines) + sink;
    let once = |name: &str| append(name, &format!("ads.{name}"));
    let parts = [
        campaign_plugin()?,
        add("shifted", campaign, "type = \"tumbling\", size = \"5m\", offset = \"2m\"", PLUGIN, &once("shifted")),
        add("ten", campaign, "type = \"sliding\", size = \"10m\", slide = \"5m\"", PLUGIN, &once("ten")),
        add(
            "hour",
            "[\"platform\", \"event_type\"]",
            "type = \"sliding\", size = \"1h\", slide = \"1m\"",
            SUMS.0,
            &once("hour"),
        ),
        add("visits", "[\"user_id\"]", "type = \"session\", gap = \"1m\"", SUMS.0, &once("visits")),
        "\n[transforms.bought]\ninputs = [\"events\"]\nfilter = \"event_type = 'conversion'\"\n".to_owned(),
        add("purchases", campaign, "type = \"session\", gap = \"5m\"", PLUGIN, &once("purchases"))
            .replace("inputs = [\"events\"]", "inputs = [\"bought\"]"),
        add(
            "forever",
            "[\"user_id\"]",
            "type = \"global\"",
            &format!("{}\nemit = {{ every = \"1s\" }}\nstate_ttl = \"1d\"", SUMS.0),
            &upsert("forever", "ads.forever", "[\"user_id\"]"),
        ),
        add(
            "fives",
            campaign,
            "type = \"tumbling\", size = \"5m\"",
            &format!("{PLUGIN}\nallowed_lateness = \"1m\"\nemit = {{ every = \"1s\" }}"),
            &upsert("fives", "ads.fives", "[\"campaign_id\", \"window_start\"]"),
        ),
        add(
            "hourly",
            campaign,
            "type = \"tumbling\", size = \"1h\"",
            "aggregate = { rows = \"count(*)\", impressions = \"sum(impressions)\", revenue = \"sum(revenue)\" }",
            &once("hourly"),
        )
        .replace("inputs = [\"events\"]", "inputs = [\"fives\"]"),
    ];
    Ok(parts.concat())
}

/// Each table and what DuckDB makes of the events.
fn expected() -> [(&'static str, String); 8] {
    let fives = grouped(&windows::tumbling("events", FIVE_MS, 0), "campaign_id", METRICS);
    let bought = "(SELECT * FROM events WHERE event_type = 'conversion')";
    let as_events =
        format!("(SELECT * EXCLUDE (window_start, window_end), window_end - 1 AS timestamp FROM ({fives}))");
    let rolled_up = "count(*) AS rows, sum(impressions)::BIGINT AS impressions, sum(revenue) AS revenue";
    [
        ("shifted", grouped(&windows::tumbling("events", FIVE_MS, 2 * MINUTE_MS), "campaign_id", METRICS)),
        ("ten", grouped(&windows::sliding("events", 2 * FIVE_MS, FIVE_MS, 0), "campaign_id", METRICS)),
        ("hour", grouped(&windows::sliding("events", HOUR_MS, MINUTE_MS, 0), "platform, event_type", SUMS.1)),
        ("visits", grouped(&windows::session("events", "user_id", MINUTE_MS), "user_id", SUMS.1)),
        ("purchases", grouped(&windows::session(bought, "campaign_id", FIVE_MS), "campaign_id", METRICS)),
        (
            "forever",
            format!(
                "SELECT user_id, NULL::BIGINT AS window_start, NULL::BIGINT AS window_end, {} FROM events GROUP BY ALL",
                SUMS.1
            ),
        ),
        ("fives", fives.clone()),
        ("hourly", grouped(&windows::tumbling(&as_events, HOUR_MS, 0), "campaign_id", rolled_up)),
    ]
}

#[test]
fn every_kind_of_window_is_what_duckdb_says() -> Result<()> {
    let brokers = Broker::shared().brokers();
    let shape = Shape { partitions: 5, users: 20_000, ahead_ms: vec![0, 0, 0, HOUR_MS], ..Shape::default() };
    let mut bench = Bench::on("windows-1m", &brokers, shape.clone())?;
    let pipeline = &mut bench.pipeline;
    pipeline.metrics = false;
    pipeline.raw_tables.clear();
    pipeline.checkpoint_interval = "2s".to_owned();
    pipeline.idle_timeout = "2s".to_owned();
    pipeline.more = aggregations()?;
    pipeline.write()?;
    // four partitions speak; the fifth has said one thing
    let first = bench.events.next().1.to_vec();
    bench.producer.send(SILENT as i32, Some(&first))?;
    bench.events = Events::new(Shape { partitions: 4, seed: 2, ..shape });
    bench.produce(EVENTS)?;

    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    let api = Api::of(&mut millrace, &bench.pipeline)?;
    let state_of = |partition, state: &str| Ok(api.partition("events", partition)?["state"] == state);
    // what is far ahead waits for the others, what is silent does not hold them
    millrace.while_running("the partition ahead to be held", MINUTE, || state_of(AHEAD, "held_by_drift"))?;
    millrace.while_running("the silent partition to be idle", MINUTE, || state_of(SILENT, "idle"))?;
    let all = i64::try_from(EVENTS)? + 1;
    for operator in OPERATORS.into_iter().filter(|name| !["purchases", "hourly"].contains(name)) {
        millrace.while_running(&format!("{operator} to have taken all"), Duration::from_secs(240), || {
            Ok(api.node(operator)?["rows_in_total"].as_i64() == Some(all))
        })?;
    }
    for operator in OPERATORS {
        let late = api.operator(operator)?;
        ensure!(late["late_total"] == 0, "nothing is late in this test: {late}");
    }
    // sources are read once for all of them
    ensure!(api.node("events")?["rows_in_total"] == all);
    millrace.terminate(TWO_MINUTES)?.ok()?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;

    let dump = bench.dump()?;
    for (name, query) in expected() {
        let table = format!("ads.{name}");
        let rows = Rows { rounded: "revenue", ..Rows::of(&table, &query) };
        oracle::rows_match(&bench.pipeline, &dump, rows)?;
    }
    Ok(())
}
