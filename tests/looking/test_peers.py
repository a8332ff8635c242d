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
CASES = [(family, job) for family in tiny.SIX for job in daily.JOBS if job != "direct effects" or family in LIKE_LLAMA]
DAILY = [("gemma", job) for job in ("read a text, every site", "logit lens", "direct effects", "steering", "probing")]


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
