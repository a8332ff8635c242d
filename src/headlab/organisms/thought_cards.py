"""A thought model's card: what it is, and what it gets right with its thoughts, without them and with others."""

from __future__ import annotations

from typing import Literal

from .cards import Truth, _Frozen, _Made

Way = Literal[
    "chain of thought",
    "student",
    "noise",
    "mean",
    "other problem",
    "no thoughts",
    "thoughts apart",
    "no-thought twin",
    "filler twin",
]


class Rate(_Frozen):
    """``correct`` of ``n`` held-out problems of ``steps`` steps (None: of any), with Wilson's 95 % interval, which takes
    problems as independent (they make ``chains`` different calculations; gaps resample whole chains).

    ``way``: the model writes its chain of thought; the student answers as it was trained to; the same model with
    every thought replaced by norm-matched noise, by the mean thought, by another problem's thoughts, or left out, or
    with no thought attending to an earlier one ("thoughts apart"); or a twin answers the same problems.
    """

    way: Way
    steps: int | None
    n: int
    chains: int
    correct: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


class Gap(_Frozen):
    """Accuracy of the student less that of ``way`` on the same ``n`` problems, with its 95 % interval (Newcombe's for
    pairs; by bootstrap of chains where problems share one)."""

    way: Way
    steps: int | None
    n: int
    difference: float
    low: float
    high: float
    method: str


class ThoughtCard(_Made):
    """Everything a referee needs to use or repeat a thought model.

    ``recipe`` holds every hyperparameter; ``accuracy`` one row per way of answering and number of steps; ``gaps`` the
    student's advantage over each of the others.  ``truth`` is None: no circuit was planted.
    """

    accuracy: tuple[Rate, ...]
    gaps: tuple[Gap, ...]
    truth: Truth | None = None
    versions: dict[str, str]
    reproduce: str
    licence: str

    def rate(self, way: Way, steps: int | None = None) -> Rate:
        """The row of a way of answering.  Raises KeyError when it was not measured."""
        for row in self.accuracy:
            if (row.way, row.steps) == (way, steps):
                return row
        raise KeyError(f"the card of {self.name} has no row for {way!r} with steps {steps}")

    def gap(self, way: Way, steps: int | None = None) -> Gap:
        """The student's advantage over a way of answering.  Raises KeyError when it was not measured."""
        for row in self.gaps:
            if (row.way, row.steps) == (way, steps):
                return row
        raise KeyError(f"the card of {self.name} has no gap to {way!r} with steps {steps}")
