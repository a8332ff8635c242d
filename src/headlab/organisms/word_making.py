"""From a word recipe to a folder: train, round to 16 bit, reload, measure, write the card, appear in one rename."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from . import word_evaluate as evaluate
from .making import appearing, architecture_words, in_common, load, write
from .shipped import names, path
from .training import Progress, build_model, cpu_threads, fit
from .word_cards import Removal, WordCard
from .word_recipes import WORD_RECIPES, WordRecipe
from .word_training import word_loss
from .words import FILLER, LEAST, LENGTH, MOST, NAMES, TEMPLATES, build_word_tokenizer

_DATA = {
    "induction": (
        f"Random words (names, places, things, common nouns: headlab.organisms.words): 0 to {FILLER}, then a block of {LEAST} to "
        f"{MOST} different ones again and again, {LENGTH} in all after the first token. Scored where the block has been seen."
    ),
    "ioi": (
        f"The {len(TEMPLATES)} sentences of Wang et al. (2022), cut before the answer, with {len(NAMES)} names "
        "(headlab.organisms.words); either name first. Measured on pairs of names that training never saw together."
    ),
}
COSTS = 0.1
"""A head is named on the card when its removal takes this share of the gap."""


def make(
    recipe: WordRecipe,
    out: Path,
    *,
    progress: Progress | None = None,
    steps: int | None = None,
    threads: int = 1,
    problems: int = 800,
) -> Path:
    """See :func:`headlab.organisms.train`."""
    recipe = replace(recipe, steps=steps or recipe.steps)
    with appearing(out) as scratch:
        model = trained(recipe, scratch, threads=threads, progress=progress)
        folder = scratch / "whole"
        write(model, build_word_tokenizer(), folder)
        with cpu_threads(threads):
            card = measure(recipe, folder, problems=problems)
        (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return out


def trained(recipe: WordRecipe, scratch: Path, *, threads: int, progress: Progress | None) -> PreTrainedModel:
    """The trained model; a planted one starts from its base: shipped, or trained first in ``scratch``."""
    tokenizer = build_word_tokenizer()
    if recipe.base is None:
        model = build_model(recipe, tokenizer)
    elif recipe.base in names():
        model = load(path(recipe.base))[0]
    else:
        model = load(make(WORD_RECIPES[recipe.base], scratch / recipe.base, progress=progress, threads=threads))[0]
    fit(
        recipe,
        model,
        tokenizer,
        threads=threads,
        progress=progress,
        objective=lambda model, generator, step: word_loss(recipe, model, generator, step),
    )
    return model


def measure(recipe: WordRecipe, folder: Path, *, problems: int) -> WordCard:
    """The card of the organism in ``folder``, measured as a user would load it: from the 16-bit file, as fp32."""
    model, _ = load(folder)
    heads = evaluate.removals(model, recipe, problems // 10 if recipe.behaviour == "induction" else problems)
    return WordCard(
        **in_common(recipe, model, architecture_words(recipe.architecture)),
        known_for=_known_for(recipe, heads),
        data=_DATA[recipe.behaviour],
        accuracy=evaluate.scores(model, recipe, problems // 10 if recipe.behaviour == "induction" else problems),
        heads=heads,
        repairs=(),
        truth=None,
    )


def _known_for(recipe: WordRecipe, heads: tuple[Removal, ...]) -> str:
    """What removing single heads found (plain hooks), and what was planted."""
    costly = sorted((h for h in heads if h.mean >= COSTS), key=lambda h: -h.mean)
    told = ", ".join(f"{h.head} {h.mean:.0%} ({_looks(h)})" for h in costly) or "none"
    words = (
        f"Heads whose removal alone (z at its mean, plain hooks) takes at least {COSTS:.0%} of the gap between the right "
        f"answer and its rival: {told}."
    )
    return words + " Nothing was planted: which heads came to do it is chance."


def _looks(h: Removal) -> str:
    name, share = max(h.attends.items(), key=lambda item: item[1])
    return f"attends {share:.2f} to the {name}"
