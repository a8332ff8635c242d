"""A rising curve of successes against dose: where it rises, and over how wide a range of doses.

1. Rows are counted by cluster and dose, so that a bootstrap draw is one product of weights and counts.
2. A logistic curve is fitted to all draws at once, by Newton steps that are halved while they do not help.
3. Where the outcomes do not overlap (all failures below all successes) no slope is steep enough for
   maximum likelihood. The width is then 0, the bound, and its upper end comes from the likelihood ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ._check import (
    Bools,
    Clusters,
    Floats,
    Ints,
    Values,
    booleans,
    cluster_codes,
    floats,
    open_unit,
    same_length,
    whole,
)
from .estimate import Estimate
from .intervals import DRAWS, _bootstrap_name, _cluster_note, _too_few, _weights

WIDTH = 2 * math.log(9)
"""Distance from the 10 % to the 90 % point of a logistic curve of scale 1."""

STEPS = 200
"""Newton needs about ten; halved steps of nearly separated draws need more."""


@dataclass(frozen=True, slots=True)
class Psychometric:
    """A fitted curve: the dose of 50 % success, the 10-90 % width, whether the outcomes were separated (then
    the width is at its bound of 0), and the largest distance between fitted and observed shares."""

    location: Estimate
    width: Estimate
    separated: bool
    misfit: float | None

    def share(self, doses: Values) -> Floats:
        """The fitted share of successes at `doses` [dose]; NaN where the curve is undefined."""
        x = floats(doses, "doses")
        if self.location.value is None or self.width.value is None:
            return np.full(len(x), np.nan)
        return _share(x, self.location.value, self.width.value)


def psychometric(
    doses: Values,
    successes: Values,
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Psychometric:
    """Logistic curve of success against dose: location, width, and their intervals over clusters.

    Definition: Pr[success at d] = 1 / (1 + exp(-(d - location) / s)), width = 2 ln 9 * s, the distance between
    10 % and 90 % success; maximum likelihood over rows. Intervals over resampled clusters: percentiles for the location,
    exp(log width -+ t on K - 1 * standard deviation of log width) for the width.
    Separated outcomes (no failure above a success): width 0, its upper end the widest w with K ln tanh(ln 9 * g /
    (2 w)) >= -q/2, q the chi-square quantile: K clusters that all flip within one gap g. The location is then
    the middle of the gap where maximum likelihood leaves it free, and its interval is the gap.
    Shapes, units: doses, successes [row]; clusters [row] labels (the pair) or None; both in the unit of the dose.
    Range: location unbounded, width >= 0; less width is a sharper rise.
    Mean over: rows. n counts rows, the note counts clusters. Undefined: fewer than 2 clusters, only one outcome,
    success that does not rise with dose, or more than (1 - level)/2 of the draws like that (fewer are left out
    and counted in the note).
    Raises: ValueError on NaN, values other than 0 and 1, unequal lengths, missing labels.
    Source: McCullagh & Nelder (1989), ch. 4; Wichmann & Hill, Percept. Psychophys. 63:1314 (2001), for the
    bootstrap; Albert & Anderson, Biometrika 71:1 (1984), for separation; the bound for K clusters is ours.
    When it misleads: the curve ends at 0 and 1; if some pairs are never repaired at any dose, the width takes that up
    (look at `misfit`). A steep curve of many pairs says nothing about one pair: compare `against_linear`. A grid
    cannot resolve widths below its gap. The width's interval is a little too narrow:
    asked for .95 it covered .92 to .94 with 30 to 200 clusters.
    """
    d, y = floats(doses, "doses"), booleans(successes, "successes")
    n, method = same_length(doses=d, successes=y), "logistic, " + _bootstrap_name(clusters)
    seed, draws, level = whole(seed, "seed"), whole(draws, "draws", 100), open_unit(level, "level")
    codes, k = cluster_codes(clusters, n)
    if k < 2:
        return _nothing(unit, n, _too_few(n, k), method, level)
    grid, trials, wins = _counts(d, y, codes, k)
    at, wide = _fits(wins.sum(0, keepdims=True), trials.sum(0, keepdims=True), grid)
    if np.isnan(at[0]):
        return _nothing(unit, n, _why(y), method, level)
    location, width = float(at[0]), float(wide[0])
    misfit = float(np.abs(wins.sum(0) / trials.sum(0) - _share(grid, location, width)).max())
    if width == 0.0:
        return _separated(wins, trials, grid, location, misfit, unit=unit, n=n, level=level)
    fits = [_fits(w @ wins, w @ trials, grid) for w in _weights(k, draws, seed)]
    ats, wides = (np.concatenate(part) for part in zip(*fits, strict=True))
    lost = int(np.isnan(ats).sum())
    if lost > draws * (1 - level) / 2:
        reason = f"in {lost} of {draws} resamples success does not rise with the dose: no bounded interval"
        return _nothing(unit, n, reason, method, level)
    flat, inside = int((wides == 0).sum()), bool(grid[0] <= location <= grid[-1])
    note = _note(k, lost, flat, inside)
    low, high = np.nanquantile(ats, [(1 - level) / 2, (1 + level) / 2])
    factor = _factor(wides, k, level)
    least = 0.0 if flat > draws * (1 - level) / 2 else width / factor
    place = Estimate(location, min(low, location), max(high, location), n, unit, method, level, seed, note)
    scale = Estimate(width, least, width * factor, n, unit, method + " (log)", level, seed, note)
    return Psychometric(place, scale, False, misfit)


def _factor(wides: Floats, k: int, level: float) -> float:
    """By how much a width may differ: t on the log, since a percentile interval of a scale that is estimated too small is
    too low as well."""
    from scipy.special import stdtrit

    reach = float(stdtrit(k - 1, (1 + level) / 2)) * float(np.log(wides[wides > 0]).std())
    return math.exp(min(reach, 600.0))


def _note(k: int, lost: int, flat: int, inside: bool) -> str:
    note = _cluster_note(k, False) + (f"; {lost} resamples without a rise left out" if lost else "")
    note += "" if inside else "; extrapolated, the location lies outside the doses tried"
    return note + (f"; {flat} resamples are separated (width 0)" if flat else "")


def _counts(d: Floats, y: Bools, codes: Ints, k: int) -> tuple[Floats, Floats, Floats]:
    """The doses, and how often each was tried and succeeded in each cluster, [cluster, dose]."""
    grid, place = np.unique(d, return_inverse=True)
    trials, wins = np.zeros((k, len(grid))), np.zeros((k, len(grid)))
    np.add.at(trials, (codes, place), 1.0)
    np.add.at(wins, (codes, place), y.astype(np.float64))
    return grid, trials, wins


def _nothing(unit: str, n: int, reason: str, method: str, level: float) -> Psychometric:
    nothing = Estimate.undefined(unit, n, reason, method=method, level=level)
    return Psychometric(nothing, nothing, False, None)


def _why(y: Bools) -> str:
    if y.all() or not y.any():
        return f"every row {'succeeds' if y.all() else 'fails'}: the curve lies outside the doses tried"
    return "success does not rise with the dose, or only at the outermost dose"


def _share(x: Floats, location: float, width: float) -> Floats:
    if width == 0.0:
        return 0.5 * (1 + np.sign(x - location))
    return 0.5 * (1 + np.tanh((x - location) * WIDTH / (2 * width)))


def _fits(wins: Floats, trials: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """Location and width per draw of wins, trials [draw, dose]; NaN without a rise, width 0 when separated."""
    location, width = np.full(len(wins), np.nan), np.full(len(wins), np.nan)
    tried, won, lost = trials > 0, wins > 0, trials - wins > 0
    last = len(grid) - 1
    first_win, first_loss, first = (x.argmax(1) for x in (won, lost, tried))
    last_win, last_loss, end = (last - x[:, ::-1].argmax(1) for x in (won, lost, tried))
    mixed = won.any(1) & lost.any(1)
    rising, falling = mixed & (first_win >= last_loss), mixed & (first_loss >= last_win)
    # One mixed dose at the end of the range could be the foot or the head of anything.
    clear = rising & ((first_win > last_loss) | ((first_win > first) & (first_win < end)))
    location[clear] = (grid[first_win[clear]] + grid[last_loss[clear]]) / 2
    width[clear] = 0.0
    rest = np.flatnonzero(mixed & ~rising & ~falling)
    if len(rest):
        centre, scale = grid.mean(), float(np.ptp(grid))
        a, b = _newton(wins[rest], trials[rest], (grid - centre) / scale)
        up = b > 1e-8
        location[rest[up]] = centre - scale * a[up] / b[up]
        width[rest[up]] = WIDTH * scale / b[up]
    return location, width


def _newton(wins: Floats, trials: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Intercept and slope of a logistic regression per draw, all draws together."""
    beta, pace = np.zeros((len(wins), 2)), np.ones(len(wins))
    likelihood = _likelihood(beta, wins, trials, x)
    for _ in range(STEPS):
        p = 0.5 * (1 + np.tanh((beta[:, :1] + beta[:, 1:] * x) / 2))
        gap, weight = wins - trials * p, trials * p * (1 - p)
        g0, g1 = gap.sum(1), gap @ x
        h00, h01, h11 = weight.sum(1), weight @ x, weight @ (x * x)
        det = np.maximum(h00 * h11 - h01 * h01, 1e-300)
        step = np.column_stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0]) / det[:, None]
        if (np.abs(step) <= 1e-9 * (1 + np.abs(beta))).all():
            break
        tried = beta + pace[:, None] * np.clip(step, -1e3, 1e3)
        reached = _likelihood(tried, wins, trials, x)
        better = reached >= likelihood - 1e-12 * np.abs(likelihood)
        beta[better], likelihood[better] = tried[better], reached[better]
        pace = np.where(better, np.minimum(1.0, 2 * pace), pace / 2)
    return beta[:, 0], beta[:, 1]


