"""Which attention edges the answer depends on, to first order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from headlab.designs.edges import Edges
from headlab.effects import Progress, quiet
from headlab.engine.gradients import TOKENS, slopes_of
from headlab.engine.model import Lab
from headlab.interventions import role_positions
from headlab.measures.watching import batches, layers_of
from headlab.prompts import Encoded

OF_EDGES = ("pattern", "gradient", "attribution", "centred")


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_edges(
    lab: Lab,
    encoded: Sequence[Encoded],
    layers: Sequence[int] | None = None,
    *,
    top: int | None = 5,
    tokens: int = TOKENS,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Gradient × pattern of the logit difference at every edge (query, key), strongest first in each head.

    Definition: attribution(q, s) = α[q, s] · ∂LD/∂α[q, s], LD = logit(answer) − logit(wrong) after the shared start of
        the answer; α is varied alone, without renormalising its row.  To first order in the part ε of the edge's
        weight that is cut, LD changes by −ε · attribution where nothing is put in its place, and by −ε · centred where
        the row is renormalised: centred(q, s) = α[q, s] · (∂LD/∂α[q, s] − Σ_k α[q, k] · ∂LD/∂α[q, k] / Σ_k α[q, k]).
    Shapes: ``top`` rows (None: every edge s ≤ q) for each prompt × layer × head: ``prompt``, ``layer``, ``head``,
        ``rank`` (from 0, by |attribution|), ``query``, ``key``, ``pattern``, ``gradient``, ``attribution``, ``centred``.
    Units: logits (gradient: logits per unit of weight).  Range: any sign; more = the edge works for the answer.
    Mean: none is taken.  Batches (``tokens`` in flight) change the time, never a number.
    Raises: EngineError without prompts or when a pattern was not read; ModelError for a layer without softmax
        attention; ValueError for ``top`` below 1.
    Source: framework §2.2 (gradient magnitudes, top 5, of the module's output); Simonyan et al. 2013, arXiv:1312.6034,
        for gradient × input.
    When it misleads: a cut is no small step where α is large, and later heads may make up for it.  Adding the same
        number to a row's gradient changes every attribution of the row and nothing that softmax can do (``centred`` is
        free of that).  Edges to the sink are large for that reason.  Cut the edges, and random ones of equal weight,
        before calling them critical.
    """
    import numpy as np

    layers = layers_of(lab, layers)
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; expected at least 1 edge for each head, or None for all")
    parts: list[dict[str, np.ndarray]] = []
    done = 0
    for batch in batches(lab, encoded, tokens):
        keys = [(layer, "pattern") for layer in layers]
        queries, sources = np.tril_indices(batch.length)
        for (layer, _), (value, slope) in slopes_of(lab, batch.encoded, keys)[1].items():
            # [row, query, head, key] → [row, head, edge]
            alpha, gradient = (x.double().transpose(1, 2).cpu().numpy() for x in (value, slope))
            row = (alpha * gradient).sum(-1, keepdims=True) / alpha.sum(-1, keepdims=True)
            edge = [x[:, :, queries, sources] for x in (alpha, gradient, alpha * gradient, alpha * (gradient - row))]
            order = np.argsort(-np.abs(edge[2]), axis=-1, kind="stable")[..., :top]
            places = np.indices(order.shape)
            columns = {
                "prompt": np.array(batch.which)[places[0]],
                "layer": np.full(order.shape, layer),
                "head": places[1],
                "rank": places[2],
                "query": queries[order],
                "key": sources[order],
            }
            columns |= {n: np.take_along_axis(x, order, -1) for n, x in zip(OF_EDGES, edge, strict=True)}
            parts.append({name: x.ravel() for name, x in columns.items()})
        done += len(batch.which)
        progress("gradient edges", done, len(encoded))
    table = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return table.sort_values(["prompt", "layer", "head", "rank"], ignore_index=True)


def role_edges(lab: Lab, encoded: Sequence[Encoded], at: int, roles: Sequence[str]) -> Edges:
    """Weight and attribution of every role × role edge with any weight, means over prompts."""
    table = gradient_edges(lab, encoded, [at], top=None)
    longest = max(len(e.ids) for e in encoded)
    role = np.full((len(encoded), longest), -1)
    for i, e in enumerate(encoded):
        for n, name in enumerate(roles):
            role[i, list(role_positions(e, name))] = n
    query, key = (role[table["prompt"], table[side]] for side in ("query", "key"))
    known = (query >= 0) & (key >= 0)
    sums = np.zeros((2, lab.grid.n_heads, len(roles), len(roles)))
    for n, column in enumerate(("pattern", "centred")):
        np.add.at(sums[n], (table["head"].to_numpy()[known], query[known], key[known]), table[column].to_numpy()[known])
    heads, queries, keys = np.nonzero(sums[0] > 0)
    weight, attribution = sums[:, heads, queries, keys] / len(encoded)
    edges = tuple((int(h), roles[int(q)], roles[int(k)]) for h, q, k in zip(heads, queries, keys, strict=True))
    return Edges(edges, weight, attribution)
