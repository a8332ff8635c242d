"""The weights of each head make what the running model makes: q, k, v, scores and the attention module's output."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from laws import red
from torch import Tensor
from worked import REFUSED

from headlab.engine.attention import Tape
from headlab.engine.model import Lab, ModelError, Projection, open_model
from headlab.engine.passes import forward
from headlab.measures import distances, head_weights, norm_matched, read_weights, rotations
from headlab.measures.rotations import HeadNorm
from headlab.measures.weights import HeadWeights

IDS = torch.tensor(tiny.prompts(3, 11))
GATED = {
    "qwen3_next": "gates or mixes heads in between",
    "bitnet": "gates or mixes heads in between",
    "deepseek_v3": "no one projection makes k of each head",
}
REBUILT = [f for f in tiny.FAMILIES if f not in GATED]
SCALED = {"opt": 14**-0.5, "gpt_oss": 0.1 * math.log(32) + 1}
"""What q is multiplied by before attention: OPT's 1/√d_head, gpt-oss's attention factor of YaRN (k too)."""
NORMED = {"qwen3", "qwen3_moe", "qwen3_next", "gemma3_text", "olmo2", "olmo3"}


def watched(lab: Lab, layer: int, *sites: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The attention module's input and output [row, position, d_model], by plain hooks, and the wanted sites."""
    kept: list[Tensor] = []

    def keep(_m: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], out: tuple[Tensor, ...]) -> None:
        kept.extend([args[0] if args else kwargs["hidden_states"], out[0] if isinstance(out, tuple) else out])

    handle = lab.attentions[layer].register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad(), lab.tape(Tape(wanted=frozenset((layer, s) for s in sites))) as tape:
        forward(lab, IDS)
    handle.remove()
    return kept[0], kept[1], {s: tape.kept[layer, s] for s in sites}


