"""THE attention function.

One function, registered under one name with transformers' ``AttentionInterface``, and its mask function with
``AttentionMaskInterface`` (without the second the causal mask silently vanishes).  The model's own code computes q,
k and v and projects what this function returns; here activations are read and written:

1. Nobody looks inside: the call goes to sdpa, or to the model's own eager function where sdpa is not equal to it.
2. q, k or v is edited, then 1.
3. A pattern is read or written: the model's own eager function gives the pattern (its soft-caps, sinks, windows and
   scaling stay its own), the pattern is edited, and z = pattern · v.  Where the function does more to z than that
   (Granite's sinks scale it), the pattern is what the function does to values: its z for values that are unit vectors.
4. Scores are read or written: scores are recomputed here (q·kᵀ·scaling, soft-cap), allowed only where the load-time
   check found them equal to what the model's own function uses.

State hangs on each attention module (``_headlab``), never on the registry, so several models may be loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "headlab"
Edit = Callable[[Tensor], Tensor]


class Stop(Exception):
    """Raised inside a pass that need not go further; whoever set ``Tape.stop_at`` catches it."""


@dataclass
class Tape:
    """What to read and write during passes, and what was read and how often each edit fired.

    ``edits[(layer, site)]`` are applied in order; ``wanted`` are the (layer, site) pairs to keep in ``kept``.
    ``stop_at``: raise :class:`Stop` before this layer's attention is computed (its K/V are in the cache by then);
    ``stop_after``: once this site has been touched.
    """

    edits: dict[tuple[int, str], list[Edit]] = field(default_factory=dict)
    wanted: frozenset[tuple[int, str]] = frozenset()
    kept: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    fired: dict[tuple[int, str], int] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    grad: bool = False
    stop_at: int | None = None
    stop_after: tuple[int, str] | None = None

    def touch(self, layer: int, site: str, value: Tensor) -> Tensor:
        """Apply the edits of a site, then keep the value if it is wanted."""
        for edit in self.edits.get((layer, site), ()):
            value = edit(value)
            self.fired[layer, site] = self.fired.get((layer, site), 0) + 1
        if (layer, site) in self.wanted:
            self.kept[layer, site] = value if self.grad else value.detach()
        if self.stop_after == (layer, site):
            raise Stop
        return value

    def asks(self, layer: int, *sites: str) -> bool:
        """Whether any of these sites is read or written in this layer."""
        return any((layer, s) in self.wanted or (layer, s) in self.edits for s in sites)


@dataclass
class Slot:
    """One attention module's place in the model: its layer, how it may be delegated, and the tape now running.

    ``scores``, ``pattern``: the site is offered (the load-time check says so); ``unit``: the pattern is read off as z
    for values that are unit vectors.
    """

    layer: int
    sdpa: bool = False
    scores: bool = False
    pattern: bool = True
    unit: bool = False
    tape: Tape | None = None

    @property
    def proved(self) -> dict[str, bool]:
        """How this module's attention is computed, as the load-time check found it."""
        return {"sdpa": self.sdpa, "scores": self.scores, "pattern": self.pattern, "unit": self.unit}


_met: list[torch.nn.Module] | None = None
_TAKING = Lock()


@contextmanager
def meeting():
    """Collect the modules that call :func:`attend`, in order."""
    global _met
    _met = met = []
    try:
        yield met
    finally:
        _met = None


def slot_of(module: torch.nn.Module) -> Slot | None:
    return module.__dict__.get("_headlab")


