//! Early results: a table shows what open windows have come to, long before a watermark closes them.

use anyhow::{Result, ensure};
use millrace_tests::millrace::Millrace;
use millrace_tests::oracle::{self, Rows};
use millrace_tests::pipeline::{aggregation, history, upsert};
use millrace_tests::windows;

use super::MINUTE;
use super::live::{Live, T, counts, watermark_after};

#[test]
fn the_row_of_an_open_window_grows_until_it_is_final() -> Result<()> {
    let mut live = Live::start("early", 2, |pipeline| {
        pipeline.more = aggregation(
            "counts",
            "[\"campaign_id\"]",
            "type = \"tumbling\", size = \"1h\"",
            "aggregate = { events = \"count(*)\" }\nemit = { every = \"100ms\" }",
        ) + &upsert("counts", "ads.last", "[\"campaign_id\", \"window_start\"]")
            + &history("counts", "ads.all");
    })?;
    let first: Vec<(&str, i64)> = (0..100).map(|second| ("a", second)).collect();
    live.send(0, &first)?;
    live.send(1, &[("b", 30)])?;
    live.wait_for_table("ads.last", &counts(&[("a", 0, 3_600, 100), ("b", 0, 3_600, 1)]))?;
    let second: Vec<(&str, i64)> = (0..50).map(|second| ("a", second)).collect();
    live.send(1, &second)?;
    live.wait_for_table("ads.last", &counts(&[("a", 0, 3_600, 150), ("b", 0, 3_600, 1)]))?;

    // all the while the window is open
    let operator = live.api.operator("counts")?;
    ensure!(operator["watermark_ms"].as_i64().is_some_and(|at| at <= watermark_after(100)), "{operator}");
    ensure!(operator["windows"]["open"] == 1 && operator["windows"]["oldest_open"]["start_ms"] == T, "{operator}");
    live.send(0, &[("a", 200), ("c", 4_000)])?;
    let (bench, _) = live.stop()?;
    Millrace::run_to_end(&bench.file(), MINUTE)?.ok()?;

    let dump = bench.dump()?;
    let expected = windows::grouped(&windows::tumbling("events", 3_600_000, 0), "campaign_id", "count(*) AS events");
    oracle::rows_match(&bench.pipeline, &dump, Rows::of("ads.last", &expected))?;
    let latest = windows::latest();
    oracle::rows_match(&bench.pipeline, &dump, Rows { actual: &latest, ..Rows::of("ads.all", &expected) })?;
    // a group that has not changed is not given again, and versions are counted without a gap
    let history = "SELECT count(*) FILTER (events <= before) AS not_grown, count(*) FILTER (revision <> n) AS gaps, \
                   max(revision) FILTER (campaign_id = 'b') AS of_b FROM (SELECT *, lag(events) OVER w AS before, \
                   row_number() OVER w AS n FROM t WINDOW w AS (PARTITION BY campaign_id, window_start ORDER BY revision))";
    let rows = Rows { actual: history, ..Rows::of("ads.all", "SELECT 0 AS not_grown, 0 AS gaps, 1 AS of_b") };
    oracle::rows_match(&bench.pipeline, &dump, rows)
}
