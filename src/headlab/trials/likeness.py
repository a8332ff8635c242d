"""How alike the heads of a layer are: of one parity against others, among halves that nobody named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlab.claims import Control
from headlab.heads import Grid
from headlab.measures import moments
from headlab.measures.edited import copying, edited, of_one_length, two_patterns
from headlab.measures.similarities import least_alike
from headlab.prompts import Encoded
from headlab.stats import Rank, rank
from headlab.stats.distances import LabelContrast, label_contrast, side_weights
from headlab.stats.figures import rounded
from headlab.stats.of_means import bootstrap_of_means, rank_over_draws
from headlab.trials.attention_scores import Array, even_side, matched_sides
from headlab.trials.pairs import clusters_of
from headlab.trials.sweeps import Scope

EXACT = 1e-6


Tested = tuple[LabelContrast, Rank, Array]
"""Within and between parity; the contrast's rank among KV-matched halves; the contrasts of those halves."""


def asked(scope: Scope) -> dict[str, Any]:
    return {k: scope.options[k] for k in ("queries", "sink")}


def prompts(scope: Scope) -> list[Encoded]:
    """Both formats of each pair."""
    return [e for p in scope.pairs for e in (p.clean, p.corrupted)]


def alike(scope: Scope, layer: int, **settings: Any) -> Array:
    """Correlation of every two heads in each prompt, [prompt, head, head]; NaN where a head's pattern is constant."""
    return moments(scope.lab, prompts(scope), layer, **settings).each()


def kv_groups(grid: Grid) -> list[int] | None:
    return None if grid.group_size == 1 else [grid.kv_group_of(h) for h in range(grid.n_heads)]


def defined(scope: Scope, tables: Array, apart: bool) -> tuple[Array, list[str]]:
    """The prompts' tables in which every correlation is defined, and their clusters (``apart``: each its own)."""
    named = [c for c in clusters_of(scope.pairs) for _ in (0, 1)]
    whole: Any = ~np.isnan(tables).any(axis=(1, 2))
    return tables[whole], [str(n) if apart else named[n] for n in np.flatnonzero(whole)]


def contrasted(scope: Scope, tables: Array, *, by_kv: bool = False, apart: bool = False) -> LabelContrast:
    """Heads of one parity (``by_kv``: of one KV group) against others, in prompts whose every correlation is defined.

    ``apart``: each prompt is a cluster of its own.
    """
    whole, clusters = defined(scope, tables, apart)
    groups, claim = kv_groups(scope.grid), scope.claim
    parity = ["odd" if h % 2 else "even" for h in range(scope.grid.n_heads)]
    return label_contrast(
        whole,
        groups if by_kv and groups is not None else parity,
        None if by_kv else groups,
        clusters,
        seed=scope.seed,
        permutations=max(100, claim.matched_sets),
        unit="prompts",
        alpha=claim.alpha,
    )


def tested(scope: Scope, tables: Array, at: int, *, apart: bool = False) -> Tested:
    grid, claim = scope.grid, scope.claim
    found = contrasted(scope, tables, apart=apart)
    rows, clusters = defined(scope, tables, apart)
    mean = rows.mean(0) if len(rows) else np.zeros((grid.n_heads, grid.n_heads))
    matched, sides = matched_sides(grid, at, claim.matched_sets, claim.seed)
    weights = side_weights(np.concatenate([even_side(grid)[None], sides]))
    own, *halves = weights @ mean[np.triu_indices(grid.n_heads, 1)]
    mirrored = bool((sides == 1 - even_side(grid)).all(1).any())  # a half and its complement are one division
    counted: Any = {"enumerated": matched.enumerated, "alpha": claim.alpha, "unit": "matched halves"}
    counted["least_ties"] = 2 if mirrored else 1
    if not len(rows):
        return found, rank(float(own), halves, **counted), np.array(halves)
    entries = rows[:, *np.triu_indices(grid.n_heads, 1)]
    drawn = bootstrap_of_means(entries, lambda means: means @ weights.T, clusters, unit="prompts", seed=scope.seed)
    return found, rank_over_draws(drawn, **counted), np.array(halves)


def checks(scope: Scope) -> list[Control]:
    lab, at, some = scope.lab, scope.layer, of_one_length(prompts(scope))

    def under(edits: Mapping[tuple[int, str], Callable[[Tensor], Tensor]]) -> Array:
        return moments(edited(lab, edits), some, at, **asked(scope)).each()

    own, again = under({}), under({(at, "pattern"): torch.clone})
    same = bool(np.array_equal(again, own, equal_nan=True))
    first, second = least_alike(np.nanmean(own, 0), lab.grid)
    copied = under(copying(lab.grid, at, first, second)).mean(0)
    likest = float(copied[first, second])
    np.fill_diagonal(copied, -np.inf)
    top = likest >= float(np.nanmax(copied)) - EXACT and likest > 1 - EXACT
    planted = under({(at, "pattern"): two_patterns})
    _, where, _ = tested(scope, planted, at, apart=True)
    fires = where.most_extreme and float(planted.mean(0)[0, 2]) > 1 - EXACT
    drift = 0.0 if same else float(np.nanmax(np.abs(again - own)))
    unmoved = f"writing every pattern back changes {'no' if same else 'a'} correlation of {len(some)} prompts"
    twins = (
        f"a head given another's queries (heads {first} and {second}, the least alike of a group) is the most like it: "
        f"{rounded(likest)}"
    )
    parted = f"one pattern for all even heads and one for all odd heads stands out among matched halves: {where}"
    return [
        Control(name="no-op", kind="negative", passed=same, words=unmoved, value=drift),
        Control(name="duplicate", kind="positive", passed=top, words=twins, value=likest),
        Control(name="planted-parity", kind="positive", passed=fires, words=parted, value=where.p),
    ]
