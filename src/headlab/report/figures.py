"""Charts from figures: plain data in, Altair out.

A chart names its marks ("observed", "threshold", "null" …); :mod:`headlab.report.theme` says how those look.
Every series differs in dash and shape as well as in colour.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headlab.effects import Figure
from headlab.reading.shown import clean, cleaned, csv_text

from . import grids, marks, timeline, words
from .marks import NUMBER, TIP
from .theme import theme

if TYPE_CHECKING:
    import altair as alt

WIDTH = 640
"""Width in pixels of a saved figure; on a page a figure is as wide as its column."""
_NAMES = {"labelExpr": "split(datum.label, '\\n')", "grid": False, "ticks": False, "domain": False}
"""How an axis of names is drawn."""


def chart(figure: Figure) -> alt.LayerChart:
    """An Altair chart of a figure, as wide as its container. Raises ValueError on an unknown kind.

    Control characters are shown as escapes: one of them in a chart's text ends the process that draws it.  In a title the
    backslash is a look-alike: Vega-Lite writes titles into expressions, which would read it as the start of an escape.
    """
    import altair as alt

    drawers = {"null": _null, "curve": _curve, "estimates": _estimates, "pairs": _pairs}
    drawers |= {"heatmap": grids.heatmap, "scatter": grids.scatter, "timeline": timeline.timeline}
    if figure.kind not in drawers:
        raise ValueError(f"no such kind of figure: {figure.kind!r}; expected one of {sorted(drawers)}")
    figure = replace(
        figure,
        title=clean(figure.title),
        caption=clean(figure.caption),
        data=cleaned(figure.data),
        options={k: v.replace("\\", "⧵") if isinstance(v, str) else v for k, v in cleaned(figure.options).items()},
    )
    title: dict[str, Any] = {"text": textwrap.wrap(figure.title, 76) or [""]}
    if figure.caption:
        title["subtitle"] = textwrap.wrap(figure.caption, 100)
    size = alt.AutoSizeParams(type="fit-x", contains="padding")
    drawn = drawers[figure.kind](figure).properties(width="container", autosize=size, title=title)
    return drawn.properties(description=describe(figure)).configure(**theme())


def spec(figure: Figure) -> dict[str, Any]:
    """The Vega-Lite specification of a figure, data inside."""
    from altair.utils import schemapi

    # Altair checks every piece against its schema as it is put together; the tests do that once for all.
    with schemapi.debug_mode(False):
        return chart(figure).to_dict(validate=False)


def svg(specification: Mapping[str, Any], *, titled: bool = True, width: int = WIDTH) -> str:
    """A specification as SVG, without a browser or a network."""
    import vl_convert

    return vl_convert.vegalite_to_svg(_fixed(specification, titled, width), **_offline())


def png(specification: Mapping[str, Any], *, titled: bool = True, width: int = WIDTH, scale: float = 2.0) -> bytes:
    """A specification as PNG, without a browser or a network."""
    import vl_convert

    return vl_convert.vegalite_to_png(_fixed(specification, titled, width), scale=scale, **_offline())


def csv(figure: Figure) -> str:
    """The rows of a figure."""
    import pandas as pd

    return csv_text(pd.DataFrame([dict(r) for r in figure.data]))


def describe(figure: Figure) -> str:
    """What the figure shows, in words: its alternative text, and the sentence under it."""
    o, rows = figure.options, figure.data
    if figure.kind == "null":
        return _describe_null(figure)
    if figure.kind in {"heatmap", "scatter"}:
        return grids.describe(figure)
    if figure.kind == "timeline":
        return timeline.describe(figure)
    threshold = (
        "" if o.get("threshold") is None else f" The dashed line is the threshold, {words.exact(o['threshold'])}."
    )
    if figure.kind == "curve":
        series = words.listed(marks.series(figure))
        axes = f"{o.get('y_title', 'y')} against {o.get('x_title', 'x')}"
        return f"{axes} for {series}, with intervals.{threshold}"
    if figure.kind == "estimates":
        shown = "; ".join(_point(r) for r in rows[:12])
        more = f"; and {len(rows) - 12} more" if len(rows) > 12 else ""
        return f"{shown}{more}.{threshold}"
    worlds = words.listed(list(dict.fromkeys(str(r["world"]) for r in rows)))
    return f"One dot per {o.get('unit') or 'pair'} for {worlds}; the bar is the median.{threshold}"


def beside(figure: Figure) -> str:
    """What of the description stands under the figure, next to its caption: no number twice."""
    if figure.kind == "null":
        said = "at least as" in figure.caption
        return describe(figure).split(". ", 1)[0] + "." if said else describe(figure)
    limit = figure.options.get("threshold")
    return "" if limit is None else f"The dashed line is the threshold, {words.exact(limit)}."


def _describe_null(figure: Figure) -> str:
    o, values = figure.options, _values(figure)
    label, sets = o.get("label") or "observed", o.get("unit") or "matched random sets"
    if o.get("observed") is None:
        return f"{label}: not measured, beside {len(values)} {sets}."
    seen = f"{label}: {words.span(o['observed'], o.get('low'), o.get('high'))}"
    if not values:
        return f"{seen}; there are no {sets} to compare it with."
    tail = o.get("tail", "greater")
    count = words.tail_count(o["observed"], values, tail)
    size = "small" if tail == "less" else "large"
    return (
        f"{seen}. {count:,} of {len(values):,} {sets} are at least as {size}; "
        f"they range from {words.span(min(values))} to {words.span(max(values))}."
    )


def _point(row: Mapping[str, Any]) -> str:
    group = f" ({row['group']})" if row.get("group") else ""
    return f"{row['label']}{group} {words.span(row.get('value'), row.get('low'), row.get('high'))}"


def _fixed(specification: Mapping[str, Any], titled: bool, width: int) -> dict[str, Any]:
    return {k: v for k, v in specification.items() if titled or k != "title"} | {"width": width}


def vegalite_version() -> str:
    """The Vega-Lite that Altair writes for, as vl-convert names it: ``6.4``."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def _offline() -> dict[str, Any]:
    return {"vl_version": vegalite_version(), "allowed_base_urls": []}


