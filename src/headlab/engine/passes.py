"""One pass through a model: explicit positions, no padding, layers left out, logits only where they are read."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import masking_utils

from headlab.engine.attention import Tape
from headlab.engine.between import put_back
from headlab.engine.model import Lab
from headlab.prompts import Encoded


class EngineError(RuntimeError):
    """A sweep that did not do what was planned."""


def by_length(encoded: Sequence[Encoded]) -> dict[int, list[int]]:
    """Which prompts have how many tokens."""
    out: dict[int, list[int]] = {}
    for i, e in enumerate(encoded):
        out.setdefault(len(e.ids), []).append(i)
    return out


def tensor_of(encoded: Sequence[Encoded], device: Any) -> Tensor:
    """Prompts of one length as ids [prompt, position]."""
    return torch.tensor([e.ids for e in encoded], device=device)


def forward(lab: Lab, ids: Tensor, *, past: Any = None, start: int = 0, cache: bool = False, last: bool = True) -> Any:
    """One pass over ``ids`` [row, position] of equal length: nothing is padded and positions are explicit (a model that
    begins elsewhere than at 0 counts its prompt itself).

    Without ``past`` the model begins anew: what it kept of other prompts is put back.
    """
    if past is None and lab.between:
        put_back(lab.between)
    accepted = _accepted(type(lab.model))
    extra: dict[str, Any] = {}
    if "position_ids" in accepted and (lab.first_position == 0 or (lab.first_position and past is not None)):
        first = start + lab.first_position
        extra["position_ids"] = torch.arange(first, first + ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
    if last and lab.can_ask_last:
        extra["logits_to_keep"] = 1
    with consecutive():
        return lab.model(input_ids=ids, use_cache=cache, **given(lab.model, past), **extra)


_ours, _packed = threading.local(), getattr(masking_utils, "find_packed_sequence_indices", None)


@contextmanager
def consecutive() -> Iterator[None]:
    """Passes inside have one prompt in each row, its positions in order: transformers need not ask the device, and wait
    for its answer, whether several prompts are packed into a row."""
    _ours.inside = getattr(_ours, "inside", 0) + 1
    try:
        yield
    finally:
        _ours.inside -= 1


def _unpacked(position_ids: Tensor) -> Tensor | None:
    assert _packed is not None
    return None if getattr(_ours, "inside", 0) else _packed(position_ids)


if _packed is not None:
    masking_utils.find_packed_sequence_indices = _unpacked


def plain(lab: Lab, ids: Tensor) -> Tensor:
    """The logits [row, position, vocabulary] that the model gives by itself: nothing but the tokens."""
    put_back(lab.between)
    return lab.model(input_ids=ids, use_cache=False).logits


def given(model: nn.Module, cache: Any) -> dict[str, Any]:
    """A cache under the name by which this model takes it: ``past_key_values`` became ``cache`` in transformers 5.24."""
    name = "cache" if "cache" in _accepted(type(model)) else "past_key_values"
    return {} if cache is None else {name: cache}


def cache_of(out: Any) -> Any:
    """The cache that a pass returned, under either name."""
    return out["cache"] if "cache" in out.keys() else out.past_key_values  # noqa: SIM118 - an output's `in` warns


@cache
def _accepted(cls: type) -> frozenset[str]:
    return frozenset(inspect.signature(cls.forward).parameters)


@contextmanager
def replaced(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """``module.forward`` is ``function`` inside; what stood there before (also another tool's wrapper) comes back."""
    before = module.__dict__.get("forward")
    module.forward = function
    try:
        yield
    finally:
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = before


@contextmanager
def skipping(lab: Lab, layer: int, residual: Tensor | None) -> Iterator[None]:
    """Layers below ``layer`` do nothing; the one before it returns ``residual``.  Restored whatever happens."""
    if residual is None or layer == 0:
        yield
        return

    def nothing(hidden: Tensor | None = None, *_args: Any, **kwargs: Any) -> Tensor:
        return kwargs["hidden_states"] if hidden is None else hidden

    def cached(*_args: Any, **_kwargs: Any) -> Tensor:
        return residual

    with ExitStack() as stack:
        for block in lab.layers[: layer - 1]:
            stack.enter_context(replaced(block, nothing))
        stack.enter_context(replaced(lab.layers[layer - 1], cached))
        yield


def logits_of(lab: Lab, hidden: Tensor, ids: Tensor, start: int) -> Tensor:
    """Logits [row, position, vocabulary] of what leaves the last layer at the positions of ``ids`` [row, position], the
    first of which is ``start`` of the prompt, by the model's own norm and head."""
    if lab.can_end and alone(lab):
        for name in lab.end:
            hidden = lab.model.get_submodule(name)(hidden)
        return hidden
    with lab.tape(Tape()), skipping(lab, lab.grid.n_layers, hidden):
        return forward(lab, ids, start=start, last=False).logits


def ending(lab: Lab, ids: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """The names of the modules without parts that run after the last layer, in order, and the logits of the pass."""
    inside, ran = {module for block in lab.layers for module in block.modules()}, []

    def ends(module: nn.Module, _args: object, _out: object) -> None:
        if module is lab.layers[-1]:
            ran.clear()
        elif module not in inside and not any(module.children()):
            ran.append(module)

    with nn.modules.module.register_module_forward_hook(ends):
        logits = forward(lab, ids, last=False).logits
    names = {module: name for name, module in lab.model.named_modules()}
    return tuple(names[module] for module in ran), logits


def alone(lab: Lab) -> bool:
    """Whether nobody's code stands around the modules that end the model: a hook, another forward."""
    above = {name[: at.start()] for name in lab.end for at in re.finditer(r"\.", name)} | {""}
    return not hooked(nn.modules.module, "_global_") and not any(
        hooked(module) or "forward" in module.__dict__ for module in map(lab.model.get_submodule, above)
    )


def hooked(of: object, before: str = "_") -> tuple[object, ...]:
    """The hooks of a module's forward by their numbers, or those of all modules."""
    return (*getattr(of, f"{before}forward_hooks"), *getattr(of, f"{before}forward_pre_hooks"))


@contextmanager
def reading(lab: Lab, vocabulary: Tensor | None) -> Iterator[None]:
    """Logits inside are those of these vocabulary entries only, in their order (None: of all).

    The model's head is a linear map, so the others need not be computed; what the model does to logits afterwards
    (soft-cap, scale) stays its own.  The load-time check compares the two (``lab.can_narrow``).
    """
    head = lab.model.get_output_embeddings()
    if vocabulary is None or head is None:
        yield
        return
    weight = head.weight[vocabulary]
    bias = None if getattr(head, "bias", None) is None else head.bias[vocabulary]
    with replaced(head, lambda hidden: nn.functional.linear(hidden, weight, bias)):
        yield
