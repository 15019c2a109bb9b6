//! SQL that puts each dumped event into its windows, by their definition and nothing cleverer. For DuckDB.
//!
//! Each gives the columns of `from` with `window_start` and `window_end`, in epoch milliseconds. `from` has the event's
//! time as epoch milliseconds in `timestamp`.

/// What the campaign plugin says of a group.
pub const METRICS: &str = "count(*) FILTER (event_type = 'impression') AS impressions, \
     count(*) FILTER (event_type = 'click') AS clicks, count(*) FILTER (event_type = 'conversion') AS conversions, \
     coalesce(sum(revenue), 0.0) AS revenue, count(DISTINCT user_id) AS unique_users, \
     CASE WHEN count(*) FILTER (event_type = 'impression') > 0 THEN (count(*) FILTER (event_type = 'click'))::DOUBLE \
     / count(*) FILTER (event_type = 'impression') END AS ctr, \
     CASE WHEN count(*) FILTER (event_type = 'click') > 0 THEN (count(*) FILTER (event_type = 'conversion'))::DOUBLE \
     / count(*) FILTER (event_type = 'click') END AS cvr";

/// `[k · size + offset, … + size)`
pub fn tumbling(from: &str, size_ms: i64, offset_ms: i64) -> String {
    sliding(from, size_ms, size_ms, offset_ms)
}

/// Every window that holds the event, each as a row of its own: `[k · slide + offset, … + size)`.
pub fn sliding(from: &str, size_ms: i64, slide_ms: i64, offset_ms: i64) -> String {
    // the last window that begins at the event or before it, then back for as long as they reach it
    let last = format!("timestamp - (((timestamp - {offset_ms}) % {slide_ms}) + {slide_ms}) % {slide_ms}");
    format!(
        "(SELECT *, window_start + {size_ms} AS window_end FROM (SELECT *, \
         unnest(generate_series({last}, timestamp - {size_ms} + 1, -{slide_ms})) AS window_start FROM {from}))"
    )
}

/// Gaps and islands: an event is `[t, t + gap)`, and what overlaps is one session of its key.
pub fn session(from: &str, key: &str, gap_ms: i64) -> String {
    format!(
        "(SELECT * EXCLUDE (island), min(timestamp) OVER s AS window_start, max(timestamp) OVER s + {gap_ms} AS window_end \
         FROM (SELECT *, sum(starts) OVER (PARTITION BY {key} ORDER BY timestamp ROWS UNBOUNDED PRECEDING) AS island \
         FROM (SELECT *, CASE WHEN timestamp - lag(timestamp) OVER (PARTITION BY {key} ORDER BY timestamp) < {gap_ms} \
         THEN 0 ELSE 1 END AS starts FROM {from})) WINDOW s AS (PARTITION BY {key}, island))"
    )
}

/// One row a group.
pub fn grouped(windowed: &str, key: &str, aggregates: &str) -> String {
    format!("SELECT {key}, window_start, window_end, {aggregates} FROM {windowed} GROUP BY ALL")
}

/// The query that docs/time.md gives for the last versions in a table that keeps every one: it is run as it stands there,
/// over `t`, and its own columns are left out.
pub fn latest() -> String {
    let docs = include_str!("../../docs/time.md");
    let query = docs.split("```sql").nth(1).and_then(|after| after.split("```").next()).unwrap_or_default();
    format!("SELECT * EXCLUDE (n, revision, change) FROM ({query})")
}
