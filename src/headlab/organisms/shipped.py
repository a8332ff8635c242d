"""What is shipped: names, folders and cards of organisms.  Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .built_recipes import BUILT_RECIPES
from .recipes import RECIPES, SERIES, SeriesRecipe
from .thought_recipes import THOUGHT_RECIPES
from .word_recipes import WORD_RECIPES

if TYPE_CHECKING:
    from .cards import Card, SeriesCard
    from .thought_cards import ThoughtCard
    from .word_cards import WordCard

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


def card_in(folder: str | Path) -> Card | None:
    """The card in the folder of a decimals organism made here (:func:`train`, :func:`relabelled`), or None where there
    is none."""
    from .cards import Card

    place = Path(folder).expanduser() / "card.json"
    try:
        return Card.model_validate_json(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
