"""What DuckDB makes of the events themselves."""

EVENT_COLUMNS = [
    "kafka_partition", "kafka_offset", "event_id", "user_id", "campaign_id", "event_type", "timestamp", "platform", "revenue",
]  # fmt: skip

# Every type is said: nothing is guessed from the first lines.
JSON_TYPES = (
    "{kafka_partition: 'BIGINT', kafka_offset: 'BIGINT', event_id: 'VARCHAR', user_id: 'VARCHAR', campaign_id: 'VARCHAR', "
    "event_type: 'VARCHAR', timestamp: 'BIGINT', platform: 'VARCHAR', revenue: 'DOUBLE'}"
)


def load_events(db, path):
    """The dumped topic as table `events`; timestamps are epoch milliseconds."""
    db.execute(
        f"CREATE TABLE events AS FROM read_json($1, format = 'newline_delimited', columns = {JSON_TYPES})",
        [path],
    )


def create_metrics(db, window_ms):
    """Table `expected`: the campaign table as SQL defines it."""
    db.execute(
        """
        CREATE TABLE expected AS
        WITH counted AS (
            SELECT
                campaign_id,
                timestamp - ((timestamp % $1) + $1) % $1 AS window_start,
                count(*) FILTER (event_type = 'impression') AS impressions,
                count(*) FILTER (event_type = 'click') AS clicks,
                count(*) FILTER (event_type = 'conversion') AS conversions,
                coalesce(sum(revenue), 0.0) AS revenue,
                count(DISTINCT user_id) AS unique_users
            FROM events
            GROUP BY ALL
        )
        SELECT
            campaign_id,
            window_start,
            window_start + $1 AS window_end,
            impressions,
            clicks,
            conversions,
            revenue,
            unique_users,
            CASE WHEN impressions > 0 THEN clicks::DOUBLE / impressions END AS ctr,
            CASE WHEN clicks > 0 THEN conversions::DOUBLE / clicks END AS cvr
        FROM counted
        """,
        [window_ms],
    )


def create_counts(db, window_ms):
    """Table `expected_counts`: the aggregates of the test's pipeline as SQL defines them."""
    db.execute(
        """
        CREATE TABLE expected_counts AS
        SELECT
            platform,
            timestamp - ((timestamp % $1) + $1) % $1 AS window_start,
            count(*) AS events,
            count(revenue) AS sales,
            count(*) FILTER (event_type = 'click') AS clicks,
            sum(revenue) AS revenue,
            avg(revenue) AS average,
            max(revenue) AS dearest,
            min(timestamp) AS first_at,
            max(timestamp) AS last_at,
            min(user_id) AS first_user,
            count(DISTINCT user_id) AS users,
            count(DISTINCT user_id) AS about_users
        FROM events
        GROUP BY ALL
        """,
        [window_ms],
    )
