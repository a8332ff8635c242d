"""What a click costs.  ``decimals-natural``: at most 150 ms of processor time after the first.  GPT-2's shape with random
weights: at most 1.5 times one forward pass of the same prompts, by transformers itself, in the same batch and threads.

Both are medians of several clicks on other heads, since whatever else the machine does shall not decide.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headlab.heads import Head
from headlab.prompts import encode
from headlab.view.asked import Asked
from headlab.view.bench import Bench, direct, edit, opened, pattern
from headlab.view.looks import Looks

pytestmark = pytest.mark.accept


def spent(do: Callable[[int], object], times: int) -> float:
    """Median seconds of processor time of this process."""
    out = []
    for n in range(times):
        before = time.process_time()
        do(n)
        out.append(time.process_time() - before)
    return statistics.median(out)


def test_a_click_on_decimals_natural(tmp_path: Path) -> None:
    bench = opened(Asked("decimals-natural", "decimals"), tmp_path, {})
    for write in ("patch", "zero", "mean", "resample"):
        edit(bench, [Head(0, 1), Head(1, 0)], write)
        took = spent(lambda n, write=write: edit(bench, [Head(0, 1 + n), Head(1, n)], write), 7)
        print(f"{write}: {1e3 * took:.0f} ms of processor time, {len(bench.selection)} prompts")
        assert took <= 0.15, (write, took)
    for look in (lambda n: pattern(bench, Head(1, n), 0, "clean"), lambda n: direct(bench, Head(1, n))):
        first, took = spent(look, 1), spent(look, 5)
        print(f"{1e3 * took:.1f} ms of processor time, the first {1e3 * first:.0f}")
        assert took <= 0.15


def test_a_click_on_the_shape_of_gpt2(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from headlab import organisms
    from headlab.tasks import TASKS
    from headlab.trials.loading import load

    tokenizer = AutoTokenizer.from_pretrained(organisms.path("decimals-natural"))
    torch.manual_seed(0)
    lab = load(GPT2LMHeadModel(GPT2Config()).eval(), tokenizer=tokenizer)
    selection, test = TASKS["decimals"].pairs(32, seed=0, tokenizer=tokenizer).split(0.5, 0)
    bench = Bench("k", Asked("gpt2", "decimals"), lab, selection, test, tmp_path, None, Looks())
    bench.encoded = [encode(p, tokenizer) for p in selection]
    by: dict[int, list[tuple[int, ...]]] = {}
    for e in bench.encoded:
        by.setdefault(len(e.clean.ids), []).append(e.clean.ids)
    batches = [torch.tensor(rows) for rows in by.values()]

    @torch.inference_mode()
    def forward(_: int) -> None:
        for ids in batches:
            lab.model(input_ids=ids, use_cache=False, logits_to_keep=1)

    forward(0)
    for write in ("patch", "zero"):
        edit(bench, [Head(0, 0)], write)  # the lowest layer: nothing is left out
        whole, click = spent(forward, 3), spent(lambda n, write=write: edit(bench, [Head(0, 1 + n)], write), 3)
        late = spent(lambda n, write=write: edit(bench, [Head(9, 1 + n)], write), 3)
        print(
            f"{write}: a forward pass {whole:.3f} s, a click {click:.3f} s ({click / whole:.2f}), in layer 9 {late:.3f} s"
        )
        assert click <= 1.5 * whole, (write, click, whole)
