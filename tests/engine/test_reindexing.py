"""A re-indexed model is the same function, in every family; what is permuted along other axes is another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from headlab.engine import reindexing
from headlab.engine.attention import Tape
from headlab.engine.model import Lab, ModelError, open_model
from headlab.engine.passes import forward
from headlab.engine.reindexing import (
    Relabelling,
    move,
    moves,
    published_permutation,
    random_relabelling,
    reindex,
    reindexed,
    scrambled,
)
from headlab.engine.run import sweep
from headlab.heads import Grid, Heads, KVHeads
from headlab.interventions import Intervention, World

REFUSED = {
    "qwen3_next": "no softmax attention, so it has no heads",
    "deepseek_v3": "no per-head W_K",
    "bitnet": "no per-head W_O .*gates or mixes heads",
}
NORMED = {  # norms of q and k that are laid out otherwise than OLMo2's one vector over all heads
    "cohere": ("cohere", {"use_qk_norm": True}),  # [head, channel]
    "stablelm": ("stablelm", {"qk_layernorm": True}),  # one module for each head
    "phi": ("phi", {"qk_layernorm": True}),  # shared by all heads: nothing moves
}
DAILY = ("llama", "gpt_neox", "gpt2", "gemma", "gemma2", "qwen3", "gpt_bigcode", "phi3", "opt", "olmo2", "gpt_oss")
REST = [f for f in tiny.FAMILIES if f not in DAILY and f not in REFUSED]
IDS = torch.tensor(tiny.prompts(3, 11))


def image_kv(one: Relabelling, heads: KVHeads) -> KVHeads:
    """Where these KV heads stand afterwards."""
    order = one.kv_order(heads.layer)
    return KVHeads(heads.layer, tuple(order.index(g) for g in heads.indices))


def opened(family: str, **more: Any) -> Lab:
    model = tiny.hf_model(family, {**tiny.FAMILIES[family], **more} if more else None)
    return open_model(model, tokenizer=tiny.words())


@torch.no_grad()
def logits(lab: Lab) -> Tensor:
    return forward(lab, IDS, last=False).logits


def state(lab: Lab) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in lab.model.state_dict().items()}


def unchanged(lab: Lab, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(v, before[k]) for k, v in lab.model.state_dict().items())


def holds(family: str, n: int = 20, **more: Any) -> None:
    """``n`` random re-indexings of every layer leave each logit within 1e-4; the published permutation does not."""
    lab = opened(family, **more)
    before, wanted = state(lab), logits(lab)
    for seed in range(n):
        one = random_relabelling(lab.grid, seed)
        with reindexed(lab, one):
            assert one.moved > 0 and not unchanged(lab, before)
            assert (logits(lab) - wanted).abs().max() < 1e-4
    for seed in range(3):
        with scrambled(lab, 1, published_permutation(lab.grid.n_heads, "random", seed)):
            assert (logits(lab) - wanted).abs().max() > 0.05 * wanted.abs().max()
    with scrambled(lab, 1, published_permutation(lab.grid.n_heads, "identity")):
        assert unchanged(lab, before) and torch.equal(logits(lab), wanted)
    assert unchanged(lab, before) and torch.equal(logits(lab), wanted)


@pytest.mark.parametrize("family", DAILY)
def test_twenty_reindexings_change_no_logit(family: str) -> None:
    holds(family)


@pytest.mark.parametrize("kind", NORMED)
def test_norms_of_queries_and_keys_move_with_their_heads(kind: str) -> None:
    family, more = NORMED[kind]
    lab = opened(family, **more)
    extra = [m for m in moves(lab, random_relabelling(lab.grid, 1)) if m.axis is None]
    assert bool(extra) == (kind != "phi")
    holds(family, n=5, **more)


@pytest.mark.accept
@pytest.mark.parametrize("family", REST)
def test_twenty_reindexings_change_no_logit_in_the_other_families(family: str) -> None:
    holds(family)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_what_is_left_is_rounding(family: str) -> None:
    """In float64 the change is smaller by the ratio of the two roundings: it is no small effect."""
    lab = open_model(tiny.hf_model(family).double(), tokenizer=tiny.words())
    wanted = logits(lab)
    with reindexed(lab, random_relabelling(lab.grid, 2)):
        assert (logits(lab) - wanted).abs().max() < 1e-12


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma", "gpt_oss", "olmo2"])
def test_every_heads_activations_stand_where_the_relabelling_says(family: str) -> None:
    """q and z of the head at a new place are those of the old head, k and v those of the old KV head, at each layer."""
    lab = opened(family)
    one = random_relabelling(lab.grid, 4)
    keys = frozenset((at, site) for at in range(3) for site in "qkvz")

    def kept() -> dict[tuple[int, str], Tensor]:
        with torch.no_grad(), lab.tape(Tape(wanted=keys)) as tape:
            forward(lab, IDS)
        return tape.kept

    before = kept()
    with reindexed(lab, one):
        after = kept()
    for (at, site), x in after.items():
        order = list(one.kv_order(at) if site in "kv" else one.orders[at])
        expected = before[at, site][:, :, order] if site == "z" else before[at, site][:, order]
        assert torch.allclose(x, expected, atol=1e-5), (at, site)


def test_fused_rows_move_by_hand() -> None:
    """GPT-NeoX: rows of the fused matrix are [head, (q, k, v), channel], so moving heads moves blocks of 48 rows."""
    lab = opened("gpt_neox")
    fused: Any = lab.attentions[2].query_key_value
    weight, bias = fused.weight.clone(), fused.bias.clone()
    one = random_relabelling(lab.grid, 5)
    with reindexed(lab, one):
        order = list(one.orders[2])
        assert order != [0, 1, 2, 3, 4]
        assert torch.equal(fused.weight, weight.view(5, 48, 80)[order].reshape(240, 80))
        assert torch.equal(fused.bias, bias.view(5, 48)[order].flatten())
    assert torch.equal(fused.weight, weight)


def test_conv1d_columns_move_by_hand() -> None:
    """GPT-2: columns are [(q, k, v), head, channel], rows of the output projection [head, channel]."""
    lab = opened("gpt2")
    module: Any = lab.attentions[0]
    made, out = module.c_attn, module.c_proj
    weight, output, bias = made.weight.clone(), out.weight.clone(), out.bias.clone()
    one = random_relabelling(lab.grid, 5)
    order = list(one.orders[0])
    with reindexed(lab, one):
        assert torch.equal(made.weight, weight.view(70, 3, 5, 14)[:, :, order].reshape(70, 210))
        assert torch.equal(out.weight, output.view(5, 14, 70)[order].reshape(70, 70))
        assert torch.equal(out.bias, bias)  # all heads share it


def test_the_published_permutation_permutes_inputs_and_outputs() -> None:
    """Against the defect as described: input columns of W_Q and output rows of W_O, K and V untouched."""
    lab = opened("qwen2")  # hidden = heads × channels, as in the model that was published
    module: Any = lab.attentions[1]
    before = state(lab)
    q, o = module.q_proj.weight.clone(), module.o_proj.weight.clone()
    order = published_permutation(10, "random", 7)
    channels = [14 * h + c for h in order for c in range(14)]
    with scrambled(lab, 1, order):
        assert torch.equal(module.q_proj.weight, q[:, channels])
        assert torch.equal(module.o_proj.weight, o[channels])
        moved = {k for k, v in lab.model.state_dict().items() if not torch.equal(v, before[k])}
        assert {k.split(".")[-2] for k in moved} == {"q_proj", "o_proj"} and len(moved) == 2
    assert unchanged(lab, before)
    assert published_permutation(5, "swap") == (1, 0, 3, 2, 4)


# -- patches move with the heads ------------------------------------------------------------------------------


def test_patched_outcomes_move_with_the_heads() -> None:
    """The image of a set of query heads, and of KV heads, gives each pair the outcome of the set; the old index does not."""
    lab = tiny.proved(tiny.hf_model("llama"))
    pairs, one = tiny.mixed_pairs(), Relabelling(lab.grid, ((6, 5, 9, 7, 8, 2, 0, 1, 4, 3),) * 3)
    some, keys = Heads.of(1, [0, 3, 8]), KVHeads(1, (0,))
    assert one.image(some) != some and image_kv(one, keys) != keys

    def outcomes(heads: Heads, kv: KVHeads) -> Any:
        worlds = [World("z", (Intervention(heads),)), World("v", (Intervention(kv, "v"),))]
        return sweep(lab, pairs, worlds)["edited"].to_numpy()

    before = outcomes(some, keys)
    with reindexed(lab, one):
        assert abs(outcomes(one.image(some), image_kv(one, keys)) - before).max() < 1e-4
        stayed = abs(outcomes(some, keys) - before).reshape(len(pairs), 2).max(0)
        assert (stayed > 0.05).all()
    assert (outcomes(some, keys) == before).all()


# -- what is refused, and that the proof can fail -------------------------------------------------------------


@pytest.mark.parametrize("family", REFUSED)
def test_families_without_per_head_weights_are_refused_with_the_reason(family: str) -> None:
    lab = opened(family)
    before = state(lab)
    with pytest.raises(ModelError, match=REFUSED[family]), reindexed(lab, random_relabelling(lab.grid, 0)):
        pass
    assert unchanged(lab, before)


def test_heads_of_the_softmax_layers_only_are_refused_for_their_gate() -> None:
    lab = opened("qwen3_next")
    with pytest.raises(ModelError, match="cannot be re-indexed: it has no per-head W_O"):
        moves(lab, random_relabelling(lab.grid, 0, layers=[1, 2]))


@pytest.mark.parametrize("lost", ["q_norm", "sinks"])
def test_something_left_behind_is_found_and_put_back(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: what is per head beside the projections is overlooked."""
    lab = opened({"q_norm": "olmo2", "sinks": "gpt_oss"}[lost])
    before = state(lab)
    monkeypatch.setattr(reindexing, "_others", lambda lab, module: {})
    with pytest.raises(ModelError, match=r"something else in it tells heads apart by their index"):
        reindex(lab, random_relabelling(lab.grid, 3))
    assert unchanged(lab, before)


