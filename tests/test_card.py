"""``benchmarks/gpu.sh``: here without a card, everything up to the kernels; the 8B shape on the meta device.

The script is run as a stranger runs it; what it checks is broken on purpose and must be told; a section that fails or is
too slow costs its own finding and no other; the page says what was run and what was not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import page
from benchmarks.card import __main__ as card
from benchmarks.card import measured, sections, waits
from benchmarks.card.room import Room
from benchmarks.models import MODELS

from headlab.engine import work

ROOT = Path(__file__).parents[1]
HERE = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def script(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(out), *words]
    return subprocess.run(command, capture_output=True, text=True, env=HERE, cwd=out.parent)


def tried(out: Path, *words: str) -> dict:
    done = script(out, "--tiny", "--device", "cpu", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_the_script_runs_without_a_card(tmp_path: Path) -> None:
    """A sample of the next, in this process: the plan, the loop on the meta device, the halving of a played refusal."""
    words = ["--tiny", "--device", "cpu", "--only", "plan,waits,memory"]
    data = card.run(card.arguments([str(tmp_path / "out.json"), *words]))
    assert json.loads((tmp_path / "out.json").read_text()) == data
    found = {name: one["found"] for name, one in data["card"].items()}
    assert {one["status"] for one in data["card"].values()} == {"ok"}, data["card"]
    assert found["memory"]["holds"] and found["memory"]["played"] and found["memory"]["halved"]
    assert found["waits"]["on"] == "meta" and min(v for v in found["waits"].values() if v != "meta") > 0
    assert not any(str(ROOT) in line for line in (tmp_path / "out.json").read_text().splitlines())


@pytest.mark.accept
def test_the_whole_script_runs_without_a_card(tmp_path: Path) -> None:
    data = tried(tmp_path / "out.json")
    assert list(data["card"]) == list(card.SHARES) and all(s["status"] == "ok" for s in data["card"].values())
    assert all(one["holds"] for one in data["card"]["laws"]["found"].values())
    assert [e["job"] for e in data["entries"]] == list(measured.JOBS)
    for entry in data["entries"]:
        ran = {name: m for name, m in entry["methods"].items() if m["status"] == "ok"}
        assert {"hf-loop", "hf-rows", "headlab"} <= set(ran) and all(m["agrees"] for m in ran.values()), entry
    assert all(data["card"]["thinking"]["found"]["agree"].values())
    assert data["card"]["loss"]["found"]["largest relative difference"] < 1e-3
    text = page.page([{**data, "settings": {**data["settings"], "device": "cuda"}}])
    assert "a try of the script, no measurement" in text and "share of the card's rate" in text


def test_a_section_that_fails_or_is_slow_is_written_down_and_costs_no_other(tmp_path: Path) -> None:
    data, out = {"card": {}}, tmp_path / "out.json"

    def breaks():
        yield "first", 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    def slow():
        yield "first", 2
        time.sleep(5)
        yield "second", 3

    began = time.monotonic()
    card.section(data, out, "rate", breaks, 60)
    card.section(data, out, "laws", slow, 0.3)
    card.section(data, out, "memory", lambda: iter([("x", 4)]), 60)
    kept = json.loads(out.read_text())["card"]
    assert time.monotonic() - began < 4 and kept == data["card"]
    assert [s["status"].split(":")[0] for s in kept.values()] == ["failed", "out of time", "ok"]
    assert [s["found"] for s in kept.values()] == [{"first": 1}, {"first": 2}, {"x": 4}]


@pytest.mark.parametrize(
    "words", [["--device", "cpu"], ["--only", "laws,lunch"], ["--minutes", "0"], ["--minutes", "nan"]]
)
def test_what_cannot_be_run_is_said(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        card.arguments([str(tmp_path / "out.json"), *words])
    assert ended.value.code == 2 and len(capsys.readouterr().err.splitlines()) < 9


def test_without_a_card_the_result_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    with pytest.raises(SystemExit, match="finds no GPU"):
        card.run(card.arguments([str(tmp_path / "out.json")]))
    assert json.loads((tmp_path / "out.json").read_text())["failed"] == "torch finds no GPU"


def test_the_8b_shape_is_planned_without_its_weights() -> None:
    """8.03 billion parameters by hand; a batch of Z holds all 512 rows, and its estimate fits a card beside 16 GB."""
    room = Room("cpu", False, time.monotonic() + 60)
    layers, d, inner, words = 32, 4096, 14336, 128256
    each = 2 * d * d + 2 * d * 1024 + 3 * d * inner + 2 * d
    assert sum(p.numel() for p in room.meta.model.parameters()) == layers * each + 2 * words * d + d
    assert room.meta.device.type == "meta" and room.meta.head_dim == 128 and room.meta.can_add
    from headlab.engine.run import plan_of, row_cost

    pairs, worlds = _swept(room, "Z")
    made = plan_of(room.meta, pairs, worlds, tokens=None, memory=None)
    assert (made.passes, made.rows) == (1, 512) and 2**30 < made.peak_bytes(row_cost(room.meta)) < 8 * 2**30
    assert MODELS["llama-8b-like"].cuda_only


@pytest.mark.accept
def test_no_batch_of_the_8b_shape_waits() -> None:
    room = Room("cpu", False, time.monotonic() + 60)
    for name in ("Z", "P", "last"):
        assert waits.batches(room.meta, *_swept(room, name), tokens=6000) >= 1


def _swept(room: Room, name: str):
    from benchmarks.peers.headlab_ import Driven

    room.__dict__["ours"] = Driven.__new__(Driven)
    return room.swept(name)


@pytest.mark.parametrize("said", ["CUDA out of memory", "CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED "
                                  "when calling `cublasCreate(handle)`", "MPS backend out of memory",
                                  "DefaultCPUAllocator: can't allocate memory"])  # fmt: skip
def test_every_way_to_say_that_there_is_no_memory_is_known(said: str) -> None:
    """The allocator's, the driver's and the libraries' words; another error of a device is none."""
    assert work._out_of_memory(RuntimeError(said))
    assert not work._out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_halving_that_does_not_happen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The section's own check, broken: nothing is refused, so nothing is halved, and that does not hold."""
    room = Room("cpu", True, time.monotonic() + 60)
    monkeypatch.setattr(sections, "refusing", lambda most: work.Worker._batch)
    found = dict(sections.memory(room))
    assert not found["holds"] and found["halved"] == []


def test_the_page_keeps_what_was_measured_elsewhere() -> None:
    """A run on a card is put beside the processor's tables of the page as it stands, and the other way round."""
    old = (ROOT / "docs" / "benchmarks.md").read_text()
    empty = page.page([])
    assert "GPU: not run yet" in empty and "benchmarks/gpu.sh" in empty and "CPU: not run yet" in empty
    assert page.merged(empty, old) == old
    file = {"date": "2026-01-01", "commit": "abc", "versions": {}, "entries": [], "settings": {"device": "cuda", "rounds": 3},
            "machine": {"gpu": "A card", "cpu": "x", "cores": 1, "threads": 1, "system": "Linux", "python": "3.11",
                        "load_at_start": None},
            "card": {"rate": {"status": "ok", "seconds": 3.0, "found": {"bfloat16": 7e14}}}}  # fmt: skip
    with_card = page.merged(page.page([file]), old)
    assert "A card; x" in with_card and "700 TF/s" in with_card and "GPU: not run yet" not in with_card
    assert with_card.count("## Every method, on a CPU") == 1 and "| llama-like | Z |" in with_card
    assert page.merged(page.page([]), with_card).count("700 TF/s") == 1
