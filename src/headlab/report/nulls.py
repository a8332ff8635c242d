"""Which sets a null's bars are made of, where the record keeps them: beside the values of the figure, or in the table that the
figure names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headlab.effects import Figure
from headlab.heads import Heads

from . import marks

if TYPE_CHECKING:
    import pandas as pd

    from headlab.store import Record

SETS_INLINE = 4_000
"""Sets that stand in a page; of more, the largest and the smallest."""


@dataclass(frozen=True)
class Null:
    """The sets behind a figure of kind ``null``, in its order, each with its value; ``named``: the set that was ranked among
    them (empty where the record does not say); ``what``: what the values are; ``unit``: what is counted.  ``sets`` is empty where
    they are no sets of heads (permutations, placements) or the record does not keep them: then values alone are brushed."""

    title: str
    what: str
    sets: tuple[Heads, ...]
    values: tuple[float, ...]
    named: Heads
    less: bool = False
    unit: str = "sets"

    def rows(self) -> list[dict[str, str | bool]]:
        """Each set with its value, the most extreme first."""
        sets = self.sets or (Heads(),) * len(self.values)
        every = sorted(zip(self.values, sets, strict=True), key=lambda r: r[0], reverse=not self.less)
        shown = every if len(every) <= SETS_INLINE else [*every[: SETS_INLINE // 2], *every[-SETS_INLINE // 2 :]]
        return [{"value": f"{v:.6g}", "heads": short(s), "named": bool(s) and s == self.named} for v, s in shown]

    def plain(self) -> dict[str, object]:
        """What the page shows beneath the chart."""
        told = {"total": len(self.values), "what": self.what, "less": self.less, "unit": self.unit}
        return {"rows": self.rows(), "heads": bool(self.sets), **told}


def short(heads: Heads) -> str:
    """Heads by layer: ``L1: 0 2 4; L2: 7``."""
    return "; ".join(f"L{at}: {' '.join(map(str, heads.at(at)))}" for at in heads.layers)


def null(figure: Figure, record: Record, tables: Mapping[str, pd.DataFrame]) -> Null | None:
    """The values of a null's figure and the sets that they are of, as far as the record keeps those; None for another figure."""
    if figure.kind != "null" or not figure.data:
        return None
    values = [marks.finite(r.get("value")) for r in figure.data]
    given = [str(r.get("heads") or "") for r in figure.data]
    if None in values:
        return None
    found = parsed(given) if all(given) else _kept(figure.options.get("of"), values, tables)
    o, named = figure.options, _named(figure, record) if found else Heads()
    unit, numbers = "sets" if found else str(o.get("unit") or "sets"), tuple(map(float, values))
    what = str(o.get("x_title") or "value")
    return Null(figure.title, what, found, numbers, named, o.get("tail") == "less", unit)


def _kept(of: object, values: Sequence[object], tables: Mapping[str, pd.DataFrame]) -> tuple[Heads, ...]:
    """The sets that a figure says a table has, where its column says these values in this order; none in older records, whose
    figures do not say."""
    said = of if isinstance(of, Mapping) else {}
    rows, column, where = tables.get(str(said.get("table"))), str(said.get("column")), said.get("where")
    if rows is None or not isinstance(where, Mapping) or not {"heads", column, *where} <= {*rows}:
        return ()
    for key, cell in where.items():
        rows = rows[rows[key].astype(str) == str(cell)]
    return parsed(rows["heads"]) if rows[column].tolist() == values else ()


def parsed(given: Iterable[str]) -> tuple[Heads, ...]:
    """Sets from their names; none where one of them is no set of heads."""
    try:
        return tuple(Heads.parse(text) for text in given)
    except ValueError:
        return ()


def _named(figure: Figure, record: Record) -> Heads:
    """The set that a null is about: as the figure says, or the one that a document draws anew."""
    reference = (record.claim or {}).get("reference") or {}
    sets = record.settings.get("sets") or {}
    text = figure.options.get("named") or (
        sets.get(reference.get("redraw")) if isinstance(reference, Mapping) else None
    )
    return next(iter(parsed([text]) if isinstance(text, str) else ()), Heads())
