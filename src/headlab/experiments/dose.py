"""Repair against dose: how far activations are moved from the corrupted to the clean run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headlab.effects import Figure, of_world
from headlab.experiments.base import Bench
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair
from headlab.stats import clustered_rate


def dose_curve(
    bench: Bench, pairs: Sequence[EncodedPair], at: int, sets: Mapping[str, Heads], labels: Mapping[str, str]
) -> tuple[Any, Figure]:
    """z of each set moved toward the clean run in ten steps: the effects table and the curve."""
    worlds = [
        World(f"{name} × {step / 10:g}", (Intervention(heads, amount=step / 10),))
        for name, heads in sets.items()
        for step in range(11)
    ]
    effects = bench.sweep(pairs, worlds, f"dose L{at}")
    rows = []
    for world in worlds:
        part = of_world(effects, world.name)
        hit = (part["edited"] > 0).to_numpy()
        e = clustered_rate(hit, clusters=part["cluster"].to_numpy(), unit="pairs")
        name, dose = world.name.split(" × ")
        rows.append({"x": float(dose), "y": e.value, "low": e.low, "high": e.high, "series": labels[name], "n": e.n})
    figure = Figure(
        kind="curve",
        name="dose",
        title=f"Pairs repaired, by how far the heads of layer {at} are moved to the clean run",
        caption=(
            "0 leaves z as it is, 1 replaces it by the clean run's. A pair counts as repaired when its logit difference is "
            "positive. Each pair's margin moves about linearly, so a steep curve is what many margins crossing zero at "
            "about the same dose look like. Bands are 95 % intervals over pairs."
        ),
        data=tuple(rows),
        options={"threshold": 0.5, "x_title": "share of the clean z", "y_title": "share of pairs repaired"},
    )
    return effects, figure
