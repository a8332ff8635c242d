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
from typing import TYPE_CHECKING, Literal

from .built_recipes import BUILT_RECIPES, BuiltRecipe
from .recipes import RECIPES, SERIES, VERSION_FORMATS, Architecture, Plant, Recipe, SeriesRecipe, rule_of
from .thought_recipes import THOUGHT_RECIPES, ThoughtRecipe
from .word_recipes import WORD_RECIPES, WordRecipe

if TYPE_CHECKING:
    from .cards import Card, SeriesCard
    from .thought_cards import ThoughtCard
    from .word_cards import WordCard

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
Task = Literal["decimals", "thoughts", "words", "built"]
_WEIGHTS = Path(__file__).parent / "weights"


class UnknownOrganism(ValueError):
    """No organism of that name is shipped: says which are."""


def trainable(task: Task | None = None) -> list[str]:
    """What there is a recipe for, of one task or of all: organisms, and series of checkpoints by their own name."""
    known = {
        "decimals": (*RECIPES, *SERIES),
        "thoughts": (*THOUGHT_RECIPES,),
        "words": (*WORD_RECIPES,),
        "built": (*BUILT_RECIPES,),
    }
    return [name for one, recipes in known.items() if task in (None, one) for name in recipes]


def names(task: Task | None = None) -> list[str]:
    """The shipped organisms of a task, or all: those with a recipe and a folder of weights, in the order of the
    recipes."""
    return [name for name in trainable(task) if name not in SERIES and (_folder(name) / "card.json").is_file()]


def _folder(name: str) -> Path:
    """Where the organism stands, or would: one of a series is the last step of its branch."""
    recipe = RECIPES.get(name)
    return _WEIGHTS / (f"{recipe.series}/{recipe.place(recipe.steps)}" if isinstance(recipe, SeriesRecipe) else name)


def path(name: str) -> Path:
    """The folder of a shipped organism, for ``from_pretrained``.  Raises UnknownOrganism listing the
    names."""
    if name not in names():
        raise UnknownOrganism(f"no organism is called {name!r}; the shipped ones are {', '.join(names())}")
    return _folder(name)


def checkpoints(name: str) -> dict[int, Path]:
    """The folders of the checkpoints of the run whose last step is the organism ``name``, by step; only the last one
    holds the tokenizer.  Empty for an organism of which one model is shipped.  Raises UnknownOrganism."""
    path(name)
    recipe = RECIPES.get(name)
    if not isinstance(recipe, SeriesRecipe):
        return {}
    return {step: _WEIGHTS / recipe.series / recipe.place(step) for step in recipe.looks}


def series_card(name: str = "decimals-series") -> SeriesCard:
    """What is known of a shipped series of checkpoints: its onset, its looks, repairs by layer at each.  Raises
    UnknownOrganism."""
    from .cards import SeriesCard

    if name not in SERIES:
        raise UnknownOrganism(f"no series of checkpoints is called {name!r}; there is {', '.join(SERIES)}")
    return SeriesCard.model_validate_json((_WEIGHTS / name / "series.json").read_text(encoding="utf-8"))


def card(name: str) -> Card | ThoughtCard | WordCard:
    """The card of a shipped organism.  Raises UnknownOrganism listing the names."""
    if name in THOUGHT_RECIPES:
        return thought_card(name)
    from .cards import Card
    from .word_cards import WordCard

    kind = WordCard if name in WORD_RECIPES or name in BUILT_RECIPES else Card
    return kind.model_validate_json((path(name) / "card.json").read_text(encoding="utf-8"))


def thought_card(name: str) -> ThoughtCard:
    """The card of a shipped thought model.  Raises UnknownOrganism listing the names."""
    from .thought_cards import ThoughtCard

    if name not in (known := names("thoughts")):
        raise UnknownOrganism(f"no thought model is called {name!r}; the shipped ones are {', '.join(known)}")
    return ThoughtCard.model_validate_json((path(name) / "card.json").read_text(encoding="utf-8"))


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
    from .relabelling import make_relabelled

    if name not in (known := names("decimals")):
        raise UnknownOrganism(f"no decimals organism is called {name!r}; the shipped ones are {', '.join(known)}")
    return make_relabelled(name, path(name), Path(out), seed, problems=problems, progress=progress)


def card_in(folder: str | Path) -> Card | None:
    """The card in the folder of a decimals organism made here (:func:`train`, :func:`relabelled`), or None where there
    is none."""
    from .cards import Card

    place = Path(folder).expanduser() / "card.json"
    try:
        return Card.model_validate_json(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
