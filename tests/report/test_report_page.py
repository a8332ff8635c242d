"""The page: self-contained, escaped, with every number's interval and n."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headlab import report
from headlab.claims import Control
from headlab.effects import Figure
from headlab.report import view, words
from headlab.stats import Estimate
from headlab.store import Record

MakeRecord = Callable[..., Record]
Frames = dict[str, pd.DataFrame]
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would see: tags with attributes, the text outside scripts, and each script's text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {k: v or "" for k, v in attrs}
        self.tags.append((tag, given))
        if tag == "script":
            self.scripts.append((given, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            given, text = self.scripts[-1]
            self.scripts[-1] = (given, text + data)
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def csv(self, name: str) -> pd.DataFrame:
        href = next(a["href"] for t, a in self.tags if t == "a" and a.get("download") == name)
        return pd.read_csv(io.BytesIO(base64.b64decode(href.split("base64,")[1])))


def test_nothing_is_fetched(good_page: str) -> None:
    """Every address in the page is inside it, and the policy forbids the rest."""
    page = Page(good_page)
    assert not page.open
    for tag, given in page.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster", "background", "ping"):
            if name in given:
                assert given[name].startswith(("#", "data:")), (tag, name, given[name][:80])
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert not any(name.startswith("on") or name == "style" for name in given)
    style = re.search(r"<style>(.*?)</style>", good_page, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    assert "https://example.org/paper" in page.text  # a citation stays plain text


def test_a_page_is_small_and_says_what_it_has(
    good_page: str, make_record: MakeRecord, frames: Frames, kinds: list[Figure]
) -> None:
    """At most 1.2 MB, with a figure of every kind, 999 sets of 16 heads behind the null, and 300 pairs; a number that is not
    there is undefined or not measured, never "not read": in whole pages, unfinished ones, void ones and ones without tables."""
    null, values = kinds[0].plain(), [0.001 * i for i in range(999)]
    heads = [" ".join(f"L1H{(i + 3 * k) % 32}" for k in range(16)) for i in range(999)]
    of = {"of": {"table": "matched", "column": "contrast", "where": {}}}
    drawn = {"data": [{"value": v} for v in values], "options": {**null["options"], **of}}
    matched = pd.DataFrame({"heads": heads, "contrast": values})
    one = frames["effects"]
    many = pd.concat([one.assign(pair=one["pair"] + 11 * k) for k in range(40)], ignore_index=True)
    every = make_record(figures=[{**null, **drawn}, *(f.plain() for f in kinds[1:])])
    large = report.page(every, {**frames, "effects": many, "matched": matched})
    assert "L1: 0 3 6 9" in large and "Show 300 of 440 pairs" in large
    unread = frames["effects"].assign(parsed=False, edited_text=None)
    pages = [
        good_page,
        large,
        report.page(make_record(noop=False), {**frames, "effects": unread}),
        report.page(make_record(status="interrupted", readings=[], figures=[]), {}),
        report.page(make_record(), {}, [make_record("child-1", even=20)]),
    ]
    for html in pages:
        assert len(html.encode()) <= 1_200_000
        assert "not read" not in html.lower()


def test_only_our_scripts_may_run(good_page: str) -> None:
    """The policy names each script by its hash; a changed or added script has no permission."""
    page = Page(good_page)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    directive = next(d for d in policy.split("; ") if d.startswith("script-src"))
    assert "unsafe" not in directive
    (packed,) = (text for given, text in page.scripts if given.get("id") == "charts")
    library = gzip.decompress(base64.b64decode(packed)).decode()
    running = [library, *(text for given, text in page.scripts if "type" not in given)]
    hashes = ["'sha256-" + base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() + "'" for t in running]
    assert directive.split()[1:] == hashes
    assert len(running) == 2 and "vegaEmbed" in library


HOSTILE = '</script><script>alert("1")</script><img src=x onerror=alert(2)>'


def test_hostile_words_stay_words(make_record: MakeRecord, frames: Frames) -> None:
    record = make_record(name=HOSTILE, title=HOSTILE, notes=[HOSTILE], warnings=[HOSTILE], error=HOSTILE)
    claim = {**(record.claim or {}), "words": HOSTILE, "source": HOSTILE, HOSTILE: HOSTILE}
    plain = record.figures[0]
    poisoned = [
        {**plain, "title": HOSTILE, "caption": HOSTILE, "options": {**plain["options"], "label": HOSTILE}},
        {**record.figures[1], "data": [{**r, "series": HOSTILE} for r in record.figures[1]["data"]], "name": HOSTILE},
    ]
    record = record.model_copy(update={"claim": claim, "figures": poisoned, "call": {"command": HOSTILE}})
    rows = {**frames, "effects": frames["effects"].assign(edited_text=HOSTILE, pair_id=HOSTILE)}
    child = make_record("child-1", name=HOSTILE)
    html = report.page(record, rows, [child])
    page = Page(html)
    assert not page.open
    assert sum("type" not in given for given, _ in page.scripts) == 1
    assert not any(name.startswith("on") for _, given in page.tags for name in given)
    assert not any(given.get("src") == "x" for _, given in page.tags)
    assert page.text.count("alert(2)") >= 8
    data = [text for given, text in page.scripts if given.get("type") == "application/json"]
    assert any("alert" in text for text in data) and not any("<" in text for text in data)


def test_verdict_stands_on_top_in_words(good_page: str, make_record: MakeRecord) -> None:
    text = Page(good_page).text
    record = make_record()
    assert record.readings[0].verdict.outcome == "upheld"
    assert text.index("✓ Upheld") < text.index("2 of 2 controls passed")
    order = [
        good_page.index(f'id="{record.id}-{name}"')
        for name in ("figures", "controls", "readings-side-by-side", "provenance")
    ]
    assert order == sorted(order)
    assert record.readings[0].verdict.sentence in text
    there = [good_page.index(f'id="{record.id}-{name}"') for name in ("predicted-and-found", "controls", "provenance")]
    assert [good_page.index("2 of 2 controls passed"), *there] == sorted(
        [good_page.index("2 of 2 controls passed"), *there]
    )
    for part in ("What would change the verdict", "Controls", "Eligibility", "When this misleads", "Repeat it"):
        assert part in text
    for known in (
        "headlab trial parity",
        "ab" * 32,
        "9f" * 32,
        "cd" * 32,
        "ee" * 32,
        "settings.seed 5",
        "torch 2.13.0",
    ):
        assert known in text


def test_numbers_carry_interval_and_n(good_page: str) -> None:
    """Each estimate on the page has its interval and its n in the same element."""
    shown = re.findall(r'<span class="number"[^>]*>(.*?)</span></span>', good_page)
    assert len(shown) >= 12
    for number in shown:
        text = re.sub(r"<[^>]*>", "", number)
        assert re.search(r"\[[^\]]+\]|\(exact\)|undefined", text), text
        assert re.search(r"n = [\d,]+ \w+", text), text
    assert "1 of 97" not in good_page  # nothing in this null is as large
    assert "0 of 97 matched random sets are at least as large" in Page(good_page).text


@pytest.mark.parametrize("outcome", ["undecided", "void", "refuted"])
def test_other_outcomes(make_record: MakeRecord, frames: Frames, outcome: str) -> None:
    record = make_record(even={"undecided": 52, "refuted": 20}.get(outcome, 97), noop=outcome != "void")
    assert record.readings[0].verdict.outcome == outcome
    html = report.page(record, frames)
    text = Page(html).text
    assert f"{outcome.capitalize()}:" in text and f'class="badge {outcome}"' in html
    if outcome == "void":
        failed = html.split('<ul class="failed">')[1].split("</ul>")[0]
        assert "no-op" in failed and "writing back moved 3 pairs" in failed and "patch-all" not in failed
        controls = text.split("What was seen", 1)[1]
        assert controls.index("✗ failed") < controls.index("✓ passed")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "All 3 predictions hold."),
        ({"even": 20}, "It is not so that the even heads repair most pairs."),
        ({"even": 52}, "It stays open whether the even heads repair most pairs."),
        ({"noop": False}, "The control no-op failed."),
        ({"sentence": "Untestable: the model is not eligible: eligibility needs 0.5 (of 9 pairs), given .1."},
         "The model is not eligible."),
        ({"sentence": "Untestable: what was measured cannot decide whether it is so (p = 0.1); no more."},
         "What was measured cannot decide whether it is so."),
    ],
)  # fmt: skip
def test_the_verdict_box_opens_with_one_clause(make_record: MakeRecord, how: dict[str, Any], said: str) -> None:
    """For every outcome; the whole sentence stands beneath."""
    sentence = how.pop("sentence", "")
    record = make_record(**how)
    first = record.readings[0]
    if sentence:
        told = first.verdict.model_copy(update={"outcome": "untestable", "sentence": sentence})
        record = record.updated({"readings": [first.model_copy(update={"verdict": told}), *record.readings[1:]]})
    verdict = record.readings[0].verdict
    box = Page(report.page(record, {}).split('<div class="verdict')[1].split('<p class="quiet">')[0]).text
    assert box.index(said) < box.index(verdict.sentence) and not re.search(r"[;:(]", said)


def test_one_clause_for_several_predictions(make_record: MakeRecord) -> None:
    """Counted where more than one is against it; an outcome that no prediction has (a reference that shows nothing) as its
    sentence begins; one prediction in its own words."""
    verdict = make_record().readings[0].verdict

    def of(outcome: Any, *each: Any, sentence: str = "") -> str:
        rulings = tuple(r.model_copy(update={"outcome": o}) for r, o in zip(verdict.rulings, each, strict=False))
        told = {"outcome": outcome, "rulings": rulings, "sentence": f"{outcome.capitalize()}: {sentence or 'x'}."}
        return view.clause(verdict.model_copy(update=told), [])

    assert of("refuted", "refuted", "upheld", "refuted") == "2 of 3 predictions do not hold."
    assert of("undecided", "undecided", "undecided", "upheld") == "2 of 3 predictions stay open."
    assert of("upheld", "upheld") == "The even heads repair most pairs."
    assert of("undecided", "upheld", sentence="it would show nothing; why") == "It would show nothing."
    assert of("upheld", "upheld", "undecided", sentence="it is so in 0.5 of them: a, b") == "It is so in 0.5 of them."
    assert (
        of("untestable", "upheld", sentence="nothing says whether rank:drop (p = 1)")
        == "Nothing says whether rank:drop."
    )


def test_a_scorecard_that_still_runs_is_no_demo(make_record: MakeRecord) -> None:
    """Its table comes at the end; until then its trials are not told as one claim on many models."""
    child = make_record()
    card = child.updated({"slug": "thought-scorecard", "status": "running", "readings": [], "children": [child.id]})
    text = Page(report.page(card, {}, [child])).text
    assert "This run is running" in text and "One claim" not in text and "Each trial's own report" in text


def test_a_control_that_binds_nothing_voids_nothing(make_record: MakeRecord) -> None:
    """One that failed and was not named stands on an upheld page, marked; the caption and the chip speak of those that bind.
    In a void trial it is not what failed.  A document waives by name."""
    odd = Control(name="odd-one", kind="negative", passed=False, words="nobody asked for it")
    fine = Control(name="even-one", kind="negative", passed=True, words="nor for this")
    for noop, chip in ((True, "2 of 2 controls passed"), (False, "1 of 2 controls failed: no-op")):
        record = make_record(noop=noop, beside=[odd, fine])
        assert record.readings[0].verdict.outcome == ("upheld" if noop else "void")
        html = report.page(record, {})
        text = Page(html).text
        assert "if one that binds fails, the trial is void" in text and f"{chip} " in text
        assert "odd-one failed and binds nothing here: nobody asked for it" in text
        assert "odd-one" not in "".join(re.findall(r'<ul class="failed">.*?</ul>', html, re.S))
        rows = re.findall(r'<tr class="(\w+)">\s*<th scope="row" data-label="Control">(.*?)</th>', html)
        named = [("passed", "no-op")] if noop else []
        assert rows == [("failed", "no-op")] * (not noop) + [
            ("idle", "odd-one"), ("passed", "patch-all"), *named, ("idle", "even-one")
        ]  # fmt: skip
        assert (
            html.count('<td data-label="Result"><div><b') == 4
        )  # one cell on a narrow screen, the mark beside the result
        assert text.count("✗ failed binds nothing") == text.count("✓ passed binds nothing") == 1
    assert "binds nothing" not in Page(report.page(make_record(), {})).text
    verdict = make_record(noop=False).readings[0].verdict
    assert [c.name for c in view.bound(verdict, {"waive": ["patch-all"]})] == ["no-op"]
    assert [c.name for c in view.bound(verdict, {})] == ["patch-all", "no-op"]
    cells = [c.model_copy(update={"name": f"{c.name} [a]", "passed": True}) for c in verdict.controls]
    told = [*verdict.controls, *cells, odd.model_copy(update={"name": "whole [b]"})]
    over = verdict.model_copy(update={"controls": tuple(told)})
    bound = view.bound(over, {"waive": ["patch-all"]})
    assert [c.name for c in bound] == ["no-op", "no-op [a]"]  # what failed in another cell is not what made this void


def test_rows_and_figures_as_csv(good_page: str, frames: Frames, make_record: MakeRecord) -> None:
    page, record = Page(good_page), make_record()
    effects = frames["effects"]
    named = effects[effects["world"].isin(["even", "odd", "all", "noop"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        page.csv(f"{record.id}-rows.csv"), pd.read_csv(io.StringIO(named.to_csv(index=False)))
    )
    for figure in record.figures:
        given = page.csv(f"{record.id}-{figure['name']}.csv")
        pd.testing.assert_frame_equal(given, pd.DataFrame(figure["data"]), check_dtype=False)
    assert "set L0H0" not in page.text and "All 55 rows" in page.text
    assert "select * from effects where run_id = 'parity-0123abcd'" in page.text


def test_many_pairs_are_cut_with_a_note(make_record: MakeRecord, frames: Frames) -> None:
    one = frames["effects"]
    many = pd.concat([one.assign(pair=one["pair"] + 11 * k) for k in range(40)], ignore_index=True)
    text = Page(report.page(make_record(figures=[]), {**frames, "effects": many})).text
    assert "Show 300 of 440 pairs" in text and "headlab query" in text


def test_structure_for_readers_who_do_not_see(good_page: str) -> None:
    page = Page(good_page)
    levels = [int(t[1]) for t, _ in page.tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert ("html", {"lang": "en"}) in page.tags
    assert all(len(a.get("alt", "")) > 20 for t, a in page.tags if t == "img")
    assert all(a.get("scope") for t, a in page.tags if t == "th")
    assert sum(t == "figcaption" for t, _ in page.tags) == sum(t == "figure" for t, _ in page.tags) == 4
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_unfinished_and_claimless_records(make_record: MakeRecord) -> None:
    stopped = make_record(status="interrupted", error="Ctrl-C", readings=[], figures=[], finished=None)
    text = Page(report.page(stopped, {})).text
    assert "This run is interrupted" in text and "Ctrl-C" in text and "Upheld" not in text
    bare = make_record(kind="run", claim=None, claim_hash=None, readings=[], figures=[], eligibility={}, call={})
    assert "headlab · run" in Page(report.page(bare, {})).text


def test_demo_counts_chance_findings(make_record: MakeRecord) -> None:
    """Of four null seeds the naive reading finds parity in all, the binding one in none."""
    planted = {"layer": 1, "heads": ["L1H0", "L1H2"], "k": 2}
    first = make_record("even-1", figures=[])
    kids = [first.model_copy(update={"model": {**first.model, "truth": planted}})]
    kids += [make_record(f"null-{i}", name=f"decimals-null-{i}", even=20, figures=[]) for i in range(4)]
    demo = make_record(
        "demo-1", kind="demo", readings=[], figures=[], children=[*(k.id for k in kids), "gone"], model={}
    )
    html = report.page(demo, {}, kids)
    page = Page(html)
    for said in (
        "upheld on 1 of 5 (decimals-planted-even)", "any 2 of L1H0 L1H2", "nothing planted",
        "0 of 4", "4 of 4", "n = 4 training seeds", "Not at hand: gone",
    ):  # fmt: skip
        assert said in page.text
    anchors = {a["href"][1:] for t, a in page.tags if t == "a" and a["href"].startswith("#")}
    assert anchors <= {a["id"] for _, a in page.tags if "id" in a}
    assert {k.id for k in kids} <= anchors
    assert html.count('id="charts"') == 1


def test_saved_files_equal_the_tables(make_record: MakeRecord, frames: Frames, tmp_path: Path) -> None:
    record = make_record()
    record = record.model_copy(update={"figures": record.figures[:2]})
    paths = report.save(record, frames, tmp_path / "out")
    assert all(p.is_file() for p in paths)
    stems = {"effects.csv", "worlds.csv", *(f"figure-{n}.{k}" for n in ("null", "dose") for k in ("png", "svg", "csv"))}
    assert {p.name for p in paths} == {"report.html", *stems}
    for name, table in frames.items():
        expected = pd.read_csv(io.StringIO(table.to_csv(index=False)))
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / f"{name}.csv"), expected)
    with pytest.raises(ValueError, match="no such format: pdf"):
        report.save(record, frames, tmp_path, formats=("pdf",))


def test_importing_the_report_draws_nothing() -> None:
    """The command line's help imports this room; charts and templates load when a page is made."""
    import subprocess
    import sys

    heavy = "{'altair', 'vl_convert', 'jinja2', 'torch', 'pandas'}"
    code = f"import sys, headlab.report; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"}
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("p", "low", "high", "said"),
    [
        (0.002, 2.5e-5, 0.0056, "p = 0.002 [2.5e-05, 0.0056]"),
        (0.03125, 0.03125, 0.03125, "p = 0.0312 (exact)"),
        (0.5, 0.4, 0.6, "p = 0.5 [0.4, 0.6]"),
        (0.000772, None, None, "p = 0.000772"),
        (0.0498, 0.0498, 0.0498, "p = 0.0498 (exact)"),
        (0.99996, None, None, "p = 0.99996"),
        (None, None, None, "p undefined"),
    ],
)
def test_p_in_words(p: float | None, low: float | None, high: float | None, said: str) -> None:
    assert words.chance(p, low, high) == said


def test_spans_agree_with_the_estimate() -> None:
    e = Estimate(0.98, 0.95, 1.0, 100, "pairs", "bootstrap", seed=0)
    assert str(e).startswith(words.span(e.value, e.low, e.high) + " (")
    assert words.drawn(e) == "bootstrap, 95 %, seed 0"


def test_the_contents_are_the_headings_in_their_order(make_record: MakeRecord, frames: Frames) -> None:
    """Of a whole page; of one whose only other figure is a second null; of one that has little."""
    null = make_record().figures[0]
    second = {**null, "name": "null-2"}
    for record, tables in (
        (make_record(), frames),
        (make_record(figures=[null, second]), {}),
        (make_record(readings=[], figures=[], eligibility={}), {}),
    ):
        made = view.trial(record, tables)
        page = Page(report.page(record, tables))
        anchors = [a["id"].removeprefix(f"{record.id}-") for t, a in page.tags if t == "h2" and "id" in a]
        assert [words.lower().replace(" ", "-") for words in made["contents"]] == anchors
