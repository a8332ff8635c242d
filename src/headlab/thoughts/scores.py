"""Numbers for the heads of a thinking model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from headlab.effects import Progress, quiet
from headlab.engine.captures import write_norms
from headlab.heads import Head
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import BATCH, watch

if TYPE_CHECKING:
    from headlab.tasks.word_problems import ProblemSet


def norms(
    thinker: Thinker, problems: ProblemSet, batch: int = BATCH, progress: Progress = quiet
) -> Mapping[Head, float]:
    """Mean norm of what each head writes to the residual stream, ‖z·W_O‖ over all positions of unedited runs."""
    lab = thinker.lab
    layers = range(lab.grid.n_layers)
    wanted = frozenset((at, "z") for at in layers)
    asked, names = [p.question for p in problems], [p.id for p in problems]
    ran = watch(thinker, asked, names, wanted, batch=batch, progress=progress, what="norms")
    seen = ((at, kept[at, "z"]) for _, one in ran for kept in one.kept for at in layers)
    return write_norms({at: lab.weight("o", at) for at in layers}, seen)
