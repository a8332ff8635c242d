"""A run that is being made: its shards, its tables, its record."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from headlab.store import files
from headlab.store.folders import SHARDS, clear, settle
from headlab.store.records import RESERVED, STORE_KEEPS, TABLE_NAME, Record, Status, StoreError, TableInfo

if TYPE_CHECKING:
    import pandas as pd

_SETTLED = STORE_KEEPS | {"claim", "claim_hash"}


def now() -> str:
    """UTC now, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Run:
    """A run in the making; :meth:`headlab.store.Store.open` gives one.  Use it as a context manager.

    Inside, :meth:`shard` stores each piece of work as soon as it is done, and on a second try gives back what
    is stored.  :meth:`table` stores a result, :meth:`finish` ends the run.  An exception ends it as
    ``failed``, Ctrl-C as ``interrupted``; its shards stay, and opening the same inputs again resumes it.

    ``finished``: the record of a run that was complete, but not settled, when it was opened: its result can be handed on
    as it stands.  ``hold``: settling waits for :meth:`headlab.store.Store.settle`; a run opened inside another one
    (``parent``) waits for that.
    """

    def __init__(
        self,
        directory: Path,
        record: Record,
        lock: files.Lock,
        *,
        hold: bool = False,
        parent: Run | None = None,
        finished: Record | None = None,
    ) -> None:
        self.directory = directory
        self.record = record
        self.finished = finished
        self._lock = lock
        self._hold = hold or parent is not None
        self._started = time.monotonic()
        self._spent = record.seconds or 0.0
        self._open = True
        self._written = False
        try:
            if finished is None:
                files.make_folder(directory / SHARDS)
                self.save()
            if parent is not None:
                parent.adopt(self.id)
        except BaseException:
            self._close()
            raise

    def adopt(self, child: str) -> None:
        """Name a run as a child: it stays open to the same inputs until this one is settled."""
        if child not in self.record.children:
            self.record.children = [*self.record.children, child]
            self.save()

    @property
    def id(self) -> str:
        """The run's name in the store."""
        return self.record.id

    def save(self) -> None:
        """Write the record as it stands."""
        self._must_be_open()
        self._written = True
        files.write_atomic(self.directory / "record.json", self.record.to_json().encode())

    def warn(self, text: str) -> None:
        """Add a line to the record's warnings, once, and save it."""
        if text not in self.record.warnings:
            self.record.warnings.append(text)
            self.save()

    def shard(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The rows called ``name``: read when they are stored and intact, else computed and stored.

        Rows come back from their stored form either way, so that a resumed run sees exactly what an unbroken
        one does.  A shard whose checksum does not hold is computed again, and the record's warnings say so.
        """
        stored = self.stored(name)
        return self.store(name, compute()) if stored is None else stored

    def stored(self, name: str) -> pd.DataFrame | None:
        """The rows called ``name``, when they are stored and intact."""
        self._must_be_open()
        path, mark = self._shard(name)
        if not mark.exists():  # the mark is written last: without it, no shard
            return None
        try:
            data, expected = path.read_bytes(), json.loads(mark.read_bytes())
            if expected == {"name": name, "sha256": files.sha256(data)}:
                return files.from_parquet(data)
            reason = "its checksum does not hold"
        except (OSError, ValueError) as error:
            reason = f"{type(error).__name__} on reading it"
        self.warn(f"shard {name!r} was damaged ({reason}) and was computed again")
        return None

    def store(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep ``frame`` as the rows called ``name``; returns them as they will be read."""
        self._must_be_open()
        path, mark = self._shard(name)
        data = files.to_parquet(frame, name)
        files.make_folder(path.parent)
        mark.unlink(missing_ok=True)
        files.write_atomic(path, data)
        files.write_atomic(mark, json.dumps({"name": name, "sha256": files.sha256(data)}).encode())
        return files.from_parquet(data)

    def _shard(self, name: str) -> tuple[Path, Path]:
        """Where a shard and its mark lie."""
        path = self.directory / SHARDS / f"{_file_name(name)}.parquet"
        return path, path.with_suffix(".json")

    def table(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Store ``frame`` as the run's table ``name`` and return it as it will be read."""
        self._must_be_open()
        if not TABLE_NAME.fullmatch(name) or name in RESERVED:
            raise StoreError(
                f"not a table name: {name!r}; expected a-z, 0-9 and _, starting with a letter, and none of "
                + ", ".join(sorted(RESERVED))
            )
        data = files.to_parquet(frame, name)
        files.write_atomic(self.directory / f"{name}.parquet", data)
        self.record.tables[name] = TableInfo(rows=len(frame), sha256=files.sha256(data))
        self.save()
        return files.from_parquet(data)

    def finish(self, **fields: Any) -> Record:
        """Complete the run with the last ``fields`` of its record (``notes`` and ``warnings`` are added), and settle it
        unless that has to wait.

        Raises StoreError on a field that a record does not have, or that was settled when the run was opened
        (the claim among them: it was hashed before the first forward pass).
        """
        self._must_be_open()
        settled = sorted(_SETTLED & fields.keys())
        unknown = sorted(fields.keys() - Record.model_fields.keys())
        if settled or unknown:
            raise StoreError(
                f"run {self.id}: finish() cannot set {', '.join(settled + unknown)}; expected fields of a "
                "record that were not settled when the run was opened"
            )
        for lines in ("notes", "warnings"):  # added to, so that what the run itself noticed stays
            kept = getattr(self.record, lines)
            fields[lines] = [*kept, *(line for line in fields.get(lines, ()) if line not in kept)]
        once = [c for c in self.record.children if c not in fields.get("children", self.record.children)]
        self.record = self.record.updated({"seconds": self._seconds(), **fields, "error": ""})
        self._end("complete")
        for child in once:  # of an earlier sitting, whose model has changed since
            settle(self.directory.parent, child)
        return self.record

    def fail(self, error: BaseException | str, *, status: Status = "failed") -> None:
        """End the run without a result; what is stored stays, and the same inputs resume it."""
        self._must_be_open()
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.record = self.record.updated({"seconds": self._seconds(), "error": text})
        self._end(status)

    def _end(self, status: Status) -> None:
        try:
            self.record.status = status
            self.record.finished = now()
            self.save()
            if status == "complete":
                from headlab.store.survey import remember

                remember(self.directory.parent, self.record)
            if status == "complete" and not self._hold:
                for child in self.record.children:
                    settle(self.directory.parent, child)
                clear(self.directory)
        finally:
            self._close()

    @property
    def is_open(self) -> bool:
        """Whether it can still be written."""
        return self._open

    def _close(self) -> None:
        self._open = False
        self._lock.release()

    def _seconds(self) -> float:
        """Seconds of work in every sitting that ended in order."""
        return round(self._spent + time.monotonic() - self._started, 3)

    def _must_be_open(self) -> None:
        if not getattr(self, "_open", False):
            raise StoreError(f"run {self.record.id} is closed; open its inputs again to go on")

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        if self.finished is not None and not self._written:  # handed on as it stands
            self._close()
            if not self._hold:
                settle(self.directory.parent, self.id)
            return
        full = isinstance(error, OSError) and error.errno in files.FULL
        try:
            if error is None:
                self.fail("the run ended without finish()")
            else:
                self.fail(error, status="failed" if isinstance(error, Exception) else "interrupted")
        except StoreError:
            if error is None:
                raise  # else the record stays "running" without a lock, which reads as interrupted
        finally:
            self._close()
        if full and isinstance(error, OSError):
            raise files.cannot_write(error, Path(error.filename or self.directory)) from error


def _file_name(name: str) -> str:
    """A safe file name for any shard name; names that differ get files that differ."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60].strip("-") or "shard"
    return f"{readable}-{files.sha256(name.encode())[:10]}"
