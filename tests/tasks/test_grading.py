"""Reading an answer out of text: the honest rule, the prefix rule, and the published one with its known flaws."""

from __future__ import annotations

import pytest

from headlab.prompts import Pair, Prompt
from headlab.tasks.grading import Grader, first_number, grade

PAIR = Pair("p", Prompt("x"), Prompt("y"), "9.8", "9.11")
WORDS = Pair("q", Prompt("x"), Prompt("y"), "no", "not now")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 9.8 is bigger", "9.8"), ("9.8.", "9.8"), ("it is -3", "-3"), ("1,234.5 apples", "1234.5"), ("v9.11", None),
        ("none", None), ("", None), ("$18", "18"), ("9.11, not 9.8", "9.11"), ("= 42", "42"),
    ],
)  # fmt: skip
def test_the_first_number(text: str, number: str | None) -> None:
    assert first_number(text) == number


@pytest.mark.parametrize(
    ("text", "parsed", "right"),
    [
        (" 9.8", "9.8", True), ("9.80 is", "9.80", True), ("9.11", "9.11", False), ("9.85", "9.85", False),
        ("both 9.11 and 9.8", "9.11", False), ("neither", None, False), ("9", "9", False),
    ],
)  # fmt: skip
def test_an_answer_is_the_first_number(text: str, parsed: str | None, right: bool) -> None:
    made = grade(text, PAIR, "number")
    assert (made.parsed, made.right) == (parsed, right)


@pytest.mark.parametrize(
    ("text", "parsed", "right"),
    [
        ("no", "no", True),
        (" no, never", "no, never", True),
        ("not now", "not now", False),
        ("yes", None, False),
        ("", None, False),
    ],
)
def test_an_answer_in_words_is_the_beginning(text: str, parsed: str | None, right: bool) -> None:
    made = grade(text, WORDS, "prefix")
    assert (made.parsed, made.right) == (parsed, right)


def test_a_longer_wrong_answer_is_told_apart_from_its_prefix() -> None:
    turned = Pair("r", Prompt("x"), Prompt("y"), "not now", "no")
    assert grade("not now", turned, "prefix").right and not grade("no", turned, "prefix").right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("9.8 is bigger", True), ("9.11 is bigger than 9.8", False), ("9.11 is larger than 9.8", False), ("9.8", True),
        ("9.11", False), ("9.11, then 9.8", True), ("9.85", True), ("9.11 is smaller than 9.8", True),
    ],
)  # fmt: skip
def test_the_published_rule_takes_any_mention(text: str, right: bool) -> None:
    """Also where the honest rule says no ("9.11, then 9.8", "9.85"): that is why it stands apart."""
    assert grade(text, PAIR, "number", "published strings").right is right


@pytest.mark.parametrize(
    ("grader", "text", "parsed", "right"),
    [
        (Grader("exact"), " no.", "no", True), (Grader("exact"), "no way", "no way", False),
        (Grader("exact", ignore_case=True), "NO", "no", True), (Grader("exact"), " ", None, False),
        (Grader("contains"), "I say no to it", "no", True), (Grader("contains"), "nothing", None, False),
        (Grader("contains"), "not now", "not now", False), (Grader("contains"), "not now, no", "no", False),
        (Grader("contains", ("yes", "aye")), "well, aye", "aye", True),
        (Grader("choice", ("no", "yes")), "no!", "no", True), (Grader("choice", ("no", "yes")), "yes", "yes", False),
        (Grader("choice", ("no", "yes")), "yes and no", None, False),
        (Grader("choice", ("no", "no way")), "no way", "no way", False),
        (Grader("choice", ("no", "yes")), "noyes", None, False), (Grader("choice", ("a.c", "no")), "abc", None, False),
    ],
)  # fmt: skip
def test_a_graders_literal_words(grader: Grader, text: str, parsed: str | None, right: bool) -> None:
    """Whole words, never patterns: a dot is a dot, a word inside another is not there."""
    made = grader.grade(text, WORDS)
    assert (made.parsed, made.right) == (parsed, right)
    assert Grader.from_plain(grader.plain()) == grader


def test_a_grader_that_cannot_decide_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown grader 'regex'; expected one of exact, contains, choice"):
        Grader("regex")
    with pytest.raises(ValueError, match="'choice' takes two or more different words"):
        Grader("choice", ("Yes", "yes"), ignore_case=True)
    with pytest.raises(ValueError, match="not empty"):
        Grader("exact", (" ",))
    with pytest.raises(ValueError, match="a grader has no pattern; it has kind, words, ignore_case"):
        Grader.from_plain({"kind": "exact", "pattern": "x"})
