"""The measurement: workers asked in turn, round after round, and their answers held against the reference."""

from __future__ import annotations

import json
import math
import os
import random
import selectors
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks import envs, floor, results
from benchmarks.jobs import Job
from benchmarks.models import MODELS
from benchmarks.peers import METHODS, REFERENCE, Method

PATIENCE = 3600.0
"""Seconds that one request may take."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Failed(Exception):
    """A request that a worker could not answer; one line."""


@dataclass(frozen=True)
class Settings:
    """What the command line chose."""

    models: tuple[str, ...]
    jobs: tuple[str, ...]
    methods: tuple[str, ...]
    rounds: int = 5
    rows: int | None = None
    interventions: int = 512
    seconds: float = 1.0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    here: bool = False
    memory: bool = True
    envs: Path = envs.ENVS

    def plain(self) -> dict[str, Any]:
        kept = ("rounds", "rows", "interventions", "seconds", "device", "dtype", "threads")
        return {name: getattr(self, name) for name in kept}


class Client:
    """A worker process and the line protocol with it."""

    def __init__(self, family: str, python: str, threads: int, log: Path) -> None:
        env = {**os.environ, **dict.fromkeys(_THREADS, str(threads)), "TOKENIZERS_PARALLELISM": "false",
               "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}  # fmt: skip
        self.log = log
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", family, str(threads)],
            cwd=envs.ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("ab"),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """One request, one answer.  Raises Failed with the worker's own words."""
        line = json.dumps({"do": do, **request}) + "\n"
        try:
            self.process.stdin.write(line.encode())  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        except OSError as error:
            raise Failed(f"the worker has ended: {self._last_words()}") from error
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            if not ready.select(PATIENCE):
                self.process.kill()
                raise Failed(f"no answer within {PATIENCE:.0f} s")
        answer = self.process.stdout.readline()  # type: ignore[union-attr]
        if not answer:
            raise Failed(f"the worker has ended: {self._last_words()}")
        found = json.loads(answer)
        if "error" in found:
            raise Failed(found["error"])
        return found

    def _last_words(self) -> str:
        lines = [x for x in self.log.read_text(errors="replace").splitlines() if x.strip()]
        return lines[-1] if lines else "it said nothing"


@dataclass
class Run:
    """One method at one job: how much it does each round, and what came of it."""

    method: Method
    rows: int
    indices: list[int] = field(default_factory=list)
    cpu: list[float | None] = field(default_factory=list)
    wall: list[float | None] = field(default_factory=list)
    answers: dict[int, float] = field(default_factory=dict)
    memory: int | None = None
    failed: str = ""

    def measure(self, client: Client, job: Job) -> None:
        """One round: milliseconds for each intervention, by both clocks."""
        n = len(self.indices)
        try:
            found = client.ask("run", job=job.name, method=self.method.name, indices=self.indices, rows=self.rows)
        except Failed as error:
            self.failed = results.without_paths(str(error))
            return
        self.answers.update(zip(self.indices, found["answers"], strict=True))
        self.cpu.append(1000 * found["cpu"] / n)
        self.wall.append(1000 * found["wall"] / n)

    def plain(self, job: Job, reference: dict[int, float], bound: float) -> dict[str, Any]:
        head = {"family": self.method.family, "rows": self.rows}
        if self.failed:
            return {**head, "status": f"not run: {self.failed}"}
        gaps = [abs(self.answers[i] - reference[i]) for i in self.answers if i in reference]
        worst = max(gaps, key=lambda g: g if not math.isnan(g) else math.inf)
        return {**head, "status": "ok", "measured": len(self.indices), "cpu": self.cpu, "wall": self.wall,
                "compared": len(gaps), "difference": worst, "agrees": worst <= bound, "memory": self.memory}  # fmt: skip


def measure(settings: Settings, data: dict[str, Any], out: Path) -> None:
    """Every model, every job; the file is written after each."""
    for model in settings.models:
        spec = MODELS[model]
        jobs = [j for j in settings.jobs if j in spec.jobs]
        if not jobs:
            continue
        if spec.cuda_only and settings.device == "cpu":
            print(f"{model}: only with --device cuda", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="headlab-bench-", ignore_cleanup_errors=True) as folder:
            _model(settings, model, jobs, Path(folder), data, out)


def _make(settings: Settings, model: str, jobs: Sequence[str], folder: Path) -> None:
    with Client("hf", sys.executable, os.cpu_count() or 1, folder / "make.log") as maker:
        maker.ask("make", model=model, jobs=list(jobs), folder=str(folder / "model"), n=settings.interventions,
                  device=settings.device, dtype=settings.dtype)  # fmt: skip


def _start(settings: Settings, family: str, jobs: Sequence[str], folder: Path) -> tuple[Client, dict[str, str]]:
    """A worker with the model loaded, and the versions it runs.  Raises NotRun or Failed."""
    python = envs.python_for(family, here=settings.here, envs=settings.envs)
    client = Client(family, python, settings.threads, folder / f"{family}.log")
    try:
        found = client.ask(
            "load", folder=str(folder / "model"), device=settings.device, dtype=settings.dtype, jobs=list(jobs)
        )
    except Failed:
        client.__exit__()
        raise
    return client, found["versions"]


