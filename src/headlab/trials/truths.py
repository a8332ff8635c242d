"""Heads whose truth is known, where the model is a shipped organism."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from headlab import organisms
from headlab.organisms.cards import Truth
from headlab.stats import Estimate, auroc
from headlab.trials.attention_scores import Watched
from headlab.trials.sweeps import Seen, Told


def tells_causal_heads(watched: Watched, label: str) -> Callable[[Seen], Iterator[Told]]:
    """``auroc:truth``: how well the mean of a reading tells the planted heads from the others of their layer."""

    def told(seen: Seen) -> Iterator[Told]:
        lab = seen.scope.lab
        known = organisms.card(lab.name).truth if lab.name in organisms.names("decimals") else None
        found = Estimate.undefined("heads", lab.grid.n_heads, "the causal heads of this model are not known")
        if isinstance(known, Truth):
            planted = [f"L{known.layer}H{h}" in known.heads for h in range(lab.grid.n_heads)]
            found = auroc(np.nanmean(seen.once(watched.values)[known.layer], 0), planted, unit="heads")
        yield Told("auroc:truth", label, found, "")

    return told
