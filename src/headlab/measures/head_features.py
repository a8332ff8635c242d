"""Features of heads that mean something: what a head computes, not the basis it happens to compute it in.

A head reads its weights only through two products, W_QK = W_Q·W_Kᵀ (where to look) and W_OV = W_V·W_O (what to
carry).  Inside a head any basis serves as well as another, so entries of W_Q, W_K, W_V and W_O compare nothing; what
stands here is unchanged by every change of basis that leaves the model as it is:

1. W_OV: W_V → W_V·G, W_O → G⁻¹·W_O for any invertible G.
2. W_QK without rotary positions: W_Q → W_Q·G, W_K → W_K·G⁻ᵀ for any invertible G.
3. W_QK with rotary positions: the score of a query n positions after a key is x·W_Q·M_n·W_Kᵀ·yᵀ, so only those G are
   free that commute with every M_n: rotations within each frequency's pair of channels, anything among channels that
   do not turn.  W_QK is then the family B(n) = W_Q·M_n·W_Kᵀ, and inner products are means over the offsets n.

A d_model × d_model product is never formed: all follows from d_head × d_head factors.  Norms on q and k give their
gain to the factors (and their centring); their token-dependent scale has no weight and stays out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlab.engine.model import ModelError
from headlab.measures.rotations import HeadNorm
from headlab.measures.tables import Array
from headlab.measures.weights import HeadWeights
from headlab.reading import expected_one_of

Circuit = Literal["qk", "ov"]
Kind = Literal[
    "qk_cosine",
    "ov_cosine",
    "qk_subspace",
    "ov_subspace",
    "qk_spectrum",
    "ov_spectrum",
    "q_subspace",
    "k_subspace",
    "v_subspace",
    "o_subspace",
]
KINDS: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]
FLAT = 1e-6
"""Directions whose singular value is below this share of the largest do not count as a subspace's."""


@dataclass(frozen=True)
class Spectra:
    """Singular values of one product of each head, largest first.

    ``values`` [head, d_head]; ``norm`` [head] = √Σσ², the Frobenius norm; ``shape`` = values / norm, what is left of
    the spectrum without its size; ``rank`` [head] = (Σσ²)² / Σσ⁴, the effective number of directions, 1 to d_head.
    NaN for a head whose product is zero.
    """

    values: Array
    norm: Array
    shape: Array
    rank: Array


@dataclass(frozen=True)
class _Factors:
    """left[h] [d_model, d] and right[g] [d_model, d] of product Σ_n left·M_n·rightᵀ; ``group[h]`` is g."""

    left: Tensor
    right: Tensor
    group: Tensor
    turns: Tensor  # [offset, d, d]; the identity alone without rotary positions


def _factors(weights: HeadWeights, layer: int, circuit: Circuit) -> _Factors:
    """The two low-rank factors of W_QK or W_OV in float64."""
    one, group = weights.at(layer), weights.kv_of()
    if circuit == "ov":
        v, o = weights.of("v", layer).double(), weights.of("o", layer).double()
        if weights.why_no_ov:
            raise ModelError(f"{weights.name} has no W_OV: {weights.why_no_ov}")
        # B = W_V[g]·W_O[h] has the query head on the right: turned over, so that left is always of the query head
        return _Factors(
            o.transpose(1, 2), v, group.to(v.device), torch.eye(v.shape[2], dtype=v.dtype, device=v.device)[None]
        )
    if circuit != "qk":
        raise ValueError(f"unknown circuit {circuit!r}; expected qk or ov")
    q, k = weights.of("q", layer), weights.of("k", layer)
    if weights.why_no_qk:
        raise ModelError(f"{weights.name} has no W_QK: {weights.why_no_qk}")
    q, k = _gained(q, one.q_norm), _gained(k, one.k_norm)
    eye = torch.eye(q.shape[2], dtype=q.dtype, device=q.device)[None]
    return _Factors(q, k, group.to(q.device), eye if one.rotation is None else one.rotation.to(q))


def _gained(block: Tensor, norm: HeadNorm | None) -> Tensor:
    """A block in float64 with the linear part of the norm that follows it."""
    wide = block.double()
    if norm is None:
        return wide
    if norm.centred:
        wide = wide - wide.mean(2, keepdim=True)
    return wide * norm.gain.to(wide)[:, None]


