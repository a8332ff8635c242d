"""Which families load, what each offers, and that a family without heads to reach is refused by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

from headlab.engine import attention, selfcheck
from headlab.engine.attention import Tape
from headlab.engine.model import ABILITIES, ModelError, open_model
from headlab.engine.passes import forward
from headlab.engine.run import sweep
from headlab.heads import Heads
from headlab.interventions import Intervention, World

NOT_ADDED = {
    "qwen3_next": "a gate stands between z and the output projection",
    "bitnet": "a norm over all heads stands between z and the output projection",
}
NOT_REUSED = {"deepseek_v3": "its cache holds compressed keys and values, so earlier positions run again"}
"""(With transformers 5.24; the cache of 5.9 holds whole ones, and both may be.)"""
NO_SCORES = {"gpt_oss": "an attention sink takes a share of each row"}
NO_SDPA = {"gemma2": "soft-cap", "gpt_oss": "sinks"}


def on_the_interface(model: Any) -> bool:
    """Whether the installed transformers routes this family's attention through its interface: each version routes more."""
    return "ALL_ATTENTION_FUNCTIONS" in Path(inspect.getsourcefile(type(model)) or "").read_text()


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)  # GPT-BigCode of transformers 5.9
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_family_loads_and_proves_itself(family: str) -> None:
    """The counts are those the model was built with, and what each family offers stands in the tables above."""
    if not on_the_interface(tiny.hf_model(family)):
        pytest.skip(f"transformers {transformers.__version__} does not route {family} through its interface")
    sizes = tiny.FAMILIES[family]
    lab = tiny.lab(family)
    found = lab.info["selfcheck"]
    heads = sizes.get("num_attention_heads") or sizes.get("n_head")
    kv = 1 if sizes.get("multi_query") else sizes.get("num_key_value_heads", heads)
    assert (lab.grid.n_layers, lab.grid.n_heads, lab.grid.n_kv_heads) == (3, heads, kv)
    assert lab.head_dim == sizes.get("v_head_dim", 16 if family in {"gpt_neox", "phi", "stablelm"} else tiny.HEAD_DIM)
    assert lab.can_skip and lab.can_resume and lab.can_narrow
    assert lab.can_add == (family not in NOT_ADDED)
    older = family in NOT_REUSED and tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 24)
    assert lab.can_reuse == (family not in NOT_REUSED) or older
    assert list(found["steps"].values()) == [getattr(lab, able) for able in ABILITIES]
    assert found["scores give the pattern"] == (family not in NO_SCORES)
    assert {s.sdpa for s in lab.slots} == {family not in NO_SDPA}
    assert found["parity"] <= 1e-5 and found["no-op"] <= 1e-6
    assert found["smallest change by an edit"] > 1e-3
    low, high = found["pattern row sums"]
    assert high == pytest.approx(1, abs=1e-5) and (low < 0.99 if family == "gpt_oss" else low > 1 - 1e-5)


def test_there_are_at_least_25_families() -> None:
    assert len(tiny.FAMILIES) >= 25


def test_a_hybrid_counts_only_its_softmax_layers() -> None:
    """Qwen3-Next: layer 0 has linear attention, so it has no heads, and its layers keep their numbers."""
    lab = tiny.lab("qwen3_next")
    assert sorted(lab.attentions) == [1, 2] and lab.info["selfcheck"]["attention layers"] == 2
    with pytest.raises(ModelError, match=r"layer 0 .* has no softmax attention"):
        sweep(lab, tiny.equal_pairs(2), [World("w", (tiny.edit(lab, 0, "z", write="zero"),))])


