"""The same worlds on copies of one model in other settings: dtype, attention kernel, batch, device, draw of the pairs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from headlab.claims import Prediction, rule
from headlab.effects import pivot
from headlab.engine.model import Lab, ModelError, open_model
from headlab.engine.run import sweep
from headlab.engine.selfcheck import prove
from headlab.heads import even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair, encode
from headlab.stats import Estimate, clustered_rate
from headlab.trials.case import Bench, draw
from headlab.trials.sweeps import Scope

OPTIONS: Mapping[str, Any] = {
    "dtypes": ("float32", "bfloat16", "float16"),
    "kernels": ("sdpa", "eager"),
    "batches": ("many", "one"),
    "devices": ("own", "cuda"),
    "draws": 5,
    "single_pairs": 24,
}


@dataclass(frozen=True)
class Cell:
    """One setting of the grid; ``draw`` counts draws of pairs, 0 is the claim's own."""

    dtype: str
    kernel: str
    batch: str
    device: str
    draw: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.kernel} {self.batch} {self.device} draw {self.draw}"


def _worlds(lab: Lab, at: int) -> list[World]:
    sets = {"even": even(lab.grid, at), "odd": odd(lab.grid, at), "all": all_heads(lab.grid, at)}
    made = [World(name, (Intervention(h),)) for name, h in sets.items() if len(h)]
    return [*made, World("baseline"), World("noop", (Intervention(sets["all"], write="noop"),))]


def run_grid(scope: Scope) -> tuple[list[tuple[Cell, str]], dict[Cell, Any]]:
    """``(cell, why it could not be run)`` of the whole grid, and the table of each cell that ran."""
    case, option = scope.case, scope.options
    own = str(scope.lab.dtype).removeprefix("torch.")
    dtypes, devices = list(dict.fromkeys([own, *option["dtypes"]])), _devices(scope.lab, option["devices"])
    cells: list[tuple[Cell, str]] = []
    tables: dict[Cell, Any] = {}
    drawn = {0: list(scope.pairs)} | {n: _other_pairs(case, n) for n in range(1, int(option["draws"]))}
    for device, dtype in product(devices, dtypes):
        lab = _copy(scope.lab, dtype, device)
        draws = drawn if (device, dtype) == (devices[0], own) else {0: drawn[0]}
        for kernel, batch, n in product(option["kernels"], option["batches"], draws):
            cell = Cell(dtype, kernel, batch, device, n)
            if n and (kernel, batch) != (option["kernels"][0], option["batches"][0]):
                continue
            if isinstance(lab, str):
                cells.append((cell, lab))
                continue
            few = draws[n][: int(option["single_pairs"])] if batch == "one" else draws[n]
            with _kernel(lab, kernel) as there:
                if not there:
                    cells.append((cell, "this model's own mathematics is not sdpa's, so it never runs it"))
                    continue
                tables[cell] = sweep(
                    lab,
                    few,
                    _worlds(lab, scope.layer),
                    tokens=1 if batch == "one" else None,
                    keep=case.run,
                    progress=case.progress,
                    what=str(cell),
                    memory=case.memory,
                )
            cells.append((cell, ""))
    return cells, tables


