"""Compares Millrace's Iceberg tables with what they should hold. Exit code 1, with the first differences, if they differ.

    metrics   the campaign table against DuckDB's own aggregation of the events
    events    a raw events table against the dumped topic, as multisets
    state     the last checkpoint's state files, or a savepoint's, read by DuckDB, with what the campaign table has already
    complete  a raw events table against itself: so many events, no hole in the offsets, nothing twice
    query     a table against a query over the raw events table
    rows      a table, as PyIceberg and as DuckDB read it, against a query over the dumped topic
    seen      the last checkpoint's files of a deduplication, read by DuckDB, against a query over the raw events table
    snapshot  prints a table's current snapshot id

Nothing here shares code with Millrace: events are read from JSON lines, tables by PyIceberg.
"""

import argparse
import glob
import json
import os
import sys

import duckdb

import expected
import tables

DIFFERENCES_SHOWN = 10


def differ(db, what, query):
    """The number of rows that `query` finds; shows the first of them."""
    count = db.sql(f"SELECT count(*) FROM ({query})").fetchall()[0][0]
    if count:
        print(f"{what}: {count}")
        db.sql(f"FROM ({query}) LIMIT {DIFFERENCES_SHOWN}").show(max_width=240)
    return count


def metrics(db, args):
    if args.events:
        expected.load_events(db, args.events)
    else:
        db.register("source", tables.arrow_or_reader(db, args, args.events_table))
        db.execute("CREATE TABLE events AS SELECT * REPLACE (epoch_ms(timestamp) AS timestamp) FROM source")
    expected.create_metrics(db, args.window_ms)
    db.register("table_rows", tables.arrow_or_reader(db, args, args.table))
    db.execute(
        "CREATE TABLE actual AS SELECT * REPLACE "
        "(epoch_ms(window_start) AS window_start, epoch_ms(window_end) AS window_end) FROM table_rows"
    )
    key = "campaign_id, window_start"
    wrong = differ(
        db, "groups that are there more than once", f"SELECT {key}, count(*) AS times FROM actual GROUP BY ALL HAVING times > 1"
    )
    wrong += differ(db, "groups missing", f"FROM expected ANTI JOIN actual USING ({key}) ORDER BY window_start, campaign_id")
    wrong += differ(db, "groups too many", f"FROM actual ANTI JOIN expected USING ({key}) ORDER BY window_start, campaign_id")
    exact = ["window_end", "impressions", "clicks", "conversions", "unique_users"]
    close = ["revenue", "ctr", "cvr"]
    tests = [f"a.{c} IS DISTINCT FROM e.{c}" for c in exact] + [
        f"(a.{c} IS NULL) <> (e.{c} IS NULL) OR abs(a.{c} - e.{c}) > 1e-6 * greatest(abs(e.{c}), 1e-9)" for c in close
    ]
    shown = ", ".join(f"e.{c} AS {c}, a.{c} AS our_{c}" for c in exact + close)
    wrong += differ(
        db,
        "groups with other values",
        f"SELECT {key}, {shown} FROM expected e JOIN actual a USING ({key}) WHERE {' OR '.join(f'({t})' for t in tests)} "
        "ORDER BY window_start, campaign_id",
    )
    count = db.sql("SELECT count(*) FROM expected").fetchall()[0][0]
    if count == 0:
        sys.exit("the events make no group at all: nothing was compared")
    print(f"{args.table}: {count} groups, {'equal' if not wrong else 'NOT equal'}")
    return wrong


def counts(db, args):
    db.register("source", tables.arrow_or_reader(db, args, args.events_table))
    db.execute("CREATE TABLE events AS SELECT * REPLACE (epoch_ms(timestamp) AS timestamp) FROM source")
    expected.create_counts(db, args.window_ms)
    db.register("table_rows", tables.arrow_or_reader(db, args, args.table))
    times = ", ".join(f"epoch_ms({c}) AS {c}" for c in ["window_start", "first_at", "last_at"])
    db.execute(f"CREATE TABLE actual AS SELECT * EXCLUDE window_end REPLACE ({times}) FROM table_rows")
    exact = "platform, window_start, events, sales, clicks, dearest, first_at, last_at, first_user, users"
    wrong = differ(db, "rows missing", f"SELECT {exact} FROM expected_counts EXCEPT ALL SELECT {exact} FROM actual")
    wrong += differ(db, "rows too many", f"SELECT {exact} FROM actual EXCEPT ALL SELECT {exact} FROM expected_counts")
    close = [("revenue", 1e-9), ("average", 1e-9), ("about_users", 0.07)]
    tests = [f"(a.{c} IS NULL) <> (e.{c} IS NULL) OR abs(a.{c} - e.{c}) > {by} * e.{c}" for c, by in close]
    wrong += differ(
        db,
        "rows with other values",
        f"SELECT e.*, a.* FROM expected_counts e JOIN actual a USING (platform, window_start) WHERE {' OR '.join(tests)}",
    )
    count, empty = db.sql("SELECT count(*), count(*) FILTER (revenue IS NULL) FROM expected_counts").fetchall()[0]
    if count == 0 or empty == 0:
        sys.exit("the events make no group, or none without revenue: too little was compared")
    print(f"{args.table}: {count} groups, {'equal' if not wrong else 'NOT equal'}")
    return wrong


