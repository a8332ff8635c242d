"""pyvene: interchange interventions on ``head_attention_value_output``.

The pattern job is not offered: pyvene 0.1.8 has no pattern component for Llama, and GPT-2's hooks a module that the
current transformers calls only in one rarely used setting.
"""

from __future__ import annotations

from typing import Any

import pyvene
import torch
from torch import Tensor

from benchmarks.peers.common import Batch, Hooked


class Driven(Hooked):
    package = "pyvene"

    def __init__(self, folder: str, device: str, dtype: str) -> None:
        super().__init__(folder, device, dtype)
        self.made: dict[tuple[int, str, int], Any] = {}

    def _model(self, batch: Batch, unit: str) -> Any:
        k = len(batch.job.heads[0])
        key = (batch.job.layer, unit, k)
        if key not in self.made:
            part = {"layer": batch.job.layer, "component": "head_attention_value_output", "unit": unit,
                    "max_number_of_units": k}  # fmt: skip
            config = pyvene.IntervenableConfig([part], intervention_types=pyvene.VanillaIntervention)
            self.made[key] = pyvene.IntervenableModel(config, model=self.hf)
        return self.made[key]

    def _units(self, batch: Batch) -> tuple[Any, Any]:
        """The model for this job, and the locations: heads, or heads at one position."""
        heads = [list(batch.job.heads[w]) for w in batch.worlds]
        if batch.job.name == "last":
            return self._model(batch, "h.pos"), [[heads, [list(batch.pair.dst)] * len(heads)]]
        return self._model(batch, "h"), [heads]

    def loop(self, batch: Batch) -> Tensor:
        """As the documentation has it: base and source, so that the source runs again each time."""
        model, units = self._units(batch)
        source = torch.tensor([batch.pair.clean], device=self.device).expand(len(batch.worlds), -1)
        _, out = model({"input_ids": batch.ids}, [{"input_ids": source}], {"sources->base": (units, units)})
        return out.logits[:, -1]

    def rows(self, batch: Batch) -> Tensor:
        """The source's activations given, so that only the base runs; logits of the last position only."""
        assert batch.lent.value is not None
        model, units = self._units(batch)
        heads = torch.tensor([batch.job.heads[w] for w in batch.worlds], device=self.device)
        value = batch.lent.value[list(batch.pair.dst)].transpose(0, 1)[heads]
        _, out = model(
            {"input_ids": batch.ids, "logits_to_keep": 1},
            unit_locations={"sources->base": (None, units)},
            source_representations={model.sorted_keys[0]: value},
            use_cache=False,
        )
        return out.logits[:, -1]
