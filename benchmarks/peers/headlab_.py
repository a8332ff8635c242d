"""headlab: one ``sweep`` over the job.  Its captures, clean and corrupted runs and planning are inside the timing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import models
from benchmarks.jobs import Job, PromptPair
from benchmarks.peers.common import Family, Lent
from headlab.engine.model import open_model
from headlab.engine.recall import recalling
from headlab.engine.run import sweep
from headlab.engine.selfcheck import prove
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.prompts import Encoded, EncodedPair, Pair, Prompt, encode


class Driven(Family):
    package = "headlab"

    def __init__(self, folder: Any, device: str, dtype: str) -> None:
        model, self.tokenizer = models.load(folder, device=device, dtype=dtype)
        self.lab = open_model(model, tokenizer=self.tokenizer)
        prove(self.lab)
        self.pairs: dict[str, list[EncodedPair]] = {}

    def capture(self, job: Job, pair: PromptPair) -> Lent:
        raise NotImplementedError("headlab captures inside sweep()")

    def prepare(self, job: Job, method: str, indices: Sequence[int]) -> None:
        """Prompts to tokens, as for every method."""
        if job.name not in self.pairs:
            self.pairs[job.name] = [self._encoded(i, pair) for i, pair in enumerate(job.pairs)]

    def _encoded(self, number: int, pair: PromptPair) -> EncodedPair:
        if pair.text is not None:
            return encode(Pair.from_plain(pair.text), self.tokenizer)

        def one(ids: tuple[int, ...]) -> Encoded:
            return Encoded(ids, len(ids), {"last": (len(ids) - 1,)}, frozenset(), pair.answer, pair.wrong, "")

        plain = Pair(str(number), Prompt("clean"), Prompt("corrupted"), "right", "wrong")
        return EncodedPair(plain, one(pair.clean), one(pair.corrupted))

    def run(self, job: Job, method: str, indices: Sequence[int], rows: int) -> list[float]:
        if method == "headlab-again":  # as inside a trial, whose sweeps share what was read of their prompts
            with recalling(self.lab, wide=False):
                return self.run(job, "headlab-single", indices, rows)
        if method == "headlab-single" and len(indices) > 1:
            return [x for i in indices for x in self.run(job, method, [i], rows)]
        split = [job.split(i) for i in indices]
        pairs, worlds = sorted({p for p, _ in split}), sorted({w for _, w in split})
        table = sweep(self.lab, [self.pairs[job.name][p] for p in pairs], [self._world(job, w) for w in worlds])
        edited = table["edited"].to_numpy().reshape(len(pairs), len(worlds))
        row, column = ({x: i for i, x in enumerate(xs)} for xs in (pairs, worlds))
        return [float(edited[row[p], column[w]]) for p, w in split]

    def _world(self, job: Job, world: int) -> World:
        fields: dict[str, Any] = {"roles": ("last",)} if job.name == "last" else {}
        if job.site == "pattern":
            heads = Heads.of(job.layer, range(job.n_heads))
            return World(str(world), (Intervention(heads, "pattern", amount=job.amounts[world]),))
        return World(str(world), (Intervention(Heads.of(job.layer, job.heads[world]), "z", **fields),))
