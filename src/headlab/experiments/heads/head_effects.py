"""What single heads do: each patched alone, each left out of the patched layer; how far two heads are apart by that.

1. The profile of a head: the recovery of the logit difference when it alone is patched, and the recovery that is lost
   when it is left out of a patch of the whole layer.  Both are shares of the same gap, so neither is rescaled.
2. The effect distance of two heads is the Euclidean distance of their profiles.
3. Intervals resample clusters of pairs and compute every profile again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS
from headlab.designs import leave_one_out, singles
from headlab.effects import pivot
from headlab.experiments.attention.watched import clusters_of
from headlab.experiments.base import Bench, protocol_patch
from headlab.experiments.heads.patched_sets import set_name
from headlab.heads import Heads
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.measures.head_effects import Profiles
from headlab.prompts import EncodedPair

Array = np.ndarray


def profiles(bench: Bench, pairs: Sequence[EncodedPair], layer: int) -> Profiles:
    """Patch every head of a layer alone, and the layer without each, from the clean run at z."""
    whole, protocol = all_heads(bench.lab.grid, layer), PROTOCOLS["standard"]
    sets = [*singles(whole), *leave_one_out(whole)]
    names = [
        f"{kind} {set_name(h)}" for kind, h in zip(["alone"] * len(whole) + ["without"] * len(whole), sets, strict=True)
    ]
    worlds = [_patched(protocol, n, h) for n, h in zip(names, sets, strict=True)] + [_patched(protocol, "whole", whole)]
    swept = bench.sweep(pairs, worlds, f"heads of layer {layer}")
    edited = pivot(swept, [w.name for w in worlds])
    one = swept.drop_duplicates("pair").sort_values("pair")
    n = len(whole)
    return Profiles(
        layer, edited[:n], edited[n : 2 * n], edited[-1], one["clean"].to_numpy(), one["corrupted"].to_numpy(),
        tuple(clusters_of(pairs)),
    )  # fmt: skip


def _patched(protocol: Any, name: str, heads: Heads) -> World:
    return protocol_patch(protocol, name, heads) if len(heads) else World(name)
