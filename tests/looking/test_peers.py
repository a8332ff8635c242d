"""The daily jobs equal TransformerLens's, on random models of the families: each written a second time with hooks on a
TransformerBridge (:mod:`benchmarks.daily`).  Daily: some jobs on one family; ``make accept``: every job on six.

Left out: direct effects outside Llama's kind of norm and output (:mod:`test_looking` has LayerNorm by formula).
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_looking import TEXT

from headlab.prompts import PromptSet

sys.path.insert(0, str(Path(__file__).parents[2]))
pytest.importorskip("transformer_lens.model_bridge", reason="the test extra brings TransformerLens")
from benchmarks import daily

ROWS = tiny.word_rows(15)
PAIRS = PromptSet.from_rows(ROWS, name="rows")
LIKE_LLAMA = ("llama", "gemma", "qwen3")
ALL = [*daily.JOBS, *daily.MORE]
CASES = [(family, job) for family in tiny.SIX for job in ALL if job != "direct effects" or family in LIKE_LLAMA]
DAILY = [("gemma", job) for job in ("read a text, every site", "logit lens", "direct effects", "steering", "probing")]
DAILY += [("gemma", job) for job in daily.MORE]


@cache
def bench(family: str, folder: Path) -> daily.Bench:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    model = tiny.hf_model(family)
    where = str(tiny.save(model, folder / family))
    tokenizer: Any = AutoTokenizer.from_pretrained(where)
    made = TransformerBridge.boot_transformers(where, hf_model=model, tokenizer=tokenizer, device="cpu")
    return daily.Bench(tiny.lab(family), made, PAIRS, TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize(
    ("family", "job"), [c if c in DAILY else pytest.param(*c, marks=pytest.mark.accept) for c in CASES]
)
def test_a_job_is_what_another_library_gives(family: str, job: str, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        *_, difference = daily.measured(bench(family, folder), job)
    assert difference <= 1e-5, f"{family}, {job}: {difference:.1e}"


def test_the_table_says_on_what_and_when_it_was_measured() -> None:
    where = {"cpu": "A processor", "cores": 2, "system": "Linux", "python": "3.11.7", "load_at_start": 0.5}
    line = daily.told(where, "2026-11-21", "abc1234")
    assert line.startswith("A processor, 2 cores, one thread, load 0.5 at the start; Linux, Python 3.11.7, torch ")
    assert line.endswith("; 2026-11-21, commit abc1234.") and daily.told(where, "2026-11-21", None).endswith("unknown.")
    page = f"before {daily.BEGIN}\nold\n{daily.END} after"
    rows = {"one": dict.fromkeys(daily.JOBS, (1, 0.5, 2.0, 1e-7))}
    made = daily.written(page, rows, line)
    assert made.startswith("before ") and made.endswith(" after") and "old" not in made and line in made
    assert made.count("| 0.50 s (2.0 s), 1e-07 |") == 10
