"""Charts of tables and clouds: ``heatmap`` (cells by colour, panels under each other) and ``scatter`` (named points)."""

from __future__ import annotations

from typing import Any

from headlab.effects import Figure

from . import marks, words
from .marks import NUMBER, TIP

CELL = 17
"""Height of a cell in pixels."""


def heatmap(figure: Figure) -> Any:
    """Rows ``{"x", "y", "value", "panel"}``: one cell each, in the order given; panels stand under each other."""
    import altair as alt

    o = figure.options
    rows = [dict(r, x=str(r["x"]), y=str(r["y"]), panel=str(r.get("panel") or "")) for r in figure.data]
    xs, ys, panels = (list(dict.fromkeys(r[k] for r in rows)) for k in ("x", "y", "panel"))
    known = [float(v) for v in (marks.finite(r.get("value")) for r in rows) if v is not None]
    diverging = min(known, default=0.0) < 0 < max(known, default=1.0)
    top = max(map(abs, known), default=1.0) or 1.0
    domain = [-top, top] if diverging else [min(0.0, *known, 0.0), top]
    colour = alt.Color(
        "value:Q",
        title=o.get("value_title") or "value",
        scale=alt.Scale(domain=domain, scheme="blueorange" if diverging else "blues"),
        legend=alt.Legend(orient="bottom", gradientLength=220, format=NUMBER),
    )
    across = alt.X(
        "x:N", sort=xs, title=o.get("x_title"), axis=alt.Axis(labelAngle=0, grid=False, ticks=False, domain=False)
    )
    tips = [*(["panel:N"] if len(panels) > 1 else []), "y:N", "x:N", alt.Tooltip("value:Q", format=TIP)]
    plain = alt.Axis(grid=False, ticks=False, domain=False)
    drawn = alt.Chart(marks.data(rows)).mark_rect().encode(x=across, color=colour, tooltip=tips)
    if len(panels) == 1:
        drawn = drawn.encode(y=alt.Y("y:N", sort=ys, title=o.get("y_title"), axis=plain))
        return alt.layer(drawn).properties(height=max(90, CELL * len(ys)))
    drawn = drawn.encode(
        y=alt.Y("panel:N", sort=panels, title=o.get("y_title"), axis=plain, scale=alt.Scale(paddingInner=0.18)),
        yOffset=alt.YOffset("y:N", sort=ys),
    )
    high = marks.height(len(panels), round(0.75 * CELL) * len(ys) / (1 - 0.18), 0.18)
    return alt.layer(drawn).properties(height=high)


def scatter(figure: Figure) -> Any:
    """Rows ``{"x", "y", "label", "group"}``: one named point each; ``options["named"]`` writes the names beside them."""
    import altair as alt

    o = figure.options
    rows = [dict(r, group=str(r.get("group") or ""), label=str(r.get("label") or "")) for r in figure.data]
    rows = [r for r in rows if marks.finite(r.get("x")) is not None and marks.finite(r.get("y")) is not None]
    groups = list(dict.fromkeys(r["group"] for r in rows))
    x, y = (marks.extent(*(r[k] for r in rows), zero_one=False) for k in ("x", "y"))
    apart = marks.told_apart("group", groups, o.get("layers", ()))
    base = alt.Chart(marks.data(rows)).encode(
        x=alt.X(
            "x:Q", title=o.get("x_title") or "x", scale=alt.Scale(domain=x, nice=False), axis=alt.Axis(format=NUMBER)
        ),
        y=alt.Y(
            "y:Q", title=o.get("y_title") or "y", scale=alt.Scale(domain=y, nice=False), axis=alt.Axis(format=NUMBER)
        ),
        color=apart["color"],
        tooltip=["label:N", "group:N", *(alt.Tooltip(f"{k}:Q", format=TIP) for k in ("x", "y"))],
    )
    layers: list[Any] = [base.mark_point(filled=True, size=80, opacity=0.85).encode(shape=apart["shape"])]
    if o.get("named"):
        layers.append(base.mark_text(align="left", dx=7, fontSize=12).encode(text="label:N"))
    return alt.layer(*layers, *marks.threshold(o.get("threshold"), "y", y)).properties(height=340)


def describe(figure: Figure) -> str:
    """A heatmap or a scatter in words."""
    o = figure.options
    if figure.kind == "scatter":
        groups = list(dict.fromkeys(str(r.get("group") or "") for r in figure.data))
        said = f" in {words.listed(groups)}" if len(groups) > 1 else ""
        return f"{len(figure.data)} points{said}: {o.get('y_title', 'y')} against {o.get('x_title', 'x')}."
    known = [(float(v), r) for r in figure.data if (v := marks.finite(r.get("value"))) is not None]
    if not known:
        return "A table of cells without a value."
    most, least = max(known, key=lambda c: c[0]), min(known, key=lambda c: c[0])

    def cell(found: Any) -> str:
        value, row = found
        panel = f"{row['panel']}, " if row.get("panel") else ""
        return f"{value:.3g} ({panel}{row['y']} × {row['x']})"

    axes = f"{o.get('y_title', 'row')} and {o.get('x_title', 'column')}"
    return f"{o.get('value_title', 'value')} by {axes}: from {cell(least)} to {cell(most)}."
