"""Directions that nobody claims: the same difference of means where whole clusters of prompts have their labels exchanged.

``reference: {labels: WORLD, n: N}`` ranks what a world that adds a direction does among directions made of the same selection
prompts in which some clusters' two runs have changed places, each at the norm of the direction that is claimed (rule 22).  If
the labels mean nothing, every exchange is equally likely.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headlab.engine.directions import Contrast
from headlab.interventions import Intervention
from headlab.material import Direction
from headlab.trials.document import Document
from headlab.trials.material import contrast_of
from headlab.trials.subject import Language
from headlab.trials.worlds import Arm, direction_name, named


@dataclass(frozen=True)
class Labels:
    """The clusters whose pairs are turned round; the first of all, ``labels 0``, turns none and is what is claimed."""

    number: int
    turned: frozenset[str]

    def __str__(self) -> str:
        return f"labels {self.number}"


@dataclass(frozen=True)
class Relabelled:
    """Exchanges of labels: all that there are, the claimed one first (``enumerated``), or a sample without it.

    ``total`` counts all there are, 2 to the number of clusters.
    """

    sets: tuple[Labels, ...]
    enumerated: bool
    total: int


def relabelled(clusters: Sequence[str], n: int, seed: int) -> Relabelled:
    """Every exchange of labels of whole clusters when there are at most ``2 n``, in a random order; else ``n`` different random
    ones."""
    names, rng = sorted(set(clusters)), random.Random(f"labels {seed}")
    total = 2 ** len(names)
    if total <= 2 * n:
        found = [0, *rng.sample(range(1, total), total - 1)]
    else:
        drawn = {0: None}
        while len(drawn) <= n:
            drawn[rng.randrange(total)] = None
        found = list(drawn)[1:]
    made = (frozenset(c for i, c in enumerate(names) if mask >> i & 1) for mask in found)
    start = 0 if total <= 2 * n else 1
    return Relabelled(tuple(Labels(i, turned) for i, turned in enumerate(made, start)), total <= 2 * n, total)


class Turning:
    """The directions of a world under exchanged labels; what its selection prompts hold is read once."""

    def __init__(self, subject: Language, doc: Document) -> None:
        assert doc.reference is not None
        writes = [w.at(c) for w in doc.world_axes()[str(doc.reference.labels)] for c in w.cells()]
        self.subject = subject
        self.made: dict[str, Contrast] = {
            direction_name(w): contrast_of(subject, w) for w in writes if w.write == "add"
        }
        self.clusters = [p.pair.cluster or p.pair.id for p in subject.chosen]

    def arms(self, found: Sequence[Arm], some: Sequence[Labels]) -> Iterator[list[Arm]]:
        """The arms with each of the exchanges in the place of the labels; their directions join the subject's material.

        Raises InterventionError for a direction without length, which has no other norm.
        """
        own = self.subject.material
        ones = [o for arm in found for w in arm.draws for o in w.interventions if o.write == "add"]
        more = {self._called(o, labels): self._turned(ones, o, labels) for labels in some for o in ones}
        self.subject.material = replace(own, directions={**own.directions, **more})
        for labels in some:
            yield [
                replace(arm, draws=tuple(named(self._ones(w.interventions, labels)) for w in arm.draws))
                for arm in found
            ]

    def _ones(self, ones: Sequence[Intervention], labels: Labels) -> list[Intervention]:
        return [replace(o, direction=self._called(o, labels)) if o.write == "add" else o for o in ones]

    def _called(self, one: Intervention, labels: Labels) -> str:
        return f"{one.direction}, {labels}"

    def _turned(self, ones: Sequence[Intervention], one: Intervention, labels: Labels) -> Direction:
        """The direction of ``one`` under these labels at its own norms, for every head where it is added."""
        like = self.subject.material.directions[one.direction]
        alike = [o for o in ones if o.direction == one.direction]
        names = {like.named(o)[i] for o in alike for i in ((0,) if o.site == "resid" else o.indices)}
        kept = Direction({name: like.vectors[name] for name in names})
        made = self.made[str(one.direction)].direction([c not in labels.turned for c in self.clusters])
        return made.scaled_like(kept)
