"""pattern-threshold: planted crossings come back, steps are told from proportional margins, organisms flip where it says."""

from __future__ import annotations

import numpy as np
import pytest

from headlab.claims import PROTOCOLS
from headlab.engine.run import sweep
from headlab.experiments import builtin_claims, load, trial
from headlab.experiments.doses import pattern_threshold
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import encode
from headlab.stats.dose import crossing
from headlab.tasks.decimals import decimals
from headlab.trials.case import Bench
from headlab.trials.crossings import crossing_table, dose_world, grid_of, measure, narrowed, read
from headlab.trials.sweeps import Scope, Seen

EXPERIMENTS.setdefault("pattern-threshold", pattern_threshold.EXPERIMENT)
SMALL = {"pairs": 20}


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


@pytest.fixture(scope="module")
def pairs(natural):
    return [encode(p, natural.tokenizer) for p in decimals(30, tokenizer=natural.tokenizer)]


class Planted(Bench):
    """A bench whose margins turn at known doses, bent so that interpolation on the grid misses them."""

    def __init__(self, pairs, at) -> None:
        self.known = {p.pair.id: a for p, a in zip(pairs, at, strict=True)}
        self.claim = builtin_claims()["pattern-threshold"]

    def sweep(self, pairs, worlds, what):
        import pandas as pd

        rows = [
            {"pair": i, "cluster": p.pair.id, "world": w.name, "clean": 1.0, "corrupted": -1.0,
             "edited": np.expm1(80 * (w.interventions[0].amount - self.known[p.pair.id]))}
            for i, p in enumerate(pairs) for w in worlds
        ]  # fmt: skip
        return pd.DataFrame(rows)


def measured(bench, pairs, arm, heads, tolerance=0.01):
    """The curve of one arm on a grid of .05."""
    bench.encoded = pairs
    grid = bench.sweep(pairs, [dose_world(arm, heads, d) for d in grid_of(0.05)], "grid")
    grid.insert(0, "protocol", "standard")
    scope = Scope(bench, PROTOCOLS["standard"], 0, {"step": 0.05, "tolerance": tolerance})
    return measure(Seen(scope, {f"grid {arm}": grid}), arm, heads)


def test_planted_crossings_come_back(natural, pairs) -> None:
    planted = np.random.default_rng(1).uniform(0.1, 0.9, len(pairs))
    heads = all_heads(natural.grid, 0)
    found = measured(Planted(pairs, planted), pairs, "z", heads).found
    assert found.seen.all() and np.abs(found.at - planted).max() <= 0.01
    assert (found.high - found.low).max() <= 0.01 + 1e-9
    coarse = measured(Planted(pairs, planted), pairs, "z", heads, 1.0).found
    assert np.abs(coarse.at - planted).max() > 0.01  # without the bisection the grid misses them


def test_pairs_outside_the_doses_are_not_given_a_crossing(natural, pairs) -> None:
    planted = np.where(np.arange(len(pairs)) % 2, 1.5, -0.5)
    curve = measured(Planted(pairs, planted), pairs, "pattern", all_heads(natural.grid, 0))
    assert not curve.found.seen.any() and np.isnan(curve.found.at).all()
    assert curve.fit.location.value is None and curve.dip.test is None


def test_a_proportional_margin_is_no_threshold_and_a_step_is() -> None:
    at, doses = np.random.default_rng(2).uniform(0.3, 0.7, 60), np.array(grid_of(0.05))
    clusters = np.arange(60)
    margins = (doses[None] - at[:, None]) * 10
    line = read(doses, margins, clusters, crossing(doses, margins), 0)
    assert abs(line.against.steepness.value - 1) < 1e-6 and abs(line.against.earlier.value) < 1e-9
    assert abs(line.fit.location.value - at.mean()) < 0.03
    assert line.fit.location.value == pytest.approx(line.null.fit.location.value, abs=1e-9)
    assert line.fit.width.value == pytest.approx(line.null.fit.width.value, abs=1e-9)
    margins = np.repeat(np.where(doses < 0.62, -5.0, 5.0)[None], 60, 0) + np.linspace(-1, 1, 60)[:, None]
    step = read(doses, margins, clusters, crossing(doses, margins), 0)
    assert step.fit.separated and step.fit.width.high < 0.1 and 0.6 <= step.fit.location.value <= 0.65
    assert step.against.steepness.low > 5


