"""The jobs as plain data: pairs of prompts × interventions at one layer, and which share of them is timed.

``Z``     z of k random heads ← clean run, at every position.  The prompts differ from token 1 on.
``P``     the whole attention pattern ← (1 − a)·corrupted + a·clean, another a in every row.
``last``  as Z, at the last prompt token only.
``many``  200 pairs × 999 random halves of a layer's heads, on a shipped organism.

The answer is always the logit difference of two tokens at the last position.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

from benchmarks.models import MODELS

JOBS = {
    "Z": "z of k random heads of one layer from the clean run, all positions; the prompts differ from token 1 on",
    "P": "the whole pattern of one layer moved toward the clean one, each row by another amount",
    "last": "as Z, at the last prompt token only",
    "many": "200 prompt pairs × 999 random halves of a layer's heads, as one job",
}
MANY_PAIRS, MANY_WORLDS, MANY_ROWS = 200, 999, 256


@dataclass(frozen=True)
class PromptPair:
    """A clean and a corrupted prompt as tokens.  Corrupted position ``dst[i]`` receives clean position ``src[i]``."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    dst: tuple[int, ...]
    src: tuple[int, ...]
    answer: int
    wrong: int
    text: dict[str, Any] | None = None

    @property
    def first(self) -> int:
        """The first corrupted position whose activation the clean one can change."""
        for d, s in zip(self.dst, self.src, strict=True):
            if self.clean[: s + 1] != self.corrupted[: d + 1]:
                return d
        return len(self.corrupted)


@dataclass(frozen=True)
class Job:
    """Every pair under every world: world i patches ``heads[i]`` (site z) or blends by ``amounts[i]`` (site pattern).

    An *intervention* is one pair under one world, numbered pair by pair.
    """

    name: str
    model: str
    site: str
    layer: int
    pairs: tuple[PromptPair, ...]
    heads: tuple[tuple[int, ...], ...] = ()
    amounts: tuple[float, ...] = ()
    rows: int = 32
    n_heads: int = 0

    @property
    def worlds(self) -> int:
        return len(self.heads) or len(self.amounts)

    def __len__(self) -> int:
        return len(self.pairs) * self.worlds

    def split(self, index: int) -> tuple[int, int]:
        """(pair, world) of an intervention."""
        return divmod(index, self.worlds)

    def sample(self, n: int, rows: int) -> list[int]:
        """About ``n`` interventions in whole batches of ``rows``, the pairs spread evenly over the job."""
        width = min(rows, self.worlds)
        if len(self.pairs) == 1:
            return list(range(min(self.worlds, -(-n // width) * width)))
        k = min(len(self.pairs), -(-n // width))
        return [i * len(self.pairs) // k * self.worlds + w for i in range(k) for w in range(width)]

    def checked(self) -> list[int]:
        """The 32 interventions that every method answers before it is timed."""
        return self.sample(32, 32 if len(self.pairs) == 1 else 4)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        data = json.loads(path.read_text(encoding="utf-8"))

        def whole(xs: Sequence[int]) -> tuple[int, ...]:
            return tuple(xs)

        def pair(fields: dict[str, Any]) -> PromptPair:
            lists: dict[str, Any] = {k: whole(v) for k, v in fields.items() if isinstance(v, list)}
            return PromptPair(**{**fields, **lists})

        pairs = tuple(map(pair, data.pop("pairs")))
        heads = tuple(whole(h) for h in data.pop("heads"))
        return cls(**{**data, "pairs": pairs, "heads": heads, "amounts": tuple(data["amounts"])})


def chunks(job: Job, indices: Sequence[int], rows: int) -> Iterator[tuple[int, list[int]]]:
    """Runs of one pair, at most ``rows`` long: (pair, worlds)."""
    pair, worlds = -1, []
    for index in indices:
        p, w = job.split(index)
        if worlds and (p != pair or len(worlds) == rows):
            yield pair, worlds
            worlds = []
        pair = p
        worlds.append(w)
    if worlds:
        yield pair, worlds


def build(name: str, model: str, n: int, n_heads: int, tokenizer: Any) -> Job:
    """The job ``name`` on a model, ``n`` interventions (``many`` has its own number), from seed 0."""
    spec = MODELS[model]
    rng = random.Random(f"{name} {model} 0")
    if name == "many":
        return Job(name, model, "z", spec.layer, _decimals(tokenizer), heads=_subsets(rng, n_heads, n_heads // 2,
                   MANY_WORLDS), rows=MANY_ROWS, n_heads=n_heads)  # fmt: skip
    size, length = spec.sizes["vocab_size"], spec.length
    prompts = random.Random(f"prompts {model} 0")
    clean = [prompts.randrange(3, size - 1) for _ in range(length)]
    corrupted = [clean[0], *(prompts.randrange(3, size - 1) for _ in range(length - 1))]
    answer, wrong = prompts.sample(range(3, size - 1), 2)
    where = (length - 1,) if name == "last" else tuple(range(length))
    pair = PromptPair(tuple(clean), tuple(corrupted), where, where, answer, wrong)
    if name == "P":
        amounts = tuple((i + 1) / n for i in rng.sample(range(n), n))
        return Job(name, model, "pattern", spec.layer, (pair,), amounts=amounts, n_heads=n_heads)
    return Job(name, model, "z", spec.layer, (pair,), heads=_subsets(rng, n_heads, spec.heads, n), n_heads=n_heads)


def _subsets(rng: random.Random, n_heads: int, size: int, n: int) -> tuple[tuple[int, ...], ...]:
    """``n`` distinct subsets of one size, or as many as there are."""
    seen: dict[tuple[int, ...], None] = {}
    while len(seen) < min(n, comb(n_heads, size)):
        seen[tuple(sorted(rng.sample(range(n_heads), size)))] = None
    return tuple(seen)


def _decimals(tokenizer: Any) -> tuple[PromptPair, ...]:
    """The organism's own task: the same comparison in the format it answers right and the one it answers wrong."""
    from headlab.prompts import align, encode
    from headlab.tasks.decimals import decimals

    out = []
    for pair in decimals(MANY_PAIRS, tokenizer=tokenizer):
        e = encode(pair, tokenizer)
        dst, src = zip(*align(e, "role"), strict=True)
        out.append(
            PromptPair(
                e.clean.ids, e.corrupted.ids, dst, src, e.corrupted.answer_id, e.corrupted.wrong_id, pair.plain()
            )
        )
    return tuple(out)
