"""Sweeping worlds over pairs.

1. The clean and the corrupted run of every pair: their logit differences.
2. The plan: every pair × every world in shards (:mod:`headlab.engine.plan`); what is stored is not run again.
3. The shards, by an engine: here, in this process (:mod:`headlab.engine.work`), or elsewhere
   (:mod:`headlab.engine.scale`).  Rows come back in any order; the table is always in the same one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch

from headlab.effects import Progress, quiet
from headlab.engine.captures import capture, logit_differences, read_out, token_bytes, tokens_for
from headlab.engine.edits import needs
from headlab.engine.limits import check_fits
from headlab.engine.model import Lab, loaded
from headlab.engine.passes import EngineError
from headlab.engine.plan import DECODED_ROWS, Abilities, Batch, Cost, Plan, Shard, make_plan
from headlab.engine.reader import HELD_BYTES, LOGITS_HELD, vocabulary_size
from headlab.engine.recall import recall, steady
from headlab.engine.resume import linear
from headlab.engine.work import Worker
from headlab.interventions import InterventionError, World
from headlab.material import Material, every
from headlab.prompts import EncodedPair, each
from headlab.reading import brief
from headlab.readouts import MARGIN, NARROW, PER_TOKEN, Readout

__all__ = ["EngineError", "Job", "Keep", "Made", "capture", "dry_run", "here", "logit_differences", "sweep"]


@runtime_checkable
class Keep(Protocol):
    """Where shards are kept (a :class:`headlab.store.Run`)."""

    def stored(self, name: str) -> pd.DataFrame | None:
        """The rows called ``name``, if they are there and intact."""
        ...

    def store(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep rows; returns them as they will be read."""
        ...

    def warn(self, text: str) -> None:
        """Add a warning to the record."""
        ...


@dataclass(frozen=True)
class Job:
    """What a sweep or a decoding computes: all that an engine needs beside the model.  ``kind`` makes the worker of rows."""

    pairs: tuple[EncodedPair, ...]
    worlds: tuple[World, ...]
    plan: Plan
    tokens: int
    readouts: tuple[Readout, ...] = (MARGIN,)
    material: Material = field(default_factory=Material)
    kind: Callable[..., Worker] = Worker

    def worker(self, lab: Lab) -> Worker:
        """Who runs its shards, on this model or on a replica of it."""
        how = {"tokens": self.tokens, "readouts": self.readouts, "material": self.material}
        return self.kind(lab, self.pairs, self.worlds, self.plan, **how)


@dataclass(frozen=True)
class Made:
    """A shard that was run: ``edited`` [row, readout] (or what each row generated), and how many batches were cut for
    memory."""

    shard: Shard
    edited: Any
    halvings: int = 0


Engine = Callable[[Lab, Job, Sequence[Shard], Callable[[int], None]], Iterator[Made]]
"""``engine(lab, job, shards, tick)`` runs shards of the job and yields each when it is done, in any order;
``tick(rows)`` says how many rows are done."""


def here(lab: Lab, job: Job, shards: Sequence[Shard], tick: Callable[[int], None]) -> Iterator[Made]:
    """The engine of one process: one shard after another on the model as it is loaded."""
    worker, done = job.worker(lab), 0
    for shard in shards:
        edited = worker.run(shard, lambda n, done=done: tick(done + n))
        done += len(shard.rows)
        yield Made(shard, edited, worker.halvings)


def row_cost(lab: Lab, readouts: Sequence[Readout] = (MARGIN,)) -> Cost:
    """Estimated bytes that this model takes for rows and for what they start from."""
    kinds = {r.kind for r in readouts}
    narrow, some = lab.can_narrow and kinds <= NARROW, vocabulary_size(lab)
    size, grid = torch.finfo(lab.dtype).bits // 8, lab.grid
    return Cost(
        per_token=token_bytes(lab) * 8 // 5,  # temporaries of writes, and what the allocator holds back
        per_score=size * grid.n_heads,
        per_cached=2 * size * grid.n_kv_heads * lab.head_dim,
        residual=size * lab.d_model,
        heads=size * grid.n_heads * lab.head_dim,
        layers=grid.n_layers,
        n_heads=grid.n_heads,
        logits=0 if narrow else some * (2 * size if kinds <= NARROW else HELD_BYTES),
        leaving=int(bool(kinds & PER_TOKEN)),
        held=HELD_BYTES * LOGITS_HELD if kinds & PER_TOKEN else 0,
    )


