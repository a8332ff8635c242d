"""Everything that is run is stored: a record (JSON) and tables (Parquet) per run, whole or not at all.

    records   Record, Reading: the JSON part, schema-numbered, with its digest
    files     atomic writes, checksums, Parquet, locks
    folders   what lies in a store's folder, and what is left when a run is settled
    results   Result: what a run hands back
    runs      Run: a run in the making; shards, resume
    opening   beginning a run, or taking one up
    index     what was read already
    pages     the HTML report, tied to its record
    survey    the rows of every run
    query     SQL over all runs
    outward   files that a user named
    export    one zip for a referee
    verify    what holds of a run or of a zip

Layout: ``<root>/<id>/record.json``, ``<root>/<id>/<table>.parquet``, ``<root>/<id>/report.html`` with its
checksum, and ``<root>/<id>/shards/`` until the run is settled.  Nothing outside ``<root>`` is read or written (an export goes where
it is told to).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlab.store import export as _export
from headlab.store import files, folders, pages
from headlab.store import query as _query
from headlab.store import survey as _survey
from headlab.store import verify as _verify
from headlab.store.opening import open_run
from headlab.store.outward import write_out
from headlab.store.records import (
    RUN_ID,
    SCHEMA,
    STORE_KEEPS,
    Altered,
    Kind,
    NamedEstimate,
    Reading,
    Record,
    StoreError,
    StoreLookupError,
    TableInfo,
    content_hash,
)
from headlab.store.results import Result
from headlab.store.runs import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SCHEMA",
    "Altered",
    "NamedEstimate",
    "Reading",
    "Record",
    "Result",
    "Run",
    "Store",
    "StoreError",
    "StoreLookupError",
    "TableInfo",
    "content_hash",
]

DEFAULT_ROOT = "headlab-runs"


class Store:
    """A folder of runs.  ``root`` defaults to ``$HEADLAB_STORE``, else to ``./headlab-runs``.

    ``hold``: a complete run stays open to the same command until :meth:`settle` is called for it; the command line does
    so when the report is written and the verdict printed.
    """

    def __init__(self, root: Path | str | None = None, *, hold: bool = False) -> None:
        self.root = Path(root or os.environ.get("HEADLAB_STORE") or DEFAULT_ROOT)
        if os.path.exists(self.root) and not os.path.isdir(self.root):
            raise StoreLookupError(
                f"the store {self.root} is a file; name a folder (--store, HEADLAB_STORE), or none for {DEFAULT_ROOT}"
            )
        self._hold = hold
        self._runs: list[Run] = []

    # -- writing --------------------------------------------------------------------------------------------

    def open(
        self, *, kind: Kind, slug: str, title: str, inputs: Mapping[str, object], draft: Mapping[str, object]
    ) -> Run:
        """Begin a run, or take up the unfinished one with the same inputs (and the same versions of the
        software).

        ``inputs`` is everything that rules the numbers; its hash is the run's key.  ``draft`` holds what is
        known of the record before the first forward pass, the claim above all: it is hashed and written here.
        A run that is opened while another one of this Store is open is its child.
        Raises StoreError when another process is at work on the same run, or the folder cannot be written.
        """
        slug = _checked(slug)
        if taken := sorted(STORE_KEEPS & draft.keys()):
            raise StoreError(f"a draft cannot set {', '.join(taken)}: the store sets them")
        key = content_hash({"kind": kind, "slug": slug, "inputs": dict(inputs)})
        fields = {**draft, "claim_hash": _claim_hash(draft)}
        if "call" in draft:
            fields["call"] = _export.in_store(
                dict(draft["call"]),  # type: ignore[call-overload]
                self.root,
                Store().root,
            )
        self._runs = [run for run in self._runs if run.is_open]
        parent = self._runs[-1] if self._runs else None
        run = open_run(self.root, key, slug, kind, title, fields, self._hold, parent)
        self._runs.append(run)
        return run

    def settle(self, id: str) -> None:
        """The result of a complete run is handed over: drop what only its making needed, its children's too.

        From now on the same inputs begin another run.
        """
        folders.settle(self.root, self.find(id))

    # -- reading --------------------------------------------------------------------------------------------

    def find(self, id: str) -> str:
        """The full id of the run whose id is, or begins with, ``id``.  Raises StoreLookupError: unknown, or
        several.
        """
        wanted = _checked(id)
        if (self.root / wanted / "record.json").is_file():
            return wanted
        if (self.root / wanted).is_dir():  # not another run, whose id begins so
            raise StoreLookupError(
                f"{wanted} in the store {self.root} has no record.json: it was removed, or never written"
            )
        found = sorted(folders.ids(self.root, wanted))
        if len(found) == 1:
            return found[0]
        if found:
            raise StoreLookupError(
                f"{wanted!r} is the beginning of {len(found)} runs: {', '.join(found[:8])}; give more of it"
            )
        every = list(folders.ids(self.root))
        near = difflib.get_close_matches(wanted, every, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`headlab list` shows what is there"
        raise StoreLookupError(f"no run {wanted!r} in the store {self.root} ({len(every)} runs); {hint}")

    def record(self, id: str) -> Record:
        """The record of a run, by its id or an unambiguous beginning of it."""
        return folders.read_record(self.root, self.find(id))

    def load(self, id: str) -> Result:
        """The result of a stored run, by its id or an unambiguous beginning of it: record, tables, children, report.

        Raises StoreLookupError for an unknown id, StoreError for a table that is not as it was written.
        """
        record = self.record(id)
        inner = tuple(self.record(child) for child in record.children)
        return Result(record, self.tables(record.id), inner, self.page(record.id))

    @property
    def busy(self) -> bool:
        """Whether a run is being made here, or runs are held open for whoever will settle them."""
        return self._hold or any(run.is_open for run in self._runs)

    def records(self) -> tuple[list[Record], dict[str, str]]:
        """Every readable record, oldest first, and the reason for each that is not.

        A run that says it is running while no process holds its lock was killed: it is ``interrupted`` here.
        """
        good, bad = [], {}
        for id in sorted(folders.ids(self.root)):
            try:
                record = folders.read_record(self.root, id)
            except StoreError as error:
                bad[id] = str(error)
                continue
            locked = record.status == "running" and files.is_locked(self.root / id / ".lock")
            record.status = folders.seen(record, locked=locked)
            good.append(record)
        return sorted(good, key=lambda r: (r.created, r.id)), bad

    def list(self) -> pd.DataFrame:
        """One row per run: id, kind, slug, model, outcome, status, created, seconds.

        ``attrs["skipped"]`` has the reason for each run that is ``unreadable``; stderr names them.
        """
        import pandas as pd

        columns = ["id", "kind", "slug", "model", "outcome", "status", "created", "seconds"]
        good, bad = _survey.survey(self.root, "runs")
        names = _survey.VIEWS["runs"].split()
        rows = [{"id": id, **dict(zip(names, row, strict=True))} for id, (row, _) in good.items()]
        rows += [{"id": id, "status": "unreadable"} for id in sorted(bad)]
        frame = pd.DataFrame(rows, columns=columns).astype({"seconds": "float64"})
        frame.attrs["skipped"] = bad
        _survey.tell(bad)
        return frame

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
        if name not in record.tables:
            raise StoreLookupError(
                f"run {record.id} has no table {name!r}; it has {', '.join(record.tables) or 'none'}"
            )
        return _verify.table_bytes(self.root, record, name)

    def query(self, sql: str) -> pd.DataFrame:
        """The answer to one SELECT over all runs: views ``runs``, ``readings``, ``estimates`` and every table
        by its name (``effects``, ``worlds``, …) with the column ``run_id``.  It reads the store and nothing
        else.

        A run that cannot be read, or whose table is not as it was written, is left out; ``attrs["skipped"]`` has the
        reason, and stderr names it.
        """
        return _query.query(self.root, sql)

    def page(self, id: str) -> Path | None:
        """A run's HTML report, when it is there and is that of the record as it stands."""
        record = self.record(id)
        folder = self.root / record.id
        try:
            found = (folder / pages.PAGE).read_bytes(), (folder / pages.SUM).read_bytes()
        except OSError:
            return None
        return None if pages.wrong(*found, record) else folder / pages.PAGE

    def keep_page(self, id: str, page: str) -> Path:
        """Put a run's HTML report beside its record, as ``report.html``."""
        record = self.record(id)
        return pages.keep(self.root / record.id, page, record)

    def export(self, id: str, out: Path | str, page: bytes | str = b"") -> Path:
        """Write a self-contained zip of a run and its children; ``page`` is its HTML report.

        ``out`` is a file name, or a folder in which ``<id>.zip`` is written.  Raises StoreError when a record or a table
        is not as it was written.
        """
        record = self.record(id)
        contents = [record, *(self.record(child) for child in record.children)]
        out = Path(out)
        if out.is_dir():
            out = out / f"{record.id}.zip"
        elif not out.parent.is_dir():
            raise StoreLookupError(f"cannot write {out}: there is no folder {out.parent}")
        tables = {r.id: {name: self._bytes(r, name) for name in r.tables} for r in contents}
        data = _export.zipped(contents, tables, page.encode() if isinstance(page, str) else page)
        write_out(out, data, self.root)
        return out

    def verify(self, id: str, *, deep: bool = True) -> list[_verify.Finding]:
        """What holds of a run and its children: record, claim, tables (``deep``: their rows are counted), report."""
        return _verify.of_run(self.root, self.find(id), deep)


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
