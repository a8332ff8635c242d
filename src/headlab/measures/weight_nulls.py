"""What ``weight-clusters`` compares with: untrained models, random weights, one cloud, heads in another order, copies.

1. Distances between heads as between points: the chord for cosines, so that trees, k-means and views agree.
2. Nulls of "there are clusters": the same architecture untrained (many seeds), Gaussian blocks of the trained norms, and
   one Gaussian cloud exactly as long and as wide as the heads' own.
3. Heads (and KV groups) in another order must change nothing; copies of one head must be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlab.engine.model import Lab, ModelError, open_model
from headlab.measures.head_features import distances
from headlab.measures.weights import HeadWeights, LayerWeights, head_weights, norm_matched
from headlab.reading import expected_one_of
from headlab.stats.agreement import ClusterTest, cluster_test
from headlab.stats.clustering import euclidean
from headlab.stats.views import principal_coordinates

Array = np.ndarray
FEATURES = ("cosine", "subspace", "spectrum")
BLOCKS = {"q": "head", "k": "kv", "v": "kv", "o": "head", "b_q": "head", "b_k": "kv", "b_v": "kv"}
NORMS = {"q_norm": "head", "k_norm": "kv", "v_norm": "kv"}
LARGE, LAYERS, FEWEST = 5_000_000, 4, 99
"""Models with more parameters are drawn untrained with this many layers and small tables for words and in MLPs, and
each null has this many tables: the fewest with which nothing in a null can be under .05 with its whole interval."""
WIDEST = 3_000
"""Heads × d_head up to which heads of several layers are compared at once (memory grows with the square)."""


def apart(weights: HeadWeights, layer: int, circuit: str, feature: str) -> Array:
    """Distances between the heads of a layer by W_QK ("qk"), W_OV ("ov") or both, [head, head].

    Cosines become chords, √(2 - 2·cos), the distance of directions.  Both: the root of the mean square.
    """
    if feature not in FEATURES:
        raise ValueError(f"unknown feature {feature!r}; {expected_one_of(feature, FEATURES)}")
    if circuit == "both":
        return np.sqrt(np.mean([apart(weights, layer, c, feature) ** 2 for c in circuits(weights)], axis=0))
    found = distances(weights, layer, f"{circuit}_{feature}")  # type: ignore[arg-type]
    if not np.isfinite(found).all():
        raise ModelError(f"a head of layer {layer} of {weights.name} has no weights, so it has no distance to others")
    return np.sqrt(2 * np.maximum(found, 0)) if feature == "cosine" else found


def circuits(weights: HeadWeights) -> tuple[str, ...]:
    """Those of W_QK and W_OV that this family has.  Raises ModelError with the reason when it has neither."""
    layer, found, why = min(weights.layers), [], ""
    for circuit in ("qk", "ov"):
        try:
            distances(weights, layer, f"{circuit}_spectrum")  # type: ignore[arg-type]
            found.append(circuit)
        except ModelError as error:
            why = str(error)
    if not found:
        raise ModelError(why)
    return tuple(found)


# -- nulls --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Untrained:
    """Models of one architecture that were never trained, and how many tables a null shall have."""

    models: tuple[HeadWeights, ...]
    draws: int
    made: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def tables(self, like: LayerWeights, circuit: str, feature: str) -> list[Array]:
        """Distances in layers that turn positions as ``like`` does (all layers, where none does)."""
        key = (self._same(like), circuit, feature)
        if key not in self.made:
            places = [(w, n) for w in self.models for n in key[0]]
            self.made[key] = [apart(w, n, circuit, feature) for w, n in places[: self.draws]]
        return self.made[key]

    def test(self, table: Array, like: LayerWeights, circuit: str, feature: str, **settings: Any) -> ClusterTest:
        """``cluster_test`` of a layer among these models; what the models give is computed once for all layers."""
        key = (self._same(like), circuit, feature, repr(sorted(settings.items())))
        if key in self.made:
            return cluster_test(table, values=self.made[key], **settings)
        found = cluster_test(table, self.tables(like, circuit, feature), **settings)
        if found.null:
            self.made[key] = found.null
        return found

    def _same(self, like: LayerWeights) -> tuple[int, ...]:
        layers = self.models[0].layers
        return tuple(n for n, one in layers.items() if _turns_alike(one, like)) or tuple(layers)


def untrained(lab: Lab, draws: int, seed: int) -> Untrained:
    """``draws`` layers (99 at least, and of a large model 99) of models like the lab's, initialised by their own code
    from other seeds.

    Large models are drawn with few layers, a short vocabulary and narrow MLPs: what makes the heads stays as it is.
    """
    config, draws = _small(lab.model), max(FEWEST, draws)
    if _large(lab.model):
        draws = FEWEST
    fresh = _initialised(lab, config, seed)
    small = open_model(fresh, tokenizer=lab.tokenizer)
    frame = head_weights(small)
    made = [frame]
    while len(made) * len(frame.layers) < draws:
        small.model.load_state_dict(_initialised(lab, config, seed + len(made)).state_dict())
        layers = {n: replace(one, **_located(small, one)) for n, one in frame.layers.items()}
        made.append(replace(frame, layers=layers))
    return Untrained(tuple(made), draws)


def _initialised(lab: Lab, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(lab.model)(deepcopy(config)).eval().requires_grad_(False)


def _located(lab: Lab, one: LayerWeights) -> dict[str, Tensor | None]:
    return {b: None if getattr(one, b) is None else lab.weight(b, one.layer) for b in "qkvo"}


def _large(model: Any) -> bool:
    return sum(p.numel() for p in model.parameters()) > LARGE


def _small(model: Any) -> Any:
    config = deepcopy(model.config)
    if not _large(model):
        return config
    layers = min(LAYERS, config.num_hidden_layers)
    config.num_hidden_layers = layers
    for name, value in list(vars(config).items()):
        if name in {"layer_types", "no_rope_layers"} and isinstance(value, list):
            setattr(config, name, value[:layers])
        elif name in {"vocab_size", "intermediate_size"} and isinstance(value, int):
            setattr(config, name, min(value, 512))
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(getattr(config, name, None), int) and getattr(config, name) >= 512:
            setattr(config, name, None)
    return config


def _turns_alike(a: LayerWeights, b: LayerWeights) -> bool:
    """Whether two layers turn positions by the same rotations (which were probed, so not to the last digit)."""
    if a.rotation is None or b.rotation is None:
        return a.rotation is b.rotation
    return a.rotation.shape == b.rotation.shape and bool((a.rotation - b.rotation.to(a.rotation)).abs().max() < 0.01)


def random_tables(weights: HeadWeights, layer: int, circuit: str, feature: str, draws: int, seed: int) -> list[Array]:
    """Distances of Gaussian blocks, each of its head's norms."""
    one = replace(weights, layers={layer: weights.at(layer)})
    return [apart(norm_matched(one, seed + i), layer, circuit, feature) for i in range(draws)]