@pytest.fixture(scope="module")
def result(natural, tmp_path_factory):
    claim = adjusted(builtin_claims()["pattern-threshold"], layer=0, options={"norm_pairs": 8}, **SMALL)
    return trial(claim, natural, store=tmp_path_factory.mktemp("runs"))


def test_it_ends_with_verdict_tables_and_figures(result) -> None:
    standard, published = result.record.readings
    assert (standard.protocol, published.protocol) == ("standard", "published")
    assert {f.name for f in result.figures} == {"threshold", "crossings", "norm"}
    series = {r["series"] for r in result.figures[0].data}
    assert len(series) == 4 and sum("proportion" in s for s in series) == 2  # the null stands on the same axes
    assert set(result.tables["norms"]["arm"]) == {"pattern", "z"} and len(result.tables["norms"]) == 22
    for e in standard.estimates:
        assert e.estimate["n"] > 0 and e.estimate["unit"]
    assert result.verdict.outcome == "untestable"  # fewer than 100 pairs: not eligible


def test_the_controls_fire_and_stay_silent(result) -> None:
    controls = result.verdict.controls
    assert [c.name for c in controls] == ["no-op", "no-op", "patch-all"] and all(c.passed for c in controls)
    assert max(c.value for c in controls[:2]) < 1e-3 and controls[2].value > 0.9


def test_the_sign_flips_where_the_table_says(result, natural) -> None:
    """Direct evaluation at α* − 0.02 and α* + 0.02, at both sites."""
    table = result.tables["crossings"].dropna(subset="crossing")
    assert set(table["arm"]) == {"pattern", "z"} and len(table) >= 20
    known = {p.id: p for p in decimals(1000, tokenizer=natural.tokenizer)}
    checked = 0
    for row in table.iloc[::4].itertuples():
        if row.pair_id not in known:
            continue
        worlds = [
            World(str(d), (Intervention(all_heads(natural.grid, 0), row.arm, amount=float(d)),))
            for d in np.clip([row.crossing - 0.02, row.crossing + 0.02], 0, 1)
        ]
        below, above = sweep(natural, [encode(known[row.pair_id], natural.tokenizer)], worlds)["edited"]
        assert below <= 0 < above, row
        checked += 1
    assert checked >= 4


def test_the_norm_starts_at_the_unedited_run(natural, pairs) -> None:
    from headlab.engine.captures import capture
    from headlab.trials.crossings import final_norms

    key = (natural.slots[-1].layer, "resid")
    own = [float(x[-1].norm()) for x in capture(natural, [p.corrupted for p in pairs[:4]], [key])[key]]
    none, full = (
        final_norms(natural, pairs[:4], Intervention(all_heads(natural.grid, 0), amount=a)) for a in (0.0, 1.0)
    )
    assert np.allclose(none, own, rtol=1e-4) and not np.allclose(full, own, rtol=1e-2)


def test_where_nothing_repairs_the_trial_is_void(natural, store) -> None:
    claim = adjusted(builtin_claims()["pattern-threshold"], layer=2, readings=("standard",), options={"norm_pairs": 4},
                     pairs=8)  # fmt: skip
    result = trial(claim, natural, store=store)
    assert result.verdict.outcome == "void" and "patch-all" in result.verdict.sentence


def test_narrowing_without_crossings_runs_nothing(natural, pairs) -> None:
    doses = np.array(grid_of(0.25))
    margins = np.full((len(pairs), len(doses)), -1.0)
    found = crossing(doses, margins)
    got, tables = narrowed(
        Planted(pairs, np.ones(len(pairs))), pairs, "z", all_heads(natural.grid, 0), found, doses, margins, 0.01
    )
    assert got is found and tables == []
    curve = read(doses, margins, np.arange(len(pairs)), found, 0)
    assert crossing_table(curve, pairs, "z")["above"].all()


@pytest.mark.accept
def test_verdicts_at_full_size(store) -> None:
    assert trial("pattern-threshold", "decimals-natural", store=store).verdict.outcome == "refuted"
    assert trial("pattern-threshold", "decimals-null-0", store=store).verdict.outcome != "upheld"
