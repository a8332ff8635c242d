"""What the word organisms read: their vocabulary, their tokenizer, and batches of the two behaviours.

**Vocabulary**: 256 bytes, and every word below with a space before it and without, as one token each; so text of these
words, full stops and commas has one token a word, and any other text falls back to bytes.  **ioi**: the templates with
two names A and B, and the second subject S again; the answer is the other name, as one token with a space before it.
**repeats**: a few words, then a block of random words said again and again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from headlab.tasks.ioi import NAMES, OBJECTS, PLACES, TEMPLATES
from headlab.tasks.words import COMMON

from .tokenizer import build_tokenizer

LEAST, MOST, FILLER, LENGTH = 6, 20, 8, 48
"""Of repeats: words of a block, words before it at most, tokens after the first."""


def fixed_words() -> list[str]:
    """Every word of the templates, in order of first use."""
    text = " ".join(TEMPLATES)
    for slot in ("A", "B", "S", "PLACE", "OBJECT"):
        text = text.replace(f"[{slot}]", " ")
    return list(dict.fromkeys(text.replace(",", " ").replace(".", " ").split()))


@cache
def build_word_tokenizer() -> Any:
    """The tokenizer of all word organisms, the same on every call."""
    words = dict.fromkeys([*NAMES, *PLACES, *OBJECTS, *fixed_words(), *COMMON])
    return build_tokenizer([t for w in words for t in (f"Ġ{w}", w) if len(t) > 1])


def word_ids(words: tuple[str, ...]) -> Tensor:
    """The token of each word with a space before it."""
    ids = build_word_tokenizer().convert_tokens_to_ids([f"Ġ{w}" for w in words])
    return torch.tensor(ids)


def held_out(a: str, b: str) -> bool:
    """Whether prompts with this pair of names, in either order, are kept from training: one pair in five."""
    return random.Random(" ".join(sorted((a, b)))).random() < 0.2


@cache
def _apart() -> Tensor:
    """[name, name]: :func:`held_out`."""
    return torch.tensor([[held_out(a, b) for b in NAMES] for a in NAMES])


@dataclass(frozen=True)
class Prompts:
    """Rows of one behaviour: ``ids`` [row, position], padded at the right; the answer follows ``last`` [row].

    ``right`` and ``wrong`` [row] are the tokens of the two answers; ``s`` [row] is the position of the second subject.
    """

    ids: Tensor
    last: Tensor
    right: Tensor
    wrong: Tensor
    s: Tensor


@cache
def _template(k: int) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Token ids of a template (0 in slots) and the positions of its slots."""
    ids: list[int] = [build_word_tokenizer().bos_token_id]
    slots: dict[str, tuple[int, ...]] = {}
    for piece in TEMPLATES[k].replace("]", "[").split("["):
        if piece in ("A", "B", "S", "PLACE", "OBJECT"):
            slots[piece] = (*slots.get(piece, ()), len(ids))
            ids.append(0)
        elif piece:
            ids += build_word_tokenizer()(piece, add_special_tokens=False)["input_ids"]
    return tuple(ids), slots


def ioi(
    rows: int, generator: torch.Generator, *, test: bool = False, third: float = 0.0, templates: int = 4
) -> Prompts:
    """``rows`` prompts of each of ``templates`` random sentences; ``third`` is the share whose second subject is a third
    name, so that either answer is as right as the other.  Names of ``test`` prompts are pairs held out from training."""
    pad = build_word_tokenizer().pad_token_id
    made = [
        _ioi_rows(int(k), rows, generator, test, third)
        for k in torch.randperm(len(TEMPLATES), generator=generator)[:templates].sort().values
    ]
    width = max(ids.shape[1] for ids, *_ in made)
    padded = [torch.nn.functional.pad(ids, (0, width - ids.shape[1]), value=pad) for ids, *_ in made]
    return Prompts(torch.cat(padded), *(torch.cat(part) for part in list(zip(*made, strict=True))[1:]))


def _ioi_rows(k: int, rows: int, generator: torch.Generator, test: bool, third: float) -> tuple[Tensor, ...]:
    ids, slots = _template(k)
    kept = (_apart() == test).nonzero()
    kept = kept[kept[:, 0] != kept[:, 1]]
    pair = kept[torch.randint(len(kept), (rows,), generator=generator)]
    names, out = word_ids(NAMES), torch.tensor(ids).repeat(rows, 1)
    first = torch.rand(rows, generator=generator) < 0.5  # whether A is the second subject
    said = torch.where(first, pair[:, 0], pair[:, 1])
    other = torch.where(first, pair[:, 1], pair[:, 0])
    step = torch.randint(1, len(NAMES), (rows,), generator=generator)
    stranger = torch.rand(rows, generator=generator) < third
    spoken = torch.where(stranger, (said + step) % len(NAMES), said)
    for slot, value in {"A": names[pair[:, 0]], "B": names[pair[:, 1]], "S": names[spoken]}.items():
        out[:, slots[slot][0]] = value
    for slot, words in {"PLACE": PLACES, "OBJECT": OBJECTS}.items():
        drawn = word_ids(words)[torch.randint(len(words), (rows,), generator=generator)]
        for at in slots.get(slot, ()):
            out[:, at] = drawn
    last, s = (torch.full((rows,), x) for x in (len(ids) - 1, slots["S"][0]))
    return out, last, names[other], names[said], s


def repeats(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``ids`` and ``source`` [row, position]: random words, then a block that repeats to the end; ``source`` is the position
    that says what comes next (after the same word one block earlier), or −1 where nothing does."""
    words = word_ids(tuple(dict.fromkeys([*NAMES, *PLACES, *OBJECTS, *COMMON])))
    drawn = words[torch.rand(rows, len(words), generator=generator).argsort(1)[:, :LENGTH]]
    block = torch.randint(LEAST, MOST + 1, (rows, 1), generator=generator)
    before = torch.randint(0, FILLER + 1, (rows, 1), generator=generator)
    at = torch.arange(LENGTH)[None]
    index = torch.where(at < before, at, before + (at - before) % block)
    bos = torch.full((rows, 1), build_word_tokenizer().bos_token_id)
    ids = torch.cat([bos, drawn.gather(1, index)], 1)
    earlier = torch.where(at - before >= block, at - block + 2, -1)  # counted with the first token
    return ids, torch.cat([torch.full((rows, 1), -1), earlier], 1)


def scored(ids: Tensor, source: Tensor) -> Tensor:
    """Labels of repeats [row, position]: the next token where ``source`` says it, −100 elsewhere."""
    after: Any = torch.cat([ids[:, 1:], ids[:, :1]], 1)
    known = source >= 0
    known[:, -1] = False
    return torch.where(known, after, -100)
