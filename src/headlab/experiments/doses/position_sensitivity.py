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

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import decide
from headlab.engine.model import Lab
from headlab.experiments.attention.watched import (
    Array,
    Halves,
    by_layer,
    chosen_layer,
    clusters_of,
    estimates_figure,
    grids,
    halves,
    in_format,
    layers_figure,
    naive,
    no_halves,
    null_figure,
    untestable,
    without_ranks,
)
from headlab.experiments.base import Bench, Experiment, Outcome, named
from headlab.heads import Grid, even, odd
from headlab.measures import DECIMALS, PublishedClasses
from headlab.measures import bandwidth as attention_bandwidth
from headlab.measures.edited import CONTROLS, controls
from headlab.prompts import Encoded
from headlab.stats import Estimate, bootstrap_mean, bootstrap_ratio
from headlab.store import NamedEstimate, Reading

VARIANTS = {
    "simple": "original",
    "prefix-short": "short prefix",
    "prefix-long": "long prefix",
    "suffix": "cue first",
    "wrapped": "wrapped",
    "spaced": "spaced",
}
STATISTICS = ("ratio:variance", "variance:even", "variance:odd", "contrast:variance", "rank:variance", "ratio:share")


def position_sensitivity(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim, lab = bench.claim, bench.lab
    if why := no_halves(lab):
        return untestable(bench, why)
    at, scan = chosen_layer(bench)
    clusters, queries = clusters_of(bench.encoded), bench.option("queries", EXPERIMENT)
    prompts = {name: [in_format(p, name, lab.tokenizer) for p in bench.encoded] for name in VARIANTS}
    seen = {name: _numeric(lab, v, queries=queries, sink="out") for name, v in prompts.items()}
    spread = variances([grids(t, "relative") for t in seen.values()])
    plain = variances([grids(t, "share") for t in seen.values()])
    found = halves(spread[at], clusters, lab.grid, at, claim, low=True)
    ratio = ratio_of(spread[at], lab.grid, at, clusters, bench.seed)
    shares = ratio_of(plain[at], lab.grid, at, clusters, bench.seed)
    checks = controls(lab, prompts["simple"], at, _measure(at))
    words = "token roles, variance over the six variants of attention relative to uniform, matched halves as null"
    ruled: dict[str, Any] = {**found.findings("variance"), "ratio:variance": ratio, "ratio:share": shares}
    estimates = [
        named("ratio:variance", "variance of even heads over that of odd ones, relative attention", ratio, ""),
        named("ratio:share", "the same for plain shares, which follow the length of the prompt", shares, ""),
        *found.estimates("variance", "variance over the six variants"),
    ]
    verdict = decide(claim, ruled, checks)
    readings = [
        Reading(protocol="standard", words=words, verdict=verdict, estimates=tuple(estimates)),
        naive(found.gap, "variance", checks, low=True),
    ]
    if "published" in claim.readings:
        readings.append(_published(bench, prompts, at, clusters, checks))
    layers = by_layer(spread, clusters, lab.grid, claim, low=True)
    return Outcome(
        readings,
        [
            _figure(seen, at, clusters, lab.grid, bench.seed),
            null_figure(found, at, "Variance over the position variants"),
            layers_figure(layers, "Variance over the position variants"),
        ],
        {"variants": _means(seen), "variance": _table(spread), "layers": pd.DataFrame(layers)},
        {"ok": True, "reason": "", "rule": "none: what heads attend to is measured, not whether answers are right"},
        settings={"layer": at, "layer_scan": scan, "queries": queries, "variants": list(VARIANTS)},
        sections=_SECTIONS,
    )


def _numeric(lab: Lab, encoded: Sequence[Encoded], classes: Any = DECIMALS, **settings: Any) -> Any:
    table = attention_bandwidth(lab, encoded, classes, **settings)
    return table[table["token_class"] == "numeric"].reset_index(drop=True)


def _measure(at: int) -> Any:
    def share(lab: Lab, encoded: Sequence[Encoded], tokens: int) -> Array:
        return grids(_numeric(lab, encoded, sink="out", relative=False, layers=[at], tokens=tokens), "share")[at]

    return share


def variances(by_variant: Sequence[Mapping[int, Array]]) -> dict[int, Array]:
    """Variance over variants (n − 1), [pair, head] by layer."""
    return {at: np.stack([v[at] for v in by_variant]).var(0, ddof=1) for at in by_variant[0]}


def ratio_of(spread: Array, grid: Grid, at: int, clusters: Sequence[str], seed: int) -> Estimate:
    """Mean variance of the even heads over that of the odd ones, bootstrap over pairs."""
    first, second = (spread[:, list(heads.at(at))].mean(1) for heads in (even(grid, at), odd(grid, at)))
    return bootstrap_ratio(first, second, clusters, unit="pairs", seed=seed)


def _published(
    bench: Bench, prompts: Mapping[str, Sequence[Encoded]], at: int, clusters: Sequence[str], checks: Any
) -> Reading:
    """Attention to numeric substrings summed over all queries, as the published script did; spread over the variants."""
    lab, classes, summed = bench.lab, PublishedClasses(bench.lab.tokenizer), []
    for encoded in prompts.values():
        table = _numeric(lab, encoded, classes, queries="all", sink="in", relative=False, layers=[at])
        summed.append(grids(table.assign(sum=table["share"] * table["queries"]), "sum"))
    spread = variances(summed)[at]
    found: Halves = halves(spread, clusters, lab.grid, at, bench.claim, low=True)
    ratio = ratio_of(spread, lab.grid, at, clusters, bench.seed)
    label = "variance of summed attention, by substring"
    estimates: list[NamedEstimate] = [
        named("ratio:variance", "variance of even heads over that of odd ones", ratio, ""),
        *found.estimates("variance", label)[:3],
    ]
    return Reading(
        protocol="published",
        words="attention summed over all queries (it grows with the prompt), tokens by substring; the published script read "
        "one pair, this reads all",
        verdict=decide(without_ranks(bench.claim), {**found.findings("variance"), "ratio:variance": ratio}, checks),
        estimates=tuple(estimates),
    )


def _means(seen: Mapping[str, Any]) -> Any:
    import pandas as pd

    columns = ["share", "uniform", "relative", "tokens"]
    parts = [
        t.groupby(["layer", "head"], as_index=False)[columns].mean().assign(variant=name, pairs=t["prompt"].nunique())
        for name, t in seen.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _table(spread: Mapping[int, Array]) -> Any:
    import pandas as pd

    rows = [
        {
            "layer": at,
            "head": h,
            "parity": "odd" if h % 2 else "even",
            "variance": float(np.nanmean(x[:, h])),
            "pairs": len(x),
        }
        for at, x in spread.items()
        for h in range(x.shape[1])
    ]
    return pd.DataFrame(rows)


def _figure(seen: Mapping[str, Any], at: int, clusters: Sequence[str], grid: Grid, seed: int) -> Any:
    rows = []
    for name, table in seen.items():
        values = grids(table, "relative")[at]
        for half, heads in (("even heads", even(grid, at)), ("odd heads", odd(grid, at))):
            one = bootstrap_mean(values[:, list(heads.at(at))].mean(1), clusters, unit="pairs", seed=seed)
            rows.append((VARIANTS[name], half, one))
    return estimates_figure(
        "variants",
        f"Attention to the numbers in six places, layer {at}, times uniform",
        "Means over heads and pairs with 95 % intervals over pairs; the line is uniform causal attention. A steady half keeps "
        "its place from variant to variant.",
        rows,
        "attention on numbers, times uniform",
        1.0,
    )


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "The variants differ in words as well as in position, so a head that reads the words moves too. A head that looks "
            "nowhere is perfectly steady: read the variance beside the means. A variance grows with the level of attention; "
            "a half that looks at numbers more may vary more for that reason alone."
        ),
    }
]

EXPERIMENT = Experiment(
    "position-sensitivity",
    "Is the attention of even heads to the numbers steadier when the numbers move?",
    position_sensitivity,
    STATISTICS,
    controls=CONTROLS,
    options={"queries": "last"},
    needs="numbers",
)
