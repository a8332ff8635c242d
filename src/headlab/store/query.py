"""SQL over every run of a store: DuckDB in memory, reading the Parquet files through Arrow.

The statement sees the store's tables and nothing else: DuckDB's own file access, extensions and Python
look-ups are switched off and the switches are locked before the statement runs, and only a single SELECT is
let through.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
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


def query(root: Path, sql: str) -> pd.DataFrame:
    """The answer to one SELECT over ``runs``, ``readings``, ``estimates`` and every stored table (with
    ``run_id``).  Only what the statement names is read.

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
        named = _named(connection, sql, known)
        for view in named & VIEWS.keys():
            kept = {id: [row] for id, (row, _) in runs.items()} if view == "runs" else survey(root, view)[0]
            connection.register(view, _view(view, [row for rows in kept.values() for row in rows]))
        for name in named - VIEWS.keys():
            _register(connection, root, name, {id: t[name] for id, (_, t) in runs.items() if name in t}, bad)
        for lock in _LOCKS:
            connection.execute(lock)
        answer = connection.execute(statements[0]).df()
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
    """The store's tables that a statement names; all of them where DuckDB cannot tell (EXPLAIN)."""
    import duckdb

    try:
        names = {str(n).lower().strip('"') for n in connection.get_table_names(sql)}
    except duckdb.Error:
        return {n for n in known if n in sql.lower()}
    return names & set(known)


def _register(connection: Any, root: Path, name: str, wanted: Mapping[str, str], bad: dict[str, str]) -> None:
    """One view of a table over all runs that have it (``wanted``: run → checksum); columns are matched by name.

    A file is read for its checksum and its columns once, and again when it has changed.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    known, fresh = index.read(root, f"table {name}"), {}
    parts: dict[str, list[tuple[str, str]]] = {}
    for id, sha256 in wanted.items():
        path = root / id / f"{name}.parquet"
        try:
            stamp = files.stamp(path)
            kept = known.get(id)
            if kept is None or kept[0] != stamp:
                data = verify.checked(path.read_bytes(), id, name, sha256)
                kept = stamp, json.dumps([sha256, files.columns(data)])
                fresh[f"table {name}", id] = (stamp, json.loads(kept[1]))
            if json.loads(kept[1])[0] != sha256:
                verify.checked(path.read_bytes(), id, name, sha256)
            parts.setdefault(json.loads(kept[1])[1], []).append((str(path), id))
        except Exception as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            bad[id] = f"table {name!r} cannot be read: {why}" if not isinstance(error, StoreError) else str(error)
    index.write(root, fresh)
    selects = []
    for n, (columns, some) in enumerate(parts.items()):
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(columns)))
        which = ds.field("run_id")
        source = ds.FileSystemDataset.from_paths(
            [path for path, _ in some], format=ds.ParquetFileFormat(), filesystem=LocalFileSystem(),
            schema=schema.insert(0, pa.field("run_id", pa.string())), partitions=[which == id for _, id in some],
        )  # fmt: skip
        connection.register(f"_{name}_{n}", source)
        selects.append(f'SELECT * FROM "_{name}_{n}"')
    if selects:
        connection.execute(f'CREATE VIEW "{name}" AS ' + " UNION ALL BY NAME ".join(selects))
