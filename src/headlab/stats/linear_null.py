"""What a dose curve looks like when nothing has a threshold, and how the observed crossings differ from it.

If every pair's margin moves in proportion to the dose, the share of repaired pairs still rises in an S: pairs
start at different margins. A steep curve alone is therefore no sign of a threshold in the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._check import Clusters, Floats, Values, cluster_codes, floats, open_unit, same_length, whole
from .dose import Crossings, crossing
from .estimate import Estimate
from .intervals import (
    DRAWS,
    _bootstrap_name,
    _cluster_note,
    _cluster_sums,
    _percentile,
    _too_few,
    _weights,
    bootstrap_paired_difference,
)
from .psychometric import Psychometric, psychometric
from .rates import clustered_rate


@dataclass(frozen=True, slots=True, eq=False)
class LinearNull:
    """The curve of linear margins: doses [dose], share of pairs above zero at each, its logistic fit, and each pair's
    own crossing dose."""

    doses: Floats
    curve: tuple[Estimate, ...]
    fit: Psychometric
    crossings: Crossings


@dataclass(frozen=True, slots=True)
class AgainstLinear:
    """Observed against linear crossings, pair by pair.

    earlier: mean dose difference observed - linear, below zero when pairs flip at less dose. spread: ratio of the
    standard deviations of the crossing doses over pairs, below 1 when pairs agree more than linear ones. steepness:
    geometric mean of the slope at the crossing over the linear slope, above 1 when a pair's own margin jumps.
    """

    earlier: Estimate
    spread: Estimate
    steepness: Estimate
    pairs: int
    left_out: int


def linear_margin_null(
    clean: Values,
    corrupted: Values,
    doses: Values,
    clusters: Clusters = None,
    *,
    unit: str = "pairs",
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> LinearNull:
    """The success curve if every pair's margin moved linearly from corrupted to clean.

    Definition: m(d) = corrupted + d * (clean - corrupted); success is m(d) > 0; curve = share of pairs by dose,
    each with the interval of `clustered_rate`; fit = `psychometric` of those rows; crossings = -corrupted / (clean -
    corrupted) where corrupted <= 0 < clean.
    Shapes, units: clean, corrupted [pair] margins at dose 1 and 0; doses [dose] within [0, 1]; clusters [pair] or None.
    Range: shares in [0, 1]; location and width in the unit of the dose.
    Mean over: pairs. Fewer than 2 clusters give undefined.
    Raises: ValueError on NaN, doses outside [0, 1] or not rising, unequal lengths, missing labels.
    Source: the linear interpolation of activations carried over to the margin; the null is ours.
    When it misleads: where only some heads are moved, dose 1 is not the clean run: pass the margins at dose 1 of this
    edit. Crossings are censored at the outermost doses.
    """
    high, low, d = floats(clean, "clean"), floats(corrupted, "corrupted"), floats(doses, "doses")
    n = same_length(clean=high, corrupted=low)
    if len(d) < 2 or not (np.diff(d) > 0).all() or d[0] < 0 or d[-1] > 1:
        raise ValueError(f"doses must rise within [0, 1] and be at least 2, got {d.tolist()[:8]}.")
    codes, _ = cluster_codes(clusters, n)
    # Weighted from both ends, so that dose 0 and dose 1 give the two margins exactly.
    margins = low[:, None] * (1 - d) + high[:, None] * d
    up = margins > 0
    labels = None if clusters is None else codes
    curve = tuple(clustered_rate(x, labels, unit=unit, level=level) for x in up.T)
    fit = psychometric(
        np.tile(d, n), up.ravel(), np.repeat(codes, len(d)), unit=f"{unit} × doses", seed=seed, draws=draws, level=level
    )
    return LinearNull(d, curve, fit, crossing([0.0, 1.0], np.column_stack([low, high])))


def against_linear(
    observed: Crossings,
    clean: Values,
    corrupted: Values,
    clusters: Clusters = None,
    *,
    unit: str = "pairs",
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> AgainstLinear:
    """Do pairs flip earlier, more alike, or more abruptly than linear margins would?

    Definition: over pairs that cross in both, with a the observed and l the linear dose: earlier = mean(a - l);
    spread = sd(a) / sd(l); steepness = exp(mean log(slope at the crossing / (clean - corrupted))).
    Linear margins give 0, 1 and 1. Percentile intervals over resampled clusters, the same draws for both sides.
    Shapes, units: observed from `crossing` or `Bisection` [pair]; clean, corrupted [pair] margins at dose 1 and 0.
    Range: earlier in the unit of the dose, less is earlier; spread >= 0, below 1 is sharper over pairs; steepness > 0,
    above 1 is sharper within a pair.
    Mean over: pairs that cross in both; `left_out` counts the others. Fewer than 2 clusters among them give undefined;
    a linear or observed spread of zero too.
    Raises: ValueError on NaN, unequal lengths, missing labels.
    Source: Efron & Tibshirani (1993), ch. 13; the three contrasts are ours.
    When it misleads: many left out make the rest a selection. On a coarse grid the slope is an average over the gap and
    hides a jump: use `Bisection` first. A pair can cross at half the dose for no deeper reason than saturation.
    """
    high, low = floats(clean, "clean"), floats(corrupted, "corrupted")
    n = same_length(clean=high, corrupted=low, observed=observed.at)
    level, draws, seed = open_unit(level, "level"), whole(draws, "draws", 100), whole(seed, "seed")
    linear = crossing([0.0, 1.0], np.column_stack([low, high]))
    both = observed.seen & linear.seen
    everyone, _ = cluster_codes(clusters, n)
    codes, k = cluster_codes(everyone[both], int(both.sum()))
    a, b = observed.at[both], linear.at[both]
    labels = None if clusters is None else codes
    earlier = bootstrap_paired_difference(a, b, labels, unit=unit, seed=seed, draws=draws, level=level)
    name, kept = _bootstrap_name(clusters), len(a)

    def none(what: str, reason: str) -> Estimate:
        return Estimate.undefined(unit, kept, reason, method=f"{name} of {what}", level=level)

    if k < 2:
        few = _too_few(kept, k)
        return AgainstLinear(earlier, none("a ratio of spreads", few), none("a geometric mean", few), kept, n - kept)
    jump = np.log(observed.slope[both] / linear.slope[both])
    middle = float(b.mean())  # sums of squares about one centre keep their digits
    x, y = a - middle, b - middle
    sums = _cluster_sums(np.column_stack([np.ones(kept), x, x * x, y, y * y, jump]), codes, k)
    drawn = np.concatenate([w @ sums for w in _weights(k, draws, seed)])
    whole_sample = sums.sum(0)
    made = _ratio(whole_sample, drawn, level)
    if isinstance(made, str):
        spread = none("a ratio of spreads", made)
    else:
        spread = _made(*made, kept, unit, f"{name} of a ratio of spreads", level, seed, k)
    logs, centre = drawn[:, 5] / drawn[:, 0], whole_sample[5] / kept
    bounds = _percentile(logs, level, centre, max(1.0, float(np.abs(jump).max())))
    ends = (np.exp(bounds[0]), np.exp(bounds[1]))
    steep = _made(float(np.exp(centre)), ends, kept, unit, f"{name} of a geometric mean", level, seed, k)
    return AgainstLinear(earlier, spread, steep, kept, n - kept)


def _ratio(sums: Floats, drawn: Floats, level: float) -> tuple[float, tuple[float, float]] | str:
    """The ratio of the two spreads and its ends, or why there is none."""
    sd_a, sd_b = _spread(sums[None], 1)[0], _spread(sums[None], 3)[0]
    if min(sd_a, sd_b) <= 1e-12:
        return "all pairs cross at one dose: a spread is zero"
    over, under = _spread(drawn, 1), _spread(drawn, 3)
    ratio = over[under > 1e-12] / under[under > 1e-12]
    lost = len(drawn) - len(ratio)
    if lost > len(drawn) * (1 - level) / 2:
        return f"in {lost} of {len(drawn)} resamples the linear spread is zero"
    return sd_a / sd_b, _percentile(ratio, level, sd_a / sd_b, sd_a / sd_b)


def _spread(sums: Floats, at: int) -> Floats:
    """Standard deviation from columns (count at 0, sum at `at`, squares after it)."""
    count, total, squares = sums[:, 0], sums[:, at], sums[:, at + 1]
    return np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))


def _made(
    value: float, ends: tuple[Any, Any], n: int, unit: str, method: str, level: float, seed: int, k: int
) -> Estimate:
    low, high = (float(e) for e in ends)
    return Estimate(value, low, high, n, unit, method, level, seed, _cluster_note(k, low == high))
