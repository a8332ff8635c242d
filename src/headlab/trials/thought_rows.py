"""Attention among thoughts in a trial: rows read and stored, and other models beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headlab import organisms
from headlab.heads import every_head
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.attention import ThoughtAttention, attention
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import Asked
from headlab.thoughts.untrained import untrained
from headlab.thoughts.worlds import Force, ThoughtWorld
from headlab.trials.sweeps import Scope
from headlab.trials.thought_case import ThoughtBench, stem

Array = np.ndarray
FEW = 48
"""Problems of a control or a reference: enough for ten sets of them."""


def read(
    case: ThoughtBench,
    what: str,
    *,
    problems: ProblemSet | None = None,
    thinker: Thinker | None = None,
    world: ThoughtWorld | None = None,
    batch: int | None = None,
    tokens: int | None = None,
) -> ThoughtAttention:
    """Rows of attention of the test problems (or others) in the model (or another), batch by batch stored in the run."""
    chosen, who = case.test if problems is None else problems, thinker or case.thinker
    return attention(
        who,
        [p.question for p in chosen],
        [p.id for p in chosen],
        world,
        batch=batch or case.rows,
        max_new_tokens=tokens or case.tokens,
        keep=case.run.shard,
        progress=case.progress,
        what=f"{what} ({who.name} {who.lab.fingerprint[:8]})",
    )


def rows_of(scope: Scope) -> ThoughtAttention:
    """The rows of the test problems: ``seen.of_trial(rows_of)``."""
    return read(scope.case, "attention")


def clusters_of(problems: ProblemSet) -> list[str]:
    return [p.cluster for p in problems]


def lengths(thinker: Thinker, problems: ProblemSet) -> list[int]:
    """Tokens of each question, without ``bot``."""
    return [len(ids) for ids in Asked.of(thinker, [p.question for p in problems], [p.id for p in problems]).ids]


def few(case: ThoughtBench, n: int = FEW) -> ProblemSet:
    """Test problems of the commonest lengths, which run together: for controls and references."""
    each = lengths(case.thinker, case.test)
    count = Counter(each)
    order = sorted(range(len(each)), key=lambda i: (-count[each[i]], each[i], i))
    return case.test.subset(case.test[i] for i in sorted(order[:n]))


def forced(case: ThoughtBench, problems: ProblemSet, shape: str, hub: int | None = None) -> Array:
    """Attention among thoughts with every head forced to a shape, [problem, head, thought, key]."""
    force = Force(every_head(case.grid), shape, hub=hub)  # type: ignore[arg-type]
    world = ThoughtWorld(shape, forces=(force,))
    return read(case, "forced", problems=problems, world=world, tokens=2).matrices


# -- references ---------------------------------------------------------------------------------------------


def siblings(case: ThoughtBench, asked: str) -> list[Thinker]:
    """Other models to hold beside this one: those named (by commas), or with "auto" the shipped ones of its family that
    have thoughts (plain, filler: other training, other seeds of the same shape)."""
    shipped, own = organisms.names("thoughts"), case.thinker.name
    names = [n.strip() for n in asked.split(",") if n.strip()]
    if names == ["auto"]:
        names = [n for n in shipped if own in shipped and stem(n) == stem(own) and n != own and not n.endswith("-none")]
    return [case.opened(n) for n in names]


@dataclass(frozen=True)
class Reference:
    """Attention of another model on a few problems."""

    name: str
    kind: str
    matrices: Array
    clusters: list[str]


def references(scope: Scope) -> list[Reference]:
    """Untrained models of the same config, then siblings, on the problems of :func:`few` (options ``untrained`` and
    ``references``)."""
    case = scope.case
    problems, out = few(case), []
    for kind, thinkers in (
        ("untrained", untrained(case.thinker, scope.options["untrained"], case.seed)),
        ("other", siblings(case, scope.options["references"])),
    ):
        for thinker in thinkers:
            found = read(case, kind, problems=problems, thinker=thinker, tokens=2 if kind == "untrained" else None)
            out.append(Reference(thinker.name, kind, found.matrices, clusters_of(problems)))
    return out


def plain(others: Sequence[Reference]) -> list[Reference]:
    """The untrained ones."""
    return [o for o in others if o.kind == "untrained"]
