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

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Table
from headlab.experiments.weights import behaviour_figures as figures
from headlab.experiments.weights.set_test import published
from headlab.measures.correspondence import FEATURES, FIRST, nearest, rank_correlations, skills
from headlab.measures.head_effects import EFFECTS, effect_distances
from headlab.stats import holm
from headlab.stats.clustering import LEAST
from headlab.stats.figures import rounded
from headlab.trials.checks import no_op, patch_all
from headlab.trials.flow import Method, OnPairs
from headlab.trials.numbers import counted
from headlab.trials.sweeps import Seen, Told
from headlab.trials.weights_and_effects import (
    OWN,
    by_layer,
    effects_of_weights_are_found,
    here,
    kept,
    names_do_not_matter,
    resampled,
    sweeps,
    unweighed,
)

CUTS = {OWN: f"{FEATURES[FIRST]} beyond KV groups, two clusters", FIRST: f"{FEATURES[FIRST]}, best silhouette"}


def too_few(case: Any) -> str:
    n = case.lab.grid.n_heads
    return f"{case.lab.name} has {n} heads in each layer: at least {LEAST} are compared" if n < LEAST else ""


def numbers(seen: Seen) -> Iterator[Told]:
    own, scope = here(seen), seen.scope
    drawn, n = own.effects.drawn(scope.seed), len(own.effects.clean)
    for feature, m in own.mantels.items():
        band = m.note if m.null is None else f"exchanged heads give {rounded(m.null[0])} to {rounded(m.null[1])}"
        r = resampled(m.r, rank_correlations(own.tables[feature], drawn), n, scope.seed, band)
        yield Told(f"mantel:{feature}", f"rank correlation of effect distance with distance of {FEATURES[feature]}", r)
        if m.test is not None:
            yield Told(f"rank:mantel:{feature}", f"exchanged heads that agree as well ({FEATURES[feature]})", m.test)
    if (first := own.mantels[FIRST].test) is not None:
        yield Told("rank:mantel", "exchanged heads whose weight and effect distances agree as well", first)
    guess = own.forecast
    note = guess.note or f"exchanged heads give {rounded(np.mean(guess.null))} on average"
    near = nearest(own.tables[FIRST], scope.grid, scope.options["neighbours"])
    skill = resampled(guess.skill, skills(near, drawn), n, scope.seed, note)
    label = "effects foretold from the nearest heads by weights (1 exactly, 0 as well as by the mean)"
    yield Told("prediction:skill", label, skill)
    if guess.test is not None:
        yield Told("rank:prediction", "exchanged heads that are foretold as well", guess.test)
    for name, match in own.groups.items():
        note = f"{rounded(match.chance)} on average among labellings" if match.chance is not None else match.note
        ari = counted(match.value, match.items, "heads", note if match.value is not None else match.note or "no groups")
        yield Told(f"ari:{name}", f"ARI of the clusters by {CUTS[name]} with the groups by effects", ari)
        if match.test is not None:
            yield Told(
                f"rank:ari:{name}", f"labellings that agree with the clusters as well ({CUTS[name]})", match.test
            )


def controls(seen: Seen) -> list[Control]:
    """Of the standard protocol; they bind the published reading too."""
    own = EXPERIMENT.standard(seen)
    return own.once(checks)


def checks(seen: Seen) -> list[Control]:
    every = (no_op("controls"), patch_all("controls"), names_do_not_matter, effects_of_weights_are_found)
    return [check(seen) for check in every]


def correspondence(seen: Seen) -> Table:
    """A row for each layer and feature; p Holm-adjusted over all of them."""
    rows: list[dict[str, Any]] = []
    for n, f in seen.once(by_layer).items():
        for feature, m in f.mantels.items():
            match, guess = f.groups.get(feature), f.forecast if feature == FIRST else None
            rows.append({"layer": n, "feature": feature, "r": m.r, "null_low": m.null and m.null[0]})
            rows[-1] |= {"null_high": m.null and m.null[1], "p": m.test and m.test.p, "heads": m.items, "note": m.note}
            rows[-1] |= {"skill": guess and guess.skill, "p_skill": guess.test.p if guess and guess.test else None}
            rows[-1] |= {"ari": match and match.value, "p_ari": match and match.test and match.test.p}
    adjusted = holm([np.nan if r["p"] is None else r["p"] for r in rows]).tolist()
    return pd.DataFrame([{**r, "p_holm": p} for r, p in zip(rows, adjusted, strict=True)])


