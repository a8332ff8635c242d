"""Which of several things that were varied together moves the outcome: regression with errors by cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ._check import Clusters, Floats, Ints, Values, booleans, cluster_codes, floats, open_unit, same_length
from .estimate import Estimate


def factorial_regression(
    y: Values,
    factors: Mapping[str, Values],
    clusters: Clusters = None,
    *,
    kind: Literal["ols", "logit"] = "ols",
    interactions: bool = True,
    unit: str,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Effect of each factor, and of each pair of factors together, on an outcome.

    Definition: y = c + sum b_f x_f + sum b_fg x_f x_g ("ols"), or that for the log odds ("logit"). Numbers are centred
    on their mean; two levels are -1/2 and 1/2; of L > 2 levels each but the last is compared with the mean of
    levels. So a factor's effect is taken where the others stand at their middle. Intervals: cluster-robust
    covariance with residuals adjusted for what the fit took of them (CR2), Student's t on Bell and McCaffrey's degrees of
    freedom, which are fewer where few clusters carry a term.
    Shapes, units: y [row], yes/no for "logit"; factors: name -> [row] numbers or names of levels; clusters [row] or None.
    A number's effect is per its own unit; terms are "a", "a[level]" and "a × b".
    Range: unbounded; above zero when the outcome rises with the factor.
    Mean over: rows. All undefined: clusters not above the number of terms, terms that cannot be told apart (length and
    share moved together), a "logit" whose outcomes are separated by some combination of the terms.
    Raises: ValueError on NaN, unequal lengths, missing labels, no factors.
    Source: Liang & Zeger, Biometrika 73:13 (1986); Bell & McCaffrey, Survey Methodology 28:169 (2002), and for "logit" on the
    rows as its last step weighs them.
    When it misleads: where a factor stands in two or three clusters alone, errors are too small still. Each
    interval is for one term; a table of them needs `holm`. A straight line through a threshold is its average slope
    over these doses.
    """
    level = open_unit(level, "level")
    outcome = booleans(y, "y").astype(np.float64) if kind == "logit" else floats(np.asarray(y, dtype=float), "y")
    if not factors:
        raise ValueError("factors names nothing; expected at least one column of what was varied.")
    n = len(outcome)
    names, design = _design(factors, n, interactions)
    codes, k = cluster_codes(clusters, n)
    method = f"{kind}, cluster-robust" if clusters is not None else f"{kind}, robust"
    full = np.column_stack([np.ones(n), design])
    reason = _unfit(full, outcome, k, kind, names)
    if reason:
        return {name: Estimate.undefined(unit, n, reason, method=method, level=level) for name in names}
    value, low, high = _fit(full, outcome, codes, kind, level)
    note = f"{k} clusters"
    return {
        name: Estimate(value[j], low[j], high[j], n, unit, method, level, note=note)
        for j, name in enumerate(names, start=1)
    }


def _design(factors: Mapping[str, Values], n: int, interactions: bool) -> tuple[list[str], Floats]:
    """Names and columns of main effects, then of products of columns of different factors."""
    parts: list[tuple[int, str, Floats]] = []
    for place, (name, values) in enumerate(factors.items()):
        column = np.asarray(values)
        same_length(**{name: column, "y": np.empty(n)})
        parts += [(place, label, x) for label, x in _columns(name, column)]
    products: list[tuple[int, str, Floats]] = []
    if interactions:
        products = [(-1, f"{a} × {b}", x * z) for i, a, x in parts for j, b, z in parts if i < j]
    every = parts + products
    return [label for _, label, _ in every], np.column_stack([x for _, _, x in every])


def _columns(name: str, column: Any) -> list[tuple[str, Floats]]:
    if column.dtype.kind in "iuf":
        x = floats(column, name)
        return [(name, x - x.mean())]
    levels = sorted(set(column.tolist()))
    if len(levels) == 1:
        return [(name, np.zeros(len(column)))]
    if len(levels) == 2:
        return [(name, np.where(column == levels[1], 0.5, -0.5))]
    last = (column == levels[-1]).astype(np.float64)
    return [(f"{name}[{one}]", (column == one).astype(np.float64) - last) for one in levels[:-1]]


