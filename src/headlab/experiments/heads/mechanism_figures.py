"""Figures of ``mechanism``: properties in their null, the cluster that stands out among matched sets, heads in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headlab.effects import Figure
from headlab.experiments.base import Bench
from headlab.experiments.weights.cluster_patches import Patched, foremost
from headlab.measures.head_traits import KINDS, TRAITS
from headlab.stats.figures import percent
from headlab.stats.views import view


def figures(
    bench: Bench, apart: Any, chosen: Any, acted: Sequence[Patched], at: int, views: Sequence[str]
) -> list[Figure]:
    out = [_null(chosen, at), _shares(chosen, at)]
    best = foremost(acted)
    if best is not None:
        out.append(_patched(best, len(acted), at))
    return out + [f for method in views if (f := _view(bench, apart, chosen, method, at)) is not None]


def _null(chosen: Any, at: int) -> Figure:
    test = chosen.test.test
    return Figure(
        kind="null",
        name="null-differ",
        title=f"Layer {at}, {KINDS[chosen.parted.kind]}: the property that differs most, among {test.n_sets:,} labellings",
        caption=(
            "Each bar counts labellings of the heads by the largest share of a property's rank variance that lies between "
            f"labels, over {len(chosen.names)} properties. The line is these clusters: {test}."
        ),
        data=tuple({"value": x} for x in chosen.test.null),
        options={"observed": chosen.test.largest, "low": None, "high": None, "label": "these clusters", "p": test.p,
                 "unit": test.unit, "x_title": "largest share of variance between labels"},
    )  # fmt: skip


def _shares(chosen: Any, at: int) -> Figure:
    rows: list[dict[str, Any]] = []
    for name, d in zip(chosen.names, chosen.test.properties, strict=True):
        if d.share is not None:
            rows.append(
                {"label": TRAITS[name], "group": "these clusters", "value": d.share, "low": d.share, "high": d.share}
            )
            rows.append(
                {
                    "label": TRAITS[name],
                    "group": "labels dealt out again (mean)",
                    "value": d.chance,
                    "low": d.chance,
                    "high": d.chance,
                }
            )
    found = [
        TRAITS[n]
        for n, d in zip(chosen.names, chosen.test.properties, strict=True)
        if d.p_holm is not None and d.p_holm < 0.05
    ]
    return Figure(
        kind="estimates",
        name="properties",
        title=f"How much of each property lies between {KINDS[chosen.parted.kind]} of layer {at}",
        caption=f"Share of the variance of ranks over heads. Different after Holm's correction: {', '.join(found) or 'none'}.",
        data=tuple(rows),
        options={"x_title": "share of variance between clusters"},
    )


def _patched(best: Patched, clusters: int, at: int) -> Figure:
    e, test = best.recovery, best.test
    assert test is not None
    return Figure(
        kind="null",
        name="null-patched",
        title=f"Cluster {best.label} of layer {at} patched, among {test.n_sets:,} matched sets",
        caption=(
            f"Each bar counts sets of {len(best.heads)} heads, as many of each KV group, by the logit difference that they "
            f"recover. The line is the cluster that stands out most of {clusters}, its band the 95 % interval over {e.n} "
            f"pairs: {test}; judged at {test.alpha:.3g}."
        ),
        data=tuple({"value": x} for x in best.null),
        options={"observed": e.value, "low": e.low, "high": e.high, "label": f"cluster {best.label}", "p": test.p,
                 "unit": test.unit, "x_title": "recovery of the logit difference"},
    )  # fmt: skip


def _view(bench: Bench, apart: Any, chosen: Any, method: str, at: int) -> Figure | None:
    made = view(apart, method, seed=bench.seed)  # type: ignore[arg-type]
    if not made.points:
        return None
    shares = made.explained or ()
    axes = [
        f"axis {i + 1}" + (f" ({percent(shares[i])} of the squared distances)" if i < len(shares) else "")
        for i in (0, 1)
    ]
    test = chosen.test.test
    return Figure(
        kind="scatter",
        name=f"view-{method}",
        title=f"Heads of layer {at} by the directions of W_QK and W_OV beyond their KV groups: {made.method}",
        caption=(
            f"One point a head, named by its number; colours are {KINDS[chosen.parted.kind]}. In the most different property "
            f"labels dealt out again are as different in {test.at_least_as_extreme} of {test.n_sets:,} labellings."
        ),
        data=tuple(
            {"x": x, "y": y, "label": str(h), "group": f"cluster {c}"}
            for h, ((x, y), c) in enumerate(zip(made.points, chosen.parted.labels, strict=True))
        ),
        options={"named": True, "x_title": axes[0], "y_title": axes[1]},
    )
