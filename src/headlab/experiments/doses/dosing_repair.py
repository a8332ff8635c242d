"""A write between keys in the odd heads that is said to repair: what bandwidth-repair and format-masking share.

1. The claimed write by dose, in even, odd and random halves; the same on as many other keys.
2. Greedy text at the claimed dose; the gain over the other keys; the rank of the odd heads among matched halves.
3. The same write under the published decoding and grading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, decide
from headlab.effects import Figure, of_world, repair
from headlab.experiments.base import Bench, Eligibility, Outcome, eligibility, no_op_control, patch_all_control
from headlab.experiments.doses.dosing import (
    Arm,
    control_worlds,
    dose_figure,
    estimates_of,
    gain,
    halves,
    impossible_reading,
    lacking,
    layer_of,
    published_reading,
    ranked,
    roles_of,
    run_doses,
    with_answers,
    world_name,
)
from headlab.heads import even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.prompts import EncodedPair
from headlab.stats import Estimate
from headlab.stats.psychometric import psychometric
from headlab.store import Reading


@dataclass(frozen=True)
class Arms:
    """``claimed``: the write that is said to repair; ``same`` and ``other``: a write and its decoy (``other`` None where
    no prompt has keys for one)."""

    claimed: Arm
    same: Arm
    other: Arm | None

    @property
    def all(self) -> list[Arm]:
        return list(dict.fromkeys(a for a in (self.claimed, self.same, self.other) if a is not None))


def compared(pairs: Sequence[EncodedPair], make: Callable[[tuple[str, ...]], Arm]) -> Arms:
    """The write on the whole format; its decoy, or where the prompts have too few other tokens, the write on the frame
    and the decoy of that."""
    claimed = make(roles_of(pairs, "format"))
    if other := claimed.against(pairs):
        return Arms(claimed, claimed, other)
    frame = make(roles_of(pairs, "frame"))
    same = replace(frame, name=f"{frame.name}-frame", label=f"{frame.label} (frame only)")
    return Arms(claimed, same, same.against(pairs) if same.fits(pairs) else None)


@dataclass(frozen=True)
class Words:
    """What a reader is told: of both readings, of the dose, and where it misleads."""

    standard: str
    published: str
    title: str
    x_title: str
    null: str
    misleads: str


def repair_by_dose(
    bench: Bench, make: Callable[[Sequence[EncodedPair]], Arms], words: Words, *, dose: float,
    doses: Sequence[float], random_halves: int,
) -> Outcome:  # fmt: skip
    """The experiment in which a write in odd heads is said to repair: doses, decoys, null, both readings."""
    import pandas as pd

    claim, (at, scan) = bench.claim, layer_of(bench)
    readings: list[Reading] = []
    suited, effects, figures, tables = {}, [], [], {}
    for name in claim.readings:
        able = eligibility(bench, PROTOCOLS[name])
        suited[name] = able.plain()
        pairs = able.usable(bench)
        if why := lacking(pairs, "numeric", "format"):
            readings.append(impossible_reading(claim, name, words.standard, why))
            continue
        arms = make(pairs)
        if name == "published":
            world = World("odd", (arms.claimed.edit(odd(bench.lab.grid, at), dose, when="every_step"),))
            idle = arms.claimed.edit(all_heads(bench.lab.grid, at), 0.0, when="every_step")
            reading, table = published_reading(bench, able, at, {"repair:odd": world}, idle, words.published)
            effects.append(table)
        else:
            reading, figures, tables, rows = _standard(bench, able, at, arms, words, dose, doses, random_halves)
            effects += rows
        readings.append(reading)
    if effects:
        tables["effects"] = pd.concat(effects, ignore_index=True)
    return Outcome(
        readings, figures, tables, {**suited[claim.readings[0]], "by_protocol": suited},
        settings={"layer": at, "layer_scan": scan},
        sections=[{"heading": "When this misleads", "text": words.misleads}],
    )  # fmt: skip


def _standard(
    bench: Bench, able: Eligibility, at: int, arms: Arms, words: Words, dose: float, doses: Sequence[float], n: int
) -> tuple[Reading, list[Figure], dict[str, Any], list[Any]]:
    pairs, grid, protocol, seed = able.usable(bench), bench.lab.grid, PROTOCOLS["standard"], bench.seed
    whole, both = all_heads(grid, at), {"even": even(grid, at), "odd": odd(grid, at)}
    told = [
        *control_worlds(protocol, whole, arms.claimed.edit(whole, 0.0)),
        *(World(f"{a.name} | {s}", (a.edit(h, dose, seed=seed),)) for a in arms.all for s, h in both.items()),
    ]
    answers = with_answers(bench, pairs, told, protocol, f"claimed dose L{at}")
    swept = run_doses(bench, pairs, arms.all, halves(grid, at, n, seed), doses, f"doses L{at}")
    place = ranked(bench, pairs, both["odd"], arms.claimed, dose, words.null)
    findings: dict[str, Estimate] = {f"repair:{s}": repair(answers, f"{arms.claimed.name} | {s}") for s in both}
    if arms.other is not None:
        findings["gain:odd"] = gain(answers, f"{arms.same.name} | odd", f"{arms.other.name} | odd", seed)
    findings["minimum:odd"] = minimum(swept.effects, arms.claimed, "odd", doses, seed)
    controls = [no_op_control(answers, bench.lab), patch_all_control(answers, seed)]
    verdict = decide(bench.claim, {**findings, "rank:odd": place.rank}, controls, ineligible=able.reason)
    shown = {**findings, "rank:odd": place.rank.estimate, "recovery:odd": place.recovery}
    reading = Reading(
        protocol="standard",
        words=words.standard,
        verdict=verdict,
        estimates=tuple(estimates_of(shown, LABELS)),
    )
    figure = dose_figure(
        swept, arms.all, name="dose", title=f"Pairs repaired, by {words.title} in the heads of layer {at}",
        caption=(
            "Even, odd and random halves of the layer, and the same write on as many other keys of the prompt (where it "
            "has so few tokens outside the format that none are left, the comparison is made on the frame alone: what "
            "stands before and after the question). Bands are 95 % intervals over pairs, or over halves where wider."
        ),
        x_title=words.x_title, y_title="share of pairs repaired",
    )  # fmt: skip
    return reading, [figure, place.figure], {"doses": swept.curve, "matched": place.table}, [
        answers, swept.effects, place.effects
    ]  # fmt: skip


def minimum(effects: Any, arm: Arm, members: str, doses: Sequence[float], seed: int) -> Estimate:
    """The dose by which half of the pairs are repaired, by a logistic curve."""
    rows = [of_world(effects, world_name(arm, members, d)) for d in doses]
    x = np.concatenate([np.full(len(r), d) for r, d in zip(rows, doses, strict=True)])
    y = np.concatenate([(r["edited"] > 0).to_numpy() for r in rows])
    clusters = np.concatenate([r["cluster"].to_numpy() for r in rows])
    found = psychometric(x, y, clusters, unit="pairs × doses", seed=seed).location
    if found.value is None or min(doses) <= found.value <= max(doses):
        return found
    return Estimate.undefined(found.unit, found.n, "no dose tried repairs half of the pairs", method=found.method)


LABELS = {
    "repair:even": "even heads at the claimed dose: pairs repaired",
    "repair:odd": "odd heads at the claimed dose: pairs repaired",
    "gain:odd": "odd heads: repaired by this write minus by the same on as many other keys",
    "minimum:odd": "odd heads: dose that repairs half of the pairs",
    "rank:odd": "matched halves at least as extreme",
    "recovery:odd": "odd heads at the claimed dose: logit difference recovered",
}
