"""headlab's numbers against implementations that share none of its code.

Three oracles, each with a model of its own (the same random weights, the family's own eager attention): a plain
forward pre-hook on the output projection, written here; TransformerLens (`TransformerBridge`); nnsight.  Worlds:
zero-ablation of z, and z patched clean → corrupted, at every layer, for random sets of heads, at all positions and
at some.  headlab runs them as it runs everything: `sweep` (resumed passes) and, for whole logit rows, full passes.

Agreement is to 1e-5 of the largest logit.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from laws import tape_of
from torch import Tensor

from headlab.engine import run
from headlab.engine.attention import Tape
from headlab.engine.model import Lab
from headlab.engine.passes import forward
from headlab.engine.work import check_fired
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair

TOLERANCE = 1e-5
MIDDLE = (3, 4, 7, 8)  # of the eleven positions
Change = Callable[[Tensor], Tensor]

PROJECTIONS = {  # where the output projection of layer {} stands, by the model files themselves
    "llama": "model.layers.{}.self_attn.o_proj",
    "qwen3": "model.layers.{}.self_attn.o_proj",
    "gemma": "model.layers.{}.self_attn.o_proj",
    "gemma2": "model.layers.{}.self_attn.o_proj",
    "gpt_neox": "gpt_neox.layers.{}.attention.dense",
    "gpt2": "transformer.h.{}.attn.c_proj",
}


@dataclass(frozen=True)
class Case:
    """One world, told to the oracles as: at ``layer``, heads ``heads`` at ``positions``, zero or patch."""

    layer: int
    heads: tuple[int, ...]
    positions: tuple[int, ...]
    zero: bool

    def world(self, number: int) -> World:
        roles = ("middle",) if self.positions == MIDDLE else None
        write = "zero" if self.zero else "patch"
        return World(f"w{number}", (Intervention(Heads.of(self.layer, self.heads), "z", write, roles=roles),))

    def apply(self, z: Tensor, clean: Tensor) -> Tensor:
        """z, clean [row, position, head, d]: the heads' values at the positions replaced, one by one."""
        out = z.clone()
        for position in self.positions:
            for head in self.heads:
                out[:, position, head] = 0.0 if self.zero else clean[:, position, head]
        return out


def pairs() -> list[EncodedPair]:
    """Prompts of equal length without roles, but for a group of positions; other answer tokens in every pair."""
    made = []
    for i, p in enumerate(tiny.equal_pairs(n=4, length=11)):
        corrupted = replace(p.corrupted, roles={"middle": MIDDLE}, answer_id=5 + 7 * i, wrong_id=90 - 11 * i)
        made.append(replace(p, corrupted=corrupted))
    return made


def cases(n_heads: int) -> list[Case]:
    rng = random.Random(7)
    out = []
    for layer in range(tiny.LAYERS):
        for positions, zero in ((tuple(range(11)), False), (MIDDLE, False), (tuple(range(11)), True)):
            heads = sorted(rng.sample(range(n_heads), rng.randrange(1, n_heads)))
            out.append(Case(layer, tuple(heads), positions, zero))
    return out


def rows(which: str) -> Tensor:
    return torch.tensor([getattr(p, which).ids for p in pairs()])


@cache
def ours(family: str) -> tuple[Any, Tensor]:
    """headlab's effects table, and the last logits [world, pair, vocabulary] of the same worlds by full passes."""
    lab = tiny.lab(family)
    assert lab.can_resume, "the sweep must go the resumed way here"
    worlds = [c.world(n) for n, c in enumerate(cases(lab.grid.n_heads))]
    table = run.sweep(lab, pairs(), worlds)
    logits = []
    for world in worlds:
        tape, planned = tape_of(lab, pairs(), world.interventions[0])
        with torch.no_grad(), lab.tape(tape):
            logits.append(forward(lab, rows("corrupted")).logits[:, -1])
        check_fired(tape, planned)
    return table, torch.stack(logits)


