"""format-injection: length and format share told apart, a step told from a slope, controls bite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from headlab.experiments import builtin_claims, load, trial
from headlab.experiments.doses import format_injection as room
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.prompts import PromptError, encode
from headlab.tasks import padding
from headlab.tasks.decimals import decimals
from headlab.trials import padded_prompts

EXPERIMENTS.setdefault("format-injection", room.EXPERIMENT)
CELLS: dict[str, Any] = {"words": [8, 24], "shares": [0.0, 0.5, 1.0]}


def findings(reading) -> dict[str, dict]:
    return {e.name: e.estimate for e in reading.estimates}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    claim = adjusted(builtin_claims()["format-injection"], layer=0, options=CELLS)
    return trial(claim, "decimals-natural", store=tmp_path_factory.mktemp("runs"))


def test_a_trial_ends_with_cells_figures_and_a_verdict(result) -> None:
    standard, published = result.record.readings
    assert standard.verdict.outcome == "refuted", standard.verdict.sentence
    assert all(c.passed for c in standard.verdict.controls), standard.verdict.controls
    assert len(result.tables["cells"]) == 7 and len(result.tables["rows"]) == 700
    assert [f.kind for f in result.figures] == ["curve", "curve"]
    assert findings(standard)["accuracy:base"]["value"] > 0.9
    assert findings(published)["accuracy:step"]["value"] is None  # five prompts, none past the threshold


def test_length_and_share_move_apart_here_and_together_in_the_published_prompts(result) -> None:
    standard, published = map(findings, result.record.readings)
    assert abs(standard["length:format"]["value"]) < 0.5 < published["length:format"]["low"]


def test_few_pairs_are_not_eligible(store) -> None:
    claim = adjusted(builtin_claims()["format-injection"], layer=0, pairs=20, readings=("standard",), options=CELLS)
    assert trial(claim, "decimals-natural", store=store).verdict.outcome in {"untestable", "void"}


def test_a_cell_holds_what_it_says() -> None:
    lab = load("decimals-natural")
    (pair,) = [encode(p, lab.tokenizer) for p in decimals(1)]
    for share, wanted in ((0.0, 0), (0.25, 2), (1.0, 8)):
        made = padding.padded(pair, padding.Cell(8, share), lab.tokenizer, seed=0)
        text, spans = made.pair.corrupted.text, made.pair.corrupted.spans
        pads = [text[s.start : s.end] for s in spans if s.role == "pad"]
        assert len(pads) == wanted and set(pads) <= set(padding.FORMAT_WORDS)
        assert text.endswith(pair.pair.clean.text)
        assert padding.numbers(made.pair.corrupted) == padding.numbers(pair.pair.clean)


def test_a_design_that_varies_one_thing_is_refused() -> None:
    with pytest.raises(PromptError, match="at least two of each"):
        padding.design_cells([8], [0.0, 1.0])


def made_up(outcome: Any) -> pd.DataFrame:
    """Forty clusters × three lengths × five shares; ``outcome(length, share)`` plus noise."""
    rng = np.random.default_rng(0)
    rows = [
        {"pair": c, "cluster": str(c), "words": n, "length": n + 12, "format": s, "accuracy": 1.0}
        | {"attention": outcome(np.log2(n + 12), s) + 0.1 * rng.normal()}
        for c in range(40)
        for n in (8, 16, 32)
        for s in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    return pd.DataFrame(rows)


def test_an_effect_of_length_is_not_one_of_format() -> None:
    found: dict[str, Any] = padded_prompts.effects_of(made_up(lambda length, share: -0.5 * length), 0.6)
    assert found["attention:length"].value == pytest.approx(-0.5, abs=0.05)
    assert found["attention:format"].low < 0 < found["attention:format"].high
    assert not found["accuracy:format"].defined  # every answer right: no slope, and not a slope of zero


def test_a_step_is_told_from_a_slope() -> None:
    sloped: Any = padded_prompts.effects_of(made_up(lambda length, share: -share), 0.6)["attention:step"]
    stepped: Any = padded_prompts.effects_of(made_up(lambda length, share: -1.0 * (share > 0.6)), 0.6)["attention:step"]
    assert abs(sloped.value) < 0.1  # noise of this draw; the step put in is ten times that
    assert stepped.high < -0.8


def test_shares_that_are_not_shuffled_fail_their_control(monkeypatch) -> None:
    rows = made_up(lambda length, share: -share)
    assert padded_prompts.shuffled(rows, 0).passed

    class Lazy(np.random.Generator):
        def permutation(self, x: Any, axis: int = 0) -> Any:
            return x

    monkeypatch.setattr(padded_prompts.np.random, "default_rng", lambda seed: Lazy(np.random.PCG64(0)))
    assert not padded_prompts.shuffled(rows, 0).passed
