"""How a phase of training goes: batches, rates and the weight of the aid at each step.  Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """How one phase trains.

    ``steps`` batches of ``rows`` problems; peak rates ``muon`` (matrices) and ``adam`` (embeddings, vectors),
    after ``warmup`` steps, along a cosine to ``floor`` of the peak; gradients clipped to norm ``clip``.
    ``distil`` weighs the distance to the teacher; ``aid`` weighs the step loss, in full until the share
    ``aid_until`` of the steps and then linearly down to 0 at the share ``aid_end``.
    """

    steps: int
    muon: float
    adam: float
    rows: int = 32
    warmup: int = 30
    floor: float = 0.05
    clip: float = 1.0
    weight_decay: float = 0.1
    distil: float = 2.0
    aid: float = 0.0
    aid_until: float = 0.5
    aid_end: float = 1.0


def rate(step: int, phase: Phase) -> float:
    """Share of the peak rate at a step: linear climb, then a cosine to the floor at the last step."""
    climb = min(phase.warmup, phase.steps)
    if step < climb:
        return (step + 1) / climb
    along = (step - climb) / max(1, phase.steps - 1 - climb)
    return phase.floor + (1 - phase.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


def aid(step: int, phase: Phase) -> float:
    """Weight of the step loss at a step: ``phase.aid``, fading linearly to 0 between its two shares."""
    start, end = phase.aid_until * phase.steps, phase.aid_end * phase.steps
    if step < start:
        return phase.aid
    return phase.aid * max(0.0, (end - step) / (end - start)) if end > start else 0.0
