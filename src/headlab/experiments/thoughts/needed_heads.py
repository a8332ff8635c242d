"""The heads that the answer needs most, chosen on problems that the test never sees; for experiments about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headlab.experiments.thoughts.thought_causal import Effect, measured
from headlab.experiments.thoughts.thought_rows import every_head
from headlab.heads import Head, Heads
from headlab.thoughts.worlds import ablation
from headlab.trials.thought_case import ThoughtBench


@dataclass(frozen=True)
class Needed:
    """``heads``, the one that costs most first; ``lost``: accuracy lost without each head alone, on selection problems
    (empty where heads were named)."""

    heads: tuple[Head, ...]
    lost: Mapping[Head, float]

    @property
    def as_set(self) -> Heads:
        return Heads(self.heads)

    @property
    def layers(self) -> list[int]:
        return [h.layer for h in self.heads]

    def __str__(self) -> str:
        return ", ".join(map(str, self.heads))


def needed_heads(bench: ThoughtBench, asked: str, k: int) -> Needed:
    """The ``k`` heads whose mean ablation alone, at every position, costs most accuracy on selection problems (the more
    log-probability lost among equals), or the heads named (``asked``), in their order.

    Raises ValueError for a head that does not exist or a ``k`` below one.
    """
    grid = bench.lab.grid
    if asked:
        named = tuple(Heads.parse(asked))
        grid.check(Heads(named))
        return Needed(named, {})
    if k < 1:
        raise ValueError(f"k is {k}; expected at least one head")
    heads = list(every_head(grid))
    found, table, base = measured(
        bench, [ablation(str(h), Heads([h])) for h in heads], "each head, chosen", problems=bench.selection
    )
    lost = {h: _lost(found[str(h)]) for h in heads}
    usual = float(base["logprob"].mean())
    less = table.groupby("world")["logprob"].mean()
    order = sorted(heads, key=lambda h: (-lost[h], float(less[str(h)]) - usual, h.layer, h.index))
    return Needed(tuple(order[:k]), lost)


def _lost(e: Effect) -> float:
    return 0.0 if e.drop.value is None else e.drop.value