def agree(family: str, theirs: Tensor) -> float:
    """Hold both ways of headlab against an oracle's last logits; the largest difference."""
    table, logits = ours(family)
    assert torch.allclose(logits.abs().amax(), theirs.abs().amax(), rtol=0.01)
    full = tiny.gap(logits, theirs)
    wanted = torch.stack(
        [theirs[:, i, p.corrupted.answer_id] - theirs[:, i, p.corrupted.wrong_id] for i, p in enumerate(pairs())], dim=1
    )
    edited = torch.tensor(
        table.assign(n=table["world"].str[1:].astype(int)).sort_values(["n", "pair"])["edited"].to_numpy()
    ).reshape(wanted.shape)
    swept = ((edited - wanted).abs().max() / theirs.abs().max()).item()
    # every world moves the answer, but for the theorem: before the last position of the last layer nothing does
    still = [c.layer == tiny.LAYERS - 1 and c.positions == MIDDLE for c in cases(tiny.lab(family).grid.n_heads)]
    moved = (wanted - torch.tensor(table[table["world"] == "w0"]["corrupted"].to_numpy())).abs().amax(dim=1)
    assert [bool(m > 100 * TOLERANCE) for m in moved] == [not s for s in still]
    assert full <= TOLERANCE, f"full pass: {full:.2e}"
    assert swept <= TOLERANCE, f"sweep: {swept:.2e}"
    return max(full, swept)


# -- the model's own eager attention -------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.SIX)
def test_logits_equal_the_models_own_eager_attention(family: str) -> None:
    own, lab, ids = tiny.hf_model(family), tiny.lab(family), rows("corrupted")
    with torch.no_grad():
        assert tiny.gap(forward(lab, ids, last=False).logits, own(ids).logits) <= TOLERANCE


@pytest.mark.parametrize("family", tiny.SIX)
def test_the_pattern_is_the_models_own(family: str) -> None:
    """`output_attentions` of a separate eager model: windows, soft-caps and scaling included."""
    own, lab, ids = tiny.hf_model(family), tiny.lab(family), rows("corrupted")
    with torch.no_grad():
        theirs = own(ids, output_attentions=True).attentions
        with lab.tape(Tape(wanted=frozenset((layer, "pattern") for layer in range(3)))) as tape:
            forward(lab, ids)
    for layer in range(3):
        assert (tape.kept[layer, "pattern"] - theirs[layer]).abs().max() <= 1e-6


def test_the_window_is_narrower_than_the_prompt() -> None:
    """Gemma-2's layers 0 and 2 see four keys, layer 1 all: else the tests above would not test windows."""
    lab = tiny.lab("gemma2")
    with torch.no_grad(), lab.tape(Tape(wanted=frozenset((n, "pattern") for n in range(3)))) as tape:
        forward(lab, rows("corrupted"))
    seen = [(tape.kept[n, "pattern"][0, 0, -1] > 0).sum().item() for n in range(3)]
    assert seen == [4, 11, 4]


# -- z, against three oracles --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.SIX)
def test_z_equals_a_plain_hook_on_the_output_projection(family: str) -> None:
    model = tiny.hf_model(family)
    size = tiny.lab(family).head_dim
    clean: dict[int, Tensor] = {}

    def passing(layer: int, change: Change, ids: Tensor) -> Tensor:
        def hook(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            return (change(args[0].unflatten(2, (-1, size))).flatten(2),)

        handle = model.get_submodule(PROJECTIONS[family].format(layer)).register_forward_pre_hook(hook)
        with torch.no_grad():
            out = model(ids).logits[:, -1]
        handle.remove()
        return out

    for layer in range(tiny.LAYERS):
        passing(layer, lambda z, layer=layer: clean.setdefault(layer, z), rows("clean"))
    theirs = torch.stack(
        [
            passing(c.layer, lambda z, c=c: c.apply(z, clean[c.layer]), rows("corrupted"))
            for c in cases(tiny.lab(family).grid.n_heads)
        ]
    )
    assert agree(family, theirs) <= TOLERANCE


@pytest.mark.parametrize("family", tiny.SIX)
def test_z_equals_transformer_lens(family: str, tmp_path: Path) -> None:
    bridge_module = pytest.importorskip("transformer_lens.model_bridge", reason="the test extra brings TransformerLens")
    from transformers import AutoTokenizer

    model = tiny.hf_model(family)
    folder = str(tiny.save(model, tmp_path / family))
    bridge = bridge_module.TransformerBridge.boot_transformers(
        folder, hf_model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu"
    )
    clean: dict[int, Tensor] = {}

    def passing(layer: int, change: Change, ids: Tensor) -> Tensor:
        def hook(z: Tensor, hook: Any) -> Tensor:
            return change(z)

        with torch.no_grad():
            return bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)])[:, -1]

    for layer in range(tiny.LAYERS):
        passing(layer, lambda z, layer=layer: clean.setdefault(layer, z), rows("clean"))
    theirs = torch.stack(
        [
            passing(c.layer, lambda z, c=c: c.apply(z, clean[c.layer]), rows("corrupted"))
            for c in cases(tiny.lab(family).grid.n_heads)
        ]
    )
    assert agree(family, theirs) <= TOLERANCE


