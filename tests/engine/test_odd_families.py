"""Families whose own code does more than hand z on, and models that remember: right, or refused by name.

Looked for of each kind, in every class of docs/families.md: functions that scale z after pattern · v (granite_swa,
granitemoe_swa; of the others with sinks, gpt_oss, flint, hy_v4, inkling2, mimo_v2_flash and deepseek_v4 give their pattern
with the sink inside, read in their code; the last of them is refused for its compressed keys, inkling2 of transformers 5.24
for the attentions over depth that it now calls by the same way); residuals that
are not [row, position, d_model] (gemma3n); layers that share keys and values (gemma3n);
projections that are no linear maps (jetmoe); a cache that is not returned (recurrent_gemma); indexers that choose keys
and write that into the mask for "eager" and "sdpa" alone (axk2, deepseek_v32, dots3_note, glm_moe_dsa, hy_v4,
mistral_large4 hand ``indices`` on, minimax_m3_vl ``block_indices``; glm5_next, qwen4_exp and deepseek_v4 always write a
mask); positions that do not begin at 0 (camembert, data2vec-text, roberta, roberta-prelayernorm, xlm-roberta,
xlm-roberta-xl, xmod: after the padding token's number); state outside the cache (dynamic rope; longrope, which takes its
frequencies from each pass's length alone).
"""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import zoo

from headlab.engine import attention
from headlab.engine.attention import Tape
from headlab.engine.decode import generate
from headlab.engine.limits import positions
from headlab.engine.model import Lab, ModelError
from headlab.engine.passes import EngineError, forward
from headlab.engine.run import sweep
from headlab.engine.selfcheck import prove
from headlab.interventions import World


def lab_of(family: str, variant: str = "") -> Lab:
    model = zoo.build(family, variant)
    assert model.made is not None, model.why
    return tiny.proved(model.made)


