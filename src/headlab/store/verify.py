"""What holds of a stored run or of an exported zip: records, claims, tables, reports.

Checksums show accidents, bad disks and careless edits.  They are no signatures: whoever changes a file and computes
every checksum that stands on it anew is not found out here, only by a copy kept elsewhere or by ``headlab repeat``.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from headlab.store import export, files, folders, pages
from headlab.store.records import Record, StoreError, StoreLookupError

State = Literal["holds", "broken", "not recorded"]
_SUM = re.compile(r"^([0-9a-f]{64})  (.+)$", re.MULTILINE)
_OWN = frozenset({"record.json", pages.PAGE, pages.SUM, ".lock"})
MEMBER_BYTES = 2**34
"""A member of a zip that unpacks to more than 16 GiB is not read."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: the run, what of it, whether it holds, and in words."""

    run: str
    what: str
    state: State
    words: str


def checked(data: bytes, id: str, name: str, sha256: str) -> bytes:
    """The bytes of a table, when they are those that the record names.  Raises StoreError."""
    if files.sha256(data) != sha256:
        raise StoreError(f"table {name!r} of run {id} is damaged: its checksum does not hold; run it again")
    return data


def table_bytes(root: Path, record: Record, name: str) -> bytes:
    """A stored table's bytes.  Raises StoreError when they cannot be read or are not those that were written."""
    try:
        data = (root / record.id / f"{name}.parquet").read_bytes()
    except OSError as error:
        raise StoreError(f"table {name!r} of run {record.id} cannot be read: {error.strerror}; run it again") from error
    return checked(data, record.id, name, record.tables[name].sha256)


def of_run(root: Path, id: str, deep: bool = True) -> list[Finding]:
    """Every finding about a stored run and its children; ``deep``: tables are read, beyond their checksum."""

    def read(run: str, name: str) -> bytes:
        return (root / run / name).read_bytes()

    def there(run: str) -> Iterable[str]:
        return sorted(p.name for p in (root / run).iterdir() if p.name != folders.SHARDS)

    found, record = _of(id, _Place(read, there, False, deep))
    if record is not None and record.status == "complete" and not folders.is_settled(root, id):
        words = "shards of its making are still there; the same command, or `headlab show`, ends it"
        found.append(Finding(id, "folder", "not recorded", words))
    return found


def of_zip(path: Path) -> list[Finding]:
    """Every finding about a zip that ``headlab export`` wrote.  Raises StoreLookupError when it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _of_archive(path, archive)
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise StoreLookupError(
            f"{path} cannot be read as a zip ({' '.join(str(error).split()) or type(error).__name__}); expected one that "
            "`headlab export` wrote"
        ) from error


@dataclass(frozen=True)
class _Place:
    """Where runs are read: a store or a zip."""

    read: Callable[[str, str], bytes]
    there: Callable[[str], Iterable[str]]
    zipped: bool
    deep: bool = True


def _of_archive(path: Path, archive: zipfile.ZipFile) -> list[Finding]:
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise StoreLookupError(f"{path} holds a name twice; expected a zip that `headlab export` wrote")
    ids = list(dict.fromkeys(PurePosixPath(n).parts[1] for n in names if n.startswith("runs/") and n.count("/") == 2))
    if not ids:
        raise StoreLookupError(f"{path} holds no runs; expected a zip that `headlab export` wrote")

    def member(name: str) -> bytes:
        if name not in names:
            raise FileNotFoundError(2, "it is not in the zip")
        if archive.getinfo(name).file_size > MEMBER_BYTES:
            raise ValueError(f"{name} is larger than {MEMBER_BYTES >> 30} GiB")
        return archive.read(name)

    def read(run: str, name: str) -> bytes:
        return member("report.html" if name == "report.html" else f"runs/{run}/{name}")

    def there(run: str) -> Iterable[str]:
        own = [n.rsplit("/", 1)[1] for n in names if n.startswith(f"runs/{run}/")]
        return own + (["report.html"] if run == ids[0] and "report.html" in names else [])

    found, _ = _of(ids[0], _Place(read, there, True))
    for id in ids[1:]:
        if id not in {f.run for f in found}:
            found.append(Finding(id, "record", "broken", "no record in the zip names this run"))
    return found + list(_sums(member, names))


def _sums(member: Callable[[str], bytes], names: Iterable[str]) -> Iterator[Finding]:
    """The README's list of checksums against every member, and against itself."""
    try:
        text = member(export.README)
    except OSError:
        yield Finding("", export.README, "broken", "it is missing from the zip")
        return
    above, _, last = text.removesuffix(b"\n").rpartition(b"\n")
    found = {name: sha for sha, name in _SUM.findall(above.decode("utf-8", "replace"))}
    if not found and export.ABOVE.encode() not in last:
        yield Finding("", export.README, "not recorded", "it lists no checksums (an older headlab wrote it)")
        return
    if last.decode("utf-8", "replace") != files.sha256(above + b"\n") + export.ABOVE:
        yield Finding("", export.README, "broken", "it was changed after the zip was written")
    else:
        yield Finding("", export.README, "holds", f"{len(found)} checksums")
    for name in dict.fromkeys([*names, *found]):
        if name not in names:
            yield Finding("", name, "broken", "it is missing from the zip")
        elif name not in found and name != export.README:
            yield Finding("", name, "broken", "it was added to the zip")
        elif name in found and files.sha256(member(name)) != found[name]:
            yield Finding("", name, "broken", "it was changed after the zip was written")


