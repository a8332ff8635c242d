"""Families of worlds: many draws of one kind, averaged within each pair, and ranked among the draws of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from headlab.effects import Table, mean_recovery
from headlab.interventions import World
from headlab.stats import Estimate, bootstrap_mean, bootstrap_ratio
from headlab.trials.sweeps import Alternatives, Placed, Scope, Seen, Sweep, Told

Tail = Literal["greater", "less"]


@dataclass(frozen=True)
class Place:
    """What is ranked: ``own(seen)`` [pair], logit differences, among the worlds of a kind; ``label`` and ``unit`` name it."""

    label: str
    own: Callable[[Seen], Any]
    among: str
    unit: str
    tail: Tail = "greater"


@dataclass(frozen=True)
class Families:
    """``make(scope)`` gives the worlds of each kind; ``sweep`` is the name under which :meth:`run` stands in a method's sweeps.
    ``arm``: where their numbers stand; ``ranks``: what is ranked, by its statistic, among kinds of which as many are drawn as
    it takes."""

    make: Callable[[Scope], Mapping[str, Sequence[World]]]
    sweep: str
    arm: str = "z"
    ranks: Mapping[str, Place] = field(default_factory=dict)

    @property
    def drawn(self) -> list[str]:
        """The kinds that something is ranked among."""
        return list(dict.fromkeys(p.among for p in self.ranks.values()))

    def run(self, scope: Scope, *, first: bool = False) -> Sweep:
        """The kinds that are named, and the alternatives (``first``: before them)."""
        made, drawn = self.make(scope), self.drawn
        others = list(zip(*(made[kind] for kind in drawn), strict=True))
        whole = [f"{what}:{kind}" for kind in drawn for what in ("repair", "recovery")]
        placed = {name: Placed(partial(self._shown, p), p.unit, p.tail) for name, p in self.ranks.items()}
        named = [w for kind, some in made.items() if kind not in drawn for w in some]
        return Sweep(named, arm=self.arm, among=Alternatives(others, placed, whole=whole, first=first))

    def _shown(self, place: Place, seen: Seen, n: int) -> Table:
        """[1 + n, pair]"""
        others = seen.values(self.sweep, seen.once(self._made)[place.among][:n])
        return np.vstack([place.own(seen), others]) - seen.pairs(self.sweep)["corrupted"].to_numpy()

    def names(self, seen: Seen) -> dict[str, list[str]]:
        """The worlds of each kind that ran, by name."""
        ran = seen.walks[self.sweep].drawn if self.sweep in seen.walks else 0
        return {k: some[:ran] if k in self.drawn else some for k, some in seen.once(self._made).items()}

    def _made(self, seen: Seen) -> dict[str, list[str]]:
        return {kind: [w.name for w in some] for kind, some in self.make(seen.scope).items()}

    def values(self, seen: Seen, kind: str) -> Any:
        """[world, pair]."""
        return seen.values(self.sweep, self.names(seen)[kind])

    def recoveries(self, seen: Seen, kind: str) -> Any:
        """Recovery of the logit difference under each world, [world]."""
        one = seen.pairs(self.sweep)
        return mean_recovery(self.values(seen, kind), one["clean"].to_numpy(), one["corrupted"].to_numpy())

    def recovered(self, seen: Seen, kind: str) -> Estimate:
        """Recovery of the logit difference, averaged over worlds within each pair; interval over pairs."""
        one = seen.pairs(self.sweep)
        corrupted = one["corrupted"].to_numpy()
        return bootstrap_ratio(
            self.values(seen, kind).mean(0) - corrupted,
            one["clean"].to_numpy() - corrupted,
            clusters=one["cluster"].to_numpy(),
            unit="pairs",
            seed=seen.scope.seed,
        )

    def repaired(self, seen: Seen, kind: str) -> Estimate:
        """Share of pairs with a positive logit difference, averaged over worlds within each pair; interval over pairs."""
        share = (self.values(seen, kind) > 0).mean(0)
        return bootstrap_mean(share, clusters=seen.clusters(self.sweep), unit="pairs", seed=seen.scope.seed)

    def told(self, labels: Mapping[str, str], repaired: str = "pairs repaired") -> Callable[[Seen], Iterator[Told]]:
        """``repair:KIND`` and ``recovery:KIND`` of each kind that has worlds."""

        def numbers(seen: Seen) -> Iterator[Told]:
            for kind, label in labels.items():
                if self.names(seen)[kind]:
                    yield Told(f"repair:{kind}", f"{label}: {repaired}", self.repaired(seen, kind), self.arm)
                    moved = self.recovered(seen, kind)
                    yield Told(f"recovery:{kind}", f"{label}: logit difference recovered", moved, self.arm)

        return numbers

    def ranked(self, seen: Seen) -> Iterator[Told]:
        """Where everything that is ranked stands."""
        for name, place in self.ranks.items():
            yield Told(name, place.label, seen.place(name), self.arm)
