"""The dose at which each pair flips, on a grid or by bisection, and its quantiles over pairs.

1. `crossing` reads the dose off a grid of margins, by interpolation between the doses that bracket it.
2. `Bisection` narrows the bracket: it says which doses to try next for which pairs, and takes the answers.
3. `crossing_quantile` sums the pairs up; those that cross outside the doses keep their place in the order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ._check import Bools, Clusters, Floats, Ints, Number, Values, cluster_codes, floats, open_unit, same_length, whole
from .estimate import Estimate
from .intervals import DRAWS, _bootstrap_name, _cluster_note, _too_few, _weights

TOLERANCE = 0.01
"""The width of bracket that the docket's dose experiments ask for."""


@dataclass(frozen=True, slots=True, eq=False)
class Crossings:
    """Where each pair's margin rises through zero.

    at [pair]: the dose, NaN where it was not seen. below [pair]: above zero already at the lowest dose. above [pair]:
    never above zero. again [pair]: the margin falls back at a higher dose. slope [pair]: margin per dose within the
    bracket, NaN where there is none. low, high [pair]: the bracket.
    """

    at: Floats
    below: Bools
    above: Bools
    again: Bools
    slope: Floats
    low: Floats
    high: Floats

    @property
    def seen(self) -> Bools:
        """Which pairs cross within the doses tried."""
        return ~(self.below | self.above)


def crossing(doses: Values, margins: Values) -> Crossings:
    """The dose at which each pair's margin first crosses zero.

    Definition: the first neighbouring doses d < e with m(d) <= 0 < m(e); at = d + (e - d) * -m(d) / (m(e) - m(d)).
    Shapes, units: doses [dose], rising; margins [pair, dose]; at [pair] in the unit of the dose.
    Range: between the lowest and the highest dose; a pair that does not cross there is marked `below` or `above`, NaN.
    Mean over: nothing, one number per pair.
    Raises: ValueError on NaN, on doses that do not rise, on fewer than 2 doses, on unequal lengths.
    Source: linear interpolation; censoring as in survival analysis (Kalbfleisch & Prentice 2002, section 1.3).
    When it misleads: between two doses a margin may cross three times; `again` shows only what the grid shows. A mean
    over the pairs that cross leaves out the others: report how many.
    """
    d, m = floats(doses, "doses"), floats(margins, "margins", ndim=2)
    same_length(doses=d, margins=m.T)
    if len(d) < 2 or not (np.diff(d) > 0).all():
        raise ValueError(f"doses must rise and be at least 2, got {d.tolist()[:8]}. Sort them and drop repeats.")
    up = m > 0
    step = ~up[:, :-1] & up[:, 1:]
    below, above = up[:, 0].copy(), ~np.any(up, axis=1, keepdims=True)[:, 0]
    again = np.any(up[:, :-1] & ~up[:, 1:], axis=1, keepdims=True)[:, 0]
    pair, j = np.arange(len(m)), step.argmax(1)
    return _read(m[pair, j], m[pair, j + 1], d[j], d[j + 1], below, above, again)


