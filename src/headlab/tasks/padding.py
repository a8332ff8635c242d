"""Comparisons behind a chosen number of words, a chosen share of them format words: length and format told apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headlab.prompts import EncodedPair, Prompt, PromptError, Span, encode_prompt
from headlab.stats.figures import exact_percent
from headlab.tasks.decimals import fill, get_format, numbers

FORMAT_WORDS = ("Which", "is", "bigger", "Question", "Answer", "Assistant", "User", "Q", "A", "Compare")
FILLER_WORDS = ("the", "these", "what", "number", "of", "and", "so", "then", "here", "some")


@dataclass(frozen=True)
class Cell:
    """So many words before the comparison, such a share of them format words."""

    words: int
    share: float

    @property
    def name(self) -> str:
        return f"{self.words} words, {exact_percent(self.share)} format"


def design_cells(words: Sequence[int], shares: Sequence[float]) -> list[Cell]:
    """Every number of words with every share.  Raises PromptError for a design that tells nothing apart."""
    if len(set(words)) < 2 or len(set(shares)) < 2 or min(words) < 1 or not 0 <= min(shares) <= max(shares) <= 1:
        raise PromptError(
            f"words {list(words)} and shares {list(shares)}: expected at least two of each, shares in [0, 1]"
        )
    return [Cell(int(n), float(s)) for n in words for s in shares]


def vocabulary(tokenizer: Any, words: Sequence[str]) -> list[str]:
    """The words that are one token after a space; all of them where fewer than three are."""
    single = [w for w in words if len(tokenizer(f" {w}", add_special_tokens=False)["input_ids"]) == 1]
    return single if len(single) >= 3 else list(words)


def padded(pair: EncodedPair, cell: Cell, tokenizer: Any, seed: int) -> EncodedPair:
    """The comparison of a pair (clean wording) behind the words of a cell, as both prompts of the pair."""
    rng = random.Random(f"{seed} {pair.pair.id} {cell}")
    lists = {"pad": vocabulary(tokenizer, FORMAT_WORDS), "filler": vocabulary(tokenizer, FILLER_WORDS)}
    text, spans = "", []
    for n in range(cell.words):
        role = "pad" if int((n + 1) * cell.share + 1e-9) > int(n * cell.share + 1e-9) else "filler"
        word = rng.choice(lists[role])
        spans.append(Span(role, len(text), len(text) + len(word), True))
        text += word + " "
    base = fill(get_format("simple"), *numbers(pair.pair.clean))
    spans += [Span(s.role, s.start + len(text), s.end + len(text), s.optional) for s in base.spans]
    prompt = Prompt(text + base.text, tuple(spans), base.lead)
    encoded = encode_prompt(prompt, pair.pair.answer, pair.pair.wrong, tokenizer)
    return EncodedPair(replace(pair.pair, clean=prompt, corrupted=prompt), encoded, encoded)
