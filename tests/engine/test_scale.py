"""Sweeps in Ray workers: the same table, whatever happens to a worker.

Ray is started once, with room for every test; the engines of the tests join it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from laws import worlds_for
from test_law_plan import Kept

import headlab
from headlab.engine import run, scale
from headlab.engine.decode import generate
from headlab.engine.model import fingerprint
from headlab.engine.run import EngineError, sweep
from headlab.engine.scale import ray as hands_of
from headlab.engine.scale import replica as replicas
from headlab.heads import Heads
from headlab.interventions import Intervention, InterventionError, World
from headlab.prompts import encode
from headlab.store import Store
from headlab.tasks.decimals import decimals

pytest.importorskip("ray", reason="the extra headlab[ray] is not installed")


WHEN = ("prefill", "every_step")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for every test here, with more CPUs than there are, so that no test waits for another's workers."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hands_of, "PATIENCE", 600.0)  # a machine that is busy otherwise
        hands_of.begin("local", cpus=8, gpus=0)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def two(cluster: None) -> Iterator[scale.Ray]:
    with scale.Ray(workers=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def one(cluster: None) -> Iterator[scale.Ray]:
    with scale.Ray(workers=1) as engine:
        yield engine


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def gone(pid: int | None) -> bool:
    """Whether a process has ended, or only waits for its parent to notice."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def fragile(folder: Path, *fates: str) -> tuple[type[replicas.Replica], Path]:
    """Workers that meet these fates, one at each shard: "die" at once, or "hang" until they are killed from outside
    (the file then holds the process's id).
    """
    todo, hung = folder / "fates", folder / "hung"
    todo.write_text("\n".join(fates))

    class Fragile(replicas.Replica):
        def run(self, number: int) -> tuple[str, Any]:
            if left := todo.read_text().split():
                todo.write_text("\n".join(left[1:]))
                if left[0] == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                hung.write_text(str(os.getpid()))
                time.sleep(600)
            return super().run(number)

    return Fragile, hung


def test_any_number_of_workers_makes_the_same_table(one: scale.Ray, two: scale.Ray) -> None:
    """Law 1: a model in memory, every kind of world; bit for bit, with one worker and with two, and once more."""
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    worlds = worlds_for(lab)
    wanted, seen = sweep(lab, pairs, worlds), []
    same(sweep(lab, pairs, worlds, engine=two, progress=lambda _what, done, _total: seen.append(done)), wanted)
    assert seen == sorted(seen) and seen[-1] == len(pairs) * len(worlds)
    workers = [hand.actor for hand in two.hands]
    assert len(workers) == 2 and os.getpid() not in {hand.pid for hand in two.hands}
    same(sweep(lab, pairs[:3], worlds[:4], engine=two), sweep(lab, pairs[:3], worlds[:4]))
    assert [hand.actor for hand in two.hands] == workers, "workers stay for the next sweep"
    same(sweep(lab, pairs, worlds, engine=one), wanted)


def test_a_model_that_changed_is_sent_again(two: scale.Ray) -> None:
    """A step that the driver leaves out, and weights changed in memory, are so in the workers too."""
    lab, pairs = tiny.proved(tiny.hf_model("gpt2")), tiny.equal_pairs(3)
    worlds = [World("z", (tiny.edit(lab, 1, "z"),)), World("v", (tiny.edit(lab, 1, "v", (0,)),))]
    first = sweep(lab, pairs, worlds)
    same(sweep(lab, pairs, worlds, engine=two), first)
    with torch.no_grad():
        next(lab.layers[2].parameters()).mul_(1.5)
    lab.can_resume = lab.can_reuse = lab.can_add = False
    changed = sweep(lab, pairs, worlds)
    assert not changed["edited"].equals(first["edited"])
    same(sweep(lab, pairs, worlds, engine=two), changed)


