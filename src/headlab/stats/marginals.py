"""What a member adds each time it joins others, and whether any member does harm.

`chain_gains` reads the marginal effects off nested chains; `interference` sums them up per member, with the sign
test of "as often negative as positive", corrected for the number of members. Exact tests on a table of random
subsets are `members.member_tests`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._check import Clusters, Floats, Values, cluster_codes, floats
from .coalitions import ShapleyPlan
from .corrections import holm
from .estimate import Estimate
from .intervals import DRAWS, bootstrap_mean
from .rates import clustered_rate


@dataclass(frozen=True, slots=True)
class Interference:
    """What one member adds: its mean, how often it is negative (among changes), and the sign test of "as often negative
    as positive", raw and after Holm over members."""

    gain: Estimate
    negative: Estimate
    p: float | None
    adjusted: float | None


def chain_gains(plan: ShapleyPlan, values: Values) -> Floats:
    """What each member added in each order of a plan.

    Definition: v(members before m, and m) - v(members before m), the terms whose mean is the Shapley value.
    Shapes, units: values [coalition], aligned with plan.coalitions; result [permutation, member] in the unit of v.
    Rows 2i and 2i + 1 are an order and its reverse: np.arange(permutations) // 2 names their clusters.
    Range: unbounded; below zero where the member did harm in that place.
    Mean over: nothing.
    Raises: ValueError on NaN or on a number of values other than the number of coalitions.
    Source: Castro, Gomez & Tejada, Comput. Oper. Res. 36:1726 (2009).
    When it misleads: a gain depends on the place in the chain; near a ceiling all gains are small and their signs are
    noise.
    """
    v = floats(values, "values")
    if len(v) != len(plan.coalitions):
        raise ValueError(f"one value per coalition expected: got {len(v)} for {len(plan.coalitions)} coalitions.")
    gains = np.empty(plan.orders.shape)
    np.put_along_axis(gains, plan.orders, np.diff(v[plan.steps], axis=1), axis=1)
    return gains


def interference(
    gains: Values,
    clusters: Clusters = None,
    *,
    unit: str = "chains",
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> tuple[Interference, ...]:
    """Does adding a member do harm more often than good?

    Definition: gain = mean over rows (`bootstrap_mean`); negative = share of rows below zero among rows that are not
    zero (`clustered_rate`); p = two-sided exact binomial test, at 1/2, of the signs of the clusters' mean gains, zeros
    left out; adjusted = `holm` over the members that have a p.
    Shapes, units: gains [row, member], as from `chain_gains`; clusters [row] labels (antithetic pairs, prompts) or None.
    Range: negative in [0, 1], above 1/2 is interference; gain in the unit of the outcome.
    Mean over: rows. Fewer than 2 clusters, or no row that changes anything, give undefined and no p.
    Raises: ValueError on NaN, unequal lengths, missing labels.
    Source: Dixon & Mood, JASA 41:557 (1946), the sign test; Holm (1979).
    When it misleads: signs ignore size: a member that often costs a little and sometimes gains much counts as harmful
    (compare `gain`). Rounding noise has signs too: round what no kernel can resolve to zero first.
    """
    table = floats(gains, "gains", ndim=2)
    n = len(table)
    codes, k = cluster_codes(clusters, n)
    made, raw = [], []
    for column in table.T:
        gain = bootstrap_mean(column, clusters, unit=unit, seed=seed, draws=draws, level=level)
        moved = column != 0
        if k < 2 or not moved.any():
            reason = "no row changes anything" if k >= 2 else gain.note
            negative = Estimate.undefined(unit, int(moved.sum()), reason, level=level)
        else:
            labels = None if clusters is None else codes[moved]
            negative = clustered_rate(column[moved] < 0, labels, unit=unit, level=level)
        sums = np.bincount(codes, weights=column, minlength=k)
        signs = np.sign(sums[np.abs(sums) > 1e-12 * np.abs(column).sum()])
        made.append((gain, negative))
        raw.append(_sign_test(int((signs < 0).sum()), len(signs)) if k >= 2 else None)
    return tuple(
        Interference(gain, negative, p, q) for (gain, negative), p, q in zip(made, raw, _adjusted(raw), strict=True)
    )


def _adjusted(raw: list[float | None]) -> list[float | None]:
    return [None if p is None else float(q) for p, q in zip(raw, holm(raw), strict=True)]


def _sign_test(negative: int, n: int) -> float | None:
    if n == 0:
        return None
    from scipy.stats import binomtest

    return float(binomtest(negative, n, 0.5).pvalue)
