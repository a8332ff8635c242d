"""SQL over every run of a store: DuckDB in memory, reading the Parquet files through Arrow.

The statement sees the store's tables and nothing else: DuckDB's own file access, extensions and Python
look-ups are switched off and the switches are locked before the statement runs, and only a single SELECT is
let through.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlab.store.records import Record, StoreLookupError

if TYPE_CHECKING:
    import pandas as pd

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


def query(root: Path, records: list[Record], sql: str) -> pd.DataFrame:
    """The answer to one SELECT over ``runs``, ``readings``, ``estimates`` and every stored table (with
    ``run_id``).

    Raises StoreLookupError on anything but one SELECT, and on what DuckDB cannot answer.
    """
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect(":memory:")
    try:
        rows = {
            "runs": run_rows(records),
            "readings": reading_rows(records),
            "estimates": estimate_rows(records),
        }
        for view, schema in _schemas().items():
            connection.register(view, pa.Table.from_pylist(rows[view], schema=schema))
        _register_tables(connection, root, records)
        for lock in _LOCKS:
            connection.execute(lock)
        statements = connection.extract_statements(sql)
        allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
        if len(statements) != 1 or statements[0].type not in allowed:
            kinds = ", ".join(str(s.type).rsplit(".", 1)[-1] for s in statements) or "nothing"
            raise StoreLookupError(f"a query is one SELECT, given {kinds}; the store is only read")
        return connection.execute(statements[0]).df()
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        first = str(error).strip().splitlines()[0]
        tables = sorted({*_schemas(), *(t for r in records for t in r.tables)})
        raise StoreLookupError(
            f"cannot answer the query: {first}; the store has the tables {', '.join(tables)}"
        ) from error
    finally:
        connection.close()


def _register_tables(connection: Any, root: Path, records: list[Record]) -> None:
    """One view per table name over all runs that have it; columns are matched by name."""
    import pyarrow.dataset as ds

    parts: dict[str, list[str]] = {}
    for r in records:
        for name in r.tables:
            path = root / r.id / f"{name}.parquet"
            if path.is_file():
                source = f"_{name}_{len(parts.setdefault(name, []))}"
                connection.register(source, ds.dataset(path, format="parquet"))
                parts[name].append(f"SELECT '{r.id}' AS run_id, * FROM \"{source}\"")
    for name, selects in parts.items():
        connection.execute(f'CREATE VIEW "{name}" AS ' + " UNION ALL BY NAME ".join(selects))
