"""Values of members over coalitions: Shapley by nested chains, Banzhaf by sample reuse.

1. `shapley_plan` draws orders of the members in antithetic pairs (an order and its reverse) and lists
   every coalition that their nested chains pass through, each once.
2. The caller computes the value of each coalition, in any order and anywhere.
3. `shapley_from_chains` reads each member's marginal contributions off the chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ._check import Bools, Count, Floats, Ints, Values, booleans, floats, open_unit, same_length, whole
from .estimate import Estimate
from .rates import _wilson_bounds


@dataclass(frozen=True, slots=True, eq=False)
class ShapleyPlan:
    """Which coalitions to compute, and where each order of the members passes through them.

    coalitions [coalition, member]: each needed coalition once, the empty one first and the full one
    last. orders [permutation, member]: rows 2i and 2i+1 are reverses. steps [permutation, member + 1]:
    the coalition reached after 0, 1, ... members.
    """

    coalitions: Bools
    orders: Ints
    steps: Ints
    seed: int


def shapley_plan(n_members: Count, permutations: int, seed: int) -> ShapleyPlan:
    """The nested chains from which Shapley values are read.

    Definition: permutations/2 uniformly random orders, each followed by its reverse; the chain of an
    order adds its members one by one to the empty set.
    Shapes, units: see `ShapleyPlan`; at most permutations * (n_members - 1) + 2 coalitions.
    Range: permutations even and >= 4, so that there are at least two pairs to take an interval from.
    Mean over: nothing yet.
    Raises: ValueError on fewer than 1 member or an odd or too small number of permutations.
    Source: Castro, Gomez & Tejada, Comput. Oper. Res. 36:1726 (2009); Mitchell, Cooper, Frank &
    Holmes, JMLR 23:43 (2022), for antithetic orders.
    When it misleads: coalitions in a chain are not independent samples of subsets; do not put them
    into `banzhaf` or `wilson`.
    """
    m, count = whole(n_members, "n_members", 1), whole(permutations, "permutations", 4)
    if count % 2:
        raise ValueError(f"permutations must be even (orders come with their reverse), got {count}.")
    rng = np.random.default_rng(whole(seed, "seed"))
    forward = np.array([rng.permutation(m) for _ in range(count // 2)])
    orders = np.stack([forward, forward[:, ::-1]], axis=1).reshape(count, m)
    chains = np.zeros((count, m + 1, m), dtype=np.bool_)
    for step in range(m):
        chains[:, step + 1] = chains[:, step]
        chains[np.arange(count), step + 1, orders[:, step]] = True
    flat = chains.reshape(-1, m)
    coalitions, steps = np.unique(flat, axis=0, return_inverse=True)
    return ShapleyPlan(coalitions, orders.astype(np.int64), steps.reshape(count, m + 1).astype(np.int64), int(seed))


def shapley_from_chains(
    plan: ShapleyPlan, values: Values, *, unit: str = "permutations", level: float = 0.95
) -> tuple[Estimate, ...]:
    """Shapley value of each member, from the values of the plan's coalitions.

    Definition: mean over orders of v(members before m, and m) - v(members before m). The values add up
    to v(all) - v(empty), for any number of permutations (efficiency).
    Shapes, units: values [coalition], aligned with plan.coalitions; result in the unit of v.
    Range: unbounded; above zero when the member helps on average over coalitions.
    Mean over: permutations (n). The interval is Student's t over antithetic pairs.
    Raises: ValueError on NaN or on a number of values other than the number of coalitions.
    Source: Shapley (1953), A value for n-person games; Castro et al. (2009).
    When it misleads: the interval covers the choice of orders only, not the prompts behind v; for
    those, recompute the values per prompt (the Shapley value is linear in v) and bootstrap them.
    """
    v = floats(values, "values")
    if len(v) != len(plan.coalitions):
        raise ValueError(f"one value per coalition expected: got {len(v)} for {len(plan.coalitions)} coalitions.")
    from scipy.special import stdtrit

    level = open_unit(level, "level")
    count, m = plan.orders.shape
    gains = np.empty((count, m))
    np.put_along_axis(gains, plan.orders, np.diff(v[plan.steps], axis=1), axis=1)
    pairs = gains.reshape(count // 2, 2, m).mean(axis=1)
    centre = pairs.mean(axis=0)
    quantile = float(stdtrit(len(pairs) - 1, (1 + level) / 2))
    half = quantile * pairs.std(axis=0, ddof=1) / math.sqrt(len(pairs))
    note = f"{len(pairs)} antithetic pairs; covers the sampling of orders only"
    return tuple(
        Estimate(centre[j], centre[j] - half[j], centre[j] + half[j], count, unit, "Shapley, t", level, plan.seed, note)
        for j in range(m)
    )


def shapley(
    value_fn: Callable[[Bools], Values],
    n_members: Count,
    *,
    permutations: int,
    seed: int,
    unit: str = "permutations",
    level: float = 0.95,
) -> tuple[Estimate, ...]:
    """Shapley value of each member of a game given as a function.

    Definition: `shapley_plan`, then one call value_fn(coalitions), then `shapley_from_chains`.
    Shapes, units: value_fn takes booleans [coalition, member] and returns [coalition].
    Range, mean over, source, when it misleads: as `shapley_from_chains`.
    Raises: ValueError as the two functions above.
    """
    plan = shapley_plan(n_members, permutations, seed)
    return shapley_from_chains(plan, value_fn(plan.coalitions.copy()), unit=unit, level=level)


def banzhaf(membership: Values, outcome: Values, *, unit: str = "subsets", level: float = 0.95) -> tuple[Estimate, ...]:
    """Banzhaf value of each member, every subset serving every member (maximum sample reuse).

    Definition: mean outcome of subsets with the member - mean outcome of those without it.
    Shapes, units: membership [subset, member] booleans, outcome [subset]; in the outcome's unit.
    Range: unbounded; above zero when the member helps on average over subsets.
    Mean over: subsets, drawn with each member in or out by a fair coin. n counts subsets. Intervals:
    Welch's t; for a yes/no outcome Newcombe's square-and-add of two Wilson intervals. A member with
    fewer than 2 subsets on either side is undefined.
    Raises: ValueError on non-booleans, NaN, unequal lengths.
    Source: Banzhaf (1965); Wang & Jia, Data Banzhaf, arXiv 2205.15466 (2023).
    When it misleads: with subsets of one size the contrast also contains the absence of some other
    member (the note says so); chains and hand-picked subsets are not coin tosses. Repeated subsets
    are not independent.
    """
    x, y = booleans(membership, "membership", 2), floats(outcome, "outcome")
    n = same_length(membership=x, outcome=y)
    level = open_unit(level, "level")
    binary = bool(np.isin(y, (0.0, 1.0)).all())
    method = "Banzhaf, " + ("Newcombe" if binary else "Welch")
    sizes = x.sum(axis=1)
    one_size = n > 0 and bool((sizes == sizes[0]).all())
    note = f"all subsets have size {sizes[0]}: a contrast at that size, not the Banzhaf value" if one_size else ""
    values: list[Estimate] = []
    for member in x.T:
        inside, outside = y[member], y[~member]
        if min(len(inside), len(outside)) < 2:
            reason = f"in {len(inside)} and out of {len(outside)} subsets: at least 2 of each are needed"
            values.append(Estimate.undefined(unit, n, reason, method=method, level=level))
            continue
        low, high = (_two_rates if binary else _two_means)(inside, outside, level)
        values.append(Estimate(inside.mean() - outside.mean(), low, high, n, unit, method, level, note=note))
    return tuple(values)


def _two_means(a: Floats, b: Floats, level: float) -> tuple[float, float]:
    from scipy.special import stdtrit

    difference = float(a.mean() - b.mean())
    u, v = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    if u + v == 0:
        return difference, difference
    freedom = (u + v) ** 2 / (u * u / (len(a) - 1) + v * v / (len(b) - 1))
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(u + v)
    return difference - half, difference + half


def _two_rates(a: Floats, b: Floats, level: float) -> tuple[float, float]:
    p, q = float(a.mean()), float(b.mean())
    low_p, high_p = _wilson_bounds(float(a.sum()), len(a), level)
    low_q, high_q = _wilson_bounds(float(b.sum()), len(b), level)
    return (max(-1.0, p - q - math.hypot(p - low_p, high_q - q)), min(1.0, p - q + math.hypot(high_p - p, q - low_q)))


def fisher(inside: Bools, won: Bools) -> tuple[Floats, Floats]:
    """Fisher's exact p of each member against success, and the difference of its rates inside and outside.

    inside [coalition, member], won [coalition] → p [member], difference [member].
    """
    from scipy.stats import fisher_exact

    p, gap = np.ones(inside.shape[1]), np.zeros(inside.shape[1])
    for j, column in enumerate(inside.T):
        table = [[int((a & b).sum()) for b in (won, ~won)] for a in (column, ~column)]
        p[j] = min(1.0, float(fisher_exact(table).pvalue))  # type: ignore[attr-defined]
        if column.any() and not column.all():
            gap[j] = won[column].mean() - won[~column].mean()
    return p, gap


def marginals(plan: ShapleyPlan, values: Floats) -> Floats:
    """[order, member]: what a member adds to the value [coalition] where it joins."""
    out = np.empty(plan.orders.shape)
    np.put_along_axis(out, plan.orders, np.diff(values[plan.steps], axis=1), axis=1)
    return out


def late_gains(plan: ShapleyPlan, values: Floats) -> Floats:
    """[order]: mean gain of one more member in the second half of the chain."""
    steps = np.diff(values[plan.steps], axis=1)
    return steps[:, steps.shape[1] // 2 :].mean(1)
