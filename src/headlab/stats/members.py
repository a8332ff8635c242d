"""Who carries an effect: read from a table of subsets and what each of them did.

A *membership* table [subset, member] says which heads each subset holds; *outcome* [subset] is what
the subset achieved (recovery, logit difference), *success* [subset] its yes/no form. Values over
coalitions (Shapley, Banzhaf) are in `coalitions`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from statistics import NormalDist

import numpy as np

from ._check import Bools, Clusters, Floats, Number, Values, booleans, floats, open_unit, same_length, whole
from .corrections import holm
from .estimate import Estimate
from .intervals import DRAWS, bootstrap_means
from .paired import McNemar, mcnemar
from .rates import clopper_pearson, wilson

RIDGE = 1.0
"""scikit-learn's default penalty. It matters: on the 54 published 8-subsets of 16 members, penalties
.1, 1 and 10 predict 48, 47 and 39 rightly, so fix it before the run."""


@dataclass(frozen=True, slots=True)
class Additive:
    """Main effects of `additive`: one Estimate per member, the share of variance explained, and whether
    the effects are relative to the average member (all subsets of one size) or absolute."""

    effects: tuple[Estimate, ...]
    r_squared: float | None
    relative: bool


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How well an additive rule predicts subsets it was not fitted to.

    accuracy against majority (always the commoner outcome of the other subsets), paired in `test`
    (a = rule right, b = majority right); predicted [subset].
    """

    accuracy: Estimate
    majority: Estimate
    test: McNemar
    predicted: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Separability:
    """Whether weights and a threshold reproduce every outcome; None when only one outcome occurs.

    weights [member] and bias: the rule of smallest sum |w| with s (x.w + bias) >= 1 for every subset,
    s = +1 for success, -1 for failure. always_possible: so few subsets that every labelling of
    subsets in general position would be separable.
    """

    separable: bool | None
    weights: tuple[float, ...] | None
    bias: float | None
    n: int
    successes: int
    always_possible: bool


@dataclass(frozen=True, slots=True)
class MemberTest:
    """One member in `member_tests`: success with it and without it, exact p, and p adjusted for all members."""

    present: Estimate
    absent: Estimate
    p: float | None
    holm: float | None


def additive(membership: Values, outcome: Values, *, unit: str = "subsets", level: float = 0.95) -> Additive:
    """Main effect of each member on the outcome of a subset.

    Definition: ordinary least squares outcome = c + sum of b_m x_m, intervals by HC3 and Student's t.
    When all subsets have one size, only differences between members can be known: the effect is then
    b_m minus the mean b of the members that vary (`relative`).
    Shapes, units: membership [subset, member] booleans, outcome [subset]; effects in its unit.
    Range: unbounded; more is more outcome with the member in.
    Mean over: subsets. n counts subsets. Undefined for a member that is always or never in, or that
    cannot be told from others, and for all when the residual has no degree of freedom.
    Raises: ValueError on non-booleans, NaN, unequal lengths.
    Source: MacKinnon & White, J. Econometrics 29:305 (1985), for HC3.
    When it misleads: under redundancy or thresholds (any k of these) main effects average over the
    other members that happened to be in; compare `predict_left_out` and `coalitions.shapley`.
    """
    x, y = _table(membership, outcome)
    level = open_unit(level, "level")
    n, m = x.shape
    method = "OLS, HC3"
    varies = x.any(axis=0) & ~x.all(axis=0)
    sizes = x.sum(axis=1)
    relative = bool(n) and bool((sizes == sizes[0]).all())
    part = x[:, varies].astype(np.float64)
    k = part.shape[1]
    centred = part - part.mean(axis=0) if n else part
    contrast = np.eye(k) - (1 / k if relative and k else 0.0)
    free = n - 1 - int(np.linalg.matrix_rank(centred)) if k else 0
    if free < 1:
        reason = f"{n} subsets leave no degree of freedom for {k} varying members" if k else "no member varies"
        return Additive(tuple(_undefined(unit, n, reason, method, level) for _ in range(m)), None, relative)
    axes = _row_space(centred)
    centre, low, high, r_squared = _ols(centred @ axes.T, y, contrast @ axes.T, level)
    known = np.abs(contrast - contrast @ axes.T @ axes).max(axis=1) < 1e-8  # fixed by the data at all
    note = "relative to the average varying member (all subsets have one size)" if relative else ""
    effects = [_undefined(unit, n, "always or never in a subset", method, level) for _ in range(m)]
    for i, j in enumerate(np.flatnonzero(varies)):
        if not known[i]:
            effects[j] = _undefined(unit, n, "cannot be told from other members", method, level)
        elif not np.isfinite([low[i], high[i]]).all():
            effects[j] = _undefined(unit, n, "rests on a single subset: HC3 has no variance", method, level)
        else:
            effects[j] = Estimate(centre[i], low[i], high[i], n, unit, method, level, note=note)
    return Additive(tuple(effects), r_squared, relative)


