"""The published measures of a head's 6×6 attention among thoughts: flow, hub variance, skip, composite, type.

Plain numpy on matrices whose row i is the attention of thought i to thoughts 0 … n−1 (zero above the diagonal).  They
were published on the *published view* of such a matrix (:func:`published_view`), on the mean over problems; on the
matrix itself they mean what their names say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

Array = np.ndarray
EPSILON = 1e-10
WEIGHTS = {"flow": 0.4, "hub": 0.4, "skip": 0.2}
SEVERAL = 0.7
TYPES = {"flow": "Forward Flow", "hub": "Hub Aggregator", "skip": "Skip Connection"}
KINDS = (*TYPES.values(), "Multi-Purpose")
THIRDS = ("early", "middle", "late")


def published_view(among: Float[Array, "*batch thought key"]) -> Float[Array, "*batch thought key"]:
    """The matrix that the published extraction stored, from the attention among thoughts.

    Definition: P[s, j] = A[s−1, j] for s ≥ 1, and 0 in row 0.  Its loop fed ``bot`` and five thoughts: step s is the
        query of thought s−1 (``bot`` at step 0), stored as row s against the keys of thoughts j < s.  So P[s, s−1] is
        attention of a thought to itself, the diagonal, row 0 and the last column are zero, and thought n−1 is no query.
    Shapes: [..., thought, key] → the same; units: attention weight.
    Range: 0 to 1.  Mean over: nothing.  Raises ValueError unless the last two axes are equal.
    Source: the extraction script of the CODI attention-flow study (2025), read; see :func:`headlab.thoughts.attention`.
    When it misleads: always, if its rows are taken for those of the thoughts they are named after.
    """
    _square(among)
    out = np.zeros_like(among)
    out[..., 1:, :] = among[..., :-1, :]
    return out


def flow(matrix: Float[Array, "*batch thought key"]) -> Float[Array, "*batch"]:
    """Share of attention among thoughts that goes to earlier ones.

    Definition: Σ_{j<i} A[i, j] / Σ_{j≤i} A[i, j].
    Shapes: [..., thought, key] → [...].  Units: a share.
    Range: 0 to 1, more = less on itself.  Uniform attention over six visible thoughts gives .592; a matrix without
        mass gives NaN.
    Mean over: nothing.  Raises ValueError unless the last two axes are equal.
    Source: CODI attention-flow study (2025), story 2.1.
    When it misleads: on the published view it is 1 in every head by construction, for the diagonal was never filled.
    """
    n = _square(matrix)
    total = (matrix * np.tri(n)).sum((-2, -1))
    return np.divide((matrix * np.tri(n, k=-1)).sum((-2, -1)), total, out=np.full_like(total, np.nan), where=total > 0)


def incoming(matrix: Float[Array, "*batch thought key"]) -> Float[Array, "*batch key"]:
    """Sum of each column: attention that a thought receives from all rows, not corrected for how many see it."""
    _square(matrix)
    return matrix.sum(-2)


def hub_variance(matrix: Float[Array, "*batch thought key"]) -> Float[Array, "*batch"]:
    """Variance of the attention that thoughts receive.

    Definition: (1/n) Σ_j (c_j − mean c)² with c_j = Σ_i A[i, j].
    Shapes: [..., thought, key] → [...].  Units: squared attention weight.
    Range: 0 to 3.47 for the published view of six thoughts (all rows on thought 0); more = received less evenly.
    Mean over: nothing.  Raises ValueError unless the last two axes are equal.
    Source: CODI attention-flow study (2025), story 2.2 ("hub score").
    When it misleads: uniform attention to the visible thoughts has .592, for early ones are seen by more rows; and it
        grows with the square of the mass that a head spends on thoughts at all.
    """
    return np.asarray(incoming(matrix).var(-1))


def skip(matrix: Float[Array, "*batch thought key"]) -> Float[Array, "*batch"]:
    """Attention of the last thought to the first three: mean of A[n−1, 0..2].

    Shapes: [..., thought, key] → [...].  Units: attention weight.  Range: 0 to 1/3, more = looks further back.
    Mean over: the three keys.  Raises ValueError unless the last two axes are equal, and for fewer than 4 thoughts.
    Source: CODI attention-flow study (2025), story 2.3.
    When it misleads: on the published view the row is that of the thought before the last.  It mixes how much a head
        reads thoughts with which ones.
    """
    if _square(matrix) < 4:
        raise ValueError(f"skip needs at least 4 thoughts, given {matrix.shape[-1]}")
    return np.asarray(matrix[..., -1, :3].mean(-1))


def sequential(matrix: Float[Array, "*batch thought key"]) -> Float[Array, "*batch"]:
    """Attention to the thought just before: mean over i ≥ 1 of A[i, i−1].

    Shapes: [..., thought, key] → [...].  Units: attention weight.  Range: 0 to 1, more = more chain-like.
    Mean over: rows 1 to n−1.  Raises ValueError unless the last two axes are equal.
    Source: CODI attention-flow study (2025), story 1.5.
    When it misleads: on the published view it is the attention of thoughts to themselves.
    """
    _square(matrix)
    return np.asarray(np.diagonal(matrix, -1, -2, -1).mean(-1))


def published_ratio(matrix: Float[Array, "*batch thought key"]) -> Float[Array, "*batch key"]:
    """What the study called the hub ratio: column sums over 1/n.

    Definition: Σ_i P[i, j] / (1/n) of a mean matrix in the published view.  Its argmax is "the hub", always.
    Shapes: [..., thought, key] → [..., key].  Units: times 1/n.
    Range: 0 up; over 2 was called a strong hub.
    Mean over: nothing here; it was published on the mean over problems, layers and heads.
    Raises ValueError unless the last two axes are equal.
    Source: CODI attention-flow study (2025), story 1.5: 1.18 at thought 0 (Llama), 1.63 at thought 1 (GPT-2).
    When it misleads: 1/n is the mean of a row, compared with a sum of up to n−1 rows that differ in number from column
        to column; uniform attention puts the hub at thought 0, and the ratio falls with the length of the question.
    """
    return incoming(matrix) * matrix.shape[-1]


@dataclass(frozen=True)
class Composite:
    """Scores of all heads of a model: the three terms between 0 and 1, their weighted sum, the types.

    Arrays are [..., head].  ``constant`` names the terms that are the same in every head, whose weight is therefore
    dead: the composite then cannot exceed the sum of the other weights.
    """

    flow: Array
    hub: Array
    skip: Array
    score: Array
    constant: tuple[str, ...]

    @property
    def types(self) -> list[str]:
        """The functional type of each head of a single model."""
        return functional_types(self.flow, self.hub, self.skip)

    @property
    def warning(self) -> str:
        """What a reader must know of constant terms; empty when there are none."""
        if not self.constant:
            return ""
        dead = sum(WEIGHTS[c] for c in self.constant)
        return (
            f"{' and '.join(self.constant)} is the same in every head, so its weight in the composite is dead: no score can "
            f"exceed {1 - dead:.1f}, and no head can be of type {' or '.join(TYPES[c] for c in self.constant)}"
        )


def composite(flow: Any, hub: Any, skip: Any) -> Composite:
    """The published score of all heads of a model.

    Definition: .4·flow_n + .4·hub_n + .2·skip_n, each term x_n = (x − min) / (max − min + 1e−10) over the heads.
    Shapes: three times [..., head] (flow, hub variance, skip) → :class:`Composite`.  Units: none.
    Range: 0 to 1, more = "more critical"; at most .6 where flow is constant.
    Mean over: nothing; minimum and maximum over the heads of one model.
    Raises: ValueError for unequal shapes, NaN, or fewer than 2 heads.
    Source: CODI attention-flow study (2025), story 2.4.
    When it misleads: min-max makes the best head of *any* model score high, an untrained one's too; scores of two models
        are not on one scale.  It says nothing of what a head causes.
    """
    terms = {"flow": flow, "hub": hub, "skip": skip}
    arrays = {k: np.asarray(v, dtype=float) for k, v in terms.items()}
    shapes = {v.shape for v in arrays.values()}
    if len(shapes) != 1 or not next(iter(shapes)) or next(iter(shapes))[-1] < 2:
        raise ValueError(
            f"flow, hub and skip need one number for each of at least 2 heads, given shapes {sorted(shapes)}"
        )
    if not all(np.isfinite(v).all() for v in arrays.values()):
        raise ValueError("flow, hub and skip must be finite; a head without attention among thoughts has no flow")
    normal, constant = {}, []
    for name, x in arrays.items():
        low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
        if bool((high - low <= EPSILON).all()):
            constant.append(name)
        normal[name] = (x - low) / (high - low + EPSILON)
    score = sum(WEIGHTS[k] * normal[k] for k in terms)
    return Composite(normal["flow"], normal["hub"], normal["skip"], np.asarray(score), tuple(constant))


def composite_of(view: Float[Array, "*batch thought key"]) -> Composite:
    """:func:`composite` of attention among thoughts as :func:`published_view` shows it."""
    return composite(flow(view), hub_variance(view), skip(view))


def type_codes(flow_n: Any, hub_n: Any, skip_n: Any) -> Array:
    """Place in :data:`KINDS` of each head's type.  Shapes: three times [..., head] → [..., head]."""
    stacked = np.stack([np.asarray(x, dtype=float) for x in (flow_n, hub_n, skip_n)])
    return np.where((stacked > SEVERAL).sum(0) >= 2, len(TYPES), stacked.argmax(0))


