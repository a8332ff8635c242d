"""Are heads of one parity more alike than heads of different parity?

1. For every prompt (both formats): the correlation of every two heads' attention patterns, and of what they write.
2. Mean similarity within the even heads, within the odd heads and between them, with intervals over pairs.
3. The null: exchange which heads are called even, within KV groups (heads that share keys are alike for that reason).
   Two heads share a row of the table with many others, so no entry is ever tested as if it stood alone.
4. The same in every layer, Holm-adjusted; similarity within KV groups beside it.
5. The published reading (a t-test over pairs of heads) and the naive one (no null).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from headlab.effects import Figure, Table
from headlab.engine.model import ModelError
from headlab.stats import Estimate, holm
from headlab.stats.distances import LabelContrast
from headlab.trials.attention_scores import Array, naive, no_halves
from headlab.trials.charts import estimates, null
from headlab.trials.flow import NO_ANSWERS, Method, OnPairs, without_ranks
from headlab.trials.likeness import Tested, alike, asked, checks, contrasted, kv_groups, tested
from headlab.trials.sweeps import Seen, Told


def too_few(case: Any) -> str:
    lab = case.lab
    few = f"{lab.name} has {lab.grid.n_heads} heads in each layer: no two of one parity to compare"
    return no_halves(case) or (few if lab.grid.n_heads < 4 else "")


def tables(seen: Seen) -> dict[int, Array]:
    return {layer: alike(seen.scope, layer, **asked(seen.scope)) for layer in sorted(seen.scope.lab.attentions)}


def by_layer(seen: Seen) -> dict[int, Tested]:
    return {at: tested(seen.scope, t, at) for at, t in seen.once(tables).items()}


def told(found: LabelContrast, arm: str = "", *, unruled: bool = False) -> Iterator[Told]:
    yield Told("within:even", "similarity of two even heads", found.within["even"], arm, unruled)
    yield Told("within:odd", "similarity of two odd heads", found.within["odd"], arm, unruled)
    yield Told("between", "similarity of an even and an odd head", found.between, arm, unruled)
    yield Told("contrast:parity", "within minus between parity", found.contrast, arm, unruled)


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
    yield from told(contrasted(scope, written), "what heads write", unruled=True)


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
        yield Told("ttest:even-between", "p of the published t-test", test, "", unruled=True)


def layers(seen: Seen) -> Table:
    found = seen.once(by_layer)
    rows = [
        {"layer": at, **{t.name: t.plain.value for t in told(one)}, "low": one.contrast.low, "high": one.contrast.high}
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
    return null("null", title, caption, halves, gap, "parity", x_title, where.p, of="halves")


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
