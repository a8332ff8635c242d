"""robustness: one small claim in every setting; rounding changes nothing, a real change shows."""

from __future__ import annotations

import pandas as pd
import pytest

from headlab.experiments import builtin_claims, trial
from headlab.experiments.heads import robustness
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.stats import Estimate
from headlab.trials import settings_grid

EXPERIMENTS.setdefault("robustness", robustness.EXPERIMENT)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    claim = adjusted(
        builtin_claims()["robustness"], pairs=100, selection_pairs=12,
        options={"dtypes": ["float32", "bfloat16"], "draws": 2, "single_pairs": 4},
    )  # fmt: skip
    return trial(claim, "decimals-planted-even", store=tmp_path_factory.mktemp("runs"))


def test_the_planted_verdict_survives_every_setting(result) -> None:
    cells = result.tables["cells"]
    assert result.verdict.outcome == "upheld", result.verdict.sentence
    numerics = cells[(cells["draw"] == 0) & (cells["batch"] == "many")]
    assert set(numerics["outcome"]) == {"upheld"} and not numerics["flip"].any()
    assert set(cells["dtype"]) == {"float32", "bfloat16"} and set(cells["kernel"]) == {"sdpa", "eager"}
    assert (cells["draw"] == 1).sum() == 1 and cells["ran"].all()


def test_every_cell_has_an_exact_no_op_and_the_comparison_can_see(result) -> None:
    passed = {c.name: c for c in result.verdict.controls}
    assert all(c.passed for c in passed.values())
    assert passed["no-op in every cell"].value <= 1 and passed["sensitivity"].value < 0.5


def test_settings_do_differ(result) -> None:
    """The grid is no loop over one computation: another dtype gives other numbers, float32 eager nearly the same."""
    grid = result.tables["grid"]
    rows = {c: t.set_index(["pair", "world"])["edited"] for c, t in grid.groupby("cell")}
    base = rows["float32 sdpa many cpu draw 0"]
    assert (rows["bfloat16 sdpa many cpu draw 0"] - base).abs().max() > 1e-3
    assert (rows["float32 eager many cpu draw 0"] - base).abs().max() < 1e-3


def test_the_published_reading_says_why_it_cannot_be_held_against_anything(result) -> None:
    published = result.record.readings[1]
    assert published.verdict.outcome == "untestable" and "one setting" in published.verdict.sentence
    assert {f.kind for f in result.figures} == {"estimates"}


def _rates(even: tuple[float, float, float], odd: tuple[float, float, float]) -> dict[str, Estimate]:
    return {f"repair:{k}": Estimate(*v, 100, "pairs", "test") for k, v in (("even", even), ("odd", odd))}


def test_a_flip_is_reported_with_its_margin() -> None:
    upheld = settings_grid.small_verdict(_rates((0.7, 0.55, 0.8), (0.1, 0.0, 0.2)))
    assert upheld[0] == "upheld" and upheld[1] == pytest.approx(0.05)
    straddles = settings_grid.small_verdict(_rates((0.6, 0.48, 0.7), (0.1, 0.0, 0.2)))
    assert straddles[0] == "undecided" and straddles[1] == pytest.approx(-0.02)
    refuted = settings_grid.small_verdict(_rates((0.1, 0.0, 0.2), (0.7, 0.6, 0.8)))
    assert refuted[0] == "refuted" and refuted[1] == pytest.approx(0.3)
    row = {"dtype": "bfloat16", "kernel": "sdpa", "batch": "many", "device": "cpu", "draw": 0, "ran": True, "flip": True,
           "outcome": "undecided", "reference": "upheld", "margin": -0.02}  # fmt: skip
    (note,) = robustness.flips([row])
    assert "undecided" in note and "(margin -0.02)" in note


def test_turned_signs_are_counted_with_the_largest_of_them() -> None:
    def table(values: list[float]) -> pd.DataFrame:
        rows = [("even", v) for v in values] + [("baseline", -1.0)] * len(values)
        return pd.DataFrame(
            {"pair": [*range(len(values))] * 2, "cluster": ["a", "b", "c"] * 2, "world": [w for w, _ in rows],
             "edited": [v for _, v in rows]}
        )  # fmt: skip

    same, _, turned = settings_grid.signs_agree(table([1.0, -0.1, 2.0]), table([1.0, 0.2, 2.0]))
    assert same.tolist() == [True, False, True, True, True, True] and turned == 0.2


def test_a_kernel_is_put_back_whatever_happens() -> None:
    from headlab.experiments import load

    lab = load("decimals-null-0")
    before = [s.sdpa for s in lab.slots]
    with pytest.raises(RuntimeError, match="stop"), settings_grid._kernel(lab, "eager"):
        assert not any(s.sdpa for s in lab.slots)
        raise RuntimeError("stop")
    assert [s.sdpa for s in lab.slots] == before and any(before)


@pytest.mark.accept
def test_at_full_size(store) -> None:
    result = trial("robustness", "decimals-natural", store=store)
    assert result.verdict.outcome == "upheld" and len(result.tables["cells"]) >= 16
