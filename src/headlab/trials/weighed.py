"""The heads of every layer by their weights, among nulls without clusters: what runs, its controls and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure, Table
from headlab.engine.model import ModelError
from headlab.heads import Heads
from headlab.measures.weight_clusters import NULLS, Found, among_nulls
from headlab.measures.weight_labels import Labelled, by_label, by_layer_label, given_labels
from headlab.measures.weight_nulls import Untrained, apart, circuits, planted, reordered, untrained
from headlab.measures.weight_sets import Prediction, predicted
from headlab.measures.weights import HeadWeights, head_weights
from headlab.stats import holm, rank
from headlab.stats.agreement import adjusted_rand, cluster_test
from headlab.stats.clustering import hierarchical
from headlab.trials.charts import heads_apart, null
from headlab.trials.flow import Undefined
from headlab.trials.sweeps import Scope, Seen
from headlab.trials.weight_halves import Subsets, members_of, subsets

CIRCUITS = {"qk": "W_QK", "ov": "W_OV"}
EXACT = 1e-9


@dataclass(frozen=True)
class Weighed:
    """Every layer by every circuit, among its nulls."""

    weights: HeadWeights
    kinds: tuple[str, ...]
    draws: Untrained
    found: Mapping[tuple[int, str], Found]

    @property
    def here(self) -> dict[str, Found]:
        """The claim's layer, by circuit."""
        return {f.circuit: f for f in self.found.values() if f.here}


def weighed(scope: Scope) -> Weighed:
    lab, feature, claim = scope.lab, scope.options["feature"], scope.claim
    given_labels(scope.grid, scope.options["labels"])
    lab.attention_of(scope.layer)
    weights = head_weights(lab)
    try:
        kinds = circuits(weights)
        tables = {(n, c): apart(weights, n, c, feature) for n in sorted(weights.layers) for c in kinds}
        scope.case.progress("untrained models", 0, 1)
        draws = untrained(lab, scope.options["draws"], scope.seed)
        found = {
            (n, c): among_nulls(
                weights, n, c, table, draws, feature, here=n == scope.layer, alpha=claim.alpha, seed=scope.seed
            )
            for (n, c), table in tables.items()
        }
    except ModelError as error:
        raise Undefined(str(error)) from error
    return Weighed(weights, kinds, draws, found)


def names_do_not_matter(seen: Seen) -> Control:
    """Heads and KV groups in another order."""
    made, scope = seen.of_trial(weighed), seen.scope
    parity: Any = np.arange(scope.grid.n_heads) % 2
    moved, order = reordered(made.weights, scope.layer, scope.seed)
    gaps, same = [0.0], True
    for circuit, found in made.here.items():
        table = apart(moved, scope.layer, circuit, scope.options["feature"])
        own, new = (
            cluster_test(t, labels=labels.tolist(), statistic="ari", permutations=100)
            for t, labels in ((found.table, parity), (table, parity[order]))
        )
        assert own.clustering and new.clustering
        same &= adjusted_rand(np.array(own.clustering.labels)[order], new.clustering.labels) == 1.0
        gaps += [abs((own.clustering.silhouette or 0) - (new.clustering.silhouette or 0))]
        gaps += [abs((own.value or 0) - (new.value or 0))]
    gap = max(gaps)
    words = (
        f"heads and KV groups in another order: {'the same' if same else 'other'} clusters; largest change of a "
        f"silhouette or ARI {gap:.2g}"
    )
    return Control(name="reordered", kind="negative", passed=same and gap <= EXACT, words=words, value=gap)


def copies_are_found(seen: Seen) -> Control:
    made, scope = seen.of_trial(weighed), seen.scope
    drawn, places = planted(made.weights, scope.layer, scope.seed)
    fires, said = True, []
    for circuit, found in made.here.items():
        tree = hierarchical(apart(drawn, scope.layer, circuit, scope.options["feature"]))
        null, unit = found.tests["norms"].null, NULLS["norms"]
        place = rank(tree.silhouette or 0.0, null, enumerated=False, alpha=scope.claim.alpha, unit=unit)
        together = len({tree.labels[p] for p in places}) == 1
        fires &= together and place.outcome == "upheld"
        said.append(f"by {CIRCUITS[circuit]} they {'share' if together else 'do not share'} a cluster, {place}")
    where = ", ".join(map(str, places))
    words = f"copies of one head with noise, in random weights as heads {where}: {'; '.join(said)}"
    return Control(name="planted-copies", kind="positive", passed=fires, words=words)


