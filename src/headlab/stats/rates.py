"""Rates: of independent trials, of rows that share clusters, of rows that share either of two things.

1. Independent trials have an exact interval (Clopper and Pearson's), or Wilson's.
2. Rows that share a cluster are worth fewer trials: n over the design effect 1 + r m, with m the mean number of
   neighbours of a row and r how much likelier than others a failed row's neighbour is to fail too.
3. r is never estimated from nothing: one cluster that failed as a whole is added to what was seen.
4. No rows do better for failing more: a bound is the least over the rows as they are and with any of their failures
   mended, so that no failure ever raises it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from statistics import NormalDist

import numpy as np

from ._check import Bools, Clusters, Count, Floats, Ints, Number, Values, booleans, cluster_codes, open_unit, whole
from .estimate import Estimate

DESIGNED = "Clopper-Pearson on n / design effect"


def wilson(successes: Count, n: Count, *, unit: str, level: float = 0.95) -> Estimate:
    """Wilson's score interval for a rate.

    Definition: all p with |x/n - p| <= z * sqrt(p(1-p)/n), z the two-sided normal quantile.
    Shapes, units: two counts; n counts `unit`s, each an independent trial.
    Range: [0, 1], more is more successes.
    Mean over: the n trials. n = 0 gives undefined.
    Raises: ValueError when the counts are not whole or successes > n.
    Source: Wilson, JASA 22:209 (1927); Brown, Cai & DasGupta, Stat. Sci. 16:101 (2001).
    When it misleads: repeated greedy runs or rows that share a prompt are not independent trials;
    use `clustered_rate`. Coverage is right on average over p, not for every p.
    """
    x, n, level = _counts(successes, n, level)
    if n == 0:
        return Estimate.undefined(unit, 0, "no trials", method="Wilson", level=level)
    low, high = _wilson_bounds(x, n, level)
    return Estimate(x / n, low, high, n, unit, "Wilson", level)


def clopper_pearson(successes: Count, n: Count, *, unit: str, level: float = 0.95) -> Estimate:
    """Clopper and Pearson's exact interval for a rate.

    Definition: [Beta(a/2; x, n-x+1), Beta(1-a/2; x+1, n-x)] with a = 1 - level; 0 and 1 at the ends.
    Shapes, units: two counts; n counts `unit`s, each an independent trial.
    Range: [0, 1], more is more successes.
    Mean over: the n trials. n = 0 gives undefined.
    Raises: ValueError when the counts are not whole or successes > n.
    Source: Clopper & Pearson, Biometrika 26:404 (1934).
    When it misleads: conservative (covers at least `level` for every p), so it may stay undecided
    where Wilson decides. Trials must be independent.
    """
    x, n, level = _counts(successes, n, level)
    if n == 0:
        return Estimate.undefined(unit, 0, "no trials", method="Clopper-Pearson", level=level)
    low, high = _clopper_pearson_bounds(x, n, level)
    return Estimate(x / n, low, high, n, unit, "Clopper-Pearson", level)


def clustered_rate(successes: Values, clusters: Clusters = None, *, unit: str, level: float = 0.95) -> Estimate:
    """Rate over rows whose outcomes cluster by prompt; no draws, never of zero width.

    Definition: share of True rows. Lower bound: Clopper-Pearson's at n / (1 + r m) trials with the rows' rate, where
    m = sum of k(k - 1) over clusters of k rows / n; r = max(0, (s - q) / (1 - q)); q the share of failures;
    s = (pairs of failures in one cluster + m n / K) / (failures' neighbours + m n / K), which adds one wholly failed
    cluster to the K; K trials where nothing failed. The bound is the least over all numbers of failures up to the
    given one, the most clustered kept. Upper bound: one minus that of the failures.
    Shapes, units: successes [row] booleans (or 0 and 1); clusters [row] labels or None (each row its own: exactly
    `clopper_pearson`).
    Range: [0, 1], more is more successes. Turning a success into a failure raises neither bound.
    Mean over: rows. n counts rows, the note clusters. Fewer than 2 clusters give undefined.
    Raises: ValueError on values other than 0 and 1, on missing labels, on unequal lengths.
    Source: Korn & Graubard, Survey Methodology 24:193 (1998), for effective trials; Franco et al., J. Surv. Stat.
    Methodol. 7:334 (2019), for a design effect by a model; the added cluster and the least over fewer failures are ours.
    When it misleads: rows of few clusters near 0 or 1 are wide (nothing failed in 20 clusters: [.83, 1], however many
    rows), because clusters that fail as a whole may not have been met. Clusters must be drawn alike: sizes that go
    with the rate shift it.
    """
    return _rate(booleans(successes, "successes"), (clusters,), unit, level)


def crossed_rate(successes: Values, first: Clusters, second: Clusters, *, unit: str, level: float = 0.95) -> Estimate:
    """Rate over rows that are crossed: rows of one prompt are alike, and rows of one subset of heads are, too.

    Definition: as `clustered_rate`, a row's neighbours being those that share its `first` or its `second` label; where
    nothing failed there are as many trials as the scarcer of the two has labels, and never fewer than its own
    clustering leaves.
    Shapes, units: successes [row] booleans; first, second [row] labels, both sampled. What was enumerated is no
    sample: leave it out and use `clustered_rate` by the other.
    Range: [0, 1]. Mean over: rows. Fewer than 2 labels of either give undefined.
    Raises: as `clustered_rate`.
    Source: Cameron, Gelbach & Miller, JBES 29:238 (2011), for variance by two ways.
    When it misleads: as `clustered_rate`.
    """
    return _rate(booleans(successes, "successes"), (first, second), unit, level)


def _rate(flags: Bools, ways: Sequence[Clusters], unit: str, level: float) -> Estimate:
    n, level = len(flags), open_unit(level, "level")
    codes, sizes = zip(*(cluster_codes(way, n) for way in ways), strict=True)
    if min(sizes) < 2:
        few = f"{n} rows in {min(sizes)} cluster(s): at least 2 clusters are needed"
        return Estimate.undefined(unit, n, few, method=DESIGNED, level=level)
    if sizes == (n,):
        return clopper_pearson(int(flags.sum()), n, unit=unit, level=level)
    shared = _Shared(codes, sizes)
    low, worth = shared.lower(~flags, (1 - level) / 2)
    high, also = shared.lower(flags, (1 - level) / 2)
    note = f"{' × '.join(map(str, sizes))} clusters; worth {worth:.0f} (below) and {also:.0f} (above) trials"
    value = float(flags.mean())
    return Estimate(value, min(low, value), max(1 - high, value), n, unit, DESIGNED, level, note=note)


class _Shared:
    """Who is whose neighbour: rows that share a label of any way.  ``codes`` [way][row], ``sizes`` [way] labels."""

    def __init__(self, codes: Sequence[Ints], sizes: Sequence[int]) -> None:
        self.n, self.ways = len(codes[0]), list(zip(codes, sizes, strict=True))
        self.both: list[tuple[Ints, int]] = []  # counted with each way, so once too often
        if len(codes) == 2:
            _, cells = np.unique(codes[0] * sizes[1] + codes[1], return_inverse=True)
            self.both = [(cells.astype(np.int64), int(cells.max()) + 1)]
        everyone = np.ones(self.n, bool)
        self.neighbours = self._count(everyone)
        self.mean = float(self.neighbours.sum()) / self.n
        self.scarcer = min(sizes)
        self.fewest = min(self.n**2 / float((np.bincount(c) ** 2).sum()) for c in codes)

    def _count(self, rows: Bools) -> Floats:
        """Each row's neighbours among ``rows``, itself not counted."""
        found = -rows.astype(np.float64)
        for sign, group in ((1, self.ways), (-1, self.both)):
            for code, k in group:
                found += sign * np.bincount(code[rows], minlength=k)[code]
        return found

    def lower(self, failed: Bools, tail: float) -> tuple[float, float]:
        """The lower bound of the rate of those that did not fail, and how many trials the rows as given are worth."""
        f = int(failed.sum())
        every = np.arange(f + 1, dtype=np.float64)
        pairs = float(self._count(failed)[failed].sum())
        most = np.minimum(sum(_fill(np.bincount(code[failed])) for code, _ in self.ways), pairs)
        beside = np.append(0.0, np.cumsum(np.sort(self.neighbours[failed])))
        most[f], beside[f] = pairs, float(self.neighbours[failed].sum())
        trials = self._worth(every, most, beside)
        return _lower(every, trials, self.n, tail), float(trials[f])

    def _worth(self, failures: Floats, pairs: Floats, beside: Floats) -> Floats:
        """Effective trials at numbers of failures with so many pairs among them and so many neighbours."""
        q, added = failures / self.n, self.mean * self.n / self.scarcer
        if added == 0:
            return np.full(len(failures), float(self.n))
        alike = (np.minimum(pairs, beside) + added) / (beside + added)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = np.where(q < 1, np.maximum(0.0, (alike - q) / (1 - q)), 1.0)
        worth = np.maximum(self.n / (1 + r * self.mean), self.fewest)
        return np.where(failures == 0, float(self.scarcer), worth)


def _fill(counts: Ints) -> Floats:
    """The most pairs in one cluster that any 0, 1, 2 … of the failures can make, given each cluster's: the fullest
    clusters keep theirs (every other choice is majorised by it)."""
    counts = np.sort(counts)[::-1]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.append(0.0, np.cumsum(2.0 * within))


def _lower(failures: Floats, trials: Floats, n: int, tail: float) -> float:
    """The least of Clopper and Pearson's lower bounds of 1 - failures/n at so many trials (the last is the data's)."""
    from scipy.special import betainc, betaincinv

    x = (1 - failures / n) * trials
    a, b = x, trials - x + 1
    if x[-1] <= 0:
        return 0.0
    last = float(betaincinv(a[-1], b[-1], tail))
    under = betainc(a, b, last) > tail  # those whose bound is lower still: the inverse is dear, this is not
    return min(last, float(betaincinv(a[under], b[under], tail).min(initial=1.0)))


def _counts(successes: Count, n: Count, level: float) -> tuple[int, int, float]:
    x, n = whole(successes, "successes"), whole(n, "n")
    if x > n:
        raise ValueError(f"successes must not exceed n, got {x} of {n}.")
    return x, n, open_unit(level, "level")


def _wilson_bounds(x: Number, n: Number, level: float) -> tuple[float, float]:
    """Wilson's bounds; x and n may be fractional (effective counts)."""
    x, n, z = float(x), float(n), NormalDist().inv_cdf((1 + level) / 2)
    p, shrink = x / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the bound is 0 or 1 exactly; rounding must not move it across.
    return (0.0 if x == 0 else max(0.0, centre - half)), (1.0 if x == n else min(1.0, centre + half))


def _clopper_pearson_bounds(x: Number, n: Number, level: float) -> tuple[float, float]:
    """Clopper and Pearson's bounds; x may be fractional (effective counts)."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if x <= 0 else float(betaincinv(x, n - x + 1, tail))
    high = 1.0 if x >= n else float(betaincinv(x + 1, n - x, 1 - tail))
    return low, high


def over_ends(found: Estimate, parts: Sequence[Estimate], signs: Sequence[int], top: int) -> Estimate:
    """``found`` with the interval of a signed sum, or of one such sum over another, over all ends of its parts' own intervals.

    Definition: (sum of sign * part over the first ``top`` parts) / (the same over the others; 1 where there are none), at every
    combination of the parts' ends; the least and the greatest of these.
    Shapes, units: parts, signs [part], all defined; the result in the unit of ``found``.
    Range: at least as wide as any interval of the expression that holds the parts' ends.  Mean over: nothing.
    Undefined: a denominator that is not clear of zero at those ends.
    Source: interval arithmetic (Moore 1966).  When it misleads: wide, since all parts are taken at their worst at once: for
    rates of which no resample differs, where a bootstrap has no width at all.
    """
    ends = np.array(list(product(*((e.low, e.high) for e in parts))), float) * list(signs)
    bottom = ends[:, top:].sum(1) if len(parts) > top else np.ones(len(ends))
    if bottom.min() <= 0 <= bottom.max():
        return Estimate.undefined(found.unit, found.n, "the denominator is not clear of zero at the ends of its rates")
    values = ends[:, :top].sum(1) / bottom
    note = "no resample differs: the ends are over the intervals of the rates"
    return replace(found, low=float(values.min()), high=float(values.max()), note=note)