def cloud_tables(table: Array, draws: int, seed: int) -> list[Array]:
    """Distances in single clouds with exactly the heads' spread along each principal axis.

    Points are U·S: the singular values S of the heads' centred coordinates, and U drawn uniformly among frames at right
    angles to (1, …, 1).  Were the heads a sample of one Gaussian, of whatever shape, these would be their distances as
    well as the observed ones (U is independent of S).  Heads strung out along an axis have high silhouettes without
    being parted: this null has the same axes.
    """
    points, _ = principal_coordinates(table)
    spread, rng = np.linalg.norm(points, axis=0), np.random.default_rng(seed)
    return [euclidean(_frame(rng, points.shape) * spread) for _ in range(draws)]


def _frame(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Orthonormal columns with mean zero, uniform among all such."""
    drawn = rng.normal(size=shape)
    made, upper = np.linalg.qr(drawn - drawn.mean(0))
    return made * np.sign(np.diag(upper))


# -- several layers, another order, copies ------------------------------------------------------------------


def stacked(weights: HeadWeights, layers: Sequence[int]) -> HeadWeights:
    """The heads of several layers as if they stood in one (those that turn positions alike)."""
    parts = [weights.at(n) for n in layers]
    if not all(_turns_alike(parts[0], p) for p in parts):
        raise ModelError(f"layers {list(layers)} of {weights.name} turn positions differently")
    made = {b: None if getattr(parts[0], b) is None else torch.cat([getattr(p, b) for p in parts]) for b in BLOCKS}
    for name in NORMS:
        own = [getattr(p, name) for p in parts]
        if own[0] is not None:
            both = {k: torch.cat([getattr(n, k) for n in own]) for k in ("gain", "shift")}
            made[name] = replace(own[0], **both)
    n, grid = len(layers), weights.grid
    wide = replace(grid, n_layers=1, n_heads=n * grid.n_heads, n_kv_heads=n * grid.n_kv_heads)
    return replace(weights, grid=wide, layers={0: replace(parts[0], layer=0, b_o=None, **made)})


def reordered(weights: HeadWeights, layer: int, seed: int) -> tuple[HeadWeights, Array]:
    """The layer with its KV groups, and the heads in them, in another order; and where each new head stood."""
    grid, rng = weights.grid, np.random.default_rng(seed)
    groups = rng.permutation(grid.n_kv_heads)
    heads = np.concatenate([g * grid.group_size + rng.permutation(grid.group_size) for g in groups])
    moved = _taken(weights.at(layer), heads, groups)
    return replace(weights, layers={layer: moved}), heads


def _taken(one: LayerWeights, heads: Array, groups: Array) -> LayerWeights:
    order = {"head": torch.as_tensor(heads), "kv": torch.as_tensor(groups)}
    made: dict[str, Any] = {
        b: None if (x := getattr(one, b)) is None else x[order[axis].to(x.device)] for b, axis in BLOCKS.items()
    }
    for name, axis in NORMS.items():
        norm = getattr(one, name)
        if norm is not None:
            made[name] = replace(norm, gain=norm.gain[order[axis]], shift=norm.shift[order[axis]])
    return replace(one, **made)


def planted(weights: HeadWeights, layer: int, seed: int, noise: float = 0.1) -> tuple[HeadWeights, tuple[int, ...]]:
    """Random blocks in which one head stands several times, in KV groups drawn at random, each copy with its own noise
    (``noise`` times its norm); and where the copies stand."""
    grid, rng = weights.grid, np.random.default_rng(seed)
    count = max(3 if grid.n_heads > 4 else 2, grid.n_heads // 4)
    room = grid.n_kv_heads // 2 + 1
    if grid.n_kv_heads == 1:
        places = rng.choice(grid.n_heads, count, replace=False)
    else:
        groups = rng.choice(grid.n_kv_heads, min(count, room), replace=False)
        places = groups * grid.group_size + rng.integers(0, grid.group_size, len(groups))
    drawn = norm_matched(replace(weights, layers={layer: weights.at(layer)}), seed)
    one, generator = drawn.at(layer), torch.Generator().manual_seed(seed)
    first, made = int(places[0]), {}
    for block in "qkvo":
        x = getattr(one, block)
        if x is None:
            continue
        x = x.clone()
        at = sorted({int(p) // grid.group_size for p in places} if block in "kv" else {int(p) for p in places})
        source = x[first // grid.group_size if block in "kv" else first].clone()
        for p in at:
            extra = torch.randn(source.shape, generator=generator).to(source)
            x[p] = source + noise * extra * source.norm() / extra.norm()
        made[block] = x
    return replace(drawn, layers={layer: replace(one, **made)}), tuple(sorted(int(p) for p in places))
