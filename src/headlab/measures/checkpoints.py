"""What is measured on one checkpoint of a series, as tidy rows.

1. Weights: the norms of every block; how clustered the heads of a layer are with norms removed, beside the same of random
   weights of equal norms; the same with norms left in; the published blocks.
2. Behaviour, where prompts are given: the share of pairs whose logit difference is right, by category and prompt; what
   patching all, even and odd heads of each layer repairs among the pairs that this checkpoint has a bug on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.effects import of_world
from headlab.engine.model import Lab, ModelError
from headlab.engine.run import sweep
from headlab.heads import even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.measures.head_features import distances, norms
from headlab.measures.published_weights import fused_qkv, published_reshape
from headlab.measures.weights import HeadWeights, head_weights, norm_matched
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, clustered_rate, paired_difference
from headlab.stats.clustering import euclidean, hierarchical, k_means

WHOLE = -1
"""The layer of a row that is a mean over layers."""
PRODUCTS = ("qk", "ov")
SETS = {"all": all_heads, "even": even, "odd": odd}
FEWEST = 10
"""Eligible pairs below which a repair rate of one checkpoint is not read."""

Row = dict[str, Any]


def row(quantity: str, layer: int, found: Estimate) -> Row:
    """One number of one checkpoint; an undefined one keeps its reason."""
    return {
        "quantity": quantity,
        "layer": layer,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "unit": found.unit,
        "method": found.method,
        "note": found.note,
    }


def weight_rows(lab: Lab, *, draws: int, seed: int) -> list[Row]:
    """Norms and clustering of every layer, and their means over layers."""
    weights = head_weights(lab)
    return [
        *norm_rows(weights),
        *cluster_rows(weights, draws=draws, seed=seed),
        *published_rows(lab, weights, seed=seed),
    ]


def norm_rows(weights: HeadWeights) -> list[Row]:
    """``norm BLOCK``: the mean over heads of a block's Frobenius norm; ``outlier``: the largest norm of a head's q, k, v or
    o over the median of its layer and block."""
    table: Any = norms(weights)
    out: list[Row] = []
    for (layer, block), part in table.groupby(["layer", "block"])["norm"]:
        out.append(row(f"norm {block}", int(layer), _exact(float(part.mean()), len(part), "heads")))
    for block, part in table.groupby("block")["norm"]:
        out.append(row(f"norm {block}", WHOLE, _exact(float(part.mean()), len(part), "heads")))
    single = table[table["block"].isin(list("qkvo"))]
    ratio = single["norm"] / single.groupby(["layer", "block"])["norm"].transform("median").clip(lower=1e-12)
    out.append(row("outlier", WHOLE, _exact(float(ratio.max()), len(ratio), "blocks")))
    return out


def cluster_rows(weights: HeadWeights, *, draws: int, seed: int) -> list[Row]:
    """``clustering``: the best mean silhouette of the heads (average linkage on cosine distances of W_QK and of W_OV, norms
    removed, mean of the two); ``null``: the mean of ``draws`` sets of random weights of equal norms; ``excess``: their
    difference, its interval from the draws; ``with norms``: Euclidean distances of the products, norms left in."""
    layers = sorted(weights.layers)
    null = [silhouettes(norm_matched(weights, seed + n)) for n in range(draws)]
    own, raw = silhouettes(weights), silhouettes(weights, with_norms=True)
    out = []
    for layer in (*layers, WHOLE):
        pick = (lambda found: _mean(found.values())) if layer == WHOLE else (lambda found, at=layer: found[at])
        here, others, n = pick(own), [x for one in null if (x := pick(one)) is not None], weights.grid.n_heads
        if here is None or not others:
            reason = "heads cannot be clustered here: fewer than 4, or no product of weights that heads read alone"
            out += [row(k, layer, Estimate.undefined("heads", n, reason)) for k in ("clustering", "excess")]
            continue
        low, high = (float(np.quantile(others, q)) for q in (0.025, 0.975))
        middle = float(np.mean(others))
        out.append(row("clustering", layer, _exact(here, n, "heads")))
        out.append(
            row("null", layer, Estimate(middle, low, high, len(others), "draws", "norm-matched weights", seed=seed))
        )
        spread = Estimate(
            here - middle, here - high, here - low, len(others), "draws", "norm-matched weights", seed=seed
        )
        out.append(row("excess", layer, spread))
        if (loud := pick(raw)) is not None:
            out.append(row("with norms", layer, _exact(loud, n, "heads")))
    return out


def silhouettes(weights: HeadWeights, *, with_norms: bool = False) -> dict[int, float | None]:
    """The best mean silhouette of each layer's heads, mean over W_QK and W_OV; None where neither can be had."""
    sizes = norms(weights).set_index(["layer", "block"])["norm"] if with_norms else None
    out: dict[int, float | None] = {}
    for layer in sorted(weights.layers):
        found = []
        for product in PRODUCTS:
            try:
                table = distances(weights, layer, f"{product}_cosine")  # type: ignore[arg-type]
            except ModelError:
                continue
            if sizes is not None:
                size = sizes.loc[layer, product].to_numpy()
                square = size[:, None] ** 2 + size[None] ** 2 - 2 * np.outer(size, size) * (1 - table)
                table = np.sqrt(square.clip(min=0) * (1 - np.eye(len(size))))
            if np.isfinite(table).all() and (score := hierarchical(table).silhouette) is not None:
                found.append(score)
        out[layer] = _mean(found)
    return out