@pytest.mark.parametrize("site", ["q", "k", "v", "o"])
def test_a_projection_left_behind_changes_the_logits(site: str) -> None:
    """Mutant: everything moves but one projection; the change is a thousand times the tolerance."""
    lab = opened("llama")
    wanted = logits(lab)
    path = getattr(lab.geometry, site).path
    moved = [m for m in moves(lab, random_relabelling(lab.grid, 3)) if path not in m.names[0]]
    move(lab.model, moved)
    assert (logits(lab) - wanted).abs().max() > 0.1


def test_a_tensor_shared_by_some_heads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = opened("olmo2")
    reached: Callable[..., dict[str, Tensor]] = reindexing._reached

    def smeared(*args: Any) -> dict[str, Tensor]:
        found = reached(*args)
        found["q"][0] |= found["q"][1]
        return found

    monkeypatch.setattr(reindexing, "_reached", smeared)
    with pytest.raises(ModelError, match=r"some entries belong to several heads but not to all"):
        moves(lab, random_relabelling(lab.grid, 0))


def test_an_error_inside_leaves_the_model_whole() -> None:
    lab = opened("llama")
    before, name = state(lab), lab.fingerprint
    with pytest.raises(KeyError), reindexed(lab, random_relabelling(lab.grid, 1)):
        assert lab.fingerprint != name
        raise KeyError
    with pytest.raises(KeyError), scrambled(lab, 0, published_permutation(10, "swap")):
        raise KeyError
    assert unchanged(lab, before) and lab.fingerprint == name


