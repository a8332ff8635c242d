"""What was read from a store's files, kept beside them, so that a file that has not changed is not read again.

A cache in SQLite: an entry is good while its file's stamp (times, size, place on the disk) is the same.  Losing it
costs time only, and a store that cannot be written does without.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

NAME = ".index.sqlite"
_LAYOUT = 2
"""Counted up when an entry holds something else than before."""


def read(root: Path, kind: str) -> dict[str, tuple[str, str]]:
    """Name → stamp and JSON text of every entry of a kind."""
    if not (root / NAME).is_file():
        return {}
    with suppress(sqlite3.Error), closing(_opened(root)) as connection:
        rows = connection.execute("SELECT name, stamp, text FROM entry WHERE kind = ?", (f"{kind}{_LAYOUT}",))
        return {name: (stamp, text) for name, stamp, text in rows}
    return {}


def write(root: Path, entries: Mapping[tuple[str, str], tuple[str, Any]]) -> None:
    """Keep plain data under (kind, name) with its file's stamp; what cannot be kept is not."""
    if not entries or not root.is_dir():
        return
    rows = [(f"{k}{_LAYOUT}", n, s, json.dumps(d, ensure_ascii=False)) for (k, n), (s, d) in entries.items()]
    for _ in range(2):
        try:
            with closing(_opened(root)) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS entry (kind, name, stamp, text, PRIMARY KEY (kind, name))"
                )
                connection.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)", rows)
            return
        except sqlite3.OperationalError:  # locked, full, or only to be read
            return
        except (sqlite3.Error, OSError):  # damaged: begun anew
            with suppress(OSError):
                (root / NAME).unlink(missing_ok=True)


def _opened(root: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(root / NAME, timeout=2.0)
    connection.execute("PRAGMA synchronous = OFF")  # it can be made again
    return connection