def published_rows(lab: Lab, weights: HeadWeights, *, seed: int) -> list[Row]:
    """``published q|k|v``: silhouette of k-means with two clusters on the flattened blocks of the middle layer, norms left
    in; a fused matrix is cut as it was published, view(3, head, d_head, d_model), which mixes q, k and v in GPT-NeoX."""
    layers = sorted(weights.layers)
    layer = layers[len(layers) // 2]
    try:
        cut = published_reshape(fused_qkv(lab, layer), weights.grid.n_heads, weights.head_dim)
        blocks = {name: x.flatten(1) for name, x in zip("qkv", cut, strict=True)}
    except (ModelError, ValueError):
        one = weights.at(layer)
        blocks = {name: x.flatten(1) for name in "qkv" if (x := getattr(one, name)) is not None}
    out = []
    for name, flat in blocks.items():
        x = flat.detach().double().cpu().numpy()
        made = k_means(x, 2, seed=seed, distances=euclidean(x))
        found = (
            Estimate.undefined("blocks", len(x), made.note or "no silhouette")
            if made.silhouette is None
            else _exact(made.silhouette, len(x), "blocks")
        )
        out.append(row(f"published {name}", WHOLE, found))
    return out


def behaviour_rows(
    lab: Lab, pairs: Mapping[str, Sequence[EncodedPair]], *, seed: int, memory: int | None = None
) -> list[Row]:
    """``clean CATEGORY`` and ``corrupted CATEGORY``: share of pairs whose logit difference is on the right answer's side;
    ``repair all|even|odd`` of each layer among the first category's pairs that are right when clean and wrong when
    corrupted, and ``parity``, even minus odd."""
    out: list[Row] = []
    first = next(iter(pairs))
    layers = [s.layer for s in lab.slots]
    for name, some in pairs.items():
        worlds = _worlds(lab, layers) if name == first else [World("unedited")]
        effects = sweep(lab, some, worlds, memory=memory)
        base = of_world(effects, worlds[0].name).sort_values("pair")
        clusters = base["cluster"].to_numpy()
        for prompt in ("clean", "corrupted"):
            right = base[prompt].to_numpy() > 0
            out.append(row(f"{prompt} {name}", WHOLE, clustered_rate(right, clusters=clusters, unit="pairs")))
        if name == first:
            out += repair_rows(effects, layers, seed)
    return out


def _worlds(lab: Lab, layers: Sequence[int]) -> list[World]:
    return [
        World(f"{kind} L{n}", (Intervention(heads),))
        for n in layers
        for kind, make in SETS.items()
        if len(heads := make(lab.grid, n))
    ]


def repair_rows(effects: Any, layers: Sequence[int], seed: int) -> list[Row]:
    """Repair rates of each layer among eligible pairs of this checkpoint."""
    base = of_world(effects, f"all L{layers[0]}").sort_values("pair")
    eligible = ((base["clean"] > 0) & (base["corrupted"] <= 0)).to_numpy()
    clusters, n = base["cluster"].to_numpy()[eligible], int(eligible.sum())
    out: list[Row] = [
        row("eligible", WHOLE, clustered_rate(eligible, clusters=base["cluster"].to_numpy(), unit="pairs"))
    ]
    for layer in layers:
        right = {
            kind: (of_world(effects, f"{kind} L{layer}").sort_values("pair")["edited"].to_numpy() > 0)[eligible]
            for kind in SETS
            if (effects["world"] == f"{kind} L{layer}").any()
        }
        for kind, hits in right.items():
            found = clustered_rate(hits, clusters=clusters, unit="pairs") if n >= FEWEST else _too_few(n)
            out.append(row(f"repair {kind}", layer, found))
        if {"even", "odd"} <= set(right):
            gap = (
                paired_difference(right["even"], right["odd"], clusters=clusters, unit="pairs", seed=seed)
                if n >= FEWEST
                else _too_few(n)
            )
            out.append(row("parity", layer, gap))
    return out


def _too_few(n: int) -> Estimate:
    return Estimate.undefined("pairs", n, f"{n} pairs have the bug at this step; at least {FEWEST} are needed")


def _exact(value: float, n: int, unit: str) -> Estimate:
    return Estimate(value, value, value, n, unit, "all of them")


def _mean(values: Any) -> float | None:
    known = [x for x in values if x is not None]
    return float(np.mean(known)) if known else None
