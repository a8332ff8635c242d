"""Thinking models that learned nothing: the same config, random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM

from headlab.engine.checkpoint import quietly
from headlab.engine.model import open_model
from headlab.thoughts.loading import Thinker
from headlab.thoughts.model import Codi


def untrained(thinker: Thinker, seeds: int, first: int = 0) -> Iterator[Thinker]:
    """Models of the same config with fresh random weights, one after the other."""
    for seed in range(first, first + seeds):
        with torch.random.fork_rng(devices=[]), quietly():
            torch.manual_seed(seed)
            config = copy.deepcopy(thinker.lab.model.config)
            model = Codi(AutoModelForCausalLM.from_config(config, dtype=thinker.lab.dtype), thinker.spec)
        model = model.to(thinker.lab.device, thinker.lab.dtype).eval().requires_grad_(False)
        lab = open_model(model.codi, tokenizer=thinker.tokenizer)
        lab.name = f"{thinker.name}, untrained, seed {seed}"
        yield Thinker(lab, model, lab.name)
