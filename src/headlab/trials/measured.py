"""What was measured: readouts of every world on every pair, and how an arm is read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headlab.trials.document import Document
from headlab.trials.fields import WORSE_WHEN_HIGHER
from headlab.trials.worlds import Arm

Array = NDArray[np.float64]


@dataclass
class Measured:
    """Readouts by name: ``base`` and ``other`` [pair] of the edited run unedited and of the other run, ``edited``
    [world, pair] by the engine worlds' names in ``place``.

    ``tokens`` [pair] by readout: scored tokens, where it is a mean over them; ``eligible`` [pair]: right from the clean
    prompt and wrong from the corrupted one.
    """

    base: Mapping[str, Array]
    other: Mapping[str, Array]
    edited: dict[str, Array]
    place: dict[str, dict[str, int]]
    clusters: Sequence[str]
    unit: str
    tokens: Mapping[str, Array] = field(default_factory=dict)
    eligible: NDArray[np.bool_] | None = None
    seen: dict[Any, Array] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.clusters)

    def arm(self, arm: Arm, readout: str) -> Array:
        """[pair]: the readout under an arm, averaged over its draws.  Raises KeyError where it was not measured."""
        key = (tuple(w.name for w in arm.draws), readout)
        if key not in self.seen:
            rows = [self.place[readout][name] for name in key[0]]
            self.seen[key] = self.edited[readout][rows].mean(0)
        return self.seen[key]

    def has(self, arm: Arm, readout: str) -> bool:
        """Whether an arm was measured by a readout."""
        return all(w.name in self.place.get(readout, {}) for w in arm.draws)

    def only(self, which: NDArray[np.bool_]) -> Measured:
        """The same of some pairs."""
        return Measured(
            {k: v[which] for k, v in self.base.items()},
            {k: v[which] for k, v in self.other.items()},
            {k: v[:, which] for k, v in self.edited.items()},
            self.place,
            [c for c, keep in zip(self.clusters, which, strict=True) if keep],
            self.unit,
            {k: v[which] for k, v in self.tokens.items()},
            None if self.eligible is None else self.eligible[which],
        )

    def joined(self, more: Measured) -> Measured:
        """With the worlds of another measurement of the same pairs."""
        edited, place = dict(self.edited), {k: dict(v) for k, v in self.place.items()}
        for name, rows in more.edited.items():
            start = len(edited[name]) if name in edited else 0
            edited[name] = np.concatenate([edited[name], rows]) if name in edited else rows
            place.setdefault(name, {}).update({w: start + i for w, i in more.place[name].items()})
        return Measured(
            {**self.base, **more.base},
            {**self.other, **more.other},
            edited,
            place,
            self.clusters,
            self.unit,
            {**self.tokens, **more.tokens},
            self.eligible,
        )


def kind_of(doc: Document, readout: str) -> str:
    """The kind of a readout by its name (empty: the default)."""
    specs = doc.readouts
    return str((specs[readout] if readout else next(iter(specs.values())))["kind"])


def name_of(doc: Document, readout: str) -> str:
    """A readout's name (empty: the default)."""
    return readout or next(iter(doc.readouts))


def right(doc: Document, readout: str, values: Array) -> Array:
    """1 where a pair is answered rightly, 0 elsewhere: graded text as it is, a margin above zero."""
    return (
        values.astype(np.float64) if kind_of(doc, readout) in {"text", "accuracy"} else (values > 0).astype(np.float64)
    )


def harm(doc: Document, readout: str) -> int:
    """1 where less of the readout is worse, −1 where more is (loss, kl, place)."""
    return -1 if kind_of(doc, readout) in WORSE_WHEN_HIGHER else 1
