"""The kept numbers of the docket: each trial of :func:`cases` as tables of cells, and how two such tables differ.

``python tests/experiments/golden.py`` runs every case and writes ``golden/`` anew, printing each cell that changed;
``… golden.py 'parity.*' claims`` only those (patterns).  Only on purpose: a changed cell is named in CHANGELOG.md.

Kept of each case: the record's readings (outcome, rulings, controls, estimates with intervals), eligibility and settings,
the figures' names and sizes, and every table, as CSV under xz.  Floats are rounded to :data:`DIGITS` significant digits;
a cell is the same within ``1e-5 + 1e-4 |kept|``, text and counts exactly.  Left out: words (they may be put better), times,
ids of runs, and the cells of :data:`NOT_KEPT`.

Every case runs in a process whose libraries keep to what all x86-64 processors have (:data:`ALIKE`), since kinds of
processor sum in other orders: logits of magnitude 20 were up to 1.3e-4 apart between AVX2 and AVX-512.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sizes import DECIMALS, SERIES, THOUGHTS, WEIGHTS, small

from headlab import organisms
from headlab.experiments.scorecard import scorecard
from headlab.experiments.subsets.simulator import simulated
from headlab.experiments.thought_scorecard import thought_scorecard
from headlab.experiments.training.across_models import cross_model
from headlab.experiments.trial import builtin_claims, trial

FOLDER = Path(__file__).parent / "golden"
CLAIMS = FOLDER / "claims.json"
COSTS = FOLDER / "seconds.json"
SHIPPED = str(Path(organisms.__file__).parent / "weights")
"""Where shipped models lie on this machine, which names the steps of a series."""
DIGITS = 5
NOT_KEPT = {"id", "seconds", "memory_bytes", "threads", "loading", "engine", "run", "record"}
NOT_KEPT |= {"claim", "source", "words", "reason", "why_not", "note", "rule", "asked"}
"""Columns and settings that differ from run to run or machine to machine; and words."""

ALIKE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""The environment of that process; and products in 16 bits are torch's own, not oneDNN's."""

Rows = list[list[str]]
Tables = dict[str, Rows]
"""A table's name to its rows, the header first."""


# -- what is tried ------------------------------------------------------------------------------------------


def cases() -> dict[str, Callable[..., Any]]:
    """``SLUG.MODEL`` to what tries it (called with ``store=``)."""
    both: Any = ("standard", "published")
    found: dict[str, Callable[..., Any]] = {}

    def add(slug: str, own: dict[str, Any], model: str, **fields: Any) -> None:
        found[f"{slug}.{model}"] = partial(trial, small(slug, own, **fields), model)

    for slug, own in DECIMALS.items():
        add(slug, own, "decimals-natural", layer=0, readings=both)
        add(slug, own, "decimals-planted-even", layer=1, readings=both[:1])
        if slug not in {"head-count", "robustness"}:
            add(slug, own, "decimals-natural-neox", layer=0, readings=both[:1])
    for slug, own in WEIGHTS.items():
        for model in ("decimals-planted-clustered", "decimals-natural-neox"):
            add(slug, own, model, layer=1)
    for slug, own in SERIES.items():
        add(slug, own, "decimals-series-planted")
    for slug, own in THOUGHTS.items():
        add(slug, own, "thoughts-gpt2")
        if slug not in {"transplant", "compare-models", "difficulty"}:  # the second model of these is a Llama, or dear
            add(slug, own, "thoughts-llama")
    add("null-rates", {"options": {"relabellings": 3}}, "decimals-natural-gemma")
    add("parity", {"pairs": 100, "matched_sets": 40}, "decimals-null-8", layer=0)  # pairs enough for a verdict
    for slug, model, layer in (("parity", "decimals-planted-even", 1), ("pattern-swap", "decimals-natural", 0)):
        walked = small(slug, DECIMALS[slug], layer=layer, readings=both[:1], decide="sequential")
        found[f"{slug}.{model}.sequential"] = partial(trial, walked, model)
    found["cross-model.decimals-null-1"] = partial(
        cross_model, ["decimals-null-1", "no-such-folder/model"], pairs=12, matched_sets=19, protocol="standard"
    )
    some = ["routing", "architecture", "bandwidth"]
    found["scorecard.decimals-null-1"] = partial(
        scorecard, "decimals-null-1", experiments=some, pairs=12, protocol="standard"
    )
    found["thought-scorecard.thoughts-gpt2"] = partial(
        thought_scorecard, "thoughts-gpt2", experiments=["forced-patterns"], pairs=12
    )
    found["simulator.none"] = simulated
    return found