def _likelihood(beta: Floats, wins: Floats, trials: Floats, x: Floats) -> Floats:
    eta = beta[:, :1] + beta[:, 1:] * x
    return (wins * eta - trials * np.logaddexp(0.0, eta)).sum(1)


def _separated(
    wins: Floats, trials: Floats, grid: Floats, location: float, misfit: float, *, unit: str, n: int, level: float
) -> Psychometric:
    """All rise happens in one gap: the location is the gap, the width between 0 and what K clusters allow."""
    from scipy.special import chdtri

    method = "logistic, separated"
    won, lost = wins.sum(0) > 0, (trials - wins).sum(0) > 0
    a, b = grid[~won & (grid <= location)].max(), grid[~lost & (grid >= location)].min()
    tried = trials > 0
    below = np.where(tried & (grid <= a), grid, -np.inf).max(1)
    above = np.where(tried & (grid >= b), grid, np.inf).min(1)
    both = np.isfinite(below) & np.isfinite(above)
    k = int(both.sum())
    note = f"complete separation: every success lies above every failure, the rise is within ({a:g}, {b:g})"
    if k == 0:
        width = Estimate.undefined(unit, n, note + "; no cluster was tried on both sides", method=method, level=level)
    else:
        gap = float((above - below)[both].max())
        held = math.exp(-float(chdtri(1.0, 1 - level)) / (2 * k))  # share of thresholds that the gap must hold
        widest = WIDTH * gap / (4 * math.atanh(held))
        told = f"{note}; the width is at its bound 0, its upper end by likelihood ratio over {k} clusters"
        width = Estimate(0.0, 0.0, widest, n, unit, method, level, note=told)
    return Psychometric(Estimate(location, a, b, n, unit, method, level, note=note), width, True, misfit)
