//! Transforms on the embedded generator: DuckDB computes from the raw events table what the others should hold.

use std::time::{Duration, Instant};

use anyhow::Result;
use millrace_tests::events::Random;
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle;
use millrace_tests::paths::{self, Scratch};
use millrace_tests::pipeline::{CATALOG, METRICS, Pipeline};
use millrace_tests::process::wait_for;

const MINUTE: Duration = Duration::from_secs(60);
const COUNT: u64 = 100_000;
/// The generator's first event becomes readable when the pipeline first starts; at this rate the last is due after 10 s.
const RATE: u64 = 10_000;
const ALL_DUE_S: u64 = 20;
const WITHIN_MS: i64 = 2_000;

fn generator(scratch: &Scratch, more: String) -> Pipeline {
    let mut pipeline = Pipeline::new(scratch.path());
    pipeline.source = format!(
        "type = \"generator\"\nseed = 5\npartitions = 4\nrate = \"unlimited\"\ncount = {COUNT}\ncampaigns = 100\nusers = 10_000\n\
         disorder = \"4s\"\nduplicates = 0.05\nstart = \"2026-01-31T12:00:00Z\"\n"
    );
    pipeline.metrics = false;
    pipeline.more = more;
    pipeline
}

fn table(name: &str, input: &str) -> String {
    format!(
        "[sinks.{name}_table]\ntype = \"iceberg\"\ninputs = [\"{input}\"]\ncatalog = \"{CATALOG}\"\ntable = \"ads.{name}\"\n\
         commit_interval = \"300ms\"\n"
    )
}

#[test]
fn filter_set_and_select_give_what_sql_gives() -> Result<()> {
    let scratch = Scratch::new("transforms")?;
    let transforms = r#"
[transforms.valid]
inputs = ["events"]
filter = "event_type IN ('click', 'conversion') AND user_id <> 'user-0000000000'"
set = { revenue = "coalesce(revenue, 0.0)", minute = "date_trunc('minute', timestamp)" }

[transforms.paid]
inputs = ["valid"]
filter = "revenue > 0.0"
select = { campaign = "upper(campaign_id)", cents = "cast(round_half AS long)", minute = "minute", kafka_offset = "kafka_offset" }
set = { round_half = "revenue * 100.0 + 0.5" }
"#;
    let more = format!("{transforms}\n{}{}", table("valid", "valid"), table("paid", "paid"));
    let pipeline = generator(&scratch, more);
    Millrace::run_to_end(&pipeline.write()?, MINUTE)?.ok()?;
    let valid = "SELECT * REPLACE (coalesce(revenue, 0.0) AS revenue), date_trunc('minute', timestamp) AS minute \
                 FROM events WHERE event_type IN ('click', 'conversion') AND user_id <> 'user-0000000000'";
    oracle::query_matches(&pipeline, "ads.valid", "", valid)?;
    let paid = format!(
        "SELECT upper(campaign_id) AS campaign, floor(revenue * 100.0 + 0.5)::BIGINT AS cents, minute, kafka_offset \
         FROM ({valid}) WHERE revenue > 0.0"
    );
    oracle::query_matches(&pipeline, "ads.paid", "", &paid)
}

#[test]
fn a_row_that_an_expression_fails_on_is_dead_lettered_and_the_rest_goes_on() -> Result<()> {
    let scratch = Scratch::new("transform-errors")?;
    // user-0000000042 and user-0000000001 make a zero
    let transforms = r#"
[transforms.shares]
inputs = ["events"]
set = { share = "1000 / ((cast(substr(user_id, 6) AS long) - 42) * (cast(substr(user_id, 6) AS long) - 1))" }
on_error = "dead-letter"
consecutive_limit = 1000

[transforms.letters]
inputs = ["events"]
filter = "user_id = 'user-0000000042' OR user_id = 'user-0000000001'"
select = ["kafka_partition", "kafka_offset"]
"#;
    let more = format!(
        "{transforms}\n{}{}{}",
        table("shares", "shares"),
        table("letters", "letters"),
        table("bad", "shares.errors")
    );
    let pipeline = generator(&scratch, more);
    Millrace::run_to_end(&pipeline.write()?, MINUTE)?.ok()?;
    let good = "SELECT *, 1000 // ((n - 42) * (n - 1)) AS share FROM events, LATERAL (SELECT substr(user_id, 6)::BIGINT AS n) \
                WHERE n NOT IN (1, 42)";
    oracle::query_matches(&pipeline, "ads.shares", "", &format!("SELECT * EXCLUDE (n) FROM ({good})"))?;
    let bad = "SELECT 'shares' AS node, 'Divide by zero error' AS reason, 'generator' AS topic, kafka_partition AS partition, \
               kafka_offset AS \"offset\", timestamp AS event_time, NULL::BLOB AS payload FROM events \
               WHERE user_id IN ('user-0000000042', 'user-0000000001')";
    oracle::query_matches(&pipeline, "ads.bad", "row", bad)
}

