"""Figures of ``cluster-behaviour``: agreement by feature and by layer in its null, foretold effects, pairs of heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headlab.effects import Figure
from headlab.measures.correspondence import FEATURES, FIRST, rank_correlations
from headlab.measures.head_effects import effect_distances
from headlab.stats.figures import rounded
from headlab.trials import charts
from headlab.trials.sweeps import Seen


def figures(seen: Seen, here: Any, found: Sequence[Any]) -> list[Figure]:
    out = [_features(seen, here)]
    if here.forecast.test is not None:
        out.append(_skill(here))
    if len(found) > 1:
        out.append(_layers(seen, found))
    return [*out, _pairs(seen, here)]


def _band(m: Any) -> dict[str, Any]:
    low, high = m.null
    return {"value": (low + high) / 2, "low": low, "high": high}


def _features(seen: Seen, here: Any) -> Figure:
    drawn, rows = here.effects.drawn(seen.scope.seed), []
    for feature, m in here.mantels.items():
        if m.r is None:
            continue
        low, high = np.nanquantile(rank_correlations(here.tables[feature], drawn), [0.025, 0.975])
        own = {"value": m.r, "low": min(float(low), m.r), "high": max(float(high), m.r)}
        rows.append({"label": FEATURES[feature], "group": "this model", **own})
        rows.append({"label": FEATURES[feature], "group": "heads exchanged", **_band(m)})
    first = here.mantels[FIRST]
    return Figure(
        kind="estimates",
        name="features",
        title=f"Do weight distances follow effect distances? Layer {here.layer}",
        caption=(
            f"Rank correlation over pairs of {first.items} heads, with 95 % intervals over {len(here.effects.clean)} pairs of "
            "prompts; beside it the middle 95 % of what exchanged heads give (within KV groups). The claim is decided by "
            f"{FEATURES[FIRST]}: {first.test or first.note}."
        ),
        data=tuple(rows),
        options={"threshold": 0.0, "x_title": "rank correlation with effect distance"},
    )


def _skill(here: Any) -> Figure:
    guess = here.forecast
    title = f"Effects foretold from the nearest heads by weights, among {guess.test.n_sets:,} exchanges of heads"
    caption = (
        "Each bar counts exchanges of the heads (within KV groups) by how much better than the mean of the other heads the "
        "nearest ones tell what a head does; a head and those that share its keys are left out. The line is this model: "
        f"{guess.test}."
    )
    line = (guess.skill, "this model", "skill (0: no better than the mean)", guess.test.p)
    return charts.null("null-prediction", title, caption, guess.null, *line, of=guess.test.unit)


def _layers(seen: Seen, found: Sequence[Any]) -> Figure:
    rows: list[dict[str, Any]] = []
    for f in found:
        m = f.mantels[FIRST]
        if m.r is None:
            continue
        low, high = np.nanquantile(rank_correlations(f.tables[FIRST], f.effects.drawn(seen.scope.seed)), [0.025, 0.975])
        rows.append(
            {"x": f.layer, "y": m.r, "low": min(float(low), m.r), "high": max(float(high), m.r), "series": "this model"}
        )
        band = _band(m)
        rows.append(
            {"x": f.layer, "y": band["value"], "low": band["low"], "high": band["high"], "series": "heads exchanged"}
        )
    return Figure(
        kind="curve",
        name="layers",
        title="The same in every layer",
        caption="Bands: 95 % over pairs of prompts, and the middle 95 % of exchanged heads.",
        data=tuple(sorted(rows, key=lambda r: (r["series"], r["x"]))),
        options={"threshold": 0.0, "x_title": "layer", "y_title": "rank correlation of weight and effect distance"},
    )


def _pairs(seen: Seen, here: Any) -> Figure:
    grid = seen.scope.grid
    left, right = np.triu_indices(grid.n_heads, 1)
    far, apart = here.tables[FIRST][left, right], effect_distances(here.effects.profile)[left, right]
    m = here.mantels[FIRST]
    null = ""
    if m.null is not None:
        low, high = m.null
        null = f" Exchanged heads give a rank correlation of {rounded(low)} to {rounded(high)}; these {rounded(m.r, low, high)}."
    return Figure(
        kind="scatter",
        name="pairs",
        title=f"Every two heads of layer {here.layer}: how far apart in weights, how far apart in effect",
        caption=f"One point for two heads. Pairs share heads, so they are no sample of independent points.{null}",
        data=tuple(
            {
                "x": float(x),
                "y": float(y),
                "label": f"{a}, {b}",
                "group": "one KV group"
                if grid.kv_group_of(int(a)) == grid.kv_group_of(int(b)) and grid.group_size > 1
                else "different KV groups"
                if grid.group_size > 1
                else "heads",
            }
            for a, b, x, y in zip(left, right, far, apart, strict=True)
        ),
        options={
            "named": False,
            "x_title": "distance of directions of W_QK and W_OV",
            "y_title": "distance of effects (recovery)",
        },
    )
