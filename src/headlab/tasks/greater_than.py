"""Greater-than (Hanna et al. 2023, arXiv 2305.00586): "The war lasted from the year 1732 to the year 17" goes on with a
later year.

The right answers are all later years of the century, the wrong ones the others.  Roles: ``noun``, ``start`` (the
digits that count), ``century`` (the digits before them, each time).  In the corrupted prompt the war starts in 1701 (in the
first year of the decade, where answers are single digits), so that nearly every answer is as right as another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from headlab.prompts import Pair, PromptSet
from headlab.tasks.building import choice, enough, fill, keep, one_token

_NOUNS = """
accord affair agreement alliance approach assault attack battle blockade boycott campaign challenge chaos conflict
conquest construction contract convention cooperation crisis debate decline demonstration dispute dominance drought
effort elections emergency endeavor exchange expansion expedition experiment flight growth hostility inquiry
insurrection investigation invasion journey march migration mission movement negotiations operation opposition
partnership peace plague pilgrimage pressure program progress project prosecution protests pursuit quest raids reforms
reign rebellion relations relationship research residence resistance retreat revolt rise rivalry rule sanctions
service siege slavery stay strike struggle study survey talks tensions test tour transition treaty trial trip truce
tunnel turmoil venture visit voyage war work
"""
NOUNS = tuple(_NOUNS.split())
CENTURIES = tuple(range(11, 20))
DIGITS = ("auto", "two", "one")
TEMPLATE = "The {noun} lasted from the year {century}{start} to the year {century}"


def greater_than(n: int, *, seed: int, tokenizer: Any, digits: str = "auto") -> PromptSet:
    """At most ``n`` pairs, each of another noun and year (the cluster).

    ``digits``: how many the answer has.  Years fall into a century and two digits in GPT-2's vocabulary; Llama 3's
    parts them after three, so there the prompt ends "to the year 173" and one digit is the answer.  "auto" takes two
    where the vocabulary parts years so.  Years that it writes in another way are left out.

    Raises PromptError for an unknown value, or where no year falls into such parts.
    """
    choice("greater-than", "digits", digits, DIGITS)
    nouns = enough(one_token(NOUNS, tokenizer), 1, "nouns", "greater-than")
    years: list[tuple[str, list[str]]] = []
    for size in (2, 1) if digits == "auto" else (1 + (digits == "two"),):
        years = years or _years(size, tokenizer)
    rng = random.Random(f"greater-than {seed}")
    enough([c for c, _ in years], 1, "parts of years", "greater-than")
    return keep(_drawn(nouns, years, rng), n, tokenizer, task="greater-than", checked=True)


def _years(size: int, tokenizer: Any) -> list[tuple[str, list[str]]]:
    """Beginnings of years, each with the endings of ``size`` digits that the vocabulary parts from it."""
    starts = [str(c) if size == 2 else f"{c}{d}" for c in CENTURIES for d in range(10 if size == 1 else 1)]
    every = [f"{i:02}" for i in range(1, 100)] if size == 2 else [str(i) for i in range(10)]
    found = [(start, _parted(start, every, tokenizer)) for start in starts]
    return [(start, ends) for start, ends in found if ends[:1] == every[:1] and len(ends) > len(every) // 2]


def _parted(start: str, ends: Sequence[str], tokenizer: Any) -> list[str]:
    """The endings that are one token after ``start``, a token boundary lying between them."""
    if tokenizer is None:
        return list(ends)
    before, *whole = (
        tokenizer(f"the year {text}", add_special_tokens=False)["input_ids"]
        for text in (start, *(start + end for end in ends))
    )
    return [e for e, ids in zip(ends, whole, strict=True) if ids[:-1] == before]


def _drawn(nouns: Sequence[str], years: Sequence[tuple[str, list[str]]], rng: random.Random) -> Iterator[Pair]:
    while True:
        noun, (century, ends) = rng.choice(nouns), rng.choice(years)
        k = rng.randrange(1, len(ends) - 1)
        later, others = ends[k + 1 :], ends[: k + 1]
        name = f"{noun}|{century}{ends[k]}"
        words = {"noun": noun, "century": century, "start": ends[k]}
        yield Pair(
            id=name,
            clean=fill(TEMPLATE, words, lead=""),
            corrupted=fill(TEMPLATE, words | {"start": ends[0]}, lead=""),
            answer=later[0],
            wrong=others[-1],
            cluster=name,
            category=f"{len(ends[k])} digit{'s' if len(ends[k]) > 1 else ''}",
            more_answers=tuple(later[1:]),
            more_wrongs=tuple(others[:-1]),
        )
