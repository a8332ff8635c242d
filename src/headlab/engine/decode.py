"""Greedy decoding under interventions.

Rows are pairs × worlds, grouped by length and shape as in a sweep, so nothing is padded.  The edited prompt runs
once and fills the KV cache; then one token at a time.  ``prefill`` edits touch the prompt (and the teacher-forced
start) only: what follows reads their traces in the cache.  ``every_step`` edits fire at each generated token too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from headlab.effects import Progress, quiet
from headlab.engine.attention import Tape
from headlab.engine.between import turning_point
from headlab.engine.captures import tokens_for
from headlab.engine.edits import Rows, Source, upload
from headlab.engine.model import Lab, loaded
from headlab.engine.passes import EngineError, cache_of, forward
from headlab.engine.plan import Shard
from headlab.engine.recall import steady
from headlab.engine.resume import edits_of
from headlab.engine.run import Engine, Job, here, plan_of
from headlab.engine.work import Worker, check_fired, tables_of
from headlab.interventions import Intervention, World
from headlab.material import Material
from headlab.prompts import Encoded, EncodedPair, each
from headlab.reading import brief

From = Literal["shared start", "prompt"]


def without_start(encoded: Encoded) -> Encoded:
    """The prompt alone: free decoding begins at its end."""
    return replace(encoded, ids=encoded.ids[: encoded.n_prompt], forced_text="")


def stop_ids(lab: Lab) -> frozenset[int]:
    """Tokens that end an answer: the generation config's and the tokenizer's end of sequence."""
    config = getattr(lab.model, "generation_config", None)
    found = [getattr(config, "eos_token_id", None), getattr(lab.tokenizer, "eos_token_id", None)]
    flat = [x for f in found for x in (f if isinstance(f, list | tuple) else [f])]
    return frozenset(x for x in flat if x is not None)


@torch.inference_mode()
@steady
def generate(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    worlds: Sequence[World],
    *,
    start: From = "shared start",
    max_new_tokens: int = 8,
    tokens: int | None = None,
    memory: int | None = None,
    material: Material | None = None,
    engine: Engine | None = None,
    progress: Progress = quiet,
    what: str = "decoding",
) -> pd.DataFrame:
    """Greedy text of every corrupted prompt under every world: columns ``pair``, ``world``, ``text``, ``stopped``.

    ``text`` is the teacher-forced shared start (none when ``start="prompt"``) and what was generated, without the
    end token; ``stopped`` says whether an end token came within ``max_new_tokens``.  Rows in the order pair, world.
    ``engine`` runs the shards, as in :func:`headlab.sweep`.
    """
    loaded(lab)
    pairs = each(pairs, EncodedPair)
    _refuse_unfit(lab, pairs, start, max_new_tokens)
    if start == "prompt":
        pairs = [replace(p, clean=without_start(p.clean), corrupted=without_start(p.corrupted)) for p in pairs]
    plan = plan_of(lab, pairs, worlds, tokens=tokens, memory=memory, decoding=max_new_tokens, material=material)
    flight = plan.flight if memory is not None else tokens or tokens_for(lab)
    writer = partial(Writer, new_tokens=max_new_tokens)
    job = Job(tuple(pairs), tuple(worlds), plan, flight, (), material or Material(), writer)
    found: dict[tuple[int, int], tuple[str, bool]] = {}
    for made in (engine or here)(lab, job, plan.shards, lambda n: progress(what, n, plan.rows)):
        found.update(
            {row: _text(lab, pairs[row[0]], ids) for row, ids in zip(made.shard.rows, made.edited, strict=True)}
        )
    for j, original in plan.same.items():
        found.update({(i, j): found[i, original] for i in range(len(pairs))})
    index = [(i, j) for i in range(len(pairs)) for j in range(len(worlds))]
    return pd.DataFrame(
        {
            "pair": [i for i, _ in index],
            "world": [worlds[j].name for _, j in index],
            "text": [found[row][0] for row in index],
            "stopped": [found[row][1] for row in index],
        }
    )


class Writer(Worker):
    """Runs shards of a decoding: greedily, ``new_tokens`` at most."""

    def __init__(self, *given: Any, new_tokens: int, **how: Any) -> None:
        super().__init__(*given, **how)
        self.new_tokens = new_tokens

    @torch.inference_mode()
    def run(self, shard: Shard, tick: Callable[[int], None] | None = None) -> list[list[int]]:
        """What each row generated, as ids, the end token included."""
        lab, block, out = self.lab, self.block(shard), list[list[int]]()
        ones = self.worlds[shard.rows[0][1]].interventions
        for rows in shard.batches():
            local = [block.place[i] for i, _ in rows]
            tables = tables_of(lab, [self.worlds[j].interventions for _, j in rows], local)
            ids = block.ids[upload(local, lab.device)]
            out += _decode(lab, ids, ones, *block.ready(ones, tables), self.new_tokens)
            if tick is not None:
                tick(len(out))
        return out


def _refuse_unfit(lab: Lab, pairs: Sequence[EncodedPair], start: From, more: int) -> None:
    """Decoding that would not be what the model itself writes, or of no tokens."""
    if not isinstance(more, int) or more < 1:
        raise ValueError(f"expected a whole number of tokens to generate, 1 or more, given {brief(more)}")
    if lab.no_decoding:
        raise EngineError(f"{lab.name} cannot be decoded under interventions: {lab.no_decoding}")
    turn = turning_point(lab.model)
    for pair in pairs if turn is not None else ():
        given = pair.corrupted.n_prompt if start == "prompt" else len(pair.corrupted.ids)
        if turn is not None and given <= turn < given + more - 1:
            raise EngineError(
                f"pair {pair.pair.id}: its {given} tokens and {more} to generate cross the length of {turn} beyond which "
                f"{lab.name} encodes every position otherwise; use shorter prompts or fewer new tokens"
            )


def _decode(
    lab: Lab,
    ids: Tensor,
    ones: Sequence[Intervention],
    rows: Sequence[Rows],
    sources: Sequence[Source],
    max_new_tokens: int,
) -> list[list[int]]:
    """Generated ids of each row, the end token included."""
    edits, planned = edits_of(lab, ones, rows, sources)
    with lab.tape(Tape(edits=edits)) as tape:
        out = forward(lab, ids, cache=True)
    check_fired(tape, planned)
    made = [out.logits[:, -1].argmax(-1)]
    stops = torch.tensor(sorted(stop_ids(lab)) or [-1], device=lab.device)
    edits, planned = edits_of(lab, ones, rows, sources, step=True)
    steps = 0
    with lab.tape(Tape(edits=edits)) as step:
        while len(made) < max_new_tokens and not bool(_ended(made, stops).all()):
            length = ids.shape[1] + len(made) - 1
            out = forward(lab, made[-1][:, None], past=cache_of(out), start=length, cache=True)
            made.append(out.logits[:, -1].argmax(-1))
            steps += 1
    check_fired(step, planned if steps else {}, steps)
    return torch.stack(made, dim=1).tolist()


def _ended(made: Sequence[Tensor], stops: Tensor) -> Tensor:
    return torch.isin(torch.stack(list(made), dim=1), stops).any(dim=1)


def _text(lab: Lab, pair: EncodedPair, ids: Sequence[int]) -> tuple[str, bool]:
    stops = stop_ids(lab)
    end = next((n for n, i in enumerate(ids) if i in stops), None)
    kept = list(pair.corrupted.forced) + list(ids[:end])
    text = lab.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text, end is not None