def _values(figure: Figure) -> list[float]:
    values = (marks.finite(r.get("value")) for r in figure.data)
    return [float(v) for v in values if v is not None]


def _null(figure: Figure) -> Any:
    import altair as alt

    o, values = figure.options, _values(figure)
    observed, low, high = (marks.finite(o.get(k)) for k in ("observed", "low", "high"))
    extent, step = marks.bins(marks.extent(*values, observed, low, high, o.get("threshold"), zero_one=False))
    x_title, sets = o.get("x_title") or "value", o.get("unit") or "matched random sets"
    most = max(Counter(int((v - extent[0]) / step + 1e-9) for v in values).values(), default=1)
    bars = (
        alt.Chart(marks.data([{"value": r.get("value")} for r in figure.data]))
        .transform_bin(["bin", "bin_end"], "value", bin=alt.Bin(step=step, extent=extent))
        .transform_aggregate(count="count()", groupby=["bin", "bin_end"])
        .encode(
            x=alt.X(
                "bin:Q",
                title=x_title,
                scale=alt.Scale(domain=extent, nice=False, zero=False),
                axis=alt.Axis(format=NUMBER, grid=False),
            ),
            x2="bin_end:Q",
            y=alt.Y("count:Q", title=o.get("y_title") or sets, axis=alt.Axis(format=",~r", **marks.whole(0, most))),
            y2=alt.datum(0),
            tooltip=[
                alt.Tooltip("bin:Q", title="from", format=NUMBER),
                alt.Tooltip("bin_end:Q", title="to", format=NUMBER),
                alt.Tooltip("count:Q", title=sets),
            ],
        )
    )
    layers: list[Any] = [bars.mark_rect(style="null")]
    if observed is not None:
        slack = 1e-9 * max([abs(observed), *map(abs, values)])
        less = o.get("tail") == "less"
        beyond = f"datum.value <= {observed + slack!r}" if less else f"datum.value >= {observed - slack!r}"
        # The same bars over the others, counting only the sets at least as extreme.
        extreme = bars.copy()
        extreme.transform = [alt.FilterTransform(beyond), *bars.transform]
        layers.append(extreme.mark_rect(style="beyond"))
        layers.extend(_observed(observed, low, high, str(o.get("label") or "observed"), extent))
    return alt.layer(*layers, *marks.threshold(o.get("threshold"), "x", extent)).properties(height=240)


def _observed(
    value: words.Number, low: words.Number | None, high: words.Number | None, label: str, extent: Sequence[float]
) -> list[Any]:
    """The observed value: its interval as a band over the whole height, a line, a label above the plot."""
    import altair as alt

    shown = words.span(value, low, high)
    row = {"observed": value, "low": low, "high": high, "label": [label, shown], "shown": f"{label}: {shown}"}
    base = alt.Chart(marks.data([row]))
    tip, at = alt.Tooltip("shown:N", title="observed"), alt.datum(value, type="quantitative")
    drawn = []
    if low is not None and high is not None:
        drawn.append(
            base.mark_rect(style="observed-interval").encode(
                x=alt.X("low:Q"), x2="high:Q", y=alt.value(0), y2=alt.value("height"), tooltip=tip
            )
        )
    drawn.append(base.mark_rule(style="observed").encode(x=at, tooltip=tip))
    place = (value - extent[0]) / (extent[1] - extent[0])
    side = "right" if place > 2 / 3 else "left" if place < 1 / 3 else "center"
    drawn.append(
        base.mark_text(
            style="observed-label", align=side, baseline="bottom", lineBreak="\n", dy=-20, lineHeight=15
        ).encode(x=at, y=alt.value(0), text="label:N")
    )
    return drawn


