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

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from headlab.claims import PROTOCOLS, Control, Prediction, decide, rule
from headlab.effects import Figure, pivot
from headlab.engine.selfcheck import TOLERANCE
from headlab.experiments.base import Bench, Eligibility, Experiment, Outcome, eligibility, named
from headlab.experiments.heads.patched_sets import checked, layer_of
from headlab.experiments.heads.settings_grid import OPTIONS, Cell, run_grid
from headlab.stats import Estimate, clopper_pearson, clustered_rate
from headlab.stats.figures import percent
from headlab.store import Reading

STATISTICS = ("agreement:numerics", "agreement:draws", "agreement:signs", "margin:smallest", "reference:even",
              "reference:odd")  # fmt: skip
CONTROLS = ("no-op", "patch-all", "sensitivity")
SMALL = (
    Prediction(statistic="repair:even", op=">", threshold=0.5),
    Prediction(statistic="repair:odd", op="<", threshold=0.5),
)


def robustness(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim = bench.claim
    at, scan = layer_of(bench)
    able = eligibility(bench, PROTOCOLS["standard"])
    pairs = able.usable(bench)
    special, controls = checked(bench, PROTOCOLS["standard"], pairs, at)
    cells, tables = run_grid(bench, pairs, at)
    rows, found, extra = compare(bench, cells, tables)
    controls += [extra, *_in_every_cell(bench, cells, tables)]
    readings = [_reading(bench, able, found, controls)]
    if "published" in claim.readings:
        why = (
            "the published runs had one setting (float16, one GPU, batch 1, one prompt), so nothing was held against it"
        )
        verdict = decide(claim, {}, [], impossible=why)
        readings.append(Reading(protocol="published", words="one setting, reported without another", verdict=verdict))
    grid = pd.concat([t.assign(cell=str(c)) for c, t in tables.items()], ignore_index=True)
    return Outcome(
        readings, [_figure(rows, at)], {"cells": pd.DataFrame(rows), "effects": special, "grid": grid},
        able.plain(), settings={"layer": at, "layer_scan": scan, "small_claim": [p.model_dump() for p in SMALL]},
        sections=_SECTIONS, notes=[*(f"{c}: {why}" for c, why in cells if why), *_flips(rows)],
    )  # fmt: skip


def _flips(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"flip: {r['dtype']} {r['kernel']}, batch {r['batch']}, {r['device']}, draw {r['draw']} says {r['outcome']} where "
        f"the reference says {r['reference']} (margin {r['margin']:+.3g})"
        for r in rows
        if r["ran"] and r["flip"] and r["margin"] is not None
    ]


def _rates(table: Any) -> dict[str, Estimate]:
    """Repair by the sign of the logit difference, on the pairs that this cell shows as clean right, corrupted wrong."""
    fit = table[(table["clean"] > 0) & (table["corrupted"] <= 0)]
    out = {}
    for name in ("even", "odd", "all"):
        rows = fit[fit["world"] == name]
        out[f"repair:{name}"] = clustered_rate(
            rows["edited"].to_numpy() > 0, clusters=rows["cluster"].to_numpy(), unit="pairs"
        )
    return out


def small_verdict(rates: Mapping[str, Estimate]) -> tuple[str, float | None, Estimate]:
    """Outcome of the small claim; its margin, how far the deciding interval lies beyond its threshold (negative where it
    straddles it); and that interval.  A refutation stands as long as its clearest refuting prediction does."""
    found = []
    for p in SMALL:
        e = rates[p.statistic]
        gap = None if e.low is None or e.high is None else max(e.low - p.limit, p.limit - e.high)
        found.append((rule(p, e).outcome, gap, e))
    outcomes = [o for o, _, _ in found]
    outcome = next((o for o in ("refuted", "untestable", "undecided") if o in outcomes), "upheld")
    deciding = [(gap, e) for o, gap, e in found if gap is not None and o == outcome]
    if not deciding:
        return outcome, None, found[0][2]
    margin, nearest = (max if outcome == "refuted" else min)(deciding, key=lambda d: d[0])
    return outcome, margin, nearest


def compare(
    bench: Bench, cells: Sequence[tuple[Cell, str]], tables: Mapping[Cell, Any]
) -> tuple[list[dict[str, Any]], dict[str, Estimate], Control]:
    """Every cell against the reference (the first): verdicts, margins, and signs pair by pair."""
    seed, reference = bench.seed, next(iter(tables))
    rates = {c: _rates(t) for c, t in tables.items()}
    base = {c: _reference_for(c, tables) for c in tables}
    rows, signs, names = [], [], []
    for cell, why in cells:
        row: dict[str, Any] = {**asdict(cell), "ran": not why, "why_not": why}
        if why:
            rows.append(row)
            continue
        outcome, margin, nearest = small_verdict(rates[cell])
        against = small_verdict(_rates(base[cell]))[0] if cell.draw == 0 else small_verdict(rates[reference])[0]
        same, clusters, turned = signs_agree(tables[cell], base[cell]) if cell.draw == 0 else ([], [], 0.0)
        signs += list(same)
        names += list(clusters)
        rows.append(
            row | {
                "outcome": outcome, "reference": against, "flip": outcome != against, "margin": margin,
                "pairs": int(tables[cell]["pair"].nunique()), "signs_turned": len(same) - int(np.sum(same)),
                "largest_turned": turned, "nearest": nearest.value, "nearest_low": nearest.low, "nearest_high": nearest.high,
                **{f"{k.split(':')[1]}{part}": getattr(e, name) for k, e in rates[cell].items()
                   for part, name in (("", "value"), ("_low", "low"), ("_high", "high"))},
            }
        )  # fmt: skip
    return rows, _findings(rows, signs, names, rates[reference], seed), _sensitivity(tables[reference])


def _reference_for(cell: Cell, tables: Mapping[Cell, Any]) -> Any:
    """The reference's rows for the pairs that a cell ran."""
    first = next(iter(tables))
    table, n = tables[first], int(tables[cell]["pair"].nunique())
    return table[table["pair"] < n] if cell.draw == 0 else table


def signs_agree(table: Any, reference: Any) -> tuple[Any, Any, float]:
    """[world × pair] whether the signs agree, the clusters, and the largest reference logit difference that turned."""
    worlds = ["even", "odd", "all", "baseline"]
    worlds = [w for w in worlds if (table["world"] == w).any()]
    a, b = pivot(table, worlds), pivot(reference, worlds)
    same = (a > 0) == (b > 0)
    one = table.drop_duplicates("pair").sort_values("pair")["cluster"].to_numpy()
    turned = float(np.abs(b)[~same].max()) if not same.all() else 0.0
    return same.ravel(), np.tile(one, len(worlds)), turned


def _findings(
    rows: Sequence[Mapping[str, Any]],
    signs: Sequence[Any],
    names: Sequence[Any],
    first: Mapping[str, Estimate],
    seed: int,
) -> dict[str, Estimate]:
    ran = [r for r in rows if r["ran"]]
    numerics = [not r["flip"] for r in ran if r["draw"] == 0][1:]  # the first is the reference itself
    draws = [not r["flip"] for r in ran if r["draw"] > 0]
    found = {"reference:even": first["repair:even"], "reference:odd": first["repair:odd"]}
    if numerics:
        share = float(np.mean(numerics))
        found["agreement:numerics"] = Estimate(share, share, share, len(numerics), "cells", "every cell of the grid")
        found["agreement:signs"] = clustered_rate(signs, clusters=names, unit="pairs × sets × cells")
    else:
        found["agreement:numerics"] = Estimate.undefined("cells", 0, "no other cell could be run")
    found["agreement:draws"] = clopper_pearson(sum(draws), len(draws), unit="draws")
    margins = [r for r in ran if r["margin"] is not None]
    if margins:
        least = min(margins, key=lambda r: r["margin"])
        where = f"{least['dtype']}, {least['kernel']}, batch {least['batch']}, {least['device']}, draw {least['draw']}"
        half = 0.5
        low, high = sorted((abs(least["nearest_low"] - half), abs(least["nearest_high"] - half)))
        inside = least["nearest_low"] <= half <= least["nearest_high"]
        found["margin:smallest"] = Estimate(
            abs(least["nearest"] - half), 0.0 if inside else low, max(high, abs(least["nearest"] - half)), least["pairs"],
            "pairs", "distance of the rate from its threshold", note=where,
        )  # fmt: skip
    return found


def _sensitivity(reference: Any) -> Control:
    """The comparison must see a real change: patched rows held against unpatched ones must disagree in sign."""
    patched = reference[reference["world"] == "all"].assign(world="baseline")
    same, _, _ = signs_agree(patched, reference[reference["world"] == "baseline"])
    share = float(np.mean(same))
    return Control(
        name="sensitivity", kind="positive", passed=share < 0.5, value=share,
        words=f"patched rows held against unpatched ones agree in sign in {percent(share)} of {len(same)} pairs: a change shows",
    )  # fmt: skip


def _in_every_cell(bench: Bench, cells: Sequence[tuple[Cell, str]], tables: Mapping[Cell, Any]) -> list[Control]:
    """An edit that writes nothing changes nothing, in every cell, to the tolerance of its dtype."""
    worst, bad = 0.0, []
    for cell, table in tables.items():
        own, none = (table[table["world"] == w].sort_values("pair")["edited"].to_numpy() for w in ("noop", "baseline"))
        gap = float(np.abs(own - none).max()) / max(1.0, float(np.abs(none).max()))
        worst = max(worst, gap / TOLERANCE[getattr(torch, cell.dtype)])
        if gap > TOLERANCE[getattr(torch, cell.dtype)]:
            bad.append(str(cell))
    return [
        Control(
            name="no-op in every cell", kind="negative", passed=not bad, value=worst,
            words=f"writing back what was there changes nothing in {len(tables) - len(bad)} of {len(tables)} cells "
            f"(worst: {worst:.2g} of the dtype's tolerance)",
        )
    ]  # fmt: skip


def _reading(bench: Bench, able: Eligibility, found: Mapping[str, Estimate], controls: Sequence[Control]) -> Reading:
    return Reading(
        protocol="standard",
        words="heads (z), same roles; one small claim in every setting, on copies of the same model",
        verdict=decide(bench.claim, found, controls, ineligible=able.reason),
        estimates=tuple(named(k, _LABELS[k], e) for k, e in found.items()),
    )


_LABELS = {
    "agreement:numerics": "settings of dtype, kernel, batch and device with the reference's verdict",
    "agreement:draws": "other draws of the pairs with the reference's verdict",
    "agreement:signs": "logit differences whose sign is the reference's",
    "margin:smallest": "smallest distance of a repair rate from its threshold, in any cell",
    "reference:even": "even heads, reference setting: pairs repaired",
    "reference:odd": "odd heads, reference setting: pairs repaired",
}


def _figure(rows: Sequence[Mapping[str, Any]], at: int) -> Figure:
    data = tuple(
        {
            "label": f"{r['dtype']}, {r['kernel']}, batch {r['batch']}, {r['device']}, draw {r['draw']}",
            "group": f"{name} heads", "value": r[name], "low": r[f"{name}_low"], "high": r[f"{name}_high"], "n": r["pairs"],
            "unit": "pairs",
        }
        for name in ("even", "odd") for r in rows if r["ran"]
    )  # fmt: skip
    return Figure(
        kind="estimates", name="grid", title=f"The same claim in every setting, layer {at}",
        caption=(
            "Repair by the even and the odd heads in every dtype, kernel, batch and place, and for other draws of the pairs. "
            "Settings of one draw share their pairs, so anything that moves there is rounding; batch one uses fewer pairs. "
            "Bars are 95 % intervals over pairs; a verdict flips when one crosses the line."
        ),
        data=data, options={"threshold": 0.5, "x_title": "share of pairs repaired"},
    )  # fmt: skip


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A verdict far from its threshold survives anything, one near it flips at a rounding: read a flip beside its "
            "margin. Rounding is one source of change among many, and the smallest: other wordings, other layers and, above "
            "all, models trained from other seeds are not in this grid. Draws of pairs share fraction pairs, so they are no "
            "independent repetitions."
        ),
    }
]

EXPERIMENT = Experiment(
    "robustness",
    "Does a verdict survive dtype, kernel, batch, device and the draw of the pairs?",
    robustness,
    STATISTICS,
    CONTROLS,
    OPTIONS,
)
