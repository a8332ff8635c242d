"""A run's HTML report and, beside it, the checksum that ties it to the record that it was made from."""

from __future__ import annotations

from pathlib import Path

from headlab.store import files
from headlab.store.records import Record

PAGE, SUM = "report.html", "report.sha256"


def keep(folder: Path, page: str, record: Record) -> Path:
    """Write the page, then its checksum and the digest of its record; a kill between them costs the page only."""
    data = page.encode()
    files.write_atomic(folder / PAGE, data)
    files.write_atomic(folder / SUM, _sum(data, record))
    return folder / PAGE


def wrong(page: bytes, sum: bytes | None, record: Record) -> str:
    """Why a page is not the report of the record, as it was written; empty when it is."""
    if sum is None:
        return "it has no checksum (an older headlab wrote it, or it was never finished)"
    if sum == _sum(page, record):
        return ""
    made = sum.decode("ascii", "replace").splitlines()[1:] == [f"{record.digest}  record.json, its digest"]
    return "it was changed after it was written" if made else "it was made from another state of the record"


def _sum(page: bytes, record: Record) -> bytes:
    return f"{files.sha256(page)}  {PAGE}\n{record.digest}  record.json, its digest\n".encode()
