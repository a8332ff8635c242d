"""Everything that is run is stored: a record (JSON) and tables (Parquet) per run, whole or not at all.

    records   Record, Reading: the JSON part, schema-numbered
    files     atomic writes, checksums, Parquet, locks
    runs      Run: a run in the making; shards, resume
    query     SQL over all runs
    export    one zip for a referee

Layout: ``<root>/<id>/record.json``, ``<root>/<id>/<table>.parquet``, and ``<root>/<id>/shards/`` until the
run is complete.  Nothing outside ``<root>`` is read or written (an export goes where it is told to).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlab.store import export as _export
from headlab.store import files
from headlab.store import query as _query
from headlab.store.records import (
    RUN_ID,
    SCHEMA,
    STORE_KEEPS,
    Kind,
    NamedEstimate,
    Reading,
    Record,
    StoreError,
    StoreLookupError,
    TableInfo,
    content_hash,
)
from headlab.store.runs import Run, now

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SCHEMA",
    "NamedEstimate",
    "Reading",
    "Record",
    "Run",
    "Store",
    "StoreError",
    "StoreLookupError",
    "TableInfo",
    "content_hash",
]

DEFAULT_ROOT = "headlab-runs"


class Store:
    """A folder of runs.  ``root`` defaults to ``$HEADLAB_STORE``, else to ``./headlab-runs``."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get("HEADLAB_STORE") or DEFAULT_ROOT)

    # -- writing --------------------------------------------------------------------------------------------

    def open(self, *, kind: Kind, slug: str, title: str, inputs: Mapping[str, Any], draft: Mapping[str, Any]) -> Run:
        """Begin a run, or take up the unfinished one with the same inputs (and the same versions of the
        software).

        ``inputs`` is everything that rules the numbers; its hash is the run's key.  ``draft`` holds what is
        known of the record before the first forward pass, the claim above all: it is hashed and written here.
        Raises StoreError when another process is at work on the same run, or the folder cannot be written.
        """
        slug = _checked(slug)
        if taken := sorted(STORE_KEEPS & draft.keys()):
            raise StoreError(f"a draft cannot set {', '.join(taken)}: the store sets them")
        key = content_hash({"kind": kind, "slug": slug, "inputs": dict(inputs)})
        fields = {**draft, "claim_hash": _claim_hash(draft)}
        files.make_folder(self.root)
        guard = files.Lock(self.root / ".lock")
        guard.acquire(wait=True)
        try:
            return self._resumed(key, slug, fields) or self._begun(key, kind, slug, title, fields)
        finally:
            guard.release()

    def _resumed(self, key: str, slug: str, fields: Mapping[str, Any]) -> Run | None:
        for id in self._ids():
            if not id.startswith(f"{slug}-{key[:8]}") or not self._resumable(id, key, fields):
                continue
            folder = self.root / id
            lock = self._lock(folder)
            if not self._resumable(id, key, fields):  # it was completed while we came to the lock
                lock.release()
                continue
            files.clear_temporary(folder)
            files.clear_temporary(folder / "shards")
            old = self.record(id)
            stored = len(list((folder / "shards").glob("*.json")))
            note = f"Resumed on {now()}: it was {_seen(old, locked=False)}; {stored} shards were stored."
            fresh = {**fields, "status": "running", "error": "", "finished": None, "warnings": old.warnings}
            return Run(folder, old.updated({**fresh, "notes": [*old.notes, note]}), lock)
        return None

    def _resumable(self, id: str, key: str, fields: Mapping[str, Any]) -> bool:
        """Whether the run is unfinished, asked the same and was made by the same software.  Another version
        may give other digits, so its shards are left alone, as is a record that cannot be read.
        """
        try:
            record = self.record(id)
        except StoreError:
            return False
        return record.key == key and record.status != "complete" and record.versions == fields.get("versions", {})

    def _begun(self, key: str, kind: Kind, slug: str, title: str, fields: Mapping[str, Any]) -> Run:
        taken, base, number = set(self._ids()), f"{slug}-{key[:8]}", 2
        id = base
        while id in taken:
            id, number = f"{base}-{number}", number + 1
        record = Record(id=id, kind=kind, slug=slug, title=title, created=now(), key=key).updated(fields)
        folder = self.root / id
        files.make_folder(folder)
        return Run(folder, record, self._lock(folder))

    def _lock(self, folder: Path) -> files.Lock:
        lock = files.Lock(folder / ".lock")
        if not lock.acquire(wait=False):
            raise StoreError(f"run {folder.name} is being made by another process; wait for it, or use another --store")
        return lock

    # -- reading --------------------------------------------------------------------------------------------

    def _ids(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if RUN_ID.fullmatch(p.name) and (p / "record.json").is_file())

    def find(self, id: str) -> str:
        """The full id of the run whose id is, or begins with, ``id``.  Raises StoreLookupError: unknown, or
        several.
        """
        wanted, ids = _checked(id), self._ids()
        if wanted in ids:
            return wanted
        found = [i for i in ids if i.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise StoreLookupError(
                f"{wanted!r} is the beginning of {len(found)} runs: {', '.join(found[:8])}; give more of it"
            )
        near = difflib.get_close_matches(wanted, ids, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`headlab list` shows what is there"
        raise StoreLookupError(f"no run {wanted!r} in the store {self.root} ({len(ids)} runs); {hint}")

    def record(self, id: str) -> Record:
        """The record of a run, by its id or an unambiguous beginning of it."""
        name = self.find(id)
        record = Record.from_json((self.root / name / "record.json").read_bytes(), f"the record of {name}")
        if record.id != name:
            raise StoreError(f"the folder {self.root / name} holds the record of {record.id}; rename it to that")
        return record

    def records(self) -> tuple[list[Record], dict[str, str]]:
        """Every readable record, oldest first, and the reason for each that is not.

        A run that says it is running while no process holds its lock was killed: it is ``interrupted`` here.
        """
        good, bad = [], {}
        for id in self._ids():
            try:
                record = self.record(id)
            except StoreError as error:
                bad[id] = str(error)
                continue
            locked = record.status == "running" and files.is_locked(self.root / id / ".lock")
            record.status = _seen(record, locked=locked)
            good.append(record)
        return sorted(good, key=lambda r: (r.created, r.id)), bad

    def list(self) -> pd.DataFrame:
        """One row per run: id, kind, slug, model, outcome, status, created, seconds."""
        import pandas as pd

        columns = ["id", "kind", "slug", "model", "outcome", "status", "created", "seconds"]
        good, bad = self.records()
        rows = [{"id": row["run_id"], **row} for row in _query.run_rows(good)]
        rows += [{"id": id, "status": "unreadable"} for id in bad]
        return pd.DataFrame(rows, columns=columns).astype({"seconds": "float64"})

    def table(self, id: str, name: str) -> pd.DataFrame:
        """A stored table.  Raises StoreError when the run has none of that name, or its checksum does not
        hold.
        """
        return files.from_parquet(self._bytes(self.record(id), name))

    def tables(self, id: str) -> dict[str, pd.DataFrame]:
        """Every table of a run."""
        record = self.record(id)
        return {name: files.from_parquet(self._bytes(record, name)) for name in record.tables}

    def _bytes(self, record: Record, name: str) -> bytes:
        info = record.tables.get(name)
        if info is None:
            raise StoreLookupError(
                f"run {record.id} has no table {name!r}; it has {', '.join(record.tables) or 'none'}"
            )
        try:
            data = (self.root / record.id / f"{name}.parquet").read_bytes()
        except OSError as error:
            raise StoreError(
                f"table {name!r} of run {record.id} cannot be read: {error.strerror}; run it again"
            ) from error
        if files.sha256(data) != info.sha256:
            raise StoreError(f"table {name!r} of run {record.id} is damaged: its checksum does not hold; run it again")
        return data

    def query(self, sql: str) -> pd.DataFrame:
        """The answer to one SELECT over all runs: views ``runs``, ``readings``, ``estimates`` and every table
        by its name (``effects``, ``worlds``, …) with the column ``run_id``.  It reads the store and nothing
        else.
        """
        good, _ = self.records()
        return _query.query(self.root, good, sql)

    def keep_page(self, id: str, page: str) -> Path:
        """Put a run's HTML report beside its record, as ``report.html``."""
        path = self.root / self.find(id) / "report.html"
        files.write_atomic(path, page.encode())
        return path

    def export(self, id: str, out: Path | str, page: bytes | str = b"") -> Path:
        """Write a self-contained zip of a run and its children; ``page`` is its HTML report.

        ``out`` is a file name, or a folder in which ``<id>.zip`` is written.
        """
        record = self.record(id)
        contents = [record, *(self.record(child) for child in record.children)]
        out = Path(out)
        if out.is_dir():
            out = out / f"{record.id}.zip"
        elif not out.parent.is_dir():
            raise StoreLookupError(f"cannot write {out}: there is no folder {out.parent}")
        tables = {r.id: {name: self._bytes(r, name) for name in r.tables} for r in contents}
        return _export.write_zip(out, contents, tables, page.encode() if isinstance(page, str) else page)


def _seen(record: Record, *, locked: bool) -> Any:
    return "interrupted" if record.status == "running" and not locked else record.status


def _checked(id: str) -> str:
    if not RUN_ID.fullmatch(id):
        raise StoreLookupError(f"not a run's id: {id!r}; expected a-z, 0-9 and -, as `headlab list` shows them")
    return id


def _claim_hash(draft: Mapping[str, Any]) -> str | None:
    """The claim's hash, as :meth:`headlab.claims.Claim.content_hash` gives it; a different one is refused."""
    if draft.get("claim") is None:
        return None
    own = content_hash(draft["claim"])
    if draft.get("claim_hash") not in (None, own):
        raise StoreError(
            f"the claim's hash is {own}, not {draft['claim_hash']}: the claim was changed after it was hashed"
        )
    return own
