"""Hartigan's dip: how far a sample is from every distribution with a single mode.

The empirical distribution function is a staircase. The closest unimodal one is convex up to a modal interval and
concave after it: the greatest convex minorant of the lower corners and the least concave majorant of the upper
corners are pulled together until a further narrowing of the interval would not help.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._check import Floats, Ints, Values, floats, whole
from .permutation import Rank, rank

LEAST = 4
"""Fewer values have the smallest possible dip, 1/(2n), or nearly, wherever they lie."""


@dataclass(frozen=True, slots=True)
class Dip:
    """The dip, the modal interval of the closest unimodal distribution, and p among uniform samples; all None
    where `note` says why."""

    dip: float | None
    modal: tuple[float, float] | None
    test: Rank | None
    n: int
    seed: int
    note: str = ""


def dip(values: Values, *, seed: int, draws: int = 2000, alpha: float = 0.05) -> Dip:
    """Is there more than one mode? Hartigan's dip, with p by simulation from the uniform.

    Definition: D = min over unimodal distribution functions G of max |F - G|, F the empirical one. p = share of
    `draws` uniform samples of the same size with a dip at least as large, as in `rank` (sampled).
    Shapes, units: values [row], each an independent unit; D is a difference of probabilities.
    Range: D in [1/(2n), 1/4], more is further from one mode; p in (0, 1], less is more evidence of several.
    Mean over: nothing; n counts values. Undefined: fewer than 4 values, or all values equal.
    Raises: ValueError on NaN, fewer than 100 draws.
    Source: Hartigan & Hartigan, Ann. Stat. 13:70 (1985); Hartigan, Appl. Stat. 34:320 (1985), AS 217.
    When it misleads: the uniform is the hardest unimodal case, so for peaked samples the test finds too little. Ties
    (doses rounded to a grid) look like modes: bisect first. Censored pairs pile up at the ends: leave them
    out and say so. Pairs that share a fraction are not independent.
    """
    x = np.sort(floats(values, "values"))
    n, seed, draws = len(x), whole(seed, "seed"), whole(draws, "draws", 100)
    if n < LEAST:
        return Dip(None, None, None, n, seed, f"{n} values: at least {LEAST} are needed")
    if x[0] == x[-1]:
        return Dip(None, None, None, n, seed, "all values are equal")
    value, modal = _dip(x)
    rng = np.random.default_rng(seed)
    null = [_dip(sample)[0] for sample in np.sort(rng.random((draws, n)), axis=1)]
    return Dip(
        value, modal, rank(value, null, enumerated=False, alpha=alpha, unit="uniform samples"), n, seed, _ties(x)
    )


def _ties(x: Floats) -> str:
    repeats = len(x) - len(np.unique(x))
    return f"{repeats} values repeat another one: ties look like modes" if repeats else ""


def _dip(x: Floats) -> tuple[float, tuple[float, float]]:
    """The dip of sorted values, and the modal interval."""
    spots, counts = np.unique(x, return_counts=True)
    upper = counts.cumsum().astype(np.float64)
    lower = upper - counts
    n, top = float(len(x)), len(spots) - 1
    # Chains of hull vertices: from any vertex, the next one outwards.
    before = _chain(spots, lower)
    after = top - _chain(spots[top] - spots[::-1], n - upper[::-1])[::-1]
    start, end, found = 0, top, 1.0
    while True:
        convex, concave = _follow(before, end, start)[::-1], _follow(after, start, end)
        corners = np.union1d(convex, concave)
        at = spots[corners]
        bottom = np.interp(at, spots[convex], lower[convex])
        head = np.interp(at, spots[concave], upper[concave])
        gap = head - bottom
        widest = float(gap.max())
        if widest <= found:
            break
        # The modal interval shrinks to the segment around the widest gap.
        worst = int(gap.argmax())
        place = int(corners[worst])
        if place in convex:
            left, right = place, int(concave[min(np.searchsorted(concave, place), len(concave) - 1)])
        else:
            left, right = int(convex[max(np.searchsorted(convex, place, side="right") - 1, 0)]), place
        inner = np.arange(start, left + 1)
        outer = np.arange(right, end + 1)
        rise = float((upper[inner] - np.interp(spots[inner], spots[convex], lower[convex]))[:-1].max(initial=0.0))
        fall = float((np.interp(spots[outer], spots[concave], upper[concave]) - lower[outer])[1:].max(initial=0.0))
        found = max(found, rise, fall)
        if (left, right) == (start, end):
            break
        start, end = left, right
    return found / (2 * n), (float(spots[start]), float(spots[end]))


def _chain(x: Floats, y: Floats) -> Ints:
    """For each point, its left neighbour on the lower hull of the points up to it."""
    xs, ys, back = x.tolist(), y.tolist(), [0] * len(x)
    for j in range(1, len(xs)):
        i = j - 1
        while i > 0:
            h = back[i]
            if (ys[j] - ys[i]) * (xs[i] - xs[h]) > (ys[i] - ys[h]) * (xs[j] - xs[i]):
                break
            i = h
        back[j] = i
    return np.array(back, dtype=np.int64)


def _follow(chain: Ints, start: int, end: int) -> Ints:
    path = [start]
    while path[-1] != end:
        path.append(int(chain[path[-1]]))
    return np.array(path, dtype=np.int64)
