"""What a model keeps from one pass to the next outside its cache: found at load, put back before every new prompt.

Dynamic rotary frequencies grow with the longest prompt seen, recurrent blocks keep their last state: the same sweep
would give other numbers after another one.  The kind is looked for, not the names: any small buffer or plain attribute
of any module that a pass, or its position encoding asked for positions far beyond the model's length, has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

Kept = list[tuple[nn.Module, str, Any]]
"""(module, name of the buffer or attribute, its value before any pass)"""

_LARGE = 2**16


def snapshot(model: nn.Module) -> Kept:
    """Every small buffer and plain attribute as it is before a first pass."""
    _turn(model, 1)  # dynamic frequencies of a model that has run already go back to the short ones
    out: Kept = []
    for module in model.modules():
        for name, value in [*module._buffers.items(), *module.__dict__.items()]:
            if isinstance(value, Tensor) and value.numel() <= _LARGE:
                out.append((module, name, value.detach().clone()))
            elif value is None or isinstance(value, bool | int | float):
                out.append((module, name, value))
    return out


def changed(model: nn.Module, before: Kept) -> Kept:
    """What of ``before`` is no longer so, now that passes have run; the far positions are asked for here."""
    _turn(model, 8 * max([0, *(m.max_seq_len_cached for m in _rotary(model) if _whole(m))]) or 2**20)
    found = [(m, name, value) for m, name, value in before if not _same(_get(m, name), value)]
    put_back(found)
    return found


def put_back(kept: Kept) -> None:
    """The state before any pass."""
    with torch.inference_mode(False):  # the model's own code may write into them outside of it
        for module, name, value in kept:
            setattr(module, name, value.clone() if isinstance(value, Tensor) else value)


def turning_point(model: nn.Module) -> int | None:
    """The length beyond which every position is encoded otherwise (longrope), or None.

    Keys in a cache filled before it do not fit queries made after it.
    """
    found: list[int] = []
    for module in _rotary(model):
        given = getattr(module.config, "rope_parameters", None) or {}
        for one in (given, *(v for v in given.values() if isinstance(v, dict))):
            if one.get("rope_type") == "longrope" and isinstance(one.get("original_max_position_embeddings"), int):
                found.append(one["original_max_position_embeddings"])
    return min(found, default=None)


def _rotary(model: nn.Module) -> Iterator[Any]:
    return (m for m in model.modules() if hasattr(m, "rope_type") and hasattr(m, "config"))


def _whole(module: Any) -> bool:
    return isinstance(getattr(module, "max_seq_len_cached", None), int)


@torch.no_grad()
def _turn(model: nn.Module, position: int) -> None:
    """Ask every position encoding for one position."""
    for module in _rotary(model):
        device = next((b.device for b in module.buffers()), torch.device("cpu"))
        ids, kinds = torch.tensor([[position]], device=device), getattr(module, "rope_type", None)
        for kind in kinds if isinstance(kinds, dict) else (None,):
            with suppress(Exception):  # an encoding that takes other arguments keeps nothing by this road
                module(torch.zeros(1, 1, 1, device=device), ids, **({} if kind is None else {"layer_type": kind}))


def _get(module: nn.Module, name: str) -> Any:
    return module._buffers[name] if name in module._buffers else module.__dict__.get(name)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b or a != a)
