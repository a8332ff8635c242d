"""Trials whose numbers are drawn, so that the truth is known; the statistics and the rule are those of every trial.

1. Of each prediction the truth is set: at its threshold, or ``times`` as far: a rate has the odds of its threshold times
   ``times²`` (1.25: .61 for .5, .967 for .95); a difference of rates is ``times`` its threshold (1.25: .1 for 0); means and
   ratios lie ``times − 1`` standard deviations of a row beyond theirs; a named set lies so many times as far above the mean
   of the drawn ones as the quantile that the prediction asks for (1.25: 2.06 standard deviations for p < .05).
2. Rows are drawn around it: rows of one cluster correlate by :data:`ALIKE`; sets differ among each other by one standard
   deviation, and a row's effect of each set by :data:`NOISE` beside it.
3. ``clustered_rate``, ``bootstrap_mean``, ``bootstrap_ratio``, ``paired_difference``, ``rate_over_sets``,
   ``rank_at`` (look by look, where the trial walks) make findings of them, ``decide`` a verdict.

*False*: each prediction in turn is not so, and all others clearly are (three times): the trials in which a false claim has
the best chance.  A value lies at its threshold, a named set is one of the drawn ones.  *Just so*: every truth lies at its
threshold.  *Power*: all lie beyond.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from headlab.claims import Outcome, Prediction, Ruled, decide
from headlab.experiments.calibration.shapes import Asked, Shape
from headlab.stats import (
    Estimate,
    Rank,
    bootstrap_mean,
    bootstrap_ratio,
    clopper_pearson,
    clustered_rate,
    paired_difference,
    rank,
)
from headlab.stats.crossed import rate_over_sets
from headlab.stats.of_means import OfMeans, bootstrap_of_means
from headlab.stats.sequential import fixed, looks, rank_at, walk

TIMES = (1.25, 1.5, 2.0)
"""By how many times the threshold effects lie beyond it in trials of power."""
CLEAR = 3.0
ALIKE = 0.3
"""Correlation of rows in one cluster (decimals: .1 to .5 among pairs with the same fractions)."""
NOISE = 2.0
SUBSETS = 50
SEED = 0
"""Of resamples: that of claims as they ship."""
ACCURACY, GAP = 0.8, 4.0

Truth = Literal["false", "just so"]
Rng = np.random.Generator


def trial(shape: Shape, truth: Truth | float, seed: int, n: int) -> Outcome:
    """The outcome of the ``n``-th trial of a rule: false, just so, or true by so many times."""
    rng = np.random.default_rng([seed, n, 0 if truth == "false" else 1 if truth == "just so" else round(100 * truth)])
    clusters = np.arange(shape.rows) * shape.clusters // shape.rows if shape.clusters else None
    wrong = n % len(shape.asked)
    predictions, found = [], {}
    for i, one in enumerate(shape.asked):
        times: float | None = CLEAR if truth == "false" else 1.0 if truth == "just so" else float(truth)
        if truth == "false" and i == wrong:
            times = None if one.op == "rank<" else 1.0
        predictions.append(Prediction(statistic=str(i), op=one.op, threshold=one.threshold))  # type: ignore[arg-type]
        found[str(i)] = _finding(one, times, shape, clusters, rng)
    return decide(Ruled(predictions=tuple(predictions)), found, []).outcome


def _finding(a: Asked, times: float | None, shape: Shape, clusters: Any, rng: Rng) -> Estimate | Rank:
    if a.op == "rank<":
        quantile = NormalDist().inv_cdf(1 - a.threshold)
        own = float(rng.standard_normal()) if times is None else quantile * times
        return _shuffles(a, own, shape, rng) if a.kind == "shuffles" else _rank(a, own, shape, clusters, rng)
    assert times is not None
    told: dict[str, Any] = {"unit": "rows"}
    at = beyond(a, times)
    if a.kind == "count":
        return clopper_pearson(int(rng.binomial(shape.rows, at)), shape.rows, unit="rows")
    if a.kind == "rate":
        return clustered_rate(_uniform(shape, clusters, rng) < at, clusters, **told)
    if a.kind == "subsets":
        rows, sets = (np.sqrt(ALIKE) * rng.standard_normal(k) for k in (shape.rows, SUBSETS))
        noise = np.sqrt(1 - 2 * ALIKE) * rng.standard_normal((SUBSETS, shape.rows))
        hits = rows + sets[:, None] + noise < NormalDist().inv_cdf(at)
        return rate_over_sets(hits, np.arange(shape.rows), all_subsets=False)
    if a.kind == "difference":
        before, broken = (_uniform(shape, clusters, rng) for _ in range(2))
        right = before < ACCURACY
        lost, gained = max(at, 0.0) / ACCURACY, max(-at, 0.0) / (1 - ACCURACY)
        after = np.where(right, broken >= lost, broken < gained)
        return paired_difference(right, after, clusters, seed=SEED, **told)
    if a.kind == "mean":
        return bootstrap_mean(at + _normal(shape, clusters, rng), clusters, seed=SEED, **told)
    gap = GAP + rng.standard_normal(shape.rows)
    return bootstrap_ratio(at * gap + GAP * _normal(shape, clusters, rng), gap, clusters, seed=SEED, **told)


def beyond(a: Asked, times: float) -> float:
    """The truth that lies ``times`` as far as the threshold of a prediction that is no rank."""
    t = a.threshold
    if a.kind in {"mean", "ratio"}:
        return times - 1
    if a.kind == "difference":
        far = (times - 1) * (abs(t) or ACCURACY / 2)
        return t + far if a.op == ">" else t - far
    odds = t / (1 - t) * times ** (2 if a.op == ">" else -2)
    return odds / (1 + odds)


def _normal(shape: Shape, clusters: Any, rng: Rng) -> Any:
    """[row] standard normal, rows of one cluster correlated."""
    own = rng.standard_normal(shape.rows)
    if clusters is None:
        return own
    return np.sqrt(ALIKE) * rng.standard_normal(shape.clusters)[clusters] + np.sqrt(1 - ALIKE) * own


def _uniform(shape: Shape, clusters: Any, rng: Rng) -> Any:
    from scipy.special import ndtr

    return ndtr(_normal(shape, clusters, rng))


def _rank(a: Asked, own: float, shape: Shape, clusters: Any, rng: Rng) -> Estimate | Rank:
    plan = looks(shape.sets) if a.kind == "walk" else fixed(shape.sets)
    shared = NOISE * _normal(shape, clusters, rng)[:, None]  # what all sets share moves no place
    found: list[OfMeans] = []

    def place(_: str, look: int) -> tuple[Rank, bool]:
        done = plan.at[look - 1] if look else 0
        sets = np.concatenate([[own] * (not look), rng.standard_normal(plan.at[look] - done)])
        rows = sets + NOISE * rng.standard_normal((shape.rows, len(sets))) + shared
        # of one seed all columns are resampled alike, whenever they come
        found.append(bootstrap_of_means(rows, lambda means: means, clusters, unit="rows", seed=SEED))
        value, draws = np.concatenate([f.value for f in found]), np.concatenate([f.draws for f in found], 1)
        return rank_at(
            replace(found[0], value=value, draws=draws), plan, look, alpha=a.threshold, tests=len(shape.asked)
        )

    return walk(plan, ["rank"], place)[0]["rank"]


def _shuffles(a: Asked, own: float, shape: Shape, rng: Rng) -> Rank:
    return rank(own, rng.standard_normal(shape.sets), enumerated=False, alpha=a.threshold)


def trials(shape: Shape, truth: Truth | float, seed: int, start: int, n: int) -> list[Outcome]:
    """The outcomes of ``n`` trials from the ``start``-th on."""
    return [trial(shape, truth, seed, start + i) for i in range(n)]