def leave_one_out(
    full: Values,
    without: Values,
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> tuple[Estimate, ...]:
    """What is lost when one member is taken out of the full set.

    Definition: mean over rows of full - without_m, for each member m.
    Shapes, units: full [row] the outcome of the whole set per prompt; without [row, member] the outcome
    with that member left out; clusters [row] labels or None; in the outcome's unit.
    Range: unbounded; above zero when the member is needed.
    Mean over: rows (prompts), cluster bootstrap as in `bootstrap_means`; fewer than 2 clusters give
    undefined.
    Raises: ValueError on NaN, unequal lengths, missing labels.
    Source: the usual ablation contrast.
    When it misleads: redundant members all score zero though one of them is needed; a sum over
    members is not the whole effect. `coalitions.shapley` shares it out. With 20 clusters the interval covers about .915.
    """
    everyone, left = floats(full, "full"), floats(without, "without", ndim=2)
    same_length(full=everyone, without=left)
    return bootstrap_means(everyone[:, None] - left, clusters, unit=unit, seed=seed, draws=draws, level=level)


def predict_left_out(
    membership: Values, success: Values, *, unit: str = "subsets", ridge: Number = RIDGE, level: float = 0.95
) -> LeftOut:
    """Does an additive rule predict the subsets that it has not seen?

    Definition: for each subset, logistic regression with an L2 penalty is fitted to all others and
    predicts this one. accuracy = share predicted rightly; majority = the same for the rule "the
    commoner outcome of the others" (a tie counts as failure).
    Shapes, units: membership [subset, member], success [subset] booleans. ridge = penalty (1/C).
    Range: [0, 1], more is better; only the distance to majority says anything.
    Mean over: subsets; Wilson intervals. Undefined when an outcome occurs fewer than twice.
    Raises: ValueError on non-booleans, unequal lengths, ridge <= 0.
    Source: le Cessie & van Houwelingen, Appl. Stat. 41:191 (1992).
    When it misleads: left-out fits share nearly all subsets, so the interval is approximate. Subsets
    that differ in one member are nearly copies. A high accuracy does not exclude an interaction.
    """
    x, y = booleans(membership, "membership", 2), booleans(success, "success")
    n = same_length(membership=x, success=y)
    if not ridge > 0:
        raise ValueError(f"ridge must be above 0, got {ridge!r}.")
    yes = int(y.sum())
    if min(yes, n - yes) < 2:
        reason = f"{yes} successes among {n}: each outcome must occur at least twice"
        nothing = _undefined(unit, n, reason, "leave one out", open_unit(level, "level"))
        return LeftOut(nothing, nothing, mcnemar([], []), ())
    from sklearn.linear_model import LogisticRegression

    predicted, common = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    for i in range(n):
        others = np.arange(n) != i
        model = LogisticRegression(C=1 / float(ridge), max_iter=1000).fit(x[others].astype(np.float64), y[others])
        predicted[i] = bool(model.predict(x[i : i + 1].astype(np.float64))[0])
        common[i] = 2 * int(y[others].sum()) > n - 1
    right, usual = predicted == y, common == y
    return LeftOut(
        wilson(int(right.sum()), n, unit=unit, level=level),
        wilson(int(usual.sum()), n, unit=unit, level=level),
        mcnemar(right, usual),
        tuple(bool(p) for p in predicted),
    )


def auroc(scores: Values, truth: Values, *, unit: str = "members", level: float = 0.95) -> Estimate:
    """How well scores put the true members above the others.

    Definition: Pr[score of a true member > score of another] + half of Pr[equal], over all pairs.
    Interval: Newcombe's method 5, all A with |A' - A| <= z sqrt(V(A)), A' the observed value,
    V(A) = A(1-A)/(pq) * (1 + r(1-A)/(2-A) + rA/(1+A)), r = (p+q)/2 - 1, for p true and q others.
    Shapes, units: scores [member], truth [member] booleans.
    Range: [0, 1]; .5 is chance, 1 perfect, 0 perfectly reversed.
    Mean over: pairs of a true and another member. n counts members. An empty class gives undefined.
    Raises: ValueError on NaN, non-boolean truth, unequal lengths.
    Source: Mann & Whitney (1947); Hanley & McNeil, Radiology 143:29 (1982); Newcombe, Stat. Med.
    25:559 (2006).
    When it misleads: with two true members the interval is wide whatever the scores; members of one
    KV group are not independent.
    """
    values, flags = floats(scores, "scores"), booleans(truth, "truth")
    n = same_length(scores=values, truth=flags)
    level = open_unit(level, "level")
    p, method = int(flags.sum()), "Newcombe (Mann-Whitney)"
    q = n - p
    if p == 0 or q == 0:
        return _undefined(unit, n, f"{p} true and {q} other members: both are needed", method, level)
    _, place, repeats = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(repeats) - (repeats - 1) / 2)[place]
    value = float((ranks[flags].sum() - p * (p + 1) / 2) / (p * q))
    low, high = _auroc_bounds(value, p, q, level)
    return Estimate(value, low, high, n, unit, method, level, note=f"{p} true, {q} others")


