"""Numbers that a claim about prompt pairs may predict: functions from what was seen to named estimates, with their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from headlab.effects import graded, recovery, repair
from headlab.stats import Estimate, mcnemar
from headlab.trials.pairs import contrast
from headlab.trials.sweeps import Seen, Told

Number = Callable[[Seen], Iterator[Told]]


def repaired(sweep: str, worlds: Mapping[str, str], *, arm: str = "z", unruled: bool = False) -> Number:
    """``repair:WORLD`` and ``recovery:WORLD`` of each world of a sweep, where it ran."""

    def told(seen: Seen) -> Iterator[Told]:
        if sweep not in seen.tables:
            return
        table = seen[sweep]
        for world, label in worlds.items():
            yield Told(f"repair:{world}", f"{label}: pairs repaired", repair(table, world), arm, unruled)
            moved = recovery(table, world, seed=seen.scope.seed)
            yield Told(f"recovery:{world}", f"{label}: logit difference recovered", moved, arm, unruled)

    return told


def difference(name: str, label: str, sweep: str, a: str, b: str, *, arm: str = "z") -> Number:
    """Pairs repaired in world ``a`` minus those in ``b``, paired."""

    def told(seen: Seen) -> Iterator[Told]:
        yield Told(name, label, contrast(seen[sweep], a, b, seen.scope.seed), arm)

    return told


def discordance(name: str, label: str, sweep: str, a: str, b: str) -> Number:
    """Exact McNemar p of two worlds."""

    def told(seen: Seen) -> Iterator[Told]:
        one, other = (graded(seen[sweep], w) for w in (a, b))
        found = mcnemar(one["right"].to_numpy(bool), other["right"].to_numpy(bool), one["cluster"].to_numpy())
        p = Estimate(found.p, found.p, found.p, found.discordant, "discordant pairs", "exact McNemar")
        yield Told(name, label, p)

    return told


def counted(value: float | None, n: int, unit: str, note: str) -> Estimate:
    """A number of these very items: nothing was sampled, so it has no width."""
    if value is None:
        return Estimate.undefined(unit, n, note or "nothing to compare")
    return Estimate(value, value, value, n, unit, "counted", note=note)
