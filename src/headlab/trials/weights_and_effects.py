"""What weights of heads tell of their effects, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import Control
from headlab.engine.model import ModelError
from headlab.measures.correspondence import (
    FIRST,
    Forecast,
    agreement,
    forecast,
    injected,
    matching,
    parting_table,
    weight_tables,
)
from headlab.measures.head_effects import Profiles, effect_distances
from headlab.measures.weight_nulls import reordered
from headlab.measures.weights import HeadWeights, head_weights
from headlab.prompts import EncodedPair
from headlab.stats import Estimate
from headlab.stats.agreement import ClusterTest
from headlab.stats.distances import Mantel
from headlab.trials.head_profiles import each_head, profiles
from headlab.trials.sweeps import Scope, Seen, Sweep

EXACT = 1e-9


OWN = "two"


@dataclass(frozen=True)
class Layer:
    """One layer: weight distances by feature, effects, and what the one says of the other."""

    layer: int
    tables: Mapping[str, Any]
    effects: Profiles
    mantels: Mapping[str, Mantel]
    forecast: Forecast
    groups: Mapping[str, ClusterTest]


def unweighed(scope: Scope) -> str:
    """Why this family has no weights to compare."""
    try:
        parting_table(head_weights(scope.lab, [scope.layer]), scope.layer)
    except ModelError as error:
        return str(error)
    return ""


def layers(scope: Scope) -> list[int]:
    scope.lab.attention_of(scope.layer)
    return [n for n in sorted(scope.lab.attentions) if n == scope.layer or scope.options["all_layers"]]


def kept(scope: Scope) -> list[EncodedPair]:
    return scope.pairs[: scope.options["pairs_by_head"]]


def sweeps(scope: Scope) -> dict[str, Sweep]:
    whole = Sweep((scope.edit("all", scope.whole), *scope.idle()), texts=True)
    return {"controls": whole, **{f"heads L{n}": each_head(scope, n, kept(scope)) for n in layers(scope)}}


def dealt(scope: Scope) -> dict[str, Any]:
    """How often and by what seed heads are exchanged."""
    claim = scope.claim
    return {"permutations": max(100, claim.matched_sets), "seed": claim.seed, "alpha": claim.alpha}


def weights(scope: Scope) -> HeadWeights:
    return head_weights(scope.lab)


def by_layer(seen: Seen) -> dict[int, Layer]:
    scope, whole, how = seen.scope, seen.of_trial(weights), dealt(seen.scope)
    grid, out = scope.grid, {}
    for n in layers(scope):
        tables, effects = weight_tables(whole, n), profiles(seen, f"heads L{n}", n)
        apart = effect_distances(effects.profile)
        out[n] = Layer(
            n,
            tables,
            effects,
            {feature: agreement(table, apart, grid, **how) for feature, table in tables.items()},
            forecast(tables[FIRST], effects.profile, grid, scope.options["neighbours"], **how),
            {
                OWN: matching(parting_table(whole, n), apart, grid, k=2, **how),
                FIRST: matching(tables[FIRST], apart, grid, **how),
            },
        )
    return out


def here(seen: Seen) -> Layer:
    return seen.once(by_layer)[seen.scope.layer]


def resampled(value: float | None, drawn: Any, n: int, seed: int, note: str) -> Estimate:
    """A number of these heads; its interval is over the pairs that their effects were measured on."""
    whole = np.asarray(drawn)[np.isfinite(drawn)]
    if value is None or not len(whole):
        return Estimate.undefined("pairs", n, note)
    low, high = (float(q) for q in np.quantile(whole, [0.025, 0.975]))
    return Estimate(value, min(low, value), max(high, value), n, "pairs", "bootstrap over pairs", seed=seed, note=note)


def names_do_not_matter(seen: Seen) -> Control:
    own, scope, grid = here(seen), seen.scope, seen.scope.grid
    k, how = scope.options["neighbours"], dealt(scope)
    moved, order = reordered(seen.of_trial(weights), own.layer, scope.seed)
    table, new = weight_tables(moved, own.layer), own.effects.profile[order]
    apart = effect_distances(new)
    values = [
        (own.forecast.skill, forecast(table[FIRST], new, grid, k, **how).skill),
        (own.groups[OWN].value, matching(parting_table(moved, own.layer), apart, grid, k=2, **how).value),
        *((m.r, agreement(table[f], apart, grid, 100, 0, scope.claim.alpha).r) for f, m in own.mantels.items()),
    ]
    gap = max((abs(a - b) for a, b in values if a is not None and b is not None), default=0.0)
    same = all((a is None) == (b is None) for a, b in values)
    words = f"heads and KV groups under other names: largest change of a correlation, skill or ARI {gap:.2g}"
    return Control(name="reordered", kind="negative", passed=same and gap <= EXACT, value=gap, words=words)


def effects_of_weights_are_found(seen: Seen) -> Control:
    """Effects replaced by a function of the weights."""
    table, grid, how = here(seen).tables[FIRST], seen.scope.grid, dealt(seen.scope)
    k = seen.scope.options["neighbours"]
    places, smooth = injected(table, grid, k)
    found = agreement(table, effect_distances(places), grid, **how).test
    foretold = forecast(table, smooth, grid, k, **how).test
    tests = [t for t in (found, foretold) if t is not None]
    fires = len(tests) == 2 and all(t.outcome in {"upheld", "untestable"} for t in tests)
    said = (f"{name} {t}" for name, t in zip(("tables agree,", "heads are foretold,"), tests, strict=False))
    words = "effects replaced by a function of the weights: " + "; ".join(said)
    value = max((t.p for t in tests), default=None)
    return Control(name="injected", kind="positive", passed=fires, value=value, words=words)
