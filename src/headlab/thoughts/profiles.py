"""Every head of a model by the published measures, with intervals, ranks and counts: resampled together.

1. The mean over problems of each head's matrix; flow, hub variance, skip, composite and rank of it, as published.
2. The same in every resample of chains of steps: composite and rank compare heads within the resample.
3. Types and layer thirds counted among the first twenty, with the intervals of those counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headlab.stats import Estimate
from headlab.stats.of_means import OfMeans, bootstrap_of_means
from headlab.thoughts.metrics import (
    KINDS,
    THIRDS,
    Composite,
    composite,
    flow,
    hub_variance,
    incoming,
    layer_third,
    ranking,
    sequential,
    skip,
    type_codes,
)

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
TOP = 20
BY_HEAD = ("rank", "composite", "flow", "hub_variance", "skip", "sequential", "max_attention")


@dataclass(frozen=True)
class Profile:
    """Heads of one model in the order layer, head: ``found`` holds their numbers (:meth:`estimate`), ``mean`` the mean
    matrices [head, thought, key], ``scores`` the composite, ``std`` [head] the standard deviation over problems averaged
    over the cells of the matrix."""

    grid: tuple[int, int]
    mean: Array
    scores: Composite
    std: Array
    found: OfMeans

    @property
    def n(self) -> int:
        return len(self.mean)

    @property
    def names(self) -> list[str]:
        return [f"L{i // self.grid[1]}H{i % self.grid[1]}" for i in range(self.n)]

    @property
    def ranked(self) -> list[int]:
        """Heads (their places) by composite, highest first."""
        return np.argsort(self.numbers("rank")).tolist()

    def numbers(self, what: str) -> Array:
        """One of :data:`BY_HEAD` for each head, [head]."""
        return self.found.value[self.place(what)]

    def estimate(self, what: str, head: int) -> Estimate:
        """The number of a head (by its place), with its interval."""
        return self.found.estimate(self.place(what).start + head)

    def average(self, what: str) -> Estimate:
        """The mean over heads."""
        at = self.place(what)
        return self.found.of(lambda x: x[..., at].mean(-1))

    def largest(self, what: str) -> Estimate:
        """The largest over heads, whichever head that is."""
        at = self.place(what)
        return self.found.of(lambda x: x[..., at].max(-1))

    def lead(self) -> Estimate:
        """Composite of the head that comes first in the data, minus the highest among all others."""
        at, first = self.place("composite"), self.ranked[0]

        def gap(x: Array) -> Any:
            score = np.array(x[..., at])
            own = score[..., first].copy()
            score[..., first] = -np.inf
            return own - score.max(-1)

        return self.found.of(gap)

    def count(self, kind: str) -> Estimate:
        """Heads of a type, or of a layer third, among the first :data:`TOP`."""
        return self.found.estimate(self.n * len(BY_HEAD) + (*KINDS, *THIRDS).index(kind))

    def place(self, what: str) -> slice:
        """Where the numbers of one of :data:`BY_HEAD` stand in ``found``."""
        start = BY_HEAD.index(what) * self.n
        return slice(start, start + self.n)

    def table(self) -> pd.DataFrame:
        """The ranked heads, as published and with intervals: one row for each head."""
        import pandas as pd

        types, received = self.scores.types, incoming(self.mean)
        rows = []
        for head in self.ranked:
            layer, index = divmod(head, self.grid[1])
            row: dict[str, Any] = {
                "name": self.names[head],
                "layer": layer,
                "head": index,
                "layer_third": layer_third(layer, self.grid[0]),
                "type": types[head],
                "hub_position": int(received[head].argmax()),
            }
            for what in BY_HEAD:
                e = self.estimate(what, head)
                row |= {what: e.value, f"{what}_low": e.low, f"{what}_high": e.high}
            row["rank"] = int(row["rank"])
            row |= {"mean_attention": float(self.mean[head].mean()), "std": float(self.std[head])}
            rows.append(row | {"n": self.found.n, "unit": self.found.unit})
        return pd.DataFrame(rows)


def profile(
    matrices: Float[Array, "problem head thought key"],
    clusters: Sequence[Any],
    grid: tuple[int, int],
    *,
    seed: int,
    draws: int = 1000,
) -> Profile:
    """The published measures of all heads, on the mean over problems, with intervals over chains of steps.

    Definition: see :mod:`headlab.thoughts.metrics`; std = mean over cells of the standard deviation over problems.
    Shapes: [problem, head, thought, key] with ``grid`` = (layers, heads in each) → :class:`Profile`.
    Units and range: those of each measure.  Mean over: problems, before anything else.
    Raises: ValueError for a head without any attention among thoughts, fewer than 2 heads, unequal shapes.
    Source: CODI attention-flow study (2025), stories 1.3 and 2.1 to 2.4, which gave no intervals.
    When it misleads: as each measure; the highest of many scores is too high (it was chosen), so judge it by what
        untrained models and shuffled thoughts give for the highest.
    """
    _, heads, n, _ = matrices.shape
    if grid[0] * grid[1] != heads:
        raise ValueError(f"{heads} heads do not make {grid[0]} layers of {grid[1]}")
    thirds = np.array([THIRDS.index(layer_third(h // grid[1], grid[0])) for h in range(heads)])

    def numbers(means: Array) -> Array:
        x = means.reshape(-1, heads, n, n)
        f, v, s = flow(x), hub_variance(x), skip(x)
        scores = composite(f, v, s)
        ranks = ranking(scores.score)
        top = ranks <= TOP
        codes = type_codes(scores.flow, scores.hub, scores.skip)
        counts = [(top & (codes == k)).sum(-1) for k in range(len(KINDS))]
        counts += [(top & (thirds == k)).sum(-1) for k in range(len(THIRDS))]
        own = [ranks, scores.score, f, v, s, sequential(x), x.max((-2, -1))]
        return np.concatenate([*own, np.stack(counts, -1)], -1)

    mean = matrices.mean(0)
    scores = composite(flow(mean), hub_variance(mean), skip(mean))
    table = matrices.reshape(len(matrices), -1)
    found = bootstrap_of_means(table, numbers, clusters, unit="problems", seed=seed, draws=draws)
    return Profile(grid, mean, scores, matrices.std(0).mean((-2, -1)), found)
