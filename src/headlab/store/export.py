"""One self-contained zip for a referee: the report, the records and every table of a run and its children."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from headlab.reading.shown import csv_text
from headlab.store import files
from headlab.store.outward import write_out
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

Each record holds the SHA-256 of its Parquet files under "tables", and the hash of its claim, taken before the
first forward pass, under "claim_hash".
"""


def readme(record: Record, contents: Sequence[Record]) -> str:
    """The text that tells a reader of the zip what is in it."""
    sentence = record.readings[0].verdict.sentence if record.readings else f"Status: {record.status}. {record.error}"
    return _README.format(
        title=record.title,
        line="=" * len(record.title),
        sentence=sentence.strip(),
        runs="\n".join(f"    {r.id}/  {r.title}" for r in contents),
        command=record.call.get("command", "(not recorded)"),
        python=record.call.get("python", "(not recorded)"),
        id=record.id,
    )


def write_zip(out: Path, contents: Sequence[Record], tables: Mapping[str, Mapping[str, bytes]], page: bytes) -> Path:
    """Write the zip of ``contents`` (the run first, then its children) and their tables' Parquet bytes to
    ``out``.

    The same content gives the same bytes.
    """
    members: dict[str, bytes] = {"README.txt": readme(contents[0], contents).encode()}
    if page:
        members["report.html"] = page
    for record in contents:
        members[f"runs/{record.id}/record.json"] = record.to_json().encode()
        for name, data in tables[record.id].items():
            members[f"runs/{record.id}/{name}.parquet"] = data
            members[f"runs/{record.id}/{name}.csv"] = csv_text(files.from_parquet(data)).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)  # dated 1980, like every member: the same content, the same bytes
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    write_out(out, buffer.getvalue())
    return out