def _curve(figure: Figure) -> Any:
    import altair as alt

    o, names = figure.options, marks.series(figure)
    rows = [dict(r, series=str(r.get("series", ""))) for r in figure.data if marks.finite(r.get("y")) is not None]
    xs = [float(r["x"]) for r in rows]
    whole = marks.whole(min(xs), max(xs)) if xs and all(x.is_integer() for x in xs) else {}
    y = marks.extent(*(r.get(k) for r in rows for k in ("y", "low", "high")), o.get("threshold"))
    apart = marks.told_apart("series", names, o.get("layers", ()))
    base = alt.Chart(marks.data(rows)).encode(
        x=alt.X(
            "x:Q",
            title=o.get("x_title") or "x",
            scale=alt.Scale(nice=False, zero=False, padding=6),
            axis=alt.Axis(grid=False, format=NUMBER, **whole),
        ),
        color=apart["color"],
    )
    up = alt.Y(
        "y:Q", title=o.get("y_title") or "y", scale=alt.Scale(domain=y, nice=False), axis=alt.Axis(format=NUMBER)
    )
    tips = ["series:N", *(alt.Tooltip(f"{k}:Q", format=TIP) for k in ("x", "y", "low", "high"))]
    band = base.mark_area(style="series-band").encode(y=alt.Y("low:Q", scale=alt.Scale(domain=y)), y2="high:Q")
    line = base.mark_line().encode(y=up, strokeDash=apart["strokeDash"])
    points = base.mark_point(filled=True, size=55, opacity=1).encode(y=up, shape=apart["shape"], tooltip=tips)
    extra = marks.threshold(o.get("threshold"), "y", y)
    return alt.layer(band, line, points, *extra).properties(height=280)


def _estimates(figure: Figure) -> Any:
    import altair as alt

    o = figure.options
    rows = [dict(r, label=_folded(r["label"]), group=str(r.get("group") or "")) for r in figure.data]
    labels, groups = (list(dict.fromkeys(r[k] for r in rows)) for k in ("label", "group"))
    extent = marks.extent(*(r.get(k) for r in rows for k in ("value", "low", "high")), o.get("threshold"))
    apart = marks.told_apart("group", groups, o.get("layers", ()))
    step = max(16, 34 // max(1, len(groups)), *(13 * (1 + s.count("\n")) // len(groups) for s in labels))
    base = alt.Chart(marks.data(rows)).encode(
        y=alt.Y(
            "label:N", sort=labels, title=o.get("y_title"), scale=alt.Scale(paddingInner=0.35), axis=alt.Axis(**_NAMES)
        ),
        yOffset=alt.YOffset("group:N", sort=groups),
        color=apart["color"],
        tooltip=["label:N", "group:N", *(alt.Tooltip(f"{k}:Q", format=TIP) for k in ("value", "low", "high"))],
    )
    scale = alt.Scale(domain=extent, nice=False)
    bars = base.mark_rule(style="interval-bar").encode(
        x=alt.X("low:Q", title=o.get("x_title") or "value", scale=scale, axis=alt.Axis(format=NUMBER)), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=alt.X("value:Q", scale=scale), shape=apart["shape"]
    )
    extra = marks.threshold(o.get("threshold"), "x", extent)
    high = marks.height(len(labels), step * len(groups) / (1 - 0.35), 0.35)
    return alt.layer(bars, points, *extra).properties(height=high)


def _folded(label: Any) -> str:
    return "\n".join(textwrap.wrap(str(label), 22)) or str(label)


def _pairs(figure: Figure) -> Any:
    import altair as alt

    o = figure.options
    rows = [dict(r, world=_folded(r["world"])) for r in figure.data if marks.finite(r.get("value")) is not None]
    worlds = list(dict.fromkeys(r["world"] for r in rows))
    extent = marks.extent(*(r["value"] for r in rows), o.get("threshold"), zero_one=False)
    scale = alt.Scale(domain=extent, nice=False)
    base = alt.Chart(marks.data(rows)).encode(
        x=alt.X("value:Q", title=o.get("x_title") or "value", scale=scale, axis=alt.Axis(format=NUMBER)),
        y=alt.Y("world:N", sort=worlds, title=o.get("y_title"), axis=alt.Axis(**_NAMES)),
    )
    # The golden ratio spreads neighbours apart, the same way every time.
    spread = base.transform_window(row="row_number()").transform_calculate(jitter="(datum.row * 0.618034) % 1")
    dots = spread.mark_circle(style="dot", size=28).encode(
        yOffset=alt.YOffset("jitter:Q", scale=alt.Scale(domain=[-0.35, 1.35])),
        tooltip=["pair:N", "world:N", alt.Tooltip("value:Q", format=TIP)],
    )
    middle = base.mark_tick(style="middle", size=34).encode(
        x=alt.X("median(value):Q", scale=scale), tooltip=["world:N", "median(value):Q"]
    )
    extra = marks.threshold(o.get("threshold"), "x", extent)
    return alt.layer(dots, middle, *extra).properties(height=marks.height(len(worlds), 54))
