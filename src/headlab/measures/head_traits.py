"""What is measured of every head of a layer: norms, spectra, attention, effects; and the ways to part the heads.

1. Weights: logs of the norms of W_Q, W_O, W_QK and W_OV, effective ranks of W_QK and W_OV.
2. Attention: share of the last query on numbers (first token left out), entropy where the answers part over its most.
3. Effects: recovery by the head alone, recovery lost without it.
4. Partitions: clusters by directions of W_QK and W_OV beyond what KV groups explain, KV groups, parity, groups by effects,
   or given labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import ClaimError
from headlab.engine.model import Lab, ModelError
from headlab.heads import Grid
from headlab.measures import bandwidth, entropy, norms, spectra
from headlab.measures.correspondence import behaving, groups_of, parting_table
from headlab.measures.head_effects import EFFECTS, Profiles, effect_distances
from headlab.measures.weights import HeadWeights
from headlab.prompts import EncodedPair, PromptError
from headlab.stats.clustering import Clustering, hierarchical

Array = np.ndarray
KINDS = {
    "weights": "clusters by weights",
    "behaviour": "groups by effects",
    "parity": "parity",
    "kv": "KV groups",
    "given": "given labels",
}
TRAITS = {
    "norm_q": "log norm of W_Q",
    "norm_o": "log norm of W_O",
    "norm_qk": "log norm of W_QK",
    "norm_ov": "log norm of W_OV",
    "rank_qk": "effective rank of W_QK",
    "rank_ov": "effective rank of W_OV",
    "numbers": "attention to numbers (share)",
    "entropy": "entropy of attention (of its most)",
    **EFFECTS,
}
SHARED = ("norm_qk", "norm_ov", "rank_qk", "rank_ov")
"""Made of weights that a KV group shares: alike within groups before training."""


@dataclass(frozen=True)
class Partition:
    """Labels of the heads [head]; ``within``: what labels may be exchanged in; ``left_out``: traits they are made of."""

    kind: str
    labels: tuple[Any, ...]
    within: list[int] | None
    left_out: tuple[str, ...] = ()
    note: str = ""

    @property
    def clusters(self) -> dict[Any, list[int]]:
        """Heads of each label, in order of the label's first head."""
        return {c: [h for h, x in enumerate(self.labels) if x == c] for c in dict.fromkeys(self.labels)}


def cut(weights: HeadWeights, layer: int, k: int) -> Clustering:
    """``k`` clusters of a layer by :func:`parting_table`, Ward's tree; 0: the cut of the average-linkage tree with the largest
    mean silhouette, which likes many small clusters."""
    table = parting_table(weights, layer)
    return hierarchical(table, k, linkage="ward") if k else hierarchical(table)


def partitions(
    weights: HeadWeights, effects: Profiles, grid: Grid, layer: int, given: Sequence[Any], k: int
) -> dict[str, Partition]:
    """Every way to part the heads of a layer."""
    if given and len(given) != grid.n_heads:
        raise ClaimError(f"option 'labels' names {len(given)} heads; a layer of {weights.name} has {grid.n_heads}")
    groups = groups_of(grid)
    own, felt = cut(weights, layer, k), behaving(effect_distances(effects.profile))
    found = {
        "weights": Partition("weights", own.labels, groups, note=own.note),
        "behaviour": Partition("behaviour", felt.labels, groups, tuple(EFFECTS), felt.note),
        "parity": Partition("parity", tuple("odd" if h % 2 else "even" for h in range(grid.n_heads)), groups),
    }
    if groups is not None:
        found["kv"] = Partition("kv", tuple(groups), None, SHARED)
    if given:
        found["given"] = Partition("given", tuple(given), groups)
    return found


def traits(
    lab: Lab, weights: HeadWeights, layer: int, effects: Profiles, pairs: Sequence[EncodedPair]
) -> dict[str, Array]:
    """Every trait of every head [head], as far as this family and these prompts have it."""
    table: Any = norms(weights)
    table = table[(table["layer"] == layer) & (table["axis"] == "head")]
    found: dict[str, Array] = {}
    for block, part in table.groupby("block"):
        found[f"norm_{block}"] = np.log(part.sort_values("head")["norm"].to_numpy())
    for circuit in ("qk", "ov"):
        try:
            found[f"rank_{circuit}"] = spectra(weights, layer, circuit).rank
        except ModelError:
            continue  # a family without that product
    found |= _watched(lab, layer, pairs)
    found |= dict(zip(EFFECTS, effects.profile.T, strict=True))
    return {name: found[name] for name in TRAITS if name in found and np.isfinite(found[name]).all()}


def _watched(lab: Lab, layer: int, pairs: Sequence[EncodedPair]) -> dict[str, Array]:
    encoded = [p.corrupted for p in pairs]
    wide: Any = entropy(lab, encoded, at="decision", layers=[layer])
    wide = wide.assign(share=wide["bits"] / wide["most"]).groupby("head")["share"].mean()
    out = {"entropy": wide.to_numpy()}
    try:
        seen: Any = bandwidth(lab, encoded, queries="last", sink="out", relative=False, layers=[layer])
    except (PromptError, ValueError):  # prompts of the user's own, with other roles
        return out
    numeric = seen[seen["token_class"] == "numeric"].groupby("head")["share"].mean()
    return out | ({"numbers": numeric.to_numpy()} if len(numeric) == lab.grid.n_heads else {})
