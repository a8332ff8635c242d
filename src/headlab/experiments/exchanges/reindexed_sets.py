"""What ``reindexing`` measures: logits and outcomes of one model, its heads re-indexed, torn apart or scrambled."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headlab.claims import Control, judged
from headlab.effects import pivot
from headlab.engine.captures import tokens_for
from headlab.engine.model import Lab
from headlab.engine.passes import by_length, forward, tensor_of
from headlab.engine.reindexing import (
    Relabelling,
    move,
    moves,
    published_permutation,
    random_relabelling,
    reindexed,
    scrambled,
)
from headlab.engine.run import sweep
from headlab.heads import Grid, Heads, even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import Encoded, EncodedPair
from headlab.trials.case import Bench

INDEX = "index"
"""The world that patches even *indices* of the re-indexed model, wherever the even heads went."""


@torch.no_grad()
def logits_of(lab: Lab, encoded: Sequence[Encoded]) -> Float[Tensor, "prompt word"]:
    """Logits after the last token of each prompt (it ends with the shared start of the answer), in batches."""
    out: dict[int, Tensor] = {}
    most = tokens_for(lab)
    for length, which in by_length(encoded).items():
        rows = max(1, most // length)
        for start in range(0, len(which), rows):
            some = which[start : start + rows]
            found = forward(lab, tensor_of([encoded[i] for i in some], lab.device)).logits[:, -1].float().cpu()
            out |= dict(zip(some, found, strict=True))
    return torch.stack([out[i] for i in range(len(encoded))])


def largest_change(lab: Lab, encoded: Sequence[Encoded], base: Float[Tensor, "prompt word"]) -> float:
    """The largest change of any logit of any prompt, in logits."""
    return (logits_of(lab, encoded) - base).abs().max().item()


def sets_of(grid: Grid, at: int, n: int, seed: int) -> dict[str, Heads]:
    """The even, the odd and all heads of a layer, and ``n`` random halves of it."""
    rng = random.Random(f"sets {seed}")
    named = {"even": even(grid, at), "odd": odd(grid, at), "all": all_heads(grid, at)}
    drawn = {f"half {i}": Heads.of(at, rng.sample(range(grid.n_heads), grid.n_heads // 2)) for i in range(n)}
    return {name: heads for name, heads in (named | drawn).items() if len(heads)}


def worlds_of(sets: Mapping[str, Heads]) -> list[World]:
    """A world for each set, patched from the clean run (z, same roles)."""
    return [World(name, (Intervention(heads),)) for name, heads in sets.items()]


@dataclass(frozen=True)
class Moved:
    """What re-indexing did.

    ``change`` [re-indexing]: the largest change of a logit.  ``base`` and ``after`` [re-indexing]: effects of the sets
    before, and of their images after; ``after`` has the world :data:`INDEX` too.
    """

    relabellings: tuple[Relabelling, ...]
    change: tuple[float, ...]
    base: Any
    after: tuple[Any, ...]
    sets: Mapping[str, Heads]

    def differing(self) -> tuple[int, ...]:
        """[re-indexing] pair × set outcomes (repaired or not) that are not those before."""
        names = list(self.sets)
        before = pivot(self.base, names) > 0
        return tuple(int(((pivot(t, names) > 0) != before).sum()) for t in self.after)

    def drift(self) -> tuple[float, ...]:
        """[re-indexing] the largest change of a patched logit difference, pair by pair and set by set, in logits."""
        names = list(self.sets)
        before = pivot(self.base, names)
        return tuple(float(np.abs(pivot(t, names) - before).max()) for t in self.after)


def re_index(
    bench: Bench, pairs: Sequence[EncodedPair], encoded: Sequence[Encoded], at: int, n: int, halves: int
) -> Moved:
    """``n`` random re-indexings of every layer: logits, and what the moved sets repair.  Raises ModelError."""
    lab, grid = bench.lab, bench.lab.grid
    sets = sets_of(grid, at, halves, bench.seed)
    base = logits_of(lab, encoded)

    def swept(worlds: Sequence[World], what: str) -> Any:
        return sweep(  # never elsewhere: the weights of this process are what changed
            lab, pairs, worlds, keep=bench.run, progress=bench.progress, memory=bench.memory, what=what
        )

    before = swept(worlds_of(sets), "sets before")
    drawn = tuple(random_relabelling(grid, bench.seed * 1000 + i, layers=sorted(lab.attentions)) for i in range(n))
    change, after = [], []
    for i, one in enumerate(drawn):
        with reindexed(lab, one):
            change.append(largest_change(lab, encoded, base))
            images = {name: one.image(heads) for name, heads in sets.items()}
            after.append(swept(worlds_of({**images, INDEX: sets["even"]}), f"sets re-indexed {i}"))
    return Moved(drawn, tuple(change), before, tuple(after), sets)


def scrambles(grid: Grid, n: int, seed: int) -> dict[str, tuple[int, ...]]:
    """The orders of the published script: identity, swap, and random ones; ``n`` in all beside the identity."""
    out = {name: published_permutation(grid.n_heads, name) for name in ("identity", "swap")}
    draw = seed * 1000
    while len(out) < n + 1:
        order = published_permutation(grid.n_heads, "random", draw)
        draw += 1
        if order != out["identity"]:
            out[f"random {len(out) - 1}"] = order
    return out


def controls(
    lab: Lab, encoded: Sequence[Encoded], at: int, orders: Mapping[str, Sequence[int]], tolerance: float, seed: int
) -> tuple[list[Control], dict[str, float]]:
    """The controls, and the largest change of a logit by each scrambling."""
    one = random_relabelling(lab.grid, seed * 1000, layers=sorted(lab.attentions))
    base = logits_of(lab, encoded)

    def under(change: AbstractContextManager[Any]) -> float:
        with change:
            return largest_change(lab, encoded, base)

    torn = under(torn_apart(lab, one))
    back = under(there_and_back(lab, one))
    change = {name: under(scrambled(lab, at, order)) for name, order in orders.items()}
    weakest = min((v for k, v in change.items() if k != "identity"), default=0.0)
    last = largest_change(lab, encoded, base)
    still = max(change["identity"], back)
    same = f"the identity, and a re-indexing after its inverse, change no bit of {base.numel():,} logits: {still:.2g}"
    restored = f"after everything was put back the logits are those of the start, bit for bit: {last:.2g}"
    wired = f"each of {len(change) - 1} scramblings as published changes a logit by {weakest:.2g} or more"
    left = f"heads re-indexed with their part of the output projection left behind change a logit by {torn:.2g}"
    return [
        judged("identity", "negative", still == 0.0, still, same),
        judged("restored", "negative", last == 0.0, last, restored),
        judged("scrambled", "positive", weakest > tolerance, weakest, wired),
        judged("torn", "positive", torn > tolerance, torn, left),
    ], change


@contextmanager
def torn_apart(lab: Lab, one: Relabelling) -> Iterator[None]:
    """Inside, the heads stand re-indexed except for their columns of W_O, which stayed: another function."""
    output = f".{lab.geometry.o.path}.weight" if lab.geometry.o else ""
    moved = [m for m in moves(lab, one) if not m.names[0].endswith(output)]
    move(lab.model, moved)
    try:
        yield
    finally:
        move(lab.model, moved, undo=True)


@contextmanager
def there_and_back(lab: Lab, one: Relabelling) -> Iterator[None]:
    """Inside, the heads were re-indexed and then re-indexed by the inverse: every weight where it was."""
    ways = moves(lab, one), moves(lab, one.inverse())
    for way in ways:
        move(lab.model, way)
    try:
        yield
    finally:
        for way in reversed(ways):
            move(lab.model, way, undo=True)