def heads(seen: Seen) -> Table:
    rows, grid = [], seen.scope.grid
    for n, f in seen.once(by_layer).items():
        low, high = np.quantile(f.effects.drawn(seen.scope.seed), [0.025, 0.975], axis=0)
        clusters, profile = made.labels if (made := f.groups[OWN].clustering) else (), f.effects.profile
        for h in range(grid.n_heads):
            row: dict[str, Any] = {
                "layer": n,
                "head": h,
                "kv_group": grid.kv_group_of(h),
                "pairs": len(f.effects.clean),
            }
            for e, name in enumerate(EFFECTS):
                row |= {name: profile[h, e], f"{name}_low": low[h, e], f"{name}_high": high[h, e]}
                row[f"{name}_foretold"] = None if f.forecast.predicted is None else f.forecast.predicted[h, e]
            rows.append({**row, "cluster": clusters[h] if clusters else None})
    return pd.DataFrame(rows)


def pairs_of_heads(seen: Seen) -> Table:
    own, grid = here(seen), seen.scope.grid
    left, right = np.triu_indices(grid.n_heads, 1)
    together = [grid.kv_group_of(int(a)) == grid.kv_group_of(int(b)) for a, b in zip(left, right, strict=True)]
    apart = effect_distances(own.effects.profile)[left, right]
    rows = {"layer": own.layer, "head": left, "other": right, "same_kv": together, "effect_distance": apart}
    return pd.DataFrame({**rows, **{feature: table[left, right] for feature, table in own.tables.items()}})


EXPERIMENT = OnPairs(
    slug="cluster-behaviour",
    question="Do the clusters of heads by their weights tell what the heads do?",
    statistics=(
        *("mantel:*", "rank:mantel", "rank:mantel:*", "prediction:skill", "rank:prediction"),
        *("ari:*", "rank:ari:*", "sets:*"),
    ),
    controls=("no-op", "patch-all", "reordered", "injected"),
    options={"neighbours": 3, "pairs_by_head": 120, "all_layers": True},
    cannot=too_few,
    alone=True,
    methods={
        "standard": Method(
            "distances of directions of W_QK and W_OV against distances of effects; heads exchanged within KV groups",
            sweeps,
            numbers=(numbers,),
            controls=(controls,),
            figures=(lambda seen: figures.figures(seen, here(seen), list(seen.once(by_layer).values())),),
            tables={"correspondence": correspondence, "heads": heads, "pairs_of_heads": pairs_of_heads},
            settings=lambda seen: {"feature": FIRST, "effects": dict(EFFECTS), "pairs_by_head": len(kept(seen.scope))},
            impossible=unweighed,
        ),
        "published": published(controls),
    },
    sections={
        "Why right or wrong sets do not settle it": (
            "The published test patched a few clusters and asked whether each behaved as a block: three answers. None right of "
            "three is compatible with a rule that is right for most clusters, and a cluster of eleven heads beside one of one "
            "repairs for its size. Distances use every pair of heads, have a null, and can come out either way."
        ),
        "When this misleads": (
            "Effects are those of interchange on one task: heads that do the same elsewhere are not alike here. Where one or two "
            "heads carry everything, the effect distances say one thing (which pairs hold such a head) many times over, and "
            "with few heads hardly any agreement can be shown or excluded. Behind a threshold a head patched alone does next to "
            "nothing, and one left out is replaced by others; both then rank heads by small numbers. Heads of a KV group "
            "share weights, so they are exchanged only among themselves, and whatever whole groups share is not seen. The "
            "p of the other features and layers are exploratory; their Holm-adjusted values stand in the table."
        ),
    },
)
