"""What heads draw on in a set of problems: integrated gradients of each, refined and checked by deletion; what they attend to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headlab.effects import Progress, quiet
from headlab.heads import Head
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.integrated import Attributed, Frozen, attribute
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import Asked, ids_of, watch
from headlab.thoughts.roles import DELETED, GAP, Told

Array = np.ndarray
FINER = 4
"""How many times more steps where attributions do not add up."""


def asked_of(thinker: Thinker, problems: ProblemSet) -> Asked:
    return Asked.of(thinker, [p.question for p in problems], [p.id for p in problems])


def mean_embedding(thinker: Thinker, problems: ProblemSet) -> Tensor:
    """Mean embedding of the tokens of these problems, [d_model]."""
    tokens = [t for ids in asked_of(thinker, problems).ids for t in ids]
    return thinker.model.embed(torch.tensor(tokens, device=thinker.lab.device)).detach().float().mean(0)


def attributed(
    thinker: Thinker,
    problems: ProblemSet,
    heads: Sequence[Head],
    base: Tensor,
    *,
    steps: int,
    refined: int,
    tokens: int,
    seed: int,
    progress: Progress = quiet,
) -> list[Told]:
    """Attributions of each problem; those of the first ``refined`` heads with more steps where they do not add up."""
    asked, out, rng = asked_of(thinker, problems), dict[int, Told](), np.random.default_rng(seed)
    for chosen in asked.groups.values():
        for start in range(0, len(chosen), 16):
            some = chosen[start : start + 16]
            frozen = Frozen.of(thinker, ids_of(thinker, asked, some), heads, tokens)
            found = _refined(frozen, base, steps, refined)
            parts = (found.tokens, found.change, found.gap, *_deleted(frozen, base, found.tokens, rng))
            for row, i in enumerate(some):
                out[i] = Told(*(x[row].double().cpu().numpy() for x in parts))
            progress("integrated gradients", len(out), len(problems))
    return [out[i] for i in range(len(problems))]


def _refined(frozen: Frozen, base: Tensor, steps: int, k: int) -> Attributed:
    """Attributions; where the leading head's do not add up, once more with :data:`FINER` times the steps (first ``k`` heads),
    kept where they come nearer."""
    found = attribute(frozen, base, steps)
    poor = (found.gap[:, 0].abs() > GAP * found.change[:, 0].abs()).nonzero()[:, 0]
    if not k or not len(poor):
        return found
    finer = attribute(frozen, base, FINER * steps, only=poor, heads=k)
    better = torch.zeros_like(found.gap, dtype=torch.bool)
    better[poor, :k] = finer.gap[poor, :k].abs() < found.gap[poor, :k].abs()
    tokens = torch.where(better[..., None], finer.tokens, found.tokens)
    return Attributed(tokens, found.change, torch.where(better, finer.gap, found.gap))


def _deleted(frozen: Frozen, base: Tensor, weights: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """|F(x) − F(x with tokens at the baseline)| of each head: its heaviest tokens, and as many drawn at random."""
    whole, (n, heads, length) = frozen.at(frozen.inputs), weights.shape
    drop = min(DELETED, length)
    top = weights.abs().topk(drop, dim=2).indices
    other = torch.tensor(np.stack([rng.permutation(length)[:drop] for _ in range(n)]), device=weights.device)
    out = []
    for places in (top, other[:, None].expand(n, heads, drop)):
        each = []
        for h in range(heads):
            x = frozen.inputs.clone()
            x[torch.arange(n, device=x.device)[:, None], places[:, h]] = base.to(x)
            each.append((whole - frozen.at(x))[:, h].abs())
        out.append(torch.stack(each, 1))
    return out[0], out[1]


def zero_path(thinker: Thinker, problems: ProblemSet, heads: Sequence[Head]) -> float:
    """The largest attribution of a token of the first problem from the question to itself: nothing to attribute."""
    frozen = Frozen.of(thinker, ids_of(thinker, asked_of(thinker, problems), [0]), heads, 12)
    return float(attribute(frozen, frozen.inputs, 2).tokens.abs().max())


def attended(
    thinker: Thinker, problems: ProblemSet, heads: Sequence[Head], *, batch: int, progress: Progress = quiet
) -> list[Array]:
    """Mean attention of each head to each token of the question, from bot, thoughts, eot and answer: [head, token]."""
    wanted, out = frozenset((h.layer, "pattern") for h in heads), dict[int, Array]()
    asked, names = [p.question for p in problems], [p.id for p in problems]
    for chosen, ran in watch(thinker, asked, names, wanted, batch=batch, progress=progress, what="attention"):
        q = ran.layout.question
        for row, i in enumerate(chosen):
            seen = [[one[h.layer, "pattern"][row, h.index, -1, :q] for one in ran.kept] for h in heads]
            out[i] = np.stack([torch.stack(s).float().mean(0).cpu().numpy() for s in seen])
    return [out[i] for i in range(len(problems))]
