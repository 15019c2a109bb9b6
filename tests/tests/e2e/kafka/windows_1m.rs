//! Every kind of window over a million events at once, through a real broker: one partition is an hour ahead of the others,
//! one falls silent, all are out of order by more than is waited for, so that rows are corrected all the time; and at the end
//! come events whose windows have all expired. DuckDB computes the same by brute force.

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
/// Of the first minutes, sent when event time is hours further, and of keys that have no session that could take them up.
const EXPIRED: i64 = 1_000;
const MINUTE_MS: i64 = 60_000;
const FIVE_MS: i64 = 5 * MINUTE_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const AHEAD: i64 = 3;
const SILENT: i64 = 4;
const OPERATORS: [&str; 8] = ["shifted", "ten", "hour", "visits", "purchases", "forever", "fives", "hourly"];

const PLUGIN: &str = "plugin = \"campaign-metrics\"";
/// Events are up to 4 s older than the newest of their partition, and 1 s is waited for: they come behind the watermark, and
/// none of them for a window that has expired.
const DISORDER: &str = "1s";
const LATENESS: &str = "allowed_lateness = \"10s\"";
/// In the host's words and in DuckDB's.
const SUMS: (&str, &str) = (
    "aggregate = { events = \"count(*)\", revenue = \"sum(revenue)\", first_at = \"min(timestamp)\", last_at = \"max(timestamp)\" }",
    "count(*) AS events, sum(revenue) AS revenue, min(timestamp) AS first_at, max(timestamp) AS last_at",
);

fn aggregations() -> Result<String> {
    let campaign = "[\"campaign_id\"]";
    let add = |name: &str, key: &str, window: &str, lines: &str| {
        let window_key = key.replace(']', ", \"window_start\"]");
        aggregation(name, key, window, &format!("{lines}\n{LATENESS}"))
            + &upsert(name, &format!("ads.{name}"), &window_key)
    };
    let (platform, user) = ("[\"platform\", \"event_type\"]", "[\"user_id\"]");
    let early = |lines: &str| format!("{lines}\nemit = {{ every = \"1s\" }}");
    let rolled_up =
        "aggregate = { rows = \"count(*)\", impressions = \"sum(impressions)\", revenue = \"sum(revenue)\" }";
    let parts = [
        campaign_plugin()?,
        add("shifted", campaign, "type = \"tumbling\", size = \"5m\", offset = \"2m\"", PLUGIN),
        add("ten", campaign, "type = \"sliding\", size = \"10m\", slide = \"5m\"", PLUGIN),
        append("ten.late", "ads.late"),
        add("hour", platform, "type = \"sliding\", size = \"1h\", slide = \"1m\"", SUMS.0),
        add("visits", user, "type = \"session\", gap = \"1m\"", SUMS.0),
        "\n[transforms.bought]\ninputs = [\"events\"]\nfilter = \"event_type = 'conversion'\"\n".to_owned(),
        add("purchases", campaign, "type = \"session\", gap = \"5m\"", PLUGIN)
            .replace("inputs = [\"events\"]", "inputs = [\"bought\"]"),
        aggregation("forever", user, "type = \"global\"", &(early(SUMS.0) + "\nstate_ttl = \"1d\""))
            + &upsert("forever", "ads.forever", user),
        add("fives", campaign, "type = \"tumbling\", size = \"5m\"", &early(PLUGIN)),
        // of rows that are final: it may be appended to
        aggregation("hourly", campaign, "type = \"tumbling\", size = \"1h\"", rolled_up)
            .replace("inputs = [\"events\"]", "inputs = [\"fives\"]")
            + &append("hourly", "ads.hourly"),
    ];
    Ok(parts.concat())
}

