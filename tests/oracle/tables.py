"""Opens Millrace's tables, with PyIceberg and with DuckDB's own Iceberg reader."""

import importlib.util
import pathlib
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


def create_by_duckdb(db, args, name, into):
    """The same rows as DuckDB's Iceberg extension reads them, from the table's metadata file alone."""
    # The extensions come from PyPI with the rest; avro, which iceberg needs, first.
    for extension in ("avro", "iceberg"):
        package = pathlib.Path(importlib.util.find_spec(f"duckdb_extension_{extension}").origin).parent
        db.execute(f"LOAD '{next(package.glob(f'extensions/*/{extension}.duckdb_extension'))}'")
    db.execute(f"CREATE TABLE {into} AS FROM iceberg_scan($1)", [open_table(args, name).metadata_location])