def spectra(weights: HeadWeights, layer: int, circuit: Circuit) -> Spectra:
    """Singular values of W_QK or W_OV of each head of a layer.

    Definition: σ_1 ≥ σ_2 ≥ … of W_V[g]·W_O[h], or of W_Q[h]·M_n·W_K[g]ᵀ as the mean of σ_i over the offsets n.  With
        QR factors left = U·R, right = V·S they are the singular values of R·M_n·Sᵀ, a d_head × d_head matrix.
    Shapes: :class:`Spectra`, [head, d_head] and [head], float64.  Query heads that share a KV head each have a row.
    Units: those of the product of two weights; ``shape`` none.  Range: values ≥ 0; shape 0 to 1, squares summing to
        1 (without rotary positions; the mean of spectra is a little flatter); rank 1 to d_head, more = more
        directions used.
    Mean: over offsets (rotary W_QK only).
    Raises: ModelError where the layer or the product does not exist; ValueError for another circuit.
    Source: Elhage et al. 2021 for the products.
    When it misleads: two heads may share a spectrum and no direction.  Query heads of one KV group share a factor, so
        their spectra agree more than those of others even at random: compare with a random model of the same shape.
    """
    f = _factors(weights, layer, circuit)
    r, s = torch.linalg.qr(f.left).R, torch.linalg.qr(f.right).R[f.group]
    each = torch.stack([torch.linalg.svdvals(r @ m @ s.transpose(1, 2)) for m in f.turns])
    values = each.mean(0).cpu().numpy()
    norm = each.square().sum(2).mean(0).sqrt().cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return Spectra(values, norm, values / norm[:, None], (values**2).sum(1) ** 2 / (values**4).sum(1))


def _inner(f: _Factors) -> Tensor:
    """Frobenius inner products of the heads' products, averaged over offsets, [head, head]."""
    heads = f.left.shape[0]
    a = _gram(f.left, f.left)
    c = _gram(f.right, f.right)[f.group][:, f.group]
    total = torch.zeros((heads, heads), dtype=a.dtype, device=a.device)
    for m in f.turns:
        total += ((m.T @ a @ m) * c).sum((2, 3))
    return (total + total.T) / (2 * len(f.turns))


def _gram(x: Tensor, y: Tensor) -> Tensor:
    """x_iᵀ·y_j for every two heads, [i, j, d, d], from x [i, d_model, d] and y [j, d_model, d]."""
    flat = lambda z: z.transpose(0, 1).flatten(1)  # noqa: E731
    product = flat(x).T @ flat(y)
    return product.unflatten(0, (x.shape[0], x.shape[2])).unflatten(2, (y.shape[0], y.shape[2])).transpose(1, 2)


def _squares(f: _Factors) -> Tensor:
    """Squared Frobenius norms of the heads' products, averaged over offsets, [head]."""
    a, c = f.left.transpose(1, 2) @ f.left, (f.right.transpose(1, 2) @ f.right)[f.group]
    return torch.stack([((m.T @ a @ m) * c).sum((1, 2)) for m in f.turns]).mean(0)


