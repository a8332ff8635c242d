"""Models that cannot be read: each ends in one clear sentence (what was given, what was expected, what to do)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from headlab.engine import passes
from headlab.engine.model import ModelError, fingerprint, open_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder: config, safetensors, tokenizer."""
    return tiny.save(tiny.hf_model("gpt2"), tmp_path_factory.mktemp("models") / "gpt2")


def copy(saved: Path, to: Path, *leave_out: str, **config: Any) -> Path:
    to.mkdir()
    for file in saved.iterdir():
        if file.name not in leave_out:
            (to / file.name).write_bytes(file.read_bytes())
    data = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**data, **config}))
    return to


def one_line(given: Any, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        open_model(given if isinstance(given, str) or not isinstance(given, Path) else str(given), **options)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message and len(message) < 400
    return message


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_goes_in_and_comes_out_under_either_name(name: str) -> None:
    """``past_key_values`` became ``cache`` in transformers 5.24: a model is asked which it takes, its output which it has."""
    scope: dict[str, Any] = {"nn": torch.nn}
    exec(f"class Model(nn.Module):\n    def forward(self, ids, {name}=None): ...", scope)
    model, kept = scope["Model"](), object()
    assert passes.given(model, kept) == {name: kept} and passes.given(model, None) == {}

    class Output(dict[str, Any]):
        past_key_values = property(lambda self: self["past_key_values"])

    assert passes.cache_of(Output({name: kept})) is kept


def test_a_folder_loads_with_its_weights(saved: Path) -> None:
    lab = open_model(str(saved))
    assert fingerprint(lab.model) == fingerprint(tiny.hf_model("gpt2")) == lab.fingerprint
    assert lab.dtype == torch.float32 and lab.device.type == "cpu"
    assert open_model(saved, dtype="bfloat16").dtype == torch.bfloat16


def test_the_fingerprint_sees_one_weight(saved: Path) -> None:
    model = tiny.hf_model("gpt2")
    model.transformer.h[2].mlp.c_proj.bias[7] += 1e-3
    assert fingerprint(model) != fingerprint(tiny.hf_model("gpt2"))


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("./no/such/folder", {}, ["no model at ./no/such/folder", "config.json", "the folder does not exist"]),
        ("nobody/no-such-model", {}, ["cannot reach the hub for 'nobody/no-such-model'", "headlab models"]),
        ("not a name", {}, ["no model called 'not a name'", "expected a hub id, a folder or an organism"]),
        (None, {"revision": "step3000"}, ["local folder", "no revision 'step3000'", "drop --revision"]),
        (None, {"device": "cuda:97"}, ["no such device: 'cuda:97'", "this machine has cpu"]),
        (None, {"device": "potato"}, ["no such device: 'potato'"]),
        (None, {"dtype": "int3"}, ["unknown dtype 'int3'", "float32, bfloat16, float16"]),
        (None, {"adapter": "./no-adapter"}, ["adapter './no-adapter' could not be applied"]),
    ],
)
def test_what_was_given_is_named(saved: Path, given: str | None, options: dict[str, str], words: list[str]) -> None:
    message = one_line(given or saved, **options)
    assert all(w in message for w in words), message


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "expected a folder with config.json, safetensors and a tokenizer" in one_line(tmp_path)


def test_weights_missing_from_the_checkpoint(saved: Path, tmp_path: Path) -> None:
    """transformers fills them with random numbers and only logs it."""
    from safetensors.torch import load_file, save_file

    folder = copy(saved, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.attn.c_attn.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = one_line(folder)
    assert "incomplete: 1 weight(s) are missing" in message and "h.1.attn.c_attn.weight" in message


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    model = tiny.hf_model("gpt2", {**tiny.FAMILIES["gpt2"], "tie_word_embeddings": True})
    folder = tiny.save(model, tmp_path / "tied")
    assert torch.equal(open_model(folder).model.lm_head.weight, model.transformer.wte.weight)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_tokenizer_beside_the_weights(family: str, tmp_path: Path) -> None:
    """transformers makes an empty one of GPT-2's kind without a word."""
    tiny.hf_model(family).save_pretrained(tmp_path / family)
    assert "has no tokenizer; put its tokenizer.json" in one_line(tmp_path / family)


def test_quantised_weights(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path / "q", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantised weights, which cannot be read per head; use the 16-bit checkpoint" in one_line(folder)


def test_quantised_weights_in_memory() -> None:
    model = tiny.hf_model("gpt2")
    model.quantization_method = "bitsandbytes"
    assert "quantised weights" in one_line(model, tokenizer=tiny.words())


def test_a_model_in_memory_needs_its_tokenizer() -> None:
    assert "needs its tokenizer: headlab.load(model, tokenizer=tokenizer)" in one_line(tiny.hf_model("gpt2"))


def test_a_damaged_weight_file(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert f"model.safetensors is damaged or cut short ({len(whole) // 2} bytes); fetch it again" in one_line(folder)


def test_a_pickle_that_would_run_code_is_not_opened(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path / "p", "model.safetensors")
    mark = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    torch.save({**tiny.hf_model("gpt2").state_dict(), "x": Code()}, folder / "pytorch_model.bin")
    assert "convert the checkpoint to safetensors" in one_line(folder)
    assert not mark.exists()


def test_code_of_its_own_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    mark = tmp_path / "ran"
    (folder / "configuration_own.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()")
    auto = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "configuration_own.Own"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    assert "needs code of its own, which headlab does not run" in one_line(folder)
    assert not mark.exists()


def test_an_encoder_decoder(tmp_path: Path) -> None:
    tiny.words().save_pretrained(tmp_path / "t5")
    sizes = {"model_type": "t5", "d_model": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16, "d_ff": 32}
    (tmp_path / "t5" / "config.json").write_text(json.dumps(sizes))
    assert "not a causal language model" in one_line(tmp_path / "t5")
