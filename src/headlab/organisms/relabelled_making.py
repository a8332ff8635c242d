"""A shipped organism with its heads re-indexed exactly, written as another organism: the function stays, the truth moves along."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headlab.engine.model import Lab, open_model
from headlab.engine.passes import forward
from headlab.engine.reindexing import Relabelling, move, moves, random_relabelling, reindexed
from headlab.heads import Head, Heads
from headlab.prompts import encode
from headlab.tasks.decimals import decimals

from .cards import Card
from .making import appearing, load, measure, write
from .recipes import RECIPES, Recipe
from .training import Progress

CHECKED = 16
"""Pairs on which the logits of a relabelled organism are compared with the original's."""


def moved_recipe(recipe: Recipe, drawn: Relabelling) -> Recipe:
    """The recipe with its planted heads where they stand after relabelling."""
    plant = recipe.plant
    if plant is None:
        return recipe
    stand = drawn.image(Heads.of(plant.layer, plant.heads))
    return replace(recipe, plant=replace(plant, heads=stand.at(plant.layer)))


def make_relabelled(
    name: str, folder: Path, out: Path, seed: int, *, problems: int, progress: Progress | None = None
) -> Path:
    """See :func:`headlab.organisms.relabelled`."""
    with appearing(out) as scratch:
        made = scratch / "whole"
        lab = open_model(folder)
        drawn = random_relabelling(lab.grid, seed)
        gap = largest_change(lab, drawn)
        model, tokenizer = load(folder)
        move(model, moves(lab, drawn))
        write(model, tokenizer, made)
        total, done = len(RECIPES[name].cells()) + 1, itertools.count()  # each cell, then interchange
        note = (lambda text: progress(next(done), total, text)) if progress else (lambda _: None)
        card = measure(moved_recipe(RECIPES[name], drawn), made, problems=problems, note=note)
        told = _told(card, name, drawn, seed, gap)
        (made / "card.json").write_text(told.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return out


@torch.no_grad()
def largest_change(lab: Lab, drawn: Relabelling) -> float:
    """The largest change of any logit at any position of the prompts of held-out pairs, in logits."""
    pairs = decimals(CHECKED, clean="simple", corrupted="qa", seed=0, tokenizer=lab.tokenizer)
    ids = [torch.tensor([e.ids], device=lab.device) for p in pairs for e in _both(p, lab)]
    before = [forward(lab, x, last=False).logits for x in ids]
    with reindexed(lab, drawn):
        after = [forward(lab, x, last=False).logits for x in ids]
    return max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))


def _both(pair: Any, lab: Lab) -> tuple[Any, Any]:
    encoded = encode(pair, lab.tokenizer)
    return encoded.clean, encoded.corrupted


def _told(card: Card, name: str, drawn: Relabelling, seed: int, gap: float) -> Card:
    """The measured card of a relabelled organism, with how it was made."""
    origin = RECIPES[name]
    made: dict[str, Any] = {
        "of": name,
        "seed": seed,
        "orders": [list(order) for order in drawn.orders],
        "rule": "orders[layer][new place] is the head of the original that stands there; KV heads moved with their groups",
        "largest_logit_change": gap,
        "compared_on": f"both prompts of {CHECKED} held-out conflict pairs, every position, float32",
    }
    plant = origin.plant
    if plant is not None:
        image = {
            str(Head(plant.layer, h)): str(next(iter(drawn.image(Heads.of(plant.layer, [h]))))) for h in plant.heads
        }
        made["planted_heads_moved"] = image
    return card.model_copy(
        update={
            "name": f"{name}-relabelled-{seed}",
            "summary": (
                f"{name} with its heads re-indexed exactly (seed {seed}): whole KV groups and the heads inside them changed "
                f"places with all their weights, so it is the same function under other names. The original: {origin.summary}"
            ),
            "recipe": {**origin.plain(), "relabelled": made},
            "reproduce": f"headlab organism relabel {name} OUT --seed {seed}",
        }
    )
