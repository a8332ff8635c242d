"""Model organisms: tiny trained models whose truth about heads is known, shipped as ordinary Hugging Face
folders.

``decimals-natural`` and ``-neox`` learned the 9.8-vs-9.11 bug with nothing planted; in ``decimals-planted-…``
a set of heads carries the format by construction; ``decimals-null-0`` … ``-9`` differ by seed only.  Listing
organisms and reading cards loads no torch; :func:`train` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .recipes import RECIPES, VERSION_FORMATS, Architecture, Plant, Recipe, rule_of

if TYPE_CHECKING:
    from .cards import Card

__all__ = [
    "RECIPES",
    "VERSION_FORMATS",
    "Architecture",
    "Plant",
    "Recipe",
    "UnknownOrganism",
    "card",
    "names",
    "path",
    "rule_of",
    "train",
]
_WEIGHTS = Path(__file__).parent / "weights"


class UnknownOrganism(ValueError):
    """No organism of that name is shipped: says which are."""


def names() -> list[str]:
    """The shipped organisms: those with a recipe and a folder of weights, in the order of the recipes."""
    return [name for name in RECIPES if (_WEIGHTS / name / "card.json").is_file()]


def path(name: str) -> Path:
    """The folder of a shipped organism, for ``from_pretrained``.  Raises UnknownOrganism listing the
    names."""
    if name not in names():
        raise UnknownOrganism(f"no organism is called {name!r}; the shipped ones are {', '.join(names())}")
    return _WEIGHTS / name


def card(name: str) -> Card:
    """The card of a shipped organism.  Raises UnknownOrganism listing the names."""
    from .cards import Card

    return Card.model_validate_json((path(name) / "card.json").read_text(encoding="utf-8"))


def train(
    name: str,
    out: str | Path,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    steps: int | None = None,
    threads: int = 1,
    problems: int = 200,
) -> Path:
    """Train an organism again from its recipe and write it, with a freshly measured card, to the new folder
    ``out``.

    ``progress(done, total, note)`` is called after every step and during measurement; ``steps`` overrides the
    recipe's; ``problems`` is how many are measured per cell of the card.  A planted organism starts from the
    shipped weights of its base (trained first when they are missing).  Deterministic for a seed and a thread
    count. The folder appears whole or not at all.  Raises UnknownOrganism, and FileExistsError when ``out``
    exists.
    """
    from .making import make

    if name not in RECIPES:
        raise UnknownOrganism(f"no organism is called {name!r}; there are recipes for {', '.join(RECIPES)}")
    return make(RECIPES[name], Path(out), progress=progress, steps=steps, threads=threads, problems=problems)