@pytest.mark.parametrize("family", ["granite_swa", "granitemoe_swa"])
def test_sinks_that_scale_z_stand_in_the_pattern(family: str) -> None:
    """With the pattern asked, logits are those of the unedited pass; a z edit is the same beside a pattern world; the
    pattern's rows are the softmax's times sigmoid(lse − sink), by hand; scores are refused."""
    lab = lab_of(family)
    layer = sorted(lab.attentions)[0]
    ids = torch.tensor(tiny.prompts(2, 11))
    with torch.no_grad():
        plain = forward(lab, ids, last=False).logits
        with lab.tape(Tape(wanted=frozenset((layer, s) for s in ("q", "k", "pattern")))) as tape:
            asked = forward(lab, ids, last=False).logits
    assert tiny.gap(asked, plain) < 1e-5
    q, k = tape.kept[layer, "q"], tape.kept[layer, "k"].repeat_interleave(lab.grid.n_heads // lab.grid.n_kv_heads, 1)
    module: Any = lab.attentions[layer]
    first = (q @ k.transpose(2, 3) * module.scaling)[:, :, :4, :4]  # inside every window
    first = first.masked_fill(~torch.ones(4, 4, dtype=torch.bool).tril(), float("-inf"))
    weight = (first.logsumexp(-1) - module.sinks.view(1, -1, 1)).sigmoid()
    assert torch.allclose(tape.kept[layer, "pattern"][:, :, :4, :4], first.softmax(-1) * weight[..., None], atol=1e-6)
    z, pattern = (World(s, (tiny.edit(lab, 1, s),)) for s in ("z", "pattern"))
    pairs = tiny.equal_pairs(3)
    alone, beside = (sweep(lab, pairs, worlds).query("world == 'z'")["edited"] for worlds in ([z], [z, pattern]))
    assert alone.to_numpy() == pytest.approx(beside.to_numpy(), abs=1e-5)
    with pytest.raises(RuntimeError, match="'scores' is not available"):
        sweep(lab, pairs, [World("w", (tiny.edit(lab, 1, "scores", amount=0.5),))])


def test_keys_that_an_indexer_leaves_out_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts longer than ``index_topk`` (5): at most 5 keys a row have weight, as in the model's own attention; without
    the choice the logits are others (mutate, see red), and nothing is reused, because the indexer keeps keys of its own."""
    lab = lab_of("deepseek_v32")
    ids, layer = torch.tensor(tiny.prompts(2, 11)), 1
    with torch.no_grad(), lab.tape(Tape(wanted=frozenset({(layer, "pattern")}))) as tape:
        right = forward(lab, ids, last=False).logits
    seen = (tape.kept[layer, "pattern"] > 0).sum(-1)
    assert seen.max() == 5 and seen[..., :5].tolist() == torch.arange(1, 6).expand(*seen.shape[:2], -1).tolist()
    assert not lab.can_reuse
    monkeypatch.setattr(attention, "_selected", lambda _module, _q, _k, mask, _kwargs: mask)
    with torch.no_grad():
        assert tiny.gap(forward(lab, ids, last=False).logits, right) > 1e-3
    with pytest.raises(ModelError, match="self-check 'parity' failed"):
        prove(lab)


def test_keys_that_are_no_tokens_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="deepseek_v4 model attend to 7 keys in a prompt of 6 tokens"):
        lab_of("deepseek_v4")


def test_positions_that_do_not_begin_at_zero_are_the_models_own() -> None:
    """RoBERTa numbers its tokens from the padding token's number + 1: unedited logits are those of the plain model, and
    token by token too; with 0, 1, 2 … given they are others, and the self-check says so (mutate, see red).  Its table of
    64 positions ends two tokens earlier."""
    model = zoo.build("roberta")
    ids = torch.tensor(tiny.prompts(2, 11))
    with torch.no_grad():
        wanted = model.made(ids).logits
        lab = tiny.proved(model.made)
        assert tiny.gap(forward(lab, ids, last=False).logits, wanted) < 1e-5
        assert lab.first_position == 2 and not lab.no_decoding and positions(lab) == 62
        model.made(torch.tensor(tiny.prompts(1, 62)))
        with pytest.raises((IndexError, RuntimeError)):
            model.made(torch.tensor(tiny.prompts(1, 63)))
        lab.first_position = 0
        assert tiny.gap(forward(lab, ids, last=False).logits, wanted) > 1e-2
    with pytest.raises(ModelError, match="self-check 'parity' failed"):
        prove(lab)


@pytest.mark.parametrize("variant", ["", "shared KV"])
def test_several_streams_run_in_full_and_have_no_single_residual(variant: str) -> None:
    lab = lab_of("gemma3n_text", variant)
    assert not lab.can_skip and not lab.can_resume
    table = sweep(lab, tiny.equal_pairs(3), [World("w", (tiny.edit(lab, lab.grid.n_layers - 1, "z", write="zero"),))])
    assert (table["edited"] - table["corrupted"]).abs().to_numpy().min() > 1e-6
    with pytest.raises(RuntimeError, match="'resid' is not available"):
        sweep(lab, tiny.equal_pairs(2), [World("w", (tiny.edit(lab, 1, "resid", write="zero"),))])


def test_projections_that_are_no_linear_maps_leave_z() -> None:
    lab = lab_of("jetmoe")
    assert lab.geometry.q is None and "no one projection makes q" in lab.geometry.why
    assert len(sweep(lab, tiny.equal_pairs(2), [World("w", (tiny.edit(lab, 1, "z", write="zero"),))])) == 2


def test_a_family_that_returns_no_cache_is_swept_and_not_decoded() -> None:
    lab = lab_of("recurrent_gemma")
    layer = sorted(lab.attentions)[0]
    worlds = [World("w", (tiny.edit(lab, layer, "z", write="zero"),))]
    assert len(sweep(lab, tiny.equal_pairs(2), worlds)) == 2
    with pytest.raises(EngineError, match="cannot be decoded under interventions: its cache"):
        generate(lab, tiny.equal_pairs(2), worlds)


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def test_dynamic_positions_do_not_remember_longer_prompts() -> None:
    """Past max_position_embeddings: the same pass after a longer one, and in a Lab made of a model that has run, gives
    what a fresh model gives; with nothing put back, it does not (the test can fail)."""
    sizes = {**tiny.FAMILIES["llama"], "max_position_embeddings": 8, "rope_parameters": DYNAMIC}
    short, long = torch.tensor(tiny.prompts(1, 11)), torch.tensor(tiny.prompts(1, 40))
    with torch.no_grad():
        fresh = tiny.hf_model("llama", sizes)(short).logits
        used = tiny.hf_model("llama", sizes)
        used(long)
        assert tiny.gap(used(short).logits, fresh) > 1e-3
        lab = tiny.proved(used)
        for _ in range(2):
            assert tiny.gap(forward(lab, short, last=False).logits, fresh) < 1e-6
            forward(lab, long)
    assert {name for _, name, _ in lab.between} >= {"inv_freq", "max_seq_len_cached"}


def test_an_ordinary_model_keeps_nothing() -> None:
    assert all(tiny.lab(family).between == [] for family in tiny.CORE)


def test_decoding_across_the_turn_of_longrope_is_refused() -> None:
    """Keys made with the short factors do not fit queries made with the long ones (generate() computes them anew)."""
    half = 7
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * half, "long_factor": [3.0] * half,
            "original_max_position_embeddings": 13, "factor": 4.0}  # fmt: skip
    sizes = {**tiny.FAMILIES["phi3"], "original_max_position_embeddings": 13, "rope_parameters": rope}
    lab = tiny.proved(tiny.hf_model("phi3", sizes))
    worlds = [World("w", (tiny.edit(lab, 1, "z", write="noop"),))]
    assert len(generate(lab, tiny.equal_pairs(2), worlds, max_new_tokens=3)) == 2
    with pytest.raises(EngineError, match="11 tokens and 4 to generate cross the length of 13"):
        generate(lab, tiny.equal_pairs(2), worlds, max_new_tokens=4)
