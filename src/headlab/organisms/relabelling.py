"""Exact relabelling of a Llama-shaped model's heads: rows and columns move, the function stays.

Query heads change places inside their KV group, with their rows of W_Q and columns of W_O.  (Whole groups could move
with W_K and W_V too; staying inside groups is enough to undo any parity.)
"""

from __future__ import annotations

import random
from typing import Any

import torch


def orders(layers: int, heads: int, kv_heads: int, seed: int) -> list[list[int]]:
    """For each layer, which old head stands at each new place: a seeded shuffle inside every KV group."""
    rng, size = random.Random(f"relabel {seed}"), heads // kv_heads
    return [[g * size + i for g in range(kv_heads) for i in rng.sample(range(size), size)] for _ in range(layers)]


@torch.no_grad()
def relabel(model: Any, seed: int, *, undo: bool = False) -> None:
    """Shuffle the heads of every layer in place; ``undo`` puts them back, bit for bit."""
    config = model.config
    drawn = orders(config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, seed)
    for block, order in zip(model.model.layers, drawn, strict=True):
        if undo:
            order = sorted(range(len(order)), key=order.__getitem__)
        q, o = block.self_attn.q_proj.weight, block.self_attn.o_proj.weight
        q.copy_(q.unflatten(0, (len(order), -1))[order].flatten(0, 1))
        o.copy_(o.unflatten(1, (len(order), -1))[:, order].flatten(1))
