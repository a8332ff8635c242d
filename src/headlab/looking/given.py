"""What looks are given: pairs of prompts, or texts; heads by name; refused in one line where it is something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd

from headlab.engine.limits import check_length
from headlab.engine.model import Lab, loaded
from headlab.heads import Head, Heads
from headlab.prompts import Encoded, EncodedPair, Pair, Prompt, PromptError, PromptSet, encode, token_ids
from headlab.reading import brief

PromptsLike = PromptSet | Pair | Iterable[Pair] | Iterable[Mapping[str, object]] | pd.DataFrame | str | Path
"""What holds pairs of prompts: a set, a file, a DataFrame, rows."""
Pairs = PromptsLike | EncodedPair | Iterable[Pair | EncodedPair]
"""Pairs of prompts, encoded or not (encoding takes a millisecond for each: who looks often keeps them encoded)."""
HeadsLike = str | Head | Heads | Sequence[str | Head | tuple[int, int]] | tuple[int, int]
_FILE = "PromptSet.from_file('pairs.csv') reads them"


def pairs_of(lab: Lab, given: Pairs) -> list[EncodedPair]:
    """Pairs as tokens.  Raises PromptError for what is no pair, ValueError where there is none."""
    loaded(lab)
    text = isinstance(given, str) and not given.endswith((".csv", ".jsonl"))
    if text or not isinstance(given, Iterable | Pair | EncodedPair | Path):
        raise PromptError(
            f"expected pairs of prompts, given {brief(given)}; {_FILE}; headlab.read(lab, text) reads a text alone"
        )
    if isinstance(given, str | Path | Pair) or hasattr(given, "columns"):
        given = PromptSet.of(given)
    some: list[Any] = [given] if isinstance(given, EncodedPair) else list(given)
    some = list(PromptSet.of(some)) if some and isinstance(some[0], Mapping) else some
    for n, one in enumerate(some):
        if not isinstance(one, Pair | EncodedPair):
            raise PromptError(f"expected pairs of prompts, number {n} is {brief(one)}; {_FILE}")
    if not some:
        raise ValueError("no pairs to look at; give a PromptSet, such as PromptSet.from_file('pairs.csv')")
    return [one if isinstance(one, EncodedPair) else encode(one, lab.tokenizer) for one in some]


def named_of(given: HeadsLike) -> Heads:
    """Heads by name or as (layer, head), of any model.  Raises ValueError for what names none."""
    if isinstance(given, Heads):
        named = given
    elif isinstance(given, str | Head):
        named = Heads.parse(str(given))
    elif isinstance(given, Sequence):
        each: Sequence[Any] = (
            [tuple(given)] if len(given) == 2 and all(isinstance(n, Integral) for n in given) else given
        )
        named = Heads.parse(" ".join(str(Head(*one) if isinstance(one, tuple) else one) for one in each))
    else:
        raise ValueError(f"expected heads by name, such as 'L1H3 L2H0', given {brief(given)}")
    if not len(named):
        raise ValueError("no heads given; expected names such as 'L1H3'")
    return named


def heads_of(lab: Lab, given: HeadsLike) -> Heads:
    """Heads of this model.  Raises ValueError for none, or one that does not exist."""
    loaded(lab)
    return lab.grid.check(named_of(given))


def worded(given: object) -> str:
    """A text, or that of what :func:`headlab.read` gave or of a prompt.  Raises PromptError for anything else."""
    text = getattr(given, "text", given)
    if not isinstance(text, str) or not text:
        raise PromptError(
            f"expected a text, given {brief(text)}; for pairs of prompts see headlab.heatmap and headlab.sweep"
        )
    return text


def text_of(lab: Lab, text: str) -> Encoded:
    """A text as tokens.  Raises PromptError for one without tokens, or longer than the model reads."""
    loaded(lab)
    text = worded(text)
    ids = token_ids(Prompt(text), lab.tokenizer)
    if not ids:
        raise PromptError(f"{text!r:.60} has no tokens; give a text that has some")
    check_length(lab, "the text", len(ids))
    return Encoded(tuple(ids), len(ids), {"last": (len(ids) - 1,)}, frozenset(), -1, -1, "")


def pair_of_text(lab: Lab, text: str) -> EncodedPair:
    """A text as a pair that has no other run and no answer."""
    one, prompt = text_of(lab, text), Prompt(worded(text))
    return EncodedPair(Pair("text", prompt, prompt, "?", "", partner=False), one, one)
