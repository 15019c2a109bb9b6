"""Opens Millrace's tables with PyIceberg."""

import sys

from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchTableError

# Above this many files DuckDB reads the Parquet files that PyIceberg's scan names: PyIceberg opens them one by one.
FILES_BY_PYICEBERG_MAX = 500


def open_table(args, name):
    catalog = load_catalog(args.catalog, **args.catalog_properties)
    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        sys.exit(f"{name}: no such table in {args.catalog_properties['uri']}")


def arrow_or_reader(db, args, name):
    """The table's rows, as something that DuckDB can register."""
    scan = open_table(args, name).scan()
    tasks = list(scan.plan_files())
    local = all(task.file.file_path.startswith("file://") for task in tasks)
    if len(tasks) <= FILES_BY_PYICEBERG_MAX or not local or any(task.delete_files for task in tasks):
        return scan.to_arrow()
    files = [task.file.file_path.removeprefix("file://") for task in tasks]
    return db.read_parquet(files, union_by_name=True, hive_partitioning=False).to_arrow_table()
