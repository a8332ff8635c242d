"""The sections that check: rate, plan, laws, model, waits, memory.  Each yields (name, what was found) as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.card import waits
from benchmarks.card.room import Room
from benchmarks.timing import gemm_rate
from headlab.engine import work
from headlab.engine.attention import Tape
from headlab.engine.passes import EngineError, forward
from headlab.engine.run import plan_of, row_cost, sweep
from headlab.engine.selfcheck import TOLERANCE
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.readouts import MARGIN, Readout

Found = Iterator[tuple[str, Any]]
FAMILIES = ("llama", "gpt2", "gemma2", "qwen3", "gpt_neox", "mixtral")
TOKENS = (Readout("loss"), Readout("kl"))


def rate(room: Room) -> Found:
    """Floating point operations a second of one big product: the share of it is what jobs are held against."""
    n = 256 if room.tiny else 8192
    for dtype in ("float32", "bfloat16"):
        yield dtype, gemm_rate([(n, n, n)], room.device, dtype, 0.05 if room.tiny else 1.0)[1]


def plan(room: Room) -> Found:
    """Passes, rows of the widest batch and estimated bytes beside the model, for each job, without its weights."""
    lab = room.meta
    yield "parameters", sum(p.numel() for p in lab.model.parameters())
    for name in ("Z", "P", "last", "loss"):
        pairs, worlds = room.swept("Z" if name == "loss" else name)
        readouts = TOKENS if name == "loss" else (MARGIN,)
        made = plan_of(lab, pairs, worlds, tokens=None, memory=None, readouts=readouts)
        yield (
            name,
            {
                "passes": made.passes,
                "rows": max(c.end - c.first for s in made.shards for c in s.cuts),
                "bytes": made.peak_bytes(row_cost(lab, readouts)),
            },
        )


def laws(room: Room) -> Found:
    """The largest differences by law, relative to the largest logit, and the tolerance; law 3 by a planned edit that is
    kept from firing."""
    import laws as told
    import tiny

    for family in FAMILIES[: 1 if room.tiny else None]:
        for dtype in (torch.float32, torch.bfloat16)[: 1 if room.tiny else None]:
            lab = tiny.proved(tiny.hf_model(family).to(room.device, dtype))
            found: dict[str, Any] = {str(law): value for law, value in told.precision(lab).items()}
            found |= {"3": _fires(lab, told, tiny), "tolerance": TOLERANCE[dtype]}
            found["holds"] = found["3"] and all(found[law] <= found["tolerance"] for law in "127")
            yield f"{family} {str(dtype).removeprefix('torch.')}", found


def _fires(lab: Any, told: Any, tiny: Any) -> bool:
    """Law 3: an edit fires as planned, and one that does not is told."""
    pairs = tiny.equal_pairs()
    tape, planned = told.tape_of(lab, pairs, tiny.edit(lab, 1, "z"))
    with torch.no_grad(), lab.tape(tape):
        forward(lab, torch.tensor([p.corrupted.ids for p in pairs], device=lab.device))
    work.check_fired(tape, planned)
    try:
        work.check_fired(Tape(), planned)
    except EngineError:
        return True
    return False


def model(room: Room) -> Found:
    """The self-check of the 8B shape, and laws 1 and 2 on it."""
    lab = room.lab
    yield "selfcheck", lab.info["selfcheck"]
    size = max(1.0, float(forward(lab, torch.tensor([list(range(3, 11))], device=lab.device)).logits.abs().max()))
    pairs, worlds = room.swept("Z", 24)
    one, other = (sweep(lab, pairs, worlds, tokens=t)["edited"].to_numpy() for t in (None, 5 * room.spec.length))
    yield "law 1", float(np.abs(one - other).max()) / size
    for site in ("z", "q", "pattern", "resid"):
        heads = Heads.of(room.spec.layer, (0, 3))
        table = sweep(lab, pairs, [World(site, (Intervention(heads, site, write="noop"),))])
        yield f"law 2 at {site}", float((table["edited"] - table["corrupted"]).abs().max()) / size
    yield "tolerance", TOLERANCE[lab.dtype]


def waiting(room: Room) -> Found:
    """Batches that ran without waiting for the device, by what was swept; without a card on the meta device."""
    lab, layer = room.lab if room.device == "cuda" else room.meta, room.spec.layer
    yield "on", str(lab.device)
    for name in ("Z", "P", "last"):
        pairs, worlds = room.swept(name)
        tokens = len(worlds) * room.spec.length // 3
        yield name, waits.batches(lab, pairs, worlds, tokens=tokens)
    pairs, worlds = room.swept("Z", 12)
    yield "loss, kl", waits.batches(lab, pairs, worlds, TOKENS, tokens=6 * room.spec.length)
    noise = [World(str(h), (Intervention(Heads.of(layer, (h,)), write="noise"),)) for h in range(4)]
    yield "noise", waits.batches(lab, pairs, noise, tokens=2 * room.spec.length)
    sender = Intervention(Heads.of(layer - 1, (1,)), write="zero")
    paths = [World(str(h), (Intervention(Heads.of(layer, (h,)), "q", computed_in=(sender,)),)) for h in range(4)]
    yield "path", waits.batches(lab, pairs, paths, tokens=2 * room.spec.length)


def memory(room: Room) -> Found:
    """A sweep whose widest batch does not fit: what is left of the card is taken up but for half of what it needs.

    Without a card the refusal is played (``played``).
    """
    lab, (pairs, worlds) = room.lab, room.swept("Z")
    tokens = len(worlds) * room.spec.length
    whole = sweep(lab, pairs, worlds, tokens=tokens)["edited"].to_numpy()
    with ExitStack() as stack:
        if room.device == "cuda":
            room.reset()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            sweep(lab, pairs, worlds, tokens=tokens)
            need = torch.cuda.max_memory_allocated() - before
            yield "bytes needed", need
            room.reset()
            ballast = torch.empty(torch.cuda.mem_get_info()[0] - need // 2, dtype=torch.uint8, device=room.device)
            stack.callback(ballast.resize_, 0)
        else:
            stack.enter_context(patch.object(work.Worker, "_batch", refusing(len(worlds) // 2)))
        yield "played", room.device != "cuda"
        table = sweep(lab, pairs, worlds, tokens=tokens)
    yield "halved", table.attrs.get("halved", [])
    size = max(1.0, float(np.abs(whole).max()))
    gap = float(np.abs(table["edited"].to_numpy() - whole).max()) / size
    yield "difference", gap
    yield "holds", bool(table.attrs.get("halved")) and gap <= TOLERANCE[lab.dtype]


def refusing(most: int) -> Any:
    """A ``Worker._batch`` that says there is no memory for more than ``most`` rows."""
    real = work.Worker._batch

    def batch(self: work.Worker, shard: Any, rows: Any, start: int) -> torch.Tensor:
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory (played)")
        return real(self, shard, rows, start)

    return batch
