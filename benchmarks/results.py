"""What was measured, round by round, as JSON; and the few statistics that the page gives."""

from __future__ import annotations

import json
import os
import platform
import random
import re
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BOUND = {"float32": 2e-5, "float64": 1e-10, "bfloat16": 0.1, "float16": 2e-2}
"""Largest difference that counts as agreement with the reference, in parts of the largest answer (or of 1 logit)."""
DRAWS = 10_000


def bound(dtype: str, answers: Iterable[float]) -> float:
    """Largest difference from the reference that counts as agreement, in logits."""
    return BOUND[dtype] * max(1.0, *map(abs, answers))


def clock(device: str) -> str:
    """Which of the two clocks is the primary one."""
    return "cpu" if device == "cpu" else "wall"


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of per-round ratios, and a 95 % percentile bootstrap interval of the median.

    Rounds are drawn with replacement.  With few rounds the interval is close to the range; with one it is no interval.
    """
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
    return {
        "median": statistics.median(ratios), "low": medians[int(0.025 * DRAWS)], "high": medians[int(0.975 * DRAWS) - 1],
        "min": min(ratios), "max": max(ratios),
    }  # fmt: skip


def speedup(entry: Mapping[str, Any], method: str, reference: str, which: str) -> dict[str, float] | None:
    """Time of the reference over time of the method, round by round: above 1 the method is faster."""
    ours, theirs = entry["methods"].get(method, {}), entry["methods"].get(reference, {})
    if not (ours.get(which) and theirs.get(which)):
        return None
    pairs = zip(theirs[which], ours[which], strict=False)
    return spread([a / b for a, b in pairs if a is not None and b is not None])


def best_other(entry: Mapping[str, Any], which: str) -> str | None:
    """The fastest method that is not headlab, libraries and hand-written code alike."""
    timed = {
        name: statistics.median(m[which])
        for name, m in entry["methods"].items()
        if m.get(which) and m["family"] != "headlab"
    }
    return min(timed, key=timed.__getitem__) if timed else None


def without_paths(text: str) -> str:
    """A message without the directories of the machine it came from."""
    return re.sub(r"(?:/[\w.@+-]+)+/([\w.@+-]+)", r"\1", text)[:200]


def machine(threads: int, gpu: str | None) -> dict[str, Any]:
    """Processor, cores, threads, system; no names of hosts or people."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), flags=re.M)
        cpu = found[1].strip() if found else cpu
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "gpu": gpu, "system": platform.system(),
            "python": platform.python_version(), "load_at_start": load}  # fmt: skip


def commit(root: Path) -> str | None:
    """The checkout's commit, with ``+`` when files differ from it; None outside git."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain", "src"], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else None


def fresh(settings: Mapping[str, Any], where: Mapping[str, Any], root: Path) -> dict[str, Any]:
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"date": date, "commit": commit(root), "machine": dict(where), "settings": dict(settings), "versions": {},
            "entries": []}  # fmt: skip


def add(data: dict[str, Any], entry: Mapping[str, Any], path: Path) -> None:
    """Put a job's entry in the place of an older one and write the file, which appears whole or not at all."""
    same = (entry["model"], entry["job"])
    data["entries"] = [*(e for e in data["entries"] if (e["model"], e["job"]) != same), dict(entry)]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
