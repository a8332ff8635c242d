"""Figures of ``weight-clusters``: silhouettes in their nulls, heads in two dimensions, silhouettes by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headlab.effects import Figure
from headlab.experiments.base import Bench
from headlab.stats.figures import percent
from headlab.stats.views import view

NAMES = {"qk": "W_QK", "ov": "W_OV"}


def figures(
    bench: Bench, here: Mapping[str, Any], found: Mapping[tuple[int, str], Any], at: int, views: Sequence[str], old: Any
) -> list[Figure]:
    out = [_null(one, at) for one in here.values()]
    out.append(_layers(found))
    for method in views:
        for circuit, one in here.items():
            drawn = _view(
                bench, one.table, one.labels, method, f"{circuit}-{method}", f"by {NAMES[circuit]}", at, one.said
            )
            out += [] if drawn is None else [drawn]
    if old is not None:
        groups = [bench.lab.grid.kv_group_of(h) for h in range(bench.lab.grid.n_heads)]
        said = "Colours are KV groups: copies of W_K and W_V in the features put each group in one place."
        drawn = _view(bench, old.distances, groups, "pca", "published", "by the published features", at, said)
        out += [] if drawn is None or len(set(groups)) in {1, len(groups)} else [drawn]
    return out


def _null(one: Any, at: int) -> Figure:
    test = one.worst[1]
    place = one.test
    return Figure(
        kind="null",
        name=f"null-{one.circuit}",
        title=f"Clusters of layer {at} by {NAMES[one.circuit]}: the best silhouette, among {place.n_sets:,} {place.unit}",
        caption=(
            f"Each bar counts tables of {len(one.table)} heads by the mean silhouette of their best cut. The line is this model, "
            f"cut in {test.clustering.k}. Of the nulls tried the least favourable is shown: {place.at_least_as_extreme} of "
            f"{place.n_sets:,} are at least as clear, p = {place.p:.3g}."
        ),
        data=tuple({"value": x} for x in test.null),
        options={"observed": test.value, "low": None, "high": None, "label": "this model", "p": place.p,
                 "unit": place.unit, "x_title": "mean silhouette of the best cut"},
    )  # fmt: skip


def _layers(found: Mapping[tuple[int, str], Any]) -> Figure:
    rows: list[dict[str, Any]] = []
    for (layer, circuit), one in found.items():
        rows.append({"x": layer, "y": one.worst[1].value, "low": None, "high": None, "series": NAMES[circuit]})
        for name, low, mean, high in one.bands():
            rows.append({"x": layer, "y": mean, "low": low, "high": high, "series": f"{NAMES[circuit]}, {name}"})
    return Figure(
        kind="curve",
        name="layers",
        title="The best silhouette in every layer, and its nulls",
        caption="Bands hold 95 % of the null's tables: single clouds of the heads' spread, and untrained models.",
        data=tuple(sorted(rows, key=lambda r: (r["series"], r["x"]))),
        options={"x_title": "layer", "y_title": "mean silhouette of the best cut"},
    )


def _view(
    bench: Bench, table: Any, labels: Sequence[int], method: str, name: str, words: str, at: int, said: str
) -> Figure | None:
    made = view(table, method, seed=bench.seed)  # type: ignore[arg-type]
    if not made.points:
        return None
    shares = made.explained or ()
    axis = [
        f"axis {i + 1}" + (f" ({percent(shares[i])} of the squared distances)" if i < len(shares) else "")
        for i in (0, 1)
    ]
    group = "KV group" if name == "published" else "cluster"
    return Figure(
        kind="scatter",
        name=f"view-{name}",
        title=f"Heads of layer {at} {words}: {made.method}",
        caption=f"One point a head, named by its number. {said}",
        data=tuple(
            {"x": x, "y": y, "label": str(h), "group": f"{group} {c}"}
            for h, ((x, y), c) in enumerate(zip(made.points, labels, strict=True))
        ),
        options={"named": True, "x_title": axis[0], "y_title": axis[1]},
    )
