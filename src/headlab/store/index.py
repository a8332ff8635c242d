"""What was read from a store's files, kept beside them, so that a file that has not changed is not read again.

A cache in SQLite: an entry is good while its file's stamp (times, size, place on the disk) is the same and its own
checksum holds.  Losing it costs time only, and a store that cannot be written does without.  So nothing is kept to undo
an interrupted write (which would leave a second file behind): what it spoilt fails its checksum and is read anew.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

NAME = ".index.sqlite"
_TABLE = "entry3"
"""Named anew when an entry holds something else than before."""


def read(root: Path, kind: str) -> dict[str, tuple[str, str, bytes]]:
    """Name → stamp, JSON text and bytes of every entry of a kind that is as it was written."""
    if not (root / NAME).is_file():
        return {}
    with suppress(sqlite3.Error), closing(_opened(root)) as connection:
        rows = connection.execute(f"SELECT name, stamp, text, data, sum FROM {_TABLE} WHERE kind = ?", (kind,))
        return {n: (stamp, text, data) for n, stamp, text, data, sum in rows if sum == _sum(kind, n, stamp, text, data)}
    return {}


def write(root: Path, entries: Mapping[tuple[str, str], tuple[str, Any, bytes]]) -> None:
    """Keep plain data and bytes under (kind, name) with its file's stamp; what cannot be kept is not."""
    if not entries or not root.is_dir():
        return
    texts = [(k, n, stamp, json.dumps(d, ensure_ascii=False), data) for (k, n), (stamp, d, data) in entries.items()]
    rows = [(*row, _sum(*row)) for row in texts]
    for _ in range(2):
        try:
            with closing(_opened(root)) as connection, connection:
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {_TABLE} (kind, name, stamp, text, data, sum, PRIMARY KEY (kind, name))"
                )
                connection.executemany(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?, ?, ?, ?, ?)", rows)
            return
        except sqlite3.OperationalError:  # locked, full, or only to be read
            return
        except (sqlite3.Error, OSError):  # damaged: begun anew
            with suppress(OSError):
                (root / NAME).unlink(missing_ok=True)


def _sum(kind: Any, name: Any, stamp: Any, text: Any, data: Any) -> int:
    """A checksum of an entry; from a damaged page anything may come, bytes or not."""
    said = zlib.crc32(repr((kind, name, stamp, text)).encode("utf-8", "surrogatepass"))
    return zlib.crc32(data, said) if isinstance(data, bytes) else -1


def _opened(root: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(root / NAME, timeout=2.0)
    connection.execute("PRAGMA synchronous = OFF")  # it can be made again
    connection.execute("PRAGMA journal_mode = MEMORY").close()
    return connection
