"""Families of worlds: many draws of one kind, averaged within each pair, and ranked among the draws of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headlab.effects import mean_recovery
from headlab.interventions import World
from headlab.stats import Estimate, bootstrap_mean, bootstrap_ratio
from headlab.trials.flow import Scope, Seen, Told
from headlab.trials.ranks import rank_by_pair

Tail = Literal["greater", "less"]


@dataclass(frozen=True)
class Families:
    """``make(scope)`` gives the worlds of each kind; they run in ``sweep``.  ``arm``: where their numbers stand."""

    make: Callable[[Scope], Mapping[str, Sequence[World]]]
    sweep: str
    arm: str = "z"

    def worlds(self, scope: Scope) -> list[World]:
        return [w for some in self.make(scope).values() for w in some]

    def names(self, seen: Seen) -> dict[str, list[str]]:
        """The worlds of each kind, by name."""
        return seen.once(self._names)

    def _names(self, seen: Seen) -> dict[str, list[str]]:
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

    def ranked(
        self, name: str, label: str, own: Callable[[Seen], Any], among: str, unit: str, tail: Tail = "greater"
    ) -> Callable[[Seen], Iterator[Told]]:
        """The place of ``own(seen)`` [pair], logit differences, among the worlds of a kind."""

        def numbers(seen: Seen) -> Iterator[Told]:
            one = seen.pairs(self.sweep)
            shown = np.vstack([own(seen), self.values(seen, among)]) - one["corrupted"].to_numpy()
            clusters = one["cluster"].to_numpy()
            found = rank_by_pair(shown, clusters, seen.scope.claim, enumerated=False, unit=unit, tail=tail)
            yield Told(name, label, found, self.arm)

        return numbers
