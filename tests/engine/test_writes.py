"""What each write does at each site, against arithmetic done here on the activation itself.

``before`` and ``after`` are the site's own tensor in two full passes, one without the edit and one with it; whatever
the intervention does not name must be bit for bit what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from laws import tape_of
from torch import Tensor

from headlab.engine import attention, edits, plan, run
from headlab.engine.attention import Tape
from headlab.engine.captures import write_norms
from headlab.engine.decode import generate
from headlab.engine.model import Lab
from headlab.engine.passes import forward
from headlab.engine.run import EngineError, capture, sweep
from headlab.engine.work import check_fired
from headlab.heads import Head, Heads, KVHeads
from headlab.interventions import Intervention, InterventionError, World
from headlab.prompts import EncodedPair, PromptError

HEAD_SITES = ("q", "k", "v", "z", "out_block", "resid")
ROLE = (4, 6, 9)


def pairs_with_role() -> list[EncodedPair]:
    return [replace(p, corrupted=replace(p.corrupted, roles={"some": ROLE})) for p in tiny.equal_pairs()]


def layout(lab: Lab, site: str, x: Tensor) -> Tensor:
    """[row, position, head, rest], written out again here."""
    if site in {"q", "k", "v", "scores", "pattern"}:
        return x.permute(0, 2, 1, 3)
    if site == "resid":
        return x[:, :, None]
    return x if site == "z" else x.reshape(*x.shape[:2], lab.grid.n_heads, -1)


def seen(lab: Lab, ids: Sequence[Sequence[int]], layer: int, site: str, tape: Tape | None = None) -> Tensor:
    """The site's value in a pass, in our layout, after the tape's edits."""
    tape = tape or Tape()
    tape.wanted = frozenset({(layer, site)})
    with torch.no_grad(), lab.tape(tape):
        forward(lab, torch.tensor(ids))
    return layout(lab, site, tape.kept[layer, site])


def edited(lab: Lab, pairs: list[EncodedPair], one: Intervention) -> Tensor:
    tape, planned = tape_of(lab, pairs, one)
    out = seen(lab, [p.corrupted.ids for p in pairs], one.layer, one.site, tape)
    check_fired(tape, planned)
    return out


def axes(lab: Lab, site: str) -> list[int]:
    """The heads edited in these tests, on the site's axis."""
    return {"k": [1], "v": [1], "resid": [0]}.get(site, [1, 3])


@pytest.mark.parametrize("site", HEAD_SITES)
@pytest.mark.parametrize("write", ["patch", "noop", "zero", "mean", "resample", "noise", "rescale", "exchange"])
def test_a_write_is_what_its_definition_says(site: str, write: str) -> None:
    lab, pairs, layer = tiny.lab("llama"), pairs_with_role(), 1
    heads = axes(lab, site)
    if write == "exchange" and site in {"out_block", "resid"}:
        with pytest.raises(InterventionError, match="'exchange' is defined between heads"):
            tiny.edit(lab, layer, site, heads, write="exchange", donors=(0,) * len(heads))
        return
    amount = {"patch": 0.3, "mean": 0.6, "resample": 0.8, "noise": 0.5, "rescale": 1.7}.get(write, 1.0)
    donors = ((4, 0) if len(heads) == 2 else (0,)) if write == "exchange" else ()
    one = tiny.edit(lab, layer, site, heads, write=write, amount=amount, roles=("some",), donors=donors, seed=2)
    before = seen(lab, [p.corrupted.ids for p in pairs], layer, site)
    clean = seen(lab, [p.clean.ids for p in pairs], layer, site)
    after = edited(lab, pairs, one)

    wanted = before.clone()
    lender = edits.donors([p.pair.id for p in pairs], 2).tolist()
    for row in range(len(pairs)):
        for position in ROLE:
            for n, head in enumerate(heads):
                own = before[row, position, head]
                wanted[row, position, head] = {
                    "patch": lambda own=own, at=(row, position, head): 0.7 * own + 0.3 * clean[at],
                    "noop": lambda own=own: own,
                    "zero": lambda own=own: own * 0,
                    "mean": lambda own=own, p=position, h=head: (
                        0.4 * own + 0.6 * (before[0, p, h] + before[1, p, h] + before[2, p, h] + before[3, p, h]) / 4
                    ),
                    "resample": lambda own=own, r=row, p=position, h=head: 0.2 * own + 0.8 * before[lender[r], p, h],
                    "noise": lambda at=(row, position, head): after[at],
                    "rescale": lambda own=own: 1.7 * own,
                    "exchange": lambda r=row, p=position, n=n: before[r, p, donors[n]],
                }[write]()
    named = torch.zeros(before.shape[:3], dtype=torch.bool)
    named[:, torch.tensor(ROLE)[:, None], torch.tensor(heads)] = True
    assert torch.equal(after[~named], before[~named])
    assert (after - wanted).abs().max() <= 1e-6 * before.abs().max()
    if write == "noise":  # half the own norm, in a direction of its own
        own, new = before[named], after[named]
        assert torch.allclose(new.norm(dim=-1), 0.5 * own.norm(dim=-1), rtol=1e-5)
        cosine = torch.nn.functional.cosine_similarity(new, own, dim=-1)
        assert cosine.abs().max() < 0.9 and len({round(c, 5) for c in cosine.tolist()}) == len(cosine)
    elif write != "noop":
        assert (after[named] - before[named]).abs().amax(dim=-1).min() > 1e-4


