"""Moving a site of a layer from the corrupted to the clean run by degrees: margins, crossings and norms by dose.

1. The grid: every pair at every dose.
2. Each pair's crossing, narrowed by further runs; pairs of one grid interval share a sweep.
3. The curve of all pairs and what it would be if margins moved in proportion to the dose.
4. The norm of the last layer's output under the same edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from headlab.effects import Table, pivot
from headlab.engine.attention import Tape
from headlab.engine.captures import source_for
from headlab.engine.edits import Rows
from headlab.engine.model import Lab
from headlab.engine.passes import by_length, forward, tensor_of
from headlab.engine.resume import edits_of
from headlab.heads import Heads
from headlab.interventions import Intervention, Site, World
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, clustered_rate
from headlab.stats.dip import Dip, dip
from headlab.stats.dose import Bisection, Crossings, crossing, crossing_quantile
from headlab.stats.linear_null import AgainstLinear, LinearNull, against_linear, linear_margin_null
from headlab.stats.psychometric import Psychometric, psychometric
from headlab.trials.case import Bench
from headlab.trials.sweeps import Seen


@dataclass(frozen=True)
class Curve:
    """One arm: margins [pair, dose], each pair's crossing, the fit, the null, and what differs from it."""

    doses: Any
    margins: Any
    clusters: Any
    found: Crossings
    fit: Psychometric
    null: LinearNull
    against: AgainstLinear
    dip: Dip
    seed: int


def grid_of(step: float) -> list[float]:
    """0 to 1 in equal steps of about ``step``."""
    n = max(2, round(1 / step))
    return [k / n for k in range(n + 1)]


def dose_world(arm: Site, heads: Heads, dose: float) -> World:
    return World(f"{arm} × {round(dose, 9)}", (Intervention(heads, arm, amount=dose),))


def measure(seen: Seen, arm: Site, heads: Heads) -> Curve:
    """The grid, the bisection and the statistics of one arm; the grid ran as the sweep ``grid ARM``."""
    scope = seen.scope
    doses, name = grid_of(float(scope.options["step"])), f"grid {arm}"
    margins = seen.values(name, [dose_world(arm, heads, d) for d in doses]).T
    clusters = seen.clusters(name)
    found, extra = narrowed(
        scope.case,
        scope.pairs,
        arm,
        heads,
        crossing(doses, margins),
        np.array(doses),
        margins,
        float(scope.options["tolerance"]),
    )
    for table in extra:
        table.insert(0, "protocol", scope.protocol.name)
        table.insert(1, "arm", arm)
    seen.tables[name] = pd.concat([seen.tables[name], *extra], ignore_index=True)
    return read(doses, margins, clusters, found, scope.seed)


def read(doses: Any, margins: Any, clusters: Any, found: Crossings, seed: int) -> Curve:
    """The statistics of margins [pair, dose] and crossings [pair]."""
    n, d = len(margins), np.asarray(doses, dtype=float)
    fit = psychometric(
        np.tile(d, n), (margins > 0).ravel(), np.repeat(clusters, len(d)), unit="pairs × doses", seed=seed
    )
    ends = margins[:, -1], margins[:, 0]
    null = linear_margin_null(*ends, d, clusters, seed=seed)
    against = against_linear(found, *ends, clusters, seed=seed)
    return Curve(d, margins, clusters, found, fit, null, against, dip(found.at[found.seen], seed=seed), seed)


def narrowed(
    bench: Bench,
    pairs: Sequence[EncodedPair],
    arm: Site,
    heads: Heads,
    found: Crossings,
    doses: Any,
    margins: Any,
    tolerance: float,
) -> tuple[Crossings, list[Any]]:
    """The crossings bisected to the tolerance; pairs of one grid interval share a sweep."""
    inside = np.flatnonzero(found.seen)
    if not len(inside):
        return found, []
    left = np.searchsorted(doses, found.low[inside])
    gap = float((found.high - found.low)[inside].max())
    points = max(1, int(np.ceil(gap / tolerance - 1e-6)) - 1)
    search = Bisection(
        found.low[inside], found.high[inside], margins[inside, left], margins[inside, left + 1], tolerance, points
    )
    tables, round_ = [], 0
    while not search.done:
        asked, at = search.ask()
        told, rows = _told(bench, pairs, arm, heads, inside[asked], at, f"narrowing {arm} {round_}")
        search, tables, round_ = search.tell(told), [*tables, *rows], round_ + 1
    got = search.crossings()
    out = {k: getattr(found, k).copy() for k in ("at", "slope", "low", "high")}
    for key, values in out.items():
        values[inside] = getattr(got, key)
    return replace(found, **out), tables


