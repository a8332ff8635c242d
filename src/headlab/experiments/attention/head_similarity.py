"""Are heads of one parity more alike than heads of different parity?

1. For every prompt (both formats): the correlation of every two heads' attention patterns, and of what they write.
2. Mean similarity within the even heads, within the odd heads and between them, with intervals over pairs.
3. The null: exchange which heads are called even, within KV groups (heads that share keys are alike for that reason).
   Two heads share a row of the table with many others, so no entry is ever tested as if it stood alone.
4. The same in every layer, Holm-adjusted; similarity within KV groups beside it.
5. The published reading (a t-test over pairs of heads) and the naive one (no null).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlab.claims import Control
from headlab.effects import Figure, Table
from headlab.engine.model import ModelError
from headlab.heads import Grid
from headlab.measures import moments
from headlab.measures.edited import copying, edited, of_one_length, two_patterns
from headlab.measures.similarities import least_alike
from headlab.prompts import Encoded
from headlab.stats import Estimate, Rank, holm, rank
from headlab.stats.distances import LabelContrast, label_contrast, side_contrasts
from headlab.stats.figures import rounded
from headlab.trials.attention_scores import NO_ANSWERS, Array, even_side, matched_sides, naive, no_halves
from headlab.trials.charts import estimates, null
from headlab.trials.flow import Method, OnPairs, Scope, Seen, Told, without_ranks
from headlab.trials.pairs import clusters_of

EXACT = 1e-6
Tested = tuple[LabelContrast, Rank, Array]
"""Within and between parity; the contrast's rank among KV-matched halves; the contrasts of those halves."""


def too_few(case: Any) -> str:
    lab = case.lab
    few = f"{lab.name} has {lab.grid.n_heads} heads in each layer: no two of one parity to compare"
    return no_halves(case) or (few if lab.grid.n_heads < 4 else "")


def asked(scope: Scope) -> dict[str, Any]:
    return {k: scope.options[k] for k in ("queries", "sink")}


def prompts(scope: Scope) -> list[Encoded]:
    """Both formats of each pair."""
    return [e for p in scope.pairs for e in (p.clean, p.corrupted)]


def alike(scope: Scope, layer: int, **settings: Any) -> Array:
    """Correlation of every two heads in each prompt, [prompt, head, head]; NaN where a head's pattern is constant."""
    return moments(scope.lab, prompts(scope), layer, **settings).each()


def tables(seen: Seen) -> dict[int, Array]:
    return {layer: alike(seen.scope, layer, **asked(seen.scope)) for layer in sorted(seen.scope.lab.attentions)}


def kv_groups(grid: Grid) -> list[int] | None:
    return None if grid.group_size == 1 else [grid.kv_group_of(h) for h in range(grid.n_heads)]