def projected(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x·W + b of each head, [row, head, position, d]."""
    made = torch.einsum("bpm,hmd->bhpd", x, weight)
    return made if bias is None else made + bias[:, None]


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f != "deepseek_v3"])
def test_q_k_and_v_are_made_by_their_weights(family: str) -> None:
    """q, k at position p are (x·W + b) through the norm, turned by M_p; v is x·W + b at every position.

    The scale of a norm depends on the token (and, in OLMo 2, on all heads), so behind one, directions are compared.
    """
    lab = tiny.lab(family)
    weights = head_weights(lab)
    for layer in (min(lab.attentions), max(lab.attentions)):
        one = weights.at(layer)
        x, _, found = watched(lab, layer, "q", "k", "v")
        assert one.v is not None and one.v_norm is None
        close(projected(x, one.v, one.b_v), found["v"])
        at = [n for n in weights.offsets if n < IDS.shape[1]]
        for site in ("q", "k"):
            made = projected(x, weights.of(site, layer), getattr(one, f"b_{site}"))
            norm: HeadNorm | None = getattr(one, f"{site}_norm")
            assert (norm is not None) == (family in NORMED)
            if norm is not None:
                made = made * norm.gain[:, None] / made.norm(dim=3, keepdim=True)
                assert norm.shift.abs().max() < 1e-5 and not norm.centred
            if site == "q" or family == "gpt_oss":
                made = made * SCALED.get(family, 1.0)
            made = made[:, :, at]
            if one.rotation is not None:
                made = torch.einsum("bhpd,pde->bhpe", made, one.rotation[: len(at)])
            expected = found[site][:, :, at]
            if norm is not None:
                made, expected = (y / y.norm(dim=3, keepdim=True) for y in (made, expected))
            close(made, expected, 2e-5 if family in SCALED else 1e-5)


def rebuild(lab: Lab, weights: HeadWeights, layer: int) -> tuple[Tensor, Tensor]:
    """Σ_h pattern_h·(x·W_V + b_V)·W_O + b_O, and the module's output."""
    x, out, found = watched(lab, layer, "pattern")
    one = weights.at(layer)
    v = projected(x, weights.of("v", layer), one.b_v)[:, weights.kv_of()]
    made = torch.einsum("bhqk,bhkd,hdm->bqm", found["pattern"], v, weights.of("o", layer))
    return made if one.b_o is None else made + one.b_o, out


@pytest.mark.parametrize("family", REBUILT)
def test_the_modules_output_is_rebuilt_from_per_head_weights(family: str) -> None:
    lab = tiny.lab(family)
    weights = head_weights(lab)
    for layer in sorted(lab.attentions):
        close(*rebuild(lab, weights, layer))


def test_the_rebuilding_fails_on_the_wrong_head() -> None:
    """Two heads' rows of W_O, two KV heads' W_V, or a forgotten bias: each shows by far more than rounding."""
    lab = tiny.lab("gpt2")
    weights = head_weights(lab)
    one = weights.at(1)
    assert one.v is not None and one.o is not None and one.b_v is not None
    order = [1, 0, 2, 3, 4]
    broken = {"o": one.o[order], "v": one.v[order], "b_v": torch.zeros_like(one.b_v), "b_o": None}
    for name, value in broken.items():
        wrong = replace(weights, layers={1: replace(one, **{name: value})})
        red(lambda wrong=wrong: close(*rebuild(lab, wrong, 1)))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma", "qwen2", "phi", "cohere", "smollm3"])
def test_scores_are_the_bilinear_form_of_the_relative_position(family: str) -> None:
    """q_p·k_s = (x_p·W_Q + b_Q)·M_{p−s}·(x_s·W_K + b_K)ᵀ for every p − s in the offsets: W_QK is what decides."""
    lab = tiny.lab(family)
    weights = head_weights(lab, [1])
    one, group = weights.at(1), weights.kv_of()
    x, _, found = watched(lab, 1, "q", "k")
    q, k = (projected(x, weights.of(s, 1), getattr(one, f"b_{s}")).double() for s in ("q", "k"))
    scores = torch.einsum("bhqd,bhkd->bhqk", found["q"].double(), found["k"].double()[:, group])
    for i, n in enumerate(weights.offsets):
        if n < IDS.shape[1]:
            turned = q[:, :, n:] if one.rotation is None else q[:, :, n:] @ one.rotation[i].double()
            made = (turned * k[:, group, : IDS.shape[1] - n]).sum(3)
            close(made, scores.diagonal(-n, 2, 3), 2e-5)


def test_rotations_are_the_familys() -> None:
    """GPT-NeoX: a quarter of the channels turns, channel i with i + half by p·10000^(−2i/d_rotary).  Cohere pairs
    neighbours.  GPT-2 and OPT add positions to the embedding; SmolLM3 and Cohere 2 leave layer 1 without."""
    rotation = head_weights(tiny.lab("gpt_neox"), [2]).at(2).rotation
    assert rotation is not None
    for n, m in zip((0, 1, 2, 3, 5, 8, 13, 21, 34, 55), rotation, strict=True):
        expected = torch.eye(16)
        for i, angle in enumerate((n * 1.0, n * 0.01)):
            c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
            expected[[i, i + 2], [i, i + 2]], expected[i, i + 2], expected[i + 2, i] = c, s, -s
        assert (m - expected).abs().max() < 1e-5
    cohere = head_weights(tiny.lab("cohere"), [0]).at(0).rotation
    assert cohere is not None
    assert cohere[1, 0, 1].abs() == pytest.approx(0.84147, abs=1e-4) and cohere[1, 0, 7].abs() < 1e-5
    for family, layer in (("gpt2", 0), ("opt", 2), ("smollm3", 1), ("cohere2", 1), ("gpt_bigcode", 1)):
        assert head_weights(tiny.lab(family)).at(layer).rotation is None


def test_offsets_that_the_model_has_no_position_for_are_left_out() -> None:
    weights = head_weights(tiny.lab("gpt_neox"), [0], offsets=(2, 63, 64, 100))
    assert weights.offsets == (2, 63)
    rotation = weights.at(0).rotation
    assert rotation is not None and rotation.shape == (2, 16, 16)
    assert rotation[1, 0, 0].item() == pytest.approx(torch.tensor(63.0).cos().item(), abs=1e-4)
    with pytest.raises(ModelError, match="positions 0 to 63"):
        head_weights(tiny.lab("gpt2"), offsets=(64, 65))
    for wrong in ((), (3, 1), (-1, 2), (1, 1)):
        with pytest.raises(ModelError, match="rising order"):
            head_weights(tiny.lab("gpt2"), offsets=wrong)


def test_a_centring_norm_is_told_from_one_that_does_not_centre() -> None:
    """StableLM's and Phi's layer norms on q and k subtract the mean of a head, Qwen3's root mean square does not."""
    for family, key in (("stablelm", "qk_layernorm"), ("phi", "qk_layernorm")):
        lab = open_model(tiny.hf_model(family, {**tiny.FAMILIES[family], key: True}), tokenizer=tiny.words())
        norm = head_weights(lab, [1]).at(1).q_norm
        assert norm is not None and norm.centred
        x, _, found = watched(lab, 1, "q")
        made = projected(x, lab.weight("q", 1), lab.bias("q", 1))[:, :, 0]
        made = made - made.mean(2, keepdim=True)
        made = made / made.square().mean(2, keepdim=True).sqrt() * norm.gain + norm.shift
        close(made, found["q"][:, :, 0], 1e-4)
    plain = head_weights(tiny.lab("qwen3"), [1]).at(1).k_norm
    assert plain is not None and not plain.centred
    gain = tiny.lab("qwen3").attentions[1].k_norm.weight  # type: ignore[union-attr]
    assert (plain.gain - gain).abs().max() < 1e-5


def test_grouped_queries_are_not_repeated() -> None:
    """Llama here has 10 query heads on 2 KV heads, Gemma 5 on 1, each with an explicit head_dim."""
    for family, heads, kv, d_model in (("llama", 10, 2, 110), ("gemma", 5, 1, 65), ("gpt_bigcode", 5, 1, 70)):
        one = head_weights(tiny.lab(family)).at(2)
        shapes = {b: tuple(getattr(one, b).shape) for b in "qkvo"}
        assert shapes == {
            "q": (heads, d_model, 14), "k": (kv, d_model, 14), "v": (kv, d_model, 14), "o": (heads, 14, d_model)
        }  # fmt: skip
    assert head_weights(tiny.lab("llama")).kv_of().tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("family", GATED)
def test_what_a_family_does_not_have_is_refused_by_name(family: str) -> None:
    weights = head_weights(tiny.lab(family))
    block = "k" if family == "deepseek_v3" else "o"
    with pytest.raises(ModelError, match=GATED[family]):
        weights.of(block, max(weights.layers))
    with pytest.raises(ModelError, match=r"no head weights for layer 7 of .*; there are those of layers"):
        weights.at(7)
    with pytest.raises(REFUSED, match=r"'z'"):
        weights.of("z", max(weights.layers))  # type: ignore[arg-type]
    if family == "deepseek_v3":
        with pytest.raises(ModelError, match="W_Q reads 23 compressed channels"):
            weights.of("q", 0)


def test_a_layer_without_softmax_attention_has_no_heads() -> None:
    lab = tiny.lab("qwen3_next")
    assert sorted(head_weights(lab).layers) == [1, 2]
    with pytest.raises(ModelError, match="no softmax attention"):
        head_weights(lab, [0])
    with pytest.raises(ValueError, match="out of range"):
        head_weights(lab, [3])


def test_biases_stand_where_the_layouts_say() -> None:
    """NeoX: view(heads, 3, d) of the fused bias; GPT-2: [Q | K | V]; Qwen2: rows h·d; Llama: none."""
    neox = tiny.lab("gpt_neox")
    fused = neox.model.gpt_neox.layers[1].attention.query_key_value.bias.view(5, 3, 16)
    joined = tiny.lab("gpt2").model.transformer.h[2].attn.c_attn.bias.view(3, 5, 14)
    plain = tiny.lab("qwen2").model.model.layers[0].self_attn.k_proj.bias.view(2, 14)
    for i, which in enumerate("qkv"):
        assert torch.equal(neox.bias(which, 1), fused[:, i])  # type: ignore[arg-type]
        assert torch.equal(tiny.lab("gpt2").bias(which, 2), joined[i])  # type: ignore[arg-type]
        assert tiny.lab("llama").bias(which, 1) is None
    assert torch.equal(tiny.lab("qwen2").bias("k", 0), plain)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="output_bias"):
        neox.bias("o", 1)
    with pytest.raises(ModelError, match="no per-head bias of k"):
        tiny.lab("deepseek_v3").bias("k", 1)


