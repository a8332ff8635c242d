"""The published treatment of head weights, kept apart: what was clustered, and the slicing that took it wrongly.

1. Features: each head's W_Q, W_K, W_V and W_O flattened into one vector, W_K and W_V repeated for every query head of
   their KV group, and every feature standardised over the heads of the layer.
2. The fused matrix of a GPT-NeoX layer was cut as [3, head, head_dim, d_model].  Its rows are [head, 3, head_dim]:
   for each head q, then k, then v.  So block r of the cut, called "qkv"[r // heads] of head r % heads, is
   "qkv"[r % 3] of head r // 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from headlab.engine.model import Lab, ModelError
from headlab.measures.tables import Array
from headlab.measures.weights import HeadWeights
from headlab.stats.clustering import euclidean, hierarchical

if TYPE_CHECKING:
    import pandas as pd


def published_features(weights: HeadWeights, layer: int, *, scaled: bool = True) -> Array:
    """The feature vectors that were published for clustering heads.

    Definition: flatten(W_Qᵀ[h]), flatten(W_Kᵀ[g]), flatten(W_Vᵀ[g]), flatten(W_O[h]) in one row, g the KV group of h,
        so W_K and W_V are repeated; with ``scaled`` every column is standardised over the heads (mean 0, variance 1,
        divisor n), as scikit-learn's ``StandardScaler`` does.
    Shapes: [head, Σ of the blocks' sizes], float64.  Units: standard deviations (``scaled``) or those of the weights.
    Range: any.  Mean: over the heads of the layer.
    Raises: ModelError where the layer or a block does not exist.
    Source: functional clustering of Llama-3.1-8B's layer 10 (experiment 4 of the parity study).
    When it misleads: always.  Entries depend on the basis inside a head, which is arbitrary.  Within a KV group half of
        the vector is one and the same, so clusters are KV groups.  Standardising over n heads forces the mean cosine
        between heads to about −1/(n − 1).  A block of large norm is a cluster by itself when features are not scaled.
    """
    group = weights.kv_of()
    q, k, v = (weights.of(b, layer).double().cpu().transpose(1, 2).flatten(1) for b in "qkv")  # type: ignore[arg-type]
    o = weights.of("o", layer).double().cpu().flatten(1)
    flat = torch.cat([q, k[group], v[group], o], 1).numpy()
    if not scaled:
        return flat
    from sklearn.preprocessing import StandardScaler

    return np.asarray(StandardScaler().fit_transform(flat))


def fused_qkv(lab: Lab, layer: int) -> Float[Tensor, "row d_model"]:
    """The one matrix that makes q, k and v of a layer, rows as outputs.  Raises ModelError where there are several."""
    paths = {p.path for s in "qkv" if (p := getattr(lab.geometry, s)) is not None}
    if len(paths) != 1 or any(getattr(lab.geometry, s) is None for s in "qkv"):
        raise ModelError(f"{lab.name} makes q, k and v in {len(paths)} projections, so there is no fused matrix to cut")
    module = lab.attention_of(layer).get_submodule(paths.pop())
    weight = module.weight
    return (weight.T if isinstance(module, Conv1D) else weight).detach()  # type: ignore[union-attr,return-value]


def published_reshape(
    fused: Float[Tensor, "row d_model"], n_heads: int, head_dim: int
) -> Float[Tensor, "3 head d_head d_model"]:
    """The published cut of a fused matrix: view(3, head, head_dim, d_model), wrong for GPT-NeoX.

    Raises ValueError where the matrix has not 3·head·head_dim rows.
    """
    if fused.shape[0] != 3 * n_heads * head_dim:
        raise ValueError(
            f"a fused matrix of {n_heads} heads × {head_dim} has {3 * n_heads * head_dim} rows, given {fused.shape[0]}"
        )
    return fused.reshape(3, n_heads, head_dim, fused.shape[1])


def block_identity(n_heads: int) -> pd.DataFrame:
    """What each block of :func:`published_reshape` of a GPT-NeoX matrix was called and what it is.

    Shapes: one row for each block r of 3·heads: ``block``, ``claimed`` (q k v) and ``claimed_head`` (r // heads and
    r % heads), ``really`` and ``really_head`` (r % 3 and r // 3).  Raises ValueError for fewer than one head.
    """
    import pandas as pd

    if n_heads < 1:
        raise ValueError(f"a model has at least one head, given {n_heads}")
    r = np.arange(3 * n_heads)
    names = np.array(list("qkv"))
    return pd.DataFrame(
        {
            "block": r,
            "claimed": names[r // n_heads],
            "claimed_head": r % n_heads,
            "really": names[r % 3],
            "really_head": r // 3,
        }
    )


@dataclass(frozen=True)
class ReshapeArtefact:
    """Whether a cut of q, k and v disagrees with where the heads are.

    ``blocks``: one row for each block of the cut: ``block``, ``claimed``, ``claimed_head``, ``really``,
    ``really_head`` (the located block it equals entry by entry; "none" and −1 where it equals no single one) and
    ``right``.  ``wrong``: how many blocks are not what they were called.
    """

    blocks: pd.DataFrame
    wrong: int

    def __bool__(self) -> bool:
        return self.wrong > 0

    @property
    def sentence(self) -> str:
        """The finding in words."""
        n = len(self.blocks)
        if not self:
            return f"all {n} blocks are the heads and matrices they were called"
        first = self.blocks[~self.blocks["right"]].iloc[0]
        really = (
            f"{first['really']} of head {first['really_head']}" if first["really"] != "none" else "no single head's"
        )
        return (
            f"{self.wrong} of {n} blocks are not what they were called: block {first['block']}, called "
            f"{first['claimed']} of head {first['claimed_head']}, is {really}"
        )


def reshape_artefact(
    weights: HeadWeights, layer: int, sliced: Float[Tensor, "3 head d_head d_model"]
) -> ReshapeArtefact:
    """Whether a slicing [q k v, head, d_head, d_model] disagrees with the heads as located in the running model.

    Definition: each slice is compared entry by entry with the transposed W_Q, W_K and W_V of every head of the layer,
        which probing found; a slice is right when it equals the one it is called (relative difference < 1e-6).
    Shapes: :class:`ReshapeArtefact`, one row for each of the 3·heads slices.  Units: blocks.  Range: ``wrong`` 0 to
        3·heads, more = worse.  Mean: none.
    Raises: ModelError where the layer has not as many KV heads as heads, or lacks a block; ValueError for another shape.
    Source: the published cut of GPT-NeoX, see the module.
    When it misleads: blocks that are equal to one another (all zero, say) cannot be told apart and count as right.
    """
    heads, size = weights.grid.n_heads, weights.head_dim
    if weights.grid.n_kv_heads != heads:
        raise ModelError(
            f"{weights.name} has {weights.grid.n_kv_heads} KV heads for {heads} heads: no [3, head, …] cut fits"
        )
    if tuple(sliced.shape) != (3, heads, size, weights.d_model):
        raise ValueError(
            f"a cut of {weights.name} has shape {(3, heads, size, weights.d_model)}, given {tuple(sliced.shape)}"
        )
    located = torch.cat([weights.of(b, layer).transpose(1, 2) for b in "qkv"]).flatten(1).double().cpu()  # type: ignore[arg-type]
    cut = sliced.detach().flatten(0, 1).flatten(1).double().cpu()
    gaps = torch.cdist(cut, located, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    level = 1e-6 * located.norm(dim=1).max().item()
    table = block_identity(heads).assign(really="none", really_head=-1)
    own = gaps.diagonal() <= level
    nearest = np.where(own, np.arange(len(gaps)), gaps.argmin(1))
    met = gaps[np.arange(len(gaps)), nearest] <= level
    table.loc[met, "really"] = np.array(list("qkv"))[nearest[met] // heads]
    table.loc[met, "really_head"] = nearest[met] % heads
    return ReshapeArtefact(table.assign(right=own), int((~own).sum()))


def uncorrected(weights: HeadWeights, layer: int, properties: Mapping[str, Any]) -> tuple[dict[str, float], list[int]]:
    """p of one analysis of variance for each property [head] between clusters of flattened weights, and their sizes.

    Raises ModelError where there are no such weights or clusters, or nothing varies.
    """
    from scipy.stats import f_oneway

    if any(getattr(weights.at(layer), b) is None for b in "qkvo"):
        raise ModelError(f"{weights.name} has no W_Q, W_K, W_V and W_O of its own to flatten")
    labels = np.array(hierarchical(euclidean(published_features(weights, layer))).labels)
    parts = [labels == c for c in dict.fromkeys(labels.tolist())]
    if len(parts) < 2 or len(parts) >= len(labels):
        raise ModelError("the flattened weights have no clusters")
    p = {n: float(f_oneway(*[x[part] for part in parts])[1]) for n, x in properties.items() if np.ptp(x) > 0}
    p = {n: x for n, x in p.items() if np.isfinite(x)}
    if not p:
        raise ModelError("no property has a variance")
    return p, sorted(int(x.sum()) for x in parts)