def plan_of(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    worlds: Sequence[World],
    *,
    tokens: int | None,
    memory: int | None,
    decoding: int = 0,
    readouts: Sequence[Readout] = (MARGIN,),
    material: Material | None = None,
) -> Plan:
    """The plan of a sweep on this model, after checking that it means something; or of decoding so many tokens, where
    the prompt runs whole and every layer's keys and values stay.

    Raises EngineError for nothing to do or equal names, ValueError for heads that do not exist or too little memory.
    """
    loaded(lab)
    if isinstance(worlds, World) or any(not isinstance(w, World) for w in worlds):
        raise InterventionError(
            f"expected a list of worlds, [World('zero', (Intervention(…),))], given {brief(worlds)}"
        )
    if not pairs or not worlds:
        raise EngineError(f"nothing to sweep: {len(pairs)} pair(s) under {len(worlds)} world(s)")
    if len({w.name for w in worlds}) != len(worlds):
        raise EngineError("two worlds have the same name")
    for world in worlds:
        for one in world.interventions:
            one.check(lab.grid)
        for one in every(world.interventions):
            lends = needs(one) == "clean" and one.computed_in is None
            if lends and (alone := next((p.pair.id for p in pairs if not p.pair.partner), None)):
                raise InterventionError(
                    f"the world {world.name!r} patches from another prompt, which {alone!r} does not have; write zero, mean, "
                    "resample or rescale, or give each prompt a corrupted one"
                )
            if one.site != "resid":
                lab.attention_of(one.layer)
    material = material or Material()
    material.check(pairs, worlds)
    check_fits(lab, pairs, decoding)
    can, cost = Abilities(lab.can_resume, lab.can_reuse, lab.can_add), row_cost(lab, readouts)
    if decoding:
        can, longest = Abilities(), max(len(p.corrupted.ids) for p in pairs)
        cached = cost.per_cached * cost.layers * (longest + decoding) // longest
        cost = replace(cost, per_cached=cached, logits=torch.finfo(lab.dtype).bits // 4 * vocabulary_size(lab))
    plan = make_plan(
        pairs,
        worlds,
        cost,
        tokens=tokens or tokens_for(lab),
        memory=memory,
        can=can,
        linear=[linear(w) for w in worlds],
        tokens_read=_per_token(pairs, readouts),
        marks=[material.mark(w) for w in worlds],
        in_shard=DECODED_ROWS if decoding else None,
        tag="" if tuple(readouts) == (MARGIN,) else json.dumps([r.plain() for r in readouts]),
    )
    recall(lab).within(None if memory is None else memory - plan.peak_bytes(cost))
    return plan


def _per_token(pairs: Sequence[EncodedPair], readouts: Sequence[Readout]) -> bool:
    """Whether some readout is a mean over the tokens of its prompts (a divergence only where there are no answers)."""
    kinds, without = {r.kind for r in readouts}, sum(not p.corrupted.answer_ids for p in pairs)
    if "kl" in kinds and 0 < without < len(pairs):
        raise EngineError(
            f"{without} of {len(pairs)} prompts have no answer: kl is read at the answer of the others and at every token of "
            "these, which is no one number; sweep them apart"
        )
    return "loss" in kinds or ("kl" in kinds and without > 0)


@steady
def sweep(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    worlds: Sequence[World],
    *,
    tokens: int | None = None,
    memory: int | None = None,
    material: Material | None = None,
    keep: Keep | None = None,
    engine: Engine | None = None,
    progress: Progress = quiet,
    what: str = "sweep",
    readouts: Sequence[Readout] = (MARGIN,),
) -> pd.DataFrame:
    """Every pair under every world: the **effects** table with the logit differences (see :mod:`headlab.effects`).

    ``readouts``: what is read instead, or beside.  The first one's numbers stand in ``clean``, ``corrupted`` and
    ``edited``, those of a further one in ``clean@NAME``, ``corrupted@NAME``, ``edited@NAME``; where one is a mean over
    tokens, ``tokens`` counts those of the edited prompt.  All of them come from the same passes.

    ``tokens`` in flight and ``memory`` (bytes beside the model) bound a batch; they change the time, never a number
    (law 1).  ``material``: the populations and directions that worlds name.  ``keep`` stores shards so that an
    interrupted sweep goes on where it stopped.  ``engine`` runs the shards (default: in this process).  Rows come in
    the order pair, world; worlds that are equal but for their names are run once.  ``attrs["halved"]`` names shards
    whose batches were cut because memory ran out: their rows hold to the tolerance of law 1, not bit for bit.

    Raises EngineError when a planned edit did not fire, ValueError when a head does not exist.
    """
    pairs, readouts = each(pairs, EncodedPair), tuple(readouts)
    worlds = worlds if isinstance(worlds, World) else list(worlds)
    if len({r.name for r in readouts}) != len(readouts) or not readouts:
        raise EngineError(f"readouts need names of their own, given {', '.join(r.name for r in readouts) or 'none'}")
    plan = plan_of(lab, pairs, worlds, tokens=tokens, memory=memory, readouts=readouts, material=material)
    flight = min(tokens or tokens_for(lab), plan.flight if memory is not None else 2**62)
    prompts = [p.clean for p in pairs] + [p.corrupted for p in pairs]
    if readouts == (MARGIN,):
        both = logit_differences(lab, prompts, tokens=flight).numpy()[:, None]
    else:
        both = read_out(lab, prompts, readouts, tokens=flight).numpy()
    names = [w.name for w in worlds]
    columns = ["edited" + ("" if n == 0 else f"@{r.name}") for n, r in enumerate(readouts)]
    place = {name: j for j, name in enumerate(names)}
    edited = np.full((len(pairs), len(worlds), len(readouts)), np.nan)
    halved, done, todo = [], 0, []

    def put(frame: pd.DataFrame) -> None:
        which = [place[name] for name in frame["world"]]
        edited[frame["pair"].to_numpy(), which] = frame[columns].to_numpy()

    for shard in plan.shards:
        frame = keep.stored(f"{what}-{shard.name}") if keep else None
        if frame is None:
            todo.append(shard)
        else:
            put(frame)
            done += len(shard.rows)
    progress(what, done, plan.rows)
    job = Job(tuple(pairs), tuple(worlds), plan, flight, readouts, material or Material())
    for made in (engine or here)(lab, job, todo, lambda n: progress(what, done + n, plan.rows)):
        i, j = zip(*made.shard.rows, strict=True)
        numbers, name = np.asarray(made.edited).reshape(len(i), -1), f"{what}-{made.shard.name}"
        if made.halvings:
            halved.append(name)
            if keep:
                keep.warn(
                    f"shard {name!r} ran out of memory and was run in smaller batches ({made.halvings} halvings): its "
                    "rows equal an unhalved run to the tolerance of law 1, not bit for bit"
                )
        if keep is None:
            edited[i, j] = numbers
            continue
        rows = {"pair": i, "world": [names[k] for k in j], **dict(zip(columns, numbers.T, strict=True))}
        put(keep.store(name, pd.DataFrame(rows)))
    for j, original in plan.same.items():
        edited[:, j] = edited[:, original]
    if np.isnan(edited).any():
        raise EngineError(f"{int(np.isnan(edited).sum())} of {edited.size} rows have no number")
    table = _effects(pairs, names, readouts, columns, both, edited)
    if halved:
        table.attrs["halved"] = halved
    return table


def _effects(
    pairs: Sequence[EncodedPair],
    names: list[str],
    readouts: Sequence[Readout],
    columns: Sequence[str],
    both: np.ndarray,
    edited: np.ndarray,
) -> pd.DataFrame:
    """The table of effects; ``both`` [clean pairs then corrupted ones, readout], ``edited`` [pair, world, readout]."""
    clean, corrupted = both[: len(pairs)], both[len(pairs) :]
    which = np.repeat(np.arange(len(pairs)), len(names))
    found: dict[str, Any] = {
        "pair": which,
        "pair_id": [p.pair.id for p in pairs for _ in names],
        "cluster": [p.pair.cluster or p.pair.id for p in pairs for _ in names],
        "world": names * len(pairs),
    }
    for n, column in enumerate(columns):
        mark = column.removeprefix("edited")
        found[f"clean{mark}"] = clean[which, n]
        found[f"corrupted{mark}"] = corrupted[which, n]
        found[column] = edited[:, :, n].ravel()
    if any(r.kind in PER_TOKEN for r in readouts) and _per_token(pairs, readouts):
        found["tokens"] = [max(1, len(p.corrupted.ids) - p.corrupted.scored) for p in pairs for _ in names]
    return pd.DataFrame(found)


def dry_run(
    lab: Lab,
    pairs: Sequence[EncodedPair],
    worlds: Sequence[World],
    *,
    tokens: int | None = None,
    memory: int | None = None,
    readouts: Sequence[Readout] = (MARGIN,),
    material: Material | None = None,
) -> dict[str, Any]:
    """What a sweep would take: passes, rows, tokens, estimated memory, and seconds from one timed batch."""
    plan = plan_of(lab, list(pairs), list(worlds), tokens=tokens, memory=memory, readouts=readouts, material=material)
    flight = min(tokens or tokens_for(lab), plan.flight if memory is not None else 2**62)
    worker = Worker(lab, list(pairs), list(worlds), plan, tokens=flight, readouts=readouts, material=material)
    widest = max(plan.shards, key=lambda s: s.tokens)
    cut = widest.cuts[0]
    sample = replace(widest, rows=widest.rows[cut.first : cut.end], cuts=(Batch(0, cut.end - cut.first, cut.start),))
    worker.run(sample)
    start = time.perf_counter()
    worker.run(sample)
    each = (time.perf_counter() - start) / sample.tokens
    return {
        "passes": plan.passes,
        "rows": plan.rows,
        "tokens": plan.tokens,
        "shards": len(plan.shards),
        "memory_bytes": plan.peak_bytes(row_cost(lab, readouts)),
        "seconds": each * sum(s.tokens for s in plan.shards),
    }