def eager_function(module: torch.nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The eager attention function in the file that defines this module's class."""
    for cls in type(module).__mro__:
        found = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if found is not None:
            return found
    return None


def repeat_kv(x: Tensor, n_heads: int) -> Tensor:
    """[row, KV head, position, d] → [row, head, position, d], each KV head repeated for its group."""
    groups = n_heads // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def additive(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor:
    """The mask as numbers to add to scores.  None means causal (a lone query sees every key)."""
    low = torch.finfo(q.dtype).min
    if mask is None:
        n_q, n_k = q.shape[-2], k.shape[-2]
        keep = torch.ones(n_q, n_k, dtype=torch.bool, device=q.device).tril(n_k - n_q)[None, None]
    elif mask.dtype != torch.bool:
        return mask
    else:
        keep = mask
    return torch.where(keep, torch.zeros((), dtype=q.dtype, device=q.device), low)


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The function transformers calls: q [row, head, query, d], k v [row, KV head, key, d] → z [row, query, head, d]."""
    attention_mask = _selected(module, query, key, attention_mask, kwargs)
    slot = slot_of(module)
    tape = slot.tape if slot else None
    if _met is not None:
        _met.append(module)
    if slot is None or tape is None:
        return _delegate(module, slot, query, key, value, attention_mask, kwargs)
    layer = slot.layer
    tape.calls.append(layer)
    if tape.stop_at == layer:
        raise Stop
    query = tape.touch(layer, "q", query)
    key = tape.touch(layer, "k", key)
    value = tape.touch(layer, "v", value)
    if tape.asks(layer, "scores"):
        z, pattern = _through_scores(slot, tape, query, key, value, attention_mask, kwargs)
    elif tape.asks(layer, "pattern"):
        pattern = _pattern(module, slot, query, key, value, attention_mask, kwargs)
        pattern = tape.touch(layer, "pattern", pattern)
        z = (pattern @ repeat_kv(value, query.shape[1])).transpose(1, 2).contiguous()
    else:
        z, pattern = _delegate(module, slot, query, key, value, attention_mask, kwargs)
    z = tape.touch(layer, "z", z)
    return z, pattern


def _selected(
    module: torch.nn.Module, q: Tensor, k: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor | None:
    """The mask without the keys that an indexer did not choose: families with one write that into the mask for "eager"
    and "sdpa" alone, and hand their choice ``indices`` [row, query, chosen] or ``block_indices`` to other functions."""
    chosen, blocks = kwargs.get("indices"), kwargs.get("block_indices")
    if blocks is not None:
        positions = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device).expand(q.shape[0], -1)
        indexer: Any = module.indexer
        return indexer.build_block_mask(blocks, mask, k.shape[2], q.dtype, q.device, positions)
    if chosen is None:
        return mask
    keep = torch.zeros(*chosen.shape[:2], k.shape[2], dtype=torch.bool, device=q.device)
    keep = keep.scatter(-1, chosen.long(), True)[:, None]
    return additive(mask, q, k).masked_fill(~keep, torch.finfo(q.dtype).min)


def _pattern(
    module: torch.nn.Module, slot: Slot, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor:
    """The pattern [row, head, query, key] with which z = pattern · v."""
    if not slot.pattern:
        raise RuntimeError("the site 'pattern' is not available for this model: its z is not pattern times values")
    if not slot.unit:
        return _eager(module, q, k, v, mask, kwargs)[1]
    unit = torch.eye(k.shape[2], dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)
    return _eager(module, q, k, unit, mask, kwargs)[0].transpose(1, 2)


def _eager(
    module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    function = eager_function(module)
    if function is None:
        raise RuntimeError(f"{type(module).__name__} has no eager attention function beside it")
    return function(module, q, k, v, additive(mask, q, k), **kwargs)


def _delegate(
    module: torch.nn.Module,
    slot: Slot | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    if slot is not None and slot.sdpa:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, q, k, v, mask, **kwargs)
    return _eager(module, q, k, v, mask, kwargs)


def raw_scores(q: Tensor, k: Tensor, scaling: float | None, softcap: float | None) -> Tensor:
    """``softcap·tanh(q·kᵀ·scaling / softcap)``, [row, head, query, key], before the mask."""
    scores = q @ repeat_kv(k, q.shape[1]).transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _through_scores(
    slot: Slot, tape: Tape, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    if not slot.scores:
        raise RuntimeError("the site 'scores' is not available for this model: its pattern is not softmax(scores)")
    scores = tape.touch(slot.layer, "scores", raw_scores(q, k, kwargs.get("scaling"), kwargs.get("softcap")))
    pattern = torch.softmax((scores + additive(mask, q, k)).float(), dim=-1).to(q.dtype)
    pattern = tape.touch(slot.layer, "pattern", pattern)
    return (pattern @ repeat_kv(v, q.shape[1])).transpose(1, 2).contiguous(), pattern


@contextmanager
def running(slots: list[Slot], tape: Tape):
    """Run passes under a tape; whatever happens, no slot keeps it."""
    with _TAKING:  # of two threads one is refused, and neither reads under the edits of the other
        if any(s.tape is not None for s in slots):
            raise RuntimeError(
                "this model is already running a sweep; sweeps on one model cannot be nested, nor run in threads"
            )
        for slot in slots:
            slot.tape = tape
    try:
        yield tape
    finally:
        for slot in slots:
            slot.tape = None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
