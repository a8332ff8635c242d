"""Sweeping z: the least of the model that has to run again.

For worlds that patch z at one layer L (and nothing else), in a model whose output projection takes z itself:

1. z enters the residual stream linearly, so the module's output is ``base + Σ_h c_h · (value − own)_h W_O(h)``: one
   small product for each row, no attention at layer L.
2. Nothing before the first edited position changes: those positions are left out; later layers find their keys and
   values in a cache filled from the corrupted run.
3. The layers are the model's own modules, called with the arguments that the model itself gave them.
4. In the last layer only the last position's query matters: the other positions stop once their keys and values
   are in the cache.
5. The model's own final norm and head run on the last position alone.

The result equals a full pass to rounding.  The load-time check compares the two; where they differ (a family that
does more between its layers), the full pass is used and the record says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from headlab.engine.attention import Stop, Tape
from headlab.engine.edits import Rows, Source
from headlab.engine.model import Lab
from headlab.engine.passes import forward, replaced, skipping
from headlab.interventions import World

LIMIT_BYTES = 512 * 2**20
"""Most memory that the per-head deltas of one length group may take; larger groups use the full pass."""


def applies(lab: Lab, world: World) -> bool:
    """Whether worlds of this shape can be resumed: one patch of z at one layer, on the prompt only."""
    if not (lab.can_resume and len(world.interventions) == 1):
        return False
    one = world.interventions[0]
    return one.site == "z" and one.write in {"patch", "noop", "mean", "resample"} and one.when == "prefill"


@dataclass
class Base:
    """What every row of a length group starts from, at one layer.

    ``residual`` ``output`` [pair, position, d_model] enter and leave the attention module of the layer in the
    corrupted run; ``delta`` [pair, head, position, d_model] is (value − own)·W_O(h), zero where nothing is written;
    ``start`` is the first written position; ``prefix[l]`` the keys and values of later layers before it;
    ``calls[l]`` the arguments that the model gives layer l.
    """

    layer: int
    length: int
    start: int
    residual: Tensor
    output: Tensor
    delta: Tensor
    prefix: dict[int, tuple[Tensor, Tensor]]
    calls: dict[int, tuple[Tensor, dict[str, Any]]]


def make_base(lab: Lab, layer: int, ids: Tensor, source: Source, *, tokens: int) -> Base | None:
    """Run the corrupted prompts once more and keep what rows start from.  None when the deltas would not fit."""
    n, length = ids.shape
    size = ids.numel() * lab.grid.n_heads * lab.d_model * torch.finfo(lab.dtype).bits // 8
    written = source.where.any(0).nonzero()
    if size > LIMIT_BYTES or source.value is None or len(written) == 0:
        return None
    last_layer = lab.grid.n_layers - 1
    start = length - 1 if layer == last_layer else int(written[0])
    later = [s.layer for s in lab.slots if s.layer > layer]
    wanted = frozenset({(layer, "z"), (layer, "out_block")} | {(at, s) for at in later for s in "kv"})
    parts: dict[Any, list[Tensor]] = {}
    step = max(1, tokens // length)
    for first in range(0, n, step):
        some = ids[first : first + step]
        with lab.tape(Tape(wanted=wanted)) as tape, _watching(lab, layer) as seen:
            forward(lab, some)
        for key, value in tape.kept.items():
            parts.setdefault(key, []).append(value[:, :, :start] if key[1] in "kv" else value[:, start:])
        parts.setdefault("residual", []).append(seen[layer][0][:, start:])
    whole = {key: torch.cat(values) for key, values in parts.items()}
    moved = (source.value[:, start:] - whole[layer, "z"]) * source.where[:, start:, None, None]
    delta = torch.einsum("pthd,hdm->phtm", moved, lab.weight("o", layer).to(moved.dtype))
    with lab.tape(Tape()), _watching(lab, layer) as seen:
        forward(lab, ids[:1], cache=True)
    prefix = {at: (whole[at, "k"], whole[at, "v"]) for at in later} if start else {}
    return Base(layer, length, start, whole["residual"], whole[layer, "out_block"], delta, prefix, dict(seen))


class _watching:
    """Keep the arguments of every layer from ``layer`` on, and where the hidden states stand in them."""

    def __init__(self, lab: Lab, layer: int) -> None:
        self.lab, self.layer = lab, layer
        self.handles: list[Any] = []

    def __enter__(self) -> dict[int, tuple[Tensor, dict[str, Any]]]:
        seen: dict[int, tuple[Tensor, dict[str, Any]]] = {}

        def keep(at: int) -> Any:
            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                names = list(inspect.signature(type(_module).forward).parameters)[1:]
                named = {**dict(zip(names, args, strict=False)), **kwargs}
                hidden = named.pop(names[0])
                seen[at] = (hidden, named)

            return hook

        for at in range(self.layer, self.lab.grid.n_layers):
            block = self.lab.layers[at]
            self.handles.append(block.register_forward_pre_hook(keep(at), with_kwargs=True))
        return seen

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def _sliced(value: Any, length: int, chosen: slice, cache: Cache | None) -> Any:
    """An argument of a layer, for the chosen positions only; the model's cache becomes ours."""
    if isinstance(value, Cache):
        return cache
    if isinstance(value, tuple):
        return tuple(_sliced(v, length, chosen, cache) for v in value)
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 4 and value.shape[2] == length:
        return value[:, :, chosen]
    if value.dim() in {2, 3} and value.shape[1] == length:
        return value[:, chosen]
    if value.dim() == 1 and value.shape[0] == length:
        return value[chosen]
    return value