def sampled(seed: int, budget: float = 6.0) -> list[str]:
    """Cases of at most 1.5 s drawn at random whose kept seconds fill ``budget``."""
    costs = json.loads(COSTS.read_text(encoding="utf-8"))
    names = sorted(cases())
    random.Random(seed).shuffle(names)
    chosen, spent = [], 0.0
    for name in names:
        if costs.get(name, 0.0) <= 1.5 and spent + costs.get(name, 0.0) <= budget:
            chosen.append(name)
            spent += costs.get(name, 0.0)
    return sorted(chosen)


def claim_hashes() -> dict[str, str]:
    """Each shipped claim's hash, by id."""
    return {name: claim.content_hash() for name, claim in sorted(builtin_claims().items())}


# -- a result as tables of text -----------------------------------------------------------------------------


def cell(value: Any) -> str:
    """A value as it is kept: floats rounded, what is no number empty, lists as JSON."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str, sort_keys=True)
    return str(value)


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested data with their places, without :data:`NOT_KEPT`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in NOT_KEPT:
                yield from flat(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping | list | tuple) for v in value):
        for i, inner in enumerate(value):
            yield from flat(inner, f"{place}.{i}")
    else:
        yield place, value


def tables_of(result: Any) -> Tables:
    """Everything that is kept of a result."""
    record = result.record
    made: dict[str, list[Any]] = {
        "outcomes": [["reading", "outcome"]],
        "rulings": [["reading", "statistic", "op", "threshold", "outcome", "value", "low", "high"]],
        "controls": [["reading", "control", "kind", "passed", "value"]],
        "estimates": [["reading", "name", "arm", "value", "low", "high", "n", "unit", "method"]],
        "facts": [["place", "value"]],
        "figures": [["name", "kind", "rows"], *([f.name, f.kind, len(f.data)] for f in result.figures)],
    }
    for r in record.readings:
        made["outcomes"].append([r.protocol, r.verdict.outcome])
        for one in r.verdict.rulings:
            asked = one.prediction
            said = (asked.statistic, asked.op, asked.threshold, one.outcome, one.value, one.low, one.high)
            made["rulings"].append([r.protocol, *said])
        made["controls"] += [[r.protocol, c.name, c.kind, c.passed, c.value] for c in r.verdict.controls]
        for e in r.estimates:
            told = e.estimate
            made["estimates"].append([r.protocol, e.name, e.arm, *(told[k] for k in made["estimates"][0][3:])])
    facts = {"eligibility": record.eligibility, "settings": record.settings}
    made["facts"] += flat(facts)
    for name, frame in result.tables.items():
        if name == "attended":  # a picture of the unedited model for the page: no number of a claim
            continue
        kept = [c for c in frame.columns if c not in NOT_KEPT]
        made[f"table {name}"] = [kept, *frame[kept].itertuples(index=False, name=None)]
    return {name: [[cell(v).replace(SHIPPED, "weights") for v in row] for row in rows] for name, rows in made.items()}


# -- kept and compared --------------------------------------------------------------------------------------


def place_of(case: str) -> Path:
    return FOLDER / f"{case}.xz"


def write(case: str, tables: Tables) -> None:
    """All tables of a case in one file: a line with the name and number of rows before each."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    for name, rows in tables.items():
        out.writerow([name, len(rows)])
        out.writerows(rows)
    place_of(case).write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))


def read(case: str) -> Tables:
    lines = csv.reader(io.StringIO(lzma.decompress(place_of(case).read_bytes()).decode(), newline=""))
    return {name: [next(lines) for _ in range(int(n))] for name, n in lines}


def same(kept: str, found: str) -> bool:
    """Whether two cells agree: as text, or as numbers of which one is no whole number."""
    if kept == found:
        return True
    try:
        a, b = float(kept), float(found)
    except ValueError:
        return False
    whole = kept.lstrip("-").isdigit() and found.lstrip("-").isdigit()
    return not whole and math.isfinite(a) and abs(a - b) <= 1e-5 + 1e-4 * abs(a)


