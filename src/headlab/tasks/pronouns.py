"""Pronouns: a little girl is "She", a little boy "He" (and John "he" where a sentence goes on).

Roles: ``subject``, the last token of who it is; ``adjective`` and ``object`` in stories, ``place`` with names.  The
corrupted prompt has the other gender, so the answers change places.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from headlab.prompts import Pair, PromptSet
from headlab.tasks.building import choice, enough, fill, keep, one_token
from headlab.tasks.ioi import PLACES

KINDS = ("stories", "names")
NOUNS = (("girl", "boy"), ("princess", "prince"), ("queen", "king"), ("woman", "man"), ("mom", "dad"))
_OBJECTS = "ball toy car box hat cat dog bird book doll flower tree cake boat bag bear cup rock truck"
_WOMEN = """
Mary Sarah Lisa Anna Emily Laura Jessica Jennifer Rachel Amy Michelle Karen Susan Julia Kate Linda Maria Rebecca Elizabeth
Amanda Nicole Alice Jane Barbara Nancy Ruth Helen Claire Diana Emma
"""
_MEN = """
John James David Michael Robert William Richard Thomas Daniel Paul Mark George Steven Andrew Kevin Brian Peter Scott Eric
Stephen Frank Jack Henry Adam Matthew Joseph Charles Anthony Ryan Simon
"""
OBJECTS, WOMEN, MEN = (tuple(x.split()) for x in (_OBJECTS, _WOMEN, _MEN))
SIZES = ("little", "small", "happy", "kind", "sad", "good", "nice", "brave")
COLOURS = ("red", "blue", "green", "big", "new", "old", "shiny", "pretty", "yellow", "soft")
OPENINGS = (
    "Once upon a time, there was a {size} {subject} with a {adjective} {object}.",
    "One day, a {size} {subject} had a {adjective} {object}.",
    "There was a {size} {subject} who had a {adjective} {object}.",
    "Once there was a {size} {subject} who found a {adjective} {object}.",
)
ERRANDS = ("{subject} went to the {place} because", "{subject} came from the {place} and said that")


def pronouns(n: int, *, seed: int, tokenizer: Any, kind: str = "stories") -> PromptSet:
    """At most ``n`` pairs.

    ``kind``: "stories" begin as children's do, of a noun, a size, an object and its adjective (the cluster), and need few
    words of a vocabulary; "names" are sentences of a woman's or a man's name that is one token, and a place (the cluster
    is the two names).

    Raises PromptError for an unknown kind, or a tokenizer with too few names.
    """
    choice("pronouns", "kind", kind, KINDS)
    rng = random.Random(f"pronouns {seed}")
    if kind == "stories":
        return keep(_stories(rng), n, tokenizer, task="pronouns")
    women, men = (enough(one_token(x, tokenizer), 2, "names", "pronouns") for x in (WOMEN, MEN))
    places = enough(one_token(PLACES, tokenizer), 1, "places", "pronouns")
    return keep(_names(women, men, places, rng), n, tokenizer, task="pronouns")


def _stories(rng: random.Random) -> Iterator[Pair]:
    while True:
        words = {"size": rng.choice(SIZES), "adjective": rng.choice(COLOURS), "object": rng.choice(OBJECTS)}
        who, k = rng.choice(NOUNS), rng.randrange(len(OPENINGS))
        yield _pair(OPENINGS[k], words, who, ("She", "He"), "|".join((who[0], *words.values())), "stories", rng)


def _names(women: Sequence[str], men: Sequence[str], places: Sequence[str], rng: random.Random) -> Iterator[Pair]:
    while True:
        who, k = (rng.choice(women), rng.choice(men)), rng.randrange(len(ERRANDS))
        yield _pair(ERRANDS[k], {"place": rng.choice(places)}, who, ("she", "he"), "|".join(who), "names", rng)


def _pair(
    template: str,
    words: dict[str, str],
    who: tuple[str, str],
    said: tuple[str, str],
    cluster: str,
    kind: str,
    rng: random.Random,
) -> Pair:
    clean = rng.randrange(2)
    prompts = [fill(template, words | {"subject": x}, ends=("subject",)) for x in who]
    return Pair(
        id=f"{who[clean]}: {cluster}",
        clean=prompts[clean],
        corrupted=prompts[1 - clean],
        answer=said[clean],
        wrong=said[1 - clean],
        cluster=cluster,
        category=said[clean].lower(),
        labels=(("kind", kind),),
    )