@pytest.mark.parametrize("family", ["qwen3_next", "bitnet"])
def test_z_edits_work_where_z_is_not_the_projections_input(family: str) -> None:
    """There is no W_O per head, but zeroing z equals zeroing it by a wrapper around the attention function."""
    lab = tiny.lab(family)
    assert not lab.geometry.z_is_input
    with pytest.raises(ModelError, match=r"has no per-head W_O.*gates or mixes"):
        lab.weight("o", 1)
    pairs = tiny.equal_pairs(3)
    table = sweep(lab, pairs, [World("w", (Intervention(Heads.of(1, [2, 5]), "z", "zero"),))])

    own = tiny.hf_model(family)
    module = type(lab.attentions[1])
    home = __import__(module.__module__, fromlist=["x"])
    eager, seen = home.eager_attention_forward, []

    def without(self: Any, *args: Any, **kwargs: Any) -> Any:
        z, pattern = eager(self, *args, **kwargs)
        if self.layer_idx == 1:
            seen.append(1)
            z = z.clone()
            z[:, :, 2] = 0
            z[:, :, 5] = 0
        return z, pattern

    home.eager_attention_forward = without
    try:
        with torch.no_grad():
            logits = own(torch.tensor([p.corrupted.ids for p in pairs])).logits[:, -1]
    finally:
        home.eager_attention_forward = eager
    assert seen == [1]
    wanted = (logits[:, 1] - logits[:, 2]).double()
    assert torch.allclose(torch.tensor(table["edited"].to_numpy()), wanted, atol=1e-5 * logits.abs().max().item())
    assert (table["edited"] - table["corrupted"]).abs().min() > 1e-3


def test_mla_says_which_matrix_it_lacks() -> None:
    lab = tiny.lab("deepseek_v3")
    assert lab.weight("v", 1).shape == (5, 17, 18)  # from the compressed stream, not from the residual one
    with pytest.raises(ModelError, match=r"no per-head W_K: no one projection makes k"):
        lab.weight("k", 1)


REFUSED = {
    "falcon": {"num_attention_heads": 5, "hidden_size": 80},
    "bloom": {"n_head": 5, "hidden_size": 80, "n_layer": 2},
    "gpt_neo": {"num_heads": 5, "hidden_size": 80, "num_layers": 3, "attention_types": [[["global", "local", "global"], 1]]},
    "gptj": {"n_head": 5, "n_embd": 80, "n_layer": 2, "rotary_dim": 8},
    "mpt": {"n_heads": 4, "d_model": 64, "n_layers": 2},
    "codegen": {"n_head": 4, "n_embd": 80, "n_layer": 2, "rotary_dim": 8},
    "mamba": {"hidden_size": 32, "state_size": 4},
}  # fmt: skip


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_off_the_interface_is_refused_by_name(family: str) -> None:
    """Which families those are is the installed transformers' affair: GPT-J and CodeGen joined the interface in 5.24."""
    model = tiny.hf_model(family, REFUSED[family])
    if on_the_interface(model):
        selfcheck.prove(open_model(model, tokenizer=tiny.words()))
        return
    with pytest.raises(ModelError, match=rf"family '{family}' does not route its attention .*AttentionInterface"):
        open_model(model, tokenizer=tiny.words())


def test_two_calls_in_a_layer_are_refused() -> None:
    """DiffLlama subtracts two attentions: what the function returns is not one head's output."""
    sizes = {"num_attention_heads": 10, "num_key_value_heads": 2, "hidden_size": 160, "intermediate_size": 53}
    model = tiny.hf_model("diffllama", sizes)
    why = "calls attention more than once in a layer" if on_the_interface(model) else "does not route its attention"
    with pytest.raises(ModelError, match=f"'diffllama' {why}"):
        open_model(model, tokenizer=tiny.words())


# -- the self-check finds a broken instrument -----------------------------------------------------------------


def _fresh(family: str = "llama") -> Any:
    return open_model(tiny.hf_model(family), tokenizer=tiny.words())


