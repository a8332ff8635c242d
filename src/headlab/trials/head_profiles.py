"""What single heads of a layer do: each patched alone, each left out of a patch of the layer."""

from __future__ import annotations

from collections.abc import Sequence

from headlab.designs import leave_one_out, singles
from headlab.heads import Heads
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.measures.head_effects import Profiles
from headlab.prompts import EncodedPair
from headlab.trials.halves import patched_set
from headlab.trials.sweeps import Scope, Seen, Sweep


def each_head(scope: Scope, layer: int, pairs: Sequence[EncodedPair]) -> Sweep:
    """Every head of a layer patched alone, the layer without each, and all of it, from the clean run at z."""
    whole = all_heads(scope.grid, layer)
    sets = [("alone", h) for h in singles(whole)] + [("without", h) for h in leave_one_out(whole)]
    worlds = [_patched(f"{kind} {patched_set(h).name}", h) for kind, h in sets]
    return Sweep((*worlds, _patched("whole", whole)), pairs=pairs, kept=False)


def _patched(name: str, heads: Heads) -> World:
    return World(name, patched_set(heads).interventions)


def profiles(seen: Seen, sweep: str, layer: int) -> Profiles:
    """The profiles of the heads from a sweep of :func:`each_head`."""
    whole, one = all_heads(seen.scope.grid, layer), seen.pairs(sweep)
    edited = seen.values(sweep, each_head(seen.scope, layer, ()).worlds)
    n, clean, corrupted = len(whole), one["clean"].to_numpy(), one["corrupted"].to_numpy()
    clusters = tuple(one["cluster"])
    return Profiles(layer, edited[:n], edited[n : 2 * n], edited[-1], clean, corrupted, clusters)
