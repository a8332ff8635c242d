"""SQL over every run of a store: DuckDB in memory, reading the Parquet files through Arrow.

The statement sees the store's tables and nothing else: DuckDB's own file access, extensions and Python
look-ups are switched off and the switches are locked before the statement runs, and only a single SELECT is
let through.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlab.store import files, folders, index, verify
from headlab.store.records import Record, StoreError, StoreLookupError

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger("headlab.store")
SHOWN = 20
_LOCKS = (
    "SET enable_external_access=false",
    "SET python_enable_replacements=false",
    "SET autoinstall_known_extensions=false",
    "SET autoload_known_extensions=false",
    "SET lock_configuration=true",
)


def run_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The view ``runs``: one row per run."""
    return [
        {
            "run_id": r.id,
            "kind": r.kind,
            "slug": r.slug,
            "title": r.title,
            "model": r.model.get("name"),
            "revision": r.model.get("revision"),
            "fingerprint": r.model.get("fingerprint"),
            "dtype": r.model.get("dtype"),
            "device": r.model.get("device"),
            "outcome": r.outcome,
            "sentence": r.readings[0].verdict.sentence if r.readings else None,
            "status": r.status,
            "created": r.created,
            "finished": r.finished,
            "seconds": r.seconds,
            "pairs": r.prompts.get("test", r.prompts).get("n"),
            "key": r.key,
            "claim_hash": r.claim_hash,
        }
        for r in records
    ]


def reading_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The view ``readings``: one row per run × protocol."""
    return [
        {
            "run_id": r.id,
            "protocol": reading.protocol,
            "binding": i == 0,
            "outcome": reading.verdict.outcome,
            "sentence": reading.verdict.sentence,
        }
        for r in records
        for i, reading in enumerate(r.readings)
    ]


def estimate_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The view ``estimates``: one row per run × protocol × number, with its interval, n and unit."""
    return [
        {
            "run_id": r.id,
            "protocol": reading.protocol,
            "name": e.name,
            "label": e.label,
            "arm": e.arm,
            **{k: e.estimate.get(k) for k in ("value", "low", "high", "n", "unit", "method", "level", "seed", "note")},
        }
        for r in records
        for reading in r.readings
        for e in reading.estimates
    ]


def _schemas() -> dict[str, Any]:
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    other = {"seconds": number, "pairs": whole, "binding": pa.bool_(), "n": whole, "seed": whole}
    other |= dict.fromkeys(("value", "low", "high", "level"), number)
    names = {
        "runs": "run_id kind slug title model revision fingerprint dtype device outcome sentence status "
        "created finished seconds pairs key claim_hash",
        "readings": "run_id protocol binding outcome sentence",
        "estimates": "run_id protocol name label arm value low high n unit method level seed note",
    }
    return {view: pa.schema([(c, other.get(c, text)) for c in columns.split()]) for view, columns in names.items()}


def _entries(record: Record) -> dict[str, Any]:
    """What the index keeps of a record, by view."""
    return {
        "runs": {"row": run_rows([record])[0], "tables": {name: t.sha256 for name, t in record.tables.items()}},
        "readings": reading_rows([record]),
        "estimates": estimate_rows([record]),
    }


def remember(root: Path, record: Record) -> None:
    """Put a record that was just written into the index."""
    with suppress(OSError):
        stamp = files.stamp(root / record.id / "record.json")
        index.write(root, {(view, record.id): (stamp, data) for view, data in _entries(record).items()})


def survey(root: Path, view: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a view needs of every run, oldest first, and why a run cannot be read.  A record whose file has not changed
    is not read again."""
    known, found, fresh, bad = index.read(root, view), {}, {}, {}
    order = index.read(root, "runs") if view != "runs" else known
    for id in sorted(folders.ids(root)):
        try:
            stamp = files.stamp(root / id / "record.json")
            if all(id in kept and kept[id][0] == stamp for kept in (known, order)):
                found[id] = json.loads(known[id][1])
                continue
            entries = _entries(folders.read_record(root, id))
            found[id] = entries[view]
            fresh |= {(kind, id): (stamp, data) for kind, data in entries.items()}
        except Exception as error:  # whatever one run holds, the others are answered for
            bad[id] = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
    index.write(root, fresh)
    if view == "runs":
        for id, kept in found.items():
            if kept["row"]["status"] == "running":
                locked = files.is_locked(root / id / ".lock")
                kept["row"]["status"] = "running" if locked else "interrupted"
        found = dict(sorted(found.items(), key=lambda item: (str(item[1]["row"]["created"]), item[0])))
    return found, bad


def query(root: Path, sql: str) -> pd.DataFrame:
    """The answer to one SELECT over ``runs``, ``readings``, ``estimates`` and every stored table (with
    ``run_id``).  Only what the statement names is read.

    Raises StoreLookupError on anything but one SELECT, and on what DuckDB cannot answer.
    """
    import duckdb
    import pyarrow as pa

    runs, bad = survey(root, "runs")
    known = sorted({*_schemas(), *(t for kept in runs.values() for t in kept["tables"])})
    connection = duckdb.connect(":memory:")
    try:
        statements = connection.extract_statements(sql)
        allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
        if len(statements) != 1 or statements[0].type not in allowed:
            kinds = ", ".join(str(s.type).rsplit(".", 1)[-1] for s in statements) or "nothing"
            raise StoreLookupError(f"a query is one SELECT, given {kinds}; the store is only read")
        named = _named(connection, sql, known)
        for view, schema in _schemas().items():
            if view in named:
                kept = runs if view == "runs" else survey(root, view)[0]
                rows = [row for data in kept.values() for row in ([data["row"]] if view == "runs" else data)]
                connection.register(view, pa.Table.from_pylist(rows, schema=schema))
        for name in named - _schemas().keys():
            wanted = {id: d["tables"][name] for id, d in runs.items() if name in d["tables"]}
            _register(connection, root, name, wanted, bad)
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


def tell(bad: Mapping[str, str]) -> None:
    """Name on stderr every run that is left out (by Python's logging, so that a program can have it elsewhere)."""
    for id, why in list(bad.items())[:SHOWN]:
        _LOG.warning("headlab: left out: run %s: %s", id, " ".join(why.split())[:400])
    if len(bad) > SHOWN:
        _LOG.warning("headlab: left out: %d more runs that cannot be read", len(bad) - SHOWN)


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
                kept = stamp, json.dumps([sha256, _columns(data)])
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


def _columns(data: bytes) -> str:
    """The schema of a Parquet file, as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(pa.BufferReader(data)).remove_metadata()
    return base64.b64encode(schema.serialize()).decode()
