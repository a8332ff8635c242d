"""A model of any size that takes no memory: a :class:`Lab` on the meta device, where everything up to the kernels runs.

Its heads are located, and its steps proved, on a small model of the same code, layers and heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from headlab.engine import attention
from headlab.engine.model import Geometry, Lab, Projection, open_model
from headlab.engine.selfcheck import prove

SMALL = {"intermediate_size": 8, "vocab_size": 64}
DEVICE = torch.device("meta")


def model_of(family: str, sizes: Mapping[str, Any], *, device: str, dtype: str, seed: int = 0) -> Any:
    """Random weights, made on the device: eager, frozen, in evaluation mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    with torch.device(device):
        config = AutoConfig.for_model(family, **sizes)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="eager")
    return model.eval().requires_grad_(False)


def on_meta(family: str, sizes: Mapping[str, Any], *, tokenizer: Any, dtype: str = "bfloat16") -> Lab:
    """The Lab of such a model, without its weights."""
    ends = {k: v for k, v in sizes.items() if k.endswith("_token_id")}
    small = {**sizes, **SMALL, "hidden_size": 4 * sizes["num_attention_heads"], **dict.fromkeys(ends)}
    lab = open_model(model_of(family, small, device="cpu", dtype="float32"), tokenizer=tokenizer)
    prove(lab)
    model = model_of(family, sizes, device="meta", dtype=dtype)
    model.set_attn_implementation(attention.NAME)
    at = {id(module): model.get_submodule(name) for name, module in lab.model.named_modules()}
    wide = model.config.hidden_size // lab.grid.n_heads
    attentions = {layer: at[id(module)] for layer, module in lab.attentions.items()}
    slots = [replace(slot) for slot in lab.slots]
    for slot in slots:
        attentions[slot.layer].__dict__["_headlab"] = slot
    return replace(
        lab, model=model, name=f"{family} on meta", head_dim=wide, d_model=model.config.hidden_size, slots=slots,
        attentions=attentions, layers=[at[id(block)] for block in lab.layers], geometry=_wider(lab.geometry, wide),
        device=DEVICE, dtype=getattr(torch, dtype), info={**lab.info, "positions": None},
    )  # fmt: skip


def _wider(geometry: Geometry, wide: int) -> Geometry:
    """The same heads of ``wide`` channels each."""

    def one(projection: Projection | None) -> Projection | None:
        if projection is None:
            return None
        channels = (tuple(range(h * wide, (h + 1) * wide)) for h in range(len(projection.channels)))
        return Projection(projection.path, tuple(channels))

    return replace(geometry, **{letter: one(getattr(geometry, letter)) for letter in "qkvo"})
