"""Figures of ``mechanism``: properties in their null, the cluster that stands out among matched sets, heads in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headlab.effects import Figure
from headlab.measures.head_traits import KINDS, TRAITS
from headlab.trials.charts import heads_apart, null
from headlab.trials.cluster_patches import Patched, foremost
from headlab.trials.numbers import counted
from headlab.trials.sweeps import Scope


def shares(chosen: Any, at: int) -> list[Figure]:
    """The property that differs most among labellings, and the share of every property."""
    test, words, n = chosen.test.test, KINDS[chosen.parted.kind], len(chosen.parted.labels)
    caption = (
        "Each bar counts labellings of the heads by the largest share of a property's rank variance that lies between "
        f"labels, over {len(chosen.names)} properties. The line is these clusters: {test}."
    )
    title = f"Layer {at}, {words}: the property that differs most, among {test.n_sets:,} labellings"
    x_title, own = "largest share of variance between labels", counted(chosen.test.largest, n, "heads", "")
    told = list(zip(chosen.names, chosen.test.properties, strict=True))
    rows = [
        {"label": TRAITS[name], "group": group, "value": x, "low": x, "high": x}
        for name, d in told
        if d.share is not None
        for group, x in (("these clusters", d.share), ("labels dealt out again (mean)", d.chance))
    ]
    found = [TRAITS[name] for name, d in told if d.p_holm is not None and d.p_holm < 0.05]
    every = (
        f"Share of the variance of ranks over heads. Different after Holm's correction: {', '.join(found) or 'none'}."
    )
    options = {"x_title": "share of variance between clusters"}
    lies = f"How much of each property lies between {words} of layer {at}"
    return [
        null("null-differ", title, caption, chosen.test.null, own, "these clusters", x_title, test.p, of=test.unit),
        Figure("estimates", "properties", lies, every, tuple(rows), options),
    ]


def patched(acted: Sequence[Patched], at: int) -> list[Figure]:
    """The cluster that stands out most among its matched sets."""
    best = foremost(acted)
    if best is None or best.test is None:
        return []
    e, test = best.recovery, best.test
    title = f"Cluster {best.label} of layer {at} patched, among {test.n_sets:,} matched sets"
    caption = (
        f"Each bar counts sets of {len(best.heads)} heads, as many of each KV group, by the logit difference that they "
        f"recover. The line is the cluster that stands out most of {len(acted)}, its band the 95 % interval over {e.n} "
        f"pairs: {test}; judged at {test.alpha:.3g}."
    )
    label, x_title = f"cluster {best.label}", "recovery of the logit difference"
    return [null("null-patched", title, caption, best.null, e, label, x_title, test.p, of=test.unit)]


def views(chosen: Any, apart: Any, scope: Scope) -> list[Figure]:
    test, labels, out = chosen.test.test, chosen.parted.labels, []
    title = f"Heads of layer {scope.layer} by the directions of W_QK and W_OV beyond their KV groups"
    caption = (
        f"Colours are {KINDS[chosen.parted.kind]}. In the most different property labels dealt out again are as different "
        f"in {test.at_least_as_extreme} of {test.n_sets:,} labellings."
    )
    for method in scope.options["views"]:
        out += heads_apart(method, title, caption, apart, labels, method, scope.seed)
    return out
