"""bandwidth: what the share of attention says, what it does not, and that its controls bite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from headlab.engine.model import Lab
from headlab.experiments import load, trial
from headlab.experiments.attention import bandwidth as room
from headlab.experiments.trial import EXPERIMENTS
from headlab.measures import DECIMALS, classes, edited
from headlab.stats.permutation import flips

EXPERIMENTS.setdefault("bandwidth", room.EXPERIMENT)
SMALL: dict[str, Any] = {"pairs": 40, "layer": 1, "matched_sets": 700}


@pytest.fixture(scope="module")
def even() -> Lab:
    return load("decimals-planted-even")


def without_queries(name: str, heads: range, layers: tuple[int, ...] = (0, 1, 2)) -> Lab:
    """An organism some of whose heads ask for nothing: their attention is uniform."""
    lab = load(name)
    for layer in layers:
        attention: Any = lab.attentions[layer]
        weight = attention.q_proj.weight
        for head in heads:
            weight.data[head * lab.head_dim : (head + 1) * lab.head_dim] = 0
    return lab


def estimates(result) -> dict[str, dict]:
    return {e.name: e.estimate for e in result.record.readings[0].estimates if not e.arm}


def test_planted_heads_are_not_found_by_bandwidth(even, store) -> None:
    """The even heads carry the answer, and give the numbers no more attention than other halves do."""
    result = trial("bandwidth", even, store=store, **SMALL)
    assert result.verdict.outcome == "refuted", result.verdict.sentence
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    assert [r.protocol for r in result.record.readings] == ["standard", "naive", "published"]
    found = estimates(result)
    assert found["rank:relative"]["value"] > 0.05
    truth = found["auroc:truth"]
    assert truth["n"] == 16 and truth["low"] < 0.5  # no evidence above chance
    assert {f.kind for f in result.figures} == {"estimates", "null", "curve"}
    assert len(result.tables["heads"]) == 48 and set(result.tables["heads"]["p_holm"].dropna() <= 1) == {True}


def test_uniform_attention_is_relative_one_and_shows_nothing(store) -> None:
    result = trial("bandwidth", without_queries("decimals-planted-even", range(16)), store=store, **SMALL)
    rows = result.tables["bandwidth"]
    assert np.allclose(rows["relative"], 1, atol=1e-6)
    found = estimates(result)
    assert found["relative:even"]["value"] == pytest.approx(1, abs=1e-6)
    assert found["contrast:relative"]["value"] == pytest.approx(0, abs=1e-6)
    assert result.verdict.outcome == "refuted" and found["rank:relative"]["value"] == 1


def test_a_difference_that_is_there_is_found(store) -> None:
    """Odd heads made uniform: the even ones, which look at the numbers, now stand out."""
    lab = without_queries("decimals-planted-even", range(1, 16, 2), (1,))
    found = estimates(trial("bandwidth", lab, store=store, **SMALL))
    assert found["contrast:relative"]["low"] > 0 and found["rank:relative"]["value"] < 0.05


def test_roles_that_are_not_shuffled_void_the_trial(even, store, monkeypatch) -> None:
    monkeypatch.setattr(classes.Shuffled, "of", lambda self, encoded: DECIMALS.of(encoded))
    result = trial("bandwidth", even, store=store, **SMALL)
    assert result.verdict.outcome == "void" and "shuffled-roles" in result.verdict.sentence


def test_a_measure_that_does_not_see_the_numbers_voids_the_trial(even, store, monkeypatch) -> None:
    """The positive control must fire: pointing at nothing leaves the reading where it was."""
    monkeypatch.setattr(edited, "pointing", lambda encoded, heads: torch.clone)
    result = trial("bandwidth", even, store=store, **SMALL)
    assert result.verdict.outcome == "void" and "pointed" in result.verdict.sentence


def test_a_measure_that_wanders_fails_the_no_op(even) -> None:
    from headlab.prompts import encode
    from headlab.tasks.decimals import decimals

    encoded = [encode(p, even.tokenizer).corrupted for p in decimals(4)]
    calls: list[int] = []

    def measure(_lab, some, _tokens):
        calls.append(1)
        return np.full((len(some), 16), 1e-6 * len(calls))

    by_name = {c.name: c.passed for c in edited.controls(even, encoded, 1, measure)}
    assert by_name["no-op"] is False


def test_flips_find_a_difference_and_spare_none() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) + np.array([0.0, 1.0])
    p = flips(x, [str(i // 2) for i in range(60)], seed=0)
    assert p[0] > 0.05 and p[1] < 0.001


def test_the_random_organism_has_its_auroc(store) -> None:
    found = estimates(trial("bandwidth", "decimals-planted-random", store=store, **SMALL))
    assert found["auroc:truth"]["low"] < found["auroc:truth"]["value"] < found["auroc:truth"]["high"]


def test_without_a_known_truth_there_is_no_auroc(store) -> None:
    truth = estimates(trial("bandwidth", "decimals-null-0", store=store, pairs=20, layer=0, protocol="standard"))[
        "auroc:truth"
    ]
    assert truth["value"] is None and "not known" in truth["note"]