def among(seen: Seen) -> list[Figure]:
    """The best silhouette in the null in which it stands out least, by circuit."""
    out = []
    for one in seen.of_trial(weighed).here.values():
        test, place = one.worst[1], one.test
        assert test.clustering is not None and test.value is not None
        title = f"Clusters of layer {one.layer} by {CIRCUITS[one.circuit]}: the best silhouette, among {place.n_sets:,}"
        caption = (
            f"Each bar counts tables of {len(one.table)} heads by the mean silhouette of their best cut. The line is this "
            f"model, cut in {test.clustering.k}. Of the nulls tried the least favourable is shown: "
            f"{place.at_least_as_extreme} of {place.n_sets:,} are at least as clear, p = {place.p:.3g}."
        )
        line = (test.value, "this model", "mean silhouette of the best cut", place.p)
        out.append(null(f"null-{one.circuit}", f"{title} {place.unit}", caption, test.null, *line, of=place.unit))
    return out


def layers(seen: Seen) -> Figure:
    rows: list[dict[str, Any]] = []
    for (layer, circuit), one in seen.of_trial(weighed).found.items():
        rows.append({"x": layer, "y": one.worst[1].value, "low": None, "high": None, "series": CIRCUITS[circuit]})
        for name, low, mean, high in one.bands():
            rows.append({"x": layer, "y": mean, "low": low, "high": high, "series": f"{CIRCUITS[circuit]}, {name}"})
    caption = "Bands hold 95 % of the null's tables: single clouds of the heads' spread, and untrained models."
    options = {"x_title": "layer", "y_title": "mean silhouette of the best cut"}
    data = tuple(sorted(rows, key=lambda r: (r["series"], r["x"])))
    return Figure("curve", "layers", "The best silhouette in every layer, and its nulls", caption, data, options)


def views(seen: Seen) -> Sequence[Figure]:
    out: list[Figure] = []
    for method in seen.scope.options["views"]:
        for circuit, one in seen.of_trial(weighed).here.items():
            title = f"Heads of layer {one.layer} by {CIRCUITS[circuit]}"
            out += heads_apart(f"{circuit}-{method}", title, one.said, one.table, one.labels, method, seen.scope.seed)
    return out


def by_layer(seen: Seen) -> Table:
    found = list(seen.of_trial(weighed).found.values())
    adjusted = holm([f.test.p for f in found]).tolist()
    return pd.DataFrame([f.row(p) for f, p in zip(found, adjusted, strict=True)])


def heads(seen: Seen) -> Table:
    rows = [
        {"layer": f.layer, "circuit": f.circuit, "head": h, "cluster": c}
        | {"kv_group": seen.scope.grid.kv_group_of(h), "even": h % 2 == 0}
        for f in seen.of_trial(weighed).found.values()
        for h, c in enumerate(f.labels)
    ]
    return pd.DataFrame(rows)


def members(scope: Scope) -> Heads:
    return members_of(scope.case, scope.layer, scope.options["members"])


def labelled(seen: Seen) -> list[Labelled]:
    made, scope, feature = seen.of_trial(weighed), seen.scope, seen.scope.options["feature"]
    out = by_label(scope.grid, scope.claim, made.found, made.draws, scope.options["labels"], feature)
    return out + by_layer_label(scope.grid, scope.claim, made.weights, made.kinds, feature)


def both(seen: Seen) -> Any:
    """Distances by W_QK and W_OV together."""
    return apart(seen.of_trial(weighed).weights, seen.scope.layer, "both", seen.scope.options["feature"])


def guess(seen: Seen) -> Prediction:
    claim, scope = seen.scope.claim, seen.scope
    n, seed = claim.matched_sets, scope.seed
    return predicted(-(seen.once(both) ** 2), members(scope), scope.grid, n=n, seed=seed, alpha=claim.alpha)


def halves(seen: Seen) -> Subsets:
    made = seen.of_trial(weighed)
    labels = made.here[made.kinds[-1]].labels
    return subsets(seen.case, seen.scope.layer, labels, seen.once(both), seen.scope.options["subsets"])
