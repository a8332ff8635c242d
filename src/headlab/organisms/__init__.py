"""Model organisms: tiny trained models whose truth about heads is known, shipped as ordinary Hugging Face
folders.

``decimals-natural`` and ``-neox`` learned the 9.8-vs-9.11 bug with nothing planted; in ``decimals-planted-…``
a set of heads carries the format by construction; ``decimals-null-0`` … ``-9`` differ by seed only;
``decimals-series-…`` are the last of twelve checkpoints of a run in which planting began late, or never.
``thoughts-…`` are CODI models that think in vectors before they answer word problems, with twins that do not.
``induction`` goes on with repeated words, ``ioi-small`` says to whom something is given (indirect objects).
``heads-planted-two-layers`` compares decimals with weights that are written down: four heads of two layers, all needed.
Listing organisms and reading cards loads no torch; :func:`train` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .built_recipes import BUILT_RECIPES, BuiltRecipe
from .recipes import RECIPES, SERIES, VERSION_FORMATS, Architecture, Plant, Recipe, SeriesRecipe, rule_of
from .shipped import UnknownOrganism, card, card_in, checkpoints, names, path, series_card, thought_card, trainable
from .thought_recipes import THOUGHT_RECIPES, ThoughtRecipe
from .word_recipes import WORD_RECIPES, WordRecipe

__all__ = [
    "BUILT_RECIPES",
    "RECIPES",
    "SERIES",
    "THOUGHT_RECIPES",
    "VERSION_FORMATS",
    "WORD_RECIPES",
    "Architecture",
    "BuiltRecipe",
    "Plant",
    "Recipe",
    "SeriesRecipe",
    "ThoughtRecipe",
    "UnknownOrganism",
    "WordRecipe",
    "card",
    "card_in",
    "checkpoints",
    "names",
    "path",
    "relabelled",
    "rule_of",
    "series_card",
    "thought_card",
    "train",
    "trainable",
]


def train(
    name: str,
    out: str | Path,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    steps: int | None = None,
    threads: int = 1,
    problems: int | None = None,
) -> Path:
    """Train an organism again from its recipe and write it, with a freshly measured card, to the new folder
    ``out``.  The name of a series (``decimals-series``) trains all its branches into one folder.

    ``progress(done, total, note)`` is called after every step and during measurement; ``steps`` overrides the
    recipe's (of each phase); ``problems`` is how many are measured: per cell of a decimals card or one that is written
    down (200), in all for a thought model (600) or a word one (800).  A planted organism starts from the shipped weights
    of its base (trained first when they are missing); one that is written down takes no steps; a thought model's card
    compares it with its shipped twins.  Deterministic for a seed and a thread count. The folder appears whole or not at
    all.  Raises UnknownOrganism, and FileExistsError when ``out`` exists.
    """
    if name not in (known := trainable()):
        raise UnknownOrganism(f"no organism is called {name!r}; there are recipes for {', '.join(known)}")
    if name in THOUGHT_RECIPES:
        from . import thought_making

        return thought_making.make(
            THOUGHT_RECIPES[name], Path(out), progress=progress, steps=steps, threads=threads, problems=problems or 600
        )
    if name in BUILT_RECIPES:
        from . import built_making

        return built_making.make(BUILT_RECIPES[name], Path(out), threads=threads, problems=problems or 200)
    if name in WORD_RECIPES:
        from . import word_making

        return word_making.make(
            WORD_RECIPES[name], Path(out), progress=progress, steps=steps, threads=threads, problems=problems or 800
        )
    if name in SERIES:
        from .series import make_series

        return make_series(
            SERIES[name], Path(out), progress=progress, steps=steps, threads=threads, problems=problems or 200
        )
    from .making import make

    return make(RECIPES[name], Path(out), progress=progress, steps=steps, threads=threads, problems=problems or 200)


def relabelled(
    name: str,
    out: str | Path,
    *,
    seed: int = 0,
    problems: int = 200,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write a shipped decimals organism with its heads re-indexed exactly to the new folder ``out``: another organism,
    with the same answers and a known truth.

    The weights are the original's in another order, as safetensors beside the tokenizer; the card is measured again
    (``problems`` per cell) and says which head went where, where a planted truth now stands, and the largest change of
    a logit.  ``headlab.load(out)`` opens it, :func:`card_in` reads its card.  ``progress(done, total, note)`` is called
    during measurement.  The folder appears whole or not at all.  Raises UnknownOrganism, and FileExistsError when
    ``out`` exists.
    """
    from .relabelled_making import make_relabelled

    if name not in (known := names("decimals")):
        raise UnknownOrganism(f"no decimals organism is called {name!r}; the shipped ones are {', '.join(known)}")
    return make_relabelled(name, path(name), Path(out), seed, problems=problems, progress=progress)
