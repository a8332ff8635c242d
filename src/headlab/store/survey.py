"""What is known of every run without opening it again: the rows of the views ``runs``, ``readings`` and ``estimates``.

Rows are kept in the index as lists, in the order of :func:`schemas`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from headlab.reading.bounds import many_objects
from headlab.store import files, folders, index
from headlab.store.records import Record, StoreError

_LOG = logging.getLogger("headlab.store")
SHOWN = 20
"""Runs that cannot be read are named, so many of them."""
VIEWS = {
    "runs": "run_id kind slug title model revision fingerprint dtype device outcome sentence status "
    "created finished seconds pairs key claim_hash",
    "readings": "run_id protocol binding outcome sentence",
    "estimates": "run_id protocol name label arm value low high n unit method level seed note",
}
"""The columns of each view.  ``runs``: a row per run; ``readings``: per run × protocol; ``estimates``: per run × protocol ×
number, with its interval, n and unit."""


def _rows(r: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """A record's rows, by view."""
    readings, model = r["readings"], r["model"]
    first = readings[0]["verdict"] if readings else {}
    known = {
        "run_id": r["id"],
        "model": model.get("name"),
        "outcome": first.get("outcome"),
        "sentence": first.get("sentence"),
    }
    known |= {k: model.get(k) for k in ("revision", "fingerprint", "dtype", "device")}
    known["pairs"] = r["prompts"].get("test", r["prompts"]).get("n")
    estimates = [
        [r["id"], reading["protocol"], e["name"], e["label"], e["arm"], *(e["estimate"].get(k) for k in _NUMBERS)]
        for reading in readings
        for e in reading["estimates"]
    ]
    said = [
        [r["id"], x["protocol"], i == 0, x["verdict"]["outcome"], x["verdict"]["sentence"]]
        for i, x in enumerate(readings)
    ]
    whole = {**r, **known}
    return {"runs": [[whole[c] for c in VIEWS["runs"].split()]], "readings": said, "estimates": estimates}


_NUMBERS = VIEWS["estimates"].split()[5:]


def remember(root: Path, record: Record) -> None:
    """Put a run that was just completed into the index, with its tables."""
    with suppress(OSError, StoreError):
        folder = root / record.id
        stamp = files.stamp(f"{folder}/record.json")
        entries = {(v, record.id): (stamp, d, b"") for v, d in _entries(record.model_dump(mode="json")).items()}
        for name, info in record.tables.items():
            path = folder / f"{name}.parquet"
            columns, rows = files.kept(path.read_bytes())
            entries[f"table {name}", record.id] = (files.stamp(str(path)), [info.sha256, columns], rows)
        index.write(root, entries)


def _entries(r: Mapping[str, Any]) -> dict[str, Any]:
    """What the index keeps of a record, by view."""
    rows = _rows(r)
    return {**rows, "runs": [rows["runs"][0], {name: t["sha256"] for name, t in r["tables"].items()}]}


def _read(root: Path, id: str) -> Mapping[str, Any]:
    """A record as plain data.  One whose digest holds was written by :meth:`Record.to_json`, and is not validated again.
    Raises StoreError."""
    import pydantic_core

    data = (root / id / "record.json").read_bytes()
    if (body := Record.digested(data)) is not None:
        r = pydantic_core.from_json(body)
        claim = r.get("claim")
        own = claim is None or r["claim_hash"] == hashlib.sha256(json.dumps(claim, sort_keys=True).encode()).hexdigest()
        if own and r["id"] == id and r["schema_version"] == Record.model_fields["schema_version"].default:
            return r
    return Record.from_json(data, f"the record of {id}", id).model_dump(mode="json")


def survey(root: Path, view: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Run → its rows of a view (``runs``: its row, and its tables' checksums), oldest first; and why a run cannot be read.
    A record whose file has not changed is not read again."""
    with many_objects():
        return _surveyed(root, view)


def _surveyed(root: Path, view: str) -> tuple[dict[str, Any], dict[str, str]]:
    known, found, fresh, bad = index.read(root, view), {}, {}, {}
    for id in sorted(folders.ids(root)):
        try:
            stamp = files.stamp(f"{root}/{id}/record.json")
            if id in known and known[id][0] == stamp:
                found[id] = json.loads(known[id][1])
                continue
            entries = _entries(_read(root, id))
            found[id] = entries[view]
            fresh |= {(kind, id): (stamp, data, b"") for kind, data in entries.items()}
        except OSError as error:
            bad[id] = f"the record of {id} cannot be read: {error.strerror or error}"
        except Exception as error:  # whatever one run holds, the others are answered for
            bad[id] = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
    index.write(root, fresh)
    if view == "runs":
        status, created = (VIEWS["runs"].split().index(c) for c in ("status", "created"))
        for id, (row, _) in found.items():
            if row[status] == "running" and not files.is_locked(root / id / ".lock"):
                row[status] = "interrupted"
        found = dict(sorted(found.items(), key=lambda item: (str(item[1][0][created]), item[0])))
    return found, bad


def tell(bad: Mapping[str, str]) -> None:
    """Name on stderr every run that is left out (by Python's logging, so that a program can have it elsewhere)."""
    for id, why in list(bad.items())[:SHOWN]:
        _LOG.warning("headlab: left out: run %s: %s", id, " ".join(why.split())[:400])
    if len(bad) > SHOWN:
        _LOG.warning("headlab: left out: %d more runs that cannot be read", len(bad) - SHOWN)
