"""The sections that measure: jobs, loss, thinking.  Each yields (name, what was found) as it goes."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks import driver, floor, losses, models, thoughts
from benchmarks.card.room import Room
from benchmarks.driver import Failed, Run, Settings
from benchmarks.peers import METHODS
from benchmarks.timing import gemm_rate
from benchmarks.worker import Worker, versions_of

JOBS = ("Z", "P", "last")
CHOSEN = ("hf-loop", "hf-rows", "hf-rows-cached", "nnsight-rows-skip", "headlab-single", "headlab")


class Here(Worker):
    """A worker of the benchmarks without a process of its own: answers as :class:`benchmarks.driver.Client` does."""

    def __init__(self, room: Room, driven: Any) -> None:
        self.driven, self.jobs, self.place = driven, {}, {"device": room.device, "dtype": room.dtype}

        self.seconds = 0.02 if room.tiny else 1.0

    def gemm(self, products: list[list[int]]) -> dict[str, Any]:
        cpu, wall = gemm_rate(products, self.place["device"], self.place["dtype"], self.seconds)
        return {"cpu": cpu, "wall": wall}

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        try:
            return getattr(self, do)(**request)
        except Exception as error:
            raise Failed(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error


def settings(room: Room) -> Settings:
    few = room.tiny
    return Settings((room.name,), JOBS, CHOSEN, rounds=1 if few else 3, rows=4 if few else None,
                    interventions=24 if few else 512, seconds=0.01 if few else 0.5, device=room.device,
                    dtype=room.dtype, threads=torch.get_num_threads(), here=True)  # fmt: skip


def jobs(room: Room) -> Iterator[tuple[str, Any]]:
    """Entries as the benchmarks keep them; every library in this process, on a copy of its own of the same weights."""
    chosen, absent, clients = settings(room), {}, {}
    gc.freeze()  # what is there stays: collecting before each measurement need not look at it
    for family in dict.fromkeys(METHODS[m].family for m in CHOSEN):
        if family == "nnsight" and find_spec("nnsight") is None:
            absent[family] = "nnsight is not installed in this environment"
            continue
        try:
            clients[family] = Here(room, room.ours if family == "headlab" else room.driven(family))
        except Exception as error:
            absent[family] = f"{type(error).__name__}: {error}"[:200]
    yield "versions", {family: versions_of(client.driven.package) for family, client in clients.items()}
    config = room.plain.config.to_dict()
    for name in JOBS:
        job = room.job(name)
        for client in clients.values():
            client.jobs[name] = job
        methods = [METHODS[m] for m in CHOSEN if name in METHODS[m].jobs]
        runs = {m.name: Run(m, m.rows or chosen.rows or job.rows, failed=absent.get(m.family, "")) for m in methods}
        gemm = driver._rounds(chosen, job, runs, clients, floor.products_of(job, config))
        if room.device == "cuda":
            indices = job.sample(job.rows, job.rows)[: job.rows]
            for run in runs.values():
                if not run.failed and run.rows > 1:
                    with suppress(Failed):
                        found = clients[run.method.family].ask(
                            "memory", job=name, method=run.method.name, indices=indices, rows=run.rows
                        )
                        run.memory = found["bytes"]
        yield name, driver._entry(chosen, job, runs, gemm, config)


def loss(room: Room) -> Iterator[tuple[str, Any]]:
    """Milliseconds of one window under one set, round by round, as :mod:`benchmarks.losses` takes them."""
    many = (2, 4, 1) if room.tiny else (16, 64, 3)
    lab, batches = room.lab, (1, 2) if room.tiny else losses.BATCHES
    times, apart = losses.measure(lab, room.plain, *many, batches=batches, own=False)
    yield "windows, sets, tokens", [*many[:2], losses.LENGTH]
    yield "ms", {method: [1000 * s for s in some] for method, some in times.items()}
    yield "largest relative difference", apart


def thinking(room: Room) -> Iterator[tuple[str, Any]]:
    """Milliseconds of a problem in a world, round by round, as :mod:`benchmarks.thoughts` takes them."""
    from headlab.thoughts.loading import Thinker
    from headlab.thoughts.model import Codi, Spec

    model = copy.deepcopy(room.lab.model)  # opened by headlab already, with the rows of the three tokens to spare
    size = room.spec.sizes["vocab_size"] - 3
    spec = Spec.after(size, room.spec.sizes["hidden_size"], n_thoughts=6)
    with torch.device(room.device):
        codi = Codi(model, spec).to(getattr(torch, room.dtype)).eval().requires_grad_(False)
    from headlab.engine.model import open_model

    lab = open_model(model, tokenizer=models.words(size))
    thinker = Thinker(lab, codi, "random")
    n = 4 if room.tiny else 64
    asked = {f"p{i}": " ".join(f"w{(7 * i + 3 * j) % (size - 5) + 3}" for j in range(12)) for i in range(n)}
    heads = [(room.spec.layer, h) for h in range(2 if room.tiny else 8)]
    batches = (1, 8) if room.tiny else thoughts.BATCHES
    with torch.no_grad():
        found = thoughts.timed_rounds(thinker, asked, heads, 1 if room.tiny else 2, few=1, batches=batches)
    yield "problems, worlds, thoughts", [found["problems"], found["worlds"], spec.n_thoughts]
    yield "ms", {method: [1000 * s for s in some] for method, some in found["times"].items()}
    yield "agree", found["agree"]
