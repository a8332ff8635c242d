"""The weights of each head: W_Q, W_K, W_V and W_O with their biases, found by probing and never repeated.

Query heads and KV heads stay different axes: with grouped queries a layer has fewer W_K and W_V than W_Q and W_O, and
nothing here copies a KV head for each of its query heads.  What stands between a projection and its use (a norm on q
or k, the rotation by position) is kept beside the matrices, not multiplied into them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headlab.engine.model import Lab, ModelError, open_model
from headlab.heads import Grid
from headlab.measures.rotations import OFFSETS, HeadNorm, between

Block = Literal["q", "k", "v", "o"]
_AXES = {"q": "head", "k": "kv_head", "v": "kv_head", "o": "head"}


@dataclass(frozen=True)
class LayerWeights:
    """The heads of one layer.  An entry is None where the family has no such matrix (``HeadWeights.why`` says so).

    A row vector x [d_model], the attention module's input, gives q = x·W_Q[h] + b_Q[h] of query head h, and k, v of
    KV head g likewise; the module's output is Σ_h z_h·W_O[h] + b_O.  ``q_norm``, ``k_norm``, ``v_norm``: what the
    projection's output passes before it is used, None where nothing does.  ``rotation[i]`` turns row vectors by
    ``HeadWeights.offsets[i]`` positions; None without rotary positions in this layer.
    """

    layer: int
    q: Float[Tensor, "head d_model d_qk"] | None
    k: Float[Tensor, "kv_head d_model d_qk"] | None
    v: Float[Tensor, "kv_head d_model d_head"] | None
    o: Float[Tensor, "head d_head d_model"] | None
    b_q: Float[Tensor, "head d_qk"] | None = None
    b_k: Float[Tensor, "kv_head d_qk"] | None = None
    b_v: Float[Tensor, "kv_head d_head"] | None = None
    b_o: Float[Tensor, " d_model"] | None = None
    q_norm: HeadNorm | None = None
    k_norm: HeadNorm | None = None
    v_norm: HeadNorm | None = None
    rotation: Float[Tensor, "offset d_qk d_qk"] | None = None


@dataclass(frozen=True)
class HeadWeights:
    """The heads of a model (or of some of its layers).

    ``layers[n]`` are the weights of layer n; a layer without softmax attention is not there.  ``offsets`` are the
    relative positions of ``LayerWeights.rotation``.  ``why``: what this family has no per-head matrix for;
    ``why_no_qk``: why q·k is no bilinear form of what the projections make, ``why_no_ov``: why v is not what W_V makes;
    empty where they are.
    """

    name: str
    grid: Grid
    d_model: int
    head_dim: int
    layers: Mapping[int, LayerWeights]
    offsets: tuple[int, ...] = (0,)
    why: str = ""
    why_no_qk: str = ""
    why_no_ov: str = ""

    def at(self, layer: int) -> LayerWeights:
        """The weights of a layer.  Raises ModelError where it has none here."""
        if layer not in self.layers:
            have = ", ".join(map(str, sorted(self.layers)))
            raise ModelError(f"no head weights for layer {layer} of {self.name}; there are those of layers {have}")
        return self.layers[layer]

    def of(self, which: Block, layer: int) -> Tensor:
        """One block, W_Q … W_O as in :class:`LayerWeights`.  Raises ModelError where the family has none."""
        if which not in _AXES:
            raise ValueError(f"unknown block {which!r}; expected one of q, k, v, o")
        found = getattr(self.at(layer), which)
        if found is None:
            raise ModelError(
                f"{self.name} has no W_{which.upper()} that reads or writes the residual stream: {self.why}"
            )
        return found

    def kv_of(self) -> Tensor:
        """The KV head of each query head, [head]."""
        return torch.tensor([self.grid.kv_group_of(h) for h in range(self.grid.n_heads)])


@torch.no_grad()
def head_weights(lab: Lab, layers: Sequence[int] | None = None, *, offsets: Sequence[int] = OFFSETS) -> HeadWeights:
    """W_Q, W_K, W_V, W_O and their biases for each head of a loaded model.

    Definition: q_h = x·W_Q[h] + b_Q[h] for the attention module's input x as a row vector, k_g and v_g likewise, and
        module output = Σ_h z_h·W_O[h] + b_O.  Rows and columns are those that the load-time probes found, so fused
        (GPT-NeoX: head by head q, k, v), transposed (GPT-2) and grouped projections need no table of families.
        Norms on q, k or v and the rotation by ``offsets`` positions are probed too, see :class:`HeadNorm`.
    Shapes: for each layer W_Q [head, d_model, d_qk], W_K [KV head, d_model, d_qk], W_V [KV head, d_model, d_head],
        W_O [head, d_head, d_model]; biases [head or KV head, d_…], b_O [d_model]; rotation [offset, d_qk, d_qk].
    Units: those of the weights.  Range: any.  Mean: none is taken.
    Raises: ValueError for a layer that does not exist; ModelError for a layer without softmax attention and for
        offsets that are not distinct whole numbers ≥ 0.
    Source: Elhage et al. 2021 for the notation.
    When it misleads: the layer norm before attention scales the axes of x, and its gain is not folded in.  Entries are
        None, with ``why``, where a matrix reads a compressed stream (MLA) or something gates z before W_O.  A basis
        inside a head is arbitrary: compare heads by what :mod:`headlab.measures.head_features` derives, never entry
        by entry.
    """
    if list(offsets) != sorted({int(n) for n in offsets if n >= 0}) or not offsets:
        raise ModelError(f"offsets are {tuple(offsets)}; expected distinct positions >= 0 in rising order")
    which = sorted(lab.attentions) if layers is None else [lab.grid.check_layer(n) for n in layers]
    for layer in which:
        lab.attention_of(layer)
    why = [lab.geometry.why] if lab.geometry.why else []
    read = {b: _reads_stream(lab, b, which[0], why) for b in _AXES}
    probed = between(lab, which, tuple(offsets))
    made: dict[int, LayerWeights] = {}
    for layer in which:
        parts: dict[str, Any] = {b: lab.weight(b, layer) if read[b] else None for b in _AXES}
        parts |= {f"b_{b}": lab.bias(b, layer) if read[b] else None for b in "qkv"}
        parts["b_o"] = lab.output_bias(layer) if read["o"] else None
        made[layer] = LayerWeights(layer, **parts, **probed.layers[layer])
    return HeadWeights(
        lab.name,
        lab.grid,
        lab.d_model,
        lab.head_dim,
        made,
        probed.offsets,
        "; ".join(why),
        probed.why_no_qk,
        probed.why_no_ov,
    )


def _reads_stream(lab: Lab, which: str, layer: int, why: list[str]) -> bool:
    """Whether a projection exists and its far side is the residual stream (MLA reads a compressed one)."""
    if getattr(lab.geometry, which) is None:
        return False
    weight = lab.weight(which, layer)
    size = weight.shape[2] if which == "o" else weight.shape[1]
    if size != lab.d_model:
        why.append(f"W_{which.upper()} reads {size} compressed channels, not the {lab.d_model} of the residual stream")
    return size == lab.d_model


def read_weights(
    model: Any,
    *,
    revision: str | None = None,
    tokenizer: Any = None,
    layers: Sequence[int] | None = None,
    offsets: Sequence[int] = OFFSETS,
) -> HeadWeights:
    """The head weights of a checkpoint (hub id with revision, folder or model in memory), without the load-time trial.

    Only the probes that locate heads run (a few passes of at most 12 tokens); the model is let go afterwards, the
    weights returned are copies.  A checkpoint is read on the CPU in float32.  Arguments and errors are those of
    :func:`headlab.engine.model.open_model` and :func:`head_weights`.
    """
    return head_weights(
        open_model(model, tokenizer=tokenizer, revision=revision, device="cpu"), layers, offsets=offsets
    )


def norm_matched(weights: HeadWeights, seed: int) -> HeadWeights:
    """Random weights of the same shape: each head's block is replaced by Gaussian noise of equal Frobenius norm.

    Draws are independent between heads, blocks and layers; biases, norms, rotations and block norms stay.  What a
    measure still shows on these belongs to norms, shapes and positions, not to what heads learned.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(block: Tensor | None) -> Tensor | None:
        if block is None:
            return None
        noise = torch.randn(block.shape, generator=generator, dtype=torch.float32).to(block)
        return noise * (block.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1))[:, None, None]

    layers = {
        n: replace(one, q=drawn(one.q), k=drawn(one.k), v=drawn(one.v), o=drawn(one.o))
        for n, one in sorted(weights.layers.items())
    }
    return replace(weights, layers=layers)
