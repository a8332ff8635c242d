"""What a validation found, as one short line: each problem once, with the line on which it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headlab.reading.bounds import Lines, brief, dotted, nearest
from headlab.reading.callables import callable_as

MOST_PROBLEMS, MOST_TEXT = 3, 320


def problems(errors: Sequence[Any], lines: Lines) -> str:
    """From pydantic's ``error.errors()``: place, what was expected, what was given; at most three, and how many more.

    What is said of a list because one of its items is wrong is left out, and the arms of a union are told as one.
    """
    told: dict[tuple[Any, ...], list[Any]] = {}
    for e in errors:
        place = tuple(p for p in e["loc"] if not _arm(p))
        told.setdefault(place, []).append(e)
    kept = [p for p in told if not any(len(q) > len(p) and q[: len(p)] == p for q in told)]
    said = [_problem(place, told[place], lines) for place in kept[:MOST_PROBLEMS]]
    more = f"; and {len(kept) - MOST_PROBLEMS} more" if len(kept) > MOST_PROBLEMS else ""
    text = "; ".join(said)
    return (text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…") + more


def _arm(part: Any) -> bool:
    """Whether a part of a place is pydantic's name for an arm of a union, and no key of ours."""
    return isinstance(part, str) and (part in {"int", "float", "str", "bool", "none"} or "[" in part)


def _problem(place: tuple[Any, ...], errors: Sequence[Any], lines: Lines) -> str:
    known = nearest(lines, place)
    where = f"line {known}: " if known else ""
    named = dotted(place)
    given = "" if errors[0]["type"] == "missing" else f" (given {brief(errors[0]['input'])})"
    expected = " or ".join(dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in errors))
    expected = expected.replace("a valid tuple", "a list")
    return f"{where}{named if len(named) <= 60 else named[:59] + '…'}: {expected[:200]}{given}"


callable_as(__name__, problems)
