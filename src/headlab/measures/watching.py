"""Passes that are only looked at: prompts in batches of one length, each layer reduced while the pass runs.

A reader is shown an activation and hands nothing back, so at no time are the patterns of more than one layer, or of
more than one batch, in memory.  Which keys a query can see is asked of the model, not of its config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headlab.effects import Progress, quiet
from headlab.engine.attention import Stop, Tape
from headlab.engine.captures import tokens_for
from headlab.engine.model import Lab
from headlab.engine.passes import EngineError, by_length, forward, tensor_of
from headlab.prompts import Encoded

Queries = Literal["last", "decision", "all"]
Look = Callable[[Tensor], None]

PATTERN_ENTRIES = {"cpu": 2**25, "cuda": 2**28}
"""Entries of one layer's pattern in one batch, at most: long prompts come in smaller batches than short ones."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one length: their places in the list that was given, and their ids [row, position]."""

    which: list[int]
    encoded: list[Encoded]
    ids: Tensor

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def asked(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Query positions [row, query] and which of them count [row, query].

        ``last``: the last token of the prompt.  ``decision``: the last token before the answers part, where the
        logit difference is read.  ``all``: every token of the prompt, without the answer's shared start.
        """
        device = self.ids.device
        ends = torch.tensor([e.n_prompt for e in self.encoded], device=device)
        if queries == "all":
            index = torch.arange(self.length, device=device).expand(len(ends), -1)
            return index, index < ends[:, None]
        if queries not in {"last", "decision"}:
            raise ValueError(f"queries is {queries!r}; expected last, decision or all")
        index = (ends if queries == "last" else torch.full_like(ends, self.length))[:, None] - 1
        return index, torch.ones_like(index, dtype=torch.bool)


def batches(lab: Lab, encoded: Sequence[Encoded], tokens: int | None = None) -> Iterator[Batch]:
    """Prompts grouped by length, never padded; ``tokens`` in flight change the time, never a number."""
    if not encoded:
        raise EngineError("nothing to measure: 0 prompts")
    entries = PATTERN_ENTRIES.get(lab.device.type, PATTERN_ENTRIES["cuda"])
    for length, which in by_length(encoded).items():
        step = max(1, min((tokens or tokens_for(lab)) // length, entries // (lab.grid.n_heads * length**2)))
        for start in range(0, len(which), step):
            part = which[start : start + step]
            some = [encoded[i] for i in part]
            yield Batch(part, some, tensor_of(some, lab.device))


def layers_of(lab: Lab, layers: Sequence[int] | None) -> list[int]:
    """The layers asked for (None: all with softmax attention), in order.  Raises as ``Lab.attention_of`` does."""
    chosen = sorted(lab.attentions) if layers is None else sorted(set(layers))
    if not chosen:
        raise ValueError("no layer to measure; leave layers out for all of them")
    for layer in chosen:
        lab.attention_of(layer)
    return chosen


def watch(
    lab: Lab,
    ids: Tensor,
    looks: Mapping[tuple[int, str], Look],
    edits: Mapping[tuple[int, str], Callable[[Tensor], Tensor]] | None = None,
) -> None:
    """One pass over ``ids`` [row, position] that shows each (layer, site) to its reader, up to the last layer read.

    Raises EngineError when a reader was not shown its site exactly once.
    """

    def shown(look: Look) -> Callable[[Tensor], Tensor]:
        def edit(x: Tensor) -> Tensor:
            look(x)
            return x

        return edit

    steps: dict[tuple[int, str], list[Callable[[Tensor], Tensor]]] = {k: [e] for k, e in (edits or {}).items()}
    for key, look in looks.items():
        steps.setdefault(key, []).append(shown(look))
    after = [layer for layer in sorted(lab.attentions) if layer > max(layer for layer, _ in steps)]
    tape = Tape(edits=steps, stop_at=after[0] if after else None)
    with lab.tape(tape), suppress(Stop):
        forward(lab, ids)
    if tape.fired != {key: len(step) for key, step in steps.items()}:
        raise EngineError(f"planned to read {sorted(steps)}, read {tape.fired}")


Readers = Callable[[Batch, Mapping[int, Tensor]], Callable[[int, int], Mapping[str, Look]]]


@torch.inference_mode()
def visible(lab: Lab, ids: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Which keys each query sees in each layer, [query, key], from a pass over one prompt ``ids`` [1, position].

    Measured: with every query vector zero, all scores are equal and the pattern is not zero exactly where the
    model's own mask (causal, sliding window, chunks) lets a query look.
    """
    found: dict[int, Tensor] = {}

    def look_at(layer: int) -> Look:
        def look(pattern: Tensor) -> None:
            found[layer] = pattern[0, 0] > 0

        return look

    watch(
        lab,
        ids[:1],
        {(layer, "pattern"): look_at(layer) for layer in layers},
        {(layer, "q"): torch.zeros_like for layer in layers},
    )
    return found


def survey(
    lab: Lab,
    encoded: Sequence[Encoded],
    layers: Sequence[int],
    readers: Readers,
    what: str,
    *,
    reference: bool = True,
    tokens: int | None = None,
    progress: Progress = quiet,
) -> None:
    """Show every batch to ``readers(batch, seen)(place, layer)``, which gives a reader for each site of that layer.

    ``seen``: which keys each query sees, [query, key] for each layer, empty without ``reference`` (one more pass for
    each length of prompts).  ``place`` counts the layers asked for.
    """
    known: dict[int, dict[int, Tensor]] = {}
    done = 0
    for batch in batches(lab, encoded, tokens):
        if batch.length not in known:
            known[batch.length] = visible(lab, batch.ids, layers) if reference else {}
        made = readers(batch, known[batch.length])
        looks = {(at, site): look for n, at in enumerate(layers) for site, look in made(n, at).items()}
        watch(lab, batch.ids, looks)
        done += len(batch.which)
        progress(what, done, len(encoded))


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """[row, head, query, rest] → [row, asked query, head, rest], in float32 at least."""
    rows = x[torch.arange(len(x), device=x.device)[:, None], :, index.to(x.device)]
    return rows.to(torch.promote_types(x.dtype, torch.float32))
