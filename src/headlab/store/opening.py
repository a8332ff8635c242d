"""Beginning a run, or taking up one that is unfinished or not settled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headlab.store import files
from headlab.store.folders import SHARDS, ids, is_settled, read_record, seen
from headlab.store.records import SCHEMA, Kind, Record, StoreError
from headlab.store.runs import Run, now

_PATIENCE = 0.1
"""Seconds for which a lock is asked again: whoever lists the runs holds it for a moment."""


def open_run(
    root: Path, key: str, slug: str, kind: Kind, title: str, fields: Mapping[str, Any], hold: bool, parent: Run | None
) -> Run:
    """The unfinished or unsettled run with this key and these versions, else a new one."""
    files.make_folder(root)
    guard = files.Lock(root / ".lock")
    guard.acquire(wait=None)
    try:
        found = _resumed(root, key, slug, fields, hold, parent)
        return found or _begun(root, key, slug, kind, title, fields, hold, parent)
    finally:
        guard.release()


def _resumed(root: Path, key: str, slug: str, fields: Mapping[str, Any], hold: bool, parent: Run | None) -> Run | None:
    for id in sorted(ids(root, f"{slug}-{key[:8]}")):
        if _resumable(root, id, key, fields) is None:
            continue
        folder = root / id
        lock = _lock(folder)
        old = _resumable(root, id, key, fields)
        if old is None:  # it was settled while we came to the lock
            lock.release()
            continue
        files.clear_temporary(folder)
        files.clear_temporary(folder / SHARDS)
        stored = len(list((folder / SHARDS).glob("*.json")))
        note = f"Resumed on {now()}: it was {seen(old, locked=False)}; {stored} shards were stored."
        fresh = {**_with_id(fields, id), "status": "running", "error": "", "finished": None, "warnings": old.warnings}
        fresh |= {"schema_version": SCHEMA, "notes": [*old.notes, note], "children": old.children}
        finished = old if old.status == "complete" else None
        return Run(folder, old.updated(fresh), lock, hold=hold, parent=parent, finished=finished)
    return None


def _resumable(root: Path, id: str, key: str, fields: Mapping[str, Any]) -> Record | None:
    """The run's record when it is not settled, was asked the same and made by the same software.  Another version may
    give other digits, so its shards are left alone, as is a record that cannot be read."""
    try:
        record = read_record(root, id)
    except StoreError:
        return None
    same = record.key == key and record.versions == fields.get("versions", {})
    return record if same and (record.status != "complete" or not is_settled(root, id)) else None


def _begun(
    root: Path, key: str, slug: str, kind: Kind, title: str, fields: Mapping[str, Any], hold: bool, parent: Run | None
) -> Run:
    base, number = f"{slug}-{key[:8]}", 2
    taken, id = set(ids(root, base)), base
    while id in taken:
        id, number = f"{base}-{number}", number + 1
    record = Record(id=id, kind=kind, slug=slug, title=title, created=now(), key=key).updated(_with_id(fields, id))
    folder = root / id
    files.make_folder(folder)
    return Run(folder, record, _lock(folder), hold=hold, parent=parent)


def _with_id(fields: Mapping[str, Any], id: str) -> dict[str, Any]:
    """Fields with the run's id in the lines that repeat it, which are written before it has one."""
    return {**fields, "call": {k: v.replace("{id}", id) for k, v in fields.get("call", {}).items()}}


def _lock(folder: Path) -> files.Lock:
    lock = files.Lock(folder / ".lock")
    if not lock.acquire(wait=_PATIENCE):
        raise StoreError(f"run {folder.name} is being made by another process; wait for it, or use another --store")
    return lock