def _model(settings: Settings, model: str, jobs: Sequence[str], folder: Path, data: dict[str, Any], out: Path) -> None:
    print(f"{model}: making the model ...", flush=True)
    _make(settings, model, jobs, folder)
    config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    wanted = [METHODS[m] for m in settings.methods]
    clients: dict[str, Client] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        for family in dict.fromkeys(m.family for m in wanted if set(m.jobs) & set(jobs)):
            try:
                client, versions = _start(settings, family, jobs, folder)
            except (envs.NotRun, Failed) as error:
                absent[family] = results.without_paths(str(error))
                print(f"  {family}: not run: {absent[family]}", flush=True)
                continue
            clients[family] = stack.enter_context(client)
            data["versions"][family] = versions
        if METHODS[REFERENCE].family not in clients:
            raise SystemExit(f"{model}: the reference cannot run: {absent[METHODS[REFERENCE].family]}")
        entries = []
        for name in jobs:
            job = Job.read(folder / "model" / f"job-{name}.json")
            methods = [m for m in wanted if name in m.jobs]
            runs = {
                m.name: Run(m, m.rows or settings.rows or job.rows, failed=absent.get(m.family, "")) for m in methods
            }
            print(f"{model} {name}: {len(job)} interventions, {len(runs)} methods", flush=True)
            gemm = _rounds(settings, job, runs, clients, floor.products_of(job, config))
            if settings.memory and settings.device != "cpu":  # the allocator counts exactly, in any process
                _memory(settings, job, runs, folder, clients)
            entries.append((job, runs, gemm))
            results.add(data, _entry(settings, job, runs, gemm, config), out)
    for job, runs, gemm in entries:
        if settings.memory and settings.device == "cpu":
            _memory(settings, job, runs, folder)
            results.add(data, _entry(settings, job, runs, gemm, config), out)


def _rounds(
    settings: Settings, job: Job, runs: dict[str, Run], clients: dict[str, Client], products: list[tuple[int, int, int]]
) -> dict[str, list[float]]:
    """The checked answers of every method (32, of loops 8), then the rounds; returns the rate of the matrix product."""
    which = results.clock(settings.device)
    for run in runs.values():
        if run.failed:
            continue
        client = clients[run.method.family]
        run.indices = job.checked()[:: 1 if run.rows > 1 or run.method.name == REFERENCE else 4]
        run.measure(client, job)  # a first time, for what is made once; then the time by which the share is chosen
        if not run.failed and not run.method.whole:
            run.indices = job.sample(max(2, run.rows), run.rows)
            run.measure(client, job)
        if run.failed:
            print(f"  {run.method.name}: not run: {run.failed}", flush=True)
            continue
        each = max(getattr(run, which)[-1], 1e-3) / 1000
        wanted = max(2, run.rows, math.ceil(settings.seconds / each))
        run.indices = list(range(len(job))) if run.method.whole else job.sample(wanted, run.rows)
        run.cpu, run.wall = [], []
    gemm: dict[str, list[float]] = {"cpu": [], "wall": []}
    for number in range(settings.rounds):
        order = [*(r for r in runs.values() if not r.failed), None]
        random.Random(f"{job.model} {job.name} {number}").shuffle(order)
        for run in order:
            if run is not None:
                run.measure(clients[run.method.family], job)
                continue
            found = clients["hf"].ask("gemm", products=products)
            gemm["cpu"].append(found["cpu"])
            gemm["wall"].append(found["wall"])
        print(f"  round {number + 1} of {settings.rounds}", flush=True)
    for run in runs.values():
        if not run.failed:
            print(f"  {run.method.name:18} {statistics.median(getattr(run, which)):10.3f} ms {which}", flush=True)
    return gemm


def _memory(
    settings: Settings, job: Job, runs: dict[str, Run], folder: Path, clients: dict[str, Client] | None = None
) -> None:
    """One batch of the job's rows: of resident memory in a process that has done nothing else, without ``clients``."""
    indices = job.sample(job.rows, job.rows)[: job.rows]
    for run in runs.values():
        if run.failed or run.rows == 1:
            continue
        with suppress(Failed), ExitStack() as stack:
            if clients is None:
                client = stack.enter_context(_start(settings, run.method.family, [job.name], folder)[0])
            else:
                client = clients[run.method.family]
            found = client.ask("memory", job=job.name, method=run.method.name, indices=indices, rows=run.rows)
            run.memory = found["bytes"]


def _entry(
    settings: Settings, job: Job, runs: dict[str, Run], gemm: dict[str, list[float]], config: dict[str, Any]
) -> dict[str, Any]:
    """Everything about one job on one model, ready for JSON."""
    reference = runs[REFERENCE]
    if reference.failed:
        raise SystemExit(f"{job.model} {job.name}: the reference failed: {reference.failed}")
    known = reference.answers
    bound = results.bound(settings.dtype, known.values())
    lengths = sorted({len(p.corrupted) for p in job.pairs})
    return {
        "model": job.model, "job": job.name, "dtype": settings.dtype, "device": settings.device, "layer": job.layer,
        "heads": len(job.heads[0]) if job.heads else None, "interventions": len(job), "pairs": len(job.pairs),
        "lengths": [lengths[0], lengths[-1]], "rows": job.rows, "bound": bound, "gemm": gemm,
        "floor_flops": floor.floor_flops(job, config), "answers_spread": max(known.values()) - min(known.values()),
        "methods": {name: run.plain(job, known, bound) for name, run in runs.items()},
    }  # fmt: skip