@pytest.mark.parametrize("family", tiny.SIX)
def test_z_equals_nnsight(family: str) -> None:
    nnsight = pytest.importorskip("nnsight", reason="the test extra brings nnsight")
    size = tiny.lab(family).head_dim
    model = nnsight.TransformersModel(tiny.hf_model(family), tokenizer=tiny.words(), task="text-generation")
    head = "embed_out" if family == "gpt_neox" and hasattr(model, "embed_out") else "lm_head"

    def part(path: str) -> Any:
        found = model
        for name in path.split("."):
            found = found[int(name)] if name.isdigit() else getattr(found, name)
        return found

    def look(layer: int) -> Tensor:
        projection = part(PROJECTIONS[family].format(layer))
        with torch.no_grad(), model.trace(rows("clean")):
            seen = projection.input.save()
        return seen.unflatten(2, (-1, size))

    def passing(case: Case, clean: Tensor) -> Tensor:
        projection, last = part(PROJECTIONS[family].format(case.layer)), part(head)
        with torch.no_grad(), model.trace(rows("corrupted")):
            projection.input = case.apply(projection.input.unflatten(2, (-1, size)), clean).flatten(2)
            out = last.output.save()
        return out[:, -1]

    clean = [look(layer) for layer in range(tiny.LAYERS)]
    theirs = torch.stack([passing(c, clean[c.layer]) for c in cases(tiny.lab(family).grid.n_heads)])
    if family == "gemma2":  # the trace reads lm_head, which stands before the model's own final soft-cap
        cap = tiny.lab(family).model.config.final_logit_softcapping
        theirs = cap * torch.tanh(theirs / cap)
    assert agree(family, theirs) <= TOLERANCE


def test_the_oracles_can_tell_a_neighbouring_head() -> None:
    """Mutate, see red: with every head moved by one, or every position by one, the comparison fails."""
    model, size, ids = tiny.hf_model("llama"), tiny.HEAD_DIM, rows("corrupted")
    for shift in (1, 2):

        def hook(_module: Any, args: tuple[Tensor], shift: int = shift) -> tuple[Tensor]:
            z = args[0].unflatten(2, (-1, size))
            z = z.clone()
            if shift == 1:
                z[:, :, 4] = 0  # headlab zeroes head 3
            else:
                z[:, 1:, 3] = 0  # … at every position
            return (z.flatten(2),)

        handle = model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(hook)
        with torch.no_grad():
            wrong = model(ids).logits[:, -1]
        handle.remove()
        lab = tiny.lab("llama")
        with torch.no_grad(), lab.tape(Tape(edits={(1, "z"): [lambda z: z * _without(3)]})):
            assert tiny.gap(forward(lab, ids).logits[:, -1], wrong) > 100 * TOLERANCE


def _without(head: int) -> Tensor:
    keep = torch.ones(1, 1, 10, 1)
    keep[0, 0, head] = 0
    return keep


# -- the weights of each head --------------------------------------------------------------------------------