def test_probing_leaves_the_model_as_it_was() -> None:
    lab = tiny.lab("gpt_neox")
    with torch.no_grad():
        before = forward(lab, IDS, last=False).logits
        head_weights(lab)
        assert torch.equal(forward(lab, IDS, last=False).logits, before)


def test_channels_in_another_order_are_noticed() -> None:
    """A projection whose channels reach the head permuted: W_QK would pair the wrong channels, so there is none."""
    lab = open_model(tiny.hf_model("gpt2"), tokenizer=tiny.words())
    whole = lab.geometry
    for site, said in (("q", "why_no_qk"), ("k", "why_no_qk"), ("v", "why_no_ov")):
        old: Projection = getattr(whole, site)
        swapped = Projection(old.path, tuple((rows[1], rows[0], *rows[2:]) for rows in old.channels))
        lab.geometry = replace(whole, **{site: swapped})
        found = head_weights(lab)
        assert "another order" in getattr(found, said) and f"{site}:" in getattr(found, said)
        assert (found.why_no_qk == "") != (found.why_no_ov == "")
    for family in ("gpt2", "llama", "gpt_neox", "qwen3", "olmo2"):
        known = head_weights(tiny.lab(family))
        assert known.why_no_qk == known.why_no_ov == ""


def test_a_map_by_position_that_is_no_common_rotation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """q stretched by position, and q turned where k is not: no relative position explains the scores."""
    lab = tiny.lab("gpt2")
    turn = torch.linalg.qr(torch.randn(14, 14, generator=torch.Generator().manual_seed(0))).Q

    def stretched(x: Tensor) -> Tensor:
        grown = torch.ones(x.shape[2], 14).cumsum(0)
        grown[:, 7:] = 1
        return x * grown

    def turned(x: Tensor) -> Tensor:
        return torch.cat([x[:, :, :1], x[:, :, 1:] @ turn], 2)

    for edit, words in ((stretched, "is not a rotation"), (turned, "turns q and k differently")):
        monkeypatch.setattr(rotations, "Tape", lambda wanted, edit=edit: Tape({(1, "q"): [edit]}, wanted))
        found = head_weights(lab, [1])
        assert words in found.why_no_qk and found.at(1).rotation is None
        with pytest.raises(ModelError, match=words):
            distances(found, 1, "qk_cosine")


