"""What a page shows of the prompts and of a verdict that may not be drawn: text is text, roles are marked, nothing is ruled."""

from __future__ import annotations

from collections.abc import Callable

from headlab import report
from headlab.prompts import Pair, Prompt, PromptSet, Span
from headlab.report.read import examples
from headlab.store import Record
from headlab.tasks.word_problems import Problem, ProblemSet
from headlab.trials.recorded import first_of

MakeRecord = Callable[..., Record]
HOSTILE = "<script>alert(2)</script>"
PAIR = Pair(
    "p1",
    Prompt(f"Ann saw {HOSTILE} and", (Span("name", 0, 3), Span("text", 3, 8), Span("thing", 8, 8 + len(HOSTILE)))),
    Prompt("Bob saw it and", (Span("name", 0, 3), Span("thing", 8, 10), Span("late", 9, 12))),
    " he",
    " she",
)


def test_the_first_prompts_are_cut_at_their_roles_and_lose_nothing():
    first = first_of(PromptSet((PAIR,) * 1, "mine"))
    seen = examples(first)
    assert seen is not None and list(seen["roles"]) == ["name", "thing", "late"]
    (shown,) = seen["shown"]
    for (side, pieces), prompt in zip(shown["sides"], (PAIR.clean, PAIR.corrupted), strict=True):
        assert "".join(p["text"] for p in pieces) == prompt.text, side
    marked = [(p["role"], p["text"]) for p in shown["sides"][1][1] if p["role"]]
    assert marked == [("name", "Bob"), ("thing", "it")], "of two spans that overlap the first"
    assert (shown["right"], shown["wrong"]) == ([" he"], [" she"])


def test_problems_and_prompts_without_a_partner_are_shown_too():
    problems = ProblemSet((Problem("g1", "Two and two?", ("2+2=4",), "4"),))
    assert first_of(problems)[0]["sides"]["question"]["text"] == "Two and two?"
    alone = Pair("p", Prompt("Once"), Prompt("Once"), " upon", "", partner=False)
    assert [*first_of(PromptSet((alone,), "mine"))[0]["sides"]] == ["prompt"]
    assert examples([]) is None


def test_the_page_shows_them_as_text(make_record: MakeRecord):
    record = make_record()
    record = record.updated({"prompts": {**record.prompts, "first": first_of(PromptSet((PAIR,), "mine"))}})
    page = report.page(record, {})
    assert HOSTILE not in page and "&lt;script&gt;alert(2)&lt;/script&gt;" in page
    assert '<mark class="role tone-0" title="name">Ann</mark>' in page


def test_nothing_is_ruled_on_a_page_that_is_void(make_record: MakeRecord):
    """What was measured stands there, without a badge that rules on it; the chip names the control that failed."""
    record = make_record()
    first, *others = record.readings
    failed = [c.model_copy(update={"passed": c.name != "no-op"}) for c in first.verdict.controls]
    found = {e.name: e for e in first.estimates}
    assert found and first.verdict.outcome == "upheld"
    void = first.verdict.model_copy(update={"outcome": "void", "controls": tuple(failed)})
    page = report.page(record.updated({"readings": [first.model_copy(update={"verdict": void}), *others]}), {})
    assert page.count("measured, not ruled") == len(first.verdict.rulings)
    assert "1 of 2 controls failed: no-op" in page
