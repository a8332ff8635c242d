"""Published CODI checkpoints are read whole: what real peft and torch.save write (wrappers.py) gives the same model."""

from __future__ import annotations

import copy
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from wrappers import TARGETS, WORDS, Wrapper, apart, base_model, randomised, reference, same, words, wrapper, written

from headlab import thoughts
from headlab.thoughts.loading import read, read_folder
from headlab.thoughts.published import base_config, gathered


@pytest.fixture(scope="module", params=["gpt2", "llama", "untied"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(wrapper(kind), tmp_path_factory.mktemp("checkpoints") / kind)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Any:
    """The checkpoint ready for trial, by what is done with LoRA; tests leave it as it was."""
    return cache(lambda lora: thoughts.load(folder, lora=lora))


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("lora", ["merge", "keep"])
def test_logits_thoughts_and_answer_are_the_wrappers_own(kind: str, opened: Any, lora: str) -> None:
    """By the published procedure, one problem at a time, without the engine; and what was read is said."""
    made, got = wrapper(kind), opened(lora)
    same(got.model, made)
    assert (got.spec.pad, got.spec.bot, got.spec.eot) == (WORDS, WORDS + 1, WORDS + 2)
    assert got.spec.n_thoughts == 6 and got.spec.prj_dim == 37 and got.lab.dtype == torch.float32
    assert hasattr(got.model.codi, "peft_config") == (lora == "keep")
    said = got.lab.info["checkpoint"]
    assert said["files"] == ["pytorch_model.bin"] and said["tensors"] == len(made.state_dict())
    assert said["lora"] == {"merge": "merged", "keep": "kept"}[lora] and said["alpha"] == 32 and said["rank"] == [4]
    assert said["dtypes"] == {"float32": said["tensors"]} and said["ignored"] == said["buffers not read"] == []
    json.dumps(said)


def test_merged_and_kept_are_one_model_for_the_engine(kind: str, opened: Any) -> None:
    """W_Q … W_O as they act, LoRA included; heads are located although each kept map has three parts; same steps."""
    merged, kept = opened("merge"), opened("keep")
    same(kept.model, merged.model)
    assert merged.lab.geometry == kept.lab.geometry and kept.lab.geometry.z_is_input
    assert merged.lab.grid == kept.lab.grid
    assert merged.lab.info["selfcheck"]["steps"] == kept.lab.info["selfcheck"]["steps"]
    for which in "qkvo":
        a, b = merged.lab.weight(which, 1), kept.lab.weight(which, 1)
        assert a.shape == b.shape and (a - b).abs().max() < 1e-5
        with kept.model.codi.disable_adapter():
            assert (kept.lab.weight(which, 1) - a).abs().max() > 0.05


def test_lora_matters(kind: str, folder: Path, opened: Any) -> None:
    """Otherwise a loader that drops or misscales it would pass: without it, or with another alpha, thoughts differ."""
    made, kept = wrapper(kind), opened("keep").model
    thought, _ = reference(made, made.bot, made.eot)
    with kept.codi.disable_adapter():
        assert (reference(kept, made.bot, made.eot)[0] - thought).abs().max() > 0.1
    other, _, said = read(folder, alpha=16)
    assert (reference(other, made.bot, made.eot)[0] - thought).abs().max() > 0.1 and said["alpha"] == 16


def test_merged_weights_are_w_plus_scaled_ba_by_hand(tmp_path: Path) -> None:
    """GPT-2 keeps [in, out], so B·A is transposed; attention's c_proj is square, so its shape cannot tell."""
    file = written(wrapper(), tmp_path / "gpt2") / "pytorch_model.bin"
    state, got = torch.load(file, weights_only=True), read(file.parent)[0].codi.state_dict()
    for name in ("h.1.attn.c_proj", "h.1.mlp.c_proj", "h.0.attn.c_attn", "h.1.mlp.c_fc"):
        w, a, b = (
            state[f"codi.base_model.model.transformer.{name}.{part}.weight"]
            for part in ("base_layer", "lora_A.default", "lora_B.default")
        )
        wanted = torch.stack([w[i] + 32 / 4 * (b @ a[:, i]) for i in range(len(w))])
        found = got[f"transformer.{name}.weight"]
        assert (found - wanted).abs().max() < 1e-5 and (wanted - w).abs().max() > 0.1
        if name == "h.1.attn.c_proj":
            assert w.shape[0] == w.shape[1] and (found - (w + 8 * b @ a)).abs().max() > 0.1


def test_a_full_fine_tune(tmp_path: Path, kind: str) -> None:
    made = wrapper(kind, lora=False)
    model, _, said = read(written(made, tmp_path / "full"), lora="keep")
    same(model, made)
    assert said["lora"] == "none in the checkpoint" and said["alpha"] is said["rank"] is None


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_lora_of_several_ranks_on_some_modules(tmp_path: Path, kind: str) -> None:
    made = Wrapper(base_model(kind), 41, None)
    first = "transformer.h.1.attn.c_proj" if kind == "gpt2" else "model.layers.1.self_attn.k_proj"
    wanted = LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=32, target_modules=["c_proj" if kind == "gpt2" else "k_proj"],
        rank_pattern={first: 5}, fan_in_fan_out=kind == "gpt2",
    )  # fmt: skip
    made.codi = get_peft_model(made.codi, wanted)
    folder = written(randomised(made), tmp_path / "ranks")
    for lora in ("merge", "keep"):
        model, _, said = read(folder, lora=lora)
        same(model, made)
        assert said["rank"] == [3, 5] and model.spec.prj_dim == 41


@pytest.mark.parametrize("kind", ["gpt2", "llama"], indirect=True)
def test_a_safetensors_file_shards_and_a_pickle_give_the_same_model(kind: str, folder: Path, tmp_path: Path) -> None:
    state = apart(wrapper(kind).state_dict())
    wanted = read(folder)[0].state_dict()
    names = sorted(state)
    parts = [{k: state[k] for k in names[i::3]} for i in range(3)]
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = {"metadata": {}, "weight_map": {k: f for f, part in zip(files, parts, strict=True) for k in part}}
    for layout in ("one", "shards", "indexed", "sharded pickle"):
        other = tmp_path / layout
        shutil.copytree(folder, other, ignore=shutil.ignore_patterns("*.bin"))
        if layout == "one":
            save_file(state, other / "model.safetensors")
        for i, (file, part) in enumerate(zip(files, parts, strict=True), start=1):
            if layout == "sharded pickle":
                torch.save(part, other / f"pytorch_model-0000{i}-of-00003.bin")
            elif layout != "one":
                save_file(part, other / file)
        if layout == "indexed":
            (other / "model.safetensors.index.json").write_text(json.dumps(index))
        model, _, said = read(other)
        assert len(said["files"]) == (1 if layout == "one" else 3)
        assert equal(model.state_dict(), wanted), layout


@pytest.mark.parametrize("kind", ["gpt2", "llama"], indirect=True)
def test_mixed_dtypes_become_the_asked_one(tmp_path: Path, kind: str) -> None:
    """A bfloat16 base with float32 LoRA and projector, as reported; read as float32 every stored value is exact."""
    made = copy.deepcopy(wrapper(kind))
    state = {k: v if "lora_" in k or "prj." in k else v.bfloat16() for k, v in made.state_dict().items()}
    folder = written(made, tmp_path / "mixed", state)
    made.load_state_dict({k: v.float() for k, v in state.items()})
    for lora in ("merge", "keep"):
        model, _, said = read(folder, lora=lora)
        same(model, made)
        assert set(said["dtypes"]) == {"bfloat16", "float32"} and sum(said["dtypes"].values()) == len(state)
        for asked in ("bfloat16", torch.bfloat16, "auto"):
            half, _, said = read(folder, lora=lora, dtype=asked)
            assert {v.dtype for v in half.parameters()} == {torch.bfloat16} and said["dtype"] == "bfloat16"
            assert all(v.dtype == torch.float32 for v in half.buffers() if v.is_floating_point())
            full = model.state_dict()
            assert all(torch.equal(v, full[k].bfloat16()) for k, v in half.state_dict().items())
    if kind == "gpt2":
        assert thoughts.load(folder, dtype="bfloat16").lab.dtype == torch.bfloat16


def test_tied_embeddings_may_stand_twice_or_once_under_either_name(tmp_path: Path) -> None:
    made = wrapper("llama")
    state = apart(made.state_dict())
    for leave in ("lm_head", "model.embed_tokens"):
        gone = f"codi.base_model.model.{leave}.weight"
        model = read(written(made, tmp_path / leave, {k: v for k, v in state.items() if k != gone}))[0]
        same(model, made)
        assert model.codi.lm_head.weight is model.codi.model.embed_tokens.weight


def test_buffers_of_old_versions_are_named_and_not_read(tmp_path: Path) -> None:
    for kind, more in (
        ("gpt2", {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64).tril().bool(),
                  "transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}),
        ("llama", {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.zeros(7)}),
    ):  # fmt: skip
        made = wrapper(kind)
        old = {f"codi.base_model.model.{k}": v for k, v in more.items()}
        model, _, said = read(written(made, tmp_path / kind, {**made.state_dict(), **old}))
        same(model, made)
        assert said["buffers not read"] == sorted(old)


def test_a_prefix_may_be_ignored_and_is_said(tmp_path: Path) -> None:
    """SIM-CoT's auxiliary decoder."""
    made = wrapper()
    more = {f"decoder.transformer.h.{i}.weight": torch.ones(2) for i in range(3)} | {"pj_in.weight": torch.ones(1)}
    folder = written(made, tmp_path / "simcot", {**made.state_dict(), **more})
    model, _, said = read(folder, ignore=("decoder.", "pj_"))
    same(model, made)
    assert said["ignored"] == sorted(more)


def test_a_folder_of_headlab_itself(tmp_path: Path, kind: str, folder: Path) -> None:
    """Codi.save and back, numbers of thoughts and modes included; the same through read_folder."""
    model = read(folder)[0]
    own = model.save(tmp_path / "own", words())
    again = read(own)[0]
    assert equal(again.state_dict(), model.state_dict()) and again.spec == model.spec
    assert equal(read_folder(own)[0].state_dict(), model.state_dict())
    filler = thoughts.Codi(model.codi, thoughts.Spec.after(WORDS, 37, n_thoughts=4, mode="filler"))
    again = read(filler.save(tmp_path / "filler", words()))[0]
    assert again.spec == filler.spec and torch.equal(again.filler, filler.filler)


def test_the_fingerprint_covers_the_projector(tmp_path: Path) -> None:
    made = wrapper()
    state = made.state_dict()
    other = {**state, "prj.3.bias": state["prj.3.bias"] + 0.1}
    a, b = (thoughts.load(written(made, tmp_path / n, s)) for n, s in (("a", state), ("b", other)))
    assert a.lab.fingerprint != b.lab.fingerprint


@pytest.mark.parametrize("kind", ["gpt2", "llama"], indirect=True)
def test_the_base_may_be_a_folder_or_a_config(tmp_path: Path, kind: str) -> None:
    """Its weights and its smaller vocabulary do not matter; its tokenizer serves where the checkpoint has none."""
    made = wrapper(kind)
    alone = written(made, tmp_path / "alone", config=False)
    plain, base = base_model(kind), tmp_path / "base"
    plain.save_pretrained(base)
    words().save_pretrained(base)
    same(read(alone, base=plain.config)[0], made)
    assert plain.config.vocab_size == WORDS  # what was given is left as it was
    for file in alone.glob("*token*"):
        file.unlink()
    (alone / "config.json").write_text("")  # as SIM-CoT's
    model, found, said = read(alone, base=str(base))
    same(model, made)
    assert len(found) == WORDS and said["base"] == f"base '{base}'" and said["tokenizer"] == f"{base}'s"
    same(read(alone, base=plain.config, tokenizer=words())[0], made)


def test_a_tokenizer_may_have_the_padding_token_of_the_published_script(tmp_path: Path) -> None:
    padded = copy.deepcopy(words())
    padded.add_special_tokens({"pad_token": "[PAD]"})
    assert padded.pad_token_id == WORDS
    assert read(written(wrapper(), tmp_path / "x"), tokenizer=padded)[1] is padded


def test_the_two_published_models_are_known_from_their_shapes() -> None:
    """Parameters on the meta device: 1,235,814,400 of Llama-3.2-1B and 124,439,808 of GPT-2, and three rows more."""
    from transformers import LlamaConfig

    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
             "num_key_value_heads": 8, "vocab_size": 128259, "tie_word_embeddings": True}  # fmt: skip
    for config, count, heads in (
        (LlamaConfig(**sizes), 1_235_814_400 + 3 * 2048, (32, 8)),
        (GPT2Config(vocab_size=50260), 124_439_808 + 3 * 768, (12, 12)),
    ):
        with torch.device("meta"):
            state = {f"codi.{k}": v for k, v in AutoModelForCausalLM.from_config(config).state_dict().items()}
            found, said = base_config(Path("nowhere"), None, state, resize=True)
            rebuilt = AutoModelForCausalLM.from_config(found)
        assert sum(p.numel() for p in rebuilt.parameters()) == count and said.startswith("inferred from the shapes")
        assert (found.num_attention_heads, getattr(found, "num_key_value_heads", 12)) == heads
    assert "768 / 64 = 12 heads" in said


def test_names_are_gathered_into_one_line() -> None:
    names = ["h.0.a", "h.1.a", "h.3.a", "h.10.a", "h.2.b", "x", "prj.1.w", "prj.3.w", "l.1.e.2.w", "l.1.e.3.w"]
    assert gathered(names) == "h.2.b, h.{0-1,3,10}.a, l.1.e.2.w, l.1.e.3.w, prj.{1,3}.w, x"


@pytest.mark.parametrize("safe", [False, True])
def test_a_hub_id_is_read_from_the_cache_and_only_what_is_needed_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    """A cache as huggingface_hub lays it out, without a network; a pickle is asked for where there is nothing safer."""
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--CODI-gpt2"
    snapshot = written(wrapper(), repository / "snapshots" / commit)
    for name in ("main", "v2"):
        (repository / "refs" / name).parent.mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    if safe:
        save_file(apart(wrapper().state_dict()), snapshot / "model.safetensors")
    real, asked = huggingface_hub.snapshot_download, []

    def watched(name: str, **given: Any) -> str:
        asked.append((name, given["revision"], given["allow_patterns"]))
        return real(name, cache_dir=tmp_path, **given)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    model, _, said = read("someone/CODI-gpt2", revision="v2")
    same(model, wrapper())
    assert said["files"] == ["model.safetensors" if safe else "pytorch_model.bin"]
    assert said["source"] == "someone/CODI-gpt2" and said["revision"] == "v2" and said["commit"] == commit
    assert [(name, revision) for name, revision, _ in asked] == [("someone/CODI-gpt2", "v2")] * (1 if safe else 2)
    first, *second = (patterns for _, _, patterns in asked)
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(first) and not any(".bin" in p for p in first)
    assert all("pytorch_model.bin" in patterns for patterns in second)
    with pytest.raises(thoughts.ThoughtError, match=r"cannot reach the hub|no revision"):
        read("someone/CODI-gpt2", revision="v3")


@pytest.mark.accept
def test_the_real_shapes_of_gpt2(tmp_path: Path) -> None:
    """124M parameters, LoRA of rank 128 on the four maps of 12 layers, mixed dtypes, no config: 20,057,088 trained
    weights of 144,499,200, as published."""
    base = GPT2LMHeadModel(GPT2Config())
    made = Wrapper(base, 768, TARGETS["gpt2"], rank=128)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
            elif weight.dim() == 1:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    made.eval().requires_grad_(False)
    trained = [v for k, v in made.named_parameters() if "lora_" in k or k.startswith("prj.")]
    assert sum(v.numel() for v in trained) == 20_057_088
    assert sum(v.numel() for v in made.parameters()) == 144_499_200
    state = {k: v if "lora_" in k or "prj." in k else v.bfloat16() for k, v in made.state_dict().items()}
    folder = written(made, tmp_path / "real", state, config=False)
    made.load_state_dict({k: v.float() for k, v in state.items()})
    ids = torch.randint(0, 50257, (1, 97), generator=generator)
    for lora in ("merge", "keep"):
        got = thoughts.load(folder, lora=lora)
        same(got.model, made, ids=ids)
        said = got.lab.info["checkpoint"]
        assert "768 / 64 = 12 heads" in said["base"] and said["rank"] == [128] and got.spec.bot == 50258
        assert (got.lab.grid.n_layers, got.lab.grid.n_heads) == (12, 12)
