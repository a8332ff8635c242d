"""Heads re-indexed exactly: every per-head weight moves with its head, and the function stays.

The order of heads is a convention of storage.  Whatever belongs to a head can change places together:

1. A :class:`Relabelling` says for each layer which old head stands at each new place.  Under grouped queries whole KV
   groups move, and query heads only inside their group, wherever it went.
2. Rows of W_Q, W_K, W_V with their biases and columns of W_O move along the channels that the Lab found by probing.
3. Whatever else is per head (norms that run over all heads, sinks) is found by probing too: entries of the attention
   module's other tensors that move one head's q, k, v or z, and no other's.
4. The moved model must give the logits it gave before; else it is put back and refused, because something of a head
   was left behind.

:func:`scrambled` is the published procedure under the same name, which permutes other axes: no re-indexing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headlab.engine.attention import Tape
from headlab.engine.checkpoint import ModelError
from headlab.engine.model import Lab, fingerprint, probe_ids
from headlab.engine.passes import forward
from headlab.engine.selfcheck import TOLERANCE
from headlab.heads import Grid, Head, Heads


@dataclass(frozen=True)
class Relabelling:
    """For each layer, which old head stands at each new place: ``orders[layer][new] == old``.

    Valid when each layer holds every head once and each KV group of the new order is one whole group of the old one.
    Raises ValueError otherwise.
    """

    grid: Grid
    orders: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", tuple(tuple(int(h) for h in order) for order in self.orders))
        n, size = self.grid.n_heads, self.grid.group_size
        if len(self.orders) != self.grid.n_layers:
            raise ValueError(f"a relabelling of this model has {self.grid.n_layers} layers, given {len(self.orders)}")
        for at, order in enumerate(self.orders):
            if sorted(order) != list(range(n)):
                raise ValueError(f"layer {at}: expected each of the heads 0 to {n - 1} once, given {list(order)}")
            for start in range(0, n, size):
                if len({self.grid.kv_group_of(h) for h in order[start : start + size]}) > 1:
                    raise ValueError(
                        f"layer {at}: heads {list(order[start : start + size])} would share a KV head, but belong to "
                        f"different KV groups; move whole groups of {size}, and heads inside them"
                    )

    @classmethod
    def identity(cls, grid: Grid) -> Relabelling:
        """Every head stays where it is."""
        return cls(grid, (tuple(range(grid.n_heads)),) * grid.n_layers)

    def kv_order(self, layer: int) -> tuple[int, ...]:
        """Which old KV head stands at each new place of a layer."""
        order = self.orders[self.grid.check_layer(layer)]
        return tuple(self.grid.kv_group_of(h) for h in order[:: self.grid.group_size])

    def inverse(self) -> Relabelling:
        """The relabelling that puts every head back."""
        return Relabelling(self.grid, tuple(_inverted(order) for order in self.orders))

    def then(self, other: Relabelling) -> Relabelling:
        """This one first, ``other`` on its result.  Raises ValueError when they are of different grids."""
        if other.grid != self.grid:
            raise ValueError(f"relabellings of different models cannot be joined: {self.grid} and {other.grid}")
        joined = (tuple(a[i] for i in b) for a, b in zip(self.orders, other.orders, strict=True))
        return Relabelling(self.grid, tuple(joined))

    def image(self, heads: Iterable[Head]) -> Heads:
        """Where these heads stand afterwards.  Raises ValueError for a head that does not exist."""
        return Heads(Head(h.layer, self.orders[h.layer].index(h.index)) for h in self.grid.check(heads))

    @property
    def moved(self) -> int:
        """How many heads, of all layers, leave their place."""
        return sum(new != old for order in self.orders for new, old in enumerate(order))


def _inverted(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def random_relabelling(
    grid: Grid, seed: int, *, layers: Sequence[int] | None = None, groups: bool = True
) -> Relabelling:
    """Uniform among the valid ones: KV groups change places (unless ``groups`` is False), and heads inside them.

    ``layers``: those to shuffle (default: all); heads of the others stay.
    """
    rng, size = random.Random(f"relabelling {seed}"), grid.group_size
    chosen = set(range(grid.n_layers)) if layers is None else {grid.check_layer(at) for at in layers}
    orders = []
    for at in range(grid.n_layers):
        kv = rng.sample(range(grid.n_kv_heads), grid.n_kv_heads) if groups else list(range(grid.n_kv_heads))
        order = tuple(g * size + i for g in kv for i in rng.sample(range(size), size))
        orders.append(order if at in chosen else tuple(range(grid.n_heads)))
    return Relabelling(grid, tuple(orders))


@dataclass(frozen=True)
class Move:
    """Entries of some tensors that change places.  ``axis``: along this axis of the one tensor; None: over all the
    tensors, flattened and laid end to end.  New entry i is old entry ``index[i]``."""

    names: tuple[str, ...]
    axis: int | None
    index: Int[Tensor, " entry"]


def moves(lab: Lab, relabelling: Relabelling) -> list[Move]:
    """What a relabelling moves in this model, by the names of its parameters and buffers.

    Raises ModelError where a layer that shall be relabelled has no heads, where a projection is not one (the Lab's
    geometry says why), or where a tensor belongs to some heads in a way that is not one block for each.
    """
    if relabelling.grid != lab.grid:
        raise ModelError(f"this relabelling is for {relabelling.grid}; {lab.name} has {lab.grid}")
    out: list[Move] = []
    probed: dict[tuple[Any, ...], list[tuple[tuple[str, ...], Tensor, str]]] = {}
    where = {id(m): name for name, m in lab.model.named_modules()}
    for at, order in enumerate(relabelling.orders):
        if order == tuple(range(lab.grid.n_heads)):
            continue
        module = lab.attention_of(at)
        path = where[id(module)]
        orders = {"q": order, "k": relabelling.kv_order(at), "v": relabelling.kv_order(at), "z": order}
        out += [Move((f"{path}.{m.names[0]}",), m.axis, m.index) for m in _of_projections(lab, module, orders)]
        others = _others(lab, module)
        alike = tuple((name, tuple(t.shape)) for name, t in others.items())
        if alike not in probed:
            probed[alike] = _owned(lab, at, others)
        for names, blocks, site in probed[alike]:
            index = torch.arange(sum(others[n].numel() for n in names), device=blocks.device)
            index[blocks.flatten()] = blocks[list(orders[site])].flatten()
            if not torch.equal(index, torch.arange(len(index), device=index.device)):
                out.append(Move(tuple(f"{path}.{n}" for n in names), None, index))
    return out


def _of_projections(lab: Lab, module: nn.Module, orders: Mapping[str, Sequence[int]]) -> list[Move]:
    """Rows of W_Q, W_K, W_V and their biases, columns of W_O; named below the attention module."""
    out: dict[tuple[str, int], Tensor] = {}
    for site in "qkvo":
        projection = getattr(lab.geometry, site)
        if projection is None:
            raise ModelError(
                f"the heads of {lab.name} cannot be re-indexed: it has no per-head W_{site.upper()} "
                f"({lab.geometry.why})"
            )
        linear: Any = module.get_submodule(projection.path)
        transposed = isinstance(linear, Conv1D)
        channels = torch.tensor(projection.channels, device=linear.weight.device)
        moved = channels[list(orders["z" if site == "o" else site])]
        keys = [(f"{projection.path}.weight", int((site == "o") != transposed))]
        if site != "o" and getattr(linear, "bias", None) is not None:
            keys.append((f"{projection.path}.bias", 0))
        for name, axis in keys:
            length = module.get_parameter(name).shape[axis]
            index = out.setdefault((name, axis), torch.arange(length, device=channels.device))
            index[channels.flatten()] = moved.flatten()
    return [Move((name,), axis, index) for (name, axis), index in out.items()]


def _others(lab: Lab, module: nn.Module) -> dict[str, Tensor]:
    """The attention module's tensors that are not in its projections."""
    paths = {getattr(lab.geometry, site).path for site in "qkvo"}
    named = [*module.named_parameters(), *module.named_buffers()]
    return {n: t for n, t in named if n.rpartition(".")[0] not in paths and t.is_floating_point() and t.numel()}


