"""Architecture: what the probes find in models whose make-up is known from how they were built."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny
import torch

from headlab.measures import architecture

ALL = {0: None, 1: None, 2: None}
KNOWN: dict[str, dict[str, Any]] = {
    # 10 query heads on 2 KV heads of 14 channels
    "llama": {"heads": 10, "kv_heads": 2, "group_size": 5, "head_dim": 14, "positions": "rotary", "windows": ALL},
    # a quarter of 16 channels
    "gpt_neox": {"group_size": 1, "head_dim": 16, "rotary_share": dict.fromkeys(range(3), 0.25), "windows": ALL},
    "gpt2": {"heads": 5, "kv_heads": 5, "positions": "additive", "rotary_share": dict.fromkeys(range(3), 0.0)},
    "gpt_bigcode": {"kv_heads": 1, "group_size": 5, "positions": "additive"},
    "gemma2": {"soft_cap": 3.0, "windows": {0: 4, 1: None, 2: 4}, "learned_sinks": False},
    "gemma": {"kv_heads": 1, "soft_cap": None},
    "gpt_oss": {"learned_sinks": True, "windows": {0: 4, 1: None, 2: 4}},
    "mistral": {"windows": {0: 4, 1: 4, 2: 4}},
    # no rotation in the middle layer
    "smollm3": {"positions": "rotary", "rotary_share": {0: 1.0, 1: 0.0, 2: 1.0}},
    # q and k: 6 plain channels and 8 that turn; z: 18
    "deepseek_v3": {"head_dim": 18, "qk_dim": 14, "rotary_share": dict.fromkeys(range(3), 8 / 14)},
    "qwen3_next": {"attention_layers": [1, 2], "layers": 3, "positions": "rotary"},
}


@pytest.mark.parametrize("family", KNOWN)
def test_architecture_of_models_whose_make_up_is_known(family: str) -> None:
    found = architecture(tiny.lab(family))
    assert {name: found[name] for name in KNOWN[family]} == KNOWN[family]
    assert found["disagreements"] == []
    assert json.loads(json.dumps(found))["heads"] == found["heads"]


def test_a_config_that_says_otherwise_is_contradicted() -> None:
    model = tiny.hf_model("gemma2")
    lab = tiny.proved(model)
    model.config.num_key_value_heads = 5
    model.config.attn_logit_softcapping = 50.0
    model.config.layer_types = ["full_attention", "full_attention", "sliding_attention"]
    try:
        said = architecture(lab)["disagreements"]
    except KeyError:  # the model's own code reads its layer types again
        pytest.fail("the probe cannot run")
    assert any("kv heads" in s for s in said)
    assert any("soft-cap" in s for s in said)


def test_sixteen_bits_and_no_positions() -> None:
    found = architecture(tiny.proved(tiny.hf_model("llama").to(torch.bfloat16)))
    assert (found["positions"], found["disagreements"]) == ("rotary", [])
    bare = tiny.hf_model("smollm3", {**tiny.FAMILIES["smollm3"], "no_rope_layers": [0, 0, 0]})
    assert architecture(tiny.proved(bare))["positions"] == "none"
