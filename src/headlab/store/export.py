"""One self-contained zip for a referee: the report, the records and every table of a run and its children."""

from __future__ import annotations

import io
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from headlab.reading.shown import clean, csv_text
from headlab.store import files
from headlab.store.records import Record

_README = """{title}
{line}

{sentence}

report.html        the report; open it in any browser, it needs no network
runs/              the records (JSON) and tables (Parquet, and CSV for eyes and spreadsheets), one folder per
run: {runs}

Run it again:      {command}
or from Python:    {python}

`runs` is itself a headlab store:

    headlab list --store runs
    headlab show {id} --store runs
    headlab repeat {id} --store runs

and to see whether everything is as it was written:

    headlab verify THIS.zip          (or, without headlab: sha256sum -c README.txt, in the unpacked folder)

Each record holds the SHA-256 of its Parquet files under "tables", the hash of its claim, taken before the first
forward pass, under "claim_hash", and in its last line the SHA-256 of everything above it. None of these is a signature:
they show accidents and careless edits; whoever forges a file can compute them anew. To be safe from that, compare a
record's digest with one that was published elsewhere, or repeat the run.

"""

README, ABOVE = "README.txt", "  everything above this line"


def readme(record: Record, contents: Sequence[Record]) -> str:
    """The text that tells a reader of the zip what is in it."""
    sentence = record.readings[0].verdict.sentence if record.readings else f"Status: {record.status}. {record.error}"
    title = _line(record.title)
    return _README.format(
        title=title,
        line="=" * len(title),
        sentence=_line(sentence),
        runs="\n".join(f"    {r.id}/  {_line(r.title)}" for r in contents),
        command=_line(record.call.get("command", "(not recorded)")),
        python=_line(record.call.get("python", "(not recorded)")),
        id=record.id,
    )


def _line(text: str) -> str:
    """Received text in one line: a line of its own could pass for one of the list of checksums."""
    return clean(text).strip().replace("\n", "\\n")


def zipped(contents: Sequence[Record], tables: Mapping[str, Mapping[str, bytes]], page: bytes) -> bytes:
    """The zip of ``contents`` (the run first, then its children) and their tables' Parquet bytes.

    The same content gives the same bytes.
    """
    members: dict[str, bytes] = {"report.html": page} if page else {}
    for record in contents:
        members[f"runs/{record.id}/record.json"] = record.to_json().encode()
        for name, data in tables[record.id].items():
            members[f"runs/{record.id}/{name}.parquet"] = data
            members[f"runs/{record.id}/{name}.csv"] = csv_of(data)
    sums = "".join(f"{files.sha256(data)}  {name}\n" for name, data in members.items())
    text = (readme(contents[0], contents) + sums).encode()
    members = {README: text + f"{files.sha256(text)}{ABOVE}\n".encode(), **members}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)  # dated 1980, like every member: the same content, the same bytes
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def csv_of(parquet: bytes) -> bytes:
    """A table for eyes and spreadsheets."""
    return csv_text(files.from_parquet(parquet)).encode()


def in_store(call: Mapping[str, str], root: Path, default: Path) -> dict[str, str]:
    """The command and the line of Python that repeat a run, with the store that they were given."""
    if root == default or " --store " in call.get("command", ""):
        return dict(call)
    made = dict(call)
    if command := made.get("command"):
        made["command"] = f"{command} --store {shlex.quote(str(root))}"
    if (python := made.get("python", "")).endswith(")"):
        python = python.replace("headlab.Store()", f"headlab.Store({str(root)!r})")
        made["python"] = f"{python[:-1]}{'' if python.endswith('()') else ', '}store={str(root)!r})"
    return made