def events(db, args):
    expected.load_events(db, args.events)
    db.register("table_rows", tables.arrow_or_reader(db, args, args.table))
    columns = [row[0] for row in db.sql("DESCRIBE table_rows").fetchall()]
    compared = [c for c in expected.EVENT_COLUMNS if c in columns]
    missing = [c for c in expected.EVENT_COLUMNS if c not in columns and not c.startswith("kafka_")]
    if missing:
        sys.exit(f"{args.table} lacks the columns {missing}: it has {columns}")
    ours = ", ".join("epoch_ms(timestamp) AS timestamp" if c == "timestamp" else c for c in compared)
    db.execute(f"CREATE TABLE actual AS SELECT {ours} FROM table_rows")
    copies = f"SELECT {', '.join(compared)} FROM events CROSS JOIN range({args.copies})"
    wrong = differ(db, "events missing (or changed)", f"{copies} EXCEPT ALL FROM actual")
    wrong += differ(db, "events too many (or changed)", f"FROM actual EXCEPT ALL {copies}")
    count = db.sql("SELECT count(*) FROM events").fetchall()[0][0]
    if count == 0:
        sys.exit("no events were dumped: nothing was compared")
    print(f"{args.table}: {count} events {args.copies} times, {'equal' if not wrong else 'NOT equal'}")
    return wrong