def test_selfcheck_finds_a_vanished_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: without its mask function the causal mask vanishes silently, in sdpa as in eager mathematics."""

    def everything(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        return attention._eager(module, q, k, v, torch.ones(1, 1, q.shape[2], k.shape[2], dtype=torch.bool), kwargs)

    lab = _fresh()
    monkeypatch.setattr(attention, "_delegate", lambda m, s, q, k, v, mask, kw: everything(m, q, k, v, mask, **kw))
    with pytest.raises(ModelError, match="self-check 'parity' failed"):
        selfcheck.prove(lab)


def test_without_its_mask_function_a_window_is_lost() -> None:
    """Mutate, see red: with the registered mask dropped, Gemma-2's windows are gone and parity fails."""
    from transformers import AttentionMaskInterface

    lab = _fresh("gemma2")
    selfcheck.prove(lab)
    registered = AttentionMaskInterface._global_mapping.pop(attention.NAME)
    try:
        with pytest.raises(ModelError, match="self-check 'parity' failed"):
            selfcheck.prove(lab)
    finally:
        AttentionMaskInterface.register(attention.NAME, registered)
    selfcheck.prove(lab)


def test_selfcheck_finds_a_leak_from_the_future() -> None:
    """Mutate, see red: a model that reads ahead itself passes parity, and fails causality."""
    lab = _fresh()
    handle = lab.layers[0].register_forward_hook(lambda _m, _a, out: out + out.roll(-1, dims=1))
    with pytest.raises(ModelError, match=r"self-check 'causality' failed.*a later token changes earlier logits"):
        selfcheck.prove(lab)
    handle.remove()


def test_selfcheck_finds_a_dead_edit() -> None:
    """Mutate, see red: an output projection of zeros hides every edit of z."""
    lab = _fresh()
    lab.attentions[2].o_proj.weight.zero_()
    with pytest.raises(ModelError, match=r"self-check 'edit' failed.*setting z of layer 2 to 0 changes no logit"):
        selfcheck.prove(lab)


def test_selfcheck_finds_heads_that_do_not_add_up() -> None:
    """Mutate, see red: something added to the module's output that no head wrote."""
    lab = _fresh()

    def hook(_module: Any, _args: Any, out: Any) -> Any:
        return (out[0] + 1.0, *out[1:])

    handle = lab.attentions[1].register_forward_hook(hook)
    with pytest.raises(ModelError, match=r"self-check 'heads' failed.*in layer 1 the heads' outputs do not add up"):
        selfcheck.prove(lab)
    handle.remove()


def test_selfcheck_finds_a_no_op_that_changes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate, see red: a tape that writes the heads back in reverse order."""
    lab = _fresh()
    touch = Tape.touch

    def reversed_touch(self: Tape, layer: int, site: str, value: Any) -> Any:
        out = touch(self, layer, site, value)
        return out.flip(2) if site == "z" and (layer, site) in self.edits else out

    monkeypatch.setattr(Tape, "touch", reversed_touch)
    with pytest.raises(ModelError, match="self-check 'no-op' failed"):
        selfcheck.prove(lab)


def test_sinks_take_scores_away_and_say_so() -> None:
    lab = tiny.lab("gpt_oss")
    pairs = tiny.equal_pairs(2)
    with pytest.raises(RuntimeError, match="'scores' is not available for this model"):
        sweep(lab, pairs, [World("w", (tiny.edit(lab, 1, "scores", amount=0.0),))])
    with lab.tape(Tape(wanted=frozenset({(1, "pattern")}))) as tape, torch.no_grad():
        forward(lab, torch.tensor([pairs[0].clean.ids]))
    assert tape.kept[1, "pattern"].sum(-1).max() < 1  # the sink's share is missing from every row


def test_two_labs_do_not_share_state() -> None:
    """The registry is global; what runs hangs on each model's own modules."""
    one, two = _fresh(), _fresh("gpt2")
    ids = torch.tensor(tiny.prompts(1, 7))
    with torch.no_grad():
        before = forward(two, ids).logits
        with one.tape(Tape(edits={(1, "z"): [torch.zeros_like]})) as tape:
            assert torch.equal(forward(two, ids).logits, before)
        assert tape.fired == {} and tape.calls == []