def test_norm_matched_weights_keep_norms_and_nothing_else() -> None:
    weights = head_weights(tiny.lab("llama"))
    drawn, again, other = (norm_matched(weights, seed) for seed in (3, 3, 4))
    for layer in (0, 2):
        for block in ("q", "k", "v", "o"):
            old, new = (w.of(block, layer).flatten(1) for w in (weights, drawn))
            assert torch.allclose(old.norm(dim=1), new.norm(dim=1), rtol=1e-5)
            assert torch.cosine_similarity(old, new).abs().max() < 0.15  # 1540 entries: 6 standard deviations
            assert torch.equal(new, again.of(block, layer).flatten(1))
            assert not torch.equal(new, other.of(block, layer).flatten(1))
        assert drawn.at(layer).rotation is weights.at(layer).rotation


def test_weights_are_read_from_a_folder_without_the_trial(tmp_path: Path) -> None:
    tiny.save(tiny.hf_model("qwen3"), tmp_path)
    read, known = read_weights(str(tmp_path), layers=[1]), head_weights(tiny.lab("qwen3"))
    assert list(read.layers) == [1]
    for block in ("q", "k", "v", "o"):
        assert torch.equal(read.of(block, 1), known.of(block, 1))
    with pytest.raises(ModelError, match="no model at"):
        read_weights(str(tmp_path / "none"))


_FRESH = """
import resource, sys, time
start = time.monotonic()
from headlab.measures import distances, norms, published_features, read_weights, spectra
from headlab.measures.head_features import KINDS
weights = read_weights(sys.argv[1])
assert len(weights.layers) == 12
for layer in weights.layers:
    for kind in KINDS:
        assert distances(weights, layer, kind).shape == (12, 12)
    spectra(weights, layer, "qk"), published_features(weights, layer)
assert len(norms(weights)) == 12 * 12 * 6
print(time.monotonic() - start, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.accept
def test_one_checkpoint_of_the_shape_of_pythia_160m(tmp_path: Path) -> None:
    """Weights and all features of a 16-bit checkpoint in a fresh process, the libraries' import included: under 60 s of
    one core (its own time, so that a busy machine does not count) and 2 GiB at the peak."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(vocab_size=50304, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                           intermediate_size=3072, max_position_embeddings=2048)  # fmt: skip
    tiny.save(GPTNeoXForCausalLM(config).half(), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _FRESH, str(tmp_path)], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    wall, seconds, peak = map(float, done.stdout.split()[-3:])
    print(f"{wall:.1f} s, {seconds:.1f} s of the processor, {peak:.2f} GiB")
    assert seconds < 60 and peak < 2
