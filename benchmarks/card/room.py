"""What the sections share: the device, the sizes, the time, and the models, made when they are first asked for."""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import models
from benchmarks.envs import ROOT
from benchmarks.jobs import Job, build
from benchmarks.models import MODELS, Model

BIG, TINY = "llama-8b-like", "llama-tiny"
sys.path.insert(0, str(ROOT / "tests" / "engine"))  # the laws, and the tiny models that they are tried on

MODELS_TINY = Model(
    "llama",
    models.llama(4, 64, 8, 2, 128, 512),
    2,
    3,
    length=12,
    about="Llama code, 4 layers, hidden 64, 8 heads (2 KV)",
)


@dataclass
class Room:
    """``device``: cpu or cuda; ``tiny``: small sizes everywhere; ``until``: when all of it must have ended."""

    device: str
    tiny: bool
    until: float

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    @property
    def name(self) -> str:
        return TINY if self.tiny else BIG

    @property
    def spec(self) -> Model:
        return MODELS_TINY if self.tiny else MODELS[BIG]

    @property
    def dtype(self) -> str:
        """bfloat16, which a CPU takes in small sizes only to try the script."""
        return "float32" if self.device == "cpu" else "bfloat16"

    @cached_property
    def tokenizer(self) -> Any:
        return models.words(self.spec.sizes["vocab_size"])

    @cached_property
    def plain(self) -> Any:
        """The model by itself, random weights, made on the device."""
        from benchmarks.card.shape import model_of

        return model_of(self.spec.family, self.spec.sizes, device=self.device, dtype=self.dtype)

    @cached_property
    def ours(self) -> Any:
        """headlab's way of running jobs, on a copy of the same weights."""
        return self.driven("headlab")

    @property
    def lab(self) -> Any:
        return self.ours.lab

    @cached_property
    def meta(self) -> Any:
        """The Lab of the same sizes in bfloat16, without weights."""
        from benchmarks.card.shape import on_meta

        return on_meta(self.spec.family, self.spec.sizes, tokenizer=self.tokenizer)

    def driven(self, family: str) -> Any:
        """A library's way of running jobs, on a copy of the same weights."""
        from benchmarks.peers import family as kind

        model = self.plain if family == "hf" else copy.deepcopy(self.plain)
        return kind(family)((model, self.tokenizer), self.device, self.dtype)

    def job(self, name: str, n: int | None = None) -> Job:
        """A job of the benchmarks on this model."""
        heads = self.spec.sizes["num_attention_heads"]
        with patch.dict(MODELS, {TINY: MODELS_TINY}):
            return build(name, self.name, n or (24 if self.tiny else 512), heads, self.tokenizer)

    def swept(self, name: str, n: int | None = None) -> tuple[list[Any], list[Any]]:
        """The same job as headlab's pairs and worlds."""
        job = self.job(name, n)
        pairs = [self.ours._encoded(i, pair) for i, pair in enumerate(job.pairs)]
        return pairs, [self.ours._world(job, w) for w in range(job.worlds)]

    def reset(self) -> None:
        """Hand back what torch keeps of the device's memory."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
