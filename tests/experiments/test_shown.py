"""What is shown is what was measured: no step after the statistic cuts, rounds away or shortens a number.

Looked for of the kind: the stills of every figure kind and of every page of the docket (below, and whole in
``make accept``); axes and legends (labels that end in an ellipsis, two ticks of one name, 1,234,567 as 1.23457e+06);
thresholds, steps, shares and p in words (every f-string of
fixed places); the terminal's tables (queries, rulings of a demo); settings under "Provenance"; the
logit differences pair by pair; the scorecard's p.  The CSV, JSON and Parquet of a run are written from the tables
themselves (tests/test_store.py).
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import golden
import pandas as pd
import pytest

from headlab import report
from headlab.claims import Prediction, Ruling
from headlab.cli.show import _ruling, cell
from headlab.effects import Figure
from headlab.report import figures, stills, view, words
from headlab.stats import figures as stats_figures
from headlab.store import Store

SOURCE = Path(report.__file__).parents[1]
SAMPLE = golden.sampled(1 + int(os.environ.get("HEADLAB_GOLDEN_SEED", "0")), budget=2.0)
ROWS = [
    {"x": 1000 + i, "y": 0.947123 + 1e-3 * i, "low": 0.935, "high": 0.959, "series": s} for s in "ab" for i in range(5)
]
NULL = {"observed": 0.000772, "low": 0.000613, "high": 0.000951, "label": "p = 0.000772", "threshold": 0.000125}
FIGURES = [
    Figure("null", "n", "Null", "", tuple({"value": 1e-5 * i} for i in range(31)), NULL),
    Figure("null", "far", "Null", "", tuple({"value": -1e-4 * i} for i in range(31)), {**NULL, "label": "0.123456789"}),
    Figure("curve", "c", "Curve", "", tuple(ROWS), {"threshold": 0.94712, "y_title": "0.123456 of it"}),
    Figure(
        "curve", "small", "Curve", "", tuple({**r, "y": -1e-4 * r["x"], "low": None, "high": None} for r in ROWS), {}
    ),
    Figure(
        "estimates",
        "e",
        "Estimates",
        "",
        tuple(
            {"label": f"p = 0.00077{i}", "value": 0.5, "low": 0.41234, "high": 0.6, "group": g * 30}
            for i in range(3)
            for g in "ab"
        ),
        {"threshold": 0.123456},
    ),
    Figure(
        "pairs",
        "p",
        "Pairs",
        "",
        tuple({"pair": i, "world": "0.947 [0.935, 0.959]", "value": 1e-6 * i} for i in range(9)),
        {},
    ),
    Figure(
        "heatmap",
        "h",
        "Heat",
        "",
        tuple(
            {"x": f"{i}.12345", "y": "a name of more than forty letters, 0.98765", "value": 1e-5 * i} for i in range(4)
        ),
        {"value_title": "p < 0.000772"},
    ),
    Figure(
        "scatter",
        "s",
        "Scatter",
        "",
        tuple({"x": 1234567 + i, "y": 0.1 * i, "label": f"L0H{i} 0.12345", "group": "g"} for i in range(4)),
        {"named": True},
    ),
    Figure(
        "timeline",
        "t",
        "Time",
        "",
        tuple({**r, "x": 1000 * r["x"]} for r in ROWS),
        {
            "bands": [{"series": "a", "low": 1000000, "high": 1004000, "from": 1001000, "to": 1002001}],
            "onsets": [{"x": 1003000, "label": "onset 1.23456"}],
        },
    ),
]


def texts(svg: str) -> list[str]:
    """The text of every text node, in order."""
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def picture(address: str) -> str:
    return base64.b64decode(address.removeprefix("data:image/svg+xml;base64,")).decode()


def check(figure: Figure, still: str) -> list[str]:
    """A still's text nodes, which are those that the chart was drawn with; none was shortened, no axis repeats itself."""
    found = texts(still)
    assert found == texts(figures.svg(figures.spec(figure), titled=False)), figure.name
    given = "".join(str(figure.plain()).split())  # the lines of a folded label stand in one text node
    assert not [t for t in found if "…" in t and "".join(t.split()) not in given], figure.name
    for axis in re.findall(r'class="mark-text role-axis-label".*?</g>', still):
        ticks = re.findall(r"<text[^>]*>([^<]*)</text>", axis)
        assert len(ticks) == len(set(ticks)), (figure.name, ticks)
    return found


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f.kind}-{f.name}")
def test_every_word_of_a_still_is_the_charts(figure: Figure) -> None:
    found = check(figure, picture(view.figure(figure, "run")["still"]))
    said = {
        "null": [str(figure.options.get("label")), "threshold 0.000125", "0.00077 [0.00061, 0.00095]"],
        "curve": [f"threshold {figure.options['threshold']}"] if "threshold" in figure.options else [],
        "estimates": ["threshold 0.123456", "p = 0.000771", "b" * 30],
        "pairs": ["0.947 [0.935, 0.959]"],
        "heatmap": ["3.12345", "a name of more than forty letters, 0.98765"],
        "scatter": ["L0H3 0.12345"],
        "timeline": ["onset 1.23456", "between 1,001,000 and 1,002,001"],
    }
    joined = " ".join(found)
    assert not [s for s in said[figure.kind] if s not in joined]


