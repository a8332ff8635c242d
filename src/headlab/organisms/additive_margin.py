"""A model in which nothing counts heads: each adds a number to a margin.

    margin(S, pair) = m0(pair) + dose · Σ_{h in S} w_h        success = margin > 0

The weights w are drawn alike for every head, the offsets m0 alike for every pair.  No parity, no threshold, no redundancy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

DOSES = tuple(round(0.05 * i, 2) for i in range(21))


@dataclass(frozen=True)
class AdditiveMargin:
    """The model's parameters, in units of the average pair's distance from being answered rightly.

    ``total``: what patching all ``heads`` adds on average; ``weight_sd``: the spread of one head's weight;
    ``pair_sd``: the spread of the offsets.  The pool is the even heads.  Nothing is fitted to any model: whole layer 3
    times what is needed, a head's weight spread by half as much again as its mean.
    """

    total: float = 3.0
    weight_sd: float = 0.15
    offset: float = -1.0
    pair_sd: float = 0.25
    heads: int = 32

    @property
    def weight_mean(self) -> float:
        return self.total / self.heads

    @property
    def pool(self) -> tuple[int, ...]:
        return tuple(range(0, self.heads, 2))

    def weights(self, rng: np.random.Generator, *shape: int) -> Any:
        """``[*shape, head]``."""
        return rng.normal(self.weight_mean, self.weight_sd, (*shape, self.heads))

    def offsets(self, rng: np.random.Generator, *shape: int) -> Any:
        """``[*shape]``: a pair's margin before any patch."""
        return rng.normal(self.offset, self.pair_sd, shape)

    def expected(self, size: int, dose: float = 1.0) -> float:
        """Pr[margin > 0] of a set of ``size`` heads, over models and pairs: the normal tail

        Φ( (offset + dose·size·weight_mean) / sqrt(pair_sd² + dose²·size·weight_sd²) ).

        A set that knows nothing of the weights is as good as any other of its size.
        """
        mean = self.offset + dose * size * self.weight_mean
        spread = (self.pair_sd**2 + dose**2 * size * self.weight_sd**2) ** 0.5
        return float(mean > 0) if spread == 0 else NormalDist().cdf(mean / spread)


def sets_matrix(sets: Sequence[Sequence[int]], heads: int) -> Any:
    """``[set, head]`` of 0 and 1."""
    out = np.zeros((len(sets), heads))
    for row, members in enumerate(sets):
        out[row, list(members)] = 1.0
    return out


def chain_margins(weights: Any, offsets: Any, pool: Sequence[int], chains: int, rng: np.random.Generator) -> Any:
    """``[chain, size, pair]`` margins along random nested chains ∅ ⊂ … ⊂ pool of one model (``weights`` [head])."""
    orders = rng.permuted(np.tile(np.asarray(pool), (chains, 1)), axis=1)
    sums = np.concatenate([np.zeros((chains, 1)), np.cumsum(weights[orders], axis=1)], axis=1)
    return sums[:, :, None] + offsets


def dose_margins(weights: Any, offsets: Any, doses: Sequence[float] = DOSES) -> Any:
    """``[pair, dose]`` margins when the whole layer is patched by a share."""
    return offsets[:, None] + np.asarray(doses) * weights.sum()
