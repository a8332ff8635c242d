"""A curve step by step: what every series is at each x, as the table that stands under the chart and that a slider walks."""

from __future__ import annotations

from headlab.effects import Figure

from . import marks, words

MOST = 200
"""Steps up to which a curve is walked."""


def steps(figure: Figure) -> dict[str, object] | None:
    """``x`` (what it is), ``series`` (their names) and ``rows``: (x, what each series is there, with its interval).

    None for a figure that is no curve, or has one step or more than :data:`MOST`.
    """
    if figure.kind != "curve":
        return None
    names = marks.series(figure)
    cells: dict[float, dict[str, str]] = {}
    for row in figure.data:
        x, y = marks.finite(row.get("x")), marks.finite(row.get("y"))
        if x is not None and y is not None:
            said = words.span(y, marks.finite(row.get("low")), marks.finite(row.get("high")))
            cells.setdefault(float(x), {})[str(row.get("series", ""))] = said
    if not 1 < len(cells) <= MOST:
        return None
    rows = [(f"{x:.6g}", [cells[x].get(name, "–") for name in names]) for x in sorted(cells)]
    return {"x": figure.options.get("x_title") or "x", "series": [name or "value" for name in names], "rows": rows}
