"""What lies in a store's folder: ids, records, and what a run leaves behind until it is settled.

A run is **settled** when its folder ``shards/`` is gone: that is the last thing done.  Until then the same inputs
come back to the same run, also when its record says ``complete`` already (then with its result, nothing is run again),
so that a kill between the last number and the printed verdict costs no second run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from headlab.store import files
from headlab.store.records import RUN_ID, Record, StoreError

SHARDS = "shards"
"""The folder that every run has until it is settled."""


def ids(root: Path, beginning: str = "") -> Iterator[str]:
    """The runs in a store whose ids begin so, in no order."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(beginning) and RUN_ID.fullmatch(entry.name):
                with suppress(OSError):
                    if os.path.isfile(os.path.join(entry.path, "record.json")):
                        yield entry.name


def read_record(root: Path, id: str) -> Record:
    """The record of the run of exactly this id.  Raises StoreError."""
    name = f"the record of {id}"
    try:
        data = (root / id / "record.json").read_bytes()
    except OSError as error:
        raise StoreError(f"{name} cannot be read: {error.strerror or error}") from error
    return Record.from_json(data, name, id)


def is_settled(root: Path, id: str) -> bool:
    """Whether nothing of the run is left to be done."""
    return not (root / id / SHARDS).exists()


def settle(root: Path, id: str) -> None:
    """Drop what only a run in the making needs, its children's first: shards and half-written files.

    A run that another process holds, or that is not complete, stays as it is.
    """
    record = read_record(root, id)
    for child in record.children:
        with suppress(StoreError):
            settle(root, child)
    folder = root / id
    if record.status != "complete" or is_settled(root, id):
        return
    with suppress(StoreError):  # a store that is only read has nothing to settle
        lock = files.Lock(folder / ".lock")
        if lock.acquire():
            try:
                clear(folder)
            finally:
                lock.release()


def clear(folder: Path) -> None:
    """The end of a run whose lock is held: ``shards/`` goes last."""
    files.clear_temporary(folder)
    shutil.rmtree(folder / SHARDS, ignore_errors=True)


def seen(record: Record, *, locked: bool) -> Any:
    """A run that says it is running while no process holds its lock was killed: it is interrupted."""
    return "interrupted" if record.status == "running" and not locked else record.status
