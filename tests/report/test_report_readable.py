"""What a page shows can be read: readings as dots with intervals, labels of every kind of figure on a narrow screen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest

from browsing import accessible, held, opened, sync
from headlab import report
from headlab.effects import Figure
from headlab.report import dots, view
from headlab.stats import Estimate
from headlab.store import Record

MakeRecord = Callable[..., Record]


def number(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, 7, "pairs", "bootstrap", seed=0)


NOTHING = Estimate.undefined("pairs", 7, "all pairs alike")


@pytest.mark.parametrize(
    ("found", "ends", "zero", "places"),
    [
        ([number(0.25, 0.2, 0.5), None, number(1.0, 1.0, 1.0)], ("0", "1"), 0, [[25, 20, 50], None, [100, 100, 100]]),
        ([number(-0.5, -0.75, 0.0), NOTHING], ("-1", "1"), 50, [[25, 12.5, 50], []]),
        ([number(3.0, 1.0, 9.0)], ("-2", "10"), 16.67, [[41.67, 25, 91.67]]),
        ([number(-40.0, -50.0, -10.0)], ("-60", "10"), 85.71, [[28.57, 14.29, 71.43]]),
    ],
)
def test_where_dots_stand(found: list[Any], ends: Any, zero: float, places: Any) -> None:
    """By hand, in percent of the axis: shares from 0 to 1, differences of shares from −1 to 1, else about round numbers and 0."""
    assert dots.lane(found) == {"ends": ends, "zero": zero, "dots": places}
    assert dots.lane([None, NOTHING]) is None


def test_readings_are_dots_with_their_numbers_folded(make_record: MakeRecord) -> None:
    """Each reading that has a quantity has a bar from its low to its high and a dot at its value, and is said to who does not see;
    the table of numbers is closed; words of a stranger stay words."""
    record = make_record()
    hostile = '"><script>alert(1)</script>'
    first = record.readings[0]
    renamed = first.model_copy(
        update={"estimates": tuple(e.model_copy(update={"label": hostile}) for e in first.estimates)}
    )
    html = report.page(record.updated({"readings": [renamed, *record.readings[1:]]}), {})
    assert hostile not in html and '<li><span class="what">&#34;&gt;&lt;script' in html
    (rows,) = view.comparison(record.readings).values()
    lanes = re.findall(r'<svg role="img" aria-label="([^"]*)"(.*?)</svg><span class="end"', html, re.S)
    assert len(lanes) == len(rows) == 3
    for (said, drawn), row in zip(lanes, rows, strict=True):
        lane: Any = row["lane"]
        bars = re.findall(r'<line x1="([\d.]+)%" x2="([\d.]+)%" y1="(\d+)"', drawn)
        points = re.findall(r'<svg x="([\d.]+)%" y="(\d+)"', drawn)
        assert [(float(a), float(b)) for a, b, _ in bars] == [(low, high) for _, low, high in lane["dots"]]
        assert [float(x) for x, _ in points] == [value for value, *_ in lane["dots"]]
        assert [y for *_, y in bars] == [y for _, y in points] == ["7", "21", "35"]
        names = ("Standard", "As published", "Naive")
        assert said == "; ".join(f"{n} {c['text']}" for n, c in zip(names, row["cells"], strict=True))
    folded = re.search(r'<details class="comparison">(.*?)</details>', html, re.S)
    assert folded and folded[1].count('<span class="number"') == 9 and '<table class="stack numbers">' in folded[1]


@pytest.fixture
def file(make_record: MakeRecord, frames: dict[str, pd.DataFrame], tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(report.page(make_record(), frames), encoding="utf-8")
    return path


@pytest.mark.parametrize("scripts", [True, False])
def test_dots_on_a_narrow_screen_and_on_paper(browser: Any, file: Path, scripts: bool) -> None:
    """Inside their lanes at 420 pixels; the numbers beside them on paper, in the table where one asks."""
    with opened(browser, java_script_enabled=scripts) as page:
        page.goto(file.as_uri())
        held(page)
        page.set_viewport_size({"width": 420, "height": 900})
        lanes, table = page.locator(".lane > svg"), page.locator(".comparison table")
        assert lanes.count() == 3 and not table.is_visible()
        for lane in lanes.all():
            box = lane.bounding_box()
            assert box["width"] > 200
            for dot in lane.locator("path").all():
                at = dot.bounding_box()
                assert box["x"] - 6 <= at["x"] and at["x"] + at["width"] <= box["x"] + box["width"] + 6
                assert box["y"] <= at["y"] and at["y"] + at["height"] <= box["y"] + box["height"]
        assert not page.locator(".paper").first.is_visible()
        page.locator(".comparison summary").click()
        sync.expect(table).to_be_visible()
        page.emulate_media(media="print")
        assert page.locator(".paper").first.inner_text().splitlines()[0].endswith("n = 100 pairs")
        if scripts:
            page.emulate_media(media="screen")
            accessible(page)


@pytest.mark.parametrize("scripts", [True, False])
def test_labels_of_every_kind_of_figure_can_be_read(
    browser: Any, make_record: MakeRecord, kinds: list[Figure], tmp_path: Path, scripts: bool
) -> None:
    """At least ten pixels at 420, in a report and in a trial within it, drawn live and still; no chart complains."""
    assert {f.kind for f in kinds} == set(get_args(get_type_hints(Figure)["kind"]))
    made = make_record(figures=[f.plain() for f in kinds])
    child = make_record("child-1", figures=[f.plain() for f in kinds])
    path = tmp_path / "report.html"
    path.write_text(report.page(made, {}, [child]), encoding="utf-8")
    with opened(browser, java_script_enabled=scripts) as page:
        page.goto(path.as_uri())
        page.locator(".child > summary").click()
        page.set_viewport_size({"width": 420, "height": 900})
        figures = page.locator("figure.chart")
        assert figures.count() == 2 * len(kinds)
        for figure in figures.all():
            figure.scroll_into_view_if_needed()
            sync.expect(figure.locator(".live svg" if scripts else "img.still")).to_be_visible()
        held(page)
        page.emulate_media(media="print")
        assert figures.first.locator("img.still").is_visible()
