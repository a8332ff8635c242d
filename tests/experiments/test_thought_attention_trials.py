"""Attention among thoughts on trial: tiny untrained models, whose truth is known; every control can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headlab.engine.model import open_model
from headlab.experiments.thoughts import compare_models, head_metrics, hubs, thought_attention
from headlab.experiments.trial import EXPERIMENTS, adjusted, find_claim, trial
from headlab.organisms.thought_making import build_lm, wrap
from headlab.organisms.thought_recipes import THOUGHT_RECIPES
from headlab.report.figures import describe, spec
from headlab.store import Result
from headlab.tasks.word_problems import ProblemSet, build_word_tokenizer, word_problems
from headlab.thoughts import compared, metrics
from headlab.thoughts.attention import ThoughtAttention, attention
from headlab.thoughts.hubs import even_rows, find_hubs
from headlab.thoughts.loading import Thinker
from headlab.trials import row_checks

ROOMS = (thought_attention, hubs, head_metrics, compare_models)
for _room in ROOMS:
    EXPERIMENTS.setdefault(_room.EXPERIMENT.slug, _room.EXPERIMENT)
SMALL = {
    "gpt2": {"hidden": 28, "heads": 7, "head_dim": 4},
    "llama": {"hidden": 36, "heads": 6, "head_dim": 6, "kv_heads": 3},
}


def made(family: str, seed: int, std: float = 0.02, **sizes: Any) -> Any:
    """An untrained model of a recipe's shape, or a smaller one."""
    recipe = THOUGHT_RECIPES[f"thoughts-{family}"]
    recipe = replace(recipe, seed=seed, architecture=replace(recipe.architecture, init_std=std, **sizes))
    return wrap(recipe, build_lm(recipe))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two small models with random weights, in folders."""
    place = tmp_path_factory.mktemp("models")
    return {
        family: made(family, 3, std=0.05, layers=2, intermediate=32, **SMALL[family]).save(
            place / family, build_word_tokenizer(20)
        )
        for family in SMALL
    }


def of_two_lengths(n: int, seed: int) -> ProblemSet:
    """Problems whose questions have two lengths, so that they run in two batches."""
    drawn = word_problems(40 * n, split="test", seed=seed)
    size = Counter(len(p.question.split()) for p in drawn)
    two = {length for length, _ in size.most_common(2)}
    return drawn.subset([p for p in drawn if len(p.question.split()) in two][:n])


@pytest.fixture(scope="module")
def tried(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """A trial of each experiment, once."""
    store, done = tmp_path_factory.mktemp("store"), {}
    extra = {"compare-models": {"other": str(folders["llama"]), "max_new_tokens": 3}}
    problems = (of_two_lengths(48, 1), of_two_lengths(12, 2))
    usual = {"untrained": 2, "references": "", "max_new_tokens": 3}

    def run(slug: str) -> Result:
        if slug not in done:
            claim = adjusted(
                find_claim(slug), pairs=48, selection_pairs=12, matched_sets=99, options=extra.get(slug, usual)
            )
            done[slug] = trial(claim, str(folders["gpt2"]), store=store, prompts=problems)
        return done[slug]

    return run


@pytest.mark.parametrize("slug", [r.EXPERIMENT.slug for r in ROOMS])
def test_a_trial_ends_with_verdict_tables_and_figures(tried: Callable[[str], Result], slug: str) -> None:
    result = tried(slug)
    standard, published = result.record.readings
    assert (standard.protocol, published.protocol) == ("standard", "published")
    assert all(c.passed for c in standard.verdict.controls), [
        c.words for c in standard.verdict.controls if not c.passed
    ]
    assert {c.name for c in standard.verdict.controls} >= set(find_claim(slug).controls)
    assert {c.kind for c in standard.verdict.controls} == {"negative", "positive"}
    for reading in result.record.readings:
        assert reading.verdict.outcome in {"upheld", "refuted", "undecided"}, reading.verdict.sentence
        for e in reading.estimates:
            told = e.estimate
            assert told["value"] is None or (told["low"] <= told["value"] + 1e-9 and told["n"] > 0 and told["unit"]), (
                e.name
            )
    assert result.tables and all(len(t) for t in result.tables.values())
    for figure in result.figures:
        assert spec(figure) and describe(figure) and figure.caption
    assert len({f.name for f in result.figures}) == len(result.figures)
    assert any(s["heading"] == "When this misleads" for s in result.record.sections)


def test_what_the_claims_predict_is_measured() -> None:
    for room in ROOMS:
        claim = find_claim(room.EXPERIMENT.slug)
        room.EXPERIMENT.check(claim)
        assert claim.id == room.EXPERIMENT.slug and claim.task.name == "word-problems"


def test_null_and_references_stand_in_the_figures(tried: Callable[[str], Result]) -> None:
    by_name = {f.name: f for f in tried("hubs").figures}
    for name in ("corrected", "published"):
        assert {r["group"] for r in by_name[name].data} == {"this model", "uniform attention", "untrained models"}
    assert by_name["null"].kind == "null" and len(by_name["null"].data) >= 1000
    assert {r["y"] for r in by_name["counts"].data} >= {"published rule, untrained", "corrected rule, untrained"}
    before = next(f for f in tried("thought-attention").figures if f.name == "before")
    assert {"thoughts shuffled in each row", "uniform over all keys", "untrained models"} < {
        r["group"] for r in before.data
    }


def test_the_table_of_attention_sums_to_one(tried: Callable[[str], Result]) -> None:
    table = tried("thought-attention").tables["attention"]
    total = table.groupby(["layer", "head", "row"])["attention"].sum()
    assert len(total) == 2 * 7 * 8 and np.allclose(total, 1, atol=1e-5)
    assert (table["low"] <= table["high"]).all()


def test_published_and_standard_stand_beside_each_other(tried: Callable[[str], Result]) -> None:
    result = tried("head-metrics")
    flows = [next(e for e in r.estimates if e.name == "flow").estimate["value"] for r in result.record.readings]
    assert flows[1] == pytest.approx(1) and flows[0] < 0.9
    assert any("dead" in w for w in result.record.warnings) and any("dead" in n for n in result.record.notes)
    assert result.tables["ranked_heads_published"]["composite"].max() <= 0.6 + 1e-9
    assert sum("Composite over 0.7" in s["text"] for s in result.record.sections) == 2
    assert {f.name for f in result.figures} >= {"top10", "top3", "distributions", "null", "models"}
    data = tried("hubs").record.settings["hubs_and_flow"]
    assert set(data) == {"standard", "published"} and data["published"]["flow"]["value"] == pytest.approx(1)
    assert all(e["n"] == 48 and e["unit"] == "problems" for e in data["standard"]["ratios"])


def test_the_comparison_has_its_seven_panels(tried: Callable[[str], Result], folders: dict[str, Path]) -> None:
    result = tried("compare-models")
    kinds = [f.name.split("-")[0] for f in result.figures]
    assert sorted(kinds) == sorted(["hubs", "published", "top20", "types", "types", "layers", "layers", "scores"])
    data = result.record.settings["comparison"]["models"]
    assert set(data) == {str(f) for f in folders.values()} and all("composite" in m["published"] for m in data.values())
    assert set(result.tables["ranked_heads"]["model"]) == set(data)


def test_a_twin_without_thoughts_is_untestable(tmp_path: Path) -> None:
    recipe = THOUGHT_RECIPES["thoughts-gpt2-none"]
    recipe = replace(
        recipe, architecture=replace(recipe.architecture, layers=1, hidden=14, heads=7, head_dim=2, intermediate=16)
    )
    folder = wrap(recipe, build_lm(recipe)).save(tmp_path / "none", build_word_tokenizer(20))
    for room in ROOMS:
        claim = adjusted(find_claim(room.EXPERIMENT.slug), pairs=20, selection_pairs=10)
        verdict = trial(claim, str(folder), store=tmp_path / "store").verdict
        assert verdict.outcome == "untestable" and ("thoughts" in verdict.sentence or "no shipped" in verdict.sentence)


# -- controls that fail -------------------------------------------------------------------------------------


def test_controls_fail_on_what_they_are_for() -> None:
    rng = np.random.default_rng(0)
    own = rng.dirichlet(np.ones(6), (30, 5, 6)) * np.tri(6)
    clusters = [f"c{i}" for i in range(30)]
    flat = np.broadcast_to(even_rows(6), own.shape)
    assert row_checks.judged_uniform(flat, find_hubs(flat, clusters, seed=0)).passed
    assert not row_checks.judged_uniform(own, find_hubs(own, clusters, seed=0)).passed
    found = {j: np.full(5, j) for j in range(6)}
    assert row_checks.judged_planted(found).passed
    assert not row_checks.judged_planted({**found, 3: np.array([3, 3, -1, 3, 3])}).passed
    peak = np.array(flat)
    peak[..., 1:, :] *= 0.1
    peak[..., 1:, 0] += 0.9
    with_hubs, without = (find_hubs(x, clusters, seed=0) for x in (peak, flat))
    assert row_checks.judged_untrained([without] * 3).passed and not row_checks.judged_untrained([with_hubs] * 3).passed
    assert not row_checks.judged_untrained([]).passed
    chain = np.array(flat)
    for i in range(1, 6):
        chain[..., i, : i + 1] = 0.2 / i
        chain[..., i, i - 1] = 0.8
    assert row_checks.judged_chain(chain).passed and not row_checks.judged_chain(own).passed


def test_a_missing_key_fails_the_row_control() -> None:
    shape = (3, 1, 2, 8)
    whole = ThoughtAttention(
        ("a", "b", "c"), np.full(shape, 0.4), np.full(shape, 0.1), np.full((*shape, 6), 0.5 / 6), np.zeros(shape)
    )
    assert row_checks.judged_rows(whole, torch.float32).passed
    lost = ThoughtAttention(whole.names, whole.question, 0 * whole.bot, whole.thoughts, whole.later)
    assert not row_checks.judged_rows(lost, torch.float32).passed


def test_published_values_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert head_metrics.published_control().passed
    monkeypatch.setitem(metrics.WEIGHTS, "hub", 0.35)
    assert not head_metrics.published_control().passed


def test_a_planted_head_comes_first_by_this_composite_only(monkeypatch: pytest.MonkeyPatch) -> None:
    among = np.random.default_rng(1).dirichlet(np.ones(6), (20, 9, 6)) * np.tri(6)
    assert head_metrics.planted_control(among, (3, 3)).passed
    monkeypatch.setattr(head_metrics.metrics, "hub_variance", lambda m: -metrics.incoming(m).var(-1))
    monkeypatch.setattr(head_metrics.metrics, "skip", lambda m: -m[..., -1, :3].mean(-1))
    assert not head_metrics.planted_control(among, (3, 3)).passed


def test_models_are_compared_on_the_same_resamples() -> None:
    rng = np.random.default_rng(2)
    a = rng.dirichlet(np.ones(6), (40, 6, 6)) * np.tri(6)
    clusters = [f"c{i % 23}" for i in range(40)]
    one, same = (compared.judged("m", 1, 2, a, clusters, (2, 3), 0) for _ in range(2))
    gaps = compared.differences(one, same, clusters, 0)
    assert compare_models.judged_self(gaps).passed
    assert gaps["variance:gap"].low == gaps["variance:gap"].high == 0
    other = compared.judged("n", 2, 2, np.array(even_rows(6) * np.ones((40, 6, 1, 1))) + 0.01 * a, clusters, (2, 3), 0)
    assert not compare_models.judged_self(compared.differences(one, other, clusters, 0)).passed
    late = compared.judged("m", 1, 2, a, clusters, (2, 3), 1)
    with pytest.raises(ValueError, match="not resampled together"):
        compared.differences(one, late, clusters, 0)


# -- what must show -----------------------------------------------------------------------------------------


def ruled(family: str, seed: int, problems: int, std: float) -> tuple[np.ndarray, np.ndarray]:
    """The hub of each head of an untrained model, by our rule and by the published one."""
    model = made(family, seed, std).eval().requires_grad_(False)
    lab = open_model(model.codi, tokenizer=build_word_tokenizer(20))
    asked = word_problems(problems, split="test", seed=1)
    found = attention(Thinker(lab, model, "u"), [p.question for p in asked], [p.id for p in asked], max_new_tokens=1)
    among = found.matrices
    view = metrics.published_view(among).mean(0)
    return find_hubs(among, [p.cluster for p in asked], seed=0).hub, metrics.incoming(view).argmax(-1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_untrained_model_has_no_hub_but_a_published_one(family: str) -> None:
    ours, published = ruled(family, 11, 30, 0.02)
    assert (ours >= 0).mean() <= 0.05 and (published == 0).all()


@pytest.mark.accept
@pytest.mark.parametrize("std", [0.02, 0.05])
def test_untrained_models_have_no_hub_in_95_of_100_heads(std: float) -> None:
    """Six seeds of both families, at the usual initialisation and at the organisms' own, which is wider."""
    for family in ("gpt2", "llama"):
        pairs = [ruled(family, seed, 64, std) for seed in range(6)]
        ours, published = (np.concatenate([p[k] for p in pairs]) for k in (0, 1))
        assert (ours == -1).mean() >= 0.95, (family, (ours >= 0).mean())
        assert (published == 0).mean() >= (1.0 if std == 0.02 else 0.95), (family, (published == 0).mean())
