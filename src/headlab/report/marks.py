"""What charts are made of: axes, thresholds, legends, dashes and shapes; every kind of chart uses them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headlab.effects import Figure

from . import words

if TYPE_CHECKING:
    import altair as alt

NUMBER, TIP = ".12~g", ".6~g"
"""How an axis writes its numbers (no two of them alike, and 1,234,567 not as 1.23457e+6), and how a tooltip does."""

DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 4], [1, 3]]
COLOURS = 6
"""Colours of series that the theme has."""
SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down"]


def data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    import altair as alt

    class Values(alt.InlineData):
        def __deepcopy__(self, memo: object) -> Values:  # charts are put together by copies; the rows stay as they are
            return self

    return Values(values=[{k: finite(v) for k, v in row.items()} for row in rows])


def finite(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def series(figure: Figure) -> list[str]:
    return list(dict.fromkeys(str(r.get("series", "")) for r in figure.data))


def extent(*numbers: Any, zero_one: bool = True) -> list[float]:
    """An axis that holds all the numbers with a little room; [0, 1] when they are all shares."""
    known = [float(x) for x in (finite(n) for n in numbers) if x is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if zero_one and low >= 0 and high <= 1:
        return [0.0, 1.0]
    room = 0.04 * (high - low) or max(0.5, abs(low) * 0.1)
    return [low - room, high + room]


def bins(extent: Sequence[float], about: int = 50) -> tuple[list[float], float]:
    """The extent widened to 25 to 50 whole bins, and their width: 1, 2 or 5 times a power of ten."""
    raw = (extent[1] - extent[0]) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [round(f(x / step) * step, 12) for f, x in zip((math.floor, math.ceil), extent, strict=True)], step


def whole(low: float, high: float) -> dict[str, Any]:
    """Of an axis of whole numbers: its ticks, which the chart library puts at halves where it shows few."""
    return {"values": list(range(math.ceil(low), math.floor(high) + 1))} if high - low < 4 else {"tickMinStep": 1}


def height(lines: int, step: float, inner: float = 0.2) -> float:
    """Of a plot with so many bands; ``inner`` is the share of a step between two.  In pixels: a height by steps, which is the
    same, makes the chart library complain on the console."""
    return step * (lines - inner + 0.4)


def threshold(value: Any, axis: str, extent: Sequence[float]) -> list[Any]:
    """A dashed line at a threshold, named; ``axis`` is the axis that carries the threshold."""
    import altair as alt

    if finite(value) is None:
        return []
    line = alt.Chart(data([{"threshold": value, "label": f"threshold {words.exact(value)}"}]))
    at = {axis: alt.datum(value, type="quantitative")}
    if axis == "y":
        name = line.mark_text(style="threshold-label", align="right", baseline="bottom", dy=-4).encode(
            x=alt.value("width"), text="label:N", **at
        )
    else:
        side = "left" if value - extent[0] < 0.6 * (extent[1] - extent[0]) else "right"
        name = line.mark_text(style="threshold-label", align=side, dx=4 if side == "left" else -4).encode(
            y=alt.value(-7), text="label:N", **at
        )
    return [line.mark_rule(style="threshold").encode(**at), name]


def told_apart(field: str, names: Sequence[str], layers: Sequence[int] = ()) -> dict[str, Any]:
    """Colour, dash and shape of every series, under one key; a series of one of the page's ``layers`` has that layer's colour."""
    import altair as alt

    domain, key = placed(names, layers), None
    ranks = [names.index(name) if name in names else 0 for name in domain]
    dashes, shapes = ([given[n % len(given)] for n in ranks] for given in (DASHES, SHAPES))
    if len(names) > 1:
        widest = max(map(len, names))  # a key's columns fit a phone
        columns = 1 if widest > 22 else 2 if widest > 13 or len(names) in (2, 4) else 3
        values = alt.Undefined if domain == [*names] else list(names)
        key = alt.Legend(
            orient="bottom", columns=columns, title=None, symbolDash=[1, 0], symbolStrokeWidth=0, values=values
        )
    by: dict[str, Any] = {"shorthand": f"{field}:N", "sort": list(names), "legend": key}
    return {
        "color": alt.Color(scale=alt.Scale(domain=domain), **by),
        "strokeDash": alt.StrokeDash(scale=alt.Scale(domain=domain, range=dashes), **by),
        "shape": alt.Shape(scale=alt.Scale(domain=domain, range=shapes), **by),
    }


def layer(name: object) -> int | None:
    """The one layer that a series is of, by its name."""
    found = {int(a or b) for a, b in re.findall(r"\blayer (\d+)\b|\bL(\d+)\b", str(name))}
    return found.pop() if len(found) == 1 else None


def on_one_page(figures: Iterable[Figure]) -> list[int]:
    """The layers that series of these figures are of, in order: the page's, each with a colour of its own."""
    names = {str(row.get(key)) for f in figures for row in f.data for key in ("series", "group")}
    return sorted({at for name in names if (at := layer(name)) is not None})


def placed(names: Sequence[str], layers: Sequence[int]) -> list[str]:
    """The series where their colours stand among those of the theme, which are dealt out in turn: a series of a layer where
    the page has that layer, the others after the page's layers; words that no series has fill the places between."""
    own = {name: layers.index(one) for name in names if (one := layer(name)) is not None and one in layers}
    if not own:
        return [*names]
    at: dict[int, str] = {}
    for name in names:
        place = own.get(name, len(layers))
        while place in at:
            place += COLOURS if name in own else 1
        at[place] = name
    return [at.get(n, f"no series {n}") for n in range(max(at) + 1)]