def _seen(lab: Lab, layer: int, ids: Tensor, *sites: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The attention module's input [row, position, d_model] and the wanted sites."""
    kept: list[Tensor] = []
    handle = lab.attentions[layer].register_forward_pre_hook(
        lambda _m, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad(), lab.tape(Tape(wanted=frozenset((layer, s) for s in sites))) as tape:
        forward(lab, ids)
    handle.remove()
    return kept[0], {s: tape.kept[layer, s] for s in sites}


PLAIN = ("llama", "gpt_neox", "gpt2", "gemma", "gemma2", "gpt_bigcode", "phi", "phi3", "qwen2", "starcoder2",
         "mixtral", "cohere2", "olmo", "stablelm")  # fmt: skip
"""Families whose q, k and v at position 0 are a linear map of the layer's input: no norm of q or k, and rotary
embedding turns position 0 by nothing."""


@pytest.mark.parametrize("family", PLAIN)
def test_weights_of_each_head_make_its_q_k_and_v(family: str) -> None:
    """Between two prompts the bias drops out: (x₁ − x₂)·W(h) = q₁ − q₂."""
    lab = tiny.lab(family)
    for layer in (0, 2):
        x, found = _seen(lab, layer, rows("clean")[:, :1] + torch.tensor([0]), "q", "k", "v")
        for site, made in found.items():
            weight = lab.weight(site, layer)
            n = lab.grid.n_heads if site == "q" else lab.grid.n_kv_heads
            assert weight.shape == (n, lab.d_model, made.shape[-1])
            by_hand = torch.einsum("bm,hmd->bhd", x[1:, 0] - x[:1, 0], weight)
            actual = made[1:, :, 0] - made[:1, :, 0]
            assert (by_hand - actual).abs().max() <= 1e-5 * actual.abs().max()


def test_q_of_qwen3_is_the_heads_projection_under_the_models_own_norm() -> None:
    lab = tiny.lab("qwen3")
    x, found = _seen(lab, 1, rows("clean"), "q", "k")
    for site, norm in (("q", lab.attentions[1].q_norm), ("k", lab.attentions[1].k_norm)):
        by_hand = norm(torch.einsum("bm,hmd->bhd", x[:, 0], lab.weight(site, 1)))
        assert (by_hand - found[site][:, :, 0]).abs().max() <= 1e-5


def test_weights_stand_where_the_layouts_say() -> None:
    """Llama: rows h·d of q_proj; NeoX: view(heads, 3, d) of the fused matrix; GPT-2: columns [Q | K | V] of Conv1D."""
    d = tiny.HEAD_DIM
    llama = tiny.lab("llama")
    attention = llama.model.model.layers[1].self_attn
    for h in (0, 3, 9):
        assert torch.equal(llama.weight("q", 1)[h], attention.q_proj.weight[h * d : (h + 1) * d].T)
        assert torch.equal(llama.weight("o", 1)[h], attention.o_proj.weight[:, h * d : (h + 1) * d].T)
    assert torch.equal(llama.weight("v", 1)[1], attention.v_proj.weight[d : 2 * d].T)

    neox, d = tiny.lab("gpt_neox"), 16
    fused = neox.model.gpt_neox.layers[2].attention.query_key_value.weight.view(5, 3, d, 80)
    for h in range(5):
        for i, which in enumerate("qkv"):
            assert torch.equal(neox.weight(which, 2)[h], fused[h, i].T)

    gpt2, d = tiny.lab("gpt2"), tiny.HEAD_DIM
    joined = gpt2.model.transformer.h[0].attn.c_attn.weight
    for i, which in enumerate("qkv"):
        for h in range(5):
            assert torch.equal(gpt2.weight(which, 0)[h], joined[:, i * 70 + h * d : i * 70 + (h + 1) * d])


@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f not in {"qwen3_next", "bitnet"}])
def test_heads_add_up_to_the_modules_output(family: str) -> None:
    """Σ_h z_h·W_O(h) = the attention module's output minus its bias (families where z enters the projection)."""
    lab = tiny.lab(family)
    layer = tiny.softmax_layer(lab, 2)
    _, found = _seen(lab, layer, rows("clean"), "z", "out_block")
    bias = lab.output_bias(layer)
    made = sum(found["z"][:, :, h] @ lab.weight("o", layer)[h] for h in range(lab.grid.n_heads))
    gap = (made - (found["out_block"] - (0 if bias is None else bias))).abs().max()
    assert gap <= 1e-5 * found["out_block"].abs().max()