def _told(
    bench: Bench, pairs: Sequence[EncodedPair], arm: Site, heads: Heads, which: Any, doses: Any, what: str
) -> tuple[Any, list[Any]]:
    """Margins of runs (pair, dose), a sweep for all pairs that ask for the same doses; and the rows of the sweeps."""
    wanted: dict[int, list[float]] = {}
    for pair, dose in zip(which.tolist(), doses.tolist(), strict=True):
        wanted.setdefault(pair, []).append(round(dose, 9))
    groups: dict[tuple[float, ...], list[int]] = {}
    for pair, some in wanted.items():
        groups.setdefault(tuple(some), []).append(pair)
    margin, tables = {}, []
    for n, (some, members) in enumerate(sorted(groups.items())):
        worlds = [dose_world(arm, heads, d) for d in some]
        table = bench.sweep([pairs[i] for i in members], worlds, f"{what}.{n}")
        for row, pair in zip(pivot(table, [w.name for w in worlds]).T, members, strict=True):
            margin.update({(pair, d): m for d, m in zip(some, row, strict=True)})
        tables.append(table.assign(pair=[members[i] for i in table["pair"]]))
    return [margin[p, round(d, 9)] for p, d in zip(which.tolist(), doses.tolist(), strict=True)], tables


@torch.inference_mode()
def final_norms(lab: Lab, pairs: Sequence[EncodedPair], one: Intervention) -> Any:
    """Norm of the last layer's output at the last position of each edited corrupted run, [pair]."""
    key = (lab.slots[-1].layer, "resid")
    out = np.empty(len(pairs))
    for which in by_length([p.corrupted for p in pairs]).values():
        some = [pairs[i] for i in which]
        rows = Rows.of([one] * len(some), list(range(len(some))), lab.grid, lab.device)
        edits, _ = edits_of(lab, [one], [rows], [source_for(lab, some, one)])
        with lab.tape(Tape(edits=edits, wanted=frozenset({key}))) as tape:
            forward(lab, tensor_of([p.corrupted for p in some], lab.device))
        out[which] = tape.kept[key][:, -1].float().norm(dim=-1).cpu().numpy()
    return out


def findings_of(curve: Curve) -> dict[str, Estimate]:
    """Every number that one arm gives."""
    crossed, seen = curve.found, curve.found.seen
    share = clustered_rate(~crossed.again[seen], curve.clusters[seen], unit="pairs")
    found = {
        "location": curve.fit.location,
        "width": curve.fit.width,
        "median": crossing_quantile(crossed, 0.5, curve.clusters, seed=curve.seed),
        "linear:location": curve.null.fit.location,
        "linear:width": curve.null.fit.width,
        "earlier": curve.against.earlier,
        "spread": curve.against.spread,
        "steepness": curve.against.steepness,
        "once": share,
    }
    if curve.dip.test is not None:
        found["dip"] = curve.dip.test.estimate
    return found


def crossing_table(curve: Curve, pairs: Sequence[EncodedPair], arm: str) -> Table:
    """A row for each pair: its crossing and that of a linear margin."""
    c = curve.found
    return pd.DataFrame(
        {
            "arm": arm,
            "pair": range(len(pairs)),
            "pair_id": [p.pair.id for p in pairs],
            "cluster": curve.clusters,
            "crossing": c.at,
            **{k: getattr(c, k) for k in ("low", "high", "below", "above", "again", "slope")},
            "linear": curve.null.crossings.at,
            "own": curve.margins[:, 0],
            "full": curve.margins[:, -1],
        }
    )
