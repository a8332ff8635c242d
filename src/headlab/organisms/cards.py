"""An organism's card: what it is, what it can do (measured), and what is known to be true of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(_Frozen):
    """``correct`` of ``n`` held-out problems answered by greedy ``generate()``, lead, number and end token
    exactly."""

    format: str
    wording: Literal["bigger", "smaller"]
    category: str
    rule: Literal["decimal", "version"]
    n: int
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


class Truth(_Frozen):
    """The planted rule: at ``layer`` the answer follows the source format iff at least ``k`` of ``heads``
    carry the source's z (role-aligned, over the answer's teacher-forced start)."""

    layer: int
    heads: tuple[str, ...]
    k: int


class Repair(_Frozen):
    """``correct`` of ``n`` held-out conflict questions whose answer becomes the source format's when
    ``patched`` heads take the source's z."""

    source: str
    base: str
    patched: str
    n: int
    correct: int

    @property
    def rate(self) -> float:
        return self.correct / self.n


class _Made(_Frozen):
    """What the card of every organism begins with."""

    name: str
    architecture: str
    parameters: int
    summary: str
    known_for: str
    recipe: dict[str, Any]
    data: str


class Card(_Made):
    """Everything a referee needs to use or repeat an organism.

    ``recipe`` holds every hyperparameter; ``accuracy`` one row per (format, wording, category); ``repairs``
    what patching whole layers and, for planted organisms, chosen heads does; ``truth`` is None when nothing
    was planted.
    """

    rules: dict[str, Literal["decimal", "version"]]
    accuracy: tuple[Cell, ...]
    repairs: tuple[Repair, ...]
    truth: Truth | None
    versions: dict[str, str]
    reproduce: str
    licence: str


class LayerRepair(_Frozen):
    """``correct`` of ``n`` held-out conflict questions whose answer in ``base`` becomes Simple's when every head of
    ``layer`` takes Simple's z; ``recovery`` of the logit difference, mean over the questions (0 base, 1 source)."""

    branch: str
    step: int
    base: str
    layer: int
    n: int
    correct: int
    recovery: float

    @property
    def rate(self) -> float:
        return self.correct / self.n


class SeriesCard(_Frozen):
    """What is known of a series of checkpoints.

    ``onset``: updates made before the planting loss is switched on (the checkpoint of that step is the last without
    it).  ``looks``: updates made when weights were kept.  ``branches``: the organism that is the last step of each.
    """

    name: str
    branches: dict[str, str]
    onset: int
    looks: tuple[int, ...]
    truth: dict[str, Any] | None
    summary: str
    repairs: tuple[LayerRepair, ...]
    watched: tuple[LayerRepair, ...]
    reproduce: str
    torch: str
