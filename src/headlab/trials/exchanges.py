"""Heads of one layer that change places: who receives from whom, and the controls of such worlds.

Heads are indices, a *mapping* says which slot receives which head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headlab.claims import Control, judged
from headlab.designs.exchanges import Mapped
from headlab.effects import graded, of_world
from headlab.engine.model import Lab
from headlab.engine.selfcheck import TOLERANCE
from headlab.stats import bootstrap_mean
from headlab.trials.checks import Check
from headlab.trials.families import Families
from headlab.trials.sweeps import Seen


def identity_control(effects: Any, lab: Lab, without: str, words: str) -> Control:
    """World ``identity`` exchanges every head with itself: the same answers and logit differences as ``without``."""
    same, base = (graded(effects, w) for w in ("identity", without))
    gap = float(abs(same["edited"].to_numpy() - base["edited"].to_numpy()).max())
    texts = bool((base["edited_text"].to_numpy() == same["edited_text"].to_numpy()).all())
    scale = max(1.0, float(base["edited"].abs().max()))
    said = (
        f"{words} changes {'no' if texts else 'an'} answer of {len(base)} pairs; largest change of a logit "
        f"difference {gap:.2g}"
    )
    return judged("identity", "negative", texts and gap <= TOLERANCE[lab.dtype] * scale, gap, said)


def identity(sweep: str, without: str, words: str) -> Check:
    """:func:`identity_control` of a sweep."""
    return lambda seen: identity_control(seen[sweep], seen.scope.lab, without, words)


def takes_hold(families: Families, kind: str, sweep: str, without: str, otherwise: str = "") -> Check:
    """Random exchanges of all heads (``otherwise`` a world of ``sweep`` where none was drawn) move the logit difference by
    more than rounding."""

    def check(seen: Seen) -> Control:
        base = of_world(seen[sweep], without).sort_values("pair")
        drawn = families.names(seen)[kind]
        edited = families.values(seen, kind) if drawn else seen.values(sweep, [otherwise])
        moved = np.abs(edited - base["edited"].to_numpy()).mean(0)
        found = bootstrap_mean(moved, clusters=base["cluster"].to_numpy(), unit="pairs", seed=seen.scope.seed)
        least = TOLERANCE[seen.scope.lab.dtype] * max(1.0, float(base["edited"].abs().max()))
        words = f"random exchanges of all heads move the logit difference by {found}, rounding by at most {least:.1g}"
        return judged("takes-hold", "positive", found.above(least) == "yes", found.value, words)

    return check


def rows(mappings: Mapping[str, Mapped], column: str, layer: int) -> list[dict[str, object]]:
    """A row for each slot of each mapping: who it receives."""
    return [
        {"world": world, "slot": i, column: j, "layer": layer} for world, m in mappings.items() for i, j in m.items()
    ]