@pytest.mark.parametrize("losses", [1, pytest.param(3, marks=pytest.mark.accept)])
def test_a_killed_worker_loses_no_row(
    losses: int, cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle of a shard: the same rows, none stored twice.  A shard that kills three workers is named
    (daily one that kills the first, since each that is started anew imports torch)."""
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    worlds, kept, killed = worlds_for(lab)[:6], Kept(), []
    assert hands_of.LOST_AT_MOST == 3

    def tick(_what: str, _done: int, _total: int) -> None:
        if not killed and hung.exists() and hung.read_text():
            killed.append(int(hung.read_text()))
            os.kill(killed[0], signal.SIGKILL)

    with scale.Ray(workers=1) as engine:
        engine.kind, hung = fragile(tmp_path, "hang")
        same(sweep(lab, pairs, worlds, engine=engine, keep=kept, progress=tick), sweep(lab, pairs, worlds))
        assert killed and killed[0] != engine.hands[0].pid
        fragile(tmp_path, *["die"] * losses)
        monkeypatch.setattr(hands_of, "LOST_AT_MOST", losses)
        with pytest.raises(EngineError, match=rf"shard 'len7-\w+' lost its worker {losses} times .killed, crashed"):
            sweep(lab, pairs, worlds, engine=engine)
        assert not engine.hands
    assert capfd.readouterr().out == "", "standard output is for results"


def test_decoding_is_the_same_text_in_workers(two: scale.Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy text of every pair under every world, in shards of four rows; also where a worker is killed at one."""
    monkeypatch.setattr(run, "DECODED_ROWS", 4)
    lab, pairs = tiny.lab("llama"), tiny.mixed_pairs()
    worlds = [World(f"z{h}", (tiny.edit(lab, 1, "z", (h,), write="zero", when=when),)) for h, when in enumerate(WHEN)]
    wanted, seen = generate(lab, pairs, worlds, start="prompt"), []
    made = generate(lab, pairs, worlds, start="prompt", engine=two, progress=lambda _w, done, _n: seen.append(done))
    same(made, wanted)
    assert wanted["text"].nunique() > 3 and seen == sorted(seen) and seen[-1] == len(wanted)
    assert len({hand.pid for hand in two.hands} - {os.getpid()}) == 2
    with scale.Ray(workers=1) as engine:
        engine.kind, _ = fragile(tmp_path, "die")
        same(generate(lab, pairs, worlds, start="prompt", engine=engine), wanted)


def test_errors_come_through_as_themselves(one: scale.Ray) -> None:
    """An error of a shard in a worker is raised once, as it would be here, with the worker's traceback as its note."""
    lab = tiny.lab("llama")
    pair, world = tiny.equal_pairs(1), [World("m", (tiny.edit(lab, 1, "z", write="mean"),))]
    with pytest.raises(InterventionError, match="needs at least two prompts of one length") as here:
        sweep(lab, pair, world)
    with pytest.raises(InterventionError) as there:
        sweep(lab, pair, world, engine=one)
    assert type(there.value) is type(here.value) and str(there.value) == str(here.value)
    assert "in a worker" in there.value.__notes__[0] and not one.hands


def test_a_replica_that_is_not_the_drivers_model_is_refused(tmp_path: Path) -> None:
    """The folder that the driver's model was read from holds another model by now; another torch; another step."""
    lab = headlab.load(tiny.save(tiny.hf_model("gpt2"), tmp_path / "model"))
    seed = {**replicas.proof_of(lab), **replicas.seed_of(lab, "cpu")}
    assert replicas.replica(seed).fingerprint == lab.fingerprint
    with pytest.raises(EngineError, match=r"other software than the driver: torch .* .driver: 1\.0"):
        replicas.replica({**seed, "software": {**seed["software"], "torch": "1.0"}})
    with pytest.raises(EngineError, match=r"did not prove what the driver's model did .how attention is computed"):
        replicas.replica({**seed, "slots": []})
    other = tiny.hf_model("gpt2")
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    tiny.save(other, tmp_path / "model")
    with pytest.raises(EngineError, match=r"has other weights than the driver's model .fingerprint"):
        replicas.replica(seed)


def test_a_module_goes_through_the_store_without_loss() -> None:
    """Weights, buffers that no checkpoint has, and tied weights; what is shared is not written to."""
    for family in ("gemma2", "gpt2"):
        hf = tiny.lab(family).model
        made = replicas.unpack(*replicas.pack(hf, family))
        assert fingerprint(made) == fingerprint(hf)
        buffers = dict(made.named_buffers())
        assert all(torch.equal(buffers[name], b) for name, b in hf.named_buffers())
        assert all(b.data_ptr() != buffers[name].data_ptr() for name, b in hf.named_buffers())
        ids = torch.tensor(tiny.prompts(2, 7))
        assert torch.equal(made(ids).logits, hf(ids).logits)
    with pytest.raises(EngineError, match=r"the model in memory .x. cannot be sent to workers.*save_pretrained"):
        hf = tiny.hf_model("gpt2")
        hf.lock = __import__("threading").Lock()
        replicas.pack(hf, "x")


def test_a_worker_stays_with_its_block() -> None:
    """What is captured of a block's prompts is captured by as few workers as can be; nothing is left over."""
    shards = sweep_shards()
    queue, hands = hands_of.Queue(shards), [hands_of.Hand(None), hands_of.Hand(None)]
    order: list[list[str]] = [[], []]
    while queue:
        for n, hand in enumerate(hands):
            if shard := queue.take(hand, hands):
                hand.shard, hand.block = shard, hands_of.block_of(shard)
                order[n].append(shard.name)
    assert sorted(order[0] + order[1]) == sorted(s.name for s in shards)
    blocks = [[next(s.block for s in shards if s.name == name) for name in names] for names in order]
    assert blocks[0] == [(0,)] * 2 + [(2,)] and blocks[1] == [(1,)] * 2 + [(2,)]


def sweep_shards() -> list[Any]:
    from headlab.engine.plan import Shard

    return [Shard(f"{b}-{n}", 7, (b,), n, ((b, n),), ()) for b in range(3) for n in range(2)]


def test_what_cannot_be_asked() -> None:
    for options, told in (
        ({"engine": "rey"}, "no engine 'rey'; did you mean ray. expected one of here, ray"),
        ({"workers": 2}, "--workers and --ray-address go with --engine ray"),
        ({"engine": "ray", "workers": 0}, "workers is 0; expected a whole number of at least 1"),
        ({"engine": sweep, "workers": 2}, "this one has its own"),
    ):
        with pytest.raises(scale.ScaleError, match=told):
            scale.pick(**options)  # type: ignore[arg-type]
    assert scale.pick().settings == {"engine": "here", "workers": 1}
    assert scale.pick("ray", 3).settings == {"engine": "ray", "workers": 3}
    own = scale.Ray(2, threads=3)
    assert (scale.pick(own).settings, scale.pick(own).threads) == ({"engine": "ray", "workers": 2}, 3)


def test_what_does_not_fit(cluster: None) -> None:
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(3)
    worlds = [World("z", (tiny.edit(lab, 1, "z"),))]
    for options, told in (
        ({"workers": 9}, "9 workers of 1 CPU.s. and 0 GPU.s. each do not fit into this Ray, which has room for 8"),
        ({"gpus_per_worker": 1}, "room for 0"),
        ({"device": "cuda"}, "workers on cuda for a model on cpu: the numbers of two kinds of device"),
    ):
        with pytest.raises(scale.ScaleError, match=told):
            sweep(lab, pairs, worlds, engine=scale.Ray(**options))


def test_nobody_at_an_address() -> None:
    with pytest.raises(scale.ScaleError, match=r"no Ray at '127\.0\.0\.1:1': .*refused; start one with `ray start"):
        hands_of.begin("127.0.0.1:1")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from headlab.cli.errors import explain

    monkeypatch.setattr(hands_of, "find_spec", lambda name: None)
    with pytest.raises(scale.ScaleError) as told:
        scale.pick("ray")
    how = "pip install 'headlab[ray]', in a clone pip install -e '.[ray]'"
    assert explain(told.value) == (f"--engine ray needs the extra: {how}", 2)


def test_choosing_an_engine_loads_neither_torch_nor_ray() -> None:
    code = "import sys, headlab.cli, headlab.engine.scale as s; s.pick('ray'); sys.exit(bool({'ray', 'torch'} & {*sys.modules}))"
    path = str(Path(headlab.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_trial_in_workers_is_the_same_trial(two: scale.Ray, tmp_path: Path) -> None:
    """The same table and key (a run's identity does not say where it ran); the record says where."""
    lab = headlab.load("decimals-planted-even")
    small = {"layer": 1, "pairs": 12, "matched_sets": 20, "protocol": "standard"}
    here = headlab.trial("parity", lab, store=tmp_path / "here", **small)
    there = headlab.trial("parity", lab, store=Store(tmp_path / "there"), engine=two, **small)
    same(there.effects, here.effects)
    assert there.record.key == here.record.key and there.verdict == here.verdict
    assert [r.record.settings[k] for r in (here, there) for k in ("engine", "workers")] == ["here", 1, "ray", 2]
    assert two.hands, "an engine that was given stays with its owner"


def test_shards_are_stored_as_they_come(two: scale.Ray) -> None:
    """Ctrl-C lets the workers go; what was done is stored, and the sweep is taken up here, to the same table."""
    lab = headlab.load("decimals-planted-even")
    pairs = [encode(p, lab.tokenizer) for p in decimals(12)]
    halves = [Heads.of(at, some) for at in range(lab.grid.n_layers) for some in combinations(range(8), 2)]
    worlds = [World(str(n), (Intervention(heads),)) for n, heads in enumerate(halves)]
    wanted, kept = sweep(lab, pairs, worlds), Kept()
    pids: list[int | None] = []

    def stop(_what: str, _done: int, _total: int) -> None:
        if kept.shards:
            pids.extend(hand.pid for hand in two.hands)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(lab, pairs, worlds, engine=two, keep=kept, progress=stop)
    assert len(kept.shards) == 1 and not two.hands and pids and all(gone(pid) for pid in pids if pid)
    kept.computed.clear()
    same(sweep(lab, pairs, worlds, keep=kept), wanted)
    assert kept.computed, "what was not stored is computed here"


@pytest.mark.accept
def test_the_guides_python_runs(cluster: None) -> None:
    page = Path(__file__).parents[2] / "docs" / "scale.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S)
    exec(block, {})


@pytest.mark.accept
def test_the_command_line_gives_the_same_table(tmp_path: Path) -> None:
    """Ray started by the command itself: nothing but progress on stderr, no files where it was called."""
    path = str(Path(headlab.__file__).parents[1])
    words = ["trial", "parity", "-m", "decimals-planted-even", "--layer", "1", "--pairs", "20", "--matched-sets", "120"]
    words += ["--anyway"]
    tables = []
    for name, more in (("here", []), ("there", ["--engine", "ray", "--workers", "2"])):
        done = subprocess.run(
            [sys.executable, "-m", "headlab", *words, "--json", "--store", name, *more],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0 and not re.sub(r"^.*: \d+/\d+.*\n", "", done.stderr, flags=re.M), done.stderr
        store = Store(tmp_path / name)
        tables.append(store.tables(store.records()[0][0].id)["effects"])
    same(tables[1], tables[0])
    assert {p.name for p in tmp_path.iterdir()} == {"here", "there"}
