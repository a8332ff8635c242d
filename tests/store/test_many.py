"""Thousands of runs, and many trials in one process: what they cost."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from headlab.store import Store, files

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
ASK = """
import contextlib, io, sys, time
from headlab.cli import main
began = time.process_time()
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert main([*sys.argv[2:], "--store", sys.argv[1]]) == 0
print(time.process_time() - began, len(out.getvalue().splitlines()), out.getvalue().splitlines()[-1])
"""
SQL = "SELECT outcome, count(*) AS n, avg(edited) FROM runs JOIN effects USING (run_id) GROUP BY outcome"
SOAK = """
import json, resource, sys
import headlab
from headlab.store import Store
sizes = []
lab = headlab.load("decimals-planted-even")
for n in range(int(sys.argv[2])):
    headlab.trial("parity", lab, layer=1, pairs=4, matched_sets=3, protocol="standard", seed=n, store=sys.argv[1])
    pages = int(open("/proc/self/statm").read().split()[1])
    sizes.append(pages * resource.getpagesize())
print(json.dumps(sizes))
"""


def python(code: str, *words: str) -> str:
    out = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert out.returncode == 0, out.stderr
    return out.stdout


def many(root: Path, n: int) -> Path:
    """``n`` runs of 8 rows and a record of ordinary size, through the store's own layout; the index has read them."""
    store = Store(root)
    with store.open(kind="run", slug="parity", title="", inputs={}, draft={"notes": ["x" * 8000]}) as run:
        run.table("effects", pd.DataFrame({"pair": range(8), "edited": 0.5}))
        made = run.finish()
    body, table = made._body(), (root / made.id / "effects.parquet").read_bytes()
    for i in range(n - 1):
        id = f"parity-{i:08x}"
        text = body.replace(made.id, id)
        (root / id).mkdir()
        (root / id / "effects.parquet").write_bytes(table)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (root / id / "record.json").write_text(f'{text}\n "digest": "{digest}"\n}}\n')
    return root


def asked(root: Path, n: int, times: int = 2) -> list[dict[str, float]]:
    """Processor time of each command in a process of its own, what it imports included: at first, and again."""
    found = []
    for _ in range(times):
        took = {}
        for name, words in {"list": ["list"], "query": ["query", SQL]}.items():
            seconds, lines, last = python(ASK, str(root), *words).split(maxsplit=2)
            assert (int(lines) > n) if name == "list" else str(8 * n) in last, (lines, last)
            took[name] = float(seconds)
        found.append(took)
    return found


def test_hundreds_of_runs_cost_little(tmp_path):
    """A sample of the next: 300 runs; the bound is loose, quadratic cost would be far beyond it."""
    (took,) = asked(many(tmp_path, 300), 300, times=1)
    assert took["list"] < 5 and took["query"] < 5, took


@pytest.mark.accept
def test_five_thousand_runs(tmp_path):
    """``list`` in 2 s and ``query`` in 4 s of processor time, at most 6 times what 1,000 cost."""
    (_, small), (first, large) = (asked(many(tmp_path / str(n), n), n) for n in (1000, 5000))
    print(first, large, small)
    assert large["list"] <= 2 and large["query"] <= 4, large
    assert all(large[k] <= 6 * small[k] for k in large), (small, large)


@pytest.mark.accept
def test_fifty_trials_in_one_process_do_not_grow(tmp_path):
    """Resident memory after trial 50 is less than 20 MB above that after trial 10."""
    sizes = json.loads(python(SOAK, str(tmp_path), "50"))
    print([round(s / 2**20) for s in sizes])
    assert sizes[49] - sizes[9] < 20 * 2**20, [round(s / 2**20) for s in sizes]
