"""What single heads do, and how far two heads are apart by that.

1. The profile of a head: the recovery of the logit difference when it alone is patched, and the recovery that is lost
   when it is left out of a patch of the whole layer.  Both are shares of the same gap, so neither is rescaled.
2. The effect distance of two heads is the Euclidean distance of their profiles.
3. Intervals resample clusters of pairs and compute every profile again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headlab.stats.clustering import euclidean

Array = np.ndarray
EFFECTS = {"single": "recovery by the head alone", "left_out": "recovery lost without the head"}


DRAWS = 499


@dataclass(frozen=True)
class Profiles:
    """Logit differences of one layer: ``alone`` and ``without`` [head, pair], ``whole``, ``clean``, ``corrupted`` [pair],
    ``clusters`` [pair]."""

    layer: int
    alone: Array
    without: Array
    whole: Array
    clean: Array
    corrupted: Array
    clusters: tuple[str, ...]

    @property
    def profile(self) -> Array:
        """[head, effect], over all pairs."""
        return self.weighted(np.ones((1, len(self.clean))))[0]

    def weighted(self, weights: Array) -> Array:
        """Profiles with pairs counted ``weights`` [draw, pair] times, [draw, head, effect].

        Each is a ratio of sums over pairs, as ``recovery`` is.
        """
        gap = weights @ (self.clean - self.corrupted)
        single = weights @ (self.alone - self.corrupted).T
        lost = weights @ (self.whole - self.without).T
        return np.stack([single, lost], -1) / gap[:, None, None]

    def drawn(self, seed: int, draws: int = DRAWS) -> Array:
        """Profiles of pairs resampled by cluster, [draw, head, effect]."""
        codes = np.unique(np.array(self.clusters), return_inverse=True)[1]
        k = int(codes.max()) + 1
        counts = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=draws)
        return self.weighted(counts[:, codes].astype(float))


def effect_distances(profile: Array) -> Array:
    """[head, head] from [head, effect]."""
    return euclidean(profile)
