"""What edits of a thinking model cost: worlds against a baseline through the same kernels, and numbers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headlab.effects import Table
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.loop import touched_by
from headlab.thoughts.worlds import ThoughtWorld
from headlab.trials.answers import SAID, Adjust, Effect, clusters_of, effects, lost, tabled
from headlab.trials.sweeps import Seen, Told
from headlab.trials.thinking import BASE
from headlab.trials.thought_case import ThoughtBench

Number = Callable[[Seen], Iterator[Told]]


@dataclass(frozen=True)
class Costs:
    """What ran: effects by world, the graded answers, those of the unedited model on the same problems."""

    found: Mapping[str, Effect]
    table: pd.DataFrame
    base: pd.DataFrame

    def lost(self, *worlds: str) -> np.ndarray:
        """Accuracy lost, [problem, world]."""
        return lost(self.base, self.table, worlds)

    @property
    def clusters(self) -> list[str]:
        return clusters_of(self.base)


def measured(
    case: ThoughtBench,
    worlds: Sequence[ThoughtWorld],
    what: str,
    adjust: Adjust | None = None,
    problems: ProblemSet | None = None,
) -> Costs:
    """Every world against a baseline that runs through the same kernels; see :func:`headlab.trials.answers.effects`."""
    base = case.think([BASE], f"{what}: baseline", problems=problems, touched=touched_by(worlds))
    table = case.think(worlds, what, problems=problems)
    return Costs(effects(base, table, worlds, case.seed, adjust), table, base)


@dataclass(frozen=True)
class Edits:
    """Worlds that run together, asked as ``seen.once(EDITS)``; ``adjust`` takes the exact McNemar p of all of them."""

    what: str
    worlds: Callable[[Seen], Sequence[ThoughtWorld]]
    adjust: Adjust | None = None

    def __call__(self, seen: Seen) -> Costs:
        return measured(seen.case, self.worlds(seen), self.what, self.adjust)


Some = Callable[[Seen], Mapping[str, Effect]]


def costs(
    of: Some,
    kinds: Sequence[str] = ("drop", "relative", "accuracy", "parsed"),
    *,
    arm: str | None = None,
    unruled: bool = False,
) -> Number:
    """``KIND:KEY`` of each effect, in the group of its world (or ``arm``)."""

    def told(seen: Seen) -> Iterator[Told]:
        for key, e in of(seen).items():
            for kind in kinds:
                where = e.group if arm is None else arm
                yield Told(f"{kind}:{key}", f"{e.label}: {SAID[kind]}", getattr(e, kind), where, unruled)

    return told


def table(*edits: Edits) -> Callable[[Seen], pd.DataFrame]:
    """A row for each world of these edits, the unedited model first."""

    def make(seen: Seen) -> Table:
        ran = [seen.once(e) for e in edits]
        return tabled(ran[0].base, [x for r in ran for x in r.found.values()])

    return make