def _unfit(design: Floats, y: Floats, k: int, kind: str, names: list[str]) -> str:
    terms = design.shape[1]
    if k <= terms:
        return f"{k} clusters for {terms} terms: more clusters than terms are needed"
    scaled = design / np.maximum(np.abs(design).max(axis=0), 1e-300)
    if np.linalg.matrix_rank(scaled) < terms:
        return f"the terms {', '.join(names)} cannot be told apart: vary them separately"
    if kind == "ols" and float(np.ptp(y)) == 0.0:
        return "the outcome never changes"
    if kind == "logit" and _separable(scaled, y):
        return "the outcomes are separated: some combination of the terms predicts them without error"
    return ""


def _separable(design: Floats, y: Floats) -> bool:
    """Is there a direction that never speaks against an outcome, and for some row speaks for it?"""
    from scipy.optimize import linprog

    signed = np.where(y > 0, 1.0, -1.0)[:, None] * design
    bounds = [(-1.0, 1.0)] * design.shape[1]
    answer = linprog(-signed.sum(0), A_ub=-signed, b_ub=np.zeros(len(y)), bounds=bounds, method="highs")
    if answer.status != 0:
        raise RuntimeError(f"the linear programme did not finish: {answer.message}")
    return bool(-answer.fun > 1e-7)


def _fit(design: Floats, y: Floats, codes: Ints, kind: str, level: float) -> tuple[Floats, Floats, Floats]:
    from scipy.stats import t

    if kind == "ols":
        value: Floats = np.asarray(np.linalg.lstsq(design, y, rcond=None)[0], dtype=np.float64)
        errors, freedom = _errors(design, y - design @ value, codes)
    else:
        from statsmodels.discrete.discrete_model import Logit

        value = np.asarray(Logit(y, design).fit(disp=0, maxiter=100).params)
        chance = 1 / (1 + np.exp(-design @ value))
        root = np.sqrt(np.maximum(chance * (1 - chance), 1e-12))
        errors, freedom = _errors(root[:, None] * design, (y - chance) / root, codes)
    half = t.ppf((1 + level) / 2, freedom) * errors
    return value, value - half, value + half


def _errors(design: Floats, residuals: Floats, codes: Ints) -> tuple[Floats, Floats]:
    """Standard error of each term and its degrees of freedom, [term] each (CR2; Bell & McCaffrey).

    Residuals of a cluster are multiplied by the root of the inverse of I minus its block of the hat matrix, which makes the
    variance unbiased where rows are independent; the freedom is that of a chi-squared with the same first two moments.
    """
    bread, terms = np.linalg.pinv(design.T @ design), design.shape[1]
    order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    meat, spreads, crosses = np.zeros_like(bread), [], []
    for size in np.unique(sizes):  # clusters of one size at once
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        x = design[rows]  # [cluster, row, term]
        width, side = np.linalg.eigh(np.eye(size) - x @ bread @ x.swapaxes(1, 2))
        root = np.where(width > 1e-10, width, np.inf) ** -0.5
        adjusted = side * root[:, None, :] @ side.swapaxes(1, 2)
        score = np.einsum("grt,grs,gs->gt", x, adjusted, residuals[rows])
        meat += score.T @ score
        part = adjusted @ x @ bread
        spreads.append((part**2).sum(1))  # [cluster, term]
        crosses.append(np.einsum("grt,grj->gtj", x, part))
    errors = np.sqrt(np.diag(bread @ meat @ bread))
    spread, cross, freedom = np.concatenate(spreads), np.concatenate(crosses), np.empty(terms)
    for j in range(terms):
        moments = np.diag(spread[:, j]) - cross[:, :, j] @ bread @ cross[:, :, j].T
        freedom[j] = np.trace(moments) ** 2 / max(float((moments**2).sum()), 1e-300)
    return errors, np.maximum(freedom, 1.0)