def linear_separability(membership: Values, success: Values) -> Separability:
    """Can one weight per member and a threshold reproduce every outcome?

    Definition: is there (w, b) with s_i (x_i.w + b) >= 1 for every subset i, s = +1 for success and -1
    for failure? Decided by a linear programme that also makes sum |w| least.
    Shapes, units: membership [subset, member], success [subset] booleans.
    Range: True or False; None when only one outcome occurs (nothing to separate).
    Mean over: nothing; one subset can break it.
    Raises: ValueError on non-booleans, unequal lengths; RuntimeError when the solver gives up.
    Source: Minsky & Papert (1969); Cover, IEEE Trans. EC-14:326 (1965), for what chance separates.
    When it misleads: with n <= members + 1 every labelling is separable (`always_possible`), and up to
    about twice as many subsets most are. Permute the labels to see what chance gives.
    """
    x, y = booleans(membership, "membership", 2), booleans(success, "success")
    n = same_length(membership=x, success=y)
    m, yes = x.shape[1], int(y.sum())
    possible = n <= m + 1
    if yes in (0, n):
        return Separability(None, None, None, n, yes, possible)
    from scipy.optimize import linprog

    sign = np.where(y, 1.0, -1.0)[:, None]
    rows = sign * x
    answer = linprog(
        c=np.r_[np.ones(2 * m), 0.0],
        A_ub=-np.hstack([rows, -rows, sign]),
        b_ub=-np.ones(n),
        bounds=[(0, None)] * (2 * m) + [(None, None)],
        method="highs",
    )
    if answer.status == 2:
        return Separability(False, None, None, n, yes, possible)
    if answer.status != 0:
        raise RuntimeError(f"the linear programme did not finish: {answer.message}")
    weights = np.round(answer.x[:m] - answer.x[m : 2 * m], 12) + 0.0  # drops the solver's -0 and 1e-14
    return Separability(True, tuple(float(w) for w in weights), float(answer.x[-1]), n, yes, possible)


def separable_by_chance(
    membership: Values, success: Values, *, seed: int, shuffles: int = 200, unit: str = "shuffles", level: float = 0.95
) -> Estimate:
    """How often outcomes dealt out at random to the same subsets are linearly separable too.

    Definition: share of `shuffles` random orders of success for which `linear_separability` says yes.
    Shapes, units: membership [subset, member], success [subset] booleans.
    Range: [0, 1]; near 0 separability says something about the outcomes, near 1 it says nothing.
    Mean over: shuffles; Clopper-Pearson. Undefined when only one outcome occurs.
    Raises: as `linear_separability`; ValueError for no shuffles.
    Source: Cover, IEEE Trans. EC-14:326 (1965).
    When it misleads: shuffles break every dependence, so a small share excludes chance, not other rules.
    """
    x, y = booleans(membership, "membership", 2), booleans(success, "success")
    n = same_length(membership=x, success=y)
    rng, shuffles = np.random.default_rng(whole(seed, "seed")), whole(shuffles, "shuffles", 1)
    if int(y.sum()) in (0, n):
        return _undefined(unit, 0, "only one outcome occurs", "Clopper-Pearson", open_unit(level, "level"))
    hits = sum(linear_separability(x, rng.permutation(y)).separable is True for _ in range(shuffles))
    return replace(clopper_pearson(hits, shuffles, unit=unit, level=level), seed=seed)


