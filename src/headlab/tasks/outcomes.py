"""A table of subset outcomes, read and checked: which members were in, whether it worked, who reported it.

Columns of a file: ``blocks`` (whole numbers from 0, parted by spaces), ``success`` (0 or 1); ``size`` is checked when it
is there, ``sources`` (names joined by ``+``) may be left out.  Lines that begin with ``#`` are skipped, other columns
ignored.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from headlab.reading import brief, repeated, some, text_of

SHIPPED = "even_head_subsets.csv"
SHIPPED_RANDOM = ("spec", "spatial+spec")
"""Sources of the shipped table whose 8-subsets were drawn at random."""

MOST_BYTES = 8 * 1024 * 1024

_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class Outcomes:
    """Distinct subsets with one outcome each.  ``places`` is one more than the highest member."""

    name: str
    subsets: tuple[tuple[int, ...], ...]
    success: tuple[bool, ...]
    sources: tuple[str, ...]

    @property
    def places(self) -> int:
        return 1 + max(max(s) for s in self.subsets)

    @cached_property
    def membership(self) -> Any:
        """``[subset, member]`` booleans."""
        out = np.zeros((len(self.subsets), self.places), dtype=bool)
        for row, members in enumerate(self.subsets):
            out[row, list(members)] = True
        return out

    @cached_property
    def worked(self) -> Any:
        """``[subset]`` booleans."""
        return np.array(self.success, dtype=bool)

    @cached_property
    def sizes(self) -> Any:
        """``[subset]`` whole numbers."""
        return np.array([len(s) for s in self.subsets])

    def of_pool(self, name: str) -> Any:
        """``[subset]``: whether every member is even, or odd; ``any`` is all of them.  Raises ValueError."""
        if name not in {"even", "odd", "any"}:
            raise ValueError(f"no pool {name!r} of a table; expected even, odd or any")
        if name == "any":
            return np.ones(len(self.subsets), dtype=bool)
        return np.array([all(m % 2 == (name == "odd") for m in s) for s in self.subsets])

    def frame(self) -> Any:
        """The table as it is stored."""
        import pandas as pd

        return pd.DataFrame(
            {
                "size": self.sizes,
                "blocks": [" ".join(map(str, s)) for s in self.subsets],
                "success": self.worked.astype(int),
                "sources": list(self.sources),
            }
        )


def shipped() -> Outcomes:
    """The published table that ships with headlab."""
    text = (resources.files("headlab.tasks") / "data" / SHIPPED).read_text("utf-8")
    return _from_rows(*_rows(text, SHIPPED), SHIPPED)


def read(given: Any) -> Outcomes:
    """From a CSV file, a DataFrame with the same columns, or None (the shipped table).

    Raises ValueError: one line that names the file, the line or the column, and what was expected.
    """
    if given is None:
        return shipped()
    if isinstance(given, Outcomes):
        return given
    if isinstance(given, str | Path):
        path = Path(given)
        if not path.is_file():
            raise ValueError(f"no such file: {path}; expected a CSV with the columns blocks and success")
        return _from_rows(*_rows(text_of(path, most=MOST_BYTES, error=ValueError), str(path)), path.name)
    if not hasattr(given, "columns") or not hasattr(given, "to_dict"):
        raise ValueError(f"expected a CSV file's path or a DataFrame, given {type(given).__name__}")
    _check_columns([str(c) for c in given.columns], "the frame")
    rows = [{str(k): v for k, v in row.items()} for row in given.to_dict("records")]
    return _from_rows(rows, [f"row {i}" for i in range(len(rows))], "a frame")


def _rows(text: str, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a CSV, and what an error calls each."""
    numbered = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and line.lstrip()[0] != "#"]
    if not numbered:
        raise ValueError(f"{name} holds no lines; expected a header with the columns blocks and success")
    (at, header), *body = numbered
    columns = [c.strip() for c in _cells(header, f"{name}, line {at}")]
    _check_columns(columns, f"{name}, line {at}")
    rows, places = [], []
    for number, line in body:
        place = f"{name}, line {number}"
        cells = _cells(line, place)
        if len(cells) != len(columns):
            raise ValueError(f"{place}: {len(cells)} cells, expected {len(columns)} ({some(columns)})")
        rows.append(dict(zip(columns, cells, strict=True)))
        places.append(place)
    return rows, places


