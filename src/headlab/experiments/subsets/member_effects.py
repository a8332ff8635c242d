"""What each head of a layer does to the outcome of subsets: tests by head, values over coalitions, signs of marginals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headlab.claims import Claim
from headlab.designs import membership
from headlab.experiments.heads.patched_sets import set_name
from headlab.heads import Heads
from headlab.stats import Estimate, banzhaf, bootstrap_mean, clopper_pearson, holm, shapley_from_chains, sign_flip


def members(
    drawn: Mapping[str, Any], whole: Heads, value: Mapping[str, float], share: Mapping[str, float], claim: Claim
) -> tuple[list[dict[str, Any]], dict[str, Estimate]]:
    """For each head: Fisher's test on random subsets with Holm, Banzhaf and Shapley values, the sign of its marginals."""
    inside = np.array(list(membership(drawn["masks"], whole)))
    won = np.array([share[set_name(h)] > 0.5 for h in drawn["masks"]])
    gained = np.array([value[set_name(h)] for h in drawn["masks"]])
    p, odds = fisher(inside, won)
    adjusted = holm(p)
    chain = np.array([value[set_name(h)] for h in drawn["chains"]])
    shares, sample = shapley_from_chains(drawn["plan"], chain), banzhaf(inside, gained)
    gains = marginals(drawn["plan"], chain)
    pairs = np.repeat(np.arange(len(gains) // 2), 2)
    signs = holm([sign_flip(column, clusters=pairs, seed=claim.seed).p for column in gains.T])
    rows = []
    for j, head in enumerate(whole):
        rows.append(
            {
                "head": str(head), "index": head.index, "p": float(p[j]), "p_holm": float(adjusted[j]),
                "more_often_in_success": bool(odds[j] > 0),
                "member": bool(adjusted[j] < claim.alpha and odds[j] > 0),
                "shapley": shares[j], "banzhaf": sample[j],
                **{f"{k}_{part}": getattr(e, part) for k, e in (("shapley", shares[j]), ("banzhaf", sample[j]))
                   for part in ("value", "low", "high")},
                "marginal_p_holm": float(signs[j]),
                "interferes": bool(signs[j] < claim.alpha and gains[:, j].mean() < 0),
            }
        )  # fmt: skip
    late = late_gains(drawn["plan"], chain)
    n = len(rows)
    interfering, named_ones = sum(r["interferes"] for r in rows), sum(r["member"] for r in rows)
    found = {
        "interfering": clopper_pearson(interfering, n, unit="heads"),
        "members": clopper_pearson(named_ones, n, unit="heads"),
        "gain:late": bootstrap_mean(late, clusters=pairs, unit="orders", seed=claim.seed),
    }
    return rows, found


def fisher(inside: Any, won: Any) -> tuple[Any, Any]:
    """Fisher's exact p of each member against success, and the difference of its rates inside and outside."""
    from scipy.stats import fisher_exact

    p, gap = np.ones(inside.shape[1]), np.zeros(inside.shape[1])
    for j, column in enumerate(inside.T):
        table = [[int((column & won).sum()), int((column & ~won).sum())],
                 [int((~column & won).sum()), int((~column & ~won).sum())]]  # fmt: skip
        test: Any = fisher_exact(table)
        p[j] = min(1.0, float(test.pvalue))
        if column.any() and not column.all():
            gap[j] = won[column].mean() - won[~column].mean()
    return p, gap


def marginals(plan: Any, values: Any) -> Any:
    """[order, member]: what a member adds to the value where it joins."""
    out = np.empty(plan.orders.shape)
    np.put_along_axis(out, plan.orders, np.diff(values[plan.steps], axis=1), axis=1)
    return out


def late_gains(plan: Any, values: Any) -> Any:
    """[order]: mean gain of one more head in the second half of the chain."""
    steps = np.diff(values[plan.steps], axis=1)
    return steps[:, steps.shape[1] // 2 :].mean(1)
