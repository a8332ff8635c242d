"""Plain Hugging Face: hooks on the model's own output projection, as papers' code has them.  The reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from benchmarks import models
from benchmarks.jobs import Job
from benchmarks.peers.common import Batch, Hooked

# the argument and the output that hold a cache: transformers 5.24 renamed it
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class Driven(Hooked):
    package = "transformers"

    @contextmanager
    def _hooks(self, batch: Batch, last: bool = False) -> Iterator[None]:
        """The batch's edit on the output projection; for a pattern z is made anew from v of the same pass."""
        at = models.anatomy(self.config, batch.job.layer)
        value: list[Tensor] = []

        def z(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            if batch.job.site == "pattern":
                return (batch.z_from(value.pop()),)
            return (batch.edit(args[0]),)

        def v(_module: Any, _args: Any, output: Tensor) -> None:
            value.append(models.value_of(self.config, output))

        handles: list[Any] = [self.hf.get_submodule(at.out).register_forward_pre_hook(z)]
        if batch.job.site == "pattern":
            handles.append(self.hf.get_submodule(at.value).register_forward_hook(v))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def loop(self, batch: Batch) -> Tensor:
        """As scripts do it: the model called as it comes, logits of all positions."""
        with self._hooks(batch):
            return self.hf(batch.ids).logits[:, -1]

    def rows(self, batch: Batch) -> Tensor:
        with self._hooks(batch):
            return self.hf(batch.ids, use_cache=False, logits_to_keep=1).logits[:, -1]

    def prepare(self, job: Job, method: str, indices: Sequence[int]) -> None:
        super().prepare(job, method, indices)
        if method == "hf-rows-cached":
            for pair in {job.split(i)[0] for i in indices}:
                lent = self.lent[job.name, pair]
                with torch.no_grad():
                    past = self.hf(lent.ids[:, :-1], use_cache=True)[CACHE]
                self.lent[job.name, pair] = replace(lent, past=[(x.keys, x.values) for x in past.layers])

    def rows_cached(self, batch: Batch) -> Tensor:
        """Only the last token runs; keys and values of the others come from one run of the corrupted prompt."""
        lent, n = batch.lent, len(batch.worlds)
        assert lent.value is not None and lent.where is not None
        cache = DynamicCache()
        for layer, (k, v) in enumerate(lent.past):
            cache.update(k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1), layer)
        last = replace(lent, ids=lent.ids[:, -1:], value=lent.value[-1:], where=lent.where[-1:])
        with self._hooks(replace(batch, lent=last)):
            ids = batch.ids[:, -1:]
            return self.hf(ids, use_cache=True, **{CACHE: cache}).logits[:, -1]
