"""Succession (Gould et al. 2023, arXiv 2312.09230): Monday is followed by Tuesday, May by June, 7 by 8, c by d.

Two examples of the same order stand first, so that the prompt says what is asked.  Roles: ``item``, whose successor is
asked for; ``e1`` and ``f1``, ``e2`` and ``f2``, the examples and what follows them.  The corrupted prompt asks for another
item's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from headlab.prompts import Pair, PromptSet
from headlab.tasks.building import choice, fill, keep

ORDERS: dict[str, tuple[str, ...]] = {
    "days": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "months": tuple(
        [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ]
    ),
    "numbers": tuple(map(str, range(1, 100))),
    "letters": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}
CORRUPTIONS = ("item", "examples")
ROUND = ("days", "months")
"""The orders whose last item is followed by the first."""
TEMPLATE = "{e1} is followed by {f1}, {e2} is followed by {f2}, and {item} is followed by"


def successor(n: int, *, seed: int, tokenizer: Any, kind: str = "mixed", corruption: str = "item") -> PromptSet:
    """At most ``n`` pairs, each of other two items (the cluster): those of one kind, or of all ("mixed").

    ``corruption``: the corrupted prompt asks for another item's ("item"), or its examples are followed by each
    other's successors ("examples"), so that they do not say what is asked; the wrong answer is the item itself there.
    Days have 21 clusters, months 66, letters 300 and numbers 4,753; "mixed" goes on with those that are left.
    Raises PromptError for an unknown kind.
    """
    choice("successor", "kind", kind, (*ORDERS, "mixed"))
    choice("successor", "corruption", corruption, CORRUPTIONS)
    rng = random.Random(f"successor {seed}")
    kinds = list(ORDERS) if kind == "mixed" else [kind]
    return keep(_drawn(kinds, corruption, rng), n, tokenizer, task="successor")


def _drawn(kinds: list[str], corruption: str, rng: random.Random) -> Iterator[Pair]:
    while True:
        kind = rng.choice(kinds)
        order = ORDERS[kind]
        last = len(order) - (kind not in ROUND)
        item, other, *examples = rng.sample(range(last), 4)
        after = [order[(i + 1) % len(order)] for i in range(last)]
        words = {"item": order[item]}
        for k, i in enumerate(examples, start=1):
            words |= {f"e{k}": order[i], f"f{k}": after[i]}
        shifted = {"item": order[other]}
        if corruption == "examples":
            shifted = {"f1": words["f2"], "f2": words["f1"]}
        name = f"{order[item]}|{order[other]}"
        yield Pair(
            id=name,
            clean=fill(TEMPLATE, words),
            corrupted=fill(TEMPLATE, words | shifted),
            answer=after[item],
            wrong=after[other] if corruption == "item" else order[item],
            cluster="|".join(sorted((order[item], order[other]))),
            category=kind,
            labels=(("kind", kind),),
        )
