"""What each shipped word organism is made of.  Plain frozen data; importing it loads no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .recipes import Architecture, Recipe

Behaviour = Literal["induction", "ioi"]


@dataclass(frozen=True)
class WordRecipe(Recipe):
    """How a word organism is trained: ``rows`` of repeats (induction) or of each of four sentences (ioi) a step.

    ``third``: the share of ioi prompts whose second subject is a third name.
    """

    behaviour: Behaviour = "ioi"
    third: float = 0.0

    def plain(self) -> dict[str, Any]:
        left_out = {"formats", "wordings", "mix", "plant", "relabel"}
        return {k: v for k, v in asdict(self).items() if k not in left_out}


def _shape(layers: int, head_dim: int = 16) -> Architecture:
    return Architecture(layers=layers, heads=8, head_dim=head_dim, kv_heads=8, intermediate=128)


_ALL = (
    WordRecipe(
        "induction",
        "Learned to go on with a block of random words that is said again, of 6 to 20 words and after 0 to 8 others, so that "
        "no fixed distance will do; nothing was planted.",
        seed=0,
        steps=800,
        architecture=_shape(2, head_dim=8),
        rows=24,
        behaviour="induction",
    ),
    WordRecipe(
        "ioi-small",
        "Learned to say to whom something is given: the one of two names that is not said again; nothing was planted.",
        seed=0,
        steps=600,
        architecture=_shape(3),
        rows=16,
        third=0.1,
    ),
)
WORD_RECIPES: dict[str, WordRecipe] = {r.name: r for r in _ALL}
