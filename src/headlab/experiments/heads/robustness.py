"""Does a verdict survive the details: dtype, attention kernel, batch, device, and the draw of the pairs?

1. One small claim (the even heads of the layer repair more than half of the pairs, the odd ones fewer; logit
   differences), decided again and again on copies of the same model.
2. Numerics: every dtype × kernel (eager, sdpa) × batch (one row, many) × device that is there, on the same pairs and
   the same heads.  Nothing but rounding may differ.
3. The draw: other pairs from other seeds, in the first dtype.
4. A verdict that differs from the reference's is a flip.  It is reported with its margin: how far the nearer end of the
   interval lies from the threshold; and the largest logit difference whose sign rounding has turned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch

from headlab.claims import Control
from headlab.effects import Figure, Table
from headlab.engine.selfcheck import TOLERANCE
from headlab.stats import Estimate, clopper_pearson, clustered_rate
from headlab.stats.figures import percent
from headlab.trials.checks import no_op, patch_all
from headlab.trials.flow import Method, OnPairs
from headlab.trials.settings_grid import OPTIONS, SMALL, distance, rates, run_grid, setting, signs_agree, small_verdict
from headlab.trials.sweeps import Scope, Seen, Sweep, Told

Rows = Sequence[Mapping[str, Any]]


def compared(seen: Seen) -> tuple[list[dict[str, Any]], list[Any], list[Any]]:
    """Every cell against the reference (the first): verdict, margin and signs; all signs pair by pair, and their clusters."""
    cells, tables = seen.of_trial(run_grid)
    first = next(iter(tables.values()))
    rows, signs, names = [], [], []
    for cell, why in cells:
        rows.append({**asdict(cell), "ran": not why, "why_not": why})
        if why:
            continue
        table = tables[cell]
        n, own = int(table["pair"].nunique()), rates(table)
        base = first[first["pair"] < n] if cell.draw == 0 else first  # the reference's rows for the pairs of the cell
        outcome, margin, nearest = small_verdict(own)
        against = small_verdict(rates(base))[0]
        same, clusters, turned = signs_agree(table, base) if cell.draw == 0 else ([], [], 0.0)
        signs += list(same)
        names += list(clusters)
        rows[-1] |= {"outcome": outcome, "reference": against, "flip": outcome != against, "margin": margin, "pairs": n}
        rows[-1] |= {"signs_turned": len(same) - int(np.sum(same)), "largest_turned": turned}
        rows[-1] |= {"nearest": nearest.value, "nearest_low": nearest.low, "nearest_high": nearest.high}
        for k, e in own.items():
            kind = k.split(":")[1]
            rows[-1] |= {kind: e.value, f"{kind}_low": e.low, f"{kind}_high": e.high}
    return rows, signs, names


def numbers(seen: Seen) -> Iterator[Told]:
    rows, signs, names = seen.once(compared)
    ran, first = [r for r in rows if r["ran"]], rates(next(iter(seen.of_trial(run_grid)[1].values())))
    yield Told("reference:even", "even heads, reference setting: pairs repaired", first["repair:even"])
    yield Told("reference:odd", "odd heads, reference setting: pairs repaired", first["repair:odd"])
    numerics = [not r["flip"] for r in ran if r["draw"] == 0][1:]  # the first is the reference itself
    agree = Estimate.undefined("cells", 0, "no other cell could be run")
    if numerics:
        share = float(np.mean(numerics))
        agree = Estimate(share, share, share, len(numerics), "cells", "every cell of the grid")
    yield Told("agreement:numerics", "settings of dtype, kernel, batch and device with the reference's verdict", agree)
    if numerics:
        turned = clustered_rate(signs, clusters=names, unit="pairs × sets × cells")
        yield Told("agreement:signs", "logit differences whose sign is the reference's", turned)
    draws = [not r["flip"] for r in ran if r["draw"] > 0]
    others = clopper_pearson(sum(draws), len(draws), unit="draws")
    yield Told("agreement:draws", "other draws of the pairs with the reference's verdict", others)
    if margins := [r for r in ran if r["margin"] is not None]:
        label = "smallest distance of a repair rate from its threshold, in any cell"
        yield Told("margin:smallest", label, distance(min(margins, key=lambda r: r["margin"])))


def sensitivity(seen: Seen) -> Control:
    """The comparison must see a real change: patched rows held against unpatched ones must disagree in sign."""
    reference = next(iter(seen.of_trial(run_grid)[1].values()))
    patched = reference[reference["world"] == "all"].assign(world="baseline")
    same, _, _ = signs_agree(patched, reference[reference["world"] == "baseline"])
    share = float(np.mean(same))
    words = f"patched rows held against unpatched ones agree in sign in {percent(share)} of {len(same)} pairs: a real change shows"
    return Control(name="sensitivity", kind="positive", passed=share < 0.5, value=share, words=words)


def everywhere(seen: Seen) -> Control:
    """An edit that writes nothing changes nothing, in every cell, to the tolerance of its dtype."""
    worst, bad, tables = 0.0, 0, seen.of_trial(run_grid)[1]
    for cell, table in tables.items():
        own, none = (table[table["world"] == w].sort_values("pair")["edited"].to_numpy() for w in ("noop", "baseline"))
        gap = float(np.abs(own - none).max()) / max(1.0, float(np.abs(none).max()))
        worst = max(worst, gap / TOLERANCE[getattr(torch, cell.dtype)])
        bad += gap > TOLERANCE[getattr(torch, cell.dtype)]
    words = (
        f"writing back what was there changes nothing in {len(tables) - bad} of {len(tables)} cells (worst: {worst:.2g} of "
        "the dtype's tolerance)"
    )
    return Control(name="no-op in every cell", kind="negative", passed=not bad, value=worst, words=words)


def flips(rows: Rows) -> list[str]:
    return [
        f"flip: {setting(r)} says {r['outcome']} where the reference says {r['reference']} (margin {r['margin']:+.3g})"
        for r in rows
        if r["ran"] and r["flip"] and r["margin"] is not None
    ]


def effects_by_cell(seen: Seen) -> Table:
    parts = [t.assign(cell=str(c)) for c, t in seen.of_trial(run_grid)[1].items()]
    return pd.concat(parts, ignore_index=True)


def every_setting(seen: Seen) -> Figure:
    data = tuple(
        {"label": setting(r), "group": f"{name} heads", "value": r[name], "low": r[f"{name}_low"]}
        | {"high": r[f"{name}_high"], "n": r["pairs"], "unit": "pairs"}
        for name in ("even", "odd")
        for r in seen.once(compared)[0]
        if r["ran"]
    )
    caption = (
        "Repair by the even and the odd heads in every dtype, kernel, batch and place, and for other draws of the pairs. "
        "Settings of one draw share their pairs, so anything that moves there is rounding; batch one uses fewer pairs. "
        "Bars are 95 % intervals over pairs; a verdict flips when one crosses the line."
    )
    options = {"threshold": 0.5, "x_title": "share of pairs repaired"}
    return Figure(
        "estimates", "grid", f"The same claim in every setting, layer {seen.scope.layer}", caption, data, options
    )


def whole_layer(scope: Scope) -> dict[str, Sweep]:
    return {"controls": Sweep((scope.edit("all", scope.whole), *scope.idle()), texts=True)}


EXPERIMENT = OnPairs(
    slug="robustness",
    question="Does a verdict survive dtype, kernel, batch, device and the draw of the pairs?",
    statistics=(
        "agreement:numerics",
        "agreement:draws",
        "agreement:signs",
        "margin:smallest",
        "reference:even",
        "reference:odd",
    ),
    controls=("no-op", "patch-all", "sensitivity"),
    options=OPTIONS,
    alone=True,
    methods={
        "standard": Method(
            "heads (z), same roles; one small claim in every setting, on copies of the same model",
            whole_layer,
            numbers=(numbers,),
            controls=(no_op("controls"), patch_all("controls"), sensitivity, everywhere),
            figures=(every_setting,),
            tables={"cells": lambda seen: pd.DataFrame(seen.once(compared)[0]), "grid": effects_by_cell},
            settings=lambda seen: {"small_claim": [p.model_dump() for p in SMALL]},
            notes=lambda seen: [
                *(f"{c}: {why}" for c, why in seen.of_trial(run_grid)[0] if why),
                *flips(seen.once(compared)[0]),
            ],
        ),
        "published": Method(
            "one setting, reported without another",
            impossible=lambda scope: (
                "the published runs had one setting (float16, one GPU, batch 1, one prompt), so nothing was held against it"
            ),
        ),
    },
    sections={
        "When this misleads": (
            "A verdict far from its threshold survives anything, one near it flips at a rounding: read a flip beside its "
            "margin. Rounding is one source of change among many, and the smallest: other wordings, other layers and, above "
            "all, models trained from other seeds are not in this grid. Draws of pairs share fraction pairs, so they are no "
            "independent repetitions."
        )
    },
)
