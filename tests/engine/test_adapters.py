"""A PEFT adapter is merged: the Lab is the adapted model, and its heads are read from the merged weights."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from headlab import organisms
from headlab.engine.model import ModelError, open_model
from headlab.engine.selfcheck import prove

NAME = "decimals-null-0"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter of random weights, saved as peft saves it, and the logits of the adapted model."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(organisms.path(NAME), dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config).eval()
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        return folder, ids, adapted(ids).logits


def test_an_adapter_changes_the_model_that_is_tried(adapter) -> None:
    folder, ids, wanted = adapter
    plain = open_model(organisms.path(NAME))
    lab = open_model(organisms.path(NAME), adapter=str(folder))
    prove(lab)
    with torch.no_grad():
        assert (lab.model(ids).logits - wanted).abs().max() < 1e-3
        assert (plain.model(ids).logits - wanted).abs().max() > 0.1
    assert lab.info["adapter"] == str(folder) and lab.fingerprint != plain.fingerprint


def test_no_such_adapter_is_one_clear_error(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"adapter .* could not be applied"):
        open_model(organisms.path(NAME), adapter=str(tmp_path / "none"))
