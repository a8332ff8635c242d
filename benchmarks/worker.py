"""One library in one process: reads a request a line, answers a line of JSON, until its input ends.

Requests: ``make`` a folder with model and jobs, ``load``, ``run`` (timed), ``memory``, ``gemm``.  Whatever a library
prints goes to the log; only answers go to the driver.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from source"


def versions_of(package: str) -> dict[str, str]:
    """What a library runs on."""
    return {name: _version(name) for name in dict.fromkeys(("torch", "transformers", package))}


class Worker:
    """Answers requests; imports what is heavy when it is asked for."""

    def __init__(self, family: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.family = family
        self.driven: Any = None
        self.jobs: dict[str, Job] = {}
        self.place: dict[str, str] = {}

    def make(self, model: str, jobs: list[str], folder: str, n: int, device: str, dtype: str) -> dict[str, Any]:
        """Write model, tokenizer and jobs."""
        from transformers import AutoConfig, AutoTokenizer

        from benchmarks import models
        from benchmarks.jobs import build

        home = Path(folder)
        models.make(model, home, device=device, dtype=dtype)
        config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        for name in jobs:
            build(name, model, n, config.num_attention_heads, tokenizer).save(home / f"job-{name}.json")
        return {"ok": True}

    def load(self, folder: str, device: str, dtype: str, jobs: list[str]) -> dict[str, Any]:
        """Load the model as the library wants it."""
        from benchmarks.peers import family

        self.place = {"device": device, "dtype": dtype}
        kind = family(self.family)
        self.driven = kind(folder, device, dtype)
        self.jobs = {name: Job.read(Path(folder) / f"job-{name}.json") for name in jobs}
        return {"versions": versions_of(kind.package)}

    def run(self, job: str, method: str, indices: list[int], rows: int) -> dict[str, Any]:
        """Answers of the interventions, and the seconds they took."""
        from benchmarks.timing import timed

        chosen = self.jobs[job]
        self.driven.prepare(chosen, method, indices)
        answers, cpu, wall = timed(lambda: self.driven.run(chosen, method, indices, rows), self.place["device"])
        return {"answers": answers, "cpu": cpu, "wall": wall}

    def memory(self, job: str, method: str, indices: list[int], rows: int) -> dict[str, Any]:
        """Peak growth of memory over one batch, after one small call (which pays for what is made once)."""
        from benchmarks.timing import peak_growth

        chosen = self.jobs[job]
        self.driven.prepare(chosen, method, indices)
        self.driven.run(chosen, method, indices[:1], rows)
        grown = peak_growth(lambda: self.driven.run(chosen, method, indices, rows), self.place["device"])
        return {"bytes": grown}

    def gemm(self, products: list[list[int]]) -> dict[str, Any]:
        from benchmarks.timing import gemm_rate

        cpu, wall = gemm_rate([tuple(p) for p in products], self.place["device"], self.place["dtype"])
        return {"cpu": cpu, "wall": wall}

    def device(self) -> dict[str, Any]:
        """The accelerator's name, None without one."""
        import torch

        return {"name": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def main(family: str, threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or Worker(family, threads)
            found = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            import traceback

            traceback.print_exc()
            first = (str(error).strip().splitlines() or [""])[0]
            found = {"error": f"{type(error).__name__}: {first}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
