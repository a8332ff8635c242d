"""Sweeps that are interrupted, damaged, bounded and repeated: nothing lost, nothing twice, memory kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny

from headlab.engine import plan as planning
from headlab.engine.run import sweep
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.store import Store

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1] / "src")])}


def script(code: str, *arguments: object) -> Any:
    """What a fresh process prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().split("\n")[-1])


# A process that has loaded the model forks one that sweeps; that one is killed, and another takes its run up.
KILL = """
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
import tiny
import pandas, pyarrow.parquet
from headlab.engine import plan, work
from headlab.engine.run import sweep
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.store import Store

plan.SHARD_ROWS = 50
root, moments = Path(sys.argv[1]), int(sys.argv[2])
lab = tiny.lab("llama")
pairs = tiny.mixed_pairs()
worlds = [World("baseline")] + [
    World(f"{site}{layer}.{h}", (tiny.edit(lab, layer, site, (h, 9), amount=0.5 + h / 20),))
    for layer, site in ((1, "z"), (0, "q"), (2, "z"), (1, "pattern")) for h in range(9)
]
real = work.Worker.run

def child(home):
    log = open(home.with_suffix(".log"), "a")
    def noted(self, shard, tick=None):
        made = real(self, shard, tick)
        print(shard.name, file=log, flush=True)
        time.sleep(0.005)
        return made
    work.Worker.run = noted
    with Store(home).open(kind="run", slug="killed", title="", inputs={"n": 1}, draft={}) as run:
        run.table("effects", sweep(lab, pairs, worlds, keep=run, tokens=150))
        run.finish()

def start(home):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child(home)
            code = 0
        finally:
            os._exit(code)
    return pid

def table(home):
    (found,) = home.glob("*/effects.parquet")
    return hashlib.sha256(found.read_bytes()).hexdigest()

def complete(home):
    return [json.loads(p.read_text())["status"] for p in home.glob("*/record.json")] == ["complete"]

def marks(home):
    return {json.loads(p.read_text())["name"].removeprefix("sweep-") for p in home.glob("*/shards/*.json")}

begun = time.monotonic()
assert os.waitpid(start(root / "whole"), 0)[1] == 0
lasted = time.monotonic() - begun
whole = (root / "whole.log").read_text().split()
assert len(whole) == len(set(whole))
rng, out = random.Random(0), []
for n in range(moments):
    home = root / f"killed{n}"
    pid = start(home)
    time.sleep(rng.random() * lasted)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    stored, finished = marks(home), complete(home)
    home.with_suffix(".log").write_text("")
    if not finished:
        assert os.waitpid(start(home), 0)[1] == 0
    again = home.with_suffix(".log").read_text().split()
    out.append({
        "killed": status == signal.SIGKILL, "stored": len(stored), "again": len(again),
        "disjoint": not set(again) & stored, "all": finished or set(again) | stored == set(whole),
        "twice": len(again) - len(set(again)), "same": table(home) == table(root / "whole"),
    })
print(json.dumps({"shards": len(whole), "seconds": lasted, "moments": out}))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.accept)])
def test_kill_9_at_random_moments_loses_nothing_and_changes_nothing(kills: int, tmp_path: Path) -> None:
    """The resumed table is the unbroken one's file, bit for bit; no shard is run twice."""
    found = script(KILL, tmp_path, kills)
    moments = found["moments"]
    assert len(moments) == kills and found["shards"] >= 12
    for m in moments:
        assert m["same"] and m["disjoint"] and m["all"] and m["twice"] == 0, m
    inside = [m for m in moments if m["killed"] and 0 < m["stored"] < found["shards"]]
    assert len(inside) >= 2 * kills // 5, f"too few kills came in the middle of the sweep to show anything: {moments}"


def some_worlds(n: int = 24) -> list[World]:
    return [World(f"w{i}", (Intervention(Heads.of(1, [i % 10]), amount=(i + 1) / n),)) for i in range(n)]


def interrupted(root: Path, after: int) -> None:
    """A run that stops after some shards."""
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()

    def stops(_what: str, done: int, _total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), opened(root) as run:
        sweep(lab, pairs, some_worlds(), keep=run, progress=stops)


def opened(root: Path) -> Any:
    return Store(root).open(kind="run", slug="lasting", title="", inputs={"n": 1}, draft={})


