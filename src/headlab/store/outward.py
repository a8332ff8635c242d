"""Files that a user named, outside the store."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from headlab.store.files import cannot_write, write_atomic
from headlab.store.records import StoreLookupError


def write_out(path: Path, data: bytes, store: Path | None = None) -> None:
    """Write ``data`` where a user said, and replace nothing but an ordinary file.

    A link is followed; an ordinary file, or a new one, is written whole or not at all; a pipe, a terminal and the like
    are written into.  Raises StoreLookupError for a folder, a missing folder, a disk, a socket and a pipe that nobody
    reads, and for a place inside ``store``; StoreError when the writing fails.
    """
    try:
        real = path.resolve()
        mode = path.stat().st_mode if path.exists() else None
    except (OSError, RuntimeError) as error:
        raise StoreLookupError(f"cannot write {path}: {error}") from error
    if (mode is not None and stat.S_ISDIR(mode)) or not real.parent.is_dir():
        raise StoreLookupError(f"cannot write {path}: expected a file name in a folder that exists")
    handed = any(path.absolute().is_relative_to(place) for place in ("/dev", "/proc"))  # an open file of the shell's
    if store is not None and real.is_relative_to(store.resolve()):
        raise StoreLookupError(
            f"cannot write {path}: it lies in the store {store}, which only headlab writes; name a place outside"
        )
    if mode is None or (stat.S_ISREG(mode) and not handed):
        return write_atomic(real, data)
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise StoreLookupError(f"cannot write {path}: it is a disk or a socket; name a file")
    try:
        handle = os.open(
            path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)
        )  # a pipe without a reader is told, not waited for
    except OSError as error:
        raise StoreLookupError(f"cannot write {path}: {error.strerror}; a pipe needs somebody who reads it") from error
    try:
        with os.fdopen(handle, "wb") as into:
            os.set_blocking(handle, True)
            into.write(data)
    except OSError as error:
        raise cannot_write(error, path) from error
