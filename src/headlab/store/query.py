"""SQL over every run of a store: DuckDB in memory, reading the Parquet files through Arrow.

The statement sees the store's tables and nothing else: DuckDB's own file access, extensions and Python
look-ups are switched off and the switches are locked before the statement runs, and only a single SELECT is
let through.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlab.store import files, index, verify
from headlab.store.records import StoreError, StoreLookupError
from headlab.store.survey import VIEWS, survey, tell

if TYPE_CHECKING:
    import pandas as pd

_LOCKS = (
    "SET enable_external_access=false",
    "SET python_enable_replacements=false",
    "SET autoinstall_known_extensions=false",
    "SET autoload_known_extensions=false",
    "SET lock_configuration=true",
)
_LISTING = re.compile(r"\s*(show((\s+all)?\s+tables)?|desc(ribe)?)\s*;?\s*", re.IGNORECASE)
_TABLES = (
    "SELECT table_name AS name, string_agg(column_name, ', ' ORDER BY column_index) AS columns "
    "FROM duckdb_columns() WHERE list_contains(?, table_name) GROUP BY 1 ORDER BY 1"
)


def query(root: Path, sql: str) -> pd.DataFrame:
    """The answer to one SELECT over ``runs``, ``readings``, ``estimates`` and every stored table (with
    ``run_id``), or to SHOW TABLES: their names and columns.  Only what the statement names is read.

    Raises StoreLookupError on anything but one SELECT, and on what DuckDB cannot answer.
    """
    import duckdb
    import pyarrow as pa

    runs, bad = survey(root, "runs")
    known = sorted({*VIEWS, *(name for _, tables in runs.values() for name in tables)})
    connection = duckdb.connect(":memory:")
    try:
        statements = connection.extract_statements(sql)
        allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
        if len(statements) != 1 or statements[0].type not in allowed:
            kinds = ", ".join(str(s.type).rsplit(".", 1)[-1] for s in statements) or "nothing"
            raise StoreLookupError(f"a query is one SELECT, given {kinds}; the store is only read")
        listing = _LISTING.fullmatch(statements[0].query)
        named = set(known) if listing else _named(connection, sql, known)
        for view in named & VIEWS.keys():
            kept = {id: [row] for id, (row, _) in runs.items()} if view == "runs" else survey(root, view)[0]
            connection.register(view, _view(view, [row for rows in kept.values() for row in rows]))
        for name in named - VIEWS.keys():
            _register(connection, root, name, {id: t[name] for id, (_, t) in runs.items() if name in t}, bad)
        for lock in _LOCKS:
            connection.execute(lock)
        answer = (connection.execute(_TABLES, [known]) if listing else connection.execute(statements[0])).df()
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise StoreLookupError(
            f"cannot answer the query: {first}; the store has the tables {', '.join(known)}"
        ) from error
    finally:
        connection.close()
    answer.attrs["skipped"] = bad
    tell(bad)
    return answer


def _view(view: str, rows: Sequence[Sequence[Any]]) -> Any:
    """Rows as an Arrow table with the view's columns."""
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    other = {"seconds": number, "pairs": whole, "binding": pa.bool_(), "n": whole, "seed": whole}
    other |= dict.fromkeys(("value", "low", "high", "level"), number)
    names = VIEWS[view].split()
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return pa.table({c: pa.array(list(values), other.get(c, text)) for c, values in zip(names, columns, strict=True)})


def _named(connection: Any, sql: str, known: Sequence[str]) -> set[str]:
    """The store's tables that a statement names; those in its text where DuckDB tells of none (DESCRIBE, EXPLAIN)."""
    import duckdb

    names = set()
    with suppress(duckdb.Error):
        names = {str(n).lower().strip('"') for n in connection.get_table_names(sql)}
    return names & set(known) or {n for n in known if n in sql.lower()}


def _register(connection: Any, root: Path, name: str, wanted: Mapping[str, str], bad: dict[str, str]) -> None:
    """One view of a table over all runs that have it (``wanted``: run → checksum); columns are matched by name.

    A file is read for its checksum and its columns once, and again when it has changed; a small one's rows are then known.
    """
    known, fresh = index.read(root, f"table {name}"), {}
    parts: dict[tuple[str, bool], list[tuple[str, bytes]]] = {}
    for id, sha256 in wanted.items():
        path = f"{root}/{id}/{name}.parquet"
        try:
            stamp = files.stamp(path)
            last, text, rows = known.get(id, ("", "", b""))
            sha, columns = json.loads(text) if last == stamp else ("", "")
            if sha != sha256:
                columns, rows = files.kept(verify.checked(Path(path).read_bytes(), id, name, sha256))
                fresh[f"table {name}", id] = (stamp, [sha256, columns], rows)
            parts.setdefault((columns, not rows), []).append((id, rows))
        except Exception as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            bad[id] = f"table {name!r} cannot be read: {why}" if not isinstance(error, StoreError) else str(error)
    index.write(root, fresh)
    selects = []
    for n, ((columns, large), some) in enumerate(parts.items()):
        connection.register(f"_{name}_{n}", (_files(root, name, columns, some) if large else _rows(columns, some)))
        selects.append(f'SELECT * FROM "_{name}_{n}"')
    if selects:
        connection.execute(f'CREATE VIEW "{name}" AS ' + " UNION ALL BY NAME ".join(selects))


def _schema(columns: str) -> Any:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(columns)))


def _rows(columns: str, some: Sequence[tuple[str, bytes]]) -> Any:
    """Record batches of the same columns as one Arrow table, with ``run_id``."""
    import pyarrow as pa

    schema = _schema(columns)
    batches = [pa.ipc.read_record_batch(pa.py_buffer(rows), schema) for _, rows in some]
    table = pa.Table.from_batches(batches)
    table.validate(full=True)
    ids = [id for (id, _), batch in zip(some, batches, strict=True) for _ in range(batch.num_rows)]
    return table.add_column(0, pa.field("run_id", pa.string()), pa.array(ids, pa.string()))


def _files(root: Path, name: str, columns: str, some: Sequence[tuple[str, bytes]]) -> Any:
    """Files of the same columns as one Arrow dataset, with ``run_id``; only what is asked of them is read."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    which = ds.field("run_id")
    return ds.FileSystemDataset.from_paths(
        [f"{root}/{id}/{name}.parquet" for id, _ in some],
        schema=_schema(columns).insert(0, pa.field("run_id", pa.string())),
        format=ds.ParquetFileFormat(),
        filesystem=LocalFileSystem(),
        partitions=[which == id for id, _ in some],
    )
