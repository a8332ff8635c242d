"""Heads on a page: which sets a null is made of, what is said of each head, and what a reader can do with them.

Looked for beside the entries with a table of matched sets: documents (a table of alternatives by statistic), nulls whose sets no
table has (attention scores: beside the values), tables of several strata, sets of several layers, heads in no set, heads in every
set, more sets and heads than a page holds, a table that says other values, words where heads should be.
"""

from __future__ import annotations

import base64
import itertools
import math
import re
import runpy
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import browsing
from browsing import accessible, held, opened, sync
from headlab import report
from headlab.effects import Figure
from headlab.heads import Head, Heads
from headlab.report import heads, nulls, patterns
from headlab.report.steps import steps
from headlab.store import Record
from headlab.trials import charts

MakeRecord = Callable[..., Record]
SETS = ("L0H0 L0H1", "L0H1 L2H3", "L0H0 L2H3", "L0H0 L0H3")
VALUES = (0.9, -0.3, 0.1, 0.2)
TABLE = pd.DataFrame({"heads": SETS, "other": VALUES[::-1], "contrast": VALUES})
HOSTILE = "</script><script>alert(2)</script><img src=x onerror=alert(1)>"


def drawn(**options: Any) -> Figure:
    of = {"table": "matched", "column": "contrast", "where": {}}
    shown = {"observed": 0.9, "low": 0.8, "high": 1.0, "x_title": "contrast", "named": SETS[0], "of": of, **options}
    return Figure("null", "null", "Among sets", "Bars count sets.", tuple({"value": v} for v in VALUES), shown)


