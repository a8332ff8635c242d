"""Figures that experiments share, each said once: estimates, a null with the named set in it, curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from headlab.effects import Figure
from headlab.heads import Heads
from headlab.stats import Estimate
from headlab.stats.figures import percent
from headlab.stats.views import view


def estimates(
    name: str,
    title: str,
    caption: str,
    rows: Iterable[tuple[str, str, Estimate]],
    x_title: str,
    threshold: float | None = 0.5,
) -> Figure:
    """Rows ``(label, group, estimate)`` as points with intervals."""
    data = tuple(
        {"label": label, "group": group, "value": e.value, "low": e.low, "high": e.high, "n": e.n, "unit": e.unit}
        for label, group, e in rows
    )
    options: dict[str, Any] = {"x_title": x_title} | ({} if threshold is None else {"threshold": threshold})
    return Figure("estimates", name, title, caption, data, options)


@dataclass(frozen=True)
class Column:
    """Where the values of a null stand in the record, beside the ``heads`` that they are of: a column of a table, in the rows
    whose cells are as ``where`` says."""

    table: str
    column: str
    where: Mapping[str, str | int] = field(default_factory=dict)


def null(
    name: str,
    title: str,
    caption: str,
    values: Iterable[float],
    observed: Estimate | float,
    label: str,
    x_title: str,
    p: float | None = None,
    *,
    of: str | Sequence[Heads] | Column,
    named: Heads | None = None,
) -> Figure:
    """Alternatives as a histogram, the named one as a line, with its interval where it has one.

    ``of``: where a table says the heads that each value is of, or these heads, or in words what is counted; ``named``: the
    heads of the line."""
    e = observed if isinstance(observed, Estimate) else None
    line = (
        {"observed": e.value, "low": e.low, "high": e.high} if e else {"observed": observed, "low": None, "high": None}
    )
    data = tuple({"value": float(v)} for v in values)
    if not isinstance(of, str | Column):
        data = tuple({**row, "heads": str(s)} for row, s in zip(data, of, strict=True))
    rank = ({} if p is None else {"p": p}) | ({} if named is None else {"named": str(named)})
    rank |= {"unit": of} if isinstance(of, str) else {"of": asdict(of)} if isinstance(of, Column) else {}
    return Figure("null", name, title, caption, data, {**line, "label": label, "x_title": x_title, **rank})


def point(series: str, x: float, e: Estimate) -> dict[str, Any]:
    """A point of a curve, with its interval."""
    return {"x": x, "y": e.value, "low": e.low, "high": e.high, "n": e.n, "series": series}


def curve(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[Mapping[str, Any]],
    x_title: str,
    y_title: str,
    threshold: float | None = 0.5,
) -> Figure:
    """Rows of :func:`point` as lines with bands."""
    axes: dict[str, Any] = {"x_title": x_title, "y_title": y_title}
    options = axes if threshold is None else {"threshold": threshold, **axes}
    return Figure("curve", name, title, caption, tuple(rows), options)


def heads_apart(
    name: str,
    title: str,
    caption: str,
    distances: Any,
    labels: Sequence[Any],
    method: str,
    seed: int,
    group: str = "cluster",
) -> list[Figure]:
    """Heads in two dimensions by their distances [head, head], coloured by label; nothing where the method gives no points."""
    made = view(distances, method, seed=seed)  # type: ignore[arg-type]
    if not made.points:
        return []
    shares = made.explained or ()
    told = [f" ({percent(shares[i])} of the squared distances)" if i < len(shares) else "" for i in (0, 1)]
    data = tuple(
        {"x": x, "y": y, "label": str(h), "group": f"{group} {c}"}
        for h, ((x, y), c) in enumerate(zip(made.points, labels, strict=True))
    )
    options = {"named": True, "x_title": f"axis 1{told[0]}", "y_title": f"axis 2{told[1]}"}
    caption = f"One point a head, named by its number. {caption}"
    return [Figure("scatter", f"view-{name}", f"{title}: {made.method}", caption, data, options)]
