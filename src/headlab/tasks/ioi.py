"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593): "When Mary and John went to the store, John gave a
drink to" is followed by the name that was said once.

Roles: ``io`` and ``s1``, the two names where they are introduced, ``s2`` the repeated one, ``place``, ``object``; and
``last``.  The lists and sentences are those of the published code, names that most tokenizers write as one token.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from headlab.prompts import Pair, PromptError, PromptSet
from headlab.tasks.building import choice, enough, fill, keep, one_token

_NAMES = """
Aaron Adam Alexander Alicia Allison Amanda Amber Amy Andrea Andrew Angela Anthony Ashley Benjamin Bradley Brandon
Brian Bryan Charles Christina Christine Christopher Cody Courtney Crystal Daniel Danielle David Dustin Elizabeth
Emily Eric Erica Erin Gregory Heather Jacob James Jamie Jason Jeffrey Jennifer Jeremy Jesse Jessica John Jonathan
Jose Joseph Joshua Justin Katherine Katie Kelly Kenneth Kevin Kimberly Kyle Laura Lauren Lisa Mark Mary Matthew
Megan Melissa Michael Michelle Nathan Nicholas Nicole Patrick Paul Rachel Rebecca Richard Robert Ryan Samantha
Samuel Sara Sarah Scott Sean Shannon Stephanie Stephen Steven Susan Thomas Timothy Tom Travis Tyler Vanessa William
"""
_PLACES = """
store garden restaurant school hospital office house station park library market beach
"""
_OBJECTS = """
ring kiss bone basketball computer necklace drink snack book ball letter coin
"""
NAMES, PLACES, OBJECTS = (tuple(x.split()) for x in (_NAMES, _PLACES, _OBJECTS))
TEMPLATES = (
    "Then,[A] and[B] went to the[PLACE].[S] gave a[OBJECT] to",
    "Then,[A] and[B] had a lot of fun at the[PLACE].[S] gave a[OBJECT] to",
    "Then,[A] and[B] were working at the[PLACE].[S] decided to give a[OBJECT] to",
    "Then,[A] and[B] were thinking about going to the[PLACE].[S] wanted to give a[OBJECT] to",
    "Then,[A] and[B] had a long argument, and afterwards[S] said to",
    "After[A] and[B] went to the[PLACE],[S] gave a[OBJECT] to",
    "When[A] and[B] went to the[PLACE],[S] gave a[OBJECT] to",
    "When[A] and[B] got a[OBJECT] at the[PLACE],[S] decided to give it to",
    "When[A] and[B] got a[OBJECT] at the[PLACE],[S] decided to give the[OBJECT] to",
    "While[A] and[B] were working at the[PLACE],[S] gave a[OBJECT] to",
    "While[A] and[B] were commuting to the[PLACE],[S] gave a[OBJECT] to",
    "After the lunch,[A] and[B] went to the[PLACE].[S] gave a[OBJECT] to",
    "Afterwards,[A] and[B] went to the[PLACE].[S] gave a[OBJECT] to",
    "Then,[A] and[B] had a long argument. Afterwards[S] said to",
    "The[PLACE][A] and[B] went to had a[OBJECT].[S] gave it to",
    "Friends[A] and[B] found a[OBJECT] at the[PLACE].[S] gave it to",
)
"""The sentences of Wang et al. (2022), cut before the answer; ``[SLOT]`` stands for a space and a word."""

ORDERS, CORRUPTIONS = ("abba", "baba", "mixed"), ("swap", "abc")


def ioi(
    n: int, *, seed: int, tokenizer: Any, order: str = "mixed", corruption: str = "swap", templates: str = "all"
) -> PromptSet:
    """At most ``n`` pairs, each of other two names (the cluster, in either order).

    ``order``: the indirect object is named first ("abba"), second ("baba") or either ("mixed").  ``corruption``: the
    other name is repeated ("swap", the answers change places), or three names that the clean prompt lacks stand in all
    places ("abc", which says nothing of either answer).  ``templates``: "all", or numbers of the sentences in
    :data:`TEMPLATES` such as "0 5 6".  Words that the tokenizer does not write as one token are left out.

    Raises PromptError for an unknown value, or a tokenizer with too few of the words.
    """
    choice("ioi", "order", order, ORDERS)
    choice("ioi", "corruption", corruption, CORRUPTIONS)
    sentences = _sentences(templates)
    names = enough(one_token(NAMES, tokenizer), 6, "names", "ioi")
    places = enough(one_token(PLACES, tokenizer), 1, "places", "ioi")
    objects = enough(one_token(OBJECTS, tokenizer), 1, "objects", "ioi")
    rng = random.Random(f"ioi {seed}")

    def drawn() -> Iterator[Pair]:
        while True:
            io, s, *others = rng.sample(names, 5)
            words = {"io": io, "s1": s, "s2": s, "place": rng.choice(places), "object": rng.choice(objects)}
            k = rng.choice(list(sentences))
            first = order == "abba" or (order == "mixed" and rng.random() < 0.5)
            template = sentences[k].format(*(("{io}", "{s1}") if first else ("{s1}", "{io}")))
            other = {"s2": io} if corruption == "swap" else dict(zip(("io", "s1", "s2"), others, strict=True))
            said = "abba" if first else "baba"
            yield Pair(
                id=f"{io}|{s}|{said}|{k}",
                clean=fill(template, words),
                corrupted=fill(template, words | other),
                answer=io,
                wrong=s,
                cluster="|".join(sorted((io, s))),
                category=said,
                labels=(("order", said), ("template", str(k))),
            )

    return keep(drawn(), n, tokenizer, task="ioi")


def _sentences(chosen: str) -> dict[int, str]:
    """Sentences by number, with ``{0}`` and ``{1}`` for the first two names and doubled braces for other slots."""
    every = {k: re.sub(r"\[(\w+)\]", lambda m: " " + _SLOTS[m[1]], text) for k, text in enumerate(TEMPLATES)}
    if chosen == "all":
        return every
    numbers: Sequence[str] = chosen.replace(",", " ").split()
    if not numbers or any(not k.isdecimal() or int(k) not in every for k in numbers):
        raise PromptError(
            f"the task 'ioi': templates is {chosen!r}; expected 'all', or numbers from 0 to {len(every) - 1} such as '0 5'"
        )
    return {int(k): every[int(k)] for k in numbers}


_SLOTS = {"A": "{0}", "B": "{1}", "S": "{{s2}}", "PLACE": "{{place}}", "OBJECT": "{{object}}"}
