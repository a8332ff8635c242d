"""Charts of a series of checkpoints: ``timeline``, values over steps on a scale that grows with the step.

Lines join looks and claim nothing in between: the looks are marked on the lines and along the axis, a recorded onset is a
dashed rule, and the places where a change may lie are bars in lanes above the plot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headlab.effects import Figure

from . import marks, words
from .marks import NUMBER, TIP

if TYPE_CHECKING:
    import altair as alt

HEIGHT = 300
"""Height of the plot in pixels, without the lanes."""
LANE = 18
"""Height of a lane in pixels."""


def timeline(figure: Figure) -> Any:
    """Rows ``{"x", "y", "low", "high", "series"}``; options ``looks``, ``onsets``, ``bands``, ``threshold``."""
    import altair as alt

    o, names = figure.options, marks.series(figure)
    rows = [dict(r, series=str(r.get("series", ""))) for r in figure.data if marks.finite(r.get("y")) is not None]
    bands, looks = list(o.get("bands", ())), [float(x) for x in o.get("looks", ()) or {r["x"] for r in rows}]
    ends = marks.extent(*(r.get(k) for r in rows for k in ("y", "low", "high")), o.get("threshold"))
    pixels = HEIGHT + LANE * len(bands) + (LANE if o.get("onsets") else 0)
    unit = (ends[1] - ends[0]) / HEIGHT
    domain = [ends[0], ends[0] + unit * pixels]
    apart = marks.told_apart("series", names, o.get("layers", ()))
    small = min((x for x in looks if x > 0), default=1.0)
    span = [min(looks), max(looks)]
    scale = alt.Scale(type="symlog", constant=small, domain=span, nice=False, padding=10)
    written = _labelled(sorted(set(looks)), small)
    # a count below the number of values would thin them out
    axis = alt.Axis(grid=False, values=written, tickCount=len(written) + 1, format=",d", labelOverlap=False)

    def across(field: str) -> alt.X:  # the same axis for every layer: one that says less would win the merge
        return alt.X(f"{field}:Q", title=o.get("x_title") or "step", scale=scale, axis=axis)

    whole_y = alt.Scale(domain=domain, nice=False)
    up = alt.Y("y:Q", title=o.get("y_title") or "y", scale=whole_y, axis=alt.Axis(format=NUMBER, values=_ticks(ends)))
    base = alt.Chart(marks.data(rows)).encode(x=across("x"), color=apart["color"])
    tips = [
        "series:N",
        alt.Tooltip("x:Q", title="step", format=",d"),
        *(alt.Tooltip(f"{k}:Q", format=TIP) for k in ("y", "low", "high")),
    ]
    layers = [
        base.mark_area(style="series-band").encode(y=alt.Y("low:Q", scale=whole_y), y2="high:Q"),
        base.mark_line(strokeWidth=1.2, opacity=0.7).encode(y=up, strokeDash=apart["strokeDash"]),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=up, shape=apart["shape"], tooltip=tips),
        alt.Chart(marks.data([{"x": x} for x in looks]))
        .mark_tick(orient="vertical", size=9, thickness=1.5, style="null")
        .encode(
            x=across("x"), y=alt.value(pixels - 5), tooltip=[alt.Tooltip("x:Q", title="looked at step", format=",d")]
        ),
        *_lanes(bands, apart["color"], ends[1], unit, _place(span, small), across),
        *_onsets(o.get("onsets", ()), domain[1] - unit * LANE / 2, _place(span, small), across),
        *marks.threshold(o.get("threshold"), "y", ends),
    ]
    return alt.layer(*layers).properties(height=pixels)


def _place(span: Sequence[float], constant: float) -> Callable[[float], float]:
    """Where a step stands on the axis, 0 at its left end to 1 at its right."""
    first, last = (math.log1p(x / constant) for x in span)
    return lambda x: (math.log1p(x / constant) - first) / ((last - first) or 1.0)


def _lanes(
    bands: Sequence[Mapping[str, Any]],
    colour: alt.Color,
    top: float,
    unit: float,
    place: Callable[[float], float],
    across: Callable[[str], alt.X],
) -> list[Any]:
    """A bar for each change: pale from the first to the last possible gap, strong at the likeliest."""
    import altair as alt

    if not bands:
        return []
    rows = []
    for n, band in enumerate(bands):
        low = top + unit * (LANE * n + 5)
        text = f"between {band['from']:,.12g} and {band['to']:,.12g}"
        left = place(band["low"]) > 0.4
        rows.append(
            {
                **band,
                "series": str(band["series"]),
                "bottom": low,
                "top": low + unit * (LANE - 8),
                "text": text,
                "middle": low + unit * (LANE - 8) / 2,
                "left": left,
                "said": f"{band['series']}: change {text}; possible from {band['low']:,.12g} to {band['high']:,.12g}",
            }
        )
    base = alt.Chart(marks.data(rows)).encode(color=colour, tooltip=alt.Tooltip("said:N", title="change"))
    height = {"y": alt.Y("bottom:Q"), "y2": "top:Q"}
    out = [
        base.mark_rect(opacity=0.3).encode(x=across("low"), x2="high:Q", **height),
        base.mark_rect(opacity=0.95).encode(x=across("from"), x2="to:Q", **height),
    ]
    sides: Any = ((True, "right", "low", -5), (False, "left", "high", 5))
    for left, align, edge, dx in sides:
        part = base.transform_filter(alt.datum.left == left)
        out.append(
            part.mark_text(align=align, dx=dx, fontSize=12, baseline="middle").encode(
                x=across(edge), y="middle:Q", text="text:N"
            )
        )
    return out


def _onsets(
    onsets: Sequence[Mapping[str, Any]], height: float, place: Callable[[float], float], across: Callable[[str], alt.X]
) -> list[Any]:
    """A dashed rule at each recorded onset, named at its upper end."""
    import altair as alt

    out = []
    for onset in onsets:
        base = alt.Chart(marks.data([dict(onset)]))
        out.append(base.mark_rule(style="threshold").encode(x=across("x")))
        late = place(onset["x"]) > 0.45
        out.append(
            base.mark_text(
                style="threshold-label", align="right" if late else "left", dx=-5 if late else 5, baseline="middle"
            ).encode(x=across("x"), y=alt.datum(height, type="quantitative"), text="label:N")
        )
    return out


def _labelled(looks: Sequence[float], constant: float, room: float = 0.055) -> list[float]:
    """The looks that are written under the axis: the last, and those that leave one another room."""
    if not looks:
        return []
    at = [math.log1p(x / constant) for x in looks]
    width = (at[-1] - at[0]) or 1.0
    kept, last = [looks[-1]], at[-1]
    for x, spot in zip(reversed(looks[:-1]), reversed(at[:-1]), strict=True):
        if last - spot >= room * width:
            kept.append(x)
            last = spot
    return kept[::-1]


def _ticks(ends: Sequence[float]) -> list[float]:
    """About five round values inside the plot, none among the lanes."""
    raw = (ends[1] - ends[0]) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(ends[0] / step - 1e-9)
    return [round(step * k, 12) for k in range(first, math.floor(ends[1] / step + 1e-9) + 1)]


def describe(figure: Figure) -> str:
    """The alternative text: where each line starts and ends, and where changes were found."""
    o, parts = figure.options, []
    for name in marks.series(figure):
        rows = sorted((r for r in figure.data if str(r.get("series", "")) == name), key=lambda r: r["x"])
        ends = (f"{words.span(r['y'])} at step {words.exact(r['x'])}" for r in (rows[0], rows[-1]))
        parts.append(f"{name}: {', '.join(ends)}")
    found = [f"{b['series']} between {words.exact(b['from'])} and {words.exact(b['to'])}" for b in o.get("bands", ())]
    onsets = "".join(f" {x['label'].capitalize()}." for x in o.get("onsets", ()))
    return f"{'; '.join(parts[:8])}. Changes found: {'; '.join(found) or 'none'}.{onsets}"
