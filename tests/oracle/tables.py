"""Opens Millrace's tables with PyIceberg."""

import sys

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError

# Above this many files DuckDB reads the Parquet files that PyIceberg's scan names: PyIceberg opens them one by one.
FILES_BY_PYICEBERG_MAX = 500


def open_table(args, name):
    catalog = SqlCatalog(
        args.catalog, uri=f"sqlite:///{args.warehouse}/catalog.db", warehouse=f"file://{args.warehouse}", init_catalog_tables="false"
    )
    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        sys.exit(f"{name}: no such table in {args.warehouse}/catalog.db")


def arrow_or_reader(db, args, name):
    """The table's rows, as something that DuckDB can register."""
    scan = open_table(args, name).scan()
    tasks = list(scan.plan_files())
    if len(tasks) <= FILES_BY_PYICEBERG_MAX or any(task.delete_files for task in tasks):
        return scan.to_arrow()
    files = [task.file.file_path.removeprefix("file://") for task in tasks]
    return db.read_parquet(files, union_by_name=True, hive_partitioning=False).to_arrow_table()
