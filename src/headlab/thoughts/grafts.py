"""A head of another model made ready for the place of a head, and what else is put there beside it."""

from __future__ import annotations

from dataclasses import dataclass

from headlab.engine.model import Lab
from headlab.heads import Head
from headlab.heads import layer as whole_layer
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.loading import Thinker
from headlab.thoughts.transplant import (
    Fitted,
    HeadWeights,
    Streams,
    fit,
    has_bias,
    head_weights,
    mean_of,
    paired,
    random_like,
    rotated,
    streams,
    through,
    zero_like,
)


@dataclass(frozen=True)
class Graft:
    """A head here and a head of the donor, with the maps between their models: ``reading``, what the head's layer reads here
    → there; ``writing``, the residual stream there → here; ``mine``, what they were fitted on here."""

    lab: Lab
    here: Head
    donor: Thinker
    there: Head
    mine: Streams
    reading: Fitted
    writing: Fitted

    @classmethod
    def of(
        cls, thinker: Thinker, here: Head, donor: Thinker, there: Head, problems: ProblemSet, batch: int, seed: int
    ) -> Graft:
        """Maps fitted on unedited runs of these problems."""
        mine = streams(thinker, problems, here.layer, batch)
        theirs = streams(donor, problems, there.layer, batch)
        return cls(thinker.lab, here, donor, there, mine, *maps(thinker.lab, mine, theirs, here, seed))

    @property
    def moved(self) -> str:
        """What of a head is moved, in words."""
        grid, size, parts = self.lab.grid, self.donor.lab.head_dim, ["W_Q, W_K, W_V and W_O"]
        if grid.group_size > 1:
            own = grid.kv_group_of(self.here.index)
            group = [f"{h}" for h in whole_layer(grid, self.here.layer) if grid.kv_group_of(h.index) == own]
            parts.append(f"W_K and W_V of the KV head that {', '.join(group)} share")
        bias = has_bias(self.lab, self.here.layer)
        parts.append("biases of q, k, v" if bias else "no biases (this model has none)")
        if size != self.lab.head_dim:
            how = "zeros added" if size < self.lab.head_dim else "the best product of lower rank"
            parts.append(f"{size} channels into {self.lab.head_dim} ({how})")
        return "; ".join(parts)


def maps(lab: Lab, mine: Streams, theirs: Streams, here: Head, seed: int) -> tuple[Fitted, Fitted]:
    """What the head's layer reads, here → there; the residual stream, there → here."""
    reading = fit(*paired(mine.read, theirs.read), offset=has_bias(lab, here.layer), seed=seed)
    return reading, fit(*paired(theirs.resid, mine.resid), offset=True, seed=seed)


def arms(g: Graft, randoms: int, seed: int) -> dict[str, tuple[HeadWeights, str, str]]:
    """What is put in the head's place: weights, label, group."""
    own, lab = head_weights(g.lab, g.here), g.donor.lab
    layer = {h: head_weights(lab, h) for h in whole_layer(lab.grid, g.there.layer)}
    carried = {h: through(w, g.reading, g.writing, own) for h, w in layer.items()}
    turned, seen = rotated(own, g.mine, seed)
    again = through(turned, *maps(g.lab, g.mine, seen, g.here, seed), own)
    mean = through(mean_of(list(layer.values())), g.reading, g.writing, own)
    out = {
        "own": (own, f"its own weights ({g.here})", "control"),
        "rotated": (again, "its own, through a rotated stream", "control"),
        "transplant": (carried[g.there], f"{g.there} of {g.donor.name}", "transplant"),
        "zero": (zero_like(own), "an empty head", "reference"),
        "mean": (mean, "the mean head of the donor's layer", "reference"),
    }
    out |= {f"head {h}": (w, f"{h} of {g.donor.name}", "another head") for h, w in carried.items() if h != g.there}
    for i in range(randoms):
        drawn = random_like(carried[g.there], seed + i)
        out[f"weights {i}"] = (drawn, f"random weights {i}", "random weights")
    return out
