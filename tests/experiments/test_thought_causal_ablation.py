"""head-ablation: a planted head is found against matched ones, matched sets are matched, broken parsers are caught."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from planted_thinker import planted, problems, truth

from headlab.experiments.trial import adjusted, find_claim, trial
from headlab.heads import Grid, Head, Heads
from headlab.stats import Estimate
from headlab.stats.correlation import spearman
from headlab.tasks.word_problems import grade_problem
from headlab.thoughts.loop import think
from headlab.thoughts.worlds import ThoughtWorld, ablation
from headlab.trials import thought_checks
from headlab.trials.answers import of_world, relative
from headlab.trials.thought_checks import lowers, parse_control
from headlab.trials.thought_heads import output_norms
from headlab.trials.thought_sets import matched_by_layer

TEST, SELECTION = problems(103), problems(17, seed=1)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"))


def claim(heads: str, **fields: Any):
    options = {"heads": heads, "k": 3, "max_new_tokens": 3}
    predictions = (
        {"statistic": "drop:named", "op": ">", "threshold": 0.1},
        {"statistic": "rank:named", "op": "rank<", "threshold": 0.05},
    )
    return adjusted(find_claim("head-ablation"), options=options, predictions=predictions, matched_sets=24, **fields)


def test_only_the_planted_head_says_anything(thinker):
    """The truth of the planted model: every other head's z is one constant."""
    assert truth(thinker, SELECTION) == {Head(0, 17)}


def test_the_planted_head_is_found_among_its_matched_heads(thinker, store):
    result = trial(claim("L0H17"), thinker, prompts=(TEST, SELECTION), store=store)
    assert result.verdict.outcome == "upheld", result.verdict.sentence
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    heads = result.tables["heads"].set_index("world")
    assert list(heads.index[heads["matters"]]) == ["L0H17"], "no other head passes Benjamini-Hochberg"
    assert (heads.drop(index="L0H17")["drop"] == 0).all() and heads.loc["L0H17", "drop"] > 0.7
    ranks = {r.prediction.statistic: r for r in result.verdict.rulings}
    assert ranks["rank:named"].value == pytest.approx(1 / 24), "the most extreme of all 24 heads of its layer"
    assert [r.protocol for r in result.record.readings] == ["standard", "published"]
    assert {f.kind for f in result.figures} == {"null", "curve", "estimates", "scatter"}
    own = result.tables["matched"]
    assert len(own[own["for"] == "top3"]) == 24 and len(own[own["for"] == "named"]) == 24
    assert set(result.tables["effects"].columns) >= {"accuracy", "parsed", "drop", "relative", "p", "p_adjusted"}


@pytest.mark.accept
def test_an_idle_head_is_not_upheld(thinker, store):
    result = trial(claim("L0H9", readings=("standard",)), thinker, prompts=(TEST, SELECTION), store=store)
    assert result.verdict.outcome == "refuted", result.verdict.sentence


def test_matched_sets_have_the_layers_of_the_observed_one():
    grid = Grid(3, 7, 7)
    norms = {Head(at, h): 1.0 + at + h / 7 for at in range(3) for h in range(7)}
    observed = Heads.parse("L0H6 L0H1 L2H3")
    found = matched_by_layer(grid, observed, norms, 25, seed=1)
    assert len(set(found.sets)) == 25 and not found.enumerated and observed not in found.sets
    assert all(Counter(h.layer for h in s) == {0: 2, 2: 1} for s in found.sets)
    own = sum(norms[h] for h in observed)
    ratios = [sum(norms[h] for h in s) / own for s in found.sets]
    assert found.within is not None
    assert max(max(r, 1 / r) for r in ratios) == pytest.approx(found.within)
    every = matched_by_layer(grid, Heads.parse("L1H2"), norms, 25, seed=1)
    assert every.enumerated and set(every.sets) == {Heads([Head(1, h)]) for h in range(7)}


def test_norms_of_what_heads_write(thinker, tmp_path):
    """An idle head writes the norm of its value bias through W_O; the planted one something that varies."""
    from headlab.store import Store
    from headlab.trials.thought_case import ThoughtBench

    made = claim("L0H17")
    with Store(tmp_path).open(kind="trial", slug="head-ablation", title="", inputs={}, draft={}) as run:
        norms = output_norms(ThoughtBench(thinker, made, TEST, SELECTION, run))
        run.finish(readings=[], figures=[], sections=[], notes=[], eligibility={}, settings={})
    bias, w = thinker.lab.bias("v", 0), thinker.lab.weight("o", 0)
    assert bias is not None
    assert norms[Head(0, 5)] == pytest.approx(float((bias[5] @ w[5]).norm()), rel=1e-5)