def test_in_place_it_stays_and_can_be_undone() -> None:
    lab = opened("gpt2")
    before, name = state(lab), lab.fingerprint
    moved = reindex(lab, random_relabelling(lab.grid, 1))
    assert lab.fingerprint == reindexing.fingerprint(lab.model) != name
    move(lab.model, moved, undo=True)
    assert unchanged(lab, before)


# -- the plain data -------------------------------------------------------------------------------------------

GRID = Grid(n_layers=2, n_heads=6, n_kv_heads=3)


def test_relabellings_form_a_group() -> None:
    one, two = random_relabelling(GRID, 1), random_relabelling(GRID, 2)
    still = Relabelling.identity(GRID)
    assert one.then(one.inverse()) == still == one.inverse().then(one) and still.moved == 0
    some = Heads.parse("L0H1 L0H4 L1H5")
    assert one.then(two).image(some) == two.image(one.image(some))
    assert one.inverse().image(one.image(some)) == some


def test_images_by_hand() -> None:
    one = Relabelling(GRID, ((4, 5, 1, 0, 2, 3), (0, 1, 2, 3, 5, 4)))
    assert one.kv_order(0) == (2, 0, 1) and one.kv_order(1) == (0, 1, 2)
    assert str(one.image(Heads.parse("L0H0 L0H5 L1H5"))) == "L0H1 L0H3 L1H4"
    assert image_kv(one, KVHeads(0, (0, 2))) == KVHeads(0, (0, 1))
    assert one.moved == 8


def test_every_relabelling_is_drawn() -> None:
    """3 groups of 2 heads have 3! · 2³ = 48 orders; inside the groups alone 2³ = 8.  Named layers only."""
    assert len({random_relabelling(GRID, s).orders[0] for s in range(600)}) == 48
    assert len({random_relabelling(GRID, s, groups=False).orders[0] for s in range(100)}) == 8
    assert random_relabelling(GRID, 3) == random_relabelling(GRID, 3) != random_relabelling(GRID, 4)
    assert random_relabelling(GRID, 3, layers=[1]).orders[0] == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("orders", "match"),
    [
        (((0, 1, 2, 3, 4, 5),), "has 2 layers, given 1"),
        (((0, 1, 2, 3, 4, 4), (0, 1, 2, 3, 4, 5)), "each of the heads 0 to 5 once"),
        (((0, 2, 1, 3, 4, 5), (0, 1, 2, 3, 4, 5)), "different KV groups"),
    ],
)
def test_orders_that_tear_groups_apart_are_refused(orders: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Relabelling(GRID, orders)


def test_what_does_not_fit_is_refused_in_words() -> None:
    lab = opened("llama")
    with pytest.raises(ModelError, match="this relabelling is for"):
        moves(lab, random_relabelling(GRID, 0))
    with pytest.raises(ValueError, match="different models cannot be joined"):
        Relabelling.identity(GRID).then(Relabelling.identity(Grid(2, 6, 6)))
    with pytest.raises(ValueError, match="each of the heads 0 to 9 once"), scrambled(lab, 0, [0, 1]):
        pass
    with pytest.raises(ValueError, match="no published permutation 'reverse'"):
        published_permutation(4, "reverse")
