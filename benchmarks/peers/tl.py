"""TransformerLens: ``TransformerBridge.run_with_hooks`` on ``hook_z`` and ``hook_pattern``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.jobs import Job, PromptPair
from benchmarks.peers.common import Batch, Family, Lent


class Driven(Family):
    package = "transformer-lens"

    def __init__(self, folder: str, device: str, dtype: str) -> None:
        super().__init__(folder, device, dtype)
        self.bridge = TransformerBridge.boot_transformers(
            folder, hf_model=self.hf, tokenizer=self.tokenizer, device=device, dtype=getattr(torch, dtype)
        )

    def capture(self, job: Job, pair: PromptPair) -> Lent:
        kept: list[Tensor] = []
        name = f"blocks.{job.layer}.attn.hook_{job.site}"

        def keep(found: Tensor, hook: Any) -> Tensor:
            kept.append(found[0].clone())
            return found

        for ids in (pair.clean, pair.corrupted):
            self.bridge.run_with_hooks(torch.tensor([ids], device=self.device), fwd_hooks=[(name, keep)])
        if job.site == "pattern":
            return self.prepared(job, pair, None, (kept[0], kept[1]), None)
        return self.prepared(job, pair, kept[0], None, None)

    def _pass(self, batch: Batch, **kwargs: Any) -> Tensor:
        def hook(found: Tensor, hook: Any) -> Tensor:
            if batch.job.site == "pattern":
                return batch.lent.blend(batch.amounts)
            return batch.lent.write(found, batch.heads)

        name = f"blocks.{batch.job.layer}.attn.hook_{batch.job.site}"
        return self.bridge.run_with_hooks(batch.ids, fwd_hooks=[(name, hook)], **kwargs)[:, -1]

    def loop(self, batch: Batch) -> Tensor:
        return self._pass(batch)

    def rows(self, batch: Batch) -> Tensor:
        return self._pass(batch, logits_to_keep=1, use_cache=False)
