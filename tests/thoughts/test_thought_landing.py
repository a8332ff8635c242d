"""The kinds of tests/engine/test_landing.py and test_adapters.py for thinking models: wrong numbers in a config, an index
that names files elsewhere, LoRA on tied embeddings, a merge that is not exact, questions longer than the model.

That every tensor lands or is listed stands in test_thought_refusals.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_thought_refusals import refused
from wrappers import EXACT, IDS, TARGETS, Wrapper, apart, base_model, randomised, wrapper, written

from headlab import thoughts
from headlab.engine import adapters
from headlab.prompts import PromptError
from headlab.thoughts.loading import read
from headlab.thoughts.loop import run
from headlab.thoughts.worlds import Layout


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000, but its weights have 2 layers"),
        ("gpt2", {"n_layer": 10**9}, "n_layer: 1000000000, but its weights have 2 layers"),
        ("llama", {"intermediate_size": 10**9}, "(1000000000, 66) by the config"),
        ("gpt2", {"n_positions": 10**10}, "transformer.wpe.weight: (10000000000, 70) by the config, (64, 70) in the file"),
    ],
)  # fmt: skip
def test_a_wrong_number_is_found_before_it_takes_time_or_memory(
    tmp_path: Path, kind: str, config: Any, words: str
) -> None:
    folder = written(wrapper(kind), tmp_path / "m")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    began = time.process_time()
    assert words in refused(folder)
    assert time.process_time() - began < 5


def test_an_index_stays_in_its_folder(tmp_path: Path) -> None:
    made = wrapper()
    written(made, tmp_path / "other")
    folder = written(made, tmp_path / "m")
    (folder / "pytorch_model.bin").unlink()
    named = dict.fromkeys(apart(made.state_dict()), "../other/pytorch_model.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": named}))
    assert "names a file outside its folder (../other/pytorch_model.bin)" in refused(folder)


def tied() -> Wrapper:
    return randomised(Wrapper(base_model("llama"), 37, [*TARGETS["llama"], "lm_head"]))


@pytest.mark.filterwarnings("ignore")  # peft's own, of tied embeddings
def test_lora_on_a_tied_output_matrix_changes_no_input(tmp_path: Path) -> None:
    made = tied()
    folder = written(made, tmp_path / "m")
    with torch.no_grad():
        wanted = made.codi(IDS).logits
        for lora in ("merge", "keep"):
            model, _, _ = read(folder, lora=lora)
            assert (model.codi(IDS).logits - wanted).abs().max() < EXACT * wanted.abs().max()


@pytest.mark.filterwarnings("ignore")
def test_a_merge_that_is_not_exact_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: the tied matrices left together."""
    monkeypatch.setattr(adapters, "_untie", lambda _wrapped: None)
    assert "cannot be merged exactly: logits differ" in refused(written(tied(), tmp_path / "m"))


def test_a_question_longer_than_the_model(tmp_path: Path) -> None:
    """64 positions: question, bot, six thoughts, eot, and the answer but its last token."""
    thinker = thoughts.load(written(wrapper(), tmp_path / "m"))
    ids = torch.full((1, 53), 5)
    run(thinker, ids, Layout(53, 6, 4))
    with pytest.raises(
        PromptError, match=r"with its thoughts has 61 tokens and 4 of its continuation, .* 64 positions"
    ):
        run(thinker, ids, Layout(53, 6, 5))