def test_damaged_shards_are_found_run_again_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard cut short, one with a flipped bit, one without its mark: the same table, and the record says so."""
    monkeypatch.setattr(planning, "SHARD_ROWS", 20)
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    whole = sweep(lab, pairs, some_worlds())
    interrupted(tmp_path, after=120)
    files = sorted(tmp_path.glob("*/shards/*.parquet"))
    assert len(files) >= 5
    files[0].write_bytes(files[0].read_bytes()[:-100])
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 1
    files[1].write_bytes(bytes(data))
    files[2].with_suffix(".json").unlink()
    with opened(tmp_path) as run:
        again = sweep(lab, pairs, some_worlds(), keep=run)
        warnings = run.record.warnings
    pd.testing.assert_frame_equal(again, whole, check_exact=True)
    assert len([w for w in warnings if "was damaged (its checksum does not hold) and was computed again" in w]) == 2


MEMORY = """
import ctypes, gc, json, random, sys
import tiny
from transformers import LlamaConfig, LlamaForCausalLM
from headlab.engine.run import sweep
from headlab.heads import Heads
from headlab.interventions import Intervention, World

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def growth(work):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before

config = LlamaConfig(num_hidden_layers=5, hidden_size=256, num_attention_heads=16, num_key_value_heads=4,
                     intermediate_size=704, vocab_size=2000, max_position_embeddings=512, pad_token_id=None)
lab = tiny.proved(LlamaForCausalLM(config).eval())
rng = random.Random(0)

def pair(i, length):
    draw = lambda: tiny.encoded([rng.randrange(3, 1900) for _ in range(length)])
    return tiny.pair(f"p{i}", draw(), draw())

def worlds(kind, n):
    def one(i):
        dose = (i + 1) / n
        if kind == "layers":
            return Intervention(Heads.of(i % 5, range(16)), amount=dose)
        if kind == "noise":
            return Intervention(Heads.of(1, [i % 16]), "z", "noise", amount=dose)
        return Intervention(Heads.of(1, range(16)), kind, amount=dose)
    return [World(f"w{i}", (one(i),)) for i in range(n)]

JOBS = [("z", 24, 250, 1), ("pattern", 24, 250, 1), ("noise", 24, 250, 1), ("layers", 24, 10, 20),
        ("z", 150, 40, 1), ("pattern", 150, 3, 8), ("q", 150, 40, 1)]
sweep(lab, [pair(0, 24)], worlds("z", 8))
out = []
for kind, length, n, pairs in JOBS if sys.argv[1] == "whole" else JOBS[3:6]:
    some = [pair(i, length) for i in range(pairs)]
    for bound in (40, None):
        size = None if bound is None else bound * 2**20
        grown = growth(lambda: sweep(lab, some, worlds(kind, n), memory=size, tokens=10**6))
        out.append([kind, length, bound, grown / 2**20])
print(json.dumps(out))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("jobs", ["three", pytest.param("whole", marks=pytest.mark.accept)])
def test_a_bound_in_bytes_is_kept(jobs: str) -> None:
    """Peak resident memory over the loaded model, in a fresh process, for edits of every kind and two lengths."""
    found = script(MEMORY, jobs)
    for kind, length, bound, grown in found:
        if bound is not None:
            assert grown <= bound, f"{kind} at {length} tokens took {grown:.1f} MiB of {bound} MiB"
    free = {(kind, length): grown for kind, length, bound, grown in found if bound is None}
    assert sum(grown > 60 for grown in free.values()) >= len(free) // 2, f"too small to show a bound: {free}"


SOAK = """
import json, sys
import tiny
from headlab.engine.run import sweep
from headlab.interventions import World

lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
worlds = [World("baseline")] + [
    World(f"{site}{layer}.{h}", (tiny.edit(lab, layer, site, (h,), amount=0.5 + h / 20),))
    for layer, site in ((1, "z"), (0, "q"), (2, "z"), (1, "pattern")) for h in range(9)
]

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

seen = []
for n in range(int(sys.argv[1])):
    sweep(lab, pairs, worlds, tokens=300)
    seen.append(resident())
print(json.dumps(seen))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
@pytest.mark.accept
def test_fifty_sweeps_leave_the_process_as_large_as_ten() -> None:
    seen = script(SOAK, 50)
    assert max(seen[40:]) - max(seen[5:15]) < 5, f"resident memory grew, MiB: {seen}"