def functional_types(flow_n: Any, hub_n: Any, skip_n: Any) -> list[str]:
    """Forward Flow, Hub Aggregator or Skip Connection by the largest normalised score; Multi-Purpose when two exceed .7.

    Shapes: three times [head] → [head].  Raises ValueError for unequal shapes.
    Source: CODI attention-flow study (2025), story 2.4.
    When it misleads: every head gets a type, whatever its attention; ties go to flow, then hub.
    """
    return [KINDS[int(code)] for code in type_codes(flow_n, hub_n, skip_n)]


def layer_third(layer: int, n_layers: int) -> str:
    """early: layer < ⌊L/3⌋, middle: layer < ⌊2L/3⌋, else late (the published rule; L4 of 16 is early by it).

    Raises ValueError for a layer that the model does not have.
    """
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer {layer} is not one of {n_layers}")
    return THIRDS[(layer >= n_layers // 3) + (layer >= 2 * n_layers // 3)]


def ranking(score: Sequence[float] | Array) -> Array:
    """Rank of each head, 1 = highest score; the earlier of equals first.  Shapes: [..., head] → [..., head]."""
    order = np.argsort(-np.asarray(score, dtype=float), axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable") + 1


def _square(matrix: Array) -> int:
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"attention among thoughts is [..., thought, thought], given shape {matrix.shape}")
    return matrix.shape[-1]
