"""The latent loop: against the official procedure written out, batch against batch, edits against hand-made hooks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from thinkers import official, questions, thinker

from headlab.heads import Head, Heads, KVHeads
from headlab.interventions import Intervention, InterventionError
from headlab.thoughts.loop import Asked, run, think, touched_by, watch
from headlab.thoughts.model import ThoughtError
from headlab.thoughts.sources import Slots, slots_of
from headlab.thoughts.worlds import Force, Layout, Replace, ThoughtWorld, ablation

BASE = ThoughtWorld("baseline")
HEADS = Heads([Head(0, 1), Head(0, 4), Head(2, 5)])
EVERY = Heads([Head(at, h) for at in range(3) for h in range(6)])


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def thinking(request, tmp_path_factory):
    return thinker(request.param, tmp_path_factory.mktemp("thinkers"))


@pytest.mark.parametrize("mode", ["codi", "none", "filler"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loop_is_the_official_one(family: str, mode: str, tmp_path: Path):
    model = thinker(family, tmp_path, mode)
    asked, names = questions(9)
    table = think(model, asked, names, [BASE], max_new_tokens=6)
    for question, row in zip(asked, table.itertuples(), strict=True):
        made, total = official(model, question, 6)
        kept = made[: made.index(1)] if 1 in made else made
        assert row.text == " ".join(f"w{i}" for i in kept if 0 < i < 53), "w0 is the unknown token"
        assert row.logprob == pytest.approx(total, abs=2e-4)
    assert table["text"].nunique() > 1, "answers that are all alike would hide a mix-up of rows"


def test_any_batch_size_gives_the_same_answers(thinking):
    """Nine questions: alone, in fours with one left over, in one batch."""
    asked, names = questions(9)
    worlds = [BASE, ablation("zero", HEADS, "zero"), ThoughtWorld("swap", replaced=(Replace((2,), "resample"),))]
    tables = [think(thinking, asked, names, worlds, batch=b, max_new_tokens=5) for b in (1, 4, 64)]
    for other in tables[1:]:
        assert (tables[0]["text"] == other["text"]).all()
        assert np.abs(tables[0]["logprob"] - other["logprob"]).max() < 1e-4


WRITTEN_BACK = [
    ablation("noop", EVERY, "noop"),
    ThoughtWorld("self", replaced=(Replace((0, 1, 2, 3, 4, 5), "self"),)),
    ThoughtWorld("identity", forces=(Force(EVERY, "identity", rows="all"),)),
    ThoughtWorld("resid", (Intervention(Heads.of(1, range(6)), "resid", "noop"),)),
    ThoughtWorld("block", (Intervention(Heads.of(1, range(6)), "out_block", "noop"),)),
    ThoughtWorld("exchange", (Intervention(Heads.of(1, [2, 3]), "z", "exchange", donors=(2, 3)),)),
]


@pytest.mark.parametrize("world", WRITTEN_BACK, ids=lambda w: w.name)
def test_writing_what_was_there_changes_no_bit(thinking, world: ThoughtWorld):
    asked, names = questions(13)
    through = touched_by([world])
    base = think(thinking, asked, names, [BASE], max_new_tokens=5, touched=through)
    same = think(thinking, asked, names, [world], max_new_tokens=5, touched=through)
    assert (base["text"] == same["text"]).all()
    assert (base["logprob"] == same["logprob"]).all()


def test_writing_keys_and_values_back_changes_nothing_but_rounding(thinking):
    """An edited key is laid out anew in memory, which may choose another kernel."""
    asked, names = questions(13)
    back = (Intervention(KVHeads(1, (0, 2)), "v", "noop"), Intervention(KVHeads(1, (1,)), "k", "noop"))
    table = think(thinking, asked, names, [BASE, ThoughtWorld("kv", back)], max_new_tokens=5)
    base, same = (table[table["world"] == w].reset_index() for w in ("baseline", "kv"))
    assert (base["text"] == same["text"]).all()
    assert np.abs(base["logprob"] - same["logprob"]).max() < 1e-4


def _zeroing(model, layer: int, heads: list[int], size: int):
    """A plain hook on the output projection's input: these heads' slices are zero."""
    attention = model.lab.attention_of(layer)
    projection = attention.c_proj if hasattr(attention, "c_proj") else attention.o_proj

    def zero(_module, args):
        z = args[0].unflatten(-1, (-1, size)).clone()
        z[..., heads, :] = 0
        return (z.flatten(-2),)

    return projection.register_forward_pre_hook(zero)


def test_zero_ablation_is_what_a_hand_made_hook_does(thinking):
    asked, names = questions(7)
    table = think(thinking, asked, names, [BASE, ablation("zero", HEADS, "zero")], max_new_tokens=5)
    hooks = [_zeroing(thinking, at, list(HEADS.at(at)), thinking.lab.head_dim) for at in HEADS.layers]
    try:
        wanted = [official(thinking, q, 5)[1] for q in asked]
    finally:
        for hook in hooks:
            hook.remove()
    found = table[table["world"] == "zero"]["logprob"].to_numpy()
    assert np.abs(found - wanted).max() < 2e-4
    assert np.abs(found - table[table["world"] == "baseline"]["logprob"]).max() > 1e-3


def test_edits_of_one_role_leave_the_passes_before_it_alone(thinking):
    asked, names = questions(5)
    ids = Asked.of(thinking, asked, names)
    layout = Layout(len(ids.ids[0]), 6, 2)
    same = [i for i in range(5) if len(ids.ids[i]) == layout.question]
    rows = torch.tensor([ids.ids[i] for i in same])
    world = ablation("late", HEADS, "zero", roles=("thought[3]",))
    slots = slots_of(thinking, layout, [world], len(same), [names[i] for i in same], None, None, None)
    plain, edited = run(thinking, rows, layout), run(thinking, rows, layout, slots=slots)
    assert torch.equal(plain.thoughts[:, :4], edited.thoughts[:, :4])
    assert not torch.equal(plain.thoughts[:, 4], edited.thoughts[:, 4])


def test_a_forced_row_keeps_its_mass_and_has_the_shape_asked_for(thinking):
    asked, names = questions(6)
    force = ThoughtWorld("hub", forces=(Force(Heads.of(1, [0, 3]), "hub", hub=1, share=0.7, rows="all"),))
    ids = Asked.of(thinking, asked, names)
    layout = Layout(len(ids.ids[0]), 6, 1)
    rows = torch.tensor([ids.ids[0]])
    wanted = frozenset({(1, "pattern")})
    slots = slots_of(thinking, layout, [force], 1, names[:1], None, None, None)
    # the layer before the edited one is untouched, so the first edited row differs by the edit alone
    plain, edited = (run(thinking, rows, layout, slots=s, wanted=wanted) for s in (None, slots))
    first = layout.prompt
    for j in range(6):
        own, new = (r.kept[1 + j][1, "pattern"][0, :, 0] for r in (plain, edited))
        assert new.sum(-1) == pytest.approx(torch.ones(len(new)), abs=1e-5)
        if j < 1:
            assert torch.equal(own, new)
            continue
        inside = new[:, first : first + j + 1]
        share = inside / inside.sum(-1, keepdim=True)
        expected = torch.full((j + 1,), 0.3 / j)
        expected[1] = 0.7
        assert share[0] == pytest.approx(expected, abs=1e-5) and share[3] == pytest.approx(expected, abs=1e-5)
        if j == 1:
            assert float(inside[0].sum()) == pytest.approx(float(own[0, first:].sum()), abs=1e-6)
            assert torch.equal(own[1], new[1]), "a head that was not named keeps its pattern"


def test_profiles_by_hand():
    every = Heads.of(0, [0])
    assert Force(every, "uniform").profile(3, 6) == (0.25, 0.25, 0.25, 0.25, 0.0, 0.0)
    assert Force(every, "sequential", share=0.8).profile(2, 6) == pytest.approx((0.1, 0.8, 0.1, 0, 0, 0))
    assert Force(every, "sequential", rows="answer").profile(None, 3) == pytest.approx((0.1, 0.1, 0.8))
    assert Force(every, "self").profile(2, 6) == (0, 0, 1, 0, 0, 0)
    assert Force(every, "hub", hub=4).profile(3, 6) is None, "a thought cannot attend to a later one"
    assert Force(every, "hub", hub=0).profile(0, 6) is None, "the first thought sees only itself"
    assert Force(every, "uniform").profile(None, 6) is None, "rows of thoughts only"
    assert Force(every, "uniform", rows="answer").profile(3, 6) is None
    assert Force(every, "identity", rows="all").profile(3, 6) is None


def test_a_mean_is_over_problems_and_a_donor_is_another_problem(thinking):
    asked, names = questions(12)
    table = think(thinking, asked, names, [ThoughtWorld("mean", replaced=(Replace((5,), "mean"),))], max_new_tokens=3)
    fed = torch.zeros(12, thinking.lab.d_model)
    for chosen, ran in watch(thinking, asked, names, frozenset(), max_new_tokens=3):
        fed[chosen] = ran.thoughts[:, 5]
    ids = Asked.of(thinking, asked, names)
    mean = fed.mean(0)
    for i in range(3):
        layout = Layout(len(ids.ids[i]), 6, 3)

        class Fed(Slots):
            def edits(self, _places):
                return {}

            def fed(self, vector, j):
                return mean.expand_as(vector) if j == 5 else vector

        wanted = run(thinking, torch.tensor([ids.ids[i]]), layout, slots=Fed([], []))
        # the table's sum ends with the end token, the run's goes on: compare up to where both have tokens
        total = wanted.logprob[0].cumsum(0)
        made = wanted.made[0].tolist()
        at = made.index(1) if 1 in made else len(made) - 1
        assert table[table["problem"] == i]["logprob"].item() == pytest.approx(float(total[at]), abs=1e-4)


def test_parts_are_stored_and_taken_up_again(thinking):
    asked, names = questions(12)
    kept: dict[str, pd.DataFrame] = {}
    keep = SimpleNamespace(stored=kept.get, store=lambda name, frame: kept.setdefault(name, frame))
    worlds = [BASE, ablation("zero", HEADS, "zero")]
    first = think(thinking, asked, names, worlds, batch=5, max_new_tokens=3, keep=keep)
    assert len(kept) > 3
    no_more = SimpleNamespace(stored=lambda name: kept[name])
    again = think(thinking, asked, names, worlds, batch=5, max_new_tokens=3, keep=no_more)
    assert first.equals(again)
    with pytest.raises(KeyError):
        think(thinking, asked, names, worlds, batch=5, max_new_tokens=4, keep=no_more)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Replace((), "zero"), "name the thoughts"),
        (lambda: Force(HEADS, "hub"), "names its hub"),
        (lambda: ThoughtWorld("w", (Intervention(HEADS.__class__.of(0, [1]), "pattern", "noop"),)), "identity"),
        (lambda: ThoughtWorld("w", replaced=(Replace((1,), "zero"), Replace((1,), "mean"))), "twice"),
        (lambda: Layout(4, 6, 2).positions("thought[6]"), "no role"),
    ],
)
def test_what_means_nothing_is_refused(make, said: str):
    with pytest.raises(InterventionError, match=said):
        make()


def test_what_the_model_does_not_have_is_refused_before_anything_runs(thinking):
    asked, names = questions(3)
    for world, said in [
        (ablation("w", Heads.of(7, [0])), "layer"),
        (ThoughtWorld("w", replaced=(Replace((6,), "zero"),)), "out of range"),
        (ThoughtWorld("w", forces=(Force(HEADS, "hub", hub=6),)), "out of range"),
    ]:
        with pytest.raises(ValueError, match=said):
            think(thinking, asked, names, [world])
    with pytest.raises(ThoughtError, match="name of its own"):
        think(thinking, asked, ["a", "a", "b"], [BASE])
