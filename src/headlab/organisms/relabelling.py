"""Heads shuffled inside their KV groups, for recipes that say ``relabel``: enough to undo any parity.

:func:`headlab.organisms.relabelled` draws from all exact re-indexings, so that whole groups move too.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from headlab.engine.model import open_model
from headlab.engine.reindexing import Relabelling, move, moves


def orders(layers: int, heads: int, kv_heads: int, seed: int) -> list[list[int]]:
    """For each layer, which old head stands at each new place: a seeded shuffle inside every KV group."""
    rng, size = random.Random(f"relabel {seed}"), heads // kv_heads
    return [[g * size + i for g in range(kv_heads) for i in rng.sample(range(size), size)] for _ in range(layers)]


def relabel(model: Any, seed: int, *, undo: bool = False) -> None:
    """Shuffle the heads of every layer inside their KV groups, in place; ``undo`` puts them back, bit for bit."""
    lab = open_model(
        copy.deepcopy(model), tokenizer=object()
    )  # a copy: an opened model trains no more; no words needed
    grid = lab.grid
    drawn = Relabelling(grid, tuple(map(tuple, orders(grid.n_layers, grid.n_heads, grid.n_kv_heads, seed))))
    move(model, moves(lab, drawn), undo=undo)