def distances(weights: HeadWeights, layer: int, kind: Kind) -> Array:
    """How far every two heads of a layer are from one another, by what they compute.

    Definition: ``qk_cosine``, ``ov_cosine``: 1 − ⟨B_i, B_j⟩ / (‖B_i‖·‖B_j‖), with ⟨A, B⟩ = tr(AᵀB) for W_OV and, for
        W_QK, the mean over the offsets n of ⟨B_i(n), B_j(n)⟩ with B(n) = W_Q·M_n·W_Kᵀ (without rotary positions
        B = W_Q·W_Kᵀ).  ``q_subspace`` … ``o_subspace``: √(1 − mean_k cos²θ_k) over the principal angles θ_k of the two
        d_head-dimensional subspaces of the residual stream that a block reads or writes; ``qk_subspace`` is
        √((q² + k²) / 2), ``ov_subspace`` likewise.  ``qk_spectrum``, ``ov_spectrum``: Euclidean distance of
        ``Spectra.shape``.
    Shapes: [head, head]; for ``k_subspace`` and ``v_subspace`` [KV head, KV head]: nothing is repeated.  float64,
        symmetric, zeros on the diagonal; NaN where a head's product is zero.
    Units: none.  Range: cosine 0 to 2 (1: orthogonal, as unrelated heads nearly are; above 1: opposed); subspace 0 to 1
        (1: no direction in common); spectrum 0 to √2; more = less alike.  Norms never enter (:func:`norms`).
    Mean: over principal angles; over offsets (rotary W_QK only).
    Raises: ModelError where the layer or a product does not exist; ValueError for another kind.
    Source: Björck & Golub 1973 for principal angles; Edelman et al. 1998 for the chordal distance.
    When it misleads: query heads of one KV group share W_K and W_V, so ``qk_…`` and ``ov_…`` see the group even in a
        random model; ``q_subspace`` and ``o_subspace`` hold what is each head's own.  Subspaces forget how directions
        are paired and weighted, and are unchanged by more than is free in a rotary model; the cosine is unchanged by
        what is free and by no more.  Offsets beyond ``weights.offsets`` do not count, so channels that turn slowly count
        as channels that do not.  Biases do not enter.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; {expected_one_of(kind, KINDS)}")
    stem, _, way = kind.partition("_")
    if way == "cosine":
        inner = _inner(_factors(weights, layer, "qk" if stem == "qk" else "ov"))
        size = inner.diagonal().clamp(min=0).sqrt()
        out = 1 - (inner / torch.outer(size, size)).clamp(-1, 1)
    elif way == "spectrum":
        shape = torch.from_numpy(spectra(weights, layer, "qk" if stem == "qk" else "ov").shape)
        out = torch.cdist(shape, shape, compute_mode="donot_use_mm_for_euclid_dist")
    elif len(stem) == 1:
        out = _chordal(_basis(weights, layer, stem))
    else:
        one, two = (_chordal(_basis(weights, layer, s)) for s in stem)
        group = weights.kv_of()
        one, two = (x if s in "qo" else x[group][:, group] for s, x in zip(stem, (one, two), strict=True))
        out = ((one**2 + two**2) / 2).sqrt()
    found = out.cpu().numpy()
    np.fill_diagonal(found, np.where(np.isnan(np.diag(found)), np.nan, 0.0))
    return found


def _basis(weights: HeadWeights, layer: int, block: str) -> Tensor:
    """Orthonormal bases of the subspaces that a block reads or writes, [head or KV head, d_model, d]; directions that
    a head does not have are zero columns."""
    one = weights.at(layer)
    wide = weights.of(block, layer)  # type: ignore[arg-type]
    wide = wide.double().transpose(1, 2) if block == "o" else _gained(wide, getattr(one, f"{block}_norm"))
    left, strength, _ = torch.linalg.svd(wide, full_matrices=False)
    return left * (strength > FLAT * strength[:, :1]).to(left)[:, None]


def _chordal(basis: Tensor) -> Tensor:
    """√(1 − mean cos²θ) of every two subspaces; the mean is over the larger of the two dimensions."""
    overlap = _gram(basis, basis).square().sum((2, 3))
    rank = overlap.diagonal().round()
    larger = torch.maximum(rank[:, None], rank).where(torch.outer(rank, rank) > 0, torch.nan)
    return (1 - overlap / larger).clamp(min=0).sqrt()


def norms(weights: HeadWeights) -> pd.DataFrame:
    """The size of every block, apart from its direction.

    Definition: Frobenius norm ‖W‖ = √Σw² of W_Q, W_K, W_V, W_O, of W_OV = W_V·W_O and of W_QK (with rotary positions
        the root of the mean of ‖B(n)‖² over offsets).  Blocks that the family does not have have no rows.
    Shapes: one row for each layer × block × head: ``layer``, ``block`` (q k v o qk ov), ``axis`` (``head``, or
        ``kv_head`` for k and v, which have a row for each KV head), ``head``, ``norm``.
    Units: those of the weights (of a product of two for qk and ov).  Range: ≥ 0.  Mean: over offsets for qk.
    Raises: nothing.
    Source: none needed.
    When it misleads: q and k (and v and o) share a scale that means nothing: 2·W_Q with W_K / 2 is the same head.  Only
        qk and ov have a size of their own, and a norm on q or k makes W_QK's size its gain's.
    """
    rows = []
    for layer, one in sorted(weights.layers.items()):
        sizes: dict[str, Tensor] = {
            b: w.double().flatten(1).norm(dim=1) for b in "qkvo" if (w := getattr(one, b)) is not None
        }
        for circuit in ("qk", "ov"):
            try:
                sizes[circuit] = _squares(_factors(weights, layer, circuit)).clamp(min=0).sqrt()
            except ModelError:
                continue  # the family has no such product: no rows, as documented
        for block, size in sizes.items():
            axis = "kv_head" if block in {"k", "v"} else "head"
            rows += [(layer, block, axis, h, x) for h, x in enumerate(size.tolist())]
    return pd.DataFrame(rows, columns=["layer", "block", "axis", "head", "norm"])
