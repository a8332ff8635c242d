"""Reading an answer out of generated text.

One rule for each kind of task, and the published scripts' own, kept apart.  A text from which no answer can be read
is *unparsed*, which is reported beside every accuracy and counts as not right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from headlab.prompts import Pair

_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
Grading = Literal["answer", "published strings"]


@dataclass(frozen=True)
class Graded:
    parsed: str | None
    right: bool


def first_number(text: str) -> str | None:
    """The first number as written, without thousands commas, or None: ``" 9.8 is"`` → ``"9.8"``."""
    match = _NUMBER.search(text)
    return match[0].replace(",", "") if match else None


def by_number(text: str, pair: Pair) -> Graded:
    """Right when the first number in the text equals the answer as a decimal number."""
    found = first_number(text)
    return Graded(found, found is not None and Decimal(found) == Decimal(pair.answer.strip()))


def by_prefix(text: str, pair: Pair) -> Graded:
    """Right when the text begins with the answer, and with the wrong answer only if that is its prefix."""
    given, answer, wrong = text.strip(), pair.answer.strip(), pair.wrong.strip()
    right = given.startswith(answer) and not (len(wrong) > len(answer) and given.startswith(wrong))
    known = right or given.startswith(wrong)
    return Graded(given if known else None, right)


def by_published_strings(text: str, pair: Pair) -> Graded:
    """The published rule (arXiv 2508.19414, the later scripts): the right number is named ("9.8 is bigger", or bare
    "9.8") and none of "9.11 is bigger / larger / greater" is.  Any mention of the right number counts."""
    good, bad = pair.answer.strip(), pair.wrong.strip()
    named = good in text
    denied = any(f"{bad} is {word}" in text for word in ("bigger", "larger", "greater"))
    return Graded(good if named else bad if bad in text else None, named and not denied)


def grade(text: str, pair: Pair, grader: str, rule: Grading = "answer") -> Graded:
    """Grade one text.  ``grader`` is the prompt set's (``number`` or ``prefix``)."""
    if rule == "published strings":
        return by_published_strings(text, pair)
    return by_number(text, pair) if grader == "number" else by_prefix(text, pair)
