"""Files that are there whole or not at all: atomic writes, checksums, tables as Parquet, one lock per run."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlab.store.records import StoreError

if TYPE_CHECKING:
    import pandas as pd

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def sha256(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: after any crash the file holds the old content or the new, never a part.

    Raises StoreError on a full disk or a folder that cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(error, path) from error
    finally:
        with suppress(OSError):  # what went wrong above is the error to be told
            temporary.unlink(missing_ok=True)


def stamp(path: str) -> str:
    """What changes when a file does: times, size, place on the disk.  Raises OSError."""
    found = os.stat(path)
    return f"{found.st_mtime_ns} {found.st_ctime_ns} {found.st_size} {found.st_ino}"


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, and a rename is in its journal already
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(error: OSError, path: Path) -> StoreError:
    """The one clear error for a file that could not be written."""
    if error.errno in FULL:
        return StoreError(
            f"disk full: could not write {path}; everything stored before it is intact. "
            "Free some space (or name another folder with --store) and run the same command again: it resumes"
        )
    return StoreError(f"cannot write {path}: {error.strerror or error}; name a folder that can be written (--store)")


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents.  Raises StoreError when that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(error, folder) from error


def clear_temporary(folder: Path) -> None:
    """Remove what a killed process left half-written in ``folder``."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def to_parquet(frame: pd.DataFrame, name: str) -> bytes:
    """``frame`` as a Parquet file's bytes; the same frame gives the same bytes.

    A named index becomes columns, an unnamed one is dropped.  Raises StoreError naming what Parquet cannot
    hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = any(level is not None for level in frame.index.names)
    frame = frame.reset_index(drop=not named)
    if not all(isinstance(column, str) for column in frame.columns):
        raise StoreError(f"table {name!r} has columns {list(frame.columns)!r}; expected names that are text")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, ValueError) as error:
        raise StoreError(f"table {name!r} cannot be stored: {' '.join(str(error).split())}") from error
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


CELLS = 2**12
"""A table of no more cells is kept with what is known of its run: to open a file costs more than to read it."""


def kept(data: bytes) -> tuple[str, bytes]:
    """The schema of a Parquet file, as text, and a small one's rows as a record batch (else no bytes)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data))
    schema, told = file.schema_arrow.remove_metadata(), file.metadata
    text = base64.b64encode(schema.serialize()).decode()
    if told.num_rows * told.num_columns > CELLS or "dictionary" in str(schema):  # whose values lie outside a batch
        return text, b""
    batches = file.read(use_threads=False).combine_chunks().to_batches()
    rows = batches[0].serialize().to_pybytes() if len(batches) == 1 else b""
    return text, rows if len(rows) <= 16 * CELLS else b""


def from_parquet(data: bytes) -> pd.DataFrame:
    """The frame in a Parquet file's bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data)).to_pandas()


class Lock:
    """An exclusive lock on a file; the kernel lets it go when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Any = None

    def acquire(self, *, wait: float | None = 0.0) -> bool:
        """Take the lock; False when another process still has it after ``wait`` seconds (None: however long)."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._path, timeout=-1 if wait is None else wait, mode=0o644, thread_local=False)
        try:
            lock.acquire(poll_interval=0.02)
        except Timeout:
            return False
        except OSError as error:
            raise cannot_write(error, self._path) from error
        except NotImplementedError as error:
            raise StoreError(f"cannot lock {self._path}: {error}; use a local --store") from error
        self._held = lock
        return True

    def release(self) -> None:
        """Let go; releasing twice does no harm."""
        if self._held is not None:
            self._held.release()
            self._held = None


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock at ``path``.  Where it cannot be asked (a store that is only read), no."""
    if not path.exists() or not os.access(path, os.W_OK):
        return False
    lock = Lock(path)
    try:
        if not lock.acquire():
            return True
    except StoreError:
        return False
    lock.release()
    return False