def attention(*names: str) -> pd.DataFrame:
    """Of each head over two prompts: every token looks at all before it, the more the later (weights k + 1), in tenths at most."""
    rows = []
    for run, tokens in (("clean", ["<s>", " 9", ".", HOSTILE]), ("corrupted", ["<s>", "Q", ":"])):
        for name in names:
            for q in range(len(tokens)):
                each = [k + 1 for k in range(q + 1)]
                rows += [
                    {"pair_id": "9|11", "run": run, "head": name, "query": q, "key": k, "weight": w / sum(each),
                     "token": tokens[k], "role": "a_int" if k == 1 else ""}
                    for k, w in enumerate(each)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def of(make: MakeRecord, figure: Figure, **tables: pd.DataFrame) -> tuple[Record, dict[str, Any]]:
    record = make(figures=[figure.plain()], model={"name": "m", "grid": {"n_layers": 3, "n_heads": 5}})
    return record, tables


def test_a_head_is_told_by_the_sets_that_hold_it(make_record: MakeRecord) -> None:
    """By hand, the named set left out: L2H3 is in .1 and −.3 and not in .2; L0H0 in .1 and .2 and not in −.3."""
    record, tables = of(make_record, drawn(), matched=TABLE)
    found = nulls.null(drawn(), record, tables)
    assert found and found.named == Heads.parse("L0H0 L0H1") and [str(s) for s in found.sets] == list(SETS)
    assert [(r["value"], r["heads"], r["named"]) for r in found.rows()] == [
        ("0.9", "L0: 0 1", True),
        ("0.2", "L0: 0 3", False),
        ("0.1", "L0: 0; L2: 3", False),
        ("-0.3", "L0: 1; L2: 3", False),
    ]
    (group,) = heads.known(record, tables, [found])
    counts, means, rest, gaps = group.columns
    at = Head(2, 3)
    assert (counts.cells[at], means.cells[at], rest.cells[at], gaps.cells[at]) == ("2 of 3", "-0.1", "0.2", "-0.3")
    assert gaps.shade == pytest.approx({Head(2, 3): -0.3, Head(0, 0): 0.45, Head(0, 1): -0.45, Head(0, 3): 0.3})
    made: Any = heads.grid(record, [group])
    assert made and [at for at, _ in made["layers"]] == [0, 2] and made["untold"] == 1
    cells = [c for _, row in made["layers"] for c in row]
    assert [c["shade"] for c in cells] == [
        "more-4",
        "less-4",
        "none",
        "more-3",
        "none",
        *["none"] * 3,
        "less-3",
        "none",
    ]
    assert [c["head"] for c in cells if c["named"]] == ["L0H0", "L0H1"]
    assert cells[0]["label"] == "L0H0, named, difference 0.45" and not cells[2]["head"]


def test_where_a_record_keeps_its_sets(make_record: MakeRecord) -> None:
    """In the table, column and rows that the figure names; beside the values; nowhere: the table says other values, no heads
    stand there, there is none, the figure is of an older record and names none, or names what cannot be."""
    record, _ = of(make_record, drawn())
    mixed = pd.concat([TABLE.assign(statistic="a", contrast=0.5), TABLE.assign(statistic="b")], ignore_index=True)
    for key, table in {
        "statistic": mixed,
        "layer": mixed.replace({"a": 1, "b": 2}).rename(columns={"statistic": "layer"}),
    }.items():
        where = {key: table[key].iloc[-1]}
        here = drawn(of={"table": "alternatives", "column": "contrast", "where": where})
        found = nulls.null(here, record, {"other": TABLE, "alternatives": table})
        assert found and [str(s) for s in found.sets] == list(SETS)
    beside = tuple({"value": v, "heads": s} for v, s in zip(VALUES, SETS, strict=True))
    own = Figure("null", "n", "", "", beside, drawn().options)
    assert nulls.null(own, record, {}) == nulls.null(
        Figure(**{**vars(drawn()), "title": ""}), record, {"matched": TABLE}
    )
    other = TABLE.assign(contrast=[0.9, -0.3, 0.1, 0.2001])
    named = {"table": "matched", "column": "contrast", "where": {}}
    for unsaid, said in [
        (other, named),
        (TABLE.assign(heads=HOSTILE), named),
        *(
            (TABLE, one)
            for one in (None, "matched", {}, *({**named, k: v} for k in named for v in ("mtached", None, 3)))
        ),
        (TABLE, {**named, "where": {"layer": 0}}),
        (TABLE, {**named, "where": {"other": 0.9}}),
    ]:
        found = nulls.null(drawn(unit="permutations", of=said), record, {"matched": unsaid})
        assert found and not found.sets and not found.named and found.plain()["unit"] == "permutations"
        assert [r["value"] for r in found.rows()] == ["0.9", "0.2", "0.1", "-0.3"]
        assert heads.known(record, {}, [found]) == []
    assert nulls.null(Figure("curve", "c", "", "", ()), record, {}) is None
    document = record.model_copy(
        update={"claim": {"reference": {"redraw": "mine"}}, "settings": {"sets": {"mine": SETS[1]}}}
    )
    found = nulls.null(drawn(named=None), document, {"matched": TABLE})
    assert found and found.named == Heads.parse(SETS[1])
    found = nulls.null(drawn(named=HOSTILE), record, {"matched": TABLE})
    assert found and not found.named


def test_a_null_says_of_what_it_is() -> None:
    """In words, or by the heads of each value; a caller that says neither is refused, by the checker of types too."""
    given = ("null", "t", "c", VALUES, 0.9, "here", "contrast", 0.2)
    halves = charts.null(*given, of="halves", named=Heads.parse(SETS[0]))
    assert halves.options["unit"] == "halves" and halves.options["named"] == SETS[0] and "heads" not in halves.data[0]
    listed = charts.null(*given, of=charts.Column("matched", "contrast", {"layer": 3}))
    assert listed.options["of"] == {"table": "matched", "column": "contrast", "where": {"layer": 3}}
    assert "unit" not in listed.options and "heads" not in listed.data[0]
    every = charts.null(*given, of=[*map(Heads.parse, SETS)])
    assert "unit" not in every.options and [d["heads"] for d in every.data] == list(SETS)
    with pytest.raises(TypeError, match="'of'"):
        charts.null(*given)  # pyright: ignore[reportCallIssue]


def test_a_head_in_every_set_and_more_than_a_page_holds(
    make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = nulls.Null("t", "w", tuple(map(Heads.parse, ("L0H0 L0H1", "L0H0 L0H2"))), (1.0, 2.0), Heads())
    (group,) = heads.known(make_record(figures=[]), {}, [every])
    assert group.columns[0].cells[Head(0, 0)] == "2 of 2" and Head(0, 0) not in group.shade
    monkeypatch.setattr(heads, "HEADS_INLINE", 2)
    monkeypatch.setattr(nulls, "SETS_INLINE", 2)
    many = nulls.Null("t", "w", tuple(map(Heads.parse, SETS)), VALUES, Heads.parse("L0H3"))
    made: Any = heads.grid(make_record(), heads.known(make_record(figures=[]), {}, [many]))
    assert made and [name for name, _ in made["lines"]] == ["L0H0", "L0H3"] and made["total"] == 4
    assert [r["value"] for r in many.rows()] == ["0.9", "-0.3"] and many.plain()["total"] == 4


def test_what_a_head_attends_to_is_a_picture_and_words(make_record: MakeRecord) -> None:
    """By hand: the last of four tokens gives .4, .3, .2, .1; the picture has 255 (1 − weight), which chromium reads below."""
    made: Any = patterns.shown({"attended": attention("L1H10", "L1H2")}, {"b_int": 0})
    assert list(made.heads) == ["L1H2", "L1H10"] and made.roles == {"a_int": 1}
    assert [(p["run"], len(p["tokens"]), p["tokens"][1]) for p in made.prompts] == [
        ("clean", 4, {"text": " 9", "role": "a_int", "tone": 1}),
        ("corrupted", 3, {"text": "Q", "role": "a_int", "tone": 1}),
    ]
    first = made.heads["L1H2"][0]
    assert first.said.startswith("40% to “") and "30% to “.” (2), 20% to “·9” (1)" in first.said
    packed = base64.b64decode(first.picture.partition(",")[2])
    lines = zlib.decompress(packed[packed.index(b"IDAT") + 4 : packed.index(b"IEND") - 8])
    assert len(lines) == 4 * 5 and list(lines[15:]) == [0, *(255 - round(255 * w) for w in (0.1, 0.2, 0.3, 0.4))]
    assert list(lines[:5]) == [0, 0, 255, 255, 255]
    assert patterns.shown({}, {}) is None
    alone: Any = heads.grid(make_record(figures=[]), [], made)
    assert [c["label"] for _, row in alone["layers"] for c in row if c["named"]] == [
        f"L1H{n}, named, largest share from where the answer is read 0.5" for n in (2, 10)
    ]


def test_what_tables_and_figures_say_of_single_heads(make_record: MakeRecord) -> None:
    table = pd.DataFrame(
        {"layer": [0, 1], "head": [1, 0], "share": [0.5, -2.0], "p": [0.1, 0.2], "note": [HOSTILE] * 2}
    )
    cells = tuple({"x": str(i), "y": "L1", "value": v, "panel": "zero"} for i, v in enumerate((0.5, None, -1.0)))
    alone = Figure("heatmap", "heads each", "Each alone", "", cells, {"value_title": "lost"})
    record = make_record(figures=[alone.plain()])
    found = heads.known(record, {"heads": table, "twice": pd.concat([table, table])}, [])
    assert [(g.title, [c.title for c in g.columns]) for g in found] == [
        ("Each alone, zero", ["lost"]),
        ("Table “heads”", ["share"]),
    ]
    assert found[0].shade == {Head(1, 0): 0.5, Head(1, 2): -1.0} and found[1].shade == {
        Head(0, 1): 0.5,
        Head(1, 0): -2.0,
    }


def test_a_curve_is_told_step_by_step() -> None:
    rows = [
        {"x": x, "y": y, "low": y and y - 0.1, "high": y and y + 0.1, "series": s}
        for s, x, y in (("even", 1.0, 0.5), ("even", 0.0, 0.25), ("odd", 0.5, 0.75), ("odd", 0.7, None))
    ]
    made = steps(Figure("curve", "dose", "By dose", "", tuple(rows), {"x_title": "dose"}))
    assert made == {
        "x": "dose",
        "series": ["even", "odd"],
        "rows": [
            ("0", ["0.25 [0.15, 0.35]", "–"]),
            ("0.5", ["–", "0.75 [0.65, 0.85]"]),
            ("1", ["0.50 [0.40, 0.60]", "–"]),
        ],
    }
    assert steps(drawn()) is None and steps(Figure("curve", "c", "", "", tuple(rows[:1]))) is None


def test_without_a_browser_only_what_drives_one_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole file did, these tests too."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    without = runpy.run_path(browsing.__file__)
    with pytest.raises(pytest.skip.Exception, match="no chromium is installed"), without["chromium"]():
        raise AssertionError("a browser, where there is none")


# -- in a real browser --------------------------------------------------------------------------------------


@pytest.fixture
def file(make_record: MakeRecord, frames: dict[str, pd.DataFrame], tmp_path: Path) -> Path:
    """The page of a trial with 70 halves of eight heads, and a stranger's words where words may stand."""
    halves = [Heads.of(1, one) for one in itertools.combinations(range(8), 4)]
    values = [round(math.sin(7 * n), 4) for n in range(len(halves))]
    told = {**drawn().options, "named": str(halves[0]), "x_title": HOSTILE}
    figure = Figure("null", "null", HOSTILE, "Bars count sets.", tuple({"value": v} for v in values), told)
    record = make_record(figures=[figure.plain()])
    path = tmp_path / "report.html"
    table = pd.DataFrame({"heads": map(str, halves), "contrast": values})
    path.write_text(
        report.page(record, {**frames, "matched": table, "attended": attention("L1H0", "L1H2")}), encoding="utf-8"
    )
    return path


def test_the_null_is_brushed_and_heads_are_asked(browser: Any, file: Path) -> None:
    """By number, by mouse, by arrow keys; what is told is the table's; nothing overflows, nothing complains."""
    expect = sync.expect
    with opened(browser) as page:
        page.goto(file.as_uri())
        figure = page.locator("figure.chart").first
        expect(figure.locator(".live svg")).to_have_count(1)
        values = page.eval_on_selector_all(
            ".sets tbody td:first-child", "cells => cells.map((c) => Number(c.textContent))"
        )
        assert values == sorted(values, reverse=True) and len(values) == 70
        figure.locator("input.from").fill("0")
        inside = sum(v >= 0 for v in values)
        expect(figure.locator(".brushed")).to_contain_text(
            f"{inside} of {len(values)} sets lie here. Heads most often in them: L1H"
        )
        expect(figure.locator(".sets tbody tr:visible")).to_have_count(inside)
        said = re.findall(r"(L1H\d) \(\d+\)", figure.locator(".brushed").inner_text())
        outlined = page.locator("a.head.often")
        names = outlined.evaluate_all("links => links.map((a) => a.hash.split('-').pop())")
        assert len(said) == 6 and sorted(said) == names and page.locator(".often-key").is_visible()
        expect(figure.locator(".live svg .brush_brush path")).to_have_count(1)
        held(page)
        expect(figure.locator(".brushed")).to_contain_text(f"{inside} of")  # a chart drawn anew keeps what was typed
        figure.get_by_role("button", name="All").click()
        expect(figure.locator(".sets tbody tr:visible")).to_have_count(len(values))
        assert outlined.count() == 0 and not page.locator(".often-key").is_visible()
        plot = figure.locator(".live svg").bounding_box()
        page.mouse.move(plot["x"] + 0.5 * plot["width"], plot["y"] + 0.5 * plot["height"])
        page.mouse.down()
        page.mouse.move(plot["x"] + 0.98 * plot["width"], plot["y"] + 0.5 * plot["height"], steps=5)
        page.mouse.up()
        page.wait_for_function("Number(document.querySelector('input.to').value) > 0.9")
        low = float(figure.locator("input.from").input_value())
        expect(figure.locator(".sets tbody tr:visible")).to_have_count(sum(v >= low for v in values))
        first, told = page.locator("a.head").first, page.locator(".told")
        assert page.locator("a.head.named").count() == 4
        first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        row = page.locator(".every-head tbody tr").nth(1).locator("th, td").all_text_contents()
        expect(told).to_contain_text(row[0])
        assert [t for t in told.locator("dd").all_text_contents()] == row[1:]
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Space")
        expect(told).to_contain_text("L1H0")
        attends = page.locator(".attends")
        expect(attends.locator(".quiet").nth(1)).to_contain_text("(3, where the answer is read): 40% to “")
        attends.locator("button[aria-pressed=true]").first.press("ArrowLeft")
        expect(attends.locator(".quiet").nth(1)).to_have_text(
            "From “.” (2): 50% to “.” (2), 33% to “·9” (1), 16% to “<s>” (0)"
        )
        assert attends.locator("button").nth(1).get_attribute("aria-label") == "·9, a_int, 33 percent"
        page.locator("a.head").nth(1).click()
        expect(attends).to_be_hidden()  # a head that was not named
        page.locator("a.head").nth(2).click()
        expect(attends).to_contain_text("What L1H2 attends to")
        held(page)
        accessible(page)


def test_what_is_no_set_of_heads_is_brushed_too(browser: Any, make_record: MakeRecord, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    figure = drawn(unit=HOSTILE)
    file.write_text(report.page(make_record(figures=[figure.plain()]), {}), encoding="utf-8")
    with opened(browser) as page:
        page.goto(file.as_uri())
        assert page.locator(".brush legend").text_content() == f"How many {HOSTILE} lie here?"  # no heads say which
        page.locator("input.from").fill("0.15")
        sync.expect(page.locator(".brushed")).to_have_text(f"2 of 4 {HOSTILE} lie here.")
        assert page.locator(".sets tbody tr:visible").all_text_contents() == ["0.9", "0.2"]
        accessible(page)


def test_doses_are_walked_by_a_slider(browser: Any, make_record: MakeRecord, tmp_path: Path) -> None:
    """By keyboard; the words are the table's, the line stands where the chart has that dose; else a table stands there."""
    doses = [{"x": x, "y": x * x, "low": None, "high": None, "series": HOSTILE} for x in (0.0, 0.5, 1.0)]
    curve = Figure("curve", "dose", "By dose", "", tuple(doses), {"x_title": "dose"})
    file = tmp_path / "report.html"
    file.write_text(report.page(make_record(figures=[curve.plain()]), {}), encoding="utf-8")
    with opened(browser, java_script_enabled=False) as page:
        page.goto(file.as_uri())
        page.locator(".steps summary").click()
        assert page.locator(".steps td").first.is_visible() and not page.locator(".slide").is_visible()
    with opened(browser) as page:
        page.goto(file.as_uri())
        figure = page.locator("figure.chart").first
        figure.scroll_into_view_if_needed()
        sync.expect(figure.locator(".live svg")).to_have_count(1)
        slider = figure.locator("input[type=range]")
        slider.press("ArrowRight")
        sync.expect(figure.locator("output")).to_have_text("0.5: 0.25")
        assert figure.locator("tr[aria-current] th").text_content() == slider.get_attribute("aria-valuetext") == "0.5"
        middle = figure.locator(".live path[aria-roledescription=point]").nth(1).bounding_box()
        line = figure.locator(".at-step").bounding_box()
        assert abs(line["x"] - (middle["x"] + middle["width"] / 2)) < 3
        accessible(page)


def test_without_scripts_all_of_it_stands_there(browser: Any, file: Path) -> None:
    with opened(browser, java_script_enabled=False) as page:
        page.goto(file.as_uri())
        held(page)
        assert not page.locator(".brush").first.is_visible() and page.locator("a.head").first.is_visible()
        page.locator(".sets summary").first.click()
        assert (
            page.locator(".sets tbody tr").first.is_visible()
            and page.get_by_text("named", exact=True).first.is_visible()
        )
        page.locator("a.head").first.click()
        assert page.locator(".every-head tbody tr").first.is_visible()
        page.locator(".patterns summary").click()
        assert page.locator(".patterns td:has-text('40% to') img").first.is_visible()


def test_on_paper_a_trial_is_short_and_shows_its_stills(browser: Any, file: Path, tmp_path: Path) -> None:
    """At most three pages for this record (parity on an organism: six): stills for charts, nothing to touch, provenance open."""
    with opened(browser) as page:
        page.goto(file.as_uri())
        sync.expect(page.locator(".live svg").first).to_be_visible()
        pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf()))
        assert pages <= 3
        page.emulate_media(media="print")
        assert (
            page.locator("img.still").first.is_visible() and page.locator("details.provenance table").first.is_visible()
        )
        assert not any(
            page.locator(s).first.is_visible() for s in (".live", ".brush", ".saves", ".contents", ".sets summary")
        )


def test_a_scorecard_opens_with_its_verdicts_and_is_sorted(
    browser: Any, make_record: MakeRecord, tmp_path: Path
) -> None:
    """Grouped by verdict in the order of verdicts, the strip leading to each group; a heading sorts up, down and back; what has
    no p stands last; a stranger's words stay words; without scripts the groups stand there."""
    base = {"published": "", "effect": HOSTILE, "controls": "2 of 2", "p_holm": 1.0}
    told = [("refuted", "b", 0.5), ("upheld", "c", 0.03), ("refuted", "a", math.nan), ("upheld", HOSTILE, 0.2)]
    rows = [base | {"id": "", "experiment": e, "claim": f"claim {e}", "outcome": o, "p": p} for o, e, p in told]
    record = make_record(kind="run", slug="scorecard", claim=None, readings=[], figures=[], notes=["4 claims."])
    path = tmp_path / "card.html"
    path.write_text(report.page(record, {"scorecard": pd.DataFrame(rows)}), encoding="utf-8")
    for scripts in (False, True):
        with opened(browser, java_script_enabled=scripts) as page:
            page.goto(path.as_uri())
            names = page.locator("table.sortable tbody tr:not(.group) th")
            assert page.locator(".group").all_text_contents() == ["Upheld: 2 of 4", "Refuted: 2 of 4"]
            assert [re.findall(r"Upheld|Refuted|\d", t) for t in page.locator(".strip a").all_text_contents()] == [
                ["Upheld", "2"],
                ["Refuted", "2"],
            ]
            grouped = ["c", HOSTILE, "b", "a"]
            assert names.all_text_contents() == grouped
            if scripts:
                by_p = page.get_by_role("button", name="Rank p")
                for said, order in (("ascending", ["c", HOSTILE, "b", "a"]), ("descending", ["b", HOSTILE, "c", "a"])):
                    by_p.press("Enter")
                    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == said
                    assert names.all_text_contents() == order and page.locator(".group").count() == 0
                by_p.press("Enter")
                assert names.all_text_contents() == grouped and page.locator(".group").count() == 2
                held(page)
                accessible(page)
