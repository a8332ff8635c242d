"""Numbers for the heads of a thinking model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from headlab.effects import Progress, quiet
from headlab.heads import Head
from headlab.thoughts.loading import Thinker
from headlab.thoughts.loop import BATCH, watch

if TYPE_CHECKING:
    from headlab.tasks.word_problems import ProblemSet


def norms(
    thinker: Thinker, problems: ProblemSet, batch: int = BATCH, progress: Progress = quiet
) -> Mapping[Head, float]:
    """Mean norm of what each head writes to the residual stream, ‖z·W_O‖ over all positions of unedited runs.

    Summed in 64 bits and given to the precision of 32: in 32 bits two runs on one machine differed in the last digits."""
    lab = thinker.lab
    layers = range(lab.grid.n_layers)
    wanted = frozenset((at, "z") for at in layers)
    gram = {at: (w := lab.weight("o", at).double()) @ w.transpose(1, 2) for at in layers}
    total, count = torch.zeros(lab.grid.n_layers, lab.grid.n_heads, dtype=torch.float64), 0
    asked, names = [p.question for p in problems], [p.id for p in problems]
    for _, ran in watch(thinker, asked, names, wanted, batch=batch, progress=progress, what="norms"):
        for seen in ran.kept:
            for at in layers:
                z = seen[at, "z"].double()
                squared = torch.einsum("rphd,hde,rphe->rph", z, gram[at], z).clamp(min=0)
                total[at] += squared.sqrt().sum((0, 1)).cpu()
            count += seen[0, "z"].shape[0] * seen[0, "z"].shape[1]
    mean = (total / count).float()
    return {Head(at, h): float(mean[at, h]) for at in layers for h in range(lab.grid.n_heads)}
