"""The model that is tried is the one whose weights are stored: all of them land, or one line says which do not.

Kinds of stored weight that might not land, looked for here: further layers, biases, an adapter's matrices, a head of
another task, a shard's surplus, shapes of another size, packed integers, an embedding stored twice.  Of wrong numbers in
a config: every number of layers, experts, widths, rows and positions.  Of places: a shard elsewhere.  The same for
thinking models stands in tests/thoughts/test_thought_refusals.py and test_thought_landing.py.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from test_loading import copy, one_line

from headlab.engine.model import open_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Whole folders of several families, made once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny.save(tiny.hf_model(family), tmp_path_factory.mktemp("landing") / family)
        return made[family]

    return folder


def with_weights(folder: Path, **more: torch.Tensor | None) -> Path:
    """The folder with tensors added, replaced or (None) taken out."""
    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    weights |= more
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("family", "config", "more", "words"),
    [
        ("llama", {"num_hidden_layers": 2}, {}, ["9 stored weight(s) have no place", "model.layers.2.input_layernorm.weight"]),
        ("gpt2", {"n_layer": 1, "num_hidden_layers": 1}, {}, ["22 stored weight(s) have no place", "transformer.h.1.attn."]),
        ("llama", {}, {"model.layers.1.self_attn.q_proj.bias": (140,)}, ["1 stored weight(s) have no place", "q_proj.bias"]),
        ("qwen2", {}, {"model.layers.0.self_attn.o_proj.bias": (140,)}, ["1 stored weight(s) have no place", "o_proj.bias"]),
        (
            "llama",
            {},
            {f"model.layers.0.self_attn.q_proj.lora_{x}.default.weight": (3, 3) for x in "AB"},
            ["2 stored weight(s) have no place", "an adapter that was not merged", "--adapter"],
        ),
        ("gpt2", {}, {"score.weight": (2, 70)}, ["1 stored weight(s) have no place in the model, first score.weight"]),
        ("gpt2", {}, {"transformer.wpe.weight": (50, 70)}, ["transformer.wpe.weight: (50, 70) in the file, (64, 70) by"]),
        ("llama", {"intermediate_size": 54}, {}, ["9 weight(s) have another shape", "(110, 53) in the file, (110, 54) by"]),
        ("llama", {"vocab_size": 120}, {}, ["2 weight(s) have another shape, first lm_head.weight: (101, 110)"]),
    ],
)  # fmt: skip
def test_what_does_not_land_is_refused(
    saved: Any, tmp_path: Path, family: str, config: Any, more: Any, words: Any
) -> None:
    folder = with_weights(copy(saved(family), tmp_path / "m", **config), **{k: torch.ones(s) for k, s in more.items()})
    message = one_line(folder)
    assert all(w in message for w in words), message


def test_what_the_class_declares_ignorable_is_no_weight(saved: Any, tmp_path: Path) -> None:
    """Masks and rotary frequencies that older versions of transformers stored: the model is the same without them."""
    old = {
        "gpt_neox": {
            "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 64, 64),
            "gpt_neox.layers.1.attention.masked_bias": torch.tensor(-1e9),
        },
        "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(7)},
    }
    for family, more in old.items():
        folder = with_weights(copy(saved(family), tmp_path / family), **more)
        assert open_model(folder).fingerprint == open_model(saved(family)).fingerprint


@pytest.mark.parametrize(
    "more",
    [
        {"model.layers.0.self_attn.q_proj.qweight": torch.ones(20, 140, dtype=torch.int32)},
        {"model.layers.0.self_attn.q_proj.weight": torch.ones(140, 110, dtype=torch.int8)},
        {"model.layers.0.self_attn.q_proj.weight": torch.ones(140, 110).to(torch.float8_e4m3fn)},
        {"model.layers.0.self_attn.q_proj.weight.absmax": torch.ones(20)},
        {"model.layers.2.mlp.up_proj.weight_scale": torch.ones(20, 1)},
    ],
)
def test_packed_weights_are_told_without_a_quantisation_config(saved: Any, tmp_path: Path, more: Any) -> None:
    """GPTQ, AWQ, int8, fp8, bitsandbytes, compressed-tensors: by the names and kinds in the header."""
    message = one_line(with_weights(copy(saved("llama"), tmp_path / "q"), **more))
    assert f"quantised weights ({next(iter(more))}, " in message and "use the 16-bit checkpoint" in message


HUGE = [
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000, but its weights have 3 layers"),
    ("llama", {"num_hidden_layers": 1e300}, "num_hidden_layers: 1e+300, but its weights have 3 layers"),
    ("llama", {"num_hidden_layers": 4}, "num_hidden_layers: 4, but its weights have 3 layers"),
    ("qwen2", {"num_hidden_layers": 10**9}, "its weights have 3 layers"),  # its config makes a list of layers
    ("gpt2", {"n_layer": 10**9}, "n_layer: 1000000000, but its weights have 3 layers"),
    ("gpt_neox", {"num_hidden_layers": 10**9}, "its weights have 3 layers"),
    ("mixtral", {"num_local_experts": 10**9}, "asks for"),
    (
        "llama",
        {"vocab_size": 10**9},
        "model.embed_tokens.weight: (1000000000, 110) by the config, (101, 110) in the file",
    ),
    ("llama", {"hidden_size": 10**7}, "by the config"),
    ("llama", {"intermediate_size": 10**12}, "by the config"),
    ("llama", {"num_attention_heads": 10**8}, ""),
    ("gpt2", {"n_positions": 10**9}, "transformer.wpe.weight: (1000000000, 70) by the config, (64, 70) in the file"),
    ("gpt2", {"n_embd": 10**20}, ""),
    ("llama", {"layer_types": ["full_attention"] * 10**6}, ""),
    ("llama", {"text_config": {"num_hidden_layers": 10**9}}, "its weights have 3 layers"),
]


@pytest.mark.parametrize(("family", "config", "words"), HUGE)
def test_a_wrong_number_is_found_before_it_takes_time_or_memory(
    saved: Any, tmp_path: Path, family: str, config: Any, words: str
) -> None:
    folder = copy(saved(family), tmp_path / "m", **config)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert words in (message := one_line(folder)), message
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", '{"model_type": 3}', "\udcff", ""])
def test_a_config_that_is_none(saved: Any, tmp_path: Path, text: str) -> None:
    folder = copy(saved("gpt2"), tmp_path / "m")
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    one_line(folder)


def sharded(folder: Path, named: dict[str, str]) -> Path:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for file in set(named.values()):
        if not Path(file).is_absolute() and ".." not in file:
            save_file({k: v for k, v in weights.items() if named[k] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))
    return folder


def test_an_index_stays_in_its_folder(saved: Any, tmp_path: Path) -> None:
    """Absolute, upwards, backwards; a shard that is not there; one name in two shards; an index that is none."""
    keys = sorted(load_file(saved("gpt2") / "model.safetensors"))
    (tmp_path / "other.safetensors").write_bytes((saved("gpt2") / "model.safetensors").read_bytes())
    for i, file in enumerate(("../other.safetensors", str(tmp_path / "other.safetensors"), "x\\..\\other.safetensors")):
        folder = sharded(copy(saved("gpt2"), tmp_path / str(i)), dict.fromkeys(keys, file))
        assert "names a file outside its folder" in one_line(folder)
    halves = {k: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, k in enumerate(keys)}
    folder = sharded(copy(saved("gpt2"), tmp_path / "halves"), halves)
    assert open_model(folder).fingerprint == open_model(saved("gpt2")).fingerprint
    second = folder / "model-00002-of-00002.safetensors"
    both = {**load_file(second), keys[0]: torch.ones(3)}
    save_file(both, second, {"format": "pt"})
    assert f"{keys[0]} stands in more than one weight file" in one_line(folder)
    second.unlink()
    assert "is incomplete: model-00002-of-00002.safetensors is missing" in one_line(folder)
    (folder / "model.safetensors.index.json").write_text("[1]")
    assert "is no index of weight files" in one_line(folder)


def test_an_output_matrix_that_its_config_calls_tied(tmp_path: Path) -> None:
    """Stored twice with other values: both are kept as they stand, none takes the other's place."""
    model = tiny.hf_model("llama")
    folder = copy(tiny.save(model, tmp_path / "untied"), tmp_path / "said", tie_word_embeddings=True)
    lab = open_model(folder)
    assert torch.equal(lab.model.lm_head.weight, model.lm_head.weight)
    assert torch.equal(lab.model.model.embed_tokens.weight, model.model.embed_tokens.weight)