#[test]
fn a_plugin_makes_none_one_or_several_rows_of_one() -> Result<()> {
    let scratch = Scratch::new("transform-plugin")?;
    let transforms = format!(
        r#"
[plugins.touchpoints]
path = "{}"

[transforms.touches]
inputs = ["events"]
set = {{ revenue = "CASE WHEN campaign_id = 'campaign-000001' THEN NULL ELSE revenue END" }}
plugin = "touchpoints"
config = {{ without_platform = "ctv" }}
on_error = "dead-letter"
consecutive_limit = 1000
"#,
        paths::built_plugin("touchpoints")?.display()
    );
    let more = format!("{transforms}\n{}{}", table("touches", "touches"), table("bad", "touches.errors"));
    let pipeline = generator(&scratch, more);
    Millrace::run_to_end(&pipeline.write()?, MINUTE)?.ok()?;
    let changed = "SELECT * REPLACE (CASE WHEN campaign_id = 'campaign-000001' THEN NULL ELSE revenue END AS revenue) FROM events";
    let touches = format!(
        "WITH e AS ({changed}) \
         SELECT 'reach' AS touch, 1.0::DOUBLE AS weight, * FROM e WHERE event_type = 'click' OR \
         (event_type = 'impression' AND platform IS DISTINCT FROM 'ctv') \
         UNION ALL SELECT 'interest', 5.0, * FROM e WHERE event_type = 'click' \
         UNION ALL SELECT 'purchase', revenue, * FROM e WHERE event_type = 'conversion' AND revenue IS NOT NULL"
    );
    oracle::query_matches(&pipeline, "ads.touches", "", &touches)?;
    let bad = "SELECT 'touches' AS node, 'a conversion without revenue' AS reason, 'generator' AS topic, \
               kafka_partition AS partition, kafka_offset AS \"offset\", timestamp AS event_time, NULL::BLOB AS payload \
               FROM events WHERE event_type = 'conversion' AND campaign_id = 'campaign-000001'";
    oracle::query_matches(&pipeline, "ads.bad", "row", bad)
}

/// Kills at random, at changing parallelism: each event is in the table once, and windows count it once.
#[test]
fn repeated_events_are_dropped_across_sigkill() -> Result<()> {
    let scratch = Scratch::new("deduplicate")?;
    let transforms = format!(
        r#"
[transforms.unique]
inputs = ["events"]
filter = "platform <> 'ctv'"
select = ["event_id", "user_id", "campaign_id", "event_type", "timestamp", "revenue"]
deduplicate = {{ key = ["event_id"], within = "{WITHIN_MS}ms" }}
"#
    );
    let mut pipeline = generator(&scratch, format!("{transforms}\n{}", table("unique_events", "unique")));
    pipeline.source = pipeline.source.replace("rate = \"unlimited\"", &format!("rate = {RATE}"));
    pipeline.metrics = true;
    let mut random = Random::new(u64::from(std::process::id()));
    let started = Instant::now();
    let write = |pipeline: &Pipeline| -> Result<_> {
        let file = pipeline.write()?;
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(
            &file,
            text.replace(
                "[aggregations.metrics]\ninputs = [\"events\"]",
                "[aggregations.metrics]\ninputs = [\"unique\"]",
            ),
        )?;
        Ok(file)
    };
    for life in 0..6 {
        pipeline.parallelism = 1 + life % 3;
        Millrace::run_and_kill(&write(&pipeline)?, Duration::from_millis(300 + random.below(1_500)))?;
    }
    wait_for("the last event to be due", MINUTE, || Ok(started.elapsed() > Duration::from_secs(ALL_DUE_S)))?;
    Millrace::run_to_end(&write(&pipeline)?, MINUTE)?.ok()?;
    let unique = "SELECT DISTINCT event_id, user_id, campaign_id, event_type, timestamp, revenue FROM events WHERE platform <> 'ctv'";
    oracle::query_matches(&pipeline, "ads.unique_events", "", unique)?;
    let metrics = format!(
        "SELECT campaign_id, date_trunc('minute', timestamp) AS window_start, window_start + INTERVAL 1 minute AS window_end, \
         count(*) FILTER (event_type = 'impression') AS impressions, count(*) FILTER (event_type = 'click') AS clicks, \
         count(*) FILTER (event_type = 'conversion') AS conversions FROM ({unique}) GROUP BY ALL"
    );
    let excluded = "revenue, unique_users, ctr, cvr";
    oracle::query_matches(&pipeline, METRICS, excluded, &metrics)?;
    // first_seen is the event's time: repetitions are byte for byte
    let keys = "SELECT event_id, date_trunc('millisecond', min(timestamp)) AS first_seen FROM events WHERE platform <> 'ctv' \
                GROUP BY event_id";
    oracle::seen_matches(&pipeline, "unique", WITHIN_MS, keys)
}
