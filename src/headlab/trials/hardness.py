"""Heads ablated on easy and hard problems: effects by stratum, hard minus easy, and what that is held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.heads import Heads
from headlab.stats import Estimate, Rank, clopper_pearson, rank
from headlab.stats.factorial import factorial_regression
from headlab.thoughts.worlds import ablation
from headlab.trials.answers import of_world
from headlab.trials.strata import (
    EASY,
    HARD,
    MEDIUM,
    STEPS,
    Tiers,
    Within,
    by_steps,
    gap,
    lost,
    planted_control,
    published_tiers,
    shuffled_gaps,
    within,
)
from headlab.trials.sweeps import Scope, Seen, Told
from headlab.trials.thinking import BASE
from headlab.trials.thought_checks import parse_control
from headlab.trials.thought_effects import Costs, measured
from headlab.trials.thought_heads import Needed, needed_heads, published_scores
from headlab.trials.thought_sets import Beside

Array = np.ndarray
SURENESS = ("sure", "middling", "unsure")
LABELS = {
    "gap:steps": "accuracy lost on hard problems minus on easy ones",
    "gap:confidence": "accuracy lost where the model was unsure minus where it was sure",
    "interaction:logit": "ablation × steps, log odds for each further step",
    "interaction:points": "ablation × steps, accuracy for each further step",
    "rank:gap": "shuffles of levels with as large a difference of hard and easy",
    "rank:sets": "random heads of the same layers with as large a difference of hard and easy",
}
SAID = {"drop": "accuracy lost", "relative": "share of the accuracy lost", "accuracy": "accuracy without the heads"}


@dataclass(frozen=True)
class Ran:
    """Both sets of heads, their answers beside the unedited ones, and the confidence of other answers."""

    hub: Heads
    hub_label: str
    needed: Needed
    costs: Costs
    tiers: Tiers

    @property
    def base(self) -> pd.DataFrame:
        return self.costs.base

    @property
    def labels(self) -> dict[str, str]:
        """What each world is called."""
        return {"hub heads": self.hub_label, "needed heads": f"needed heads ({self.needed})"}

    def of(self, world: str) -> pd.DataFrame:
        return of_world(self.costs.table, world)


def _ran(scope: Scope) -> Ran:
    case, named, k = scope.case, scope.options["heads"], scope.options["k"]
    needed = needed_heads(case, "", k)
    hub = scope.grid.check(Heads.parse(named)) if named else Heads(published_scores(case).ranked[:k])
    worlds = [ablation("hub heads", hub), ablation("needed heads", needed.as_set)]
    costs = measured(case, worlds, "difficulty")
    tiers = Tiers.of(case.think([BASE], "difficulty: confidence", problems=case.selection))
    return Ran(hub, f"{'named' if named else 'hub'} heads ({hub})", needed, costs, tiers)


def ran(seen: Seen) -> Ran:
    return seen.of_trial(_ran)


def strata(seen: Seen) -> dict[str, tuple[Array, tuple[str, ...]]]:
    """Labels by problem, and levels, by family."""
    kinds = np.array([p.kind or "none" for p in seen.case.test])
    return {
        "steps": (by_steps(seen.case.test), tuple(STEPS)),
        "confidence": (ran(seen).tiers.labels(ran(seen).base), SURENESS),
        "operations": (kinds, tuple(sorted(set(kinds.tolist())))),
    }


def effects(seen: Seen) -> dict[str, list[Within]]:
    """Each world's effects by stratum."""
    one = ran(seen)
    return {
        world: [
            w
            for family, (labels, levels) in seen.once(strata).items()
            for w in within(one.base, one.of(world), world, labels, levels, family, label, seen.case.seed)
        ]
        for world, label in one.labels.items()
    }


def interaction(base: pd.DataFrame, table: pd.DataFrame) -> dict[str, Estimate]:
    """Ablation × steps: how much more each further step costs under ablation than without it, in log odds ("logit", below
    zero: harder problems lose more) and in points of accuracy ("points"); errors by chain of steps."""
    both = pd.concat([base, table], ignore_index=True)
    ablated = np.where(both["world"] == "baseline", "0 unedited", "1 ablated")
    factors, right = {"ablated": ablated, "steps": both["steps"].to_numpy(float)}, both["right"].to_numpy(float)
    clusters, kinds = both["cluster"].tolist(), {"logit": "logit", "points": "ols"}
    return {
        name: factorial_regression(right, factors, kind=kind, clusters=clusters, unit="answers")["ablated × steps"]  # type: ignore[arg-type]
        for name, kind in kinds.items()
    }


