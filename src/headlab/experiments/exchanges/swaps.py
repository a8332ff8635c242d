"""What experiments that exchange heads share: who receives from whom, how it is measured, the null drawn.

Everything here is about one layer; heads are indices, a *mapping* says which slot receives which head.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import Claim, Control, Protocol
from headlab.effects import Figure, mean_recovery, of_world, pivot
from headlab.engine.model import Lab
from headlab.engine.selfcheck import TOLERANCE
from headlab.experiments.base import Bench, with_texts
from headlab.heads import Grid, Heads
from headlab.interventions import Intervention, InterventionError, Site, World
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, Rank, bootstrap_mean, bootstrap_ratio

Mapped = Mapping[int, int]


def exchange(at: int, mapping: Mapped, site: Site) -> Intervention:
    """Slot i receives head ``mapping[i]`` of the same run."""
    return Intervention(Heads.of(at, mapping), site, "exchange", donors=tuple(mapping[i] for i in sorted(mapping)))


def matching_classes(grid: Grid) -> list[list[int]]:
    """Heads that may stand for each other: KV groups, or the whole layer where a group cannot be halved."""
    size = grid.group_size if grid.group_size % 2 == 0 else grid.n_heads
    return [list(range(start, start + size)) for start in range(0, grid.n_heads, size)]


def derangement(members: Sequence[int], rng: random.Random) -> dict[int, int]:
    """A uniformly drawn mapping of the members onto themselves in which nobody keeps its place (two or more)."""
    if len(members) < 2:
        raise InterventionError(f"{len(members)} head(s) cannot change places: the layer has too few heads to shuffle")
    while True:
        drawn = rng.sample(list(members), len(members))
        if all(a != b for a, b in zip(members, drawn, strict=True)):
            return dict(zip(members, drawn, strict=True))


def measured(
    bench: Bench, protocol: Protocol, pairs: Sequence[EncodedPair], worlds: Sequence[World], what: str, arm: str
) -> Any:
    """Effects with graded text."""
    effects = bench.sweep(pairs, worlds, what)
    return with_texts(effects, bench.texts(pairs, worlds, protocol, what), protocol=protocol.name, arm=arm)


def recoveries(effects: Any, names: Sequence[str]) -> Any:
    """Recovery of the logit difference under each world, [world]."""
    one = effects.drop_duplicates("pair").sort_values("pair")
    return mean_recovery(pivot(effects, names), one["clean"].to_numpy(), one["corrupted"].to_numpy())


def recovered_by(effects: Any, names: Sequence[str], seed: int) -> Estimate:
    """Recovery of the logit difference, averaged over worlds within each pair; interval over pairs."""
    one = effects.drop_duplicates("pair").sort_values("pair")
    corrupted = one["corrupted"].to_numpy()
    return bootstrap_ratio(
        pivot(effects, names).mean(0) - corrupted, one["clean"].to_numpy() - corrupted,
        clusters=one["cluster"].to_numpy(), unit="pairs", seed=seed,
    )  # fmt: skip


def repaired_by(effects: Any, names: Sequence[str], seed: int) -> Estimate:
    """Share of pairs with a positive logit difference, averaged over worlds within each pair; interval over pairs."""
    one = effects.drop_duplicates("pair").sort_values("pair")
    share = (pivot(effects, names) > 0).mean(0)
    return bootstrap_mean(share, clusters=one["cluster"].to_numpy(), unit="pairs", seed=seed)


def identity_control(effects: Any, lab: Lab, without: str, words: str) -> Control:
    """World ``identity`` exchanges every head with itself: the same answers and logit differences as ``without``."""
    same, base = (of_world(effects, w).sort_values("pair") for w in ("identity", without))
    gap = float(abs(same["edited"].to_numpy() - base["edited"].to_numpy()).max())
    texts = bool((same["edited_text"].to_numpy() == base["edited_text"].to_numpy()).all())
    scale = max(1.0, float(base["edited"].abs().max()))
    return Control(
        name="identity", kind="negative", passed=texts and gap <= TOLERANCE[lab.dtype] * scale, value=gap,
        words=f"{words} changes {'no' if texts else 'an'} answer of {len(base)} pairs; largest change of a logit "
        f"difference {gap:.2g}",
    )  # fmt: skip


def takes_hold_control(effects: Any, lab: Lab, names: Sequence[str], without: str, seed: int) -> Control:
    """Random exchanges of all heads must move the logit difference by more than rounding."""
    base = of_world(effects, without).sort_values("pair")
    moved = np.abs(pivot(effects, names) - base["edited"].to_numpy()).mean(0)
    found = bootstrap_mean(moved, clusters=base["cluster"].to_numpy(), unit="pairs", seed=seed)
    least = TOLERANCE[lab.dtype] * max(1.0, float(base["edited"].abs().max()))
    return Control(
        name="takes-hold", kind="positive", passed=found.above(least) == "yes", value=found.value,
        words=f"random exchanges of all heads move the logit difference by {found}, rounding by at most {least:.1g}",
    )  # fmt: skip


def without_rank(claim: Claim) -> Claim:
    """The claim as a procedure without a null reads it."""
    kept = tuple(p for p in claim.predictions if p.op != "rank<")
    return claim.model_copy(update={"predictions": kept or claim.predictions})


def rank_figure(
    name: str, title: str, caption: str, null: Any, observed: Estimate, found: Rank, label: str, x_title: str
) -> Figure:  # fmt: skip
    """Random exchanges as a histogram, the named one as a line with its interval over pairs."""
    tail = (
        f" The band is the 95 % interval over {observed.n} pairs. {found.at_least_as_extreme} of {found.n_sets:,} are at "
        f"least as extreme: p = {found.p:.3g}."
    )
    return Figure(
        kind="null", name=name, title=title, caption=caption + tail,
        data=tuple({"value": float(v)} for v in null),
        options={
            "observed": observed.value, "low": observed.low, "high": observed.high, "label": label,
            "x_title": x_title, "p": found.p,
        },
    )  # fmt: skip


def estimates_figure(name: str, title: str, caption: str, rows: Sequence[tuple[str, str, Estimate]], x: str) -> Figure:
    """Rows ``(label, group, estimate)`` as points with intervals."""
    data = tuple(
        {"label": label, "group": group, "value": e.value, "low": e.low, "high": e.high, "n": e.n, "unit": e.unit}
        for label, group, e in rows
    )
    return Figure(
        kind="estimates", name=name, title=title, caption=caption, data=data, options={"threshold": 0.5, "x_title": x}
    )
