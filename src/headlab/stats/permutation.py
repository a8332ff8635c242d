"""Is the observed set special? Its rank among matched sets, and sign flips of paired differences.

1. A claim names a set of heads; its null is the matched sets that the claim does not name.
2. p is the share of sets at least as extreme. Where all sets are enumerated, the observed one is
   among them and p is exact. Where they are sampled, p carries a Clopper-Pearson interval.
3. The outcome follows from where that interval lies relative to alpha, and says "untestable" where
   even the most extreme set could not come under alpha, wherever the observed one stands.
4. Sets are ranked by numbers measured on prompts: `rank_over_draws` (in `of_means`) says how often resampled
   prompts agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ._check import Clusters, Floats, Number, Values, cluster_codes, floats, open_unit, whole
from .estimate import Estimate
from .intervals import BLOCK, _cluster_sums
from .tails import tail_bounds

Outcome = Literal["upheld", "refuted", "undecided", "untestable"]


@dataclass(frozen=True, slots=True)
class Rank:
    """Where an observed statistic stands in its null, and what that decides.

    p with [low, high] (low = high = p when enumerated); n_sets in the null; at_least_as_extreme of
    them (ties included); smallest_attainable p of this null; most_extreme: nothing in the null beats
    the observed set; outcome against alpha. Of a walk (`sequential`): the share of the tail that its look has, the total of
    all sets that match where they are walked without replacement (the null is then the others so far), and how many
    alternatives were planned.
    """

    p: float
    low: float
    high: float
    n_sets: int
    at_least_as_extreme: int
    enumerated: bool
    smallest_attainable: float
    most_extreme: bool
    outcome: Outcome
    alpha: float
    unit: str
    level: float
    under: float | None = None
    over: float | None = None
    resampled_at: float | None = None
    share: float = 1.0
    total: int | None = None
    planned: int | None = None

    def against(self, alpha: float, level: float | None = None) -> Outcome:
        """The outcome at another alpha: the interval of p, and what prompts drawn anew give, decide together.

        ``under`` and ``over`` are the shares of resamples of the prompts in which p lies under and over
        ``resampled_at``; where they are given (for that alpha), at least `level` of them must agree with the interval.
        ``level``: of both (the rank's own by default; more where it is one of several tests).
        """
        level = self.level if level is None else level
        low, high = self.low, self.high
        if not self.enumerated and level != self.level:
            chance = (1 - level) / 2 * self.share
            low, high = tail_bounds(self.at_least_as_extreme, self.n_sets, chance, self.total)
        found = _outcome(low, high, alpha, self.smallest_attainable >= alpha)
        if self.under is None or self.over is None or self.resampled_at != alpha:
            return found
        if found == "upheld":
            return "upheld" if self.under >= level else "undecided"
        return found if found != "refuted" or self.over >= level else "undecided"

    def __str__(self) -> str:
        band = "" if self.enumerated else f" [{self.low:.3g}, {self.high:.3g}]"
        drawn = "all" if self.enumerated else "sampled"
        if self.planned is not None:
            drawn += f", of {self.planned:,} planned"
        count = f"{self.at_least_as_extreme:,} of {self.n_sets:,}"
        return f"p = {self.p:.3g}{band}, {count} {self.unit} at least as extreme, {drawn}"

    @property
    def estimate(self) -> Estimate:
        """p as an `Estimate`."""
        bounds = "Clopper-Pearson" if self.total is None else "hypergeometric"
        method = "enumeration" if self.enumerated else f"sampled, {bounds}" + (" over looks" if self.share < 1 else "")
        note = f"{self.at_least_as_extreme} of {self.n_sets} at least as extreme"
        return Estimate(self.p, self.low, self.high, self.n_sets, self.unit, method, self.level, note=note)


def rank(
    observed: Number,
    null: Values,
    *,
    enumerated: bool,
    alpha: float = 0.05,
    unit: str = "matched sets",
    tail: Literal["greater", "less"] = "greater",
    least_ties: int = 1,
    tolerance: float = 1e-9,
    level: float = 0.95,
    share: float = 1.0,
    total: int | None = None,
) -> Rank:
    """Share of matched sets at least as extreme as the observed one, and the outcome for the claim.

    Definition: c = number of null sets with statistic >= observed (<= for tail "less"), ties included.
    Enumerated (the null holds every matched set, the observed one too): p = low = high = c/N.
    Sampled (N sets drawn at random): p = (1+c)/(1+N), [low, high] = Clopper-Pearson of c in N.
    A look of a walk (`sequential`) has the `share` of the tail; one of `total` sets that match, walked without replacement
    (the null holds others so far), has hypergeometric bounds; its p is (1+c)/(1+N) too, since the observed set is one of
    1+N drawn from all.
    Outcome: "untestable" when the smallest attainable p is not under alpha; else "upheld" when
    high < alpha, "refuted" when low > alpha, and "undecided" between.
    The smallest attainable p is least_ties/N, or 1/(1+N) when sampled. Set least_ties = 2 when every
    set ties with a partner by construction (a half and its complement under a two-sided contrast).
    Two values closer than tolerance * max|value| tie: equal sums taken in another order differ in
    their last bits, and an observed set that failed to tie with itself would get p = 0. Raise it to
    the run's numerical noise when readouts come from half precision or several batch shapes.
    Shapes, units: null [set]; observed a number in the same unit.
    Range: p in (0, 1], less is more extreme.
    Mean over: nothing; n counts matched sets, not prompts.
    Raises: ValueError on NaN, on an empty null, on an enumeration without the observed set.
    Source: Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9:39 (2010), for (1+c)/(1+N).
    When it misleads: about this model's sets only, n = 1 for a claim about models. A set chosen
    because it ranked high needs prompts that the choice did not see.
    """
    values, here = floats(null, "null"), float(floats([observed], "observed")[0])
    n, ties = len(values), whole(least_ties, "least_ties", 1)
    alpha, level = open_unit(alpha, "alpha"), open_unit(level, "level")
    if n == 0:
        raise ValueError("null holds no sets; expected the statistic of every matched set.")
    if tail not in ("greater", "less"):
        raise ValueError(f'tail must be "greater" or "less", got {tail!r}.')
    if tail == "less":
        values, here = -values, -here
    slack = tolerance * max(abs(here), float(np.abs(values).max()))
    count = int(np.count_nonzero(values >= here - slack))
    most_extreme = not bool((values > here + slack).any())
    if enumerated:
        _holds_itself(values, here, slack, observed)
        p = low = high = count / n
        smallest = min(1.0, ties / n)
    else:
        p = (1 + count) / (1 + n)
        low, high = tail_bounds(count, n, (1 - level) / 2 * share, total)
        smallest = 1 / (1 + n) if total is None else 1 / total
    outcome = _outcome(low, high, alpha, smallest >= alpha)
    found = (p, low, high, n, count, enumerated, smallest, most_extreme, outcome, alpha, unit, level)
    return Rank(*found, share=share, total=total)


def _holds_itself(values: Floats, here: float, slack: float, observed: Number) -> None:
    if not (np.abs(values - here) <= slack).any():
        raise ValueError(
            f"an enumeration holds the observed set too, but none of its {len(values)} values equals {observed!r}. "
            "Add the observed set to null, or pass enumerated=False."
        )


def sign_flip(
    differences: Values,
    clusters: Clusters = None,
    *,
    seed: int,
    draws: int = 9999,
    tail: Literal["both", "greater", "less"] = "both",
    alpha: float = 0.05,
) -> Rank:
    """Paired permutation test: is the mean difference further from zero than chance signs make it?

    Definition: under the null each cluster's differences could as well have had the opposite sign.
    Statistic: |mean over rows| (tail "both") or the signed mean; the null flips whole clusters. All 2^K
    flips are enumerated when 2^K <= draws, else `draws` are sampled; then as in `rank`.
    Shapes, units: differences [row]; clusters [row] labels or None.
    Range: p in (0, 1], less is more evidence of a difference.
    Mean over: rows. n_sets counts sign flips.
    Raises: ValueError on NaN, no rows, missing labels, unequal lengths.
    Source: Fisher (1935), The Design of Experiments, section 21; Good (2005) for clusters.
    When it misleads: the null is symmetry about zero, not a mean of zero; a skewed difference can be
    called. Fewer than 6 clusters are always untestable at .05 (two-sided).
    """
    rows = floats(differences, "differences")
    if len(rows) == 0:
        raise ValueError("differences holds no rows; expected one per prompt.")
    if tail not in ("both", "greater", "less"):
        raise ValueError(f'tail must be "both", "greater" or "less", got {tail!r}.')
    draws = whole(draws, "draws", 100)
    codes, k = cluster_codes(clusters, len(rows))
    sums = _cluster_sums(rows[:, None], codes, k)[:, 0] / len(rows)
    exact = 2**k <= draws
    null = _all_flips(sums) if exact else _some_flips(sums, draws, whole(seed, "seed"))
    observed = float(sums.sum())
    if tail == "both":
        return rank(abs(observed), np.abs(null), enumerated=exact, alpha=alpha, unit="sign flips", least_ties=2)
    return rank(observed, null, enumerated=exact, alpha=alpha, unit="sign flips", tail=tail)


def flips(differences: Values, clusters: Clusters, seed: int) -> Floats:
    """Two-sided p of a mean difference of zero for each of many tests: whole clusters change sign together.

    Definition: (1 + flips at least as far from zero as what was seen) / (1 + flips).  As many flips are drawn as Holm over
    all tests needs to be able to find anything: 40 for each test, at least 9,999; the same for all tests.
    Shapes, units: differences [row, test]; clusters [row]; result [test].
    Range: p in (0, 1], less is more evidence of a difference.
    Mean over: rows.
    Raises: ValueError on NaN, no rows, missing labels, unequal lengths.
    Source: as `sign_flip`, which enumerates where it can and reads one test.
    When it misleads: as `sign_flip`.
    """
    table = floats(differences, "differences", ndim=2)
    codes, k = cluster_codes(clusters, len(table))
    if clusters is not None:
        codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = _cluster_sums(table, codes, k)
    draws = max(9999, 40 * table.shape[1])
    rng, seen = np.random.default_rng(seed), np.zeros(table.shape[1])
    observed, slack = np.abs(sums.sum(0)), 1e-9 * np.abs(sums).sum(0)
    for start in range(0, draws, 2000):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(min(2000, draws - start), len(sums)))
        seen += (np.abs(signs @ sums) >= observed - slack).sum(0)
    return (1 + seen) / (1 + draws)


def _outcome(low: float, high: float, alpha: float, powerless: bool) -> Outcome:
    if powerless:
        return "untestable"
    return "upheld" if high < alpha else "refuted" if low > alpha else "undecided"


def _all_flips(sums: Floats) -> Floats:
    k = len(sums)
    bits = (np.arange(2**k)[:, None] >> np.arange(k)) & 1
    return (1.0 - 2.0 * bits) @ sums


def _some_flips(sums: Floats, draws: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // len(sums))
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    return np.concatenate([(1.0 - 2.0 * rng.integers(0, 2, size=(size, len(sums)))) @ sums for size in sizes])