def test_subspace_blocks_are_coordinates_in_a_random_basis() -> None:
    """Zeroing two blocks removes the output's components along their 22 basis vectors, and nothing else."""
    lab, pairs = tiny.lab("llama"), pairs_with_role()
    ids = [p.corrupted.ids for p in pairs]
    before = seen(lab, ids, 1, "out_block").flatten(2)
    one = Intervention(Heads.of(1, [1, 3]), "subspace", "zero", seed=5)
    tape, _ = tape_of(lab, pairs, one)
    tape.wanted = frozenset({(1, "subspace")})
    with torch.no_grad(), lab.tape(tape):
        forward(lab, torch.tensor(ids))
    after = tape.kept[1, "subspace"]
    basis = edits.basis(lab.d_model, 5, before)
    assert (basis.T @ basis - torch.eye(110)).abs().max() < 1e-5
    gone = basis[:, [*range(11, 22), *range(33, 44)]]
    assert (after @ gone).abs().max() < 1e-5
    assert (after - (before - before @ gone @ gone.T)).abs().max() < 1e-5
    assert (edits.basis(110, 6, before) - basis).abs().max() > 0.1


def test_a_resample_is_a_derangement_of_the_prompts() -> None:
    for n in (2, 3, 7, 11):
        for seed in range(5):
            order = edits.derangement(n, seed).tolist()
            assert sorted(order) == list(range(n)) and all(order[i] != i for i in range(n))
    assert len({tuple(edits.derangement(7, s).tolist()) for s in range(20)}) > 10


def test_who_lends_to_whom_does_not_depend_on_the_order_of_pairs() -> None:
    ids = [f"p{i}" for i in range(7)]
    forth = {ids[i]: ids[d] for i, d in enumerate(edits.donors(ids, 3).tolist())}
    back = ids[::-1]
    assert forth == {back[i]: back[d] for i, d in enumerate(edits.donors(back, 3).tolist())}


@pytest.mark.parametrize("write", ["mean", "resample"])
def test_a_population_of_one_is_refused(write: str) -> None:
    lab = tiny.lab("llama")
    with pytest.raises(InterventionError, match=f"'{write}' needs at least two prompts of one length, given 1"):
        sweep(lab, tiny.equal_pairs(1), [World("w", (tiny.edit(lab, 1, "z", write=write),))])