def _read(m0: Floats, m1: Floats, d0: Floats, d1: Floats, below: Bools, above: Bools, again: Bools) -> Crossings:
    seen = ~(below | above)
    rise, gap = np.where(seen, m1 - m0, 1.0), d1 - d0
    at = np.where(seen, d0 - gap * m0 / rise, np.nan)
    slope = np.where(seen & (gap > 0), rise / np.where(gap > 0, gap, 1.0), np.nan)
    return Crossings(
        np.clip(at, d0, d1), below, above, again, slope, np.where(seen, d0, np.nan), np.where(seen, d1, np.nan)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Bisection:
    """A search for each pair's crossing in which many pairs share a step.

    low, high [pair]: brackets so far; at_low, at_high [pair]: margins there, NaN until told. tol: the width at which a
    pair is finished. points: doses per pair and step (1 halves a bracket, 3 quarters it).
    """

    low: Floats
    high: Floats
    at_low: Floats
    at_high: Floats
    tol: float = TOLERANCE
    points: int = 1

    @classmethod
    def start(cls, low: Values, high: Values, *, tol: Number = TOLERANCE, points: int = 1) -> Bisection:
        """Brackets low, high [pair] whose margins are not known yet."""
        a, b = floats(low, "low"), floats(high, "high")
        same_length(low=a, high=b)
        if not (a < b).all():
            raise ValueError("low must be below high for every pair.")
        if not (math.isfinite(tol) and tol > 0):
            raise ValueError(f"tol must be a finite number above 0, got {tol!r}.")
        unknown = np.full(len(a), np.nan)
        return cls(a, b, unknown, unknown.copy(), float(tol), whole(points, "points", 1))

    def ask(self) -> tuple[Ints, Floats]:
        """The next runs: pair [run] and dose [run]. Empty when all pairs are finished."""
        everyone = np.arange(len(self.low), dtype=np.int64)
        first, second = everyone[np.isnan(self.at_low)], everyone[np.isnan(self.at_high)]
        if len(first) or len(second):
            return np.concatenate([first, second]), np.concatenate([self.low[first], self.high[second]])
        pairs = everyone[(self.at_low <= 0) & (self.at_high > 0) & (self.high - self.low > self.tol * (1 + 1e-9))]
        parts = np.arange(1, self.points + 1) / (self.points + 1)
        doses = self.low[pairs, None] + (self.high - self.low)[pairs, None] * parts
        return np.repeat(pairs, self.points), doses.ravel()

    def tell(self, margins: Values) -> Bisection:
        """The search after the runs of `ask` gave `margins` [run], in the same order."""
        pairs, doses = self.ask()
        found = floats(margins, "margins")
        if len(found) != len(pairs):
            raise ValueError(f"one margin per run expected: got {len(found)} for {len(pairs)} runs of ask().")
        low, high, at_low, at_high = (x.copy() for x in (self.low, self.high, self.at_low, self.at_high))
        open_low, open_high = np.isnan(at_low), np.isnan(at_high)
        if open_low.any() or open_high.any():
            at_low[open_low], at_high[open_high] = np.split(found, [int(open_low.sum())])
            return replace(self, at_low=at_low, at_high=at_high)
        chosen = pairs[:: self.points]
        d = np.column_stack([low[chosen], doses.reshape(-1, self.points), high[chosen]])
        m = np.column_stack([at_low[chosen], found.reshape(-1, self.points), at_high[chosen]])
        j, row = ((m[:, :-1] <= 0) & (m[:, 1:] > 0)).argmax(1), np.arange(len(chosen))
        low[chosen], high[chosen], at_low[chosen], at_high[chosen] = d[row, j], d[row, j + 1], m[row, j], m[row, j + 1]
        return replace(self, low=low, high=high, at_low=at_low, at_high=at_high)

    @property
    def done(self) -> bool:
        """Whether no run is left to ask for."""
        return not len(self.ask()[0])

    def crossings(self) -> Crossings:
        """What the search found so far; `again` is never set, as only the bracket was looked at."""
        if np.isnan(self.at_low).any() or np.isnan(self.at_high).any():
            raise ValueError("the ends of the brackets were not run yet: ask() and tell() first.")
        below = self.at_low > 0
        above = ~below & (self.at_high <= 0)
        return _read(self.at_low, self.at_high, self.low, self.high, below, above, np.zeros(len(below), np.bool_))


def crossing_quantile(
    found: Crossings,
    share: Number,
    clusters: Clusters = None,
    *,
    unit: str = "pairs",
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Estimate:
    """The dose by which a share of all pairs has crossed, those that cross outside the doses included.

    Definition: smallest at with (pairs crossed by then) >= share * (all pairs); `below` counts as -inf, `above` as inf.
    Shapes, units: found for [pair]; share between 0 and 1 (.5 for the median); in the unit of the dose.
    Range: that of the doses.
    Mean over: pairs; percentile interval over resampled clusters. Undefined: fewer than 2 clusters, or a value or an
    end of the interval that falls among pairs that cross outside the doses.
    Raises: ValueError on a share outside (0, 1), unequal lengths, missing labels.
    Source: Efron & Tibshirani (1993), ch. 13.
    When it misleads: with few pairs a quantile jumps from one pair to the next and its interval is coarse.
    """
    share, level = open_unit(share, "share"), open_unit(level, "level")
    draws, seed = whole(draws, "draws", 100), whole(seed, "seed")
    values = np.where(found.below, -np.inf, np.where(found.above, np.inf, found.at))
    n = len(values)
    codes, k = cluster_codes(clusters, n)
    method = _bootstrap_name(clusters) + f" of the {100 * share:g} % point"
    if k < 2:
        return Estimate.undefined(unit, n, _too_few(n, k), method=method, level=level)
    order = np.argsort(values)
    weights = np.concatenate([np.ones((1, k)), *_weights(k, draws, seed)])[:, codes[order]]
    total = weights.cumsum(1)
    places = (total >= share * total[:, -1:] - 1e-9).argmax(1)
    points = np.sort(values[order][places[1:]])
    value = float(values[order][places[0]])
    low = float(points[int((1 - level) / 2 * draws)])
    high = float(points[min(draws - 1, int((1 + level) / 2 * draws))])
    if not np.isfinite([value, low, high]).all():
        reason = f"{int(found.below.sum())} pairs cross below and {int(found.above.sum())} above the doses tried"
        return Estimate.undefined(unit, n, reason, method=method, level=level)
    note = _cluster_note(k, low == high)
    return Estimate(value, min(low, value), max(high, value), n, unit, method, level, seed, note)
