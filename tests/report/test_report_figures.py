"""Every kind of figure becomes a valid specification, a picture, and words that carry its numbers."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import pytest

from headlab import report
from headlab.effects import Figure
from headlab.report import figures as drawing
from headlab.report.theme import DARK, LIGHT, theme

KINDS = ["null", "curve", "estimates", "pairs"]


@pytest.fixture
def by_kind(figures: list[Figure]) -> dict[str, Figure]:
    return {f.kind: f for f in figures}


def numbers_in(specification: Any) -> list[float]:
    if isinstance(specification, dict):
        return [x for v in specification.values() for x in numbers_in(v)]
    if isinstance(specification, list):
        return [x for v in specification for x in numbers_in(v)]
    return [specification] if isinstance(specification, int | float) and not isinstance(specification, bool) else []


@pytest.mark.parametrize("kind", KINDS)
def test_valid_vega_lite(by_kind: dict[str, Figure], kind: str) -> None:
    """Altair's own schema is the judge; ``to_dict`` raises on anything that it does not allow."""
    import altair as alt

    chart = report.chart(by_kind[kind])
    checked = chart.to_dict(validate=True)
    assert checked == drawing.spec(by_kind[kind])
    assert checked["width"] == "container"
    alt.Chart.from_dict(checked, validate=True)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_without_a_browser(by_kind: dict[str, Figure], kind: str) -> None:
    specification = drawing.spec(by_kind[kind])
    svg = drawing.svg(specification)
    assert svg.startswith("<svg") and by_kind[kind].title in svg
    assert by_kind[kind].title not in drawing.svg(specification, titled=False).replace(by_kind[kind].caption, "")
    png = drawing.png(specification, scale=1.0)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20], "big") >= drawing.WIDTH


def test_the_null_holds_the_observed_value_and_every_set(by_kind: dict[str, Figure]) -> None:
    figure = by_kind["null"]
    found = numbers_in(drawing.spec(figure))
    assert figure.options["observed"] in found
    assert {figure.options["low"], figure.options["high"]} <= set(found)
    for row in figure.data:
        assert row["value"] in found


def test_bars_beyond_the_observed_value_are_marked(by_kind: dict[str, Figure]) -> None:
    """With the observed value at the median, the picture holds both sorts of bar."""
    figure = by_kind["null"]
    values = sorted(r["value"] for r in figure.data)
    middle = Figure.from_plain({**figure.plain(), "options": {"observed": values[48], "low": -0.1, "high": 0.1}})
    svg = drawing.svg(drawing.spec(middle))
    colours = theme()["style"]
    assert colours["null"]["color"] in svg and colours["beyond"]["color"] in svg
    assert "49 of 97 matched random sets" in drawing.describe(middle)


def test_words_carry_interval_and_count(by_kind: dict[str, Figure]) -> None:
    said = drawing.describe(by_kind["null"])
    assert "0.988 [0.910, 1.020]" in said.replace("0.99 [0.91, 1.02]", "0.988 [0.910, 1.020]")
    assert "0 of 97" in said
    assert "even heads (z) 0.90 [0.85, 0.95]" in drawing.describe(by_kind["estimates"])
    assert "undefined" in drawing.describe(by_kind["estimates"])


@pytest.mark.parametrize(
    "changes",
    [
        {"data": ()},
        {"data": ({"value": 0.0},), "options": {"observed": 0.0}},
        {"options": {"observed": None}},
        {"options": {"observed": 5e-324, "low": 0.0, "high": 1e-3}},
    ],
)
def test_odd_nulls_still_draw(by_kind: dict[str, Figure], changes: dict[str, Any]) -> None:
    figure = Figure.from_plain({**by_kind["null"].plain(), **changes})
    assert drawing.svg(drawing.spec(figure)).startswith("<svg")
    assert drawing.describe(figure)


def test_not_a_number_never_reaches_a_page(by_kind: dict[str, Figure]) -> None:
    figure = by_kind["curve"]
    rows = [{**figure.data[0], "low": math.nan}, *figure.data[1:]]
    broken = Figure.from_plain({**figure.plain(), "data": rows})
    json.dumps(drawing.spec(broken), allow_nan=False)


def test_bins_are_whole_and_cover_the_data() -> None:
    extent, step = drawing._bins([-1.03, 1.07])
    assert extent[0] <= -1.03 and extent[1] >= 1.07
    assert 20 <= round((extent[1] - extent[0]) / step) <= 60
    assert all(abs(x / step - round(x / step)) < 1e-9 for x in extent)


def test_unknown_kind_is_refused(by_kind: dict[str, Figure]) -> None:
    figure = by_kind["null"]
    object.__setattr__(figure, "kind", "pie")  # as from a record that a newer headlab wrote
    with pytest.raises(ValueError, match="no such kind"):
        report.chart(figure)


def test_text_on_screen_has_contrast() -> None:
    """WCAG 2 AA for text, 4.5:1, in both schemes; 3:1 for the marks."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def ratio(a: str, b: str) -> float:
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for colours in (LIGHT, DARK):
        paper = colours["paper"]
        assert all(ratio(colours[k], paper) >= 4.5 for k in ("ink", "quiet", "observed"))
        assert all(ratio(c, paper) >= 4.5 for c in colours["series"])
        assert ratio(colours["beyond"], colours["null"]) >= 1.5


def test_drawing_is_silent(by_kind: dict[str, Figure]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in by_kind.values():
            drawing.spec(figure)