def test_noise_is_the_same_alone_and_in_a_batch_and_follows_the_seed() -> None:
    lab, pairs = tiny.lab("llama"), pairs_with_role()
    one = tiny.edit(lab, 1, "z", write="noise", seed=1)
    many = edited(lab, pairs, one)
    assert (edited(lab, pairs[2:3], one)[0] - many[2]).abs().max() < 1e-5
    assert (edited(lab, pairs[::-1], one).flip(0) - many).abs().max() < 1e-5
    assert (edited(lab, pairs, replace(one, seed=2)) - many).abs().max() > 0.1


# -- patterns and scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_a_patched_pattern_between_lengths_stays_a_causal_pattern(family: str) -> None:
    """Each clean weight lands on its partner key; the row keeps the clean row's sum; nothing looks ahead."""
    lab = tiny.lab(family)
    pairs = [p for p in tiny.mixed_pairs() if len(p.corrupted.ids) == 11]
    assert {len(p.clean.ids) for p in pairs} == {7, 11}
    heads, layer = [1, 3], 1
    after = edited(lab, pairs, tiny.edit(lab, layer, "pattern", heads))
    before = seen(lab, [p.corrupted.ids for p in pairs], layer, "pattern")
    others = [h for h in range(10) if h not in heads]
    assert torch.equal(after[:, :, others], before[:, :, others])
    for row, pair in enumerate(pairs):
        clean = seen(lab, [pair.clean.ids], layer, "pattern")[0]
        partner = {2: 1, 3: 2, 9: len(pair.clean.ids) - 3, 10: len(pair.clean.ids) - 1}
        for query in range(11):
            for h in heads:
                if query not in partner:
                    assert torch.equal(after[row, query, h], before[row, query, h])
                    continue
                weights = {k: clean[partner[query], h, o].item() for k, o in partner.items() if k <= query}
                scale = clean[partner[query], h].sum().item() / sum(weights.values())
                wanted = [weights.get(k, 0.0) * scale for k in range(11)]
                assert after[row, query, h].tolist() == pytest.approx(wanted, abs=1e-6)
    assert (after >= 0).all() and after.sum(-1).max() <= 1 + 1e-5
    if family != "gpt_oss":
        assert after.sum(-1).min() >= 1 - 1e-5
    future = torch.ones(11, 11, dtype=torch.bool).triu(1)[None, :, None, :].expand_as(after)
    assert (after[future] == 0).all()