def state(db, args):
    db.register("source", tables.arrow_or_reader(db, args, args.events_table))
    db.execute("CREATE TABLE events AS SELECT * REPLACE (epoch_ms(timestamp) AS timestamp) FROM source")
    expected.create_metrics(db, args.window_ms)
    if os.path.isfile(f"{args.state}/savepoint.json"):
        # as the documentation says that people read one
        files = f"{args.state}/state/metrics/*.parquet"
    else:
        with open(max(glob.glob(f"{args.state}/log/*.json"))) as record:
            files = json.load(record)["record"]["entry"]["operators"]["metrics"]["files"]
        files = [f"{args.state}/{file['path']}" for file in files]
    # one group may take several rows: their counters are parts, their lists are
    db.execute(
        """
        CREATE TABLE open AS
        SELECT campaign_id, epoch_ms(window_start) AS window_start, epoch_ms(window_end) AS window_end,
            sum(impressions) AS impressions, sum(clicks) AS clicks, sum(conversions) AS conversions, sum(revenue) AS revenue,
            len(list_distinct(flatten(list("users.values")))) AS unique_users
        FROM read_parquet($1) GROUP BY ALL
        """,
        [files],
    )
    db.register("table_rows", tables.arrow_or_reader(db, args, args.table))
    db.execute("CREATE TABLE closed AS SELECT campaign_id, epoch_ms(window_start) AS window_start FROM table_rows")
    key = "campaign_id, window_start"
    wrong = differ(db, "groups both open and closed", f"FROM open SEMI JOIN closed USING ({key})")
    wrong += differ(db, "groups neither open nor closed", f"FROM expected ANTI JOIN (SELECT {key} FROM open UNION ALL FROM closed) USING ({key})")
    wrong += differ(db, "open groups too many", f"FROM open ANTI JOIN expected USING ({key})")
    exact = ["window_end", "impressions", "clicks", "conversions", "unique_users"]
    tests = [f"o.{c} IS DISTINCT FROM e.{c}" for c in exact] + ["abs(o.revenue - e.revenue) > 1e-6 * greatest(abs(e.revenue), 1e-9)"]
    wrong += differ(
        db,
        "open groups with other values",
        f"SELECT o.*, e.* EXCLUDE ({key}) FROM expected e JOIN open o USING ({key}) WHERE {' OR '.join(tests)}",
    )
    opened, closed = (db.sql(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in ("open", "closed"))
    if not opened or not closed:
        sys.exit(f"{opened} open and {closed} closed groups: there must be some of both")
    print(f"state: {opened} open groups, {closed} closed, {'equal' if not wrong else 'NOT equal'}")
    return wrong


def complete(db, args):
    db.register("table_rows", tables.arrow_or_reader(db, args, args.table))
    db.execute("CREATE TABLE actual AS FROM table_rows")
    wrong = differ(
        db, "events that are there more than once", "SELECT event_id, count(*) AS times FROM actual GROUP BY ALL HAVING times > 1"
    )
    wrong += differ(
        db,
        "partitions with holes or doubles in their offsets",
        "SELECT kafka_partition, count(*) AS events, min(kafka_offset) AS first, max(kafka_offset) AS last FROM actual "
        "GROUP BY ALL HAVING first <> 0 OR last + 1 <> events OR count(DISTINCT kafka_offset) <> events",
    )
    total, partitions = db.sql("SELECT count(*), count(DISTINCT kafka_partition) FROM actual").fetchall()[0]
    if (total, partitions) != (args.count, args.partitions):
        print(f"{total} events in {partitions} partitions, should be {args.count} in {args.partitions}")
        wrong += 1
    print(f"{args.table}: {total} events, {'complete' if not wrong else 'NOT complete'}")
    return wrong


def query(db, args):
    db.register("events", tables.arrow_or_reader(db, args, args.events_table))
    db.register("table_rows", tables.arrow_or_reader(db, args, args.table))
    excluded = f" EXCLUDE ({args.exclude})" if args.exclude else ""
    db.execute(f"CREATE TABLE actual AS SELECT *{excluded} FROM table_rows")
    db.execute(f"CREATE TABLE expected AS {args.query}")
    names = sorted(row[0] for row in db.sql("DESCRIBE expected").fetchall())
    columns = ", ".join(f'"{name}"' for name in names)
    if sorted(row[0] for row in db.sql("DESCRIBE actual").fetchall()) != names:
        sys.exit(f"{args.table} has other columns: {db.sql('DESCRIBE actual')}")
    wrong = differ(db, "rows missing", f"SELECT {columns} FROM expected EXCEPT ALL SELECT {columns} FROM actual")
    wrong += differ(db, "rows too many", f"SELECT {columns} FROM actual EXCEPT ALL SELECT {columns} FROM expected")
    count, events = (db.sql(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in ("expected", "events"))
    if count == 0 or count == events:
        sys.exit(f"{count} rows of {events} events: nothing was tested")
    print(f"{args.table}: {count} rows of {events} events, {'equal' if not wrong else 'NOT equal'}")
    return wrong


def rows(db, args):
    """Everything is compared exactly. `--rounded` columns are sums of doubles with four decimals: as whole numbers of those."""
    expected.load_events(db, args.events)
    db.execute(f"CREATE TABLE expected AS {args.query}")
    db.register("by_pyiceberg", tables.arrow_or_reader(db, args, args.table))
    tables.create_by_duckdb(db, args, args.table, "by_duckdb")
    names = [row[0] for row in db.sql("DESCRIBE expected").fetchall()]
    compared = ", ".join(
        f'round("{name}" * 10000)::BIGINT AS "{name}"' if name in args.rounded.split(",") else f'"{name}"' for name in names
    )
    wrong = 0
    for reader in ("by_pyiceberg", "by_duckdb"):
        db.execute(f"CREATE OR REPLACE TEMP VIEW t AS FROM {reader}")
        db.execute(f"CREATE OR REPLACE TABLE actual AS {args.actual}")
        described = {row[0]: row[1] for row in db.sql("DESCRIBE actual").fetchall()}
        if sorted(described) != sorted(names):
            sys.exit(f"{args.table} has other columns: {sorted(described)}, should have {sorted(names)}")
        times = ", ".join(f'epoch_ms("{name}") AS "{name}"' for name, kind in described.items() if "TIMESTAMP" in kind)
        replaced = f" REPLACE ({times})" if times else ""
        db.execute(f"CREATE OR REPLACE TABLE read AS SELECT {compared} FROM (SELECT *{replaced} FROM actual)")
        ours, theirs = "FROM read", f"SELECT {compared} FROM expected"
        wrong += differ(db, f"rows missing ({reader})", f"{theirs} EXCEPT ALL {ours} ORDER BY ALL")
        wrong += differ(db, f"rows too many ({reader})", f"{ours} EXCEPT ALL {theirs} ORDER BY ALL")
    count = db.sql("SELECT count(*) FROM expected").fetchall()[0][0]
    if count == 0:
        sys.exit("no rows are expected: nothing was compared")
    print(f"{args.table}: {count} rows, {'equal' if not wrong else 'NOT equal'}")
    return wrong


def seen(db, args):
    with open(max(glob.glob(f"{args.state}/log/*.json"))) as record:
        operator = json.load(record)["record"]["entry"]["operators"][args.operator]
    paths = [f"{args.state}/{file['path']}" for file in operator["files"]]
    db.execute("CREATE TABLE actual AS SELECT * EXCLUDE (window_start, window_end) FROM read_parquet($1)", [paths])
    db.register("events", tables.arrow_or_reader(db, args, args.table))
    watermark, within = operator["watermark_ms"], args.within_ms
    # what may be forgotten may still be there: buckets go as a whole
    db.execute(f"CREATE TABLE required AS {args.query} HAVING epoch_ms(first_seen) > {watermark} - {within} + 1")
    db.execute(f"CREATE TABLE allowed AS {args.query} HAVING epoch_ms(first_seen) > {watermark} - 2 * {within}")
    wrong = differ(db, "keys missing", "FROM required EXCEPT ALL FROM actual")
    wrong += differ(db, "keys too many", "FROM actual EXCEPT ALL FROM allowed")
    count, keys = (db.sql(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in ("actual", "required"))
    everything = db.sql(f"SELECT count(*) FROM ({args.query})").fetchall()[0][0]
    if not keys or count >= everything:
        sys.exit(f"{count} of {everything} keys are held, {keys} have to be: nothing was tested")
    print(f"state: {count} of {everything} keys in {len(paths)} files, {'as it should be' if not wrong else 'WRONG'}")
    return wrong


def snapshot(_db, args):
    current = tables.open_table(args, args.table).current_snapshot()
    print(current.snapshot_id if current else "none")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--catalog-properties", type=json.loads, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("metrics", "counts", "events", "state", "complete", "query", "rows", "seen", "snapshot"):
        commands.add_parser(name).add_argument("--table", required=True)
    source = commands.choices["metrics"].add_mutually_exclusive_group(required=True)
    source.add_argument("--events")
    source.add_argument("--events-table")
    commands.choices["metrics"].add_argument("--window-ms", type=int, required=True)
    commands.choices["counts"].add_argument("--events-table", required=True)
    commands.choices["counts"].add_argument("--window-ms", type=int, required=True)
    commands.choices["events"].add_argument("--events", required=True)
    commands.choices["events"].add_argument("--copies", type=int, default=1)
    commands.choices["complete"].add_argument("--count", type=int, required=True)
    commands.choices["complete"].add_argument("--partitions", type=int, required=True)
    commands.choices["state"].add_argument("--events-table", required=True)
    commands.choices["state"].add_argument("--state", required=True)
    commands.choices["state"].add_argument("--window-ms", type=int, required=True)
    commands.choices["query"].add_argument("--events-table", required=True)
    commands.choices["query"].add_argument("--query", required=True)
    commands.choices["query"].add_argument("--exclude", help="columns that are not compared")
    commands.choices["rows"].add_argument("--events", required=True)
    commands.choices["rows"].add_argument("--query", required=True)
    commands.choices["rows"].add_argument("--actual", default="FROM t", help="a query over the table, which is `t`")
    commands.choices["rows"].add_argument("--rounded", default="", help="columns of sums of doubles")
    commands.choices["seen"].add_argument("--state", required=True)
    commands.choices["seen"].add_argument("--operator", required=True)
    commands.choices["seen"].add_argument("--within-ms", type=int, required=True)
    commands.choices["seen"].add_argument("--query", required=True)
    args = parser.parse_args()
    commands = {
        "metrics": metrics, "counts": counts, "events": events, "state": state, "complete": complete, "query": query, "rows": rows, "seen": seen, "snapshot": snapshot,
    }  # fmt: skip
    command = commands[args.command]
    with duckdb.connect() as db:
        db.sql("SET TimeZone = 'UTC'")
        return 1 if command(db, args) else 0


if __name__ == "__main__":
    sys.exit(main())
