"""Induction (Olsson et al. 2022, arXiv 2209.11895): a word stood before, so what followed it then comes again.

Roles: ``first``, the earlier occurrence; ``after``, what followed it and is the answer; ``again``, the later occurrence.
In the corrupted prompt another word follows the earlier occurrence, so the answers change places.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from headlab.prompts import Pair, PromptError, PromptSet
from headlab.tasks.building import choice, enough, fill, keep, one_token
from headlab.tasks.ioi import NAMES
from headlab.tasks.words import COMMON

KINDS = ("tokens", "words", "text")
LENGTHS = range(3, 129)
_POOL = 2000
_MARKS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies write a space before a word."""


def induction(n: int, *, seed: int, tokenizer: Any, kind: str = "tokens", length: int = 16) -> PromptSet:
    """At most ``n`` pairs: a block of ``length`` different words, and again as many of it as end in a word that stood.

    ``kind``: the words are any of the tokenizer's vocabulary that are letters after a space ("tokens"), ordinary nouns
    ("words"), or ``length`` statements are made of names and nouns, one of them begun again ("text": "Mary likes stone.
    John likes rain. Mary likes"; at most half as many statements as there are names).

    Raises PromptError for an unknown value, or a tokenizer with too few words.
    """
    choice("induction", "kind", kind, KINDS)
    if length not in LENGTHS:
        raise PromptError(f"the task 'induction': length is {length}; expected {LENGTHS[0]} to {LENGTHS[-1]}")
    rng = random.Random(f"induction {seed}")
    words = _vocabulary(tokenizer, rng) if kind == "tokens" else one_token(COMMON, tokenizer)
    enough(words, 2 * length, "words", "induction")
    if kind == "text":
        names = enough(one_token(NAMES, tokenizer), 2 * length, "names", "induction")
        return keep(_statements(names, words, length, rng), n, tokenizer, task="induction")
    return keep(_blocks(words, length, kind, rng), n, tokenizer, task="induction")


def _vocabulary(tokenizer: Any, rng: random.Random) -> list[str]:
    """At most ``_POOL`` words of a vocabulary that are one token after a space, at random."""
    if tokenizer is None:
        return list(COMMON)
    tokens = sorted(t[1:] for t in tokenizer.get_vocab() if t[:1] in _MARKS)
    whole = [t for t in tokens if len(t) > 1 and t.isascii() and t.isalpha()]
    return one_token(rng.sample(whole, min(_POOL, len(whole))), tokenizer)


def _blocks(words: Sequence[str], length: int, kind: str, rng: random.Random) -> Iterator[Pair]:
    while True:
        *block, wrong = rng.sample(words, length + 1)
        k = rng.randrange(1, length - 1)
        before, between = ("".join(f" {w}" for w in part) for part in (block[:k], [*block[k + 2 :], *block[:k]]))
        yield _pair(before + " {first} {after}" + between + " {again}", block[k], block[k + 1], wrong, kind)


def _statements(names: Sequence[str], things: Sequence[str], length: int, rng: random.Random) -> Iterator[Pair]:
    while True:
        who, (*what, wrong) = rng.sample(names, length), rng.sample(things, length + 1)
        k = rng.randrange(length)
        said = [f"{a} likes {b}." for a, b in zip(who, what, strict=True)]
        said[k] = "{first} likes {after}."
        yield _pair(" " + " ".join(said) + " {again} likes", who[k], what[k], wrong, "text")


def _pair(template: str, first: str, after: str, wrong: str, kind: str) -> Pair:
    words = {"first": first, "after": after, "again": first}
    name = f"{first}>{after}|{wrong}"
    return Pair(
        id=name,
        clean=fill(template, words),
        corrupted=fill(template, words | {"after": wrong}),
        answer=after,
        wrong=wrong,
        cluster=name,
        category=kind,
        labels=(("kind", kind),),
    )
