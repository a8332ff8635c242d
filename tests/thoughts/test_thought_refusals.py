"""What is not a whole CODI checkpoint is refused in one sentence, with every name that does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from wrappers import WORDS, apart, base_model, words, wrapper, written

import headlab
from headlab import thoughts
from headlab.engine.model import ModelError
from headlab.experiments.trial import trial
from headlab.thoughts import ThoughtError
from headlab.thoughts.loading import read, read_folder


def refused(source: Any, **given: Any) -> str:
    with pytest.raises(ThoughtError) as caught:
        read(source, **given)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(wrapper(), tmp_path_factory.mktemp("checkpoints") / "gpt2")


@pytest.mark.parametrize("kind", ["gpt2", "untied"])
def test_every_tensor_that_is_missing_unknown_or_misshapen_is_listed(tmp_path: Path, kind: str) -> None:
    made = wrapper(kind)
    state = dict(made.state_dict())
    layer = "codi.base_model.model.transformer.h" if kind == "gpt2" else "codi.base_model.model.model.layers"
    module = "attn.c_proj" if kind == "gpt2" else "self_attn.v_proj"
    for gone in (f"{layer}.1.{module}.lora_A.default.weight", f"{layer}.0.{module}.lora_B.default.weight",
                 f"{layer}.0.{module}.base_layer.weight", "prj.ln.bias", "prj.1.weight"):  # fmt: skip
        folder = written(made, tmp_path / gone, {k: v for k, v in state.items() if k != gone})
        assert f"missing (1): {gone}" in (message := refused(folder)) and "not known" not in message
    more = {
        "decoder.h.0.x": torch.ones(2), "decoder.h.1.x": torch.ones(2), "halt.bias": torch.ones(1),
        f"{layer}.1.{module}.lora_magnitude_vector.default.weight": torch.ones(3),
        f"{layer}.9.{module}.lora_A.default.weight": torch.ones(4, 4),
    }  # fmt: skip
    message = refused(written(made, tmp_path / "more", {**state, **more}))
    assert "not known (5):" in message and "decoder.h.{0-1}.x, halt.bias" in message
    assert all(k in message for k in list(more)[2:]) and "missing" not in message
    short = {**state, "prj.3.bias": state["prj.3.bias"][:-1], "prj.ln.weight": torch.ones(5)}
    message = refused(written(made, tmp_path / "short", short))
    width = made.codi.config.hidden_size
    assert f"of another shape (2): prj.3.bias ({width - 1},) for ({width},), prj.ln.weight (5,)" in message


def test_an_ignored_prefix_hides_nothing_that_is_needed(folder: Path) -> None:
    message = refused(folder, ignore=("decoder.", "prj.3"))
    assert "missing (2): prj.3.bias, prj.3.weight" in message
    assert "missing (1): codi.base_model.model.transformer.h.1.attn.c_attn.lora_B" in refused(
        folder, ignore=("codi.base_model.model.transformer.h.1.attn.c_attn.lora_B",)
    )


def test_an_embedding_that_is_not_what_its_config_ties(tmp_path: Path) -> None:
    made, head = wrapper("llama"), "codi.base_model.model.lm_head.weight"
    state = apart(made.state_dict())
    folder = written(made, tmp_path / "differ", {**state, head: state[head] + 1e-3})
    message = refused(folder)
    assert f"ties {head} to codi.base_model.model.model.embed_tokens.weight, but the two differ" in message
    untied = wrapper("untied")
    state = untied.state_dict()
    assert not torch.equal(state[head], state["codi.base_model.model.model.embed_tokens.weight"])
    folder = written(untied, tmp_path / "untied", {k: v for k, v in state.items() if k != head})
    assert f"missing (1): {head}" in refused(folder)
    trained = {k: v for k, v in state.items() if "lora_" in k or k.startswith("prj.")}
    assert "holds no embedding" in refused(written(untied, tmp_path / "adapter", trained))


def test_a_constant_that_is_no_known_buffer(tmp_path: Path) -> None:
    """Elsewhere, in a layer that is not there, or of another form than the causal mask of old versions."""
    more = {"prj.attn.bias": torch.ones(1, 1, 2, 2), "codi.base_model.model.transformer.h.0.bias": torch.ones(1),
            "codi.base_model.model.transformer.h.0.attn.bias": torch.ones(70),
            "codi.base_model.model.transformer.h.7.attn.bias": torch.ones(1, 1, 2, 2)}  # fmt: skip
    message = refused(written(wrapper(), tmp_path / "x", {**wrapper().state_dict(), **more}))
    assert "not known (4): codi.base_model.model.transformer.h.0.bias, " in message
    assert "prj.attn.bias" in message and "transformer.h.{0,7}.attn.bias" in message


def test_a_base_that_does_not_fit(tmp_path: Path) -> None:
    alone = written(wrapper(), tmp_path / "alone", config=False)
    config = base_model("gpt2").config

    def changed(**fields: Any) -> Any:
        return type(config)(**{**config.to_dict(), **fields})

    assert "its width is 80" in refused(alone, base=changed(n_embd=80))
    assert "its vocabulary is 53" in refused(alone, base=changed(vocab_size=53))
    message = refused(alone, base=changed(n_layer=5))
    assert "missing (" in message and "transformer.h.{2-4}.attn.c_attn.weight" in message
    message = refused(alone, base=changed(n_layer=1))
    assert "not known (" in message and "transformer.h.1.attn.c_attn.lora_B.default.weight" in message
    message = refused(alone, base=changed(n_inner=90))
    assert "transformer.h.{0-1}.mlp.c_fc.base_layer.weight (70, 280) for (70, 90)" in message
    llama = base_model("llama").config
    llama.hidden_size, llama.head_dim = 70, 14
    message = refused(alone, base=llama)
    assert "it is a llama (the given LlamaConfig), in which no weight is called transformer.wte.weight" in message
    assert "base is a int; expected a folder, a hub id or a transformers config" in refused(alone, base=3)
    assert "cannot reach the hub for 'nobody/nothing'" in refused(alone, base="nobody/nothing")
    assert "no config.json that names a model type" in (message := refused(alone)) and "give base=" in message
    (alone / "config.json").write_text("{}")
    assert "no config.json that names a model type" in refused(alone)
    for file in alone.glob("*token*"):
        file.unlink()
    assert "has no tokenizer; put its files there" in refused(alone, base=config)


def test_names_of_a_peft_model_without_lora(tmp_path: Path) -> None:
    state = {k.replace(".base_layer.", "."): v for k, v in wrapper().state_dict().items() if "lora_" not in k}
    message = refused(written(wrapper(), tmp_path / "x", state))
    assert "names are those of a peft model, but none of its weights is a LoRA" in message


def test_an_ordinary_language_model_is_not_one(tmp_path: Path) -> None:
    base_model("gpt2").save_pretrained(tmp_path / "lm")
    words().save_pretrained(tmp_path / "lm")
    message = refused(tmp_path / "lm")
    assert "is not a CODI model: its weights begin with transformer." in message and "headlab.load" in message
    assert headlab.load(str(tmp_path / "lm")).grid.n_heads == 5
    with pytest.raises(ThoughtError, match=r"has no codi\.json"):
        read_folder(tmp_path / "lm")


def test_headlab_load_refuses_a_codi_folder(folder: Path, tmp_path: Path) -> None:
    """Through transformers it would be an untrained language model; the sentence says what opens it."""
    own = read(folder)[0].save(tmp_path / "own", words())
    safe = tmp_path / "safe"
    shutil.copytree(folder, safe, ignore=shutil.ignore_patterns("*.bin"))
    save_file(apart(wrapper().state_dict()), safe / "model.safetensors")
    bare = written(wrapper("llama"), tmp_path / "bare", config=False)
    for at in (folder, own, safe, bare):
        with pytest.raises(ModelError) as caught:
            headlab.load(str(at))
        said = str(caught.value)
        assert f"headlab.thoughts.load('{at}')" in said and f"headlab trial hubs --model {at}" in said
    with pytest.raises(ModelError, match=r"a CODI checkpoint is opened by headlab\.thoughts\.load"):
        headlab.load("nobody/CODI-gpt2")


def test_a_codi_model_of_the_hub_is_refused_by_its_names(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """In a hub's cache, where the folder is not looked at before transformers reads it."""
    from headlab.engine import loading

    monkeypatch.setattr(loading, "thinks", lambda _folder: False)
    with pytest.raises(ModelError, match=r"headlab\.thoughts\.load"):
        headlab.load(str(folder))


