"""Everything of a loaded model that its numbers depend on, as hashes by name: what a key of stored work holds.

A fingerprint of the weights alone is not enough: another config (an activation, a rotary base), another tokenizer or
another end token gives other numbers from the same weights, and so may another kind of processor.
"""

from __future__ import annotations

import hashlib
import json
import platform
from typing import Any

import torch

from headlab.engine.model import Lab

_NAMES = frozenset({"_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "_commit_hash"})
"""Where a config came from and who wrote it: no number depends on them (the dtype stands by itself)."""
_OFTEN = 2**30
"""Weights of more bytes are hashed again only where torch counts a change."""


def identity(lab: Lab, whole: Any = None) -> dict[str, str]:
    """Name → hash or word, for a model as it is now.

    ``weights``: SHA-256 of every parameter and buffer, name, shape, dtype and bytes (of ``whole``, where the language
    model is a part of more: a thinking model's projector); ``config``, ``generation``, ``tokenizer``; ``dtype``,
    ``device`` with the kind of processor and the precision asked of its products.
    """
    config, generation = lab.model.config, getattr(lab.model, "generation_config", None)
    device = str(lab.device)
    if lab.device.type == "cuda":
        place = torch.cuda.get_device_name(lab.device)
    else:
        place = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "fingerprint": lab.fingerprint,
        "weights": weights_hash(lab, lab.model if whole is None else whole),
        "config": _hash(told(config.to_dict())),
        "generation": _hash(told(generation.to_dict()) if generation is not None else None),
        "tokenizer": tokenizer_hash(lab.tokenizer),
        "dtype": str(lab.dtype).removeprefix("torch."),
        "device": f"{device} ({place}, {torch.get_float32_matmul_precision()})",
    }


def short(lab: Lab, whole: Any = None) -> str:
    """The identity in sixteen letters, for the names of stored parts."""
    return _hash(identity(lab, whole))[:16]


def weights_hash(lab: Lab, model: Any) -> str:
    """SHA-256 of all weights as they are now."""
    state = {k: v for k, v in model.state_dict(keep_vars=True).items() if isinstance(v, torch.Tensor)}
    mark = [(k, v.data_ptr(), v._version) for k, v in sorted(state.items())]
    if lab.info.get("hashed weights", (None,))[0] == mark:
        return lab.info["hashed weights"][1]
    digest, size = hashlib.sha256(), 0
    for key, value in sorted(state.items()):
        flat = value.detach().contiguous().view(-1).cpu()
        digest.update(f"{key} {tuple(value.shape)} {value.dtype} ".encode())
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
        size += flat.numel() * flat.element_size()
    if size > _OFTEN:
        lab.info["hashed weights"] = (mark, digest.hexdigest())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what turns text into tokens and back: the whole fast tokenizer but for padding and truncation, which
    callers set and reset, and the special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    held: Any = {"vocabulary": tokenizer.get_vocab()} if backend is None else json.loads(backend.to_str())
    for passing in ("padding", "truncation"):
        held.pop(passing, None)
    ends = {n: getattr(tokenizer, f"{n}_token_id", None) for n in ("bos", "eos", "pad", "unk")}
    kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    return _hash([kind, held, ends, getattr(tokenizer, "chat_template", None)])


def told(config: Any) -> Any:
    """A config's settings without the names, inner configs included."""
    if isinstance(config, dict):
        return {str(k): told(v) for k, v in config.items() if k not in _NAMES}
    return [told(v) for v in config] if isinstance(config, list | tuple) else config


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=repr).encode()).hexdigest()
