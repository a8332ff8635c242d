"""What thoughts read, in numbers with intervals over chains of steps: summaries of rows of attention among thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from headlab.stats import Estimate
from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import bootstrap_of_means
from headlab.thoughts import metrics
from headlab.thoughts.attention import ThoughtAttention

Array = np.ndarray
FOUND = ("sequential", "skip", "flow", "std")


def summary(among: Array, clusters: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Sequential, skip, flow and std of [problem, head, thought, key]: means over heads of each head's mean matrix."""
    heads, n = among.shape[1], among.shape[-1]
    table = np.concatenate([among.reshape(len(among), -1), among.reshape(len(among), -1) ** 2], 1)

    def numbers(means: Array) -> Array:
        x, square = (y.reshape(-1, heads, n, n) for y in np.split(means, 2, -1))
        spread = np.sqrt(np.maximum(square - x**2, 0)).mean((-3, -2, -1))
        each = (metrics.sequential(x), metrics.skip(x), metrics.flow(x))
        return np.stack([*(y.mean(-1) for y in each), spread], -1)

    got = bootstrap_of_means(table, numbers, clusters, unit="problems", seed=seed)
    return {name: got.estimate(k) for k, name in enumerate(FOUND)}


def by_problem(values: Array, clusters: Sequence[str], seed: int) -> list[Estimate]:
    """Means over problems of [problem, …], problems without a value left out."""
    each = values.reshape(len(values), -1)
    kept: Any = ~np.isnan(each).any(1)
    where = [c for c, k in zip(clusters, kept, strict=True) if k]
    return list(bootstrap_means(each[kept], where, unit="problems", seed=seed))


def masses(found: ThoughtAttention, clusters: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Masses of the rows with a choice (thought 1 and later), and of the readers of the answer, means over heads; attention
    to the thought before over what shuffled thoughts give."""
    n, inside = found.n_thoughts, found.among[..., 1:, :]
    parts = {
        "mass:question": found.question[..., 1:n],
        "mass:bot": found.bot[..., 1:n],
        "mass:thoughts": inside.sum(-1),
        "mass:self": np.diagonal(found.among, 0, -2, -1)[..., 1:],
        "eot:thoughts": found.answers[..., :1, :].sum(-1),
        "answer:thoughts": found.answers[..., 1:, :].sum(-1),
    }
    out = {name: by_problem(x.mean((1, 2, 3)), clusters, seed)[0] for name, x in parts.items()}
    among = found.matrices
    both = np.stack([metrics.sequential(x).mean(1) for x in (among, shuffled_rows(among))], 1)
    got = bootstrap_of_means(both, lambda m: m[:, :1] / m[:, 1:], clusters, unit="problems", seed=seed)
    return out | {"sequential:uniform": got.estimate(0)}


def shuffled_rows(among: Array) -> Array:
    """What each row gives on average when the visible thoughts change places in it: its mass, spread evenly."""
    n = among.shape[-1]
    return among.sum(-1, keepdims=True) * np.tri(n) / np.arange(1, n + 1)[:, None]


def uniform_rows(lengths: Sequence[int], n_thoughts: int) -> Array:
    """Attention among thoughts when every visible key, the question's too, gets the same: [problem, thought, key]."""
    keys = np.array(lengths)[:, None] + 2 + np.arange(n_thoughts)[None]
    return (1 / keys)[..., None] * np.tri(n_thoughts)


def cells(found: ThoughtAttention, clusters: Sequence[str], seed: int) -> pd.DataFrame:
    """Mean attention of each row of each head to each key, with intervals."""
    n, keys = found.n_thoughts, np.array(["question", "bot", *map(str, range(found.n_thoughts)), "later"])
    parts = []
    for layer in range(found.thoughts.shape[1]):
        sums = [x[:, layer, ..., None] for x in (found.question, found.bot)]
        whole = np.concatenate([*sums, found.thoughts[:, layer], found.later[:, layer, ..., None]], -1)
        kept: Any = ~np.isnan(whole).any((1, 2, 3))
        where = [c for c, k in zip(clusters, kept, strict=True) if k]
        values = whole[kept].reshape(int(kept.sum()), -1)
        means = bootstrap_means(values, where, unit="problems", seed=seed, draws=1000)
        head, row, key = (x.ravel() for x in np.indices(whole.shape[1:]))
        columns: dict[str, Any] = {"layer": layer, "head": head, "row": np.array(found.rows)[row], "key": keys[key]}
        columns |= {
            "attention": [e.value for e in means],
            "low": [e.low for e in means],
            "high": [e.high for e in means],
        }
        unseen = (row < n) & (key >= 2) & (key < n + 2) & (key - 2 > row)
        parts.append(pd.DataFrame({**columns, "n": int(kept.sum()), "unit": "problems"}).loc[~unseen])
    return pd.concat(parts, ignore_index=True)