def _other_pairs(case: Bench, n: int) -> list[EncodedPair]:
    """Another draw of the task's pairs; of the user's own pairs, another sample of two thirds."""
    if case.test.name != "decimals":
        found = case.test.sample(max(2, 2 * len(case.test) // 3), case.seed + n)
    else:
        found, _ = draw(case.claim.model_copy(update={"seed": case.seed + n}), case.lab.tokenizer, None)
    return [encode(p, case.lab.tokenizer) for p in found]


def _devices(lab: Lab, wanted: Sequence[str]) -> list[str]:
    """The model's own device first, then the others that are there."""
    own = lab.device.type
    others = [d for d in wanted if d not in {"own", own} and (d != "cuda" or torch.cuda.is_available())]
    return [own, *others]


def _copy(lab: Lab, dtype: str, device: str) -> Lab | str:
    """The model in another dtype or place, proven as at loading; or why it cannot be had."""
    if lab.dtype == getattr(torch, dtype) and lab.device.type == device:
        return lab
    try:
        model = copy.deepcopy(lab.model).to(device=device, dtype=getattr(torch, dtype))
        made = open_model(model, tokenizer=lab.tokenizer)
        prove(made)
    except (ModelError, RuntimeError, ValueError) as error:
        return str(error)
    return made


@contextmanager
def _kernel(lab: Lab, kernel: str) -> Iterator[bool]:
    """Calls inside go to this attention kernel; False where the model never uses it."""
    before = [slot.sdpa for slot in lab.slots]
    try:
        if kernel == "eager":
            for slot in lab.slots:
                slot.sdpa = False
        yield kernel == "eager" or all(before)
    finally:
        for slot, was in zip(lab.slots, before, strict=True):
            slot.sdpa = was


SMALL = (
    Prediction(statistic="repair:even", op=">", threshold=0.5),
    Prediction(statistic="repair:odd", op="<", threshold=0.5),
)


def rates(table: Any) -> dict[str, Estimate]:
    """Repair by the sign of the logit difference, on the pairs that this cell shows as clean right, corrupted wrong."""
    fit = table[(table["clean"] > 0) & (table["corrupted"] <= 0)]
    rows = {name: fit[fit["world"] == name] for name in ("even", "odd", "all")}
    return {
        f"repair:{name}": clustered_rate(x["edited"].to_numpy() > 0, clusters=x["cluster"].to_numpy(), unit="pairs")
        for name, x in rows.items()
    }


def small_verdict(rates: Mapping[str, Estimate]) -> tuple[str, float | None, Estimate]:
    """Outcome of the small claim; its margin, how far the deciding interval lies beyond its threshold (negative where it
    straddles it); and that interval.  A refutation stands as long as its clearest refuting prediction does."""
    found = []
    for p in SMALL:
        e = rates[p.statistic]
        gap = None if e.low is None or e.high is None else max(e.low - p.limit, p.limit - e.high)
        found.append((rule(p, e).outcome, gap, e))
    outcomes = [o for o, _, _ in found]
    outcome = next((o for o in ("refuted", "untestable", "undecided") if o in outcomes), "upheld")
    deciding = [(gap, e) for o, gap, e in found if gap is not None and o == outcome]
    if not deciding:
        return outcome, None, found[0][2]
    margin, nearest = (max if outcome == "refuted" else min)(deciding, key=lambda d: d[0])
    return outcome, margin, nearest


def signs_agree(table: Any, reference: Any) -> tuple[Any, Any, float]:
    """[world × pair] whether the signs agree, the clusters, and the largest reference logit difference that turned."""
    worlds = [w for w in ("even", "odd", "all", "baseline") if (table["world"] == w).any()]
    a, b = pivot(table, worlds), pivot(reference, worlds)
    same = (a > 0) == (b > 0)
    one = table.drop_duplicates("pair").sort_values("pair")["cluster"].to_numpy()
    turned = float(np.abs(b)[~same].max()) if not same.all() else 0.0
    return same.ravel(), np.tile(one, len(worlds)), turned


def distance(row: Mapping[str, Any], half: float = 0.5) -> Estimate:
    """How far the deciding rate of a cell lies from its threshold."""
    low, high = sorted((abs(row["nearest_low"] - half), abs(row["nearest_high"] - half)))
    inside, own = row["nearest_low"] <= half <= row["nearest_high"], abs(row["nearest"] - half)
    how = "distance of the rate from its threshold"
    return Estimate(own, 0.0 if inside else low, max(high, own), row["pairs"], "pairs", how, note=setting(row))


def setting(row: Mapping[str, Any]) -> str:
    return f"{row['dtype']}, {row['kernel']}, batch {row['batch']}, {row['device']}, draw {row['draw']}"
