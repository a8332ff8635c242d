"""Scores of heads by what they move of a token, and by what tells two runs apart; on selection prompts.

``copying``   the share of tokens whose own logit a head's output for them (v·W_O, final norm, unembedding) raises most,
              among the tokens of the prompts
``successor`` the same of the items of an order (days, months, numbers, letters) and the item that comes next, among the
              order's items (Gould et al. 2023, with the head's own input in the place of the first layer's)
``probe``     how often a head's z where the logits are read tells a prompt from its other run: nearest mean, each pair
              left out of the means (Li et al. 2023 fitted logistic regressions)

Each lies in [0, 1].  A token stands alone, after the tokenizer's own start token, so that the first two see no context.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlab.claims import ClaimError
from headlab.engine.captures import capture
from headlab.engine.directions import contrast
from headlab.engine.model import Lab, ModelError
from headlab.engine.reader import head as unembedded
from headlab.heads import Head, Heads
from headlab.heads import layer as whole_layer
from headlab.prompts import Encoded

MOST = 64
"""Tokens of the prompts that are tried, those that stand in most prompts first."""


def copying(subject: Any) -> Mapping[Head, float]:
    """Own tokens.  Raises ClaimError where the family's heads have no output matrices of their own."""
    counts: dict[int, int] = {}
    for pair in subject.chosen:
        for token in set(pair.corrupted.ids[1:]):
            counts[token] = counts.get(token, 0) + 1
    tokens = sorted(counts, key=lambda t: (-counts[t], t))[:MOST]
    return _moved(subject.lab, [tokens], [tokens])


def successor(subject: Any) -> Mapping[Head, float]:
    """Next items.  Raises ClaimError for a tokenizer that writes no order's items as single tokens."""
    from headlab.tasks.building import one_token
    from headlab.tasks.successor import ORDERS

    tokenizer, asked, wanted = subject.lab.tokenizer, [], []
    for order in ORDERS.values():
        known = set(one_token(order, tokenizer))
        kept = [(a, b) for a, b in itertools.pairwise(order) if {a, b} <= known]
        if len(kept) > 2:
            asked.append([_last(a, tokenizer) for a, _ in kept])
            wanted.append([_last(b, tokenizer) for _, b in kept])
    if not asked:
        raise ClaimError("the score 'successor' needs days, months, numbers or letters that are one token each")
    return _moved(subject.lab, asked, wanted)


def probe(subject: Any) -> Mapping[Head, float]:
    """Nearest mean, leaving each pair out.  Raises ClaimError for single prompts."""
    if any(p.clean.ids == p.corrupted.ids for p in subject.chosen):
        raise ClaimError("the score 'probe' tells two prompts of a pair apart, and this task gives one")
    heads = Heads(h for slot in subject.lab.slots for h in whole_layer(subject.grid, slot.layer))
    made = contrast(subject.lab, subject.chosen, heads, runs=True)
    assert made.other is not None
    return {h: _told_apart(made.held[str(h)], made.other[str(h)]) for h in heads}


def _told_apart(own: np.ndarray, other: np.ndarray) -> float:
    """The share of rows nearer to their own side's mean, each pair left out of both means."""
    n = len(own)
    if n < 3:
        return 0.5
    means = [(x.sum(0) - x) / (n - 1) for x in (own, other)]
    right = 0
    for x, near, far in ((own, *means), (other, *reversed(means))):
        right += int((np.linalg.norm(x - near, axis=1) < np.linalg.norm(x - far, axis=1)).sum())
    return right / (2 * n)


def _last(word: str, tokenizer: Any) -> int:
    return int(tokenizer(f"a a {word}", add_special_tokens=False)["input_ids"][-1])


def raised(
    lab: Lab, layer: int, tokens: Sequence[int], heads: Sequence[int] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Each head of a layer (or these), with the logits [token, vocabulary] of what it writes for its value at each token alone:
    v·W_O behind the final norm and the unembedding.  Raises ModelError where the family has no output matrix of a head."""
    first = [lab.tokenizer.bos_token_id] if lab.tokenizer.bos_token_id is not None else []
    every = [Encoded((*first, t), len(first) + 1, {}, frozenset(), -1, -1, "") for t in tokens]
    w = lab.weight("o", layer)
    kept = capture(lab, every, [(layer, "v")])[layer, "v"]
    v = torch.stack([x[-1] for x in kept]).repeat_interleave(lab.grid.group_size, dim=1)
    ids = torch.tensor([[t] for t in tokens], device=lab.device)
    for h in range(lab.grid.n_heads) if heads is None else heads:
        yield h, unembedded(lab, (v[:, h] @ w[h].to(v))[:, None], ids, 0)[:, -1]


@torch.inference_mode()
def _moved(lab: Lab, asked: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> dict[Head, float]:
    """The share of tokens of ``asked`` for which, among the group's tokens, a head raises the ``wanted`` one most."""
    every = [t for group in asked for t in group]
    choices = [sorted({*a, *b}) for a, b in zip(asked, wanted, strict=True)]
    out: dict[Head, float] = {}
    for slot in lab.slots:
        try:
            for h, logits in raised(lab, slot.layer, every):
                at, right = 0, 0
                for some, next_, group in zip(asked, wanted, choices, strict=True):
                    best = logits[at : at + len(some), group].argmax(1).tolist()
                    right += sum(group[b] == w_ for b, w_ in zip(best, next_, strict=True))
                    at += len(some)
                out[Head(slot.layer, h)] = right / len(every)
        except ModelError as error:
            raise ClaimError(str(error)) from error
    return out
