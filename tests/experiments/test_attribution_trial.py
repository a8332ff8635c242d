"""Attribution: a head's contribution by hand, captum's numbers, classes of words, ratios, controls that can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headlab.experiments.trial import adjusted, builtin_claims, load_thinker, trial
from headlab.heads import Head
from headlab.tasks.question_words import token_classes, words_of
from headlab.tasks.word_problems import word_problems
from headlab.thoughts import roles as room
from headlab.thoughts.integrated import Frozen, attribute
from headlab.thoughts.loop import Asked, ids_of
from headlab.thoughts.roles import Told, ratios, role_of

HEADS = (Head(1, 5), Head(0, 6))


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    thinker = load_thinker("thoughts-gpt2")
    problems = word_problems(40, split="test", seed=5)
    asked = Asked.of(thinker, [p.question for p in problems], [p.id for p in problems])
    chosen = max(asked.groups.values(), key=len)[:2]
    return Frozen.of(thinker, ids_of(thinker, asked, chosen), HEADS, 12)


def base_of(frozen: Frozen) -> torch.Tensor:
    return frozen.inputs.mean((0, 1))


def test_directions_are_the_gradient_of_the_log_odds(frozen) -> None:
    """Moving z by ε along any direction changes the log odds by ε⟨g, direction⟩, prompt positions included."""
    with torch.no_grad():
        ran = frozen.forward(frozen.inputs)
        before = frozen.log_odds(ran)
    for p in (0, 3):
        g = frozen.directions[p][HEADS[0]]
        assert g.shape[1] == (frozen.layout.prompt if p == 0 else 1) and float(g.abs().max()) > 0
    assert torch.isfinite(before).all() and frozen.contributions(ran).shape == (2, 2)
    whole = sum(float(g[HEADS[1]].abs().sum()) for g in frozen.directions)
    prompt = float(frozen.directions[0][HEADS[1]].abs().sum())
    assert 0 < prompt <= whole


def test_attributions_are_captums(frozen) -> None:
    """An independent implementation: captum's IntegratedGradients with the same nodes on the same scalar."""
    captum = pytest.importorskip("captum.attr", reason="captum is an optional extra (headlab[captum])")
    base = base_of(frozen)
    ours = attribute(frozen, base, 12)
    rows = len(frozen.inputs)

    def scalar(x: torch.Tensor) -> torch.Tensor:
        where = torch.arange(rows).repeat(len(x) // rows)
        return frozen.contributions(frozen.forward(x, where), where)[:, 0]

    theirs = captum.IntegratedGradients(scalar).attribute(
        frozen.inputs, base.expand_as(frozen.inputs).contiguous(), n_steps=12, method="gausslegendre"
    )
    expected = theirs.sum(-1)
    assert torch.allclose(ours.tokens[:, 0], expected.to(ours.tokens), atol=2e-4 * float(expected.abs().max()))
    assert float(expected.abs().max()) > 1e-3


def test_gaps_close_with_more_steps_and_a_path_to_itself_is_nothing(frozen) -> None:
    few, many = (attribute(frozen, base_of(frozen), n).gap[:, 0].abs().sum() for n in (2, 24))
    assert many < few
    assert float(attribute(frozen, frozen.inputs, 2).tokens.abs().max()) == 0


def test_classes_of_words_by_hand() -> None:
    text = "Tom has 3 boxes of 4 apples . He loses twelve . How many marbles ? Ann's marbles cost 1,250.50 dollars ."
    found = [(text[a:b], kind, sign) for a, b, kind, sign in words_of(text)]
    told = {w: (k, s) for w, k, s in found}
    assert told["Tom"][0] == told["apples"][0] == told["marbles"][0] == "entities"
    assert told["3"][0] == told["4"][0] == told["twelve"][0] == told["1,250.50"][0] == "numbers"
    assert told["boxes"] == ("operations", "*") and told["loses"] == ("operations", "-")
    assert told["has"][0] == told["He"][0] == told["."][0] == told["How"][0] == "other"


def test_every_token_has_the_class_of_its_word() -> None:
    tokenizer = load_thinker("thoughts-gpt2").tokenizer
    question = word_problems(1, split="test", seed=1)[0].question
    kinds, signs = token_classes(tokenizer, question)
    assert len(kinds) == len(tokenizer(question).input_ids) == len(signs)
    for token, kind in zip(tokenizer.convert_ids_to_tokens(tokenizer(question).input_ids), kinds, strict=True):
        assert (kind == "numbers") == token.isdigit(), (token, kind)


def test_ratios_by_hand() -> None:
    weights, kinds = [np.array([3.0, -1.0, 0.0, 0.0])], [["numbers", "other", "other", "other"]]
    assert ratios(weights, kinds, "numbers")[0] == pytest.approx(0.75 / 0.25)
    assert ratios(weights, kinds, "other")[0] == pytest.approx(0.25 / 0.75)
    assert np.isnan(ratios(weights, kinds, "entities")[0]) and np.isnan(ratios([np.zeros(4)], kinds, "numbers")[0])
    null = room.shuffled(weights, kinds, "numbers", 0, 4000)
    assert null.mean() == pytest.approx(1, abs=0.1) and set(np.round(null, 6)) == {0.0, 1.0, 3.0}


def row(**fields):
    return {
        "head": "L0H0", "critical": True, "adds_up": 0.9, "kind": "class", "class": "numbers", "ratio": 2.0,
        "low": 1.5, "high": 2.5,
        "n": 30, "unit": "problems", "p": 0.001, "p_adjusted": 0.01, "attention": 1.0, "attention_low": 0.9, "attention_high": 1.1,
        **fields,
    }  # fmt: skip


def test_a_role_needs_interval_shuffles_and_sums() -> None:
    head = Head(0, 0)
    assert "draws on numbers (2.00 [1.50, 2.50] times an even share)" in role_of([row()], head)
    for fields in ({"low": 0.9}, {"p_adjusted": 0.2}):
        assert "no clear role" in role_of([row(**fields)], head)
    assert "no role is given" in role_of([row(adds_up=0.4)], head)
    assert "attends more than evenly to numbers" in role_of([row(attention_low=1.05)], head)


def told(tokens, change=1.0, gap=0.0, deleted=1.0, random=0.1) -> Told:
    return Told(np.array([tokens]), np.array([change]), np.array([gap]), np.array([deleted]), np.array([random]))


def test_controls_can_fail() -> None:
    rng = np.random.default_rng(0)
    own = [told(rng.random(19)) for _ in range(30)]
    other = [told(rng.random(19)) for _ in range(30)]
    names = [f"c{i}" for i in range(30)]
    assert room.judged_random(own, other, names, 0).passed and not room.judged_random(own, own, names, 0).passed
    assert room.judged_completeness(own).passed and not room.judged_completeness([told([1.0], gap=0.06)]).passed
    assert told([2.0], gap=0.06).counted(0).tolist() == [0.0] and told([2.0], gap=-0.04).counted(0).tolist() == [2.0]
    assert room.judged_deletion(own, names, 0).passed
    assert not room.judged_deletion([told([1.0], deleted=0.1 + 0.1 * (-1) ** i) for i in range(30)], names, 0).passed


def test_the_trial_is_whole(store) -> None:
    claim = adjusted(
        builtin_claims()["attribution"],
        pairs=6,
        selection_pairs=6,
        matched_sets=99,
        options={"heads": "L1H5", "steps": 24},
    )
    result = trial(claim, "thoughts-gpt2", store=store)
    checks = {c.name: c for c in result.verdict.controls}
    assert set(checks) == {"zero-path", "completeness", "randomised", "deletion"} and checks["zero-path"].value == 0
    classes = result.tables["classes"]
    assert set(classes["class"]) == {"numbers", "operations", "entities", "other", "+", "-", "*", "/"}
    assert classes["head"].nunique() == 2 and classes["critical"].sum() == 8
    tokens = result.tables["tokens"]
    sums = tokens.groupby(["problem_id", "head"])["attribution"].sum()
    gaps = result.tables["completeness"].set_index(["problem_id", "head"])
    assert np.allclose(sums, (gaps["change"] + gaps["gap"]).reindex(sums.index), atol=1e-4)
    assert [f.kind for f in result.figures] == ["estimates", "estimates", "null", "heatmap"]
    assert "L1H5" in result.record.sections[0]["text"]
