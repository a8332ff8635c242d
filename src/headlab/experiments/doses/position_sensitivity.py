"""Is the attention of even heads to the numbers steadier when the numbers move?

1. Every pair is asked in the six position variants: the same two numbers further in, after a prefix, before the cue,
   wrapped and spaced.
2. For each head and pair: the variance, over the variants, of attention to the numbers relative to uniform causal
   attention (what changes when the share of number tokens changes is not the head's doing).
3. The ratio of even heads' mean variance to odd heads', with an interval over pairs, and its rank among KV-matched
   halves; the same in every layer, Holm-adjusted.
4. The published reading (spread of summed attention, which grows with the prompt) and the naive one (no null).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure, Table
from headlab.heads import Grid, even, odd
from headlab.measures import PublishedClasses
from headlab.measures.edited import CONTROLS, controls
from headlab.prompts import Encoded
from headlab.stats import Estimate, bootstrap_mean, bootstrap_ratio
from headlab.trials.attention_scores import Array, Watched, grids, naive, no_halves, share_of, sides, to_numbers
from headlab.trials.charts import estimates
from headlab.trials.flow import NO_ANSWERS, Method, OnPairs, without_ranks
from headlab.trials.pairs import clusters_of, in_format
from headlab.trials.sweeps import Scope, Seen, Told

VARIANTS = {
    "simple": "original",
    "prefix-short": "short prefix",
    "prefix-long": "long prefix",
    "suffix": "cue first",
    "wrapped": "wrapped",
    "spaced": "spaced",
}
Variances = dict[int, Array]


def prompts(scope: Scope) -> dict[str, list[Encoded]]:
    """Every pair in every variant."""
    return {name: [in_format(p, name, scope.lab.tokenizer) for p in scope.pairs] for name in VARIANTS}


def tables(seen: Seen) -> dict[str, Any]:
    queries, every = seen.scope.options["queries"], seen.of_trial(prompts)
    return {k: to_numbers(seen.scope.lab, v, queries=queries, sink="out") for k, v in every.items()}


def variances(by_variant: Sequence[Mapping[int, Array]]) -> Variances:
    """Variance over variants (n − 1), [pair, head] by layer."""
    return {at: np.stack([v[at] for v in by_variant]).var(0, ddof=1) for at in by_variant[0]}


def spread(seen: Seen) -> Variances:
    return variances([grids(t, "relative") for t in seen.once(tables).values()])


VARIANCE = Watched(spread, "Variance over the position variants", low=True)


def ratio_of(spread: Array, grid: Grid, at: int, clusters: Sequence[str], seed: int) -> Estimate:
    """Mean variance of the even heads over that of the odd ones, bootstrap over pairs (variances are skewed and clusters few:
    expanded)."""
    first, second = (spread[:, list(h.at(at))].mean(1) for h in (even(grid, at), odd(grid, at)))
    return bootstrap_ratio(first, second, clusters, unit="pairs", seed=seed, expanded=True)


def ratio(scope: Scope, spread: Array) -> Estimate:
    return ratio_of(spread, scope.grid, scope.layer, clusters_of(scope.pairs), scope.seed)


def ratios(seen: Seen) -> Iterator[Told]:
    scope, at = seen.scope, seen.scope.layer
    own = ratio(scope, seen.once(spread)[at])
    yield Told("ratio:variance", "variance of even heads over that of odd ones, relative attention", own, "")
    plain = ratio(scope, variances([grids(t, "share") for t in seen.once(tables).values()])[at])
    yield Told("ratio:share", "the same for plain shares, which follow the length of the prompt", plain, "")


def summed(seen: Seen) -> Iterator[Told]:
    """Attention to numeric substrings summed over all queries, as the published script did; spread over the variants."""
    scope, at, by_variant = seen.scope, seen.scope.layer, []
    classes = PublishedClasses(scope.lab.tokenizer)
    for encoded in seen.of_trial(prompts).values():
        table = to_numbers(scope.lab, encoded, classes, queries="all", sink="in", relative=False, layers=[at])
        by_variant.append(grids(table.assign(sum=table["share"] * table["queries"]), "sum"))
    found = variances(by_variant)[at]
    yield Told("ratio:variance", "variance of even heads over that of odd ones", ratio(scope, found), "")
    yield from sides(scope, found, low=True).told(
        "variance", "variance of summed attention, by substring", ranked=False
    )


def checks(scope: Scope) -> list[Control]:
    return controls(scope.lab, prompts(scope)["simple"], scope.layer, share_of(scope.layer))


def means(seen: Seen) -> Table:
    columns = ["share", "uniform", "relative", "tokens"]
    parts = [
        t.groupby(["layer", "head"], as_index=False)[columns].mean().assign(variant=name, pairs=t["prompt"].nunique())
        for name, t in seen.once(tables).items()
    ]
    return pd.concat(parts, ignore_index=True)


def by_head(seen: Seen) -> Table:
    rows = [
        {"layer": at, "head": h, "parity": "odd" if h % 2 else "even", "variance": float(np.nanmean(x[:, h]))}
        | {"pairs": len(x)}
        for at, x in seen.once(spread).items()
        for h in range(x.shape[1])
    ]
    return pd.DataFrame(rows)


def variants(seen: Seen) -> Figure:
    rows, scope = [], seen.scope
    for name, table in seen.once(tables).items():
        values = grids(table, "relative")[scope.layer]
        for half, heads in (("even heads", even), ("odd heads", odd)):
            mean = values[:, list(heads(scope.grid, scope.layer).at(scope.layer))].mean(1)
            one = bootstrap_mean(mean, clusters_of(scope.pairs), unit="pairs", seed=scope.seed)
            rows.append((VARIANTS[name], half, one))
    title = f"Attention to the numbers in six places, layer {scope.layer}, times uniform"
    caption = (
        "Means over heads and pairs with 95 % intervals over pairs; the line is uniform causal attention. A steady half keeps "
        "its place from variant to variant."
    )
    return estimates("variants", title, caption, rows, "attention on numbers, times uniform", 1.0)


EXPERIMENT = OnPairs(
    slug="position-sensitivity",
    question="Is the attention of even heads to the numbers steadier when the numbers move?",
    statistics=(
        *("ratio:variance", "variance:even", "variance:odd", "contrast:variance", "rank:variance", "ratio:share"),
    ),
    controls=CONTROLS,
    options={"queries": "last"},
    needs="numbers",
    cannot=no_halves,
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            "token roles, variance over the six variants of attention relative to uniform, matched halves as null",
            numbers=(ratios, VARIANCE.told("variance", "variance over the six variants")),
            controls=(lambda seen: seen.of_trial(checks),),
            figures=(variants, VARIANCE.null, VARIANCE.curve),
            tables={"variants": means, "variance": by_head, "layers": VARIANCE.layers},
            settings=lambda seen: {"queries": seen.scope.options["queries"], "variants": list(VARIANTS)},
            also=(naive("variance", low=True),),
        ),
        "published": Method(
            "attention summed over all queries (it grows with the prompt), tokens by substring; the published script read "
            "one pair, this reads all",
            numbers=(summed,),
            controls=(lambda seen: seen.of_trial(checks),),
            asks=without_ranks,
        ),
    },
    sections={
        "When this misleads": (
            "The variants differ in words as well as in position, so a head that reads the words moves too. A head that looks "
            "nowhere is perfectly steady: read the variance beside the means. A variance grows with the level of attention; "
            "a half that looks at numbers more may vary more for that reason alone."
        )
    },
)
