"""What is taken from a readout of the unedited run, as a share of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headlab.claims import Control
from headlab.effects import of_world, pivot
from headlab.stats import Estimate, bootstrap_mean, bootstrap_ratio


class Lost:
    """What knock-outs take from the logit difference of the unedited run, as a share of its mean over pairs."""

    def __init__(self, effects: Any, seed: int) -> None:
        self.effects, self.seed = effects, seed
        one = of_world(effects, "baseline").sort_values("pair")
        self.base, self.clusters = one["edited"].to_numpy(), one["cluster"].to_numpy()
        self.margin = float(self.base.mean())

    def by_pair(self, worlds: Sequence[str]) -> Any:
        return self.base - pivot(self.effects, worlds).mean(0)

    def mean(self, world: str) -> float:
        return float(self.by_pair([world]).mean() / self.margin)

    def share(self, worlds: Sequence[str], against: Sequence[str] = ()) -> Estimate:
        taken = self.by_pair(worlds) - (self.by_pair(against) if against else 0.0)
        return bootstrap_ratio(taken, self.base, clusters=self.clusters, unit="pairs", seed=self.seed)

    def positive(self) -> Control:
        """Knocking out every edge of the layer at once must move the margin."""
        found = bootstrap_mean(abs(self.by_pair(["all"])), clusters=self.clusters, unit="pairs", seed=self.seed)
        least = 0.05 * abs(self.margin)
        words = (
            f"knocking out every edge of the layer moves the logit difference by {found}, at least {least:.2g} asked"
        )
        passed = found.above(least) == "yes"
        return Control(name="knock-out-all", kind="positive", passed=passed, value=found.value, words=words)
