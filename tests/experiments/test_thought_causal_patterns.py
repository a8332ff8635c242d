"""position-patching, forced-patterns, hub-rerouting: verdicts on models whose truth is known; controls that can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted_thinker import planted, problems

from headlab.experiments.thoughts import position_patching
from headlab.experiments.trial import adjusted, find_claim, trial
from headlab.heads import Grid
from headlab.stats import Estimate
from headlab.thoughts.forcing import dealt_hubs
from headlab.trials.answers import Effect
from headlab.trials.row_checks import judged_hold
from headlab.trials.thought_checks import same_answers
from headlab.trials.thought_effects import Costs

TEST, SELECTION = problems(104, seed=2), problems(17, seed=3)
GRID = Grid(2, 13, 13)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"))


def tried(slug: str, model: Any, store: Any, test: Any = TEST, **fields: Any):
    made = adjusted(find_claim(slug), **{"options": {"max_new_tokens": 3}, "matched_sets": 5, **fields})
    return trial(made, model, prompts=(test, SELECTION), store=store)


def test_thoughts_that_carry_nothing_void_the_patching(thinker, store):
    """The planted model answers from the question: even all thoughts replaced cost nothing, so the positive control
    cannot fire and no verdict is given."""
    result = tried("position-patching", thinker, store, TEST[:31])
    assert result.verdict.outcome == "void" and "swap-all" in result.verdict.sentence
    passed = {c.name: c.passed for c in result.verdict.controls}
    assert passed == {"no-op": True, "parse-rate": True, "swap-all": False}
    table = result.tables["effects"]
    assert len(table) == 1 + 3 * 6 + 1 and (table["drop"].dropna() == 0).all()
    assert not table["matters"].fillna(False).any()
    assert (
        result.record.readings[1].verdict.outcome == "untestable"
        and "one donor" in result.record.readings[1].verdict.sentence
    )


def test_no_pattern_matters_where_attention_among_thoughts_is_idle(thinker, store):
    result = tried("forced-patterns", thinker, store)
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    shown = {r.prediction.statistic: r.outcome for r in result.verdict.rulings}
    assert shown == {"kept:hub": "upheld", "relative:uniform": "refuted", "relative:sequential": "refuted"}
    table = result.tables["effects"].set_index("world")
    assert not table["matters"].fillna(False).any()
    assert set(table.index) == {
        "baseline",
        "hub",
        "uniform",
        "sequential",
        "self",
        "blocked-thoughts",
        "blocked-answer",
    }
    assert [f.kind for f in result.figures] == ["estimates", "null"]


def test_nothing_is_said_of_hubs_where_attention_among_thoughts_is_idle(thinker, store):
    """All of it can be cut at no cost, so that every hub "keeps" everything: no verdict (it was upheld).  Looked for in
    every shipped claim: tests/experiments/test_could_matter.py."""
    result = tried("hub-rerouting", thinker, store, options={"dealt": 2, "max_new_tokens": 3})
    assert {r.outcome for r in result.verdict.rulings} == {"upheld"}
    assert result.verdict.outcome == "untestable" and "nothing could have mattered" in result.verdict.sentence
    assert {c.name: c.passed for c in result.verdict.controls}["cut-all"] is False
    table = result.tables["effects"].set_index("world")
    assert table.loc[[str(k) for k in range(6)], "rows"].tolist() == [5, 5, 4, 3, 2, 1]
    assert not table["matters"].fillna(False).any()
    curve = next(f for f in result.figures if f.kind == "curve")
    assert {r["series"] for r in curve.data} == {"hub forced at k", "uniform", "a random hub for each head"}


def test_hubs_are_dealt_out_evenly_and_every_head_has_one():
    forces = dealt_hubs(GRID, 6, seed=4)
    heads = [h for f in forces for h in f.heads]
    assert len(heads) == len(set(heads)) == 26 and [f.hub for f in forces] == list(range(6))
    assert {len(f.heads) for f in forces} == {4, 5}, "26 heads on 6 thoughts"
    other = dealt_hubs(GRID, 6, seed=5)
    assert [str(f.heads) for f in other] != [str(f.heads) for f in forces]


def test_a_hub_that_was_not_forced_is_not_read_back():
    rows = np.tril(np.random.default_rng(0).random((3, 7, 6, 6)))
    assert not judged_hold(rows, 2).passed
    mass = rows.sum(-1)
    for i in range(2, 6):
        rows[..., i, : i + 1] = (0.2 * mass[..., i] / i)[..., None]
        rows[..., i, 2] = 0.8 * mass[..., i]
    assert judged_hold(rows, 2).passed


def test_the_hub_against_the_others_by_hand():
    base = pd.DataFrame({"problem": range(4), "cluster": list("abcd"), "right": [True, True, True, False]})
    rights = {0: [0, 0, 1, 0], 1: [1, 0, 1, 0], 2: [1, 1, 1, 1]}
    table = pd.concat([base.assign(world=f"{j}:resample", right=[bool(x) for x in r]) for j, r in rights.items()])
    others, delta = position_patching.against_others(Costs({}, table, base), 0, 3, 0)
    assert others.value == pytest.approx((0 + 1 + 0 + 0 + 0 + 0 + 0 - 1) / 8)
    assert others.value is not None and delta.value == pytest.approx(2 / 4 - others.value)


def test_a_hub_the_model_does_not_have_is_refused(thinker, store):
    with pytest.raises(ValueError, match="expected auto or a thought from 0 to 5"):
        adjusted_claim = adjusted(find_claim("hub-rerouting"), options={"hub": "6", "max_new_tokens": 3})
        trial(adjusted_claim, thinker, prompts=(TEST[:5], SELECTION), store=store)


def small_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    model: Any = GPT2LMHeadModel(
        GPT2Config(vocab_size=53, n_embd=42, n_layer=2, n_head=7, n_positions=31, initializer_range=0.3)
    )
    model.set_attn_implementation("eager")
    return model.eval()


@torch.no_grad()
def test_the_published_mask_is_inverted_and_the_no_op_says_so():
    """An additive 0 / −10000 mask given as a 2-D attention_mask: transformers reads it as booleans, so it attends ONLY to
    what it was to block.  The published no-op (a mask that blocks nothing) therefore differs from no mask at all, which is
    what the no-op control asks."""
    model, ids = small_gpt2(), torch.randint(0, 53, (1, 11), generator=torch.Generator().manual_seed(0))
    additive = torch.zeros(1, 11)
    additive[:, [0, 3]] = -10000.0
    published = model(ids, attention_mask=additive).logits
    only, without = torch.zeros(1, 11, dtype=torch.long), torch.ones(1, 11, dtype=torch.long)
    only[:, [0, 3]], without[:, [0, 3]] = 1, 0
    assert torch.equal(published, model(ids, attention_mask=only).logits), "attends only to what was to be blocked"
    assert (published - model(ids, attention_mask=without).logits).abs().max() > 1e-2

    def answers(mask: Any) -> pd.DataFrame:
        chance, token = model(ids, attention_mask=mask).logits[0, -1].log_softmax(-1).max(-1)
        return pd.DataFrame({"problem": [0], "text": [str(int(token))], "logprob": [float(chance)]})

    plain = answers(None)
    assert not same_answers("no-op", "a mask that blocks nothing", plain, answers(torch.zeros(1, 11))).passed
    assert same_answers("no-op", "a mask that keeps all", plain, answers(torch.ones(1, 11, dtype=torch.long))).passed


def test_same_answers_bites():
    base = pd.DataFrame({"problem": [0, 1], "text": ["3", "4"], "logprob": [-0.5, -0.25]})
    assert same_answers("x", "", base, base).passed
    assert not same_answers("x", "", base, base.assign(text=["3", "5"])).passed
    assert not same_answers("x", "", base, base.assign(logprob=[-0.5, -0.25000000000000006])).passed


def test_what_matters_needs_both_p_and_interval():
    from headlab.stats.paired import mcnemar

    e = Estimate(0.3, 0.1, 0.5, 9, "problems", "x")
    test = mcnemar([True] * 9, [False] * 9)
    assert Effect("w", "w", "", e, e, e, e, test, 0.04).matters
    assert not Effect("w", "w", "", e, e, e, e, test, 0.06).matters
    assert not Effect("w", "w", "", e, e, Estimate(0.3, -0.1, 0.5, 9, "problems", "x"), e, test, 0.01).matters


@pytest.mark.accept
@pytest.mark.parametrize("slug", ["forced-patterns", "hub-rerouting"])
def test_nothing_matters_on_the_plain_organism(slug: str, store):
    """Plain CODI at this size does not use attention among its thoughts, whatever that attention looks like."""
    result = trial(slug, "thoughts-gpt2-plain", store=store, matched_sets=10)
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    table = result.tables["effects"].set_index("world")
    patterns = table.loc[[w for w in table.index if not w.startswith(("baseline", "blocked", "dealt"))]]
    assert not patterns["matters"].any(), patterns[["drop", "p_adjusted"]]
    harmful = [
        r for r in result.verdict.rulings if r.prediction.statistic.startswith("relative") and r.outcome == "upheld"
    ]
    assert not harmful


@pytest.mark.accept
def test_on_the_organism_thoughts_0_2_4_carry_content(store):
    result = trial("position-patching", "thoughts-gpt2", store=store, pairs=120)
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    table = result.tables["effects"].set_index("world")
    assert table.loc[["0:resample", "2:resample", "4:resample"], "matters"].all()
    assert not table.loc[["1:resample", "5:resample"], "matters"].any()
