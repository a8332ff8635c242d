"""A design: a write between keys, in the odd heads, that is said to repair.

1. The claimed write by dose, in even, odd and random halves; the same on as many other keys.
2. Greedy text at the claimed dose; the gain over the other keys; the rank of the odd heads among matched halves.
3. The same write under the published decoding and grading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headlab.effects import of_world, repair
from headlab.heads import odd
from headlab.interventions import World
from headlab.prompts import EncodedPair
from headlab.stats import Estimate
from headlab.stats.psychometric import psychometric
from headlab.trials.checks import no_op, patch_all
from headlab.trials.doses import AmongHalves, Arm, Doses, checked, gain, lacking, named_halves, roles_of
from headlab.trials.flow import Method, OnPairs, what_is_measured
from headlab.trials.sweeps import Scope, Seen, Sweep, Told

Make = Callable[[Sequence[EncodedPair], tuple[str, ...]], Arm]
"""The write, from the pairs and the keys that it takes weight from."""


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


def compared(pairs: Sequence[EncodedPair], make: Make) -> Arms:
    """The write on the whole format; its decoy, or where the prompts have too few other tokens, the write on the frame
    and the decoy of that."""
    claimed = make(pairs, roles_of(pairs, "format"))
    if other := claimed.against(pairs):
        return Arms(claimed, claimed, other)
    frame = make(pairs, roles_of(pairs, "frame"))
    same = replace(frame, name=f"{frame.name}-frame", label=f"{frame.label} (frame only)")
    return Arms(claimed, same, same.against(pairs) if same.fits(pairs) else None)


@dataclass(frozen=True)
class Words:
    """What a reader is told: of both readings, of the dose, and of the null."""

    standard: str
    published: str
    title: str
    x_title: str
    null: str


LABELS = {
    "repair:even": "even heads at the claimed dose: pairs repaired",
    "repair:odd": "odd heads at the claimed dose: pairs repaired",
    "gain:odd": "odd heads: repaired by this write minus by the same on as many other keys",
    "minimum:odd": "odd heads: dose that repairs half of the pairs",
}


def minimum(effects: Any, arm: Arm, members: str, doses: Sequence[float], seed: int) -> Estimate:
    """The dose by which half of the pairs are repaired, by a logistic curve."""
    rows = [of_world(effects, arm.named(members, d)) for d in doses]
    x = np.concatenate([np.full(len(r), d) for r, d in zip(rows, doses, strict=True)])
    y = np.concatenate([(r["edited"] > 0).to_numpy() for r in rows])
    clusters = np.concatenate([r["cluster"].to_numpy() for r in rows])
    found = psychometric(x, y, clusters, unit="pairs × doses", seed=seed).location
    if found.value is None or min(doses) <= found.value <= max(doses):
        return found
    return Estimate.undefined(found.unit, found.n, "no dose tried repairs half of the pairs", method=found.method)


def repair_by_dose(
    slug: str, question: str, make: Make, *, dose: str, options: Mapping[str, Any], words: Words, misleads: str
) -> OnPairs:
    """The experiment; ``dose`` is the option that holds the claimed dose."""

    def arms(scope: Scope) -> Arms:
        return compared(scope.pairs, make)

    def doses(scope: Scope) -> list[float]:
        return [float(d) for d in scope.options["doses"]]

    every = Doses(lambda scope: arms(scope).all, doses)
    odd_heads = AmongHalves(lambda scope: arms(scope).claimed, dose, words.null)

    def standard(scope: Scope) -> dict[str, Sweep]:
        found, at = arms(scope), float(scope.options[dose])
        told = [
            World(f"{a.name} | {s}", (a.edit(heads, at, seed=scope.seed),))
            for a in found.all
            for s, heads in named_halves(scope).items()
        ]
        idle = found.claimed.edit(scope.whole, 0.0)
        return {
            "claimed": Sweep((*checked(scope, idle), *told), texts=True, arm="pattern"),
            "doses": Sweep(every.worlds(scope), arm="pattern"),
            "matched": Sweep((), arm="pattern", among=odd_heads.among(scope)),
        }

    def published(scope: Scope) -> dict[str, Sweep]:
        claimed, heads = arms(scope).claimed, odd(scope.grid, scope.layer)
        world = World("odd", (claimed.edit(heads, float(scope.options[dose]), when="every_step"),))
        idle = claimed.edit(scope.whole, 0.0, when="every_step")
        return {"claimed": Sweep((*checked(scope, idle), world), texts=True, arm="pattern")}

    def numbers(seen: Seen) -> Iterator[Told]:
        found, seed = arms(seen.scope), seen.scope.seed
        told = {f"repair:{s}": repair(seen["claimed"], f"{found.claimed.name} | {s}") for s in ("even", "odd")}
        if found.other is not None:
            own, other = f"{found.same.name} | odd", f"{found.other.name} | odd"
            told["gain:odd"] = gain(seen["claimed"], own, other, seed)
        told["minimum:odd"] = minimum(seen["doses"], found.claimed, "odd", doses(seen.scope), seed)
        return (Told(name, LABELS[name], e, "pattern") for name, e in told.items())

    figure = every.figure(
        "dose",
        f"Pairs repaired, by {words.title} in the heads of layer {{}}",
        "Even, odd and random halves of the layer, and the same write on as many other keys of the prompt (where it has so "
        "few tokens outside the format that none are left, the comparison is made on the frame alone: what stands before and "
        "after the question). Bands are 95 % intervals over pairs, or over halves where wider.",
        words.x_title,
        "share of pairs repaired",
    )
    return OnPairs(
        slug=slug,
        question=question,
        statistics=(*LABELS, "rank:odd"),
        options=options,
        methods={
            "standard": Method(
                words.standard,
                standard,
                numbers=(numbers, odd_heads.told("odd heads at the claimed dose: logit difference recovered")),
                controls=(no_op("claimed"), patch_all("claimed")),
                figures=(figure, odd_heads.figure),
                tables={"doses": every.curve, "matched": odd_heads.table},
                impossible=lacking("numeric", "format"),
            ),
            "published": Method(
                words.published,
                published,
                numbers=(called_right("claimed", {"odd": "repair:odd"}),),
                controls=(no_op("claimed"), patch_all("claimed", "every slice of the layer")),
                impossible=lacking("numeric", "format"),
                asks=what_is_measured,
            ),
        },
        sections={"When this misleads": misleads},
    )


def called_right(sweep: str, worlds: Mapping[str, str]) -> Callable[[Seen], Iterator[Told]]:
    """Pairs that the published grading calls right in each world, under the name of a statistic."""

    def numbers(seen: Seen) -> Iterator[Told]:
        for world, name in worlds.items():
            yield Told(name, f"{name}: pairs called right", repair(seen[sweep], world), "pattern")

    return numbers
