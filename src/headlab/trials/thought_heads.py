"""Which heads and which thought a trial on a thinking model is about.

All of it is chosen on selection problems, which the test never sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headlab.heads import Head, Heads, every_head
from headlab.stats import Estimate
from headlab.stats.correlation import spearman
from headlab.stats.of_means import bootstrap_of_means
from headlab.thoughts import metrics
from headlab.thoughts.scores import norms
from headlab.thoughts.worlds import ablation
from headlab.trials.answers import of_world
from headlab.trials.sweeps import Scope, Seen
from headlab.trials.thought_case import ThoughtBench
from headlab.trials.thought_effects import measured
from headlab.trials.thought_rows import read

Array = np.ndarray


@dataclass(frozen=True)
class Scores:
    """The published composite of every head, and the hub of the published ratio."""

    composite: metrics.Composite
    heads: tuple[Head, ...]
    hub: int

    @property
    def ranked(self) -> tuple[Head, ...]:
        """Highest composite first; the earlier of equals first."""
        return tuple(self.heads[i] for i in np.argsort(-self.composite.score, kind="stable"))


def published_scores(case: ThoughtBench) -> Scores:
    """Composite and hub as published: on the mean matrix of the published view."""
    view = metrics.published_view(read(case, "scores", problems=case.selection).matrices.mean(0))
    hub = int(metrics.published_ratio(view.mean(0)).argmax())
    return Scores(metrics.composite_of(view), tuple(every_head(case.grid)), hub)


def hub_of(scope: Scope, option: str = "hub") -> int:
    """The thought that is called the hub: a number, or "auto", the published rule.

    Raises ValueError for a thought that the model does not have.
    """
    asked, n = scope.options[option], scope.case.n_thoughts
    if asked == "auto":
        return published_scores(scope.case).hub
    if not asked.isdigit() or int(asked) >= n:
        raise ValueError(f"hub is {asked!r}; expected auto or a thought from 0 to {n - 1}")
    return int(asked)


def hub(seen: Seen) -> int:
    """The hub of the option ``hub``."""
    return seen.of_trial(hub_of)


def output_norms(case: ThoughtBench) -> dict[Head, float]:
    """Mean norm of what each head writes to the residual stream, ‖z·W_O‖ over all positions."""
    return dict(norms(case.thinker, case.selection, case.rows, case.progress))


def scores(seen: Seen) -> Scores:
    return seen.of_case(published_scores)


def rank_correlation(lost: Array, scores: Array, clusters: Sequence[str], seed: int) -> Estimate:
    """Spearman's ρ of fixed ``scores`` [head] with the mean accuracy lost, ``lost`` [problem, head], resampled by problem."""

    def rho(means: Array) -> Array:
        return spearman(scores, means)[:, None]

    return bootstrap_of_means(lost, rho, clusters, unit="problems", seed=seed).estimate(0)


# -- the heads that the answer needs ------------------------------------------------------------------------


@dataclass(frozen=True)
class Needed:
    """``heads``, the one that costs most first; ``lost``: accuracy lost without each head alone (empty where heads were
    named)."""

    heads: tuple[Head, ...]
    lost: Mapping[Head, float]

    @property
    def as_set(self) -> Heads:
        return Heads(self.heads)

    @property
    def layers(self) -> list[int]:
        return [h.layer for h in self.heads]

    def __str__(self) -> str:
        return ", ".join(map(str, self.heads))


def needed_heads(case: ThoughtBench, asked: str, k: int) -> Needed:
    """The ``k`` heads whose mean ablation alone, at every position, costs most accuracy (the more log-probability lost among
    equals), or the heads named (``asked``), in their order.

    Raises ValueError for a head that does not exist or a ``k`` below one.
    """
    if asked:
        named = tuple(Heads.parse(asked))
        case.grid.check(Heads(named))
        return Needed(named, {})
    if k < 1:
        raise ValueError(f"k is {k}; expected at least one head")
    heads = list(every_head(case.grid))
    ran = measured(case, [ablation(str(h), Heads([h])) for h in heads], "each head, chosen", problems=case.selection)
    lost = {h: ran.found[str(h)].drop.value or 0.0 for h in heads}
    less = {h: float(of_world(ran.table, str(h))["logprob"].to_numpy(float).mean()) for h in heads}
    usual = float(ran.base["logprob"].to_numpy(float).mean())
    order = sorted(heads, key=lambda h: (-lost[h], less[h] - usual, h.layer, h.index))
    return Needed(tuple(order[:k]), lost)