def contrasted(scope: Scope, tables: Array, *, by_kv: bool = False, apart: bool = False) -> LabelContrast:
    """Heads of one parity (``by_kv``: of one KV group) against others, in prompts whose every correlation is defined.

    ``apart``: each prompt is a cluster of its own.
    """
    named = [c for c in clusters_of(scope.pairs) for _ in (0, 1)]
    whole: Any = ~np.isnan(tables).any(axis=(1, 2))
    clusters = [str(n) if apart else named[n] for n in np.flatnonzero(whole)]
    groups, claim = kv_groups(scope.grid), scope.claim
    parity = ["odd" if h % 2 else "even" for h in range(scope.grid.n_heads)]
    return label_contrast(
        tables[whole],
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
    rows = tables[~np.isnan(tables).any(axis=(1, 2))]
    mean = rows.mean(0) if len(rows) else np.zeros((grid.n_heads, grid.n_heads))
    matched, sides = matched_sides(grid, at, claim.matched_sets, claim.seed)
    halves = side_contrasts(mean, sides)
    mirrored = bool((sides == 1 - even_side(grid)).all(1).any())  # a half and its complement are one division
    own, ties = float(side_contrasts(mean, even_side(grid)[None])[0]), 2 if mirrored else 1
    counted = {"enumerated": matched.enumerated, "alpha": claim.alpha, "unit": "matched halves"}
    return found, rank(own, halves, **counted, least_ties=ties), halves


def by_layer(seen: Seen) -> dict[int, Tested]:
    return {at: tested(seen.scope, t, at) for at, t in seen.once(tables).items()}


def told(found: LabelContrast, arm: str = "", *, shown: bool = False) -> Iterator[Told]:
    yield Told("within:even", "similarity of two even heads", found.within["even"], arm, shown)
    yield Told("within:odd", "similarity of two odd heads", found.within["odd"], arm, shown)
    yield Told("between", "similarity of an even and an odd head", found.between, arm, shown)
    yield Told("contrast:parity", "within minus between parity", found.contrast, arm, shown)


def by_kv(seen: Seen) -> LabelContrast | None:
    scope = seen.scope
    here = seen.once(tables)[scope.layer]
    return None if kv_groups(scope.grid) is None else contrasted(scope, here, by_kv=True)


def numbers(seen: Seen) -> Iterator[Told]:
    """Of patterns; between KV groups; and of what heads write, where a projection takes z itself."""
    scope = seen.scope
    found, where, _ = seen.once(by_layer)[scope.layer]
    yield from told(found)
    yield Told("rank:parity", "matched halves with a contrast at least as large", where, "")
    if kv := seen.once(by_kv):
        yield Told("contrast:kv", "within minus between KV groups", kv.contrast, "")
    try:
        written = alike(scope, scope.layer, kind="output", queries="last")
    except ModelError:
        return
    yield from told(contrasted(scope, written), "what heads write", shown=True)


def published(seen: Seen) -> Iterator[Told]:
    """All queries and keys, and a t-test that takes pairs of heads for independent rows."""
    from scipy.stats import ttest_ind

    whole = alike(seen.scope, seen.scope.layer, queries="all", sink="in")
    yield from told(contrasted(seen.scope, whole))
    mean = np.nanmean(whole, 0)
    left, right = np.triu_indices(len(mean), 1)
    evens, across = (left % 2 == 0) & (right % 2 == 0), left % 2 != right % 2
    if evens.sum() > 1:
        compared: Any = ttest_ind(mean[left, right][evens], mean[left, right][across])
        p, n, note = (
            float(compared[1]),
            int(evens.sum() + across.sum()),
            "pairs share heads, so its rows are not independent",
        )
        test = Estimate(p, p, p, n, "pairs of heads", "t-test", note=note)
        yield Told("ttest:even-between", "p of the published t-test", test, "", shown=True)


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


def layers(seen: Seen) -> Table:
    found = seen.once(by_layer)
    rows = [
        {"layer": at, **{t.name: t.found.value for t in told(one)}, "low": one.contrast.low, "high": one.contrast.high}
        | {"n": one.contrast.n, "p": where.p}
        for at, (one, where, _) in found.items()
    ]
    return pd.DataFrame(rows).assign(p_holm=holm([where.high for _, where, _ in found.values()]).tolist())


def pairs(seen: Seen) -> Table:
    grid = seen.scope.grid
    left, right = np.triu_indices(grid.n_heads, 1)
    kinds = {"head": left, "other": right, "same_parity": left % 2 == right % 2}
    kinds["same_kv"] = left // grid.group_size == right // grid.group_size
    parts = [
        pd.DataFrame({**kinds, "layer": at, "similarity": np.nanmean(t, 0)[left, right], "prompts": len(t)})
        for at, t in seen.once(tables).items()
    ]
    return pd.concat(parts, ignore_index=True)


def similarity(seen: Seen) -> Figure:
    found, kv = seen.once(by_layer)[seen.scope.layer][0], seen.once(by_kv)
    rows = [
        ("two even heads", "parity", found.within["even"]),
        ("two odd heads", "parity", found.within["odd"]),
        ("an even and an odd head", "parity", found.between),
        *([("two heads of different KV groups", "KV group", kv.between)] if kv else []),
    ]
    title = f"How alike the attention of two heads of layer {seen.scope.layer} is"
    caption = (
        "Mean correlation of patterns with 95 % intervals over pairs of prompts. The claim asks for high values within and low "
        "ones between; whether the difference is more than that of any two halves is the other figure."
    )
    return estimates("similarity", title, caption, rows, "correlation", None)


def among(seen: Seen) -> Figure:
    found, where, halves = seen.once(by_layer)[seen.scope.layer]
    gap = found.contrast
    title = f"Within minus between parity, among {where.n_sets:,} ways to halve layer {seen.scope.layer}"
    caption = (
        "Each bar counts halves with as many heads in each KV group by how much more alike their heads are within than "
        f"between. The line is parity, its band the 95 % interval over {gap.n} {gap.unit}. "
        f"{where.at_least_as_extreme} of {where.n_sets:,} are at least as large: p = {where.p:.3g}."
    )
    x_title = "similarity within minus similarity between"
    return null("null", title, caption, halves, gap, "parity", x_title, where.p)


EXPERIMENT = OnPairs(
    slug="head-similarity",
    question="Are heads of one parity more alike than heads of different parity?",
    statistics=("within:even", "within:odd", "between", "contrast:parity", "rank:parity", "contrast:kv"),
    controls=("no-op", "duplicate", "planted-parity"),
    options={"queries": "all", "sink": "out"},
    cannot=too_few,
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            "correlation of patterns in each prompt, both formats; labels exchanged within KV groups",
            numbers=(numbers,),
            controls=(lambda seen: seen.of_trial(checks),),
            figures=(similarity, among),
            tables={"similarity": pairs, "layers": layers},
            settings=lambda seen: asked(seen.scope),
            also=(naive("parity"),),
        ),
        "published": Method(
            "whole patterns, the sink counted, pairs of heads taken for independent rows of a t-test; masked entries left out",
            numbers=(published,),
            controls=(lambda seen: seen.of_trial(checks),),
            asks=without_ranks,
        ),
    },
    sections={
        "When this misleads": (
            "Heads that rest on the first token are alike for that reason alone, so it is left out. Under grouped queries, "
            "heads of one group share keys and are alike before anything else; labels are exchanged inside groups only. "
            "A t-test over pairs of heads takes each head many times and finds differences everywhere. Alike in attention is "
            "not alike in effect: two heads may look at one token and write different things."
        )
    },
)
