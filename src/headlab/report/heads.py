"""Heads on a page: what a record holds about each of them, and the grid of layers × heads that shows it.

Nothing is measured here.  What is said of a head is arithmetic over the sets of a null (how many held it, their mean, the mean
of the others), the cells of figures of single heads, and the rows of tables that have one for each head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headlab.effects import Figure
from headlab.heads import Head, Heads

from . import marks, words
from .nulls import Null, parsed
from .patterns import Attended

if TYPE_CHECKING:
    import pandas as pd

    from headlab.store import Record

HEADS_INLINE = 1_024
"""Heads that stand in a page; of more, those of the claim and those farthest from 0."""
COLUMNS = 5
"""Numbers that a page takes from a table of heads."""
SHADES = 4
"""Steps of colour on either side of 0."""
_NO_EFFECT = re.compile(r"layer|head|index|^n$|seed|pairs$|^p$|^p_|_p$|_low$|_high$|^low$|^high$|^kv")


@dataclass(frozen=True)
class Column:
    """One thing known of heads; ``shade``: cells are coloured by it."""

    title: str
    cells: Mapping[Head, str]
    shade: Mapping[Head, float] | None = None


@dataclass(frozen=True)
class Group:
    """What one source says of heads, and which it names."""

    title: str
    columns: tuple[Column, ...]
    named: Heads = field(default_factory=Heads)

    @property
    def shade(self) -> Mapping[Head, float]:
        return next(c.shade for c in self.columns if c.shade is not None)


def known(record: Record, tables: Mapping[str, pd.DataFrame], nulls: Sequence[Null]) -> list[Group]:
    """All that the record says of single heads, source by source: nulls, figures of single heads, tables of heads."""
    out = [_held(one) for one in nulls if one.sets]
    for plain in record.figures:
        f = Figure.from_plain(plain)
        if f.kind == "heatmap" and f.name.startswith("heads "):
            out += _alone(f)
    return out + [g for name, t in tables.items() for g in _told(name, t)]


def _held(one: Null) -> Group:
    """Of every head: how many of the sets that nobody named held it, and what they did against those that did not."""
    others = [(s, v) for s, v in zip(one.sets, one.values, strict=True) if s != one.named]
    by: dict[Head, list[float]] = {}
    for s, v in others:
        for head in s:
            by.setdefault(head, []).append(v)
    n, total = len(others), sum(v for _, v in others)
    means = {h: sum(some) / len(some) for h, some in by.items()}
    rest = {h: (total - sum(some)) / (n - len(some)) for h, some in by.items() if len(some) < n}
    gaps = {h: means[h] - m for h, m in rest.items()}
    return Group(
        one.title,
        (
            Column("sets with it", {h: f"{len(some):,} of {n:,}" for h, some in by.items()}),
            Column("their mean", {h: words.span(m) for h, m in means.items()}),
            Column("mean of the others", {h: words.span(m) for h, m in rest.items()}),
            Column("difference", {h: words.span(g) for h, g in gaps.items()}, gaps),
        ),
        one.named,
    )


def _alone(figure: Figure) -> Iterator[Group]:
    """The cells of a figure of single heads, panel by panel."""
    for panel in dict.fromkeys(str(r.get("panel") or "") for r in figure.data):
        found: dict[Head, float] = {}
        for row in figure.data:
            value = marks.finite(row.get("value"))
            if str(row.get("panel") or "") == panel and value is not None:
                for head in next(iter(parsed([f"{row['y']}H{row['x']}"])), ()):
                    found[head] = float(value)
        if found:
            column = Column(str(figure.options.get("value_title") or "value"), _said(found), found)
            yield Group(f"{figure.title}{', ' if panel else ''}{panel}", (column,))


def _told(name: str, table: pd.DataFrame) -> Iterator[Group]:
    """The first numbers of a table that has one row for each head."""
    if "head" not in table or not len(table):
        return
    layered = "layer" in table and table["head"].dtype.kind in "iu"
    texts = [f"L{a}H{b}" for a, b in zip(table["layer"], table["head"], strict=True)] if layered else table["head"]
    heads = [next(iter(s)) for s in parsed(texts) if len(s) == 1]
    if len(heads) < len(table) or len(set(heads)) < len(heads):
        return
    numbers = [str(c) for c in table if table[c].dtype.kind == "f" and not _NO_EFFECT.search(str(c))][:COLUMNS]
    values = {c: {h: float(v) for h, v in zip(heads, table[c], strict=True) if v == v} for c in numbers}
    if columns := tuple(Column(c.replace("_", " "), _said(v), v) for c, v in values.items() if v):
        yield Group(f"Table “{name}”", columns)


def _said(values: Mapping[Head, float]) -> dict[Head, str]:
    return {h: words.span(v) for h, v in values.items()}


def grid(record: Record, groups: Sequence[Group], attended: Attended | None = None) -> dict[str, object] | None:
    """Layers × heads as the page draws them, coloured by the first source; None where nothing is known of single heads.

    ``attended``: what some of them attend to (:func:`headlab.report.patterns.shown`).
    """
    if attended and not groups:
        groups = [_attending(attended)]
    if not groups:
        return None
    every = Heads(h for g in groups for c in g.columns for h in c.cells) | Heads(h for g in groups for h in g.named)
    first = groups[0]
    kept = sorted(every, key=lambda h: (h not in first.named, -abs(first.shade.get(h, 0.0))))[:HEADS_INLINE]
    shape = record.model.get("grid") or {}
    layers, across = Heads(kept).layers, max(h.index for h in kept) + 1
    across = max(across, int(shape.get("n_heads") or 0))
    return {
        "layers": [(at, [_cell(first, Head(at, i), set(kept)) for i in range(across)]) for at in layers],
        "across": range(across),
        "untold": int(shape.get("n_layers") or 0) - len(layers),
        "groups": [
            {
                "title": g.title,
                "columns": ["named", *(c.title for c in g.columns)],
                "shade": 1 + next(i for i, c in enumerate(g.columns) if c.shade is not None),
            }
            for g in groups
        ],
        "lines": [
            (
                str(h),
                [
                    cell
                    for g in groups
                    for cell in ("yes" if h in g.named else "no", *(c.cells.get(h, "–") for c in g.columns))
                ],
            )
            for h in sorted(kept)
        ],
        "total": len(every),
        "named": any(len(g.named) for g in groups),
        "sets": any(len(g.columns) > 1 and g.columns[0].title == "sets with it" for g in groups),
        "attended": attended,
    }


def _attending(attended: Attended) -> Group:
    """Heads of which only the patterns are known: the largest share of attention from where the answer is read."""
    found = {Head.parse(h): max(one.most for one in each) for h, each in attended.heads.items()}
    return Group(
        "Attention", (Column("largest share from where the answer is read", _said(found), found),), Heads(found)
    )


def _cell(group: Group, head: Head, kept: set[Head]) -> dict[str, object]:
    """One head of the grid: its colour, the number in it, and what a reader who does not see hears."""
    value = group.shade.get(head)
    column = next(c for c in group.columns if c.shade is not None)
    said = "" if value is None else f", {column.title} {column.cells[head]}"
    return {
        "head": str(head) if head in kept else "",
        "named": head in group.named,
        "shade": shade(value, max(map(abs, group.shade.values()), default=0.0)),
        "text": "" if value is None else f"{float(f'{value:.2g}'):g}",
        "label": f"{head}{', named' if head in group.named else ''}{said}",
    }


def shade(value: float | None, most: float) -> str:
    """``more-1`` to ``more-4`` above 0, ``less-1`` to ``less-4`` below, ``same`` about 0, ``none`` where there is no value."""
    if value is None:
        return "none"
    step = round(SHADES * value / most) if most else 0
    return "same" if not step else f"{'more' if step > 0 else 'less'}-{abs(step)}"