def _owned(lab: Lab, at: int, tensors: dict[str, Tensor]) -> list[tuple[tuple[str, ...], Tensor, str]]:
    """Blocks of entries that belong to one head each: (names of the tensors, [head, entry] flat indices, site).

    An entry belongs to head h when the gradient of a random weighting of its q, k, v or z is nonzero there; entries
    that belong to every head are shared and stay.  z counts only where q, k and v do not reach.
    """
    if not tensors:
        return []
    reached, names = _reached(lab, at, list(tensors.values())), tuple(tensors)
    inner = torch.stack([reached[s].any(0) for s in "qkv"]).any(0)
    out = []
    for site, rows in reached.items():
        own = rows & ~inner if site == "z" else rows
        own = own & ~own.all(0)
        counts = own.sum(1)
        if not counts.any():
            continue
        if own.sum(0).max() > 1 or (counts != counts[0]).any():
            raise ModelError(
                f"the heads of {lab.name} cannot be re-indexed: of {', '.join(names)} in layer {at}, some entries belong to "
                f"several heads but not to all ({site} of the heads reaches {counts.tolist()} entries)"
            )
        out.append((names, own.nonzero()[:, 1].reshape(len(own), -1), site))
    return out


def _reached(lab: Lab, at: int, tensors: Sequence[Tensor]) -> dict[str, Bool[Tensor, "head entry"]]:
    """Which entries of the tensors, laid end to end, move q, k, v and z of each head of a layer."""
    generator, out = torch.Generator().manual_seed(5), {}
    before = [t.requires_grad for t in tensors]
    try:
        for t in tensors:
            t.requires_grad_(True)
        with torch.enable_grad():
            with lab.tape(Tape(wanted=frozenset((at, s) for s in "qkvz"), grad=True)) as tape:
                forward(lab, probe_ids(lab.model, 5, seed=3))
            for site in "qkvz":
                x = tape.kept[at, site]
                x = x.transpose(1, 2) if site == "z" else x
                weights = torch.randn(x.shape, generator=generator).to(x) + 3.0
                rows = [_gradient((x[:, h] * weights[:, h]).sum(), tensors) for h in range(x.shape[1])]
                out[site] = torch.stack(rows) != 0
    finally:
        for t, wanted in zip(tensors, before, strict=True):
            t.requires_grad_(wanted)
    return out


