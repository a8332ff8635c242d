"""Estimates from several models or seeds: do they differ by more than chance, and what is their middle?

Also the chance of a whole table of yes and no.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ._check import Floats, Number, Values, booleans, floats, open_unit, same_length
from .estimate import Estimate


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """Spread of estimates over models.

    pooled: their middle, with interval. i_squared: share of their variance that is between models. tau_squared:
    the variance between models. q, freedom, p: Cochran's test that there is none (None when undefined). expected: where
    another such model would lie.
    """

    pooled: Estimate
    i_squared: Estimate
    tau_squared: Estimate
    expected: Estimate
    q: float | None
    freedom: int | None
    p: float | None


@dataclass(frozen=True, slots=True)
class PatternChance:
    """Chance of exactly this table, of any table with as many yes or more, and how many tables there are."""

    exact: Estimate
    at_least: Estimate
    tables: int


def heterogeneity(
    estimates: Sequence[Estimate], *, unit: str = "models", small_sample: bool = True, level: float = 0.95
) -> Heterogeneity:
    """Random-effects summary of one estimate per model (or seed).

    Definition: w = 1/se^2, se = (high - low) / (2 z) of each estimate; Q = sum w (x - fixed mean)^2 on k - 1 degrees of
    freedom; tau^2 = max(0, (Q - (k - 1)) / (sum w - sum w^2 / sum w)), DerSimonian and Laird; pooled = mean with
    weights 1/(se^2 + tau^2). Its interval is Hartung and Knapp's t on k - 1, never narrower than the
    plain one, as the plain normal one (small_sample=False) is too narrow for a handful of models. tau^2's interval
    inverts Q (Q-profile); I^2 = tau^2 / (tau^2 + s^2) with s^2 the typical se^2, at both ends; I^2's value is
    max(0, 1 - (k - 1)/Q). expected: pooled -+ t on k - 2 * sqrt(tau^2 + se_pooled^2), for 3 models or more.
    Shapes, units: estimates [model], of one quantity in one unit; pooled in that unit, n counts models.
    Range: I^2 in [0, 1], more is more difference between models; p in [0, 1].
    Mean over: models. Undefined estimates are left out and counted; fewer than 2 left, or one without width, give
    undefined.
    Raises: ValueError on a level outside (0, 1). Whether all are one quantity in one unit is the caller's to know.
    Source: Cochran, Biometrics 10:101 (1954); DerSimonian & Laird, Control. Clin. Trials 7:177 (1986); Hartung & Knapp,
    Stat. Med. 20:3875 (2001); Viechtbauer, Stat. Med. 26:37 (2007); Higgins & Thompson, Stat. Med. 21:1539 (2002).
    When it misleads: `expected` holds another of 10 models in 90 % (docs/coverage.md).
    Models that were picked are no sample of models, and a middle of yes and no describes none of
    them. Few models: Q has little power and I^2 hardly an upper end. Rates near 0 or 1 have lopsided intervals; their
    half-width is not a standard error.
    """
    level = open_unit(level, "level")
    kept = [e for e in estimates if e.defined]
    left = f"; {len(estimates) - len(kept)} undefined estimates left out" if len(kept) < len(estimates) else ""
    k = len(kept)
    x, errors = np.array([e.value for e in kept], dtype=np.float64), np.array([_error(e) for e in kept])
    if k < 2 or not (errors > 0).all():
        reason = (f"{k} models: at least 2 are needed" if k < 2 else "an estimate has an interval without width") + left
        nothing = Estimate.undefined(unit, k, reason, method="random effects", level=level)
        return Heterogeneity(nothing, nothing, nothing, nothing, None, None, None)
    from scipy.special import chdtrc, chdtri, stdtrit

    w, v = 1 / errors**2, errors**2
    q = _cochran(x, v, 0.0)
    spare = float(w.sum() - (w**2).sum() / w.sum())
    tau = max(0.0, (q - (k - 1)) / spare)
    star = 1 / (v + tau)
    pooled = float((star * x).sum() / star.sum())
    plain = float(star.sum()) ** -0.5
    spread = math.sqrt(float((star * (x - pooled) ** 2).sum()) / (k - 1))
    if small_sample:
        half = float(stdtrit(k - 1, (1 + level) / 2)) * plain * max(1.0, spread)
    else:
        half = NormalDist().inv_cdf((1 + level) / 2) * plain
    name = "DerSimonian-Laird" + (", Hartung-Knapp" if small_sample else "")
    made = Estimate(pooled, pooled - half, pooled + half, k, unit, name, level, note=left[2:])
    low, high = (_profile(x, v, float(chdtri(k - 1, p))) for p in ((1 - level) / 2, (1 + level) / 2))
    typical = (k - 1) / spare
    between = Estimate(tau, min(low, tau), max(high, tau), k, unit, "Q-profile", level, note=left[2:])
    share = [t / (t + typical) for t in (between.low or 0.0, tau, between.high or 0.0)]
    squared = Estimate(share[1], share[0], share[2], k, unit, "Q-profile", level, note=left[2:])
    if k < 3:
        reason = "2 models do not show where a third would lie" + left
        expected = Estimate.undefined(unit, k, reason, method="prediction", level=level)
    else:
        far = float(stdtrit(k - 2, (1 + level) / 2)) * math.sqrt(tau + plain**2)
        expected = Estimate(pooled, pooled - far, pooled + far, k, unit, "prediction", level, note=left[2:])
    return Heterogeneity(made, squared, between, expected, q, k - 1, float(chdtrc(float(k - 1), q)))


def _error(e: Estimate) -> float:
    assert e.low is not None and e.high is not None
    return (e.high - e.low) / (2 * NormalDist().inv_cdf((1 + e.level) / 2))


def _cochran(x: Floats, v: Floats, tau: float) -> float:
    w = 1 / (v + tau)
    return float((w * (x - (w * x).sum() / w.sum()) ** 2).sum())


def _profile(x: Floats, v: Floats, wanted: float) -> float:
    """The variance between models at which Q equals `wanted`; 0 when Q is under it already."""
    from scipy.optimize import brentq

    if _cochran(x, v, 0.0) <= wanted:
        return 0.0
    top = float(v.max())
    while _cochran(x, v, top) > wanted:
        top *= 4
    return float(brentq(lambda tau: _cochran(x, v, tau) - wanted, 0.0, top, xtol=1e-12))  # type: ignore[arg-type]


def chance_of_pattern(pattern: Values, p: Number | Estimate | Values, *, unit: str = "models") -> PatternChance:
    """How likely is this table of yes and no, if every model says yes by chance?

    Definition: exact = product over models of p (yes) or 1 - p (no); at_least = Pr[as many yes or more], binomial or,
    for one p per model, Poisson-binomial. For p an `Estimate`, the interval spans all p within its own.
    Shapes, units: pattern [model] booleans; p a number, an `Estimate`, or numbers [model]; probabilities.
    Range: [0, 1], less is a less likely table.
    Mean over: nothing; n counts models. No models, or an undefined p, give undefined.
    Raises: ValueError on p outside [0, 1], values other than yes and no, unequal lengths.
    Source: the multiplication rule; Wang, Stat. Sinica 3:295 (1993), for unequal p.
    When it misleads: with k models every one of the 2^k tables is unlikely, at p = 1/2 equally so: read it against
    `tables`, and only for a table that was named beforehand. Models of one family are not independent.
    """
    yes = booleans(pattern, "pattern")
    k, s = len(yes), int(yes.sum())
    if k == 0 or (isinstance(p, Estimate) and not p.defined):
        reason = "no models" if k == 0 else "p is undefined"
        nothing = Estimate.undefined(unit, k, reason, method="exact")
        return PatternChance(nothing, nothing, 2**k)
    level = 0.95
    if isinstance(p, Estimate):
        points, level = [float(e) for e in (p.value, p.low, p.high) if e is not None], p.level
        peak = [s / k] if points[1] < s / k < points[2] else []  # where this very table is likeliest
        columns = [np.full(k, t) for t in (*points, *peak)]
    else:
        each = np.broadcast_to(floats([p], "p"), (k,)) if np.ndim(p) == 0 else floats(p, "p")  # type: ignore[arg-type]
        same_length(pattern=yes, p=each)
        columns = [each]
    if any((c < 0).any() or (c > 1).any() for c in columns):
        raise ValueError(f"p must lie in [0, 1], got {p!r}.")

    def made(f: Callable[[Floats], float], method: str) -> Estimate:
        found = [f(c) for c in columns]
        return Estimate(found[0], min(found), max(found), k, unit, method, level)

    return PatternChance(
        made(lambda c: float(np.where(yes, c, 1 - c).prod()), "exact"),
        made(lambda c: float(min(1.0, _counts(c)[s:].sum())), "exact, upper tail"),
        2**k,
    )


def _counts(p: Floats) -> Floats:
    """Chance of 0, 1, ... yes among independent models."""
    found = np.ones(1)
    for one in p:
        found = np.convolve(found, [1 - one, one])
    return found
