"""Probes: what is planted is read, what is not is not, memory shows in the control task, inflections by hand."""

from __future__ import annotations

import numpy as np
import pytest

from headlab.experiments.trial import adjusted, builtin_claims, trial
from headlab.stats import bootstrap_mean
from headlab.tasks.word_problems import Problem, word_problems
from headlab.thoughts import probing
from headlab.trials import probes as lp

N, WIDTH = 390, 23


def planted(seed: int = 0, chains: int = 130):
    """Problems in chains of three; a class by chain; features with the class in them and features without."""
    rng = np.random.default_rng(seed)
    problems = [Problem(f"p{i}", "q", (f"{i % chains}+1={i % chains + 1}",), str(i % chains % 5)) for i in range(N)]
    y = np.array([p.answer for p in problems])
    code = rng.normal(size=(5, WIDTH))
    noise = rng.normal(size=(N, WIDTH))
    return problems, y, noise, noise * 0.3 + 2 * code[y.astype(int)]


def asked_of(problems, y) -> probing.Asked:
    made = probing.ask("answer", list(y), problems, 4, 0)
    assert made is not None
    return made


def test_folds_share_no_chain_and_every_row_is_predicted_once() -> None:
    problems, y, _, _ = planted()
    a = asked_of(problems, y)
    for train, test in a.folds:
        assert not set(a.groups[train]) & set(a.groups[test])
    assert sorted(np.concatenate([t for _, t in a.folds]).tolist()) == list(range(N))
    assert any(set(a.groups[train]) & set(a.groups[test]) for train, test in a.mixed)


def test_a_planted_class_is_read_and_noise_is_not() -> None:
    problems, y, noise, signal = planted()
    a = asked_of(problems, y)
    assert probing.right(signal, a, "true").mean() > 0.97
    assert probing.right(noise, a, "true").mean() < a.majority + 0.08
    assert probing.right(signal, a, "shuffled").mean() < a.majority + 0.08


