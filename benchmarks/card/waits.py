"""Does the loop of batches wait for the card?  On a card torch itself says so; elsewhere :class:`Watch` does.

What rows start from (captures, clean and corrupted runs) is there before the loop: every shard is run once, then again
under the guard.  Its result is fetched after the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from headlab.engine.model import Lab
from headlab.engine.run import plan_of
from headlab.engine.work import Worker
from headlab.interventions import World
from headlab.prompts import EncodedPair
from headlab.readouts import MARGIN, Readout

READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "unique_dim", "_unique2", "is_nonzero"}
"""Operations whose outcome, or its size, this process must know before it goes on."""


class Waits(RuntimeError):
    """Something waits for the device."""


class Watch(TorchFunctionMode):
    """Raises :class:`Waits` where a device would be waited for: a number or a size read off a tensor; a copy between this
    process and the device that does not go by itself; an index that has to be brought there, or counted, first.

    On a CPU only the reading of numbers can be told; on the meta device all of it.
    """

    def __enter__(self) -> Any:
        self.below = _Below()
        self.below.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.below.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func in {torch.tensor, torch.as_tensor} and torch.device(kwargs.get("device") or "cpu").type != "cpu"
        if made and not (isinstance(args[0], list) and not args[0]):  # of nothing there is nothing to wait for
            raise Waits("numbers of the host are made a tensor on the device")
        if func in {Tensor.__getitem__, Tensor.__setitem__} and args[0].device.type != "cpu":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(x, list) for x in index):
                raise Waits("a list of the host is an index on the device")
        return func(*args, **kwargs)


class _Below(TorchDispatchMode):
    """The part of :class:`Watch` that sees operations as torch calls them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # there, operations that are made of others come whole
            with self:
                if (found := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return found
        name = func.overloadpacket.__name__
        if name in READS or (name == "repeat_interleave" and "output_size" not in kwargs and len(args) == 1):
            raise Waits(f"{name} is read by the host")
        if name in {"_to_copy", "copy_"} and not (
            kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
        ):
            away = kwargs.get("device") if name == "_to_copy" else args[1].device
            if away is not None and torch.device(away).type != args[0].device.type:
                raise Waits(f"{name} between {args[0].device} and {away} waits")
        if name in {"index", "index_put_", "index_put"}:
            some = [x for x in args[1] if isinstance(x, Tensor)]
            if any(x.device.type != args[0].device.type or x.dtype == torch.bool for x in some):
                raise Waits(f"{name} by numbers of the host, or by a mask, waits")
        return func(*args, **kwargs)


@contextmanager
def guard(device: torch.device) -> Iterator[None]:
    """Inside, waiting for the device is an error."""
    if device.type != "cuda":
        with Watch():
            yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def batches(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    worlds: Sequence[World],
    readouts: Sequence[Readout] = (MARGIN,),
    **limits: Any,
) -> int:
    """How many batches of a sweep ran without waiting.  Raises what says that one waited."""
    plan = plan_of(lab, pairs, worlds, readouts=readouts, **{"tokens": None, "memory": None, **limits})
    worker = Worker(lab, pairs, worlds, plan, tokens=limits.get("tokens"), readouts=readouts)
    for shard in plan.shards:
        worker.batches(shard)
        with guard(lab.device):
            worker.batches(shard)
    return plan.passes