def test_the_published_regex_reads_nothing_and_the_parse_rate_says_so(thinker):
    """The published parser, a doubled backslash in a raw string, finds no number in any text: 0 % with and without the
    head, a baseline read by another parser makes that look like an effect."""
    asked, names = [p.question for p in TEST], [p.id for p in TEST]
    worlds = [ThoughtWorld("baseline"), ablation("L0H17", Heads.parse("L0H17"), "zero")]
    made: Any = think(thinker, asked, names, worlds, max_new_tokens=3)

    def published(text: str) -> list[str]:
        return re.findall(r"-?\\d+", text)  # how it begins; what follows can only match less

    made["parsed"] = [bool(published(t)) for t in made["text"]]
    made["right"] = [
        bool(found := published(t)) and found[-1] == TEST[i].answer
        for t, i in zip(made["text"], made["problem"], strict=True)
    ]
    base, edited = (of_world(made, w.name) for w in worlds)
    assert base["right"].sum() == edited["right"].sum() == 0 and not made["parsed"].any()
    assert published(r"The answer is -\d") == [r"-\d"], "what it does match: the pattern's own letters"
    control = parse_control(base, edited)
    assert not control.passed and control.value == 0
    marks = [grade_problem(t, TEST[i]) for t, i in zip(base["text"], base["problem"], strict=True)]
    mended = base.assign(parsed=[m.parsed is not None for m in marks], right=[m.right for m in marks])
    assert parse_control(mended).passed and mended["right"].all()


@pytest.mark.accept
def test_a_failed_control_voids(thinker, store, monkeypatch):
    monkeypatch.setattr(thought_checks, "parse_control", lambda base, others: parse_control(base.assign(parsed=False)))
    result = trial(claim("L0H17", readings=("standard",)), thinker, prompts=(TEST[:20], SELECTION), store=store)
    assert result.verdict.outcome == "void" and "parse-rate" in result.verdict.sentence


def test_accuracy_that_does_not_fall_fails_the_positive_control():
    flat = Estimate(0.0, -0.02, 0.03, 110, "problems", "Newcombe")
    assert not lowers("silence-all", "", flat).passed
    assert lowers("silence-all", "", Estimate(0.4, 0.3, 0.5, 110, "problems", "Newcombe")).passed


def test_relative_drop_by_hand():
    import pandas as pd

    base = pd.DataFrame(
        {"problem": range(8), "problem_id": range(8), "cluster": list("abcdefgh"), "right": [1, 1, 1, 1, 0, 0, 1, 0]}
    )
    edited = base.assign(right=[1, 0, 0, 1, 1, 0, 0, 0])
    got = relative(base.astype({"right": bool}), edited.astype({"right": bool}), seed=0)
    assert got.value == pytest.approx((5 - 3) / 5) and got.complement().value == pytest.approx(3 / 5)
    same = relative(base.astype({"right": bool}), base.astype({"right": bool}), seed=0)
    assert same.value == 0 and same.low is not None and same.low < 0 < (same.high or 0), "no change keeps its interval"


def test_spearman_is_scipys():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, 29), rng.normal(size=29)
    wanted: Any = spearmanr(a, b)
    assert spearman(a, b) == pytest.approx(float(wanted[0]))
    assert np.isnan(spearman(np.ones(5), np.arange(5)))


@pytest.mark.accept
def test_on_the_organism(store):
    """The heads that matter in the shipped model are those that zeroing W_O by hand, outside the engine, finds too."""
    import torch

    from headlab.experiments.trial import load_thinker

    result = trial("head-ablation", "thoughts-gpt2", store=store, pairs=120, matched_sets=10)
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    heads = result.tables["heads"].set_index("world")
    worst = Head.parse(str(heads["drop"].idxmax()))
    assert heads.loc[str(worst), "matters"]
    own = load_thinker("thoughts-gpt2")
    at: Any = own.lab.attentions[worst.layer]
    size = own.lab.head_dim
    with torch.no_grad():
        at.c_proj.weight[worst.index * size : (worst.index + 1) * size] = 0
    from headlab.tasks.word_problems import word_problems

    some = word_problems(60, split="test", seed=9)
    texts = think(own, [p.question for p in some], [p.id for p in some], [ThoughtWorld("baseline")])["text"]
    right = np.mean([grade_problem(t, p).right for t, p in zip(texts, some, strict=True)])
    assert right < 0.7, right
