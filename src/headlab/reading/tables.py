"""Tables of strangers: the rows of a CSV or JSON-lines file, and columns that nobody reads by mistake."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from headlab.reading.bounds import ReadingError, brief, some
from headlab.reading.document import read_document, text_of

MOST_TABLE = 32 * 1024 * 1024
"""Bytes of a table at most."""
_QUOTED_LATE = re.compile(r"\s+\"")


def csv_rows(path: Path, *, error: type[Exception] = ReadingError) -> tuple[list[str], Iterator[dict[str, str]]]:
    """The columns of a CSV file, and its rows as they come (the first is row 2; blank lines are no rows).

    Line ends are taken alike (``\\r\\n``, ``\\r``, ``\\n``), within cells too.  Raises ``error``, at once or on the way:
    not CSV, a column twice, a row with more cells than the header, a quote after a space, which CSV readers take for
    text.
    """
    text = text_of(path, most=MOST_TABLE, error=error).replace("\r\n", "\n").replace("\r", "\n")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)

    def cells() -> Iterator[list[str]]:
        try:
            yield from filter(None, reader)
        except csv.Error as failed:
            raise error(f"{path.name}, line {reader.line_num}: not CSV ({failed})") from failed

    rows = cells()
    columns = next(rows, [])
    if (twice := repeated(columns)) is not None:
        raise error(f"{path.name}: the column {brief(twice)} stands twice")

    def made() -> Iterator[dict[str, str]]:
        for number, row in enumerate(rows, start=2):
            for column, cell in zip(columns, row, strict=False) if '"' in "".join(row) else ():
                if _QUOTED_LATE.match(cell):
                    raise error(
                        f"{path.name}, row {number}: column {brief(column)} holds a quote after a space, {brief(cell)}, which "
                        'would be part of the text; write ," …" with the comma before the quote'
                    )
            if len(row) > len(columns):
                raise error(f"{path.name}, row {number}: has more fields than the header: {brief(row[len(columns) :])}")
            yield dict(zip(columns, row, strict=False))

    return columns, made()


def repeated(columns: Sequence[str]) -> str | None:
    """The first column that stands twice, or None."""
    seen: set[str] = set()
    return next((c for c in columns if c in seen or seen.add(c)), None)


def json_rows(path: Path, *, error: type[Exception] = ReadingError) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers (only a newline parts lines; blank ones are none)."""
    for number, line in enumerate(text_of(path, most=MOST_TABLE, error=error).split("\n"), start=1):
        if not line.strip():
            continue
        name = f"{path.name}, row {number}"
        row = read_document(line, "json", name=name, error=error)[0]
        if not isinstance(row, dict):
            raise error(f"{name}: expected an object, given {type(row).__name__}")
        yield number, row


def check_columns(
    given: Iterable[Any], known: Sequence[str], needed: Sequence[str], where: str, error: type[Exception] = ReadingError
) -> None:
    """Raises ``error`` where a needed column is missing, or one is given that is not read and does not begin with ``_``."""
    columns = list(given)
    missing = [c for c in needed if c not in columns]
    strange = [c for c in columns if c not in known and not (isinstance(c, str) and c.startswith("_"))]
    if missing:
        has = (some(brief(c, 40) for c in columns) or "none") + _why(columns, missing, known)
        raise error(f"{where} lacks the column(s) {', '.join(missing)}; it has {has}")
    if strange:
        near = difflib.get_close_matches(str(strange[0])[:60].strip().lower().replace(" ", "_"), known, 1, 0.6)
        index = "; an index that pandas wrote is left out by to_csv(…, index=False)" if strange[0] == "" else ""
        hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(known)}{index}"
        raise error(
            f"{where}: the column {brief(strange[0])} is not read; {hint} (put _ before the name of a column of your own)"
        )


def _why(columns: Sequence[object], missing: Sequence[str], known: Sequence[str]) -> str:
    """What columns that are not there may have become: cells parted by something else, other capitals, no header."""
    names = [str(c) for c in columns]
    parted = (
        next((mark for mark in (";", "\t", "|") if any(c in names[0].split(mark) for c in missing)), "")
        if names
        else ""
    )
    if parted:
        return f"; its cells are parted by {parted!r}: write commas"
    if set(missing) <= {c.strip().lower() for c in names}:
        return "; write names in small letters, without spaces around them"
    if names and not set(known) & set(names):
        return f"; its first line must name the columns: {', '.join(known[:4])}"
    return ""