def test_an_alignment_that_changes_the_order_never_lets_a_query_look_ahead() -> None:
    """Clean role "a" before "b", corrupted "b" before "a": a's weight on b may stay, b's weight on a may not."""
    lab = tiny.lab("llama")
    pairs = []
    for p in tiny.mixed_pairs():
        n, m = len(p.clean.ids), len(p.corrupted.ids)
        pairs.append(
            replace(
                p,
                clean=replace(p.clean, roles={"a": (1,), "b": (3,), "last": (n - 1,)}),
                corrupted=replace(p.corrupted, roles={"a": (4,), "b": (2,), "last": (m - 1,)}),
            )
        )
    pairs = [p for p in pairs if len(p.corrupted.ids) == 11]
    after = edited(lab, pairs, tiny.edit(lab, 1, "pattern", range(10)))
    assert (after[:, 2, :, 3:] == 0).all()
    assert torch.allclose(after.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(
        after[:, 4, :, 4], torch.ones(())
    )  # clean "a" saw neither "b" nor anything else with a partner


def test_roles_choose_the_queries_not_the_keys_of_a_pattern() -> None:
    """Only the last token's row is written, and its weights go to every key that has a partner."""
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs()
    before = seen(lab, [p.corrupted.ids for p in pairs], 1, "pattern")
    clean = seen(lab, [p.clean.ids for p in pairs], 1, "pattern")
    after = edited(lab, pairs, tiny.edit(lab, 1, "pattern", (2,), roles=("last",)))
    assert torch.equal(after[:, 10, 2], clean[:, 10, 2])
    assert torch.equal(after[:, :10], before[:, :10])


def test_a_row_whose_weights_all_have_no_partner_is_an_error() -> None:
    """In half precision the weight on a token's own key may be exactly 0, with all the rest on keys without a partner."""
    pattern = torch.zeros(7, 2, 7)
    pattern[:, :, 0] = 1.0
    pair = tiny.mixed_pairs()[0]  # 7 clean tokens, 11 corrupted
    one = Intervention(Heads.of(1, [0]), "pattern")
    with pytest.raises(
        InterventionError, match="pair m0: the clean row for corrupted position 2 puts no weight on any key"
    ):
        edits.make_source(one, [pair], [pattern], pattern)


def test_scores_are_patched_before_the_softmax() -> None:
    """softmax of the clean scores under the corrupted run's mask: here the clean pattern itself."""
    lab, pairs = tiny.lab("gemma2"), tiny.equal_pairs()
    clean = seen(lab, [p.clean.ids for p in pairs], 1, "pattern")
    one = tiny.edit(lab, 1, "scores", (1, 3))
    tape, _ = tape_of(lab, pairs, one)
    after = seen(lab, [p.corrupted.ids for p in pairs], 1, "pattern", tape)
    assert (after[:, :, [1, 3]] - clean[:, :, [1, 3]]).abs().max() < 1e-6
    half = replace(one, write="rescale", amount=0.0)  # no preference at all: uniform over the keys seen
    tape, _ = tape_of(lab, pairs, half)
    after = seen(lab, [p.corrupted.ids for p in pairs], 1, "pattern", tape)
    assert torch.allclose(after[:, 6, 1, :7], torch.full((4, 7), 1 / 7)) and (after[:, 6, 1, 7:] == 0).all()


def test_scores_between_lengths_are_refused() -> None:
    lab = tiny.lab("llama")
    with pytest.raises(InterventionError, match="scores can be patched only between prompts that align token by token"):
        sweep(lab, tiny.mixed_pairs(), [World("w", (tiny.edit(lab, 1, "scores"),))])


def test_z_follows_the_edited_pattern() -> None:
    """z = pattern · v with the v of the head's KV group."""
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs()
    ids = [p.corrupted.ids for p in pairs]
    one = tiny.edit(lab, 1, "pattern", (2, 7))
    tape, _ = tape_of(lab, pairs, one)
    z = seen(lab, ids, 1, "z", tape)
    clean = seen(lab, [p.clean.ids for p in pairs], 1, "pattern")
    v = seen(lab, ids, 1, "v")
    for head, group in ((2, 0), (7, 1)):
        wanted = torch.einsum("bqk,bkd->bqd", clean[:, :, head], v[:, :, group])
        assert (z[:, :, head] - wanted).abs().max() < 1e-5


# -- KV heads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["k", "v"])
def test_a_kv_head_reaches_exactly_the_query_heads_of_its_group(site: str) -> None:
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs()
    ids = [p.corrupted.ids for p in pairs]
    before = seen(lab, ids, 1, "z")
    one = Intervention(KVHeads(1, (1,)), site, "zero")  # type: ignore[arg-type]
    tape, _ = tape_of(lab, pairs, one)
    after = seen(lab, ids, 1, "z", tape)
    moved = (after - before).abs().amax(dim=(0, 1, 3))
    assert torch.equal(moved[:5], torch.zeros(5)) and moved[5:].min() > 1e-3
    if site == "v":
        assert torch.equal(after[:, :, 5:], torch.zeros_like(after[:, :, 5:]))


def test_query_heads_and_kv_heads_are_different_axes() -> None:
    with pytest.raises(InterventionError, match="site 'v' takes KVHeads"):
        Intervention(Heads.of(1, [0]), "v", "zero")
    with pytest.raises(InterventionError, match="site 'z' takes Heads"):
        Intervention(KVHeads(1, (0,)), "z", "zero")
    lab = tiny.lab("llama")
    for heads, site, words in (
        (KVHeads(1, (2,)), "k", "L1KV2 is out of range: this model has KV heads 0 to 1"),
        (Heads.of(1, [10]), "z", "head L1H10 is out of range: this model has layers 0 to 2 and heads 0 to 9"),
        (Heads.of(3, [0]), "z", "head L3H0 is out of range"),
        (KVHeads(3, (0,)), "v", "layer 3 is out of range: this model has layers 0 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            sweep(lab, tiny.equal_pairs(2), [World("w", (Intervention(heads, site, "zero"),))])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a donor is out of range: 'v' of this model has heads 0 to 1"):
        Intervention(KVHeads(1, (0,)), "v", "exchange", donors=(5,)).check(lab.grid)


# -- what a pass leaves behind -------------------------------------------------------------------------------------


def state_of(lab: Lab) -> tuple[Any, ...]:
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lab.model.modules())
    replaced = [n for n, m in lab.model.named_modules() if "forward" in m.__dict__]
    return hooks, replaced, [s.tape for s in lab.slots]


@pytest.mark.parametrize("site", ["z", "q", "pattern", "out_block", "resid"])
def test_an_exception_inside_a_pass_leaves_the_model_as_it_was(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(2)
    ids = torch.tensor([pairs[0].corrupted.ids])
    before = state_of(lab)
    with torch.no_grad():
        wanted = forward(lab, ids).logits
    world = World("w", (tiny.edit(lab, 1, site, (0,), write="patch"),))
    calls = []

    def breaks(*_args: Any) -> Tensor:
        calls.append(state_of(lab))
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(edits, "_written", breaks)
        with pytest.raises(KeyboardInterrupt):
            sweep(lab, pairs, [world])
    assert calls and calls[0] != before, "the exception came while hooks and tape were in place"
    assert state_of(lab) == before
    with torch.no_grad():
        assert torch.equal(forward(lab, ids).logits, wanted)


def test_an_exception_in_a_resumed_pass_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MANY", 1)
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(2)
    before = state_of(lab)
    norm = type(lab.layers[2].post_attention_layernorm)
    forward_of, calls = norm.forward, []

    def breaks(self: Any, *args: Any) -> Any:
        if any("forward" in m.__dict__ for m in lab.model.modules()):
            calls.append(1)
            raise KeyboardInterrupt
        return forward_of(self, *args)

    with monkeypatch.context() as m:
        m.setattr(norm, "forward", breaks)
        with pytest.raises(KeyboardInterrupt):
            sweep(lab, pairs, [World("w", (tiny.edit(lab, 1, "z"),))])
    assert calls == [1] and state_of(lab) == before


def test_somebody_elses_wrapper_stays() -> None:
    """Another tool's instance-level forward is put back, not dropped."""
    lab = tiny.lab("llama")
    layer, mark = lab.layers[0], []
    own = layer.forward

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        mark.append(1)
        return own(*args, **kwargs)

    layer.forward = wrapper
    try:
        sweep(lab, tiny.equal_pairs(2), [World("w", (tiny.edit(lab, 1, "q"),))])
        assert layer.__dict__["forward"] is wrapper and mark
    finally:
        del layer.forward


@pytest.mark.parametrize("what", ["sweep", "capture", "logit_differences", "generate"])
def test_what_runs_on_one_model_does_not_nest(what: str) -> None:
    """Else the inner passes would run under the outer edits without a word."""
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(2)
    inner = {
        "sweep": lambda: sweep(lab, pairs, [World("w", (tiny.edit(lab, 1, "z"),))]),
        "capture": lambda: capture(lab, [p.clean for p in pairs], [(0, "z")]),
        "logit_differences": lambda: run.logit_differences(lab, [p.clean for p in pairs]),
        "generate": lambda: generate(lab, pairs, [World("b")], max_new_tokens=1),
    }[what]
    outer: list[int] = []

    def again(x: Tensor) -> Tensor:
        outer.append(1)
        assert len(outer) == 1, "the outer edit fired in an inner pass"
        inner()
        return x

    with (
        pytest.raises(RuntimeError, match="already running a sweep; sweeps on one model cannot be nested"),
        torch.no_grad(),
        lab.tape(Tape(edits={(1, "z"): [again]})),
    ):
        forward(lab, torch.tensor([pairs[0].corrupted.ids]))
    assert all(s.tape is None for s in lab.slots)


# -- what a sweep refuses --------------------------------------------------------------------------------------------


def test_a_sweep_refuses_nothing_to_do_and_two_worlds_of_one_name() -> None:
    lab, pairs = tiny.lab("llama"), tiny.equal_pairs(2)
    with pytest.raises(EngineError, match=r"nothing to sweep: 2 pair\(s\) under 0 world\(s\)"):
        sweep(lab, pairs, [])
    with pytest.raises(EngineError, match=r"nothing to sweep: 0 pair\(s\) under 1 world\(s\)"):
        sweep(lab, [], [World("w")])
    with pytest.raises(EngineError, match="two worlds have the same name"):
        sweep(lab, pairs, [World("w"), World("w")])
    with pytest.raises(ValueError, match=r"memory bound of 0\.0 MiB does not hold one row of 11 tokens"):
        sweep(lab, pairs, [World("w")], memory=100)
    with pytest.raises(
        InterventionError, match="no token role 'nobody' in the edited prompt; it has last, answer, read"
    ):
        sweep(lab, pairs, [World("w", (tiny.edit(lab, 1, "z", write="zero", roles=("nobody",)),))])
    with pytest.raises(PromptError, match="role alignment is undefined: the prompts have 11 and 7 tokens"):
        one, other = tiny.equal_pairs(1)[0], tiny.equal_pairs(1, 7)[0]
        sweep(lab, [replace(one, corrupted=other.corrupted)], [World("w", (tiny.edit(lab, 1, "z"),))])


def test_out_block_needs_channels_that_divide() -> None:
    lab = tiny.lab("gemma")  # 65 channels, 5 heads: 13 each
    assert capture(lab, [p.clean for p in tiny.equal_pairs(1)], [(1, "out_block")])[1, "out_block"][0].shape == (
        11,
        5,
        13,
    )
    with pytest.raises(InterventionError, match="65 residual channels do not divide into 4 heads"):
        edits.to_layout("out_block", torch.zeros(1, 2, 65), 4, None)


def test_the_effects_table_is_in_the_order_pair_world_and_carries_both_runs() -> None:
    lab, pairs = tiny.lab("gpt2"), tiny.mixed_pairs()
    worlds = [
        World("b"),
        World("a", (tiny.edit(lab, 1, "z", write="zero"),)),
        World("c", (tiny.edit(lab, 2, "q", write="zero"),)),
    ]
    effects = sweep(lab, pairs, worlds)
    assert list(effects.columns) == ["pair", "pair_id", "cluster", "world", "clean", "corrupted", "edited"]
    assert effects["pair"].tolist() == [i for i in range(8) for _ in range(3)]
    assert effects["world"].tolist() == ["b", "a", "c"] * 8
    assert effects["pair_id"].tolist() == [f"m{i}" for i in range(8) for _ in range(3)]
    clean = run.logit_differences(lab, [p.clean for p in pairs]).numpy()
    assert np.allclose(effects["clean"].to_numpy()[::3], clean, atol=1e-6)
    assert lab.model.config._attn_implementation == attention.NAME


def test_the_norm_of_what_a_head_writes_is_that_of_z_times_its_weights() -> None:
    """By hand: 3·(3, 4) and 0 are 15 and 0 long, −1·(0, 2) is 2 long twice; two layers, and two ways to lay out the positions."""
    w = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])  # [head, d_head, d_model]
    z = torch.tensor([[[3.0], [-1.0]], [[0.0], [-1.0]]])  # [position, head, d_head]
    found = write_norms({5: w, 2: 2 * w}, [(2, z[:1]), (5, z[None]), (2, z[None, 1:])])
    assert found == {Head(5, 0): 7.5, Head(5, 1): 2.0, Head(2, 0): 15.0, Head(2, 1): 4.0}
    assert all(type(x) is float for x in found.values())