/// Each table and what DuckDB makes of the events.
fn expected() -> [(&'static str, String); 8] {
    let events = "(SELECT * FROM events WHERE event_id NOT LIKE 'expired-%')";
    let bought = "(SELECT * FROM events WHERE event_type = 'conversion' AND event_id NOT LIKE 'expired-%')";
    let fives = grouped(&windows::tumbling(events, FIVE_MS, 0), "campaign_id", METRICS);
    let as_events =
        format!("(SELECT * EXCLUDE (window_start, window_end), window_end - 1 AS timestamp FROM ({fives}))");
    let rolled_up = "count(*) AS rows, sum(impressions)::BIGINT AS impressions, sum(revenue) AS revenue";
    // nothing is late for a window that never ends
    let forever = "SELECT user_id, NULL::BIGINT AS window_start, NULL::BIGINT AS window_end";
    [
        ("shifted", grouped(&windows::tumbling(events, FIVE_MS, 2 * MINUTE_MS), "campaign_id", METRICS)),
        ("ten", grouped(&windows::sliding(events, 2 * FIVE_MS, FIVE_MS, 0), "campaign_id", METRICS)),
        ("hour", grouped(&windows::sliding(events, HOUR_MS, MINUTE_MS, 0), "platform, event_type", SUMS.1)),
        ("visits", grouped(&windows::session(events, "user_id", MINUTE_MS), "user_id", SUMS.1)),
        ("purchases", grouped(&windows::session(bought, "campaign_id", FIVE_MS), "campaign_id", METRICS)),
        ("forever", format!("{forever}, {} FROM events GROUP BY ALL", SUMS.1)),
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
    pipeline.out_of_orderness = DISORDER.to_owned();
    pipeline.idle_timeout = "2s".to_owned();
    pipeline.more = aggregations()?;
    pipeline.write()?;
    // four partitions speak; the fifth has said one thing
    let first = bench.events.next().1.to_vec();
    bench.producer.send(SILENT as i32, Some(&first))?;
    bench.events = Events::new(Shape { partitions: 4, seed: 2, ..shape.clone() });
    bench.produce(EVENTS)?;

    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    let api = Api::of(&mut millrace, &bench.pipeline)?;
    let state_of = |partition, state: &str| Ok(api.partition("events", partition)?["state"] == state);
    // what is far ahead waits for the others, what is silent does not hold them
    millrace.while_running("the partition ahead to be held", MINUTE, || state_of(AHEAD, "held_by_drift"))?;
    millrace.while_running("the silent partition to be idle", MINUTE, || state_of(SILENT, "idle"))?;
    // and at last events that are hours late
    let taken = |millrace: &mut Millrace, all: i64| -> Result<()> {
        for operator in OPERATORS.into_iter().filter(|name| !["purchases", "hourly"].contains(name)) {
            millrace.while_running(&format!("{operator} to have taken all"), Duration::from_secs(240), || {
                Ok(api.node(operator)?["rows_in_total"].as_i64() == Some(all))
            })?;
        }
        Ok(())
    };
    let all = i64::try_from(EVENTS)? + 1;
    taken(&mut millrace, all)?;
    for operator in OPERATORS {
        let late = api.operator(operator)?["late_total"].clone();
        ensure!(late == 0, "{operator}: no window had expired for any event, but {late} were late");
        api.wait_for_watermark(&mut millrace, operator, shape.start_ms + 6 * HOUR_MS)?;
    }
    for n in 0..EXPIRED {
        let at = shape.start_ms + n * 100;
        let event = format!(
            r#"{{"event_id":"expired-{n}","user_id":"nobody","campaign_id":"none","event_type":"conversion","timestamp":{at},"revenue":1.25}}"#
        );
        bench.producer.send(0, Some(event.as_bytes()))?;
    }
    bench.producer.flush()?;
    taken(&mut millrace, all + EXPIRED)?;
    for operator in OPERATORS {
        let late = if ["forever", "hourly"].contains(&operator) { 0 } else { EXPIRED };
        api.wait_for_count(&mut millrace, operator, "late_total", late)?;
        let explained = api.operator(operator)?;
        ensure!(explained["late_total"] == late, "{explained}");
        ensure!(late == 0 || explained["late"][0]["partition"] == 0, "{explained}");
    }
    // sources are read once for all of them
    ensure!(api.node("events")?["rows_in_total"] == all + EXPIRED);
    millrace.terminate(TWO_MINUTES)?.ok()?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;

    let dump = bench.dump()?;
    for (name, query) in expected() {
        let table = format!("ads.{name}");
        let rows = Rows { rounded: "revenue", ..Rows::of(&table, &query) };
        oracle::rows_match(&bench.pipeline, &dump, rows)?;
    }
    let late = "SELECT \"offset\", event_time AS timestamp FROM t";
    let expected = "SELECT kafka_offset AS \"offset\", timestamp FROM events WHERE event_id LIKE 'expired-%'";
    oracle::rows_match(&bench.pipeline, &dump, Rows { actual: late, ..Rows::of("ads.late", expected) })
}