def differences(kept: Tables, found: Tables) -> list[str]:
    """Every cell that is not as it was kept, in words: which table, row (with its texts), column, before and after."""
    said = [f"{name}: gone" for name in kept if name not in found]
    said += [f"{name}: new" for name in found if name not in kept]
    for name in kept:
        if name not in found:
            continue
        (old_head, *old), (new_head, *new) = kept[name], found[name]
        if old_head != new_head:
            said.append(f"{name}: columns {old_head}, now {new_head}")
        if len(old) != len(new) and name != "facts":
            said.append(f"{name}: {len(old)} rows, now {len(new)}")
        if name == "facts":  # settings may join; a kept one may not change
            now = dict(new)
            said += [f"facts: {k}: {v!r}, now {now.get(k)!r}" for k, v in old if k not in now or not same(v, now[k])]
            continue
        columns = [(old_head.index(c), new_head.index(c), c) for c in old_head if c in new_head]
        for i, (a, b) in enumerate(zip(old, new, strict=False)):
            for j, k, column in columns:
                if not same(a[j], b[k]):
                    told = " ".join(v for v in a[:6] if v and not _number(v))
                    said.append(f"{name}: row {i} ({told}), {column}: {a[j]!r}, now {b[k]!r}")
    return said


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def tried(case: str) -> Tables:
    """The case run now, in a store of its own."""
    with tempfile.TemporaryDirectory() as store:
        return tables_of(cases()[case](store=Path(store)))


class Alike:
    """A process of :data:`ALIKE` that runs cases; ``with Alike() as run: run.tried(case)``."""

    def __enter__(self) -> Alike:
        words, pipe = [sys.executable, str(Path(__file__).resolve()), "--answer"], subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **ALIKE})
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # no more is asked: it ends

    def tried(self, case: str) -> Tables:
        """As :func:`tried` there.  Raises RuntimeError with its traceback where that raises."""
        asked, answers = self.process.stdin, self.process.stdout
        assert asked and answers
        print(case, file=asked, flush=True)
        if not (line := answers.readline()):
            raise RuntimeError(f"{case}: the process that runs cases ended with {self.process.wait()}")
        answer = json.loads(line)
        if "raised" in answer:
            raise RuntimeError(f"{case}: {answer['raised']}")
        return answer["tables"]


def answer() -> None:
    """For each name of a case on standard input, a line of JSON: its tables, or what was raised."""
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)
    lines, sys.stdout = sys.stdout, sys.stderr  # nothing that is printed by the way may stand among the answers
    for line in sys.stdin:
        try:
            said: dict[str, Any] = {"tables": tried(line.strip())}
        except Exception:
            said = {"raised": traceback.format_exc()}
        print(json.dumps(said), file=lines, flush=True)


def main(patterns: list[str]) -> None:
    """Write the cases that match (all, and the claims' hashes, where no pattern is given); print what changed."""
    FOLDER.mkdir(exist_ok=True)
    wanted = patterns or ["*"]
    costs = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.is_file() else {}
    if any(fnmatchcase("claims", p) for p in wanted):
        CLAIMS.write_text(json.dumps(claim_hashes(), indent=1) + "\n", encoding="utf-8")
    with Alike() as run:
        for case in cases():
            if not any(fnmatchcase(case, p) for p in wanted):
                continue
            start = time.monotonic()
            tables = run.tried(case)
            costs[case] = round(time.monotonic() - start, 1)
            changed = differences(read(case), tables) if place_of(case).is_file() else ["new"]
            if changed:
                write(case, tables)
            print(f"{case} ({costs[case]} s): {len(changed)} changed", *changed[:20], sep="\n  ", flush=True)
    costs = {c: costs[c] for c in sorted(cases()) if c in costs}
    COSTS.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")
    for gone in set(FOLDER.glob("*.xz")) - {place_of(c) for c in cases()}:
        print(f"{gone.name} is no case any more: removed")
        gone.unlink()


if __name__ == "__main__":
    answer() if sys.argv[1:] == ["--answer"] else main(sys.argv[1:])
