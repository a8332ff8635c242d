"""nnsight: traces that read and write the output projection's input; layers below the edit may be skipped."""

from __future__ import annotations

from typing import Any

import nnsight
import torch
from torch import Tensor

from benchmarks import models
from benchmarks.peers.common import Batch, Hooked


class Driven(Hooked):
    package = "nnsight"

    def __init__(self, folder: Any, device: str, dtype: str) -> None:
        super().__init__(folder, device, dtype)
        self.traced = nnsight.TransformersModel(self.hf, tokenizer=self.tokenizer, task="text-generation")

    def _part(self, path: str) -> Any:
        found: Any = self.traced
        for name in path.split("."):
            found = found[int(name)] if name.isdigit() else getattr(found, name)
        return found

    def _parts(self, batch: Batch) -> tuple[Any, Any, Any]:
        at = models.anatomy(self.config, batch.job.layer)
        return self._part(at.out), self._part(at.value), self._part(at.head)

    def _z(self, batch: Batch, projection: Any, value: Any) -> Tensor:
        """What is written; called inside a trace."""
        if batch.job.site == "pattern":
            return batch.z_from(models.value_of(self.config, value.output))
        return batch.edit(projection.input)

    def loop(self, batch: Batch) -> Tensor:
        projection, value, head = self._parts(batch)
        with self.traced.trace(batch.ids):
            projection.input = self._z(batch, projection, value)
            logits = head.output.save()
        return logits[:, -1]

    def invokes(self, batch: Batch) -> Tensor:
        """The documented way to batch: one invoke for each row, combined into one pass."""
        projection, value, head = self._parts(batch)
        singles = [Batch(batch.job, batch.lent, batch.pair, [world]) for world in batch.worlds]
        with self.traced.trace(logits_to_keep=1, use_cache=False) as tracer:
            found = nnsight.save([])
            for single in singles:
                with tracer.invoke(single.ids):
                    projection.input = self._z(single, projection, value)
                    found.append(head.output)
        return torch.cat(list(found))[:, -1]

    def rows_skip(self, batch: Batch) -> Tensor:
        """One trace on the whole batch; every layer below the edit returns what enters the edited layer."""
        assert batch.lent.entry is not None
        projection, value, head = self._parts(batch)
        below = [self._part(models.anatomy(self.config, n).block) for n in range(batch.job.layer)]
        entry = batch.lent.entry.expand(len(batch.worlds), -1, -1)
        with self.traced.trace(batch.ids, logits_to_keep=1, use_cache=False):
            for block in below:
                block.skip(entry)
            projection.input = self._z(batch, projection, value)
            logits = head.output.save()
        return logits[:, -1]