def _of(id: str, place: _Place, above: tuple[str, ...] = ()) -> tuple[list[Finding], Record | None]:
    """Findings about a run, then about its children."""
    try:
        record = Record.from_json(place.read(id, "record.json"), f"the record of {id}", id)
    except OSError as error:
        return [Finding(id, "record", "broken", f"it cannot be read: {error.strerror or error}")], None
    except StoreError as error:
        return [Finding(id, "record", "broken", str(error))], None
    found = [_seal(record)]
    if record.claim is not None:
        found.append(Finding(id, "claim", "holds", f"{record.claim_hash}, hashed before the first forward pass"))
    for name, info in record.tables.items():
        found.append(_table(id, name, info.sha256, info.rows, place))
    present = set(place.there(id))
    if pages.PAGE in present and not place.zipped:  # in a zip, the list of checksums says whether it holds
        sum = place.read(id, pages.SUM) if pages.SUM in present else None
        wrong = pages.wrong(place.read(id, pages.PAGE), sum, record)
        state: State = "not recorded" if wrong and sum is None else "broken" if wrong else "holds"
        found.append(Finding(id, "report", state, wrong or "made from this record"))
    known = {f"{name}.{end}" for name in record.tables for end in ("parquet", "csv")} | _OWN
    for name in sorted(present - known):
        found.append(Finding(id, name, "not recorded", "the record does not name this file"))
    for child in record.children:
        if child not in (*above, id):
            found += _of(child, place, (*above, id))[0]
    return found, record


def _seal(record: Record) -> Finding:
    if not record.sealed:
        words = "an older headlab wrote it, without a digest: a change to it cannot be seen"
        return Finding(record.id, "record", "not recorded", words)
    return Finding(record.id, "record", "holds", f"digest {record.digest}; {record.status}")


def _table(id: str, name: str, sha256: str, rows: int, place: _Place) -> Finding:
    what = f"table {name}"
    try:
        data = checked(place.read(id, f"{name}.parquet"), id, name, sha256)
        if not place.deep:
            return Finding(id, what, "holds", f"sha256 {sha256}")
        frame = files.from_parquet(data)
    except OSError as error:
        return Finding(id, what, "broken", f"it cannot be read: {error.strerror or error}")
    except Exception as error:  # whatever Arrow says of bytes that are no table
        return Finding(id, what, "broken", " ".join(str(error).split()))
    if len(frame) != rows:
        return Finding(id, what, "broken", f"it has {len(frame)} rows, the record says {rows}")
    if f"{name}.csv" in place.there(id) and place.read(id, f"{name}.csv") != export.csv_of(data):
        return Finding(id, what, "broken", f"{name}.csv is not what the Parquet file holds")
    return Finding(id, what, "holds", f"{rows} rows, sha256 {sha256}")
