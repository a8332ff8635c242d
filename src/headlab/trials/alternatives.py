"""The alternatives of a trial: how many, in what order, and what stands in the record of the walk through them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from headlab.claims import Prediction
from headlab.designs import Matched, matched_sets
from headlab.heads import Grid, Heads
from headlab.stats.figures import percent
from headlab.stats.sequential import Looks, Walk, enough, fixed, looks
from headlab.trials.references import Matching, redrawn


@runtime_checkable
class Deciding(Protocol):
    """What says how its ranks are decided: a claim or a document."""

    @property
    def decide(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def predictions(self) -> tuple[Prediction, ...]: ...


@runtime_checkable
class Alternatives(Protocol):
    """What a claim is ranked among: sets of heads, or labels."""

    @property
    def sets(self) -> Sequence[object]: ...

    @property
    def enumerated(self) -> bool: ...

    @property
    def total(self) -> int: ...


def least_p(found: Alternatives) -> float:
    """The smallest p that a rank among these can have."""
    return 1 / len(found.sets) if found.enumerated else 1 / (1 + len(found.sets))


def levels(claim: Deciding, statistics: Iterable[str] | None = None) -> dict[str, float]:
    """The least threshold of each ranked statistic that is predicted (of these, where some are named)."""
    out: dict[str, float] = {}
    for p in claim.predictions:
        if p.op == "rank<" and (statistics is None or p.statistic in set(statistics)):
            out[p.statistic] = min(p.limit, out.get(p.statistic, 1.0))
    return out


def wanted(claim: Deciding, n: int, statistics: Iterable[str] | None = None) -> int:
    """How many alternatives are planned where ``n`` were asked for: where they are drawn until the claim is decided, as many
    more as can decide it."""
    return n if claim.decide == "fixed" else enough(n, levels(claim, statistics).values())


def planned(claim: Deciding, grid: Grid, named: Heads, matching: Matching, n: int) -> Matched:
    """The sets of a reference: as many as :func:`wanted`, or the ``n`` asked for where there are no more that match.

    Raises ValueError as :func:`headlab.trials.references.redrawn`.
    """
    more = wanted(claim, n)
    try:
        return redrawn(grid, named, matching, n=more, seed=claim.seed)
    except ValueError:
        if more == n:
            raise
        return redrawn(grid, named, matching, n=n, seed=claim.seed)


def in_order(claim: Deciding, matched: Matched, named: Heads, seed: int) -> Matched:
    """The sets in the order in which they are walked: random; where all are listed, the named one first (and where they are
    so few that there is one look, as they are)."""
    if claim.decide == "fixed" or not matched.enumerated or len(looks(len(matched.sets), every=True).at) == 1:
        return matched
    others = [s for s in matched.sets if s != named]
    random.Random(f"walk {seed}").shuffle(others)
    return replace(matched, sets=(named, *others))


def matched_halves(claim: Deciding, n: int, grid: Grid, own: Heads, statistic: str, seed: int) -> Matched:
    """The matched halves of one's own, as many as can decide this statistic where ``n`` were asked for, as they are walked."""
    return in_order(claim, matched_sets(grid, own, n=wanted(claim, n, [statistic]), seed=seed), own, seed)


def plan_of(claim: Deciding, n: int, every: bool, statistics: Iterable[str] | None = None) -> Looks:
    """The looks that are declared; one where the claim wants a fixed number, or predicts none of these ranks."""
    if claim.decide == "fixed" or not levels(claim, statistics):
        return fixed(n, every=every)
    return looks(n, every=every)


def remark(walk: Walk) -> str:
    """A note on the walk."""
    at = ", ".join(f"{n:,}" for n in walk.plan.at)
    stops = "; ".join(f"{name} settled at {n:,}" for name, n in walk.settled.items())
    return (
        f"{walk.drawn:,} of {walk.plan.planned:,} planned alternatives were run (decide: sequential; looks declared at {at}): "
        f"{stops}. Prompts are a fixed number."
    )


def saved(settings: Iterable[Mapping[str, dict[str, dict[str, int]]]]) -> str:
    """Of some records' settings: how many passes through the model their alternatives took, of how many planned; or nothing."""
    walks = [w for s in settings for w in s.get("walks", {}).values()]
    ran, planned = sum(w["passes"] for w in walks), sum(w["passes_planned"] for w in walks)
    if ran == planned:
        return ""
    return (
        f"Sets that nobody named took {ran:,} of {planned:,} planned passes of a prompt through a model: "
        f"{planned - ran:,} ({percent(1 - ran / planned)}) were saved, since ranks stop once they are settled (decide: sequential)."
    )


__all__ = ["Alternatives", "in_order", "least_p", "levels", "matched_halves", "plan_of", "remark", "saved", "wanted"]