def _gradient(value: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The gradient with respect to all tensors, flattened and laid end to end."""
    found: Sequence[Tensor | None] = [None] * len(tensors)
    if value.requires_grad:
        found = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(t).flatten() if g is None else g.flatten() for g, t in zip(found, tensors, strict=True)]
    )


@torch.no_grad()
def move(model: nn.Module, several: Iterable[Move], *, undo: bool = False) -> None:
    """Carry out moves in place, or take them back, bit for bit.  Raises ModelError for weights that are not loaded."""
    for one in several:
        tensors = [_tensor(model, name) for name in one.names]
        if any(t.is_meta for t in tensors):
            raise ModelError(f"{one.names[0]} is not in memory (offloaded); load the model whole to re-index its heads")
        index = one.index.argsort() if undo else one.index
        if one.axis is not None:
            tensors[0].copy_(tensors[0].index_select(one.axis, index.to(tensors[0].device)))
            continue
        flat = torch.cat([t.flatten() for t in tensors])[index.to(tensors[0].device)]
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last)


def reindex(lab: Lab, relabelling: Relabelling) -> list[Move]:
    """Re-index a model's heads in place; returns what moved (``move(lab.model, moved, undo=True)`` puts it back).

    Raises ModelError as :func:`moves` does, and, with the model as it was, when the moved model gives other logits:
    something of a head lies where no projection and no tensor of the attention module shows it.
    """
    moved = _moved(lab, relabelling)
    lab.fingerprint = fingerprint(lab.model)
    return moved


def _moved(lab: Lab, relabelling: Relabelling) -> list[Move]:
    """The moves, carried out and proved on a probe to leave the function."""
    moved = moves(lab, relabelling)
    ids = probe_ids(lab.model, 11, rows=2, seed=4)
    with torch.no_grad():
        wanted = forward(lab, ids, last=False).logits
        move(lab.model, moved)
        gap = (forward(lab, ids, last=False).logits - wanted).abs().max() / wanted.abs().max().clamp(min=1)
    limit = max(
        TOLERANCE[lab.dtype], TOLERANCE[torch.float32]
    )  # many families take norms and softmax in float32 always
    if not gap <= limit:
        move(lab.model, moved, undo=True)
        raise ModelError(
            f"the heads of {lab.name} cannot be re-indexed: with all their weights moved, logits change by {gap:.2g} of the "
            f"largest (allowed {limit:.0e}), so something else in it tells heads apart by their index"
        )
    return moved


@contextmanager
def reindexed(lab: Lab, relabelling: Relabelling) -> Iterator[Lab]:
    """The same Lab with its heads re-indexed inside the block; afterwards every weight is back, bit for bit.

    Raises ModelError as :func:`reindex` does.  When it misleads: sets of heads named by index mean other heads inside;
    use ``relabelling.image(heads)``.
    """
    before = lab.fingerprint
    moved = _moved(lab, relabelling)
    lab.fingerprint = _derived(before, f"re-indexed {relabelling.orders}")
    try:
        yield lab
    finally:
        move(lab.model, moved, undo=True)
        lab.fingerprint = before


def _derived(before: str, change: str) -> str:
    """The fingerprint of weights that were changed and will be put back: another one, without summing them again."""
    return hashlib.sha256(f"{before} {change}".encode()).hexdigest()


def published_permutation(n_heads: int, name: str, seed: int = 0) -> tuple[int, ...]:
    """The orders that the published script tried: ``identity``, ``swap`` (each even head with the odd one after it) or
    ``random``.  Raises ValueError for another name."""
    if name == "identity":
        return tuple(range(n_heads))
    if name == "swap":
        return tuple(h + 1 - 2 * (h % 2) if h < n_heads // 2 * 2 else h for h in range(n_heads))
    if name == "random":
        return tuple(random.Random(f"published {seed}").sample(range(n_heads), n_heads))
    raise ValueError(f"no published permutation {name!r}; expected identity, swap or random")


@contextmanager
@torch.no_grad()
def scrambled(lab: Lab, layer: int, order: Sequence[int]) -> Iterator[Lab]:
    """One layer permuted as the published script did it; afterwards every weight is back, bit for bit.

    W_Q [out, in] is viewed as (d_model, head, d_head) and W_O [out, in] as (head, d_head, d_model), each is indexed by
    ``order`` along the axis called head, and viewed back.  In a Llama that axis is a part of W_Q's *inputs* and of
    W_O's *outputs*: the layer reads and writes its residual stream in another order of channels.  K and V stay.
    Where W_Q lies in a fused matrix, its rows are taken out of it, head after head.

    Raises ValueError when ``order`` does not hold every head once, ModelError where there is no per-head W_Q or W_O.
    """
    n = lab.grid.n_heads
    if sorted(order) != list(range(n)):
        raise ValueError(f"expected each of the heads 0 to {n - 1} once, given {list(order)}")
    module, index = lab.attention_of(layer), torch.tensor(list(order))
    kept: list[tuple[Tensor, Tensor]] = []
    for site, shape, axis in (("q", (lab.d_model, n, -1), 1), ("o", (n, -1, lab.d_model), 0)):
        projection = getattr(lab.geometry, site)
        if projection is None:
            raise ModelError(f"{lab.name} has no per-head W_{site.upper()} to permute: {lab.geometry.why}")
        linear: Any = module.get_submodule(projection.path)
        kept.append((linear.weight, linear.weight.clone()))
        matrix = linear.weight.T if isinstance(linear, Conv1D) else linear.weight
        rows = torch.tensor(projection.channels).flatten() if site == "q" else torch.arange(len(matrix))
        taken = matrix[rows.to(matrix.device)]
        matrix[rows.to(matrix.device)] = (
            taken.reshape(shape).index_select(axis, index.to(matrix.device)).reshape(taken.shape)
        )
    before = lab.fingerprint
    lab.fingerprint = _derived(before, f"scrambled {layer} {tuple(order)}")
    try:
        yield lab
    finally:
        for weight, was in kept:
            weight.copy_(was)
        lab.fingerprint = before