def _cells(line: str, place: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line)))
    except csv.Error as error:
        raise ValueError(f"{place}: not CSV ({error})") from error


def _check_columns(columns: Sequence[str], place: str) -> None:
    for wanted in ("blocks", "success"):
        if wanted not in columns:
            raise ValueError(f"{place}: there is no column {wanted!r}; it has {some(columns) or 'none'}")
    if (twice := repeated(columns)) is not None:
        raise ValueError(f"{place}: the column {brief(twice)} stands twice")


def _from_rows(rows: Iterable[Mapping[str, Any]], places: Sequence[str], name: str) -> Outcomes:
    seen: dict[tuple[int, ...], str] = {}
    success, sources = [], []
    for row, place in zip(rows, places, strict=True):
        members = _members(row["blocks"], place)
        if members in seen:
            raise ValueError(
                f"{place}: the subset {brief(' '.join(map(str, members)))} stood at {seen[members]} already; give each subset "
                "once (a repeated greedy run is no new sample)"
            )
        seen[members] = place.rsplit(", ", 1)[-1]
        size = str(row.get("size", len(members))).strip()
        if size not in {str(len(members)), f"{len(members)}.0"}:
            raise ValueError(f"{place}: column 'size' says {size[:40]}, but 'blocks' holds {len(members)}")
        success.append(_yes(row["success"], place))
        source = row.get("sources")
        sources.append("" if source is None or source != source else str(source).strip())
    if len(seen) < 2:
        raise ValueError(f"{name} holds {len(seen)} subset(s); expected at least 2")
    return Outcomes(name, tuple(seen), tuple(success), tuple(sources))


def _members(value: Any, place: str) -> tuple[int, ...]:
    words = value.split() if isinstance(value, str) else list(value) if np.iterable(value) else [value]
    try:
        members = [int(str(w)) for w in words]
    except ValueError as error:
        raise ValueError(
            f"{place}: column 'blocks' holds {brief(value)}; expected whole numbers parted by spaces, such as 0 2 14"
        ) from error
    if not members or min(members) < 0 or max(members) > 4095 or len(set(members)) != len(members):
        raise ValueError(f"{place}: column 'blocks' holds {brief(value)}; expected distinct numbers from 0 to 4095")
    return tuple(sorted(members))


def _yes(value: Any, place: str) -> bool:
    word = str(value).strip().lower().removesuffix(".0")
    if word not in _YES:
        raise ValueError(f"{place}: column 'success' holds {brief(value)}; expected 0 or 1")
    return _YES[word]


@dataclass(frozen=True)
class Family:
    """The subsets that the claim is about: ``size`` members, all from ``pool``; ``drawn`` are those known to be a
    random sample (all of them where nothing is known)."""

    size: int
    pool: str
    kept: Any
    drawn: Any
    sampled: bool

    @property
    def words(self) -> str:
        return f"{'' if self.pool == 'any' else self.pool + ' '}{self.size}-subsets"


def family(table: Outcomes, size: int | None, pool: str | None, random_sources: Sequence[str]) -> Family:
    """The family as asked for; else the size with most subsets (the smallest of equals), and the even or the odd ones
    where at least half of that size's are all even or all odd.  Raises ValueError when it would be empty."""
    if size is None:
        counts = np.bincount(table.sizes)
        size = int(counts.argmax())
    of_size = table.sizes == size
    if pool is None:
        shares = {p: (table.of_pool(p) & of_size).sum() / max(1, of_size.sum()) for p in ("even", "odd")}
        pool = next((p for p, share in shares.items() if share >= 0.5), "any")
    kept = of_size & table.of_pool(pool)
    if kept.sum() < 2:
        sizes = ", ".join(map(str, sorted(set(table.sizes.tolist()))))
        raise ValueError(f"{int(kept.sum())} subset(s) of size {size} from the pool {pool!r}; the sizes are {sizes}")
    drawn = kept & np.array([s in random_sources for s in table.sources])
    if random_sources and not drawn.any():
        raise ValueError(f"no subset of the family has the sources {' or '.join(random_sources)}")
    return Family(size, pool, kept, drawn if random_sources else kept, bool(random_sources))