def test_a_still_differs_in_places_only() -> None:
    """Every attribute but names for marks and places is the chart's own; a place moves by at most 0.005 pixels."""
    for figure in FIGURES:
        drawn = figures.svg(figures.spec(figure), titled=False)
        before, after = (list(ElementTree.fromstring(s).iter()) for s in (drawn, stills.slim(drawn)))
        assert [e.tag for e in before] == [e.tag for e in after] and len(stills.slim(drawn)) < len(drawn)
        for a, b in zip(before, after, strict=True):
            assert {k for k in a.attrib if not k.startswith("aria-")} == set(b.attrib) and a.text == b.text
            for name, value in b.attrib.items():
                if a.attrib[name] != value:
                    numbers = [re.findall(r"-?\d*\.?\d+(?:e[+-]?\d+)?", v) for v in (a.attrib[name], value)]
                    assert all(abs(float(x) - float(y)) <= 0.005001 for x, y in zip(*numbers, strict=True))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in SAMPLE else pytest.mark.accept) for c in sorted(golden.cases())]
)
def test_every_still_of_a_page_of_the_docket(case: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    record = golden.cases()[case](store=store).record
    children = [store.record(c) for c in record.children]
    page = report.page(record, store.tables(record.id), children)
    found = dict(
        re.findall(r'<figure class="chart" id="figure-([^"]*)".*?<img class="still" src="([^"]*)"', page, re.S)
    )
    drawn = [(r, Figure.from_plain(f)) for r in (record, *children) for f in r.figures]
    assert len(found) == len(drawn)
    for owner, figure in drawn:
        check(figure, picture(found[f"{owner.id}-{figure.name}".replace(" ", "-")]))


def test_no_number_in_a_sentence_is_rounded_to_one_that_stands_beside_it() -> None:
    """A share under a threshold never reads as the threshold, nor one short of 1 as all; a given share is said in full.
    Before: "only 90% of the clean prompts (at least 90% needed)", "12% of heads" for .125, "0.00 on average"."""
    assert stats_figures.percent(0.8996, 0.9) == "89.96%" and stats_figures.percent(0.896, 0.9) == "89.6%"
    assert (
        stats_figures.percent(0.9, 0.9) == "90%"
        and stats_figures.percent(1.0) == "100%"
        and stats_figures.percent(0) == "0%"
    )
    assert stats_figures.percent(0.99996) == "99.996%" and stats_figures.exact_percent(0.125) == "12.5%"
    assert stats_figures.rounded(0.00041) == "0.00041" and stats_figures.rounded(0.9996) == "0.9996"
    assert stats_figures.rounded(0.050049, 0.05) == "0.05005" and stats_figures.rounded(None) == "undefined"
    assert stats_figures.interval(0.9472, 0.935, 0.9591) == "0.947 [0.935, 0.959]"
    rooms = ("experiments", "trials", "report", "looking", "measures", "cli")
    lines = [x for room in rooms for p in (SOURCE / room).rglob("*.py") for x in p.read_text().splitlines()]
    fixed = [x for x in lines if re.search(r"(?<![A-Z]):\+?\.\d[f%]\}", x)]
    assert len(lines) > 5_000 and len(fixed) == 1 and "float(number[0])" in fixed[0], (
        "only coordinates have fixed places"
    )


def test_numbers_in_words_keep_what_decides() -> None:
    """By hand: p under a threshold never reads as the threshold or as 0; steps and settings stand as they were given."""
    assert words.small(0.000772) == "0.000772" and words.small(3.2e-9) == "3.2e-09" and words.small(0.0498) == "0.0498"
    assert words.exact(1234567.0) == "1234567" and words.exact(0.1 + 0.2) == "0.3" and words.exact(1e-7) == "1e-07"
    assert words.plain(0.12345678901) == "0.12345678901" and words.plain(3.0) == "3" and words.plain(1e-9) == "1e-09"
    assert words.span(1234567.0) == "1,234,567" and words.span(0.000772) == "0.000772"
    asked = Prediction(statistic="rank:even", op="rank<", threshold=0.05, words="w")
    ruled = Ruling(prediction=asked, outcome="upheld", shown="", value=0.000772, low=0.000613, high=0.000951)
    assert _ruling(ruled) == "p = 0.000772 [0.000613, 0.000951]"
    share: Any = ruled.model_copy(update={"prediction": asked.model_copy(update={"op": "<"})})
    assert _ruling(share) == "0.00077 [0.00061, 0.00095]"
    assert cell(1234567.25) == "1234567.25" and cell(0.000772) == "0.000772"
    row = pd.Series({"clean": -0.00123, "edited": 12.345})
    assert view._readout(row, "clean")["logits"] == "-0.00123" and view._readout(row, "edited")["logits"] == "+12.3"