def _call(lab: Lab, base: Base, at: int, hidden: Tensor, chosen: slice, cache: Cache | None) -> Tensor:
    """Layer ``at`` on the chosen positions, with the arguments the model gave it."""
    named = {k: _sliced(v, base.length, chosen, cache) for k, v in base.calls[at][1].items()}
    first, stop, _ = chosen.indices(base.length)
    mask: Any = named.get("attention_mask")
    if "attention_mask" in named and mask is None and first:
        keep = torch.ones(base.length, base.length, dtype=torch.bool, device=hidden.device).tril()
        named["attention_mask"] = keep[None, None, first:stop, :stop]
    elif isinstance(mask, Tensor) and mask.dim() == 4:
        named["attention_mask"] = mask[..., :stop]
    out = lab.layers[at](hidden, **named)
    return out[0] if isinstance(out, tuple) else out


def resume(lab: Lab, base: Base, rows: Rows, pairs: Sequence[int], last_ids: Tensor) -> Tensor:
    """Logits [row, 1, vocabulary] of the last position of every row."""
    output = torch.empty(len(pairs), *base.output.shape[1:], dtype=base.output.dtype, device=base.output.device)
    coefficient = rows.heads.to(base.delta.dtype) * rows.amount[:, None].to(base.delta.dtype)
    for pair, first, end in _runs(pairs):
        change = coefficient[first:end] @ base.delta[pair].flatten(1)
        torch.add(base.output[pair], change.unflatten(1, base.output.shape[1:]), out=output[first:end])
    n_layers, device = lab.grid.n_layers, last_ids.device
    cache = DynamicCache()
    for at, (k, v) in sorted(base.prefix.items()):
        cache.update(k[rows.pair], v[rows.pair], at)
    here = slice(base.start, base.length)
    with lab.tape(Tape(stop_at=n_layers - 1 if base.layer < n_layers - 1 else None)) as tape:
        hidden = _with_output(lab, base, base.residual[rows.pair], output, here)
        for at in range(base.layer + 1, n_layers - 1):
            hidden = _call(lab, base, at, hidden, here, cache)
        if base.layer < n_layers - 1:
            if base.start < base.length - 1:
                with suppress(Stop):
                    _call(lab, base, n_layers - 1, hidden[:, :-1], slice(base.start, base.length - 1), cache)
            tape.stop_at = None
            hidden = _call(lab, base, n_layers - 1, hidden[:, -1:], slice(base.length - 1, base.length), cache)
        with skipping(lab, n_layers, hidden[:, -1:]):
            return forward(lab, last_ids.to(device), start=base.length - 1).logits


def _runs(pairs: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of equal pairs: (pair, first row, end row)."""
    out: list[tuple[int, int, int]] = []
    for n, pair in enumerate(pairs):
        if out and out[-1][0] == pair:
            out[-1] = (pair, out[-1][1], n + 1)
        else:
            out.append((pair, n, n + 1))
    return out


def _with_output(lab: Lab, base: Base, residual: Tensor, output: Tensor, here: slice) -> Tensor:
    """The edited layer with its attention module's output given; raises when the module was not asked for it."""
    module = lab.attentions[base.layer]
    asked = []

    def given(*_args: Any, **_kwargs: Any) -> tuple[Tensor, None]:
        asked.append(1)
        return output, None

    with replaced(module, given):
        hidden = _call(lab, base, base.layer, residual, here, None)
    if len(asked) != 1:
        raise RuntimeError(f"the edit at layer {base.layer} took hold {len(asked)} times instead of once")
    return hidden