def member_tests(
    membership: Values, success: Values, *, unit: str = "subsets", level: float = 0.95
) -> tuple[MemberTest, ...]:
    """Does success depend on whether one member is in? Fisher's exact test for each member, Holm over all.

    Definition: with the margins of the 2 x 2 table (in or out, success or failure) fixed, p = sum of the
    hypergeometric probabilities that do not exceed the observed one (exact integers, so ties are ties);
    holm = `holm` over the members that vary.
    Shapes, units: membership [subset, member], success [subset] booleans.
    Range: p in (0, 1], less is more dependence; rates in [0, 1], Wilson intervals.
    Mean over: subsets. p is None for a member that is always or never in; it is not in Holm's family.
    Raises: ValueError on non-booleans, unequal lengths.
    Source: Fisher (1935), The Design of Experiments; Holm, Scand. J. Stat. 6:65 (1979).
    When it misleads: members of subsets of one size are dependent (one in is another out), so a strong
    member lends the others a little of the opposite sign. Structured subsets are no random sample.
    """
    x, y = booleans(membership, "membership", 2), booleans(success, "success")
    n, yes = same_length(membership=x, success=y), int(y.sum())
    inside, both = x.sum(axis=0), x[y].sum(axis=0)
    p = [_fisher(int(b), int(i), yes, n) if 0 < i < n else None for i, b in zip(inside, both, strict=True)]
    adjusted = holm(p)
    return tuple(
        MemberTest(
            wilson(int(b), int(i), unit=unit, level=level),
            wilson(yes - int(b), n - int(i), unit=unit, level=level),
            one,
            None if one is None else float(a),
        )
        for i, b, one, a in zip(inside, both, p, adjusted, strict=True)
    )


def _fisher(both: int, inside: int, yes: int, n: int) -> float:
    """Two-sided p of `both` successes among the `inside` subsets that hold the member."""
    ways = {k: comb(yes, k) * comb(n - yes, inside - k) for k in range(max(0, inside - n + yes), min(yes, inside) + 1)}
    return sum(w for w in ways.values() if w <= ways[both]) / comb(n, inside)


def _table(membership: Values, outcome: Values) -> tuple[Bools, Floats]:
    x, y = booleans(membership, "membership", 2), floats(outcome, "outcome")
    same_length(membership=x, outcome=y)
    return x, y


def _undefined(unit: str, n: int, note: str, method: str, level: float) -> Estimate:
    return Estimate.undefined(unit, n, note, method=method, level=level)


def _ols(x: Floats, y: Floats, contrast: Floats, level: float) -> tuple[Floats, Floats, Floats, float | None]:
    """Value, low and high of each row of `contrast` (NaN where HC3 has none), and R squared (None for a
    constant outcome)."""
    from statsmodels.regression.linear_model import OLS

    design = np.column_stack([np.ones(len(x)), x])
    rows = np.column_stack([np.zeros(len(contrast)), contrast])
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = OLS(y, design).fit(cov_type="HC3", use_t=True)
        test = fit.t_test(rows)
        bounds = test.conf_int(alpha=1 - level)
    # A subset of leverage 1 fits itself: HC3 divides 0 by 0 there, in practice rounding by rounding.
    solve = np.linalg.pinv(design)
    alone = np.einsum("ij,ji->i", design, solve) > 1 - 1e-8
    bounds[(np.abs(rows @ solve)[:, alone] > 1e-8).any(axis=1)] = np.nan
    total = float(((y - y.mean()) ** 2).sum())
    r_squared = 1 - float((np.asarray(fit.resid) ** 2).sum()) / total if total > 0 else None
    return test.effect, bounds[:, 0], bounds[:, 1], r_squared


def _row_space(x: Floats) -> Floats:
    """An orthonormal basis [axis, member] of what the rows of x vary in.

    Fitting in these coordinates is always of full rank; members that only occur together, or a common
    size, show up as contrasts outside the basis.
    """
    _, singular, rows = np.linalg.svd(x, full_matrices=False)
    return rows[singular > 1e-10 * singular.max()]


def _auroc_bounds(value: float, p: int, q: int, level: float) -> tuple[float, float]:
    """Where (value - a)^2 = z^2 V(a), below and above value, by bisection."""
    z, r = NormalDist().inv_cdf((1 + level) / 2), (p + q) / 2 - 1
    bounds: list[float] = []
    for end in (0.0, 1.0):
        outer, inner = end, value  # a is excluded at `outer` and allowed at `inner`
        for _ in range(60):
            a = (outer + inner) / 2
            variance = a * (1 - a) / (p * q) * (1 + r * (1 - a) / (2 - a) + r * a / (1 + a))
            outer, inner = (a, inner) if (value - a) ** 2 > z * z * variance else (outer, a)
        bounds.append(end if value == end else inner)
    return bounds[0], bounds[1]
