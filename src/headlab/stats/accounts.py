"""Accounts of success compared on subsets they have not seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._check import Values, booleans, floats, same_length
from .estimate import Estimate
from .intervals import bootstrap_mean

ACCOUNTS = ("count", "additive", "pairwise")


def held_out_deviance(
    membership: Values, share: Values, *, trials: int, seed: int, folds: int = 5
) -> dict[str, Estimate]:
    """Binomial deviance of three logistic accounts of success, cross-validated over subsets.

    Definition: for an unseen subset with success share y and predicted share p, 2·Σ y·log(y/p) +
    (1−y)·log((1−y)/(1−p)), in nats a trial, averaged over subsets. ``count`` knows only how many members are in
    (a step wherever the data put it), ``additive`` which ones, ``pairwise`` which ones and which pairs of them.
    Ridge-penalised logistic regression (C = 1), the same folds for all three.
    Shapes, units: membership [subset, member]; share [subset] in [0, 1]; deviance in nats a trial.
    Range: ≥ 0, less is better; the intercept alone is what a useless account reaches.
    Mean over: subsets; the interval is a bootstrap over subsets.
    Raises: ValueError on unequal lengths.
    Source: McCullagh & Nelder, Generalized Linear Models (1989), §4.4.3, for the deviance.
    When it misleads: shares of a few trials are noisy and blur the accounts; few subsets leave pairwise
    underfitted; all shares equal leaves nothing to account for (undefined).
    """
    inside, y = booleans(membership, "membership", 2), floats(share, "share")
    n = same_length(membership=inside, share=y)
    if n < 2 * folds or np.ptp(y) == 0:
        why = "all subsets succeed alike" if n >= 2 * folds else f"only {n} subsets for {folds} folds"
        return {k: Estimate.undefined("subsets", n, why) for k in ACCOUNTS}
    fold = np.random.default_rng(seed).permutation(n) % folds
    out = {}
    for name in ACCOUNTS:
        x = _features(inside, name)
        predicted = np.empty(n)
        for f in range(folds):
            predicted[fold == f] = _fitted(x[fold != f], y[fold != f], trials, x[fold == f])
        out[name] = bootstrap_mean(_deviance(y, predicted), unit="subsets", seed=seed)
    return out


def _features(inside: Any, name: str) -> Any:
    x = inside.astype(float)
    if name == "count":
        size = inside.sum(1)
        return (size[:, None] >= np.arange(1, inside.shape[1] + 1)).astype(float)
    if name == "additive":
        return x
    a, b = np.triu_indices(x.shape[1], 1)
    return np.hstack([x, x[:, a] * x[:, b]])


def _fitted(x: Any, y: Any, trials: int, new: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    weight = np.concatenate([y, 1 - y]) * trials
    label = np.repeat([1, 0], len(y))
    keep = weight > 0
    if len(set(label[keep])) < 2:
        return np.full(len(new), np.clip(y.mean(), 1e-6, 1 - 1e-6))
    model = LogisticRegression(C=1.0, max_iter=500)
    model.fit(np.vstack([x, x])[keep], label[keep], sample_weight=weight[keep])
    return np.clip(model.predict_proba(new)[:, 1], 1e-6, 1 - 1e-6)


def _deviance(y: Any, p: Any) -> Any:
    def part(a: Any, b: Any) -> Any:
        return np.where(a > 0, a * np.log(np.where(a > 0, a, 1) / b), 0.0)

    return 2 * (part(y, p) + part(1 - y, 1 - p))
