"""The latent loop in parts that an engine runs: here, or in workers on replicas of the language model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from torch import nn

from headlab.engine.model import Lab
from headlab.engine.run import Engine, Keep, Made
from headlab.thoughts.loading import Thinker
from headlab.thoughts.model import Codi


@dataclass(frozen=True)
class Part:
    """Every problem of ``block`` (all of one length) in every world of ``worlds``, world after world."""

    name: str
    block: tuple[int, ...]
    worlds: tuple[int, ...]

    @property
    def rows(self) -> range:
        return range(len(self.block) * len(self.worlds))


@dataclass(frozen=True)
class Parts:
    shards: tuple[Part, ...]


@dataclass(frozen=True)
class ThoughtJob:
    """What a call of ``think`` computes beside the language model (see :class:`headlab.engine.run.Job`): ``begin(thinker)``
    makes the function that runs a part."""

    shell: Codi
    name: str
    begin: Callable[[Thinker], Callable[[Part], pd.DataFrame]]
    plan: Parts

    def worker(self, lab: Lab) -> Muse:
        """Who runs its parts: the whole model around this replica of its language model."""
        model = around(lab.model, self.shell)
        model.to(lab.device)
        return Muse(self.begin(Thinker(lab, model, self.name)))


@dataclass
class Muse:
    """Runs parts, each in one batch."""

    compute: Callable[[Part], pd.DataFrame]
    halvings: int = 0

    def run(self, part: Part, tick: Callable[[int], None]) -> pd.DataFrame:
        """The answers of a part."""
        made = self.compute(part)
        tick(len(part.rows))
        return made


def around(language_model: nn.Module | None, shell: Codi) -> Codi:
    """A CODI model with this language model inside, or with none; everything else is ``shell``'s own."""
    made = copy.copy(shell)
    others = {name: module for name, module in shell._modules.items() if name != "codi"}
    made.__dict__["_modules"] = others if language_model is None else {"codi": language_model, **others}
    return made


def ran(
    thinker: Thinker, job: ThoughtJob, engine: Engine | None, keep: Keep | None, progress: Callable[[int, int], None]
) -> list[pd.DataFrame]:
    """The table of each part, in their order: taken from ``keep``, or run by the engine (None: here) and stored there."""
    parts, total = job.plan.shards, sum(len(p.rows) for p in job.plan.shards)
    tables = {p.name: kept for p in parts if keep is not None and (kept := keep.stored(p.name)) is not None}
    todo, done = [p for p in parts if p.name not in tables], sum(map(len, tables.values()))
    progress(done, total)
    for made in (engine or partial(_here, thinker))(thinker.lab, job, todo, lambda n: progress(done + n, total)):  # type: ignore[arg-type]
        name = made.shard.name
        tables[name] = made.edited if keep is None else keep.store(name, made.edited)
    return [tables[p.name] for p in parts]


def _here(
    thinker: Thinker, _: Lab, job: ThoughtJob, parts: Sequence[Part], tick: Callable[[int], None]
) -> Iterator[Made]:
    """The engine of one process, on the model as it is loaded."""
    muse, done = Muse(job.begin(thinker)), 0
    for part in parts:
        made = muse.run(part, lambda n, done=done: tick(done + n))
        done += len(part.rows)
        yield Made(part, made)  # type: ignore[arg-type]
