"""Is a thought a hub? One model's rows of attention in numbers: corrected for exposure, as published, and shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.stats import Estimate, clopper_pearson
from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import OfMeans, bootstrap_of_means
from headlab.thoughts import hubs as measure
from headlab.thoughts import metrics
from headlab.thoughts.attention import ThoughtAttention
from headlab.thoughts.hubs import Hubs, find_hubs
from headlab.thoughts.summaries import by_problem

Array = np.ndarray


@dataclass(frozen=True)
class Looked:
    """One model read both ways: numbers by name, the hub of each head by the rule, what shuffled thoughts give."""

    thought: int
    numbers: dict[str, Estimate]
    found: Hubs
    observed: float
    null: Array


def ratios(among: Array) -> Array:
    """Exposure-corrected ratio of each thought, mean over heads, [problem, thought]."""
    return np.nanmean(measure.corrected(among), 1)


def published_places(among: Array) -> Array:
    """The thought that the published rule calls the hub, of each head."""
    return metrics.incoming(metrics.published_view(among).mean(0)).argmax(-1)


def published_ratios(among: Array, clusters: Sequence[str], seed: int) -> OfMeans:
    """Column sums of the mean matrix over 1/6, by thought."""
    n, view = among.shape[-1], metrics.published_view(among).mean(1)
    flat = view.reshape(len(view), -1)
    return bootstrap_of_means(
        flat, lambda m: metrics.published_ratio(m.reshape(-1, n, n)), clusters, unit="problems", seed=seed
    )


def most_received(among: Array) -> int:
    """The thought with the largest raw column sum of the published view, over problems and heads."""
    return int(metrics.incoming(metrics.published_view(among)).mean((0, 1)).argmax())


def look(found: ThoughtAttention, clusters: Sequence[str], thought: int, seed: int) -> Looked:
    """Every number of one model about a thought."""
    among = found.matrices
    n, told = among.shape[-1], {"unit": "problems", "seed": seed}
    ratio: Any = bootstrap_means(ratios(among), clusters, **told)
    strict: Any = bootstrap_means(np.nanmean(measure.corrected(among, True)[..., :-1], 1), clusters, **told)
    raw = published_ratios(among, clusters, seed)
    numbers = {f"ratio:{j}": ratio[j] for j in range(n)} | {f"published:{j}": raw.estimate(j) for j in range(n)}
    numbers |= {"hub:ratio": ratio[thought], "hub:published": raw.estimate(thought)}
    if thought < n - 1:
        numbers["hub:strict"] = strict[thought]
    answers = measure.answer_ratio(found.answers).reshape(len(among), -1, 2, n).mean(1)
    for k, name in enumerate(("eot", "answer")):
        if (~np.isnan(answers[:, k]).any(1)).sum() > 1:  # an answer that ended at once has no row
            every = by_problem(answers[:, k], clusters, seed)
            numbers |= {f"{name}:{j}": every[j] for j in range(n)} | {f"{name}:ratio": every[thought]}
    ruled, heads = find_hubs(among, clusters, seed=seed), among.shape[1]
    numbers["heads:hub"] = clopper_pearson(int((ruled.hub >= 0).sum()), heads, unit="heads")
    numbers["heads:first"] = clopper_pearson(int((published_places(among) == 0).sum()), heads, unit="heads")
    whole = np.nan_to_num(np.nanmean(measure.within(among)[..., 1:, :], 1, keepdims=True))
    whole = np.concatenate([np.zeros_like(whole[..., :1, :]), whole], -2)
    mixed = measure.shuffled_thoughts(whole, clusters, seed=seed, draws=9999, keep=True)
    assert mixed.kept is not None
    return Looked(thought, numbers, ruled, float(mixed.observed[0, thought]), mixed.kept[:, 0, thought])
