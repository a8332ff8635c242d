"""Metrics of sets tried on their outcome once the members' own effects are taken out: shuffles, renamings, a planted effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import Claim, Control
from headlab.designs import membership
from headlab.designs.spacings import families, metric_table, number
from headlab.effects import mean_recovery
from headlab.heads import Grid, Heads, pool
from headlab.stats import Estimate, Rank, clopper_pearson, holm, rank
from headlab.stats.after_members import Partial
from headlab.stats.spacing import rank_correlation, spacing
from headlab.trials.halves import patched_set
from headlab.trials.sweeps import Scope, Seen


def renamings(grid: Grid, model: Partial, drawn: Sequence[tuple[str, Heads]], outcome: Any, n: int, seed: int) -> Any:
    """[renaming] partial correlations with regularity when heads trade names within their KV group and groups trade places:
    the model computes the same, only names move.  Empty where spacing cannot be told from membership."""
    names = np.arange(grid.n_heads)

    def partial(order: Any) -> float | None:
        gaps = [spacing([int(order[h.index]) for h in heads], grid.n_heads).regularity for _, heads in drawn]
        metric = np.array([number(x) for x in gaps])
        return model.correlation(metric, outcome) if model.usable(metric) else None

    rng, found = np.random.default_rng(seed), []
    if partial(names) is None:
        return np.array([])
    for _ in range(n):
        groups = rng.permuted(names.reshape(grid.n_kv_heads, grid.group_size), axis=1)
        found.append(partial(np.argsort(rng.permutation(groups).ravel())))
    return np.array([f for f in found if f is not None])


def renamed(metric: Any, outcome: Any, inside: Any, names: Any, alpha: float) -> dict[str, Estimate | Rank]:
    """The rank of regularity among renamings, which binds, and the share that correlate as strongly either way.

    Shuffled sets are no null: what heads leave unexplained of a deterministic model is not exchangeable between sets.
    """
    if not len(names):
        why = "regularity cannot be told from the heads' own effects"
        return {"renamed:regularity": Estimate.undefined("renamings", 0, why)}
    here = Partial(inside, outcome).correlation(metric, outcome)
    share = clopper_pearson(int((abs(names) >= abs(here) - 1e-12).sum()), len(names), unit="renamings")
    where = rank(here, names, enumerated=False, alpha=alpha, unit="renamings", tolerance=1e-6)
    return {"rank:regularity": where, "renamed:regularity": share}


def tests(
    model: Partial, metrics: Mapping[str, Any], outcome: Any, success: Any, claim: Claim, n: int
) -> tuple[dict[str, Estimate | Rank], list[dict[str, Any]]]:
    """Effect, rank among ``n`` shuffles and raw correlation of every metric, Holm over metrics: numbers by name, and rows."""
    found: dict[str, Estimate | Rank] = {}
    rows = []
    for name, metric in metrics.items():
        effect = found[f"effect:{name}"] = model.effect(metric, outcome, "sets")
        row: dict[str, Any] = {"metric": name, "effect": effect.value, "low": effect.low, "high": effect.high}
        row |= {"n": effect.n, "unit": "sets", "p": None}
        if effect.defined:
            shuffled, here = model.shuffled(metric, outcome, n, claim.seed), model.correlation(metric, outcome)
            up = rank(here, shuffled, enumerated=False, alpha=claim.alpha, unit="shuffles")
            both = rank(abs(here), np.abs(shuffled), enumerated=False, alpha=claim.alpha, unit="shuffles")
            found[f"rank:{name}"] = up
            low, high = model.span(here)
            row |= {"p": both.p, "p_more": up.p, "correlation": here, "correlation_low": low, "correlation_high": high}
        if not np.isnan(metric).any():
            raw = rank_correlation(metric, success, unit="sets", seed=claim.seed, shuffles=999).correlation
            found[f"raw:{name}"] = raw
            row |= {"raw": raw.value, "raw_low": raw.low, "raw_high": raw.high}
        rows.append(row)
    for row, p in zip(rows, holm([r["p"] for r in rows]), strict=True):
        row["p_holm"] = None if np.isnan(p) else float(p)
    return found, rows


def planted_control(metric: Any, outcome: Any, inside: Any, claim: Claim) -> Control:
    """A metric that does matter must be found: shuffled residuals, and one standard deviation of them by regularity."""
    model = Partial(inside, outcome)
    passed, p = False, None
    words = "an effect of regularity cannot be planted: the members determine it, or there are too few sets"
    if model.usable(metric):
        left, right = model.rest(metric), model.rest(outcome)
        noise = np.random.default_rng(claim.seed + 1).permutation(right)
        made = outcome - right + noise + max(float(right.std()), 1e-6) * left / left.std()
        shuffled = model.shuffled(metric, made, 499, claim.seed)
        found = rank(model.correlation(metric, made), shuffled, enumerated=False, alpha=claim.alpha, unit="shuffles")
        passed, p = found.outcome == "upheld", found.p
        words = f"an effect of regularity as large as what the heads leave unexplained, planted in the outcomes, gets {found}"
    return Control(name="planted-metric", kind="positive", passed=passed, value=p, words=words)


Drawn = list[tuple[str, Heads]]
"""Family and set."""


class Regressed:
    """What was drawn and what it recovers: ``outcome`` and ``share`` of pairs repaired [set], ``inside`` [set, head],
    ``metrics`` [set] by name, the model that takes the members' own effects out, and regularity among renamings."""

    def __init__(self, seen: Seen) -> None:
        scope, one = seen.scope, seen.pairs("patterns")
        self.drawn = drawn(scope)
        edited = seen.values("patterns", [patched_set(h) for _, h in self.drawn])
        self.outcome = mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy())
        self.share = (edited > 0).mean(1)
        self.inside = np.array(list(membership([h for _, h in self.drawn], members(scope))))
        self.metrics = metric_table(self.drawn, scope.grid.n_heads)
        self.model = Partial(self.inside, self.outcome)
        self.names = renamings(
            scope.grid, self.model, self.drawn, self.outcome, int(scope.options["renamings"]), scope.seed
        )

    @property
    def regularity(self) -> Any:
        return self.metrics["regularity"]


def size(scope: Scope) -> int:
    wanted = scope.options["size"] or max(3, scope.grid.n_heads // 4)  # two heads have one gap
    return min(int(wanted), len(members(scope)))


def members(scope: Scope) -> Heads:
    return pool(scope.grid, scope.layer, scope.claim.pool)


def drawn(scope: Scope) -> Drawn:
    return families(members(scope), size(scope), n=scope.claim.subsets_per_size, seed=scope.seed)
