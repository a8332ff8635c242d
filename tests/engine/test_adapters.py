"""A PEFT adapter is merged: the Lab is the adapted model, and its heads are read from the merged weights.

Looked for here: adapters for another model, of no tensors, with tensors missing, untrained, of a kind without weights, on
tied embeddings (output, input, both), with a matrix stored whole, DoRA, rsLoRA, two ranks, bfloat16, an adapter in the
model's place; and merges that change logits.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from headlab.engine import adapters
from headlab.engine.model import ModelError, fingerprint, open_model
from headlab.engine.selfcheck import prove

IDS = torch.tensor([[5, 17, 2, 44, 60, 31, 8]])
TIED = {**tiny.FAMILIES["llama"], "tie_word_embeddings": True}
LORA: dict[str, Any] = {"r": 4, "init_lora_weights": False, "task_type": "CAUSAL_LM"}


def made(folder: Path, config: Any, base: Any = None) -> tuple[Path, torch.Tensor]:
    """An adapter of random weights as peft saves it, and the logits of the model with it beside its weights."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, of tied embeddings
        wrapped = get_peft_model(tiny.hf_model("llama") if base is None else base, config).eval()
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
        logits = wrapped(IDS).logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(folder)
    return folder, logits


def opened(base: Any, folder: Path, **options: Any) -> Any:
    return open_model(base, tokenizer=tiny.words(), adapter=str(folder), **options)


def one_line(base: Any, folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        opened(base, folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


EXACT = {
    "LoRA": LoraConfig(target_modules=["q_proj", "o_proj"], **LORA),
    "all linear maps, two ranks": LoraConfig(target_modules="all-linear", rank_pattern={"o_proj": 7}, **LORA),
    "rsLoRA": LoraConfig(target_modules=["v_proj"], use_rslora=True, **LORA),
    "DoRA": LoraConfig(target_modules=["k_proj", "up_proj"], use_dora=True, **LORA),
    "an output matrix stored whole": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], **LORA),
    "IA3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "LoHa": LoHaConfig(r=3, target_modules=["v_proj"], init_weights=False, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", EXACT)
def test_the_merged_model_is_the_adapted_one(tmp_path: Path, kind: str) -> None:
    folder, wanted = made(tmp_path / "a", EXACT[kind])
    lab = opened(tiny.hf_model("llama"), folder)
    assert tiny.gap(lab.model(IDS).logits, wanted) < 1e-5
    plain = tiny.hf_model("llama")
    assert tiny.gap(plain(IDS).logits, wanted) > 1e-3
    assert lab.info["adapter"] == str(folder) and lab.fingerprint != fingerprint(plain)
    prove(lab)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]])
def test_an_adapter_on_tied_embeddings_changes_only_what_it_was_trained_on(tmp_path: Path, targets: list[str]) -> None:
    """Merged into the shared matrix, logits were off by more than their own size."""
    folder, wanted = made(tmp_path / "a", LoraConfig(target_modules=targets, **LORA), tiny.hf_model("llama", TIED))
    lab = opened(tiny.hf_model("llama", TIED), folder)
    assert tiny.gap(lab.model(IDS).logits, wanted) < 1e-5
    head, embedding = lab.model.lm_head.weight, lab.model.model.embed_tokens.weight
    assert head.data_ptr() != embedding.data_ptr() and not lab.model.config.tie_word_embeddings
    own = tiny.hf_model("llama", TIED).lm_head.weight
    assert torch.equal(head, own) == ("lm_head" not in targets)
    assert torch.equal(embedding, own) == ("embed_tokens" not in targets)


def test_in_sixteen_bits(tmp_path: Path) -> None:
    """Rounded to its dtype once more by merging, and no further."""
    folder, wanted = made(tmp_path / "a", EXACT["LoRA"])
    base = tiny.save(tiny.hf_model("llama"), tmp_path / "m")
    got = open_model(str(base), adapter=str(folder), dtype="bfloat16").model(IDS).logits
    assert tiny.gap(got.float(), wanted) < 0.1


def test_a_merge_that_is_not_exact_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: with tied embeddings left together, the check finds what the merge does to the input."""
    monkeypatch.setattr(adapters, "_untie", lambda _wrapped: None)
    config = LoraConfig(target_modules=["lm_head"], **LORA)
    folder, _ = made(tmp_path / "a", config, tiny.hf_model("llama", TIED))
    assert "cannot be merged exactly: logits differ by" in one_line(tiny.hf_model("llama", TIED), folder)


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "a", EXACT["LoRA"])
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    first = sorted(state)[0]

    def stored(tensors: dict[str, torch.Tensor]) -> str:
        save_file(tensors, file)
        return one_line(tiny.hf_model("llama"), folder)

    message = stored({k.replace("model.model.layers", "model.transformer.h"): v for k, v in state.items()})
    assert "12 of its weights have no place in this model" in message and "12 of its weights are missing" in message
    assert "its file holds no weights" in stored({})
    message = stored({k: v for k, v in state.items() if k != first})
    assert f"1 of its weights are missing from its file, first {first}" in message and "no place" not in message
    message = stored({**state, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(4, 110)})
    assert "1 of its weights have no place in this model, first base_model.model.model.layers.9." in message
    assert "size mismatch" in stored({**state, first: torch.ones(4, 99)})
    assert "changes nothing" in stored({k: v * ("lora_A" in k) for k, v in state.items()})
    assert "cannot be merged exactly" in stored({k: v * float("nan") for k, v in state.items()})
    file.write_bytes(b"x")
    assert "could not be applied" in one_line(tiny.hf_model("llama"), folder)
    file.unlink()
    assert "could not be applied" in one_line(tiny.hf_model("llama"), folder)


def test_an_adapter_for_another_family(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "a", EXACT["LoRA"])
    assert "could not be applied" in (message := one_line(tiny.hf_model("gpt2"), folder)) and "q_proj" in message


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
)
def test_a_kind_without_weights_is_refused_by_its_name(tmp_path: Path, config: Any) -> None:
    get_peft_model(tiny.hf_model("llama"), config).save_pretrained(tmp_path)
    message = one_line(tiny.hf_model("llama"), tmp_path)
    assert f"is of the kind {config.peft_type.value}: it adds vectors" in message and "LoRA" in message


def test_an_adapter_in_the_place_of_a_model(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "a", EXACT["LoRA"])
    said = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**said, "base_model_name_or_path": "someone/base"}))
    with pytest.raises(
        ModelError, match=r"is a LORA adapter of someone/base and no model; give --model someone/base --ad"
    ):
        open_model(str(folder))
    both = tiny.save(tiny.hf_model("llama"), tmp_path / "both")
    for file in folder.glob("adapter_*"):
        (both / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        ModelError, match=r"holds a model and an adapter .* in one folder; move the adapter's two files"
    ):
        open_model(str(both))


def test_no_such_adapter_is_one_clear_error(tmp_path: Path) -> None:
    assert "could not be applied: expected a folder with adapter_config.json; there is no such" in one_line(
        tiny.hf_model("llama"), tmp_path / "none"
    )
    assert "the folder has none" in one_line(tiny.hf_model("llama"), tmp_path)
    assert "cannot reach the hub for 'nobody/adapter'" in one_line(tiny.hf_model("llama"), Path("nobody/adapter"))
