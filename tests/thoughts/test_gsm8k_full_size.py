"""All of GSM8K's test problems through a GPT-2 CODI of the published size (random weights), on the CPU: with progress, in
bounded memory, and after an interruption from where it stopped.

The full run takes long on one core and says so; the small one proves the same on the first problems.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BOUND = 4 << 30
"""Peak resident bytes of the whole process: .5 GB of weights in float32, torch and transformers, 8 rows in flight."""

BUILD = """
import sys, torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from headlab.thoughts.model import Codi, Spec
folder, words = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(words)
torch.manual_seed(0)
end = tokenizer.eos_token_id
config = GPT2Config(vocab_size=len(tokenizer) + 3, n_layer=12, n_embd=768, n_head=12, bos_token_id=end, eos_token_id=end)
Codi(GPT2LMHeadModel(config), Spec.after(len(tokenizer), 768)).save(folder, tokenizer)
"""

RUN = """
import json, resource, sys
from headlab.store import Store
from headlab.tasks.word_problems import read_gsm8k
from headlab.thoughts.loading import load
from headlab.thoughts.loop import think
from headlab.thoughts.worlds import ThoughtWorld
folder, store, file, n, stop = sys.argv[1:]
problems = read_gsm8k(file)[: int(n)]
thinker = load(folder)
made, seen = [], []

def progress(what, done, total):
    seen.append((done, total))
    if done >= int(stop):
        raise KeyboardInterrupt

told = {"rows": 0, "texts": []}
with Store(store).open(kind="run", slug="gsm8k", title="GSM8K", inputs={"n": n}, draft={}) as run:

    def keep(name, compute):
        return run.shard(name, lambda: (made.append(name), compute())[1])

    try:
        table = think(thinker, [p.question for p in problems], [p.id for p in problems], [ThoughtWorld("baseline")], batch=8,
                      max_new_tokens=8, keep=keep, progress=progress)
        told |= {"rows": len(table), "texts": table["text"].tolist(), "ids": table["problem"].tolist()}
        run.finish(readings=[])
    except KeyboardInterrupt:
        told["stopped"] = True
        print(json.dumps(told | {"made": made, "seen": seen}))
        raise SystemExit(3)
print(json.dumps(told | {"made": made, "seen": seen, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                         "vocabulary": thinker.spec.pad, "layers": thinker.lab.grid.n_layers, "width": thinker.lab.d_model}))
"""


def child(script: str, *args: object, expect: int = 0) -> dict:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "HEADLAB_TYPECHECK": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == expect, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


@pytest.mark.accept
@pytest.mark.parametrize("n", [pytest.param(30, id="first-30"), pytest.param(1319, id="all-1319")])
def test_gsm8k_runs_is_taken_up_again_and_stays_in_memory(n: int, shared: Path, tmp_path: Path) -> None:
    file = shared / "data/gsm8k/test.jsonl"
    child(BUILD, tmp_path / "model", shared / "data/tokenizers/gpt-neox-20b")
    first = child(RUN, tmp_path / "model", tmp_path / "store", file, n, n // 2, expect=3)
    second = child(RUN, tmp_path / "model", tmp_path / "store", file, n, n + 1)
    assert first["stopped"] and first["made"] and second["made"]
    assert not set(first["made"]) & set(second["made"]), "no part is computed twice"
    assert len(set(second["made"])) == len(second["made"]) and second["rows"] == n and second["ids"] == list(range(n))
    assert all(isinstance(text, str) for text in second["texts"])
    done, totals = zip(*second["seen"], strict=True)
    assert list(done) == sorted(done) and done[-1] == n and set(totals) == {n}
    assert second["layers"] == 12 and second["width"] == 768 and second["vocabulary"] > 50_000
    assert second["peak"] < BOUND, f"{second['peak'] / 2**30:.2f} GB"
