"""What tells that the passes of a loaded model are no longer what they were: its mark, and a pulse that costs next to nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headlab.engine.between import put_back
from headlab.engine.identity import told
from headlab.engine.model import ABILITIES, Lab
from headlab.engine.passes import hooked

_WORDS, _SMALL = 2048, 2**16
_PLAIN = (bool, int, float, str, type(None))
_OWN = frozenset(vars(nn.Module()))
"""What torch keeps in every module; what of it matters is looked at by itself."""


def pulse(lab: Lab) -> tuple[object, ...]:
    """What tells at next to no cost that :func:`mark` may differ: which tensors the modules hold and how often torch has
    written into them, hooks, modes, how attention is computed, the fingerprint, threads.  Buffers that passes change and get
    back are left out."""
    out: list[object] = [lab.fingerprint, *_ways(lab), *hooked(nn.modules.module, "_global_")]
    out += (how for slot in lab.slots for how in slot.proved.values())
    passing = {(id(module), name) for module, name, _ in lab.between}
    for module in lab.model.modules():
        out += (type(module), module.training, *hooked(module), id(module.__dict__.get("forward")))
        for name, value in chain(module._parameters.items(), module._buffers.items()):
            if value is not None and (id(module), name) not in passing:
                out += (id(value), 0 if value.is_inference() else value._version)
    return tuple(out)


def _ways(lab: Lab) -> tuple[object, ...]:
    """How passes are run: threads, precision, autocast and kernels of torch; abilities of the Lab."""
    kind, cuda = lab.device.type, torch.backends.cuda
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    kernels = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    can = (*(getattr(lab, name) for name in ABILITIES), lab.end, lab.can_ask_last, lab.first_position)
    return (torch.get_num_threads(), torch.get_float32_matmul_precision(), cast, *kernels, *can)


def foreign(lab: Lab) -> bool:
    """Whether code that is neither torch's, the model's nor accelerate's runs in a model's passes: a hook, another forward."""
    return bool(hooked(nn.modules.module, "_global_")) or any(
        hooked(m) or ("forward" in m.__dict__ and "_hf_hook" not in m.__dict__) for m in lab.model.modules()
    )


def _said(value: Any) -> object:
    """An attribute of a module in words that differ when it does; of what is no plain data, tensor or function: its class."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_said(one) for one in value]
    if isinstance(value, Mapping):
        return [(repr(k), _said(one)) for k, one in value.items()]
    if isinstance(value, Tensor):
        small = value.numel() <= _SMALL and not value.is_meta
        return str(value.dtype), tuple(value.shape), value.tolist() if small else (id(value), value._version)
    return (type(value).__qualname__, id(value)) if callable(value) else type(value).__qualname__


@torch.no_grad()
def mark(lab: Lab) -> bytes:
    """A digest of everything that activations of a prompt depend on, as the model is now.

    Of each weight and buffer the sums of its bytes, as words of 32 bits that never overflow, over rows and over columns: a
    third of the time of a cryptographic hash, and no single change, swap or change of sign of heads, rows or columns leaves them
    as they are.
    """
    put_back(lab.between)
    proved = [slot.proved for slot in lab.slots]
    digest = hashlib.sha256(repr((lab.fingerprint, lab.dtype, lab.device, _ways(lab), proved)).encode())
    digest.update(json.dumps(told(lab.model.config.to_dict()), sort_keys=True, default=repr).encode())
    for name, module in lab.model.named_modules():
        held = sorted((k, _said(v)) for k, v in module.__dict__.items() if k == "training" or k not in _OWN)
        made = (type(module).__qualname__, id(type(module).forward), id(module.__dict__.get("forward")))
        digest.update(repr((name, held, made, hooked(module))).encode())
    for name, value in chain(lab.model.named_parameters(), lab.model.named_buffers()):
        if value.is_meta:  # offloaded: its name and size
            digest.update(f"{name} {tuple(value.shape)} {value.dtype} elsewhere".encode())
            continue
        flat = value.detach().contiguous().view(-1).view(torch.uint8)
        whole = flat.numel() // (4 * _WORDS) * 4 * _WORDS
        if flat.data_ptr() % 4 or flat.storage_offset() % 4:
            whole = 0
        words: Any = flat[:whole].view(torch.int32).view(-1, _WORDS)
        if words.device.type == "cpu":
            sums = [words.numpy().sum(axis, dtype=np.int64) for axis in (0, 1)]
        else:
            sums = [words.sum(axis, dtype=torch.int64).cpu().numpy() for axis in (0, 1)]
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        for part in (*sums, flat[whole:].cpu().numpy()):
            digest.update(np.ascontiguousarray(part).data)
    return digest.digest()
