"""Do the clusters of heads by their weights tell what the heads do?

1. Effects of every head, in every layer: the recovery of the logit difference when it alone is patched, and the recovery
   that is lost when it is left out of a patch of the whole layer; their Euclidean distance between heads.
2. Weight distance (directions of W_QK and W_OV, no norms, nothing repeated) against effect distance: Mantel's test with rank
   correlation, heads exchanged within KV groups; other features of the weights and other layers beside it, Holm-adjusted.
3. Prediction: the effects of each head from the heads nearest to it by weights, itself and its KV group left out, against
   the mean of the other heads; the same of exchanged heads is the null.
4. Clusters by weights (two beyond what KV groups explain; the best silhouette) against groups by effects: adjusted Rand
   index, among effects dealt out again within KV groups.
5. The published reading: W_Q, W_K and W_V each cut in two, each cluster patched; right when one repairs and the other does
   not.  Beside it how often two sets do so that nobody named, of the same sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, Control, decide
from headlab.engine.model import ModelError
from headlab.experiments.attention.watched import chosen_layer, untestable
from headlab.experiments.base import Bench, Experiment, Outcome, eligibility, named
from headlab.experiments.heads.head_effects import profiles
from headlab.experiments.heads.patched_sets import checked
from headlab.experiments.weights.behaviour_figures import figures
from headlab.experiments.weights.set_test import set_test
from headlab.heads import Grid
from headlab.measures.correspondence import (
    FEATURES,
    FIRST,
    Forecast,
    agreement,
    forecast,
    matching,
    nearest,
    parting_table,
    rank_correlations,
    skills,
    smoothest,
    weight_tables,
)
from headlab.measures.head_effects import EFFECTS, Profiles, effect_distances
from headlab.measures.weight_nulls import reordered
from headlab.measures.weights import HeadWeights, head_weights
from headlab.stats import Estimate, Rank, holm
from headlab.stats.agreement import ClusterTest
from headlab.stats.clustering import LEAST
from headlab.stats.distances import Mantel
from headlab.stats.figures import rounded
from headlab.stats.views import principal_coordinates
from headlab.store import NamedEstimate, Reading

STATISTICS = (
    "mantel:*",
    "rank:mantel",
    "rank:mantel:*",
    "prediction:skill",
    "rank:prediction",
    "ari:*",
    "rank:ari:*",
    "sets:*",
)
EXACT = 1e-9
OWN = "two"
CUTS = {OWN: f"{FEATURES[FIRST]} beyond KV groups, two clusters", FIRST: f"{FEATURES[FIRST]}, best silhouette"}
_WORDS = "distances of directions of W_QK and W_OV against distances of effects; heads exchanged within KV groups"


@dataclass(frozen=True)
class Found:
    """One layer: weight distances by feature, effects, and what the one says of the other."""

    layer: int
    tables: Mapping[str, Any]
    effects: Profiles
    mantels: Mapping[str, Mantel]
    forecast: Forecast
    groups: Mapping[str, ClusterTest]


def cluster_behaviour(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    lab, claim = bench.lab, bench.claim
    if lab.grid.n_heads < LEAST:
        return untestable(
            bench, f"{lab.name} has {lab.grid.n_heads} heads in each layer: at least {LEAST} are compared"
        )
    at, scan = chosen_layer(bench)
    lab.attention_of(at)
    try:
        weights = head_weights(lab)
        layers = [n for n in sorted(weights.layers) if n == at or bench.option("all_layers", EXPERIMENT)]
        tables = {n: weight_tables(weights, n) for n in layers}
        own = {n: parting_table(weights, n) for n in layers}
    except ModelError as error:
        return untestable(bench, str(error))
    able = eligibility(bench, PROTOCOLS["standard"])
    pairs = able.usable(bench)
    table, checks = checked(bench, PROTOCOLS["standard"], pairs, at)
    kept = pairs[: bench.option("pairs_by_head", EXPERIMENT)]
    found = {n: _found(bench, n, tables[n], own[n], profiles(bench, kept, n)) for n in layers}
    here = found[at]
    checks = [*checks, *_controls(bench, weights, here)]
    numbers, ruled = _estimates(bench, here)
    readings = [
        Reading(
            protocol="standard",
            words=_WORDS,
            verdict=decide(claim, ruled, checks, ineligible=able.reason),
            estimates=tuple(numbers),
        )
    ]
    sets = None
    if "published" in claim.readings:
        sets = set_test(bench, weights, at, checks)
        readings.append(sets.reading)
    return Outcome(
        readings,
        figures(bench, here, list(found.values())),
        {
            "correspondence": _correspondence(found), "heads": _heads(bench, found), "pairs_of_heads": _pairs(bench, here),
            "effects": table, **({} if sets is None else {"sets": pd.DataFrame(sets.rows)}),
        },
        able.plain(),
        settings={"layer": at, "layer_scan": scan, "feature": FIRST, "effects": dict(EFFECTS), "pairs_by_head": len(kept)},
        sections=_SECTIONS,
    )  # fmt: skip


def _found(bench: Bench, layer: int, tables: Mapping[str, Any], own: Any, effects: Profiles) -> Found:
    claim, grid = bench.claim, bench.lab.grid
    common: dict[str, Any] = {"permutations": max(100, claim.matched_sets), "seed": claim.seed, "alpha": claim.alpha}
    profile = effects.profile
    apart = effect_distances(profile)
    return Found(
        layer, tables, effects,
        {feature: agreement(table, apart, grid, **common) for feature, table in tables.items()},
        forecast(tables[FIRST], profile, grid, bench.option("neighbours", EXPERIMENT), **common),
        {OWN: matching(own, apart, grid, k=2, **common), FIRST: matching(tables[FIRST], apart, grid, **common)},
    )  # fmt: skip


# -- numbers ------------------------------------------------------------------------------------------------


def _resampled(value: float | None, drawn: Any, n: int, seed: int, note: str) -> Estimate:
    """A number of these heads; its interval is over the pairs that their effects were measured on."""
    whole = np.asarray(drawn)[np.isfinite(drawn)]
    if value is None or not len(whole):
        return Estimate.undefined("pairs", n, note)
    low, high = np.quantile(whole, [0.025, 0.975])
    return Estimate(
        value, min(float(low), value), max(float(high), value), n, "pairs", "bootstrap over pairs", seed=seed, note=note
    )


def _estimates(bench: Bench, here: Found) -> tuple[list[NamedEstimate], dict[str, Any]]:
    drawn, n = here.effects.drawn(bench.seed), len(here.effects.clean)
    out: list[NamedEstimate] = []
    ruled: dict[str, Any] = {}

    def add(name: str, label: str, value: Estimate | Rank) -> None:
        ruled[name] = value
        out.append(named(name, label, value.estimate if isinstance(value, Rank) else value))

    for feature, m in here.mantels.items():
        band = m.note if m.null is None else f"exchanged heads give {rounded(m.null[0])} to {rounded(m.null[1])}"
        r = _resampled(m.r, rank_correlations(here.tables[feature], drawn), n, bench.seed, band)
        add(f"mantel:{feature}", f"rank correlation of effect distance with distance of {FEATURES[feature]}", r)
        if m.test is not None:
            add(f"rank:mantel:{feature}", f"exchanged heads that agree as well ({FEATURES[feature]})", m.test)
    if (first := here.mantels[FIRST].test) is not None:
        add("rank:mantel", "exchanged heads whose weight and effect distances agree as well", first)
    guess = here.forecast
    note = guess.note or f"exchanged heads give {rounded(np.mean(guess.null))} on average"
    near = nearest(here.tables[FIRST], bench.lab.grid, bench.option("neighbours", EXPERIMENT))
    skill = _resampled(guess.skill, skills(near, drawn), n, bench.seed, note)
    add(
        "prediction:skill",
        "effects foretold from the nearest heads by weights (1 exactly, 0 as well as by the mean)",
        skill,
    )
    if guess.test is not None:
        add("rank:prediction", "exchanged heads that are foretold as well", guess.test)
    for name, match in here.groups.items():
        words = f"ARI of the clusters by {CUTS[name]} with the groups by effects"
        add(f"ari:{name}", words, _ari(match))
        if match.test is not None:
            add(f"rank:ari:{name}", f"labellings that agree with the clusters as well ({CUTS[name]})", match.test)
    return out, ruled


def _ari(match: ClusterTest) -> Estimate:
    if match.value is None:
        return Estimate.undefined("heads", match.items, match.note or "no groups")
    chance = f"{rounded(match.chance)} on average among labellings" if match.chance is not None else match.note
    return Estimate(match.value, match.value, match.value, match.items, "heads", "counted", note=chance)


def _correspondence(found: Mapping[int, Found]) -> Any:
    """A row for each layer and feature; p Holm-adjusted over all of them."""
    import pandas as pd

    rows = [
        {"layer": n, "feature": feature, "r": m.r, "null_low": m.null and m.null[0], "null_high": m.null and m.null[1],
         "p": m.test and m.test.p, "heads": m.items, "note": m.note, "skill": f.forecast.skill if feature == FIRST else None,
         "p_skill": f.forecast.test.p if feature == FIRST and f.forecast.test else None,
         "ari": (match := f.groups.get(feature)) and match.value, "p_ari": match and match.test and match.test.p}
        for n, f in found.items() for feature, m in f.mantels.items()
    ]  # fmt: skip
    adjusted = holm([np.nan if r["p"] is None else r["p"] for r in rows]).tolist()
    return pd.DataFrame([{**r, "p_holm": p} for r, p in zip(rows, adjusted, strict=True)])


def _heads(bench: Bench, found: Mapping[int, Found]) -> Any:
    import pandas as pd

    rows = []
    for n, f in found.items():
        low, high = np.quantile(f.effects.drawn(bench.seed), [0.025, 0.975], axis=0)
        clusters = made.labels if (made := f.groups[OWN].clustering) else ()
        profile = f.effects.profile
        for h in range(bench.lab.grid.n_heads):
            row: dict[str, Any] = {
                "layer": n,
                "head": h,
                "kv_group": bench.lab.grid.kv_group_of(h),
                "pairs": len(f.effects.clean),
            }
            for e, name in enumerate(EFFECTS):
                row |= {name: profile[h, e], f"{name}_low": low[h, e], f"{name}_high": high[h, e]}
                row[f"{name}_foretold"] = None if f.forecast.predicted is None else f.forecast.predicted[h, e]
            rows.append({**row, "cluster": clusters[h] if clusters else None})
    return pd.DataFrame(rows)


def _pairs(bench: Bench, here: Found) -> Any:
    import pandas as pd

    grid = bench.lab.grid
    left, right = np.triu_indices(grid.n_heads, 1)
    together = [grid.kv_group_of(int(a)) == grid.kv_group_of(int(b)) for a, b in zip(left, right, strict=True)]
    columns = {feature: table[left, right] for feature, table in here.tables.items()}
    apart = effect_distances(here.effects.profile)[left, right]
    return pd.DataFrame(
        {"layer": here.layer, "head": left, "other": right, "same_kv": together, "effect_distance": apart, **columns}
    )


# -- controls -----------------------------------------------------------------------------------------------


def _controls(bench: Bench, weights: HeadWeights, here: Found) -> list[Control]:
    grid, claim, k = bench.lab.grid, bench.claim, bench.option("neighbours", EXPERIMENT)
    common: dict[str, Any] = {"permutations": max(100, claim.matched_sets), "seed": claim.seed, "alpha": claim.alpha}
    moved, order = reordered(weights, here.layer, bench.seed)
    profile, table = here.effects.profile, weight_tables(moved, here.layer)
    new = profile[order]
    values = [
        (here.forecast.skill, forecast(table[FIRST], new, grid, k, **common).skill),
        (
            here.groups[OWN].value,
            matching(parting_table(moved, here.layer), effect_distances(new), grid, k=2, **common).value,
        ),
        *(
            (m.r, agreement(table[f], effect_distances(new), grid, 100, 0, claim.alpha).r)
            for f, m in here.mantels.items()
        ),
    ]
    gap = max((abs(a - b) for a, b in values if a is not None and b is not None), default=0.0)
    same = all((a is None) == (b is None) for a, b in values)
    places, smooth = _injected(here.tables[FIRST], grid, k)
    found = agreement(here.tables[FIRST], effect_distances(places), grid, **common).test
    foretold = forecast(here.tables[FIRST], smooth, grid, k, **common).test
    tests = [t for t in (found, foretold) if t is not None]
    fires = len(tests) == 2 and all(t.outcome in {"upheld", "untestable"} for t in tests)
    return [
        Control(
            name="reordered", kind="negative", passed=same and gap <= EXACT, value=gap,
            words=f"heads and KV groups under other names: largest change of a correlation, skill or ARI {gap:.2g}",
        ),
        Control(
            name="injected", kind="positive", passed=fires, value=max((t.p for t in tests), default=None),
            words="effects replaced by a function of the weights: "
            + "; ".join(f"{name} {t}" for name, t in zip(("tables agree,", "heads are foretold,"), tests, strict=False)),
        ),
    ]  # fmt: skip


def _injected(table: Any, grid: Grid, k: int) -> tuple[Any, Any]:
    """Effects that are a function of the weights: the heads' coordinates in the space that the distances span, and what
    nearest heads share as far as anything can."""
    return principal_coordinates(table)[0], smoothest(nearest(table, grid, k), grid)


_SECTIONS = [
    {
        "heading": "Why right or wrong sets do not settle it",
        "text": (
            "The published test patched a few clusters and asked whether each behaved as a block: three answers. None right of "
            "three is compatible with a rule that is right for most clusters, and a cluster of eleven heads beside one of one "
            "repairs for its size. Distances use every pair of heads, have a null, and can come out either way."
        ),
    },
    {
        "heading": "When this misleads",
        "text": (
            "Effects are those of interchange on one task: heads that do the same elsewhere are not alike here. Where one or two "
            "heads carry everything, the effect distances say one thing (which pairs hold such a head) many times over, and "
            "with few heads hardly any agreement can be shown or excluded. Behind a threshold a head patched alone does next to "
            "nothing, and one left out is replaced by others; both then rank heads by small numbers. Heads of a KV group "
            "share weights, so they are exchanged only among themselves, and whatever whole groups share is not seen. The "
            "p of the other features and layers are exploratory; their Holm-adjusted values stand in the table."
        ),
    },
]

EXPERIMENT = Experiment(
    "cluster-behaviour",
    "Do the clusters of heads by their weights tell what the heads do?",
    cluster_behaviour,
    STATISTICS,
    controls=("no-op", "patch-all", "reordered", "injected"),
    options={"neighbours": 3, "pairs_by_head": 120, "all_layers": True},
)
