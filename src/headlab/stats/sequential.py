"""A rank decided from as few alternatives as it takes: looked at when declared, stopped when no more could matter.

1. Alternatives stand in random order and are looked at after numbers of them that were declared before the first.
2. Each look is given a share of the tail of the interval of p.  There p has the exact bounds of a fixed number of
   alternatives at that share (Clopper-Pearson; in a walk through all sets that match, the hypergeometric's).  Shares sum
   to one, so all looks' bounds hold together at the level, and stopping at any of them, for whatever reason, errs no
   oftener than a fixed number does.
3. Prompts: every resample of them has a p of its own, with such bounds at the same looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ._check import open_unit, whole
from .estimate import Estimate
from .of_means import OfMeans, _as_extreme, rank_over_draws
from .permutation import Rank
from .tails import tail_of

FIRST, STEP, LAST_SHARE = 21, 1.6, 0.7
"""Looks at 21, 34, 54, 86, 138 … alternatives.  138 without one as extreme are the first of 999 that can uphold at .05; the
last look keeps most of the tail, so that it decides nearly as often as a fixed number (35 of 999 as extreme uphold, not 36)."""
RESAMPLES = 0.1
"""The chance, over all looks, at which a resample of the prompts may be counted on the wrong side of the threshold before the
last look; there, as in a fixed number, each stands where its p does."""


@dataclass(frozen=True)
class Looks:
    """When a walk is looked at: after ``at`` alternatives, with ``shares`` of the tail.  ``every``: the walk passes all sets
    that match, the observed one first; its last look has them all, and its p is exact."""

    at: tuple[int, ...]
    shares: tuple[float, ...]
    every: bool = False

    @property
    def planned(self) -> int:
        return self.at[-1]


def fixed(n: int, *, every: bool = False) -> Looks:
    """One look, at all ``n`` alternatives."""
    return Looks((n,), (1.0,), every)


def looks(n: int, *, every: bool = False) -> Looks:
    """The declared looks at a walk of at most ``n`` alternatives.

    Definition: at 21, 34, 54 … (each 1.6 times the one before) while at most .8 n, then at n.  The last look of a sample has
        .7 of the tail, the others equal parts of the rest; the last of ``every`` set is exact and has none.
    Shapes, units: counts of alternatives.
    Raises: ValueError for no alternatives.
    Source: Lan & DeMets, Biometrika 70:659 (1983), for spending a level over looks; Gandy, JASA 104:1504 (2009), for
        Monte-Carlo p-values with a bounded risk; the even shares (Bonferroni's) are ours.
    When it misleads: looks that nobody declared are not covered.
    """
    n = whole(n, "n", 1)
    early, at = [], float(FIRST)
    while at <= 0.8 * n:
        early.append(round(at))
        at *= STEP
    if not early:
        return fixed(n, every=every)
    last = 0.0 if every else LAST_SHARE
    return Looks((*early, n), (*[(1 - last) / len(early)] * len(early), last), every)


def enough(n: int, alphas: Iterable[float]) -> int:
    """``n``, or as many alternatives more as a p under the least of ``alphas`` takes at any look and level that is asked for:
    the first whole number over 10 / alpha − 2."""
    return max([whole(n, "n", 1), *(math.ceil(10 / open_unit(a, "alpha")) - 1 for a in alphas)])


def rank_at(
    found: OfMeans,
    plan: Looks,
    look: int,
    *,
    alpha: float,
    tests: int = 1,
    unit: str = "matched sets",
    tail: Literal["greater", "less"] = "greater",
    tolerance: float = 1e-9,
) -> tuple[Rank, bool]:
    """The place of the first number among those of a walk so far, and whether more alternatives could change what it decides.

    Definition: upheld for good when p's upper bound and that of 95 % of resamples of the prompts lie under alpha; refuted for
        good by the mirror image at a level that holds among ``tests`` predictions (Bonferroni, which Holm never exceeds);
        undecided for good when neither can come any more: resamples of more than 5 % lie on the wrong side of each.
    Shapes, units: found.value [1 + alternatives so far], the observed first; of ``plan.every`` set the first alternative is
        the observed one again.
    Range, mean over, raises: as `rank_over_draws`.
    Source: Gandy (2009); Besag & Clifford, Biometrika 78:301 (1991), for stopping once enough are as extreme; Lehmann
        (1975), Nonparametrics, for the hypergeometric bounds.
    When it misleads: a p near alpha takes all that were planned and may stay undecided, where a fixed number of as many
        would have decided: its interval is about a fifteenth narrower.
    """
    given = {"alpha": alpha, "unit": unit, "tail": tail, "tolerance": tolerance}
    last, share = look == len(plan.at) - 1, plan.shares[look]
    if last and (plan.every or len(plan.at) == 1):
        return rank_over_draws(found, enumerated=plan.every, **given), True  # type: ignore[arg-type]
    if plan.every:
        found = replace(found, value=np.delete(found.value, 1), draws=np.delete(found.draws, 1, axis=1))
    total = plan.planned if plan.every else None
    place = rank_over_draws(found, enumerated=False, share=share, total=total, **given)  # type: ignore[arg-type]
    place = replace(place, planned=plan.planned)
    settled = place.smallest_attainable >= alpha or found.clusters < 2 or _settled(found, place, tests, tail, tolerance)
    return place, last or settled


def _settled(found: OfMeans, place: Rank, tests: int, tail: str, tolerance: float) -> bool:
    """Whether no further alternatives could change what a rank decides."""
    n, alpha, level, tail_here = place.n_sets, place.alpha, place.level, (1 - place.level) / 2
    every = np.arange(n + 1)
    over, under = (tail_of(every, n, alpha, place.total, above=above) / place.share for above in (True, False))
    here, counts = place.at_least_as_extreme, _as_extreme(found, tail, tolerance)
    sure_under, sure_over = (float((chance[counts] < RESAMPLES).mean()) for chance in (under, over))
    is_under, is_over = under[here] < tail_here, over[here] < tail_here
    if is_under and sure_under >= level:
        return True
    if over[here] < tail_here / tests and float((over[counts] < RESAMPLES / tests).mean()) >= 1 - (1 - level) / tests:
        return True
    return bool((is_over or sure_over > 1 - level) and (is_under or sure_under > 1 - level))


@dataclass(frozen=True)
class Walk:
    """What became of a walk: its looks, how many alternatives were drawn, where each statistic was settled and ``why``;
    ``passes`` that they took, of those that all planned ones would have taken (``of``)."""

    plan: Looks
    drawn: int
    settled: dict[str, int]
    why: dict[str, str]
    passes: int = 0
    of: int = 0

    def plain(self) -> dict[str, object]:
        """As the record keeps it."""
        return {
            "looks": list(self.plan.at),
            "shares": [round(s, 6) for s in self.plan.shares],
            "planned": self.plan.planned,
            "drawn": self.drawn,
            "passes": self.passes,
            "passes_planned": self.of,
            "bounds": "hypergeometric" if self.plan.every else "Clopper-Pearson",
            "settled": {name: {"at": n, "why": self.why[name]} for name, n in self.settled.items()},
        }


def _why(place: Rank | Estimate, settled: bool) -> str:
    if not isinstance(place, Rank):
        return "undefined"
    said = {"upheld": "p is under", "refuted": "p is over", "untestable": "no p could come under"}
    both = "resamples of the prompts lie on both sides of" if settled else "neither bound nor prompts decide about"
    return f"{said.get(place.outcome, both)} {place.alpha:g}" + ("" if settled else " when all planned are drawn")


def walk(
    plan: Looks,
    asked: Sequence[str],
    place: Callable[[str, int], tuple[Rank | Estimate, bool]],
    beside: Sequence[str] = (),
) -> tuple[dict[str, Rank | Estimate], Walk]:
    """Look after look until every statistic of ``asked`` is settled; ``place(name, look)`` measures what the look needs, and
    says where a statistic stands and whether it is settled.  A settled one is not looked at again; those ``beside`` stand
    where they do when the walk ends."""
    found: dict[str, Rank | Estimate] = {}
    at: dict[str, int] = {}
    why: dict[str, str] = {}
    last = len(plan.at) - 1
    for look, n in enumerate(plan.at):
        for name in asked:
            if name not in found:
                here, done = place(name, look)
                if done or look == last:
                    found[name], at[name], why[name] = here, n, _why(here, look < last or last == 0)
        if asked and len(found) == len(set(asked)):
            last = look
            break
    found |= {name: place(name, last)[0] for name in beside}
    return found, Walk(plan, plan.at[last], at, why)


__all__ = ["Looks", "Walk", "enough", "fixed", "looks", "rank_at", "walk"]
