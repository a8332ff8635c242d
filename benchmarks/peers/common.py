"""What the methods share: what the clean run lends to a prompt pair, and what one batch of rows writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import models
from benchmarks.jobs import Job, PromptPair, chunks


@dataclass(frozen=True)
class Lent:
    """What one pair's clean run lends, captured once and outside the timing.

    ``value`` [position, head, d] stands at corrupted positions, ``where`` [position] says which are written; ``clean``
    and ``corrupted`` are patterns [head, query, key]; ``entry`` [position, d_model] is what enters the edited layer.
    """

    ids: Tensor
    value: Tensor | None = None
    where: Tensor | None = None
    clean: Tensor | None = None
    corrupted: Tensor | None = None
    entry: Tensor | None = None
    past: Any = None

    def write(self, z: Tensor, heads: Tensor) -> Tensor:
        """z [row, position, head, d] with the chosen heads, [row, head], of the written positions replaced."""
        assert self.value is not None and self.where is not None
        return torch.where(self.where[None, :, None, None] & heads[:, None, :, None], self.value, z)

    def blend(self, amounts: Tensor) -> Tensor:
        """(1 − a)·corrupted + a·clean, [row, head, query, key]."""
        assert self.clean is not None and self.corrupted is not None
        a = amounts[:, None, None, None]
        return (1 - a) * self.corrupted + a * self.clean


@dataclass(frozen=True)
class Batch:
    """Rows of one pair: their token ids and, row by row, the heads or amounts of their worlds."""

    job: Job
    lent: Lent
    pair: PromptPair
    worlds: list[int]

    @property
    def ids(self) -> Tensor:
        return self.lent.ids.expand(len(self.worlds), -1)

    @property
    def heads(self) -> Tensor:
        """[row, head], True where a head is written."""
        out = torch.zeros(len(self.worlds), self.job.n_heads, dtype=torch.bool)
        for row, world in enumerate(self.worlds):
            out[row, list(self.job.heads[world])] = True
        return out.to(self.lent.ids.device)

    @property
    def amounts(self) -> Tensor:
        assert self.lent.clean is not None
        return torch.tensor([self.job.amounts[w] for w in self.worlds]).to(self.lent.clean)

    def z_from(self, value: Tensor) -> Tensor:
        """Flattened z [row, position, head · d] of the blended pattern over v [row, KV head, position, d]."""
        pattern = self.lent.blend(self.amounts)
        value = value.repeat_interleave(pattern.shape[1] // value.shape[1], dim=1)
        return (pattern @ value).transpose(1, 2).flatten(2)

    def edit(self, flat: Tensor) -> Tensor:
        """Flattened z with this batch's heads written."""
        return self.lent.write(flat.unflatten(2, (self.job.n_heads, -1)), self.heads).flatten(2)


class Family(ABC):
    """A library with a model of its own.  A method is the member named by what follows the library's name."""

    package: str

    def __init__(self, folder: Any, device: str, dtype: str) -> None:
        self.folder, self.device = folder, device
        self.hf, self.tokenizer = models.load(folder, device=device, dtype=dtype)
        self.config = self.hf.config
        self.lent: dict[tuple[str, int], Lent] = {}

    def prepare(self, job: Job, method: str, indices: Sequence[int]) -> None:
        """Capture what the interventions need; never timed."""
        for pair in {job.split(i)[0]: None for i in indices}:
            if (job.name, pair) not in self.lent:
                with torch.no_grad():
                    self.lent[job.name, pair] = self.capture(job, job.pairs[pair])

    def run(self, job: Job, method: str, indices: Sequence[int], rows: int) -> list[float]:
        """The logit difference of every intervention, in order."""
        one_pass: Callable[[Batch], Tensor] = getattr(self, method.partition("-")[2].replace("-", "_"))
        out: list[float] = []
        for pair, worlds in chunks(job, indices, rows):
            p = job.pairs[pair]
            with torch.no_grad():
                logits = one_pass(Batch(job, self.lent[job.name, pair], p, worlds))
                out += (logits[:, p.answer].float() - logits[:, p.wrong].float()).tolist()
        return out

    def prepared(self, job: Job, pair: PromptPair, z: Tensor | None, patterns: tuple[Tensor, Tensor] | None,
                 entry: Tensor | None) -> Lent:  # fmt: skip
        """Captured activations, led to the corrupted prompt's positions."""
        ids = torch.tensor([pair.corrupted], device=self.device)
        if patterns is not None:
            return Lent(ids, clean=patterns[0], corrupted=patterns[1], entry=entry)
        assert z is not None
        value = z.new_zeros(len(pair.corrupted), *z.shape[1:])
        value[list(pair.dst)] = z[list(pair.src)]
        where = torch.zeros(len(pair.corrupted), dtype=torch.bool, device=self.device)
        where[list(pair.dst)] = True
        return Lent(ids, value=value, where=where, entry=entry)

    @abstractmethod
    def capture(self, job: Job, pair: PromptPair) -> Lent:
        """What the pair's clean run lends."""


class Hooked(Family):
    """A library that leaves the model's modules in place: activations are captured with plain hooks."""

    def capture(self, job: Job, pair: PromptPair) -> Lent:
        at = models.anatomy(self.config, job.layer)
        kept: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            return lambda _module, args, kwargs: kept.__setitem__(
                name, (args[0] if args else kwargs["hidden_states"])[0].clone()
            )

        handles = [
            self.hf.get_submodule(path).register_forward_pre_hook(keep(name), with_kwargs=True)
            for name, path in (("z", at.out), ("entry", at.block))
        ]
        runs: list[dict[str, Tensor]] = []
        for ids in (pair.corrupted, pair.clean):
            wanted = {"output_attentions": True} if job.site == "pattern" else {}
            found = self.hf(torch.tensor([ids], device=self.device), use_cache=False, **wanted)
            if wanted:
                kept["pattern"] = found.attentions[job.layer][0]
            runs.append(dict(kept))
        for handle in handles:
            handle.remove()
        corrupted, clean = runs
        patterns = (clean["pattern"], corrupted["pattern"]) if job.site == "pattern" else None
        return self.prepared(job, pair, clean["z"].unflatten(1, (job.n_heads, -1)), patterns, corrupted["entry"])
