"""Two models that thought about the same problems: their hubs, heads and what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.stats import Estimate, bootstrap_paired_difference
from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import OfMeans
from headlab.thoughts import metrics
from headlab.thoughts.hub_numbers import published_ratios, ratios
from headlab.thoughts.profiles import Profile, profile

Array = np.ndarray


@dataclass(frozen=True)
class Model:
    """One of the two: attention among thoughts in either view, its hub, ratios by problem, profile of its heads."""

    name: str
    parameters: int
    hub: int
    ratios: Array
    raw: OfMeans
    own: Profile
    view: Profile


def judged(
    name: str, size: int, hub: int, among: Array, clusters: list[str], grid: tuple[int, int], seed: int
) -> Model:
    """Everything that is compared, of one model's [problem, head, thought, key]."""
    both = (profile(x, clusters, grid, seed=seed) for x in (among, metrics.published_view(among)))
    return Model(name, size, hub, ratios(among), published_ratios(among, clusters, seed), *both)


def differences(small: Model, large: Model, clusters: list[str], seed: int) -> dict[str, Estimate]:
    """Every statistic; the two models ran on the same problems, so resamples are shared."""
    told: dict[str, Any] = {"unit": "problems", "seed": seed}
    own = [m.ratios[:, m.hub] for m in (small, large)]
    one, two = (bootstrap_means(x[:, None], clusters, **told)[0] for x in own)
    return {
        "hub:smaller": one,
        "hub:larger": two,
        "hub:gap": bootstrap_paired_difference(own[0], own[1], clusters, **told),
        "published:smaller": small.raw.estimate(small.hub),
        "published:larger": large.raw.estimate(large.hub),
        "published:gap": paired(small.raw, large.raw, lambda x: x[..., small.hub], lambda x: x[..., large.hub]),
        "variance:gap": _mean_gap(small.own, large.own, "hub_variance"),
        "skip:gap": _mean_gap(small.own, large.own, "skip"),
    }


def paired(a: OfMeans, b: OfMeans, of_a: Callable[[Array], Any], of_b: Callable[[Array], Any]) -> Estimate:
    """The difference of two numbers whose draws took the same chains of steps.

    Raises ValueError unless both were drawn with one seed over as many chains.
    """
    if (a.seed, a.clusters, len(a.draws)) != (b.seed, b.clusters, len(b.draws)):
        raise ValueError("the two statistics were not resampled together")
    value, draws = of_a(a.value) - of_b(b.value), of_a(a.draws) - of_b(b.draws)
    joint = OfMeans(np.array([value]), draws[:, None], a.n, a.clusters, a.unit, a.method, a.level, a.seed)
    return joint.estimate(0)


def _mean_gap(a: Profile, b: Profile, what: str) -> Estimate:
    def mean(one: Profile) -> Callable[[Array], Any]:
        at = one.place(what)
        return lambda x: x[..., at].mean(-1)

    return paired(a.found, b.found, mean(a), mean(b))


def plain(models: tuple[Model, Model], numbers: Mapping[str, Estimate]) -> dict[str, Any]:
    """The comparison as data: what the published JSON held, each number with its interval, in both readings."""
    out: dict[str, Any] = {"differences": {k: e.to_dict() for k, e in numbers.items()}, "models": {}}
    for m in models:
        one: dict[str, Any] = {
            "parameters": m.parameters,
            "layers": m.own.grid[0],
            "heads": m.own.grid[1],
            "hub": m.hub,
        }
        for name, p in (("standard", m.own), ("published", m.view)):
            first = p.ranked[0]
            one[name] = {
                "top_head": p.names[first],
                "type": p.scores.types[first],
                **{k: p.estimate(k, first).to_dict() for k in ("composite", "flow", "hub_variance", "skip")},
                "types_top20": {k: p.count(k).to_dict() for k in metrics.KINDS},
                "layers_top20": {k: p.count(k).to_dict() for k in metrics.THIRDS},
                "sequential": p.average("sequential").to_dict(),
                "skip_mean": p.average("skip").to_dict(),
            }
        out["models"][m.name] = one
    return out
