"""What each shipped thought model is made of: architecture, problems, seed and the two phases of its training.

Plain frozen data; importing it loads no torch.  Twins share a start: the first phase (chain of thought) is the same
computation for all models of one family, and only the second differs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from headlab.thoughts.schedule import Phase

ThoughtMode = Literal["codi", "none", "filler"]


@dataclass(frozen=True)
class ThoughtArchitecture:
    """Sizes of a tiny language model with a projector of width ``projection``; ``kv_heads`` is None for GPT-2, whose
    heads each have their own keys."""

    family: Literal["gpt2", "llama"]
    layers: int
    hidden: int
    heads: int
    head_dim: int
    kv_heads: int | None
    intermediate: int
    projection: int
    positions: int = 128
    init_std: float = 0.05


@dataclass(frozen=True)
class ThoughtRecipe:
    """How a thought model is trained.

    Problems: ``problems`` of :func:`headlab.tasks.word_problems.word_problems` with ``steps`` and ``values``, seed
    ``seed``, split "train".  ``cot`` is phase 1 (the chain of thought in words); ``codi`` is phase 2, in which the
    model learns, by ``mode``, to answer after its six thoughts, after six learned constants ("filler"), or at once
    ("none"), while it keeps its chain of thought.
    """

    name: str
    summary: str
    mode: ThoughtMode
    seed: int
    architecture: ThoughtArchitecture
    cot: Phase
    codi: Phase
    steps: tuple[int, ...] = (2, 3, 4)
    values: int = 20
    problems: int = 60_000
    thoughts: int = field(default=6)

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def _family(student: ThoughtRecipe, none: str, filler: str) -> tuple[ThoughtRecipe, ...]:
    """A student and its twins: the same start, steps and rates, and the loss of the chain of thought kept.

    The twins have no step loss (there is nothing to read) and no distillation: with it the no-thought twin of
    thoughts-gpt2 got less right (87.2 % of 600 held-out problems, 93.2 % without), and a twin shall be as good as it can.
    """
    alone = replace(student.codi, aid=0.0, distil=0.0)
    return (
        student,
        replace(student, name=f"{student.name}-none", mode="none", thoughts=0, summary=none, codi=alone),
        replace(student, name=f"{student.name}-filler", mode="filler", summary=filler, codi=alone),
    )


_GPT2 = ThoughtRecipe(
    "thoughts-gpt2",
    "A GPT-2 that answers word problems after six thoughts: CODI, with a step loss on thoughts 0, 2 and 4 that fades "
    "out.",
    mode="codi",
    seed=0,
    architecture=ThoughtArchitecture(
        "gpt2", layers=3, hidden=72, heads=12, head_dim=6, kv_heads=None, intermediate=288, projection=72
    ),
    cot=Phase(steps=600, muon=0.02, adam=3e-3),
    codi=Phase(steps=1000, muon=0.01, adam=2e-3, aid=1.0),
)
# stopped early: at 1,000 steps of phase 2 it gets 99.7 % of held-out problems right, which leaves difficulty no room
_LLAMA = ThoughtRecipe(
    "thoughts-llama",
    "A Llama that answers word problems after six thoughts, and misses many of those of five steps: CODI, with a step "
    "loss on thoughts 0, 2 and 4 that fades out, stopped early.",
    mode="codi",
    seed=0,
    architecture=ThoughtArchitecture(
        "llama", layers=2, hidden=96, heads=12, head_dim=8, kv_heads=4, intermediate=192, projection=96
    ),
    cot=Phase(steps=600, muon=0.02, adam=3e-3),
    codi=Phase(steps=600, muon=0.01, adam=2e-3, aid=1.0),
    steps=(2, 3, 4, 5),
)
_NONE = "The no-thought twin of {}: same start, steps and rates, but it answers at once."
_FILLER = "The filler twin of {}: same start, steps and rates, but six learned constants take the thoughts' places."
_ALL = (
    *_family(_GPT2, _NONE.format("thoughts-gpt2"), _FILLER.format("thoughts-gpt2")),
    replace(
        _GPT2,
        name="thoughts-gpt2-plain",
        summary="Plain CODI, thoughts-gpt2 without the step loss: a control, whose attention between thoughts does little.",
        codi=replace(_GPT2.codi, aid=0.0),
    ),
    *_family(_LLAMA, _NONE.format("thoughts-llama"), _FILLER.format("thoughts-llama")),
)
THOUGHT_RECIPES: dict[str, ThoughtRecipe] = {recipe.name: recipe for recipe in _ALL}