def test_the_probe_is_sklearns_discriminant_where_it_can_be_computed_by_hand() -> None:
    """Two classes, two features: the rule xᵀS⁻¹m − mᵀS⁻¹m/2 + log share with the shrunk pooled covariance."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.array(["a", "b"]), 53)
    x = rng.normal(size=(106, 2)) + (y == "b")[:, None] * np.array([1.0, -0.5])
    train, test = np.arange(0, 106, 2), np.arange(1, 106, 2)
    found = probing.probe(x, y, [(train, test), (test, train)])[test]
    z = (x - x[train].mean(0)) / x[train].std(0)
    means = {c: z[train][y[train] == c].mean(0) for c in "ab"}
    share = {c: (y[train] == c).mean() for c in "ab"}

    def shrunk(c: str) -> np.ndarray:
        part = z[train][y[train] == c]
        scale = part.std(0)
        s = np.cov((part / scale).T, bias=True)
        s = (1 - probing.SHRINKAGE) * s + probing.SHRINKAGE * np.trace(s) / 2 * np.eye(2)
        return scale[:, None] * s * scale

    inverse = np.linalg.inv(sum(share[c] * shrunk(c) for c in "ab"))
    score = {c: z[test] @ inverse @ m - m @ inverse @ m / 2 + np.log(share[c]) for c, m in means.items()}
    assert (found == np.where(score["b"] > score["a"], "b", "a")).mean() > 0.97


def test_memory_shows_in_the_control_task_and_selectivity_takes_it_out() -> None:
    """Features that name the chain: the control task can be learnt where chains recur, never across chains."""
    problems, y, _, _ = planted(chains=40)
    rng = np.random.default_rng(1)
    place = np.unique([p.cluster for p in problems], return_inverse=True)[1]
    name = rng.normal(size=(40, 60))[place]
    a = asked_of(problems, y)
    control = probing.right(name, a, "control")[a.repeated].mean()
    true = probing.right(name, a, "recurring")[a.repeated].mean()
    assert control > 0.9 and abs(true - control) < 0.1
    assert probing.right(name, a, "true").mean() < 0.5


def test_control_labels_are_by_chain_with_the_targets_classes() -> None:
    problems, y, _, _ = planted()
    a = asked_of(problems, y)
    by_chain = {g: set(a.control[a.groups == g].tolist()) for g in set(a.groups.tolist())}
    assert all(len(v) == 1 for v in by_chain.values()) and set(a.control.tolist()) <= set(y.tolist())
    assert 0.05 < (a.control == y).mean() < 0.4


def test_rare_classes_are_left_out_and_too_few_give_none() -> None:
    problems = [
        Problem(f"p{i}", "q", (f"{i}+1={i + 1}",), "7" if i < 30 else "8" if i < 50 else str(i)) for i in range(60)
    ]
    made = probing.ask("answer", [p.answer for p in problems], problems, 4, 0)
    assert made is not None and len(made.rows) == 50 and made.covered == pytest.approx(50 / 60)
    assert probing.ask("answer", ["7"] * 30 + [None] * 30, problems, 4, 0) is None


def test_inflection_and_distance_by_hand() -> None:
    curves = np.array([[0.1, 0.1, 0.2, 0.9], [0.1, 0.8, 0.9, 0.9], [0.5, 0.5, 0.5, 0.5]])
    assert probing.inflection(curves).tolist() == [1, -1, -1]
    assert probing.distance([0, 2, 2], 1.0) == pytest.approx(1.0) and probing.distance(
        [3], np.array([1.0, 3.0])
    ).tolist() == [2, 0]


def test_an_intermediate_result_is_asked_only_where_it_is_not_the_answer() -> None:
    some = word_problems(60, steps=(2, 3), split="train", seed=0)
    found = probing.targets(some)
    for i, p in enumerate(some):
        assert found["answer"][i] == p.answer and found["step 1"][i] == p.results[0]
        assert found["step 2"][i] == (p.results[1] if p.n_steps == 3 else None)


def test_controls_can_fail() -> None:
    assert lp.judged_no_op(np.array([-1.0]), np.array([-1.0])).passed
    assert not lp.judged_no_op(np.array([-1.0]), np.array([-1.0 - 1e-7])).passed
    groups = [f"g{i}" for i in range(200)]
    like, above = (bootstrap_mean(np.full(200, x), groups, unit="problems", seed=0) for x in (0.1, 0.2))
    assert lp.judged_shuffled(like, 0.1).passed and not lp.judged_shuffled(above, 0.1).passed
    assert lp.judged_token(np.ones(40, bool), 5).passed and not lp.judged_token(np.arange(40) % 2 == 0, 5).passed
    assert not lp.judged_token(None, 0).passed


def test_the_first_result_is_read_at_bot_and_the_trial_is_whole(store) -> None:
    """On the shipped student the first step's result can be read at bot, after the last layer, before any thought."""
    claim = adjusted(builtin_claims()["layer-probes"], pairs=260, selection_pairs=8, matched_sets=99,
                     options={"heads": "L1H5 L0H2", "folds": 3})  # fmt: skip
    result = trial(claim, "thoughts-gpt2", store=store)
    verdict = result.verdict
    assert {c.name: c.passed for c in verdict.controls} == {"no-op": True, "shuffled": True, "token-fed": True}
    probes = result.tables["probes"].set_index(["target", "place", "layer"])
    assert probes.loc[("step 1", "bot", 2), "accuracy"] > 0.8 > probes.loc[("step 1", "bot", -1), "accuracy"] + 0.5
    told = {e.name: e.estimate for e in result.record.readings[0].estimates}
    assert told["gain:eot"]["value"] > 0.05 and told["distance:eot"]["unit"] == "problems"
    assert [f.kind for f in result.figures] == ["heatmap", "curve"]
