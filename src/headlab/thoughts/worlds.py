"""Counterfactuals of a thinking model as plain data: what is edited at the question, the thoughts and the answer.

Positions are named by role: ``question``, ``bot``, ``thoughts`` (all of them) or ``thought[j]``, ``eot``, ``answer``
(every generated token).  No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from headlab.heads import Heads
from headlab.interventions import Intervention, InterventionError
from headlab.reading import expected_one_of

Content = Literal["self", "mean", "resample", "noise", "zero"]
Shape = Literal["identity", "hub", "uniform", "sequential", "self"]
Readers = Literal["thoughts", "answer", "all"]
_THOUGHT = re.compile(r"^thought\[(\d+)\]$")
_CAPTURED = {"noop", "mean", "resample", "patch"}


@dataclass(frozen=True)
class Layout:
    """Where the roles stand in a sequence: a question of so many tokens, ``bot``, the thoughts, ``eot``, the answer."""

    question: int
    n_thoughts: int
    answer: int

    @property
    def prompt(self) -> int:
        """Question and ``bot``."""
        return self.question + 1

    @property
    def eot(self) -> int:
        return self.prompt + self.n_thoughts

    @property
    def length(self) -> int:
        return self.eot + 1 + self.answer

    @property
    def passes(self) -> list[range]:
        """Positions computed by each pass: the prompt, one for each thought, ``eot``, one for each answer token."""
        return [range(self.prompt), *(range(p, p + 1) for p in range(self.prompt, self.length))]

    def thought(self, j: int) -> int:
        return self.prompt + j

    def positions(self, role: str) -> range:
        """Positions of a role.  Raises InterventionError for an unknown one."""
        fixed = {
            "question": range(self.question),
            "bot": range(self.question, self.prompt),
            "thoughts": range(self.prompt, self.eot),
            "eot": range(self.eot, self.eot + 1),
            "answer": range(self.eot + 1, self.length),
        }
        if role in fixed:
            return fixed[role]
        if (found := _THOUGHT.match(role)) and int(found[1]) < self.n_thoughts:
            return range(self.thought(int(found[1])), self.thought(int(found[1])) + 1)
        raise InterventionError(
            f"no role {role!r} in a model with {self.n_thoughts} thoughts; expected {', '.join(fixed)}, or thought[j]"
        )

    def role_of(self, position: int) -> str:
        """The finest role of a position."""
        if self.prompt <= position < self.eot:
            return f"thought[{position - self.prompt}]"
        return next(r for r in ("question", "bot", "eot", "answer") if position in self.positions(r))


@dataclass(frozen=True)
class Replace:
    """What is fed in place of some thoughts; later ones are computed from it.

    ``self``: the unedited run's own vector, stored beforehand, which must change nothing; ``mean`` over the problems of
    the set; ``resample``: another problem's (a seeded derangement); ``noise``: a random direction of the own norm
    (seeded by problem and thought); ``zero``.
    """

    thoughts: tuple[int, ...]
    by: Content
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in get_args(Content):
            raise InterventionError(f"unknown content {self.by!r}; {expected_one_of(self.by, get_args(Content))}")
        if not self.thoughts or min(self.thoughts) < 0:
            raise InterventionError(f"name the thoughts to replace, 0 and up; given {self.thoughts}")


@dataclass(frozen=True)
class Force:
    """Attention to the thoughts, overwritten after the softmax in these heads (of any layers).

    A row keeps its mass on the thoughts and everything else it attends to; inside that mass the weights become:
    ``identity``: what they were; ``hub``: ``share`` on thought ``hub`` and the rest evenly on the other visible ones (a
    row that does not see the hub stays as it is); ``uniform``; ``sequential``: ``share`` on the thought before (a reader
    of the answer: on the last) and the rest evenly; ``self``: all on itself (the answer: on the last).  ``rows``: whose
    attention, the ``thoughts``', the ``answer``'s (with ``eot``), or ``all``.
    """

    heads: Heads
    shape: Shape
    hub: int | None = None
    share: float = 0.8
    rows: Readers = "thoughts"

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape) or self.rows not in get_args(Readers):
            raise InterventionError(
                f"unknown shape {self.shape!r} or rows {self.rows!r}; expected {', '.join(get_args(Shape))} and "
                f"{', '.join(get_args(Readers))}"
            )
        if (self.shape == "hub") != (self.hub is not None):
            raise InterventionError("a hub pattern names its hub, another does not")
        if not 0 <= self.share <= 1:
            raise InterventionError(f"a share lies between 0 and 1, given {self.share}")

    def profile(self, reader: int | None, n: int) -> tuple[float, ...] | None:
        """Weights inside the thoughts' mass, of ``n`` thoughts, for the reader ``thought[reader]`` (None: the answer);
        None where the row stays as it is."""
        outside = self.rows != "all" and (reader is None) != (self.rows == "answer")
        if self.shape == "identity" or outside:
            return None
        visible = n if reader is None else reader + 1
        if visible < 2:
            return None
        if self.shape == "uniform":
            return tuple(1 / visible if i < visible else 0.0 for i in range(n))
        last = visible - 1
        at = {"hub": self.hub, "self": last, "sequential": last if reader is None else last - 1}[self.shape]
        share = 1.0 if self.shape == "self" else self.share
        if at is None or at >= visible:
            return None
        return tuple(share if i == at else (1 - share) / (visible - 1) if i < visible else 0.0 for i in range(n))


@dataclass(frozen=True)
class ThoughtWorld:
    """Edits applied together: one counterfactual of a thinking model.  None: the baseline.

    An :class:`Intervention`'s ``roles`` (and ``keys``) are those of this module; None means every position, generated
    tokens included, so ``when`` and ``beyond`` are not read here.
    """

    name: str
    interventions: tuple[Intervention, ...] = ()
    forces: tuple[Force, ...] = ()
    replaced: tuple[Replace, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for one in self.interventions:
            if one.site in {"scores", "pattern"} and one.write in _CAPTURED:
                raise InterventionError(
                    f"{one.write!r} at {one.site!r} is not defined while tokens are still to come; Force(…, 'identity') "
                    "writes a pattern's own weights back"
                )
            if one.decoy:
                raise InterventionError(
                    "decoy keys are drawn among a prompt's roles; name the keys of a thinking model"
                )
        seen = [j for r in self.replaced for j in r.thoughts]
        if len(set(seen)) != len(seen):
            raise InterventionError(f"world {self.name!r} replaces a thought twice: {seen}")

    @property
    def asks_own(self) -> bool:
        """Whether the unedited run of the same problem is needed."""
        return any(r.by == "self" for r in self.replaced) or any(i.write == "noop" for i in self.interventions)

    @property
    def asks_donor(self) -> bool:
        """Whether another problem's run is needed."""
        return any(r.by == "resample" for r in self.replaced) or any(
            i.write in {"resample", "patch"} for i in self.interventions
        )

    @property
    def asks_mean(self) -> bool:
        return any(r.by == "mean" for r in self.replaced) or any(i.write == "mean" for i in self.interventions)


def ablation(
    name: str, heads: Heads, write: str = "mean", *, roles: Sequence[str] | None = None, seed: int = 0, **labels: Any
) -> ThoughtWorld:
    """Ablate z of these heads, of any layers, at these roles (None: everywhere)."""
    where = None if roles is None else tuple(roles)
    ones = tuple(
        Intervention(Heads.of(at, heads.at(at)), "z", write, roles=where, seed=seed)  # type: ignore[arg-type]
        for at in heads.layers
    )
    return ThoughtWorld(name, ones, labels=labels)