def test_a_pickle_with_code_is_not_opened(tmp_path: Path) -> None:
    made, mark = wrapper(), tmp_path / "ran"

    class Code:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    for zipped in (True, False):
        folder = written(made, tmp_path / str(zipped), {})
        state: Any = {**made.state_dict(), "x": Code()}
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        message = refused(folder)
        assert "pytorch_model.bin is a pickle that holds more than tensors" in message and "safetensors" in message
        with pytest.raises(ModelError, match="more than tensors"):
            headlab.load(str(folder))
        assert not mark.exists()
    torch.save(made.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    read(folder)  # the older format itself is read


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_files_that_are_not_whole(tmp_path: Path, file: str) -> None:
    made = wrapper()
    folder = written(made, tmp_path / "cut")
    if file == "model.safetensors":
        save_file(apart(made.state_dict()), folder / file)
    whole = (folder / file).read_bytes()
    for keep in (len(whole) // 2, len(whole) - 9, 60, 1, 0):
        (folder / file).write_bytes(whole[:keep])
        assert f"{file} is damaged or cut short ({keep} bytes); fetch it again" in refused(folder)
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 5\n")
    assert f"{file} is a Git LFS pointer" in refused(folder)


def test_a_pickle_that_is_no_state_dict(tmp_path: Path) -> None:
    folder = written(wrapper(), tmp_path / "x")
    for other in ([torch.ones(2)], {"state_dict": wrapper().state_dict(), "step": 3}):
        torch.save(other, folder / "pytorch_model.bin")
        assert "is not a state dict" in refused(folder)
    torch.save({}, folder / "pytorch_model.bin")
    assert "is not a CODI model: its weights begin with nothing" in refused(folder)


def test_shards_that_do_not_make_a_whole(tmp_path: Path) -> None:
    made = wrapper()
    state = apart(made.state_dict())
    folder = written(made, tmp_path / "shards")
    (folder / "pytorch_model.bin").unlink()
    assert "holds no weights; expected model.safetensors" in refused(folder)
    names = sorted(state)
    save_file({k: state[k] for k in names[:9]}, folder / "model-00001-of-00003.safetensors")
    assert "model-00002-of-00003.safetensors, model-00003-of-00003.safetensors is missing" in refused(folder)
    save_file({k: state[k] for k in names[8:20]}, folder / "model-00002-of-00003.safetensors")
    save_file({k: state[k] for k in names[20:]}, folder / "model-00003-of-00003.safetensors")
    assert f"{names[8]} stands in more than one weight file" in refused(folder)
    for broken in ("[]", "{}", "{"):
        (folder / "model.safetensors.index.json").write_text(broken)
        assert "is no index of weight files" in refused(folder)
    (folder / "model.safetensors.index.json").unlink()
    save_file({names[0]: state[names[0]]}, folder / "model-00001-of-00001.safetensors")
    assert "shards of different sets" in refused(folder)


def test_what_was_given_is_named(folder: Path) -> None:
    assert "lora is 'fold'; expected 'merge' or 'keep'" in refused(folder, lora="fold")
    assert "alpha is 0" in refused(folder, alpha=0)
    assert "no revision 'v2'" in refused(folder, revision="v2")
    assert "does not exist" in refused("./no/such/folder") and "is a file" in refused(folder / "config.json")
    message = refused("nobody/codi-gpt2")
    assert "cannot reach the hub for 'nobody/codi-gpt2' and it is not in the local cache" in message
    with pytest.raises(ModelError, match="unknown dtype 'int3'"):
        thoughts.load(folder, dtype="int3")
    with pytest.raises(ModelError, match="no such device"):
        thoughts.load(folder, device="potato")
    large = Tokenizer(models.WordLevel({f"w{i}": i for i in range(90)}, unk_token="w0"))
    message = refused(folder, tokenizer=PreTrainedTokenizerFast(tokenizer_object=large))
    assert f"it has tokens up to 89, but words end at {WORDS - 1} there" in message


@pytest.mark.parametrize(
    ("slug", "model", "said"),
    [
        ("hubs", "decimals-natural", "decimals-natural is a language model without thoughts"),
        ("parity", "thoughts-gpt2", "thoughts-gpt2 thinks in vectors before it answers"),
        ("hubs", "thoughts-gtp2", "did you mean the shipped organism thoughts-gpt2"),
    ],
)
def test_a_claim_and_a_model_that_do_not_go_together(slug: str, model: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        trial(slug, model, store=tmp_path)