def by_world(seen: Seen) -> Iterator[Told]:
    """Effects by stratum, hard minus easy, interactions; the names of the needed heads begin with ``needed:``."""
    one, seed, clusters = ran(seen), seen.case.seed, ran(seen).costs.clusters
    for (world, label), key in zip(one.labels.items(), ("", "needed:"), strict=True):
        for w in seen.once(effects)[world]:
            if w.family != "operations":
                for kind, e in (("drop", w.drop), ("relative", w.relative), ("accuracy", w.edited)):
                    yield Told(f"{key}{kind}:{w.level}", f"{STEPS.get(w.level, w.level)}: {SAID[kind]}", e, label)
        values, families = lost(one.base, one.of(world)), seen.once(strata)
        for family, high, low in (("steps", HARD, EASY), ("confidence", "unsure", "sure")):
            e = gap(values, families[family][0], clusters, high, low, seed)
            yield Told(f"{key}gap:{family}", LABELS[f"gap:{family}"], e, label)
        for kind, e in interaction(one.base, one.of(world)).items():
            yield Told(f"{key}interaction:{kind}", LABELS[f"interaction:{kind}"], e, label)


# -- references ---------------------------------------------------------------------------------------------

BESIDE = Beside(lambda seen: {"hub": ran(seen).hub})


def shuffles(seen: Seen) -> Array:
    """Hard minus easy with levels dealt out anew, [shuffle]; none where a level is missing."""
    one, labels = ran(seen), seen.once(strata)["steps"][0]
    if not ((labels == HARD).any() and (labels == EASY).any()):
        return np.empty(0)
    return shuffled_gaps(lost(one.base, one.of("hub heads")), labels, one.costs.clusters, HARD, EASY, seen.case.seed)


def matched(seen: Seen) -> pd.DataFrame:
    """Of random heads of the same layers: accuracy lost by level, and hard minus easy."""
    each, labels = BESIDE.lost(seen, ran(seen).base)["hub"], seen.once(strata)["steps"][0]
    sets = seen.once(BESIDE.sets)["hub"]
    by = {k: each[labels == k].mean(0) if (labels == k).any() else np.full(each.shape[1], np.nan) for k in STEPS}
    table = pd.DataFrame({"heads": list(map(str, sets.sets))} | {f"drop_{k}": v for k, v in by.items()})
    return table.assign(gap=table[f"drop_{HARD}"] - table[f"drop_{EASY}"], enumerated=sets.enumerated)


def places(seen: Seen) -> dict[str, Rank]:
    own, alpha = seen.estimate("gap:steps").value, seen.case.claim.alpha
    if own is None:
        return {}
    unit, others = "shuffles of levels", seen.once(matched)
    out = {"rank:gap": rank(own, seen.once(shuffles), enumerated=False, alpha=alpha, unit=unit)}
    whole = bool(others["enumerated"].all())
    return out | {"rank:sets": rank(own, others["gap"].to_numpy(float), enumerated=whole, alpha=alpha)}


def ranked(seen: Seen) -> Iterator[Told]:
    return (Told(k, LABELS[k], r, ran(seen).hub_label) for k, r in seen.once(places).items())


def as_published(seen: Seen) -> Iterator[Told]:
    """Tiers of confidence and steps together, as they were proposed."""
    one, where = ran(seen), ran(seen).hub_label
    labels, levels = published_tiers(seen.case.test, one.base), (EASY, MEDIUM, HARD)
    for w in within(one.base, one.of("hub heads"), "hub heads", labels, levels, "published", where, seen.case.seed):
        for kind, e in (("drop", w.drop), ("relative", w.relative), ("accuracy", w.edited)):
            yield Told(f"{kind}:{w.level}", f"{w.level} by confidence and steps: {SAID[kind]}", e, where)
    share = clopper_pearson(int((labels == "none").sum()), len(labels), unit="problems")
    yield Told("gap:outside", "problems that fall into none of the three tiers", share, "", unruled=True)


def parsed(seen: Seen) -> Control:
    return parse_control(seen.case.baseline, ran(seen).costs.table)


def planted_gap(seen: Seen) -> Control:
    return planted_control(ran(seen).base, by_steps(seen.case.test), ran(seen).costs.clusters, seen.case.seed)
